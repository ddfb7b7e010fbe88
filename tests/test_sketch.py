"""Sketches and streams against the functional on the same points, and every door that they come through."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

import rieszflow as rf
from rieszflow import SliceSketch, stream
from rieszflow._files import save_tensors
from rieszflow.generative.run import NETWORK


def generator(seed):
    return torch.Generator().manual_seed(seed)


def clouds(n=3000, m=2000, d=5, dtype=torch.float32, seed=0):
    g = generator(seed)
    return torch.randn(n, d, generator=g).to(dtype), (torch.randn(m, d, generator=g) * 1.5 + 0.7).to(dtype)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def counts(sketch):
    return torch.cat([c.flatten() for c in sketch.counts])


def equal(a, b):
    return torch.equal(counts(a), counts(b)) and a.n == b.n


@pytest.mark.parametrize("d", [1, 3, 100])
@pytest.mark.parametrize("statistic", ["V", "U"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distance_and_gradient_are_the_functionals(d, statistic, dtype):
    """On the same slices: values to the bins' error on values, gradients to about one of some 5 points a bin."""
    x, y = clouds(d=d, dtype=dtype)
    sketch = SliceSketch(torch.cat([x, y]), slices=256, seed=7).update(y)
    want = rf.sliced_mmd2(x, y, slices=256, engine="sort", statistic=statistic, seed=generator(7))
    assert sketch.distance(x, statistic=statistic) == pytest.approx(want.item(), rel=2e-3)
    exact = rf.sliced_mmd2_gradient(x, y, slices=256, engine="sort", statistic=statistic, seed=generator(7))
    got = sketch.gradient(x, statistic=statistic)
    assert got.dtype == dtype and relative(got, exact) < 0.01
    assert isinstance(sketch.gradient(x.numpy(), statistic=statistic), np.ndarray)


def test_distance_is_the_energy_distance():
    """Against brute force: 1,024 Haar slices of R³ leave some 3 % (1/√1024), squared blocks less."""
    x, y = clouds(d=3)
    sketch = SliceSketch.of(y)
    assert sketch.distance(x, statistic="U") == pytest.approx(rf.mmd2(x, y, statistic="U").item(), rel=0.03)
    each = sketch.slice_distances(x, statistic="U")
    assert each.shape == (1024,) and each.mean().item() == pytest.approx(sketch.distance(x, statistic="U"), rel=1e-9)


def test_weights():
    x, y = clouds()
    w = torch.rand(len(y), generator=generator(1))
    sketch = SliceSketch(torch.cat([x, y]), slices=128, seed=3).update(y, x_weights=5 * w)
    share = w / w.sum()
    want = rf.sliced_mmd2(x, y, slices=128, engine="sort", y_weights=share, statistic="U", seed=generator(3)).item()
    assert sketch.distance(x, statistic="U") == pytest.approx(want, rel=2e-3)
    exact = rf.sliced_mmd2_gradient(x, y, slices=128, engine="sort", y_weights=share, seed=generator(3))
    assert relative(sketch.gradient(x), exact) < 0.01
    a = torch.rand(len(x), generator=generator(2))
    a /= a.sum()
    exact = rf.sliced_mmd2_gradient(x, y, slices=128, engine="sort", x_weights=a, y_weights=share, seed=generator(3))
    assert relative(sketch.gradient(x, x_weights=a), exact) < 0.01


def test_parts_add_up_exactly_in_any_order():
    x, _ = clouds()
    whole = SliceSketch.of(x, slices=64)
    parts = [whole.empty().update(part) for part in x.split(700)]
    for order in itertools.permutations(range(len(parts)), len(parts)):
        total = whole.empty()
        for k in order:
            total.merge(parts[k])
        assert equal(total, whole)
    a, b, c = parts[:3]
    assert equal((a + b) + c, a + (b + c)) and equal(a + b, b + a)
    assert torch.equal((a + b).gradient(x), (b + a).gradient(x))
    shuffled = whole.empty().update(x[torch.randperm(len(x), generator=generator(1))])
    assert equal(shuffled, whole)


def test_distance_from_itself_is_zero_and_symmetric():
    x, y = clouds()
    one = SliceSketch.of(x, slices=64)
    other = one.empty().update(y)
    assert one.distance(one) == 0 and one.distance(x) == 0
    assert one.distance(other) == pytest.approx(other.distance(one), rel=1e-6)  # float32 masses


def test_outliers_and_far_data_are_counted():
    """Bins were laid for x; y is a thousand ranges away, where bins are half as wide as far: values know the mean in them."""
    x, _ = clouds(d=3)
    y = x + 1000
    sketch = SliceSketch.of(x, slices=128, seed=5)
    want = rf.sliced_mmd2(y, x, slices=128, engine="sort", seed=generator(5)).item()
    assert sketch.distance(y) == pytest.approx(want, rel=2e-3)


def test_features_that_differ():
    x, _ = clouds(d=6)
    y = clouds(d=6, seed=1)[0]
    y[:, 4] += 1
    found = SliceSketch.of(x, slices=64).feature_distances(y)
    assert found.shape == (6,) and int(found.argmax()) == 4
    for k in range(6):
        d2, mean = rf.mmd2(x[:, [k]], y[:, [k]]).item(), torch.cdist(x[:, [k]], y[:, [k]]).mean().item()
        # E|X − Y| is nearly the same for all; D² is off by the bins' error on values
        assert found[k].item() == pytest.approx(d2 / mean, rel=0.02, abs=1e-5)
    constant = SliceSketch.of(torch.zeros(5, 1))
    assert constant.feature_distances(torch.ones(3, 1)).item() == pytest.approx(1)
    assert constant.feature_distances(torch.zeros(3, 1)).item() == 0


def test_saved_and_loaded(tmp_path):
    x, y = clouds(d=80)
    sketch = SliceSketch(x, slices=200, names=[f"c{k}" for k in range(80)]).update(x)
    sketch.save(tmp_path / "a.sketch")
    again = SliceSketch.load(tmp_path / "a.sketch")
    assert equal(sketch, again) and again.names == sketch.names
    assert again.distance(y) == sketch.distance(y) and torch.equal(again.gradient(y), sketch.gradient(y))
    assert equal(sketch + again, again.merge(sketch))
    weighted = SliceSketch(x, slices=20).update(x, x_weights=torch.rand(len(x), generator=generator(0)))
    weighted.save(tmp_path / "w.sketch")
    assert equal(SliceSketch.load(tmp_path / "w.sketch"), weighted)


def test_a_large_reference_is_a_small_file(tmp_path):
    x, _ = clouds(d=10)
    small = SliceSketch.of(x, slices=256)
    small.save(tmp_path / "a.sketch")
    for _ in range(15):  # 3,000 · 2^15, nearly 10⁸ rows
        small.merge(small + small.empty())
    small.save(tmp_path / "b.sketch")
    assert small.n == 3000 * 2**15
    assert (tmp_path / "b.sketch").stat().st_size < 1.01 * (tmp_path / "a.sketch").stat().st_size < 3e6


def test_damaged_and_foreign_files(tmp_path):
    x, _ = clouds()
    SliceSketch.of(x, slices=8).save(tmp_path / "a.sketch")
    content = (tmp_path / "a.sketch").read_bytes()
    (tmp_path / "short.sketch").write_bytes(content[:-100])
    (tmp_path / "foreign.sketch").write_bytes(b"hello")
    changed = bytearray(content)
    changed[-5] ^= 1
    (tmp_path / "changed.sketch").write_bytes(bytes(changed))
    for name in ("short", "foreign", "changed"):
        with pytest.raises(ValueError, match=f"{name}.sketch: damaged"):
            SliceSketch.load(tmp_path / f"{name}.sketch")
    save_tensors(tmp_path / "n.sketch", NETWORK, {}, {})
    with pytest.raises(ValueError, match="holds a network, a sketch is needed"):
        SliceSketch.load(tmp_path / "n.sketch")
    with pytest.raises(ValueError, match="no such file"):
        SliceSketch.load(tmp_path / "none.sketch")


def test_sketches_that_do_not_fit():
    x, y = clouds()
    one = SliceSketch.of(x, slices=8)
    with pytest.raises(ValueError, match="other: a sketch with seed = 1 given, this one has 0"):
        one.merge(SliceSketch.of(x, slices=8, seed=1))
    with pytest.raises(ValueError, match="slices = 9 given"):
        one.distance(SliceSketch.of(x, slices=9))
    with pytest.raises(ValueError, match="its bins lie elsewhere"):
        one.merge(SliceSketch.of(y, slices=8))
    with pytest.raises(ValueError, match="dimension 4 given, the sketch has d = 5"):
        one.distance(x[:, :4])
    with pytest.raises(ValueError, match="with weights"):
        one.update(y, x_weights=torch.ones(len(y)))
    with pytest.raises(ValueError, match="the sketch is empty"):
        one.empty().gradient(x)
    with pytest.raises(ValueError, match="statistic: 'W' given"):
        one.distance(y, statistic="W")
    with pytest.raises(ValueError, match="directions: 'haar' given"):
        SliceSketch(x, directions="haar")
    with pytest.raises(ValueError, match="names: 2 given for 5 columns"):
        SliceSketch(x, names=["a", "b"])
    with pytest.raises(TypeError, match="other: Tensor given"):
        one.merge(x)
    with pytest.raises(ValueError, match=r"weights: shape \(3,\)"):
        one.empty().update(y, x_weights=torch.ones(3))
    with pytest.raises(TypeError, match="weights: a masked array"):
        one.empty().update(y, x_weights=np.ma.masked_less(np.arange(len(y)) * 1.0, 5))
    with pytest.raises(TypeError, match="weights: dtype <U1 given"):
        one.empty().update(y, x_weights=np.array(["a"] * len(y)))


def test_an_error_in_the_middle_leaves_the_sketch_as_it_was():
    x, _ = clouds()
    sketch = SliceSketch.of(x, slices=8)
    before = counts(sketch)
    bad = x.clone()
    bad[2000, 1] = float("nan")
    with pytest.raises(ValueError, match="batch 1: contains NaN"):
        sketch.update(list(bad.split(1500)))
    assert torch.equal(counts(sketch), before) and sketch.n == len(x)


# Streams.


@pytest.fixture
def table():
    return clouds(n=1000, m=1, d=3)[0]


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
    whole = SliceSketch.of(table, slices=16)
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


def test_an_iterator_can_be_passed_over_once(table):
    found = stream(iter(table.split(100)))
    assert len(torch.cat(list(found))) == 1000
    with pytest.raises(ValueError, match="can be passed over once"):
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
        "names.npy": "dtype <U1 given",
        "empty.npy": r"shape \(0, 3\)",
        "text.csv": "no numeric columns among a, b",
        "gap.csv": "column 'b' has missing values",
        "gap.parquet": "column 'a' has missing values",
        "bad.parquet": "not a Parquet data set",
        "none.npy": "no such file or folder",
        "none.parquet": "no such file or folder",
    }.items():
        with pytest.raises(ValueError, match=says):
            stream(tmp_path / name)
    for source, error, says in (
        ([], ValueError, "no points in it"),
        (7, TypeError, "source: int given"),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], ValueError, "batch 1: points of dimension 4 given, earlier ones have 3"),
        (np.array(["a"]), TypeError, "dtype"),
        ([b"a"], TypeError, "batch 0: bytes given"),
        (torch.tensor([[float("inf")]]), ValueError, "NaN or infinity"),
    ):
        with pytest.raises(error, match=says):
            list(stream(source))
