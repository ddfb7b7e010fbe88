"""Options of the commands that read tables, as documented in `rieszflow.stream` and docs/data.md."""

from __future__ import annotations

import csv
from typing import Annotated, Any

import typer

from rieszflow._types import ScaleName
from rieszflow.errors import InputError

__all__ = [
    "Columns",
    "Dates",
    "Decimal",
    "Delimiter",
    "Encoding",
    "Exclude",
    "Header",
    "Missing",
    "Scale",
    "Thousands",
    "scale_line",
    "table_options",
]

Columns = Annotated[
    str | None,
    typer.Option(help="Columns of tables to read, separated by commas; default: all numeric columns.", show_default=False),
]
Exclude = Annotated[str | None, typer.Option(help="Columns not to read, separated by commas.", show_default=False)]
Header = Annotated[str, typer.Option(help="If the first row of CSV files holds names: auto, yes or no.")]
Delimiter = Annotated[str | None, typer.Option(help="Cell separator of CSV files; default: a comma.", show_default=False)]
Decimal = Annotated[str, typer.Option(help="Decimal sign in text.")]
Thousands = Annotated[str | None, typer.Option(help="Thousands separator in text.", show_default=False)]
Missing = Annotated[
    list[str] | None,
    typer.Option(
        help="Text that marks a missing value; such rows are left out. Repeatable; '' for empty cells.", show_default=False
    ),
]
Dates = Annotated[bool, typer.Option("--dates", help="Read dates and times as seconds.")]
Scale = Annotated[
    ScaleName,
    typer.Option(
        help="columns: divide every column by its spread; none: raw units; auto: columns for tables with names.",
    ),
]
Encoding = Annotated[str, typer.Option(help="Encoding of CSV files.")]


def scale_line(scale: str) -> str:
    """Return a line that says how columns were scaled."""
    if scale == "columns":
        return "scale: every column is divided by its interquartile range (--scale none for raw units)"
    return "scale: raw units (--scale columns divides every column by its interquartile range)"


def table_options(header: str, columns: str | None, exclude: str | None, **plain: Any) -> dict[str, Any]:
    """Return the options of tables as `rieszflow.stream` takes them."""
    if header not in ("auto", "yes", "no"):
        raise InputError(f"--header must be auto, yes or no, got {header}")
    named = {name: next(csv.reader([text])) for name, text in (("columns", columns), ("exclude", exclude)) if text is not None}
    return {**named, **plain, "header": {"yes": True, "no": False}.get(header, "auto"), "missing": plain["missing"] or None}
