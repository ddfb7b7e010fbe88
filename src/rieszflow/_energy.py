"""Riesz(1.0) by brute force for float32 clouds on the CPU: a matrix product and one compiled pass over its entries."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rieszflow import _pair_loops
from rieszflow._clouds import Cloud, Need, Pair
from rieszflow._numba import share
from rieszflow._pairs import distinct, weights_of
from rieszflow.kernels import Kernel, Riesz

__all__ = ["evaluate", "suits"]

_ENOUGH = 1 << 12  # pairs of points, below which calls cost more than pairs
_FEW = 8  # dimensions up to which differences are faster than a matrix product, and exact
_PRODUCTS = 1 << 20  # entries of a matrix product at a time: 4 MB
_SHARE = 1 << 15  # numbers that are worth another thread
_RANGE = 2.0**40  # coordinates whose squares, and those of their small differences, float32 can hold


def suits(clouds: Pair, kernel: Kernel) -> bool:
    """Return True for clouds that `evaluate` takes: large enough to be worth it, with squares that float32 can hold."""
    x, y = clouds.x.points, clouds.y.points
    if kernel != Riesz(1.0) or x.dtype != torch.float32 or x.ndim != 2 or x.device.type != "cpu":
        return False
    if max(len(x), len(y)) ** 2 < _ENOUGH:
        return False
    if x.shape[1] <= _FEW:
        return True
    largest = max(float(np.abs(t.detach().numpy()).max()) for t in (x, y))
    return 1 / _RANGE < largest < _RANGE


def evaluate(clouds: Pair, need: Need) -> tuple[Tensor, list[Tensor | None]]:
    """Return the value, and the derivatives by x, its weights, y and its weights that are needed, in float64.

    Up to 8 dimensions everything is in float64. Above, distances are in float32, off by 1e-6 of their scale at most, and those
    of close points in float64. Sums over the pairs of a point are in float64.
    """
    x, y = clouds.x.detached(), clouds.y.detached()
    a, b = weights_of(x), weights_of(y)
    xx, by_xx = _sums(x, x, a, need.x, own=True)
    yy, by_yy = _sums(y, y, b, need.y, own=True)
    xy, by_xy = _sums(x, y, b, need.x)
    yx, by_yx = _sums(y, x, a, need.y) if need.y or need.b else (None, None)
    n_x, n_y = (distinct(w) if clouds.unbiased else torch.ones_like(w[0]) for w in (a, b))
    slopes: list[Tensor | None] = []
    for points, weights, w, n, own, cross, by_own, by_cross in (
        (need.x, need.a, a, n_x, xx, xy, by_xx, by_xy),
        (need.y, need.b, b, n_y, yy, yx, by_yy, by_yx),
    ):
        slopes.append(by_cross.sub_(by_own.div_(n)).mul_(w[:, None]) if points else None)
        slopes.append(cross - (own + clouds.unbiased * (w @ own / n) * w) / n if weights else None)
    return a @ xy - (a @ xx) / n_x / 2 - (b @ yy) / n_y / 2, slopes


def _sums(x: Cloud, y: Cloud, w: Tensor, slope: bool, own: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return Σ_j w_j ρ_ij, (N,), and with `slope` Σ_j w_j (x_i − y_j)/ρ_ij, (N, d). With `own` x and y are one."""
    P, Q, b = x.points.numpy(), y.points.numpy(), w.contiguous().numpy()
    (N, d), M = P.shape, len(Q)
    potential, pull = np.empty(N), np.empty((N * slope, d))
    if d <= _FEW:
        rows = np.ascontiguousarray(Q.T, np.float64)
        share(_pair_loops.from_differences, N, 1 + _SHARE // (M * d), P, rows, b, potential, pull)
    else:
        # Distances do not change when both clouds move; near the origin ‖x‖² + ‖y‖² − 2⟨x, y⟩ cancels least.
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
            share(_pair_loops.from_products, len(products), 1 + _SHARE // M, *mine, *found)
            if slope:
                pull[these] -= (products @ torch.from_numpy(near_Q)).numpy()
    return torch.from_numpy(potential), torch.from_numpy(pull) if slope else None
