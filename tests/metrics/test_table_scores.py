"""Scores of synthetic tables against closed forms, brute force, and cases whose answer is known."""

import json
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from rieszflow.data.encoding import ColumnEncoding, TableEncoding
from rieszflow.errors import InputError
from rieszflow.metrics.tables import NOTE, describe_scores, table_scores

NAN = np.nan
NUMBER = ColumnEncoding("age", "number", centre=0.5, missing=True)
OTHER = ColumnEncoding("height", "number", centre=0.5, missing=True)
CATEGORY = ColumnEncoding("job", "category", categories=("baker", "clerk", "smith"), missing=True)
BINARY = ColumnEncoding("sex", "category", categories=("f", "m"), missing=True)
MIXED = TableEncoding([NUMBER, OTHER, CATEGORY, BINARY])


def table(n: int, seed: int, missing: float = 0.2) -> np.ndarray:
    """Draw rows of `MIXED` with missing cells, whose job depends on the age."""
    g = np.random.default_rng(seed)
    age, height = g.uniform(0, 1, n), g.normal(size=n)
    rows = np.stack([age, age + height, 1 + np.floor(3 * age), g.integers(1, 3, n)], 1)
    return np.where(g.uniform(size=rows.shape) < missing, NAN, rows)


def scores(columns, train, held_out, samples, **options):
    found = table_scores(TableEncoding(columns), *(np.array(rows, float) for rows in (train, held_out, samples)), **options)
    json.dumps(found, allow_nan=False)
    assert describe_scores(found)
    return found


def gower(a, b, columns, low, high):
    """The distance of two rows, cell by cell."""
    total = 0.0
    for j, column in enumerate(columns):
        lacking = int(np.isnan(a[j])) + int(np.isnan(b[j]))
        if column.kind == "category":
            total += lacking == 1 or (lacking == 0 and a[j] != b[j])
        else:
            x, y = (0.5 if np.isnan(v[j]) else (v[j] - low[j]) / (high[j] - low[j]) for v in (a, b))
            total += abs(x - y) + (lacking == 1)
    return total


def test_equal_tables():
    rows = table(60, 0)
    found = scores(MIXED.columns, rows, rows, rows[::-1])
    assert found["w1"] == {"samples": 0, "training_data": 0}
    assert found["coverage"] == {"samples": 1, "training_data": 1} and found["k"] == 1
    assert found["strays"] == {"samples": 0, "training_data": 0}
    assert found["correlation_error"]["samples"] == pytest.approx(0, abs=1e-12)
    assert found["pair_error"]["samples"] == 0
    assert found["marginal_error"]["samples"] == dict.fromkeys(["age", "height", "job", "sex"], 0)
    assert found["closest_record"] == {"samples": 0, "held_out": 0}
    assert found["copies"] == {"samples": 1, "held_out": 1}
    assert found["rows"] == {"train": 60, "held_out": 60, "samples": 60} and found["note"] == NOTE


def test_shift():
    """Rows shifted by 3 ranges: W1 is the shift, and the distribution functions are apart by 1."""
    x = np.linspace(0, 2, 21)[:, None]
    found = scores([NUMBER], x, x, x + 6, label=0)
    assert found["w1"] == {"samples": pytest.approx(3), "training_data": pytest.approx(0)}
    assert found["marginal_error"]["samples"] == {"age": 1}
    assert found["strays"]["samples"] == 1 and found["coverage"]["samples"] == 0 and found["copies"]["samples"] == 0
    assert found["closest_record"] == {"samples": pytest.approx(2.5), "held_out": 0}  # 3 to 4, from 1
    assert found["r2"] == {"samples": None, "training_data": None}  # nothing to predict from
    assert found["correlation_error"] == found["pair_error"] == {"samples": None, "training_data": None}


def test_wasserstein_distance_by_permutations():
    train, held_out, samples = table(50, 1), table(5, 2), table(5, 3)
    samples[0, 2], train[:2, :2] = 0, [[-3, -3], [4, 4]]  # an unknown category, and known ranges
    D = [[gower(a, b, MIXED.columns, np.nanmin(train, 0), np.nanmax(train, 0)) for a in samples] for b in held_out]
    wanted = min(sum(D[i][j] for i, j in enumerate(order)) for order in permutations(range(5))) / 5
    assert scores(MIXED.columns, train, held_out, samples)["w1"]["samples"] == pytest.approx(wanted, rel=1e-12)


def test_wasserstein_distance_of_more_samples_than_held_out_rows():
    """Every held-out row is matched to two samples, and the ninth sample is left out: of all choices, one fits."""
    g = np.random.default_rng(10)
    train, held_out, samples = np.linspace(0, 1, 20), g.uniform(size=4), g.uniform(size=9)
    wanted = [wasserstein_distance(held_out, np.delete(samples, k)) for k in range(9)]
    found = scores([NUMBER], train[:, None], held_out[:, None], samples[:, None])["w1"]["samples"]
    assert np.abs(found - np.array(wanted)).min() < 1e-12


def test_closest_record_and_coverage_by_loops():
    train, held_out, samples = table(40, 4), table(30, 5), table(40, 6)
    low, high = np.nanmin(train, 0), np.nanmax(train, 0)
    D = {
        (s, t): np.array([[gower(a, b, MIXED.columns, low, high) for b in y] for a in x])
        for s, x in (("held_out", held_out), ("samples", samples))
        for t, y in (("held_out", held_out), ("samples", samples), ("train", train))
    }
    found = scores(MIXED.columns, train, held_out, samples)
    for name in ("samples", "held_out"):
        assert found["closest_record"][name] == pytest.approx(np.median(D[name, "train"].min(1)), rel=1e-12)
    radii = np.sort(D["held_out", "held_out"], 1)  # the first is the row itself
    k = next(k for k in range(1, 30) if (D["held_out", "train"].min(1) < radii[:, k] + 1e-9).mean() >= 0.95)
    assert found["k"] == k and found["coverage"]["training_data"] >= 0.95
    assert found["coverage"]["samples"] == pytest.approx((D["held_out", "samples"].min(1) < radii[:, k] + 1e-9).mean())
    limit = np.quantile(radii[:, 1], 0.999)
    assert found["strays"]["samples"] == pytest.approx((D["samples", "held_out"].min(1) > limit + 1e-9).mean())


def test_independence_and_dependence_of_categories():
    """Equal categories against independent ones, with the same shares: half of the mass is elsewhere."""
    equal, independent = np.array([[1, 1], [2, 2]] * 40), np.array([[1, 1], [1, 2], [2, 1], [2, 2]] * 20)
    found = scores([CATEGORY, BINARY], equal, independent, equal, label=0)
    assert found["pair_error"] == {"samples": 0.5, "training_data": 0.5}
    assert found["marginal_error"]["samples"] == {"job": 0, "sex": 0}
    assert scores([CATEGORY, BINARY], equal, equal, independent)["pair_error"] == {"samples": 0.5, "training_data": 0}


def test_correlations():
    x = np.linspace(0, 1, 50)
    same, opposite, constant = np.stack([x, x], 1), np.stack([x, -x], 1), np.stack([x, 0 * x], 1)
    assert scores([NUMBER, OTHER], same, same, opposite)["correlation_error"]["samples"] == pytest.approx(2)
    assert scores([NUMBER, OTHER], same, same, constant)["correlation_error"]["samples"] == pytest.approx(1)
    assert scores([NUMBER, OTHER], same, constant, same)["correlation_error"] == {"samples": None, "training_data": None}


def test_missing_cells():
    rows, g = table(400, 7, missing=0), np.random.default_rng(8)
    holes = np.where(g.uniform(size=rows.shape) < 0.25, NAN, rows)
    errors = scores(MIXED.columns, rows, rows, holes)["marginal_error"]["samples"]
    for j, name in enumerate(("age", "height", "job", "sex")):  # the missing share is an error, of numbers at least
        share = np.isnan(holes[:, j]).mean()
        assert errors[name] >= share - 1e-12 and errors[name] < share + 0.05
    found = scores(MIXED.columns, holes, holes, np.full_like(rows, NAN), label=2)
    assert found["f1"] == {"samples": None, "training_data": pytest.approx(0.73, abs=0.25)}
    assert found["correlation_error"]["samples"] > 0.1
    found = scores(MIXED.columns, np.full_like(rows, NAN), rows, rows, label=0)  # nothing known of the training rows
    assert found["r2"]["training_data"] is None and found["r2"]["samples"] > 0.9


def test_kinds_of_zero_and_missing_are_equal_in_copies():
    rows = np.stack([np.arange(8) % 4.0, np.full(8, NAN)], 1)
    other = rows * [-0.0, 1] + np.abs(rows[:, :1]) * [1, 0]
    other[0, 0], other[1, 1] = -0.0, np.float64(np.uint64(0xFFF8000000000001).view(np.float64))
    assert scores([NUMBER, OTHER], rows, rows, other)["copies"] == {"samples": 1, "held_out": 1}
    assert scores([NUMBER, OTHER], rows, rows + np.array([1e-12, 0]), rows)["copies"] == {"samples": 1, "held_out": 0}


def test_models_see_whether_the_label_depends_on_the_columns():
    g = np.random.default_rng(9)
    x = g.normal(size=(600, 2))
    rows = np.column_stack([x, 1 + (x[:, 0] > 0), 1 + (x[:, 1] > 0)])
    train, held_out = rows[:300], rows[300:]
    shuffled = np.column_stack([train[:, :3], g.permutation(train[:, 3])])
    found = scores(MIXED.columns, train, held_out, shuffled, label=3)
    assert found["f1"]["training_data"] > 0.95 and found["f1"]["samples"] < 0.7 and found["r2"]["samples"] is None
    one_class = np.column_stack([train[:, :3], np.full(300, 2)])
    share = (held_out[:, 3] == 2).mean()
    found = scores(MIXED.columns, train, held_out, one_class, label=3)
    assert found["f1"]["samples"] == pytest.approx(share / (1 + share))  # F1 of the other class is 0
    found = scores(MIXED.columns, train, held_out, np.column_stack([x[300:], rows[:300, 2:]]), label=0)
    assert found["r2"]["training_data"] > 0.4 > found["r2"]["samples"]
    assert scores(MIXED.columns, train, one_class, train, label=3)["f1"] == {"samples": None, "training_data": None}


@pytest.mark.parametrize("label", [None, 0, 2])
def test_tiny_tables(label):
    for missing in (0.0, 0.5, 1.0):
        parts = [table(4 + k, k, missing) for k in range(3)]
        found = scores(MIXED.columns, *parts, label=label)
        assert 0 <= found["coverage"]["samples"] <= 1 and 1 <= found["k"] <= 4
    constant = np.ones((4, 4))
    found = scores(MIXED.columns, constant, constant, constant, label=label)
    assert found["w1"]["samples"] == 0 and found["coverage"]["samples"] == 1 and found["f1"]["samples"] is None


def test_extreme_numbers():
    x = np.array([[-1.7e308], [1.7e308], [0.0], [1.0], [5e-324]])
    cases = ((x, x, x), (x, x[2:].repeat(3, 0), x), (x[2:].repeat(3, 0), x, x), (x[:4] * 0, x, x))
    for label, (train, held_out, samples) in zip((0, 2, 0, 2), cases, strict=True):
        rows = [np.column_stack([part, part, 1 + np.arange(len(part)) % 2]) for part in (train, held_out, samples)]
        scores([NUMBER, OTHER, BINARY], *rows, label=label)


def test_more_rows_than_are_compared(monkeypatch):
    """Parts of rows give the same figures but for noise: W1 of 20 equal parts is that of all, if all parts are alike."""
    from rieszflow.metrics import tables

    for name, value in (("_ROWS", 300), ("_PAIRED", 200), ("_MATCHED", 100)):
        monkeypatch.setattr(tables, name, value)
    train, held_out, samples = (table(1000, seed) for seed in (1, 2, 3))
    found = scores(MIXED.columns, train, held_out, samples)
    assert found == scores(MIXED.columns, train, held_out, samples)
    assert found != {**scores(MIXED.columns, train, held_out, samples, seed=1), "seed": 0}
    assert found["w1"]["samples"] == pytest.approx(found["w1"]["training_data"], rel=0.1)
    assert scores(MIXED.columns, train, held_out, train)["copies"]["samples"] == 1  # counted in all rows


def test_description():
    found = scores(MIXED.columns, table(50, 1), table(30, 2), table(50, 3), label=2)
    rows = describe_scores(found)
    assert len(rows) == 9 and all(len(row) == 3 for row in rows)
    assert rows[0] == ["Wasserstein distance to held-out rows", *(f"{v:.3g}" for v in found["w1"].values())]
    assert rows[-1][2].endswith("% (held-out)") and "'job'" in rows[2][0]
    mean = np.mean(list(found["marginal_error"]["samples"].values()))
    assert rows[3][1] == f"{mean:.3g}"
    assert len(describe_scores(scores([NUMBER], *[np.arange(9.0)[:, None]] * 3))) == 6


def test_refusals():
    rows = table(10, 0)
    for wrong, message in (
        (rows[:3], "n ≥ 4"),
        (rows[:, :2], r"shape \(n, 4\)"),
        (rows * np.inf, "inf"),
        (rows + 0.5, "'job'"),
    ):
        with pytest.raises(InputError, match=f"`samples` must .*{message}"):
            table_scores(MIXED, rows, rows, wrong)
    with pytest.raises(InputError, match="`label` must"):
        table_scores(MIXED, rows, rows, rows, label=4)
