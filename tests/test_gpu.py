"""What a CUDA device computes beside the CPU, on the toybox's small models: `pytest --gpu -m gpu`.

Skipped, with the reason, where torch sees no such device; there tests/test_fake_cuda.py checks sizes, dtypes and
devices.
Tolerances are of float32 sums in another order, with TF32 switched off: a thousandth of the largest value."""

import numpy as np
import pytest
import torch

from rim.base.settings import Settings
from rim.method.matcher import Matcher
from rim.method.pooling import pool, pool_complement
from rim.method.ranking import pairwise_ranking_similarity
from rim.method.references import References
from rim.method.segmenter import RIM, match_features
from rim.method.synthesis import synthesise
from rim.method.tools import Tools
from rim.models.fast_sam import PointDecoder
from rim.toybox.world import World
from rim.trident.trident import Trident

pytestmark = [pytest.mark.gpu, pytest.mark.weights]
DEVICE = "cuda"
NAMES = "boat, fish, house"


@pytest.fixture(scope="module", autouse=True)
def precise():
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device here, so nothing was compared with one")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def image():
    return World().scene(1_000_013).image


def both(**changes):
    "The toybox's settings on the CPU and on the device."
    return [Settings.from_profile("toybox", device=device, **changes) for device in ("cpu", DEVICE)]


def close(ours, theirs, share=1e-3):
    ours, theirs = (torch.as_tensor(x).double().cpu() for x in (ours, theirs))
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= share * theirs.abs().max().clamp(min=1e-6)


@pytest.mark.parametrize("feature", ["dino", "clip", "mae", "sd"])
def test_encoders(feature, image):
    cpu, gpu = (Tools(settings).region_encoder.features(image) for settings in both(feature=feature, fusion=""))
    assert gpu.device.type == DEVICE
    close(gpu, cpu)


@pytest.fixture(scope="module")
def sams():
    return [Tools(settings).proposer.predictor.model for settings in both()]


def test_the_fast_decoder(sams, image):
    found = []
    for sam in sams:
        with torch.no_grad():
            pixels = torch.as_tensor(image, device=sam.device).permute(2, 0, 1)[None]
            decoder = PointDecoder(sam)
            decoder.look(sam.image_encoder(sam.preprocess(pixels)))
            tokens, places = decoder.tokens(torch.tensor([[5.0, 9.0], [30.0, 31.0], [50.0, 12.0]], device=sam.device))
            found.append((decoder.ious(tokens), decoder.logits(tokens, places)))
    for ours, theirs in zip(*reversed(found)):
        close(ours, theirs)


def test_proposals(image):
    cpu, gpu = (Tools(settings).proposer.proposals(image) for settings in both())
    inside = np.logical_and(cpu.masks[:, None], gpu.masks[None]).sum((2, 3))
    either = np.logical_or(cpu.masks[:, None], gpu.masks[None]).sum((2, 3))
    assert len(cpu) > 5 and abs(len(cpu) - len(gpu)) <= 1  # one may lie at a threshold
    assert np.sort((inside / either).max(1))[1:].min() > 0.95


def test_pooling():
    grid, masks = torch.randn(24, 16, 12), np.random.default_rng(0).random((9, 64, 48)) > 0.7
    for how in (pool, pool_complement):
        for ours, theirs in zip(how(grid.to(DEVICE), masks), how(grid, masks)):
            assert ours.device.type == DEVICE
            close(ours, theirs, 1e-5)


def test_rankings_and_matches():
    draw = torch.Generator().manual_seed(0)
    own, theirs = torch.rand(20, 4, generator=draw) + 0.1, torch.rand(20, 30, 4, generator=draw) + 0.1
    close(
        pairwise_ranking_similarity(own.to(DEVICE), theirs.to(DEVICE)), pairwise_ranking_similarity(own, theirs), 1e-5
    )
    classes, prototypes, features = (torch.randn(n, 32, generator=draw) for n in (10, 40, 50))
    settings = both()[0]
    found = [
        match_features(
            features.to(device),
            References(*(x.to(device) for x in (classes, prototypes, torch.arange(10).repeat_interleave(4))), 4),
            settings,
        )
        for device in (DEVICE, "cpu")
    ]
    assert (found[0].labels == found[1].labels).mean() >= 0.98 and np.array_equal(found[0].agents, found[1].agents)
    close(found[0].scores, found[1].scores, 1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_capture(compiled):
    "Noise is drawn on the CPU, so that images are the same to rounding; two steps keep it small."
    items = [("a photo of a boat", "boat", 0), ("a photo of a fish", "fish", 1)]
    cpu, gpu = both(denoising_steps=2, redraws=0, synthesis_batch=2)
    cpu, gpu = (
        list(synthesise(Tools(settings).pipeline, items, settings)) for settings in (cpu, gpu.replace(compile=compiled))
    )
    for ours, theirs in zip(gpu, cpu):
        assert (ours.name, ours.seed) == (theirs.name, theirs.seed)
        close(ours.attention, theirs.attention, 1e-2)
        assert np.abs(ours.image.astype(int) - theirs.image).max() <= 2


@pytest.mark.parametrize("kind", [RIM, Matcher])
def test_label_maps(kind, image):
    cpu, gpu = (kind(settings).segment(image, NAMES).labels for settings in both())
    assert (cpu == gpu).mean() > 0.99


def test_trident(image):
    cpu, gpu = (Trident(settings).segment(image, NAMES).labels for settings in both())
    assert (cpu == gpu).mean() > 0.99


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_runs_and_is_finite(dtype, image):
    settings = Settings.from_profile("toybox", device=DEVICE, dtype=dtype)
    regions = RIM(settings).analyse(image)
    assert len(regions) > 5 and torch.isfinite(regions.features).all() and torch.isfinite(regions.grid).all()
