"""Reference arrays of every step of Trident, and the checks against them; any folder of the same layout will do (see
its README)."""

import json, os, re
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from unittest import mock
import numpy as np, torch, torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from transformers import CLIPModel, ViTModel
from conftest import ROOT
from rooms import trident as T
from rim.base.settings import Settings
from rim.trident import aggregation

FOLDER = Path(os.environ.get("RIM_GOLDEN") or ROOT.parent / "shared/golden/trident")
LONGEST = 2048  # long side at most, in all cases
MISSING = f"no reference arrays of Trident in {FOLDER}: set RIM_GOLDEN to their folder"
ERRORS = {}  # quantity -> largest error seen, for a report


def note(name, error):
    ERRORS[name] = max(ERRORS.get(name, 0), float(error))


def close(name, ours, theirs, atol, rtol=0.0, outliers=0.0):
    "Every value within tolerance (a number, or one for each value), but for a share of outliers."
    ours, theirs = (np.asarray(a.detach().cpu() if torch.is_tensor(a) else a) for a in (ours, theirs))
    assert ours.shape == theirs.shape, f"{name}: shape {ours.shape}, should be {theirs.shape}"
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    error = np.abs(ours - theirs)
    wrong = ~(error <= atol + rtol * np.abs(theirs))
    note(name, np.quantile(error, 1 - outliers) if outliers and error.size else error.max(initial=0))
    assert wrong.mean() <= outliers if wrong.size else True, (
        f"{name}: {wrong.mean():.2%} of the values are off, by up to {error.max():.2g}"
    )


def equal(name, ours, theirs, share=1.0):
    "Equal values, at least in this share of the places."
    ours, theirs = (np.asarray(a.detach().cpu() if torch.is_tensor(a) else a) for a in (ours, theirs))
    assert ours.shape == theirs.shape, f"{name}: shape {ours.shape}, should be {theirs.shape}"
    differ = (ours != theirs).mean() if ours.size else 0
    note(f"{name} (share that differs)", differ)
    assert differ <= 1 - share + 1e-12, f"{name}: {differ:.4%} differ"


def load_sam_of(folder, side):
    c = json.loads((folder / f"models/sam_{side}.json").read_text())
    encoder = {k: v for k, v in c["image_encoder"].items() if k != "norm_layer"}
    decoder = {k: v for k, v in c["mask_decoder"].items() if k != "transformer"}
    transformer = {k: v for k, v in c["mask_decoder"]["transformer"].items() if k != "type"}
    prompts = {k: tuple(v) if isinstance(v, list) else v for k, v in c["prompt_encoder"].items()}
    sam = Sam(
        ImageEncoderViT(**encoder, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6)),
        PromptEncoder(**prompts),
        MaskDecoder(transformer=TwoWayTransformer(**transformer), **decoder),
        c["pixel_mean"],
        c["pixel_std"],
    )
    sam.load_state_dict(load_file(folder / f"models/sam_{side}.safetensors"))
    return sam.eval().requires_grad_(False)


class Golden:
    "A folder of reference arrays."

    def __init__(self, folder=FOLDER):
        self.folder, self.models, self.images, self.kept = Path(folder), {}, {}, {}
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        self.geometry = json.loads((self.folder / "geometry.json").read_text())
        self.cases = list(self.manifest["cases"])

    def model(self, name):
        if name not in self.models:
            if name.startswith("sam"):
                self.models[name] = load_sam_of(self.folder, name.removeprefix("sam_"))
            else:
                self.models[name] = (
                    (ViTModel if name == "dino" else CLIPModel)
                    .from_pretrained(
                        self.folder / "models" / name, **(dict(add_pooling_layer=False) if name == "dino" else {})
                    )
                    .eval()
                    .requires_grad_(False)
                )
        return self.models[name]

    def image(self, name):
        if name not in self.images:
            self.images[name] = np.array(Image.open(self.folder / f"images/{name}.png").convert("RGB"))
        return self.images[name]

    def arrays(self, name):
        if name not in self.kept:
            self.kept[name] = dict(np.load(self.folder / f"{name}.npz"))
        return self.kept[name]

    def case(self, name):
        return Case(self, name)


class Case:
    """One image through the pipeline: our own arrays step by step, each from the stored ones of the step before where
    these are complete."""

    def __init__(self, golden, name, arrays=None):
        self.golden, self.name = golden, name
        self.config, self.info = golden.manifest["cases"][name]["config"], golden.manifest["cases"][name]["info"]
        self.arrays = arrays or golden.arrays(name)
        c = self.config
        self.image, self.sam, self.dino = golden.image(c["img"]), golden.model(f"sam_{c['sam']}"), golden.model("dino")
        self.clip = golden.model("clip" if c["patch"] == 16 else f"clip_p{c['patch']}")
        self.owner = torch.tensor(c["query_to_class"])
        self.classes = int(self.owner.max()) + 1
        self.halves = "Cityscapes" in c["dataset"]
        self.size = self.image.shape[:2]

    def stored(self, base, half=None):
        "(stored array, how to cut ours the same way) of each array of that name."
        for key, array in self.arrays.items():
            found = re.fullmatch(
                re.escape(base) + r"((?:_(?:w0|[src]\d+|first\d+|rows))*)" + ("" if half is None else f"_half{half}"),
                key,
            )
            if found:
                yield key, array, partial(self.cut, base, found[1].split("_")[1:])

    def cut(self, base, suffixes, a):
        for s in suffixes:
            if s == "w0":
                a = a[0]
            elif s == "rows":
                rows = self.arrays["dino_rows_index" if base.startswith("dino") else "sam_rows_index"]
                a = a[rows] if a.ndim == 2 else a[:, rows]
            elif s.startswith("first"):
                a = a[: int(s[5:])]
            elif s[0] == "c":
                a = a[:: int(s[1:])]
            elif s[0] == "r":
                a = a[:, :: int(s[1:])] if base == "sam_attn" else a[:: int(s[1:])]
            else:
                k = int(s[1:])
                if base == "sam_v":
                    a = a[:, ::k, ::k]
                elif base.endswith("u8"):
                    a = a[::k, ::k]
                else:
                    a = a[..., ::k, ::k]
        return a

    def check(self, base, ours, atol, rtol=0.0, outliers=0.0, half=None):
        "Ours against whatever of it is stored; how many arrays that was."
        n = 0
        for key, theirs, cut in self.stored(base, half):
            allowed = cut(atol) if isinstance(atol, np.ndarray) else atol
            ours = np.asarray(ours.detach() if torch.is_tensor(ours) else ours)
            close(base, cut(ours), theirs, allowed, rtol, outliers)
            n += 1
        return n

    def given(self, base, otherwise, half=None):
        "The complete stored array, else our own."
        key = base if half is None else f"{base}_half{half}"
        return torch.from_numpy(self.arrays[key]) if key in self.arrays else otherwise()

    # our own arrays, in the order of the pipeline

    @cached_property
    def boxes(self):
        c = self.config
        return T.window_boxes(
            [n // c["patch"] for n in self.info["canvas_hw"]], c["crop"] // c["patch"], c["stride"] // c["patch"]
        )

    @cached_property
    def pixels(self):
        return T.clip_canvas(
            T.resize_short(self.image, self.config["S"], LONGEST), self.config["patch"], self.config["crop"]
        )

    @cached_property
    def windows(self):
        return T.cut_windows(self.pixels, self.boxes * self.config["patch"])

    @cached_property
    def tokens(self):
        return T.clip_tokens(self.clip, self.windows)

    @cached_property
    def features(self):
        return T.dino_features(self.dino, T.dino_pixels(self.windows))

    @cached_property
    def cosine(self):
        return T.cosine_maps(self.given("dino_feat", lambda: self.features))

    @cached_property
    def guide(self):
        return T.guiding_attention(self.cosine, self.config["beta"], self.config["gamma"])

    @cached_property
    def maps(self):
        return T.guided_values(self.clip, self.tokens, self.guide)

    @cached_property
    def canvas(self):
        return T.splice(
            self.given("clip_window_out", lambda: self.maps),
            self.boxes,
            [n // self.config["patch"] for n in self.info["canvas_hw"]],
        )

    @cached_property
    def seen(self):
        return T.sam_image(self.image, self.config["patch"])

    @cached_property
    def parts(self):
        middle = self.seen.shape[1] // 2
        return [
            T.sam_tokens(self.sam, part)
            for part in ((self.seen[:, :middle], self.seen[:, middle:]) if self.halves else (self.seen,))
        ]

    @cached_property
    def whole(self):
        return T.sam_tokens(self.sam, self.seen) if self.halves else self.parts[0]

    def factors(self):
        return self.config["cos_fac"], self.config["refine_neg"]

    def pieces(self):
        canvas = self.given("canvas", lambda: self.canvas)
        middle = canvas.shape[2] // 2
        return (canvas[..., :middle], canvas[..., middle:]) if self.halves else (canvas,)

    @cached_property
    def aggregated(self):
        return torch.cat([T.aggregate(t, piece, *self.factors()) for t, piece in zip(self.parts, self.pieces())], 2)

    @cached_property
    def text(self):
        return torch.from_numpy(self.arrays["text_features"])

    @cached_property
    def projected(self):
        whole = self.given("aggregated", lambda: self.aggregated.flatten(1).T)
        return T.project(self.clip, whole.T.unflatten(1, self.aggregated.shape[1:]))

    @cached_property
    def low(self):
        return T.name_logits(
            self.given("projected", lambda: self.projected.flatten(1).T).T.unflatten(1, self.aggregated.shape[1:]),
            self.text,
        )

    def chain(self, shift):
        """Our own arrays from the guiding attention to the logits, with its cut moved: scores below 0 are cut, and
        moving all of a row's scores alike changes nothing else, as they go through a softmax."""
        size = [n // self.config["patch"] for n in self.info["canvas_hw"]]
        guide = T.guiding_attention(self.cosine, self.config["beta"] + shift, self.config["gamma"])
        maps = T.guided_values(self.clip, self.tokens, guide)
        canvas = T.splice(maps, self.boxes, size)
        middle = canvas.shape[2] // 2
        pieces = (canvas[..., :middle], canvas[..., middle:]) if self.halves else (canvas,)
        grids = [F.interpolate(piece[None], t.grid, mode="bilinear")[0] for t, piece in zip(self.parts, pieces)]
        whole = torch.cat([T.aggregate(t, piece, *self.factors()) for t, piece in zip(self.parts, pieces)], 2)
        projected = T.project(self.clip, whole)
        low = T.name_logits(projected, self.text)
        return guide, maps, canvas, grids, whole.flatten(1).T, projected.flatten(1).T, low

    @cached_property
    def cut_ties(self):
        """How far each array of `chain` moves when scores within rounding of the cut fall on its other side: a cosine
        is a sum of d products of float32, and the cut is a mean of such times beta."""
        rounding = 2 * (self.features.shape[1] + 2) * 2.0**-24 / float(self.cosine.mean())
        down, at, up = (self.chain(shift) for shift in (-rounding, 0.0, rounding))
        most = lambda a, b, c: torch.stack([(b - a).abs(), (b - c).abs(), (c - a).abs()]).amax(0).numpy()
        names = "guide", "maps", "canvas", "grids", "aggregated", "projected", "low"
        return {
            name: list(map(most, *parts)) if name == "grids" else most(*parts)
            for name, *parts in zip(names, down, at, up)
        }

    def slack(self, name, *given):
        "Twice what a cut score is worth in an array; nothing where the folder has a complete array on the way to it."
        moved = self.cut_ties[name]
        if any(key in self.arrays for key in given):
            return [0.0 * m for m in moved] if isinstance(moved, list) else 0.0 * moved
        return [2 * m for m in moved] if isinstance(moved, list) else 2 * moved

    def low_at(self, shift):
        "Logits from our own aggregation, with every threshold of the correlation moved."
        own = aggregation.row_thresholds
        with mock.patch.object(aggregation, "row_thresholds", lambda *how: own(*how) + shift):
            parts = [T.aggregate(t, piece, *self.factors()) for t, piece in zip(self.parts, self.pieces())]
        return T.name_logits(T.project(self.clip, torch.cat(parts, 2)), self.text)

    @cached_property
    def ties(self):
        """How far each place's logits move when cosines within rounding of its threshold fall on the other side: a
        cosine is a sum of d products of float32, a threshold a mean of such, so each is off by d + 2 roundings at
        most."""
        rounding = 2 * (self.parts[0].value.shape[-1] + 2) * 2.0**-24
        down, at, up = (self.low_at(shift) for shift in (-rounding, 0.0, rounding))
        return torch.stack([(at - down).abs(), (at - up).abs(), (up - down).abs()]).amax((0, 1))  # [h, w]

    @cached_property
    def chances(self):
        return T.name_probabilities(torch.from_numpy(self.arrays["logits_low"]), self.size, self.config["logit_scale"])

    @cached_property
    def prob(self):
        return T.merge_names(self.chances, self.owner, self.classes)

    @cached_property
    def coarse(self):
        return T.coarse_labels(self.prob, self.config["prob_thd"])

    def thresholds(self):
        return self.config["coarse_thresh"], self.config["minarea"]

    @cached_property
    def half(self):
        return T._half_size(self.arrays["coarse_label"].astype(np.int64), self.prob, self.config["coarse_thresh"])

    @cached_property
    def found(self):
        return T._find_components(self.arrays["refine_label_half"].astype(np.int64), self.half[1], *self.thresholds())

    @cached_property
    def injected(self):
        return replace(self.found, points=self.arrays["comp_point_half_xy"].astype(np.float32))

    @cached_property
    def scale(self):
        return T._prompt_scale(self.half[0].shape, self.sam.image_encoder.img_size)

    @cached_property
    def prompts(self):
        side = self.sam.prompt_encoder.mask_input_size[0]
        return {
            int(c): T._mask_prompt(
                self.half[1][c], self.size, side, self.config["coarse_thresh"], self.config["sam_mask_coff"]
            )
            for c in self.arrays["prompt_mask_class"]
        }

    @cached_property
    def decoded(self):
        return self.decode(self.prompts, self.whole.embedding)

    def decode(self, prompts, embedding):
        "Low-resolution logits and predicted IoUs of all components."
        found = []
        for c, mask in prompts.items():
            own = self.injected.labels == c
            points, boxes = (
                self.injected.points[own] * self.scale,
                self.injected.boxes[own] * [*self.scale, *self.scale],
            )
            if own.any():
                found.append(T._decode_masks(self.sam, embedding, points, boxes, mask))
        return tuple(torch.cat(part) for part in zip(*found))

    @cached_property
    def full(self):
        return T._upscale_masks(
            self.sam, self.decoded[0][torch.from_numpy(self.arrays["comp_kept"])], self.whole, self.size
        )

    @cached_property
    def refined(self):
        return T.refine(
            self.sam,
            self.whole,
            torch.from_numpy(self.arrays["coarse_label"].astype(np.int64)),
            self.prob,
            *self.thresholds(),
            self.config["sam_iou_thresh"],
            self.config["sam_mask_coff"],
            found=self.injected,
        )


class Refinement(Case):
    "The refinement alone, on synthetic probabilities."

    def __init__(self, golden):
        self.golden, self.name = golden, "unit_refinement"
        self.info, self.arrays = golden.manifest["unit_refinement"]["info"], golden.arrays("unit_refinement")
        i = self.info
        self.config = dict(
            coarse_thresh=i["coarse_thresh"],
            minarea=i["minimal_area"],
            sam_iou_thresh=i["sam_iou_thresh"],
            sam_mask_coff=i["sam_mask_coff"],
            patch=16,
        )
        self.image, self.sam, self.halves = golden.image(i["image"]), golden.model(f"sam_{i['sam']}"), False
        self.size, self.classes = (i["H"], i["W"]), i["num_classes"]

    @cached_property
    def prob(self):
        return torch.from_numpy(self.arrays["prob_f16exact"].astype(np.float32))


# checks of a case; each raises where a step disagrees

# Images and places are integers, and equal. The rest is float32, whose sums depend on their order (a share of 2**-24 of
# each term): what a step's own rounding can amount to is its tolerance, and where a value is compared with a threshold,
# what it is worth on either side is added. tests/test_trident_seeds.py asks this of seeds that set none of these.
FEATURE = dict(atol=2e-5, rtol=1e-5)  # after norms, some 1 in size; a few layers, sums of at most 256 terms
LOGIT = 2e-6  # a cosine of 32 terms: 34 * 2**-24
WINDOWS = "dino_feat", "clip_window_out", "canvas"  # complete arrays from which later ones are computed
PROMPT = 2e-7  # of a mask prompt, whose values are at most 0.005


def check_resize(case):
    resized = T.resize_short(case.image, case.config["S"], LONGEST)
    for key, theirs, cut in case.stored("clip_resized_rgb_u8"):
        equal("clip_resized_rgb_u8", cut(resized), theirs)
    if "clip_canvas_norm_s4" in case.arrays and not list(case.stored("clip_resized_rgb_u8")):
        equal("clip_resized_rgb_u8", resized, case.image)


def check_canvas_input(case):
    assert list(case.pixels.shape[1:]) == case.info["canvas_hw"]
    assert case.check("clip_canvas_norm", case.pixels, 2e-5)


def check_windows(case):
    equal("windows", case.boxes, case.arrays["window_patch_yxyx"])
    rows, columns = (len(np.unique(case.boxes[:, i])) for i in (0, 1))
    assert [rows, columns] == case.info["window_grid"]
    case.check("clip_in", case.windows, 2e-5)
    case.check("dino_in", T.dino_pixels(case.windows), 2e-5)


def check_positions(case):
    grids = [(case.config["crop"] // p,) * 2 for p in (case.config["patch"], case.dino.config.patch_size)]
    tables = case.clip.vision_model.embeddings.position_embedding.weight[None], case.dino.embeddings.position_embeddings
    assert all(
        [
            case.check(name, T._position_table(table, grid), 2e-6)
            for name, table, grid in zip(("clip_pos_embed", "dino_pos_embed"), tables, grids)
        ]
    )


def check_towers(case):
    assert case.check("clip_lastblock_ln_in", case.tokens, **FEATURE) and case.check(
        "dino_feat", case.features, **FEATURE
    )


def check_guide(case):
    case.check("dino_cos", case.cosine, (case.features.shape[1] + 2) * 2.0**-24)  # a sum of so many products
    assert abs(float(case.cosine.mean()) - case.info["dino_cos_mean_all_windows"]) < 2e-6
    case.check("dino_attn", case.guide, 2e-6 + case.slack("guide", "dino_cos", "dino_feat"))


def check_window_output(case):
    assert case.check("clip_window_out", case.maps, FEATURE["atol"] + case.slack("maps", "dino_feat"), FEATURE["rtol"])


def check_splice(case):
    slack = case.slack("canvas", "dino_feat", "clip_window_out")
    assert case.check("canvas", case.canvas, FEATURE["atol"] + slack, FEATURE["rtol"])


def check_sam_image(case):
    if "sam_image_u8" in case.arrays:
        equal("sam_image_u8", case.seen, case.arrays["sam_image_u8"])
    assert list(case.seen.shape[:2]) == case.info["sam_calls"][-1]
    inputs = [*(case.parts if case.halves else ()), case.whole]
    assert [list(t.seen) for t in inputs] == case.info["sam_calls"]
    assert [list(t.size) for t in case.parts] == case.info["sam_input_size"][: len(case.parts)] and [
        list(t.grid) for t in case.parts
    ] == case.info["sam_grid"]
    middle = case.seen.shape[1] // 2
    pictures = [case.seen[:, :middle], case.seen[:, middle:], case.seen] if case.halves else [case.seen]
    resized = [T._resize_long(picture, case.sam.image_encoder.img_size) for picture in pictures]
    for i, picture in enumerate(resized):
        if f"sam_resized_u8_{i}" in case.arrays:
            equal("sam_resized_u8", picture, case.arrays[f"sam_resized_u8_{i}"])
    for key, theirs, cut in case.stored("sam_resized_u8"):
        equal("sam_resized_u8", cut(resized[0]), theirs)


def each_part(case):
    return [(i if case.halves else None, part) for i, part in enumerate(case.parts)]


def check_sam_tokens(case):
    for half, part in each_part(case):
        if list(case.stored("sam_attn", half)):
            case.check("sam_attn", part.attention(), 2e-6, half=half)
        if "sam_attn_row_sums" in case.arrays:
            case.check("sam_attn_row_sums", part.attention().sum(-1), 1e-5)
        case.check("sam_v", part.value.unflatten(1, part.grid), 2e-5, half=half)
    case.check("sam_embedding", case.whole.embedding[0], **FEATURE)


def check_thresholds(case):
    for half, part in each_part(case):
        case.check("sam_tau", T.row_thresholds(part.value, *case.factors()), 2e-6, half=half)


def check_correlation(case):
    for half, part in each_part(case):
        for factors, name in ((case.factors(), "M"), ((0, True), "M_cos0_neg1"), ((3, False), "M_cos3_neg0")):
            if not list(case.stored(name, half)):
                continue
            tau = T.row_thresholds(part.value, *factors)
            M = T.correlation(part.attention(), part.value, tau)
            for key, theirs, cut in case.stored(name, half):
                close("M", cut(M), theirs, 2e-6, outliers=1e-5)
            if name == "M" and "M_col_sums" in case.arrays:
                close("M_col_sums", M.sum(0), case.arrays["M_col_sums"], 1e-3, 1e-3)


def check_aggregate(case):
    for half, (tokens, piece) in zip([0, 1] if case.halves else [None], zip(case.parts, case.pieces())):
        allowed = FEATURE["atol"] + case.slack("grids", *WINDOWS)[half or 0]
        grid = F.interpolate(piece[None], tokens.grid, mode="bilinear")[0]
        case.check("canvas_at_sam_grid", grid, allowed, FEATURE["rtol"], half=half)
    allowed = FEATURE["atol"] + case.slack("aggregated", *WINDOWS)
    assert case.check("aggregated", case.aggregated.flatten(1).T, allowed, FEATURE["rtol"])


def check_project(case):
    allowed = FEATURE["atol"] + case.slack("projected", *WINDOWS, "aggregated")
    assert case.check("projected", case.projected.flatten(1).T, allowed, FEATURE["rtol"])


def logits_tolerance(case, *given):
    """Rounding; and where entries of M, or scores of the guiding attention, may fall on either side of their threshold,
    twice what these are worth."""
    return LOGIT + 2 * case.ties.numpy() + case.slack("low", *given)


def check_logits(case):
    given = "projected" in case.arrays  # else from our own aggregation, with its ties
    assert case.check("logits_low", case.low, LOGIT if given else logits_tolerance(case, *WINDOWS, "aggregated"))


def probability_tolerance(case):
    "A softmax moves at most half as far as its scores, and these are logits times a scale."
    return case.config.get("logit_scale", 40) * LOGIT / 2


def check_chances(case):
    full = F.interpolate(torch.from_numpy(case.arrays["logits_low"])[None], case.size, mode="bilinear")[0]
    assert case.check("logits_full", full, LOGIT) and case.check("prob", case.prob, probability_tolerance(case))


def check_coarse(case):
    equal("coarse_label", case.coarse, case.arrays["coarse_label"], 0.9999)


def check_half(case):
    equal("refine_label_half", case.half[0], case.arrays["refine_label_half"], 0.9999)
    case.check("refine_prob_half", case.half[1], probability_tolerance(case))


def check_components(case):
    a, found = case.arrays, case.found
    assert len(found) == len(a["comp_class"]), f"{len(found)} components, should be {len(a['comp_class'])}"
    equal("comp_map", found.map, a["comp_map_half"])
    equal("comp_class", found.labels, a["comp_class"])
    equal("comp_area", found.areas, a["comp_area_half"])
    equal("comp_box", found.boxes, a["comp_box_half_xyxy_incl"])
    clear = a["comp_point_near_ties"] == 0
    equal("comp_point", found.points[clear], a["comp_point_half_xy"][clear])
    x, y = found.points.astype(int).T
    best = case.half[1].numpy()[found.labels, y, x]
    assert (best >= a["comp_top_prob"] - 1e-5).all() and (found.map[y, x] == np.arange(len(found)) + 1).all()
    mean = [case.half[1].numpy()[c][found.map == i].mean() for i, c in enumerate(found.labels, 1)]
    close("comp_mean_prob", np.array(mean), a["comp_mean_prob"], 2e-5)


def check_prompts(case):
    close("prompt_point", case.injected.points * case.scale, case.arrays["prompt_point_xy"], 1e-3)
    close("prompt_box", case.injected.boxes * [*case.scale, *case.scale], case.arrays["prompt_box_xyxy"], 1e-3)
    case.check("prompt_mask", np.stack(list(case.prompts.values())), PROMPT)


def iou_tolerance(case):
    """Four times what IoUs move when mask prompts move by their own tolerance, and the rounding of the rest. The norm
    behind a prompt runs over its height, where it hardly varies, and so makes much of little."""
    draw, moved = torch.Generator().manual_seed(0), []
    for _ in range(4):
        prompts = {c: m + PROMPT * torch.randn(m.shape, generator=draw) * (m > 0) for c, m in case.prompts.items()}
        moved.append((case.decode(prompts, case.whole.embedding)[1] - case.decoded[1]).abs().max())
    return 2e-4 + 4 * float(max(moved))


def check_decoder(case):
    low, iou = case.decoded
    close("sam_pred_iou", iou, case.arrays["sam_pred_iou"], iou_tolerance(case))
    equal("comp_kept", iou > case.config["sam_iou_thresh"], case.arrays["comp_kept"])
    case.check("sam_lowres_logits", low, 1e-3)


def check_masks(case):
    if "kept_masks" not in case.arrays:
        return
    equal("kept_masks", case.full > 0, case.arrays["kept_masks"], 0.9999)
    case.check("kept_sigmoid", case.full.sigmoid(), 1e-3)
    boxes = 2 * case.injected.boxes[case.arrays["comp_kept"]]
    equal("kept_boxes", boxes, case.arrays["kept_boxes_full_xyxy"])


def check_merge(case):
    a, kept = case.arrays, case.arrays["comp_kept"]
    scores = torch.zeros_like(case.prob)
    for c in np.unique(case.injected.labels[kept]):
        scores[c] = T._class_score(case.full[torch.from_numpy(case.injected.labels[kept] == c)], case.prob[c])
    case.check("merged_score", scores, 1e-4, outliers=1e-4)
    equal("merged_label_raw", scores.argmax(0), a["merged_label_raw"], 0.9999)
    failed = T.resize_nearest(np.isin(case.found.map, 1 + np.flatnonzero(~kept)), case.size)
    equal("failed_area", failed, a["failed_area"])
    labels, final = T._merge_masks(scores, a["coarse_label"].astype(np.int64), case.prob, failed)
    equal("label_before_failed", labels, a["label_before_failed"], 0.9999)
    case.check("final_score", final, 1e-4, outliers=1e-4)


def check_refined(case):
    equal("comp_kept", case.refined.kept, case.arrays["comp_kept"])
    equal("final_label, points given", case.refined.labels, case.arrays["final_label"], 0.9999)
    case.check("final_score, points given", case.refined.scores, 1e-4, outliers=1e-4)
    case.check("final_score", case.refined.scores, 1e-4, outliers=1e-4)


COARSE = (
    check_resize,
    check_canvas_input,
    check_windows,
    check_positions,
    check_towers,
    check_guide,
    check_window_output,
    check_splice,
    check_sam_image,
    check_sam_tokens,
    check_thresholds,
    check_correlation,
    check_aggregate,
    check_project,
    check_logits,
    check_chances,
    check_coarse,
)
FINE = (check_half, check_components, check_prompts, check_decoder, check_masks, check_merge, check_refined)

# checks that are no case's


def check_plain(golden):
    a = golden.arrays("plain_forward")
    with torch.no_grad():
        for name, key in (("clip", "clip"), ("clip_p14", "clip14")):
            if f"{key}_pixels" not in a:
                continue
            clip, pixels = golden.model(name), torch.from_numpy(a[f"{key}_pixels"])
            hidden = clip.vision_model(pixels).last_hidden_state
            close("plain_forward", hidden, a[f"{key}_last_hidden"], **FEATURE)
            image = T.project(clip, hidden.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)[:, 0]
            if f"{key}_image_features" in a:
                close("plain_forward", image, a[f"{key}_image_features"], **FEATURE)
        ids = torch.from_numpy(a["clip_text_ids"])
        ours = torch.stack([T._name_vector(golden.model("clip"), row[None]) for row in ids])
        close("plain_forward", ours, F.normalize(torch.from_numpy(a["clip_text_features"]), dim=1), **FEATURE)
        features = T.dino_features(golden.model("dino"), torch.from_numpy(a["dino_pixels"]))
        close("plain_forward", features.flatten(2).transpose(1, 2), a["dino_last_hidden"][:, 1:], **FEATURE)


def check_templates(golden, case):
    ids = torch.from_numpy(case.arrays["template_tokens"].astype(np.int64))
    close(
        "template_ensemble",
        torch.stack([T._name_vector(case.clip, row) for row in ids]),
        case.arrays["template_ensemble"],
        **FEATURE,
    )


def check_unit_correlation(golden):
    a = golden.arrays("unit_correlation")
    for key in (key for key in a if key.startswith("M_")):
        spread, factor, negative = re.fullmatch(r"M_(\w+)_cos([\d.]+)_neg([01])", key).groups()
        value = torch.from_numpy(a[f"v_{spread}"]).flatten(1, 2)
        tau = T.row_thresholds(value, float(factor), negative == "1")
        close("unit tau", tau, a["tau" + key[1:]], 2e-6)
        close("unit M", T.correlation(torch.from_numpy(a["attn"]), value, tau), a[key], 2e-6)


def check_geometry(golden):
    g = golden.geometry
    for h, w, side, *size in g["mm_resize"]:
        assert T.resize_short(np.zeros((h, w, 3), np.uint8), side, LONGEST).shape[:2] == tuple(size), (h, w, side)
    for h, w, patch, crop, *size in g["preprocess"]:
        if min(size) >= crop:
            assert T._canvas_size((h, w), patch, crop) == tuple(size), (h, w, patch)
    for row in g["windows"]:
        boxes = T.window_boxes(
            [row[k] // row["patch"] for k in "hw"], row["crop"] // row["patch"], row["stride"] // row["patch"]
        )
        assert boxes.tolist() == row["yxyx_patches"] and [len(np.unique(boxes[:, i])) for i in (0, 1)] == row["grid"]
    for row in g["sam"]:
        size = row["h"], row["w"]
        seen = T.sam_image(np.zeros((*size, 3), np.uint8), 16)
        assert (
            list(seen.shape[:2]) == row["sam_image"] and list(T._resize_long(seen, 1024).shape[:2]) == row["input_size"]
        )
        prompt = T._mask_prompt(torch.ones([n // 2 for n in size]), size, 256, 0.5, 1.0)
        assert [int((prompt > 0).any(i).sum()) for i in (1, 0)] == row["mask_prompt_valid"]
        assert [round(f * (n // 2)) for f, n in zip(T._prompt_scale([n // 2 for n in size], 1024)[::-1], size)] == row[
            "prompt_frame"
        ]


def settings_of(case):
    "The case's configuration as settings of ours."
    c = case.config
    return Settings.from_profile(
        "paper",
        device="cpu",
        trident_side=c["S"],
        trident_crop=c["crop"],
        trident_stride=c["stride"],
        trident_beta=c["beta"],
        trident_gamma=c["gamma"],
        trident_scale=c["logit_scale"],
        trident_cos_fac=c["cos_fac"],
        trident_refine_neg_cos=c["refine_neg"],
        trident_halves=case.halves,
        trident_prob_thd=c["prob_thd"],
        trident_coarse_thresh=c["coarse_thresh"],
        trident_min_area=c["minarea"],
        trident_mask_weight=c["sam_mask_coff"],
        trident_iou_thresh=c["sam_iou_thresh"],
    )


def check_end_to_end(case):
    "From the image to the labels with nothing given but the names' vectors."
    from rim.method.vocabulary import Vocabulary

    segmenter = T.Trident(settings_of(case), (case.clip, None), case.dino, case.sam)
    background = [f"b{i}" for i in range(int((case.owner == 0).sum()))] if (case.owner == 0).sum() > 1 else []
    vocabulary = Vocabulary(tuple(f"c{i}" for i in range(case.classes - bool(background))), background=bool(background))
    names, owner = T.query_names(vocabulary, background)
    assert owner.tolist() == case.owner.tolist()
    segmenter.vectors[tuple(names)] = case.text
    close(
        "logits_low, end to end",
        segmenter.logits(case.image, case.text),
        case.arrays["logits_low"],
        logits_tolerance(case),
    )
    result = segmenter.predict(case.image, vocabulary, background)
    equal("final_label, end to end", result.labels, case.arrays["final_label"], 0.95)
    assert result.record["components"] == len(case.arrays["comp_class"])
    segmenter.settings = segmenter.settings.replace(trident_refine=False)
    equal(
        "coarse_label, end to end",
        segmenter.predict(case.image, vocabulary, background).labels,
        case.arrays["coarse_label"],
        0.9999,
    )


if __name__ == "__main__":  # the largest error of every quantity
    golden = Golden()
    check_plain(golden)
    check_geometry(golden)
    check_unit_correlation(golden)
    alone = Refinement(golden)
    for check in FINE:
        check(alone)
    for case in map(golden.case, golden.cases):
        for check in (*COARSE, *FINE, check_end_to_end):
            check(case)
        if "template_tokens" in case.arrays:
            check_templates(golden, case)
    for name, error in ERRORS.items():
        print(f"{name:45} {error:.2g}")
