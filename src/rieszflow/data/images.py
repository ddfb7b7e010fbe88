"""Files and folders of pictures. One rule: a picture is scaled by its type, never by its values.

- 1 to 8 bits a value: divided by 255 after Pillow has spread them over 0 … 255. 16 bits of grey: divided by 65535.
- Floats (.tif, .pfm) have to lie in [0, 1]. Whole numbers of 32 bits and 12 bits, LAB and HSV are refused.
- Colours of 16 bits, which Pillow narrows to 8, transparency, which is left out, CMYK and all frames but the first are said.
- All pictures of a folder have one size, one depth, and are all grey or all in colour. EXIF says which side is up.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from rieszflow._infra.extras import extra
from rieszflow._infra.notices import notice
from rieszflow.data.dataset import Parts
from rieszflow.data.paths import all_files, answers, is_table, some
from rieszflow.errors import DatasetError

__all__ = ["PICTURES", "as_chw", "has_pictures", "image_folder", "open_image", "picture"]

PICTURES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif", ".heic",
    ".heif", ".pgm", ".ppm", ".pbm", ".pnm", ".pfm", ".tga",
)  # fmt: skip
# Beside pictures: descriptions, labels, licences. Whatever else is left out of a folder is named.
_BESIDE = (
    ".txt", ".md", ".rst", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".cfg", ".html", ".htm", ".css", ".js", ".pdf",
    ".log", ".py", ".ipynb", ".sh", ".bib", ".names", ".md5", ".sha256",
)  # fmt: skip
_PARTS_OF_SETS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev")


def has_pictures(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds pictures to be read: some, and more than Parquet files other than a `metadata.parquet`."""
    if not os.path.isdir(folder):
        return False
    pictures = tables = 0
    for file in all_files(Path(folder))[0]:
        suffix = file.suffix.lower()
        pictures += suffix in PICTURES
        tables += suffix in (".parquet", ".pq") and file.stem.lower() != "metadata"
    return pictures > tables


def image_folder(folder: Path) -> Parts:
    """All pictures below the folder; pictures in subfolders are labelled by them."""
    with extra("cli", "pictures"):
        from PIL import Image

    everything, again = all_files(folder)
    # .heic is read where a plugin for it is registered with Pillow.
    suffixes = set(PICTURES) & set(Image.registered_extensions())
    files = [f for f in everything if f.suffix.lower() in suffixes and answers(f.is_file)]
    rest = set(everything).difference(files)
    left_out = sorted(str(f.relative_to(folder)) for f in rest if not _beside(f))
    if not files:
        there = f"; it holds {some(left_out)}" if left_out else ""
        raise DatasetError(f"{folder}: no images ({', '.join(sorted(suffixes))}) and no IDX files in it{there}")
    if again:
        notice(f"{folder}: {some([str(f) for f in again])}: links to folders that are read already, not followed")
    if left_out:
        notice(f"{folder}: left out, as no pictures that can be read: {some(left_out)} ({len(left_out)} in all)")
    images: list[np.ndarray] = []
    remarks: dict[str, list[str]] = {}
    for file in files:
        image, said = picture(file)
        images.append(image)
        for remark in said:
            remarks.setdefault(remark, []).append(str(file.relative_to(folder)))
        if image.dtype != images[0].dtype:
            raise DatasetError(
                f"{file}: {image.dtype} a value, but {files[0].name} has {images[0].dtype}; all images must have one depth"
            )
        if image.shape != images[0].shape:
            raise DatasetError(
                f"{file}: shape {image.shape} (C, H, W), but {files[0].name} has {images[0].shape}; "
                "all images must have one size and mode"
            )
    for remark, names in remarks.items():
        notice(f"{folder}: {len(names)} of {len(files)} pictures have {remark}: {some(names)}")
    return Parts(np.stack(images), _class_labels(folder, files))


def _beside(file: Path) -> bool:
    """Whether a file is known to belong to pictures without being one: a description, or labels."""
    suffix = file.suffix.lower()
    return (
        suffix in _BESIDE
        or file.name.upper() in ("README", "LICENSE", "LICENCE", "COPYING", "NOTICE")
        or (is_table(file) and file.stem.lower() == "metadata")
    )


def _class_labels(folder: Path, files: list[Path]) -> np.ndarray | None:
    """Numbers of the subfolders, or None where there is one."""
    places = [f.parent.relative_to(folder).parts for f in files]
    parts = {place[0] for place in places if place and place[0].lower() in _PARTS_OF_SETS}
    if len(parts) > 1:
        notice(
            f"{folder}: {', '.join(sorted(parts))} are read as one data set; give one of these folders to leave the others out"
        )
        places = [place[1:] if place and place[0] in parts else place for place in places]
    classes = sorted(set(places))
    return np.array([classes.index(place) for place in places]) if len(classes) > 1 else None


def open_image(file: Path) -> tuple[Any, list[str]]:
    """A picture with its pixels read and turned upright, and what is to be said of it; the file is closed."""
    with extra("cli", "pictures"):
        from PIL import Image, ImageFile, ImageOps

    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False  # others set it, and get grey halves
    try:
        with Image.open(file) as image:
            said = ["several frames, of which the first is read"] if getattr(image, "is_animated", False) else []
            raw, tags = image.tile[0][3] if image.tile else "", getattr(image, "tag_v2", {})
            ppm = image.format == "PPM" and isinstance(raw, tuple) and raw[-1] > 255
            raw, bits = str(raw[0] if isinstance(raw, tuple) else raw), np.max(tags.get(258, 8))
            odd = image.mode.startswith("I;16") and (tags.get(262) == 0 or raw == "I;12")
            ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # a damaged picture can raise anything
        raise DatasetError(f"{file}: not a readable image ({error})") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    if odd:
        raise DatasetError(f"{file}: 12 bits, or white as 0, which Pillow does not scale; save it with 16 bits and black as 0")
    if (";16" in raw or bits > 8 or ppm) and image.mode in ("RGB", "RGBA", "CMYK"):
        said.append("colours of 16 bits, which are read with 8")
    return image, said


def picture(file: Path) -> tuple[np.ndarray, list[str]]:
    """(C, H, W): bytes, uint16, or float32 in [0, 1], and what is to be said of it."""
    image, said = open_image(file)
    mode = image.mode
    # Pillow has no type of its own for the 16 bits of a .pgm, and spreads them over 0 … 65535.
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        return np.asarray(image).astype(np.uint16)[None], said
    if mode == "F":
        values = np.asarray(image)
        if not ((values >= 0) & (values <= 1)).all():
            raise DatasetError(
                f"{file}: a picture of floats from {values.min():g} to {values.max():g}; such in [0, 1] are accepted: "
                "divide them, or give their array as .npy"
            )
        return values[None], said
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "CMYK"):
        raise DatasetError(
            f"{file}: a picture of Pillow's mode {mode}, whose values have no agreed range; grey or colours of 8 bits, grey "
            "of 16 bits and floats in [0, 1] are accepted, arrays of other numbers as .npy"
        )
    if mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema()[0] < 255:
            said.append("transparency, which is left out")
        image = rgba if mode in ("P", "PA") else image
    if mode == "CMYK":
        said.append("CMYK colours, which are turned to RGB without their profile")
    return as_chw(np.asarray(image.convert("L" if mode in ("1", "L", "LA") else "RGB"))), said


def as_chw(image: np.ndarray) -> np.ndarray:
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
