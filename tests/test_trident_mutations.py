"""The parity checks have teeth: one plausible deviation at a time, and the check of that step must fail."""

import warnings
from dataclasses import replace
import numpy as np, pytest, torch, torch.nn.functional as F
from PIL import Image
import trident_golden as golden
from rooms import trident as T

HERE = golden.FOLDER.is_dir()
if not HERE:
    warnings.warn(golden.MISSING)
pytestmark = pytest.mark.skipif(not HERE, reason=golden.MISSING)
FOLDER = golden.Golden() if HERE else None
TRUE = {
    name: getattr(T, name) for name in dir(T) if callable(getattr(T, name)) and not name.startswith("__")
}  # as they are


def made(name):
    return golden.Refinement(FOLDER) if name == "unit_refinement" else FOLDER.case(name)


# deviations


def pillow_resize(image, size):
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def float_resize(image, size):
    return (
        F.interpolate(torch.tensor(image).permute(2, 0, 1)[None].float(), list(size), mode="bilinear")[0]
        .round()
        .byte()
        .permute(1, 2, 0)
        .numpy()
    )


def rounded_up_apart(size, patch, crop):
    return tuple(max(crop, -(-n // patch) * patch) for n in size)


def column_by_column(size, crop, stride):
    b = TRUE["window_boxes"](size, crop, stride)
    return b[np.lexsort((b[:, 0], b[:, 1]))]


def last_window_not_shifted(size, crop, stride):
    b = TRUE["window_boxes"](size, crop, stride)
    b[:, :2] = b[:, :2] // stride * stride
    return b


def to_its_size(table, grid, faithful=True):
    return TRUE["_position_table"](table, grid, False)


def from_cls(clip, windows, faithful=True):
    return TRUE["clip_tokens"](clip, windows, faithful).roll(1, -1)


def without_norm(dino, windows, faithful=True):
    return (
        TRUE["dino_features"](dino, windows, faithful) - dino.layernorm.bias[:, None, None]
    ) / dino.layernorm.weight[:, None, None]


def mean_per_window(cosine, beta, gamma):
    return torch.cat([TRUE["guiding_attention"](c[None], beta, gamma) for c in cosine])


def nothing_cut(cosine, beta, gamma):
    return (gamma * (cosine - beta * cosine.mean())).softmax(-1)


def cut_at_zero_cosine(cosine, beta, gamma):
    return (gamma * (cosine - beta * cosine.mean())).masked_fill(cosine < 0, -torch.inf).softmax(-1)


def centred_cosine(features):
    return TRUE["cosine_maps"](features - features.mean((2, 3), keepdim=True))


def with_residual(clip, tokens, attention):
    return TRUE["guided_values"](clip, tokens, attention) + F.interpolate(
        tokens, (int(attention.shape[-1] ** 0.5),) * 2
    )


def without_bias(clip, tokens, attention):
    last = clip.vision_model.encoder.layers[-1].self_attn
    return TRUE["guided_values"](clip, tokens, attention) - (last.out_proj.weight @ last.v_proj.bias)[:, None, None]


def not_averaged(maps, boxes, size):
    canvas = torch.zeros(maps.shape[1], *size)
    if maps.shape[-1] != boxes[0][2] - boxes[0][0]:
        maps = F.interpolate(maps, (int(boxes[0][2] - boxes[0][0]),) * 2, mode="bilinear")
    for window, (y0, x0, y1, x1) in zip(maps, boxes):
        canvas[:, y0:y1, x0:x1] = window
    return canvas


def nearest_to_clip_grid(maps, boxes, size):
    return TRUE["splice"](F.interpolate(maps, (int(boxes[0][2] - boxes[0][0]),) * 2, mode="nearest"), boxes, size)


def not_rounded(image, patch):
    return image


def no_antialias(image, side):
    return TRUE["resize_linear"](image, TRUE["_resize_long"](image, side).shape[:2])


def torch_antialias(image, side):
    return (
        F.interpolate(
            torch.tensor(image).permute(2, 0, 1)[None].float(),
            TRUE["_resize_long"](image, side).shape[:2],
            mode="bilinear",
            antialias=True,
        )[0]
        .clamp(0, 255)
        .byte()
        .permute(1, 2, 0)
        .numpy()
    )


def without_positions(sam, image):
    t = TRUE["sam_tokens"](sam, image)
    return replace(t, rows=0 * t.rows, columns=0 * t.columns)


def swapped_positions(sam, image):
    t = TRUE["sam_tokens"](sam, image)
    return replace(t, rows=t.columns, columns=t.rows)


class Normalised(TRUE["SamTokens"] if HERE else object):
    def attention(self, which=slice(None)):
        a = super().attention(which)
        return a / a.sum(-1, keepdim=True)


def normalised_again(sam, image):
    return Normalised(**vars(TRUE["sam_tokens"](sam, image)))


def keys_for_values(sam, image):
    t = TRUE["sam_tokens"](sam, image)
    return replace(t, value=t.key.unflatten(1, (t.rows.shape[-1], -1))[:, : t.grid[0], : t.grid[1]].flatten(1, 2))


def thresholds(mean=lambda c: c.mean(0), negative=0.6, always=False, cap=0.9):
    def row_thresholds(value, cos_fac=1.2, refine_neg_cos=True):
        unit = F.normalize(value, dim=-1)
        tau = cos_fac * mean((unit @ unit.transpose(1, 2)).mean(-1))
        if always or not refine_neg_cos:
            tau = torch.where(tau < 0, negative, tau)
        return tau.clamp(max=cap)

    return row_thresholds


def threshold_per_head(attention, value, tau, which=slice(None)):
    cosine = F.normalize(value, dim=-1) @ F.normalize(value, dim=-1).transpose(1, 2)
    kept = (attention * (cosine > (1.2 * cosine.mean(-1, keepdim=True)).clamp(max=0.9))).mean(0)
    return kept / kept.sum(-1, keepdim=True)


def cosine_of_mean_heads(attention, value, tau, which=slice(None)):
    unit = F.normalize(value, dim=-1)
    kept = attention.mean(0) * ((unit @ unit.transpose(1, 2)).mean(0) > tau[:, None])
    return kept / kept.sum(-1, keepdim=True)


def rows_not_normalised(attention, value, tau, which=slice(None)):
    unit = F.normalize(value, dim=-1)
    return (attention * (unit @ unit.transpose(1, 2) > tau[:, None])).mean(0)


def heads_normalised_first(attention, value, tau, which=slice(None)):
    unit = F.normalize(value, dim=-1)
    kept = attention * (unit @ unit.transpose(1, 2) > tau[:, None])
    return (kept / kept.sum(-1, keepdim=True)).mean(0)


def not_normed(clip, features):
    return clip.visual_projection(features.movedim(0, -1)).movedim(-1, 0)


def no_unit_length(projected, text):
    return torch.einsum("ehw,qe->qhw", projected, text)


def softmax_first(logits, size, scale=40):
    return F.interpolate((scale * logits).softmax(0)[None], tuple(size), mode="bilinear")[0]


def other_scale(logits, size, scale=40):
    return TRUE["name_probabilities"](logits, size, 100)


def summed(chances, owner, classes):
    return torch.stack([chances[owner == c].sum(0) for c in range(classes)])


def no_background(prob, prob_thd=0):
    return prob.argmax(0)


def half_rounded_up(labels, prob, coarse_thresh):
    return TRUE["_half_size"](np.pad(labels, ((0, 1), (0, 1)), "edge"), prob, coarse_thresh)


def nearest_centre(labels, size):
    rows, columns = (((2 * np.arange(m) + 1) * n // (2 * m)) for n, m in zip(labels.shape, size))
    return labels[rows[:, None], columns]


def antialiased_half(labels, prob, coarse_thresh):
    half = F.interpolate(prob[None], [n // 2 for n in labels.shape], mode="bilinear", antialias=True)[0]
    return TRUE["_half_size"](labels, prob, coarse_thresh)[0], half


def never_unsure(labels, prob, coarse_thresh):
    return TRUE["_half_size"](labels, prob, 0)


def four_neighbours(labels, prob, thresh, area):
    true = T.ndimage.label

    class Four:
        find_objects, label = T.ndimage.find_objects, staticmethod(lambda a, structure: true(a))

    try:
        T.ndimage, kept = Four, T.ndimage
        return TRUE["_find_components"](labels, prob, thresh, area)
    finally:
        T.ndimage = kept


def all_areas(labels, prob, thresh, area):
    return TRUE["_find_components"](labels, prob, thresh, 0)


def exclusive_boxes(labels, prob, thresh, area):
    found = TRUE["_find_components"](labels, prob, thresh, area)
    return replace(found, boxes=found.boxes + np.float32([0, 0, 1, 1]))


def centre_points(labels, prob, thresh, area):
    found = TRUE["_find_components"](labels, prob, thresh, area)
    return replace(found, points=found.boxes.reshape(-1, 2, 2).mean(1).round())


def unrounded_scale(size, side):
    return np.array([side / max(size)] * 2)


def weight_one(prob, size, side, thresh, weight=0.005):
    return TRUE["_mask_prompt"](prob, size, side, thresh, 1.0)


def threshold_ignored(prob, size, side, thresh, weight=0.005):
    return TRUE["_mask_prompt"](prob, size, side, 0.0, weight)


def stretched(prob, size, side, thresh, weight=0.005):
    return TRUE["_mask_prompt"](prob, (side, side), side, thresh, weight)


def decoded(faithful=True, **change):
    def decode(sam, embedding, points, boxes, mask, given=True, batch=64):
        return TRUE["_decode_masks"](
            sam,
            embedding,
            change.get("points", lambda p: p)(points),
            change.get("boxes", lambda b: b)(boxes),
            change.get("mask", lambda m: m)(mask),
            faithful,
            batch,
        )

    return decode


def directly(sam, low, tokens, size):
    full = F.interpolate(low[:, None], (sam.image_encoder.img_size,) * 2, mode="bilinear")[
        ..., : tokens.size[0], : tokens.size[1]
    ]
    return F.interpolate(full, tuple(size), mode="bilinear")[:, 0]


def low_to_size(sam, low, tokens, size):
    return F.interpolate(low[:, None], tuple(size), mode="bilinear")[:, 0]


def mean_of_masks(logits, prob):
    return logits.sigmoid().mean(0) * prob * (logits > 0).any(0)


def without_chance(logits, prob):
    return logits.amax(0).sigmoid() * (logits > 0).any(0)


def not_cut(logits, prob):
    return logits.amax(0).sigmoid() * prob


def compete(scores, coarse, prob, failed, faithful=True):
    return TRUE["_merge_masks"](scores, coarse, prob, failed, False)


def scores_not_raised(scores, coarse, prob, failed, faithful=True):
    return TRUE["_merge_masks"](scores, coarse, prob, failed)[0], scores


def coarse_not_put_back(scores, coarse, prob, failed, faithful=True):
    return scores.argmax(0), TRUE["_merge_masks"](scores, coarse, prob, failed)[1]


MUTATIONS = [  # (function, what it becomes, case, check)
    ("resize_linear", pillow_resize, "default", "resize"),
    ("resize_linear", float_resize, "default", "resize"),
    ("resize_linear", float_resize, "default", "sam_image"),
    ("_canvas_size", rounded_up_apart, "city", "canvas_input"),
    ("window_boxes", column_by_column, "default", "windows"),
    ("window_boxes", last_window_not_shifted, "default", "windows"),
    ("dino_pixels", lambda pixels: pixels, "default", "windows"),
    ("_position_table", to_its_size, "default", "positions"),
    ("_position_table", to_its_size, "default", "towers"),
    ("clip_tokens", from_cls, "default", "towers"),
    ("dino_features", without_norm, "default", "towers"),
    ("guiding_attention", mean_per_window, "default", "guide"),
    ("guiding_attention", nothing_cut, "default", "guide"),
    ("guiding_attention", cut_at_zero_cosine, "default", "guide"),
    ("cosine_maps", centred_cosine, "default", "guide"),
    ("guided_values", with_residual, "default", "window_output"),
    ("guided_values", without_bias, "default", "window_output"),
    ("splice", not_averaged, "default", "splice"),
    ("splice", nearest_to_clip_grid, "patch14", "splice"),
    ("sam_image", not_rounded, "default", "sam_image"),
    ("_resize_long", no_antialias, "default", "sam_image"),
    ("_resize_long", torch_antialias, "default", "sam_image"),
    ("sam_tokens", without_positions, "default", "sam_tokens"),
    ("sam_tokens", swapped_positions, "default", "sam_tokens"),
    ("sam_tokens", normalised_again, "default", "sam_tokens"),
    ("sam_tokens", keys_for_values, "default", "sam_tokens"),
    ("row_thresholds", thresholds(mean=lambda c: c.amax(0)), "default", "thresholds"),
    ("row_thresholds", thresholds(always=True), "", "unit_correlation"),
    ("row_thresholds", thresholds(negative=0.0), "", "unit_correlation"),
    ("row_thresholds", thresholds(cap=torch.inf), "", "unit_correlation"),
    ("correlation", threshold_per_head, "default", "correlation"),
    ("correlation", cosine_of_mean_heads, "", "unit_correlation"),
    ("correlation", rows_not_normalised, "", "unit_correlation"),
    ("correlation", heads_normalised_first, "", "unit_correlation"),
    ("project", not_normed, "default", "project"),
    ("name_logits", no_unit_length, "default", "logits"),
    ("name_probabilities", softmax_first, "default", "chances"),
    ("name_probabilities", other_scale, "default", "chances"),
    ("merge_names", summed, "default", "chances"),
    ("coarse_labels", no_background, "default", "coarse"),
    ("_half_size", half_rounded_up, "unit_refinement", "half"),
    ("_half_size", antialiased_half, "default", "half"),
    ("_half_size", never_unsure, "default", "half"),
    ("resize_nearest", nearest_centre, "default", "half"),
    ("_find_components", four_neighbours, "unit_refinement", "components"),
    ("_find_components", all_areas, "default", "components"),
    ("_find_components", exclusive_boxes, "default", "components"),
    ("_find_components", centre_points, "default", "components"),
    ("_prompt_scale", unrounded_scale, "unit_refinement", "prompts"),
    ("_mask_prompt", weight_one, "default", "prompts"),
    ("_mask_prompt", threshold_ignored, "default", "prompts"),
    ("_mask_prompt", stretched, "default", "prompts"),
    ("_decode_masks", decoded(faithful=False), "default", "decoder"),
    ("_decode_masks", decoded(points=lambda p: p + 0.5), "default", "decoder"),
    ("_decode_masks", decoded(boxes=lambda b: b + [0, 0, 1, 1]), "default", "decoder"),
    ("_decode_masks", decoded(mask=lambda m: 0 * m), "default", "decoder"),
    ("_decode_masks", decoded(faithful=False), "unit_refinement", "refined"),
    ("_find_components", exclusive_boxes, "default", "prompts"),
    ("_upscale_masks", directly, "default", "masks"),
    ("_upscale_masks", low_to_size, "default", "masks"),
    ("_class_score", mean_of_masks, "unit_refinement", "merge"),
    ("_class_score", without_chance, "default", "merge"),
    ("_class_score", not_cut, "default", "merge"),
    ("_merge_masks", compete, "default", "merge"),
    ("_merge_masks", scores_not_raised, "default", "merge"),
    ("_merge_masks", coarse_not_put_back, "default", "merge"),
    ("_merge_masks", compete, "default", "refined"),
]


def checked(name, check):
    function = getattr(golden, f"check_{check}")
    function(made(name) if name else FOLDER)


@pytest.mark.parametrize("name, check", sorted({(name, check) for _, _, name, check in MUTATIONS}), ids=str)
def test_trident_parity_holds_before(name, check):
    checked(name, check)


@pytest.mark.parametrize(
    "step, deviation, name, check",
    MUTATIONS,
    ids=[
        f"{step}-{getattr(deviation, '__name__', 'changed')}-{check}-{i}"
        for i, (step, deviation, _, check) in enumerate(MUTATIONS)
    ],
)
def test_trident_parity_would_fail(step, deviation, name, check, monkeypatch):
    if name and name not in (*FOLDER.cases, "unit_refinement"):
        pytest.skip(f"no case {name}")
    monkeypatch.setattr(T, step, deviation)
    with pytest.raises(AssertionError):
        checked(name, check)


def test_trident_parity_would_see_whole_pictures_instead_of_halves(monkeypatch):
    case = FOLDER.case("city")
    case.halves = False
    with pytest.raises(AssertionError):
        golden.check_end_to_end(case)
