"""Data sets by name and path: readers on small files in their real formats, intact and damaged."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from rieszflow.data import DatasetError, load, read_idx
from rieszflow.data.datasets import _DEBIAN_FASHION_MNIST, HUGGING_FACE


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx_folder(folder, zipped=True):
    rng = np.random.default_rng(0)
    parts = {}
    for part, n in (("train", 12), ("t10k", 5)):
        parts[part] = rng.integers(0, 256, (n, 4, 6), np.uint8), rng.integers(0, 10, n).astype(np.uint8)
        for kind, array in zip(("images-idx3-ubyte", "labels-idx1-ubyte"), parts[part], strict=True):
            raw = idx(array)
            name = f"{part}-{kind}" + (".gz" if zipped else "")
            (folder / name).write_bytes(gzip.compress(raw) if zipped else raw)
    return parts


def test_digits():
    digits = load("digits", seed=1)
    assert digits.shape == (1, 8, 8) and len(digits.train) + len(digits.held_out) == 1797
    assert len(digits.held_out) == round(0.15 * 1797) and digits.train_labels.dtype == torch.int64
    assert digits.train.min() == 0 and digits.train.max() == 1
    # The data have no duplicates, so no datum may be in both parts; another seed gives another split.
    joined = torch.cat([digits.train, digits.held_out]).flatten(1)
    assert len(joined.unique(dim=0)) == len(joined)
    assert not torch.equal(load("digits", seed=2).train, digits.train)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx(tmp_path, zipped, name):
    parts = write_idx_folder(tmp_path, zipped)
    for found in (load(name, tmp_path), load(str(tmp_path))):
        assert np.array_equal(found.train[:, 0].numpy(), parts["train"][0].astype(np.float32) / 255)
        assert np.array_equal(found.held_out_labels.numpy(), parts["t10k"][1])


@pytest.mark.skipif(not _DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist():
    found = load("fashion-mnist")
    assert found.train.shape == (60000, 1, 28, 28) and found.held_out.shape == (10000, 1, 28, 28)
    assert found.train_labels.bincount().tolist() == [6000] * 10


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda raw: raw[:-1], "truncated"),
        (lambda raw: raw + b"x", "truncated or damaged"),
        (lambda raw: raw[:7], "not an IDX"),
        (lambda raw: b"\x89PNG" + raw[4:], "not an IDX"),
        (lambda raw: gzip.compress(raw)[:40], "gz|truncated|read"),
        (lambda raw: b"", "not an IDX"),
        (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "the header states"),
    ],
)
def test_damaged_idx(tmp_path, damage, says):
    write_idx_folder(tmp_path, zipped=False)
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DatasetError, match=says):
        load("mnist", tmp_path)


def test_a_gzipped_idx_file_is_unpacked_up_to_the_size_in_its_header(tmp_path, monkeypatch):
    """The file has 16 MB more than its header states; the bytes requested from it are counted."""
    header, reads = idx(np.zeros((2, 3), np.uint8)), []
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(header + bytes(1 << 24)))

    class Counted(gzip.GzipFile):
        def read(self, size=-1):
            reads.append(size)
            return super().read(size)

    monkeypatch.setattr("rieszflow.data.files.gzip.GzipFile", Counted)
    with pytest.raises(DatasetError, match="more than 6 bytes of data, the header states 6"):
        read_idx(file)
    assert min(reads) >= 0 and sum(reads) <= len(header) + 2
    file.write_bytes(gzip.compress(b"\0\0\x08\x04" + b"\xff" * 16 + bytes(10)))
    with pytest.raises(DatasetError, match="truncated or damaged: 10 bytes of data, the header states"):
        read_idx(file)


def cifar_batches():
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    return {name: (rng.integers(0, 256, (3, 3, 32, 32), np.uint8), rng.integers(0, 10, 3)) for name in names}


def test_cifar10_both_versions(tmp_path):
    batches = cifar_batches()
    binary, python = tmp_path / "cifar-10-batches-bin", tmp_path / "py"
    binary.mkdir(), python.mkdir()
    for name, (x, y) in batches.items():
        rows = np.concatenate([y[:, None].astype(np.uint8), x.reshape(3, -1)], 1)
        (binary / f"{name}.bin").write_bytes(rows.tobytes())
        content = {
            b"data": x.reshape(3, -1),
            b"labels": [int(v) for v in y],
            b"batch_label": b"x",
            b"filenames": [b"a.png"] * 3,
        }
        (python / name).write_bytes(pickle.dumps(content, protocol=2))
    wanted = np.concatenate([batches[f"data_batch_{k}"][0] for k in range(1, 6)]).astype(np.float32) / 255
    for folder in (tmp_path, python):
        found = load("cifar10", folder)
        assert np.array_equal(found.train.numpy(), wanted)
        assert np.array_equal(found.held_out_labels.numpy(), batches["test_batch"][1])


class Evil:
    def __reduce__(self):
        return (open, ("pwned", "w"))


@pytest.mark.parametrize("content", [Evil(), {b"data": Evil()}, {b"data": np.zeros((2, 7), np.uint8)}, [1, 2]])
def test_cifar10_pickles_cannot_run_code(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    for name in cifar_batches():
        (tmp_path / name).write_bytes(pickle.dumps(content))
    with pytest.raises(DatasetError, match="not a CIFAR-10 batch"):
        load("cifar10", tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_cifar10_truncated(tmp_path):
    for name in cifar_batches():
        (tmp_path / f"{name}.bin").write_bytes(bytes(3000))
    with pytest.raises(DatasetError, match="truncated"):
        load("cifar10", tmp_path)


def test_numpy_files(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)) * 7 + 2
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", x=x.astype(np.float32), labels=np.arange(50) % 2)
    found = load(str(tmp_path / "a.npy"), held_out=0.2)
    assert found.shape == (3,) and len(found.held_out) == 10
    # Every column of the training part has its median at 0.5, and quartiles that are 0.5 apart.
    low, middle, high = np.percentile(found.train.numpy(), [25, 50, 75], axis=0)
    assert middle == pytest.approx(0.5, abs=1e-6) and high - low == pytest.approx(0.5, abs=1e-6)
    restored = np.sort(found.unscale(torch.cat([found.train, found.held_out]))[:, 0].numpy())
    np.testing.assert_allclose(restored, np.sort(x[:, 0]), rtol=1e-5, atol=1e-5)
    assert set(load(str(tmp_path / "b.npz")).train_labels.tolist()) == {0, 1}
    images = rng.integers(0, 256, (9, 5, 6, 3), np.uint8)
    np.save(tmp_path / "c.npy", images)
    assert load(str(tmp_path / "c.npy")).shape == (3, 5, 6)
    np.save(tmp_path / "d.npy", images[..., 0])
    assert load(str(tmp_path / "d.npy")).shape == (1, 5, 6)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda f: np.save(f, np.array([Evil()], dtype=object), allow_pickle=True), "plain arrays"),
        (lambda f: f.write_bytes(b"not numpy"), "damaged"),
        (lambda f: np.save(f, np.full((9, 2), np.nan)), "NaN"),
        (lambda f: np.save(f, np.ones((9, 2))), "nothing to learn"),
        (lambda f: np.save(f, np.ones(9)), "shape"),
        (lambda f: np.save(f, np.ones((0, 4))), "shape"),
        (lambda f: np.save(f, np.eye(3)), "at least 4"),
        (lambda f: np.save(f, np.array([["a", "b"]] * 9)), "dtype"),
    ],
)
def test_bad_numpy_files(tmp_path, monkeypatch, write, says):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "x.npy"
    write(file)
    with pytest.raises(DatasetError, match=says):
        load(str(file))
    assert not (tmp_path / "pwned").exists()


def test_image_folder(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(6):
        (tmp_path / f"class{k % 2}").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8)).save(tmp_path / f"class{k % 2}" / f"{k}.png")
    found = load(str(tmp_path))
    assert found.shape == (3, 8, 10) and set(found.train_labels.tolist()) <= {0, 1}
    Image.fromarray(rng.integers(0, 256, (9, 10, 3), np.uint8)).save(tmp_path / "class0" / "odd.png")
    with pytest.raises(DatasetError, match="odd.png: all images must have one size"):
        load(str(tmp_path))
    (tmp_path / "class0" / "odd.png").write_bytes((tmp_path / "class0" / "0.png").read_bytes()[:60])
    with pytest.raises(DatasetError, match="odd.png: not a readable image"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nothing-here",), "`name` must be one of digits, .*got 'nothing-here', which does not exist"),
        (("mnist",), "give the folder of the four IDX files .* with --data"),
        (("cifar10",), "give the folder of .* with --data"),
        (("fashion-mnist", "/nowhere"), "dataset-fashion-mnist"),
        (("hf:nope",), "must be one of hf:mnist, .*got 'hf:nope'"),
        (("nope", "/tmp"), "`name` must be one of digits, .* with --data, got 'nope'"),
        (("digits", None, 1.5), "`held_out` must be in"),
    ],
)
def test_missing_data_sets(arguments, says):
    with pytest.raises(DatasetError, match=says):
        load(*arguments)


def test_empty_folder(tmp_path):
    with pytest.raises(DatasetError, match="no images"):
        load(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "column", "size", "shape"),
    [
        ("mnist", "image", (28, 28), (1, 28, 28)),
        ("cifar10", "img", (32, 32, 3), (3, 32, 32)),
        ("celeba", "image", (218, 178, 3), (3, 64, 64)),
    ],
)
def test_hugging_face(name, column, size, shape, tmp_path, monkeypatch):
    """The library reads repositories in a local folder before it asks the network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / HUGGING_FACE[name]
    folder.mkdir(parents=True)
    images, features = {}, datasets.Features({column: datasets.Image(), "label": datasets.Value("int64")})
    for part, n in (("train", 7), ("test", 5)):
        images[part] = np.random.default_rng(n).integers(0, 256, (n, *size), dtype=np.uint8)
        rows = {column: list(images[part]), "label": list(range(n))}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{part}-00000-of-00001.parquet")
    found = load(f"hf:{name}")
    assert found.train.shape == (7, *shape) and found.held_out.shape == (5, *shape)
    assert found.train_labels.tolist() == list(range(7))
    if name == "celeba":  # the mean of the centre is preserved by resizing, up to the edges
        middle = images["train"][:, 39:179, 19:159] / 255
        assert abs(found.train.mean().item() - middle.mean()) < 0.01
    else:
        expected = images["train"].reshape(7, *size[:2], -1).transpose(0, 3, 1, 2) / 255
        assert np.abs(found.train.numpy() - expected).max() < 1e-6
