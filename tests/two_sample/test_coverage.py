"""Coverage of samples: exact under the null, sensitive to widths and biases, ranks against counting."""

import numpy as np
import pytest
import scipy.stats

import rieszflow as rf
from rieszflow import report
from rieszflow.errors import InputError


def problem(seed, n=200, S=50, d=2, width=1.0, bias=0.0):
    """Posteriors N(m, I), of which a model samples N(m + bias, width²)."""
    g = np.random.default_rng(seed)
    means = g.normal(size=(n, d)) * 5
    return means[:, None] + width * g.normal(size=(n, S, d)) + bias * np.eye(d)[-1], means + g.normal(size=(n, d))


@pytest.mark.parametrize("whole", [False, True])
def test_p_values_are_uniform_for_correct_models(whole):
    """With ties, too: values are rounded, so that many samples equal the true value."""
    p = []
    for k in range(200):
        pair = problem(k, n=12, S=9)
        p.append(rf.coverage_test(*(v.round() if whole else v for v in pair), permutations=99, seed=k).pvalue)
    for level in (0.05, 0.1, 0.3, 0.5, 0.8):
        count, binomial = sum(v <= level for v in p), scipy.stats.binom(200, level)
        assert binomial.cdf(count) > 1e-6 and binomial.sf(count - 1) > 1e-6


def test_ranks_are_shares_of_the_samples_below():
    samples, truth = problem(1, n=30, S=20, d=3)
    found = rf.coverage_test(samples, truth, permutations=9)
    below = (samples < truth[:, None]).sum(1)
    np.testing.assert_allclose(found.ranks[:, 1:], (below + 0.5) / 21)
    of = lambda z, rest: np.linalg.norm(z - rest, axis=1).sum()  # noqa: E731
    for i in range(30):
        own = of(truth[i], samples[i])
        depths = [of(samples[i, k], np.concatenate([truth[i : i + 1], samples[i]])) for k in range(20)]
        assert found.ranks[i, 0] == pytest.approx((sum(v < own for v in depths) + 0.5) / 21)
    levels = np.array([0.0, 0.5, 1.0])
    coverage = found.coverage(levels)
    assert coverage.shape == (3, 4) and (coverage[-1] == 1).all()
    assert (
        coverage[1, 0] == (found.ranks[:, 0] <= 0.5).mean()
        and coverage[1, 1] == (np.abs(found.ranks[:, 1] - 0.5) <= 0.25).mean()
    )


def test_models_of_wrong_width_or_place_are_found():
    for options, quantity in (
        ({"width": 0.75}, "mean distance"),
        ({"width": 1.35}, "mean distance"),
        ({"bias": 0.4}, "coordinate 1"),
    ):
        found = rf.coverage_test(*problem(2, **options))
        assert found.pvalue == found.adjusted_pvalues.min() <= 0.01 and found.names[found.adjusted_pvalues.argmin()] == quantity
    assert found.coverage(0.5).shape == (1, len(found.names))
    narrow, wide = (rf.coverage_test(*problem(3, width=w)).coverage(np.array([0.5]))[0, 0] for w in (0.6, 1.6))
    assert narrow < 0.4 < 0.6 < wide


def test_the_picture_and_many_coordinates():
    found = rf.coverage_test(*problem(4, n=20, S=5, d=100), permutations=19)
    assert len(found.names) == 65 and found.ranks.shape == (20, 65)
    assert report.coverage(found).width > 300


def test_what_is_refused():
    samples, truth = problem(5, n=4, S=3)
    for given, says in (
        ((samples[0], truth), r"`samples` must have shape \(n, S, d\) with n, S ≥ 2, got \(3, 2\)"),
        ((samples[:1], truth[:1]), r"`samples` must have shape .* got \(1, 3, 2\)"),
        ((samples[:, :1], truth), r"`samples` must have shape .* got \(4, 1, 2\)"),
        ((samples, truth[:3]), r"`truth` must have shape \(4, 2\), one value per row of samples, got \(3, 2\)"),
        ((samples, truth * np.nan), "`truth` must be finite"),
    ):
        with pytest.raises(InputError, match=says):
            rf.coverage_test(*given)
    with pytest.raises(InputError, match="`permutations` must be a positive integer, got 0"):
        rf.coverage_test(samples, truth, permutations=0)
