"""Tests with kernels of all widths: features against cosines, tail probabilities against loops, levels, power and witnesses."""

import math
import pickle
import warnings

import numpy as np
import pandas
import pytest
import scipy.stats
import torch

import rieszflow as rf
from rieszflow.two_sample.multiscale import aggregate
from rieszflow.two_sample.octaves import ENERGY, Octaves, fit_octaves

ERROR = 1e-6


def normal(n, d, seed):
    return np.random.default_rng(seed).standard_normal((n, d))


def sums_of(octaves, x, starts, weights=None):
    sums = np.zeros((len(starts) - 1, octaves.widths.shape[1], 2, octaves.frequencies.shape[1]))
    octaves.add(x, np.ones(len(x)) if weights is None else weights, np.array(starts), sums)
    return sums


@pytest.mark.parametrize("d", [1, 3, 70])
def test_sums_are_those_of_sines_and_cosines(d):
    """Angles are float64 and sines float32: an error of 2⁻²³, which every doubling of the angle doubles, up to 16 times."""
    x, w = 100 + 5 * normal(700, d, 0), np.random.default_rng(2).random(700)
    wide, *others = fit_octaves(x[:300], 700, np.random.default_rng(1))
    widths = wide.widths[:, :1] * 0.5 ** np.arange(40)
    for octaves in (Octaves(wide.frequencies, wide.first, widths, wide.origin), *others):
        sums = sums_of(octaves, x, [0, 10, 700], w)
        for subspace, first in enumerate(octaves.first):
            own = slice(subspace * octaves.D, (subspace + 1) * octaves.D)
            frequencies = octaves.frequencies[:, own]
            coordinates = slice(first, first + len(frequencies))
            phases = (x[:, coordinates] - octaves.origin[coordinates]) @ frequencies
            for octave in (0, 1, 5, 10, 15, 16, 25, 39):
                if octave >= octaves.widths.shape[1]:
                    continue
                cycles = 2.0**octave * phases  # sines of float64 numbers of size 2⁴⁰ have lost as many digits
                angles = 2 * math.pi * (cycles - cycles.round())
                for part, wave in enumerate((np.sin(angles), np.cos(angles) - 1)):
                    for block, rows in enumerate((slice(0, 10), slice(10, 700))):
                        error = np.abs(sums[block, octave, part, own] - w[rows] @ wave[rows]).max()
                        assert error < 4 * len(wave[rows]) * 2.0 ** (octave % 16 + 3 - 23) + 1e-3 * (octave > 30)


def test_features_give_gaussian_kernels_and_their_sum_the_distance():
    """Each kernel is a mean of D cosines, so it is 1/√D off, with stratified frequencies less."""
    x = normal(60, 5, 0)
    octaves, columns = fit_octaves(x, 60, np.random.default_rng(0))
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    total = np.zeros_like(distances)
    for octave, h in enumerate(octaves.widths[0]):
        features = octaves.features(octaves.phases(x, 0), octave)
        kernel = features @ features.T / octaves.D
        total += ENERGY * h * (1 - np.exp(-(distances**2) / (2 * h * h)))
        assert np.abs(kernel - np.exp(-(distances**2) / (2 * h * h))).max() < 6 / math.sqrt(octaves.D)
    far = distances > 2 * octaves.widths[0, -1]
    # Octaves that are left out add t² / h for widths above the first, 2⁻⁴ / 2 of t at the most, and h for those below the last.
    assert np.abs(total / np.where(far, distances, 1) - 1)[far].max() < 0.5
    assert scipy.stats.pearsonr(total[far], distances[far]).statistic > 0.999
    for subspace, column in enumerate(columns.first):
        features = columns.features(columns.phases(x, subspace), 2)
        wanted = np.exp(-((x[:, None, column] - x[None, :, column]) ** 2) / (2 * columns.widths[subspace, 2] ** 2))
        assert np.abs(features @ features.T / columns.D - wanted).mean() < 0.1


def test_widths_span_the_distances_and_depend_on_no_unit():
    x = normal(400, 2, 0)
    for scale in (1.0, 2.0**-300, 2.0**300):
        octaves, columns = fit_octaves(scale * x, 400, np.random.default_rng(0))
        distances = scipy.spatial.distance.pdist(x)
        assert octaves.widths[0, octaves.above] / scale > np.quantile(distances, 0.95)
        assert octaves.widths[0, -1] / scale < np.quantile(distances, 0.05)
        assert np.allclose(octaves.widths[0, :-1], 2 * octaves.widths[0, 1:]) and len(columns.first) == 2
    constant = np.column_stack([x[:, 0], np.ones(400)])
    found = fit_octaves(constant, 400, np.random.default_rng(0))
    assert np.isfinite(found[1].frequencies).all() and found[1].widths[1, 0] == 2  # as if distances were 1


def test_tails_have_the_moments_of_the_other_rows():
    """Against a loop, with the gamma distribution itself: Wilson and Hilferty's z is within 0.05 of it up to 4 sd."""
    g = np.random.default_rng(0)
    s = np.column_stack([g.gamma(3, size=200), g.normal(size=200)])
    scores = aggregate(s, np.array([0.5, 0.5])).scores - math.log(0.5)
    for k in range(2):
        others = s[1:, k]
        skewness = max(scipy.stats.skew(others), 0.02)
        tail = scipy.stats.pearson3(skewness, others.mean(), others.std()).sf(s[0, k])
        assert scores[k] == pytest.approx(-math.log(tail), abs=0.1)


def test_an_aggregated_test_treats_all_rows_alike():
    """The p-value of row b is that of a table in which row b comes first, so 1, …, n appear once, but for ties."""
    g = np.random.default_rng(0)
    s = g.normal(size=(40, 3))
    s[:, 2] = 7.0  # never decides
    weights = np.array([0.5, 0.3, 0.2])
    p = [aggregate(np.roll(s, -b, 0), weights).pvalue for b in range(40)]
    assert np.allclose(sorted(p), np.arange(1, 41) / 40)


def test_adjusted_p_values_are_those_of_the_largest_score():
    g = np.random.default_rng(0)
    s = g.gamma(2, size=(100, 4))
    s[0, 1] = 30.0
    found = aggregate(s, np.full(4, 0.25))
    assert found.adjusted.argmin() == 1 and found.pvalue == found.adjusted[1] == 0.01
    assert (found.adjusted[[0, 2, 3]] >= [(s[:, k] >= s[0, k]).mean() for k in (0, 2, 3)]).all()


@pytest.mark.parametrize(("n", "m", "d"), [(30, 50, 1), (150, 400, 4)])
def test_p_values_are_uniform_under_the_null(n, m, d):
    p = []
    for k in range(60):
        g = np.random.default_rng(k)
        x, y = g.standard_t(3, (n, d)), g.standard_t(3, (m, d))
        p.append(rf.two_sample_test(x, y, slices=4, permutations=99, seed=k).pvalue)
    for level in (0.05, 0.1, 0.3, 0.5):
        count, binomial = sum(v <= level for v in p), scipy.stats.binom(60, level)
        assert binomial.cdf(count) > ERROR and binomial.sf(count - 1) > ERROR


def test_local_differences_are_found_at_their_scale():
    """One of four clusters is wider, and one of twenty columns has a comb that its neighbours lack."""
    g = np.random.default_rng(0)
    corners = lambda n: 20.0 * (2 * g.integers(0, 2, (n, 2)) - 1)  # noqa: E731
    a, b = corners(4000), corners(4000)
    x, y = a + g.normal(size=(4000, 2)) * np.where((a == 20).all(1), 1.3, 1)[:, None], b + g.normal(size=(4000, 2))
    found, energy = rf.two_sample_test(x, y), rf.two_sample_test(x, y, kernels="energy")
    assert found.pvalue <= 0.01 < 0.05 < energy.pvalue and [kernel.width for kernel in energy.kernels] == [None]
    assert found.kernels[0].width < 8 and found.kernels[0].pvalue == found.pvalue
    witness = found.witness(np.array([[20.0, 20.0], [-20.0, 20.0], [20.0, -20.0]]))
    assert witness.values[0] < -4 * witness.standard_errors[0]  # x is sparser there
    assert (np.abs(witness.values[1:]) < 4 * witness.standard_errors[1:]).all()
    x, y = g.normal(size=(1500, 20)), g.normal(size=(1500, 20))
    x[:, 13] = np.round(x[:, 13] * 4) / 4 + 0.03 * g.normal(size=1500)
    found = rf.two_sample_test(x, y)
    assert found.kernels[0].column == 13 and found.kernels[0].width < 0.5 and found.pvalue <= 0.01
    assert found.kernels[-1].pvalue > 0.05


@pytest.mark.parametrize(("n", "m"), [(300, 500), (5000, 70)])
def test_the_witness_has_the_statistic_as_its_difference_of_means(n, m):
    """MMD² = E f(X) − E f(Y) for f(z) = E k(z, X) − E k(z, Y), over the same points; sums have float32's 2⁻²³ of each term."""
    g = np.random.default_rng(1)
    x, y = g.normal(size=(n, 3)) * [5, 1, 1], g.normal([0, 1, 0], size=(m, 3))
    for scale in ("none", "columns"):
        found = rf.two_sample_test(x, y, slices=8, scale=scale, permutations=19)
        for kernel in found.kernels:
            spread = np.asarray(found.x.plan.settings.spreads or 1)
            difference = kernel.scaled_witness(x / spread).values.mean() - kernel.scaled_witness(y / spread).values.mean()
            size = 1 if kernel.width else found.kernels[0]._factors.sum() + 1000
            assert difference == pytest.approx(kernel.statistic, abs=1e-3 * size)
    assert found.witness(torch.from_numpy(x)).values.shape == (n,)


@pytest.mark.filterwarnings("ignore::rieszflow.Notice")
def test_witnesses_have_the_errors_of_their_samples():
    """Over 40 samples, the differences from the true values are as large as the errors claim: within 1.5 of each other.

    A mean over 40 · 50 values that depend on each other, and errors from 16 blocks, are known within a fifth.
    """
    scores, z = [], normal(50, 2, 9)
    for k in range(40):
        g = np.random.default_rng(k)
        x, y = g.normal(size=(640, 2)), g.normal(size=(1280, 2)) * 1.5
        found = rf.two_sample_test(x, y, slices=4, permutations=1, seed=k)
        kernel = min((v for v in found.kernels if v.column is None and v.width), key=lambda v: abs(v.width - 1))
        h = kernel.width**2
        wanted = [h / (h + v) * np.exp(-(z**2).sum(1) / 2 / (h + v)) for v in (1.0, 2.25)]
        found = kernel.scaled_witness(z)
        scores.append((found.values - (wanted[0] - wanted[1])) / found.standard_errors)
    assert 1 / 1.5 < np.sqrt(np.mean(np.array(scores) ** 2)) < 1.5


def test_constants_differ_in_no_layout_of_batches():
    """Sums of equal numbers must not depend on how many are added at a time: a difference of 1e-12 would decide the test."""
    g = np.random.default_rng(0)
    x, y = np.full((7000, 1), 0.3), np.full((20_000, 1), 0.3)
    assert rf.two_sample_test(x, list(np.array_split(y, [900, 15_000])), slices=2, permutations=99).pvalue == 1
    p = []
    for k in range(8):
        a, b = (np.column_stack([g.normal(size=len(v)), v]) for v in (x, y))
        p.append(rf.two_sample_test(a, list(np.array_split(b, [900, 15_000])), slices=2, permutations=99, seed=k).pvalue)
    assert max(p) > 0.1 and sum(v <= 0.05 for v in p) <= 3  # binomial: 4 of 8 once in 2,700


def test_equal_groups_in_another_order_do_not_differ():
    """All groups have the same points, whose sums in float32 would depend on their order."""
    values = np.array([0.0, 1, 2, 5, 7])
    x, y = np.tile(values, 40)[:, None], np.tile(values[::-1], 40)[:, None]
    groups = tuple([f"{name}{k // 5}" for k in range(200)] for name in "ab")
    assert rf.two_sample_test(x, y, groups=groups, permutations=99).pvalue == 1
    noise = normal(400, 1, 0)
    found = rf.two_sample_test(np.hstack([x, noise[:200]]), np.hstack([y, noise[200:]]), groups=groups, permutations=99)
    assert min(kernel.pvalue for kernel in found.kernels if kernel.column == 0) == 1


def test_one_point_apart_from_equal_ones_is_found():
    """The other rows of the table are equal, so no moments tell how unusual the observed one is."""
    sketch = rf.SliceSketch.from_points(np.zeros((300, 2)), slices=2)
    assert (
        rf.drift_test(np.array([[1.0, 0.0]]), sketch).pvalue == 1 / 301 and rf.drift_test(np.zeros((1, 2)), sketch).pvalue == 1
    )
    weights = np.array([1.0, *[1e-6] * 9])  # one point outweighs all others
    found = rf.two_sample_test(normal(10, 2, 0), normal(10, 2, 1), x_weights=weights, y_weights=np.ones(10), permutations=99)
    assert 0 < found.pvalue <= 1 and np.isfinite(found.standard_error)


def test_errors_know_outliers():
    """2 % of points are at 10⁶: the standard deviation of the statistic over samples is the error within a factor of 2."""
    statistics, errors = [], []
    for k in range(12):
        g = np.random.default_rng(k)
        x, y = g.normal(size=(1200, 1)), g.normal(size=(1200, 1))
        x[g.random(1200) < 0.02] = 1e6
        found = rf.two_sample_test(x, y, slices=1, permutations=9, seed=k)
        statistics.append(found.statistic)
        errors.append(found.standard_error)
        assert found.method == "sliced" and 0 < found.effect_size <= 1
    assert 0.5 < np.mean(errors) / np.std(statistics) < 2


def test_unusual_points_are_tested():
    g = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rf.two_sample_test(np.ones((50, 3)), np.ones((60, 3))).pvalue == 1
        far = np.where(np.arange(100)[:, None] < 2, 1e30, g.normal(size=(100, 2)))
        assert rf.two_sample_test(far, g.normal(size=(100, 2)), permutations=99).pvalue > 0.05
        flags = lambda p: (g.random((4000, 3)) < p) * 1.0  # noqa: E731
        assert rf.two_sample_test(flags(0.001), flags(0.02), slices=16).pvalue == 0.001
        assert rf.two_sample_test(np.eye(5)[g.integers(0, 5, 200)], np.eye(5)[g.integers(0, 4, 200)]).pvalue == 0.001


def gaussian_mmd2(x, y, h):
    kernel = lambda a, b: np.exp(-(scipy.spatial.distance.cdist(a, b) ** 2) / (2 * h * h)).mean()  # noqa: E731
    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


def test_given_kernels_are_those_of_the_test():
    """D = 512 frequencies have an error of 1/√512 of MMD²; the bias of V-statistics is 4 % of the energy distance."""
    x, y = normal(400, 2, 0), normal(500, 2, 1) + np.array([0.6, 0])
    found = rf.two_sample_test(x, y, kernels=[rf.Gaussian(0.5), rf.Riesz(), rf.Gaussian(2.0)])
    assert {kernel.width for kernel in found.kernels} == {None, 0.5, 2.0} and found.kernels[0].pvalue == found.pvalue == 0.001
    for kernel in found.kernels:
        assert kernel.column is None
        wanted = found.statistic if kernel.width is None else gaussian_mmd2(x, y, kernel.width)
        assert kernel.statistic == pytest.approx(wanted, rel=3 / math.sqrt(512))
    assert [k.width for k in rf.two_sample_test(x, y, kernels=[rf.Gaussian(0.5)]).kernels] == [0.5]
    with pytest.warns(
        rf.Notice, match=r"kernels: Gaussian\(sigma=1e-09\) is 0 for random points that differ, the nearest of which are"
    ):
        assert rf.two_sample_test(x, y, kernels=[rf.Gaussian(1e-9)]).pvalue > 0.01


@pytest.mark.parametrize("kernels", [[], rf.Gaussian(), [rf.Laplace()], [rf.Riesz(1.5)], 3])
def test_other_kernels_are_refused(kernels):
    with pytest.raises(ValueError, match='`kernels` must be "auto", "energy" or a list of Gaussian kernels, with or'):
        rf.two_sample_test(normal(9, 1, 0), normal(9, 1, 1), kernels=kernels)


def test_bad_arguments_are_refused():
    x = normal(50, 2, 0)
    with pytest.raises(ValueError, match="`kernels` must be one of 'auto', 'energy', got 'gauss'"):
        rf.two_sample_test(x, x, kernels="gauss")
    found = rf.two_sample_test(x, x + 1, permutations=19)
    with pytest.raises(ValueError, match="`x` must have points of dimension d = 2, as the sample has, got d = 3"):
        found.witness(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="`x` must have points of at most 1e\\+300 in size for kernels of all widths, got"):
        rf.two_sample_test(1e301 * x, x)
    frame = pandas.DataFrame(x, columns=["a", "b"])
    named = rf.two_sample_test(frame, frame + 1, permutations=19)
    assert (named.witness(frame[["b", "a"]]).values == named.witness(frame).values).all()
    assert pickle.loads(pickle.dumps(named)).kernels[0].pvalue == named.kernels[0].pvalue and hash(named.kernels[0])
    with pytest.raises(ValueError, match='`kernels` must be "auto" or a list in a test of few points that has a witness'):
        rf.two_sample_test(x, x + 1, permutations=19, kernels="energy").witness(x)
