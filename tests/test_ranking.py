import math
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from rim.method.ranking import (
    clamp_scores,
    _overlap,
    pairwise_ranking_similarity,
    ranking_distribution,
    ranking_permutations,
    ranking_similarity,
    _smallest_shares,
    softmax_scores,
    _subset_levels,
)

score = st.floats(1e-6, 1.0)


def vectors(count, sizes=st.integers(1, 6)):
    return sizes.flatmap(lambda n: st.tuples(*[st.lists(score, min_size=n, max_size=n)] * count))


def brute_force(a, b):
    p, q = ranking_distribution(np.array(a)), ranking_distribution(np.array(b))
    return p @ q / np.sqrt((p @ p) * (q @ q))


@given(vectors(1))
def test_the_distribution_is_the_formula(pair):
    (scores,) = pair
    naive = [
        math.prod(scores[i] / math.fsum(scores[j] for j in order[k:]) for k, i in enumerate(order))
        for order in ranking_permutations(len(scores)).tolist()
    ]
    ours = ranking_distribution(np.array(scores))
    assert np.allclose(ours, naive, atol=1e-15, rtol=1e-12) and ours.sum() == pytest.approx(1)


@given(vectors(2))
@settings(max_examples=300)
def test_equal_to_brute_force(pair):
    a, b = pair
    assert abs(ranking_similarity(np.array(a), np.array(b)) - brute_force(a, b)) < 1e-12


@given(vectors(2), st.floats(1e-3, 1e3), st.randoms())
def test_invariant_to_scale_and_to_the_order_of_agents(pair, scale, random):
    a, b = map(np.array, pair)
    order = random.sample(range(len(a)), len(a))
    expected = ranking_similarity(a, b)
    for other in (
        ranking_similarity(a * scale, b),
        ranking_similarity(a, b / scale),
        ranking_similarity(a[order], b[order]),
        ranking_similarity(b, a),
    ):
        assert abs(other - expected) < 1e-12


@given(vectors(2, st.integers(1, 9)))
def test_a_cosine_of_distributions_is_in_0_to_1_and_1_for_itself(pair):
    a, b = map(np.array, pair)
    assert -1e-12 < ranking_similarity(a, b) < 1 + 1e-12 and abs(ranking_similarity(a, a) - 1) < 1e-12


@pytest.mark.parametrize("n", range(1, 9))
def test_ties_are_a_uniform_distribution(n):
    assert np.allclose(ranking_distribution(np.full(n, 0.3)), 1 / math.factorial(n))
    other = np.linspace(1, 2, n)
    p = ranking_distribution(other)
    assert ranking_similarity(np.full(n, 0.3), other) == pytest.approx(
        1 / np.sqrt(math.factorial(n) * (p @ p)), abs=1e-12
    )


def test_one_agent_finds_everything_alike():
    assert ranking_similarity([0.2], [0.9]) == 1 and ranking_similarity(
        np.full((3, 1), 0.1), np.full((2, 1, 1), 7.0)
    ).shape == (2, 3)


@pytest.mark.parametrize("n", [10, 13, 16])
def test_more_agents_than_can_be_enumerated(n):
    a, b = torch.rand(2, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) + 0.01

    def log_overlap(a, b):  # the recursion in plain floats, over bit masks
        g = [1.0] + [0.0] * (2**n - 1)
        for s in range(1, 2**n):
            members = [i for i in range(n) if s >> i & 1]
            g[s] = sum(g[s ^ 1 << i] for i in members) / (sum(a[i] for i in members) * sum(b[i] for i in members))
        return math.log(g[-1])

    x, y = a.tolist(), b.tolist()
    expected = math.exp(log_overlap(x, y) - (log_overlap(x, x) + log_overlap(y, y)) / 2)
    assert 0 < expected < 1 and abs(ranking_similarity(a, b) - expected) < 1e-12


def test_clamped_scores_stay_finite_in_float32():
    for n in (4, 8, 16):
        scores = torch.full((n, n), 1e-6) + torch.eye(n)
        similarity = ranking_similarity(scores[:, None], scores[None])
        assert similarity.dtype == torch.float32 and similarity.isfinite().all()
        assert (similarity.diagonal() - 1).abs().max() < 1e-5 and torch.allclose(
            similarity.double(), ranking_similarity(scores[:, None].double(), scores[None].double()), atol=1e-5
        )


def test_broadcasting_equals_a_loop():
    a, b = torch.rand(5, 4, dtype=torch.float64) + 0.1, torch.rand(5, 7, 4, dtype=torch.float64) + 0.1
    fast = pairwise_ranking_similarity(a, b)
    assert fast.shape == (5, 7)
    assert all(abs(fast[i, j] - brute_force(a[i], b[i, j])) < 1e-12 for i in range(5) for j in range(7))
    assert ranking_similarity(a[:0, None], b[:0]).shape == (0, 7)
    for i in range(5):
        assert torch.equal(ranking_similarity(a[i], b[i]), fast[i]) and torch.equal(
            ranking_similarity(b[i], a[i]), fast[i]
        )
    assert ranking_similarity(torch.rand(4) + 0.1, torch.rand(3, 2, 4) + 0.1).shape == (3, 2)


def test_types():
    a = [0.2, 0.5]
    assert ranking_similarity(torch.tensor(a).bfloat16(), torch.tensor(a)).dtype == torch.float32
    assert ranking_similarity(torch.tensor(a), torch.tensor(a).double()).dtype == torch.float64
    assert isinstance(ranking_similarity(np.array(a), torch.tensor(a)), torch.Tensor) and isinstance(
        ranking_similarity(a, np.array(a)), (np.ndarray, float)
    )
    assert (
        ranking_distribution(np.array(a, np.float32)).dtype == np.float32
        and ranking_distribution([1, 2]).dtype == np.float64
    )


@pytest.mark.parametrize("wrong", [[0.5, 0.0], [0.5, -0.1], [0.5, float("nan")], [0.5, float("inf")], [], 0.5])
def test_scores_that_are_none_are_refused(wrong):
    for function in (ranking_distribution, lambda s: ranking_similarity(s, s)):
        with pytest.raises(ValueError):
            function(np.array(wrong))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="17"):
        ranking_similarity(np.ones(17), np.ones(17))
    with pytest.raises(ValueError, match="2 and 3"):
        ranking_similarity(np.ones(2), np.ones(3))
    for n in (0, 11):
        with pytest.raises(ValueError, match=str(n)):
            ranking_permutations(n)


def test_subset_levels_name_every_subset_once():
    assert [len(last) for last, _, _ in _subset_levels(5)] == [5, 10, 10, 5, 1]
    assert [tuple(places.shape) for _, _, places in _subset_levels(5)] == [(5, 1), (10, 2), (10, 3), (5, 4), (1, 5)]


@given(vectors(2, st.integers(2, 5)))
@settings(max_examples=20)
def test_the_overlap_is_the_sum_over_orders(pair):
    a, b = (torch.tensor(x, dtype=torch.float64) for x in pair)
    of_a, of_b = _smallest_shares(a), _smallest_shares(b)
    assert all(0 < share.min() and share.max() == 1 for share in of_a)
    sums = [
        torch.stack(
            [
                torch.stack([x.sort().values[:k].sum() / x[list(order[:k])].sum() for k in range(1, len(x))]).prod()
                for order in ranking_permutations(len(x)).tolist()
            ]
        )
        for x in (a, b)
    ]
    assert _overlap([x * y for x, y in zip(of_a, of_b)], a[0]).item() == pytest.approx(
        (sums[0] * sums[1]).sum().item(), rel=1e-10
    )
    assert 1 <= _overlap([x * x for x in of_a], a[0]) * (1 + 1e-12) and _overlap(
        [x * x for x in of_a], a[0]
    ) <= math.factorial(len(a)) * (1 + 1e-12)


@pytest.mark.parametrize("n", [2, 4, 8, 12, 16])
def test_wide_scores_stay_finite_in_float32(n):
    rising = torch.logspace(-6, 0, n)
    scores = torch.stack([rising, rising.flip(0), torch.ones(n), rising * 1e-20])
    similarity = ranking_similarity(scores[:, None], scores[None])
    assert similarity.isfinite().all() and (similarity.diagonal() - 1).abs().max() < 1e-5
    assert torch.allclose(
        similarity.double(), ranking_similarity(scores[:, None].double(), scores[None].double()), atol=1e-5
    )


def test_a_pair_does_not_depend_on_its_company():
    a, b = (torch.rand(37, n, generator=torch.Generator().manual_seed(1)) + 0.1 for n in (6, 6))
    many = ranking_similarity(a, b)
    assert all(torch.equal(ranking_similarity(a[i : i + 1], b[i : i + 1]), many[i : i + 1]) for i in range(37))


def test_clamping_counts():
    scores, count = clamp_scores(torch.tensor([[0.4, -0.2], [0.0, 1e-6]]), 1e-6)
    assert count == 2 and (scores >= 1e-6).all() and scores[0, 0] == 0.4


def test_softmax_is_plackett_luce_over_exponentials():
    scores = torch.tensor([0.8, 0.7, 0.1], dtype=torch.float64)
    assert torch.allclose(ranking_distribution(softmax_scores(scores, 0.1)), ranking_distribution((scores / 0.1).exp()))
