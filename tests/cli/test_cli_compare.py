"""`rieszflow compare` and `rieszflow sketch` as real processes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import called, program, rieszflow

import rieszflow as rf

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402  (an extra)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path, g = tmp_path_factory.mktemp("compare"), np.random.default_rng(0)
    for name, n, shift in (("old", 4000, 0.0), ("new", 900, 0.6), ("same", 900, 0.0)):
        columns = {"u": g.normal(size=n), "v": g.normal(size=n) + shift, "w": g.random(n)}
        pq.write_table(pa.table({**columns, "label": ["x"] * n}), path / f"{name}.parquet")
        np.save(path / f"{name}.npy", np.stack(list(columns.values()), 1).astype(np.float32))
    return path


def test_compare_finds_the_column_that_moved(folder):
    done = program("compare", "old.parquet", "new.parquet", "--out", "a.png", cwd=folder)
    assert "4000 points; new.parquet: 900 points; d = 4, 256 slices" in done.stdout
    assert "p-value 0.001 (999 permutations)" in done.stdout
    assert next(line for line in done.stdout.splitlines() if line.startswith("column ")) == "column v"
    assert "adjusted p-value" in done.stdout and "all columns" in done.stdout
    assert Image.open(folder / "a.png").width > 500
    few = program("compare", "old.parquet", "new.parquet", "--top", "0", cwd=folder)
    assert "adjusted p-value" not in few.stdout


def test_json_is_the_librarys_numbers(folder):
    done = rieszflow("compare", "old.npy", "same.npy", "--json", "--top", 1, "--seed", 4, cwd=folder)
    found = json.loads(done.stdout)
    want = rf.two_sample_test(folder / "old.npy", folder / "same.npy", seed=4)
    assert (found["pvalue"], found["distance"], found["confidence_interval"]) == (
        want.pvalue,
        want.statistic,
        list(want.confidence_interval),
    )
    assert found["pvalue"] > 0.01 and len(found["columns"]) == len(found["scales"]) == 1 and found["n"] == [4000, 900]
    kernel = want.kernels[0]
    name = "all columns" if kernel.column is None else f"column {kernel.column}"
    assert found["scales"][0] == {"name": name, "width": kernel.width, "pvalue": kernel.pvalue}


def test_groups_are_permuted_as_wholes(tmp_path):
    """Rows of a patient are nearly equal: as independent rows, patients of one distribution would differ."""
    for seed, name in enumerate("ab"):
        dose = np.random.default_rng(seed).normal(size=25)
        rows = "".join(f"{name}{k},{v},{k % 7}\n" for k, v in enumerate(dose) for _ in range(8))
        (tmp_path / f"{name}.csv").write_text(f"patient,dose,age\n{rows}", encoding="utf-8")

    def pvalue(*options):
        return json.loads(rieszflow("compare", "a.csv", "b.csv", "--json", *options, cwd=tmp_path).stdout)["pvalue"]

    assert pvalue() <= 0.01 and pvalue("--groups", "patient") > 0.05
    frames = [rf.Table(tmp_path / f"{name}.csv") for name in "ab"]
    assert pvalue("--groups", "patient") == rf.compare(*frames, groups="patient").pvalue
    rieszflow("sketch", "a.csv", "--out", "a.sketch", cwd=tmp_path)
    with pytest.raises(ValueError, match="`groups` must be None with a sketch, whose points have no groups, got 'patient'"):
        rf.compare(tmp_path / "a.sketch", tmp_path / "b.csv", groups="patient")


def test_drift_against_a_sketch(folder):
    rieszflow("sketch", "old.parquet", "-o", "ref.sketch", cwd=folder)
    moved = json.loads(rieszflow("compare", "ref.sketch", "new.parquet", "--json", cwd=folder).stdout)
    still = json.loads(rieszflow("compare", "same.parquet", "ref.sketch", "--json", cwd=folder).stdout)
    assert moved["pvalue"] < 0.01 < still["pvalue"]
    assert moved["columns"][0]["name"] == "v" and moved["n"] == [4000, 900] and still["n"] == [900, 4000]
    # Two sketches: a distance and no test.
    rieszflow("sketch", "new.parquet", "-o", "new.sketch", "--like", "ref.sketch", cwd=folder)
    both = rieszflow("compare", "ref.sketch", "new.sketch", cwd=folder).stdout
    assert "no test" in both and f"{moved['distance']:.6g}" in both


def test_sketches_are_merged(folder):
    rieszflow("sketch", "old.npy", "-o", "one.sketch", cwd=folder)
    rieszflow("sketch", "new.npy", "-o", "two.sketch", "--like", "one.sketch", cwd=folder)
    done = rieszflow("sketch", "one.sketch", "two.sketch", "same.npy", "-o", "all.sketch", cwd=folder)
    assert "all.sketch: 5800 points, d = 3" in done.stdout
    merged, one = rf.SliceSketch.load(folder / "all.sketch"), rf.SliceSketch.load(folder / "one.sketch")
    whole = one.empty()
    for name in ("old", "new", "same"):
        whole.update(folder / f"{name}.npy")
    assert all(torch.equal(a, b) for a, b in zip(whole.counts, merged.counts, strict=True))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "old.npy", "none.npy"], "none.npy: no such file or folder"),
        (["compare", "old.npy", "none.sketch"], "none.sketch: no such file"),
        (
            ["compare", "old.npy", "flat.npy"],
            "all samples must have points of one dimension, got d = 3 in old.npy and d = 1 in flat.npy",
        ),
        (["compare", "old.npy", "new.npy", "--out", "a.jpg"], "--out must end in .png, got a.jpg"),
        (["compare", "old.npy", "foreign.sketch"], "foreign.sketch: damaged, or no safetensors file"),
        (["compare", "old.npy", "bad.npy"], "bad.npy, batch 0 must be finite, got NaN or infinity"),
        (["sketch", "bad.npy", "-o", "b.sketch"], "bad.npy, batch 0 must be finite, got NaN or infinity"),
        (
            ["sketch", "old.npy", "flat.npy", "-o", "b.sketch"],
            "all samples must have points of one dimension",
        ),
    ],
)
def test_invalid_input_ends_in_one_line(folder, arguments, says):
    np.save(folder / "flat.npy", np.zeros(5, np.float32))
    np.save(folder / "bad.npy", np.full((5, 3), np.nan, np.float32))
    (folder / "foreign.sketch").write_text("hello")
    done = called(*arguments, cwd=folder)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and says in done.stderr
    assert not (folder / "b.sketch").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "old.npy", "new.npy", "--permutations", 0], "Invalid value for '--permutations'"),
        (["sketch", "old.npy", "-o", "b.sketch", "--slices", 0], "Invalid value for '--slices'"),
        (["compare", "old.npy", "new.npy", "--header", "maybe"], "'maybe' is not one of 'auto', 'yes', 'no'."),
    ],
)
def test_invalid_options_end_in_one_line(folder, arguments, says):
    done = called(*arguments, cwd=folder)
    assert done.returncode == 2 and done.stdout == "" and says in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (folder / "b.sketch").exists()


def test_options_of_tables(tmp_path):
    """The same table in two spellings is at distance 0; skipped columns are reported on stderr and in the JSON."""
    numbers = [(40.25, 3000.5), (1234.5, -2.0), (7.0, 1e3)]
    rows = "".join(f"{a},{b},x\n" for a, b in numbers)
    (tmp_path / "a.csv").write_text("age,income\n" + rows.replace(",x", ""))
    german = "".join(f"x;{a!s};{b!s}\n".replace(".", ",") for a, b in [(b, a) for a, b in numbers])
    (tmp_path / "b.csv").write_bytes(("größe;income;age\n" + german).encode("latin-1"))
    common = ["--permutations", 19]
    done = called("compare", "a.csv", "b.csv", *common, cwd=tmp_path)
    assert done.returncode == 1 and "b.csv: must be text in the encoding utf-8" in done.stderr
    sketch = ["sketch", "b.csv", "-o", "b.sketch", "--delimiter", ";", "--decimal", ",", "--encoding", "latin-1", "--slices", 4]
    done = called(*sketch, "--exclude", "größe", "--columns", "age,income", "--reservoir-size", 0, cwd=tmp_path)
    assert done.returncode == 0 and "b.sketch: 3 points, d = 2" in done.stdout and "including 0 random points" in done.stdout
    called("sketch", "a.csv", "-o", "a.sketch", "--like", "b.sketch", cwd=tmp_path)
    done = called("compare", "a.sketch", "b.sketch", *common, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["distance"] < 0  # unbiased, of equal points
    assert rf.SliceSketch.load(tmp_path / "a.sketch").distance(rf.SliceSketch.load(tmp_path / "b.sketch")) == 0
    done = called("compare", "a.csv", "a.csv", *common, "--json", cwd=tmp_path)
    assert "cannot be less than" in json.loads(done.stdout)["notices"][0]
    done = called("compare", "a.csv", "b.sketch", "--slices", 9, cwd=tmp_path)
    assert done.returncode == 1 and "slices" in done.stderr
    done = called("sketch", "a.csv", "-o", "d.sketch", "--like", "b.sketch", "--seed", 1, cwd=tmp_path)
    assert done.returncode == 1 and "--seed must be omitted with --like, whose sketch has its own, got 1" in done.stderr
    done = called("compare", "a.csv", "b.sketch", "--common", cwd=tmp_path)
    assert done.returncode == 1 and "common" in done.stderr


def test_missing_values_and_common_columns(tmp_path):
    g = np.random.default_rng(0)
    for name, extra in (("a", "u"), ("b", "w")):
        rows = "".join(f"{x},{'?' if k == 3 else y},1\n" for k, (x, y) in enumerate(g.normal(size=(40, 2))))
        (tmp_path / f"{name}.csv").write_text(f"x,y,{extra}\n" + rows)
    common = ["compare", "a.csv", "b.csv", "--slices", 4, "--permutations", 19, "--json"]
    done = called(*common, cwd=tmp_path)
    assert done.returncode == 1 and "a.csv: column 'y', line 5: must be a number, got '?'" in done.stderr
    done = called(*common, "--missing", "?", cwd=tmp_path)
    assert done.returncode == 1 and "columns are matched by name" in done.stderr
    done = called(*common, "--missing", "?", "--common", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["n"] == [40, 40] and {c["name"] for c in found["columns"]} == {"x", "y"} and found["d"] == 3
    assert "b.csv: skipped 'w': not in the other table" in found["notices"]


def test_colours_that_are_forced_stay_out_of_json(folder, monkeypatch):
    """Build servers set these variables; standard output is a pipe."""
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.setenv(variable, "1")
    done = program("compare", "old.npy", "same.npy", "--json", "--slices", 8, cwd=folder)
    assert json.loads(done.stdout)["a"] == "old.npy"
