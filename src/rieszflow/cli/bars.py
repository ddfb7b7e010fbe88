"""Live bars, for those who watch."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from rich import progress
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rieszflow import Progress
from rieszflow._types import ProgressCallback
from rieszflow.cli import terminal
from rieszflow.cli.terminal import show

if TYPE_CHECKING:
    from rieszflow.generative import Config

__all__ = ["Passes", "TrainingBars"]


def _bars(period: float = 30) -> progress.Progress:
    """Bars whose remaining time goes by the speed of the last `period` seconds."""
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    # Without a terminal Rich would print an empty line for every bar, and FORCE_COLOR makes it take a pipe for a terminal. Rich
    # redirects other output, to keep it above the bars; stderr must only be redirected if it is a terminal, too.
    console = terminal.console
    return progress.Progress(
        *columns, console=console, transient=True, disable=not (console.is_interactive and console.file.isatty()),
        speed_estimate_period=period, redirect_stderr=sys.stderr is not None and sys.stderr.isatty(),
    )  # fmt: skip


class Passes:
    """A live bar for every pass over points."""

    def __enter__(self) -> Passes:
        self.bars = _bars()
        self.tasks: dict[str, Any] = {}
        self.bars.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.bars.stop()

    def named(self, name: str) -> ProgressCallback:
        """A callback whose bar has that name."""
        return lambda at: self(dataclasses.replace(at, what=name))

    def scores(self, at: Progress) -> None:
        """Show one bar for all scores, labelled with the one being computed."""
        self(dataclasses.replace(at, what="scores"))
        self.bars.update(self.tasks["scores"], description=at.what)

    def __call__(self, at: Progress) -> None:
        name = at.what
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name)
        self.bars.update(self.tasks[name], completed=at.done, total=at.total)


class TrainingBars:
    """Live bars for all scheduled steps and for the current phase, and a line for every finished stage."""

    def __init__(self, config: Config) -> None:
        fits = [
            level.fit_steps * (config.model == "networks") for _, level in config.level_configs() for _ in range(level.stages)
        ]
        self.schedule = list(zip(config.flow_steps(), fits, strict=True))
        self.shown = -1

    def __enter__(self) -> TrainingBars:
        # Flow and fit take turns, and their steps do not last equally long: the speed is that of the whole training.
        self.bars = _bars(period=float("inf"))
        self.steps = sum(map(sum, self.schedule))
        self.total = self.bars.add_task("stages", total=self.steps)
        self.phase = self.bars.add_task("flow", total=None)
        self.bars.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.bars.stop()

    def __call__(self, at: Progress) -> None:
        flow, _ = self.schedule[at.stage - 1]
        done = sum(map(sum, self.schedule[: at.stage - 1])) + (flow if at.what == "fit" else 0) + at.done
        # Rich remembers a thousand updates of a bar: in steps of a thousandth they tell of the whole training.
        if (now := 1000 * done // self.steps) != self.shown:
            self.shown = now
            self.bars.update(self.total, description=f"stage {at.stage} of {at.stages}", completed=done)
        loss = "" if at.loss is None else f", loss {at.loss:.3f}"
        self.bars.update(self.phase, description=f"{at.what}{loss}", completed=at.done, total=at.total)
        if at.row is not None:
            row, e = at.row, at.row["energy_distance"]
            pooled = "" if row["level"] == 1 else f"  pooled by {row['level']}"
            error = f"  fit error {row['fit_error']:.3f}" if "fit_error" in row else ""
            show(
                f"stage {row['stage']:>3}{pooled}  flow steps {row['flow_steps']:>5}{error}  "
                f"energy distance of fresh samples {e['fresh_samples']:.4f} (training data {e['training_data']:.4f})  "
                f"{sum(row['seconds'].values()):>5.0f} s so far"
            )
