"""Distances between all pairs of groups: against brute force, the two-sample test, and the forms that data come in."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems import generator

import rieszflow as rf
from rieszflow import metrics
from rieszflow.errors import DatasetError, InputError, InputTypeError
from rieszflow.two_sample import permutations as machine


@pytest.fixture(autouse=True, params=["exact", "sliced"])
def method(request, monkeypatch):
    """Both ways to compare few points: by the distances of all pairs, and as more points are compared."""
    if request.param == "sliced":
        monkeypatch.setattr(machine, "_FEW_POINTS", 0)
    return request.param


SIZES = {"a": 500, "b": 130, "c": 40, "d": 7}


def groups(d=5, seed=0):
    """Four groups of different sizes, in a random order; the last two are alike."""
    g = generator(seed)
    labels = np.repeat(list(SIZES), list(SIZES.values()))
    x = torch.randn(len(labels), d, generator=g)
    x[labels == "a"] += 0.7
    x[labels == "b"] *= 2
    order = np.random.default_rng(seed).permutation(len(labels))
    return x[order], labels[order]


def brute(x, labels, statistic):
    names = sorted(set(labels))
    of = lambda a, b: rf.energy_distance(x[labels == a].double(), x[labels == b].double(), statistic=statistic).item()  # noqa: E731
    return np.array([[0 if a == b else of(a, b) for b in names] for a in names])


@pytest.mark.parametrize("statistic", ["U", "V"])
@pytest.mark.parametrize("d", [1, 5, 70])
def test_distances_are_brute_force_within_the_slices_error(method, statistic, d):
    """Exactly for few points, up to 1e-12 of sums of 10^5 numbers. Else in d = 1 what is left is the bins: a point counts half
    a bin at most from where it is, 0.03 of some 14 / 256, and these errors average over the points of both groups. Otherwise
    two standard errors, which are of slices and points, and so larger than what the slices alone err by."""
    x, labels = groups(d)
    found = rf.pairwise_energy_distance(x, labels, statistic=statistic, permutations=0, slices=512)
    want = brute(x, labels, statistic)
    assert found.names == ("a", "b", "c", "d") and found.sizes.tolist() == list(SIZES.values()) and found.pvalues is None
    assert found.method == method
    if method == "exact":
        np.testing.assert_allclose(found.distances, want, rtol=1e-12, atol=1e-12)
    inverse = 1 / found.sizes
    tolerance = 0.03 * np.sqrt(d) * np.sqrt(inverse + inverse[:, None])
    if d > 1:
        tolerance = tolerance + 2 * np.nan_to_num(found.standard_errors)
    assert (np.abs(found.distances - want) <= tolerance).all()
    assert (found.distances == found.distances.T).all() and (found.distances.diagonal() == 0).all()
    if statistic == "V":
        assert found.distances.min() >= 0


def test_a_pair_is_what_the_sketches_say(method):
    """The same slices and points by another way. A sketch spreads a point over its bin, which costs 7 points some 0.004."""
    if method == "exact":
        pytest.skip("has no slices")
    x, labels = groups()
    found = rf.pairwise_energy_distance(x, labels, permutations=0, seed=3)
    one = rf.SliceSketch(x, slices=256, seed=3, reservoir_size=0)
    for i, a in enumerate(found.names):
        for j, b in enumerate(found.names[:i]):
            mine, theirs = (one.empty().update(x[labels == name]) for name in (a, b))
            assert found.distances[i, j] == pytest.approx(mine.distance(theirs, statistic="U"), abs=6e-3)


def test_labels_and_order_only_name():
    x, labels = groups()
    want = rf.pairwise_energy_distance(x, labels, permutations=0, statistic="V")
    order = torch.randperm(len(x), generator=generator(4))
    renamed = [{"a": 30, "b": 20, "c": 10, "d": 0}[v] for v in labels[order.numpy()]]
    again = rf.pairwise_energy_distance(x[order], renamed, permutations=0, statistic="V")
    assert again.names == ("0", "10", "20", "30")
    # Another order means other points that decide where bins are.
    np.testing.assert_allclose(again.distances[::-1, ::-1], want.distances, atol=3e-3)
    scaled = rf.pairwise_energy_distance(1e6 * x + 3, labels, permutations=0, statistic="V")
    np.testing.assert_allclose(scaled.distances / 1e6, want.distances, atol=3e-3)


def test_p_values_are_exact_under_the_null_and_small_beyond():
    """Twelve groups of one distribution: 66 p-values each below α with a probability of at most α. They depend on one another,
    so the bound is wide: a mean of 0.5 with a spread of 0.29/√12 by the groups, five of which are 0.42."""
    x = torch.randn(1200, 3, generator=generator(5))
    labels = np.arange(1200) % 12
    found = rf.pairwise_energy_distance(x, labels, permutations=199, slices=64)
    values = found.pvalues[np.triu_indices(12, 1)]
    assert 0.5 - 0.42 < values.mean() < 0.5 + 0.42 and values.min() >= 1 / 200 and np.isnan(found.pvalues.diagonal()).all()
    apart = rf.pairwise_energy_distance(x + torch.from_numpy(labels == 0)[:, None], labels, permutations=199, slices=64)
    assert (apart.pvalues[0, 1:] == 1 / 200).all()
    np.testing.assert_array_equal(apart.pvalues, apart.pvalues.T)
    # Benjamini and Hochberg: the smallest of p_(k) · 66 / k over all larger p-values.
    p = apart.pvalues[np.triu_indices(12, 1)]
    wanted = [min(q * 66 / (p <= q).sum() for q in p if q >= v) for v in p]
    np.testing.assert_allclose(apart.adjusted_pvalues[np.triu_indices(12, 1)], wanted)
    np.testing.assert_array_equal(apart.adjusted_pvalues, apart.adjusted_pvalues.T)
    assert apart.pairs()[0]["adjusted_pvalue"] == pytest.approx(min(wanted))


def test_equal_points_are_never_told_apart():
    """Whole numbers, many ties: groups with the same points have distance 0 ("V") and the p-value 1."""
    x = torch.randint(3, (64, 2), generator=generator(6)).float()
    found = rf.pairwise_energy_distance(torch.cat([x, x.flip(0)]), ["p"] * 64 + ["q"] * 64, statistic="V", permutations=99)
    assert found.distances[0, 1] == pytest.approx(0, abs=1e-12) and found.pvalues[0, 1] > 0.9


def test_standard_errors_are_the_spread_of_new_samples():
    """Over 60 fresh samples: the mean of the errors given is the distances' standard deviation within a factor of 1.6; either
    is known within 10 %, and the given one is right for large groups only."""
    distances, errors = [], []
    for seed in range(60):
        x = torch.randn(600, 4, generator=generator(seed))
        x[300:] += 0.5
        found = rf.pairwise_energy_distance(x, [0] * 300 + [1] * 300, permutations=0, slices=64, seed=seed)
        distances.append(found.distances[0, 1])
        errors.append(found.standard_errors[0, 1])
    assert 1 / 1.6 < np.mean(errors) / np.std(distances) < 1.6


def crowds(case, n=500):
    """Three groups of which the first two are near each other, and the last one hides them from bins that are made for it."""
    g = np.random.default_rng(0)
    x, y, z = g.normal(size=(n, 1)), g.normal(size=(n, 1)) + 0.3, g.normal(size=(n, 1))
    if case == "wide":
        z *= 1e6
    elif case == "far":
        x, y, z = x + 1e6, y + 1e6, 1e6 * z
    elif case == "outlier":
        z[0] = x[1] = 1e8
    elif case == "ties":
        x, y, z = x.round(), y.round(), 1e6 * z.round()
    elif case == "constant":
        z[:] = -1e5
    return np.concatenate([x, y, z]), np.repeat(["a", "b", "c"], n)


@pytest.mark.parametrize("case", ["wide", "far", "outlier", "ties", "constant"])
@pytest.mark.parametrize("statistic", ["U", "V"])
def test_a_wide_group_hides_nothing_of_two_narrow_ones(case, statistic):
    """In d = 1, where slices err by nothing. Some 180 bins for groups of width 1 are 0.03 long on average; a point counts that
    far from where it is at most, which averages over 500 points to 2·0.03/√500 = 0.003, and is the same share of a wide group's
    distances. Far from the origin float32 has 0.06 between its numbers, for 1/20 of a width: 0.003 once more."""
    x, labels = crowds(case)
    found = rf.pairwise_energy_distance(x, labels, statistic=statistic, slices=2, permutations=199)
    want = brute(torch.from_numpy(x), labels, statistic)
    np.testing.assert_allclose(found.distances, want, rtol=3e-3, atol=6e-3 if case == "far" else 3e-3)
    if case != "outlier":  # which is of a, so that nearly all its standard error comes from there
        assert found.standard_errors[0, 1] < 0.05
    assert found.pvalues[0, 1] == 1 / 200


def test_many_groups_in_a_row_are_told_from_their_neighbours():
    """Forty groups of width 1, ten apart, each with a neighbour at 0.7: bins and kernels for all of them resolve every
    pair, and near pairs are told apart nearly as often as by brute force with the energy distance."""
    n, K = 30, 40
    places = 10.0 * (np.arange(K) // 2) + 0.7 * (np.arange(K) % 2)
    x = np.random.default_rng(0).normal(size=(n * K, 1)) + np.repeat(places, n)[:, None]
    labels = np.repeat([f"{k:03}" for k in range(K)], n)
    found = rf.pairwise_energy_distance(x, labels, slices=1, permutations=99)
    of = lambda k: torch.from_numpy(x[labels == f"{k:03}"])  # noqa: E731
    for k in range(0, K, 10):
        for j in (k + 1, k + 2):
            want = rf.energy_distance(of(k), of(j), statistic="U").item()
            assert found.distances[k, j] == pytest.approx(want, rel=0.01, abs=0.005)
    neighbours = found.pvalues[np.arange(0, K, 2), np.arange(1, K, 2)]
    by_brute_force = [metrics.energy_pvalue(of(k), of(k + 1), permutations=99) for k in range(0, K, 2)]
    assert np.median(neighbours) < 0.1 and (neighbours <= 0.1).sum() >= (np.array(by_brute_force) <= 0.1).sum() - 8


def test_all_forms_of_data_are_the_same(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    x, labels = groups()
    want = rf.pairwise_energy_distance(x, labels, permutations=0)
    table = pa.table({"group": labels, **{f"c{k}": x[:, k].numpy() for k in range(5)}})
    pq.write_table(table, tmp_path / "t.parquet")
    cells = SimpleNamespace(obs={"kind": labels}, obsm={"X_pca": x.numpy()}, X=np.zeros((len(x), 2)))
    for given, by, options in (
        (x.numpy(), labels.tolist(), {}),
        (x, torch.tensor([ord(v) - 96 for v in labels]), {}),
        (table, "group", {}),
        (tmp_path / "t.parquet", "group", {}),
        (str(tmp_path / "t.parquet"), list(labels), {}),
        (cells, "kind", {"obsm": "X_pca"}),
        (cells, list(labels), {"obsm": "X_pca"}),
    ):
        if isinstance(given, str):
            with pytest.warns(rf.Notice, match="skipped column 'group'"):
                found = rf.pairwise_energy_distance(given, by, permutations=0, scale="none", **options)
        else:
            found = rf.pairwise_energy_distance(given, by, permutations=0, scale="none", **options)
        np.testing.assert_array_equal(found.distances, want.distances)


def test_h5ad_files_and_frames(tmp_path):
    anndata, pandas = pytest.importorskip("anndata"), pytest.importorskip("pandas")
    x, labels = groups()
    cells = anndata.AnnData(X=np.zeros((len(x), 2), np.float32), obs=pandas.DataFrame({"kind": pandas.Categorical(labels)}))
    cells.obsm["X_pca"] = x.numpy()
    cells.obs_names = [f"cell {k}" for k in range(len(x))]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    want = rf.pairwise_energy_distance(x, labels, permutations=9)
    for given in (cells, tmp_path / "cells.h5ad"):
        found = rf.pairwise_energy_distance(given, "kind", obsm="X_pca", permutations=9)
        np.testing.assert_array_equal(found.distances, want.distances)
    frame = found.frame("pvalues")
    assert list(frame.index) == list("abcd") and frame.loc["a", "b"] == found.pvalues[0, 1]
    with pytest.raises(InputError, match="`field` must be one of .*, got 'x'"):
        found.frame("x")
    (tmp_path / "bad.h5ad").write_bytes(b"nothing")
    for name, says in (("bad.h5ad", "not an .h5ad file, or damaged"), ("none.h5ad", "no such file")):
        with pytest.raises(DatasetError, match=says):
            rf.pairwise_energy_distance(tmp_path / name, "kind")


def test_progress_counts_points_and_pairs():
    x, labels = groups()
    seen = []
    rf.pairwise_energy_distance(x, labels, permutations=0, slices=8, progress=seen.append)
    assert [(p.what, p.done, p.total) for p in seen] == [("points", 677, 677), ("pairs", 6, 6)]


def test_pairs_and_order():
    g = generator(7)
    x = torch.randn(80, 2, generator=g) * 0.1
    places = np.arange(80) % 4
    x[:, 0] += torch.tensor([0.0, 10.0, 0.5, 10.5])[places]
    found = rf.pairwise_energy_distance(x, places, permutations=19)
    pairs = found.pairs()
    assert len(pairs) == 6 and [p["distance"] for p in pairs] == sorted((p["distance"] for p in pairs), reverse=True)
    assert {pairs[0]["a"], pairs[0]["b"]} == {"0", "3"} and pairs[0]["n_a"] == 20 and 0 < pairs[0]["pvalue"] <= 1
    order = found.order()
    assert abs(order.index(0) - order.index(2)) == 1 and abs(order.index(1) - order.index(3)) == 1


def test_what_is_refused(tmp_path):
    x, labels = groups()
    (tmp_path / "t.csv").write_text("g,v\na,1\nb,2\na,3\nb,4\n")
    with_nan = [*labels[:-1], float("nan")]
    cells = SimpleNamespace(obs={"kind": labels}, obsm={}, X=SimpleNamespace(toarray=None))
    for given, by, options, error, says in (
        (x, labels[:5], {}, InputError, "`groups` must have one label for each of 677 points, got 5 labels"),
        (x, ["a"] * len(x), {}, InputError, "`groups` must have at least two groups, got all points in 'a'"),
        (
            x,
            ["z", *["a"] * (len(x) - 1)],
            {},
            InputError,
            "at least two points in every group, got one in 'z'",
        ),
        (x, with_nan, {}, InputError, "got 1 of 677 missing .the first is that of point 676"),
        (x, "kind", {}, InputError, "since x is not a table, got the name 'kind'"),
        (x, 5, {}, InputTypeError, "`groups` must be a label for every point, .* got int"),
        (x, labels, {"obsm": "X_pca"}, InputError, "`obsm` must be None unless x is annotated data, got 'X_pca'"),
        (x / 0, labels, {}, InputError, "NaN or infinity"),
        (x, labels, {"statistic": "W"}, InputError, "`statistic` must .* got 'W'"),
        (x, labels, {"slices": 0}, InputError, "`slices` must be a positive integer, got 0"),
        (x, labels, {"permutations": -1}, InputError, "`permutations` must be a non-negative integer, got -1"),
        (x, labels, {"directions": "up"}, InputError, "`directions` must be one of 'auto', .*, got 'up'"),
        (tmp_path / "t.csv", "nothing", {}, DatasetError, "nothing"),
        (cells, "sort", {}, InputError, r"`groups` must be a column of obs \('kind'\), got 'sort'"),
        (cells, "kind", {"obsm": "X_pca"}, InputError, r"`obsm` must be a key of the data \(none\), got 'X_pca'"),
        (cells, "kind", {}, InputTypeError, "`x` must have dense points, got a sparse X"),
    ):
        with pytest.raises(error, match=says):
            rf.pairwise_energy_distance(given, by, **options)


def test_the_command(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from rieszflow.cli import app

    monkeypatch.chdir(tmp_path)
    x, labels = groups()
    lines = [",".join([f"_{g} $1$", *map(str, row)]) for g, row in zip(labels, x.tolist(), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["g,a,b,c,d,e", *lines]))
    run = lambda *args: CliRunner().invoke(app, ["pairwise", *args])  # noqa: E731
    done = run("t.csv", "--by", "g", "--permutations", "19", "--slices", "32", "--top", "1", "--out", "pairwise.csv")
    assert done.exit_code == 0, done.output
    assert "677 points in 4 groups by g" in done.output and (tmp_path / "pairwise.png").stat().st_size > 1000
    table = (tmp_path / "pairwise.csv").read_text().splitlines()
    assert table[0] == "a,b,n_a,n_b,distance,standard_error,pvalue,adjusted_pvalue" and len(table) == 7
    done = run("t.csv", "--by", "g", "--permutations", "0", "--json", "--out", "other.csv")
    assert len(json.loads(done.output)["pairs"]) == 6 and "pvalue" not in (tmp_path / "other.csv").read_text()
    for args, says in (
        (("t.csv", "--by", "h"), "'h'"),
        (("none.csv", "--by", "g"), "no such file"),
        (("t.csv", "--by", "g", "--slices", "0"), "Invalid value for '--slices'"),
        (("t.csv", "--by", "g", "--out", "x.png"), "--out must end in .csv, got x.png"),
    ):
        done = run(*args)
        assert done.exit_code != 0 and says in done.output and len(done.output.strip().splitlines()) == 1, done.output


def test_the_command_reads_tables_as_compare_does(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from rieszflow.cli import app

    monkeypatch.chdir(tmp_path)
    x, labels = groups()
    numbers = [[str(v).replace(".", ",") for v in row] for row in x[:, :2].tolist()]
    lines = [";".join([f"{ord(g):03}", *row]) for g, row in zip(labels, numbers, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["städte;a;b", *lines]), encoding="latin-1")
    options = ["--delimiter", ";", "--decimal", ",", "--missing", "?", "--encoding", "latin-1", "--permutations", "0", "--json"]
    done = CliRunner().invoke(app, ["pairwise", "t.csv", "--by", "städte", *options])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {pair["a"] for pair in found["pairs"]} == {"097", "098", "099"}
    want = rf.pairwise_energy_distance(x[:, :2].numpy().astype(float), labels, permutations=0, scale="columns")
    got = {(pair["a"], pair["b"]): pair["distance"] for pair in found["pairs"]}
    assert got["097", "098"] == pytest.approx(want.distances[0, 1], rel=1e-6)
    done = CliRunner().invoke(app, ["pairwise", "t.csv", "--by", "städte", *options, "--columns", "a"])
    assert json.loads(done.stdout)["pairs"] != found["pairs"]


def sizes(*args, **options):
    found = rf.pairwise_energy_distance(*args, permutations=0, slices=4, **options)
    return dict(zip(found.names, found.sizes.tolist(), strict=True))


@pytest.mark.parametrize(
    "labels", [["01", "1", "001", "2"], ["1E5", "100000", "2E1", "20"], ["3", "12"], ["9007199254740992", "9007199254740993"]]
)
def test_a_label_in_a_csv_file_is_its_text(tmp_path, labels):
    rows = "".join(f"{label},{k}.5,{k % 7}\n" for k, label in enumerate(labels * 4))
    (tmp_path / "t.csv").write_text("site,v,w\n" + rows)
    want = dict.fromkeys(sorted(labels), 4)
    assert sizes(tmp_path / "t.csv", "site") == sizes(rf.Table(tmp_path / "t.csv"), "site") == want
    (tmp_path / "gaps.csv").write_text((tmp_path / "t.csv").read_text() + f"{labels[0]},?,1\n,1,1\nNA,1,1\n")
    gaps = tmp_path / "gaps.csv"
    with pytest.raises(InputError, match=f"got 2 of {4 * len(labels) + 3} missing"):
        sizes(rf.Table(gaps, missing=["?"]), "site")
    query = f"SELECT * FROM read_csv('{gaps}', types = {{'site': 'VARCHAR'}}) WHERE site <> 'NA' AND v <> '?'"
    assert sizes(query, "site") == want


def test_labels_are_objects_of_one_type():
    """In a frame, in Arrow's and pandas' columns, and in a list, they are what was given, and neither text nor a float."""
    pa, pandas = pytest.importorskip("pyarrow"), pytest.importorskip("pandas")
    x = torch.randn(12, 2, generator=generator(8))
    large, days = [2**53, 2**53 + 1, 2**60] * 4, ["2020-01-01", "2020-01-02", "2020-01-03"] * 4
    numbers = {str(k): 4 for k in sorted(large)}
    for labels in (
        large, np.array(large), torch.tensor(large), pandas.Series(large), pandas.Series(large, dtype="Int64"),
        pandas.Categorical(large), pa.array(large), pa.chunked_array([large[:5], large[5:]]), pa.table({"g": large}),
        pa.array(large).dictionary_encode(), pa.RecordBatchReader.from_stream(pa.table({"g": large})), list(np.array(large)),
        list(pa.array(large)), pandas.DataFrame({"g": large}), list(torch.tensor(large)),
    ):  # fmt: skip
        assert sizes(x, labels) == numbers, type(labels)
    for labels in (np.array(days, "M8[D]"), [np.datetime64(day) for day in days], pandas.PeriodIndex(days, freq="D")):
        assert list(sizes(x, labels)) == days[:3]
    assert sizes(x, SimpleNamespace(to_numpy=lambda: np.array(large))) == numbers  # as arrays of xarray
    assert sizes(x, ["a", "a\0", "b"] * 4) == {"a": 4, "a\0": 4, "b": 4}
    frame = pandas.DataFrame({"v": np.arange(12.0), "g": large})
    for source in (frame, pa.table(frame), pa.RecordBatchReader.from_stream(pa.table(frame)), rf.Table(frame)):
        assert sizes(source, "g") == numbers
    for labels, says in (
        ([1, "1"] * 6, "must have labels of one type, got int and str"),
        ([True, 1] * 6, "must have labels of one type, got bool and int"),
        (pandas.Series([1, None] * 6, dtype="Int64"), "got 6 of 12 missing"),
        (pandas.Series(["a", None] * 6), "got 6 of 12 missing"),
        (["a", " "] * 6, "got 6 of 12 missing"),
        (np.array(["2020-01-01", "NaT"] * 6, "M8[s]"), "got 6 of 12 missing"),
        (np.ma.masked_equal([1, 2] * 6, 2), "got 6 of 12 missing"),
        (np.zeros((12, 1)), "got a list as a label"),
        ([[1], [2]] * 6, "got a list as a label"),
        (pa.table({"g": large, "h": large}), "got Table with 'g', 'h'"),
        (b"abcabcabcabc", "`groups` must be a label for every point, .* got bytes"),
    ):
        with pytest.raises((InputError, InputTypeError), match=says):
            sizes(x, labels)
    nested = pa.table({"v": np.arange(12.0), "g": [{"a": k} for k in range(12)]})
    with pytest.raises(InputTypeError, match="got a dict as a label"):
        sizes(nested, "g")
    assert sizes(x, [0.0, -0.0, 1.5] * 4) == {"0.0": 8, "1.5": 4}
    shortest = pa.array([1, 2, 3] * 4).cast(pa.time64("ns"))
    for source, labels in (
        (x, shortest),
        (x, pa.chunked_array([shortest])),
        (pa.table({"v": np.arange(12.0), "g": shortest}), "g"),
    ):
        assert list(sizes(source, labels)) == [f"00:00:00.00000000{k}" for k in (1, 2, 3)]
    stamps = pa.chunked_array([np.array([1, 2, 3] * 4, "M8[ns]")])
    temporal = SimpleNamespace(is_temporal=lambda: True)
    series = SimpleNamespace(dtype=temporal, to_list=None, __arrow_c_stream__=stamps.__arrow_c_stream__)  # as of polars
    assert list(sizes(x, series)) == [f"1970-01-01 00:00:00.00000000{k}" for k in (1, 2, 3)]
    periods = pandas.DataFrame({"v": np.arange(12.0), "g": pandas.PeriodIndex(days, freq="D")})
    with pytest.raises(DatasetError, match="labels in column 'g' must have a plain type, got pandas.period"):
        sizes(periods, "g")


def test_labels_whose_index_is_in_another_order_are_refused():
    """pandas would match them by the index, and scikit-learn by their places."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"v": np.arange(12.0)}, index=[f"c{k}" for k in range(12)])
    labels = pandas.Series(["a", "b"] * 6, index=frame.index)
    cells = SimpleNamespace(obs=pandas.DataFrame({"g": labels}), obsm={}, X=frame.to_numpy(), obs_names=frame.index)
    for source in (frame, cells):
        for other in (labels[::-1], pandas.DataFrame({"g": labels})[::-1]):
            with pytest.raises(InputError, match="`groups` must be in the order of the points"):
                sizes(source, other)
        for same in (labels, labels[::-1].to_numpy(), labels.reset_index(drop=True)):
            assert sizes(source, same) == {"a": 6, "b": 6}


def test_a_p_value_of_few_points_cannot_be_small():
    with pytest.warns(
        rf.Notice, match="p-value: cannot be less than 0.333, whatever the samples look like: there are only 6 ways"
    ):
        rf.pairwise_energy_distance(np.arange(4.0)[:, None], list("aabb"))
