"""The tests of equal distributions: calibrated under the null, as powerful as brute force, and their numbers right.

Counts of rejections are held against the binomial distribution with an error probability of 1e-6 a line.
"""

import itertools
import pickle
import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from problems import generator
from torch.utils._python_dispatch import TorchDispatchMode

import rieszflow as rf
from rieszflow import metrics
from rieszflow._infra.files import load_tensors, save_tensors
from rieszflow.sketch.counts import SKETCH
from rieszflow.two_sample import permutations as machine

ERROR = 1e-6


@pytest.fixture(params=["exact", "sliced"])
def method(request, monkeypatch):
    """Both ways to test few points: by the distances of all pairs, and as more points are tested."""
    if request.param == "sliced":
        monkeypatch.setattr(machine, "_FEW_POINTS", 0)
    return request.param


@pytest.fixture
def sliced(monkeypatch):
    monkeypatch.setattr(machine, "_FEW_POINTS", 0)


def rejected(pvalues, level):
    """Whether as few or as many p-values at or below the level are believable."""
    count = sum(p <= level for p in pvalues)
    binomial = scipy.stats.binom(len(pvalues), level)
    return binomial.cdf(count), binomial.sf(count - 1)


@pytest.mark.parametrize(("n", "m"), [(100, 120), pytest.param(20, 150, marks=pytest.mark.slow)])
def test_p_values_are_uniform_under_the_null(method, n, m):
    p = []
    for k in range(100):
        g = generator(k)
        x, y = torch.randn(n, 3, generator=g), torch.randn(m, 3, generator=g)
        p.append(rf.two_sample_test(x, y, slices=8, permutations=99, seed=k).pvalue)
    for level in (0.05, 0.1, 0.3, 0.5, 0.8):
        assert min(rejected(p, level)) > ERROR
    assert min(p) >= 0.01


def test_drift_p_values_are_nearly_uniform_under_the_null():
    """200 points against 1,000, of which 300 are kept: the others do not make p-values wrong."""
    p = []
    for k in range(100):
        g = generator(k)
        reference = rf.SliceSketch.from_points(torch.randn(1000, 3, generator=g), slices=8, seed=k, reservoir_size=300)
        p.append(rf.drift_test(torch.randn(200, 3, generator=g), reference, permutations=99, seed=k).pvalue)
    for level in (0.1, 0.3, 0.5):
        assert rejected(p, 0.75 * level)[0] > ERROR and rejected(p, 1.25 * level)[1] > ERROR
        assert min(rejected(p, level)) > ERROR


def flags(p):
    return lambda g, n: (g.random((n, 1)) < p) * 1.0


# Where the spread of one sample says little of the distribution's: hardly any spread, few points, no moments, unequal sizes.
HARD = {
    "rare flag": (flags(0.02), 100, 100),
    "mostly constant": (flags(0.005), 70, 100),
    "two coins": (flags(0.5), 2, 20),
    "three against four": (lambda g, n: g.normal(size=(n, 1)), 3, 4),
    "Cauchy": (lambda g, n: g.standard_cauchy((n, 1)), 5, 20),
    "Pareto without a mean": (lambda g, n: g.pareto(0.5, (n, 1)), 2, 40),
    "one-hot": (lambda g, n: np.eye(4)[g.integers(0, 4, n)], 20, 5),
}


def both(x, y, permutations=99, seed=0, slices=4):
    """p-values of the two tests."""
    slices = 1 if x.shape[1] == 1 else slices
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rf.Notice)
        one = rf.two_sample_test(x, y, slices=slices, permutations=permutations, seed=seed)
        other = rf.drift_test(x, rf.SliceSketch.from_points(y, slices=slices, seed=seed), permutations=permutations, seed=seed)
    return one.pvalue, other.pvalue


@pytest.mark.parametrize("case", HARD)
def test_no_distribution_is_rejected_more_often_than_the_level(method, case):
    """Both tests, 60 pairs, 19 permutations or 99: 15 rejections have a probability below ERROR at level 0.05."""
    draw, n, m = HARD[case]
    p = []
    for k in range(60):
        g = np.random.default_rng([k, n, m])
        p.append(both(draw(g, n), draw(g, m), 99 if k % 2 else 19, k, slices=2))
    for each in zip(*p, strict=True):
        assert rejected(each, 0.05)[1] > ERROR
        assert rejected(each, 0.2)[1] > ERROR


def test_data_made_with_the_same_seed_are_not_the_directions():
    """Else x would lie farther out on them than y does, and p-values would be too small. A sketch of that seed has them."""
    x, y = (torch.randn(n, 10, generator=generator(k)) for k, n in ((3, 5), (4, 20)))
    test = rf.two_sample_test(x, y, slices=5, permutations=99, directions="independent", seed=3)

    def nearest(sketch):
        xi = torch.nn.functional.normalize(sketch.plan.grids[0].directions.project(torch.eye(10)))
        return (xi @ torch.nn.functional.normalize(x).T).abs().max()

    assert nearest(test.x) < 0.99 and nearest(rf.SliceSketch(x, slices=5, directions="independent", seed=3)) > 0.9999


def test_what_differs_is_rejected_in_hard_cases_too(method):
    """So that p = 1 for everything would not do. Each has a probability far below 1e-6 of going well under the null."""
    g = np.random.default_rng(1)
    for x, y in (
        (flags(0.3)(g, 100), flags(0.02)(g, 150)),
        (g.standard_cauchy((40, 1)) + 5, g.standard_cauchy((100, 1))),
        (g.lognormal(size=(100, 1)), g.lognormal(1, size=(300, 1))),
        (np.zeros((5, 1)), np.ones((40, 1))),
        (np.eye(4)[g.integers(0, 2, 40)], np.eye(4)[g.integers(0, 4, 40)]),
        (np.full((2, 1), 50.0), g.normal(size=(400, 1))),
    ):
        assert max(both(x, y, 199)) <= 0.01
    assert both(np.zeros((5, 1)), np.ones((40, 1))) == (0.01, 0.01)  # the least that 99 permutations can give
    assert both(np.full((7, 3), 0.1), np.full((90, 3), 0.1)) == (1, 1)  # rounding is no difference


def test_a_batch_without_spread_is_not_drift_by_that_alone():
    """1,000 zeros of a flag with P(1) = 0.001 are had one time in three; of one with P(1) = 0.05, one time in 10^22."""
    g = np.random.default_rng(0)
    x = np.zeros((1000, 1))
    for chance, low, high in ((0.001, 0.1, 1), (0.05, 0, 0.01)):
        reference = rf.SliceSketch.from_points(flags(chance)(g, 20_000), slices=1)
        assert reference.reservoir.sum() > 0
        assert low <= rf.drift_test(x, reference, permutations=199).pvalue <= high


@pytest.mark.parametrize(("n", "m"), [(2, 3), (3, 3), (4, 5)])
def test_few_points_are_split_in_all_ways(method, n, m):
    """p is the share of all splits whose MMD² is as large, by brute force. 2,048 frequencies, of which a sum over octaves uses
    each with one weight, err by 1/√2048 = 0.022 of a distance, and MMD² by at most four times the largest distance times that.
    If another split is as near as both errors, p may be either; flags are far apart, or equal."""
    clear = 0
    for k in range(8):
        g = np.random.default_rng([k, n, m])
        z = g.normal(size=(n + m, 1)) if k % 2 else g.integers(0, 2, (n + m, 1)) * 1.0
        found = []
        for chosen in itertools.combinations(range(n + m), n):
            others = [j for j in range(n + m) if j not in chosen]
            found.append(rf.mmd2(z[list(chosen)], z[others]))
        apart = np.array(found) - found[0]
        off = 8 * (2 / 2048**0.5 if method == "sliced" else 0) * (z.max() - z.min()) * float(k % 2) + 1e-12
        exact, least, most = ((apart >= limit).mean() for limit in (-1e-12, off, -off))
        told = ((np.abs(apart) < 1e-12) | (np.abs(apart) > off)).all()
        clear += told
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rf.Notice)
            reference = rf.SliceSketch(z, slices=1).update(z[n:])
            for test in (
                rf.two_sample_test(z[:n], z[n:], slices=1, kernels="energy"),
                rf.drift_test(z[:n], reference, kernels="energy"),
            ):
                assert test.permutations == len(found) and test.blocks == (n, m)
                # The split itself, and its mirror image, are ties.
                assert max(least, 1 / len(found)) - 1e-12 <= test.pvalue <= most + 1e-12
                if told:
                    assert test.pvalue == pytest.approx(exact, abs=1e-12)
    assert clear >= 4


def test_a_p_value_that_cannot_be_small_says_so():
    x = np.arange(2.0)[:, None]
    with pytest.warns(rf.Notice, match=r"p-value: cannot be less than 0.333.*6 ways to split"):
        rf.two_sample_test(x, x + 10, slices=1)
    with pytest.warns(rf.Notice, match=r"p-value: cannot be less than 0.1,.*number of permutations is 9"):
        rf.two_sample_test(np.arange(60.0)[:, None], np.arange(60.0)[:, None], slices=1, permutations=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error", rf.Notice)
        rf.two_sample_test(x, np.arange(40.0)[:, None], slices=1)
        rf.two_sample_test(x, np.arange(40.0)[:, None], slices=1, permutations=19)


def test_intervals_of_few_or_equal_points_are_not_too_sure(method):
    """Blocks of one value have no spread, and that of their distance is no nought: a flag of 0.02 in 100 points, all 0 in one
    of eight. At least as many intervals hold D² = 0 as 95 % leave (binomial, error 1e-6), with 5 points as with 100."""
    for draw, n, m in ((flags(0.02), 100, 100), (lambda g, n: g.normal(size=(n, 1)), 5, 5)):
        hits = 0
        for k in range(40):
            g = np.random.default_rng([k, n])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rf.Notice)
                low, high = rf.two_sample_test(draw(g, n), draw(g, m), slices=1, permutations=1, seed=k).confidence_interval
            hits += low <= 0 <= high
        assert hits >= scipy.stats.binom(40, 0.95).ppf(ERROR)


def test_a_reference_without_a_sample_is_refused(tmp_path):
    x = torch.randn(50, 3, generator=generator(0))
    sketch = rf.SliceSketch.from_points(x, slices=8)
    bare = rf.SliceSketch.from_points(x, slices=8, reservoir_size=0)
    with pytest.raises(ValueError, match="`reference` must be a sketch with at least two points in its reservoir"):
        rf.drift_test(x, bare)
    with pytest.warns(rf.Notice, match="keeps no sample"):
        total = sketch + bare
    with pytest.raises(ValueError, match="`reference` must be a sketch with at least two points in its reservoir"):
        rf.drift_test(x, total)
    # A file of a version that kept none.
    sketch.save(tmp_path / "a.sketch")
    tensors, meta = load_tensors(tmp_path / "a.sketch", SKETCH)
    tensors = {name: t for name, t in tensors.items() if not name.startswith("sample")}
    meta = {name: v for name, v in meta.items() if name not in ("sample", "seen")}
    save_tensors(tmp_path / "old.sketch", SKETCH, tensors, meta)
    old = rf.SliceSketch.load(tmp_path / "old.sketch")
    assert old.reservoir is None and old.distance(x) == sketch.distance(x)
    with pytest.raises(ValueError, match="`reference` must be a sketch with at least two points in its reservoir"):
        rf.drift_test(x, old)
    assert len(old.empty().update(x).reservoir) == 50  # what is counted from here on is kept
    with pytest.raises(ValueError, match="without weights"):
        rf.drift_test(x, sketch.empty().update(x, x_weights=torch.ones(50)))
    for seed in (-1, 1.5):
        with pytest.raises(ValueError, match="seed"):
            rf.drift_test(x, sketch, seed=seed)


def test_power_is_that_of_brute_force(sliced):
    """The same 40 pairs, level 0.1: the two tests may part ways where a p-value is near the level, as often either way."""
    ours, brute = [], []
    for k in range(40):
        g = generator(k)
        x, y = torch.randn(100, 5, generator=g), torch.randn(120, 5, generator=g) + 0.2
        ours.append(rf.two_sample_test(x, y, slices=128, permutations=99, seed=k).pvalue <= 0.1)
        brute.append(metrics.energy_pvalue(x, y, permutations=99, seed=k) <= 0.1)
    assert 0.5 < np.mean(brute) < 0.97  # otherwise the comparison would be trivial
    only_brute = sum(b and not o for o, b in zip(ours, brute, strict=True))
    apart = sum(b != o for o, b in zip(ours, brute, strict=True))
    assert apart <= 12
    assert scipy.stats.binom(max(apart, 1), 0.5).sf(only_brute - 1) > 1e-3


def test_distance_and_interval(method):
    """Of 24 intervals as many hold D², known from large samples, as 95 % leave at least (binomial, error 1e-5)."""
    g = generator(0)
    shift = torch.tensor([0.5, 0.0, 0.0])
    # For Z = X − Y ~ N(shift, 2I), MMD² is 2 (E‖Z‖ − E‖Z − shift‖); its standard error from 400,000 points is 1.2e-4.
    z = 2**0.5 * torch.randn(400_000, 3, generator=g)
    truth = ((z + shift).norm(dim=1) + (z - shift).norm(dim=1) - 2 * z.norm(dim=1)).mean().item()
    hits, drift_hits = 0, 0
    for _ in range(24):
        x, y = torch.randn(300, 3, generator=g), torch.randn(400, 3, generator=g) + shift
        found = rf.two_sample_test(x, y, slices=96, permutations=9)
        hits += found.confidence_interval[0] <= truth <= found.confidence_interval[1]
        drift = rf.drift_test(x, found.y, permutations=9)
        drift_hits += drift.confidence_interval[0] <= truth <= drift.confidence_interval[1]
    least = scipy.stats.binom(24, 0.95).ppf(1e-5)
    assert hits >= least and drift_hits >= least
    want = rf.sliced_mmd2(x, y, slices=96, statistic="U", engine="sort", seed=generator(found.x.seed)).item()
    # the bins' error on values is relative to the V-statistic, which is larger by the noise
    noise = rf.mmd2(x, y).item() - rf.mmd2(x, y, statistic="U").item()
    assert drift.statistic == pytest.approx(want, abs=2e-3 * (want + noise))
    if method == "sliced":
        assert drift.statistic == pytest.approx(found.statistic, abs=2e-3 * (want + noise))
    else:
        assert found.statistic == pytest.approx(rf.mmd2(x.double(), y.double(), statistic="U").item(), rel=1e-12)


def test_every_point_counts_in_the_distance_and_blocks_are_of_equal_size(sliced):
    g = generator(0)
    x, y = torch.randn(1000, 2, generator=g), torch.randn(67, 2, generator=g)
    found = rf.two_sample_test(x, y, slices=8, permutations=9)
    assert found.blocks == (512, 67) and found.tested == (512, 67)
    assert (found.x.n, found.y.n) == (1000, 67)
    again = rf.two_sample_test(list(x.split(100)), y.double(), slices=8, permutations=9)
    assert again.tested == found.tested and again.x.n == 1000
    assert rf.two_sample_test(x[:2], y[:3], slices=8, permutations=9).blocks == (2, 3)


def test_seed_decides():
    g = generator(0)
    x, y = torch.randn(200, 2, generator=g), torch.randn(200, 2, generator=g)
    one, two, other = (rf.two_sample_test(x, y, slices=8, permutations=99, seed=s) for s in (1, 1, 2))
    assert (one.pvalue, one.statistic, one.confidence_interval) == (two.pvalue, two.statistic, two.confidence_interval)
    assert one.pvalue != other.pvalue and one.statistic == other.statistic
    slices = [rf.two_sample_test(x, y, slices=8, permutations=99, seed=s).x.distance(y) for s in (1, 2)]
    assert slices[0] != slices[1]


def test_few_points_are_tested_exactly_and_many_in_slices(monkeypatch):
    """The distances of the first are those of brute force, whatever the scale; sums of 10^4 numbers are good to 1e-12."""
    g = generator(0)
    x, y = torch.randn(90, 3, generator=g, dtype=torch.float64), torch.randn(60, 3, generator=g, dtype=torch.float64) + 0.3
    want = rf.mmd2(x, y, statistic="U").item(), metrics.energy_pvalue(x, y, permutations=99, seed=1)
    for scale in (1.0, 2.0**-600, 2.0**600):
        found = rf.two_sample_test(scale * x, scale * y, permutations=99, seed=1)
        assert (found.method, found.blocks, found.tested) == ("exact", (90, 60), (90, 60))
        assert found.statistic / scale == pytest.approx(want[0], rel=1e-12)
        low, high = found.confidence_interval
        assert low / scale < want[0] < high / scale < 1
    wide = torch.randn(1500, 2, generator=g), torch.randn(600, 2, generator=g)
    assert rf.two_sample_test(*wide, slices=4, permutations=19).method == "sliced"
    monkeypatch.setattr(machine, "_FEW_NUMBERS", 3 * 150 - 1)
    assert rf.two_sample_test(x, y, slices=4, permutations=19).method == "sliced"


def test_the_exact_p_value_is_that_of_brute_force():
    """Permutations come from the same random numbers after the one that seeds the slices: enumerated, all of them count."""
    g = generator(3)
    x, y = torch.randn(5, 2, generator=g).double(), torch.randn(4, 2, generator=g).double() + 1
    assert rf.two_sample_test(x, y, kernels="energy").pvalue == metrics.energy_pvalue(x, y)


def test_sketches_of_an_exact_test_are_made_when_they_are_used(monkeypatch):
    g = generator(0)
    x, y = torch.randn(90, 3, generator=g), torch.randn(60, 3, generator=g)
    found = rf.two_sample_test(x, y, slices=8, permutations=19)
    again = pickle.loads(pickle.dumps(found))
    assert "_sketches" not in found.__dict__ and found == again
    for test in (found, again):
        assert (test.x.n, test.y.n, test.x.slices) == (90, 60, 8) and test.x is test.x
    monkeypatch.setattr(machine, "_FEW_POINTS", 0)
    same = rf.two_sample_test(x, y, slices=8, permutations=19)
    assert found.y.distance(found.x) == same.y.distance(same.x) == again.y.distance(again.x)


class Operations(TorchDispatchMode):
    """The operations of PyTorch that compute something, with the numbers that they return."""

    VIEWS = ("detach", "view", "reshape", "slice", "alias", "expand", "lift_fresh", "_unsafe_view", "squeeze")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and function.overloadpacket.__name__ not in self.VIEWS:
            self.seen.append((function.overloadpacket.__name__, found.numel()))
        return found


def test_few_points_do_not_wait_for_pytorchs_threads():
    """PyTorch shares elementwise operations between threads from 32,768 numbers on, and matrix products as it likes. On a busy
    machine every such operation waits for all threads to get their turn."""
    g = generator(0)
    x, y = torch.randn(1000, 50, generator=g), torch.randn(1000, 50, generator=g)
    with Operations() as operations:
        rf.two_sample_test(x, y, permutations=19)
        rf.pairwise_energy_distance(x, np.arange(1000) % 5, permutations=19)
    assert not [(name, numel) for name, numel in operations.seen if numel >= 32_768 or name in ("mm", "bmm", "addmm", "matmul")]
    with Operations() as operations:
        rf.two_sample_test(x, y, slices=8, permutations=19).x  # noqa: B018
    assert any(name == "mm" for name, _ in operations.seen)  # of the sketch, so the test sees them


def test_pair_distances_keep_their_digits():
    """Near points far from the origin and from the others; equal points are at 0, and at equal distances from the others. What
    a sum of d squares loses, d·2⁻⁵³, and what cancels in 1 − 1/100 of it, is below 1e-13."""
    g = np.random.default_rng(0)
    x = np.concatenate([g.normal(size=(40, 6)), 1e6 + 1e-6 * g.normal(size=(20, 6)), np.ones((3, 6))])
    found, want = machine.pair_distances(x), np.sqrt(((x[:, None] - x) ** 2).sum(-1))
    # The points' own mean is subtracted, which rounds to 2⁻⁵³ of the largest coordinate.
    np.testing.assert_allclose(found, want, rtol=1e-13, atol=4 * 1e6 * 2.0**-53 * np.sqrt(6))
    np.testing.assert_array_equal(found, found.T)
    assert not found[60:, 60:].any()


@pytest.mark.parametrize("N", [3, 256, 700])
def test_squares_of_a_gram_are_its_quadratic_form(N):
    """A sum of N² numbers up to 2 in any order: 1e-12 of N²."""
    g = np.random.default_rng(N)
    matrix, w = g.normal(size=(N, N)), g.normal(size=(5, N))
    matrix = matrix + matrix.T
    want = np.einsum("bi,ij,bj->b", w, matrix, w)
    np.testing.assert_allclose(machine.Gram(matrix, w[0], w[0], 1, 1, 1.0).squares(w), want, atol=1e-12 * N**2)


def test_outliers_decide_nothing():
    g = generator(0)
    x, y = torch.randn(300, 3, generator=g), torch.randn(300, 3, generator=g)
    x[0] = 1e8
    found = rf.two_sample_test(x, y, slices=16, permutations=99)
    assert found.pvalue > 0.02 and np.isfinite(found.confidence_interval).all()


def test_bad_input():
    x = torch.randn(50, 3, generator=generator(0))
    for arguments, settings, says in (
        ((x, x[:, :2]), {}, "all samples must have points of one dimension, got d = 3 in points and d = 2 in points"),
        ((x, x[:1]), {}, "`y` must have at least two points, got one"),
        ((x[:1], x), {}, "`x` must have at least two points, got one"),
        ((x, x), {"permutations": 0}, "`permutations` must be a positive integer, got 0"),
        ((x, x), {"slices": 0}, "`slices` must be a positive integer, got 0"),
    ):
        with pytest.raises(ValueError, match=says):
            rf.two_sample_test(*arguments, **settings)
    sketch = rf.SliceSketch.from_points(x, slices=8)
    with pytest.raises(TypeError, match="`reference` must be a SliceSketch, got Tensor"):
        rf.drift_test(x, x)
    with pytest.raises(ValueError, match="`reference` must be a sketch of two or more"):
        rf.drift_test(x, sketch.empty())
    with pytest.raises(ValueError, match="`x` must have points of dimension d = 3"):
        rf.drift_test(x[:, :2], sketch)
    with pytest.raises(ValueError, match="to be read more than once, got an iterator"):
        rf.two_sample_test(iter([x]), x)


def test_drift_of_points_with_more_digits_than_the_reference():
    """Whatever dtypes meet, equal points are in equal bins: the same numbers give the same p-value, to the bit."""
    g = np.random.default_rng(0)
    x, y = g.integers(0, 5, (300, 2)).astype(np.float32), g.integers(0, 5, (900, 2)).astype(np.float32)
    found = set()
    for mine in (x, x.astype(np.float64)):
        for theirs in (y, y.astype(np.float64)):
            found.add(rf.drift_test(mine, rf.SliceSketch.from_points(theirs, slices=8), permutations=99).pvalue)
    assert len(found) == 1
