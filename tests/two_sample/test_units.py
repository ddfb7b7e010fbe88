"""Tests of points that belong together, of points with weights, and of differences that are large enough to matter."""

import itertools

import numpy as np
import pandas
import pytest
import scipy.stats

import rieszflow as rf
from rieszflow.errors import InputError, InputTypeError

ERROR = 1e-6
PARTS = pytest.mark.filterwarnings("ignore::rieszflow.Notice")


def patients(g, many, of="p"):
    """Draw patients with a level of their own and up to 12 visits: columns level and noise, and the patient of every row."""
    counts = g.integers(1, 13, many)
    who = np.repeat([f"{of}{k:03}" for k in range(many)], counts)
    return np.stack([np.repeat(g.normal(size=many), counts) + 0.1 * g.normal(size=len(who)), g.normal(size=len(who))], 1), who


def test_whole_groups_are_permuted():
    """Levels of patients make single rows far too sure; with groups p-values are uniform, as many as patients allow."""
    p, without = [], []
    for k in range(100):
        g = np.random.default_rng(k)
        (x, of_x), (y, of_y) = patients(g, 30), patients(g, 40, "q")
        order = g.permutation(len(x))
        found = rf.two_sample_test(x[order], y, groups=(of_x[order], of_y), slices=2, permutations=99, seed=k)
        assert found.blocks == found.tested == (30, 40) and found.method == "sliced"
        p.append(found.pvalue)
        without.append(rf.two_sample_test(x, y, slices=2, permutations=99, seed=k).pvalue)
    for level in (0.05, 0.1, 0.3, 0.5):
        count, binomial = sum(v <= level for v in p), scipy.stats.binom(100, level)
        assert binomial.cdf(count) > ERROR and binomial.sf(count - 1) > ERROR
    assert np.mean(np.array(without) <= 0.05) > 0.5


@PARTS
@pytest.mark.parametrize("kernels", ["energy", "auto"])
def test_weighted_points_are_groups_of_copies(kernels):
    """Whole weights count as copies that stay together, in all 126 splits. Frequencies depend on the points that are drawn, so
    energy distances err by 2 %, and the p-values of splits that are nearly as far by a few places."""
    apart = []
    for k in range(10):
        g = np.random.default_rng(k)
        x, y, a, b = g.normal(size=(4, 2)), g.normal(size=(5, 2)) + k / 5, g.integers(1, 4, 4), g.integers(1, 4, 5)
        options = {"slices": 8, "seed": k, "kernels": kernels}
        copies = (np.repeat(np.arange(4), a), np.repeat(np.arange(5) + 4, b))
        weighted = rf.two_sample_test(x, y, x_weights=a / 7, y_weights=b / 7, **options)
        grouped = rf.two_sample_test(np.repeat(x, a, 0), np.repeat(y, b, 0), groups=copies, **options)
        assert weighted.permutations == grouped.permutations == 126
        apart.append(abs(weighted.pvalue - grouped.pvalue))
        assert weighted.y.distance(weighted.x) == pytest.approx(grouped.y.distance(grouped.x), rel=0.05)
    assert kernels == "auto" or np.mean(apart) < 0.06  # others have other widths, too


@PARTS
def test_groups_of_several_sizes_are_split_in_all_ways():
    """Against the energy distance of all 20 splits of six groups; it is far from that of other splits."""
    for k in range(10):
        g = np.random.default_rng(k)
        sizes, z = g.integers(1, 9, 6), g.normal(size=(6, 1)) * 3
        parts = [z[j] + 0.01 * g.normal(size=(sizes[j], 1)) for j in range(6)]
        found = []
        for chosen in itertools.combinations(range(6), 3):
            others = [j for j in range(6) if j not in chosen]
            found.append(rf.mmd2(np.concatenate([parts[j] for j in chosen]), np.concatenate([parts[j] for j in others])))
        apart = np.array(found) / max(found) - found[0] / max(found)
        least, most = (apart > 0.15).mean(), (apart > -0.15).mean()
        labels = np.repeat(np.arange(6), sizes)
        first = sizes[:3].sum()
        test = rf.two_sample_test(
            np.concatenate(parts[:3]),
            np.concatenate(parts[3:]),
            groups=(labels[:first], labels[first:]),
            kernels="energy",
            slices=1,
        )
        assert test.permutations == 20 and least <= test.pvalue <= most


def test_groups_are_columns_of_tables():
    g = np.random.default_rng(0)
    (x, of_x), (y, of_y) = patients(g, 80), patients(g, 90, "q")
    a, b = (pandas.DataFrame({"who": who, "level": z[:, 0], "noise": z[:, 1]}) for z, who in ((x, of_x), (y, of_y)))
    found = rf.two_sample_test(a, b, groups="who", slices=2)
    again = rf.two_sample_test(a[["level", "noise"]], b[["level", "noise"]], groups=(a.who, list(b.who)), slices=2)
    assert found.pvalue == again.pvalue > 0.05 and found.x.names == ["level", "noise"] and found.blocks == (80, 90)
    shifted = rf.two_sample_test(a, b.assign(level=b.level + 1), groups="who", slices=2)
    assert (
        shifted.pvalue <= 0.01
        and shifted.standard_error > 3 * rf.two_sample_test(a[["noise"]], b[["noise"]], slices=2).standard_error
    )


def test_weighted_samples_are_reweighted():
    """Weights that undo a difference are invisible to a test for one distribution; weights that make one are seen."""
    g = np.random.default_rng(1)
    x, y = g.normal(size=(1500, 2)), g.normal(size=(1200, 2))
    w = np.where(x[:, 0] > 0, 3.0, 1.0)
    assert rf.two_sample_test(x, y, x_weights=w, y_weights=np.ones(1200)).pvalue == 0.001
    v = np.where(y[:, 0] > 0, 3.0, 1.0)
    found = rf.two_sample_test(x, y, x_weights=w, y_weights=v)
    assert found.pvalue > 0.05 and found.confidence_interval[0] < 0 < found.confidence_interval[1]


@PARTS
def test_weights_have_no_unit_and_may_be_zero():
    g = np.random.default_rng(4)
    x, y, a, b = g.normal(size=(300, 2)), g.normal(size=(200, 2)) + 0.5, g.random(300), g.random(200)
    found = [rf.two_sample_test(x, y, x_weights=u * a, y_weights=u * b, slices=4) for u in (1.0, 2.0**-300, 2.0**300)]
    assert len({(v.pvalue, v.standard_error) for v in found}) == 1 and found[0].pvalue <= 0.01
    two = np.array([1.0, 1, 0, 0, 0])
    few = rf.two_sample_test(50 * x[:5], 50 * x[5:10], x_weights=two, y_weights=two, slices=4)
    assert few.pvalue < 1
    with pytest.raises(InputError, match="`y_weights` must be positive for at least two points, got one"):
        rf.two_sample_test(x[:5], y[:4], x_weights=np.ones(5), y_weights=np.eye(4)[0])


@PARTS
@pytest.mark.parametrize("kind", ["groups", "weights"])
def test_errors_of_blocks_of_unequal_mass(kind):
    """Groups of 1 to 30 rows with a level of their own, or weights of which 80 % are zero: errors within a factor of 1.6."""
    statistics, errors = [], []
    for k in range(25):
        g = np.random.default_rng(k)
        if kind == "groups":
            labels = [np.repeat(np.arange(64) + first, g.integers(1, 31, 64)) for first in (0, 64)]
            levels = g.normal(size=128) + np.repeat([0, 1], 64)
            x, y = (levels[of][:, None] + 0.2 * g.normal(size=(len(of), 1)) for of in labels)
            found = rf.two_sample_test(x, y, groups=tuple(labels), slices=1, permutations=9, seed=k)
        else:
            x, y = g.normal(size=(300, 1)), g.normal(size=(300, 1)) + 1
            a, b = (g.random((2, 300)) < 0.2) * 1.0
            found = rf.two_sample_test(x, y, x_weights=a, y_weights=b, slices=1, permutations=9, seed=k)
        statistics.append(found.statistic)
        errors.append(found.standard_error)
    assert 1 / 1.6 < np.mean(errors) / np.std(statistics) < 1.6


def test_the_effect_size_is_the_energy_coefficient():
    g = np.random.default_rng(2)
    x, y = g.normal(size=(900, 1)), g.normal(size=(800, 1)) + 1
    # For Z = X − Y ~ N(−1, 2), 2E|Z| − 2E|X − X'| over 2E|Z|.
    mean = lambda m: 2**0.5 * np.sqrt(2 / np.pi) * np.exp(-(m**2) / 4) + m * (1 - 2 * scipy.stats.norm.cdf(-m / 2**0.5))  # noqa: E731
    truth = 1 - mean(0) / mean(1)
    for points in ((x, y), (np.repeat(x, 2, 0), np.repeat(y, 2, 0))):  # exact, sliced
        found = rf.two_sample_test(*points)
        assert found.effect_size == pytest.approx(truth, rel=0.15)
        assert found.pvalue_above(0) < 1e-6 and found.pvalue_above(truth / 2) < 0.01
        assert 0.01 < found.pvalue_above(truth) < 0.99 and found.pvalue_above(2 * truth) > 0.99
        error = found.effect_size / found.statistic * found.standard_error
        assert found.pvalue_above(found.effect_size - 1.9622 * error) == pytest.approx(0.025, abs=3e-3)
    same = rf.two_sample_test(np.ones((20, 1)), np.ones((20, 1)))
    assert same.effect_size == 0 and same.pvalue_above(0) == 1


def test_levels_of_large_samples_that_hardly_differ():
    """A shift of 0.03 among 40,000 points is significant, and not larger than one that matters."""
    g = np.random.default_rng(3)
    found = rf.two_sample_test(g.normal(size=(40_000, 2)), g.normal(size=(40_000, 2)) + 0.03, slices=16)
    assert found.pvalue == 0.001 and found.pvalue_above(0.001) > 0.9


def test_what_is_refused():
    x, y = np.zeros((6, 2)), np.ones((5, 2))
    a, b = list("aabbcc"), list("ddeff")
    frame = pandas.DataFrame({"g": a, "v": range(6)})
    for options, error, says in (
        ({"groups": 5}, InputTypeError, "`groups` must be the name of a column or a pair of sequences of labels, got 5"),
        ({"groups": a}, InputTypeError, "`groups` must be the name of a column or a pair"),
        ({"groups": (a, b[:3])}, InputError, "`groups` must have one label for each of 5 points, got 3 labels"),
        ({"groups": (a, list("ccdde"))}, InputError, "`groups` must be in one sample each, got 'c' in both"),
        ({"x_weights": np.array([1, *[1e-20] * 5]), "y_weights": np.ones(5)}, InputError, "got one that outweighs the others"),
        ({"groups": (a, ["d"] * 5)}, InputError, "`groups` must have at least two groups in y, got 'd' only"),
        ({"groups": "g"}, InputError, "since x is not a table, got the name 'g'"),
        ({"x_weights": np.ones(6)}, InputError, "`y_weights` must be given if the other sample has weights, got None"),
        ({"y_weights": np.ones(5)}, InputError, "`x_weights` must be given if the other sample has weights, got None"),
        ({"x_weights": np.ones(6), "y_weights": np.ones(4)}, InputError, r"`y_weights` must have shape \(5,\)"),
        (
            {"x_weights": -np.ones(6), "y_weights": np.ones(5)},
            InputError,
            "`x_weights` must be finite, non-negative and not all",
        ),
    ):
        with pytest.raises(error, match=says):
            rf.two_sample_test(x, y, **options)
    with pytest.raises(InputError, match="`groups` must be in one sample each, got 'a' in both"):
        rf.two_sample_test(frame, frame, groups="g")
    with pytest.raises(InputError, match="`x_weights` must be None unless x is one tensor or array of points"):
        rf.two_sample_test(frame[["v"]], frame[["v"]], x_weights=np.ones(6), y_weights=np.ones(6))
    with pytest.raises(InputError, match="`effect_size` must be a non-negative number, got -1"):
        rf.two_sample_test(x, y, permutations=9).pvalue_above(-1)
