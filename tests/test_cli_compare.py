"""`rieszflow compare` and `rieszflow sketch` as real processes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import called, rieszflow

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
    done = rieszflow("compare", "old.parquet", "new.parquet", "--out", "a.png", cwd=folder)
    assert "4000 points; new.parquet: 900 points; d = 3, 256 slices" in done.stdout
    assert "p-value 0.001 (999 permutations)" in done.stdout
    first = next(line for line in done.stdout.splitlines() if line.startswith("│"))
    assert first.split()[1] == "v"
    assert Image.open(folder / "a.png").width > 500


def test_json_is_the_librarys_numbers(folder):
    done = rieszflow("compare", "old.npy", "same.npy", "--json", "--top", 1, "--seed", 4, cwd=folder)
    found = json.loads(done.stdout)
    want = rf.two_sample_test(folder / "old.npy", folder / "same.npy", seed=4)
    assert (found["p_value"], found["distance"], found["interval"]) == (want.p_value, want.distance, list(want.interval))
    assert found["p_value"] > 0.01 and len(found["columns"]) == 1 and found["n"] == [4000, 900]


def test_drift_against_a_sketch(folder):
    rieszflow("sketch", "old.parquet", "-o", "ref.sketch", cwd=folder)
    moved = json.loads(rieszflow("compare", "ref.sketch", "new.parquet", "--json", cwd=folder).stdout)
    still = json.loads(rieszflow("compare", "same.parquet", "ref.sketch", "--json", cwd=folder).stdout)
    assert moved["p_value"] < 0.01 < still["p_value"]
    assert moved["columns"][0]["name"] == "v" and moved["n"] == [4000, 900] and still["n"] == [900, 4000]
    # Two sketches: a distance and no test.
    rieszflow("sketch", "new.parquet", "-o", "new.sketch", "--like", "ref.sketch", cwd=folder)
    both = rieszflow("compare", "ref.sketch", "new.sketch", cwd=folder).stdout
    assert "there is no test" in both and f"{moved['distance']:.6g}" in both


def test_sketches_are_merged(folder):
    rieszflow("sketch", "old.npy", "-o", "one.sketch", cwd=folder)
    rieszflow("sketch", "new.npy", "-o", "two.sketch", "--like", "one.sketch", cwd=folder)
    done = rieszflow("sketch", "one.sketch", "two.sketch", "same.npy", "-o", "all.sketch", cwd=folder)
    assert "all.sketch: 5800 points, d = 3" in done.stdout
    merged, one = rf.SliceSketch.load(folder / "all.sketch"), rf.SliceSketch.load(folder / "one.sketch")
    whole = one.empty()
    for name in ("old", "new", "same"):
        whole.update(folder / f"{name}.npy")
    assert all(torch.equal(a, b) for a, b in zip(whole._counts, merged._counts, strict=True))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "old.npy", "none.npy"], "none.npy: no such file or folder"),
        (["compare", "old.npy", "none.sketch"], "none.sketch: no such file"),
        (["compare", "old.npy", "flat.npy"], "points of dimension d = 1 given, x has d = 3"),
        (["compare", "old.npy", "new.npy", "--permutations", 0], "permutations: 0 given"),
        (["compare", "old.npy", "new.npy", "--out", "a.jpg"], "--out: a.jpg given; a name that ends in .png"),
        (["compare", "old.npy", "foreign.sketch"], "foreign.sketch: damaged, or no safetensors file"),
        (["compare", "old.npy", "bad.npy"], "bad.npy, batch 0: contains NaN or infinity"),
        (["sketch", "bad.npy", "-o", "b.sketch"], "bad.npy, batch 0: contains NaN or infinity"),
        (["sketch", "old.npy", "-o", "b.sketch", "--slices", 0], "slices: 0 given"),
        (["sketch", "old.npy", "flat.npy", "-o", "b.sketch"], "points of dimension 1 given, the sketch has d = 3"),
    ],
)
def test_mistakes_are_one_line(folder, arguments, says):
    np.save(folder / "flat.npy", np.zeros(5, np.float32))
    np.save(folder / "bad.npy", np.full((5, 3), np.nan, np.float32))
    (folder / "foreign.sketch").write_text("hello")
    done = called(*arguments, cwd=folder)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and says in done.stderr
    assert not (folder / "b.sketch").exists()
