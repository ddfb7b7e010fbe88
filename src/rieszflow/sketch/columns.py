"""The columns of sketched points: quartiles of numbers, shares of categories, and how two sketches differ in them."""

from __future__ import annotations

import numpy as np

from rieszflow import histograms
from rieszflow.data.encoding import ColumnEncoding
from rieszflow.sketch.sketch import SliceSketch

_DAYS = 20 * 86400.0  # a spread of seconds from which times are shown as dates
_MOVED = 3  # categories that a description names


def encoded_columns(sketch: SliceSketch) -> list[tuple[ColumnEncoding, int]]:
    """Return every column with the index of its first coordinate; columns that are not encoded are numbers."""
    encoding, names = sketch.plan.settings.encoding, sketch.names or [f"column {k}" for k in range(sketch.d)]
    columns = [ColumnEncoding(name, "number") for name in names] if encoding is None else encoding.columns
    starts = np.cumsum([0, *(len(column.coordinates) for column in columns)])
    return list(zip(columns, starts.tolist(), strict=False))


def _distribution(sketch: SliceSketch, coordinate: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of the equal bins of a coordinate (B + 1,), and the shares of points below them."""
    edges, _ = sketch.histogram(coordinate, True, histograms.BINS)
    counts = sketch.counts[-1][coordinate].cpu().numpy()
    tail = histograms.TAIL
    return edges, np.cumsum([counts[:tail].sum(), *counts[tail:-tail]]) / sketch.weight


def quartiles(sketch: SliceSketch, coordinate: int) -> list[float]:
    """Return the quartiles of a coordinate, up to the width of a bin; infinite ones lie outside of the bins."""
    edges, below = _distribution(sketch, coordinate)
    return [float(np.interp(q, below, edges, -np.inf, np.inf)) for q in (0.25, 0.5, 0.75)]


def share(sketch: SliceSketch, coordinate: int) -> float:
    """Return the share of points whose coordinate, which is 0 or less for all others, is above one half."""
    edges, below = _distribution(sketch, coordinate)
    return float(1 - below[(edges[1:] <= 0.5).sum()])


def shares(sketch: SliceSketch, column: ColumnEncoding, start: int) -> dict[str, float]:
    """Return the share of every category, and of missing cells; `start` is the column's first coordinate."""
    names = [*column.categories, "missing"]
    return {name: share(sketch, start + k) for k, (name, _) in enumerate(zip(names, column.coordinates, strict=False))}


def describe_change(x: SliceSketch, y: SliceSketch, k: int) -> str:
    """Describe how column k differs between two sketches: by its quartiles, or by the shares that moved most."""
    column, start = encoded_columns(x)[k]
    if column.kind == "category":
        old, new = (shares(sketch, column, start) for sketch in (x, y))
        moved = sorted(old, key=lambda name: -abs(old[name] - new[name]))[:_MOVED]
        return ", ".join(f"{name} {_percent(old[name])} → {_percent(new[name])}" for name in moved)
    before, after = (" / ".join(_shown(column, v) for v in quartiles(sketch, start)) for sketch in (x, y))
    text = f"quartiles {before} → {after}"
    if column.missing:
        lacking = [_percent(share(sketch, start + len(column.coordinates) - 1)) for sketch in (x, y)]
        text += f", missing {lacking[0]} → {lacking[1]}"
    return text


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _shown(column: ColumnEncoding, value: float) -> str:
    if column.kind == "time" and abs(value) < 1e11:
        moment = str(np.datetime64(round(value), "s"))
        return moment[:10] if column.spread > _DAYS else moment.replace("T", " ")
    return f"{value:.4g}"
