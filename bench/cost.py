"""How cost grows: matching with classes, agents and proposals, label maps with the image, generation with the images
per class."""

import numpy as np, torch
from rim.measure.metrics import confusion
from rim.models.loading import load_diffusion
from rim.method.references import References
from rim.method.regions import paint
from rim.method.segmenter import match_features
from rim.base.settings import Settings
from rim.method.synthesis import synthesise
from bench.harness import Row, alternate

WIDTH, SUBCATEGORIES = 768, 8  # of DINOv2 ViT-B/14; T
WATCHED, LIMIT = (21, 171), "at most 1 ms on an H200"  # classes of Pascal VOC with background and of COCO-Stuff


def matching(settings, proposals, classes, device):
    "Milliseconds to match the regions of one image; the references' Gram matrix is there already."
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, WIDTH, generator=g).abs()
    prototypes = (
        centres.repeat_interleave(SUBCATEGORIES, 0) + 0.3 * torch.randn(classes * SUBCATEGORIES, WIDTH, generator=g)
    ).to(device)
    references = References(
        centres.to(device), prototypes, torch.arange(classes).repeat_interleave(SUBCATEGORIES).to(device), SUBCATEGORIES
    )
    features = (
        centres[torch.randint(classes, (proposals,), generator=g)] + 0.5 * torch.randn(proposals, WIDTH, generator=g)
    ).to(device)
    references.gram
    return alternate([lambda: match_features(features, references, settings)], rounds=5, seconds=2, device=device)[0]


def labelling(side):
    "Milliseconds to paint 64 masks and to count the confusions."
    rng = np.random.default_rng(0)
    masks = np.zeros((64, side, side), bool)
    for mask, (top, left), size in zip(masks, rng.integers(0, side // 2, (64, 2)), rng.integers(8, side // 2, 64)):
        mask[top : top + size, left : left + size] = True
    labels, scores = rng.integers(0, 21, 64), rng.random(64).astype(np.float32)

    def work():
        canvas = paint(masks, labels, scores, (side, side), "area")
        confusion(np.where(canvas < 0, 0, canvas), np.zeros((side, side), np.uint8), 21)

    return alternate([work], rounds=5, seconds=2)[0]


def painting(settings, pipeline, n, device):
    items = [(settings.prompt.format("boat"), "boat", k) for k in range(n)]
    return alternate([lambda: list(synthesise(pipeline, items, settings))], rounds=1, least=1, device=device, turn=0)[0]


def run(
    device="cpu",
    classes=(10, 21, 100, 171, 1000),
    agents=(2, 4, 8, 12),
    proposals=(16, 64, 256),
    sides=(128, 512, 1024),
    images=(1, 4, 16),
):
    settings = Settings.from_profile("paper", device=device)

    def row(what, name, value, time, size, **more):
        return Row(f"cost of {what}", f"{name} = {value}, {size}", time, point={name: value}, **more)

    for n in classes:
        yield row(
            "matching",
            "classes",
            n,
            matching(settings, 64, n, device),
            "64 proposals",
            target=LIMIT if n in WATCHED and device == "cuda" else "",
        )
        if n in WATCHED and device != "cuda":
            yield Row("cost of matching", f"classes = {n}, 64 proposals, on a GPU", None, target=LIMIT)
    for n in agents:
        yield row(
            "matching", "agents", n, matching(settings.replace(agents=n), 64, 21, device), "64 proposals, 21 classes"
        )
    for n in proposals:
        yield row("matching", "proposals", n, matching(settings, n, 21, device), "21 classes")
    for n in sides:
        yield row("label map and confusion", "side", n, labelling(n), "64 proposals")
    toybox = Settings.from_profile("toybox", device=device)
    pipeline = load_diffusion(toybox)
    for n in images:
        yield row("painting, toybox", "images", n, painting(toybox, pipeline, n, device), "64 px, 25 steps")
