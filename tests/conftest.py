"""What all tests share: one thread per process, seeds, tiny inputs, and the flags that skip what is slow or needs more
than a laptop."""

import os, signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background job, and in what it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before numpy and torch are imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing downloads unasked, least of all a test

import itertools
from pathlib import Path
import hypothesis, numpy as np, pytest

hypothesis.settings.register_profile(
    "rim", deadline=None, derandomize="CI" in os.environ
)  # a busy machine is no failure, and CI looks where it looked before
hypothesis.settings.load_profile("rim")

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "rim" / "toybox" / "weights"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes")
    parser.addoption("--photo", action="store_true", help="run the tests of the trained weights of the profile photo")
    parser.addoption("--gpu", action="store_true", help="run the tests that need a CUDA device")


def pytest_collection_modifyitems(config, items):
    weights = all((WEIGHTS / name).is_dir() for name in ("diffusion", "sam", "dino", "clip"))
    reasons = dict(
        slow=not config.getoption("--slow") and "slow: run with --slow",
        photo=not config.getoption("--photo") and "trained weights: run with --photo, or make test-photo",
        gpu=not config.getoption("--gpu") and "needs a GPU: run with --gpu",
        weights=not weights and "the toybox weights are not in rim/toybox/weights",
    )
    for item in items:
        for mark, reason in reasons.items():
            if reason and mark in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


numbers = itertools.count()


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory, monkeypatch):
    "No test reads or writes the user's store, settings, models or data."
    # without mktemp, which looks at all folders of the tests before to find the next number
    monkeypatch.setenv("RIM_STORE", str(tmp_path_factory.getbasetemp() / f"stores/{next(numbers)}"))
    for variable in ("RIM_MODELS", "RIM_DATA"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def root():
    "Root of the repository."
    return ROOT


@pytest.fixture
def rng():
    "A seeded numpy generator."
    return np.random.default_rng(0)


@pytest.fixture
def tiny_image(rng):
    "uint8 [24, 32, 3]: a red square on noise."
    image = rng.integers(0, 80, (24, 32, 3), dtype=np.uint8)
    image[6:16, 8:20] = 220, 30, 30
    return image


@pytest.fixture
def tiny_masks():
    "bool [3, 24, 32]: everything, the square, its upper half."
    masks = np.zeros((3, 24, 32), bool)
    masks[0], masks[1, 6:16, 8:20], masks[2, 6:11, 8:20] = True, True, True
    return masks


@pytest.fixture
def figure(request):
    "Keeps what a slow test measured, for the page of promises."

    def keep(text):
        import json, time
        from promises import MEASURED, measured
        from rim.reproduce.provenance import machine

        here, test = machine(), f"{request.path.name}::{request.node.originalname}"
        kept = measured() | {
            test: dict(
                figure=text, machine=f"{here['processor']}, {here['cores']} cores", date=time.strftime("%Y-%m-%d")
            )
        }
        MEASURED.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    return keep
