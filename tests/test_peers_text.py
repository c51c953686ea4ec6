"""The peers with text: each rule against its explicit form, each model against what its library computes."""

import itertools
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trident_golden as golden
from conftest import ROOT
from hypothesis import given, strategies as st
from tiny import MODELS
from rim.base.settings import Settings
from rim.base.store import Store
from rim.measure.evaluation import evaluate
from rim.method.vocabulary import Vocabulary
from rim.models.loading import load_clip, load_groupvit, load_vit
from rim.peers import corrclip as corr, dense_clip as dense, groupvit as group
from rim.peers.groupvit import GroupViT
from rim.peers.peer import Peer
from rim.peers.text import _TEXT_PEERS
from rim.trident.splice import guided_values
from rim.trident.windows import clip_hidden, clip_tokens, dino_features, dino_pixels

TINY = dict(
    **MODELS,
    points_per_side=4,
    pred_iou_thresh=0,
    stability_score_thresh=0,
    device="cpu",
)


@pytest.fixture(scope="module")
def tiny():
    return Settings.from_profile("toybox", **TINY)


@pytest.fixture(scope="module")
def made():
    return {name: peer.from_profile("toybox", **TINY) for name, peer in _TEXT_PEERS.items()}


@pytest.fixture(scope="module")
def clip(tiny):
    return load_clip(tiny)[0]


def pixels(n, side, seed=0):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


# CLIP's last block


def test_hidden_states_are_those_of_the_library(clip):
    windows, side = pixels(2, 32), clip.config.vision_config.image_size
    assert side == 32
    seen = clip.vision_model(pixel_values=windows, output_hidden_states=True)
    assert torch.allclose(clip_hidden(clip, windows), seen.hidden_states[-2], atol=1e-5)


def test_with_clips_own_attention_the_block_is_the_librarys(clip):
    hidden = clip_hidden(clip, pixels(2, 32))
    own = lambda query, key: (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
    theirs = clip.vision_model.encoder.layers[-1](hidden, attention_mask=None)[:, 1:]
    assert torch.allclose(dense._last_block(clip, hidden, own, True), theirs, atol=1e-5)


def explicit(query, key, rule):
    "The attention of one head, patch by patch."
    n, d = query.shape
    out = np.zeros((n, n))
    for a, b in {"clearclip": [(query, query)], "sclip": [(query, query), (key, key)]}[rule]:
        for i in range(n):
            row = [np.exp(sum(a[i, c] * b[j, c] for c in range(d)) / d**0.5) for j in range(n)]
            out[i] += np.array(row) / sum(row)
    return out


@pytest.mark.parametrize("rule, attend", [("clearclip", dense._query_query), ("sclip", dense._summed_attention)])
def test_an_attention_is_its_explicit_form(rule, attend):
    query, key = pixels(2, 6).double()
    query, key = query[:2], key[:2]  # two heads of six tokens
    for head in range(2):
        theirs = explicit(query[head].numpy(), key[head].numpy(), rule)
        assert np.allclose(attend(query, key)[head], theirs, atol=1e-6)


def test_a_value_alone_is_its_patchs_own(clip):
    hidden = clip_hidden(clip, pixels(1, 32))
    changed = hidden.clone()
    changed[:, 5] += 1
    for rest in (False, True):
        before, after = (dense._last_block(clip, h, None, rest) for h in (hidden, changed))
        differs = (before != after).any(-1)[0]
        assert differs[4] and differs.sum() == 1
    with_rest = dense._last_block(clip, hidden, None, True)
    bare = hidden[:, 1:] + dense._last_block(clip, hidden, None, False)
    block = clip.vision_model.encoder.layers[-1]
    assert torch.allclose(with_rest, bare + block.mlp(block.layer_norm2(bare)), atol=1e-5)


# DINO's similarity


def test_proxyclip_shares_its_steps_with_trident_and_these_are_the_published_ones():
    case = golden.Golden(ROOT / "tests/golden/trident").case("voc20")
    c = case.config
    settings = Settings.from_profile(
        "toybox", peer_side=c["S"], peer_crop=c["crop"], peer_stride=c["stride"], device="cpu"
    )
    peer = _TEXT_PEERS["ProxyCLIP"](settings, clip=(case.clip, None), dino=case.dino)
    windows, boxes, size = peer.windows(case.image)
    assert np.array_equal(boxes, case.arrays["window_patch_yxyx"])
    tokens, features = clip_tokens(case.clip, windows[:1]), dino_features(case.dino, dino_pixels(windows[:1]))
    golden.close("tokens", tokens[0], case.arrays["clip_lastblock_ln_in_w0"], 2e-4)
    golden.close("features", features[0], case.arrays["dino_feat_w0"], 2e-4)
    mixed = guided_values(case.clip, tokens, torch.from_numpy(case.arrays["dino_attn_w0"])[None])
    golden.close("values", mixed[0], case.arrays["clip_window_out_w0"], 2e-4)
    cosine, guide = case.arrays["dino_cos_w0"].astype(float), peer.guide(windows[:1])[0].numpy()
    scores = 3 * (cosine - 1.2 * cosine.mean())
    for i, row in enumerate(scores):
        weights = np.where(row >= 0, np.exp(row), 0)
        assert np.allclose(guide[i], weights / weights.sum(), atol=1e-4)


def test_windows_of_proxyclip_do_not_see_each_other(made):
    peer, windows = made["ProxyCLIP"], pixels(3, 32)
    alone = torch.cat([peer.guide(window[None]) for window in windows])
    assert torch.allclose(peer.guide(windows), alone, atol=1e-6)


# regions


def scope_by_loops(cosine, regions, sharpness):
    n, mean = len(cosine), cosine.mean()
    out = np.zeros((n, n))
    for i, j in itertools.product(range(n), repeat=2):
        none = regions[i] == 0 or regions[j] == 0
        if (not none and regions[i] == regions[j]) or (none and cosine[i, j] > mean) or i == j:
            out[i, j] = np.exp(sharpness * cosine[i, j])
    return out / out.sum(1, keepdims=True)


@given(st.integers(1, 12), st.integers(0, 2**20))
def test_the_scope_is_its_explicit_form(n, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 3))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    cosine, regions = features @ features.T, rng.integers(0, 4, n)
    ours = corr._scoped_attention(torch.tensor(cosine), torch.tensor(regions), 4.0)
    assert np.allclose(ours, scope_by_loops(cosine, regions, 4.0), atol=1e-6)


@given(st.integers(1, 20), st.integers(0, 2**20))
def test_merged_regions_are_what_chains_of_near_pairs_connect(n, seed):
    rng = np.random.default_rng(seed)
    regions, features = rng.integers(0, 5, n), rng.normal(size=(n, 2))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    merged = corr._merge_regions(torch.tensor(regions), torch.tensor(features, dtype=torch.float32), 0.2).numpy()
    known = [r for r in np.unique(regions) if r]
    means = [features[regions == r].mean(0) for r in known]
    means = [m / max(np.linalg.norm(m), 1e-12) for m in means]
    like = np.array([[a @ b for b in means] for a in means]).reshape(len(known), len(known))
    near = like.max(initial=0) - like <= 0.2 + 1e-6
    for _ in known:
        near = near | (near.astype(int) @ near.astype(int) > 0)  # chains
    for (a, r), (b, q) in itertools.product(enumerate(known), repeat=2):
        if len(known) > 1:
            assert (merged[regions == r][0] == merged[regions == q][0]) == bool(near[a, b] or a == b)
    assert ((merged == 0) == (regions == 0)).all()


def test_regions_are_drawn_in_ascending_area():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2], masks[1, 0, 0], masks[2, 3] = True, True, True
    drawn = corr.draw_regions(masks, (4, 4))
    assert (drawn[:2] == 3).all() and (drawn[3] == 2).all() and (drawn[2] == 0).all()
    assert (corr.draw_regions(np.zeros((0, 4, 4), bool), (4, 4)) == 0).all()


@given(st.integers(0, 2**20))
def test_each_region_takes_the_label_that_most_of_its_pixels_have(seed):
    rng = np.random.default_rng(seed)
    labels, drawn = rng.integers(0, 4, (5, 6)), rng.integers(0, 3, (5, 6))
    voted = corr.vote(labels, drawn)
    assert (voted[drawn == 0] == labels[drawn == 0]).all()
    for r in (1, 2):
        if (drawn == r).any():
            counts = [(labels[drawn == r] == c).sum() for c in range(4)]
            assert set(voted[drawn == r]) == {int(np.argmax(counts))}


def test_a_token_that_sees_the_whole_window_is_clips_class_token(clip):
    window = pixels(1, 32)
    main, lower, tokens = corr._branches(clip, window, torch.zeros(16, dtype=torch.int64))
    seen = clip.vision_model(pixel_values=window, output_hidden_states=True)
    assert torch.allclose(main, seen.hidden_states[-2][:, 1:], atol=1e-5)
    assert torch.allclose(tokens[0], seen.last_hidden_state[0, 0], atol=1e-5)


def test_a_token_of_a_region_does_not_see_the_others(clip):
    window, regions = pixels(1, 32), torch.arange(16) // 8
    _, _, before = corr._branches(clip, window, regions)
    vision = clip.vision_model
    (first, *_), n = vision.encoder.layers, 2
    # one block deep, where patches haven't exchanged anything yet: explicit attention of the region's token
    hidden = vision.embeddings(window)
    hidden = vision.pre_layrnorm(hidden)
    chosen = torch.cat([hidden[:, :1], hidden[:, 1:][:, regions == 0]], 1)
    alone = first(chosen, attention_mask=None)[:, 0]
    mask = torch.full((n + 17, n + 17), -torch.inf)
    mask[n:, n:] = mask[:n, n] = 0
    for r in range(n):
        mask[r, n + 1 :][regions == r] = 0
    both = torch.cat([hidden[:, :1].expand(1, n, -1), hidden], 1)
    assert torch.allclose(first(both, attention_mask=mask[None, None])[:, 0], alone, atol=1e-5)
    assert before.shape == (2, hidden.shape[-1]) and not torch.allclose(before[0], before[1])


@pytest.mark.parametrize("depth, layers", [(12, range(5, 10)), (24, range(10, 22)), (5, range(2, 3)), (2, range(0, 1))])
def test_layers_of_the_spatial_branch(depth, layers):
    assert list(corr._spatial_layers(depth)) == list(layers)


def test_without_lower_and_semantic_branch_and_with_one_region_the_scope_is_all(made, clip):
    peer, window = made["CorrCLIP"], pixels(1, 32)
    regions, cosine = torch.ones(16, dtype=torch.int64), torch.zeros(16, 16)
    attention = corr._scoped_attention(cosine, regions, 4)
    assert torch.allclose(attention, torch.full((16, 16), 1 / 16))
    found = corr._join(clip, corr._branches(clip, window, regions), attention, regions, 0, 0)
    last = clip.vision_model.encoder.layers[-1]
    mean = last.self_attn.v_proj(last.layer_norm1(clip_hidden(clip, window)[0, 1:])).mean(0)
    theirs = clip.visual_projection(clip.vision_model.post_layernorm(last.self_attn.out_proj(mean)))
    assert torch.allclose(found.flatten(1).T, theirs.expand(16, -1), atol=1e-5)
    assert peer.settings.corrclip_spatial == 1 and peer.settings.corrclip_semantic == 0.5


def test_queries_and_keys_are_those_of_the_library(tiny):
    dino, windows = load_vit(tiny), pixels(2, 64)
    seen = dino(windows, output_hidden_states=True).hidden_states[-2]
    last = dino.layers[-1] if hasattr(dino, "layers") else dino.encoder.layer[-1]
    own = getattr(last.attention, "attention", last.attention)
    inner, parts = last.layernorm_before(seen), [getattr(own, p, None) for p in ("query", "key", "q_proj", "k_proj")]
    both = sum(part(inner) for part in parts if part is not None)
    theirs = both.unflatten(-1, (dino.config.num_attention_heads, -1)).sum(2)[:, 1:]
    ours = corr._queries_and_keys(dino, windows)
    assert torch.allclose(ours.flatten(2).transpose(1, 2), theirs, atol=1e-4)


# GroupViT


def test_groups_are_those_of_transformers_segmentation(tiny):
    model, processor = load_groupvit(tiny)
    windows = pixels(2, 64)
    tokens = processor.tokenizer(["a boat", "a tree", "sky"], padding=True, return_tensors="pt")
    theirs = model(pixel_values=windows, **tokens, output_segmentation=True)
    groups, whole, shares = group._group_windows(model, windows)
    scale = model.logit_scale.exp()
    ours = scale**2 * torch.einsum("nge,qe,ngyx->nqyx", groups, theirs.text_embeds, shares)
    assert torch.allclose(ours, theirs.segmentation_logits, rtol=1e-3, atol=1e-2)
    assert torch.allclose(scale * whole @ theirs.text_embeds.T, theirs.logits_per_image, atol=1e-3)


def test_assignments_are_multiplied_over_the_stages():
    first, second = torch.rand(2, 3, 5).softmax(1), torch.rand(2, 2, 3).softmax(1)
    ours = group._assignment([first, second])
    for n, g, p in itertools.product(range(2), range(2), range(5)):
        assert ours[n, g, p] == pytest.approx(sum(float(second[n, g, k] * first[n, k, p]) for k in range(3)))
    assert torch.allclose(ours.sum(1), torch.ones(2, 5))


def test_an_affinity_is_its_explicit_form():
    rng = np.random.default_rng(0)
    groups, whole, text = rng.normal(size=(3, 4)), rng.normal(size=4), rng.normal(size=(6, 4))
    ours = group._group_affinity(*(torch.tensor(x) for x in (groups, whole, text)), 2.0, 2)
    kept = sorted(range(6), key=lambda q: -(text[q] @ whole))[:2]
    for g in range(3):
        raw = np.exp([2 * groups[g] @ t for t in text])
        for q in range(6):
            expected = raw[q] / raw[kept].sum() * raw[q] / raw.sum() if q in kept else 0
            assert float(ours[g, q]) == pytest.approx(expected)


def test_the_background_of_groupvit_is_a_text_only_by_its_own_words(made):
    peer, words = made["GroupViT"], Vocabulary.of("boat, tree")
    assert peer.text_queries(words)[1].tolist() == [1, 2]
    assert peer.text_queries(words, ("sky", "sea"))[1].tolist() == [0, 0, 1, 2]
    assert peer.text_queries(Vocabulary.of("boat, tree", background=False))[1].tolist() == [0, 1]


def test_where_no_group_fits_it_is_background(tiny):
    scene = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    always, never = (GroupViT(tiny.replace(peer_crop=64, peer_threshold=t)) for t in (1, 0))
    assert (never.segment(scene, "boat, tree", background=()).labels > 0).all()
    (windows, *_), (model, _) = always.windows(scene), always.clip
    text = always.text_queries(Vocabulary.of("boat, tree"))[0]
    groups, whole, shares = group._group_windows(model, always.normalised(windows))
    affinity = group._group_affinity(groups[0], whole[0], text, model.logit_scale.exp(), 5)
    own = affinity.amax(1)[shares[0].argmax(0)]
    assert len(windows) == 1 and (own < affinity.max()).any()
    low = always.segment(scene, "boat, tree", background=()).labels
    assert np.array_equal(low == 0, (own < affinity.max()).numpy())


# all of them


@pytest.mark.parametrize("name", _TEXT_PEERS)
@pytest.mark.parametrize("size", [(1, 1), (3, 90), (77, 40)])
@pytest.mark.parametrize("background", [True, False])
def test_any_size_with_and_without_a_background(made, name, size, background):
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    words = Vocabulary.of(["boat", "tree|oak", "sky"], background)
    found = made[name].segment(image, words)
    assert found.labels.shape == size and found.labels.dtype == np.int32
    assert 0 <= found.labels.min() and found.labels.max() < len(words) and found.vocabulary == words
    assert np.array_equal(made[name].segment(image, words).labels, found.labels)


@pytest.mark.parametrize("name", _TEXT_PEERS)
def test_an_evaluation_goes_on_from_what_is_kept_and_names_decide(made, name, tmp_path, tiny):
    from rim.measure.datasets import ToyboxBenchmark

    benchmark, peer, store = ToyboxBenchmark(2), made[name], Store(tmp_path)
    way = peer.method(benchmark.vocabulary)
    first = evaluate({"it": way}, benchmark, tiny, store, progress=False)

    def fails(image, analysis):
        raise AssertionError("predicted again")

    from dataclasses import replace

    again = evaluate({"it": replace(way, predict=fails)}, benchmark, tiny, store, progress=False)
    assert np.array_equal(first.confusions["it"], again.confusions["it"])
    other = peer.method(benchmark.vocabulary, ("sky", "sea")).key
    assert other != way.key and peer.method(benchmark.vocabulary).key == way.key


def test_a_peer_is_the_same_from_a_path_an_image_and_an_array(made, tmp_path):
    from PIL import Image

    image = np.random.default_rng(1).integers(0, 255, (50, 60, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "one.png")
    ways = image, Image.fromarray(image), tmp_path / "one.png"
    labels = [made["SCLIP"].segment(way, "boat, tree").labels for way in ways]
    assert all(np.array_equal(labels[0], other) for other in labels)


def test_windows_are_whole_patches(tiny):
    for key in ("peer_crop", "peer_stride"):
        with pytest.raises(ValueError, match=f"{key} must be a multiple of CLIP's patch, 8 pixels: got 20"):
            _TEXT_PEERS["SCLIP"](tiny.replace(**{key: 20})).segment(np.zeros((64, 64, 3), np.uint8), "boat")
    with pytest.raises(TypeError, match="neither cosines nor predict"):
        Peer(tiny).segment(np.zeros((64, 64, 3), np.uint8), "boat")


def test_improbable_pixels_are_background_where_there_is_one(tiny):
    image = np.random.default_rng(2).integers(0, 255, (64, 64, 3), np.uint8)
    sure = _TEXT_PEERS["ClearCLIP"](tiny.replace(peer_threshold=1.0))
    assert (sure.segment(image, "boat, tree", background=()).labels == 0).all()
    free = Vocabulary.of("boat, tree", background=False)
    plain = _TEXT_PEERS["ClearCLIP"](tiny.replace(peer_threshold=0.0)).segment(image, free).labels
    assert np.array_equal(sure.segment(image, free).labels, plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", _TEXT_PEERS)
def test_the_architectures_of_the_papers_run(name):
    from rim.toybox.world import World

    peer = _TEXT_PEERS[name].from_profile("rehearsal")
    assert peer.settings.peer_crop in (224, 336, 448)
    found = peer.segment(World(128).scene(2_000_000).image, "boat, fish", background=())
    assert found.labels.shape == (128, 128) and F.one_hot(torch.tensor(found.labels).long(), 3).sum() == 128 * 128


def test_what_is_said_to_a_peer_holds_though_it_is_the_profiles_value():
    "The toybox has a value of its own for this setting; asked for by name, the published one is taken."
    assert corr.CorrCLIP.from_profile("toybox").settings.corrclip_similarity == "tokens"
    published = corr.CorrCLIP.from_profile("toybox", corrclip_similarity="queries-keys")
    assert published.settings.corrclip_similarity == "queries-keys" and published.settings.peer_threshold == 0.8
