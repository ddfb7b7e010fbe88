"""Arrays from one path: a .npy or .npz file, a folder of images, or a folder of the four IDX files of a data set like MNIST.

An image is scaled by its type, never by its values: bytes are divided by 255, grey values of 16 bits by 65535, and floats must
lie in [0, 1]. All images of a folder must have one size and one type. Notices report what was lost on the way.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rieszflow._infra.extras import extra
from rieszflow._infra.messages import notice
from rieszflow._types import PointSource
from rieszflow.data.dataset import RawData
from rieszflow.data.paths import PARQUET, all_files, folders_below, is_query, is_table, path_hint, quoted, searched_paths
from rieszflow.data.points import channels_first, is_frame, plain_numbers, to_unit
from rieszflow.errors import DatasetError, InputTypeError

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif", ".heic",
    ".heif", ".pgm", ".ppm", ".pbm", ".pnm", ".pfm", ".tga",
}  # fmt: skip
# Descriptions, labels and licences next to images, which are skipped without a notice.
_COMPANIONS = {
    ".txt", ".md", ".rst", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".cfg", ".html", ".htm", ".css", ".js", ".pdf",
    ".log", ".py", ".ipynb", ".sh", ".bib", ".names", ".md5", ".sha256", "README", "LICENSE", "LICENCE", "COPYING", "NOTICE",
}  # fmt: skip
_PARTS_OF_SETS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev")

ACCEPTED = "a folder of images or of the four IDX files of MNIST, a .npy or .npz file, or a table (.csv, .tsv, .json, .parquet)"
_ADVICE = {
    ".zip .tar .tgz .gz .bz2 .xz .7z .rar .zst": "unpack it first",
    ".pkl .pickle .pt .pth .joblib": "pickles can run code and are not read: save the array with numpy.save",
    ".mat .h5 .hdf5 .nc .zarr .safetensors": "save the array with numpy.save",
    ".xls .xlsx .ods .feather .arrow": "save the table as .csv or .parquet",
}
_IDX = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
_IDX_TWINS = {"mnist", "fashionmnist", "kmnist", "emnist", "qmnist"}  # folders of data sets whose files have the same names


def read_points(path: Path) -> np.ndarray:
    """Return the training points (n, d) of a .npy or .npz file, or of a folder of images or IDX files, as floats."""
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder{path_hint(path)}")
    data = read_path(path)
    if data.test is not None:
        notice(f"{path}: read {len(data.train)} training points, skipped {len(data.test)} test points")
    if 0 in data.train.shape:
        raise DatasetError(f"{path}: must have at least one point and one number, got shape {data.train.shape}")
    return np.asarray(to_unit(data.train, str(path))).reshape(len(data.train), -1)


def read_path(path: Path) -> RawData:
    """Read a .npy or .npz file, or a folder of images or IDX files."""
    if path.is_dir():
        if _find_idx(path, _IDX[0]) or (not _is_image_folder(path) and _idx_folders(path)):
            return read_idx_folder(path, str(path), "the four files of an IDX data set are needed")
        return read_image_folder(path)
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return read_numpy(path)
    advice = next((text for suffixes, text in _ADVICE.items() if suffix in suffixes.split()), "rename it if it is one of these")
    advice = "give the folder of the images" if suffix in _IMAGES else advice
    advice = "give the folder of the four IDX files" if "-ubyte" in path.name else advice
    raise DatasetError(f"{path}: exists, but has an unsupported format; accepted: {ACCEPTED}; {advice}")


def read_numpy(path: Path) -> RawData:
    """Read a .npy file, or from a .npz file `x` (or its only array), and `labels` or `y` if they exist."""
    try:
        content = np.load(path, allow_pickle=False)
        arrays = {"x": content} if isinstance(content, np.ndarray) else dict.fromkeys(content.files)
        label = next((k for k in ("labels", "y") if k in arrays and len(arrays) > 1), None)
        rest = [k for k in arrays if k != label]
        key = next((k for k in ("x", "samples", "images", "data") if k in rest), rest[0] if len(rest) == 1 else None)
        if not isinstance(content, np.ndarray):
            with content:
                arrays |= {k: content[k] for k in (key, label) if k is not None}
    except Exception as error:  # a damaged archive can raise anything
        raise DatasetError(f"{path}: not a NumPy file of plain arrays, or damaged ({error})") from None
    if "format" in arrays and {"indices", "row", "offsets"} & set(arrays):
        raise DatasetError(f"{path}: must hold a dense array, got a sparse matrix of SciPy; save its toarray()")
    if key is None:
        raise DatasetError(f"{path}: must hold one array, or one named x, got {quoted(list(arrays), 9) or 'none'}")
    if len(rest) > 1:
        notice(f"{path}: read the array {key!r}, skipped {quoted([k for k in rest if k != key], 9)}")
    try:
        if isinstance(arrays[key], bytes):  # numpy.load returns the content of a file that is not an array
            raise DatasetError(f"{path}: not a NumPy file of plain arrays: {key} is not an array")
        x = np.asarray(channels_first(plain_numbers(arrays[key], str(path)), str(path)))
    except InputTypeError as error:
        raise DatasetError(str(error)) from None
    if label is None:
        return RawData(x)
    labels = np.asarray(arrays[label])
    numeric = labels.shape == (len(x),) and labels.dtype.kind in "iufb"
    # pandas and R write integers as floats. A classifier has as many classes as the largest label.
    if not numeric or not ((labels >= 0) & (labels < 2**16) & (labels == np.floor(labels))).all():
        accepted = f"{len(x)} integers from 0 to 65535, one for every point"
        raise DatasetError(f"{path}: labels must be {accepted}, got shape {labels.shape} and dtype {labels.dtype}")
    return RawData(x, labels.astype(np.int64))


def read_idx_folder(path: Path, name: str, advice: str) -> RawData:
    """Read the four IDX files of a data set from a folder or one below it; `advice` ends the message if they are missing."""
    folders = _idx_folders(path, name)
    if len(folders) > 1:
        raise DatasetError(f"{name}: several data sets below {path}: {quoted([str(f) for f in folders], 9)}; give one of them")
    if not folders:
        below = folders_below(path)
        partial = next((f for f in below if any(_find_idx(f, stem) for stem in _IDX)), None)
        missing = ", ".join(f"{stem}[.gz]" for stem in _IDX if partial is None or not _find_idx(partial, stem))
        raise DatasetError(f"{name}: no file {missing} in {partial or searched_paths(path, below)}; {advice}")
    x, y, test, test_y = (read_idx(_find_idx(folders[0], stem) or "") for stem in _IDX)
    for images, labels in ((x, y), (test, test_y)):
        if images.ndim != 3 or images.shape[1:] != x.shape[1:] or labels.shape != images.shape[:1]:
            raise DatasetError(f"{name}: images {images.shape} and labels {labels.shape} in {folders[0]} do not fit together")
    return RawData(x[:, None], y, test[:, None], test_y)


def _find_idx(folder: Path, stem: str) -> Path | None:
    """Return an IDX file: plain, gzipped, with a dot in its name, or in a folder with its name, as in Kaggle's archive."""
    names = (stem, stem.replace("-idx", ".idx"))
    return next((f for n in names for f in (folder / n, folder / f"{n}.gz", folder / n / n) if f.is_file()), None)


def _idx_folders(path: Path, name: str = "") -> list[Path]:
    """Return the folder if it has all four files, otherwise those below it that are not named like another data set."""
    folders = [f for f in folders_below(path) if all(_find_idx(f, stem) for stem in _IDX)]
    others = _IDX_TWINS - {name.replace("-", "")} if name in ("mnist", "fashion-mnist") else set[str]()
    below = [{re.sub("[-_]", "", part.lower()) for part in f.relative_to(path).parts} for f in folders]
    return [path] if path in folders else [f for f, parts in zip(folders, below, strict=True) if not parts & others]


def read_idx(file: str | os.PathLike[str]) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzipped (the format of MNIST).

    Raises:
        DatasetError: The file is damaged or has another format.
    """
    try:
        with open(file, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            content = gzip.GzipFile(fileobj=raw) if packed else raw
            start = content.read(4)
            axes = start[3] if start[:3] == b"\0\0\x08" and len(start) == 4 else 0
            sizes = content.read(4 * axes) if axes <= 4 else b""
            if not sizes or len(sizes) < 4 * axes:
                raise DatasetError(f"{file}: not an IDX file of unsigned bytes")
            shape = tuple(int(v) for v in np.frombuffer(sizes, ">u4"))
            # Unpack no more than the header states, and let memory grow only with the bytes that were read.
            size, body = math.prod(shape), bytearray()
            while chunk := content.read(min(1 << 20, size + 1 - len(body))):
                body += chunk
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{file}: cannot be read, or damaged ({error})") from None
    if len(body) != size:
        found = f"more than {size}" if len(body) > size else len(body)
        raise DatasetError(f"{file}: truncated or damaged: {found} bytes of data, the header states {size}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def holds_table(source: PointSource) -> bool:
    """Return True for a frame, a query, a table file, a pattern, or a folder of them; False for arrays, images and batches."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        named = is_query(source) or is_table(path)
        return named or (any(map(is_table, path.rglob("*"))) and not (_is_image_folder(path) or _idx_folders(path)))
    files = isinstance(source, (list, tuple)) and source and all(isinstance(s, (str, os.PathLike)) for s in source)
    return bool(files) or is_frame(source) or type(source).__name__ == "Table"


def _is_image_folder(folder: Path) -> bool:
    """Return True for a folder with more images than Parquet files, not counting a `metadata.parquet`."""
    files = all_files(folder)[0] if folder.is_dir() else []
    tables = sum(f.suffix.lower() in PARQUET and f.stem.lower() != "metadata" for f in files)
    return sum(f.suffix.lower() in _IMAGES for f in files) > tables


def read_image_folder(folder: Path) -> RawData:
    """Read all images below a folder, labelled by their subfolders if there are several."""
    with extra("cli", "images"):
        from PIL import Image

    everything, repeated = all_files(folder)
    # .heic is read if a plugin for it is registered with Pillow.
    suffixes = _IMAGES & set(Image.registered_extensions())
    files = [f for f in everything if f.suffix.lower() in suffixes and os.path.isfile(f)]
    described = [f for f in everything if f.suffix.lower() in _COMPANIONS or f.name.upper() in _COMPANIONS]
    described += [f for f in everything if is_table(f) and f.stem.lower() == "metadata"]
    skipped = sorted(str(f.relative_to(folder)) for f in set(everything).difference(files, described))
    if not files:
        content = f"; it holds {quoted(skipped, 3)}" if skipped else ""
        raise DatasetError(f"{folder}: no images ({', '.join(sorted(suffixes))}) and no IDX files in it{content}")
    if repeated:
        notice(f"{folder}: skipped {quoted([str(f) for f in repeated], 3)}: links to folders that are read already")
    if skipped:
        notice(f"{folder}: skipped {quoted(skipped, 3)}: not readable images")
    images: list[np.ndarray] = []
    remarks: dict[str, list[str]] = {}
    for file in files:
        image, own_remarks = _read_image(file)
        images.append(image)
        for remark in own_remarks:
            remarks.setdefault(remark, []).append(str(file.relative_to(folder)))
        if (image.dtype, image.shape) != (images[0].dtype, images[0].shape):
            found, first = (f"shape {x.shape} (C, H, W) and {x.dtype} values" for x in (image, images[0]))
            accepted = "all images must have one size, mode and depth"
            raise DatasetError(f"{file}: {accepted}, got {found}, {files[0].name} has {first}")
    for remark, names in remarks.items():
        notice(f"{folder}: {len(names)} of {len(files)} images have {remark}: {quoted(names, 3)}")
    places = [f.parent.relative_to(folder).parts for f in files]
    parts = {place[0] for place in places if place and place[0].lower() in _PARTS_OF_SETS}
    if len(parts) > 1:
        notice(f"{folder}: {', '.join(sorted(parts))} are read as one data set; give one of these folders to skip the others")
        places = [place[1:] if place and place[0] in parts else place for place in places]
    classes = sorted(set(places))
    return RawData(np.stack(images), np.array([classes.index(place) for place in places]) if len(classes) > 1 else None)


def open_image(file: Path) -> tuple[Image, list[str]]:
    """Return an upright image with its pixels read, and remarks on what was lost; the file is closed."""
    with extra("cli", "images"):
        from PIL import Image, ImageFile, ImageOps

    # With this setting of other code, Pillow would fill truncated images with grey.
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with Image.open(file) as image:
            remarks = ["several frames, of which the first is read"] if getattr(image, "is_animated", False) else []
            raw, tags = image.tile[0][3] if image.tile else "", getattr(image, "tag_v2", {})
            raw, most = (str(raw[0]), raw[-1]) if isinstance(raw, tuple) else (str(raw), 0)
            odd = image.mode.startswith("I;16") and (tags.get(262) == 0 or raw == "I;12")
            deep = ";16" in raw or np.max(tags.get(258, 8)) > 8 or (image.format == "PPM" and most > 255)
            ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # a damaged image can raise anything
        raise DatasetError(f"{file}: not a readable image ({error})") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    if odd:
        raise DatasetError(f"{file}: must have 16 bits and black as 0, got 12 bits, or white as 0, which Pillow does not scale")
    if deep and image.mode in ("RGB", "RGBA", "CMYK"):
        remarks.append("colours of 16 bits, which are read with 8")
    return image, remarks


def _read_image(file: Path) -> tuple[np.ndarray, list[str]]:
    """Return an image (C, H, W) of uint8, uint16, or float32 in [0, 1], and remarks on what was lost."""
    image, remarks = open_image(file)
    mode = image.mode
    # Pillow reads a .pgm of 16 bits as mode I, scaled to 0 … 65535.
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        return np.asarray(image).astype(np.uint16)[None], remarks
    if mode == "F":
        values = np.asarray(image)
        if not ((values >= 0) & (values <= 1)).all():
            found = f"got {values.min():g} to {values.max():g}; divide them, or save their array as .npy"
            raise DatasetError(f"{file}: an image of floats must lie in [0, 1], {found}")
        return values[None], remarks
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "CMYK"):
        accepted = "grey values or colours of 8 bits, grey values of 16 bits or floats in [0, 1]"
        found = f"Pillow's mode {mode}, which has no agreed range; save the array as .npy"
        raise DatasetError(f"{file}: an image must have {accepted}, got {found}")
    if mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if np.min(rgba.getchannel("A").getextrema()) < 255:
            remarks.append("transparency, which is ignored")
        image = rgba if mode in ("P", "PA") else image
    if mode == "CMYK":
        remarks.append("CMYK colours, which are converted to RGB without their profile")
    return to_chw(np.asarray(image.convert("L" if mode in ("1", "L", "LA") else "RGB"))), remarks


def to_chw(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W) or (H, W, C) as (C, H, W)."""
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
