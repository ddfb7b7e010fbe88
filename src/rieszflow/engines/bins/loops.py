"""The bins' compiled loops on the CPU: count, cumulate, look up, integrate.

`fused_count` and `fused_look_up` are the hot path of the library. Nothing here holds more than a tile of projections a thread.
Every loop that is shared out takes first, last, worker and the size of a tile in front: see `_numba.share`.
"""

from __future__ import annotations

import numba
import numpy as np

from rieszflow._numba import INLINE, OPTIONS
from rieszflow.directions.loops import backward, forward
from rieszflow.engines.bins.layout import STEEP, TAIL, place, tail_edge

__all__ = [
    "cumulate",
    "fused_count",
    "fused_extent",
    "fused_look_up",
    "integrals",
    "locate",
    "merge",
    "read_back",
    "tile_count",
    "tile_look_up",
    "write_down",
]


@numba.njit(**INLINE)
def locate(row, m, low, inverse, B, u, index):
    """Positions u in equal bins, and index TAIL + floor(u); returns 0 if all are inside the range."""
    far = np.uint32(0)
    for t in range(m):
        v = (row[t] - low) * inverse
        # + 1: conversion to whole numbers rounds towards zero
        k = np.int32(min(max(v, np.float32(-1)), np.float32(B)) + np.float32(1))
        far |= np.uint32((k - 1) | (B - k)) >> np.uint32(31)  # the sign bit of either
        u[t] = v
        index[t] = k + (TAIL - 1)  # unsigned, so that Numba looks for no negative ones
    return far


@numba.njit(**OPTIONS)
def count_outside(m, B, w, first, sums, u, index):
    """Bins of a row's points outside the range, whose positions are added to `sums`. Rare, and kept out of the hot loop."""
    for t in range(m):
        if index[t] < TAIL or index[t] >= TAIL + B:
            k, _ = place(u[t], B)
            index[t] = k
            sums[k if k < TAIL else k - B] += u[t] * (w[first + t] if w.shape[0] else 1.0)


@numba.njit(**INLINE)
def count_row(row, m, low, inverse, B, w, first, table, base, sums, u, index):
    """Adds a row of projections to a slice's table, which begins at `base` in the flat `table`."""
    if locate(row, m, low, inverse, B, u, index):
        count_outside(m, B, w, first, sums, u, index)
    if w.shape[0]:
        for t in range(m):
            table[base + index[t]] += w[first + t]
    else:
        for t in range(m):
            table[base + index[t]] += np.int32(1)


@numba.njit(**OPTIONS)
def place_all(m, B, u, index):
    for t in range(m):
        k, u[t] = place(u[t], B)
        index[t] = k


@numba.njit(**OPTIONS)
def weigh(row, m, w, first, own, u):
    for t in range(m):
        row[t] = w[first + t] * (row[t] - w[first + t] * (own[0] + u[t] * own[1]))


@numba.njit(**INLINE)
def look_up_row(row, m, low, inverse, B, w, first, lines, base, own, u, index, pair, halves):
    """row = value + fraction · slope of every projection's bin, times its weight, less what its own mass does there.

    `lines` holds value and slope of a bin as one number of 64 bits, so that a look-up is one access; `halves` is a view of
    `pair`.
    """
    if locate(row, m, low, inverse, B, u, index):
        place_all(m, B, u, index)
    else:
        for t in range(m):
            u[t] -= np.float32(np.int32(index[t]) - TAIL)
    for t in range(m):
        pair[t] = lines[base + index[t]]
    for t in range(m):
        row[t] = halves[2 * t] + u[t] * halves[2 * t + 1]
    if w.shape[0]:
        weigh(row, m, w, first, own, u)


# The fused passes over particles: load, transform, count or look up, transform back.


@numba.njit(**OPTIONS)
def fused_extent(first, last, worker, T, x, shift, scale, signs, rows, extent):
    """Least and greatest projection on every slice: extent (workers, 2, P)."""
    tile = np.empty(signs.shape[1] * T, np.float32)
    for start in range(first, last, T):
        m = min(T, last - start)
        forward(tile, x, start, m, shift, scale, signs, T)
        for p in range(rows):
            low, high = extent[worker, 0, p], extent[worker, 1, p]
            for t in range(m):
                v = tile[p * T + t]
                low, high = min(low, v), max(high, v)
            extent[worker, 0, p], extent[worker, 1, p] = low, high


@numba.njit(**OPTIONS)
def fused_count(first, last, worker, T, x, shift, scale, signs, rows, low, inverse, B, w, tables, sums):
    tile = np.empty(signs.shape[1] * T, np.float32)
    last_sums = sums.shape[1] - 1  # one row serves all slices where nobody asks for positions
    table, bins = tables[worker].reshape(-1), np.uint32(tables.shape[2])
    u, index = np.empty(T, np.float32), np.empty(T, np.uint32)
    for start in range(first, last, T):
        m = min(T, last - start)
        forward(tile, x, start, m, shift, scale, signs, T)
        for p in range(rows):
            row = tile[p * T : p * T + m]
            base, far = np.uint32(p) * bins, sums[worker, min(p, last_sums)]
            count_row(row, m, low[p], inverse[p], B, w, start, table, base, far, u, index)


@numba.njit(**OPTIONS)
def fused_look_up(first, last, worker, T, x, shift, scale, signs, rows, low, inverse, B, w, lines, own, out):
    tile = np.empty(signs.shape[1] * T, np.float32)
    u, index, pair = np.empty(T, np.float32), np.empty(T, np.uint32), np.empty(T, np.uint64)
    halves, flat, bins = pair.view(np.float32), lines.reshape(-1), np.uint32(lines.shape[1])
    for start in range(first, last, T):
        m = min(T, last - start)
        forward(tile, x, start, m, shift, scale, signs, T)
        for p in range(rows):
            row = tile[p * T : p * T + m]
            look_up_row(row, m, low[p], inverse[p], B, w, start, flat, np.uint32(p) * bins, own, u, index, pair, halves)
        tile[rows * T :] = 0
        backward(tile, out, start, m, signs, T)


# The same on projections that came out of a matrix product, a tile (P, m) at a time; threads share the slices.


@numba.njit(**OPTIONS)
def tile_count(first, last, worker, step, projected, low, inverse, B, w, start, table, sums):
    m, last_sums = projected.shape[1], sums.shape[0] - 1
    u, index, zero = np.empty(m, np.float32), np.empty(m, np.uint32), np.uint32(0)
    for p in range(first, last):
        far = sums[min(p, last_sums)]
        count_row(projected[p], m, low[p], inverse[p], B, w, start, table[p], zero, far, u, index)


@numba.njit(**OPTIONS)
def tile_look_up(first, last, worker, step, projected, low, inverse, B, w, start, lines, own):
    m = projected.shape[1]
    u, index, pair = np.empty(m, np.float32), np.empty(m, np.uint32), np.empty(m, np.uint64)
    halves, zero = pair.view(np.float32), np.uint32(0)
    for p in range(first, last):
        look_up_row(projected[p], m, low[p], inverse[p], B, w, start, lines[p], zero, own, u, index, pair, halves)


# Tables.


@numba.njit(**OPTIONS)
def merge(first, last, worker, step, tables, sums, scale, mass, moments):
    """Tables of the workers (workers, P, bins) to mass (P, bins); the sums of positions outside likewise."""
    for p in range(first, last):
        for b in range(mass.shape[1]):
            total = tables[0, p, b]
            for k in range(1, tables.shape[0]):
                total += tables[k, p, b]
            mass[p, b] = total * scale
        for b in range(moments.shape[1] if p < moments.shape[0] else 0):
            s = 0.0
            for k in range(sums.shape[0]):
                s += sums[k, p, b]
            moments[p, b] = s * scale


@numba.njit(**OPTIONS)
def limited(mass, b):
    """The part of a bin's mass that is spread over it; the rest is a tie in its middle."""
    left = mass[b - 1] if b > 0 else np.float32(0)
    right = mass[b + 1] if b + 1 < mass.shape[0] else np.float32(0)
    return min(mass[b], np.float32(STEEP) * min(left, right))


@numba.njit(**OPTIONS)
def cumulate(first, last, worker, step, f, g, alpha, factor, lines):
    """lines (P, 2·bins): value at a bin's left edge and rise over it, in turn, of factor·[2G − 1 − α(2F − 1)]."""
    for p in range(first, last):
        F, G = 0.0, 0.0
        for b in range(f.shape[1]):
            df, dg = f[p, b], g[p, b]
            middle = 2.0 * G + dg - 1.0 - alpha * (2.0 * F + df - 1.0)
            rise = 2.0 * (limited(g[p], b) - alpha * limited(f[p], b))
            lines[p, 2 * b] = factor * (middle - 0.5 * rise)
            lines[p, 2 * b + 1] = factor * rise
            F += df
            G += dg


@numba.njit(**OPTIONS)
def write_down(first, last, worker, step, f, g, factor, unit, table):
    """factor·(G − F) at the edges of the equal bins: table (P, B + 1) of whole numbers in [−127, 127], in units (P,)."""
    B = table.shape[1] - 1
    edges = np.empty(B + 1)
    for p in range(first, last):
        total, largest = 0.0, 0.0
        for b in range(TAIL):
            total += g[p, b] - f[p, b]
        for b in range(B + 1):
            edges[b] = total
            largest = max(largest, abs(total))
            if b < B:
                total += g[p, TAIL + b] - f[p, TAIL + b]
        to_whole = 127 / largest if largest > 0 else 0.0
        unit[p] = factor * largest / 127
        for b in range(B + 1):
            table[p, b] = np.int8(np.rint(edges[b] * to_whole))


@numba.njit(**OPTIONS)
def read_back(first, last, worker, step, table, unit, lines):
    """lines (P, 2·bins): value at a bin's left edge and rise over it, in turn; without a rise in geometric bins."""
    B = table.shape[1] - 1
    for p in range(first, last):
        for b in range(TAIL):
            lines[p, 2 * b], lines[p, 2 * b + 1] = table[p, 0] * unit[p], 0
            lines[p, 2 * (TAIL + B + b)], lines[p, 2 * (TAIL + B + b) + 1] = table[p, B] * unit[p], 0
        for b in range(B):
            value = table[p, b] * unit[p]
            lines[p, 2 * (TAIL + b)], lines[p, 2 * (TAIL + b) + 1] = value, table[p, b + 1] * unit[p] - value


@numba.njit(**OPTIONS)
def total_and_end(mass):
    """Sum of a slice's table, and the bin after the last one that is not empty."""
    total, end = 0.0, 0
    for b in range(mass.shape[0]):
        if mass[b] > 0:
            total += mass[b]
            end = b + 1
    return total, end


@numba.njit(**OPTIONS)
def integrals(first, last, worker, step, f, g, f_moments, g_moments, inverse, out):
    """out (P, 3): ∫(F − G)², ∫F(1 − F), ∫G(1 − G); linear in equal bins, a jump at the mean in geometric ones."""
    B = f.shape[1] - 2 * TAIL
    for p in range(first, last):
        f_total, f_end = total_and_end(f[p])
        g_total, g_end = total_and_end(g[p])
        F = G = d = sf = sg = 0.0
        for b in range(max(f_end, g_end)):
            # Tables are float32 and sum to one up to rounding: here exactly, for some geometric bins are very wide.
            df, dg = f[p, b] / f_total, g[p, b] / g_total
            F1, G1 = F + df if b + 1 < f_end else 1.0, G + dg if b + 1 < g_end else 1.0
            h, e = F - G, F1 - G1
            if TAIL <= b < TAIL + B:
                d += (h * h + h * e + e * e) / 3
                sf += (F + F1) / 2 - (F * F + F * F1 + F1 * F1) / 3
                sg += (G + G1) / 2 - (G * G + G * G1 + G1 * G1) / 3
            elif F1 > 0 or G1 > 0:
                if b < TAIL:
                    left, right, s = -tail_edge(TAIL - b, B), -tail_edge(TAIL - 1 - b, B), b
                else:
                    left, right, s = B + tail_edge(b - TAIL - B, B), B + tail_edge(b - TAIL - B + 1, B), b - B
                cf = f_moments[p, s] / f[p, b] if df > 0 else left
                cg = g_moments[p, s] / g[p, b] if dg > 0 else left
                # What lies beyond the outermost edges is in the outermost bins, and nothing is beyond it.
                if b == 0:
                    left = min(cf if df > 0 else cg, cg if dg > 0 else cf)
                    cf, cg = max(cf, left), max(cg, left)
                if b == f.shape[1] - 1:
                    right = max(cf, cg)
                one, two = min(cf, cg), max(cf, cg)
                between = F1 - G if cf < cg else F - G1
                d += h * h * (one - left) + between * between * (two - one) + e * e * (right - two)
                sf += F * (1 - F) * (cf - left) + F1 * (1 - F1) * (right - cf)
                sg += G * (1 - G) * (cg - left) + G1 * (1 - G1) * (right - cg)
            F, G = F1, G1
        width = 1.0 / inverse[p]
        out[p, 0], out[p, 1], out[p, 2] = d * width, sf * width, sg * width
