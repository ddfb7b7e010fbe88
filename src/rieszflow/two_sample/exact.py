"""Brute force for few points: the distances of all pairs, in float64.

For up to about two thousand points this is faster than slices, and has no error from slices and bins.
"""

from __future__ import annotations

import numba
import numpy as np
import torch

from rieszflow._infra.jit import OPTIONS, parallel_for
from rieszflow._infra.scaling import power_of_two
from rieszflow.two_sample.gram import Gram

__all__ = ["are_few", "exact_gram", "in_range", "pair_distances"]

# Limits of points and coordinates up to which brute force with 999 permutations is no slower than slices and blocks.
_POINTS = 2000
_NUMBERS = 1 << 22
# Squared distances below this share of ‖x‖² + ‖y‖² are summed from differences, so that cancellation costs at most 1e-13.
_CLOSE = 0.01


def are_few(n: int, d: int) -> bool:
    """Return True if n points of dimension d are compared by brute force."""
    return n <= _POINTS and n * d <= _NUMBERS


def in_range(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the points in float64, scaled so that squares neither overflow nor underflow, and the scale factor."""
    largest = float(np.abs(x).max())
    unit = 1.0 if 1e-100 < largest < 1e100 else power_of_two(largest, torch.float64)
    return x.astype(np.float64) * unit, unit


def pair_distances(x: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances of all pairs of points.

    Args:
        x: Points of shape (N, d), float64, whose squares are finite.

    Returns:
        Symmetric matrix of shape (N, N), zero between equal points.
    """
    centred = np.ascontiguousarray(x - x.mean(0))
    distances: np.ndarray = centred @ centred.T
    parallel_for(_to_distances, len(x), 64, centred, distances.diagonal().copy(), distances)
    return distances


def exact_gram(distances: np.ndarray, n: int) -> Gram:
    """Return the Gram matrix of single points for the energy distance; the first n points are those of x.

    The energy distance is wᵀGw for G = −‖x_i − x_j‖, because the weights w = 1/n, …, −1/m, … sum to zero.
    """
    m = len(distances) - n
    in_x = np.repeat([1 / n, 0.0], [n, m])
    in_y = np.repeat([0.0, 1 / m], [n, m])
    return Gram(-distances, in_x, in_y, 0.0, n, m)


@numba.njit(**OPTIONS)
def _to_distances(first, last, worker, step, x, norms, products):
    for i in range(first, last):
        products[i, i] = 0.0
        for j in range(i):
            norm = norms[i] + norms[j]
            square = norm - 2.0 * products[i, j]
            if square < _CLOSE * norm:
                square = 0.0
                for k in range(x.shape[1]):
                    difference = x[i, k] - x[j, k]
                    square += difference * difference
            products[i, j] = products[j, i] = np.sqrt(square)
