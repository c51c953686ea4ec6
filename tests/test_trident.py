"""Trident without reference arrays: each step against the slow way, the models' own forward passes, and images of
every shape."""

import json
import numpy as np, pytest, torch, torch.nn.functional as F
from hypothesis import given, settings as budget, strategies as st
from conftest import ROOT
from rim.models import architectures, loading as models
from rooms import trident as T
from rim.measure.results import _as_method
from rim.base.settings import Settings
from rim.trident.aggregation import SamTokens
from rim.trident.trident import Trident
from rim.method.vocabulary import Vocabulary

TINY = Settings.from_profile(
    "toybox",
    pretrained=False,
    device="cpu",
    clip="tiny:clip",
    trident_dino="tiny:vit",
    sam="tiny:sam",
    trident_iou_thresh=-100,
    trident_coarse_thresh=0.1,
    trident_refine_neg_cos=True,
    trident_templates="prompt",
)


@pytest.fixture(scope="module")
def towers():
    return models.load_clip(TINY), models.load_vit(TINY), models.load_sam(TINY)


@pytest.fixture(scope="module")
def trident(towers):
    return Trident(TINY, *towers)


def of(towers, **changes):
    return Trident(TINY.replace(**changes), *towers)


def picture(h, w, seed=0):
    "Blobs and noise, uint8 [h, w, 3]."
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    blobs = sum(
        rng.uniform(20, 120, 3) * np.exp(-(((y / h - a) ** 2 + (x / w - b) ** 2) / 0.05))[..., None]
        for a, b in rng.random((3, 2))
    )
    return (blobs + rng.uniform(0, 60, (h, w, 3))).clip(0, 255).astype(np.uint8)


def tokens(heads=3, grid=(4, 5), side=6, d=4, seed=0, spread=1.0):
    "Random SAM tokens."
    g, n = torch.Generator().manual_seed(seed), grid[0] * grid[1]

    def r(*shape):
        return torch.randn(*shape, generator=g)

    return SamTokens(
        r(heads, n, d),
        r(heads, side * side, d),
        r(heads, n, d) + spread,
        r(heads, n, side),
        r(heads, n, side),
        grid,
        (0, 0),
        (0, 0),
        torch.zeros(1),
    )


# windows


@budget(max_examples=60)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(0, 99))
def test_resize_stays_between_its_pixels(h, w, a, b, seed):
    image = np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
    out = T.resize_linear(image, (a, b)).astype(int)
    assert (
        out.shape == (a, b, 3)
        and (out.max((0, 1)) <= image.max((0, 1))).all()
        and (out.min((0, 1)) >= image.min((0, 1)).astype(int) - 1).all()
    )
    assert (T.resize_linear(image, (h, w)) == image).all()
    slow = (
        F.interpolate(torch.tensor(image).permute(2, 0, 1)[None].double(), (a, b), mode="bilinear")[0]
        .permute(1, 2, 0)
        .numpy()
    )
    assert np.abs(out - slow).max() <= 1.1


@budget(max_examples=40)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 200), st.integers(1, 200), st.integers(0, 99))
def test_resize_is_opencvs(h, w, a, b, seed):
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)
    assert (T.resize_linear(image, (a, b)) == cv2.resize(image, (b, a), interpolation=cv2.INTER_LINEAR)).all()


@budget(max_examples=200)
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([(16, 336), (14, 336), (8, 32)]))
def test_canvas_is_whole_patches_and_at_least_a_window(h, w, how):
    patch, crop = how
    size = T._canvas_size((h, w), patch, crop)
    assert all(n % patch == 0 and n >= crop for n in size) and T._canvas_size(size, patch, crop) == size
    if h >= crop and w >= crop:
        assert all(0 <= a - b < 2 * patch for a, b in zip(size, (h, w)))


@budget(max_examples=100)
@given(st.integers(4, 50), st.integers(4, 50), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_windows_cover_everything_and_splice_gives_the_map_back(h, w, crop, stride, seed):
    stride = min(stride, crop)
    boxes = T.window_boxes((h, w), crop, stride)
    assert (
        (boxes[:, 2:] - boxes[:, :2] == crop).all()
        and (boxes >= 0).all()
        and (boxes[:, 2:] <= (h, w)).all()
        and len(np.unique(boxes, axis=0)) == len(boxes)
    )
    whole = torch.randn(3, h, w, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(T.splice(T.cut_windows(whole, boxes), boxes, (h, w)), whole, atol=1e-6)


def test_splice_averages():
    boxes = np.array([[0, 0, 2, 2], [0, 1, 2, 3]])
    assert T.splice(torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)]), boxes, (2, 3))[0, 0].tolist() == [
        0,
        0.5,
        1,
    ]


# towers


def test_the_last_blocks_input_is_the_librarys(towers):
    clip, seen = towers[0][0], []
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    hook = clip.vision_model.encoder.layers[-1].layer_norm1.register_forward_hook(
        lambda module, given, out: seen.append(out)
    )
    try:
        clip.vision_model(pixels)
    finally:
        hook.remove()
    assert torch.allclose(T.clip_tokens(clip, pixels).flatten(2).transpose(1, 2), seen[0][:, 1:], atol=1e-5)


@pytest.mark.parametrize("side", [64, 40])
def test_dinos_features_are_the_librarys(towers, side):
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    ours = T.dino_features(towers[1], pixels, faithful=False).flatten(2).transpose(1, 2)
    assert torch.allclose(ours, towers[1](pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:], atol=1e-5)


def test_positions_differ_by_the_slip_only_where_they_are_resized():
    table = torch.randn(1, 17, 6, generator=torch.Generator().manual_seed(0))
    assert T._position_table(table, (4, 4)) is table
    faithful, plain = T._position_table(table, (7, 7)), T._position_table(table, (7, 7), False)
    assert (
        faithful.shape == plain.shape == (1, 50, 6)
        and not torch.allclose(faithful, plain, atol=1e-3)
        and torch.equal(faithful[:, 0], plain[:, 0])
    )


def test_last_attention_replaced_by_its_own_is_the_librarys(towers):
    "With the block's own attention as the guide, what comes out is the block's attention output (one head)."
    from transformers import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPVisionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vision = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=1,
                image_size=32,
                patch_size=8,
            )
        ).eval()
    holder = type("Clip", (), {"vision_model": getattr(vision, "vision_model", vision)})()
    block = holder.vision_model.encoder.layers[-1].self_attn
    x = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(1))
    flat = x.flatten(2).transpose(1, 2)
    with torch.no_grad():
        weights = (block.q_proj(flat) @ block.k_proj(flat).transpose(1, 2) / 4).softmax(-1)
        assert torch.allclose(
            T.guided_values(holder, x, weights).flatten(2).transpose(1, 2),
            block(flat, attention_mask=None)[0],
            atol=1e-5,
        )


@budget(max_examples=50)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 99), st.floats(0, 2), st.floats(0.1, 9))
def test_guide_is_an_attention(n, side, seed, beta, gamma):
    features = torch.randn(n, 6, side, side, generator=torch.Generator().manual_seed(seed)) + 2 * (seed % 3)
    cosine = T.cosine_maps(features)
    guide = T.guiding_attention(cosine, beta, gamma)
    assert torch.allclose(guide.sum(-1), torch.ones(n, side * side), atol=1e-5) and (guide >= 0).all()
    cut = gamma * (cosine - beta * cosine.mean()) < 0
    assert (guide[cut & ~cut.all(-1, keepdim=True)] == 0).all()


def test_a_uniform_picture_attends_everywhere():
    assert torch.allclose(
        T.guiding_attention(T.cosine_maps(torch.ones(2, 5, 3, 3)), 1.2, 3.0), torch.full((2, 9, 9), 1 / 9)
    )


# SAM


def toybox_sam():
    return architectures.build_sam(json.loads((ROOT / "rim/toybox/weights/sam/config.json").read_text()))


@pytest.mark.parametrize(
    "build, shape",
    [
        (lambda: architectures.build_sam(architectures._TINY_SAM), (64, 64)),
        (lambda: architectures.build_sam(architectures._TINY_SAM), (40, 64)),
        (toybox_sam, (128, 88)),
    ],
)
def test_tokens_are_those_of_sams_last_block(build, shape):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = build().eval()
        last = sam.image_encoder.blocks[-1]
        torch.nn.init.normal_(last.attn.rel_pos_h)
        torch.nn.init.normal_(last.attn.rel_pos_w)
    image, kept = picture(*shape), []
    hook = last.attn.register_forward_hook(lambda module, given, out: kept.append(out))
    with torch.no_grad():
        embedding = sam.image_encoder(sam.preprocess(torch.tensor(image).permute(2, 0, 1)[None].float()))
    hook.remove()
    found = T.sam_tokens(sam, image)
    patch = sam.image_encoder.img_size // embedding.shape[-1]
    assert found.size == shape and found.grid == tuple(n // patch for n in shape)
    assert torch.allclose(found.embedding, embedding, atol=1e-5)
    rows = found.attention().sum(-1)
    if shape[0] == shape[1]:
        with torch.no_grad():
            out = last.attn.proj((found.attention() @ found.value).transpose(0, 1).flatten(1))
        assert torch.allclose(out.unflatten(0, found.grid), kept[0][0], atol=1e-4) and torch.allclose(
            rows, torch.ones_like(rows), atol=1e-5
        )
    else:
        assert (rows < 1).all()
    assert torch.allclose(found.attention(slice(3, 7)), found.attention()[:, 3:7], atol=1e-6)


def test_a_last_block_with_windows_is_refused():
    with pytest.raises(ValueError, match="whole image.*windows of 4"):
        T.sam_tokens(architectures.build_sam(architectures._TINY_SAM | dict(encoder_global_attn=[])), picture(64, 64))


def test_the_relative_positions_may_be_missing():
    sam = architectures.build_sam(architectures._TINY_SAM)
    sam.image_encoder.blocks[-1].attn.use_rel_pos = False
    assert (T.sam_tokens(sam, picture(64, 64)).rows == 0).all()


# correlation


@pytest.mark.parametrize("spread", [0, 0.3, 3])
@pytest.mark.parametrize("factor, negative", [(0, True), (1.2, True), (3, False), (1.2, False)])
def test_thresholds_are_the_naive_ones(spread, factor, negative):
    value = tokens(spread=spread).value.double()
    unit = value / value.norm(dim=-1, keepdim=True)
    for i, tau in enumerate(T.row_thresholds(value, factor, negative).tolist()):
        naive = factor * float(np.mean([float(unit[h, i] @ unit[h, j]) for h in range(3) for j in range(20)]))
        if naive < 0 and not negative:
            naive = 0.6
        assert abs(tau - min(naive, 0.9)) < 1e-6


@pytest.mark.parametrize("chunk", [1, 3, 7, 19, 20, 1000])
@pytest.mark.parametrize("factor, negative", [(1.2, True), (3, False)])
def test_aggregation_in_pieces_is_the_whole_matrix(chunk, factor, negative):
    t, X = tokens(spread=0.5), torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(2))
    M = T.correlation(t.attention(), t.value, T.row_thresholds(t.value, factor, negative))
    assert torch.allclose(M.sum(1), torch.ones(20), atol=1e-5) and (M == 0).any()
    assert torch.allclose(
        T.aggregate(t, X, factor, negative, chunk), (M @ X.flatten(1).T).T.unflatten(1, (4, 5)), atol=1e-6
    )


def test_aggregation_of_a_constant_is_the_constant():
    assert torch.allclose(
        T.aggregate(tokens(), torch.full((2, 9, 3), 4.0), 1.2, True), torch.full((2, 4, 5), 4.0), atol=1e-5
    )


def test_a_row_that_keeps_nothing_keeps_itself():
    t = tokens()
    value = t.value.clone()
    value[:, 7] = 0
    M = T.correlation(t.attention(), value, torch.full((20,), 0.5))
    assert M[7].argmax() == 7 and M[7].sum() == 1 and M.isfinite().all()


def test_chunk_must_be_a_row():
    with pytest.raises(ValueError, match="at least 1 row: got 0"):
        T.aggregate(tokens(), torch.zeros(1, 4, 5), 1.2, True, chunk=0)


def test_aggregation_never_holds_the_matrix():
    t, largest = tokens(heads=2, grid=(32, 32), side=32), []
    original = T.correlation

    def watched(attention, *rest):
        largest.append(attention.numel())
        return original(attention, *rest)

    T.correlation = watched
    try:
        T.aggregate(t, torch.zeros(2, 8, 8), 1.2, True, chunk=64)
    finally:
        T.correlation = original
    assert max(largest) == 2 * 64 * 1024


# labels


def test_templates():
    templates = T._read_templates()
    assert len(set(templates)) == 80 and all(t.count("{}") == 1 for t in templates)


def test_names_and_background_words():
    vocabulary = Vocabulary.of("boat|ship, tree")
    assert T.query_names(vocabulary)[0] == ["background", "boat", "ship", "tree"] and T.query_names(vocabulary)[
        1
    ].tolist() == [0, 1, 1, 2]
    assert T.query_names(vocabulary, ("sky", "sea"))[0] == ["sky", "sea", "boat", "ship", "tree"]
    assert T.query_names(Vocabulary.of("boat", background=False), ("sky",))[0] == ["boat"]


def test_a_name_is_the_mean_of_its_sentences(towers):
    clip, processor = towers[0]
    from rim.method.crops import ClipCrops

    both = ClipCrops(clip, processor, 32).texts(["a boat.", "the boat."])
    assert torch.allclose(
        T.name_vectors(clip, processor, ["boat"], ("a {}.", "the {}."))[0], F.normalize(both.mean(0), dim=0), atol=1e-6
    )


def test_merging_takes_the_best_name():
    chances = torch.tensor([[0.3], [0.4], [0.2], [0.1]])[..., None]
    assert T.merge_names(chances, torch.tensor([0, 1, 0, 1]), 2)[:, 0, 0].tolist() == pytest.approx([0.3, 0.4])


def test_unsure_pixels_become_class_0():
    prob = torch.tensor([[0.1, 0.3, 0.4], [0.2, 0.25, 0.4]])[:, None]
    assert (
        T.coarse_labels(prob, 0)[0].tolist() == [1, 0, 0]
        and T.coarse_labels(prob, 0.25)[0].tolist() == [0, 0, 0]
        and T.coarse_labels(prob.flip(0), 0.3)[0].tolist() == [0, 1, 0]
    )


# refinement


def flood(mask):
    "Components of a mask with diagonals, in the order of their first pixel."
    todo, found = mask.copy(), []
    for start in map(tuple, np.argwhere(mask)):
        if not todo[start]:
            continue
        stack, part = [start], np.zeros_like(mask)
        todo[start] = False
        while stack:
            y, x = stack.pop()
            part[y, x] = True
            for b, a in ((y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if 0 <= b < mask.shape[0] and 0 <= a < mask.shape[1] and todo[b, a]:
                    todo[b, a] = False
                    stack.append((b, a))
        found.append(part)
    return found


@budget(max_examples=150)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(1, 6), st.integers(0, 10**6))
def test_components_are_those_of_a_flood_fill(h, w, classes, area, seed):
    rng = np.random.default_rng(seed)
    labels, prob = rng.integers(0, classes + 1, (h, w)), rng.integers(0, 5, (classes, h, w)).astype(np.float32) / 4
    found = T._find_components(labels, torch.from_numpy(prob), 0.5, area)
    expected = [
        (c, part) for c in range(classes) if prob[c].max() >= 0.5 for part in flood(labels == c) if part.sum() >= area
    ]
    assert found.labels.tolist() == [c for c, _ in expected] and found.areas.tolist() == [
        part.sum() for _, part in expected
    ]
    for i, (c, part) in enumerate(expected):
        ys, xs = np.nonzero(part)
        assert (found.map == i + 1).sum() == part.sum() and (found.map[part] == i + 1).all()
        assert found.boxes[i].tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]
        best = np.argmax(np.where(part, prob[c], -1))
        assert found.points[i].tolist() == [best % w, best // w]


def test_half_size_and_unsure():
    prob = torch.tensor([0.9, 0.9, 0.2, 0.2, 0.2])[None, None].expand(2, 3, 5) * torch.tensor([1, 0.5])[:, None, None]
    labels, half = T._half_size(np.arange(15).reshape(3, 5) % 2, prob, 0.5)
    assert labels.shape == (1, 2) and half.shape == (2, 1, 2) and labels[0, 1] == 2


@budget(max_examples=100)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(1, 30))
def test_nearest_is_the_librarys_in_whole_numbers(h, w, a, b):
    labels = np.arange(h * w).reshape(h, w)
    assert T.resize_nearest(labels, (a, b)).tolist() == [
        [labels[i * h // a, j * w // b] for j in range(b)] for i in range(a)
    ]


def scene(trident, image, names="boat, tree"):
    vocabulary = Vocabulary.of(names)
    text, owner = trident.queries(vocabulary)
    prob = T.merge_names(T.name_probabilities(trident.logits(image, text), image.shape[:2], 40), owner, len(vocabulary))
    return T.sam_tokens(trident.sam, T.sam_image(image, 8)), T.coarse_labels(prob, 0), prob


def test_nothing_kept_changes_nothing(trident):
    seen, coarse, prob = scene(trident, picture(60, 80))
    done = T.refine(trident.sam, seen, coarse, prob, 0.1, 4, 1e9, 0.005)
    assert (
        len(done.kept) and not done.kept.any() and torch.equal(done.labels, coarse) and torch.equal(done.scores, prob)
    )
    assert len(T.refine(trident.sam, seen, coarse, prob, 1.0, 4, -1e9, 0.005).kept) == 0
    assert len(T.refine(trident.sam, seen, coarse, prob, 0.1, 10**6, -1e9, 0.005).kept) == 0


def test_prompts_at_a_time_do_not_change_the_result(trident):
    seen = T.sam_tokens(trident.sam, picture(48, 64))
    g = torch.Generator().manual_seed(0)
    points, mask = (
        64 * torch.rand(9, 2, generator=g).numpy(),
        0.005 * torch.rand(trident.sam.prompt_encoder.mask_input_size, generator=g),
    )
    boxes = np.concatenate([points - 3, points + 3], 1)
    for faithful in (True, False):
        all_, few = (
            T._decode_masks(trident.sam, seen.embedding, points, boxes, mask, faithful, batch) for batch in (64, 2)
        )
        assert torch.allclose(all_[0], few[0], atol=1e-4) and torch.allclose(all_[1], few[1], atol=1e-4)


def test_failed_components_compete_only_where_asked():
    scores, prob = (
        torch.tensor([[0.0, 0.3, 0.0], [0.2, 0.0, 0.0]])[:, None],
        torch.tensor([[0.6, 0.4, 0.7], [0.4, 0.6, 0.3]])[:, None],
    )
    coarse, failed = torch.tensor([[0, 1, 0]]), torch.tensor([[True, True, False]])
    faithful, corrected = (T._merge_masks(scores, coarse, prob, failed, f) for f in (True, False))
    assert (
        faithful[0].tolist() == [[1, 0, 0]]
        and corrected[0].tolist() == [[0, 1, 0]]
        and torch.equal(faithful[1], corrected[1])
    )


# end to end


def sound(result, shape):
    assert result.labels.shape == shape and set(np.unique(result.labels)) <= set(range(len(result.vocabulary)))
    for region in result.regions:
        assert (
            region.mask.any()
            and np.isfinite(region.score)
            and region.name == result.vocabulary.labels[region.label]
            and (result.labels[region.mask] == region.label).all()
        )


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1),
        (1, 40),
        (40, 1),
        (2, 300),
        (300, 2),
        (7, 9),
        (31, 33),
        (64, 64),
        (32, 48),
        (20, 96),
        (50, 130),
        (130, 50),
        (65, 66),
    ],
)
@pytest.mark.parametrize("uniform", [False, True])
def test_pictures_of_every_shape(trident, shape, uniform):
    image = np.full((*shape, 3), 90, np.uint8) if uniform else picture(*shape)
    text, _ = trident.queries(Vocabulary.of("boat, tree"))
    assert trident.canvas(image).isfinite().all() and trident.logits(image, text).isfinite().all()
    sound(trident.segment(image, "boat, tree"), shape)


def test_a_picture_smaller_than_its_windows(towers):
    "As 320 x 480 with windows of 336: sides that are whole patches already, one of them too short."
    small = of(towers, trident_side=24, trident_crop=32)
    image = picture(24, 48)
    assert T._canvas_size((24, 48), 8, 32) == (32, 48) and small.canvas(image).shape[1:] == (4, 6)
    sound(small.segment(image, "boat"), (24, 48))


@pytest.mark.parametrize(
    "change",
    [
        dict(trident_faithful=False),
        dict(trident_splice="windows"),
        dict(trident_correlation="clip"),
        dict(trident_sam_correlation=False),
        dict(trident_refine=False),
        dict(trident_halves=True),
        dict(trident_splice="windows", trident_sam_correlation=False, trident_refine=False, trident_correlation="clip"),
        dict(trident_cos_fac=0),
        dict(trident_refine_neg_cos=False),
        dict(trident_templates="imagenet"),
        dict(trident_stride=8),
    ],
)
def test_every_setting_runs_and_has_its_own_key(towers, trident, change):
    other, image = of(towers, **change), picture(40, 90)
    sound(other.segment(image, "boat, tree"), (40, 90))
    assert other.method("boat, tree").key != trident.method("boat, tree").key


def test_models_that_are_not_needed_are_not_loaded(towers):
    bare = Trident(
        TINY.replace(
            trident_correlation="clip",
            trident_sam_correlation=False,
            trident_refine=False,
            sam="nobody/knows",
            trident_dino="nobody/knows",
        ),
        towers[0],
    )
    sound(bare.segment(picture(40, 50), "boat"), (40, 50))
    assert len(bare.method("boat").key["weights"]) == 1


@pytest.mark.parametrize(
    "vocabulary, background",
    [
        (Vocabulary.of("boat", background=False), ()),
        (Vocabulary.of("boat, tree", background=False), ()),
        (Vocabulary.of("boat|ship|raft, tree"), ("sky", "sea", "sand")),
    ],
)
def test_vocabularies(trident, vocabulary, background):
    result = trident.segment(picture(50, 70), vocabulary, background)
    sound(result, (50, 70))
    assert result.record["names"] == len(T.query_names(vocabulary, background)[0])


def test_without_background_no_threshold(towers):
    strict = of(towers, trident_prob_thd=1.0, trident_refine=False)
    image = picture(50, 70)
    assert (strict.segment(image, "boat, tree").labels == 0).all()
    free, plain = (
        s.segment(image, Vocabulary.of("boat, tree", background=False)).labels
        for s in (strict, of(towers, trident_refine=False))
    )
    assert (free == plain).all()


def test_the_method_is_the_segmenter(trident):
    image, method = picture(50, 70), trident.method("boat, tree", ("sky", "sea"))
    assert (
        method.analyse is None
        and _as_method(method, None) is method
        and _as_method(trident, "boat").key["names"] == ["background", "boat"]
    )
    assert (method(image).labels == trident.segment(image, "boat, tree", ("sky", "sea")).labels).all()
    assert json.dumps(method.key) and method.key["weights"][1]["name"] == "tiny:vit"
    assert (
        trident.method("boat").key != trident.method("ship").key
        and trident.method("boat", ("sky",)).key != trident.method("boat").key
    )


def test_names_are_embedded_once(trident, monkeypatch):
    trident.queries(Vocabulary.of("once"))
    monkeypatch.setattr(T, "name_vectors", None)
    assert len(trident.queries(Vocabulary.of("once"))[0]) == 2


def test_results_repeat(trident):
    image = picture(50, 70)
    assert (trident.segment(image, "boat, tree").labels == trident.segment(image, "boat, tree").labels).all()


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(trident_crop=30), "multiple of the models' patches.*8 pixels: got 30"),
        (dict(trident_stride=20), "multiple of CLIP's patch, 8 pixels: got 20"),
    ],
)
def test_windows_must_be_whole_patches(towers, change, words):
    with pytest.raises(ValueError, match=words):
        of(towers, **change).segment(picture(40, 50), "boat")


def test_bad_pictures_and_names_are_refused(trident):
    with pytest.raises(ValueError, match="uint8"):
        trident.segment(np.zeros((4, 4, 3)), "boat")
    with pytest.raises(ValueError, match="at least one class name"):
        trident.segment(picture(9, 9), [])
    with pytest.raises(ValueError, match="sequence of words: got the text 'sky'"):
        trident.segment(picture(9, 9), "boat", "sky")


def test_faithful_changes_the_features(towers):
    image = picture(50, 70)
    assert not torch.allclose(of(towers).canvas(image), of(towers, trident_faithful=False).canvas(image), atol=1e-4)


@pytest.mark.parametrize(
    "base, change, hit",
    [
        (dict(trident_refine=False), dict(trident_iou_thresh=0.5), True),
        ({}, dict(trident_iou_thresh=0.5), False),
        (dict(trident_sam_correlation=False), dict(trident_cos_fac=2), True),
        ({}, dict(trident_cos_fac=2), False),
        ({}, dict(agents=2), True),
        ({}, dict(trident_side=96), False),
        ({}, dict(seed=3), False),
        ({}, dict(benchmark="voc21"), True),
        ({}, dict(trident_dino_revision="other"), True),
    ],
)
def test_keys_hold_what_matters(towers, base, change, hit):
    assert (of(towers, **base).method("boat").key == of(towers, **base, **change).method("boat").key) == hit


def test_dinov2_by_name(towers):
    image, other = picture(40, 50), Trident(TINY.replace(trident_dino="tiny:dino"), towers[0], None, towers[2])
    assert type(other.dino).__name__ == "Dinov2Model"
    windows = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))  # the size its positions are for
    with torch.no_grad():
        wanted = other.dino(windows).last_hidden_state[:, 1:].transpose(1, 2).unflatten(2, (8, 8))
    assert (T.dino_features(other.dino, windows) - wanted).abs().max() < 1e-5
    sound(other.segment(image, "boat"), (40, 50))


# own images


def test_the_usual_background_leaves_out_what_is_asked_for(trident):
    words = "sky, Wall, tree,, sea ,"
    settings = TINY.replace(trident_background=words)
    assert T.usual_background(settings, Vocabulary.of("boat")) == ("sky", "Wall", "tree", "sea")
    assert T.usual_background(settings, Vocabulary.of("boat, wall, elm|Tree")) == ("sky", "sea")
    assert (
        T.usual_background(settings, Vocabulary(("boat",), background=False))
        == ()
        == T.usual_background(TINY.replace(trident_background=""), Vocabulary.of("boat"))
    )
    assert (
        trident.segment(picture(40, 50), "boat").record["names"] == 1 + 12
        and trident.segment(picture(40, 50), "boat", background=()).record["names"] == 2
    )
