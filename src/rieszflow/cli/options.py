"""Options that several commands share, and checks of options that run before anything is loaded or computed."""

from __future__ import annotations

import csv
import functools
import inspect
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from typer import Argument, Option

from rieszflow._types import ScaleName
from rieszflow.cli.commands import invocation
from rieszflow.errors import InputError

Keywords: TypeAlias = dict[str, Any]  # arguments of a function with options of many types

DATA_FORMATS = "hf:NAME, a folder of images or IDX files, a .npy or .npz file, a .csv or .parquet table"

RunPath = Annotated[Path, Argument(metavar="RUN", help="Folder of a run.")]
DataPath = Annotated[Path | None, Option("--data", help="Folder or file of the data, if they were moved.")]
Force = Annotated[bool, Option("--force", help="Overwrite existing files.")]
Seed = Annotated[int, Option(min=0, help="Seed of all random numbers.")]
Json = Annotated[bool, Option("--json", help="Print one line of JSON instead of tables.")]
Scale = Annotated[
    ScaleName, Option(help="Whether columns are divided by their interquartile ranges; auto: if they have names.")
]


def scale_line(scale: str) -> str:
    """Return a line that says how columns were scaled."""
    if scale == "columns":
        return "scale: every number is divided by its interquartile range (--scale none for raw units)"
    return "scale: raw units (--scale columns divides every column by its interquartile range)"


def _reading(
    columns: Annotated[str | None, Option(help="Columns to read, separated by commas; by default all.")] = None,
    exclude: Annotated[str | None, Option(help="Columns to leave out, separated by commas.")] = None,
    header: Annotated[Literal["auto", "yes", "no"], Option(help="Whether CSV files begin with column names.")] = "auto",
    delimiter: Annotated[str | None, Option(help="Cell separator of CSV files.", show_default="guessed")] = None,
    decimal: Annotated[str, Option(help="Decimal sign in text.")] = ".",
    thousands: Annotated[str | None, Option(help="Thousands separator in text.")] = None,
    missing: Annotated[list[str] | None, Option(help="Text of a missing value, next to empty cells, NA, … Repeatable.")] = None,
    categories: Annotated[str | None, Option(help="Columns to read as text even if they hold numbers, such as codes.")] = None,
    encoding: Annotated[str, Option(help="Encoding of CSV files.")] = "utf-8",
) -> None:
    """Declare the options for reading tables, which are arguments of `rieszflow.Table`."""


def with_reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `reading` of a command by the options that tables are read with."""
    own, shared = (inspect.signature(f, eval_str=True).parameters for f in (command, _reading))

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        found = {name: values.pop(name) for name in shared}
        given = {name: value for name, value in found.items() if value not in (shared[name].default, [])}
        given |= {name: next(csv.reader([given[name]])) for name in ("columns", "exclude", "categories") if name in given}
        command(**values, reading=given | ({"header": given["header"] == "yes"} if "header" in given else {}))

    parameters = [*(parameter for name, parameter in own.items() if name != "reading"), *shared.values()]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def check_new_file(out: Path, *suffixes: str, force: bool, figure: bool = False) -> None:
    """Check that a file, and with `figure` a .png of the same name, can be written; existing files need --force."""
    if out.suffix not in suffixes:
        raise InputError(f"--out must end in {' or '.join(suffixes)}, got {out}")
    for file in [out, out.with_suffix(".png")] if figure else [out]:
        if file.is_dir():
            raise InputError(f"--out must be a file, got the folder {file}")
        if os.path.lexists(file) and not force:
            raise InputError(f"--out: {file} exists; choose another name, or overwrite it with --force")
    if not out.parent.is_dir():
        raise InputError(f"--out must be in an existing folder, got {out}; create {out.parent} first")
    check_writable("--out", out.parent)


def check_new_run(out: Path) -> None:
    """Refuse a run folder that exists or cannot be written; under torchrun only rank 0 checks."""
    if invocation().rank:
        return
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out must be a new or an empty folder, got {out}; choose another, or resume the run in it")
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"--out must be a folder, got {out}, but {existing} is a file; choose another")
    check_writable("--out", existing)


def check_writable(option: str, folder: Path) -> None:
    """Check that files can be written in an existing folder."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))  # a full disk accepts an empty file
    except OSError as error:
        raise InputError(f"{option}: cannot write in {folder} ({error.strerror})") from None


def given_values(text: str | None) -> dict[str, object] | None:
    """Return the values of --given by the names of their columns."""
    if text is None:
        return None
    pairs = [cell.partition("=") for cell in next(csv.reader([text]))]
    if odd := next((name for name, sign, _ in pairs if not sign), None):
        raise InputError(f"--given must be NAME=VALUE, separated by commas, got {odd!r}")
    if len({name for name, _, _ in pairs}) < len(pairs):
        raise InputError(f"--given must name a column once, got {text!r}")
    return {name.strip(): value.strip() for name, _, value in pairs}


def parse_settings(items: list[str]) -> Keywords:
    """Return the settings of --set by their names."""
    from rieszflow.generative.schema import parse_yaml

    values = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign:
            raise InputError(f"--set must be KEY=VALUE, got {item!r}")
        try:
            values[key] = parse_yaml(value)
        except ValueError:
            raise InputError(f"--set: the value of {key} must be valid YAML, got {value!r}") from None
    return values
