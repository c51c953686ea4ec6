"""The peers that work from images: prototypes, scores, superpixels and attention against loops; any size of image."""

import numpy as np, pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings as budget, strategies as st
from tiny import MODELS
from rim.base.settings import Settings
from rim.measure.costs import cost_of, _extra_memory, _space, trade_off
from rim.method.bank import ReferenceBank
from rim.method.segmenter import RIM, VARIANTS
from rim.method.vocabulary import Vocabulary
from rim.peers.diffsegmenter import DiffSegmenter, _PassCapture, _level_weights, _propagate, _stretch, _weighted_sum
from rim.peers.freeda import FreeDA, _freeda_scores, _nearest_references, _superpixel_features, _superpixels
from rim.peers.images import _candidates, pixel_labels
from rim.peers.ovdiff import OVDiff, _highest_cosine, _ovdiff_prototypes, _split_cells, _vector_parts
from rim.peers.retrieval import Retrieval, reference_regions, retrieved

TINY = dict(
    **MODELS,
    images_per_class=2,
    denoising_steps=2,
    points_per_side=3,
    pred_iou_thresh=0,
    stability_score_thresh=0,
    shipped="",
)
PEERS = FreeDA, OVDiff, DiffSegmenter, Retrieval
seeds = st.integers(0, 10_000)


@pytest.fixture(scope="module")
def tiny():
    return Settings.from_profile("toybox", **TINY)


@pytest.fixture(scope="module")
def rim(tiny):
    return RIM(tiny)


def bank_of(seed, classes=3, n=(1, 5, 9), width=6):
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(classes), n)
    foreground, background = rng.normal(size=(2, len(owner), width)).astype(np.float32)
    background[::4] = np.nan
    shown = dict(owner=np.zeros(0, int), image=np.zeros((0, 8, 8, 3), np.uint8), mask=np.zeros((0, 8, 8), np.uint8))
    return ReferenceBank(
        tuple(f"thing {i}" for i in range(classes)), owner, foreground, background, foreground, shown, {}
    )


@given(seed=seeds, h=st.integers(1, 4), w=st.integers(1, 4), height=st.integers(1, 9), width=st.integers(1, 9))
@budget(max_examples=40)
def test_labels_of_pixels_are_the_highest_enlarged_scores(seed, h, w, height, width):
    scores = torch.randn(4, h, w, generator=torch.Generator().manual_seed(seed))
    scores[2] = -torch.inf
    labels, best = pixel_labels(scores, (height, width))
    full = F.interpolate(scores[[0, 1, 3]][None], (height, width), mode="bilinear")[0]
    assert (torch.tensor([0, 1, 3])[full.argmax(0)] == labels).all()
    torch.testing.assert_close(best, full.amax(0))


@given(seed=seeds, part=st.floats(0, 1))
def test_the_likeliest_class_is_a_candidate_and_fewer_at_a_higher_part(seed, part):
    cosine, settings = torch.rand(7, generator=torch.Generator().manual_seed(seed)), Settings.from_profile("toybox")
    found = _candidates(cosine, settings.replace(image_peer_presence=part))
    shares = np.exp(settings.trident_scale * (cosine - cosine.max()).numpy())
    assert found[cosine.argmax()] and found.tolist() == (shares >= np.float32(part)).tolist()
    assert (_candidates(cosine, settings.replace(image_peer_presence=0.0))).all()


# FreeDA


@given(seed=seeds, h=st.integers(1, 4), w=st.integers(1, 4), height=st.integers(1, 9), width=st.integers(1, 9))
@budget(max_examples=40)
def test_a_superpixel_is_the_mean_of_its_enlarged_features(seed, h, w, height, width):
    generator = torch.Generator().manual_seed(seed)
    grid = torch.randn(3, h, w, generator=generator)
    drawn = torch.randint(0, 4, (height, width), generator=generator).numpy()
    index = np.unique(drawn, return_inverse=True)[1].reshape(height, width)
    full = F.interpolate(grid[None], (height, width), mode="bilinear")[0]
    wanted = torch.stack([full[:, torch.from_numpy(index == s)].mean(1) for s in range(index.max() + 1)])
    torch.testing.assert_close(_superpixel_features(grid, index), wanted, atol=1e-5, rtol=1e-5)


def test_superpixels_number_all_pixels_and_keep_the_square_whole(tiny_image):
    index = _superpixels(tiny_image, Settings.from_profile("toybox"))
    assert index.shape == tiny_image.shape[:2] and set(np.unique(index)) == set(range(index.max() + 1))
    assert np.bincount(index.ravel()).min() >= 20 and np.isin(index[9:13, 11:17], index[10, 12]).all()


@given(seed=seeds, k=st.integers(1, 12))
def test_references_of_nearest_text(seed, k):
    rng = np.random.default_rng(seed)
    cosine, owner = rng.integers(0, 4, (3, 4)) / 4, rng.integers(0, 4, 12)
    found = _nearest_references(torch.from_numpy(cosine), torch.from_numpy(owner), k)
    for c, rows in enumerate(found.tolist()):
        assert rows == sorted(range(12), key=lambda i: (-cosine[c, owner[i]], i))[:k]


def test_a_prototype_of_all_own_references_is_the_class_mean(rim, tiny):
    vocabulary = Vocabulary.of("boat, tree")
    bank = rim.bank_for(vocabulary, progress=False)
    peer = FreeDA(tiny.replace(freeda_nearest=2), rim)
    wanted = F.normalize(
        torch.stack([torch.from_numpy(bank.foreground[bank.owner == i]).mean(0) for i in (0, 1)]), dim=1
    )
    torch.testing.assert_close(peer.prototypes(vocabulary, bank), wanted)
    without = FreeDA(tiny.replace(needs="sam"), rim)
    assert without.clip is None
    torch.testing.assert_close(without.prototypes(vocabulary, bank), wanted)
    everything = FreeDA(tiny.replace(freeda_nearest=350), rim).prototypes(vocabulary, bank)
    torch.testing.assert_close(everything[0], everything[1])  # the mean of all, for both


def test_freeda_scores_one_by_one():
    local, whole = torch.tensor([[0.3, -0.2], [0.9, 0.1]]), torch.tensor([0.5, -0.5])
    for s in range(2):
        for c in range(2):
            value = 0.8 * float(local[s, c]) + 0.2 * float(whole[c])
            assert _freeda_scores(local, whole, 0.8)[s, c] == pytest.approx(1 / (1 + np.exp(-value)))
            assert _freeda_scores(local, None, 0.8)[s, c] == pytest.approx(1 / (1 + np.exp(-float(local[s, c]))))


# OVDiff


@given(seed=seeds, background=st.booleans())
@budget(max_examples=25)
def test_the_highest_cosine_over_all_prototypes_of_a_label(seed, background):
    bank, settings = bank_of(seed), Settings.from_profile("toybox", ovdiff_parts=3)
    parts = _vector_parts(bank, settings)
    vectors, owner = _ovdiff_prototypes(bank, parts, background)
    cells = torch.randn(5, bank.dim, generator=torch.Generator().manual_seed(seed))
    found = _highest_cosine(cells, vectors, owner, len(bank) + background)
    for i in range(len(bank)):
        own = bank.foreground[bank.owner == i]
        group = np.concatenate([own.mean(0, keepdims=True), own, parts[i][0]]).astype(float)
        for p, cell in enumerate(cells.double().numpy()):
            cosines = group @ cell / np.linalg.norm(group, axis=1) / np.linalg.norm(cell)
            assert found[p, i + background] == pytest.approx(cosines.max(), abs=1e-5)
    if background:
        behind = [bank.background[j] for j in range(len(bank.owner)) if np.isfinite(bank.background[j]).all()]
        for p, cell in enumerate(cells.double().numpy()):
            least = max(b @ cell / np.linalg.norm(b) / np.linalg.norm(cell) for b in behind)
            assert found[p, 0] >= least - 1e-5, "each complement is a prototype of the background"
        assert (owner == 0).sum() == sum(
            1 + k + min(3, k) for i in range(3) if (k := np.isfinite(bank.background[bank.owner == i]).all(1).sum())
        )


def test_a_background_needs_a_complement():
    bank = bank_of(0)
    bank.background[:] = np.nan
    parts = _vector_parts(bank, Settings.from_profile("toybox"))
    assert _ovdiff_prototypes(bank, parts, False)[1].max() == 2
    with pytest.raises(ValueError, match="a background needs at least one reference image"):
        _ovdiff_prototypes(bank, parts)


@given(seed=seeds)
def test_cells_inside_and_outside_are_all_cells(seed):
    rng = np.random.default_rng(seed)
    grid, mask = torch.from_numpy(rng.normal(size=(2, 3, 4))).float(), rng.random((6, 8)) < 0.5
    inside, outside = _split_cells(grid, mask)
    share = F.interpolate(torch.from_numpy(mask)[None, None].float(), (3, 4), mode="bilinear")[0, 0]
    assert len(inside) == int((share >= 0.5).sum()) and len(inside) + len(outside) == 12
    assert sorted(map(tuple, torch.cat([inside, outside]).tolist())) == sorted(map(tuple, grid.flatten(1).T.tolist()))


def test_parts_of_generated_images_are_kept(tiny, tmp_path, monkeypatch):
    from rim.base.store import Store

    vocabulary = Vocabulary.of("boat, tree")
    first = OVDiff(tiny, store=Store(tmp_path))
    bank = first.rim.bank_for(vocabulary, progress=False)
    parts = first.parts(vocabulary, bank)
    assert len(parts) == 2 and all(p is None or p.shape[1] == bank.dim for pair in parts for p in pair)
    again = OVDiff(tiny, store=Store(tmp_path), bank=bank)
    monkeypatch.setattr("rim.peers.ovdiff._generated_parts", lambda *_: pytest.fail("they are in the store"))
    for pair, other in zip(parts, again.parts(vocabulary, bank)):
        assert all(a is b is None or np.array_equal(a, b) for a, b in zip(pair, other))


# DiffSegmenter


def test_attention_of_a_pass_against_explicit_softmaxes(rim, tiny):
    "Cross-attention by resolution, and the product with self-attention, from the layers' own projections."
    pipeline, size = rim.tools.pipeline, (6, 4)
    unet, generator = pipeline.unet, torch.Generator().manual_seed(0)
    latents = torch.randn(2, unet.config.in_channels, *size, generator=generator)
    context = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator)
    tokens, seen, hooks = [[3], [5, 6]], {}, []
    for name, layer in unet.named_modules():
        if name.endswith(("attn1", "attn2")):
            keep = lambda module, args, kwargs, out, name=name: seen.update({name: (module, args[0])})
            hooks.append(layer.register_forward_hook(keep, with_kwargs=True))
    with torch.no_grad(), _PassCapture(unet, tokens) as heard:
        unet(latents, torch.tensor([100, 100]), encoder_hidden_states=context)
    for hook in hooks:
        hook.remove()

    def softmaxes(layer, hidden, other):
        split = lambda x: x.unflatten(2, (layer.heads, -1)).transpose(1, 2).double()
        query, key = split(layer.to_q(hidden)), split(layer.to_k(other))
        return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1).mean(1)  # [B, N, L], mean over heads

    with torch.no_grad():
        for grid, maps in heard.raw.items():
            layers = [p for name, p in seen.items() if name.endswith("attn2") and p[1].shape[1] == grid[0] * grid[1]]
            for b, own in enumerate(tokens):
                wanted = sum(softmaxes(m, x, context)[b][:, own].sum(1) for m, x in layers) / len(layers)
                found = maps[b].flatten().double()
                torch.testing.assert_close(found / found.max(), wanted / wanted.max(), atol=1e-5, rtol=1e-4)
        fine = [p for name, p in seen.items() if name.endswith("attn1") and p[1].shape[1] == size[0] * size[1]]
        maps = torch.rand(2, *size, generator=generator)
        wanted = sum(softmaxes(m, x, x) @ maps.double().flatten(1)[..., None] for m, x in fine)[..., 0] / len(fine)
        assert fine and len(fine) == len(heard.own)
        torch.testing.assert_close(_propagate(maps, heard.own).double().flatten(1), wanted, atol=1e-5, rtol=1e-4)


@given(seed=seeds, factor=st.floats(0.1, 9), shift=st.floats(-3, 3))
def test_stretching_forgets_scale_and_offset(seed, factor, shift):
    maps = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = _stretch(maps)
    assert found.amin() == 0 and found.amax((1, 2)).allclose(torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(_stretch(maps * factor + shift), found, atol=1e-6, rtol=0)


def test_resolutions_have_their_levels_weights():
    weights = _level_weights(Settings.from_profile("paper"))
    assert weights == [0.1, 0.1, 0.5, 0.3]
    raw = {(side, side): torch.rand(1, side, side) for side in (64, 32, 16, 8)}
    given = dict(zip(raw, weights))
    wanted = sum(
        w * F.interpolate(_stretch(raw[s])[None], (64, 64), mode="bilinear")[0] for s, w in given.items()
    ) / sum(weights)
    torch.testing.assert_close(_weighted_sum(raw, (64, 64), weights), wanted)
    two = {(9, 6): torch.rand(1, 9, 6), (5, 3): torch.rand(1, 5, 3)}  # levels that a small UNet has, odd sides
    half = F.interpolate(_stretch(two[5, 3])[None], (9, 6), mode="bilinear")[0]
    torch.testing.assert_close(_weighted_sum(two, (9, 6), [0.3, 0.1]), 0.75 * _stretch(two[9, 6]) + 0.25 * half)
    with pytest.raises(ValueError, match="diffseg_weights"):
        _weighted_sum(two, (9, 6), [0.0])


def test_a_map_is_the_same_alone_and_in_company(tiny, rim):
    peer, image = DiffSegmenter(tiny, rim), np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    prompts = list(Vocabulary.of("boat, tree, car").prompts(tiny.prompt))
    together = peer.maps(image, prompts)
    alone = torch.cat([peer.maps(image, [prompt]) for prompt in prompts])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=0)


# retrieval


@given(seed=seeds, nearest=st.integers(1, 40), own=st.floats(0, 1))
@budget(max_examples=40)
def test_retrieval_one_by_one(seed, nearest, own):
    bank = bank_of(seed)
    known, features = reference_regions(bank), torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
    behind = bank.background[np.isfinite(bank.background).all(1)]
    rows = [v / np.linalg.norm(v) for v in np.concatenate([bank.foreground, behind]).astype(float)]
    found = retrieved(features, known, nearest, own)
    for p, f in enumerate(features.double().numpy()):
        unit = f / np.linalg.norm(f)
        near = sorted(rows, key=lambda v: -(v @ unit))[:nearest]
        np.testing.assert_allclose(found[p], own * unit + (1 - own) * np.mean(near, 0), atol=1e-5)


def test_a_region_without_features_stays_without():
    known = reference_regions(bank_of(0))
    found = retrieved(torch.stack([torch.full((6,), torch.nan), torch.ones(6)]), known, 3, 0.5)
    assert found[0].isnan().all() and found[1].isfinite().all()


def test_all_of_its_own_is_the_plain_cosine(tiny, rim):
    image, vocabulary = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8), Vocabulary.of("boat, tree")
    plain = rim.segment(image, vocabulary, **VARIANTS["foreground references"])
    assert (Retrieval(tiny.replace(retrieval_own=1.0), rim).segment(image, vocabulary).labels == plain.labels).all()


# all of them


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("size", [(1, 1), (7, 90), (64, 48)])
def test_any_size_of_image_with_and_without_background(peer, size, tiny, rim):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for background in (True, False):
        found = peer(tiny, rim).segment(image, Vocabulary.of("boat, tree", background))
        assert found.labels.shape == size and set(np.unique(found.labels)) <= set(range(2 + background))


@pytest.mark.parametrize("peer", PEERS)
def test_the_same_twice_and_under_one_key(peer, tiny, rim):
    image = np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8)
    one, other = peer(tiny, rim).method("boat, tree"), peer(tiny).method("boat, tree")
    assert one.key == other.key and (one(image).labels == other(image).labels).all()
    assert one.key != peer(tiny, rim).method("boat, car").key


@pytest.mark.parametrize("peer", PEERS)
def test_profiles_without_a_clip_need_none(peer, tiny, rim, monkeypatch):
    monkeypatch.setattr("rim.peers.images.load_clip", lambda *_: pytest.fail("no CLIP is needed"))
    image = np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8)
    found = peer(tiny.replace(needs="sam, diffusion"), rim).segment(image, "boat, tree")
    assert found.record.get("clip", False) is False


# costs


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=12), st.floats(0.01, 5))
def test_places_are_a_gap_apart_and_stay_where_there_is_room(heights, gap):
    placed, order = _space(heights, gap), np.argsort(heights, kind="stable")
    assert (np.diff(placed[order]) >= gap - 1e-9).all()
    if len(heights) == 1 or np.diff(np.sort(heights)).min() >= gap:
        np.testing.assert_allclose(placed, heights, atol=1e-9)
    assert np.mean(placed) == pytest.approx(np.mean(heights), abs=1e-6)


def test_memory_is_what_a_call_adds():
    held = np.ones(20_000_000)
    assert 140 < _extra_memory(lambda: np.ones(20_000_000)) < 260 or np.isnan(_extra_memory(held.sum))
    assert not _extra_memory(held.sum) > 100


def test_the_first_image_is_not_counted(monkeypatch):
    seen = []
    monkeypatch.setattr("rim.measure.costs.time.perf_counter", lambda: float(sum(seen)))  # an image takes its number
    cost = cost_of(seen.append, [1, 2, 30])
    assert seen == [1, 1, 2, 30, 1, 2] and cost.seconds == 2


def test_a_trade_off_names_every_method():
    import matplotlib.pyplot as plt

    points = {f"m{i}": (0.1 * 3**i, (i - 1, i, i + 2), "ab"[i % 2]) for i in range(5)}
    fig = trade_off(points)
    texts = [t.get_text() for t in fig.axes[0].texts]
    assert [t.split()[-1] for t in texts] == list(points) and fig.axes[0].get_xscale() == "log"
    plt.close(fig)
