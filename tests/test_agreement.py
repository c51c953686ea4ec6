"""The report that fast and plain agree: both sides on random weights; it tells masks and pixels apart; the command."""

import numpy as np
import pytest
import torch
from rim.apps import cli
from rim.measure.agreement import _Row, compare, _mean_fit, _plain_pool, _plain_similarity, summary
from rim.method.pooling import pool
from rim.method.ranking import pairwise_ranking_similarity


def test_plain_pieces_equal_the_fast_ones():
    g = torch.Generator().manual_seed(0)
    grid, masks = torch.randn(5, 6, 7, generator=g), np.random.default_rng(0).random((4, 30, 41)) > 0.7
    assert torch.allclose(_plain_pool(grid, masks), pool(grid, masks)[0], atol=1e-5)
    own, theirs = torch.rand(3, 4, generator=g) + 0.1, torch.rand(3, 9, 4, generator=g) + 0.1
    assert (_plain_similarity(own, theirs) - pairwise_ranking_similarity(own, theirs)).abs().max() < 1e-6
    assert _plain_pool(grid, masks[:0]).shape == (0, 5) and _plain_similarity(own[:0], theirs[:0]).shape == (0, 9)


def test_fit_is_the_mean_iou_of_the_best_pairs():
    a = np.zeros((2, 4, 4), bool)
    a[0, :2], a[1, 2:] = True, True
    b = a[::-1].copy()
    b[0, 3] = False
    assert (
        _mean_fit(a, a) == _mean_fit(a, a[::-1]) == 1
        and _mean_fit(a, b) == 0.75
        and _mean_fit(a, a[:1]) == 1 == _mean_fit(a[:0], a)
    )


def test_a_summary_counts_images_of_other_numbers():
    rows = [_Row("a", "float32", 3, 3, 1, 1), _Row("b", "float32", 2, 3, 0.5, 0.9), _Row("a", "bfloat16", 3, 3, 1, 1)]
    first, second = summary(rows)
    assert (first["images"], first["other_counts"], first["fast"], first["plain"], first["fit"], first["pixels"]) == (
        2,
        1,
        5,
        6,
        0.75,
        0.95,
    )
    assert second["dtype"] == "bfloat16" and second["target"] == 0.995 and summary([]) == []


def test_the_command_refuses_no_images(capsys):
    assert cli.main(["bench", "agreement", "--limit", "0"]) == 2 and "--limit" in capsys.readouterr().err


@pytest.mark.slow  # a bank of two classes, and the stock generator: half a minute
def test_fast_and_plain_agree_on_the_toybox():
    from rim.method.segmenter import RIM
    from rim.toybox.world import World

    rim = RIM.from_profile("toybox", images_per_class=4, subcategories=2)
    rows = compare(rim, {"scene": World().scene(1_000_000).image}, "boat, fish")
    assert (
        [row.dtype for row in rows] == ["float32", "bfloat16"]
        and rows[0].fast == rows[0].plain > 0
        and rows[0].fit > 0.999
        and rows[0].pixels >= 0.9999
        and rows[1].pixels > 0.95
    )
