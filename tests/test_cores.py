"""Pieces of work over cores: order, modes, errors, and the number of threads afterwards."""

import threading
import pytest, torch
from rim.base.cores import over_cores


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_pieces(threads):
    assert over_cores(lambda n: n * n, list(range(20))) == [n * n for n in range(20)]
    assert over_cores(lambda n: n, []) == []


def test_each_piece_is_computed_by_one_thread(threads):
    assert set(over_cores(lambda _: torch.get_num_threads(), range(6))) == {1}
    assert torch.get_num_threads() == threads


def test_as_many_pieces_at_once_as_there_are_threads(threads):
    meeting = threading.Barrier(threads)
    over_cores(lambda _: meeting.wait(timeout=20), range(threads))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_the_callers_mode_holds(threads, mode):
    def piece(_):
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    with mode():
        assert set(over_cores(piece, range(4))) == {piece(0)}


def test_an_error_ends_the_work_and_leaves_the_threads_as_they_were(threads):
    done = []

    def piece(n):
        if n == 1:
            raise ValueError("the second piece")
        done.append(n)

    with pytest.raises(ValueError, match="the second piece"):
        over_cores(piece, range(1000))
    assert len(done) < 1000 and torch.get_num_threads() == threads


def test_matrix_products_do_not_depend_on_the_number_of_threads():
    pieces = torch.rand(8, 300, 200, generator=torch.Generator().manual_seed(0)).unbind()
    before, found = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(torch.stack(over_cores(lambda x: (x @ x.T).softmax(1).sum(0), pieces)))
    torch.set_num_threads(before)
    assert torch.equal(*found)
