"""Points that carry labels: arrays beside a list of labels, a table with a column of them, annotated data (AnnData)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rieszflow.data.arrow import arrow, label_values
from rieszflow.data.cells import is_cells, points_of_cells, read_h5ad
from rieszflow.data.columns import named
from rieszflow.data.options import Reading
from rieszflow.data.parts import is_missing
from rieszflow.data.paths import is_table
from rieszflow.data.points import imported, is_array
from rieszflow.data.streams import Stream, stream
from rieszflow.data.tables import is_frame, parts_of
from rieszflow.errors import InputError, InputTypeError

__all__ = ["labelled"]


def labelled(x: Any, groups: Any, obsm: str | None = None, layer: str | None = None) -> tuple[Stream, np.ndarray]:
    """Return points and the label of each.

    In a CSV file a label is the unparsed text of its cell; elsewhere it is the object that was given, so that integers stay
    integers and strings stay strings. All labels must be of one type.

    Args:
        x: anything that `stream` takes except iterators; a `Stream`; an AnnData object; the path of an .h5ad file.
        groups: the labels, one for every point; or the name of the column of a table, or of `obs`, that holds them.
        obsm: of an AnnData object, the key of the points in `obsm`; None for its matrix X.
        layer: the key of the points in the `layers` of an AnnData object; None for its matrix X.

    Returns:
        The points, and the labels as strings, an object array (n,). Different labels give different strings.

    Raises:
        InputError, InputTypeError, DatasetError: what `stream` refuses; no such column or key; another number of labels than of
            points; missing labels, or labels of several types.
        MissingPackageError: an .h5ad file without anndata, a table without pyarrow.
    """
    if isinstance(x, (str, os.PathLike)) and os.fspath(x).endswith(".h5ad"):
        x = read_h5ad(Path(x))
    if is_cells(x):
        points, column = points_of_cells(x, groups, obsm, layer)
        labels = _listed(column)
    else:
        for name, key in (("obsm", obsm), ("layer", layer)):
            if key is not None:
                raise InputError(f"`{name}` must be None unless x is annotated data, got {key!r} with {type(x).__name__}")
        if isinstance(groups, str):
            points, labels = (stream(x, exclude=[groups]) if _is_table(x) else stream(x)).labelled(groups)
        else:
            points, labels = stream(x), _listed(groups)
    if len(labels) != points.count():
        raise InputError(f"groups: {len(labels)} labels given for {points.count()} points; one for each is accepted")
    _check_order(getattr(x, "obs_names", getattr(x, "index", None)), getattr(groups, "index", None))
    return points, _texts(labels)


def _check_order(index: Any, own: Any) -> None:
    """Refuse labels whose pandas index is that of the points in another order: pandas would match them by it."""
    both = hasattr(index, "equals") and hasattr(own, "equals")
    if both and not index.equals(own) and index.is_unique and set(index) == set(own):
        raise InputError(
            "`groups` must be in the order of the points, got their index in another order; groups.reindex(...) puts them into "
            "order, groups.to_numpy() takes them as they stand"
        )


def _texts(labels: list[Any]) -> np.ndarray:
    nested = next((type(label).__name__ for label in labels if isinstance(label, (list, tuple, dict, set, np.ndarray))), None)
    if nested is not None:
        raise InputTypeError(f"`groups` must have one label for every point, of shape (n,), got a {nested} as a label")
    missing = [k for k, label in enumerate(labels) if is_missing(label)]
    if missing:
        raise InputError(
            f"`groups` must have a label for every point, got {len(missing)} of {len(labels)} missing (the first is that of "
            f"point {missing[0]}); drop these points, for a table with missing=[] of `rieszflow.stream` (--missing '')"
        )
    types = sorted({type(label).__name__ for label in labels})
    if len(types) > 1:
        raise InputTypeError(f"`groups` must have labels of one type, got {' and '.join(types)}; convert them to strings first")
    return np.array([str(label + 0.0 if isinstance(label, float) else label) for label in labels], object)  # −0 is 0


def _listed(groups: Any) -> list[Any]:
    """Return labels as Python objects."""
    if is_frame(groups) and (hasattr(groups, "columns") or hasattr(groups, "schema")):
        return _only_column(groups)
    if is_array(groups) and not hasattr(groups, "tolist"):
        groups = imported(groups, "groups")
    if isinstance(groups, np.ndarray) and groups.dtype.kind in "mM":
        groups = [None if np.isnat(label) else str(label) for label in groups.ravel()]  # `tolist` would return plain integers
    if hasattr(groups, "to_pylist") and hasattr(groups, "type"):
        return label_values(groups, arrow("groups"))
    if hasattr(getattr(groups, "dtype", None), "is_temporal") and groups.dtype.is_temporal():  # a series of polars
        pa = arrow("groups")
        return label_values(pa.chunked_array(groups), pa)
    for convert in ("tolist", "to_list", "to_pylist"):
        if hasattr(groups, convert):
            groups = getattr(groups, convert)()
            break
    if hasattr(groups, "to_numpy"):
        return _listed(groups.to_numpy())
    if not isinstance(groups, Sequence) or isinstance(groups, (str, bytes)):
        raise InputTypeError(f"groups: {type(groups).__name__} given; a label for every point is accepted, or a column's name")
    return [_own(label) for label in groups]


def _own(label: Any) -> Any:
    """Convert a scalar of NumPy, PyTorch or Arrow to a Python object."""
    if isinstance(label, (np.datetime64, np.timedelta64)):
        return None if np.isnat(label) else str(label)
    for convert in ("item", "as_py"):
        if hasattr(label, convert) and getattr(label, "ndim", 0) == 0:
            return getattr(label, convert)()
    return label


def _only_column(frame: Any) -> list[Any]:
    pa = arrow(type(frame).__name__)
    (part,) = parts_of(frame, Reading(), pa)
    if len(part.types) != 1 or part.extensions:
        raise InputTypeError(f"`groups` must be one column of labels, got {part.name} with {named(list(part.types))}")
    return [value for batch in part.batches(list(part.types)) for value in label_values(batch.column(0), pa)]


def _is_table(x: Any) -> bool:
    return is_frame(x) or (isinstance(x, (str, os.PathLike)) and (Path(x).is_dir() or is_table(Path(x))))
