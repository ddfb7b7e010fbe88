"""Files, folders, loaders and iterators give the same points; sources without points are refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from problems import generator

from rieszflow import SliceSketch, stream


def equal(a, b):
    return all(torch.equal(one, two) for one, two in zip(a.counts, b.counts, strict=True)) and a.n == b.n


@pytest.fixture
def table():
    return torch.randn(1000, 3, generator=generator(0))


def files(folder, table):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    array = table.numpy()
    np.save(folder / "a.npy", array)
    np.save(folder / "b.npy", array.astype(">f8"))
    np.savez(folder / "a.npz", x=array)
    np.savetxt(folder / "a.csv", array, delimiter=",", header="u,v,w", comments="")
    columns = {name: array[:, k] for k, name in enumerate("uvw")}
    pyarrow.parquet.write_table(pa.table({**columns, "label": ["a"] * len(array)}), folder / "a.parquet", row_group_size=100)
    (folder / "many").mkdir()
    for k in range(2):
        part = pa.table({name: column[500 * k : 500 * (k + 1)] for name, column in columns.items()})
        pyarrow.parquet.write_table(part, folder / "many" / f"{k}.parquet")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), 3)
    pyarrow.parquet.write_table(pa.table({"embedding": lists}), folder / "lists.parquet")
    return {name: folder / name for name in ("a.npy", "b.npy", "a.npz", "a.csv", "a.parquet", "many", "lists.parquet")}


def test_files_are_the_points(tmp_path, table):
    for name, path in files(tmp_path, table).items():
        found = stream(path)
        assert found.d == 3 and found.count() == 1000, name
        for _ in range(2):  # as often as one likes
            torch.testing.assert_close(torch.cat(list(found)).float(), table, rtol=1e-6, atol=1e-6)
    assert stream(tmp_path / "a.csv").names == ["u", "v", "w"] == stream(tmp_path / "a.parquet").names
    assert stream(tmp_path / "lists.parquet").names == ["embedding[0]", "embedding[1]", "embedding[2]"]


def test_a_folder_of_images_is_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), np.uint8)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    found = stream(tmp_path)
    assert (found.d, found.count()) == (36, 5)
    # (C, H, W) in [0, 1], as everywhere
    want = torch.from_numpy(pixels.transpose(0, 3, 1, 2).reshape(5, 36)).float() / 255
    assert torch.equal(torch.cat(list(found)), want)


def test_batches_are_the_points(table):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(table, torch.arange(1000)), batch_size=64)
    whole = SliceSketch.from_points(table, slices=16)
    for source in (
        loader,
        [{"x": part} for part in table.split(300)],
        (part.numpy() for part in table.split(300)),
        iter([table]),
        table.view(1000, 3, 1),
        stream(table),
    ):
        assert equal(whole.empty().update(source), whole)
    assert equal(SliceSketch(table, slices=16).update(iter(table.split(10))), whole)
    bytes_ = torch.arange(12, dtype=torch.uint8).view(4, 3)
    assert torch.equal(torch.cat(list(stream(bytes_))), bytes_.float())


def test_an_iterator_can_be_read_once(table):
    found = stream(iter(table.split(100)))
    assert len(torch.cat(list(found))) == 1000
    with pytest.raises(ValueError, match="to be read more than once, got an iterator"):
        list(found)


def test_bad_sources(tmp_path, table):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    paths = files(tmp_path, table)
    content = paths["a.npy"].read_bytes()
    (tmp_path / "short.npy").write_bytes(content[:-8])
    (tmp_path / "foreign.npy").write_bytes(b"hello, this is no array")
    np.save(tmp_path / "names.npy", np.array(["a", "b"]))
    np.save(tmp_path / "empty.npy", np.empty((0, 3)))
    (tmp_path / "text.csv").write_text("a,b\nx,y\n")
    (tmp_path / "gap.csv").write_text("a,b\n1,2\n3,\n")
    (tmp_path / "bad.parquet").write_bytes(paths["a.parquet"].read_bytes()[:200])
    pyarrow.parquet.write_table(pa.table({"a": pa.array([1.0, None])}), tmp_path / "gap.parquet")
    for name, says in {
        "short.npy": "truncated",
        "foreign.npy": "not a NumPy file",
        "names.npy": "must hold real numbers, got dtype <U1",
        "empty.npy": r"shape \(0, 3\)",
        "text.csv": "no numeric columns among 'a' .text.*, 'b' .text",
        "gap.csv": "column 'b' has missing values",
        "gap.parquet": "column 'a' has missing values",
        "bad.parquet": "not a Parquet data set",
        "none.npy": "no such file or folder",
        "none.parquet": "no such file or folder",
    }.items():
        with pytest.raises(ValueError, match=says):
            stream(tmp_path / name)
    for source, error, says in (
        ([], ValueError, "must have at least one point, got none"),
        (7, TypeError, "`source` must be .*, got int"),
        (
            [torch.zeros(2, 3), torch.zeros(2, 4)],
            ValueError,
            r"batch 1: points must have shape \(3,\) .* got \(4,\)",
        ),
        (np.array(["a"]), TypeError, "dtype"),
        ([b"a"], TypeError, "batch 0: must be .*, got bytes"),
        (torch.tensor([[float("inf")]]), ValueError, "NaN or infinity"),
    ):
        with pytest.raises(error, match=says):
            list(stream(source))
