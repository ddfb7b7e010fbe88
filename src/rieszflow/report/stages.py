"""The table of metrics.jsonl for the page and for the command line."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rieszflow.generative.run import StageMetrics

__all__ = ["noun", "stage_table"]

_HEADINGS = ("stage", "pooled", "steps", "fit error", "particles", "fitted", "fresh", "seconds")


def noun(shape: tuple[int, ...]) -> str:
    """Return the noun for data of this shape."""
    return "images" if len(shape) == 3 else "points"


def stage_table(rows: Sequence[StageMetrics]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells, one row per stage, without columns that would be empty.

    Seconds are those of each stage; in metrics.jsonl they count from the beginning of the training.
    """
    seconds = [0.0, *(sum(row.seconds.values()) for row in rows)]
    cells = []
    for row, (before, after) in zip(rows, pairwise(seconds), strict=True):
        e = row.energy_distance
        distances = [f"{e[key]:.4f}" if key in e else "" for key in ("particles", "network_particles", "fresh_samples")]
        pooled = str(row.level) if row.level != 1 else ""
        error = f"{row.fit_error:.3f}" if row.fit_error is not None else ""
        cells.append([str(row.stage), pooled, str(row.flow_steps), error, *distances, f"{after - before:.1f}"])
    filled = [k for k in range(len(_HEADINGS)) if any(line[k] for line in cells)]
    return [_HEADINGS[k] for k in filled], [[line[k] for k in filled] for line in cells]
