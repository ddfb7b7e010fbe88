"""Columns in different units: every column counts, whatever its unit is."""

import warnings

import numpy as np
import pytest
import torch

import rieszflow as rf
from rieszflow.data.dataset import column_spreads

pandas = pytest.importorskip("pandas")


def people(n, seed, shift=0.0, income=1.0):
    """Age in years, income in some currency, and a score whose mean is shifted by `shift` of its standard deviations."""
    r = np.random.default_rng(seed)
    return pandas.DataFrame(
        {"age": r.integers(18, 90, n), "income": income * r.lognormal(10, 0.5, n), "score": r.normal(size=n) + shift}
    )


A, SHIFTED, SAME = people(1000, 1), people(800, 2, 1.0), people(800, 3)


@pytest.mark.parametrize(
    ("column", "spread"),
    [
        (np.arange(101.0), 50),
        (np.repeat([0.0, 3.0], [96, 4]), 3 * np.sqrt(0.04 * 0.96)),  # quartiles are equal: the standard deviation
        (np.full(9, 0.1), 1),
        (np.array([0.0, 1.0]) * 1e-320, 1),  # nothing can be divided by it
        (np.concatenate([np.arange(101.0), [1e12]]), 50.5),  # an outlier moves it by a place
        (np.array([-1.5e308, -1.2e308, 1.2e308, 1.5e308]), 1),  # the difference of the quartiles overflows
    ],
)
def test_spread_of_a_column(column, spread):
    assert column_spreads(column[:, None]) == pytest.approx(spread, rel=1e-12)


def test_a_shift_by_one_standard_deviation_is_seen_whatever_the_other_columns_units():
    """At n = 800 a shift by one standard deviation in one of three columns is beyond doubt. In raw units income drowns it."""
    sketch = rf.SliceSketch.from_points(A)
    tests = {
        "two samples": (rf.two_sample_test(A, SHIFTED), rf.two_sample_test(A, SAME)),
        "drift": (rf.drift_test(SHIFTED, sketch), rf.drift_test(SAME, sketch)),
        "compare": (rf.compare(A, SHIFTED).test, rf.compare(A, SAME).test),
    }
    for name, (differs, same) in tests.items():
        assert differs.pvalue <= 0.01 < same.pvalue, name
        assert differs.scale == same.scale == "columns"
    raw = rf.two_sample_test(A, SHIFTED, scale="none", kernels="energy")
    assert raw.pvalue > 0.05 and raw.scale == "none"
    labels = ["a"] * 1000 + ["b"] * 800 + ["c"] * 800
    pairs = rf.pairwise_energy_distance(pandas.concat([A, SHIFTED, SAME]), labels)
    assert pairs.scale == "columns" and pairs.pvalues[0, 1] <= 0.01 < pairs.pvalues[0, 2]


def test_drift_of_a_frame_is_seen_by_the_estimator():
    from rieszflow.sklearn import EnergyDrift

    drift = EnergyDrift().fit(A)
    assert drift.sketch_.scale == "columns" and drift.test(SHIFTED).pvalue <= 0.01 < drift.test(SAME).pvalue
    with pytest.warns(rf.Notice, match="the spread of column 1 is .* times that of column 2"):
        raw = EnergyDrift().fit(A.to_numpy(float))
    assert raw.sketch_.scale == "none"
    assert rf.drift_test(SHIFTED.to_numpy(float), raw.sketch_, kernels="energy").pvalue > 0.05
    assert EnergyDrift(scale="columns").fit(A.to_numpy(float)).test(SHIFTED.to_numpy(float)).pvalue <= 0.01


def test_the_metric_in_scaled_columns():
    pytest.importorskip("torchmetrics")
    from rieszflow.metrics import SlicedEnergyDistance

    x, y = (torch.from_numpy(frame.to_numpy(float)) for frame in (A, SHIFTED))
    metric = SlicedEnergyDistance(x, scale="columns", slices=256)
    metric.update(x, real=True)
    metric.update(y, real=False)
    spreads = torch.from_numpy(column_spreads(x.numpy()))
    exact = rf.energy_distance(x / spreads, y / spreads, statistic="U").item()
    # 256 slices: the spread of a slice's share is about its mean, so 4 standard errors are 4/16 of the value.
    assert metric.compute().item() == pytest.approx(exact, rel=0.25)


def test_scaled_is_raw_of_columns_over_their_spreads():
    """The spreads are those of the pooled points: dividing by them beforehand is the same test, number for number."""
    both = pandas.concat([A, SHIFTED]).to_numpy(float)
    x, y = both[:1000] / column_spreads(both), both[1000:] / column_spreads(both)
    found, want = rf.two_sample_test(A, SHIFTED, seed=3), rf.two_sample_test(x, y, seed=3, scale="none")
    assert (found.pvalue, found.statistic, found.confidence_interval) == (want.pvalue, want.statistic, want.confidence_interval)
    assert found.x.names == list(A)


def test_spreads_do_not_know_which_sample_a_point_is_of():
    one, other = (rf.two_sample_test(*pair, permutations=19).x.plan.settings.spreads for pair in ((A, SAME), (SAME, A)))
    assert one == pytest.approx(other, rel=1e-12)  # sums in another order


@pytest.mark.parametrize("unit", [1e-3, 1000.0])
def test_a_change_of_unit_changes_nothing(unit):
    frames = [people(600, 4), people(500, 5, 0.2)]
    changed = [frame.assign(income=frame.income * unit) for frame in frames]
    found, want = rf.two_sample_test(*changed), rf.two_sample_test(*frames)
    assert found.pvalue == want.pvalue
    # Projections are float32: rounding moves some points by a bin of 1,024, which is 1e-3 of D² at most for all of them.
    assert found.statistic == pytest.approx(want.statistic, rel=1e-3)
    sketches = [rf.SliceSketch.from_points(both[0]) for both in (frames, changed)]
    drift = [rf.drift_test(both[1], sketch) for both, sketch in zip((frames, changed), sketches, strict=True)]
    assert drift[0].pvalue == drift[1].pvalue
    names = ["a"] * 600 + ["b"] * 500
    pairs = [rf.pairwise_energy_distance(pandas.concat(both), names) for both in (frames, changed)]
    assert pairs[0].pvalues[0, 1] == pairs[1].pvalues[0, 1]


def test_the_p_value_of_a_drift_is_that_of_two_samples_where_all_points_are_kept():
    """Of 4 and 5 points all 126 splits are tried, so no seed matters; `b` is constant in the reference and not in x.

    Spreads of the reference alone would make the test liberal: 16 % of p-values below 0.1 for 100 : 100 points of this kind.
    """
    for seed in range(20):
        r = np.random.default_rng(seed)
        x, y = (pandas.DataFrame(r.normal(size=(n, 3)), columns=list("abc")) for n in (4, 5))
        y.b = 1.0
        drift = rf.drift_test(x, rf.SliceSketch.from_points(y, slices=8), kernels="energy")
        assert drift.pvalue == rf.two_sample_test(x, y, kernels="energy").pvalue
        assert drift.blocks == drift.tested == (4, 5)


def test_heavy_tails_and_rare_values_do_not_hide_other_columns():
    def frame(seed, shift):
        r = np.random.default_rng(seed)
        rare = np.where(r.random(1000) < 0.02, r.exponential(1e6, 1000), 0)
        return pandas.DataFrame({"tail": r.standard_cauchy(1000), "rare": rare, "score": r.normal(size=1000) + shift, "one": 1})

    assert rf.two_sample_test(frame(1, 0), frame(2, 0.5)).pvalue <= 0.01 < rf.two_sample_test(frame(1, 0), frame(3, 0)).pvalue


def test_a_sketch_stores_its_spreads(tmp_path):
    sketch = rf.SliceSketch.from_points(A, slices=64)
    assert sketch.plan.settings.spreads == pytest.approx(column_spreads(A.to_numpy(float)), rel=1e-12)
    sketch.save(tmp_path / "a.sketch")
    again = rf.SliceSketch.load(tmp_path / "a.sketch")
    assert again.scale == "columns" and again.distance(SHIFTED) == sketch.distance(SHIFTED)
    raw = rf.SliceSketch.from_points(A, slices=64, scale="none")
    for refuse in (
        lambda: sketch + raw,
        lambda: raw.distance(sketch),
        lambda: sketch.merge(rf.SliceSketch.from_points(SAME, slices=64)),
    ):
        with pytest.raises(ValueError, match="divided by the same spreads, got other spreads"):
            refuse()
    for scale, other in (("none", sketch), ("columns", raw)):
        with pytest.raises(ValueError, match="`scale` must be 'auto' or '(columns|none)', which the reference has"):
            rf.drift_test(A, other, scale=scale)
        with pytest.raises(ValueError, match="`scale` must be 'auto' or '(columns|none)', which the sketches have"):
            rf.compare(other, other, scale=scale)
    # What is kept is as it came, to the last digit, and what is drawn is in the data's own units.
    for one in (sketch, again):
        assert {tuple(row) for row in one.reservoir.numpy()} == {tuple(row) for row in A.to_numpy(float)}
    edges, density = sketch.histogram(1, column=True)
    assert (density * np.diff(edges)).sum() > 0.9 and edges[0] < A.income.quantile(0.1) < A.income.quantile(0.9) < edges[-1]


def test_gradient_of_a_scaled_sketch_is_in_the_datas_units():
    """By central differences of the distance, for points whose own bins do not change: single points far outside."""
    sketch = rf.SliceSketch.from_points(A, slices=32)
    x = A.mean().to_numpy(float)[None] + 30 * np.array(sketch.plan.settings.spreads)[None]
    gradient = sketch.gradient(x)[0]
    for k, spread in enumerate(sketch.plan.settings.spreads):
        step = np.zeros((1, 3))
        step[0, k] = 0.5 * spread
        slope = (sketch.distance(x + step) - sketch.distance(x - step)) / spread
        assert gradient[k] == pytest.approx(slope, rel=0.02)  # far away D² is nearly linear


def test_who_is_scaled():
    x = np.random.default_rng(0).normal(size=(200, 3)) * [1, 50, 1]
    with pytest.warns(rf.Notice, match='the spread of column 1 is .* times that of column .*scale="columns"'):
        assert rf.two_sample_test(x[:100], x[100:], permutations=19).scale == "none"
    assert rf.two_sample_test(x[:100], x[100:], permutations=19, scale="columns").scale == "columns"
    pictures = np.random.default_rng(0).random((60, 1, 2, 2)) * [[1.0, 0.01], [1.0, 1.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error", rf.Notice)  # images have one unit
        assert rf.SliceSketch.from_points(pictures, slices=4).scale == "none"
        assert rf.two_sample_test(x[:100], x[100:], permutations=19, scale="none").scale == "none"
    assert rf.SliceSketch(x, slices=4, names=["a", "b", "c"]).scale == "columns"
    assert rf.SliceSketch(x, slices=4, names=["a", "b", "c"], scale="none").scale == "none"
    for wrong in ("robust", np.array(["auto", "none"])):
        with pytest.raises(rf.errors.InputError, match="`scale` must be one of 'auto', 'columns', 'none', got "):
            rf.two_sample_test(x, x, scale=wrong)


def test_many_clouds_give_one_notice():
    """More clouds than rows are looked at: every one still gives a row."""
    from rieszflow.data.streams import choose_spreads

    clouds = [rf.stream(cloud) for cloud in np.random.default_rng(0).normal(size=(300, 2, 2)) * [1, 100]]
    with pytest.warns(rf.Notice, match="the spread of column 1 is .* times that of column 0"):
        assert choose_spreads("auto", clouds) is None


def test_an_iterator_is_passed_over_once():
    x = A.to_numpy(float)
    sketch = rf.SliceSketch.from_points(iter(np.array_split(x, 4)), slices=8, scale="columns")
    assert sketch.n == 1000 and sketch.plan.settings.spreads == pytest.approx(column_spreads(x[:250]), rel=1e-12)


RECORDED = {"model": "recorded", "particles": 2000, "slices": 64, "momentum": 0.8, "step_schedule": [6.0, 0.5], "stages": 3,
            "initial_steps": 80, "max_steps": 80}  # fmt: skip
NETWORKS = {"particles": 2000, "slices": 64, "momentum": 0.7, "stages": 3, "initial_steps": 40, "max_steps": 80,
            "network": "mlp", "width": 64, "layers": 3, "fit_steps": 400, "fit_batch_size": 256, "learning_rate": 2e-3,
            "ema": 0.98}  # fmt: skip


@pytest.mark.parametrize("settings", [RECORDED, NETWORKS], ids=["recorded", "networks"])
def test_samples_have_the_spread_of_every_column(settings):
    x = A.assign(constant=7.0).to_numpy(float)
    samples = rf.GenerativeFlow(**settings).fit(x).sample(2000, seed=1).numpy()
    # 2,000 samples tell a standard deviation to 2 %; 850 training rows have one that differs from the 1,000 by 1 %.
    assert samples[:, :3].std(0) == pytest.approx(x[:, :3].std(0), rel=0.1)
    assert (np.abs(np.median(samples, 0) - np.median(x, 0)) <= 0.1 * x.std(0)).all()
    assert (samples[:, 3] == 7).all()


def test_samples_do_not_depend_on_the_unit():
    tiny = {**RECORDED, "particles": 300, "stages": 1, "initial_steps": 10, "max_steps": 10}
    x = A.to_numpy(float)
    want = rf.GenerativeFlow(**tiny).fit(x).sample(50, seed=1).double().numpy()
    for unit in (2.0**-10, 1000.0):
        found = rf.GenerativeFlow(**tiny).fit(x * [1, unit, 1]).sample(50, seed=1).double().numpy() / [1, unit, 1]
        # A power of two changes no digit; else float32's rounding of 1e-7 grows by a factor of some tens over ten steps.
        assert np.abs((found - want) / x.std(0)).max() <= (0 if unit < 1 else 1e-3)


def test_columns_are_scaled_and_back():
    """Median and quartiles by hand; a column that reaches 40 spreads comes to 4, and back to its own values."""
    from rieszflow.data import ColumnScaler

    r = np.random.default_rng(0)
    tail = np.concatenate([np.linspace(-1, 1, 400), [20.0, 40.0]])
    x = np.stack([1e6 + np.linspace(0, 8, 402), tail, np.full(402, 5.0)], 1)
    columns = ColumnScaler.fit(x)
    assert columns.centre == pytest.approx((1e6 + 4, 0, 5), abs=0.01) and columns.spread == pytest.approx((4, 1, 0), abs=0.01)
    assert columns.tail[0] == columns.tail[2] == 0 < columns.tail[1]
    found = columns.transform(torch.from_numpy(x))
    np.testing.assert_allclose(found[:, 0], np.linspace(0, 1, 402), atol=1e-6)
    assert found[-1, 1].item() == pytest.approx(0.5 + 4 / 2) and (found[:, 2] == 0.5).all()
    slope = (found[200, 1] - found[199, 1]).item() / (x[200, 1] - x[199, 1])
    assert slope == pytest.approx(0.5 / columns.spread[1], rel=1e-3)  # linear around the median, where asinh is
    np.testing.assert_allclose(columns.inverse_transform(found), x, rtol=1e-6, atol=1e-6)
    beyond = torch.from_numpy(r.normal(size=(9, 3)).astype(np.float32) * 100)
    assert np.abs(columns.inverse_transform(beyond)[:, 1]).max() <= 40 * (1 + 1e-6)  # no sample goes further than the data


def test_samples_of_heavy_tails_and_rare_values():
    """The bulk of a log-normal column and the share of a rare value come out, beside an ordinary column.

    Shares of 2,000 samples of 0.1 have a standard error of 0.007."""
    r = np.random.default_rng(3)
    x = np.stack(
        [r.lognormal(3, 1.5, 1500), np.where(r.random(1500) < 0.1, r.exponential(50, 1500), 0), r.normal(size=1500)], 1
    )
    samples = rf.GenerativeFlow(**RECORDED).fit(x).sample(2000, seed=1).numpy()
    assert samples[:, 2].std() == pytest.approx(x[:, 2].std(), rel=0.1)
    for q in (0.25, 0.5, 0.75, 0.9, 0.98):
        assert np.quantile(samples[:, 0], q) == pytest.approx(np.quantile(x[:, 0], q), rel=0.25)
    assert (samples[:, 1] > 5).mean() == pytest.approx((x[:, 1] > 5).mean(), abs=0.03)
