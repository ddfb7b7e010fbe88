"""Compiled loops of the Walsh–Hadamard transform on the CPU, for `HadamardDirections` and the fused passes of the histograms.

Points are transformed in tiles of T: tile[j·T + i] is coordinate j of the i-th point. Every butterfly is then one operation on
T neighbours, and a tile stays in the second-level cache.
"""

from __future__ import annotations

import numba
import numpy as np

from rieszflow._infra.jit import OPTIONS

__all__ = ["adjoint", "backward", "forward", "project"]


@numba.njit(**OPTIONS)
def butterflies(tile, n, T):
    """Transform every column of a tile (n, T); two levels in one sweep halve the memory traffic."""
    h = 1
    levels = 0
    while (1 << levels) < n:
        levels += 1
    if levels & 1:
        for start in range(0, n * T, 2 * T):
            a, b = tile[start : start + T], tile[start + T : start + 2 * T]
            for k in range(T):
                p, q = a[k], b[k]
                a[k], b[k] = p + q, p - q
        h = 2
    while h < n:
        w = h * T
        for start in range(0, n * T, 4 * w):
            a, b = tile[start : start + w], tile[start + w : start + 2 * w]
            c, d = tile[start + 2 * w : start + 3 * w], tile[start + 3 * w : start + 4 * w]
            for k in range(w):
                p, q, r, s = a[k], b[k], c[k], d[k]
                e, f, g, o = p + q, p - q, r + s, r - s
                a[k], b[k], c[k], d[k] = e + g, f + o, e - g, f - o
        h *= 4


@numba.njit(**OPTIONS)
def scale_rows(tile, factors, T):
    for j in range(factors.shape[0]):
        row = tile[j * T : (j + 1) * T]
        f = factors[j]
        for k in range(T):
            row[k] *= f


@numba.njit(**OPTIONS)
def load_points(tile, x, first, m, shift, scale, factors, T):
    """Write factors·(x − shift)·scale of the points first … first + m − 1 to the tile, and zeros to its other entries."""
    d = x.shape[1]
    tile[(d if m == T else 0) * T :] = 0
    whole = m - m % 8
    for i in range(0, whole, 8):
        # Eight points at a time, so that every cache line of the tile is touched once.
        x0, x1, x2, x3 = x[first + i], x[first + i + 1], x[first + i + 2], x[first + i + 3]
        x4, x5, x6, x7 = x[first + i + 4], x[first + i + 5], x[first + i + 6], x[first + i + 7]
        for j in range(d):
            s, f, line = shift[j], factors[j], tile[j * T + i : j * T + i + 8]
            line[0] = np.float32((x0[j] - s) * scale) * f
            line[1] = np.float32((x1[j] - s) * scale) * f
            line[2] = np.float32((x2[j] - s) * scale) * f
            line[3] = np.float32((x3[j] - s) * scale) * f
            line[4] = np.float32((x4[j] - s) * scale) * f
            line[5] = np.float32((x5[j] - s) * scale) * f
            line[6] = np.float32((x6[j] - s) * scale) * f
            line[7] = np.float32((x7[j] - s) * scale) * f
    for i in range(whole, m):
        for j in range(d):
            tile[j * T + i] = np.float32((x[first + i, j] - shift[j]) * scale) * factors[j]


@numba.njit(**OPTIONS)
def store_points(tile, out, first, m, factors, T):
    """Write factors·tile to the rows first … first + m − 1 of `out`."""
    whole = m - m % 8
    for i in range(0, whole, 8):
        o0, o1, o2, o3 = out[first + i], out[first + i + 1], out[first + i + 2], out[first + i + 3]
        o4, o5, o6, o7 = out[first + i + 4], out[first + i + 5], out[first + i + 6], out[first + i + 7]
        for j in range(out.shape[1]):
            f, line = factors[j], tile[j * T + i : j * T + i + 8]
            o0[j], o1[j], o2[j], o3[j] = line[0] * f, line[1] * f, line[2] * f, line[3] * f
            o4[j], o5[j], o6[j], o7[j] = line[4] * f, line[5] * f, line[6] * f, line[7] * f
    for i in range(whole, m):
        for j in range(out.shape[1]):
            out[first + i, j] = tile[j * T + i] * factors[j]


@numba.njit(**OPTIONS)
def forward(tile, x, first, m, shift, scale, signs, T):
    """Write H·D₂·H·D₁·(x − shift)·scale of the points first … first + m − 1 to the tile; set the other columns to zero."""
    n = signs.shape[1]
    load_points(tile, x, first, m, shift, scale, signs[0] * np.float32(1 / n), T)
    butterflies(tile, n, T)
    scale_rows(tile, signs[1], T)
    butterflies(tile, n, T)


@numba.njit(**OPTIONS)
def backward(tile, out, first, m, signs, T):
    """Write D₁·H·D₂·H·tile to the rows first … first + m − 1 of out: the adjoint of `forward` without shift and scale."""
    n = signs.shape[1]
    butterflies(tile, n, T)
    scale_rows(tile, signs[1], T)
    butterflies(tile, n, T)
    store_points(tile, out, first, m, signs[0] * np.float32(1 / n), T)


@numba.njit(**OPTIONS)
def project(first, last, worker, T, x, shift, scale, signs, row, out):
    tile = np.empty(signs.shape[1] * T, np.float32)
    for start in range(first, last, T):
        m = min(T, last - start)
        forward(tile, x, start, m, shift, scale, signs, T)
        for p in range(out.shape[0]):
            for i in range(m):
                out[p, start + i] = tile[(row + p) * T + i]


@numba.njit(**OPTIONS)
def adjoint(first, last, worker, T, g, signs, row, out):
    tile = np.empty(signs.shape[1] * T, np.float32)
    part = np.empty((T, out.shape[1]), np.float32)
    for start in range(first, last, T):
        m = min(T, last - start)
        tile[:] = 0
        for p in range(g.shape[0]):
            for i in range(m):
                tile[(row + p) * T + i] = g[p, start + i]
        backward(tile, part, 0, m, signs, T)
        for i in range(m):
            for j in range(out.shape[1]):
                out[start + i, j] += part[i, j]
