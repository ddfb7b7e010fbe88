"""Compiled loops for the energy kernel −‖x − y‖: sums over all pairs of two clouds and their derivatives, in one pass."""

from __future__ import annotations

import math

import numba
import numpy as np

from rieszflow._infra.jit import SUMS

__all__ = ["from_differences", "from_products"]

_TWO, _ZERO, _ONE = np.float32(2), np.float32(0), np.float32(1)
# Squared distances below this share s of ‖x‖² + ‖y‖² are computed from differences. For larger ones, an error of
# 2⁻²⁴ (‖x‖² + ‖y‖²) in the square is an error of at most 2⁻²⁴/(2s) = 3e-5 of the distance, and of at most
# 2⁻²⁴/(2√s) = 1e-6 of √(‖x‖² + ‖y‖²).
_CLOSE = np.float32(1e-3)


@numba.njit(**SUMS)
def from_differences(first, last, worker, tile, x, y, b, potential, slope):
    """Compute the sums of rows first … last − 1 of x (N, d) against y (d, M), for few dimensions.

    Writes Σ_j b_j ρ_ij to potential (N,), and Σ_j b_j (x_i − y_j)/ρ_ij to slope (N or 0, d).
    """
    d, M = y.shape
    rho = np.empty(M)
    for i in range(first, last):
        rho[:] = 0.0
        for k in range(d):
            xi = np.float64(x[i, k])
            for j in range(M):
                rho[j] += (xi - y[k, j]) ** 2
        total = 0.0
        for j in range(M):
            rho[j] = math.sqrt(rho[j])
            total += b[j] * rho[j]
        potential[i] = total
        if slope.shape[0] == 0:
            continue
        for j in range(M):
            rho[j] = b[j] / rho[j] if rho[j] > 0 else 0.0
        for k in range(d):
            xi, pulled = np.float64(x[i, k]), 0.0
            for j in range(M):
                pulled += rho[j] * (xi - y[k, j])
            slope[i, k] = pulled


@numba.njit(**SUMS)
def from_products(first, last, worker, tile, x, y, centred_x, norms_x, norms_y, b, own, products, potential, slope):
    """Compute the sums of rows first … last − 1 of x (n, d) against y (M, d), given the products (n, M) of the centred points.

    Writes Σ_j b_j ρ_ij to potential (n,). If slope (n or 0, d) is not empty, leaves w_ij = b_j/ρ_ij in products, 0 for close
    pairs, and writes Σ_j w_ij x_i for the centred x, plus Σ_j b_j (x_i − y_j)/ρ_ij over close pairs, to slope. If x and y are
    the same cloud, `own` is the index in y of the first row of x; otherwise it is −M.
    """
    M, d = y.shape
    for i in range(first, last):
        norm, close, total = norms_x[i], 0, 0.0
        for j in range(M):
            norms = norm + norms_y[j]
            square = norms - _TWO * products[i, j]
            products[i, j] = square
            close += square <= _CLOSE * norms
        if own >= 0:
            products[i, own + i] = _ZERO
            close -= 1
        if slope.shape[0] > 0:
            slope[i] = 0.0
        if close > 0:
            for j in range(M):
                if products[i, j] > _CLOSE * (norm + norms_y[j]) or j == own + i:
                    continue
                square_64 = 0.0
                for k in range(d):
                    square_64 += (np.float64(x[i, k]) - np.float64(y[j, k])) ** 2
                rho_64 = math.sqrt(square_64)
                total += b[j] * rho_64
                products[i, j] = _ZERO
                if slope.shape[0] > 0 and rho_64 > 0:
                    for k in range(d):
                        slope[i, k] += b[j] / rho_64 * (np.float64(x[i, k]) - np.float64(y[j, k]))
        if slope.shape[0] == 0:
            for j in range(M):
                total += b[j] * np.float64(math.sqrt(products[i, j]))
        else:
            weight = 0.0
            for j in range(M):
                rho = math.sqrt(products[i, j])
                total += b[j] * np.float64(rho)
                inverse = np.float32(b[j]) / rho if rho > _ZERO else _ZERO
                products[i, j] = inverse
                weight += np.float64(inverse)
            for k in range(d):
                slope[i, k] += weight * np.float64(centred_x[i, k])
        potential[i] = total
