"""Structured orthogonal directions: rows of H·D₂·H·D₁ in R^n, for n = 2^k ≥ d. Points are padded with zeros.

H is the orthonormal Hadamard matrix; D₁ and D₂ are random signs on a diagonal. A block of n directions costs 2n random bits. To
project a point on all of them takes 2n log₂ n additions instead of 2n² operations.

Padding keeps distances, and so the constant of slicing is the one of R^n. Every row has exactly the second moments of the
uniform distribution on the sphere, and higher ones up to O(1/n). Small n would show that, so points are padded to `SMALLEST` at
least. Source: Yu et al., Orthogonal Random Features (NeurIPS 2016), section 4.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.jit import parallel_for, tile_width
from rieszflow.directions import loops
from rieszflow.directions.base import Directions

__all__ = ["SMALLEST", "Hadamard", "sample", "transform"]

SMALLEST = 64


def sample(P: int, d: int, like: Tensor, generator: torch.Generator | None) -> Hadamard:
    """Whole blocks of signs, the last one used in part. See `base.Draw`."""
    n = max(SMALLEST, 1 << (d - 1).bit_length())
    blocks = -(-P // n)
    device = generator.device if generator is not None else "cpu"
    signs = 2 * torch.randint(2, (blocks, 2, n), generator=generator, device=device, dtype=torch.int8) - 1
    return Hadamard(signs.to(like), P, d)


class Hadamard(Directions):
    """Consecutive rows of blocks that stand on one another.

    Args:
        signs: D₁ and D₂ of every block, (blocks, 2, n), numbers −1 and 1.
        P: number of rows.
        d: dimension of the points.
        first: number of the first row, counted from the first block's.
    """

    def __init__(self, signs: Tensor, P: int, d: int, first: int = 0) -> None:
        self.signs, self.P, self.d, self.first = signs, P, d, first
        self.n = signs.shape[-1]

    def project(self, x: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
        if x.device.type == "cpu" and x.dtype == torch.float32 and x.ndim == 2:
            return self._project_cpu(x, x.new_zeros(self.d) if shift is None else shift, scale)
        return super().project(x, shift, scale)

    def _project(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.pad(x, (0, self.n - self.d)) / self.n
        blocks = [transform(transform(x * s[0]) * s[1])[..., rows] for s, rows, _ in self._pieces()]
        return torch.cat(blocks, -1).transpose(-1, -2)

    def adjoint(self, g: Tensor) -> Tensor:
        if g.device.type == "cpu" and g.dtype == torch.float32 and g.ndim == 2:
            return self._adjoint_cpu(g)
        out = g.new_zeros(*g.shape[:-2], g.shape[-1], self.d)
        for s, rows, mine in self._pieces():
            block = g.new_zeros(*g.shape[:-2], g.shape[-1], self.n)
            block[..., rows] = g[..., mine, :].transpose(-1, -2)
            out += (transform(transform(block) * s[1]) * (s[0] / self.n))[..., : self.d]
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
            parallel_for(loops.project, len(x), tile_width(self.n), *args)
        return out

    def _adjoint_cpu(self, g: Tensor) -> Tensor:
        out = torch.from_numpy(np.zeros((g.shape[1], self.d), np.float32))
        for s, rows, mine in self._pieces():
            args = g[mine].detach().numpy(), s.numpy(), rows.start, out.numpy()
            parallel_for(loops.adjoint, g.shape[1], tile_width(self.n), *args)
        return out


def transform(x: Tensor) -> Tensor:
    """Walsh–Hadamard transform of the last dimension, n = 2^k, not normalised."""
    n = x.shape[-1]
    h = 1
    while h < n:
        pairs = x.reshape(*x.shape[:-1], n // (2 * h), 2, h)
        x = torch.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], -2).flatten(-3)
        h *= 2
    return x
