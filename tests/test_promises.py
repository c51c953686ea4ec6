"""The page of promises is what the tests say, and no promise is without a test."""

import pytest
from promises import PAGE, PROMISES, held, measured, page


@pytest.mark.parametrize("number", PROMISES)
def test_a_promise_is_held_by_a_test_of_every_run(number):
    assert not all(held()[number].values()), PROMISES[number]


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "python tests/promises.py writes it"


def test_figures_belong_to_tests():
    assert set(measured()) <= {test for tests in held().values() for test in tests}
