"""Structured orthogonal directions: rows of H·D₂·H·D₁ in R^n, n = 2^k ≥ d, points padded with zeros.

H is the orthonormal Hadamard matrix and D₁, D₂ are random signs, so a block of n directions costs 2n random bits, and
projecting a point on all of them takes 2n log₂ n additions instead of 2n² operations. Padding is an isometry: the constant of
slicing is the one of R^n. Every row has the second moments of the
uniform distribution on the sphere exactly and higher ones up to O(1/n), which small n would show: below `SMALLEST` points are
padded up to it. Source of the construction: Yu et al., Orthogonal Random Features (NeurIPS 2016), section 4.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from rieszflow._compiled import OPTIONS
from rieszflow._threads import share
from rieszflow.directions.base import Directions

SMALLEST = 64


def sample(P: int, d: int, like: Tensor, generator: torch.Generator | None) -> Hadamard:
    n = max(SMALLEST, 1 << (d - 1).bit_length())
    blocks = -(-P // n)
    device = generator.device if generator is not None else "cpu"
    signs = 2 * torch.randint(2, (blocks, 2, n), generator=generator, device=device, dtype=torch.int8) - 1
    return Hadamard(signs.to(like), P, d)


class Hadamard(Directions):
    """The rows `first` … `first` + P − 1 of the blocks stacked on one another; `signs` (blocks, 2, n) hold D₁ and D₂."""

    def __init__(self, signs: Tensor, P: int, d: int, first: int = 0) -> None:
        self.signs, self.P, self.d, self.first = signs, P, d, first
        self.n = signs.shape[-1]

    def project(self, x: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
        if x.device.type == "cpu" and x.dtype == torch.float32 and x.ndim == 2:
            return self._project_cpu(x, x.new_zeros(self.d) if shift is None else shift, scale)
        return super().project(x, shift, scale)

    def _project(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.pad(x, (0, self.n - self.d)) / self.n
        blocks = [_transform(_transform(x * s[0]) * s[1])[..., rows] for s, rows, _ in self._pieces()]
        return torch.cat(blocks, -1).transpose(-1, -2)

    def adjoint(self, g: Tensor) -> Tensor:
        if g.device.type == "cpu" and g.dtype == torch.float32 and g.ndim == 2:
            return self._adjoint_cpu(g)
        out = g.new_zeros(*g.shape[:-2], g.shape[-1], self.d)
        for s, rows, mine in self._pieces():
            block = g.new_zeros(*g.shape[:-2], g.shape[-1], self.n)
            block[..., rows] = g[..., mine, :].transpose(-1, -2)
            out += (_transform(_transform(block) * s[1]) * (s[0] / self.n))[..., : self.d]
        return out

    def split(self, size: int) -> list[Hadamard]:
        return [Hadamard(self.signs, min(size, self.P - k), self.d, self.first + k) for k in range(0, self.P, size)]

    def to_float32(self) -> Hadamard:
        return Hadamard(self.signs.float(), self.P, self.d, self.first)

    def _pieces(self) -> list[tuple[Tensor, slice, slice]]:
        """For every block that has rows of ours: its signs, the rows within it, and where they are among ours."""
        pieces = []
        for k in range(self.first // self.n, -(-(self.first + self.P) // self.n)):
            start, stop = max(self.first, k * self.n), min(self.first + self.P, (k + 1) * self.n)
            pieces.append(
                (self.signs[k], slice(start - k * self.n, stop - k * self.n), slice(start - self.first, stop - self.first))
            )
        return pieces

    def blocks(self) -> list[Hadamard]:
        """The same directions, one block each; every one begins with its block's first row if this object does."""
        return [Hadamard(s[None], rows.stop - rows.start, self.d, rows.start) for s, rows, _ in self._pieces()]

    def _project_cpu(self, x: Tensor, shift: Tensor, scale: float) -> Tensor:
        out = torch.from_numpy(np.empty((self.P, len(x)), np.float32))
        for s, rows, mine in self._pieces():
            args = x.detach().numpy(), shift.flatten().numpy(), np.float32(scale), s.numpy(), rows.start, out[mine].numpy()
            share(_project, len(x), width(self.n), *args)
        return out

    def _adjoint_cpu(self, g: Tensor) -> Tensor:
        out = torch.from_numpy(np.zeros((g.shape[1], self.d), np.float32))
        for s, rows, mine in self._pieces():
            share(_adjoint, g.shape[1], width(self.n), g[mine].detach().numpy(), s.numpy(), rows.start, out.numpy())
        return out


def _transform(x: Tensor) -> Tensor:
    """Walsh–Hadamard transform of the last dimension, n = 2^k, not normalised."""
    n = x.shape[-1]
    h = 1
    while h < n:
        pairs = x.reshape(*x.shape[:-1], n // (2 * h), 2, h)
        x = torch.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], -2).flatten(-3)
        h *= 2
    return x


# On the CPU points are transformed T at a time, side by side: tile[j·T + i] is coordinate j of the i-th of them. Then every
# butterfly is the same operation on T neighbours, and a tile stays in the second-level cache.


def width(n: int) -> int:
    """T: 256 KB a tile at n = 1024, never less than one vector of 16 floats."""
    return 64 if n <= 2048 else max(16, (1 << 17) // n)


@numba.njit(**OPTIONS)
def butterflies(tile, n, T):
    """Walsh–Hadamard transform of every column; two levels in one sweep, which halves the memory traffic."""
    h = 1
    levels = 0
    while (1 << levels) < n:
        levels += 1
    if levels & 1:
        for start in range(0, n * T, 2 * T):
            a, b = tile[start : start + T], tile[start + T : start + 2 * T]
            for k in range(T):
                p, q = a[k], b[k]
                a[k], b[k] = p + q, p - q
        h = 2
    while h < n:
        w = h * T
        for start in range(0, n * T, 4 * w):
            a, b = tile[start : start + w], tile[start + w : start + 2 * w]
            c, d = tile[start + 2 * w : start + 3 * w], tile[start + 3 * w : start + 4 * w]
            for k in range(w):
                p, q, r, s = a[k], b[k], c[k], d[k]
                e, f, g, o = p + q, p - q, r + s, r - s
                a[k], b[k], c[k], d[k] = e + g, f + o, e - g, f - o
        h *= 4


@numba.njit(**OPTIONS)
def scale_rows(tile, factors, T):
    for j in range(factors.shape[0]):
        row = tile[j * T : (j + 1) * T]
        f = factors[j]
        for k in range(T):
            row[k] *= f


@numba.njit(**OPTIONS)
def forward(tile, x, first, m, shift, scale, signs, T):
    """tile = H·D₂·H·D₁·(x − shift)·scale for the points first … first + m − 1; other columns are zero."""
    d, n = x.shape[1], signs.shape[1]
    factors = signs[0] * np.float32(1 / n)
    tile[(d if m == T else 0) * T :] = 0
    whole = m - m % 8
    for i in range(0, whole, 8):
        # Eight points at a time: their rows are read along, and every line of the tile is touched for all of them at once.
        x0, x1, x2, x3 = x[first + i], x[first + i + 1], x[first + i + 2], x[first + i + 3]
        x4, x5, x6, x7 = x[first + i + 4], x[first + i + 5], x[first + i + 6], x[first + i + 7]
        for j in range(d):
            s, f, line = shift[j], factors[j], tile[j * T + i : j * T + i + 8]
            line[0] = np.float32((x0[j] - s) * scale) * f
            line[1] = np.float32((x1[j] - s) * scale) * f
            line[2] = np.float32((x2[j] - s) * scale) * f
            line[3] = np.float32((x3[j] - s) * scale) * f
            line[4] = np.float32((x4[j] - s) * scale) * f
            line[5] = np.float32((x5[j] - s) * scale) * f
            line[6] = np.float32((x6[j] - s) * scale) * f
            line[7] = np.float32((x7[j] - s) * scale) * f
    for i in range(whole, m):
        for j in range(d):
            tile[j * T + i] = np.float32((x[first + i, j] - shift[j]) * scale) * factors[j]
    butterflies(tile, n, T)
    scale_rows(tile, signs[1], T)
    butterflies(tile, n, T)


@numba.njit(**OPTIONS)
def backward(tile, out, first, m, signs, T):
    """out[first + i] = D₁·H·D₂·H·tile, the adjoint of `forward` but for shift and scale."""
    d, n = out.shape[1], signs.shape[1]
    butterflies(tile, n, T)
    scale_rows(tile, signs[1], T)
    butterflies(tile, n, T)
    factors = signs[0] * np.float32(1 / n)
    whole = m - m % 8
    for i in range(0, whole, 8):
        o0, o1, o2, o3 = out[first + i], out[first + i + 1], out[first + i + 2], out[first + i + 3]
        o4, o5, o6, o7 = out[first + i + 4], out[first + i + 5], out[first + i + 6], out[first + i + 7]
        for j in range(d):
            f, line = factors[j], tile[j * T + i : j * T + i + 8]
            o0[j], o1[j], o2[j], o3[j] = line[0] * f, line[1] * f, line[2] * f, line[3] * f
            o4[j], o5[j], o6[j], o7[j] = line[4] * f, line[5] * f, line[6] * f, line[7] * f
    for i in range(whole, m):
        for j in range(d):
            out[first + i, j] = tile[j * T + i] * factors[j]


@numba.njit(**OPTIONS)
def _project(first, last, worker, T, x, shift, scale, signs, row, out):
    tile = np.empty(signs.shape[1] * T, np.float32)
    for start in range(first, last, T):
        m = min(T, last - start)
        forward(tile, x, start, m, shift, scale, signs, T)
        for p in range(out.shape[0]):
            for i in range(m):
                out[p, start + i] = tile[(row + p) * T + i]


@numba.njit(**OPTIONS)
def _adjoint(first, last, worker, T, g, signs, row, out):
    tile = np.empty(signs.shape[1] * T, np.float32)
    part = np.empty((T, out.shape[1]), np.float32)
    for start in range(first, last, T):
        m = min(T, last - start)
        tile[:] = 0
        for p in range(g.shape[0]):
            for i in range(m):
                tile[(row + p) * T + i] = g[p, start + i]
        backward(tile, part, 0, m, signs, T)
        for i in range(m):
            for j in range(out.shape[1]):
                out[start + i, j] += part[i, j]
