"""Gaussian kernels of all widths, by random Fourier features whose frequencies double from one width to the next.

With ω standard normal, k(x, y) = exp(−‖x − y‖² / 2h²) is the mean of cos(ω·(x − y) / h). One sine and one cosine for every
point and frequency at the largest width are enough: those of smaller widths, each half of the one before, follow by doubling
the angle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from scipy.stats import chi2

from rieszflow._infra.jit import SUMS, parallel_for
from rieszflow.two_sample.permutations import pair_distances

_NUMBERS = 1 << 25  # points · frequencies (· d / 32 if d is large), but for the limits
_FEWEST, _MOST = 256, 2048  # frequencies D of whole points; the error of a kernel is 1/√D
_COLUMN_FREQUENCIES = 16
_COLUMNS = 64  # that are tested on their own, at random if there are more
_OCTAVES, _COLUMN_OCTAVES, _GROUP_OCTAVES = 17, 8, 40
_GROUP_NUMBERS = 1 << 25  # in sums of sines of many groups, and as many of cosines
ABOVE = 4  # octaves above the largest distances, for the energy kernel only
_TILE = 256  # frequencies at a time: the sums of all octaves fit into the cache
_FLUSH = 512  # points whose sines are summed in float32
_HALVINGS = 3  # of the angle before its sine is a polynomial
_RESTART = 16  # octaves until the sines are computed again: every doubling doubles their error
_F = tuple(np.float32(1 / math.factorial(k)) for k in range(1, 9))  # coefficients of the polynomials
ENERGY = math.log(2) / math.sqrt(math.pi / 2)  # Σ_l ENERGY h_l (1 − exp(−t² / 2 h_l²)) is t, but for 0.1 %


@dataclass(frozen=True)
class Octaves:
    """Frequencies of one or more kernels, each with L widths that halve from one to the next.

    Kernel g compares the coordinates first[g], first[g] + 1, …, as many as `turns` has rows, by D of its columns.
    """

    turns: np.ndarray  # frequencies at the largest width, in turns per unit: (coordinates, kernels · D), float64
    first: np.ndarray  # (kernels,)
    widths: np.ndarray  # (kernels, L)

    @property
    def D(self) -> int:
        return int(self.turns.shape[1]) // len(self.first)

    def add(self, x: np.ndarray, weights: np.ndarray, starts: np.ndarray, sums: np.ndarray) -> None:
        """Add weighted sines and cosines of points x[starts[k] : starts[k + 1]] to sums[k]; sums are (K, L, 2, kernels · D)."""
        parallel_for(_add_blocks, len(sums), 1, x, weights, starts, self.turns, self.first, sums)

    def features(self, x: np.ndarray, kernel: int, octave: int) -> np.ndarray:
        """Return sines and cosines of points (n, d) at one width, (n, 2 D), whose products over D are the kernel."""
        some, first = slice(kernel * self.D, (kernel + 1) * self.D), self.first[kernel]
        phases = x[:, first : first + len(self.turns)] @ self.turns[:, some]
        phases = 2 * math.pi * 2**octave * (phases - np.rint(phases))
        return np.concatenate([np.sin(phases), np.cos(phases)], 1)


def fit_octaves(x: np.ndarray, n: int, rng: np.random.Generator) -> list[Octaves]:
    """Choose widths by the distances between some points x (k, d) of n, and draw frequencies.

    Returns:
        Octaves for whole points and, if d > 1, for columns.
    """
    d, x = x.shape[1], rng.permutation(x)
    differences = np.abs(np.concatenate([x - np.roll(x, 1, 0), x - np.roll(x, 2, 0)]))
    D = min(max(1 << (_NUMBERS // (n * (1 + d // 32))).bit_length(), _FEWEST), _MOST)
    found = [_draw(_widths(np.hypot.reduce(differences, axis=1), _OCTAVES, ABOVE), D, d, rng)]
    if d > 1:
        columns, D = np.sort(rng.permutation(d)[:_COLUMNS]), _COLUMN_FREQUENCIES
        largest = np.array([_widths(differences[:, k], 1, 0)[0] for k in columns])
        radii = np.sqrt(chi2.ppf((np.arange(D) + rng.random((len(columns), D))) / D, 1))
        turns = radii / (2 * math.pi * largest[:, None])
        found.append(Octaves(turns.reshape(1, -1), columns, largest[:, None] * 0.5 ** np.arange(_COLUMN_OCTAVES)))
    return found


def fit_group_octaves(x: np.ndarray, groups: int, rows: int, rng: np.random.Generator) -> Octaves:
    """Choose widths for groups of which some may be near each other, and draw as many frequencies as memory allows.

    Args:
        x: Some points (k, d), about as many of each group.
        groups, rows: Number of groups, and of blocks whose sums are stored.
    """
    distances = pair_distances(x)
    near = np.partition(distances, nearest := max(1, len(x) // (20 * groups)), 1)[:, nearest]  # as the 5 % quantile in a group
    small = np.quantile(near[near > 0], 1 / (4 * groups)) if (near > 0).any() else np.inf
    widths = _widths(distances.ravel(), _GROUP_OCTAVES, ABOVE, float(small))
    return _draw(widths, min(max(_GROUP_NUMBERS // (rows * len(widths)), 32), _FEWEST), x.shape[1], rng)


def _draw(widths: np.ndarray, D: int, d: int, rng: np.random.Generator) -> Octaves:
    """Draw D frequencies for whole points of dimension d, with stratified lengths."""
    radii = np.sqrt(chi2.ppf((rng.permutation(D) + rng.random(D)) / D, d))
    return Octaves(_directions(D, d, rng) * (radii / (2 * math.pi * widths[0])), np.zeros(1, np.int64), widths[None])


def _widths(distances: np.ndarray, most: int, above: int, least: float = np.inf) -> np.ndarray:
    """Return widths from some octaves above the large distances down to half of the small ones, or around 1 without any."""
    positive = distances[distances > 0]
    small, large = np.quantile(positive, [0.05, 0.95]) if len(positive) else (1.0, 1.0)
    octaves = above + 1 + max(0, round(math.log2(2 * large / (min(small, least) / 2))))
    return np.asarray(2.0**above * 2 * large * 0.5 ** np.arange(min(octaves, most)))


def _directions(D: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Draw D directions (d, D), orthogonal in groups of d if d is not large."""
    if d > D:
        directions = rng.standard_normal((d, D))
    else:
        groups = np.linalg.qr(rng.standard_normal((-(-D // d), d, d)))[0]
        directions = groups.transpose(1, 0, 2).reshape(d, -1)[:, :D]
    return np.asarray(directions / np.linalg.norm(directions, axis=0))


@numba.njit(**SUMS)
def _add_blocks(first, last, worker, step, x, weights, starts, turns, coordinates, sums):
    width, columns = turns.shape
    L, each = sums.shape[1], columns // len(coordinates)
    phase = np.empty(_TILE)
    s, c = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    total = np.zeros((L, 2, _TILE), np.float32)
    for block in range(first, last):
        for begin in range(0, columns, _TILE):
            n = min(_TILE, columns - begin)
            pending = 0
            for r in range(starts[block], starts[block + 1]):
                point, weight = x[r], np.float32(weights[r])
                if width == 1:
                    for k in range(n):
                        phase[k] = point[coordinates[(begin + k) // each]] * turns[0, begin + k]
                else:
                    for k in range(n):
                        phase[k] = 0.0
                    for j in range(width):
                        v = point[j]
                        for k in range(n):
                            phase[k] += v * turns[j, begin + k]
                for octave in range(L):
                    if octave % _RESTART == 0:
                        for k in range(n):
                            turn = phase[k] * 2.0**octave
                            a = np.float32((turn - np.rint(turn)) * (2 * math.pi / 2**_HALVINGS))
                            q = a * a
                            s[k] = a * (_F[0] - q * (_F[2] - q * (_F[4] - q * _F[6])))
                            c[k] = _F[0] - q * (_F[1] - q * (_F[3] - q * (_F[5] - q * _F[7])))
                        for _ in range(_HALVINGS):
                            for k in range(n):
                                double = s[k] + s[k]
                                c[k], s[k] = _F[0] - double * s[k], double * c[k]
                    for k in range(n):
                        total[octave, 0, k] += weight * s[k]
                        total[octave, 1, k] += weight * c[k]
                        double = s[k] + s[k]
                        c[k], s[k] = _F[0] - double * s[k], double * c[k]
                pending += 1
                if pending == _FLUSH or r + 1 == starts[block + 1]:
                    pending = 0
                    for octave in range(L):
                        for part in range(2):
                            for k in range(n):
                                sums[block, octave, part, begin + k] += total[octave, part, k]
                                total[octave, part, k] = 0.0
