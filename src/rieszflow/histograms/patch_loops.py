"""The compiled loops for slices on patches: what `fused_count` and its neighbours in `loops` do for whole images.

A tile of images is laid out once: image[j·T + i] is pixel j of its i-th image. A patch is then gathered and pooled from whole
rows of T numbers, transformed in the first-level cache, and counted or looked up at once.

`patches` holds, in this order: the signs of the transform; `places` and `rows`, the position of every block of directions and
the number of its rows in use; `pixels` (places, m, k²), the pixels under the m numbers of a patch; `unit` = 1/(k n), the factor
of pooling and both transforms; `colours`, an orthonormal basis (C, C) of the channels, or empty; `k`, the number of leading
coordinates that are a condition, which every patch sees after its pixels; and the condition's scale, before `unit`.
"""

from __future__ import annotations

import numba
import numpy as np

from rieszflow._infra.jit import OPTIONS
from rieszflow.directions.loops import butterflies, scale_rows
from rieszflow.histograms.loops import count_rows, extend_rows, look_up_rows


@numba.njit(**OPTIONS)
def mix_channels(image, colours, T):
    """Multiply every pixel's channels by the basis."""
    C = colours.shape[0]
    if C == 0:
        return
    n = image.shape[0] // C
    old = np.empty((C, T), image.dtype)
    for start in range(0, n, T):
        for c in range(C):
            old[c] = image[c * n + start : c * n + start + T]
        for c in range(C):
            row = image[c * n + start : c * n + start + T]
            row[:] = 0
            for b in range(C):
                f, source = colours[c, b], old[b]
                for i in range(T):
                    row[i] += f * source[i]


@numba.njit(**OPTIONS)
def load_tile(image, x, first, m, shift, scale, colours, k, T):
    """image = (x − shift)·scale for the points first … first + m − 1, pixel by pixel; other columns are zero."""
    if m < T:
        image[:] = 0
    whole = m - m % 8
    for i in range(0, whole, 8):
        # Eight points at a time: their rows are read along, and every line of the tile is touched for all of them at once.
        x0, x1, x2, x3 = x[first + i], x[first + i + 1], x[first + i + 2], x[first + i + 3]
        x4, x5, x6, x7 = x[first + i + 4], x[first + i + 5], x[first + i + 6], x[first + i + 7]
        for j in range(x.shape[1]):
            s, line = shift[j], image[j * T + i : j * T + i + 8]
            line[0], line[1] = np.float32((x0[j] - s) * scale), np.float32((x1[j] - s) * scale)
            line[2], line[3] = np.float32((x2[j] - s) * scale), np.float32((x3[j] - s) * scale)
            line[4], line[5] = np.float32((x4[j] - s) * scale), np.float32((x5[j] - s) * scale)
            line[6], line[7] = np.float32((x6[j] - s) * scale), np.float32((x7[j] - s) * scale)
    for i in range(whole, m):
        for j in range(x.shape[1]):
            image[j * T + i] = np.float32((x[first + i, j] - shift[j]) * scale)
    mix_channels(image[k * T :], colours, T)


@numba.njit(**OPTIONS)
def store_tile(out, image, first, m, T):
    """Write the tile of images to the points first … first + m − 1 of `out`, the inverse of the layout of `load_tile`."""
    whole = m - m % 8
    for i in range(0, whole, 8):
        o0, o1, o2, o3 = out[first + i], out[first + i + 1], out[first + i + 2], out[first + i + 3]
        o4, o5, o6, o7 = out[first + i + 4], out[first + i + 5], out[first + i + 6], out[first + i + 7]
        for j in range(out.shape[1]):
            line = image[j * T + i : j * T + i + 8]
            o0[j], o1[j], o2[j], o3[j] = line[0], line[1], line[2], line[3]
            o4[j], o5[j], o6[j], o7[j] = line[4], line[5], line[6], line[7]
    for i in range(whole, m):
        for j in range(out.shape[1]):
            out[first + i, j] = image[j * T + i]


@numba.njit(**OPTIONS)
def gather(patch, image, pixels, k, condition_scale, T):
    """Fill a patch: the sums over the pixels under its numbers, and the condition."""
    m = pixels.shape[0]
    for j in range(m):
        row = patch[j * T : (j + 1) * T]
        source = image[(k + pixels[j, 0]) * T : (k + pixels[j, 0]) * T + T]
        for i in range(T):
            row[i] = source[i]
        for q in range(1, pixels.shape[1]):
            source = image[(k + pixels[j, q]) * T : (k + pixels[j, q]) * T + T]
            for i in range(T):
                row[i] += source[i]
    for i in range(k * T):
        patch[m * T + i] = image[i] * condition_scale


@numba.njit(**OPTIONS)
def scatter(image, patch, pixels, unit, k, condition_scale, T):
    """Add the adjoint of `gather`, times `unit`, to the pixels and the condition."""
    m = pixels.shape[0]
    for j in range(m):
        row = patch[j * T : (j + 1) * T]
        for q in range(pixels.shape[1]):
            target = image[(k + pixels[j, q]) * T : (k + pixels[j, q]) * T + T]
            for i in range(T):
                target[i] += row[i] * unit
    for i in range(k * T):
        image[i] += patch[m * T + i] * (unit * condition_scale)


@numba.njit(**OPTIONS)
def first_rows(tile, n, rows, T):
    """Compute the first `rows` rows of H·tile; if half of them suffice, the last level is one sum."""
    while n // 2 >= rows:
        n //= 2
        a, b = tile[: n * T], tile[n * T : 2 * n * T]
        for i in range(n * T):
            a[i] += b[i]
    butterflies(tile, n, T)


@numba.njit(**OPTIONS)
def first_rows_adjoint(tile, n, rows, T):
    """Compute H·tile for a tile that is zero beyond its first `rows` rows: the adjoint of `first_rows`."""
    many = n
    while many // 2 >= rows:
        many //= 2
    tile[rows * T : many * T] = 0
    butterflies(tile, many, T)
    while many < n:
        tile[many * T : 2 * many * T] = tile[: many * T]
        many *= 2


@numba.njit(**OPTIONS)
def forward(tile, patch, m, rows, signs, unit, T):
    """Compute the first rows of tile = H·D₂·H·D₁·patch."""
    for j in range(m):
        f, row, source = signs[0, j] * unit, tile[j * T : (j + 1) * T], patch[j * T : (j + 1) * T]
        for i in range(T):
            row[i] = source[i] * f
    tile[m * T :] = 0
    butterflies(tile, signs.shape[1], T)
    scale_rows(tile, signs[1], T)
    first_rows(tile, signs.shape[1], rows, T)


@numba.njit(**OPTIONS)
def backward(patch, tile, m, rows, signs, T):
    """Add D₁·H·D₂·H·tile to a patch: the adjoint of `forward`, without `unit`."""
    first_rows_adjoint(tile, signs.shape[1], rows, T)
    scale_rows(tile, signs[1], T)
    butterflies(tile, signs.shape[1], T)
    for j in range(m):
        f, row, source = signs[0, j], patch[j * T : (j + 1) * T], tile[j * T : (j + 1) * T]
        for i in range(T):
            row[i] += source[i] * f


@numba.njit(**OPTIONS)
def allocate(x, pixels, signs, k, T):
    """Allocate a tile of images, one of patches, and one of their projections."""
    image, patch = np.empty(x.shape[1] * T, np.float32), np.empty((pixels.shape[1] + k) * T, np.float32)
    return image, patch, np.empty(signs.shape[2] * T, np.float32)


@numba.njit(**OPTIONS)
def patch_extent(first, last, worker, T, source, patches, extent):
    (x, shift, scale), (signs, places, rows, pixels, unit, colours, k, condition_scale) = source, patches
    image, patch, tile = allocate(x, pixels, signs, k, T)
    for start in range(first, last, T):
        m = min(T, last - start)
        load_tile(image, x, start, m, shift, scale, colours, k, T)
        p, at = 0, -1
        for b in range(rows.shape[0]):
            if places[b] != at:
                at = places[b]
                gather(patch, image, pixels[at], k, condition_scale, T)
            forward(tile, patch, pixels.shape[1] + k, rows[b], signs[b], unit, T)
            extend_rows(tile, rows[b], m, T, p, extent[worker])
            p += rows[b]


@numba.njit(**OPTIONS)
def patch_count(first, last, worker, T, source, patches, bins, w, tables, sums):
    (x, shift, scale), (signs, places, rows, pixels, unit, colours, k, condition_scale) = source, patches
    (low, inverse, B), index = bins, np.empty(T, np.uint32)
    image, patch, tile = allocate(x, pixels, signs, k, T)
    for start in range(first, last, T):
        m = min(T, last - start)
        load_tile(image, x, start, m, shift, scale, colours, k, T)
        p, at = 0, -1
        for b in range(rows.shape[0]):
            if places[b] != at:
                at = places[b]
                gather(patch, image, pixels[at], k, condition_scale, T)
            forward(tile, patch, pixels.shape[1] + k, rows[b], signs[b], unit, T)
            count_rows(tile, rows[b], m, T, p, low, inverse, B, w, start, tables[worker], sums[worker], index)
            p += rows[b]


@numba.njit(**OPTIONS)
def patch_look_up(first, last, worker, T, source, patches, bins, w, lines, own, out):
    (x, shift, scale), (signs, places, rows, pixels, unit, colours, k, condition_scale) = source, patches
    low, inverse, B = bins
    image, patch, tile = allocate(x, pixels, signs, k, T)
    forces, pushed = np.empty_like(patch), np.empty_like(image)  # on a patch's numbers, and on the pixels
    u, index, pair = np.empty(T, np.float32), np.empty(T, np.uint32), np.empty(T, np.uint64)
    for start in range(first, last, T):
        m = min(T, last - start)
        load_tile(image, x, start, m, shift, scale, colours, k, T)
        pushed[:] = 0
        p = 0
        for b in range(rows.shape[0]):
            if b == 0 or places[b] != places[b - 1]:
                gather(patch, image, pixels[places[b]], k, condition_scale, T)
                forces[:] = 0
            forward(tile, patch, pixels.shape[1] + k, rows[b], signs[b], unit, T)
            look_up_rows(tile, rows[b], m, T, p, low, inverse, B, w, start, lines, own, u, index, pair)
            p += rows[b]
            backward(forces, tile, pixels.shape[1] + k, rows[b], signs[b], T)
            if b + 1 == rows.shape[0] or places[b + 1] != places[b]:
                scatter(pushed, forces, pixels[places[b]], unit, k, condition_scale, T)
        mix_channels(pushed[k * T :], colours.T, T)
        store_tile(out, pushed, start, m, T)
