"""Images and arrays in one unit, folders of images, and columns that float32 would flatten."""

import gzip
import os
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import scipy.sparse
import torch
from PIL import Image
from test_datasets import cifar_batches, idx

import rieszflow as rf
from rieszflow import Notice
from rieszflow.data import Dataset, DatasetError, as_points, load
from rieszflow.data.files import holds_table, read_points
from rieszflow.generative import Config
from rieszflow.generative.training_data import dataset


@pytest.fixture(autouse=True)
def _notices_are_errors():
    """Fail on notices that a test does not expect."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        yield


def bytes_of(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(folder, arrays, suffix="png", **options):
    folder.mkdir(parents=True, exist_ok=True)
    for k, x in enumerate(arrays):
        (x if isinstance(x, Image.Image) else Image.fromarray(x)).save(folder / f"{k}.{suffix}", **options)
    return folder


def whole(dataset):
    """Return training and held-out data together, sorted because the split shuffles them."""
    x = torch.cat([dataset.train, dataset.held_out]).flatten(1).numpy()
    return x[np.lexsort(x.T[::-1])]


def ordered(x):
    x = np.asarray(x).reshape(len(x), -1)
    return x[np.lexsort(x.T[::-1])]


# Single files


def deep_png(values):
    """Return a PNG of 16 bits, grey (H, W) or in colour (H, W, 3), which Pillow does not write."""
    height, width = values.shape[:2]
    colour = {2: 0, 3: 2}[values.ndim]

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


RAMP = np.arange(64).reshape(8, 8) * 1000 + 500


@pytest.mark.parametrize(
    ("suffix", "image", "want"),
    [
        ("png", lambda: Image.fromarray(RAMP.astype(np.uint16)), RAMP / 65535),
        ("tif", lambda: Image.fromarray(RAMP.astype(np.uint16)), RAMP / 65535),
        ("pgm", lambda: Image.fromarray(RAMP.astype(np.uint16)), RAMP / 65535),  # Pillow's mode I
        ("tif", lambda: Image.frombytes("I;16B", (8, 8), RAMP.astype(">u2").tobytes()), RAMP / 65535),
        ("tif", lambda: Image.fromarray((RAMP / 65535).astype(np.float32)), (RAMP / 65535).astype(np.float32)),
        ("pfm", lambda: Image.fromarray((RAMP / 65535).astype(np.float32)), (RAMP / 65535).astype(np.float32)),
        ("png", lambda: Image.fromarray((RAMP // 256).astype(np.uint8)), RAMP // 256 / 255),
        ("pbm", lambda: Image.fromarray((RAMP % 3000 > 1000).astype(np.uint8) * 255).convert("1"), RAMP % 3000 > 1000),
        ("tif", lambda: Image.fromarray((RAMP // 256).astype(np.uint8)).convert("LA"), RAMP // 256 / 255),
    ],
)
def test_grey_images_are_scaled_by_their_type(tmp_path, suffix, image, want):
    folder = save(tmp_path / "p", [image()] * 2, suffix)
    # One rounding of a quotient to float32, whose step below 1 is 2^-24.
    np.testing.assert_allclose(read_points(folder), np.tile(np.reshape(want, (1, -1)), (2, 1)), atol=2**-24)
    for k in (2, 3):
        image().save(folder / f"{k}.{suffix}")
    found = load(os.fspath(folder))
    assert found.shape == (1, 8, 8) and (found.low, found.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("suffix", "image", "says"),
    [
        ("tif", lambda: Image.fromarray(RAMP.astype(np.int32)), "0.tif: .* got Pillow's mode I,"),
        (
            "tif",
            lambda: Image.fromarray(RAMP.astype(np.float32)),
            "0.tif: .* floats must lie in .0, 1., got 500 to 63500",
        ),
        ("tif", lambda: Image.fromarray(np.full((8, 8), np.nan, np.float32)), "0.tif: an image of floats"),
        ("tif", lambda: Image.new("LAB", (8, 8)), "0.tif: .* got Pillow's mode LAB,"),
    ],
)
def test_images_without_an_agreed_range_are_refused(tmp_path, suffix, image, says):
    folder = save(tmp_path / "p", [image()] * 4, suffix)
    for read in (read_points, load):
        with pytest.raises(DatasetError, match=says):
            read(folder)


def test_16_bits_with_white_as_0_are_refused(tmp_path):
    save(tmp_path / "p", [RAMP.astype(np.uint16)], "tif", tiffinfo={262: 0})
    with pytest.raises(DatasetError, match="0.tif: .* got 12 bits, or white as 0"):
        read_points(tmp_path / "p")


def test_one_folder_has_one_depth(tmp_path):
    folder = save(tmp_path / "p", [RAMP.astype(np.uint16)])
    Image.fromarray((RAMP // 256).astype(np.uint8)).save(folder / "1.png")
    with pytest.raises(DatasetError, match="1.png: all images must .* uint8 values, 0.png has .* uint16 values"):
        read_points(folder)


def test_notices_report_lost_information(tmp_path):
    g = np.random.default_rng(0)
    deep = g.integers(0, 65536, (3, 5, 4, 3))
    (tmp_path / "deep").mkdir()
    for k, x in enumerate(deep):
        (tmp_path / "deep" / f"{k}.png").write_bytes(deep_png(x))
    with pytest.warns(Notice, match="3 of 3 images have colours of 16 bits, which are read with 8: '0.png', '1.png', '2.png'"):
        found = read_points(tmp_path / "deep")
    # The lower byte is cut off: less than one of 255 steps, and one more rounding.
    assert np.abs(found - deep.transpose(0, 3, 1, 2).reshape(3, -1) / 65535).max() < 1 / 255 + 2**-24
    (tmp_path / "ppm").mkdir()
    (tmp_path / "ppm" / "0.ppm").write_bytes(b"P6 4 5 65535\n" + deep[0].astype(">u2").tobytes())
    with pytest.warns(Notice, match="colours of 16 bits"):
        read_points(tmp_path / "ppm")

    colours = bytes_of((8, 8, 3))
    alpha = np.concatenate([colours, np.full((8, 8, 1), 255, np.uint8)], 2)
    np.testing.assert_array_equal(
        read_points(save(tmp_path / "opaque", [alpha])), read_points(save(tmp_path / "rgb", [colours]))
    )
    alpha[0, 0, 3] = 0
    save(tmp_path / "rgba", [colours, alpha])
    with pytest.warns(Notice, match="1 of 2 images have transparency, which is ignored: '1.png'"):
        found = read_points(tmp_path / "rgba")
    np.testing.assert_array_equal(found[1], read_points(tmp_path / "rgb")[0])
    with pytest.warns(Notice, match="transparency"):
        read_points(save(tmp_path / "trns", [colours], transparency=tuple(int(v) for v in colours[0, 0])))

    frames = [Image.fromarray(bytes_of((8, 8, 3), k)) for k in range(3)]
    for suffix in ("gif", "tif", "png", "webp"):
        save(tmp_path / f"frames-{suffix}", frames[:1], suffix, save_all=True, append_images=frames[1:])
        with pytest.warns(Notice, match=f"several frames, of which the first is read: '0.{suffix}'"):
            assert read_points(tmp_path / f"frames-{suffix}").shape == (1, 192)
    with pytest.warns(Notice, match="CMYK"):
        read_points(save(tmp_path / "cmyk", [frames[0].convert("CMYK")], "tif"))


def test_palettes_are_colours(tmp_path):
    image = Image.fromarray(bytes_of((8, 8, 3))).quantize(16)
    want = np.asarray(image.convert("RGB")).transpose(2, 0, 1).reshape(1, -1).astype(np.float32) / 255
    np.testing.assert_array_equal(read_points(save(tmp_path / "p", [image])), want)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    """An image stored in any orientation comes out upright and otherwise unchanged."""
    upright = bytes_of((5, 7, 3))
    stored = {  # inverse of each orientation
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }[orientation](upright)
    tag = Image.Exif()
    tag[0x0112] = orientation
    folder = save(tmp_path / "p", [np.ascontiguousarray(stored)], suffix, exif=tag)
    want = upright.transpose(2, 0, 1).reshape(1, -1).astype(np.float32) / 255
    np.testing.assert_array_equal(read_points(folder), want)


# Folders


def test_folders_of_every_suffix(tmp_path):
    x = bytes_of((8, 8))
    # Lossy formats change values, so only the number of images is tested.
    for k, suffix in enumerate(["png", "PNG", "jpg", "JPEG", "jfif", "bmp", "tif", "TIFF", "pgm", "pnm", "tga", "ppm"]):
        kind = {"jfif": "JPEG", "pnm": "PPM"}.get(suffix)
        Image.fromarray(x).save(tmp_path / f"{k}.{suffix}", kind)
    assert read_points(tmp_path).shape == (12, 64)


def test_links_are_followed_once(tmp_path):
    save(tmp_path / "s" / "a", bytes_of((3, 8, 8)))
    save(tmp_path / "other", bytes_of((5, 8, 8), 1))
    (tmp_path / "s" / "b").symlink_to(tmp_path / "other")
    (tmp_path / "s" / "one.png").symlink_to(tmp_path / "s" / "a" / "0.png")
    assert len(read_points(tmp_path / "s")) == 9
    assert load(tmp_path / "s").train_labels is not None
    # A circular link, and a link to a folder that is read under its own name, although the link comes first.
    (tmp_path / "s" / "a" / "up").symlink_to(tmp_path / "s")
    (tmp_path / "s" / "0").symlink_to(tmp_path / "s" / "a")
    with pytest.warns(Notice, match="links to folders that are read already") as notices:
        assert len(read_points(tmp_path / "s")) == 9
    assert len(notices) == 1 and str(tmp_path / "s" / "0") in str(notices[0].message)


def test_system_files_and_descriptions_are_ignored(tmp_path):
    folder = save(tmp_path / "m", bytes_of((3, 8, 8)))
    (folder / "__MACOSX").mkdir()
    (folder / ".hidden").mkdir()
    for name in ("__MACOSX/._0.png", "._1.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden/0.png"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    for name in (
        "README.md",
        "README",
        "LICENSE",
        "labels.txt",
        "annotations.json",
        "0.xml",
        "metadata.csv",
        "metadata.parquet",
    ):
        (folder / name).write_text("words")
    assert len(read_points(folder)) == 3 and not holds_table(folder)


def test_skipped_files_are_named_once(tmp_path):
    folder = save(tmp_path / "m", bytes_of((3, 8, 8)))
    for name in ("4.psd", "5.svg", "a.npy", "b.parquet", "clip.mp4", "noname"):
        (folder / name).write_bytes(b"x")
    (folder / "9.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "circle").symlink_to(folder / "circle")
    with pytest.warns(Notice, match=r"skipped '4.psd', '5.svg', '9.png' and 5 more: not readable images") as notices:
        assert len(read_points(folder)) == 3
    assert len(notices) == 1


def test_images_or_tables(tmp_path):
    folder = save(tmp_path / "p", bytes_of((2, 8, 8)))
    (folder / "1.parquet").write_bytes(b"x")
    assert not holds_table(folder)
    for k in (2, 3):
        (folder / f"{k}.parquet").write_bytes(b"x")
    assert holds_table(folder) and not holds_table(tmp_path / "nowhere") and not holds_table(folder / "0.png")


def test_images_named_like_idx_files(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    for k, x in enumerate(bytes_of((3, 8, 8))):
        Image.fromarray(x).save(folder / f"train-images-{k}.png")
    assert len(read_points(folder)) == 3


def test_parts_of_a_data_set_are_read_as_one_with_a_notice(tmp_path):
    for k, place in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        save(tmp_path / place, bytes_of((3, 8, 8), k))
    with pytest.warns(Notice, match="test, train are read as one data set"):
        found = load(tmp_path)
    labels = torch.cat([found.train_labels, found.held_out_labels])
    assert labels.bincount().tolist() == [6, 6]


def test_damaged_images_and_folders(tmp_path):
    folder = save(tmp_path / "p", bytes_of((4, 32, 32)))
    content, refused = (folder / "3.png").read_bytes(), []
    g = np.random.default_rng(0)
    for _ in range(50):
        damaged = bytearray(content)
        for k in g.integers(0, len(content), 3):
            damaged[k] = g.integers(256)
        (folder / "3.png").write_bytes(bytes(damaged[: g.integers(1, len(content))]))
        try:
            read_points(folder)
        except DatasetError as error:
            refused.append(str(error))
    assert len(refused) > 10 and all("3.png" in r and "\n" not in r for r in refused)
    with pytest.raises(DatasetError, match="nowhere: no such file or folder"):
        read_points(tmp_path / "nowhere")


# One unit


def images():
    """Return the same images as arrays of many kinds, each with the expected array in [0, 1], channels first."""
    x = bytes_of((12, 5, 6, 3))
    first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return {
        "colour, channels last": (x, first / np.float32(255)),
        "colour, channels first": (first, first / np.float32(255)),
        "grey": (x[..., 0], first[:, :1] / np.float32(255)),
        "grey, one channel last": (x[..., :1], first[:, :1] / np.float32(255)),
        "grey, one channel first": (first[:, :1], first[:, :1] / np.float32(255)),
        "uint16": (x.astype(np.uint16) * 257, first / np.float32(255)),  # 257 · 255 = 65535
        "floats": (x.astype(np.float64) / 255, first / 255),
        "booleans": (x > 127, (first > 127).astype(np.float32)),
        "int64, values unchanged": (x.astype(np.int64), first.astype(np.float64)),
        "big-endian": (x.astype(">u2") * 257, first / np.float32(255)),
        "Fortran order": (np.asfortranarray(x), first / np.float32(255)),
        "negative stride": (x[::-1], first[::-1] / np.float32(255)),
        "half": ((x / 255).astype(np.float16), (first / 255).astype(np.float16).astype(np.float32)),
    }


@pytest.mark.parametrize("kind", images())
def test_the_same_array_from_anywhere(tmp_path, kind):
    """Arrays, tensors, batches, .npy and .npz give the same result in `load`, `fit` and `as_points`."""
    x, want = images()[kind]
    x = x.copy() if kind == "negative stride" else x
    np.testing.assert_array_equal(as_points(x, "x"), want)
    assert as_points(x, "x").dtype == want.dtype
    native = torch.from_numpy(np.ascontiguousarray(x.astype(x.dtype.newbyteorder("="))))
    np.testing.assert_array_equal(as_points(native, "x").numpy(), want)
    batches = [as_points(b, "x") for b in np.array_split(x, 3)]
    np.testing.assert_array_equal(np.concatenate(batches), want)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.NPZ", x=x)
    (tmp_path / "x.NPZ.npz").rename(tmp_path / "y.NPZ")
    for file in (tmp_path / "x.npy", tmp_path / "y.NPZ"):
        np.testing.assert_array_equal(read_points(file), want.reshape(12, -1))
    from_files = [load(tmp_path / name) for name in ("x.npy", "y.NPZ")]
    given = [dataset(a, None, Config()) for a in (x, native)]
    for found in [*from_files, *given]:
        assert found.shape == want.shape[1:]
        # Scaling and its inverse round twice, values have at most 8 bits before the point
        np.testing.assert_allclose(found.unscale(torch.from_numpy(whole(found))), ordered(want), rtol=2**-21)
        assert torch.equal(found.train, from_files[0].train)


@pytest.mark.parametrize("kind", images())
def test_streams_of_the_same_array(tmp_path, kind):
    x, want = images()[kind]
    np.save(tmp_path / "x.npy", np.ascontiguousarray(x))
    np.savez(tmp_path / "x.npz", x=x)
    native = torch.from_numpy(np.ascontiguousarray(x.astype(x.dtype.newbyteorder("="))))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(native), batch_size=5)
    for source in (x, native, loader, list(native.split(5)), tmp_path / "x.npy", tmp_path / "x.npz"):
        np.testing.assert_array_equal(torch.cat(list(rf.stream(source))).numpy(), want.reshape(12, -1))


def test_bytes_in_a_table_are_small_integers(tmp_path):
    x = bytes_of((12, 5)) // 3
    np.save(tmp_path / "x.npy", x)
    np.testing.assert_array_equal(as_points(x, "x"), x.astype(np.float32))
    found = load(tmp_path / "x.npy")
    np.testing.assert_allclose(found.unscale(torch.from_numpy(whole(found))), ordered(x), atol=85 * 2**-22)
    np.testing.assert_array_equal(read_points(tmp_path / "x.npy"), x)


@pytest.mark.parametrize("shape", [(4, 3, 32, 3), (4, 1, 8, 1), (4, 3, 8, 1), (4, 32, 32, 4), (4, 16, 16, 2)])
def test_channels_that_may_be_first_or_last_are_an_error(tmp_path, shape):
    x = bytes_of(shape)
    np.save(tmp_path / "x.npy", x)
    d = int(np.prod(shape[1:]))
    for read in (lambda: as_points(x, "x"), lambda: as_points(torch.from_numpy(x), "x"), lambda: load(tmp_path / "x.npy")):
        with pytest.raises(DatasetError, match=rf"images \(n, C, H, W\) .* vectors \(n, {d}\), .* may be axis 1 or axis 3"):
            read()


def test_thin_images_of_a_folder_are_not_ambiguous(tmp_path):
    """For images three pixels wide, the files define which axis holds the colours."""
    x = bytes_of((4, 8, 3, 3))
    np.testing.assert_array_equal(
        read_points(save(tmp_path / "p", x)), x.transpose(0, 3, 1, 2).reshape(4, -1) / np.float32(255)
    )
    assert load(tmp_path / "p").shape == (3, 8, 3)


@pytest.mark.parametrize("how", ["npz", "npy", "png"])
@pytest.mark.parametrize("channels", [1, 3])
def test_written_samples_are_comparable_with_the_training_files(tmp_path, how, channels):
    """The training data, written like samples, equal the folder that they were read from."""
    x = 100 + bytes_of((40, 6, 5, channels)) // 5
    folder = save(tmp_path / "photos", x[..., 0] if channels == 1 else x)
    found = load(folder)
    samples = found.unscale(torch.cat([found.train, found.held_out]))  # as `sample` returns them
    assert samples.dtype == torch.float32
    written = tmp_path / f"samples.{how}"
    if how == "npz":
        np.savez_compressed(written, x=samples.numpy())
    elif how == "npy":
        np.save(written, samples.numpy())
    else:
        shown = (samples.numpy() * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
        save(written, shown[..., 0] if channels == 1 else shown)
    # Both are bytes over 255, and float32 keeps a byte exactly, so the sets are equal.
    np.testing.assert_array_equal(ordered(read_points(written)), ordered(read_points(folder)))
    a, b = (torch.from_numpy(read_points(p)).double() for p in (written, folder))
    # MMD² of a cloud and itself is 0, up to the rounding of three means of distances of size √d / 5 in float64.
    assert abs(rf.mmd2(a, b).item()) < 1e-12
    # In another unit the distance would be far larger.
    assert rf.mmd2(a, b * 255).item() > 1


def test_samples_as_images_differ_by_rounding(tmp_path):
    """Floats to bytes: every value moves by 1/510 at most, so MMD² between both sets is at most √d / 255 by coupling."""
    x = np.random.default_rng(0).random((40, 1, 6, 5)).astype(np.float32)
    folder = save(tmp_path / "png", (x[:, 0] * 255).round().astype(np.uint8))
    a, b = torch.from_numpy(x.reshape(40, -1)).double(), torch.from_numpy(read_points(folder)).double()
    # MMD² = 2E|X−Y| − E|X−X'| − E|Y−Y'|; |X−Y| differs from |X−X'| and |Y−Y'| by the move of one point at most.
    assert 0 <= rf.mmd2(a, b).item() <= 30**0.5 / 255


TINY = {"particles": 30, "stages": 1, "initial_steps": 2, "max_steps": 2, "slices": 4, "fit_steps": 2, "width": 8}


def test_a_run_on_images_samples_in_their_unit(tmp_path):
    folder = save(tmp_path / "photos", 100 + bytes_of((30, 4, 4)) // 5)
    samples = rf.GenerativeFlow(**TINY, network="mlp").fit(load(folder)).sample(9, seed=0)
    assert samples.dtype == torch.float32 and samples.min() >= 0 and samples.max() <= 1 and samples.shape == (9, 1, 4, 4)


# Numbers that float32 would flatten


def columns(n=200):
    g = np.random.default_rng(0)
    return np.stack([1.7e9 + g.uniform(0, 60, n), g.normal(size=n), g.uniform(0, 5, n) - 3e12], 1)


def test_columns_with_offsets_keep_their_spread(tmp_path):
    x = columns()
    np.save(tmp_path / "x.npy", x)
    found = load(tmp_path / "x.npy")
    assert found.columns.spread == pytest.approx([30, 1.35, 2.5], rel=0.25)  # interquartile ranges
    back = found.unscale(torch.from_numpy(whole(found)))
    assert back.dtype == torch.float64
    want, spread = ordered(x), 2 * np.array(found.columns.spread)
    order = np.argsort(want[:, 1]), np.argsort(back[:, 1].numpy())
    # float32 has steps of 2^-23 below 2; the last column's offset leaves float64 steps of 2^-11.
    assert (np.abs(back.numpy()[order[1]] - want[order[0]]) / spread).max() < 1e-4
    # Distances between points are those of the data in columns divided by their spreads.
    flat = torch.from_numpy(whole(found)).double()
    divided = torch.from_numpy((x - x.min(0)) / spread)
    assert torch.cdist(flat, flat).mean().item() == pytest.approx(torch.cdist(divided, divided).mean().item(), rel=1e-5)
    np.testing.assert_allclose(found.scale(found.unscale(found.train)), found.train, atol=1e-4)
    flow = rf.GenerativeFlow(**TINY).fit(found, run=tmp_path / "run")
    again = rf.GenerativeFlow.load(tmp_path / "run")
    assert again.run.columns == found.columns
    samples = again.sample(50, seed=0)
    assert samples.dtype == torch.float64 and torch.equal(samples, flow.sample(50, seed=0))
    assert (np.abs(samples.mean(0).numpy() - x.mean(0)) < spread).all()


def test_ordinary_columns_are_sampled_in_float32():
    g = np.random.default_rng(0)
    found = dataset(g.normal(size=(50, 3)) * [1, 10, 100] + [0, 1000, 0], None, Config())
    assert found.unscale(found.train).dtype == torch.float32


@pytest.mark.parametrize(
    "x",
    [
        np.array(columns()[:, :1] * 1.0),  # one offset, which the scaling removes
        (1_700_000_000 + np.random.default_rng(0).integers(0, 60, (200, 2))).astype(np.int64),
        np.random.default_rng(0).normal(size=(200, 2)) * 1e300,
        np.random.default_rng(0).normal(size=(200, 2)) * 1e-170,
        0.5 + 1e-9 * np.random.default_rng(0).random((200, 2)),
        (2**60 + 2**40 * np.random.default_rng(0).integers(0, 99, (200, 2))).astype(np.uint64),
    ],
)
def test_scaling_is_done_in_float64(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    for found in (load(tmp_path / "x.npy"), dataset(x, None, Config())):
        both = torch.cat([found.train, found.held_out])
        back = found.unscale(both).numpy()
        # A uniform column fills about [0, 1], a normal one reaches four of its 0.37 from the middle.
        assert back.dtype == np.float64 and both.min() >= -1.5 and both.max() <= 2.5
        spread = np.ptp(x.astype(np.float64), axis=0)
        got = np.sort(back, 0) - np.sort(x.astype(np.float64), 0)
        assert (np.abs(got) <= 1e-6 * spread).all()  # float32's 2^-24, and a rounding more


def test_integers_that_float64_flattens_are_refused(tmp_path):
    x = 2**62 + np.random.default_rng(0).integers(0, 60, (50, 2))
    np.save(tmp_path / "x.npy", x)
    for read in (lambda: load(tmp_path / "x.npy"), lambda: as_points(x, "x"), lambda: as_points(torch.from_numpy(x), "x")):
        with pytest.raises(DatasetError, match="column 0 holds numbers near .* multiples of 1024; subtract an offset"):
            read()
    # Exact integers pass, and so do those with a wide spread
    for fine in (2**53 - x % 7, np.array([[-(2**63)], [2**63 - 1]]), np.array([[2**64 - 1], [0]], np.uint64)):
        assert as_points(fine, "x").dtype == np.float64


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.full((9, 2), 1e308), "must hold numbers below 4e307"),
        (np.array([[1.0, np.inf]] * 9), "NaN or infinity"),
        (
            np.full((9, 2), np.longdouble("1e1000")) if np.finfo(np.longdouble).max > 1e999 else np.full((9, 2), 1e308),
            "must hold numbers below",
        ),
    ],
)
def test_numbers_that_cannot_be_scaled(tmp_path, x, says):
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DatasetError, match=says):
        load(tmp_path / "x.npy")


# Refused input


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.ma.masked_array(np.ones((3, 2)), [[1, 0]] * 3), "masked array with 3;"),
        (np.ones((3, 2), complex), "dtype complex128; .*real and .imag"),
        (np.array([[1, "a"]], dtype=object), "dtype object"),
        (np.array([["a"]]), "dtype <U1"),
        (np.array([["2020-01-01"]], "M8[D]"), "dtype datetime64.D.; subtract a date"),
        (np.zeros(3, [("a", float), ("b", float)]), "got dtype .*fields as columns"),
        (torch.ones(3, 2, dtype=torch.complex64), "dtype torch.complex64"),
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.ones(3, 2, device="meta"), "meta device"),
        (torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)], layout=torch.jagged), "nested"),
        ([1, 2], "got list"),
    ],
)
def test_arrays_without_plain_numbers(tmp_path, x, says):
    with pytest.raises(TypeError, match=f"^mine: .*{says}"):
        as_points(x, "mine")
    if isinstance(x, np.ndarray) and x.dtype != object and not np.ma.isMA(x):
        np.save(tmp_path / "x.npy", x)
        for read in (load, read_points):
            with pytest.raises(DatasetError, match=f"x.npy: .*{says}"):
                read(tmp_path / "x.npy")


def test_tensors_in_every_state():
    x = torch.arange(6.0).view(3, 2)
    leaf = x.clone().requires_grad_()
    assert not as_points(leaf, "x").requires_grad and torch.equal(as_points(leaf, "x"), x)
    negative = torch.complex(x, -x).conj().imag  # a view that is negated only when read
    assert negative.is_neg()
    np.testing.assert_array_equal(as_points(negative, "x").numpy(), x)
    assert as_points(x.bfloat16(), "x").dtype == torch.float32
    np.testing.assert_array_equal(as_points(np.ma.masked_array(np.ones((3, 2)), False), "x"), np.ones((3, 2)))
    with pytest.raises(DatasetError, match="x: .* got a single number"):
        as_points(np.array(3.0), "x")


def test_archives(tmp_path):
    file = tmp_path / "a.npz"
    x = np.random.default_rng(0).normal(size=(9, 2))
    np.savez(file, x=x, weights=x, y=np.arange(9.0))
    with pytest.warns(Notice, match="a.npz: read the array 'x', skipped 'weights'"):
        found = load(file)
    assert sorted(torch.cat([found.train_labels, found.held_out_labels]).tolist()) == list(range(9))
    for labels in (np.arange(9) + 0.5, np.full(9, np.nan), np.arange(9) - 1, np.arange(8), np.arange(9)[:, None], ["a"] * 9):
        np.savez(file, x=x, labels=labels)
        with pytest.raises(DatasetError, match="a.npz: labels must be 9 integers"):
            load(file)
    np.savez(file, a=x, b=x)
    with pytest.raises(DatasetError, match="must hold one array, or one named x, got 'a', 'b'"):
        load(file)
    np.savez(file, x=np.float64(3))
    with pytest.raises(DatasetError, match="a.npz: .* got a single number"):
        load(file)
    np.savez(file)
    with pytest.raises(DatasetError, match="named x, got none"):
        load(file)
    np.savez_compressed(file, x=np.tile(x, (50, 1)))
    content, refused = file.read_bytes(), []
    g = np.random.default_rng(0)
    for k in range(60):
        damaged = bytearray(content)
        damaged[g.integers(len(content))] ^= 1 << g.integers(8)
        file.write_bytes(bytes(damaged[: g.integers(1, len(content))] if k % 2 else damaged))
        try:
            np.testing.assert_array_equal(read_points(file), np.tile(x, (50, 1)))  # the right result, or an error of one line
        except DatasetError as error:
            refused.append(str(error))
    assert len(refused) > 10 and all("a.npz: " in r and "\n" not in r for r in refused)
    file.write_bytes(b"\x80\x04N.")
    with pytest.raises(DatasetError, match="not a NumPy file of plain arrays"):
        load(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.txt", "words")
    with pytest.raises(DatasetError, match="a.npz: not a NumPy file of plain arrays: x.txt is not an array"):
        load(file)


# Named data sets in the layouts of their distributors


def write_idx(folder, seed=0, name="{part}-{kind}", nested=False):
    g = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    train = g.integers(0, 256, (12, 4, 6), np.uint8)
    for part, x in (("train", train), ("t10k", train[:5])):
        for kind, array in (("images-idx3-ubyte", x), ("labels-idx1-ubyte", np.arange(len(x), dtype=np.uint8))):
            file = folder / name.format(part=part, kind=kind)
            if nested:
                file.mkdir()
                file = file / file.name
            file.write_bytes(gzip.compress(idx(array)) if file.suffix == ".gz" else idx(array))
    return train[:, None].astype(np.float32) / 255


@pytest.mark.parametrize(
    ("place", "name", "nested"),
    [
        ("MNIST/raw", "{part}-{kind}", False),  # torchvision
        ("MNIST/raw", "{part}-{kind}.gz", False),
        ("archive", "{part}-{kind}", True),  # Kaggle: every file in a folder of its name
        ("", "{part}-{kind}", True),
    ],
)
def test_layouts_of_mnist(tmp_path, place, name, nested):
    want = write_idx(tmp_path / "d" / place, 0, name, nested)
    for found in (load("mnist", tmp_path / "d"), load(tmp_path / "d")):
        np.testing.assert_array_equal(found.train, want)


def test_names_with_a_dot(tmp_path):
    want = write_idx(tmp_path)
    for file in list(tmp_path.iterdir()):
        file.rename(tmp_path / file.name.replace("-idx", ".idx"))
    np.testing.assert_array_equal(load("mnist", tmp_path).train, want)


def test_data_sets_with_the_file_names_of_mnist(tmp_path):
    mnist, fashion = write_idx(tmp_path / "MNIST" / "raw", 1), write_idx(tmp_path / "FashionMNIST" / "raw", 2)
    write_idx(tmp_path / "KMNIST" / "raw", 3)
    np.testing.assert_array_equal(load("mnist", tmp_path).train, mnist)
    np.testing.assert_array_equal(load("fashion-mnist", tmp_path).train, fashion)
    with pytest.raises(DatasetError, match="several data sets below .*FashionMNIST.*KMNIST.*MNIST"):
        load(tmp_path)
    with pytest.raises(DatasetError, match="fashion-mnist: no file train-images-idx3-ubyte"):
        load("fashion-mnist", tmp_path / "MNIST" / "nowhere")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match=r"mnist: no file t10k-labels-idx1-ubyte\[.gz\] in .*MNIST.raw"):
        load("mnist", tmp_path / "MNIST")


def test_a_notice_names_the_skipped_test_part(tmp_path):
    want = write_idx(tmp_path)
    with pytest.warns(Notice, match="read 12 training points, skipped 5 test points"):
        np.testing.assert_array_equal(read_points(tmp_path), want.reshape(12, -1))


@pytest.mark.parametrize("place", ["cifar-10-batches-bin", "CIFAR10/cifar-10-batches-bin"])
def test_layouts_of_cifar10(tmp_path, place):
    folder = tmp_path / place
    folder.mkdir(parents=True)
    for name, (x, y) in cifar_batches().items():
        rows = np.concatenate([y[:, None].astype(np.uint8), x.reshape(3, -1)], 1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    assert load("cifar10", tmp_path).train.shape == (15, 3, 32, 32)
    (folder / "test_batch.bin").unlink()
    with pytest.raises(DatasetError, match=f"and test_batch in .* folders? below it .*{place}"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("images", "listing", "head", "line"),
    [
        ("celeba/img_align_celeba", "celeba/list_eval_partition.txt", "", "{:06d}.jpg {}\n"),  # torchvision
        ("img_align_celeba/img_align_celeba", "list_eval_partition.csv", "image_id,partition\n", "{:06d}.jpg,{}\n"),  # Kaggle
    ],
)
def test_layouts_of_celeba(tmp_path, images, listing, head, line):
    save(tmp_path / "spam", [bytes_of((8, 8, 3))], "jpg")
    x = bytes_of((7, 218, 178, 3))
    (tmp_path / images).mkdir(parents=True)
    for k, image in enumerate(x, 1):
        Image.fromarray(image).save(tmp_path / images / f"{k:06d}.jpg")
    parts = [0, 0, 0, 0, 1, 2]
    (tmp_path / listing).write_text(head + "".join(line.format(k, part) for k, part in enumerate(parts, 1)))
    with pytest.warns(Notice, match="names 6 of the 7 images"):
        found = load("celeba", tmp_path)
    assert len(found.train) == 4 and len(found.held_out) == 1
    (tmp_path / listing).unlink()
    with pytest.raises(DatasetError, match=r"celeba: no list_eval_partition.txt \(or .csv\), .* folders below it"):
        load("celeba", tmp_path)


# Names and formats


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("fashion_mnist", "fashion-mnist"),
        ("FashionMNIST", "fashion-mnist"),
        ("MNIST", "mnist"),
        ("cifar-10", "cifar10"),
        ("hf:fashion", "hf:fashion-mnist"),
        ("digit", "digits"),
    ],
)
def test_did_you_mean(name, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=f"did you mean '{meant}'"):
        load(name)


def test_did_you_mean_a_file(tmp_path):
    np.save(tmp_path / "photos.npy", np.eye(5))
    for read in (load, read_points):
        with pytest.raises(DatasetError, match="did you mean .*photos.npy'"):
            read(tmp_path / "photo.npy")
    with pytest.raises(DatasetError, match="which does not exist"):
        load("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="is a broken link"):
        load(tmp_path / "gone")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.xyz", "rename it"),
        ("a.png", "give the folder of the images"),
        ("a.zip", "unpack it"),
        ("a.pt", "pickles can run code"),
        ("a.xlsx", "save the table as .csv"),
        ("train-images-idx3-ubyte.gz", "the folder of the four IDX files"),
    ],
)
def test_files_of_other_formats(tmp_path, name, says):
    (tmp_path / name).write_bytes(b"x")
    for read in (load, read_points):
        with pytest.raises(DatasetError, match=f"{name}: exists, but has an unsupported format; accepted: .*{says}"):
            read(tmp_path / name)


def test_train_reads_tables(tmp_path):
    pytest.importorskip("pyarrow")
    x = np.random.default_rng(0).normal(size=(30, 2)).round(3)
    np.savetxt(tmp_path / "t.csv", x, "%.3f", ",", header="u,v", comments="")
    from pyarrow import parquet, table

    (tmp_path / "shards").mkdir()
    for k in (0, 15):
        parquet.write_table(table({"u": x[k : k + 15, 0], "v": x[k : k + 15, 1]}), tmp_path / "shards" / f"{k:02}.parquet")
    for source in (tmp_path / "t.csv", tmp_path / "shards"):
        found = load(source)
        assert found.shape == (2,)
        np.testing.assert_allclose(found.unscale(torch.from_numpy(whole(found))), ordered(x), atol=1e-5)


def test_digits_need_no_folder(tmp_path):
    with pytest.warns(Notice, match="read from scikit-learn"):
        load("digits", tmp_path)


def test_arrays_of_data():
    assert Dataset.from_arrays("mine", bytes_of((9, 4, 4))).shape == (1, 4, 4)
    with pytest.raises(DatasetError, match="held-out values exceed those for training"):
        Dataset.from_arrays("mine", np.eye(5) * 1e-30, np.full((2, 5), 1e30))


def test_settings_of_pillow_have_no_effect(tmp_path, monkeypatch):
    """A truncated image is an error, even if Pillow is set to fill it with grey."""
    from PIL import ImageFile

    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.jpg")
    content = (tmp_path / "0.jpg").read_bytes()
    (tmp_path / "0.jpg").write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ValueError, match=r"0.jpg: not a readable image"):
        rf.stream(tmp_path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_sparse_matrices_are_refused(tmp_path):
    scipy.sparse.save_npz(tmp_path / "a.npz", scipy.sparse.csr_matrix(np.eye(3)))
    with pytest.raises(ValueError, match="a.npz: must hold a dense array, got a sparse matrix of SciPy; save its toarray"):
        rf.stream(tmp_path / "a.npz")
