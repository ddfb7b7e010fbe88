"""Options of the commands that read tables: `rieszflow.stream` and docs/data.md say what each means."""

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
    typer.Option(help="Columns of tables to read, separated by commas; default: all of numbers.", show_default=False),
]
Exclude = Annotated[str | None, typer.Option(help="Columns not to read, separated by commas.", show_default=False)]
Header = Annotated[str, typer.Option(help="Whether CSV files have names in their first row: auto, yes or no.")]
Delimiter = Annotated[str | None, typer.Option(help="Between the cells of CSV files; default: a comma.", show_default=False)]
Decimal = Annotated[str, typer.Option(help="Decimal sign in text.")]
Thousands = Annotated[str | None, typer.Option(help="Separator of thousands in text.", show_default=False)]
Missing = Annotated[
    list[str] | None,
    typer.Option(
        help="Text of a missing value; rows with one are left out. Repeatable; '' for empty cells.", show_default=False
    ),
]
Dates = Annotated[bool, typer.Option("--dates", help="Read dates and times as seconds.")]
Scale = Annotated[
    ScaleName,
    typer.Option(
        help="columns: every column is divided by its spread; none: raw units; auto: columns for tables with names.",
    ),
]
Encoding = Annotated[str, typer.Option(help="Of CSV files.")]


def scale_line(scale: str) -> str:
    """Return a sentence that says how columns were scaled."""
    if scale == "columns":
        return "scale: every column is divided by its interquartile range (--scale none for raw units)"
    return "scale: raw units (--scale columns divides every column by its interquartile range)"


def table_options(header: str, columns: str | None, exclude: str | None, **plain: Any) -> dict[str, Any]:
    """Return the options of tables as `rieszflow.stream` takes them."""
    if header not in ("auto", "yes", "no"):
        raise InputError(f"--header: {header} given; auto, yes and no are accepted")
    named = {name: next(csv.reader([text])) for name, text in (("columns", columns), ("exclude", exclude)) if text is not None}
    return {**named, **plain, "header": {"yes": True, "no": False}.get(header, "auto"), "missing": plain["missing"] or None}
