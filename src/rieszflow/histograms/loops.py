"""The compiled loops on the CPU: count, cumulate, look up, integrate.

A slice's table has TAIL geometric bins, B equal ones over the range, and TAIL geometric ones, two per octave: a point 10⁷
ranges away still has a bin of its own magnitude, so outliers and heavy tails cost neither memory nor resolution.

`hadamard_pass` is the hot path of the library. Row r of a tile holds m projections on slice first + r, from place r·T on.
Functions take many rows, because Numba counts references to every array at a call, which costs as much as the work on a row.
All numbers, also constants, have 32 bits: with Numba's usual 64 a vector would hold half as many.

Loops for `parallel_for` begin with the arguments (first, last, worker, size of a tile). `bins` is (low, inverse, B) of a
`BinGrid`, `source` is (points, shift, scale).
"""

import math

import numba
import numpy as np

from rieszflow._infra.jit import OPTIONS
from rieszflow.directions.hadamard import backward, forward

TAIL = 64
PER_OCTAVE = 2
FIRST = 64.0  # the first geometric bins are as wide as half of B/64 equal ones
STEEP = 2.0
"""A bin with more than this many times the counts of its emptier neighbour holds a point mass.

The excess counts as a tie in the middle of the bin and is not spread over it.
"""


@numba.njit(**OPTIONS)
def locate(u, B):
    """Return the bin, and the fraction inside it, of any position u."""
    # Rounded to the last bit as in `count_rows`: a point must be looked up in the bin that it was counted in.
    above = min(max(np.float32(u), np.float32(-1)), np.float32(B)) + np.float32(1)
    k = int(above) - 1 if above >= 0 else -1  # -1 for NaN, too
    if 0 <= k < B:
        return TAIL + k, np.float32(u - k)
    right = k >= B
    far = u - B if right else -u
    v = 1.0 + (0.0 if far < 0 else far) * (FIRST / B)
    if not v < 1e30:  # infinity and NaN
        v = 1e30
    mantissa, exponent = math.frexp(v)
    within = (2.0 * mantissa - 1.0) * PER_OCTAVE
    step = min(int(within), PER_OCTAVE - 1)
    k = (exponent - 1) * PER_OCTAVE + step
    fraction = np.float32(within - step)
    if k >= TAIL:
        k, fraction = TAIL - 1, np.float32(0.5)
    if right:
        return TAIL + B + k, fraction
    return TAIL - 1 - k, np.float32(1.0) - fraction


@numba.njit(**OPTIONS)
def tail_edge(k, B):
    """Return the distance from the range, in equal bins, of the inner edge of the k-th geometric bin."""
    return (2.0 ** (k // PER_OCTAVE) * (1.0 + (k % PER_OCTAVE) / PER_OCTAVE) - 1.0) * B / FIRST


@numba.njit(**OPTIONS)
def any_outside(index, m, B):
    """Return True if one of the bins is a geometric one."""
    bits = np.int32(0)
    for t in range(m):
        bits |= np.int32(index[t] - np.uint32(TAIL)) | np.int32(np.uint32(TAIL - 1 + B) - index[t])  # the sign bit of either
    return bits < np.int32(0)


@numba.njit(**OPTIONS)
def locate_row(tile, r, m, T, low, inverse, B, u, index):
    """Locate a row with points outside the range. Rare, and kept out of the hot loop."""
    for t in range(m):
        index[t], u[t] = locate((tile[r * T + t] - low) * inverse, B)


@numba.njit(**OPTIONS)
def count_outside(tile, r, m, T, low, inverse, B, w, start, sums, last_sums, p, index):
    """Locate a row's points outside the range, and add their positions to `sums`. Rare, too."""
    for t in range(m):
        if index[t] < TAIL or index[t] >= TAIL + B:
            u = (tile[r * T + t] - low) * inverse
            k, _ = locate(u, B)
            index[t] = k
            sums[min(p, last_sums), k if k < TAIL else k - B] += u * (w[start + t] if w.shape[0] else 1.0)


@numba.njit(**OPTIONS)
def count_rows(tile, rows, m, T, first, low, inverse, B, w, start, tables, sums, index):
    """Add rows of projections of the points start … start + m − 1 to their slices' tables (P, bins)."""
    last_sums = sums.shape[0] - 1  # one row of sums serves all slices if nobody needs them
    flat, bins = tables.reshape(-1), np.uint32(tables.shape[1])
    for r in range(rows):
        row, p = tile[r * T : r * T + m], first + r
        left, per = low[p], inverse[p]
        for t in range(m):
            # + 1: conversion to integers rounds towards zero
            v = min(max((row[t] - left) * per, np.float32(-1)), np.float32(B)) + np.float32(1)
            index[t] = np.uint32(np.int32(v)) + np.uint32(TAIL - 1)  # unsigned, so that Numba does not check for negative ones
        if any_outside(index, m, B):
            count_outside(tile, r, m, T, left, per, B, w, start, sums, last_sums, p, index)
        base = np.uint32(p) * bins
        if w.shape[0]:
            for t in range(m):
                flat[base + index[t]] += w[start + t]
        else:
            for t in range(m):
                flat[base + index[t]] += np.int32(1)


@numba.njit(**OPTIONS)
def look_up_rows(tile, rows, m, T, first, low, inverse, B, w, start, lines, own, u, index, pair):
    """Replace projections by value + fraction · rise of their bins, times the point's weight, less its own contribution.

    `lines` (P, bins) holds value and rise of a bin as one number of 64 bits, so that a look-up is one access. Without `own`,
    they are those of a recorded step, (P, B + 1), constant outside of the range, and there are no weights.
    """
    flat, bins, halves = lines.reshape(-1), np.uint32(lines.shape[1]), pair.view(np.float32)
    for r in range(rows):
        row, p = tile[r * T : r * T + m], first + r
        left, per = low[p], inverse[p]
        if own is None:
            for t in range(m):
                v = (row[t] - left) * per
                v = min(v if v > 0 else np.float32(0), np.float32(B))  # 0 for NaN, too
                k = np.int32(v)
                u[t] = v - np.float32(k)
                index[t] = np.uint32(k)
        else:
            for t in range(m):
                v = (row[t] - left) * per
                k = np.int32(min(max(v, np.float32(-1)), np.float32(B)) + np.float32(1))
                u[t] = v - np.float32(k - np.int32(1))
                index[t] = np.uint32(k) + np.uint32(TAIL - 1)
            if any_outside(index, m, B):
                locate_row(tile, r, m, T, left, per, B, u, index)
        base = np.uint32(p) * bins
        for t in range(m):
            pair[t] = flat[base + index[t]]
        for t in range(m):
            row[t] = halves[2 * t] + u[t] * halves[2 * t + 1]
        if own is not None and w.shape[0]:
            for t in range(m):
                row[t] = w[start + t] * (row[t] - w[start + t] * (own[0] + u[t] * own[1]))


@numba.njit(**OPTIONS)
def extend_rows(tile, rows, m, T, first, extent):
    """Extend the least and greatest projections (2, P) by rows of projections."""
    for r in range(rows):
        low, high = extent[0, first + r], extent[1, first + r]
        for t in range(m):
            v = tile[r * T + t]
            low, high = min(low, v), max(high, v)
        extent[0, first + r], extent[1, first + r] = low, high


# A pass over points does one of four things, and Numba compiles it without the branches of arguments that are None: with
# `extent` (workers, 2, P) it finds the range of the projections, with `tables` and `sums` it counts, with `lines` it looks up
# and transforms back to `out`; without `own`, the lines are those of a recorded step.


@numba.njit(**OPTIONS)
def hadamard_pass(first, last, worker, T, source, hadamard, extent, bins, w, tables, sums, lines, own, out):
    """Load a tile of points, transform it, and use it while it is in the cache. `hadamard` is (signs, rows)."""
    (x, shift, scale), (signs, rows), (low, inverse, B) = source, hadamard, bins
    tile = np.empty(signs.shape[1] * T, np.float32)
    u, index, pair = np.empty(T, np.float32), np.empty(T, np.uint32), np.empty(T, np.uint64)
    for start in range(first, last, T):
        m = min(T, last - start)
        forward(tile, x, start, m, shift, scale, signs, T)
        if extent is not None:
            extend_rows(tile, rows, m, T, 0, extent[worker])
        if tables is not None:
            count_rows(tile, rows, m, T, 0, low, inverse, B, w, start, tables[worker], sums[worker], index)
        if lines is not None:
            look_up_rows(tile, rows, m, T, 0, low, inverse, B, w, start, lines, own, u, index, pair)
            tile[rows * T :] = 0
            backward(tile, out, start, m, signs, T)


# The same on the projections of a matrix product, a tile (P, m) at a time; threads share the slices.


@numba.njit(**OPTIONS)
def tile_count(first, last, worker, step, projected, start, bins, w, tables, sums):
    (low, inverse, B), m = bins, projected.shape[1]
    rows = projected[first:last].reshape(-1)
    count_rows(rows, last - first, m, m, first, low, inverse, B, w, start, tables[0], sums[0], np.empty(m, np.uint32))


@numba.njit(**OPTIONS)
def tile_look_up(first, last, worker, step, projected, start, bins, w, lines, own):
    (low, inverse, B), m = bins, projected.shape[1]
    u, index, pair = np.empty(m, np.float32), np.empty(m, np.uint32), np.empty(m, np.uint64)
    rows = projected[first:last].reshape(-1)
    look_up_rows(rows, last - first, m, m, first, low, inverse, B, w, start, lines, own, u, index, pair)


# Tables.


@numba.njit(**OPTIONS)
def merge(first, last, worker, step, tables, sums, scale, counts, tail_sums):
    """Add up the workers' tables (workers, P, bins) and sums."""
    for p in range(first, last):
        for b in range(counts.shape[1]):
            total = tables[0, p, b]
            for k in range(1, tables.shape[0]):
                total += tables[k, p, b]
            counts[p, b] = total * scale
        for b in range(tail_sums.shape[1] if p < tail_sums.shape[0] else 0):
            s = 0.0
            for k in range(sums.shape[0]):
                s += sums[k, p, b]
            tail_sums[p, b] = s * scale


@numba.njit(**OPTIONS)
def spread_part(counts, b):
    """Return the part of a bin's counts that is spread over it; the rest is a tie in its middle."""
    left = counts[b - 1] if b > 0 else np.float32(0)
    right = counts[b + 1] if b + 1 < counts.shape[0] else np.float32(0)
    return min(counts[b], np.float32(STEEP) * min(left, right))


@numba.njit(**OPTIONS)
def cumulate(first, last, worker, step, f, g, alpha, factor, lines):
    """lines (P, bins, 2): value at a bin's left edge and rise over it, of factor·[2G − 1 − α(2F − 1)]."""
    for p in range(first, last):
        F, G = 0.0, 0.0
        for b in range(f.shape[1]):
            df, dg = f[p, b], g[p, b]
            middle = 2.0 * G + dg - 1.0 - alpha * (2.0 * F + df - 1.0)
            rise = 2.0 * (spread_part(g[p], b) - alpha * spread_part(f[p], b))
            lines[p, b, 0] = factor * (middle - 0.5 * rise)
            lines[p, b, 1] = factor * rise
            F += df
            G += dg


@numba.njit(**OPTIONS)
def encode_step(first, last, worker, step, f, g, factor, unit, table):
    """factor·(G − F) at the edges of the equal bins: table (P, B + 1) of integers in [−127, 127], in units (P,)."""
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
def decode_step(first, last, worker, step, table, unit, lines):
    """The inverse of `encode_step`: lines (P, B + 1, 2), value and rise from every edge on."""
    B = table.shape[1] - 1
    for p in range(first, last):
        for b in range(B):
            value = table[p, b] * unit[p]
            lines[p, b, 0], lines[p, b, 1] = value, table[p, b + 1] * unit[p] - value
        lines[p, B, 0], lines[p, B, 1] = table[p, B] * unit[p], 0


@numba.njit(**OPTIONS)
def total_and_end(counts):
    """Return the sum of a slice's table, and the bin after the last one that is not empty."""
    total, end = 0.0, 0
    for b in range(counts.shape[0]):
        if counts[b] > 0:
            total += counts[b]
            end = b + 1
    return total, end


@numba.njit(**OPTIONS)
def integrals(first, last, worker, step, f, g, f_sums, g_sums, inverse, out):
    """out (P, 3): ∫(F − G)², ∫F(1 − F), ∫G(1 − G); linear in equal bins, a jump at the mean in geometric ones."""
    B = f.shape[1] - 2 * TAIL
    for p in range(first, last):
        f_total, f_end = total_and_end(f[p])
        g_total, g_end = total_and_end(g[p])
        F = G = d = sf = sg = 0.0
        for b in range(max(f_end, g_end)):
            # Tables are float32 and sum to one up to rounding: here exactly, because some geometric bins are very wide.
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
                cf = f_sums[p, s] / f[p, b] if df > 0 else left
                cg = g_sums[p, s] / g[p, b] if dg > 0 else left
                # The outermost bins hold everything beyond their edges.
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
