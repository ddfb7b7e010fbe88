"""The linear-time engine: projections are counted into bins, the table is cumulated, and looked up again.

Two passes over the particles, a tile at a time: project and count; project again, look up, transform back. An array of size
P × N never exists; memory is O(P·B) for P slices of a block and B bins.

r = 1. The derivative 2(G − F) needs distribution functions only. A point's own bin is the only source of error: F changes by
the bin's mass over it, so whatever the data are

    |F̂(t) − F(t)| ≤ mass of t's bin,    likewise G.                                                                    (bound)

Inside a bin F rises linearly, which is right up to O(B⁻²) for smooth densities, but for point masses, which are told by their
neighbours (`STEEP`) and count as ties, by their mid-rank. The binned range comes from a sample of the points and is robust;
outside of it bins grow geometrically, so that outliers and heavy tails cost neither memory nor the resolution of the rest.

Other kernels. The mass of a bin counts as spread evenly over it; then the derivative of the potential at bin edges is a
discrete convolution with the differences of the kernel's one-dimensional slice, done by FFT, and looked up linearly. Bins have
one width on all slices, cover all points, and must resolve the slice (`Kernel.basis_scale`), or the kernel is refused.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rieszflow._ranks import Group, offset, summed, total, widest
from rieszflow._scratch import fresh, scratch
from rieszflow._surroundings import plain
from rieszflow._threads import share, threads
from rieszflow.directions import Directions, Hadamard
from rieszflow.directions.hadamard import width
from rieszflow.engines import _bins_cpu as cpu
from rieszflow.engines._bins_device import Device
from rieszflow.engines._result import Result
from rieszflow.engines._scale import power_of_two, times_power_of_two, within_range
from rieszflow.errors import InputError
from rieszflow.kernels import Kernel, Riesz
from rieszflow.stream import Stream

__all__ = [
    "BINS",
    "SPAN",
    "TAIL",
    "Cumulated",
    "Tables",
    "against",
    "empties",
    "evaluate",
    "fill",
    "grids",
    "known",
    "parts",
    "settle",
    "tables",
]

BINS = 1024  # equal bins of a slice, fewer for the gradients of few points
_FEWEST_BINS = 128
_PER_BIN = 8  # points; their random places within a bin are an error small beside the slices' own
_PART = 1024  # dense directions at a time
_SAMPLE = 128  # points of each cloud, at most, that decide the range, and half as many at least
_MOST_BINS = 16384
_PER_WAVE = 6.0  # equal bins in a kernel's basis_scale, which is a wave length over 2π
_RIESZ_BINS = 4096
_WIDEST = 1e4  # times the widest slice: a kernel is 1 − 1e-8 there, and its digits beyond the fourth are in doubt
TAIL = cpu.TAIL
SPAN = ("low", "inverse", "shift", "scale", "B", "outside")


@dataclass
class Tables:
    """A cloud on a part of the slices, counted.

    Position u of a point, in equal bins: (⟨ξ, (y − shift)·scale⟩ − low)·inverse.
    mass: (P, bins), each slice sums to one.  moments: (P, 2·TAIL), Σ mass·u in the geometric bins.
    """

    xi: Directions
    shift: Tensor
    scale: float
    low: Any
    inverse: Any
    B: int
    mass: Any = None
    moments: Any = None
    self_weight: float = 0.0  # Σ b²
    outside: float = 0.0  # share of the projections that lie outside of the equal bins

    def span(self) -> dict[str, Tensor]:
        """The few numbers that say where the bins are."""
        return {name: _as_tensor(getattr(self, name)) for name in SPAN}

    @property
    def passes(self) -> Any:
        if self.shift.device.type != "cpu":
            return Device
        return _Fused if isinstance(self.xi, Hadamard) and self.xi.first == 0 else _Tiled


def _as_tensor(value: Any) -> Tensor:
    """A copy."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Tensor):
        return value.clone()
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64, device="cpu")


def parts(xi: Directions) -> list[Directions]:
    """The slices that go through the passes together, in float32: the bins resolve no more."""
    xi = xi.to_float32()
    return list(xi.blocks()) if isinstance(xi, Hadamard) else list(xi.split(_PART))


def tables(
    y: Tensor | Stream, b: Tensor | None, xi: Directions, kernel: Kernel, reach: Tensor, group: Group = None
) -> list[Tables]:
    """The target's tables on all parts of the directions, over a range that serves points like `reach` too."""
    found = grids(y, reach, xi, kernel, value=False, group=group)
    fill(found, y, b, group)
    for t in found:
        t.outside = _outside(t, t.mass)
    return found


@plain
def known(xi: Directions, like: Tensor, span: dict[str, Tensor]) -> Tables:
    """Empty tables on a part of the directions with the bins of other ones: `span` is what `Tables.span` returned."""
    t = Tables(xi, span["shift"].to(like), float(span["scale"]), None, None, int(span["B"]))
    _set_range(t, span["low"].cpu().numpy(), span["inverse"].cpu().numpy())
    t.outside = float(span["outside"])
    return t


@plain
def fill(found: list[Tables], y: Tensor | Stream, b: Tensor | None, group: Group = None) -> None:
    """Counts the target, in one pass over it if it comes in batches (then without weights)."""
    if isinstance(y, Tensor):
        for t in found:
            t.mass, t.moments, t.self_weight = _counted(t, y, b, False, None, group)
        return
    n, sums = 0, [torch.zeros(t.xi.P, t.B + 2 * TAIL, dtype=torch.float64, device=t.shift.device) for t in found]
    for batch in y:
        n += len(batch)
        for t, counts in zip(found, sums, strict=True):
            mass, _ = t.passes.count(t, batch.to(t.shift), None, False, 1.0, "mass of y")
            counts += torch.from_numpy(mass) if isinstance(mass, np.ndarray) else mass
    n = total(n, group)
    for t, counts in zip(found, sums, strict=True):
        mass = (summed(counts, group) / n).float()
        t.mass, t.self_weight = mass.numpy() if mass.device.type == "cpu" else mass, 1 / n


def _counted(t: Tables, x: Tensor, w: Tensor | None, moments: bool, memory: str | None, group: Group) -> tuple[Any, Any, float]:
    """A cloud's mass and moments on a part of the slices, and Σw²: of all ranks' points."""
    if group is None:
        return *t.passes.count(t, x, w, moments, 1 / len(x) if w is None else 1.0, memory), _self_weight(w, x)
    sums = [summed(v, group) for v in t.passes.count(t, x, w, moments, 1.0, memory)]
    many = total(len(x), group)
    if w is None:
        return *(v / many for v in sums), 1 / many
    return *sums, float(summed((w.detach().double() ** 2).sum().reshape(1), group))


def _outside(t: Tables, mass: Any) -> float:
    """The share of projections that lie outside of the equal bins."""
    return float(mass[:, :TAIL].sum() + mass[:, TAIL + t.B :].sum()) / t.xi.P


@plain
def evaluate(
    x: Tensor,
    y: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    xi: Directions,
    kernel: Kernel,
    unbiased: bool,
    need: tuple[bool, ...],
    group: Group = None,
) -> Result:
    """See `rieszflow.engines`. Clouds (N, d), (M, d); batches one after another. With a group they are this rank's parts."""
    if need[3] or need[4]:
        raise InputError(
            "x_weights, y_weights: derivatives by weights are not to be had from engine 'bins'; use engine='sort' "
            "(Riesz(1.0)), or mmd2"
        )
    if isinstance(kernel, Riesz) and kernel.r < 1 and (need[1] or need[2]):
        warnings.warn(
            f"kernel: gradients of {kernel!r} on slices can be off by their own size: forces grow without bound as points "
            "meet, and bins do not resolve that (values are right); mmd2_gradient is exact",
            stacklevel=2,
        )
    if x.ndim > 2:
        if group is not None:
            raise InputError("group: given with batches of clouds; one cloud (N, d) over the ranks is accepted")
        return _batched(x, y, a, b, xi, kernel, unbiased, need)
    result = Result()
    for t in grids(y, x, xi, kernel, need[0], group):
        t.mass, t.moments, t.self_weight = _counted(t, y, b, need[0], "mass of y", group)
        result = result + against(t, x, y, a, b, kernel, unbiased, need, xi.P, group)
    return result


@plain
def against(
    t: Tables,
    x: Tensor,
    y: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    kernel: Kernel,
    unbiased: bool,
    need: tuple[bool, ...],
    P: int,
    group: Group = None,
) -> Result:
    """What one part of P slices in all contributes, given the target's tables; y itself is needed for its derivative only."""
    need_value, need_x, need_y = need[:3]
    mass, moments, self_weight = _counted(t, x, a, need_value, "mass of x", group)
    alpha = 1 / (1 - self_weight) if unbiased else 1.0
    beta = 1 / (1 - t.self_weight) if unbiased else 1.0
    method = Cumulated if kernel == Riesz(1.0) else _Convolved
    solver = method(t, kernel, mass, moments, self_weight)
    result = Result(outside=_outside(t, mass))
    if need_value:
        result.value = solver.value(alpha, beta, unbiased) / P
    if need_x:
        each = 1.0 if a is not None else self_weight  # without weights both Σw² and a point's own are 1/N
        lines, own = solver.lines(t.mass, mass, alpha, each / P, a, self_weight)
        result.x = _times(t.passes.look_up(t, x, a, lines, own), solver.unit)
    if need_y:
        assert y is not None
        each = 1.0 if b is not None else t.self_weight
        lines, own = solver.lines(mass, t.mass, beta, each / P, b, t.self_weight)
        result.y = _times(t.passes.look_up(t, y, b, lines, own), solver.unit)
    return result


def _times(gradient: Tensor, unit: float) -> Tensor:
    return gradient if unit == 1 else gradient.mul_(unit)


def _batched(x: Tensor, y: Tensor, a: Any, b: Any, xi: Directions, kernel: Kernel, unbiased: bool, need: Any) -> Result:
    shape = x.shape[:-2]
    wa, wb = (None if w is None else w.expand(*shape, w.shape[-1]).flatten(0, -2) for w in (a, b))
    each = [
        evaluate(p, q, None if wa is None else wa[k], None if wb is None else wb[k], xi, kernel, unbiased, need)
        for k, (p, q) in enumerate(zip(x.flatten(0, -3), y.flatten(0, -3), strict=True))
    ]
    stacked: dict[str, Any] = {
        name: None if getattr(each[0], name) is None else torch.stack([getattr(r, name) for r in each])
        for name in ("value", "x", "y")
    }
    viewed: dict[str, Any] = {name: None if s is None else s.view(*shape, *s.shape[1:]) for name, s in stacked.items()}
    return Result(**viewed)


def _self_weight(w: Tensor | None, x: Tensor) -> float:
    return 1 / x.shape[0] if w is None else float((w.detach().double() ** 2).sum())


# Range of the bins.


@plain
def grids(y: Tensor | Stream, x: Tensor, xi: Directions, kernel: Kernel, value: bool, group: Group = None) -> list[Tables]:
    """Empty tables on all parts of the directions, with bins for two clouds; for gradients alone fewer may do."""
    (first_y, M), (first_x, N) = offset(_many(y), group), offset(len(x), group)
    half = max(_SAMPLE // 2, min(_SAMPLE, (M + N) // 32))
    rows = np.random.default_rng(0).integers(0, 2**62, half)
    # In NumPy, for PyTorch's threads go on spinning after an operation, in the way of those that count.
    points = np.concatenate([_rows(x, rows % N - first_x, group), _rows(y, rows % M - first_y, group)])
    empty = empties(xi, points, x)
    for t in empty:
        if kernel == Riesz(1.0):
            settle(t, points, BINS if value else _enough(t.xi, M + N))
        else:
            assert isinstance(y, Tensor)
            _settle_evenly(t, y, x, kernel, group)
    return empty


def _enough(xi: Directions, points: int) -> int:
    """Bins for a gradient: so few for few points that filling and cumulating the tables costs less than counting does.

    Not on dense directions, which serve small d: there whole numbers stay whole, and are told apart by empty bins between them.
    """
    many = points // _PER_BIN if isinstance(xi, Hadamard) else BINS
    return max(_FEWEST_BINS, min(BINS, 1 << max(0, many.bit_length() - 1)))


def _many(x: Tensor | Stream) -> int:
    return len(x) if isinstance(x, Tensor) else x.count()


def _rows(x: Tensor | Stream, rows: np.ndarray, group: Group) -> np.ndarray:
    """Rows of all ranks' points, numbered from this rank's first one."""
    here = (rows >= 0) & (rows < _many(x))
    if not isinstance(x, Tensor):
        mine = x.rows(rows[here])
    elif x.device.type == "cpu":
        mine = x.detach().numpy()[rows[here]]
    else:
        mine = x.detach()[torch.from_numpy(rows[here]).to(x.device)].cpu().numpy()
    if group is None:
        return mine
    found = np.zeros((len(rows), mine.shape[1]), mine.dtype)
    found[here] = mine
    return summed(found, group)


@plain
def empties(xi: Directions, points: np.ndarray, like: Tensor) -> list[Tables]:
    """Tables without bins on all parts of the directions; `points` (S, d) are a sample of the clouds, the target's last."""
    # The median of some points as the origin: near it projections keep more digits, and no outlier moves it.
    middle = min(15, len(points) - 1)
    shift = np.partition(points[-31:], middle, axis=0)[middle]
    largest = float(max((points.max(0) - shift).max(), (shift - points.min(0)).max()))
    origin, scale = torch.from_numpy(shift).to(like), power_of_two(within_range(largest, like.dtype), like.dtype)
    return [Tables(part, origin, scale, None, None, BINS) for part in parts(xi)]


@plain
def settle(t: Tables, points: np.ndarray, B: int = BINS) -> None:
    """B bins where a sample of the points lies."""
    t.B = B
    p = _project(t, torch.from_numpy(points).to(t.shift)).cpu().numpy()
    p.sort(axis=1)
    S = p.shape[1]
    low, high, middle, first, last = (p[:, k].astype(np.float64) for k in (0, -1, S // 2, S // 10, S - 1 - S // 10))
    margin = 0.15 * (high - low)
    reach = np.where(last > first, 4 * (last - first), high - low + margin)
    low, high = np.maximum(low - margin, middle - reach), np.minimum(high + margin, middle + reach)
    # All projections equal: bins as wide as their rounding, around the value.
    # The unit is that of the points; narrower bins would be lost to overflow.
    least = 1e-4 * np.maximum(np.abs(middle), 1e-6)
    narrow = high - low < least
    _set_range(t, np.where(narrow, middle - least, low), B / np.where(narrow, 2 * least, high - low))


def _set_range(t: Tables, low: np.ndarray, inverse: np.ndarray) -> None:
    t.low, t.inverse = np.ascontiguousarray(low, np.float32), np.ascontiguousarray(inverse, np.float32)
    if t.shift.device.type != "cpu":
        t.low, t.inverse = (torch.from_numpy(v).to(t.shift.device) for v in (t.low, t.inverse))


def _settle_evenly(t: Tables, y: Tensor, x: Tensor, kernel: Kernel, group: Group) -> None:
    """Bins of one width for all slices, and every point inside the range."""
    ends = [t.passes.extent(t, cloud) for cloud in (x, y)]
    low = np.minimum(*(np.asarray(e[0].cpu() if isinstance(e[0], Tensor) else e[0], np.float64) for e in ends))
    high = np.maximum(*(np.asarray(e[1].cpu() if isinstance(e[1], Tensor) else e[1], np.float64) for e in ends))
    low, high = widest(low, high, group)
    cpu.check_inside(np.concatenate([low, high]))
    span = max(float((high - low).max()), 1e-30)
    wave = kernel.basis_scale(t.xi.n)
    length = np.float64(span) / t.scale  # may be infinity, as may the next
    needed = _RIESZ_BINS if wave is None else float(_PER_WAVE * length / wave)
    if needed > _MOST_BINS:
        raise InputError(
            f"kernel: {kernel!r} is too narrow for these points: the widest slice, {length:.3g} long, would need "
            f"{needed:.3g} bins to resolve it, {_MOST_BINS} are accepted; use mmd2 and mmd2_gradient"
        )
    if wave is not None and span > 1e-30 and kernel.length > _WIDEST * length:
        warnings.warn(
            f"kernel: {kernel!r} is more than {_WIDEST:.0e} times as wide as these points lie apart: its values are nearly "
            "equal, and few digits of their differences are left in slices; mmd2_gradient is exact",
            stacklevel=2,
        )
    B = 1 << math.ceil(math.log2(max(needed, 512)))
    width = span / (B - 4)
    t.B = B
    _set_range(t, 0.5 * (low + high) - 0.5 * B * width, np.full(t.xi.P, 1 / width))


def _project(t: Tables, x: Tensor) -> Tensor:
    x = x.detach()
    if x.dtype == torch.float32:
        return t.xi.project(x, t.shift, t.scale)
    return t.xi.project(((x - t.shift) * t.scale).float())


# Passes over the points on the CPU: fused with the fast transform, or on tiles of a matrix product.


def _weights(w: Tensor | None) -> np.ndarray:
    return np.empty(0, np.float32) if w is None else w.detach().float().contiguous().numpy()


class _Fused:
    @staticmethod
    def _common(t: Tables, x: Tensor) -> tuple[Any, ...]:
        assert isinstance(t.xi, Hadamard)
        array = x.detach().numpy()
        return array, t.shift.numpy(), array.dtype.type(t.scale), t.xi.signs[0].numpy(), t.xi.P

    @staticmethod
    def extent(t: Tables, x: Tensor) -> tuple[Any, Any]:
        extent = np.empty((threads(), 2, t.xi.P), np.float32)
        extent[:, 0], extent[:, 1] = np.inf, -np.inf
        share(cpu.fused_extent, len(x), width(t.xi.n), *_Fused._common(t, x), extent)
        return extent[:, 0].min(0), extent[:, 1].max(0)

    @staticmethod
    def count(
        t: Tables, x: Tensor, w: Tensor | None, moments: bool, scale: float, memory: str | None = None
    ) -> tuple[Any, Any]:
        P, bins = t.xi.P, t.B + 2 * TAIL
        counts = scratch("counts", (threads(), P, bins), np.int32 if w is None else np.float32)
        counts.fill(0)
        sums = np.zeros((threads(), P if moments else 1, 2 * TAIL))
        args = *_Fused._common(t, x), t.low, t.inverse, t.B, _weights(w), counts, sums
        share(cpu.fused_count, len(x), width(t.xi.n), *args)
        return _merged(counts, sums, scale, memory, moments)

    @staticmethod
    def look_up(t: Tables, x: Tensor, w: Tensor | None, lines: Any, own: Any) -> Tensor:
        out = fresh(x)
        args = *_Fused._common(t, x), t.low, t.inverse, t.B, _weights(w), lines.view(np.uint64), own, out.numpy()
        share(cpu.fused_look_up, len(x), width(t.xi.n), *args)
        return out


class _Tiled:
    @staticmethod
    def _tiles(t: Tables, x: Tensor) -> Any:
        step = max(512, (1 << 20) // t.xi.P)
        for start in range(0, len(x), step):
            yield start, _project(t, x[start : start + step]).contiguous()

    @staticmethod
    def extent(t: Tables, x: Tensor) -> tuple[Any, Any]:
        ends = [(tile.amin(1), tile.amax(1)) for _, tile in _Tiled._tiles(t, x)]
        return torch.stack([e[0] for e in ends]).amin(0).numpy(), torch.stack([e[1] for e in ends]).amax(0).numpy()

    @staticmethod
    def count(
        t: Tables, x: Tensor, w: Tensor | None, moments: bool, scale: float, memory: str | None = None
    ) -> tuple[Any, Any]:
        P, bins = t.xi.P, t.B + 2 * TAIL
        counts = scratch("counts", (1, P, bins), np.int32 if w is None else np.float32)
        counts.fill(0)
        sums = np.zeros((1, P if moments else 1, 2 * TAIL))
        weights = _weights(w)
        for start, tile in _Tiled._tiles(t, x):
            share(cpu.tile_count, P, 1, tile.numpy(), t.low, t.inverse, t.B, weights, start, counts[0], sums[0])
        return _merged(counts, sums, scale, memory, moments)

    @staticmethod
    def look_up(t: Tables, x: Tensor, w: Tensor | None, lines: Any, own: Any) -> Tensor:
        out = fresh(x)
        weights = _weights(w)
        for start, tile in _Tiled._tiles(t, x):
            share(cpu.tile_look_up, t.xi.P, 1, tile.numpy(), t.low, t.inverse, t.B, weights, start, lines.view(np.uint64), own)
            out[start : start + tile.shape[1]] = t.xi.adjoint(tile)
        return out


def _merged(counts: np.ndarray, sums: np.ndarray, scale: float, memory: str | None, wanted: bool) -> tuple[Any, Any]:
    """mass (P, bins), in the scratch memory of that name or its own, and moments (P, 2·TAIL), of no use if not asked for."""
    cpu.check_inside(sums, wanted)
    shape = counts.shape[1:]
    mass = np.empty(shape, np.float32) if memory is None else scratch(memory, shape, np.float32)
    moments = np.empty(sums.shape[1:])
    share(cpu.merge, len(mass), 1, counts, sums, scale, mass, moments)
    return mass, moments


# From tables to lines that a projection looks up, and to values.


class Cumulated:
    """r = 1: cumulative sums."""

    def __init__(self, t: Tables, kernel: Kernel, mass: Any, moments: Any, self_weight: float) -> None:
        self.t, self.mass, self.moments = t, mass, moments
        self.constant = Riesz(1.0).basis_constant(t.xi.n)
        self.unit = 1.0  # of gradients

    def lines(self, g: Any, f: Any, alpha: float, factor: float, w: Tensor | None, self_weight: float) -> tuple[Any, Any]:
        if isinstance(f, Tensor):
            return Device.cumulate(f, g, alpha, factor * self.constant), None
        lines = scratch("lines", (f.shape[0], 2 * f.shape[1]), np.float32)
        share(cpu.cumulate, len(f), 1, f, g, alpha, factor * self.constant, lines)
        return lines, np.zeros(2, np.float32)

    def integrals(self) -> tuple[Tensor, Tensor, Tensor]:
        """∫(F − G)², ∫F(1 − F) and ∫G(1 − G) on every slice, (P,) each, in the points' unit."""
        t = self.t
        if isinstance(self.mass, Tensor):
            distance, spread_x, spread_y = Device.integrals(t, self.mass, self.moments)
        else:
            out = np.empty((len(self.mass), 3))
            share(cpu.integrals, len(out), 1, self.mass, t.mass, self.moments, t.moments, t.inverse, out)
            distance, spread_x, spread_y = torch.from_numpy(out).unbind(1)
        return distance / t.scale, spread_x / t.scale, spread_y / t.scale

    def values(self, alpha: float, beta: float) -> Tensor:
        """D² on every slice, (P,), times the constant of slicing."""
        distance, spread_x, spread_y = self.integrals()
        return self.constant * (distance - (alpha - 1) * spread_x - (beta - 1) * spread_y)

    def value(self, alpha: float, beta: float, unbiased: bool) -> Tensor:
        return self.values(alpha, beta).sum()


class _Convolved:
    """Any kernel: convolution with its slice along the bins, by FFT. All in the unit of the projections, which are near one."""

    def __init__(self, t: Tables, kernel: Kernel, mass: Any, moments: Any, self_weight: float) -> None:
        self.t, self.kernel, self.self_weight = t, kernel, self_weight
        self.f, self.g = (_equal_bins(m, t.B).float() for m in (mass, t.mass))
        self.width = 1 / float(t.inverse[0])
        # The kernel of the points is this number to the power of its degree times the one of projections.
        self.octaves = -(math.frexp(t.scale)[1] - 1)
        self.unit = 2.0 ** (self.octaves * ((kernel.degree or 0.0) - 1))  # of gradients

    def _slice(self, v: np.ndarray) -> np.ndarray:
        """The kernel's slice at distances between projections."""
        return self.kernel.basis(v if self.kernel.degree is not None else v / self.t.scale, self.t.xi.n)

    def lines(self, g: Any, f: Any, alpha: float, factor: float, w: Tensor | None, self_weight: float) -> tuple[Any, Any]:
        B, on_cpu = self.t.B, isinstance(f, np.ndarray)
        f, g = (_equal_bins(m, B) for m in (f, g))
        K = self._slice(np.arange(B + 1) * self.width)
        K = np.concatenate([K[:0:-1], K])  # offsets −B … B
        q = (K[1:] - K[:-1]) / self.width  # of a bin on the edge j = −B+1 … B bins right of its left edge
        q = torch.from_numpy(np.roll(q, -(B - 1))).to(f)
        spectrum = torch.fft.rfft(alpha * f - g, n=2 * B) * torch.fft.rfft(q)
        slope = torch.fft.irfft(spectrum, n=2 * B)[:, : B + 1]
        lines = torch.zeros(f.shape[0], B + 2 * TAIL, 2, dtype=torch.float32, device=f.device)
        lines[:, TAIL : TAIL + B, 0] = factor * slope[:, :-1]
        lines[:, TAIL : TAIL + B, 1] = factor * slope.diff(dim=1)
        # A point exerts no force on itself, its share of its own bin does: q[0] at the left edge, −q[0] at the right one.
        own = alpha * float(q[0]) * torch.tensor([1.0, -2.0], dtype=torch.float32, device="cpu")
        if w is None:
            lines[:, TAIL : TAIL + B] -= (factor * self_weight * own).to(lines)
            own = torch.zeros_like(own)
        else:
            own *= factor
            lines = lines.contiguous()
        if on_cpu:
            return lines.flatten(1).numpy(), own.numpy()
        return lines, own.to(lines.device)

    def value(self, alpha: float, beta: float, unbiased: bool) -> Tensor:
        B = self.t.B
        # Mean of the slice over two evenly filled bins j apart: ∫ (1 − |v|) k((j + v) w) dv.
        nodes, weights = np.polynomial.legendre.leggauss(16)
        v, c = 0.5 * (nodes + 1), 0.5 * weights * (1 - 0.5 * (nodes + 1))
        j = np.arange(B)[:, None]
        K = sum((self._slice(np.abs(j + s * v) * self.width) * c).sum(1) for s in (1, -1))
        at_zero = float(self._slice(np.zeros(1))[0])
        circle = torch.from_numpy(np.concatenate([K, [0.0], K[:0:-1]])).to(self.f.device)
        spectrum = torch.fft.rfft(circle)
        total = torch.zeros((), dtype=torch.float64, device=self.f.device)
        for f, g in zip(self.f.split(64), self.g.split(64), strict=True):
            f, g = f.double(), g.double()
            by_f, by_g = (torch.fft.irfft(torch.fft.rfft(m, n=2 * B) * spectrum, n=2 * B)[:, :B] for m in (f, g))
            if unbiased:
                xx = alpha * ((f * by_f).sum(1) - self.self_weight * K[0])
                yy = beta * ((g * by_g).sum(1) - self.t.self_weight * K[0])
                total += (0.5 * (xx + yy) - (f * by_g).sum(1)).sum()
            else:
                h = f - g
                # The pairs of a point with itself are at distance 0, not anywhere in a bin.
                own = (self.self_weight + self.t.self_weight) * (at_zero - K[0])
                total += (0.5 * ((h * (by_f - by_g)).sum(1) + own)).sum()
        power = torch.tensor(self.octaves * (self.kernel.degree or 0.0), dtype=torch.float64, device=total.device)
        return times_power_of_two(total, power)


def _equal_bins(mass: Any, B: int) -> Tensor:
    return (torch.from_numpy(mass) if isinstance(mass, np.ndarray) else mass)[:, TAIL : TAIL + B]
