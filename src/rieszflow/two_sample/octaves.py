"""Gaussian kernels of all widths, by random Fourier features whose frequencies double from one width to the next.

With ω standard normal, k(x, y) = exp(−‖x − y‖² / 2h²) is the mean of cos(ω·(x − y) / h). One sine and one cosine for every
point and frequency at the largest width are enough: those of smaller widths, each half of the one before, follow by doubling
the angle.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from typing import get_args

import numba
import numpy as np
from scipy.stats import chi2

from rieszflow._infra import validate
from rieszflow._infra.jit import OPTIONS, parallel_for
from rieszflow._infra.messages import notice
from rieszflow._types import Kernels, KernelsName
from rieszflow.errors import InputError
from rieszflow.kernels import Gaussian, Riesz
from rieszflow.sketch import SliceSketch
from rieszflow.two_sample.permutations import scaled_distances

FITTED, FITTED_NUMBERS = 2048, 1 << 15  # random points by which widths are chosen, and their coordinates, at the most
_FREQUENCIES, _MANY = 512, 1 << 17  # D of whole points, and the number of points (· d / 32) beyond which there are half as many
_COLUMN_FREQUENCIES = 16
_COLUMNS = 64  # that are tested on their own, at random if there are more
_OCTAVES, _COLUMN_OCTAVES = 13, 8  # widths that are tested
_MAX_OCTAVES = 36  # of groups, of which some may be near each other and far from the rest
_MAX_GROUP_SINES = 1 << 24  # in sums over blocks of many groups
_ABOVE, _MAX_ABOVE = 4, 128  # widths above the largest distances, for the energy distance only, and with far outliers
_LARGEST = 1e300
_ZERO = 8.0  # times its width, at which a Gaussian is less than 1e-13
_TILE = 128  # frequencies at a time: the sums of all octaves fit into the cache
_PHASES = 1 << 18  # at a time, which fit into the cache
_HALVINGS = 3  # of the angle before its sine is a polynomial
_RESTART = 16  # octaves until the sines are computed again: every doubling doubles their error
_F = tuple(np.float32(1 / math.factorial(k)) for k in range(1, 9))  # coefficients of the polynomials
ENERGY = math.log(2) / math.sqrt(math.pi / 2)  # Σ_l ENERGY h_l (1 − exp(−t² / 2 h_l²)) is t, but for 0.1 %


@dataclass(frozen=True)
class Octaves:
    """Frequencies for one or more subspaces of coordinates, each with L widths that halve from one to the next.

    Subspace g has the coordinates first[g], first[g] + 1, …, as many as `frequencies` has rows, and D of its columns.
    """

    frequencies: np.ndarray  # at the largest width, in cycles per unit: (coordinates, subspaces · D), float64
    first: np.ndarray  # (subspaces,)
    widths: np.ndarray  # (subspaces, L)
    origin: np.ndarray  # a typical point (d,)
    above: int = 0  # the number of widths, the largest ones, that only the energy distance uses
    on_columns: bool = False

    @property
    def D(self) -> int:
        return int(self.frequencies.shape[1]) // len(self.first)

    def add(self, x: np.ndarray, weights: np.ndarray, starts: np.ndarray, sums: np.ndarray) -> None:
        """Add weighted sines and cosines, less those of the origin, of points x[starts[k] : starts[k + 1]] to sums[k].

        Phases are those of the difference from the origin, so that its features are exactly 0 and 1. Sums of a constant are
        zero, in however many batches it comes.

        Args:
            x, weights: Points (n, d) and their weights (n,), float64.
            starts: (K + 1,).
            sums: (K, L, 2, subspaces · D), float64.
        """
        width, columns = self.frequencies.shape
        step = max(1, _PHASES // columns) if width > 1 else max(1, len(x))
        for begin in range(0, len(x), step):
            centred = x[begin : begin + step] - self.origin
            phases = centred @ self.frequencies if width > 1 else centred[:0]
            cuts = np.clip(starts - begin, 0, len(centred))
            present = slice(*np.flatnonzero(np.diff(cuts))[[0, -1]] + [0, 1])  # blocks that have points here
            tasks, own = (present.stop - present.start) * -(-columns // _TILE), cuts[present.start :]
            parallel_for(
                _add_blocks, tasks, 1, centred, phases, weights[begin:], own, self.frequencies, self.first, sums[present]
            )

    def add_rest(self, points: SliceSketch, kept: SliceSketch, sums: np.ndarray) -> None:
        """Add those points of a sketch that are not kept, by their bins, to sums (L, 2, subspaces · D)."""
        positions, weights, centre = points.rest(kept, self.on_columns)
        columns = np.arange(self.frequencies.shape[1])
        rows = np.repeat(self.first, self.D) if self.on_columns else columns % len(positions)
        lengths = np.linalg.norm(self.frequencies, axis=0)
        offsets = np.concatenate([self.phases(centre[None], subspace)[0] for subspace in range(len(self.first))])
        for part in np.array_split(columns, -(-len(columns) // _TILE)):
            phases, w = offsets[part, None] + lengths[part, None] * positions[rows[part]], weights[rows[part]]
            for octave in range(len(sums)):
                if octave % _RESTART == 0:
                    s, c = np.split(self.features(phases, octave), 2, 1)
                sums[octave, 0, part] += np.einsum("kb,kb->k", w, s)
                sums[octave, 1, part] += np.einsum("kb,kb->k", w, c - 1)
                s, c = 2 * s * c, 1 - 2 * s * s

    def phases(self, x: np.ndarray, subspace: int) -> np.ndarray:
        """Return the phases of points (n, d) at the largest width, in cycles, (n, D)."""
        coordinates = slice(self.first[subspace], self.first[subspace] + len(self.frequencies))
        own = self.frequencies[:, subspace * self.D : (subspace + 1) * self.D]
        return np.asarray((x[:, coordinates] - self.origin[coordinates]) @ own)

    def features(self, phases: np.ndarray, octave: int) -> np.ndarray:
        """Return the sines and cosines of phases at a smaller width, (n, 2 D), whose products over D are the kernel."""
        cycles = phases * 2.0**octave
        angles = 2 * math.pi * (cycles - np.rint(cycles))
        return np.concatenate([np.sin(angles), np.cos(angles)], 1)


def check_kernels(kernels: object) -> None:
    if isinstance(kernels, str):
        validate.choice("kernels", kernels, get_args(KernelsName))
    elif (
        not isinstance(kernels, (list, tuple))
        or not kernels
        or any(k != Riesz(1.0) and not isinstance(k, Gaussian) for k in kernels)
    ):
        wanted = '"auto", "energy" or a list of Gaussian kernels, with or without Riesz(1.0)'
        raise InputError(f"`kernels` must be {wanted}, got {reprlib.repr(kernels)}")


def fit_octaves(
    x: np.ndarray, n: int, rng: np.random.Generator, kernels: Kernels = "auto", slices: np.ndarray | None = None
) -> list[Octaves]:
    """Choose widths by the distances between some points x (k, d) of n, and draw frequencies, on given slices (P, d) if any.

    Returns:
        Octaves for whole points, and then those for columns if `kernels` is "auto" and d > 1, or those of given Gaussians.
    """
    d, x = x.shape[1], rng.permutation(_check_size(x))
    differences = np.abs(np.concatenate([x - np.roll(x, 1, 0), x - np.roll(x, 2, 0)]))
    D = _FREQUENCIES if n * (1 + d // 32) <= _MANY else _FREQUENCIES // 2
    slices = slices if slices is None else slices[np.arange(D) % len(slices)]
    found = [_fit(x, np.hypot.reduce(differences, axis=1), _OCTAVES, D, rng, slices=slices)]
    if kernels == "auto" and d > 1:
        columns, D = np.sort(rng.permutation(d)[:_COLUMNS]), _COLUMN_FREQUENCIES
        largest = np.array([_choose_widths(differences[:, k], 1)[0] for k in columns])
        radii = np.sqrt(chi2.ppf((np.arange(D) + rng.random((len(columns), D))) / D, 1))
        frequencies = radii / (2 * math.pi * largest[:, None])
        widths = largest[:, None] * 0.5 ** np.arange(_COLUMN_OCTAVES)
        found.append(Octaves(frequencies.reshape(1, -1), columns, widths, np.median(x, 0), on_columns=True))
    elif not isinstance(kernels, str):
        distances, unit = scaled_distances(x)
        nearest = float(distances[distances > 0].min(initial=np.inf)) / unit
        for kernel in kernels:
            if isinstance(kernel, Gaussian):
                if nearest > _ZERO * kernel.sigma:
                    notice(
                        f"kernels: {kernel} is 0 for random points that differ, the nearest of which are {nearest:.3g} apart"
                    )
                found.append(_draw(x, np.array([kernel.sigma]), D, rng, slices))
    return found


def fit_group_octaves(x: np.ndarray, groups: int, rows: int, rng: np.random.Generator) -> Octaves:
    """Choose widths for groups of which some may be near each other, and draw as many frequencies as memory allows.

    Args:
        x: Some points (k, d), about as many of each group.
        groups, rows: Number of groups, and of blocks whose sums are stored.
    """
    scaled, unit = scaled_distances(_check_size(x))
    distances = scaled / unit
    near = np.partition(distances, nearest := max(1, len(x) // (20 * groups)), 1)[:, nearest]  # as the 5 % quantile in a group
    small = np.quantile(near[near > 0], 1 / (4 * groups)) if (near > 0).any() else np.inf
    D = min(max(_MAX_GROUP_SINES // (rows * _OCTAVES), 32), _FREQUENCIES // 2)
    return _fit(x, distances.ravel(), _MAX_OCTAVES, D, rng, float(small))


def _check_size(x: np.ndarray) -> np.ndarray:
    if (size := float(np.abs(x).max())) > _LARGEST:
        raise InputError(f"`x` must have points of at most {_LARGEST:.0e} in size for kernels of all widths, got {size:.3g}")
    return x


def _fit(
    x: np.ndarray, distances: np.ndarray, most: int, D: int, rng: np.random.Generator, least: float = np.inf,
    slices: np.ndarray | None = None,
) -> Octaves:  # fmt: skip
    """Choose widths for whole points by some of their distances, and draw frequencies."""
    widths = _choose_widths(distances, most, least)
    beyond = math.log2(distances.max() / widths[0]) if distances.max() > 0 else 0.0  # far outliers
    above = min(_ABOVE + max(0, math.ceil(beyond)), _MAX_ABOVE)
    return _draw(x, np.concatenate([widths[0] * 2.0 ** np.arange(above, 0, -1), widths]), D, rng, slices, above)


def _draw(
    x: np.ndarray, widths: np.ndarray, D: int, rng: np.random.Generator, slices: np.ndarray | None, above: int = 0
) -> Octaves:
    """Draw D frequencies of stratified lengths for whole points."""
    d = x.shape[1]
    radii = np.sqrt(chi2.ppf((rng.permutation(D) + rng.random(D)) / D, d))
    frequencies = (_directions(D, d, rng) if slices is None else slices.T) * (radii / (2 * math.pi * widths[0]))
    return Octaves(frequencies, np.zeros(1, np.int64), widths[None], np.median(x, 0), above)


def _choose_widths(distances: np.ndarray, most: int, least: float = np.inf) -> np.ndarray:
    """Return widths from twice the large distances down to half of the small ones, or 2 if there are none."""
    positive = distances[distances > 0]
    small, large = np.quantile(positive, [0.05, 0.95]) if len(positive) else (1.0, 1.0)
    octaves = 1 + max(0, round(math.log2(2 * large) - math.log2(min(small, least) / 2)))
    return np.asarray(2 * large * 0.5 ** np.arange(min(octaves, most)))


def _directions(D: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Draw D directions (d, D), orthogonal in groups of d if d is not large."""
    if d > D:
        directions = rng.standard_normal((d, D))
    else:
        groups = np.linalg.qr(rng.standard_normal((-(-D // d), d, d)))[0]
        directions = groups.transpose(1, 0, 2).reshape(d, -1)[:, :D]
    return np.asarray(directions / np.linalg.norm(directions, axis=0))


@numba.njit(**OPTIONS)
def _add_blocks(first, last, worker, step, x, phases, weights, starts, frequencies, coordinates, sums):
    columns = frequencies.shape[1]
    L, D = sums.shape[1], columns // len(coordinates)
    tiles = (columns + _TILE - 1) // _TILE
    phase = np.empty(_TILE)
    s, c = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    total = np.empty((L, 2, _TILE))  # in float64: in float32, sums of equal points would depend on their order
    for task in range(first, last):
        block, begin = task // tiles, task % tiles * _TILE
        n, total[:] = min(_TILE, columns - begin), 0.0
        for r in range(starts[block], starts[block + 1]):
            weight = weights[r]
            if len(phases):
                phase[:n] = phases[r, begin : begin + n]
            else:
                for subspace in range(begin // D, (begin + n - 1) // D + 1):
                    v = x[r, coordinates[subspace]]
                    for k in range(max(0, subspace * D - begin), min(n, (subspace + 1) * D - begin)):
                        phase[k] = v * frequencies[0, begin + k]
            for octave in range(L):
                if octave % _RESTART == 0:
                    scale = 2.0**octave
                    for k in range(n):
                        cycles = phase[k] * scale
                        a = np.float32((cycles - np.rint(cycles)) * (2 * math.pi / 2**_HALVINGS))
                        q = a * a
                        s[k] = a * (_F[0] - q * (_F[2] - q * (_F[4] - q * _F[6])))
                        c[k] = _F[0] - q * (_F[1] - q * (_F[3] - q * (_F[5] - q * _F[7])))
                    for _ in range(_HALVINGS):
                        for k in range(n):
                            double = s[k] + s[k]
                            c[k], s[k] = _F[0] - double * s[k], double * c[k]
                sines, cosines = total[octave, 0], total[octave, 1]
                for k in range(n):
                    sines[k] += weight * s[k]
                    cosines[k] += weight * (c[k] - _F[0])
                    double = s[k] + s[k]
                    c[k], s[k] = _F[0] - double * s[k], double * c[k]
        sums[block, :, :, begin : begin + n] += total[:, :, :n]
