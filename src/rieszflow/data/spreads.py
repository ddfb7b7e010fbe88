"""The robust spread of a column: one rule for tests, sketches, conditions and generative models."""

from __future__ import annotations

import numpy as np

__all__ = ["column_spreads"]


def column_spreads(rows: np.ndarray, deviation: np.ndarray | None = None) -> np.ndarray:
    """Return the interquartile range of every column of rows (m, d), its standard deviation where that is 0: (d,) float64.

    1 for constant columns, and for spreads that float64 cannot divide by.

    Args:
        rows: points (m, d), or a sample of them.
        deviation: standard deviations of all points (d,), where `rows` is a sample; None for those of `rows`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if deviation is None:
            deviation = np.where(np.ptp(rows, axis=0) > 0, rows.std(0), 0)  # rounding leaves constants a deviation
        quartiles = np.percentile(rows, [25, 75], axis=0)
        spreads = quartiles[1] - quartiles[0]
    spreads = np.where(spreads > 0, spreads, deviation)
    return np.where((spreads > 2.0**-900) & (spreads < 2.0**1023), spreads, 1.0)
