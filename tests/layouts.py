"""Benchmarks in the layouts that they are published in, with random images and all values that may occur."""

from pathlib import Path
import numpy as np, pytest
from PIL import Image
from conftest import ROOT
from rim.measure.sources import SOURCES

KEYS = {
    "voc": "2007_{:06}",
    "context": "2008_{:06}",
    "coco": "{:012}",
    "cityscapes": "ulm/ulm_{:06}_000019",
    "ade20k": "ADE_val_{:08}",
}


def key_of(name, i):
    return next(k for start, k in KEYS.items() if name.startswith(start)).format(i + 1)


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make(name, home, n=3, raw=False, picture=0, label=0, seed=0):
    "Write n items of a benchmark into `home`; values that the label maps hold, by key."
    source, rng, values = SOURCES[name], np.random.default_rng(seed), {}
    patterns, table = (source.raw, source.raw_values) if raw else (source.labels, source.values)
    for i in range(n):
        key, size = key_of(name, i), rng.integers(8, 24, 2)
        values[key] = rng.choice(np.flatnonzero(table >= 0), size).astype(np.uint8)
        save(rng.integers(0, 255, (*size, 3), dtype=np.uint8), home / source.pictures[picture].format(key))
        save(values[key], home / patterns[label].format(key))
    if source.split:
        (home / source.split).parent.mkdir(parents=True, exist_ok=True)
        (home / source.split).write_text("".join(f"{key}\n" for key in values))
    return values


def real():
    "The folder of real pairs beside the checkout; the test is skipped where it isn't."
    found = next((p / "shared/data" for p in ROOT.parents if (p / "shared/data/SOURCES.md").is_file()), None)
    if not found:
        pytest.skip("the real pairs (shared/data beside the checkout) are not here")
    return found
