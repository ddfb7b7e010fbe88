"""The Typer application, to which the other modules add their commands."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option

from rieszflow import __version__
from rieszflow.cli.error_handling import Commands
from rieszflow.cli.output import console

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    name="rieszflow",
    help="Compare samples of distributions, and train generative models, with the sliced MMD of the Riesz kernel.",
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
)


def _version(requested: bool) -> None:
    if requested:
        console.print(f"rieszflow {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass
