"""Lines, tables and progress bars on the terminal."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from typing import TYPE_CHECKING

from rich import progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from rieszflow._infra.messages import on_one_line
from rieszflow._types import Progress

if TYPE_CHECKING:
    from rieszflow.generative import Config

if not os.environ.get("COLUMNS", "").strip("0"):  # Rich would print nothing in 0 columns
    os.environ.pop("COLUMNS", None)
console = Console(markup=False, emoji=False)  # names of files and columns may look like markup

_ASCII = {"→": "->", "×": "x", "–": "-", "—": "-", "−": "-", "≥": ">=", "≤": "<=", "“": '"', "”": '"', "‘": "'", "’": "'"}


def _transliterate(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks by ASCII: "D2" for "D²", "..." for "…", "?" as a last resort."""
    assert isinstance(error, UnicodeEncodeError)
    text = ""
    for char in error.object[error.start : error.end]:
        text += _ASCII.get(char) or unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode() or "?"
    return text, error.end


codecs.register_error("rieszflow", _transliterate)


def print_message(kind: str, message: str) -> None:
    """Print a note, a warning or an error to stderr, on one line."""
    if sys.stderr is not None:  # closed by the caller; `print` would write to stdout instead
        print(f"{kind}: {on_one_line(message)}", file=sys.stderr)


def show(text: str) -> None:
    """Print a line to stdout, unwrapped, for people and for programs."""
    console.print(text, soft_wrap=True)


def print_table(headings: list[str], rows: list[list[str]]) -> None:
    """Print a table if it fits in the terminal, and one line per cell otherwise."""
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


class ProgressBars(progress.Progress):
    """A `progress` callback that shows progress bars, on a terminal only."""

    def __init__(self, speed_estimate_period: float = 30.0) -> None:
        # Without a terminal Rich would print an empty line for every bar, and FORCE_COLOR makes it take a pipe for a terminal.
        # Rich redirects other output to keep it above the bars; stderr must only be redirected if it is a terminal, too.
        super().__init__(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), console=console, transient=True, speed_estimate_period=speed_estimate_period,
            disable=not (console.is_interactive and console.file.isatty()),
            redirect_stderr=sys.stderr is not None and sys.stderr.isatty(),
        )  # fmt: skip
        self._bars: dict[str, progress.TaskID] = {}

    def __call__(self, at: Progress, *, label: str = "", bar: str = "") -> None:
        """Update one bar, by default that of the unit `at.what`, and label it."""
        label = label or at.what
        bar = bar or label
        if bar not in self._bars:
            self._bars[bar] = self.add_task(label)
        self.update(self._bars[bar], description=label, completed=at.done, total=at.total)


class TrainingBars(ProgressBars):
    """Progress bars for the whole training and its current phase, and a line for every finished stage."""

    def __init__(self, config: Config) -> None:
        super().__init__(float("inf"))  # flow and fit take turns, and their steps differ in speed
        fits = [
            level.fit_steps * (config.model == "networks") for _, level in config.level_configs() for _ in range(level.stages)
        ]
        self.schedule = list(zip(config.flow_steps(), fits, strict=True))
        self.steps, self.shown = sum(map(sum, self.schedule)), -1
        self.total = self.add_task("stages", total=self.steps)
        self.phase = self.add_task("flow", total=None)

    def __call__(self, at: Progress, **_: str) -> None:
        flow, _fit = self.schedule[at.stage - 1]
        done = sum(map(sum, self.schedule[: at.stage - 1])) + (flow if at.what == "fit" else 0) + at.done
        # Rich estimates the speed from the last thousand updates, so update in steps of a thousandth of the training.
        if (now := 1000 * done // self.steps) != self.shown:
            self.shown = now
            self.update(self.total, description=f"stage {at.stage} of {at.stages}", completed=done)
        loss = "" if at.loss is None else f", loss {at.loss:.3f}"
        self.update(self.phase, description=f"{at.what}{loss}", completed=at.done, total=at.total)
        if at.row is not None:
            row, frechet = at.row, at.row.get("frechet_distance")
            name, e = ("Fréchet", frechet) if frechet else ("energy", row["energy_distance"])
            pooled = "" if row["level"] == 1 else f"  pooled by {row['level']}"
            error = f"  fit error {row['fit_error']:.3f}" if "fit_error" in row else ""
            show(
                f"stage {row['stage']:>3}{pooled}  flow steps {row['flow_steps']:>5}{error}  "
                f"{name} distance of fresh samples {e['fresh_samples']:.4f} (training data {e['training_data']:.4f})  "
                f"{sum(row['seconds'].values()):>5.0f} s so far"
            )
