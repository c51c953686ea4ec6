"""Trident, step by step, against arrays that its published implementation computed; the folder is named by
RIM_GOLDEN."""

import warnings
import pytest
import trident_golden as golden

HERE = golden.FOLDER.is_dir()
if not HERE:
    warnings.warn(golden.MISSING)
pytestmark = pytest.mark.skipif(not HERE, reason=golden.MISSING)
FOLDER = golden.Golden() if HERE else None
NAMES = FOLDER.cases if HERE else ["default"]


@pytest.fixture(scope="module")
def cases():
    return {name: FOLDER.case(name) for name in NAMES}


@pytest.fixture(scope="module")
def alone():
    return golden.Refinement(FOLDER)


def of(check):
    return check.__name__.removeprefix("check_")


def test_trident_parity_plain_forward():
    golden.check_plain(FOLDER)


def test_trident_parity_geometry():
    golden.check_geometry(FOLDER)


def test_trident_parity_unit_correlation():
    golden.check_unit_correlation(FOLDER)


@pytest.mark.parametrize("check", golden.FINE, ids=of)
def test_trident_parity_unit_refinement(check, alone):
    check(alone)


@pytest.mark.parametrize("check", golden.COARSE + golden.FINE, ids=of)
@pytest.mark.parametrize("name", NAMES)
def test_trident_parity_step(name, check, cases):
    check(cases[name])


@pytest.mark.parametrize("name", NAMES)
def test_trident_parity_templates(name, cases):
    if "template_tokens" in cases[name].arrays:
        golden.check_templates(FOLDER, cases[name])


@pytest.mark.parametrize("name", NAMES)
def test_trident_parity_end_to_end(name, cases):
    golden.check_end_to_end(cases[name])
