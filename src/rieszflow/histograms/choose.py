"""Where the bins should be: a few points decide for the distribution functions, all points do for a convolution."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.isolation import isolated_numerics
from rieszflow._infra.ranks import Group, all_reduce_range, all_reduce_sum, offset
from rieszflow._infra.scaling import power_of_two, within_range
from rieszflow._types import Batches
from rieszflow.directions import Directions, HadamardDirections, PatchDirections
from rieszflow.errors import InputError
from rieszflow.histograms import backends
from rieszflow.histograms.grid import BinGrid, Projector, parts, with_bins
from rieszflow.histograms.lines import check_inside
from rieszflow.kernels import Kernel

__all__ = ["BINS", "choose_bins", "cumulates", "frames", "grids", "sample_points"]

BINS = 1024  # equal bins of a slice, fewer for the gradients of few points
_FEWEST_BINS = 128
_PER_BIN = 8  # points; their random places within a bin are an error small beside the slices' own
_SAMPLE = 128  # points of each cloud, at most, that decide the range, and half as many at least
_MOST_BINS = 16384
_PER_WAVE = 6.0  # equal bins in a kernel's basis_scale, which is a wave length over 2π
_RIESZ_BINS = 4096
_WIDEST = 1e4  # times the widest slice: a kernel is 1 − 1e-8 there, and its digits beyond the fourth are in doubt


def cumulates(kernel: Kernel) -> bool:
    """Whether cumulative sums serve a kernel (r = 1). All others need a convolution, and bins of one width on all slices."""
    return kernel.degree == 1


@isolated_numerics
def grids(
    x: Tensor, y: Tensor | Batches, directions: Directions, kernel: Kernel, *, value: bool, group: Group
) -> list[BinGrid]:
    """Bins for two clouds on all parts of the directions. For gradients of few points fewer bins do."""
    points, many = sample_points(x, y, group)
    found = frames(directions, points, x)
    if cumulates(kernel):
        return [choose_bins(f, points, BINS if value else n_bins_for(f.directions, many)) for f in found]
    assert isinstance(y, Tensor)
    return [uniform_bins(f, x, y, kernel, group) for f in found]


def sample_points(x: Tensor, y: Tensor | Batches, group: Group) -> tuple[np.ndarray, int]:
    """Random points of both clouds that decide the range, those of y last, and how many points there are in all."""
    (first_y, M), (first_x, N) = offset(_many(y), group), offset(len(x), group)
    half = max(_SAMPLE // 2, min(_SAMPLE, (M + N) // 32))
    rows = np.random.default_rng(0).integers(0, 2**62, half)
    # By NumPy: PyTorch's threads go on spinning after an operation, in the way of those that count.
    return np.concatenate([_rows(x, rows % N - first_x, group), _rows(y, rows % M - first_y, group)]), M + N


def n_bins_for(directions: Directions, points: int) -> int:
    """Bins for a gradient: so few for few points that filling and cumulating the tables costs less than counting does.

    Not on dense directions, which serve small d: there whole numbers stay whole, and empty bins between them tell them apart.
    """
    many = points // _PER_BIN if isinstance(directions, (HadamardDirections, PatchDirections)) else BINS
    return max(_FEWEST_BINS, min(BINS, 1 << max(0, many.bit_length() - 1)))


def _many(x: Tensor | Batches) -> int:
    return len(x) if isinstance(x, Tensor) else x.count()


def _rows(x: Tensor | Batches, rows: np.ndarray, group: Group) -> np.ndarray:
    """Rows of all ranks' points, numbered from this rank's first one."""
    here = (rows >= 0) & (rows < _many(x))
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
    all_reduce_sum(found, group)
    return found


@isolated_numerics
def frames(directions: Directions, points: np.ndarray, like: Tensor) -> list[Projector]:
    """The frames of all parts of the directions; `points` (S, d) are a sample of the clouds, the target's last."""
    # The median of some points as the origin: near it projections keep more digits, and no outlier moves it.
    middle = min(15, len(points) - 1)
    shift = np.partition(points[-31:], middle, axis=0)[middle]
    largest = float(max((points.max(0) - shift).max(), (shift - points.min(0)).max()))
    origin, scale = torch.from_numpy(shift).to(like), power_of_two(within_range(largest, like.dtype), like.dtype)
    return [Projector(part, origin, scale) for part in parts(directions)]


@isolated_numerics
def choose_bins(frame: Projector, points: np.ndarray, B: int = BINS) -> BinGrid:
    """B bins on every slice where a sample of the points (S, d) lies, its outliers left out."""
    p = frame.project(torch.from_numpy(points).to(frame.shift)).cpu().numpy()
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
    return with_bins(frame, np.where(narrow, middle - least, low), B / np.where(narrow, 2 * least, high - low), B)


def uniform_bins(frame: Projector, x: Tensor, y: Tensor, kernel: Kernel, group: Group) -> BinGrid:
    """Bins of one width on all slices, narrow enough for the kernel, and every point inside the range."""
    ends = [backends.of(frame).extent(frame, cloud) for cloud in (x, y)]
    low = np.minimum(*(np.asarray(e[0].cpu().numpy(), np.float64) for e in ends))
    high = np.maximum(*(np.asarray(e[1].cpu().numpy(), np.float64) for e in ends))
    low, high = all_reduce_range(low, high, group)
    check_inside(np.concatenate([low, high]))
    span = max(float((high - low).max()), 1e-30)
    length = float(np.float64(span) / frame.scale)  # may be infinity, as may what is made of it
    B = 1 << math.ceil(math.log2(max(_needed(kernel, frame.directions.n, length), 512)))
    wave = kernel.basis_scale(frame.directions.n)
    if wave is not None and span > 1e-30 and kernel.length > _WIDEST * length:
        warnings.warn(
            f"kernel: {kernel!r} is more than {_WIDEST:.0e} times as wide as these points lie apart: its values are nearly "
            "equal, and few digits of their differences are left in slices; mmd2_gradient is exact",
            stacklevel=2,
        )
    width = span / (B - 4)
    return with_bins(frame, 0.5 * (low + high) - 0.5 * B * width, np.full(frame.directions.P, 1 / width), B)


def _needed(kernel: Kernel, n: int, length: float) -> float:
    """Equal bins that resolve a kernel's slice over a length, if there are not too many of them."""
    wave = kernel.basis_scale(n)
    needed = _RIESZ_BINS if wave is None else float(np.float64(_PER_WAVE * length) / wave)
    if needed > _MOST_BINS:
        raise InputError(
            f"kernel: {kernel!r} is too narrow for these points: the widest slice, {length:.3g} long, would need "
            f"{needed:.3g} bins to resolve it, {_MOST_BINS} are accepted; use mmd2 and mmd2_gradient"
        )
    return needed
