"""The compiled loops for slices on patches: what `loops.hadamard_pass` does for whole images.

A tile of images is laid out once: image[j·T + i] is pixel j of its i-th image. A patch is then gathered and pooled from whole
rows of T numbers, transformed in the first-level cache, and counted or looked up at once.

`patches` holds, in this order: the signs of the transform; `places` and `rows`, the position of every block of directions and
the number of its rows in use; `pixels` (places, m, k²), the pixels under the m numbers of a patch; `unit` = 1/(k n), the factor
of pooling and both transforms; `colours`, an orthonormal basis (C, C) of the channels, or empty; `k`, the number of leading
coordinates that are a condition, which every patch sees after its pixels; and the condition's scale, before `unit`.
"""

import numba
import numpy as np

from rieszflow._infra.jit import OPTIONS
from rieszflow.directions.hadamard import butterflies, load_points, scale_rows, store_points
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
def patch_pass(first, last, worker, T, source, patches, extent, bins, w, tables, sums, lines, own, out):
    """Do for patches what `hadamard_pass` does for whole images."""
    (x, shift, scale), (low, inverse, B) = source, bins
    signs, places, rows, pixels, unit, colours, k, condition_scale = patches
    image, patch = np.empty(x.shape[1] * T, np.float32), np.empty((pixels.shape[1] + k) * T, np.float32)
    tile, ones = np.empty(signs.shape[2] * T, np.float32), np.ones(x.shape[1], np.float32)
    forces, pushed = np.empty_like(patch), np.empty_like(image)  # on a patch's numbers, and on the pixels
    u, index, pair = np.empty(T, np.float32), np.empty(T, np.uint32), np.empty(T, np.uint64)
    for start in range(first, last, T):
        m = min(T, last - start)
        load_points(image, x, start, m, shift, scale, ones, T)
        mix_channels(image[k * T :], colours, T)
        if lines is not None:
            pushed[:] = 0
        p = 0
        for b in range(rows.shape[0]):
            if b == 0 or places[b] != places[b - 1]:
                gather(patch, image, pixels[places[b]], k, condition_scale, T)
                if lines is not None:
                    forces[:] = 0
            forward(tile, patch, pixels.shape[1] + k, rows[b], signs[b], unit, T)
            if extent is not None:
                extend_rows(tile, rows[b], m, T, p, extent[worker])
            if tables is not None:
                count_rows(tile, rows[b], m, T, p, low, inverse, B, w, start, tables[worker], sums[worker], index)
            if lines is not None:
                look_up_rows(tile, rows[b], m, T, p, low, inverse, B, w, start, lines, own, u, index, pair)
                backward(forces, tile, pixels.shape[1] + k, rows[b], signs[b], T)
                if b + 1 == rows.shape[0] or places[b + 1] != places[b]:
                    scatter(pushed, forces, pixels[places[b]], unit, k, condition_scale, T)
            p += rows[b]
        if lines is not None:
            mix_channels(pushed[k * T :], colours.T, T)
            store_points(pushed, out, start, m, ones, T)
