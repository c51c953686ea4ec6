"""Proposals equal the stock generator's; points are seeded; an image without proposals is an answer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings as budget, strategies as st
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score

from rim.models.architectures import build_sam
from rim.models.loading import load_maskformer, load_sam
from rim.method.proposals import (
    MaskGenerator,
    NoProposals,
    Proposer,
    QueryProposer,
    attention_mask,
    attention_points,
    foreground_mask,
    proposal_key,
    query_masks,
    _thresholds,
)
from rim.models.fast_sam import Axis, PointDecoder, _blocks, full_masks, measure
from rim.base.settings import Settings
from rim.toybox.world import World


@pytest.fixture(scope="module")
def settings():
    return Settings.from_profile(
        "toybox",
        pretrained=False,
        sam="tiny:sam",
        device="cpu",
        points_per_side=6,
        pred_iou_thresh=0,
        stability_score_thresh=0,
        box_nms_thresh=0.98,
    )


@pytest.fixture(scope="module")
def sam(settings):
    """Random weights, louder so that masks differ between points, and predicted IoUs spread around 0.5 so that
    thresholds bite."""
    sam = load_sam(settings)
    for p in sam.mask_decoder.output_hypernetworks_mlps.parameters():
        p.mul_(20)
    sam.mask_decoder.iou_prediction_head.layers[-1].bias.add_(0.5)
    return sam


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(3).integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


@pytest.fixture
def attention():
    y, x = np.mgrid[:16, :16]
    return np.exp(-((x - 10.0) ** 2 + (y - 5) ** 2) / 8).astype(np.float32)


def rows(masks, scores, stability, boxes):
    return sorted(
        (m.tobytes(), round(float(s), 5), round(float(t), 5), *map(float, b))
        for m, s, t, b in zip(masks, scores, stability, boxes)
    )


def corners(x, y, w, h):
    return x, y, x + w, y + h


@pytest.mark.parametrize("quantiles", [None, (0.3, 0), (0.3, 0.4)])
@pytest.mark.parametrize("nms", [0.98, 1])
@pytest.mark.parametrize("per_batch", [5, 256])
def test_proposals_equal_the_stock_generator(sam, settings, image, quantiles, nms, per_batch):
    everything = SamAutomaticMaskGenerator(
        sam, 6, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1
    ).generate(image)
    cuts = [
        float(np.quantile([m[k] for m in everything], q)) if q else 0
        for q, k in zip(quantiles or (0, 0), ("predicted_iou", "stability_score"))
    ]
    own = settings.replace(
        pred_iou_thresh=cuts[0], stability_score_thresh=cuts[1], points_per_batch=per_batch, box_nms_thresh=nms
    )
    stock = SamAutomaticMaskGenerator(sam, 6, per_batch, **_thresholds(own)).generate(image)
    ours = Proposer(sam, own).proposals(image)
    assert len(ours) == len(stock) and (nms < 1 or 20 <= len(stock) and (len(stock) < 108) == bool(quantiles))
    theirs = zip(*[(m["segmentation"], m["predicted_iou"], m["stability_score"], corners(*m["bbox"])) for m in stock])
    assert rows(ours.masks, ours.scores, ours.stability, ours.boxes) == rows(*theirs)
    through = Proposer(sam, own.replace(mask_generator="stock")).proposals(image)
    assert rows(through.masks, through.scores, through.stability, through.boxes) == rows(
        ours.masks, ours.scores, ours.stability, ours.boxes
    )


def test_the_toyboxs_masks_equal_the_stock_generators():
    own = Settings.from_profile("toybox")
    sam, world = load_sam(own), World()
    fast, stock = Proposer(sam, own), Proposer(sam, own.replace(mask_generator="stock"))
    for seed in range(2_000_000, 2_000_003):
        image = world.scene(seed).image[: 128 - 9 * (seed % 3)]  # not only squares
        a, b = fast.proposals(image), stock.proposals(image)
        assert (
            len(a) == len(b) > 0 and (a.masks != b.masks).mean() < 1e-5
        )  # none of 6 million where it was tried; a logit may lie at the threshold, to rounding
        assert (
            np.allclose(a.scores, b.scores, atol=1e-5)
            and np.allclose(a.stability, b.stability, atol=1e-3)
            and np.abs(a.boxes - b.boxes).max() <= 1
        )


def test_the_stock_generator_is_selected(sam, settings, image, monkeypatch):
    monkeypatch.setattr(SamAutomaticMaskGenerator, "generate", lambda self, image: [])
    found = Proposer(sam, settings.replace(mask_generator="stock")).proposals(image)
    assert len(found) == 0 and found.masks.shape == (0, 48, 64) and found.boxes.shape == (0, 4)
    assert len(Proposer(sam, settings).proposals(image)) > 0


# the decoder

SHAPES = dict(
    tiny=dict(image_size=64, patch_size=8, prompt_dim=32, decoder_heads=2),
    deep=dict(image_size=48, patch_size=8, prompt_dim=48, decoder_heads=4, decoder_depth=3),
    shallow=dict(image_size=32, patch_size=8, prompt_dim=32, decoder_heads=2, decoder_depth=1),
    real={},
)


@pytest.fixture(scope="module", params=SHAPES)
def decoders(request):
    """A SAM of some shape, its biases and norms random too, behind a small encoder; features that it might have given;
    points."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        sam = build_sam(
            dict(encoder_dim=16, encoder_depth=1, encoder_heads=1, encoder_global_attn=[0]) | SHAPES[request.param]
        )
        for p in sam.mask_decoder.parameters():
            p.add_(0.2 * torch.randn_like(p) / max(p.shape[-1], 1) ** 0.5)
        side, grid = sam.image_encoder.img_size, sam.prompt_encoder.image_embedding_size
        return (
            sam,
            torch.randn(1, sam.mask_decoder.transformer_dim, *grid),
            side * torch.rand(5, 2, dtype=torch.float64),
        )


@torch.no_grad()
def by_library(sam, features, xy):
    sparse, dense = sam.prompt_encoder(points=(xy[:, None], torch.ones(len(xy), 1)), boxes=None, masks=None)
    return sam.mask_decoder(features, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)


@torch.no_grad()
def by_ours(sam, features, xy, dtype=torch.float32):
    decoder = PointDecoder(sam, dtype)
    decoder.look(features)
    tokens, places = decoder.tokens(xy)
    assert places.dtype == dtype and tokens.dtype == torch.float32
    return decoder.logits(tokens, places), decoder.ious(tokens)


def test_the_decoder_equals_the_librarys(decoders):
    for a, b in zip(by_ours(*decoders), by_library(*decoders)):
        assert a.shape == b.shape and b.std() > 1e-2 and (a - b).abs().max() < 2e-5 * b.abs().max().clamp(min=1)


def test_prompts_of_points_are_the_librarys_to_the_last_bit(decoders):
    sam, _, xy = decoders
    with torch.no_grad():
        sparse, _ = sam.prompt_encoder(points=(xy[:, None], torch.ones(len(xy), 1)), boxes=None, masks=None)
        assert torch.equal(PointDecoder(sam).embed(xy), sparse)


def test_the_decoder_in_bfloat16(decoders):
    (logits, ious), (exact, sure) = by_ours(*decoders, torch.bfloat16), by_library(*decoders)
    assert (
        logits.dtype == ious.dtype == torch.float32
        and (logits - exact).std() < 0.03 * exact.std()
        and (ious - sure).abs().max() < 0.02 * sure.abs().max()
    )


def test_chunks_and_earlier_pictures_do_not_matter(decoders):
    sam, features, xy = decoders
    decoder = PointDecoder(sam)
    with torch.no_grad():
        decoder.look(features.flip(3))
        decoder.tokens(xy)
        decoder.look(features)
        whole, parts = (
            decoder.ious(decoder.tokens(xy)[0]),
            torch.cat([decoder.ious(decoder.tokens(part)[0]) for part in xy.split(2)]),
        )
    assert (whole - parts).abs().max() < 1e-5 * whole.abs().max()


# masks at full size

sizes = st.integers(1, 90)


@budget(max_examples=60, deadline=None)
@given(sizes, sizes, sizes, sizes, st.integers(0, 9))
def test_an_axis_is_what_the_library_resizes(inside_h, inside_w, height, width, seed):
    sam = (
        build_sam(
            dict(
                image_size=96,
                patch_size=32,
                encoder_dim=8,
                encoder_depth=1,
                encoder_heads=1,
                encoder_global_attn=[],
                prompt_dim=8,
                decoder_heads=1,
            )
        )
        if not CACHE
        else CACHE[0]
    )
    CACHE[:] = [sam]
    logits = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(seed)) - 1
    theirs = sam.postprocess_masks(logits[None], (inside_h, inside_w), (height, width))[0]
    rows, columns = Axis(12, 96, inside_h, height), Axis(12, 96, inside_w, width)
    assert (rows.matrix @ logits @ columns.matrix.T - theirs).abs().max() < 5e-6
    for threshold, offset in ((0, 0.5), (0.5, 1), (9, 1)):
        stability, boxes = measure(logits, rows, columns, threshold, offset)
        near = ((theirs - threshold).abs() < 1e-5) | ((theirs - threshold).abs() - offset).abs().lt(1e-5)
        if near.any():
            continue  # a pixel at a threshold, to rounding
        assert torch.equal(
            stability.nan_to_num(-1), calculate_stability_score(theirs, threshold, offset).nan_to_num(-1)
        )
        assert torch.equal(boxes, batched_mask_to_box(theirs > threshold).float())
        assert torch.equal(full_masks(logits, rows, columns, threshold), theirs > threshold)


CACHE = []


def test_only_the_pixels_that_may_pass_are_computed():
    axis, logits = Axis(32, 128, 128, 1100), torch.full((3, 32, 32), -9.0)
    logits[0, 4:7, 10:12], logits[1, 30, 31] = 9, 9
    found = list(_blocks(logits, axis, axis, 0))
    assert [f[0].start for f in found] == [0, 1, 2]  # one at a time: a full-size mask is large
    areas = [values[0].numel() / 1100**2 for *_, values in found]
    assert areas[0] < (5 / 32) * (4 / 32) and areas[1] < (3 / 32) ** 2 and (found[2][3] <= 0).all()
    full = full_masks(logits, axis, axis, 0)
    assert full[0].any() and full[1].any() and not full[2].any()
    boxes = measure(logits, axis, axis, 0, 1)[1]
    assert torch.equal(boxes, batched_mask_to_box(full).float()) and boxes[0].min() > 0
    for row in range(1100):  # a pixel sees what its row of the matrix says
        seen = axis.matrix[row].nonzero()[:, 0]
        assert axis.first[row] == seen.min() and axis.last[row] == seen.max()


def test_points_that_fail_are_never_upscaled(sam, settings, image, monkeypatch):
    seen, whole = [], PointDecoder.logits
    monkeypatch.setattr(
        PointDecoder, "logits", lambda self, tokens, places: seen.append(len(tokens)) or whole(self, tokens, places)
    )
    scores = MaskGenerator(sam, 6, 36, 0, 0, 1, 1).generate(image).scores
    for level in (float(np.quantile(scores, 0.9)), 1):
        MaskGenerator(sam, 6, 36, level, 0, 1, 1).generate(image)
    assert len(scores) == 108 and len(seen) == 2 and seen[0] == 36 > 11 >= seen[1] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_shorter_precision_changes_little(sam, settings, image, dtype):
    exact, short = Proposer(sam, settings), Proposer(sam, settings, dtype)
    a, b = exact.proposals(image), short.proposals(image)
    assert next(sam.parameters()).dtype == torch.float32 and abs(len(a) - len(b)) <= 0.1 * len(a)
    assert (
        Proposer(sam, settings.replace(dtype="bfloat16")).generate.__self__.dtype == torch.float32
    )  # a CPU's settings say float32


def test_proposals_are_sorted_and_typed(sam, settings, image):
    p = Proposer(sam, settings).proposals(image)
    assert (np.diff(p.areas) <= 0).all() and p.masks.dtype == bool and p.masks.shape[1:] == (48, 64)
    assert {p.boxes.dtype, p.scores.dtype, p.stability.dtype} == {np.dtype("float32")} and p.boxes.shape == (len(p), 4)
    again = Proposer(sam, settings.replace(points_per_batch=7)).proposals(image)
    assert (
        len(p) == len(again) and (p.masks == again.masks).mean() > 0.999
    )  # a logit of 0 may fall either way in another batch


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (33, 70)])
@pytest.mark.parametrize("generator", ["batched", "stock"])
def test_any_image_and_no_proposal(sam, settings, size, generator):
    image = np.zeros((*size, 3), np.uint8)
    assert len(Proposer(sam, settings.replace(mask_generator=generator)).proposals(image)) > 0
    p = Proposer(
        sam, settings.replace(pred_iou_thresh=1, stability_score_thresh=1, mask_generator=generator)
    ).proposals(image)
    assert (
        len(p) == 0
        and p.masks.shape == (0, *size)
        and p.boxes.shape == (0, 4)
        and p.scores.shape == p.stability.shape == (0,)
    )


def test_dense_preset(settings):
    assert _thresholds(settings.replace(proposals="dense", dense_thresh=0.6))["pred_iou_thresh"] == 0.6
    assert _thresholds(settings.replace(pred_iou_thresh=0.7))["pred_iou_thresh"] == 0.7


def test_foreground_is_the_best_of_three(sam, settings, image):
    proposer = Proposer(sam, settings)
    points = np.array([[20, 10], [24, 30]])
    mask, score = proposer.foreground(image, points)
    proposer.predictor.set_image(image)
    masks, ious, _ = proposer.predictor.predict(points, np.ones(2), multimask_output=True)
    assert score == ious.max() and np.array_equal(mask, masks[list(ious).index(ious.max())]) and mask.dtype == bool


def test_points_are_seeded_distinct_and_inside(attention, settings):
    size, settings = (64, 80), settings.replace(attention_points=5)
    a, b, c = (attention_points(attention, size, settings, seed) for seed in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c) and len({tuple(p) for p in a}) == 5
    mask = attention_mask(attention, size, settings)
    assert mask[a[:, 1], a[:, 0]].all() and abs(a[:, 0].mean() - 52.5) < 10 and abs(a[:, 1].mean() - 22) < 8


def test_few_or_no_pixels(settings):
    spike = np.zeros((8, 8), np.float32)
    spike[2, 5] = 1e-3
    assert attention_points(spike, (8, 8), settings, 0).tolist() == [[5, 2]]
    empty = attention_points(spike * 0, (40, 40), settings, 0)
    assert len(empty) == 5 and attention_mask(spike * 0, (40, 40), settings).sum() == 32


def test_threshold_is_relative_to_the_maximum(attention, settings):
    masks = [attention_mask(attention * s, (64, 64), settings) for s in (1, 0.1)]
    assert np.array_equal(*masks)
    assert attention_mask(attention, (64, 64), settings.replace(attention_threshold=0.3)).sum() > masks[0].sum()


@pytest.mark.parametrize("share, how", [(0.3, "sam"), (0.005, "attention"), (0.97, "attention")])
def test_masks_of_absurd_size_fall_back_to_attention(sam, settings, image, attention, share, how, monkeypatch):
    mask = (np.arange(48 * 64) < share * 48 * 64).reshape(48, 64)
    proposer = Proposer(sam, settings)
    monkeypatch.setattr(proposer, "foreground", lambda image, points: (mask, 0.9))
    got, told = foreground_mask(proposer, image, attention, settings, seed=0)
    assert told == how and np.array_equal(got, mask if how == "sam" else attention_mask(attention, (48, 64), settings))


# without SAM: Table 4


def test_query_masks_equal_the_definition():
    g = torch.Generator().manual_seed(2)
    masks, classes = 3 * torch.randn(12, 5, 7, generator=g), 2 * torch.randn(12, 4, generator=g)
    masks[0] = -9  # sees nothing
    classes[0, 3] = -9  # and is sure of it
    found = query_masks(masks, classes, (20, 28), 0.6, 0.3)
    full = torch.nn.functional.interpolate(masks[None], (20, 28), mode="bilinear")[0].sigmoid().numpy()
    chance = 1 - torch.softmax(classes, 1)[:, 3].numpy()
    expected = [(full[q] > 0.3, chance[q]) for q in range(12) if chance[q] >= 0.6 and (full[q] > 0.3).any()]
    assert 0 < len(expected) < 11 and len(found) == len(expected) and (np.diff(found.areas) <= 0).all()
    assert {m.tobytes() for m in found.masks} == {m.tobytes() for m, _ in expected}
    assert sorted(found.scores.tolist()) == pytest.approx(sorted(float(c) for _, c in expected), abs=1e-6)
    for mask, box in zip(found.masks, found.boxes):
        ys, xs = np.nonzero(mask)
        assert box.tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 70)])
def test_maskformer_takes_any_image(settings, size):
    own = settings.replace(maskformer="tiny:maskformer", maskformer_side=64, maskformer_score=0, maskformer_thresh=0.5)
    model, image = load_maskformer(own), np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
    proposer = QueryProposer(model, own)
    assert all(s % 32 == 0 for s in proposer.input(image).shape[2:]) and min(proposer.input(image).shape[2:]) == 64
    found = proposer.proposals(image)
    assert found.masks.shape[1:] == size and found.boxes.shape == (len(found), 4) and len(found) <= 6
    with torch.no_grad():
        out = model(proposer.input(image))
    assert len(query_masks(out.masks_queries_logits[0], out.class_queries_logits[0], size, 0, 0.5)) == len(found)
    assert len(QueryProposer(model, own.replace(maskformer_score=1)).proposals(image)) == 0


def test_maskformer_sees_pixels_as_the_librarys_processor_does(settings):
    from transformers import MaskFormerImageProcessor

    image = np.random.default_rng(1).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    theirs = MaskFormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 640}, size_divisor=32)(
        image, return_tensors="pt"
    ).pixel_values
    ours = QueryProposer(None, settings.replace(maskformer_side=64)).input(image)
    assert ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-4)


def test_no_segmenter_proposes_nothing():
    found = NoProposals().proposals(np.zeros((5, 6, 3), np.uint8))
    assert (
        len(found) == 0
        and found.masks.shape == (0, 5, 6)
        and found.boxes.shape == (0, 4)
        and found.scores.shape == (0,)
    )


def test_a_key_names_what_determines_the_proposals(settings):
    own = settings.replace(maskformer="tiny:maskformer")
    keys = [proposal_key(own.replace(proposer=p)) for p in ("sam", "maskformer", "none")]
    assert len({str(k) for k in keys}) == 3
    for change in (dict(maskformer_side=96), dict(maskformer_score=0.1), dict(maskformer_thresh=0.1)):
        changed = [proposal_key(own.replace(proposer=p, **change)) for p in ("sam", "maskformer", "none")]
        assert [a == b for a, b in zip(keys, changed)] == [True, False, True]
    assert len({str(proposal_key(own.replace(mask_generator=g))) for g in ("batched", "stock")}) == 2
    assert proposal_key(own.replace(points_per_side=3)) != keys[0] == proposal_key(own.replace(points_per_batch=3))
