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

__all__ = ["Passes", "TrainingBars", "cells"]


def _bars(period: float = 30) -> progress.Progress:
    """Bars whose remaining time goes by the speed of the last `period` seconds."""
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    # Where nobody watches, Rich would print an empty line for every bar. FORCE_COLOR makes it take a pipe for a terminal: bars
    # are for real ones. It catches what goes to the terminal meanwhile, to
    # keep the bars in order; stderr only where that is a terminal, too.
    watched = terminal.console.is_interactive and terminal.console.file.isatty()
    return progress.Progress(
        *columns, console=terminal.console, transient=True, disable=not watched,
        speed_estimate_period=period, redirect_stderr=sys.stderr.isatty(),
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

    def __call__(self, at: Progress) -> None:
        name = at.what
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name)
        self.bars.update(self.tasks[name], completed=at.done, total=at.total)


class TrainingBars:
    """Live bars for all scheduled steps and for the phase at work, and a line for every finished network."""

    def __init__(self, config: Config) -> None:
        self.what = "network" if config.model == "networks" else "part"
        fits = [
            level.fit_steps * (config.model == "networks") for _, level in config.level_configs() for _ in range(level.networks)
        ]
        self.schedule = list(zip(config.flow_steps(), fits, strict=True))
        self.shown = -1

    def __enter__(self) -> TrainingBars:
        # Flow and fit take turns, and their steps do not last equally long: the speed is that of the whole training.
        self.bars = _bars(period=float("inf"))
        self.steps = sum(map(sum, self.schedule))
        self.total = self.bars.add_task("networks", total=self.steps)
        self.phase = self.bars.add_task("flow", total=None)
        self.bars.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.bars.stop()

    def __call__(self, at: Progress) -> None:
        flow, _ = self.schedule[at.network - 1]
        done = sum(map(sum, self.schedule[: at.network - 1])) + (flow if at.what == "fit" else 0) + at.done
        # Rich remembers a thousand updates of a bar: in steps of a thousandth they tell of the whole training.
        if (now := 1000 * done // self.steps) != self.shown:
            self.shown = now
            self.bars.update(self.total, description=f"{self.what} {at.network} of {at.networks}", completed=done)
        loss = "" if at.loss is None else f", loss {at.loss:.3f}"
        self.bars.update(self.phase, description=f"{at.what}{loss}", completed=at.done, total=at.total)
        if at.row is not None:
            number, level, steps, error, _, _, fresh, seconds = cells(at.row)
            yardstick = at.row["energy_distance"]["training_data"]
            pooled = "" if level == "1" else f"  pooled by {level}"
            show(
                f"{self.what} {number:>3}{pooled}  flow steps {steps:>5}  {f'fit error {error}  ' if error else ''}"
                "energy distance of fresh samples "
                f"{fresh} (training data {yardstick:.4f})  {seconds:>5} s"
            )


def cells(row: dict[str, Any]) -> list[str]:
    """A line of metrics; what a recorded flow does not have is left empty."""
    e = row["energy_distance"]
    distances = [f"{e[key]:.4f}" if key in e else "" for key in ("particles", "network_particles", "fresh_samples")]
    seconds, error = f"{sum(row['seconds'].values()):.0f}", f"{row['fit_error']:.3f}" if "fit_error" in row else ""
    return [str(row["network"]), str(row["level"]), str(row["flow_steps"]), error, *distances, seconds]
