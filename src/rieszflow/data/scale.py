"""Column scales: divide every column by its robust spread, so that distances do not depend on the columns' units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
from torch import Tensor

from rieszflow._infra.messages import notice
from rieszflow._types import ScaleName
from rieszflow.data.dataset import column_spreads
from rieszflow.data.streams import Stream
from rieszflow.errors import InputError

_ROWS = 1 << 14  # the quartiles of this many rows are off by 1 % of the spread
_NUMBERS = 1 << 24  # coordinates, at most, of the sample
_LOOK = 256  # rows of an array that decide if a notice is given
_UNEQUAL = 10.0  # ratio of an array's spreads above which a notice is given
_FEWEST = 30  # rows; with fewer, spreads differ by chance


def check_scale(scale: object) -> None:
    """Raise InputError unless `scale` is a name of `ScaleName`."""
    if not isinstance(scale, str) or scale not in get_args(ScaleName):
        raise InputError(f"`scale` must be one of {', '.join(map(repr, get_args(ScaleName)))}, got {scale!r}")


def choose_spreads(scale: ScaleName, clouds: Sequence[Stream]) -> tuple[float, ...] | None:
    """Return the spreads to divide the columns of clouds by, computed from the pooled points; None for raw units.

    "auto" scales clouds with named columns; for arrays whose spreads differ more than tenfold it gives a notice instead. The
    spreads do not depend on which cloud a point belongs to, so a permutation test on scaled points stays exact.
    """
    check_scale(scale)
    if other := next((cloud for cloud in clouds if cloud.d != clouds[0].d), None):
        raise InputError(f"{other.name}: must have points of dimension {clouds[0].d}, as {clouds[0].name} has, got {other.d}")
    named = any(cloud.names is not None and not cloud.common_unit for cloud in clouds)
    if scale == "columns" or (scale == "auto" and named):
        return tuple(_pooled_spreads(clouds).tolist())
    if scale == "auto" and not any(cloud.common_unit for cloud in clouds):
        random = np.random.default_rng(0)
        sizes = [cloud.n or len(cloud.first) for cloud in clouds]
        some = [cloud.rows(random.integers(0, n, max(1, _LOOK // len(clouds)))) for cloud, n in zip(clouds, sizes, strict=True)]
        _notice_unequal(clouds[0].name, np.concatenate(some), sum(sizes))
    return None


def spreads_of_rows(scale: ScaleName, rows: Tensor, named: bool, common_unit: bool) -> tuple[float, ...] | None:
    """Return the spreads for `scale` from rows (m, d) only; see `choose_spreads`."""
    check_scale(scale)
    array = rows.double().cpu().numpy()
    if scale == "columns" or (scale == "auto" and named):
        return tuple(column_spreads(array).tolist())
    if scale == "auto" and not common_unit:
        _notice_unequal("rows", array[np.random.default_rng(0).integers(0, len(array), _LOOK)], len(array))
    return None


def _pooled_spreads(clouds: Sequence[Stream]) -> np.ndarray:
    """Compute column spreads in one pass: quartiles from a sample of the points, standard deviations from all of them."""
    d = clouds[0].d
    most = max(_LOOK, min(_ROWS, _NUMBERS // d))
    # Rows are drawn by position, not by value, so that a change of unit does not change the sample.
    random = np.random.default_rng(0)
    rows, keys = np.empty((0, d)), np.empty(0)
    origin = clouds[0].first[0].double().cpu().numpy()
    sums, squares, n = np.zeros(d), np.zeros(d), 0
    with np.errstate(over="ignore", invalid="ignore"):
        for cloud in clouds:
            for batch in [cloud.first] if cloud.once else cloud:
                points = batch.double().cpu().numpy()
                drawn = random.random(len(points))
                keep = drawn < keys.max() if len(keys) == most else np.ones(len(points), bool)
                rows, keys = np.concatenate([rows, points[keep]]), np.concatenate([keys, drawn[keep]])
                if len(keys) > most:
                    least = np.argpartition(keys, most)[:most]
                    rows, keys = rows[least], keys[least]
                points = points - origin
                sums, squares, n = sums + points.sum(0), squares + (points**2).sum(0), n + len(points)
        variance = squares / n - (sums / n) ** 2
        # The difference cancels if the origin is far from the mean; `squares` is 0 exactly for constant columns.
        deviation = np.where(squares > 0, np.sqrt(np.maximum(variance, 1e-12 * squares / n)), 0)
    return column_spreads(rows, deviation)


def _notice_unequal(name: str, rows: np.ndarray, n: int) -> None:
    varying = np.flatnonzero(np.ptp(rows, axis=0) > 0)
    if len(varying) < 2 or n < _FEWEST:
        return
    spreads = column_spreads(rows)[varying]
    least, most = int(spreads.argmin()), int(spreads.argmax())
    if spreads[most] > _UNEQUAL * spreads[least]:
        notice(
            f"{name}: the spread of column {varying[most]} is {spreads[most] / spreads[least]:.3g} times that of column "
            f'{varying[least]} and dominates the distance; scale="columns" divides every column by its spread, '
            'scale="none" keeps the units without this notice'
        )
