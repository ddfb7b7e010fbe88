"""The monitor of a stream of batches: false alarms, alarms, the independence of its p-values, and its files."""

import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch

import rieszflow as rf
from rieszflow._infra.files import load_tensors, save_tensors
from rieszflow.errors import FileError
from rieszflow.two_sample import drift as module
from rieszflow.two_sample.octaves import fit_octaves


def reference(n=400, d=2, seed=0, **options):
    return rf.SliceSketch.from_points(np.random.default_rng([seed, 9]).normal(size=(n, d)), **{"slices": 2, **options})


@pytest.fixture
def small_pool(monkeypatch):
    monkeypatch.setattr(module, "_POOL_ROWS", 200)


def test_p_values_of_a_stream_are_independent_and_uniform(small_pool):
    """A reference that all batches share would make them alike: the variance of a stream's mean would be much larger.

    Of 25 streams of 8 batches, the variance of the means of Φ⁻¹(p) is 1/8, and 24 times its estimate over 1/8 is χ² with 24
    degrees of freedom; 1e-4 on either side, and a little more because p-values have 99 values only.
    """
    scores = []
    for k in range(25):
        monitor = rf.DriftMonitor(reference(60, seed=k), permutations=99, seed=k)
        g = np.random.default_rng([k, 1])
        p = np.array([monitor.update(g.normal(size=(60, 2))).pvalue for _ in range(8)])
        scores.append(scipy.stats.norm.ppf(np.minimum(p - 0.005, 0.995)))
    scores = np.array(scores)
    assert scipy.stats.kstest(scores.ravel(), "norm").pvalue > 1e-5
    low, high = scipy.stats.chi2(24).ppf([1e-4, 1 - 1e-4]) / 24
    assert 0.8 * low < 8 * scores.mean(1).var(ddof=1) < 1.2 * high


def test_evidence_is_the_capital_of_bets_from_every_batch_on(monkeypatch):
    """S_t = Σ_j Π_{s ≥ j} f(p_s) / (j(j + 1)), written as a sum over starts; f has mean one."""
    p = iter([0.2, 0.001, 1.0, 0.03, 0.5])
    monitor, seen = rf.DriftMonitor(reference(), permutations=19), []
    f = lambda p: 0.5 if p == 1 else (1 - p + p * math.log(p)) / (p * math.log(p) ** 2)  # noqa: E731
    for k, value in enumerate(p, 1):
        monkeypatch.setattr(module, "_pooled_test", lambda *args, value=value: type("Test", (), {"pvalue": value}))
        step = monitor.update(np.zeros((2, 2)))
        seen.append(f(value))
        wanted = sum(math.prod(seen[j - 1 :]) / (j * (j + 1)) for j in range(1, k + 1))
        assert step.evidence == pytest.approx(wanted) and step.pvalue == value and step.alarm == (wanted >= 100)
    grid = (np.arange(999) + 1) / 999
    assert np.mean([f(v) for v in grid]) <= 1


def test_drift_is_noticed_soon_and_nothing_before():
    monitor, g = rf.DriftMonitor(reference(2000, seed=3), permutations=199), np.random.default_rng(5)
    before = [monitor.update(g.normal(size=(150, 2))).alarm for _ in range(15)]
    after = [monitor.update(g.normal(size=(150, 2)) + 1).alarm for _ in range(8)]
    assert not any(before) and any(after) and monitor.batches == 23
    assert monitor.test.kernels[0].pvalue == monitor.test.pvalue


def test_a_monitor_goes_on_from_its_file(tmp_path, small_pool):
    import pandas

    frame = lambda seed: pandas.DataFrame(np.random.default_rng(seed).normal(size=(90, 2)), columns=["b", "a"])  # noqa: E731
    monitor = rf.DriftMonitor(rf.SliceSketch.from_points(frame(0)), permutations=19, alpha=0.2)
    steps = []
    for k in range(4):
        monitor.save(tmp_path / "a.monitor")
        loaded = rf.DriftMonitor.load(tmp_path / "a.monitor")
        assert (loaded.scale, loaded.settings.names, loaded.alpha, loaded.batches) == ("columns", ("b", "a"), 0.2, k)
        steps.append((monitor.update(frame(k + 1)), loaded.update(frame(k + 1)[["a", "b"]])))
        assert steps[-1][0] == steps[-1][1]
    assert len(monitor.pool) == 200


def test_bins_give_the_features_of_points_that_are_not_kept():
    """A point is at most half a bin from where its feature is taken: an angle of at most 1/32 at widths of 16 bins or more.

    Of the points in one bin these errors have a mean near 0; outliers lie at the means of few points in wide bins.
    """
    g = np.random.default_rng(4)
    points = 100 + g.normal(size=(6000, 3)) * np.array([1, 2, 4])
    points[:5] += 1000
    sketch = rf.SliceSketch.from_points(points, slices=16, reservoir_size=1000, scale="none")
    kept = sketch.reservoir.numpy()
    others = points[~(points[:, None, 0] == kept[:, 0]).any(1)]
    octaves = fit_octaves(points[:2048], 6000, np.random.default_rng(5), slices=sketch.plan.dense_slices())
    own = sketch.empty().update(torch.from_numpy(kept))
    assert len(others) == 5000 and [len(part.first) for part in octaves] == [1, 3]
    for part in octaves:
        sums = np.zeros((2, part.widths.shape[1], 2, part.frequencies.shape[1]))
        part.add_rest(sketch, own, sums[0])
        part.add(others, np.ones(5000), np.array([0, 5000]), sums[1:])
        bins = max(float((1 / grid.inverse).max()) / float(grid.scale) for grid in sketch.plan.grids)
        wide = (part.widths > 16 * bins).all(0)
        assert wide.sum() >= 4 and np.abs(sums[0] - sums[1])[wide].max() < 5000 / 32 / 10


@pytest.mark.parametrize("n", [300, 3000])
def test_single_points_are_tested(n):
    """The statistic is 2E‖x − Y‖ − E‖Y − Y′‖; on slices of more points, bias 1/n, within four standard errors."""
    sketch, points = reference(n, seed=1, slices=64), np.random.default_rng([1, 9]).normal(size=(n, 2))
    apart, within = (scipy.spatial.distance.cdist(v, points).sum() / n for v in (np.array([[3.0, 4.0]]), points))
    found = rf.drift_test(np.array([[3.0, 4.0]]), sketch)
    assert found.pvalue == 1 / (1 + found.blocks[1]) and found.blocks == (1, 300 if n == 300 else 512)
    assert abs(found.statistic - (2 * apart - within / (n - 1))) < (1e-9 if n == 300 else 4 * found.standard_error)
    assert (found.witness(points).standard_errors > 0).all() and found.pvalue_above(0.1) < 0.05
    g = np.random.default_rng(2)
    p = [rf.drift_test(g.normal(size=(1, 2)), sketch, permutations=99, seed=k).pvalue for k in range(25)]
    assert scipy.stats.binomtest(sum(v <= 0.1 for v in p), 25, 0.1, "greater").pvalue > 1e-5


def test_a_stream_of_single_points_is_watched():
    monitor, g = rf.DriftMonitor(reference(300)), np.random.default_rng(2)
    steps = [monitor.update(g.normal(size=(1, 2)) + shift).alarm for shift in [0] * 6 + [4] * 12]
    assert not any(steps[:6]) and steps[-1]


def test_bad_monitors_are_refused(tmp_path):
    with pytest.raises(TypeError, match="`reference` must be a SliceSketch, got list"):
        rf.DriftMonitor([1.0])
    with pytest.raises(ValueError, match="`alpha` must be less than 1, got 2"):
        rf.DriftMonitor(reference(), alpha=2)
    with pytest.raises(ValueError, match="`reference` must be a sketch with at least two points in its reservoir"):
        rf.DriftMonitor(reference(reservoir_size=0))
    monitor = rf.DriftMonitor(reference())
    with pytest.raises(ValueError, match="`x` must have points of dimension d = 2, as the reference has, got d = 3"):
        monitor.update(np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"points: must hold points of shape \(n, d\), at least one, got shape"):
        monitor.update(np.zeros((0, 2)))
    assert monitor.batches == 0
    monitor.save(tmp_path / "a.monitor")
    tensors, meta = load_tensors(tmp_path / "a.monitor", module.MONITOR)
    for changed, pool in (
        ({"evidence": -1}, None), ({"evidence": "much"}, None), ({"scale": "rows"}, None), ({"names": ["a"]}, None),
        ({"more": 1}, None), ({"alpha": 3.0}, None), ({"batches": -1}, None),
        ({}, torch.full((3, 2), torch.nan, dtype=torch.float64)), ({}, torch.zeros(3)),
    ):  # fmt: skip
        save_tensors(
            tmp_path / "b.monitor", module.MONITOR, {"pool": tensors["pool"] if pool is None else pool}, {**meta, **changed}
        )
        with pytest.raises(FileError, match="damaged: its parts do not fit together"):
            rf.DriftMonitor.load(tmp_path / "b.monitor")
