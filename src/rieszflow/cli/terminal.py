"""What is printed, and where: the console, tables, and lines on stderr. Only the first of several processes speaks."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata

from rich.console import Console
from rich.table import Table

from rieszflow._infra.text import on_one_line

__all__ = ["RANK", "begin", "console", "print_table", "rank", "say", "show"]


RANK = 0
if not os.environ.get("COLUMNS", "").strip("0"):  # Rich would print nothing in 0 columns
    os.environ.pop("COLUMNS", None)
console = Console(markup=False, emoji=False)  # names of files and columns may look like markup


def rank(command: str) -> int:
    """Return the rank of this process under torchrun, for a command that runs in several processes; otherwise 0.

    RANK and WORLD_SIZE count only if both are set and consistent: another program may have set one of them.
    """
    number, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    agree = number.isdecimal() and size.isdecimal() and int(number) < int(size)
    return int(number) if agree and command in ("train", "resume") else 0


def begin(command: str) -> None:
    """Silence all but the first of several processes."""
    global RANK
    RANK = rank(command)
    console.quiet = RANK != 0


_SPELT = {"→": "->", "×": "x", "–": "-", "—": "-", "−": "-", "≥": ">=", "≤": "<=", "“": '"', "”": '"', "‘": "'", "’": "'"}


def spell(error: UnicodeError) -> tuple[str, int]:
    """For terminals that are ASCII or the like: D2 for D², "..." for "…", and "?" rather than no result."""
    assert isinstance(error, UnicodeEncodeError)
    spelt = ""
    for sign in error.object[error.start : error.end]:
        plain = _SPELT.get(sign) or unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
        spelt += plain or "?"
    return spelt, error.end


codecs.register_error("rieszflow", spell)


def say(kind: str, message: str) -> None:
    if sys.stderr is not None:  # closed by the caller; `print` would take stdout instead
        print(f"{kind}: {on_one_line(message)}", file=sys.stderr)


def show(text: str) -> None:
    """A line on stdout, however long: lines are for people and for programs that read them."""
    console.print(text, soft_wrap=True)


def print_table(headings: list[str], rows: list[list[str]]) -> None:
    """A table where it fits in the terminal, else a line for every cell."""
    table = Table(*headings)
    for row in rows:
        table.add_row(*row)
    if console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width:
        console.print(table)
        return
    for row in rows:
        show(f"{headings[0]} {row[0]}")
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            show(f"  {heading}: {cell}")
