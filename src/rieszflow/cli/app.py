"""The application that the modules of commands add theirs to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rieszflow import __version__
from rieszflow.cli.terminal import console
from rieszflow.cli.way_out import Commands

__all__ = ["Force", "RunArgument", "app"]

app = typer.Typer(
    cls=Commands,
    name="rieszflow",
    help="Turn noise into data along the sliced MMD flow with the Riesz kernel, and measure how well it went.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]


Force = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"rieszflow {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass
