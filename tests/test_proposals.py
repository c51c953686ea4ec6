"""Proposals equal the stock generator's; points are seeded; an image without proposals is an answer."""
import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator

from rim.models import load_sam
from rim.proposals import Proposer, attention_mask, attention_points, foreground_mask, thresholds
from rim.settings import Settings

@pytest.fixture(scope="module")
def settings():
    return Settings.from_profile("toybox", pretrained=False, sam="tiny:sam", device="cpu", points_per_side=6, pred_iou_thresh=0,
                                 stability_score_thresh=0, box_nms_thresh=0.98)

@pytest.fixture(scope="module")
def sam(settings):
    "Random weights, louder so that masks differ between points, and predicted IoUs spread around 0.5 so that thresholds bite."
    sam = load_sam(settings)
    for p in sam.mask_decoder.output_hypernetworks_mlps.parameters(): p.mul_(20)
    sam.mask_decoder.iou_prediction_head.layers[-1].bias.add_(0.5)
    return sam

@pytest.fixture(scope="module")
def image(): return np.random.default_rng(3).integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)

@pytest.fixture
def attention():
    y, x = np.mgrid[:16, :16]
    return np.exp(-((x - 10.)**2 + (y - 5)**2) / 8).astype(np.float32)

def rows(masks, scores, stability, boxes): return sorted((m.tobytes(), round(float(s), 5), round(float(t), 5), *map(float, b)) for m, s, t, b in zip(masks, scores, stability, boxes))

def corners(x, y, w, h): return x, y, x + w, y + h

@pytest.mark.parametrize("quantiles", [None, (0.3, 0), (0.3, 0.4)])
@pytest.mark.parametrize("nms", [0.98, 1])
@pytest.mark.parametrize("per_batch", [5, 256])
def test_proposals_equal_the_stock_generator(sam, settings, image, quantiles, nms, per_batch):
    everything = SamAutomaticMaskGenerator(sam, 6, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1).generate(image)
    cuts = [float(np.quantile([m[k] for m in everything], q)) if q else 0 for q, k in zip(quantiles or (0, 0), ("predicted_iou", "stability_score"))]
    own = settings.replace(pred_iou_thresh=cuts[0], stability_score_thresh=cuts[1], points_per_batch=per_batch, box_nms_thresh=nms)
    stock = SamAutomaticMaskGenerator(sam, 6, per_batch, **thresholds(own)).generate(image)
    ours = Proposer(sam, own).proposals(image)
    assert len(ours) == len(stock) and (nms < 1 or 20 <= len(stock) and (len(stock) < 108) == bool(quantiles))
    theirs = zip(*[(m["segmentation"], m["predicted_iou"], m["stability_score"], corners(*m["bbox"])) for m in stock])
    assert rows(ours.masks, ours.scores, ours.stability, ours.boxes) == rows(*theirs)

def test_proposals_are_sorted_and_typed(sam, settings, image):
    p = Proposer(sam, settings).proposals(image)
    assert (np.diff(p.areas) <= 0).all() and p.masks.dtype == bool and p.masks.shape[1:] == (48, 64)
    assert {p.boxes.dtype, p.scores.dtype, p.stability.dtype} == {np.dtype("float32")} and p.boxes.shape == (len(p), 4)
    again = Proposer(sam, settings.replace(points_per_batch=7)).proposals(image)
    assert len(p) == len(again) and (p.masks == again.masks).mean() > 0.999  # a logit of 0 may fall either way in another batch

@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (33, 70)])
def test_any_image_and_no_proposal(sam, settings, size):
    image = np.zeros((*size, 3), np.uint8)
    p = Proposer(sam, settings.replace(pred_iou_thresh=1, stability_score_thresh=1)).proposals(image)
    assert len(p) == 0 and p.masks.shape == (0, *size) and p.boxes.shape == (0, 4) and p.scores.shape == p.stability.shape == (0,)

def test_dense_preset(settings):
    assert thresholds(settings.replace(proposals="dense", dense_thresh=0.6))["pred_iou_thresh"] == 0.6
    assert thresholds(settings.replace(pred_iou_thresh=0.7))["pred_iou_thresh"] == 0.7

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
    spike = np.zeros((8, 8), np.float32); spike[2, 5] = 1e-3
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
