"""Tables do not depend on who has filled the store: what is held to an arithmetic takes only what was made with it."""

import os, subprocess, sys
from types import SimpleNamespace
import numpy as np, pytest, torch
from rim.base import arithmetic
from rim.base.arithmetic import required_arithmetic, arithmetic_in_use, steady
from rim.base.settings import Settings
from rim.base.store import Store, _pack, _unpack
from rim.method.proposals import Proposals
from rim.method.regions import Analyser

AVX2 = dict(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2", MKL_CBWR="AVX2")
OTHER = dict(AVX2, MKL_CBWR="COMPATIBLE")
KEY, ARRAYS = dict(name="boat"), dict(features=np.arange(4, dtype=np.float32))


@pytest.fixture
def free(monkeypatch):
    "A process that is held to nothing; call it with variables to hold it."
    names = [*arithmetic._STEADY]

    def hold(variables):
        for name in names:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    hold({})
    return hold


@pytest.mark.parametrize("writer", [{}, AVX2, OTHER])
@pytest.mark.parametrize("reader", [{}, AVX2, OTHER])
def test_who_is_held_takes_only_what_was_made_so(tmp_path, free, writer, reader):
    store = Store(tmp_path)
    free(writer)
    store.put("analysis", KEY, ARRAYS)
    free(reader)
    assert (store.get("analysis", KEY) is not None) == (not reader or reader == writer)
    store.put("analysis", KEY, ARRAYS)
    assert store.get("analysis", KEY) is not None, "what it then writes itself is there"
    assert [wrong for _, wrong in store.verify()] == [None] and [key for _, key, _ in store.list("analysis")] == [KEY]


@pytest.mark.parametrize("name", arithmetic._STEADY)
def test_each_variable_counts(free, name):
    free(AVX2)
    before = arithmetic_in_use()
    free(AVX2 | {name: "another"})
    assert arithmetic_in_use() == required_arithmetic() != before


def test_a_gpu_counts_whatever_the_processor_is_held_to(tmp_path, free, monkeypatch):
    store = Store(tmp_path)
    monkeypatch.setattr(arithmetic, "_gpu", lambda: "a card")
    store.put("analysis", KEY, ARRAYS)
    free(AVX2)
    assert arithmetic_in_use() == required_arithmetic() == "a card" and store.get("analysis", KEY) is not None
    monkeypatch.setattr(arithmetic, "_gpu", lambda: "")
    assert store.get("analysis", KEY) is None
    free({})
    assert store.get("analysis", KEY) is not None


def test_who_is_held_to_nothing_writes_the_files_that_it_always_has(free):
    assert _pack(KEY, ARRAYS, {}) == _pack(KEY, ARRAYS, {}, arithmetic_in_use()) != _pack(KEY, ARRAYS, {}, "AVX2")


def test_every_flipped_bit_is_found_in_what_it_was_made_with():
    data = _pack(KEY, ARRAYS, {}, "MKL_CBWR=AVX2")
    for bit in range(8 * data.index(b"made"), 8 * (data.index(b"made") + 40)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):
            _unpack(bytes(flipped), KEY)


def test_features_of_another_arithmetic_do_not_reach_a_held_process(tmp_path, free):
    "The same image, settings and weights; a store that a process has filled whose last bits are others."

    one = np.ones(1, np.float32)
    found = Proposals(np.ones((1, 8, 8), bool), np.array([[0, 0, 8, 8]], np.float32), one, one)
    proposer = SimpleNamespace(proposals=lambda image: found, key={"name": "mine"})

    def tools(bit):
        grid = torch.full((2, 4, 4), 0.5) + bit
        encoder = SimpleNamespace(features=lambda image: grid, key={"name": "mine"})
        given = dict(proposer=proposer, encoder=encoder)
        return SimpleNamespace(given=given, region_proposer=proposer, region_encoder=encoder)

    image, settings = np.zeros((8, 8, 3), np.uint8), Settings.from_profile("toybox", device="cpu")
    features = lambda bit: Analyser(settings, tools(bit), Store(tmp_path)).analyse(image).features
    last = 2**-23
    ours = features(last)
    assert torch.equal(features(0), ours), "held to nothing it takes what is there"
    free(AVX2)
    assert not torch.equal(features(0), ours) and torch.equal(features(last), features(0))


CHILD = """
import sys
from rim.apps import cli
from rim.apps import cli_evaluate, cli_segment
assert not {"numpy", "torch"} & set(sys.modules), "the command line imports nothing that computes"
from rim.base.arithmetic import arithmetic_in_use, hold, required_arithmetic
hold()
import torch
print(torch.backends.cpu.get_cpu_capability(), arithmetic_in_use() == required_arithmetic() != "")
"""


@pytest.mark.skipif(not steady(), reason="a processor without AVX2")
def test_a_command_that_measures_is_held_before_anything_computes():
    environment = {k: v for k, v in os.environ.items() if k not in arithmetic._STEADY}
    done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["AVX2", "True"], done.stderr
