"""The points of arrays, lists, loaders and iterators: one rule for all, and errors for ambiguous input."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import rieszflow as rf
from rieszflow import Notice, stream


def whole(source):
    return torch.cat(list(stream(source)))


def test_one_dimension():
    x = np.arange(5.0)
    assert whole(x).tolist() == whole(torch.from_numpy(x)).tolist() == [[0], [1], [2], [3], [4]]
    assert whole([x[:2, None], x[2:, None]]).tolist() == [[0], [1], [2], [3], [4]]
    assert whole(iter([x[:, None]])).shape == (5, 1)


@pytest.mark.parametrize(
    "source",
    [
        [np.zeros(3), np.ones(3)],  # two points, or six of one dimension
        [torch.zeros(3)],
        iter([torch.zeros(3)]),
        DataLoader(TensorDataset(torch.zeros(6)), batch_size=3),
        DataLoader(torch.zeros(6, 3), batch_size=None),  # gives single points
        [(torch.zeros(4), torch.zeros(4))],
    ],
)
@pytest.mark.filterwarnings("ignore::rieszflow.Notice")
def test_a_batch_of_one_axis_is_ambiguous(source):
    with pytest.raises(ValueError, match=r"batch 0: must have shape \(m, d\), got \(\d,\), which can be one point or many"):
        stream(source)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            TensorDataset(torch.zeros(4, 2)),
            "`source` must give batches, got TensorDataset; put it into a torch.*DataLoader",
        ),
        ([[1.0, 2.0], [3.0, 4.0]], "batch 0: must be a tensor or array of shape \\(m, d\\), .*, got single points or numbers"),
        ([1.0, 2.0], "batch 0: must be a torch.Tensor or numpy.ndarray .*, got float"),
        (
            ((torch.zeros(3, 8, 8), 4) for _ in range(3)),
            "batch 0: must be .*, got single points or numbers",
        ),  # (image, label), one by one
        ({"x": torch.zeros(3, 2)}, "batches of points, got a mapping"),
        (
            [{"age": torch.zeros(3, 1), "income": torch.zeros(3, 1)}],
            "must have one key, or one of 'x', .* got 'age', 'income'",
        ),
        ([{"x": torch.zeros(3, 1), "image": torch.zeros(3, 1)}], "got 'x', 'image'"),
        ([()], "an empty tuple"),
        ([[]], "an empty list"),
        (np.array([1, 2j]), "dtype complex128"),
        (torch.zeros(3, 2, dtype=torch.complex64), "torch.complex64"),
        (np.array([[1, None]], dtype=object), "dtype object"),
        (np.zeros((2, 2), "M8[s]"), "dtype datetime64"),
        (np.zeros(3, [("a", "f4"), ("b", "f4")]), "dtype"),
        (np.ma.masked_array(np.zeros((3, 2)), mask=[[0, 0], [0, 1], [0, 0]]), "got a masked array with 1;"),
        (torch.zeros(3, 2).to_sparse(), "sparse"),
        (torch.zeros(3, 2, device="meta"), "meta"),
        (torch.quantize_per_tensor(torch.zeros(3, 2), 0.1, 0, torch.quint8), "got a sparse, nested or quantized one"),
        (torch.zeros(3, 2).as_subclass(type("Own", (torch.Tensor,), {})), "got the subclass Own"),
        ("x", "no such file"),
    ],
)
def test_refused(source, says):
    with pytest.raises((TypeError, ValueError), match=says) as error:
        stream(source)
    assert "\n" not in str(error.value)


class Foreign:
    """An array of another library that supports DLPack and is not iterable."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Labelled:
    """An array with labels, like xarray's: it exports one row per number to Arrow."""

    dims, shape = ("time", "station"), (3, 2)

    def __arrow_c_stream__(self, requested_schema=None):
        pa = pytest.importorskip("pyarrow")
        return pa.table({"values": np.arange(6.0)}).__arrow_c_stream__(requested_schema)

    def __iter__(self):
        return iter(self.to_numpy())

    def to_numpy(self):
        return np.arange(6.0).reshape(3, 2)


def test_arrays_of_other_libraries_keep_their_shape():
    x = np.arange(24.0).reshape(4, 3, 2)
    for array in (x, x[:, :, 0], x[:, 0, 0], x.astype(np.int64), x.astype(np.float16)):
        for source in (Foreign(array), [Foreign(array)] if array.ndim > 1 else Foreign(array)):
            assert torch.equal(whole(source), whole(array)), array.shape
    assert torch.equal(torch.as_tensor(rf.data.as_points(Foreign(x), "x")), torch.from_numpy(x)[:, None])
    with pytest.raises(ValueError, match="got a single number"):
        stream(Foreign(np.array(1.0)))
    with pytest.raises(TypeError, match="source: must be an array that DLPack can export, got Foreign"):
        stream(Foreign(np.array(["a"])))


def test_arrays_that_mean_more_than_their_numbers_are_refused():
    """Iterable objects are refused, too, because iterating over them yields rows instead of batches."""
    pandas, sparse = pytest.importorskip("pandas"), pytest.importorskip("scipy.sparse")
    x = np.arange(24.0).reshape(4, 3, 2)
    for source, advice in (
        (Labelled(), "to_numpy"),
        (pandas.Series(x[:, 0, 0]), "to_numpy"),
        (pandas.Index(x[:, 0, 0]), "to_numpy"),
        (sparse.coo_matrix(x[0]), "toarray"),
        (sparse.csr_array(x[0]), "toarray"),
        (memoryview(x), ""),
    ):
        with pytest.raises(TypeError, match=f"source: must be a torch.Tensor or numpy.*got {type(source).__name__}.*{advice}"):
            stream(source)


def test_a_notice_names_the_entry_of_a_batch():
    x, labels = torch.arange(8.0).view(4, 2), torch.arange(4)
    for source, says in (
        (DataLoader(TensorDataset(x, labels), batch_size=2), "DataLoader: the first of 2 entries of every batch is read"),
        ([{"label": labels, "pixel_values": x}], "the entry 'pixel_values' of every batch is read"),
    ):
        with pytest.warns(Notice, match=says):
            assert torch.equal(whole(source), x)


def test_kinds_of_numbers():
    """Floats are kept or widened without loss, and integers keep all digits."""
    numbers = [[0.0, 1.0], [2.0, 200.0]]
    for dtype in (np.float16, np.float32, np.uint8, np.int16, np.uint16, ">f4", ">i2"):
        got = whole(np.array(numbers, dtype))
        assert got.dtype == torch.float32 and got.tolist() == numbers, dtype
    for dtype in (np.float64, np.longdouble, np.int32, np.uint32, np.int64, np.uint64, ">f8", ">i8"):
        got = whole(np.array(numbers, dtype))
        assert got.dtype == torch.float64 and got.tolist() == numbers, dtype
    assert whole(np.array([[True, False]])).tolist() == [[1, 0]]
    for dtype in (torch.bfloat16, torch.float16, torch.int16, torch.uint8, torch.uint16):
        assert whole(torch.tensor(numbers).to(dtype)).dtype == torch.float32
    big = 2**24 + torch.arange(4)[:, None]
    for tensor in (big, big.int(), big.to(torch.uint32), big.to(torch.uint64)):
        assert whole(tensor).tolist() == big.tolist() and whole(tensor).dtype == torch.float64


def test_views_of_memory():
    """Strides, order and flags of the memory do not matter."""
    g = np.random.default_rng(0)
    x = g.normal(size=(6, 4))
    frozen = x.copy()
    frozen.flags.writeable = False
    t = torch.from_numpy(x)
    conjugate = torch.complex(torch.zeros_like(t), -t).conj().imag  # a view with the negative bit
    for view in (
        np.asfortranarray(x), x[::-1][::-1], frozen, np.ma.masked_array(x), t.clone().requires_grad_(), t.t().contiguous().t(),
        conjugate, x.astype(">f8"), torch.nn.Parameter(t.clone()), np.lib.stride_tricks.as_strided(x, x.shape, x.strides),
    ):  # fmt: skip
        assert np.array_equal(whole(view).numpy(), x)
    assert np.array_equal(whole(np.matrix(x)).numpy(), x)
    assert whole(torch.ones(1, 3).expand(5, 3)).shape == (5, 3)
    assert whole(x[:1][::-1]).shape == (1, 4)  # a negative stride without effect
    with torch.inference_mode():
        made_here = torch.ones(2, 2)
    assert whole(made_here).tolist() == [[1, 1], [1, 1]]


def test_npy_and_npz_and_memory_agree(tmp_path):
    g = np.random.default_rng(0)
    for name, x in {
        "columns": np.asfortranarray(g.normal(size=(50, 3))),
        "single": g.normal(size=50),
        "whole": g.integers(-(2**40), 2**40, (50, 2)),
        "cube": g.normal(size=(20, 3, 2, 2)).astype(np.float32),
        "flags": g.random((50, 2)) < 0.5,
        "half": g.normal(size=(50, 2)).astype(np.float16),
        "swapped": g.normal(size=(50, 2)).astype(">f4"),
    }.items():
        np.save(tmp_path / f"{name}.npy", x)
        np.savez(tmp_path / f"{name}.npz", x=x)
        want = x.reshape(len(x), -1).astype(float)
        for source in (x, tmp_path / f"{name}.npy", tmp_path / f"{name}.npz", [x[:, None] if x.ndim == 1 else x]):
            got = stream(source)
            assert torch.cat(list(got)).double().equal(torch.from_numpy(want)), name
            assert np.array_equal(got.rows(np.array([3, 1])), want[[3, 1]]), name
    version = tmp_path / "version.npy"
    with open(version, "wb") as file:
        np.lib.format.write_array(file, np.ones((2, 2)), version=(3, 0))
    assert whole(version).tolist() == [[1, 1], [1, 1]]


def test_a_notice_points_at_the_callers_line():
    with pytest.warns(Notice) as caught:
        rf.SliceSketch.from_points([(torch.zeros(3, 2), torch.zeros(3))], slices=4)
    assert caught[0].filename == __file__


class Once:
    """Batches that can be read once, although this is not an iterator."""

    def __init__(self, batches):
        self.opened = iter(batches)

    def __iter__(self):
        return self.opened


def test_a_single_pass_is_complete():
    x = torch.arange(24.0).view(12, 2)
    found = stream(Once(x.split(4)))
    assert torch.equal(torch.cat(list(found)), x)
    with pytest.raises(ValueError, match="Once: must have the same points in every pass, got 0 after 12"):
        list(found)
    with pytest.raises(ValueError, match="Once: must have the same points in every pass, got 0"):
        rf.two_sample_test(Once(x.split(4)), x)


def test_batches_of_other_shapes_and_empty_ones():
    assert len(whole([torch.zeros(0, 3), torch.ones(2, 3), torch.zeros(0, 3)])) == 2
    with pytest.raises(ValueError, match=r"batch 1: points must have shape \(1, 2, 5\) as earlier ones, got \(1, 5, 2\)"):
        list(stream([torch.zeros(2, 1, 2, 5), torch.zeros(2, 1, 5, 2)]))


def test_files_that_change_or_hold_more(tmp_path):
    file = tmp_path / "a.npy"
    with open(file, "wb") as opened:
        np.save(opened, np.zeros((3, 2)))
        np.save(opened, np.ones((3, 2)))
    with pytest.raises(ValueError, match="a.npy: more than one array"):
        stream(file)
    np.save(file, np.zeros((200_000, 4)))
    found = stream(file)
    with open(file, "r+b") as opened:
        opened.truncate(1000)
    with pytest.raises(ValueError, match="has become shorter while being read"):
        list(found)
