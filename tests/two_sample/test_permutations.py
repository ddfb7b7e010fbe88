"""The permutation machine against enumeration by hand, whatever the statistic is."""

import itertools
import warnings

import numpy as np
import pytest
import scipy.stats

from rieszflow import Notice
from rieszflow.two_sample import permutations
from rieszflow.two_sample.permutations import draw_splits, permutation_rng, permutation_test


def labels(K, L, fixed=0):
    return np.concatenate([np.full(K, 1 / K), np.full(L, -1 / L), np.full(fixed, 0.25)])


def run(statistic, w, K, L, permutations, scale, seed=0):
    return permutation_test(statistic, w, draw_splits(K, L, permutations, permutation_rng(seed)), scale)


def by_hand(statistic, w, K, L):
    """The share of all ways to choose the first group whose statistic is at least as large."""
    found = statistic(w[None])[0]
    larger = []
    for chosen in itertools.combinations(range(K + L), K):
        v = w.copy()
        v[: K + L] = w[K]
        v[list(chosen)] = w[0]
        larger.append(statistic(v[None])[0] >= found - 1e-9)
    return np.mean(larger), len(larger)


@pytest.mark.parametrize(("K", "L", "fixed"), [(3, 4, 0), (2, 5, 2), (1, 4, 1)])
@pytest.mark.filterwarnings("ignore::rieszflow.Notice")
def test_all_ways_are_tried_where_there_are_few(K, L, fixed):
    g = np.random.default_rng(K)
    values, form = g.normal(size=K + L + fixed), g.normal(size=(K + L + fixed,) * 2)
    for statistic in (lambda w: w @ values, lambda w: np.abs(w @ values), lambda w: ((w @ form) * w).sum(1)):
        w = labels(K, L, fixed)
        pvalue, ways = by_hand(statistic, w, K, L)
        assert run(statistic, w, K, L, 999, 10.0) == pytest.approx(pvalue)
        assert len(draw_splits(K, L, 999, permutation_rng(0))) == ways


def test_random_ones_come_near_to_all():
    """Of 12,870 ways 2,000 are drawn: the share is binomial, and 4 standard errors off once in 16,000 seeds."""
    values = np.random.default_rng(1).normal(size=16)
    values[:8] += 0.5
    statistic, w = (lambda w: w @ values), labels(8, 8)
    wanted, ways = by_hand(statistic, w, 8, 8)
    found = run(statistic, w, 8, 8, 2000, 3.0)
    assert len(draw_splits(8, 8, 2000, permutation_rng(0))) == 2000 < ways
    assert abs(found - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 2000) + 1 / 2001


def test_the_level_is_kept():
    """Of 400 tests of nothing at level 0.1 more than the 1e-6 binomial quantile reject once in a million runs."""
    count = 0
    for k in range(400):
        values = np.random.default_rng([k, 3]).integers(0, 3, 30) * 1.0  # with ties
        found = run(lambda w, v=values: np.abs(w @ v), labels(15, 15), 15, 15, 99, 3.0, k)
        count += found <= 0.1
    assert count <= scipy.stats.binom(400, 0.1).isf(1e-6)


def test_ties_count_as_equal():
    """Sums of the same numbers in another order: all statistics are equal, and p = 1."""
    values = np.full(40, 0.1)
    found = run(lambda w: w @ values, labels(20, 20), 20, 20, 99, 0.1)
    assert found == 1.0


def test_what_keeps_its_place_is_not_permuted():
    values = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 5.0])
    seen = []
    run(lambda w: seen.append(w) or w @ values, labels(4, 4, 1), 4, 4, 19, 5.0)
    assert all((w[:, 8] == 0.25).all() for w in seen)
    assert all(sorted(row) == sorted(labels(4, 4, 1)) for w in seen for row in w.tolist())


def test_a_p_value_that_cannot_be_small_is_said():
    rng = permutation_rng(0)
    with pytest.warns(Notice, match=r"cannot be less than 0.1,.*the number of permutations is 9"):
        draw_splits(10, 10, 9, rng)
    with pytest.warns(Notice, match=r"cannot be less than 0.333,.*only 3 ways to split"):
        draw_splits(1, 2, 99, rng)
    with pytest.warns(Notice, match=r"cannot be less than 0.1,.*only 20 ways to split"):  # of which two are equal
        draw_splits(3, 3, 99, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        draw_splits(1, 128, 999, rng)


def test_weights_are_made_in_parts(monkeypatch):
    """Memory is bounded however many permutations there are, and the value is the same."""
    values, most = np.random.default_rng(2).normal(size=30), []
    statistic = lambda w: most.append(len(w)) or w @ values  # noqa: E731
    found = []
    for together in (1 << 22, 30 * 7):
        monkeypatch.setattr(permutations, "_MAX_NUMBERS", together)
        found.append(run(statistic, labels(14, 16), 14, 16, 99, 3.0))
    assert found[0] == found[1] and most[0] == 100 and max(most[1:]) == 7


def test_seeds():
    tried = []
    for k in (5, 5, 6):
        seen = []
        statistic = lambda w, seen=seen: seen.append(w) or w.sum(1)  # noqa: E731
        run(statistic, labels(10, 10), 10, 10, 99, 3.0, k)
        tried.append(seen[0])
    assert np.array_equal(tried[0], tried[1]) and not np.array_equal(tried[0], tried[2])
    assert permutation_rng(3).random() != np.random.default_rng(3).random()
