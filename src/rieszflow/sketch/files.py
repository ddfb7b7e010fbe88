"""Sketches as safetensors files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rieszflow._files import Format, load_tensors, one_line, save_tensors
from rieszflow.engines import bins
from rieszflow.errors import FileError, InputError
from rieszflow.sketch.counts import Counts
from rieszflow.sketch.plan import Drawn, Plan
from rieszflow.sketch.reservoir import capacity

__all__ = ["SKETCH", "read", "write"]

SKETCH = Format("sketch", 4)


def write(path: Path, plan: Plan, counts: Counts) -> None:
    """A file that appears whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for k, (grid, masses, moments) in enumerate(zip(plan.grids, counts.masses, counts.moments, strict=True)):
        whole = not counts.weighted and counts.weight < 2**31
        tensors |= {f"{k}.counts": masses.int() if whole else masses, f"{k}.sums": moments}
        tensors |= {f"{k}.{name}": v for name, v in grid.span().items()}
    drawn, reservoir = plan.drawn, counts.reservoir
    if drawn.spreads is not None:
        tensors["spreads"] = torch.tensor(drawn.spreads, dtype=torch.float64)
    meta = {
        "d": drawn.d, "slices": drawn.slices, "directions": drawn.directions, "seed": drawn.seed,
        "names": None if drawn.names is None else list(drawn.names),
        "n": counts.n, "weight": counts.weight, "squares": counts.squares, "weighted": counts.weighted,
        "sample": reservoir.size, "seen": reservoir.seen,
    }  # fmt: skip
    save_tensors(path, SKETCH, tensors | reservoir.tensors(), meta)


def read(path: Path) -> tuple[Plan, Counts]:
    """What `write` wrote.

    Raises:
        FileError: missing, damaged, foreign, or of another version.
    """
    tensors, meta = load_tensors(path, SKETCH)
    try:
        plan = _plan(tensors, meta)
        return plan, _counts(plan, tensors, meta)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise FileError(f"{path}: damaged: its parts do not fit together ({one_line(error)})") from None


def _plan(tensors: dict[str, Tensor], meta: dict[str, Any]) -> Plan:
    names = meta["names"]
    spreads = tuple(tensors["spreads"].double().tolist()) if "spreads" in tensors else None
    drawn = Drawn(meta["d"], meta["slices"], meta["directions"], meta["seed"], names and tuple(names), spreads)
    tables = [name.removesuffix(".counts") for name in tensors if name.endswith(".counts")]
    rows = sum(len(tensors[f"{k}.counts"]) for k in tables)
    if rows != drawn.slices + drawn.d * drawn.columns:  # before as many directions are drawn
        raise InputError(f"tables of {rows} slices, {drawn.slices} and {drawn.d} columns are named")
    return Plan.at([{name: tensors[f"{k}.{name}"] for name in bins.SPAN} for k in range(len(tables))], drawn)


def _counts(plan: Plan, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Counts:
    counts = Counts(plan, capacity(meta.get("sample"), plan.drawn.d), meta["weighted"])
    if "seen" in meta:  # else of a version that kept no points
        counts.reservoir.fill(tensors, meta["seen"])
    counts.n, counts.weight, counts.squares = meta["n"], meta["weight"], meta["squares"]
    sums = (counts.n, counts.weight, counts.squares)
    if type(counts.n) is not int or type(counts.weighted) is not bool or not all(0 <= v < math.inf for v in sums):
        raise InputError(f"{counts.n!r} points of weight {counts.weight!r}")
    for name, own in (("counts", counts.masses), ("sums", counts.moments)):
        for k, mine in enumerate(own):
            theirs = tensors[f"{k}.{name}"]
            if theirs.shape != mine.shape or not theirs.isfinite().all():
                raise InputError(f"{name} of shape {tuple(theirs.shape)}, finite ones of {tuple(mine.shape)} are needed")
            mine += theirs
    return counts
