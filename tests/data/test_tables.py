"""Tables: which columns are read, as which numbers, and a notice for every skipped one."""

import datetime
import gzip
import warnings
from decimal import Decimal

import numpy as np
import pytest
import torch

import rieszflow as rf
from rieszflow import Notice, SliceSketch, stream
from rieszflow.errors import DatasetError

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402  (an extra)


def test_an_index_is_not_a_column(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0, 4.0]})[lambda it: it.a != 2]  # rows 0 and 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        assert list(stream(frame).names) == ["a"]
    one = pandas.DataFrame({"a": [1.0, 4.0]})
    for index in ([7, 8], range(2), pandas.period_range("2020", periods=2, freq="D"), ["u", "v"]):
        named = one.set_axis(pandas.Index(index, name="day"))
        found, matrix, (message,) = points(named)
        assert found.names == ["a"] and matrix.tolist() == [[1], [4]]
        assert "DataFrame: skipped the index 'day', which is not a column; reset_index() makes it one" in message
    named = one.set_axis(pandas.Index([7, 8], name="day"))
    assert points(named.reset_index())[0].names == ["day", "a"]
    # In a file, and in a table made from the frame, the index is a column, which the metadata name.
    named.to_parquet(tmp_path / "a.parquet")
    for source in (tmp_path / "a.parquet", pa.Table.from_pandas(named)):
        found, matrix, (message,) = points(source)
        assert found.names == ["a"] and "'day' (an index written by pandas)" in message
        assert points(source, columns=["day", "a"])[1].tolist() == [[7, 1], [8, 4]]


def test_periods_are_not_numbers(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], "p": pandas.period_range("2020-01", periods=2, freq="M")})
    frame.to_parquet(tmp_path / "a.parquet")
    # An unregistered type (that of periods, unless pandas was imported) is found in the metadata only.
    fields = [pa.field("a", pa.float64()), pa.field("p", pa.int64(), metadata={"ARROW:extension:name": "other.period"})]
    plain = pa.table([[1.0, 2.0], [600, 601]], schema=pa.schema(fields))
    for source, kind in ((frame, "pandas"), (tmp_path / "a.parquet", "pandas"), (plain, "other")):
        found, _, (message,) = points(source)
        assert found.names == ["a"] and f"'p' (of the type {kind}.period)" in message
    embedding = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(6.0).reshape(2, 3))
    assert points(pa.table({"e": embedding}))[1].tolist() == [[0, 1, 2], [3, 4, 5]]


def points(source, **options):
    """Return the stream of a source, all its points, and its notices."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = stream(source, **options)
        matrix = torch.cat(list(found)).numpy()
    return found, matrix, [str(w.message) for w in caught if w.category is Notice]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def table(path, columns):
    pq.write_table(pa.table(columns), path)
    return path


def frames(names, n=400, seed=0):
    """Return columns of age, income and size in the order of `names`."""
    g = np.random.default_rng(seed)
    columns = {"age": g.normal(40, 10, n), "income": g.normal(3000, 500, n), "size": g.normal(2, 1, n)}
    return {name: columns[name] for name in names}


# Columns are matched by name.


def save(path, columns):
    """Write a table in the format of the suffix."""
    if path.suffix == ".parquet":
        return table(path, columns)
    np.savetxt(path, np.stack(list(columns.values()), 1), delimiter=",", header=",".join(columns), comments="", fmt="%.17g")
    return path


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_columns_in_another_order_are_matched(tmp_path, ending):
    """All comparisons of two clouds are bit-identical to those with equal order."""
    a = save(tmp_path / f"a.{ending}", frames(["age", "income", "size"], seed=0))
    b = save(tmp_path / f"b.{ending}", frames(["age", "income", "size"], seed=1))
    swapped = save(tmp_path / f"c.{ending}", frames(["size", "income", "age"], seed=1))
    want = rf.two_sample_test(a, b, slices=8, permutations=19)
    got = rf.two_sample_test(a, swapped, slices=8, permutations=19)
    assert (got.pvalue, got.statistic) == (want.pvalue, want.statistic) and got.y.names == ["age", "income", "size"]
    reference = SliceSketch.from_points(a, slices=8)
    assert reference.distance(swapped) == reference.distance(b)
    assert torch.equal(reference.feature_distances(swapped), reference.feature_distances(b))
    assert rf.drift_test(swapped, reference, permutations=19).pvalue == rf.drift_test(b, reference, permutations=19).pvalue
    assert reference.empty().update(swapped).distance(b) == 0
    frame = pa.table(frames(["income", "size", "age"], seed=1))
    assert rf.two_sample_test(a, frame, slices=8, permutations=19).statistic == want.statistic


def test_other_columns_are_refused(tmp_path):
    a = save(tmp_path / "a.csv", frames(["age", "income"]))
    b = save(tmp_path / "b.csv", {"height": np.arange(9.0), "weight": np.arange(9.0)})
    c = save(tmp_path / "c.csv", frames(["age", "income", "size"]))
    text = write(tmp_path / "t.csv", "age,income\n" + "1,much\n2,little\n" * 5)
    sketch = SliceSketch.from_points(a, slices=4)
    for other, says in (
        (b, "has different columns: it has 'height', 'weight', .* 'age', 'income'"),
        (c, "has the additional column 'size'"),
        (text, "column 'income' must hold numbers as in .*, got text"),
    ):
        with pytest.raises(ValueError, match=says):
            rf.two_sample_test(a, other)
        for way in (sketch.update, sketch.distance, sketch.feature_distances, lambda o: rf.drift_test(o, sketch)):
            with pytest.raises(ValueError, match=says):
                way(other)
    with pytest.raises(ValueError, match="column 'income' must hold text as in .*, got number"):
        rf.two_sample_test(text, a)
    with pytest.raises(ValueError, match="lacks 'size'"):
        rf.two_sample_test(c, a)
    assert sketch.n == 400  # nothing was added
    swapped = SliceSketch.from_points(pa.table(frames(["income", "age"])), slices=4)
    with pytest.raises(ValueError, match="the same columns in another order"):
        sketch.merge(swapped)
    with pytest.raises(ValueError, match="with the same columns; it "):
        sketch.distance(SliceSketch.from_points(b, slices=4))


def test_common_columns_on_request(tmp_path):
    a = save(tmp_path / "a.csv", frames(["age", "income"], seed=0))
    c = save(tmp_path / "c.parquet", frames(["size", "income", "age"], seed=1))
    with pytest.warns(Notice, match=r"c.parquet: skipped 'size': not in the other table"):
        got = rf.two_sample_test(a, c, slices=8, permutations=19, common=True)
    want = rf.two_sample_test(a, rf.Table(c, columns=["age", "income"]), slices=8, permutations=19)
    assert (got.pvalue, got.statistic) == (want.pvalue, want.statistic)
    with pytest.raises(ValueError, match="no column in common"):
        rf.two_sample_test(rf.Table(a, columns=["age"]), rf.Table(c, columns=["size"]), common=True)
    with pytest.raises(ValueError, match="`common` must be False unless all sources are tables with column names"):
        rf.two_sample_test(np.zeros((3, 2)), a, common=True)


def test_names_are_kept_in_a_sketch(tmp_path):
    a = save(tmp_path / "a.parquet", frames(["age", "income"]))
    SliceSketch.from_points(a, slices=4).save(tmp_path / "a.sketch")
    again = SliceSketch.load(tmp_path / "a.sketch")
    swapped = save(tmp_path / "b.parquet", frames(["income", "age"]))
    assert again.names == ["age", "income"] and again.distance(swapped) == 0
    with pytest.warns(Notice, match="points: has no column names, the sketch has; columns are matched by position"):
        assert again.distance(np.stack(list(frames(["age", "income"]).values()), 1)) == 0
    with pytest.raises(ValueError, match="`names` must be 2 different names"):
        SliceSketch(np.zeros((2, 2)), names=["a", "a"])


# Which columns are read.


def test_numbers_of_all_kinds_in_parquet(tmp_path):
    values = [1.5, -2.25, 3.0]
    file = table(tmp_path / "a.parquet", {
        "half": pa.array(np.array(values, np.float16)),
        "decimal": pa.array([Decimal(str(v)) for v in values], pa.decimal128(12, 2)),
        "wide": pa.array([Decimal(str(v)) for v in values], pa.decimal256(50, 4)),
        "flag": pa.array([True, False, True]),
        "byte": pa.array([1, 2, 255], pa.uint8()),
        "category": pa.array(values).dictionary_encode(),
        "pair": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        "fixed": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int64(), 2)),
        "square": pa.array([[[1, 2], [3, 4]]] * 3),
        "large": pa.array([[7.0], [8.0], [9.0]], pa.large_list(pa.float32())),
    })  # fmt: skip
    found, matrix, notices = points(file)
    pairs = [[1, 2], [3, 4], [5, 6]]
    want = np.column_stack(
        [values, values, values, [1, 0, 1], [1, 2, 255], values, pairs, pairs, [[1, 2, 3, 4]] * 3, [7, 8, 9]]
    )
    assert matrix.dtype == np.float64 and np.array_equal(matrix, want) and notices == []
    assert found.names is not None and found.names[6:10] == ["pair[0]", "pair[1]", "fixed[0]", "fixed[1]"]
    single = table(tmp_path / "b.parquet", {"x": pa.array([1, 2], pa.float32()), "n": pa.array([1, 2], pa.int16())})
    assert points(single)[1].dtype == np.float32  # float32 holds all of it


def test_every_skipped_column_is_named_with_its_reason(tmp_path):
    file = table(tmp_path / "a.parquet", {
        "x": [1.0, 2.0], "label": ["a", "b"], "when": pa.array([1, 2], pa.timestamp("ms")), "none": pa.nulls(2),
        "image": [{"bytes": b"1", "path": "p"}] * 2, "raw": [b"1", b"2"], "words": [["a"], ["b", "c"]],
        "kind": pa.array(["u", "v"]).dictionary_encode(), "__index_level_0__": [5, 6],
    })  # fmt: skip
    found, matrix, messages = points(file)
    message = "; ".join(messages)
    assert matrix[:, 0].tolist() == [1, 2] and found.names == ["x"]
    reasons = {
        "label": "text", "when": "dates or times", "none": "empty", "image": "nested: struct", "raw": "binary",
        "words": "lists of text", "kind": "text", "__index_level_0__": "an index",
    }  # fmt: skip
    for column, reason in reasons.items():
        assert f"{column!r} ({reason}" in message
    assert points(file, columns=["x"])[2] == points(file, exclude=list(reasons))[2] == []
    assert points(file, columns=["__index_level_0__", "x"])[1].tolist() == [[5, 1], [6, 2]]
    with pytest.raises(ValueError, match="column 'label' must hold numbers to be chosen, got text"):
        stream(file, columns=["label"])
    with pytest.raises(ValueError, match="no column 'lable'; did you mean 'label'"):
        stream(file, exclude=["lable"])
    with pytest.raises(ValueError, match="no numeric columns among 'label' .text"):
        stream(file, exclude=["x", "__index_level_0__"])


def test_index_columns_of_csv(tmp_path):
    file = write(tmp_path / "a.csv", ",x\n0,5\n1,6\n")
    found, matrix, (message,) = points(file)
    assert found.names == ["x"] and matrix.tolist() == [[5], [6]] and "'' (an index written by pandas)" in message
    assert points(write(tmp_path / "b.csv", "Unnamed: 0,x\n0,5\n1,6\n"))[1].tolist() == [[5], [6]]
    assert points(file, columns=["", "x"])[1].tolist() == [[0, 5], [1, 6]]


@pytest.mark.parametrize(
    ("cells", "says", "options", "want"),
    [
        (["1", "?", "3"], "line 3: must be a number, got '\\?'; give missing=\\['\\?'\\]", None, None),
        (["1", "NA", "3"], "has missing values \\(row 1, counted from 0\\)", None, None),
        (["1", "", "3"], "has missing values \\(row 1, counted from 0\\)", None, None),
        (["1", "nan", "3"], "has missing values \\(row 1, counted from 0\\)", None, None),
        (["1", "x", "3"], "line 3: must be a number, got 'x'; correct it", None, None),
        (['"1,234"', '"2,000"', "7"], "line 2: must be a number, got '1,234'.*thousands", {"thousands": ","}, [1234, 2000, 7]),
        (['"1,5"', '"-2,25"', "7"], "line 2: must be a number, got '1,5'.*decimal", {"decimal": ","}, [1.5, -2.25, 7]),
        (["1.234.567,5", "2"], "must be a number|cells", {"thousands": ".", "decimal": ",", "delimiter": ";"}, [1234567.5, 2]),
        (["12%", "13%", "14%"], "line 2: must be a number, got '12%'", None, None),
        (["$12", "$13", "$14"], "line 2: must be a number, got '\\$12'", None, None),
        (["1", "inf", "3"], "NaN or infinity", None, None),
        (["1", "1e400", "3"], "NaN or infinity", None, None),
    ],
)
def test_cells_that_are_not_plain_numbers(tmp_path, cells, says, options, want):
    """Formatted numbers are an error that names the line, or are read with an option; their column is never skipped."""
    delimiter = ";" if options and options.get("delimiter") else ","
    file = write(tmp_path / "a.csv", f"u{delimiter}v\n" + "".join(f"{k}{delimiter}{c}\n" for k, c in enumerate(cells)))
    with pytest.raises(ValueError, match=says) as error:
        points(file)
    assert "\n" not in str(error.value) and "a.csv" in str(error.value)
    if options is not None:
        assert points(file, **options)[1][:, 1].tolist() == want


def test_text_of_typed_columns_is_text(tmp_path):
    """Codes of numbers in a column of text are categories; in a CSV file, which has no types, they are numbers."""
    for kind in (pa.string(), pa.string_view(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        frame = pa.table({"x": [1.0, 2.0], "v": pa.array(["1", "2"]).cast(kind)})
        assert rf.Table(frame).kinds == {"x": "number", "v": "text"}
        assert rf.TableEncoding.fit(frame).names == ["x", "v=1", "v=2"]
    csv = write(tmp_path / "a.csv", "x,v\n1.5,1\n2.5,2\n")
    assert rf.Table(csv).kinds == {"x": "number", "v": "whole"}
    assert rf.Table(csv, categories=["v"]).kinds == {"x": "number", "v": "text"}
    assert rf.TableEncoding.fit(rf.Table(csv, categories=["v"])).names == ["x", "v=1", "v=2"]


def test_missing_numbers_are_refused_as_coordinates(tmp_path):
    file = table(tmp_path / "a.parquet", {"x": pa.array([1, None, 3]), "e": pa.array([[1.0, 2.0], [3.0, 4.0], [None, 6.0]])})
    with pytest.raises(ValueError, match=r"column 'x' has missing values \(row 1, counted from 0\); .*TableEncoding"):
        stream(file)
    with pytest.raises(ValueError, match=r"column 'e\[0\]' has missing values \(row 2,"):
        stream(file, columns=["e"])
    with pytest.raises(ValueError, match=r"column 'x' has missing values \(row 1,"):
        stream(table(tmp_path / "n.parquet", {"x": [1.0, float("nan"), 3.0]}))


def test_times_are_seconds_in_an_encoding(tmp_path):
    day = datetime.datetime(2026, 3, 1, 12, 30, tzinfo=datetime.UTC)
    seconds = day.timestamp()
    file = table(tmp_path / "a.parquet", {
        "s": pa.array([day], pa.timestamp("s", tz="UTC")), "ns": pa.array([day], pa.timestamp("ns", tz="UTC")),
        "local": pa.array([day.replace(tzinfo=None)], pa.timestamp("us")), "date": pa.array([day.date()]),
        "date64": pa.array([day.date()], pa.date64()), "time": pa.array([day.time()], pa.time64("us")),
        "short": pa.array([day.time()], pa.time32("ms")), "old": pa.array([datetime.date(1850, 1, 1)]),
    })  # fmt: skip
    span = pa.table({"span": pa.array([datetime.timedelta(days=1, microseconds=5)])})  # Parquet stores it as a whole number
    midnight = seconds - 45000
    want = [seconds, seconds, seconds, midnight, midnight, 45000, 45000, -3786825600]
    assert rf.TableEncoding.fit(file).transform(file).tolist() == [want]
    assert rf.TableEncoding.fit(span).transform(span).tolist() == [[86400 + 5e-6]]
    csv = write(tmp_path / "a.csv", "x,t\n1,2026-03-01T12:30:00+02:00\n2,2026-03-01T12:30:01Z\n")
    (found,) = rf.TableEncoding.fit(rf.Table(csv, columns=["t"])).columns
    assert found.centre == seconds - 3600 + 0.5
    assert "'t' (dates or times)" in points(csv)[2][0]


def test_lists_of_unequal_length(tmp_path):
    file = table(tmp_path / "a.parquet", {"e": pa.array([[1.0, 2.0], [3.0]])})
    with pytest.raises(ValueError, match=r"column 'e': lists must have one length, at least 1, got \[1, 2\]"):
        stream(file)
    (tmp_path / "many").mkdir()
    table(tmp_path / "many" / "0.parquet", {"e": pa.array([[1.0, 2.0]])})
    table(tmp_path / "many" / "1.parquet", {"e": pa.array([[3.0]])})
    with pytest.raises(ValueError, match=r"many: column 'e': lists must have one length, at least 1, got \[1, 2\]"):
        points(tmp_path / "many")
    with pytest.raises(ValueError, match=r"at least 1, got \[0\]"):
        stream(table(tmp_path / "c.parquet", {"e": pa.array([[], []], pa.list_(pa.float64()))}))


# Headers, delimiters, encodings.


def test_a_first_row_of_numbers_is_a_point(tmp_path):
    file = write(tmp_path / "x.csv", "1.5,2\n3,4\n5,6\n")
    found, matrix, (message,) = points(file)
    assert matrix.tolist() == [[1.5, 2], [3, 4], [5, 6]] and found.names is None and "has no header" in message
    assert points(file, header=True)[0].names == ["1.5", "2"]
    counted = write(tmp_path / "p.csv", "0,1\n7,8\n")  # as pandas writes an array
    with pytest.raises(ValueError, match="its first row, 0,1, can be a header or a point; give header=True or header=False"):
        stream(counted)
    assert points(counted, header=False)[1].tolist() == [[0, 1], [7, 8]]
    assert points(counted, header=True)[1].tolist() == [[7, 8]]
    assert points(write(tmp_path / "y.csv", "name,2019,2020\n1,2,3\n"))[0].names == ["name", "2019", "2020"]
    other = write(tmp_path / "z.csv", "2.5,2\n3,4\n5,7\n")
    assert rf.two_sample_test(file, other, slices=4, permutations=9).x.n == 3  # by position: neither has names


def test_forms_of_text(tmp_path):
    want = [[1, 2], [3, 4]]
    for name, text, encoding, options in (
        ("a.csv", "\ufeffa,b\r\n1,2\r\n3,4\r\n", "utf-8", {}),
        ("a.tsv", "a\tb\n1\t2\n3\t4\n", "utf-8", {}),
        ("A.CSV", "a,b\n1,2\n\n3,4\n\n", "utf-8", {}),
        ("s.csv", "a;b\n1;2\n3;4\n", "utf-8", {"delimiter": ";"}),
        ("l.csv", "a,größe\n1,2\n3,4\n", "latin-1", {"encoding": "latin-1"}),
        ("u.csv", "a,b\n1,2\n3,4\n", "utf-16", {"encoding": "utf-16"}),
        ("q.csv", 'a,b,c\n"1","2","x\ny"\n"3","4",z\n', "utf-8", {"exclude": ["c"]}),
        ("n.csv", "# a,b\n1,2\n3,4\n", "utf-8", {}),
        ("w.csv", "a, b\n 1, 2\n3 ,4\n", "utf-8", {}),
    ):
        found, matrix, notices = points(write(tmp_path / name, text, encoding), **options)
        assert matrix.tolist() == want and notices == [], name
        assert found.names is not None and found.names[0] == "a"
    (tmp_path / "z.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n3,4\n"))
    assert points(tmp_path / "z.csv.gz")[1].tolist() == want


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("dup.csv", b"x,x\n1,2\n", "column names must be different, got 'x' twice"),
        ("latin.csv", "größe\n1\n".encode("latin-1"), "must be text in the encoding utf-8; .* encoding='latin-1'"),
        ("late.csv", b"a\n" + b"1\n" * 600_000 + "ü\n".encode("latin-1"), "must be text in the encoding utf-8"),
        ("wide.csv", "a,b\n1,2\n".encode("utf-16"), "encoding='utf-16'"),
        ("ragged.csv", b"x,y\n1,2\n3,4,5\n", "line 3 must have 2 cells as the first line, got 3"),
        ("empty.csv", b"", "got no line"),
        ("head.csv", b"x,y\n", "no points|no numeric columns"),
        ("packed.csv", gzip.compress(b"x\n1\n", mtime=0), "it is compressed, and its name must end in .gz"),
        ("notes.txt", b"1 2\n", "must be a table, .* or a folder, got another format"),
        ("noise.csv.gz", b"hello", "cannot be read|damaged"),
        ("noise.parquet", b"hello", "not a Parquet data set"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        points(tmp_path / name)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_types_that_change_after_the_first_megabyte(tmp_path):
    many = 150_000
    start = "id,v\n" + "".join(f"{k},0\n" for k in range(many))
    _, matrix, notices = points(write(tmp_path / "late.csv", start + f"{many},0.5\n"))
    assert matrix[-1].tolist() == [many, 0.5] and len(matrix) == many + 1 and notices == []
    with pytest.raises(ValueError, match=f"column 'v', line {many + 2}: must be a number, got 'x'"):
        points(write(tmp_path / "text.csv", start + "9,x\n"))
    with pytest.raises(ValueError, match=f"column 'v' has missing values \\(row {many}, counted from 0\\)"):
        points(write(tmp_path / "gap.csv", start + "9,\n"))
    empty = "u,v\n" + "".join(f"{k}.5,\n" for k in range(many))
    with pytest.raises(ValueError, match=r"column 'v' has missing values \(row 0, counted from 0\)"):
        points(write(tmp_path / "first.csv", empty + "1.5,7\n"))
    assert "'v' (empty: no value in it)" in points(write(tmp_path / "none.csv", empty))[2][0]


def test_random_tables_come_back_as_they_were_written(tmp_path):
    """Any float64 written with 17 digits is read exactly."""
    g = np.random.default_rng(0)
    for trial in range(5):
        d, n = int(g.integers(1, 7)), int(g.integers(1, 50))
        values = g.normal(size=(n, d)) * 10.0 ** g.integers(-200, 200, (n, d))
        names = [f"c{k}{';.'[k % 2]}" for k in range(d)]
        order = g.permutation(d)
        np.savetxt(
            tmp_path / "a.csv",
            values[:, order],
            delimiter=",",
            header=",".join(names[k] for k in order),
            comments="",
            fmt="%.17g",
        )
        found, matrix, _ = points(tmp_path / "a.csv", columns=names)
        assert found.names == names and np.array_equal(matrix, values), trial


# Folders and frames.


def test_shards(tmp_path):
    g = np.random.default_rng(0)
    x = g.normal(size=(20, 2))
    whole = table(tmp_path / "whole.parquet", {"a": x[:, 0], "b": x[:, 1]})
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in ("_SUCCESS", "_metadata", "_common_metadata", ".DS_Store", "._x.parquet", "Thumbs.db", ".0.parquet.crc"):
        (folder / name).write_bytes(b"\0")
    table(folder / "0.parquet", {"a": x[:9, 0], "b": x[:9, 1]})
    table(folder / "1.parquet", {"b": x[9:, 1], "a": x[9:, 0]})  # another order
    table(folder / "2.parquet", {"a": pa.array([], pa.int8()), "b": pa.nulls(0)})  # no rows
    found, matrix, notices = points(folder)
    assert found.n == 20 and np.array_equal(matrix, points(whole)[1]) and notices == []
    table(folder / "3.parquet", {"a": [7], "b": [8]})  # integers
    assert points(folder)[1][-1].tolist() == [7, 8]
    (folder / "README.md").write_text("hello")
    assert "skipped 'README.md'" in points(folder)[2][0]
    (folder / "_temporary").mkdir()
    for name in ("_temporary/0.parquet", "_temporary/1.parquet", ".old.parquet"):
        table(folder / name, {"a": [7.0], "b": [8.0]})
    found, _, notices = points(folder)
    assert found.n == 21 and "skipped '.old.parquet', '_temporary': names that begin" in notices[0]
    table(folder / "4.parquet", {"a": [7], "b": ["x"]})
    with pytest.raises(ValueError, match=r"4.parquet: column 'b' must hold numbers as in .*0.parquet, got text"):
        stream(folder)
    table(folder / "4.parquet", {"a": [7], "c": [8]})
    with pytest.raises(ValueError, match=r"4.parquet: has different columns: it has 'c', .*0.parquet has 'b'"):
        stream(folder)
    (folder / "4.parquet").unlink()
    write(folder / "5.csv", "a,b\n1,2\n")
    with pytest.raises(ValueError, match="tables of one kind"):
        stream(folder)
    csvs = tmp_path / "csvs"
    csvs.mkdir()
    write(csvs / "part-0.csv", "a,b\n1,2\n")
    write(csvs / "part-1.csv", "b,a\n4,3\n")
    assert points(csvs)[1].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("name", ["0.parquet", "0.csv", "0.json", "0.jsonl.gz"])
def test_folders_with_values_are_columns(tmp_path, name):
    """A single file has none; numbers are numbers, escaped characters are text, and Hive's name of nulls is a missing cell."""
    for k, folder in enumerate(("year=2020/place=%C3%85s", "year=2021/place=B", "year=2021/place=__HIVE_DEFAULT_PARTITION__")):
        file = tmp_path / "hive" / folder / name
        file.parent.mkdir(parents=True)
        if file.suffix == ".parquet":
            table(file, {"a": [1.5 + k]})
        elif file.suffix == ".gz":
            file.write_bytes(gzip.compress(b'{"a": %.1f}' % (1.5 + k)))
        else:
            write(file, f"a\n{1.5 + k}\n" if file.suffix == ".csv" else f'[{{"a": {1.5 + k}}}]')
    found = rf.Table(tmp_path / "hive")
    assert found.kinds == {"a": "number", "year": "whole", "place": "text"}
    assert sorted(found.labels("place"), key=str) == ["B", None, "Ås"]
    assert sorted(points(tmp_path / "hive")[1].tolist()) == [[1.5, 2020], [2.5, 2021], [3.5, 2021]]
    assert points(file)[0].names == ["a"]


def test_truth_values_keep_their_words(tmp_path):
    """Only true and false in any case are truth values; DuckDB would take Y, yes, t and 1 for them, too."""
    words = {"a": "true FALSE", "b": "True False", "c": "Y N", "d": "yes No", "e": "t f", "f": "true unknown"}
    rows = zip(*(text.split() * 3 for text in words.values()), strict=True)
    file = write(tmp_path / "a.csv", "\n".join([",".join(words), *(",".join(row) for row in rows)]) + "\n")
    kinds = rf.Table(file).kinds
    assert kinds == {"a": "boolean", "b": "boolean", "c": "text", "d": "text", "e": "text", "f": "text"}
    assert rf.TableEncoding.fit(file).names[:6] == ["a=false", "a=true", "b=false", "b=true", "c=N", "c=Y"]


def test_blanks_belong_to_text_except_in_csv_files(tmp_path):
    frame = pa.table({"a": ["van", "van ", " ", "bus", "bus"]})
    assert rf.TableEncoding.fit(frame).names == ["a=bus", "a=van", "a=van ", "a missing"]
    file = write(tmp_path / "a.csv", "a,b\nvan,1\nvan ,2\n ,3\nbus,1\nbus,1\n")
    assert rf.TableEncoding.fit(file).names == ["a=bus", "a=van", "a missing", "b"]


def test_queries_of_any_length_and_files_named_like_queries(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "from a.csv", "a\n1.5\n2.5\n")
    assert points("from a.csv")[1].tolist() == [[1.5], [2.5]]
    query = "FROM 'from a.csv' WHERE " + " AND ".join(["a > 2"] * 100)  # longer than the name of a file can be
    assert points(query)[1].tolist() == [[2.5]]


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("_delta_log/0.json", "Delta Lake"),
        (".hoodie/hoodie.properties", "Hudi"),
        ("metadata/v1.metadata.json", "Iceberg"),
        ("_spark_metadata/0", "Spark"),
    ],
)
def test_tables_with_a_log_of_current_files_are_refused(tmp_path, log, kind):
    """The folder, its parent and a partition in it are refused; a single file is read."""
    folder = tmp_path / "above" / "table"
    file = folder / "data" / "year=2020" / "0.parquet"
    for path in (file, folder / log):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    table(file, {"a": [1.0, 2.0]})
    for place in (folder, folder.parent, file.parent):
        with pytest.raises(DatasetError, match=f"must be a folder of plain tables, got a table of {kind}"):
            stream(place)
    assert points(file)[1].tolist() == [[1], [2]]


def test_endless_rows_of_compressed_files_are_not_unpacked(tmp_path):
    """A first row without line break, and one with a line break in every cell, are refused early."""
    for row in (b"a," * (1 << 22), b'"a\n",' * (1 << 20)):
        with gzip.open(tmp_path / "t.csv.gz", "wb", compresslevel=1) as file:
            for _ in range(4):
                file.write(row)
        with pytest.raises(
            DatasetError,
            match="t.csv.gz: must begin with .* got no line of up to two megabytes|must have|damaged|no numeric columns",
        ):
            stream(tmp_path / "t.csv.gz")


def test_long_lists_come_in_small_batches(tmp_path, monkeypatch):
    """Equal numbers are stored compactly, so the size of a batch follows from the metadata, not the file size."""
    monkeypatch.setattr("rieszflow.data.streams.BATCH_NUMBERS", 1 << 12)
    rows, width = 300, 128
    lists = pa.ListArray.from_arrays(np.arange(rows + 1) * width, pa.array(np.zeros(rows * width, np.float32)))
    table(tmp_path / "a.parquet", {"e": lists})
    found = stream(tmp_path / "a.parquet")
    assert (found.n, found.d) == (rows, width) and len(found.first) * width <= 1 << 12


def test_frames(tmp_path):
    """Tables, batches and readers, which are read completely, are exported to Arrow."""
    whole = pa.table({"a": [1.0, 2.0], "name": ["x", "y"], "b": [3, 4]})

    class Foreign:
        def __arrow_c_stream__(self, requested_schema=None):
            return whole.__arrow_c_stream__(requested_schema)

    for frame in (whole, whole.to_batches()[0], Foreign(), pa.RecordBatchReader.from_stream(whole)):
        found, matrix, (message,) = points(frame)
        assert found.names == ["a", "b"] and matrix.tolist() == [[1, 3], [2, 4]] and "'name' (text)" in message
    assert points(whole, columns=["b"])[1].tolist() == [[3], [4]]
    with pytest.raises(ValueError, match="cannot be read as a table"):
        stream(pa.chunked_array([[1.0, 2.0]]))
    with pytest.raises(ValueError, match="column names must be different, got 'x' twice"):
        stream(pa.table([pa.array([1]), pa.array([2])], names=["x", "x"]))


def test_several_files(tmp_path):
    a, b = write(tmp_path / "a.csv", "u,v\n1,2\n"), write(tmp_path / "b.csv", "v,u\n4,3\n")
    assert points([a, str(b)])[1].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match="c.npy: must be a table .*, got another format"):
        stream([a, tmp_path / "c.npy"])
    nulls = table(tmp_path / "n.parquet", {"u": pa.nulls(1), "v": [1.0]})
    with pytest.raises(ValueError, match="m.parquet, …: column 'u' has missing values"):
        points([table(tmp_path / "m.parquet", {"u": [1.0], "v": [1.0]}), nulls])


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_a_file_name_is_not_a_pattern(tmp_path, ending):
    """A file called "a[1]", as browsers save the second one, is that file, and not "a1"."""
    for name, value in (("a[1]", 1.0), ("a1", 2.0), ("b*", 3.0), ("bc", 4.0)):
        rows = pa.table({"x": [value, value + 0.5]})
        path = tmp_path / f"{name}.{ending}"
        if ending == "json":
            path.write_text("".join(f'{{"x": {v}}}\n' for v in rows.column(0).to_pylist()))
        else:
            save(path, {"x": rows.column(0).to_numpy()})
    for name, value in (("a[1]", 1.0), ("b*", 3.0)):
        assert points(tmp_path / f"{name}.{ending}")[1][:, 0].tolist() == [value, value + 0.5]
    assert len(points(str(tmp_path / f"*1*.{ending}"))[1]) == 4  # but a path that does not exist is one


def test_very_wide_rows(tmp_path):
    n = 1_500  # with long cells, a row is nearly half a megabyte
    rows = [",".join(f"{r}.12345{'0' * 250}" for _ in range(n)) for r in range(2)]
    file = write(tmp_path / "a.csv", ",".join(f"c{k}" for k in range(n)) + "\n" + "\n".join(rows) + "\n")
    _, matrix, notices = points(file)
    assert matrix.shape == (2, n) and np.array_equal(matrix, [[0.12345] * n, [1.12345] * n]) and notices == []


# Large integers.


def test_integers_keep_their_digits(tmp_path):
    """Epoch seconds: MMD² by brute force in float64. One-dimensional slices are all equal, so only the bins' error remains."""
    g = np.random.default_rng(0)
    a, b = 1_700_000_000 + g.integers(0, 60, (400, 1)), 1_700_000_040 + g.integers(0, 20, (400, 1))
    want = rf.mmd2(a.astype(float), b.astype(float), statistic="U")
    np.save(tmp_path / "a.npy", a)
    np.savez(tmp_path / "a.npz", x=a)
    write(tmp_path / "a.csv", "t\n" + "\n".join(map(str, a[:, 0])) + "\n")
    table(tmp_path / "a.parquet", {"t": a[:, 0]})
    reference = SliceSketch(np.concatenate([a, b]).astype(float), slices=4).update(b)
    for source in (
        a,
        torch.from_numpy(a),
        *(tmp_path / f"a.{e}" for e in ("npy", "npz", "csv", "parquet")),
        [a[:200], a[200:]],
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)  # some have names, and some have not
            test = rf.two_sample_test(source, b, slices=4, scale="none")
            assert test.pvalue == 0.001 and test.statistic == pytest.approx(want, rel=2e-3)
            assert reference.distance(source, statistic="U") == pytest.approx(want, rel=2e-3)
    # A float32 reference cannot hold such numbers; wider points are not narrowed to it.
    near = torch.zeros(50, 1)
    sketch = SliceSketch.from_points(near, slices=4)
    assert sketch.distance(torch.full((50, 1), 2.0**24 + 1, dtype=torch.float64)) == pytest.approx(2 * (2**24 + 1), rel=1e-6)


def test_integers_beyond_the_resolution_of_float64(tmp_path):
    near = 1_700_000_000_000_000_000 + np.arange(50)  # nanoseconds
    far = 1_700_000_000_000_000_000 + np.arange(50) * 10**12
    with pytest.raises(
        ValueError,
        match=r"numbers near 1.7e\+18 with a spread of 49; float64 rounds them to multiples of 256; subtract an offset",
    ):
        stream(near)
    write(tmp_path / "a.csv", "t\n" + "\n".join(map(str, near)) + "\n")
    with pytest.raises(ValueError, match="column 't' holds whole numbers near 1.7e\\+18, which float64 rounds"):
        stream(tmp_path / "a.csv")
    assert np.array_equal(points(far)[1][:, 0], far.astype(float))
    assert (
        points(np.full(5, near[0]))[1].ptp() == 0 if hasattr(np.ndarray, "ptp") else np.ptp(points(np.full(5, near[0]))[1]) == 0
    )


def test_bad_options(tmp_path):
    file = write(tmp_path / "a.csv", "a,b\n1,2\n")
    for options, says in (
        ({"columns": "a"}, "`columns` must be a list of strings, got 'a'"),
        ({"columns": []}, "`columns` must be one or more different names, got"),
        ({"columns": ["a", "a"]}, "`columns` must be one or more different names, got"),
        ({"header": 3}, "`header` must be True, False or 'auto', got 3"),
        ({"delimiter": ";;"}, "`delimiter` must be a single character, got ';;'"),
        ({"decimal": None}, "`decimal` must be '.' or ',', got None"),
        ({"thousands": "."}, "`thousands` must be different from `decimal`, got '.'"),
        ({"missing": "?"}, "`missing` must be a list of strings, got '\\?'"),
        ({"categories": "a"}, "`categories` must be a list of strings, got 'a'"),
        ({"encoding": "klingon"}, "must be text in the encoding klingon"),
    ):
        with pytest.raises(ValueError, match=says):
            stream(file, **options)
    with pytest.raises(ValueError, match="`source` must be a table for the options columns, got ndarray"):
        stream(np.zeros((2, 2)), columns=["a"])


@pytest.mark.parametrize("damage", ["cut in half", "cut late", "overwritten"])
def test_damaged_compressed_files(tmp_path, damage):
    """Errors of the decompressor become one line, even those raised while the line of another error is searched."""
    numbers = np.random.default_rng(0).normal(size=(60_000, 3))
    text = "a,b,c\n" + "".join(",".join(map(repr, row)) + "\n" for row in numbers.tolist())
    whole = bytearray(gzip.compress(text.encode(), 1))
    if damage == "overwritten":
        whole[len(whole) // 2 : len(whole) // 2 + 400] = bytes(400)
    content = {"cut in half": whole[: len(whole) // 2], "cut late": whole[:-30], "overwritten": whole}[damage]
    (tmp_path / "x.csv.gz").write_bytes(bytes(content))
    with pytest.raises(DatasetError, match=r"x\.csv\.gz: (.*damaged|line \d+ must have 3 cells)"):
        list(stream(tmp_path / "x.csv.gz"))
