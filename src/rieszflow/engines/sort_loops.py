"""The compiled loops of the exact gradient by x, with a radix sort, O(N + M) per slice."""

from __future__ import annotations

import numba
import numpy as np

from rieszflow._infra.jit import OPTIONS

__all__ = ["gradient"]

_BITS, _PASSES = 11, 3


@numba.njit(**OPTIONS)
def gradient(first, last, worker, step, px, py, a, b, self_factor, out):
    N, M = px.shape[1], py.shape[1]
    keys, other = np.empty(N + M, np.uint64), np.empty(N + M, np.uint64)
    counts = np.empty((_PASSES, 1 << _BITS), np.uint32)
    result = np.empty(N + 1, np.float32)
    for p in range(first, last):
        pack(px[p], keys[:N], 0)
        pack(py[p], keys[N:], N)
        radix_sort(keys, other, counts)  # an odd number of passes: sorted keys are in `other`
        if a.shape[0] or b.shape[0] or scan(other, N, M, self_factor, result):
            scan_ties(other, a, b, N, M, self_factor, result)
        out[p] = result[:N]


@numba.njit(**OPTIONS)
def pack(x, keys, start):
    """Pack order-preserving bits of the values (high half) and indices (low half) into keys."""
    bits = (x + np.float32(0)).view(np.uint32)  # −0 becomes +0: they are a tie
    for i in range(keys.shape[0]):
        u = bits[i]
        flip = np.uint32(0xFFFFFFFF) if u >> np.uint32(31) else np.uint32(0x80000000)
        keys[i] = (np.uint64(u ^ flip) << np.uint64(32)) | np.uint64(start + i)


@numba.njit(**OPTIONS)
def radix_sort(keys, other, counts):
    """Sort by the high halves, 11 bits per pass, least significant first: linear time for any values."""
    mask = np.uint64((1 << _BITS) - 1)
    counts[:] = 0
    for i in range(keys.shape[0]):
        k = keys[i] >> np.uint64(32)
        for q in range(_PASSES):
            counts[q, np.uint32(k & mask)] += np.uint32(1)
            k >>= np.uint64(_BITS)
    source, target = keys, other
    for q in range(_PASSES):
        place = counts[q]
        start = np.uint32(0)
        for r in range(place.shape[0]):
            count = place[r]
            place[r] = start
            start += count
        shift = np.uint64(32 + q * _BITS)
        for i in range(keys.shape[0]):
            key = source[i]
            r = np.uint32((key >> shift) & mask)
            target[place[r]] = key
            place[r] += np.uint32(1)
        source, target = target, source


@numba.njit(**OPTIONS)
def scan(keys, N, M, self_factor, out):
    """out[i] = 2G(x_i) − 1 − self_factor(2F(x_i) − 1) without branches, if there are no ties. Return True if there are."""
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    tie = False
    seen = 0  # points of x so far
    before = np.uint64(0xFFFFFFFFFFFF)
    for i in range(keys.shape[0]):
        key = keys[i]
        tie |= key >> high == before
        before = key >> high
        index = np.uint32(key & low)
        # y's results all go to out[N], which is not read
        out[min(index, np.uint32(N))] = 2.0 * (i - seen) / M - 1 - self_factor * ((2.0 * seen + 1) / N - 1)
        seen += np.int64(index < N)
    return tie


@numba.njit(**OPTIONS)
def scan_ties(keys, a, b, N, M, self_factor, out):
    """Compute the same with mid-ranks at ties and with weights."""
    low = np.uint64(0xFFFFFFFF)
    scale_a = 1.0 if a.shape[0] else 1.0 / N
    scale_b = 1.0 if b.shape[0] else 1.0 / M
    F, G = 0.0, 0.0
    i, K = 0, keys.shape[0]
    while i < K:
        value = keys[i] >> np.uint64(32)
        weight_a, weight_b = 0.0, 0.0
        j = i
        while j < K and keys[j] >> np.uint64(32) == value:
            index = np.int64(keys[j] & low)
            if index < N:
                weight_a += a[index] if a.shape[0] else 1.0
            else:
                weight_b += b[index - N] if b.shape[0] else 1.0
            j += 1
        f, g = scale_a * (2 * F + weight_a) - 1, scale_b * (2 * G + weight_b) - 1
        for k in range(i, j):
            index = np.int64(keys[k] & low)
            if index < N:
                out[index] = g - self_factor * f
        F += weight_a
        G += weight_b
        i = j
