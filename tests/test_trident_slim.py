"""Trident, step by step, against a slim set of arrays of its published implementation that every clone has."""

import pytest
import torch
import trident_golden as golden
from conftest import ROOT
from rooms import trident as T

FOLDER = ROOT / "tests/golden/trident"


@pytest.fixture(scope="module")
def arrays():
    return golden.Golden(FOLDER)


@pytest.fixture(scope="module")
def case(arrays):
    return arrays.case("voc20")


def of(check):
    return check.__name__.removeprefix("check_")


def test_the_set_stays_slim():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 2_500_000


@pytest.mark.parametrize("check", [golden.check_geometry, golden.check_unit_correlation], ids=of)
def test_a_part_alone(check, arrays):
    check(arrays)


@pytest.mark.parametrize("check", golden.COARSE + golden.FINE, ids=of)
def test_every_step(check, case):
    check(case)


def test_from_the_image_to_the_labels(case):
    golden.check_end_to_end(case)


def test_a_threshold_that_is_one_percent_off_is_noticed(arrays, monkeypatch):
    true = T.row_thresholds
    monkeypatch.setattr(T, "row_thresholds", lambda *args: true(*args) * 1.01)
    with pytest.raises(AssertionError, match="unit tau"):
        golden.check_unit_correlation(arrays)


def test_windows_that_forget_their_neighbours_are_noticed(arrays, monkeypatch):
    true = T.guiding_attention
    each = lambda cosine, beta, gamma: torch.cat([true(c[None], beta, gamma) for c in cosine])
    monkeypatch.setattr(T, "guiding_attention", each)
    with pytest.raises(AssertionError, match="clip_window_out"):
        golden.check_window_output(arrays.case("voc20"))
