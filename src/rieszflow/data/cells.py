"""Points and labels of annotated data (AnnData), in memory or in an .h5ad file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rieszflow._infra.extras import extra
from rieszflow._infra.text import one_line
from rieszflow.data.streams import Stream, stream
from rieszflow.data.tables import is_frame
from rieszflow.errors import DatasetError, InputError, InputTypeError

__all__ = ["is_cells", "points_of_cells", "read_h5ad"]

_DEFLATED = 1100  # DEFLATE packs at most 1032 bytes into one
_FREE = 1 << 20  # bytes that a data set may claim without storing them: HDF5 omits chunks of fill values


def is_cells(x: Any) -> bool:
    """Return True for an AnnData object, or an object with its attributes."""
    return hasattr(x, "obs") and hasattr(x, "obsm")


def points_of_cells(cells: Any, groups: Any, obsm: str | None, layer: str | None) -> tuple[Stream, Any]:
    """Return the points of an AnnData object and their labels: `groups`, or the column of `obs` with that name.

    Raises:
        InputError, InputTypeError: a missing column or key, no points, or a sparse matrix.
    """
    if isinstance(groups, str):
        if groups not in cells.obs:
            raise InputError(f"`groups` must be a column of obs ({', '.join(map(repr, list(cells.obs)[:20]))}), got {groups!r}")
        groups = cells.obs[groups]
    if obsm is not None and layer is not None:
        raise InputError(f"`layer` must be None with obsm={obsm!r}, got {layer!r}")
    for name, key in (("obsm", obsm), ("layer", layer)):
        there = list(getattr(cells, "layers" if name == "layer" else name)) if key is not None else []
        if key is not None and key not in there:
            raise InputError(f"`{name}` must be a key of the data ({', '.join(map(repr, there[:20])) or 'none'}), got {key!r}")
    if obsm is not None:
        what, matrix = f"obsm[{obsm!r}]", cells.obsm[obsm]
    elif layer is not None:
        what, matrix = f"layers[{layer!r}]", cells.layers[layer]
    else:
        what, matrix = "X", getattr(cells, "X", None)
    points = _points(what, matrix)
    points.common_unit = True
    return points, groups


def _points(what: str, matrix: Any) -> Stream:
    if matrix is None:
        raise InputError("`x` must hold points, got annotated data without X; choose points with obsm or layer")
    if is_frame(matrix):
        # The index of this frame names the cells.
        return stream(matrix.reset_index(drop=True) if hasattr(matrix, "reset_index") else matrix)
    if not isinstance(matrix, np.ndarray):
        if hasattr(matrix, "toarray") or hasattr(matrix, "to_memory"):
            raise InputTypeError(
                f"`x` must have dense points, got a sparse {what}; choose dense ones, such as obsm='X_pca', or convert it with "
                ".toarray() (after .to_memory(), if the file is still open)"
            )
        matrix = matrix[()] if hasattr(matrix, "id") else matrix  # a data set of an open .h5ad file
    elif type(matrix).__module__.startswith("anndata"):
        matrix = np.asarray(matrix)  # a view
    return stream(matrix)


def read_h5ad(file: Path) -> Any:
    """Read annotated data from this file only.

    Raises:
        DatasetError: the file is missing or damaged, or a part of it lies in another file or claims too much memory.
        MissingPackageError: anndata is not installed.
    """
    with extra("cells", str(file)):
        import anndata
        import h5py
    if not file.is_file():
        raise DatasetError(f"{file}: no such file")
    try:
        with h5py.File(file, "r") as content:
            for name, why in _foreign(content, h5py):
                raise DatasetError(f"{file}: {name!r} must be stored in the file itself, got {why}")
        return anndata.read_h5ad(file)
    except DatasetError:
        raise
    except Exception as error:  # h5py and anndata raise many kinds
        raise DatasetError(f"{file}: not an .h5ad file, or damaged ({type(error).__name__}: {one_line(error)})") from None


def _foreign(content: Any, h5py: Any) -> Iterator[tuple[str, str]]:
    """Yield the path of every part of an HDF5 file that lies elsewhere or claims far more bytes than are stored, and why."""
    places, seen = [content], set()
    while places:
        group = places.pop()
        for name in group:
            path, link = f"{group.name.rstrip('/')}/{name}", group.get(name, getlink=True)
            if isinstance(link, h5py.SoftLink):
                continue  # its target in this file is visited itself
            if not isinstance(link, h5py.HardLink):
                yield path, "a link to another file"
                continue
            found = group[name]
            if (address := h5py.h5o.get_info(found.id).addr) in seen:
                continue
            seen.add(address)
            if isinstance(found, h5py.Group):
                places.append(found)
            elif isinstance(found, h5py.Dataset):
                if found.external or found.is_virtual:
                    yield path, "a data set whose values lie in another file"
                elif found.shape is not None and found.nbytes > _FREE + _DEFLATED * found.id.get_storage_size():
                    yield path, f"{found.nbytes} bytes of values, stored in {found.id.get_storage_size()}"
