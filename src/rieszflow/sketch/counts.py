"""The contents of a sketch: counts in the bins of a plan and a random sample of the points, in memory and in files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rieszflow import histograms
from rieszflow._infra import ranks, validate
from rieszflow._infra.files import Format, Json, as_file_error, below, check_tensors, load_tensors, prefixed, save_tensors
from rieszflow._infra.ranks import Group
from rieszflow._infra.workspace import Workspace
from rieszflow._types import Cloud, Points, Progress, ProgressCallback
from rieszflow.data import Stream, as_points
from rieszflow.data.encoding import TableEncoding
from rieszflow.errors import InputError
from rieszflow.sketch.plan import Plan, SliceSettings

SKETCH = Format("sketch", 5)
_ROUNDING = 1.05  # weights are partly summed in float32, where the rounding errors of equal ones add up
_LARGEST = 3.5e38  # positions are float32 numbers
_COUNTS = Workspace()
_MAX_POINTS = 1 << 22  # counted at a time: integers up to this size are exact in float32
_ROWS, _MIN_ROWS = 2048, 64  # of a reservoir
_MAX_NUMBERS = 1 << 20  # 4 MB in float32
_HASHED = 8  # columns, spread evenly


def with_progress(cloud: Stream, progress: ProgressCallback | None, what: str = "points") -> Iterator[Tensor]:
    """Iterate over the batches of a cloud, and report the number of points after each."""
    done = 0
    for batch in cloud:
        yield batch
        done += len(batch)
        if progress is not None:
            progress(Progress(what, done, cloud.n))


def add_points(grid: histograms.BinGrid, x: Tensor, w: Tensor | None, counts: Tensor, tail_sums: Tensor) -> None:
    """Add points (n, d), divided by their spreads, to the tables of the slices of a grid."""
    grid, points = grid.promote(x)
    new, sums = histograms.select_backend(grid).count(grid, Cloud(points, w), tail_sums=True, workspace=_COUNTS)
    assert sums is not None
    with torch.inference_mode():  # the tables may have been made in it
        counts += new
        tail_sums += sums


def point_weights(given: Points, x: object, name: str = "x_weights") -> Tensor:
    """Return the weights (n,) of points, which need not sum to one."""
    if not isinstance(x, (Tensor, np.ndarray)):
        raise InputError(f"`{name}` must be None unless {name[0]} is one tensor or array of points")
    weights = as_points(given, name)
    w = torch.from_numpy(weights) if isinstance(weights, np.ndarray) else weights  # `as_tensor` depends on the default device
    if w.shape != (len(x),):
        raise InputError(f"`{name}` must have shape ({len(x)},), one weight per point, got {tuple(w.shape)}")
    if not torch.isfinite(w).all() or (w < 0).any() or w.sum() <= 0:
        raise InputError(f"`{name}` must be finite, non-negative and not all zero")
    return w.detach()


class Counts:
    """The contents of a sketch: for every grid, the weight in every bin and the sums of positions in the geometric bins.

    There are also the number of points, the sums of their weights and squared weights (n without weights), and a sample.
    """

    def __init__(self, plan: Plan, reservoir_size: int | None, weighted: bool = False) -> None:
        self.plan, self.n, self.weight, self.squares, self.weighted = plan, 0, 0.0, 0.0, weighted
        like = plan.grids[0].shift.new_empty((), dtype=torch.float64)
        self.counts = [like.new_zeros(grid.directions.P, grid.B + 2 * histograms.TAIL) for grid in plan.grids]
        self.tail_sums = [like.new_zeros(grid.directions.P, 2 * histograms.TAIL) for grid in plan.grids]
        self.reservoir = Reservoir(reservoir_size, plan.settings.d, plan.settings.seed)

    def update(self, x: Tensor, w: Tensor | None = None) -> None:
        """Count points (n, d), in their own units, with weights (n,) or one each."""
        for first in range(0, len(x), _MAX_POINTS):
            some = slice(first, first + _MAX_POINTS)
            part, weights = x[some].detach(), None if w is None else w[some]
            scaled = self.plan.settings.rescale(part)
            if weights is None:
                self.reservoir.update(part, scaled)
            for grid, counts, tail_sums in zip(self.plan.grids, self.counts, self.tail_sums, strict=True):
                add_points(grid, scaled, weights, counts, tail_sums)
            self.n += len(part)
            self.weight += float(len(part) if weights is None else weights.double().sum())
            self.squares += float(len(part) if weights is None else (weights.double() ** 2).sum())

    def merge(self, other: Counts) -> None:
        for mine, theirs in zip([*self.counts, *self.tail_sums], [*other.counts, *other.tail_sums], strict=True):
            with torch.inference_mode():
                mine += theirs
        self.n, self.weight = self.n + other.n, self.weight + other.weight
        self.squares, self.weighted = self.squares + other.squares, self.weighted or other.weighted
        self.reservoir.merge(other.reservoir)

    def rest(self, kept: Counts, columns: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where other points than some that are kept are on the random slices, or on the columns.

        Returns:
            Mean positions of the points in every bin (P, bins), relative to an origin, their weights, and the origin (d,).
        """
        first, positions, weights = len(self.plan.random_grids), [], []
        for k in range(first, len(self.plan.grids)) if columns else range(first):
            grid, w = self.plan.grids[k], self.counts[k] - kept.counts[k]
            u = torch.arange(w.shape[1], dtype=torch.float64).sub(histograms.TAIL - 0.5).repeat(len(w), 1)
            outer = torch.cat([torch.arange(histograms.TAIL), torch.arange(w.shape[1] - histograms.TAIL, w.shape[1])])
            u[:, outer] = (self.tail_sums[k] - kept.tail_sums[k]) / w[:, outer].clamp(min=1)
            positions.append((grid.low[:, None] + u / grid.inverse[:, None]) / float(grid.scale))
            weights.append(w)
        return torch.cat(positions).numpy(), torch.cat(weights).numpy(), self.plan.grids[0].shift.double().numpy()

    def reduce(self, group: Group) -> None:
        """Sum the counts of all ranks, on every rank."""
        for table in (*self.counts, *self.tail_sums):
            ranks.all_reduce_sum(table, group)
        numbers = np.array([self.n, self.weight, self.squares, self.weighted], np.float64)
        n, weight, squares, weighted = ranks.all_reduce_sum(numbers, group).tolist()
        # A rank without points does not know if there are weights.
        self.n, self.weight, self.squares, self.weighted = int(n), weight, squares, bool(weighted)
        self.reservoir.reduce(group)

    def to_histograms(self) -> list[histograms.Histogram]:
        """Return the normalised counts on every grid of the plan, or raise InputError if there are none."""
        if self.n == 0:
            raise InputError("the sketch is empty; count points with `update` first")
        self_weight = self.squares / self.weight**2
        return [
            histograms.Histogram(grid, (counts / self.weight).float(), tail_sums / self.weight, self_weight)
            for grid, counts, tail_sums in zip(self.plan.grids, self.counts, self.tail_sums, strict=True)
        ]


class Reservoir:
    """A uniform random sample of at most `size` of all rows seen, sorted by key; samples of parts merge into one of the whole.

    Every row gets a random key, and the rows with the smallest keys are kept (bottom-k sampling). Keys come from a hash of the
    rows up to this one: the same rows give the same sample however they are cut into batches, and different files get
    different keys.
    """

    def __init__(self, size: int | None, d: int, seed: int) -> None:
        default = min(_ROWS, max(_MIN_ROWS, _MAX_NUMBERS // d))
        self.size, self.seen = default if size is None else validate.nonnegative_int("reservoir_size", size), 0
        self.rows, self.keys = np.empty((0, d)), np.empty(0, np.uint64)
        self._state = np.array([seed], np.uint64)

    def update(self, x: Tensor, scaled: Tensor) -> None:
        """Add rows (n, d). Keys are hashes of the rows divided by their columns' spreads, so that units do not matter."""
        self.seen += len(x)
        if not self.size:
            return
        # Rounded to float32, columns divided by their spreads give the same keys in any unit. Adding 0 turns −0 into 0.
        columns = scaled[:, :: math.ceil(x.shape[1] / _HASHED)].float().double().cpu().numpy() + 0.0
        code = np.zeros(len(x), np.uint64)
        for bits in np.ascontiguousarray(columns.T).view(np.uint64):
            code = _splitmix64(code ^ bits)
        sums = np.cumsum(code, dtype=np.uint64) + self._state
        self._state = sums[-1:]
        keys = _splitmix64(sums)
        new = np.flatnonzero(keys < self.keys[-1]) if len(self.keys) == self.size else np.arange(len(x))
        if len(new) > self.size:
            new = new[np.argpartition(keys[new], self.size)[: self.size]]
        new = np.sort(new)
        self._insert(x[torch.from_numpy(new).to(x.device)].double().cpu().numpy(), keys[new])

    def merge(self, other: Reservoir) -> None:
        keys = other.keys
        if np.isin(keys, self.keys).any():
            # Rows that were seen before need new keys of the same distribution: the k smallest of n uniform numbers, which are
            # partial sums of exponential ones over the sum of n + 1 of them.
            rng = np.random.default_rng([self.seen, other.seen, *map(int, self.keys[:4])])
            steps = rng.exponential(size=len(keys)).cumsum()
            total = steps[-1] + rng.gamma(other.seen + 1 - len(keys))
            keys = rng.permutation((steps / total * 2.0**64).astype(np.uint64))
        self.seen, self.size = self.seen + other.seen, min(self.size, other.size)
        self._insert(other.rows, keys)

    def reduce(self, group: Group) -> None:
        """Merge the samples of all ranks, on every rank."""
        rows, keys = torch.from_numpy(self.rows), torch.from_numpy(self.keys.view(np.int64))
        self.rows, self.keys = self.rows[:0], self.keys[:0]
        self.seen = int(ranks.all_reduce_sum(np.array([self.seen], np.int64), group)[0])
        self._insert(ranks.all_gather_rows(rows, group).numpy(), ranks.all_gather_rows(keys, group).numpy().view(np.uint64))

    def _insert(self, rows: np.ndarray, keys: np.ndarray) -> None:
        rows, keys = np.concatenate([self.rows, rows]), np.concatenate([self.keys, keys])
        smallest = np.argsort(keys, kind="stable")[: self.size]
        self.rows, self.keys = rows[smallest], keys[smallest]

    def to_tensors(self) -> dict[str, Tensor]:
        rows = torch.from_numpy(self.rows)
        narrow = rows.float()
        rows = narrow if torch.equal(narrow.double(), rows) else rows
        return {"sample.rows": rows, "sample.keys": torch.from_numpy(self.keys.view(np.int64))}

    def restore(self, tensors: dict[str, Tensor], seen: int) -> None:
        """Restore the sample from `to_tensors`; raise KeyError or ValueError if the tensors do not fit."""
        rows, keys, k = tensors["sample.rows"], tensors["sample.keys"], min(self.size, seen)
        shape = k, self.rows.shape[1]
        check_tensors(tensors, {"sample.rows": (shape, torch.float32, torch.float64), "sample.keys": ((k,), torch.int64)})
        self.seen, self.rows, self.keys = seen, rows.double().numpy(), keys.numpy().view(np.uint64)
        _check((self.keys[1:] >= self.keys[:-1]).all(), "a sample with unsorted keys")


def _splitmix64(v: np.ndarray) -> np.ndarray:
    """Map uint64 to uint64, one to one and as if at random (the finaliser of SplitMix64)."""
    v = v + np.uint64(0x9E3779B97F4A7C15)
    v = (v ^ (v >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    v = (v ^ (v >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(v ^ (v >> np.uint64(31)))


def write(path: Path, counts: Counts) -> None:
    """Write a sketch: grids, counts, settings and reservoir."""
    settings, reservoir, tensors = counts.plan.settings, counts.reservoir, counts.reservoir.to_tensors()
    integers = not counts.weighted and counts.weight < 2**31
    for k, (grid, table, tail_sums) in enumerate(zip(counts.plan.grids, counts.counts, counts.tail_sums, strict=True)):
        tensors |= prefixed(k, {"counts": table.int() if integers else table, "sums": tail_sums, **grid.to_tensors()})
    if settings.spreads is not None:
        tensors["spreads"] = torch.tensor(settings.spreads, dtype=torch.float64)
    meta = {
        "d": settings.d, "slices": settings.slices, "directions": settings.directions, "seed": settings.seed,
        "names": settings.names, "encoding": settings.encoding and settings.encoding.to_dict(),
        "n": counts.n, "weight": counts.weight, "squares": counts.squares, "weighted": counts.weighted,
        "sample": reservoir.size, "seen": reservoir.seen,
    }  # fmt: skip
    save_tensors(path, SKETCH, tensors, meta)


def read(path: Path) -> Counts:
    """Read a file of `write`; raise FileError if it is missing, damaged, foreign, or of another version."""
    tensors, meta = load_tensors(path, SKETCH)
    with as_file_error(f"{path}: damaged: its parts do not fit together"):
        return _read_counts(_read_plan(tensors, meta), tensors, meta)


def _check(ok: object, problem: str) -> None:
    if not ok:
        raise InputError(problem)


def _read_plan(tensors: dict[str, Tensor], meta: Json) -> Plan:
    d, spreads = validate.positive_int("d", meta["d"]), tensors.get("spreads")
    _check(spreads is None or (spreads.shape == (d,) and spreads.dtype == torch.float64), "spreads of a wrong shape or dtype")
    encoding = None if meta.get("encoding") is None else TableEncoding.from_dict(meta["encoding"])
    _check(encoding is None or encoding.names == meta["names"], "an encoding of other columns")
    spread_numbers = None if spreads is None else tuple(spreads.tolist())
    settings = SliceSettings(d, meta["slices"], meta["directions"], meta["seed"], meta["names"], spread_numbers, encoding)
    tables = [t for name, t in tensors.items() if name.endswith(".counts")]
    found, needed = sum(map(len, tables)), settings.slices + d * settings.has_columns
    _check(found == needed, f"tables of {found} slices instead of {needed}")  # before that many directions are drawn
    grids = [below(k, tensors) for k in range(len(tables))]
    for grid in grids:
        _check_grid(grid, d, grid["counts"])
    return Plan.from_tensors(grids, settings)


def _check_grid(grid: dict[str, Tensor], d: int, counts: Tensor) -> None:
    P, width = counts.shape
    check_tensors(grid, {
        "low": ((P,), torch.float32), "inverse": ((P,), torch.float32), "shift": ((d,), torch.float32, torch.float64),
        "scale": ((), torch.float64), "B": ((), torch.int64),
    })  # fmt: skip
    scale, B = float(grid["scale"]), int(grid["B"])
    _check(scale > 0 and math.isfinite(1 / scale) and math.frexp(scale)[0] == 0.5, f"a scale of {scale}")
    _check(B > 0 and B % 64 == 0 and width == B + 2 * histograms.TAIL, f"{B} bins in a table with {width} columns")
    _check((grid["inverse"] > 0).all() and (1 / grid["inverse"]).isfinite().all(), "bins without a positive width")


def _read_counts(plan: Plan, tensors: dict[str, Tensor], meta: Json) -> Counts:
    n, weight, squares, weighted = (meta[name] for name in ("n", "weight", "squares", "weighted"))
    _check(type(n) is int and 0 <= n < 2**53 and type(weighted) is bool, f"{n!r} points")
    _check(all(type(v) in (int, float) and 0 <= v < 1e150 for v in (weight, squares)), f"weights {weight!r}, {squares!r}")
    # Exact without weights. With weights, by Cauchy-Schwarz, weight² / n ≤ squares ≤ weight², up to rounding.
    fit = weight == squares == n
    if weighted and n:
        fit = 0 < squares <= weight**2 * _ROUNDING and weight**2 <= n * squares * _ROUNDING
    _check(fit, f"{n} points of weight {weight!r}, squared {squares!r}")
    counts = Counts(plan, meta.get("sample"), weighted)
    if "seen" in meta:  # versions before did not keep a sample
        seen = meta["seen"]
        _check(type(seen) is int and 0 <= seen <= n, f"a sample of {seen!r} points of {n}")
        counts.reservoir.restore(tensors, seen)
    counts.n, counts.weight, counts.squares = n, float(weight), float(squares)
    for k, (table, tail_sums) in enumerate(zip(counts.counts, counts.tail_sums, strict=True)):
        for into, name, dtypes in ((table, "counts", (torch.int32, torch.float64)), (tail_sums, "sums", (torch.float64,))):
            check_tensors(tensors, {f"{k}.{name}": (into.shape, *dtypes)})
            into += tensors[f"{k}.{name}"]
        error = (table.sum(1) - weight).abs().max()
        _check((table >= 0).all() and error <= weight * (_ROUNDING - 1) * weighted, f"counts that do not sum to {n} points")
        tails = torch.cat([table[:, : histograms.TAIL], table[:, -histograms.TAIL :]], 1)
        _check((tail_sums.abs() <= tails * _LARGEST).all(), "sums of positions out of range")
    return counts
