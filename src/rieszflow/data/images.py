"""Files and folders of images. An image is scaled by its type, never by its values.

- 1 to 8 bits: divided by 255 after Pillow has mapped them to 0 … 255. Grey values of 16 bits: divided by 65535.
- Floats (.tif, .pfm) must lie in [0, 1]. Integers of 32 bits and 12 bits, LAB and HSV are refused.
- Notices report colours of 16 bits, which Pillow reduces to 8, transparency and frames that are skipped, and CMYK.
- All images of a folder must have one size and one depth, and all be grey or all in colour. EXIF orientation is applied.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rieszflow._infra.extras import extra
from rieszflow._infra.messages import notice
from rieszflow.data.dataset import RawData
from rieszflow.data.paths import PARQUET, all_files, is_table, quoted, suppress_oserror
from rieszflow.errors import DatasetError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif", ".heic",
    ".heif", ".pgm", ".ppm", ".pbm", ".pnm", ".pfm", ".tga",
)  # fmt: skip
# Descriptions, labels and licences next to images. A notice names other files that are skipped.
_COMPANIONS = (
    ".txt", ".md", ".rst", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".cfg", ".html", ".htm", ".css", ".js", ".pdf",
    ".log", ".py", ".ipynb", ".sh", ".bib", ".names", ".md5", ".sha256",
)  # fmt: skip
_PARTS_OF_SETS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev")


def is_image_folder(folder: str | os.PathLike[str]) -> bool:
    """Return True for a folder with more images than Parquet files, not counting a `metadata.parquet`."""
    if not os.path.isdir(folder):
        return False
    images = tables = 0
    for file in all_files(Path(folder))[0]:
        suffix = file.suffix.lower()
        images += suffix in IMAGES
        tables += suffix in PARQUET and file.stem.lower() != "metadata"
    return images > tables


def read_image_folder(folder: Path) -> RawData:
    """Read all images below a folder, labelled by their subfolders if there are several."""
    with extra("cli", "images"):
        from PIL import Image

    everything, repeated = all_files(folder)
    # .heic is read if a plugin for it is registered with Pillow.
    suffixes = set(IMAGES) & set(Image.registered_extensions())
    files = [f for f in everything if f.suffix.lower() in suffixes and suppress_oserror(f.is_file)]
    skipped = sorted(str(f.relative_to(folder)) for f in set(everything).difference(files) if not _is_companion(f))
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
            raise DatasetError(
                f"{file}: all images must have one size, mode and depth, got {found}, {files[0].name} has {first}"
            )
    for remark, names in remarks.items():
        notice(f"{folder}: {len(names)} of {len(files)} images have {remark}: {quoted(names, 3)}")
    return RawData(np.stack(images), _class_labels(folder, files))


def _is_companion(file: Path) -> bool:
    """Return True for a description or a list of labels that belongs to images."""
    name = file.name.upper()
    documents = file.suffix.lower() in _COMPANIONS or name in ("README", "LICENSE", "LICENCE", "COPYING", "NOTICE")
    return documents or (is_table(file) and file.stem.lower() == "metadata")


def _class_labels(folder: Path, files: list[Path]) -> np.ndarray | None:
    """Return the index of each file's subfolder, or None if there is only one."""
    places = [f.parent.relative_to(folder).parts for f in files]
    parts = {place[0] for place in places if place and place[0].lower() in _PARTS_OF_SETS}
    if len(parts) > 1:
        notice(f"{folder}: {', '.join(sorted(parts))} are read as one data set; give one of these folders to skip the others")
        places = [place[1:] if place and place[0] in parts else place for place in places]
    classes = sorted(set(places))
    return np.array([classes.index(place) for place in places]) if len(classes) > 1 else None


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
            ppm = image.format == "PPM" and isinstance(raw, tuple) and raw[-1] > 255
            raw, bits = str(raw[0] if isinstance(raw, tuple) else raw), np.max(tags.get(258, 8))
            odd = image.mode.startswith("I;16") and (tags.get(262) == 0 or raw == "I;12")
            ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # a damaged image can raise anything
        raise DatasetError(f"{file}: not a readable image ({error})") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    if odd:
        raise DatasetError(f"{file}: must have 16 bits and black as 0, got 12 bits, or white as 0, which Pillow does not scale")
    if (";16" in raw or bits > 8 or ppm) and image.mode in ("RGB", "RGBA", "CMYK"):
        remarks.append("colours of 16 bits, which are read with 8")
    return image, remarks


def _read_image(file: Path) -> tuple[np.ndarray, list[str]]:
    """Return an image (C, H, W) of bytes, uint16, or float32 in [0, 1], and remarks on what was lost."""
    image, remarks = open_image(file)
    mode = image.mode
    # Pillow reads a .pgm of 16 bits as mode I, scaled to 0 … 65535.
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        return np.asarray(image).astype(np.uint16)[None], remarks
    if mode == "F":
        values = np.asarray(image)
        if not ((values >= 0) & (values <= 1)).all():
            raise DatasetError(
                f"{file}: an image of floats must lie in [0, 1], got {values.min():g} to {values.max():g}; divide them, or "
                "save their array as .npy"
            )
        return values[None], remarks
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "CMYK"):
        raise DatasetError(
            f"{file}: an image must have grey values or colours of 8 bits, grey values of 16 bits or floats in [0, 1], got "
            f"Pillow's mode {mode}, which has no agreed range; save the array as .npy"
        )
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
