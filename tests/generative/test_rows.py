"""Models of tables: rows come back with the same columns and types, given labels and columns are kept, holes are filled."""

import json

import numpy as np
import pytest
import torch

import rieszflow as rf
from rieszflow import Notice
from rieszflow.errors import DatasetError, InputError, RunError
from rieszflow.generative.impute import impute
from rieszflow.generative.row_scaler import RowColumn
from rieszflow.generative.rows import TableRows, load_rows
from rieszflow.generative.training_data import load_data

pandas = pytest.importorskip("pandas")
pytest.importorskip("duckdb")

SETTINGS = {"particles": 600, "initial_steps": 6, "max_steps": 6, "stages": 2, "slices": 16}


def people(n=240, seed=0):
    g = np.random.default_rng(seed)
    days = pandas.to_timedelta(g.integers(0, 900, n), "D")
    frame = pandas.DataFrame({
        "age": g.integers(18, 90, n), "income": g.normal(3000, 500, n).round(2),
        "job": g.choice(["baker", "clerk", "nurse"], n), "member": g.random(n) < 0.3,
        "joined": pandas.Timestamp("2020-01-01") + days,
        "zero": np.where(g.random(n) < 0.6, 0.0, g.exponential(size=n)), "constant": 7,
    })  # fmt: skip
    frame.loc[g.random(n) < 0.1, "income"] = np.nan
    return frame


@pytest.fixture(scope="module")
def flow():
    return rf.GenerativeFlow(**SETTINGS).fit(people(), label="job")


def test_codes_come_back_from_coordinates():
    """Numbers with few values, point masses and categories exactly; others to the precision of 200 quantiles."""
    data = load_rows(people(), 0.2, 0)
    codes = data.unscale(data.train)
    again = data.unscale(data.scale(codes))
    torch.testing.assert_close(again, codes, rtol=0, atol=0, equal_nan=True)  # on what samples can be, a projection
    assert torch.equal(data.scale(codes), data.scale(again))
    rows = data.rows
    assert TableRows.from_json(rows.to_json()) == rows
    assert [c.decimals for c in rows.columns][:2] == [0, 2] and rows.columns[-1].width == 0
    zero = codes[:, [c.column.name for c in rows.columns].index("zero")]
    assert 0.5 < (zero == 0).double().mean() < 0.7


@pytest.mark.parametrize("n", [37, 5000])
def test_normal_scores_are_normal(n):
    from rieszflow.data.encoding import ColumnEncoding

    values = np.random.default_rng(0).exponential(size=n)
    column = RowColumn.fit(ColumnEncoding("x", "number"), "DOUBLE", values)
    z = column.transform(values)[:, 0]
    want = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n).numpy()
    np.testing.assert_allclose(np.sort(z), want, atol=1e-9 if n < 200 else 0.03)
    np.testing.assert_allclose(column.inverse(column.transform(values)), values, atol=1e-9 if n < 200 else 0.05 * values.max())


def test_rows_have_the_columns_and_types_of_the_table(flow):
    frame, rows = people(), flow.sample_frame(120, seed=1)
    assert list(rows.columns) == list(frame.columns) and rows.dtypes.to_dict().keys() == frame.dtypes.to_dict().keys()
    assert rows.age.dtype == np.int64 and rows.member.dtype == bool and rows.joined.dtype.kind == "M"
    assert rows.age.between(18, 89).all() and set(rows.job) == {"baker", "clerk", "nurse"} and (rows.constant == 7).all()
    income = rows.income.dropna().to_numpy()
    assert np.array_equal(income, income.round(2)) and 0 < rows.income.isna().mean() < 0.4
    shares = frame.job.value_counts(normalize=True)
    counts = rows.job.value_counts()
    assert all(abs(counts[name] - 120 * share) <= 120 * 0.04 for name, share in shares.items())
    pandas.testing.assert_frame_equal(rows, flow.sample_frame(120, seed=1))


def test_a_given_label_is_kept_and_others_are_refused(flow):
    assert set(flow.sample_frame(20, condition={"job": "nurse"}, seed=0).job) == {"nurse"}
    for given, says in (
        ({"job": "nurs"}, "got 'nurs'; did you mean 'nurse'"),
        ({"age": 3}, "must name the columns 'job', got 'age'"),
        ({"job": "nurse", "age": 3}, "must name the columns 'job'"),
        ({"job": None}, "must have a value for 'job', which is never missing"),
    ):
        with pytest.raises(InputError, match=says):
            flow.sample_frame(3, condition=given)
    with pytest.raises(RunError, match="rows can be drawn of a model that was trained on a table"):
        rf.GenerativeFlow(**SETTINGS).fit(np.random.default_rng(0).normal(size=(50, 2))).sample_frame(3)


def test_given_columns_are_kept():
    flow = rf.GenerativeFlow(**SETTINGS).fit(people(), condition="age,member")
    rows = flow.sample_frame(20, condition={"age": 40, "member": True}, seed=0)
    assert set(rows.age) == {40} and rows.member.all() and list(rows.columns) == list(people().columns)
    with pytest.warns(Notice, match="age lies outside the range"):
        assert flow.sample_frame(2, condition={"age": 400, "member": False}).age.max() == 89


def test_what_cannot_be_trained_on():
    frame = people()
    for options, says in (
        ({"label": "jobs"}, "no column 'jobs'; did you mean 'job'"),
        ({"condition": "age,nope"}, "no column 'nope'"),
        ({"label": "text"}, "column 'text' is left out"),
    ):
        with pytest.raises(DatasetError, match=says):
            rf.GenerativeFlow(**SETTINGS).fit(frame.assign(text=[f"t{k}" for k in range(len(frame))]), **options)
    with pytest.raises(DatasetError, match="must have at least 4 rows, got 3"):
        load_rows(frame[:3], 0.2, 0)
    with pytest.raises(DatasetError, match="must have different rows"):
        load_rows(pandas.DataFrame({"a": [1.0] * 9}), 0.2, 0)
    with pytest.warns(Notice, match="labels with fewer than 20 rows.*'rare' .[2-5]"):
        load_rows(frame.assign(job=["rare"] * 5 + ["often"] * (len(frame) - 5)), 0.2, 0, label="job")
    with pytest.warns(Notice, match="skipped 40 rows without a label"):
        data = load_rows(frame.assign(job=frame.job.where(np.arange(len(frame)) >= 40)), 0.2, 0, label="job")
    assert len(data.train) + len(data.held_out) == 200


@pytest.mark.slow
def test_the_scores_of_rows(tmp_path, flow):
    from typer.testing import CliRunner

    from rieszflow.cli import app

    people().to_csv(tmp_path / "people.csv", index=False)
    rf.GenerativeFlow(**SETTINGS).fit(tmp_path / "people.csv", label="job", run=tmp_path / "run")
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), "-n", "60"])
    assert done.exit_code == 0, done.output
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())["table"]
    assert 0 <= scores["copies"]["samples"] <= 1 and scores["f1"]["samples"] is not None


def test_the_commands(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from rieszflow.cli import app

    monkeypatch.chdir(tmp_path)
    people().to_csv("people.csv", index=False, na_rep="?")

    def call(*arguments):
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    settings = [f"--set={k}={v}" for k, v in SETTINGS.items()]
    call("train", "people.csv", "--label", "job", "--missing", "?", "--out", "run", *settings)
    call("sample", "run", "-n", 30, "--out", "new.csv")
    assert open("new.csv").readline() == open("people.csv").readline()  # noqa: SIM115
    assert ",?," in (tmp_path / "new.csv").read_text()
    call("sample", "run", "-n", 9, "--given", "job=baker", "--out", "new.parquet")
    assert set(pandas.read_parquet("new.parquet").job) == {"baker"}
    call("impute", "people.csv", "--missing", "?", "--draws", 2, "--out", "filled.csv")
    filled = pandas.read_csv("filled.csv")
    assert not filled.isna().any().any() and filled.draw.tolist() == [1] * 240 + [2] * 240
    bad = CliRunner().invoke(app, ["sample", "run", "--given", "job", "--out", "x.csv"])
    assert bad.exit_code == 1 and "--given must be NAME=VALUE" in bad.output


def test_imputed_cells_follow_the_others():
    """y = 2x + noise: the draws have the spread of the noise around the line; known cells are unchanged."""
    g = np.random.default_rng(0)
    x = g.normal(size=400)
    frame = pandas.DataFrame({"x": x, "y": 2 * x + 0.2 * g.normal(size=400), "text": [f"t{k}" for k in range(400)]})
    holes = frame.copy()
    holes.loc[:99, "y"] = np.nan
    draws = impute(holes, 8, seed=0)
    found = np.stack([d.y.to_numpy()[:100] for d in draws])
    inside = np.abs(x[:100]) < 1.5
    assert np.abs(found.mean(0) - 2 * x[:100])[inside].mean() < 0.25
    assert 0.1 < found.std(0)[inside].mean() < 0.5
    for draw in draws:
        pandas.testing.assert_frame_equal(draw[100:], frame[100:])
        assert list(draw.text) == list(frame.text)
    with pytest.raises(DatasetError, match="must have missing cells to impute, got none"):
        impute(frame)


@pytest.mark.parametrize(
    "source", ["people.csv", "shards", "shards/*.csv", "FROM '{}/people.csv' WHERE age > 0", "people.json.gz"]
)
def test_tables_of_runs_are_found_from_every_folder(tmp_path, monkeypatch, source):
    (tmp_path / "shards").mkdir()
    frame, source = people(), source.format(tmp_path)
    frame.to_csv(tmp_path / "people.csv", index=False)
    frame.to_json(tmp_path / "people.json.gz", orient="records", date_format="iso")
    for k in range(2):
        frame[k::2].to_csv(tmp_path / "shards" / f"{k}.csv", index=False)
    monkeypatch.chdir(tmp_path)
    flow = rf.GenerativeFlow(**SETTINGS).fit(source, run=tmp_path / "run")
    monkeypatch.chdir("shards")
    again = rf.GenerativeFlow.resume(tmp_path / "run")
    pandas.testing.assert_frame_equal(again.sample_frame(5, seed=0), flow.sample_frame(5, seed=0))
    assert len(load_data(again.run).train) == 204
