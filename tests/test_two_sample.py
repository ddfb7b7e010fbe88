"""The tests of equal distributions: calibrated under the null, as powerful as brute force, and their numbers right.

Counts of rejections are held against the binomial distribution with an error probability of 1e-6 a line.
"""

import numpy as np
import pytest
import scipy.stats
import torch

import rieszflow as rf
from rieszflow import metrics

ERROR = 1e-6


def generator(seed):
    return torch.Generator().manual_seed(seed)


def rejected(p_values, level):
    """Whether as few or as many p-values at or below the level are believable."""
    count = sum(p <= level for p in p_values)
    law = scipy.stats.binom(len(p_values), level)
    return law.cdf(count), law.sf(count - 1)


@pytest.mark.parametrize(("n", "m"), [(100, 120), (20, 150)])
def test_p_values_are_uniform_under_the_null(n, m):
    p = []
    for k in range(100):
        g = generator(k)
        x, y = torch.randn(n, 3, generator=g), torch.randn(m, 3, generator=g)
        p.append(rf.two_sample_test(x, y, slices=8, permutations=99, seed=k).p_value)
    for level in (0.05, 0.1, 0.3, 0.5, 0.8):
        assert min(rejected(p, level)) > ERROR
    assert min(p) >= 0.01


def test_drift_p_values_are_nearly_uniform_under_the_null():
    """Approximate: 200 points against 1,000, where the reference's own noise counts. Levels may be off by a quarter."""
    p = []
    for k in range(100):
        g = generator(k)
        reference = rf.SliceSketch.of(torch.randn(1000, 3, generator=g), slices=8, seed=k)
        p.append(rf.drift_test(torch.randn(200, 3, generator=g), reference, 99, seed=k).p_value)
    for level in (0.1, 0.3, 0.5):
        assert rejected(p, 0.75 * level)[0] > ERROR and rejected(p, 1.25 * level)[1] > ERROR


def test_power_is_that_of_brute_force():
    """The same 40 pairs, level 0.1: the two tests may part ways where a p-value is near the level, as often either way."""
    ours, brute = [], []
    for k in range(40):
        g = generator(k)
        x, y = torch.randn(100, 5, generator=g), torch.randn(120, 5, generator=g) + 0.2
        ours.append(rf.two_sample_test(x, y, slices=128, permutations=99, seed=k).p_value <= 0.1)
        brute.append(metrics.energy_p_value(x, y, 99, seed=k) <= 0.1)
    assert 0.5 < np.mean(brute) < 0.97  # else the comparison says nothing
    only_brute = sum(b and not o for o, b in zip(ours, brute, strict=True))
    apart = sum(b != o for o, b in zip(ours, brute, strict=True))
    assert apart <= 12
    assert scipy.stats.binom(max(apart, 1), 0.5).sf(only_brute - 1) > 1e-3


def test_distance_and_interval():
    """Of 24 intervals as many hold D², known from large samples, as 95 % leave at least (binomial, error 1e-5)."""
    g = generator(0)
    shift = torch.tensor([0.5, 0.0, 0.0])
    truth = rf.mmd2(torch.randn(6000, 3, generator=g), torch.randn(6000, 3, generator=g) + shift, statistic="U").item()
    hits, drift_hits = 0, 0
    for _ in range(24):
        x, y = torch.randn(300, 3, generator=g), torch.randn(400, 3, generator=g) + shift
        found = rf.two_sample_test(x, y, slices=96, permutations=9)
        hits += found.interval[0] <= truth <= found.interval[1]
        drift = rf.drift_test(x, found.y, 9)
        drift_hits += drift.interval[0] <= truth <= drift.interval[1]
    least = scipy.stats.binom(24, 0.95).ppf(1e-5)
    assert hits >= least and drift_hits >= least
    want = rf.sliced_mmd2(x, y, slices=96, statistic="U", engine="sort", generator=generator(0)).item()
    # the bins' error on values is relative to the V-statistic, which is larger by the noise
    noise = rf.mmd2(x, y).item() - rf.mmd2(x, y, statistic="U").item()
    assert found.distance == pytest.approx(want, abs=2e-3 * (want + noise))
    assert drift.distance == pytest.approx(found.distance, rel=1e-6)


def test_every_point_counts_in_the_distance_and_blocks_are_of_equal_size():
    g = generator(0)
    x, y = torch.randn(1000, 2, generator=g), torch.randn(67, 2, generator=g)
    found = rf.two_sample_test(x, y, slices=8, permutations=9)
    assert found.blocks == (256, 33) and found.tested == (512, 66)
    assert (found.x.n, found.y.n) == (1000, 67)
    again = rf.two_sample_test(list(x.split(100)), y.double(), slices=8, permutations=9)
    assert again.tested == found.tested and again.x.n == 1000
    assert rf.two_sample_test(x[:2], y[:3], slices=8, permutations=9).blocks == (2, 3)


def test_seed_decides():
    g = generator(0)
    x, y = torch.randn(200, 2, generator=g), torch.randn(200, 2, generator=g)
    one, two, other = (rf.two_sample_test(x, y, slices=8, permutations=99, seed=s) for s in (1, 1, 2))
    assert (one.p_value, one.distance, one.interval) == (two.p_value, two.distance, two.interval)
    assert one.distance != other.distance


def test_outliers_decide_nothing():
    g = generator(0)
    x, y = torch.randn(300, 3, generator=g), torch.randn(300, 3, generator=g)
    x[0] = 1e8
    found = rf.two_sample_test(x, y, slices=16, permutations=99)
    assert found.p_value > 0.02 and np.isfinite(found.interval).all()


def test_bad_input():
    x = torch.randn(50, 3, generator=generator(0))
    for arguments, says in (
        ((x, x[:, :2]), "y: points of dimension d = 2 given, x has d = 3"),
        ((x, x[:1]), "y: one point given"),
        ((x[:1], x), "x: one point given"),
        ((x, x, 16, 0), "permutations: 0 given"),
        ((x, x, 0), "slices: 0 given"),
    ):
        with pytest.raises(ValueError, match=says):
            rf.two_sample_test(*arguments)
    sketch = rf.SliceSketch.of(x, slices=8)
    with pytest.raises(TypeError, match="reference: Tensor given"):
        rf.drift_test(x, x)
    with pytest.raises(ValueError, match="reference: a sketch of two or more"):
        rf.drift_test(x, sketch.empty())
    with pytest.raises(ValueError, match="x: points of dimension d = 2"):
        rf.drift_test(x[:, :2], sketch)
    with pytest.raises(ValueError, match="can be passed over once"):
        rf.two_sample_test(iter([x]), x)


def test_drift_of_points_with_more_digits_than_the_reference():
    """Whatever dtypes meet, equal points are in equal bins: the same numbers give the same p-value, to the bit."""
    g = np.random.default_rng(0)
    x, y = g.integers(0, 5, (300, 2)).astype(np.float32), g.integers(0, 5, (900, 2)).astype(np.float32)
    found = set()
    for mine in (x, x.astype(np.float64)):
        for theirs in (y, y.astype(np.float64)):
            found.add(rf.drift_test(mine, rf.SliceSketch.of(theirs, slices=8), 99).p_value)
    assert len(found) == 1
