"""Sketches as safetensors files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rieszflow import histograms
from rieszflow._infra.files import Format, load_tensors, out_of_memory, save_tensors
from rieszflow._infra.text import one_line
from rieszflow._infra.validate import positive_int
from rieszflow.errors import FileError, InputError
from rieszflow.sketch.counts import Counts
from rieszflow.sketch.plan import Plan, SliceSettings
from rieszflow.sketch.reservoir import capacity

__all__ = ["SKETCH", "read", "write"]

SKETCH = Format("sketch", 5)
_ROUNDED = 1.05  # weights are partly summed in float32, where the rounding errors of equal ones add up
_FARTHEST = 3.5e38  # positions are float32 numbers


def write(path: Path, plan: Plan, counts: Counts) -> None:
    """A file that appears whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for k, (grid, masses, moments) in enumerate(zip(plan.grids, counts.masses, counts.moments, strict=True)):
        whole = not counts.weighted and counts.weight < 2**31
        tensors |= {f"{k}.counts": masses.int() if whole else masses, f"{k}.sums": moments}
        tensors |= {f"{k}.{name}": v for name, v in grid.to_tensors().items()}
    drawn, reservoir = plan.settings, counts.reservoir
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
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
        if out_of_memory(error):
            raise
        raise FileError(f"{path}: damaged: its parts do not fit together ({one_line(error)})") from None


def _need(ok: object, what: str) -> None:
    if not ok:
        raise InputError(what)


def _plan(tensors: dict[str, Tensor], meta: dict[str, Any]) -> Plan:
    d, slices, names = positive_int("d", meta["d"]), positive_int("slices", meta["slices"]), meta["names"]
    _need(names is None or isinstance(names, list), "names that are not a list")
    found = tensors.get("spreads")
    _need(found is None or (found.shape == (d,) and found.dtype == torch.float64), "spreads of a wrong shape or dtype")
    spreads = None if found is None else tuple(found.tolist())
    drawn = SliceSettings(d, slices, meta["directions"], meta["seed"], None if names is None else tuple(names), spreads)
    tables = [name for name in tensors if name.endswith(".counts")]
    rows = sum(len(tensors[name]) for name in tables)
    if rows != drawn.slices + drawn.d * drawn.columns:  # before as many directions are drawn
        raise InputError(f"tables of {rows} slices, {drawn.slices} and {drawn.d} columns are named")
    spans = [{name: tensors[f"{k}.{name}"] for name in histograms.GRID_TENSORS} for k in range(len(tables))]
    for k, span in enumerate(spans):
        _check_span(span, drawn.d, tensors[f"{k}.counts"])
    return Plan.from_spans(spans, drawn)


def _check_span(span: dict[str, Tensor], d: int, counts: Tensor) -> None:
    """Check the numbers that define the bins of a table."""
    P, many = counts.shape
    for name, shape, dtypes in (
        ("low", (P,), (torch.float32,)),
        ("inverse", (P,), (torch.float32,)),
        ("shift", (d,), (torch.float32, torch.float64)),
        ("scale", (), (torch.float64,)),
        ("B", (), (torch.int64,)),
    ):
        t = span[name]
        _need(t.shape == shape and t.dtype in dtypes and t.isfinite().all(), f"{name}: {tuple(t.shape)} {t.dtype}")
    scale, B = float(span["scale"]), int(span["B"])
    _need(scale > 0 and math.isfinite(1 / scale) and math.frexp(scale)[0] == 0.5, f"a scale of {scale}")
    _need(B > 0 and B % 64 == 0 and many == B + 2 * histograms.TAIL, f"{B} bins in a table with {many} columns")
    _need((span["inverse"] > 0).all() and (1 / span["inverse"]).isfinite().all(), "bins without a positive width")


def _counts(plan: Plan, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Counts:
    n, weight, squares, weighted = (meta[name] for name in ("n", "weight", "squares", "weighted"))
    _need(type(n) is int and 0 <= n < 2**53 and type(weighted) is bool, f"{n!r} points")
    _need(all(type(v) in (int, float) and 0 <= v < 1e150 for v in (weight, squares)), f"weights {weight!r}, {squares!r}")
    # Exact without weights. With weights, by Cauchy-Schwarz, weight² / n ≤ squares ≤ weight², up to rounding.
    sums = weight == squares == n
    if weighted:
        sums = 0 < squares <= weight**2 * _ROUNDED and weight**2 <= n * squares * _ROUNDED if n else weight == squares == 0
    _need(sums, f"{n} points of weight {weight!r}, squared {squares!r}")
    counts = Counts(plan, capacity(meta.get("sample"), plan.settings.d), weighted)
    if "seen" in meta:  # else of a version that kept no points
        seen = meta["seen"]
        _need(type(seen) is int and 0 <= seen <= n, f"a sample of {seen!r} points of {n}")
        counts.reservoir.fill(tensors, seen)
    counts.n, counts.weight, counts.squares = n, float(weight), float(squares)
    for k, (masses, moments) in enumerate(zip(counts.masses, counts.moments, strict=True)):
        found, positions = tensors[f"{k}.counts"], tensors[f"{k}.sums"]
        for theirs, mine, dtypes in (
            (found, masses, (torch.int32, torch.float64)),
            (positions, moments, (torch.float64,)),
        ):
            if theirs.shape != mine.shape or theirs.dtype not in dtypes or not theirs.isfinite().all():
                found_shape = f"{tuple(theirs.shape)} {theirs.dtype}"
                raise InputError(f"a table must have finite numbers of shape {tuple(mine.shape)}, got {found_shape}")
            mine += theirs
        apart = (masses.sum(1) - weight).abs().max() > (weight * (_ROUNDED - 1) if weighted else 0)
        _need((masses >= 0).all() and not apart, f"counts that do not add up to {n} points")
        tails = torch.cat([masses[:, : histograms.TAIL], masses[:, -histograms.TAIL :]], 1)
        _need((moments.abs() <= tails * _FARTHEST).all(), "sums of positions out of range")
    return counts
