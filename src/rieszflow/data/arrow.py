"""pyarrow, which is an extra, and what its types mean for us."""

from __future__ import annotations

from typing import Any

from rieszflow._infra.extras import extra
from rieszflow.data.options import Reading

__all__ = ["arrow", "extensions", "index_columns", "is_list", "is_single", "label_values", "seconds", "storage", "why_not"]


def arrow(name: str) -> Any:
    """pyarrow, which is an extra."""
    with extra("tables", name):
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    return pyarrow


def why_not(kind: Any, reading: Reading, pa: Any) -> str | None:
    """Why a column of this type is not read; None if it is."""
    t = pa.types
    kind = storage(kind, pa)
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return why_not(kind.value_type, reading, pa)
    if t.is_integer(kind) or t.is_floating(kind) or t.is_boolean(kind) or t.is_decimal(kind):
        return None
    if t.is_temporal(kind) and not t.is_interval(kind):
        return None if reading.dates else "dates or times; dates=True reads them as seconds"
    if is_list(kind, pa):
        inner = why_not(kind.value_type, reading, pa)
        return None if inner is None else f"lists of {inner}"
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return "text"
    if t.is_null(kind):
        return "empty: no value in it"
    if t.is_struct(kind) or t.is_map(kind) or t.is_union(kind):
        return "nested: " + str(kind)[:60]
    return str(kind)[:60]


def extensions(schema: Any, pa: Any) -> dict[str, str]:
    """Return the columns of extension types whose numbers mean something else, such as pandas periods, with their types.

    Embeddings and pictures are lists and read as lists. An unregistered type is found in the metadata of its field.
    """
    found = {}
    for field in schema:
        name = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode(errors="replace")
        if isinstance(field.type, pa.BaseExtensionType):
            name = getattr(field.type, "extension_name", str(field.type))
        if name and name != "arrow.bool8" and not is_list(storage(field.type, pa), pa):
            found[field.name] = name
    return found


def index_columns(schema: Any) -> set[str]:
    """Return the columns that hold the index of the pandas frame that a table was made from."""
    try:
        return {name for name in (schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(name, str)}
    except (ValueError, AttributeError, TypeError):  # foreign metadata under this name
        return set()


def storage(kind: Any, pa: Any) -> Any:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def is_list(kind: Any, pa: Any) -> bool:
    t = pa.types
    return any(test(kind) for test in (t.is_list, t.is_large_list, t.is_fixed_size_list, t.is_list_view, t.is_large_list_view))


def is_single(kind: Any, pa: Any) -> bool:
    """Whether float32 holds every value of the type."""
    t = pa.types
    kind = storage(kind, pa)
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind) or is_list(kind, pa):
        return is_single(kind.value_type, pa)
    small = t.is_integer(kind) and kind.bit_width <= 16
    return bool(small or t.is_boolean(kind) or t.is_float16(kind) or t.is_float32(kind))


def seconds(column: Any, pa: Any) -> Any:
    """Dates, times and durations as seconds, dates since 1970."""
    kind = column.type
    units = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
    if pa.types.is_date32(kind):
        values, per = column.cast(pa.int32()).cast(pa.float64()), 1 / 86400
    elif pa.types.is_date64(kind):
        values, per = column.cast(pa.int64()).cast(pa.float64()), 1e3
    else:
        wide = pa.int32() if pa.types.is_time32(kind) else pa.int64()
        # Whole seconds and the rest apart: nanoseconds since 1970 are beyond what float64 counts one by one.
        whole = column.cast(wide).cast(pa.int64())
        per = units[kind.unit]
        seconds = pa.compute.divide(whole, per)
        rest = pa.compute.subtract(whole, pa.compute.multiply(seconds, per))
        return pa.compute.add(seconds.cast(pa.float64()), pa.compute.divide(rest.cast(pa.float64()), float(per)))
    return pa.compute.divide(values, float(per))


def label_values(column: Any, pa: Any) -> list[Any]:
    """Return the values of a column as Python's own objects; times with nanoseconds as texts, which lose nothing."""
    values: list[Any] = (column.cast(pa.string()) if column.type == pa.time64("ns") else column).to_pylist()
    return values
