"The toybox world: exact masks, determinism, disjoint splits, speed's cause (no measurement here)."

import hashlib
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from rim.toybox.more_things import THINGS
from rim.toybox.world import _LIKES, PLACES, SPLITS, SPLIT_SIZE, World, pair

world = World()


def test_enough_of_everything():
    assert len(world.names) >= 16 and len(world.backgrounds) >= 10
    assert set(_LIKES) == set(PLACES) and {n for names in _LIKES.values() for n in names} == set(THINGS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3_000_000))
def test_scene_is_consistent(seed):
    scene = world.scene(seed)
    assert scene.image.shape == (128, 128, 3) and scene.image.dtype == scene.labels.dtype == np.uint8
    assert 1 <= len(scene.objects) <= 4 and scene.instances.max() == len(scene.objects)
    for k, thing in enumerate(scene.objects, 1):
        inside = scene.instances == k
        x0, y0, x1, y1 = thing.box
        assert inside.sum() == thing.area > 0 and (scene.labels[inside] == thing.label).all()
        assert world.names[thing.label - 1] == thing.name and inside[y0:y1, x0:x1].sum() == thing.area
        assert thing.name in scene.caption
    assert ((scene.labels == 0) == (scene.instances == 0)).all() and scene.background in scene.caption


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(world.names), st.integers(0, 3_000_000))
def test_portrait_fills_the_frame(name, seed):
    shot = world.portrait(name, seed)
    ys, xs = np.flatnonzero(shot.mask.any(1)), np.flatnonzero(shot.mask.any(0))
    longest = max(ys[-1] - ys[0], xs[-1] - xs[0]) + 1
    assert 0.72 * 64 <= longest <= 0.97 * 64
    assert shot.image.shape == (64, 64, 3) and name in shot.caption


def test_same_seed_same_picture_in_any_order():
    first = [world.scene(s).image for s in (3, 1, 2)]
    assert all((a == World().scene(s).image).all() for a, s in zip(first, (3, 1, 2)))
    assert (world.portrait("cup", 5).image != world.portrait("cup", 6).image).any()


def test_pictures_are_the_recorded_ones():
    "A digest recorded once: the world may not change under the trained models, on any platform."
    digest = hashlib.sha256()
    for seed in range(20):
        scene = world.scene(seed)
        digest.update(scene.image.tobytes())
        digest.update(scene.instances.tobytes())
        digest.update(world.portrait(world.names[seed % 16], seed).image.tobytes())
        digest.update(pair(("cup", "star"), seed).image.tobytes())
    assert digest.hexdigest() == "e56ecb355cb463f9d365ec5b08cbf23617698a4a23bf2d6398b1738f80528cbd"


def test_one_individual_keeps_its_shape_in_another_light():
    a, b = (world.portrait("tree", seed, shape=11) for seed in (1, 2))
    assert (a.image != b.image).any()
    overlap = (a.mask & b.mask).sum() / (a.mask | b.mask).sum()
    others = [
        (a.mask & o).sum() / (a.mask | o).sum()
        for o in (world.portrait("tree", 2, shape=s).mask for s in range(30, 60))
    ]
    assert overlap > np.mean(others)


def test_pair_masks_are_apart_and_both_large():
    for seed in range(20):
        shot = pair(("boat", "tree"), seed)
        a, b = shot.masks
        assert not (a & b).any() and min(a.sum(), b.sum()) > 100


def test_things_keep_company():
    counts = {place: 0 for place in PLACES}
    for seed in range(700):
        scene = world.scene(seed)
        counts[scene.background] += any(t.name == "boat" for t in scene.objects)
    assert counts["water"] > 1.5 * counts["forest"]


def test_splits_are_disjoint_and_leave_the_reserve_alone():
    ranges = [world.seeds(split) for split in SPLITS]
    for a, b in zip(ranges, ranges[1:]):
        assert a[-1] < b[0]
    assert all(len(r) == SPLIT_SIZE for r in ranges) and max(r[-1] for r in ranges) < 9_000_000


@pytest.mark.parametrize(
    "call, rule",
    [
        (lambda: world.portrait("platypus", 0), "platypus"),
        (lambda: world.seeds("exam", 3), "exam"),
        (lambda: world.seeds("test", SPLIT_SIZE + 1), str(SPLIT_SIZE)),
        (lambda: World(7), "7"),
        (lambda: world.place("moonbase", 0), "moonbase"),
    ],
)
def test_errors_name_the_value(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()
