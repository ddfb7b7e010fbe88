"""MMD² over all pairs for Riesz(1.0) and float32 clouds on the CPU: a matrix product and one compiled pass over its entries."""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.jit import SUMS, parallel_for
from rieszflow._types import Pair
from rieszflow.exact.pairs import Measure
from rieszflow.kernels import Kernel, Riesz

_MIN_PAIRS = 1 << 12  # for fewer pairs of points the call overhead dominates
_FEW_DIMS = 8  # up to this dimension differences are faster than a matrix product, and exact
_PRODUCTS = 1 << 20  # entries of a matrix product at a time: 4 MB
_SHARE = 1 << 15  # numbers that justify another thread
_RANGE = 2.0**40  # between 1/_RANGE and this, squares of coordinates and of differences are within float32's range


def supports(clouds: Pair, kernel: Kernel) -> bool:
    """Return True if `energy_sums` accepts these clouds: large enough to benefit, with squares in the range of float32."""
    x, y = clouds.x.points, clouds.y.points
    if kernel != Riesz(1.0) or x.dtype != torch.float32 or x.ndim != 2 or x.device.type != "cpu":
        return False
    if max(len(x), len(y)) ** 2 < _MIN_PAIRS:
        return False
    if x.shape[1] <= _FEW_DIMS:
        return True
    largest = max(float(np.abs(t.detach().numpy()).max()) for t in (x, y))
    return 1 / _RANGE < largest < _RANGE


def energy_sums(x: Measure, y: Measure, _: bool, slope: bool) -> tuple[Tensor, Tensor]:
    """Compute `exact.pairs.Sums` for K(x, y) = −‖x − y‖, in float64, of float32 points.

    In more than 8 dimensions, distances except for close points are in float32, with errors of at most 1e-6 of their scale.
    """
    P, Q, b, own = x.points.numpy(), y.points.numpy(), (-y.weights).contiguous().numpy(), x is y
    (N, d), M = P.shape, len(Q)
    potential, pull = np.empty(N), np.empty((N * slope, d))
    if d <= _FEW_DIMS:
        rows = np.ascontiguousarray(Q.T, np.float64)
        parallel_for(from_differences, N, 1 + _SHARE // (M * d), P, rows, b, potential, pull)
    else:
        # Distances are invariant to shifts; near the origin ‖x‖² + ‖y‖² − 2⟨x, y⟩ cancels least.
        centre = Q.mean(0, np.float64).astype(np.float32)
        near_Q = Q - centre
        near_P = near_Q if own else P - centre
        norms_P, norms_Q = (np.einsum("ij,ij->i", t, t) for t in (near_P, near_Q))
        step = max(1, _PRODUCTS // M)
        for start in range(0, N, step):
            these = slice(start, start + step)
            products = torch.from_numpy(near_P[these]) @ torch.from_numpy(near_Q).T
            mine = P[these], Q, near_P[these], norms_P[these], norms_Q, b, start if own else -M
            found = products.numpy(), potential[these], pull[these]
            parallel_for(from_products, len(products), 1 + _SHARE // M, *mine, *found)
            if slope:
                pull[these] -= (products @ torch.from_numpy(near_Q)).numpy()
    return torch.from_numpy(potential), torch.from_numpy(pull)


_TWO, _ZERO = np.float32(2), np.float32(0)
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
