"""The matcher: scores, presence, cells and the vote against loops; from end to end on random weights."""

import numpy as np, pytest, torch
from hypothesis import given, settings as budget, strategies as st
from tiny import MODELS
from rim.base.settings import Settings
from rim.method.bank import ReferenceBank
from rim.method.features import EfficientNetFeatures, FusedFeatures, encoder_key, fusion_parts
from rim.method.matcher import (
    _MATCH,
    Matcher,
    _add_margin,
    cells,
    covered_labels,
    nearest_scores,
    present_labels,
    prototypes,
    segmenter_class,
    vote,
)
from rim.method.proposals import Proposals
from rim.method.tools import Tools
from rim.method.regions import Regions
from rim.method.segmenter import RIM
from rim.method.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def toybox():
    return Settings.from_profile("toybox")


def bank_of(seed, classes=3, n=(1, 5, 12), width=8):
    "Classes with different numbers of references; some complements are missing."
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(classes), n)
    centres = rng.normal(size=(classes, width)) * 2 + 1
    foreground = (centres[owner] + rng.normal(size=(len(owner), width))).astype(np.float32)
    background = (rng.normal(size=(len(owner), width)) * 2 + 1).astype(np.float32)
    background[::4] = np.nan
    shown = dict(owner=np.zeros(0, int), image=np.zeros((0, 8, 8, 3), np.uint8), mask=np.zeros((0, 8, 8), np.uint8))
    names = tuple(f"thing {i}" for i in range(classes))
    return ReferenceBank(names, owner, foreground, background, foreground, shown, {})


def plain_scores(features, bank, settings, background=True):
    "One region, one label, one reference at a time, in double precision."
    groups = [bank.foreground[bank.owner == i].astype(float) for i in range(len(bank))]
    if background:
        groups.insert(0, bank.background[np.isfinite(bank.background).all(1)].astype(float))
    centre = np.mean([g.mean(0) for g in groups], axis=0) * (settings.match_centring == "bank")
    scores = np.zeros((len(features), len(groups)))
    for p, f in enumerate(features):
        for label, group in enumerate(groups):
            a, b = f - centre, group - centre
            cosines = sorted((b @ a / np.linalg.norm(b, axis=1) / np.linalg.norm(a)).tolist(), reverse=True)
            roots = settings.match_negatives if background and label == 0 else settings.match_references
            k = max(1, min(len(cosines), round(roots * len(cosines) ** 0.5)))
            scores[p, label] = sum(cosines[:k]) / k + settings.match_margin * (background and label == 0)
    return scores


@given(
    seed=st.integers(0, 1000),
    background=st.booleans(),
    centring=st.sampled_from(("bank", "none")),
    roots=st.sampled_from((0.1, 1.0, 2.0)),
)
@budget(max_examples=25, deadline=None)
def test_scores_are_means_of_the_nearest(toybox, seed, background, centring, roots):
    settings = toybox.replace(match_centring=centring, match_references=roots, match_negatives=2 * roots)
    bank, features = bank_of(seed), torch.randn(5, 8, generator=torch.Generator().manual_seed(seed))
    known = prototypes(bank, settings, background)
    found = _add_margin(nearest_scores(known.cosine(features), known, settings, background), settings, background)
    np.testing.assert_allclose(found, plain_scores(features.double().numpy(), bank, settings, background), atol=2e-6)


def test_a_background_needs_negatives(toybox):
    bank = bank_of(0)
    bank.background[:] = np.nan
    assert prototypes(bank, toybox, False).labels == 3
    with pytest.raises(ValueError, match="a background needs negatives"):
        prototypes(bank, toybox)


def test_regions_without_a_name_are_the_negatives(toybox):
    bank = bank_of(0)
    bank.negatives["foreground"] = np.eye(8, dtype=np.float32)[:5]
    assert (prototypes(bank, toybox).owner == 0).sum() == 5


def test_a_label_takes_part_if_one_region_is_sure_of_it(toybox):
    scores = torch.tensor([[0.5, 0.2, 0.2], [0.1, 0.4, 0.39], [0.1, 0.2, 0.5]])
    assert present_labels(scores, toybox).tolist() == [True, False, True]
    assert present_labels(scores, toybox.replace(match_presence=0.0)).all()
    assert present_labels(scores[:0], toybox).tolist() == [True, False, False]
    assert present_labels(scores[1:2, 1:], toybox, background=False).tolist() == [True, True]  # none is sure: all


masks_of = st.tuples(st.integers(0, 40), st.integers(1, 6), st.integers(1, 7), st.integers(0, 2**32 - 1))


@given(masks_of)
@budget(max_examples=60, deadline=None)
def test_cells_are_the_pixels_with_one_cover(drawn):
    p, h, w, seed = drawn
    masks = np.random.default_rng(seed).random((p, h, w)) < 0.4
    cover, index = cells(masks)
    assert (cover[index] == np.moveaxis(masks, 0, 2)).all()
    assert len(np.unique(cover, axis=0)) == len(cover) == len(np.unique(index))


def test_more_proposals_than_one_word_has_bits():
    masks = np.random.default_rng(0).random((150, 20, 30)) < 0.5
    cover, index = cells(masks)
    assert (cover[index] == np.moveaxis(masks, 0, 2)).all()


@given(masks_of)
@budget(max_examples=40, deadline=None)
def test_the_vote_is_the_mean_of_each_pixel(drawn):
    p, h, w, seed = drawn
    rng = np.random.default_rng(seed)
    masks, scores = rng.random((p, h, w)) < 0.4, rng.normal(size=(p, 4))
    present = np.concatenate([[True], rng.random(3) < 0.7])
    labels = covered_labels(masks, torch.from_numpy(scores), torch.from_numpy(present), (h, w))
    for y in range(h):
        for x in range(w):
            on = masks[:, y, x]
            wanted = np.where(present, scores[on].mean(0), -np.inf).argmax() if on.any() else -1
            assert labels[y, x] == wanted


def test_a_cell_without_cover_has_no_mean():
    assert vote(np.zeros((1, 2), bool), torch.ones(2, 3)).isnan().all()


@pytest.fixture(scope="module")
def tiny():
    return Settings.from_profile(
        "toybox",
        **MODELS,
        images_per_class=2,
        denoising_steps=2,
        points_per_side=4,
        pred_iou_thresh=0,
        stability_score_thresh=0,
        shipped="",
    )


@pytest.fixture(scope="module")
def matcher(tiny):
    return Matcher(tiny)


def test_from_end_to_end(matcher):
    from rim.toybox.world import World

    image = World().scene(2_000_007).image
    result = matcher.segment(image, "boat, tree")
    assert result.labels.shape == image.shape[:2] and set(np.unique(result.labels)) <= {0, 1, 2}
    regions, bank = matcher.analyse(image), matcher.bank_for("boat, tree")
    assert bank.dim == matcher.tools.encoder.dim == sum(e.dim for e in matcher.tools.encoder.encoders)
    again = matcher.method("boat, tree")
    assert (again.predict(image, again.analyse(image)).labels == result.labels).all()
    assert again.key["matching"]["settings"]["match_margin"] == matcher.settings.match_margin and len(regions) == len(
        result.regions
    )
    if result.regions:
        why = result.evidence.explain(0)
        assert why["scores"] and max(why["scores"], key=why["scores"].get) == result.regions[0].name
        assert set(why["pictures"]) <= {"background", "boat", "tree"}
    plain = matcher.method("boat, tree", match_voting="smallest", match_presence=0.0)
    assert plain.key != again.key and plain.predict(image, regions).labels.shape == image.shape[:2]
    with pytest.raises(ValueError, match="the regions stay"):
        matcher.method("boat, tree", points_per_side=3)


def test_regions_without_features_are_left_out_and_uncovered_pixels_filled(matcher):
    bank, image = matcher.bank_for("boat, tree"), np.zeros((8, 8, 3), np.uint8)
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :4], masks[1, :2, :2] = True, True
    boxes = np.array([[0, 0, 7, 3], [0, 0, 1, 1]], np.float32)
    ones = np.ones(2, np.float32)
    features = torch.from_numpy(np.stack([bank.foreground[0], np.full(bank.dim, np.nan, np.float32)]))
    grid = torch.from_numpy(bank.foreground[-1]).reshape(-1, 1, 1)
    regions = Regions(Proposals(masks, boxes, ones, ones), features, grid)
    found = matcher.match(regions, bank)
    assert found.labels[1] == -1 and found.record["unmatched"] == 1
    with_background = matcher.predict(image, regions, Vocabulary(("boat", "tree")), bank)
    assert (with_background.labels[4:] == 0).all() and len(with_background.regions) == 1
    without = matcher.predict(image, regions, Vocabulary(("boat", "tree"), background=False), bank)
    nearest = matcher.scores(grid.flatten(1).T, bank, False).argmax(1)
    assert (without.labels[4:] == int(nearest)).all()
    empty = Regions(Proposals(masks[:0], boxes[:0], ones[:0], ones[:0]), features[:0], grid)
    assert (matcher.predict(image, empty, Vocabulary(("boat", "tree")), bank).labels == 0).all()


def test_profiles_say_which_segmenter(toybox):
    classes = {name: segmenter_class(Settings.from_profile(name)) for name in ("paper", "toybox", "photo", "rehearsal")}
    assert classes == {"paper": RIM, "toybox": Matcher, "photo": Matcher, "rehearsal": RIM}
    default, photo = Settings.from_profile("paper"), Settings.from_profile("photo")
    constants = [name for name in _MATCH if name.startswith("match_")]
    assert default.subset(*constants) == toybox.subset(*constants) == photo.subset(*constants)


def test_fused_cells_are_of_length_one(tiny):
    tools = Tools(tiny.replace(feature="efficientnet", fusion="efficientnet:6+clip"))
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    grid = tools.region_encoder.features(image)
    assert grid.shape[0] == tools.region_encoder.dim
    parts = [e.features(image) for e in tools.region_encoder.encoders]
    start, size = 0, parts[0].shape[1:]
    for part in parts[:2]:  # on one grid
        own = torch.nn.functional.normalize(part, dim=0) / 3**0.5
        torch.testing.assert_close(grid[start : start + len(part)], own)
        start += len(part)
    assert parts[0].shape[1:] == parts[1].shape[1:] != parts[2].shape[1:] and grid.shape[1:] == size
    first, second = tools.region_encoder.encoders[:2]
    assert isinstance(tools.region_encoder, FusedFeatures) and first.model is second.model
    assert isinstance(first, EfficientNetFeatures) and (first.layer, second.layer) == (7, 6)


def test_fusion_is_part_of_the_key(tiny):
    assert "fusion" not in encoder_key(tiny.replace(fusion=""))
    assert encoder_key(tiny.replace(fusion="clip")) != encoder_key(tiny.replace(fusion="clip:last:values"))
    assert [
        (s.feature, s.feature_layer, s.feature_kind, s.fusion) for s in fusion_parts(tiny.replace(fusion="mae:2"))
    ] == [("mae", "2", "keys", "")]
    with pytest.raises(ValueError, match="setting fusion must be encoder"):
        tiny.replace(fusion="resnet")
