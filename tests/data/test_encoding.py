"""The encoding of mixed tables: distances between rows by their formula, and rules for what is left out."""

import json

import numpy as np
import pytest

import rieszflow as rf
from rieszflow import Notice
from rieszflow.errors import DatasetError, InputError

pandas = pytest.importorskip("pandas")
pytest.importorskip("duckdb")


def people(n=300, seed=0):
    g = np.random.default_rng(seed)
    frame = pandas.DataFrame({
        "age": g.integers(18, 90, n), "income": g.normal(3000, 500, n), "job": g.choice(["baker", "clerk", "nurse"], n),
        "member": g.random(n) < 0.3, "joined": pandas.Timestamp("2020-01-01") + pandas.to_timedelta(g.integers(0, 900, n), "D"),
    })  # fmt: skip
    frame.loc[g.random(n) < 0.1, "income"] = np.nan
    frame.loc[g.random(n) < 0.1, "job"] = None
    return frame


def brute(frame, spreads):
    """Return the squared distances of all pairs of rows by the formula in the docstring of TableEncoding."""
    total = 0.0
    for name, spread in spreads.items():
        x = frame[name]
        value = x.astype("int64") / 1e9 if x.dtype.kind == "M" else x
        lacking = value.isna().to_numpy()
        cells = value.fillna(value.median()).to_numpy(float)
        total = total + ((cells[:, None] - cells) / spread) ** 2 + 2 * (lacking[:, None] != lacking)
    for name in ("job", "member"):
        cells = frame[name].astype(object).where(frame[name].notna(), "missing").to_numpy()
        total = total + 2 * (cells[:, None] != cells)
    return total


def test_distances_are_those_of_the_formula():
    frame = people()
    encoding = rf.TableEncoding.fit(frame)
    seconds = frame.assign(joined=frame.joined.astype("datetime64[ns]").astype("int64") / 1e9)
    spreads = {c: float(np.subtract(*np.nanpercentile(seconds[c], [75, 25]))) for c in ("age", "income", "joined")}
    assert {c.name: c.spread for c in encoding.columns if c.kind != "category"} == pytest.approx(spreads, rel=1e-12)
    x = encoding.transform(frame)
    got = ((x[:, None] - x) ** 2).sum(2)
    np.testing.assert_allclose(got, brute(frame.astype({"joined": "datetime64[ns]"}), spreads), rtol=1e-9, atol=1e-9)
    again = rf.TableEncoding.from_dict(json.loads(json.dumps(encoding.to_dict())))
    np.testing.assert_array_equal(again.transform(frame[frame.columns[::-1]]), x)


def test_an_unknown_category_is_far_from_all_others():
    frame = people()
    encoding = rf.TableEncoding.fit(frame)
    other = pandas.concat([frame[:40], frame[:1].assign(job="pilot")])
    with pytest.warns(Notice, match="column 'job' has categories that the reference does not have"):
        x = encoding.transform(other)
    own = [k for k, name in enumerate(encoding.names) if name.startswith("job")]
    distances = ((x[:-1, own] - x[-1, own]) ** 2).sum(1)
    np.testing.assert_allclose(distances, 2, rtol=1e-12)


def test_a_csv_file_and_a_frame_are_encoded_alike(tmp_path):
    frame = people()
    encoding = rf.TableEncoding.fit(frame)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "b.csv", index=False, sep=";", decimal=",", na_rep="?")
    frame.to_parquet(tmp_path / "c.parquet")
    want = encoding.transform(frame)
    with pytest.warns(Notice, match="read with the delimiter ';', decimal commas"):
        german = rf.Table(tmp_path / "b.csv", missing=["?"])
    for table in (tmp_path / "a.csv", german, tmp_path / "c.parquet", f"FROM '{tmp_path}/a.csv'", str(tmp_path / "*.parquet")):
        np.testing.assert_allclose(encoding.transform(table), want, rtol=1e-12, atol=1e-12)


def test_columns_that_are_left_out():
    n = 150
    frame = pandas.DataFrame({
        "customer_id": np.random.default_rng(0).permutation(10**6)[:n], "row": np.arange(n), "x": np.arange(n) * 0.5,
        "text": [f"t{k}" for k in range(n)], "none": [None] * n, "flag": [True, False] * (n // 2),
    })  # fmt: skip
    with pytest.warns(Notice) as caught:
        encoding = rf.TableEncoding.fit(frame)
    assert encoding.names == ["x", "flag=false", "flag=true"]
    message = str(caught[0].message)
    for said in ("'customer_id' (an id", "'row' (an id", "'text' (text with about", "'none' (empty"):
        assert said in message
    kept = rf.Table(frame, columns=["customer_id", "x"])  # asked for by name
    assert rf.TableEncoding.fit(kept).names == ["customer_id", "x"]
    with pytest.warns(Notice):
        hashed = rf.TableEncoding.fit(frame, hashed=["text"], buckets=8)
    assert sum(name.startswith("text=#") for name in hashed.names) == 8
    one = np.stack([hashed.transform(frame)[:, k] for k, name in enumerate(hashed.names) if name.startswith("text=#")], 1)
    assert (one.sum(1) == 1).all() and (one.sum(0) > 5).all()


def test_phases_of_times_on_request():
    frame = pandas.DataFrame(
        {"t": pandas.date_range("2024-01-01", periods=49, freq="h"), "x": np.random.default_rng(0).random(49)}
    )
    encoding = rf.TableEncoding.fit(frame, periods=["day"])
    x = dict(zip(encoding.names, encoding.transform(frame).T, strict=True))
    np.testing.assert_allclose(x["t day cos"], np.cos(2 * np.pi * np.arange(49) / 24), atol=1e-6)
    with pytest.raises(InputError, match="`periods` must be of 'day', 'week', 'year', got 'month'"):
        rf.TableEncoding.fit(frame, periods=["month"])


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda f: f.drop(columns="age"), "lacks 'age'"),
        (lambda f: f.assign(more=1.0), "has the additional column 'more'"),
        (lambda f: f.assign(age=f.age.astype(str)), "column 'age' must hold numbers as in the reference, got text"),
        (lambda f: f.assign(job=1.5), "column 'job' must hold text as in the reference, got number"),
        (lambda f: f.assign(age=f.age.where(f.index > 2)), "column 'age' has 3 missing values, and the reference has none"),
        (lambda f: f.assign(income=np.inf), "column 'income' must be finite"),
    ],
)
def test_other_tables_are_refused(other, says):
    frame = people()
    encoding = rf.TableEncoding.fit(frame)
    with pytest.raises((InputError, DatasetError), match=says):
        encoding.transform(other(frame))


def test_comparisons_see_categories_and_missing_cells(tmp_path):
    """A shift of shares, or of the rate of missing cells alone, is found; equal distributions are not told apart."""
    one, two = people(600, 1), people(600, 2)
    assert rf.two_sample_test(one, two).pvalue > 0.05
    for changed in (
        two.assign(job=two.job.where(np.arange(600) % 3 > 0, "baker")),
        two.assign(income=two.income.where(np.arange(600) % 4 > 0)),
    ):
        found = rf.compare(one, changed)
        name = "job" if changed.income.equals(two.income) else "income"
        assert found.pvalue == 0.001 and found.columns(1)[0][0] == name
        assert ("baker" if name == "job" else "missing") in found.columns(1)[0][2]
    sketch = rf.SliceSketch.from_points(one)
    sketch.save(tmp_path / "one.sketch")
    again = rf.SliceSketch.load(tmp_path / "one.sketch")
    changed = two.assign(job=two.job.where(np.arange(600) % 3 > 0, "baker"))
    assert rf.drift_test(two, again).pvalue > 0.05 and rf.drift_test(changed, again).pvalue == 0.001
    assert rf.compare(tmp_path / "one.sketch", changed).columns(1)[0][0] == "job"
    monitor = rf.DriftMonitor(again, permutations=99, alpha=0.1)
    monitor.save(tmp_path / "a.monitor")
    assert rf.DriftMonitor.load(tmp_path / "a.monitor").update(two) == monitor.update(two)
    found = rf.pairwise_energy_distance(people(600, 3).dropna(subset="job"), "job", permutations=99)
    assert found.names == ("baker", "clerk", "nurse") and found.pvalues[0, 1] > 0.01


def test_edges_of_tables(tmp_path):
    """Constants, rows that are all alike, dates before 1900, decimals beyond float64, nested columns, many columns, no rows."""
    pa = pytest.importorskip("pyarrow")
    from decimal import Decimal

    frame = pa.table({
        "constant": [1.0] * 30, "old": pa.array(["1850-01-01", "1875-06-01", "0900-01-01"] * 10).cast(pa.date32()),
        "wide": pa.array([Decimal(k) / 3 for k in range(30)]).cast(pa.decimal256(60, 30)), "nest": [{"a": 1}] * 30,
    })  # fmt: skip
    with pytest.warns(Notice, match="left out 'nest' .nested: struct"):
        x = rf.TableEncoding.fit(frame)
    assert x.names == ["constant", "old", "wide"] and np.isfinite(x.transform(frame)).all()
    many = pa.table({f"c{k}": [float(k), k + 1.0] for k in range(400)})
    assert rf.TableEncoding.fit(many).transform(many).shape == (2, 400)
    for text, says in (("a,b\n", "must have columns of numbers or categories"), ("", "got no line")):
        (tmp_path / "e.csv").write_text(text)
        with pytest.raises(DatasetError, match=says):
            rf.two_sample_test(tmp_path / "e.csv", tmp_path / "e.csv")
    (tmp_path / "a.csv").write_text("t,x\n2020-01-01T00:00:00+02:00,1\n2020-01-01T00:00:00+05:00,2\n")
    assert rf.TableEncoding.fit(rf.Table(tmp_path / "a.csv", columns=["t"])).columns[0].spread == 3600 * 1.5
