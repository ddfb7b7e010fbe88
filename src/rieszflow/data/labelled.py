"""Points that carry labels: arrays beside a list of labels, a table with a column of them, annotated data (AnnData)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rieszflow._extras import extra
from rieszflow.data.arrow import arrow
from rieszflow.data.columns import known
from rieszflow.data.options import Reading
from rieszflow.data.paths import is_table
from rieszflow.data.streams import Stream, stream
from rieszflow.data.tables import is_frame, parts_of
from rieszflow.errors import DatasetError, InputError, InputTypeError

__all__ = ["labelled"]


def labelled(x: Any, groups: Any, obsm: str | None = None) -> tuple[Stream, np.ndarray]:
    """Points, and the label of each, a text.

    Args:
        x: all that `stream` takes, but iterators; an AnnData object; the path of an .h5ad file.
        groups: the labels, one for every point; or the name of the column of a table, or of `obs`, that holds them.
        obsm: of an AnnData object, the key of the points in `obsm`; None for its matrix X.

    Raises:
        InputError, InputTypeError, DatasetError: what `stream` refuses; no such column or key; another number of labels than of
            points; a label that is missing.
        MissingPackageError: an .h5ad file without anndata, a table without pyarrow.
    """
    if isinstance(x, (str, os.PathLike)) and os.fspath(x).endswith(".h5ad"):
        x = _read_h5ad(Path(x))
    if hasattr(x, "obs") and hasattr(x, "obsm"):
        points, labels = _of_cells(x, groups, obsm)
    else:
        if obsm is not None:
            raise InputError(f"obsm: {obsm!r} given with {type(x).__name__}; it is for AnnData objects and .h5ad files")
        if isinstance(groups, str):
            points, labels = _of_table(x, groups)
        else:
            points, labels = stream(x), _listed(groups)
    if len(labels) != points.count():
        raise InputError(f"groups: {len(labels)} labels given for {points.count()} points; one for each is accepted")
    missing = [k for k, label in enumerate(labels) if label is None or label != label]  # NaN, NaT and NA are not themselves
    if missing:
        raise InputError(
            f"groups: the label of point {missing[0]} is missing, and {len(missing) - 1} more; leave such points out"
        )
    return points, np.array([str(label) for label in labels])


def _listed(groups: Any) -> list[Any]:
    if hasattr(groups, "tolist"):
        groups = groups.tolist()
    elif hasattr(groups, "to_list"):
        groups = groups.to_list()
    if not isinstance(groups, Sequence) or any(isinstance(g, (list, tuple, dict)) for g in groups):
        raise InputTypeError(f"groups: {type(groups).__name__} given; a label for every point is accepted, or a column's name")
    return list(groups)


def _of_table(x: Any, column: str) -> tuple[Stream, list[Any]]:
    table = is_frame(x) or (isinstance(x, (str, os.PathLike)) and (Path(x).is_dir() or is_table(Path(x))))
    if not table:
        raise InputError(
            f"groups: {column!r} given, a column's name, and x is no table; a list with a label for every point is accepted"
        )
    name = str(x) if isinstance(x, (str, os.PathLike)) else type(x).__name__
    parts = parts_of(x, Reading(), arrow(name))
    known(name, list(parts[0].types), [column])
    labels = [v for part in parts for batch in part.batches([column]) for v in batch.column(0).to_pylist()]
    return stream(x, exclude=[column]), labels


def _of_cells(cells: Any, column: Any, key: str | None) -> tuple[Stream, list[Any]]:
    """Of an AnnData object, or of anything with its attributes."""
    labels = column
    if isinstance(column, str):
        if column not in cells.obs:
            raise InputError(f"groups: no column {column!r} in obs, which has {', '.join(map(repr, list(cells.obs)[:20]))}")
        labels = cells.obs[column]
    if key is not None and key not in cells.obsm:
        raise InputError(f"obsm: no key {key!r}; there are {', '.join(map(repr, list(cells.obsm)[:20])) or 'none'}")
    matrix = cells.X if key is None else cells.obsm[key]
    if hasattr(matrix, "toarray"):
        raise InputTypeError("x: X is sparse; name dense points by obsm, 'X_pca' say, or make X dense (.toarray())")
    points = stream(matrix if is_frame(matrix) else np.asarray(matrix))
    points.common_unit = True
    return points, _listed(labels)


def _read_h5ad(file: Path) -> Any:
    with extra("cells", str(file)):
        import anndata
    if not file.is_file():
        raise DatasetError(f"{file}: no such file")
    try:
        return anndata.read_h5ad(file)
    except Exception as error:  # h5py's and anndata's, of many kinds
        raise DatasetError(f"{file}: not an .h5ad file, or damaged ({type(error).__name__}: {error})") from None
