"""Labelled points: arrays with a list of labels, a table with a column of them, or annotated data (AnnData)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rieszflow._infra.extras import extra
from rieszflow._infra.messages import one_line
from rieszflow._types import PointSource
from rieszflow.data.paths import quoted
from rieszflow.data.points import imported, is_array, is_frame
from rieszflow.data.streams import Stream, open_source, open_table, stream
from rieszflow.errors import DatasetError, InputError, InputTypeError

if TYPE_CHECKING:
    from rieszflow.data.tables import Table

_DEFLATED = 1100  # DEFLATE packs at most 1032 bytes into one
_FREE = 1 << 20  # bytes that a data set may claim without storing them: HDF5 omits chunks of fill values


def load_labelled(
    x: PointSource, groups: object, obsm: str | None = None, layer: str | None = None
) -> tuple[Stream | Table, np.ndarray]:
    """Return points or a table without its labels, and the label of each row as a string in an object array (n,).

    x is anything that `stream` accepts except iterators, an AnnData object, or the path of an .h5ad file; `groups` are labels,
    or the name of the column of a table, or of `obs`, that holds them. `obsm` or `layer` is the key of the points in an AnnData
    object; None for its matrix X. In a CSV file a label is the unparsed text of its cell. All labels must have one type.
    """
    if isinstance(x, (str, os.PathLike)) and os.fspath(x).endswith(".h5ad"):
        x = _read_h5ad(Path(x))
    points: Stream | Table
    if hasattr(x, "obs") and hasattr(x, "obsm"):
        if isinstance(groups, str):
            if groups not in x.obs:
                raise InputError(f"`groups` must be a column of obs ({quoted(list(x.obs), 20)}), got {groups!r}")
            groups = x.obs[groups]
        points, labels = _annotated_points(x, obsm, layer), _to_list(groups)
    elif obsm is not None or layer is not None:
        name, key = ("layer", layer) if obsm is None else ("obsm", obsm)
        raise InputError(f"`{name}` must be None unless x is annotated data, got {key!r} with {type(x).__name__}")
    elif isinstance(groups, str):
        if (table := open_table(x)) is None:
            accepted = "a list with a label for every point, since x is not a table"
            raise InputError(f"`groups` must be {accepted}, got the name {groups!r}")
        points, labels = table.drop([groups]), table.labels(groups)
    else:
        points, labels = open_source(x), _to_list(groups)
    if len(labels) != points.count():
        raise InputError(f"`groups` must have one label for each of {points.count()} points, got {len(labels)} labels")
    # If the pandas index of the labels is that of the points in another order, pandas would match them by it.
    index: Any = getattr(x, "obs_names", getattr(x, "index", None))
    own: Any = getattr(groups, "index", None)
    both = hasattr(index, "equals") and hasattr(own, "equals")
    if both and not index.equals(own) and index.is_unique and set(index) == set(own):
        advice = "groups.reindex(...) sorts them, groups.to_numpy() takes them as they are"
        raise InputError(f"`groups` must be in the order of the points, got their index in another order; {advice}")
    return points, _to_strings(labels)


def _to_strings(labels: list[object]) -> np.ndarray:
    """Return labels as strings (n,); different labels must give different strings, so all must have one type."""
    for label in labels:
        if isinstance(label, (list, tuple, dict, set, np.ndarray)):
            got = type(label).__name__
            raise InputTypeError(f"`groups` must have one label for every point, of shape (n,), got a {got} as a label")
    blank = [label is None or type(label).__name__ == "NAType" or label != label or not str(label).strip() for label in labels]
    if missing := np.flatnonzero(blank).tolist():
        found = f"{len(missing)} of {len(labels)} missing (the first is that of point {missing[0]})"
        advice = "drop these points, for a file by a query such as \"FROM 'file.csv' WHERE label IS NOT NULL\""
        raise InputError(f"`groups` must have a label for every point, got {found}; {advice}")
    types = sorted({type(label).__name__ for label in labels})
    if len(types) > 1:
        raise InputTypeError(f"`groups` must have labels of one type, got {' and '.join(types)}; convert them to strings first")
    return np.array([str(label + 0.0 if isinstance(label, float) else label) for label in labels], object)  # −0 is 0


def _to_list(groups: Any) -> list[object]:
    frame = is_frame(groups) and (hasattr(groups, "columns") or hasattr(groups, "schema"))
    series = hasattr(groups, "__arrow_c_stream__") and not hasattr(groups, "iloc")  # of polars, not of pandas
    if frame or series or hasattr(groups, "to_pylist"):
        return _only_column(groups)
    if is_array(groups) and not hasattr(groups, "tolist"):
        groups = imported(groups, "groups")
    if isinstance(groups, np.ndarray) and groups.dtype.kind in "mM":
        groups = list(groups.ravel())  # `tolist` would return plain integers
    if convert := next((name for name in ("tolist", "to_list") if hasattr(groups, name)), None):
        groups = getattr(groups, convert)()
    if hasattr(groups, "to_numpy"):
        return _to_list(groups.to_numpy())
    if not isinstance(groups, Sequence) or isinstance(groups, (str, bytes)):
        raise InputTypeError(f"`groups` must be a label for every point, or a column's name, got {type(groups).__name__}")
    return [_to_python(label) for label in groups]


def _to_python(label: Any) -> object:
    """Convert a scalar of NumPy, PyTorch or Arrow to a Python object."""
    if isinstance(label, (np.datetime64, np.timedelta64)):
        return None if np.isnat(label) else str(label)
    convert = next((name for name in ("item", "as_py") if hasattr(label, name) and getattr(label, "ndim", 0) == 0), None)
    return getattr(label, convert)() if convert else label


def _only_column(groups: Any) -> list[object]:
    """Return the cells of a frame with one column, or of a column of Arrow or polars."""
    with extra("tables", "groups"):
        import pyarrow as pa

        from rieszflow.data.tables import Table
    if not (hasattr(groups, "columns") or hasattr(groups, "schema")):
        chunks = groups if hasattr(groups, "__arrow_c_stream__") else [groups]
        table = Table(pa.table({"groups": pa.chunked_array(chunks)}), categories=["groups"])
    else:
        table = Table(groups)
    names = table.parts[0].names
    if len(names) != 1 or table.parts[0].extensions:
        raise InputTypeError(f"`groups` must be one column of labels, got {table.name} with {quoted(names)}")
    return table.labels(names[0])


def _annotated_points(cells: Any, obsm: str | None, layer: str | None) -> Stream:
    """Return the points of an AnnData object, which may be a view or lie in an open file."""
    if obsm is not None and layer is not None:
        raise InputError(f"`layer` must be None with obsm={obsm!r}, got {layer!r}")
    what, matrix = "X", getattr(cells, "X", None)
    for name, attribute, key in (("obsm", "obsm", obsm), ("layer", "layers", layer)):
        if key is None:
            continue
        matrices = getattr(cells, attribute)
        if key not in list(matrices):
            raise InputError(f"`{name}` must be a key of the data ({quoted(list(matrices), 20) or 'none'}), got {key!r}")
        what, matrix = f"{attribute}[{key!r}]", matrices[key]
    if matrix is None:
        raise InputError("`x` must hold points, got annotated data without X; choose points with obsm or layer")
    if isinstance(matrix, np.ndarray):
        matrix = np.asarray(matrix)  # which may be a view
    elif hasattr(matrix, "reset_index"):
        matrix = matrix.reset_index(drop=True)  # its index names the cells
    elif hasattr(matrix, "id"):
        matrix = matrix[()]  # a data set of an open .h5ad file
    elif hasattr(matrix, "toarray") or hasattr(matrix, "to_memory"):
        how = "choose dense ones, such as obsm='X_pca', or convert it with .toarray(), for an open file after .to_memory()"
        raise InputTypeError(f"`x` must have dense points, got a sparse {what}; {how}")
    points = stream(matrix)
    points.common_unit = True
    return points


def _read_h5ad(file: Path) -> object:
    """Read annotated data; refuse a file with parts in other files, or that claims too much memory."""
    with extra("cells", str(file)):
        import anndata
        import h5py
    if not file.is_file():
        raise DatasetError(f"{file}: no such file")

    def check(name: str, link: object) -> str | None:
        found, problem = content[name] if isinstance(link, h5py.HardLink) else None, ""
        if isinstance(link, h5py.ExternalLink):
            problem = "a link to another file"
        elif isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
            problem = "a data set whose values lie in another file"
        elif isinstance(found, h5py.Dataset) and found.shape is not None:
            stored = found.id.get_storage_size()
            problem = f"{found.nbytes} bytes of values, stored in {stored}" * (found.nbytes > _FREE + _DEFLATED * stored)
        return (problem and f"{file}: '/{name}' must be stored in the file itself, got {problem}") or None

    try:
        with h5py.File(file, "r") as content:
            if problem := content.visititems_links(check):
                raise DatasetError(problem)
        cells: object = anndata.read_h5ad(file)
    except DatasetError:
        raise
    except Exception as error:  # h5py and anndata raise many kinds
        raise DatasetError(f"{file}: not an .h5ad file, or damaged ({type(error).__name__}: {one_line(error)})") from None
    return cells
