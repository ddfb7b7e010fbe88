"""Compiled loops of the energy score over all pairs of an ensemble, in one dimension and in several."""

from __future__ import annotations

import math

import numba
import numpy as np

from rieszflow._infra.jit import OPTIONS, SUMS

__all__ = ["in_space", "on_line", "scaled"]

_LARGE = 400  # the largest coordinate of a forecast is scaled to about 2^400: see `_pairs`


@numba.njit(**SUMS)
def on_line(first, last, worker, tile, x, y, w, distinct, score, gradient):
    """Write the scores of forecasts first … last − 1, and their gradients unless that array is empty.

    x (B, m), y (B,), w (B or 1, m), distinct (B or 1,), score (B,), gradient (B or 0, m).
    """
    m = x.shape[1]
    for b in range(first, last):
        c = b if w.shape[0] > 1 else 0
        away, apart, yb = 0.0, 0.0, y[b]
        for i in range(m):
            xi, row = x[b, i], 0.0
            for j in range(i):
                row += w[c, j] * abs(xi - x[b, j])
            away += w[c, i] * abs(xi - yb)
            apart += w[c, i] * row
        score[b] = away - apart / distinct[c]
        if gradient.shape[0] > 0:
            for i in range(m):
                xi, row = x[b, i], 0.0
                for j in range(m):
                    row += (w[c, j] if xi > x[b, j] else 0.0) - (w[c, j] if xi < x[b, j] else 0.0)
                pulled = (1.0 if xi > yb else 0.0) - (1.0 if xi < yb else 0.0)
                gradient[b, i] = w[c, i] * (pulled - row / distinct[c])


@numba.njit(**OPTIONS)
def scaled(first, last, worker, tile, x, y, x_out, y_out, shift):
    """Write x (B, m, d) · 2^shift to x_out (B, d, m) and y (B, d) · 2^shift to y_out; the largest becomes about 2^400."""
    _, m, d = x.shape
    for b in range(first, last):
        largest = 0.0
        for k in range(d):
            largest = max(largest, abs(y[b, k]))
            for i in range(m):
                largest = max(largest, abs(x[b, i, k]))
        shift[b] = min(1000, _LARGE - math.frexp(largest)[1]) if 0 < largest < np.inf else 0
        unit = math.ldexp(1.0, shift[b])
        for k in range(d):
            y_out[b, k] = y[b, k] * unit
            for i in range(m):
                x_out[b, k, i] = x[b, i, k] * unit


@numba.njit(**SUMS)
def in_space(first, last, worker, tile, x, y, w, distinct, parts, gradient):
    """Write the contributions of members first … last − 1 to the scores, and their gradients unless that array is empty.

    x (B, d, m), y (B, d), w (B or 1, m), distinct (B or 1,), parts (B, m), gradient (B or 0, d, m).
    """
    _, d, m = x.shape
    wanted = gradient.shape[0] > 0
    rho = np.empty(m)
    for member in range(first, last):
        b, i = member // m, member % m
        c = b if w.shape[0] > 1 else 0
        others = m if wanted else i  # without gradients every pair is seen once
        rho[:others] = 0.0
        square = 0.0
        for k in range(d):
            xi = x[b, k, i]
            square += (xi - y[b, k]) ** 2
            for j in range(others):
                rho[j] += (xi - x[b, k, j]) ** 2
        total = 0.0
        for j in range(others):
            rho[j] = math.sqrt(rho[j])
            total += w[c, j] * rho[j]
        away = math.sqrt(square)
        parts[b, i] = w[c, i] * (away - total / ((2 if wanted else 1) * distinct[c]))
        if not wanted:
            continue
        for j in range(m):
            rho[j] = w[c, j] / rho[j] if rho[j] > 0 else 0.0
        pulled = 1 / away if away > 0 else 0.0
        for k in range(d):
            xi, pushed = x[b, k, i], 0.0
            for j in range(m):
                pushed += rho[j] * (xi - x[b, k, j])
            gradient[b, k, i] = w[c, i] * (pulled * (xi - y[b, k]) - pushed / distinct[c])
