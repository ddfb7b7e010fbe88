"""The choice of bins: a sample of points decides for distribution functions, all points decide for a convolution."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.messages import notice
from rieszflow._infra.numerics import power_of_two, power_of_two_tensor, to_device, within_range
from rieszflow._infra.ranks import Group, all_reduce_range, all_reduce_sum, offset
from rieszflow.directions import Directions, HadamardDirections, PatchDirections
from rieszflow.errors import InputError
from rieszflow.histograms.backends import select_backend
from rieszflow.histograms.grid import BinGrid, Projector, check_inside, split_directions
from rieszflow.kernels import Kernel

if TYPE_CHECKING:
    from rieszflow.data import Stream

BINS = 1024  # equal bins of a slice, fewer for the gradients of few points
_FEWEST_BINS = 128
_PER_BIN = 8  # points; their random places within a bin are a small error compared to that of the slices
_SAMPLE = 128  # points of each cloud that decide the range; at least half as many
_MOST_BINS = 16384
_PER_WAVE = 6.0  # equal bins in a kernel's basis_scale, which is a wave length over 2π
_RIESZ_BINS = 4096
_WIDEST = 1e4  # times the widest slice: there a kernel is 1 − 1e-8, and only four digits of it are certain


def uses_cdf(kernel: Kernel) -> bool:
    """Return True if distribution functions serve a kernel (r = 1); others need a convolution, and bins of one width."""
    return kernel.degree == 1


def choose_grids(
    x: Tensor, y: Tensor | Stream, directions: Directions, kernel: Kernel, *, bins: int | None, group: Group
) -> list[BinGrid]:
    """Return bins for two clouds on all parts of the directions; None for as many as a gradient needs."""
    points, many = sample_points(x, y, group)
    projectors = make_projectors(directions, points, x)
    if uses_cdf(kernel):
        return [choose_bins(p, points, bins or n_bins_for(p.directions, many)) for p in projectors]
    assert isinstance(y, Tensor)
    return [uniform_bins(p, x, y, kernel, group) for p in projectors]


def sample_points(x: Tensor, y: Tensor | Stream, group: Group) -> tuple[Tensor, int]:
    """Return random points of both clouds, those of y last, and the number of points of both."""
    (first_y, M), (first_x, N) = offset(len(y) if isinstance(y, Tensor) else y.count(), group), offset(len(x), group)
    half = max(_SAMPLE // 2, min(_SAMPLE, (M + N) // 32))
    rows = np.random.default_rng(0).integers(0, 2**62, half)
    if isinstance(y, Tensor) and x.device.type != "cpu" and group is None:
        return torch.cat([t.detach()[to_device(torch.from_numpy(rows % len(t)), x.device)] for t in (x, y)]), M + N
    # In NumPy, because PyTorch's threads keep spinning after an operation and slow down those that count.
    found = np.concatenate([_rows(x, rows % N - first_x, group), _rows(y, rows % M - first_y, group)])
    return torch.from_numpy(found), M + N


def _rows(x: Tensor | Stream, rows: np.ndarray, group: Group) -> np.ndarray:
    """Return rows of all ranks' points, numbered from this rank's first one."""
    here = (rows >= 0) & (rows < (len(x) if isinstance(x, Tensor) else x.count()))
    mine: np.ndarray
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
    return all_reduce_sum(found, group)


def n_bins_for(directions: Directions, points: int) -> int:
    """Return the number of bins for a gradient: for few points, filling and cumulating tables must cost less than counting.

    Dense directions, which serve small d, have all bins, which keep the projections of integers apart.
    """
    many = points // _PER_BIN if isinstance(directions, (HadamardDirections, PatchDirections)) else BINS
    return max(_FEWEST_BINS, min(BINS, 1 << max(0, many.bit_length() - 1)))


def make_projectors(directions: Directions, points: Tensor, like: Tensor) -> list[Projector]:
    """Return the projectors of all parts of the directions, given a sample of the points (S, d), the target's last."""
    # The origin is the median of some points: near it projections keep more digits, and no outlier moves it.
    middle = min(15, len(points) - 1)
    if points.device.type == "cpu":
        some = points.numpy()
        shift = np.partition(some[-31:], middle, axis=0)[middle]
        largest = float(max((some.max(0) - shift).max(), (shift - some.min(0)).max()))
        scale: float | Tensor = power_of_two(within_range(largest, like.dtype), like.dtype)
        origin = torch.from_numpy(shift).to(like)
    else:
        origin = points[-31:].sort(0).values[middle]
        scale = power_of_two_tensor(torch.maximum(points.amax(0) - origin, origin - points.amin(0)).amax())
    return [Projector(part, origin, scale) for part in split_directions(directions)]


def choose_bins(projector: Projector, points: Tensor, B: int = BINS) -> BinGrid:
    """Return B bins on every slice over the range of a sample of the points (S, d), without its outliers."""
    p = projector.project(points.to(projector.shift))
    if p.device.type == "cpu":
        p.numpy().sort(axis=1)
    else:
        p = p.sort(1).values
    S = len(points)
    low, high, middle, first, last = (p[:, k].double() for k in (0, -1, S // 2, S // 10, S - 1 - S // 10))
    margin = 0.15 * (high - low)
    reach = torch.where(last > first, 4 * (last - first), high - low + margin)
    low, high = torch.maximum(low - margin, middle - reach), torch.minimum(high + margin, middle + reach)
    # If all projections are equal, bins are as wide as their rounding, around the value, in the points' unit.
    least = 1e-4 * middle.abs().clamp(min=1e-6)
    narrow = high - low < least
    return projector.with_bins(torch.where(narrow, middle - least, low), B / torch.where(narrow, 2 * least, high - low), B)


def uniform_bins(projector: Projector, x: Tensor, y: Tensor, kernel: Kernel, group: Group) -> BinGrid:
    """Return bins of one width on all slices that cover all points and resolve the kernel."""
    ends = [select_backend(projector).extent(projector, cloud) for cloud in (x, y)]
    low = np.minimum(*(np.asarray(e[0].cpu().numpy(), np.float64) for e in ends))
    high = np.maximum(*(np.asarray(e[1].cpu().numpy(), np.float64) for e in ends))
    low, high = all_reduce_range(low, high, group)
    check_inside(float(np.abs([low, high]).max()))
    span, n = max(float((high - low).max()), 1e-30), projector.directions.n
    length = float(np.float64(span) / float(projector.scale))  # may be infinite, and so may all that follows from it
    B = 1 << math.ceil(math.log2(max(_bins_needed(kernel, n, length), 512)))
    if kernel.basis_scale(n) is not None and span > 1e-30 and kernel.length > _WIDEST * length:
        notice(
            f"kernel: {kernel!r} is more than {_WIDEST:.0e} times as wide as the points' spread, so its values are nearly "
            "equal and slices keep few digits of their differences; mmd2_gradient is exact"
        )
    width = span / (B - 4)
    return projector.with_bins(0.5 * (low + high) - 0.5 * B * width, np.full(projector.directions.P, 1 / width), B)


def _bins_needed(kernel: Kernel, n: int, length: float) -> float:
    """Return the number of equal bins that resolve a kernel's slice over a length, or refuse the kernel."""
    wave = kernel.basis_scale(n)
    needed = _RIESZ_BINS if wave is None else float(np.float64(_PER_WAVE * length) / wave)
    if needed > _MOST_BINS:
        raise InputError(
            f"`kernel` must be resolved by {_MOST_BINS} bins on the widest slice, of length {length:.3g}, got {kernel!r}, "
            f"which needs {needed:.3g}; use mmd2 and mmd2_gradient"
        )
    return needed
