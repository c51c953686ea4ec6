"""The paper profile's tensors on a CUDA device that isn't there: sizes, dtypes and devices, in three precisions."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda, fake_cuda

from rim.base.settings import Settings
from rim.measure.agreement import _Plain, _in_precision
from rim.method.bank import ReferenceBank
from rim.method.crops import ClipCrops
from rim.method.matcher import Matcher
from rim.method.pooling import pool, pool_complement
from rim.method.proposals import Proposer, QueryProposer, foreground_mask
from rim.method.references import References, make_references
from rim.method.segmenter import RIM, match_features
from rim.method.synthesis import synthesise
from rim.method.tools import Tools
from rim.method.vocabulary import Vocabulary
from rim.models.loading import load_clip, load_maskformer, load_sam
from rim.trident.trident import Trident

IMAGE = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
CLASSES = 81  # of COCO-Object


@dataclass
class Card:
    "A device in one precision, its models loaded once."

    dtype: str
    mode: FakeCuda = field(default_factory=FakeCuda)
    kept: dict = field(default_factory=dict)

    @cached_property
    def settings(self):
        return Settings.from_profile(
            "paper", pretrained=False, device="cuda", dtype=self.dtype, denoising_steps=2, redraws=0
        )

    def tools(self, feature="dino"):
        if feature not in self.kept:
            self.kept[feature] = Tools(self.settings.replace(feature=feature))
        return self.kept[feature]

    @property
    def sam(self):
        return self.tools().proposer.predictor.model


OTHERS = [pytest.param(dtype, marks=pytest.mark.slow) for dtype in ("float32", "float16")]  # numpy has both


@pytest.fixture(scope="module", params=["bfloat16", *OTHERS])
def held(request):
    return Card(request.param)


@pytest.fixture
def card(held):
    held.mode.clear()
    with fake_cuda(held.mode):
        yield held


def is_like(tensor, shape, dtype=torch.float32, device="cuda"):
    return (tuple(tensor.shape), tensor.dtype, tensor.device.type) == (shape, dtype, device)


def splits(card):
    return {f"{where}: {what}" for where, what in card.mode.splits}


def test_synthesis_with_capture(card):
    "Eight images of 512 x 512 in a batch, guidance and all sixteen layers captured."
    pipeline = card.tools("sd").pipeline
    assert next(pipeline.unet.parameters()).dtype == getattr(torch, card.dtype)
    made = list(synthesise(pipeline, [("a photo of dog", "dog", k) for k in range(8)], card.settings))
    assert [r.image.shape for r in made] == [(512, 512, 3)] * 8 and {r.image.dtype for r in made} == {np.dtype("uint8")}
    assert {r.attention.shape for r in made} == {(64, 64)} and made[0].attention.dtype == np.float32
    assert splits(card) == {
        "synthesis._denoise: a number",  # the scheduler's steps, on the CPU
        "synthesis._decode: an array",
        "synthesis.generate: an array",
    }
    assert card.mode.waits == {"synthesis._decode": 1, "synthesis.generate": 1}  # none while there are steps to go


@pytest.mark.parametrize(
    "feature, dim, patch", [("dino", 768, 14), ("clip", 768, 16), ("mae", 768, 16), ("sd", 1280, 16)]
)
def test_encoders(card, feature, dim, patch):
    tools = card.tools(feature)
    side = round(518 / patch)
    if feature != "sd":  # its two ways are the same network
        assert is_like(tools.region_encoder.features(IMAGE), (dim, round(side * 0.75), side))
    assert is_like(tools.encoder.batch([IMAGE[:, :480]] * 4), (4, dim, side, side))
    assert not card.mode.splits and not card.mode.waits


def test_clip_crops_and_sentences(card):
    crops = ClipCrops(*load_clip(card.settings), card.settings.clip_side)
    assert is_like(crops.images([IMAGE[:100, :80]] * 70), (70, 512))
    with pytest.raises(ValueError, match="77 tokens"):
        crops.texts(["a photo of a dog" * 30])
    assert is_like(crops.texts(["a photo of a dog"] * 5), (5, 512))
    assert not card.mode.splits


def test_the_fast_decoder(card):
    "1024 points; what survives the thresholds is stand-in data."
    found = card.tools().proposer.proposals(IMAGE)
    assert found.masks.shape == (8, 480, 640) and found.boxes.shape == (8, 4)
    assert splits(card) == {
        "fast_sam.__init__: an array",
        "fast_sam._blocks: an array",
        "fast_sam._count: an array",
        "fast_sam._to_host: an array",
        "proposals.candidates: places",
        "proposals._stable: places",
        "proposals.decode: places",
        "proposals.decode: an array",
    }
    pieces = 1024 // card.settings.points_per_batch
    assert sum(card.mode.waits.values()) <= 3 * pieces + 8  # each piece: what passes, its box, what is stable


def test_pooling(card):
    with_masks = torch.randn(768, 28, 37, device="cuda"), np.ones((50, 480, 640), bool)
    for how in (pool, pool_complement):
        vectors, valid = how(*with_masks)
        assert is_like(vectors, (50, 768)) and is_like(valid, (50,), torch.bool)
    assert not card.mode.waits


def test_foreground_masks(card):
    mask, how = foreground_mask(card.tools().proposer, IMAGE, np.ones((64, 64), np.float32), card.settings, 0)
    assert mask.shape == (480, 640) and mask.dtype == bool and how == "sam"
    assert splits(card) == {
        "proposals.attention_mask: an array",
        "proposals.foreground: places",
        "proposals.foreground: an array",
    }


def test_mask_former(card):
    found = QueryProposer(load_maskformer(card.settings), card.settings).proposals(IMAGE)
    assert found.masks.shape == (8, 480, 640)


def test_references_in_batches(card):
    "Images, masks and features of a batch of references."
    settings = card.settings.replace(images_per_class=2, synthesis_batch=2, denoising_steps=1)
    tools = Tools(settings, card.tools().proposer, card.tools().encoder)
    tools.pipeline = card.tools("sd").pipeline
    made = [arrays for *_, arrays, _ in make_references(Vocabulary.of("dog"), tools, progress=False)]
    assert len(made) == 2
    assert {a[part].shape for a in made for part in ("foreground", "background", "whole")} == {(768,)}


@pytest.mark.parametrize("change", [{}, {"agent_choice": "random"}, {"candidates": "agents"}, {"ranking": "softmax"}])
def test_matching(card, change):
    references = References(
        torch.randn(CLASSES, 768, device="cuda"),
        torch.randn(8 * CLASSES, 768, device="cuda"),
        torch.arange(CLASSES, device="cuda").repeat_interleave(8, output_size=8 * CLASSES),
        8,
    )
    found = match_features(torch.randn(100, 768, device="cuda"), references, card.settings.replace(**change))
    assert found.order.shape == (100, CLASSES) and found.agents.shape == (100, 4)


def test_analysis(card):
    "An image's regions the fast way, with the decoder in this precision and the rest in float32."
    float32 = card.settings.replace(dtype="float32", points_per_side=16)
    if "float32" not in card.kept:
        card.kept["float32"] = RIM(float32, Proposer(load_sam(float32), float32))
    fast = _in_precision(card.kept["float32"], card.dtype).analyse(IMAGE)
    assert is_like(fast.features, (8, 768), device="cpu") and is_like(fast.grid, (768, 28, 37), device="cpu")


def test_the_plain_way_that_agreement_compares_with(card):
    if card.dtype != "float32":
        pytest.skip("the plain way is float32 always")
    few = card.settings.replace(points_per_side=4)
    plain = _Plain(RIM(few, Proposer(card.sam, few)))
    assert is_like(plain.analyse(IMAGE).features, (8, 768), device="cpu")


def test_the_photo_profile(card):
    "MobileSAM, two stages of an EfficientNet, the matcher; a bank of random vectors in place of the shipped one."
    settings = Settings.from_profile("photo", pretrained=False, device="cuda", dtype=card.dtype)
    matcher = Matcher(settings)
    regions = matcher.analyse(IMAGE)
    dim = regions.features.shape[1]
    assert is_like(regions.features, (8, dim), device="cpu") and is_like(regions.grid, (dim, 15, 20), device="cpu")
    draw = np.random.default_rng(0).normal(size=(5 * CLASSES, dim)).astype(np.float32)
    shown = dict(owner=np.zeros(0, int), image=np.zeros((0, 8, 8, 3), np.uint8), mask=np.zeros((0, 8, 8), np.uint8))
    names = tuple(f"thing {i}" for i in range(CLASSES))
    bank = ReferenceBank(names, np.arange(CLASSES).repeat(5), draw, -draw, draw, shown, {})
    card.mode.clear()
    found = matcher.match(regions, bank)
    assert found.order.shape == (8, CLASSES + 1)
    assert matcher.label_pixels(regions, found, bank, IMAGE.shape[:2])[0].shape == IMAGE.shape[:2]
    assert not card.mode.waits  # vectors are compared on the CPU


LARGE = pytest.param("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", marks=pytest.mark.slow)


@pytest.mark.parametrize("clip", ["openai/clip-vit-base-patch16", LARGE])
def test_trident(card, clip):
    if "H-14" in clip and card.dtype != "bfloat16":
        pytest.skip("the large tower is tried in one precision")
    found = Trident(card.settings.replace(clip=clip), sam=card.sam).segment(IMAGE, "dog, cat", ())
    assert found.labels.shape == (480, 640) and found.record["components"] == found.record["kept"]
    assert splits(card) == {
        "aggregation.correlation: a number",
        "refinement.merge_names: places",
        "refinement._half_size: an array",
        "refinement._find_components: an array",
        "refinement._decode_masks: places",
        "refinement.refine: a number",
        "refinement.refine: places",
        "refinement.refine: an array",
        "trident._sharpen: a number",
        "trident.predict: an array",
        "trident._label_regions: an array",
    }
    assert not card.mode.waits["refinement.merge_names"]  # names are sorted out on the CPU


def test_what_fails_on_a_gpu_fails_here(card):
    "Injected faults: a tensor that stayed behind, a layer of another precision, an array of what can't be one."
    half = torch.ones(4, 8, device="cuda", dtype=torch.float16)
    linear, conv = torch.nn.Linear(8, 8, device="cuda"), torch.nn.Conv2d(8, 8, 1, device="cuda")
    with pytest.raises(Exception, match="device"):
        half + torch.ones(4, 8)
    with pytest.raises(Exception, match="(?i)mixes|dtype"):
        linear(half)
    with pytest.raises(Exception, match="(?i)mixes|type"):
        conv(half.view(1, 8, 2, 2))
    with pytest.raises(Exception, match="(?i)mixes|dtype"):
        half @ torch.ones(8, 8, device="cuda")
    with pytest.raises(TypeError, match="cuda"):
        half.numpy()
    with pytest.raises(TypeError, match="bfloat16"):
        half.cpu().bfloat16().numpy()
