"""Structured orthogonal directions: rows of H·D₂·H·D₁ in R^n for n = 2^k ≥ d, where points are zero-padded.

H is the orthonormal Hadamard matrix, D₁ and D₂ are diagonal matrices of random signs. Projecting a point on a block of n
directions takes 2n log₂ n additions instead of 2n² operations.

Every row has exactly the second moments of the uniform distribution on the sphere, and the higher ones up to O(1/n); points are
therefore padded to `MIN_DIM` numbers or more.

References:
    Yu et al., Orthogonal Random Features (NeurIPS 2016), section 4.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.jit import parallel_for, tile_width
from rieszflow.directions import loops
from rieszflow.directions.base import Directions

__all__ = ["HadamardDirections", "hadamard", "padded_dim", "random_signs", "transform"]

MIN_DIM = 64


def padded_dim(d: int) -> int:
    """Return the power of two that points of dimension d are padded to."""
    return max(MIN_DIM, 1 << (d - 1).bit_length())


def random_signs(blocks: int, n: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw D₁ and D₂ of some blocks, of shape (blocks, 2, n)."""
    bits = torch.randint(2, (blocks, 2, n), generator=generator, device=generator.device, dtype=torch.int8)
    return (2 * bits - 1).to(like)


def hadamard(P: int, d: int, like: Tensor, generator: torch.Generator) -> HadamardDirections:
    """Draw whole blocks of directions, and use the last one in part."""
    n = padded_dim(d)
    return HadamardDirections(random_signs(-(-P // n), n, like, generator), P, d)


class HadamardDirections(Directions):
    """Consecutive rows of Hadamard blocks.

    Args:
        signs: D₁ and D₂ of every block, shape (blocks, 2, n), entries −1 and 1.
        P: Number of rows.
        d: Dimension of the points.
        first: Index of the first row, counted from that of the first block.
    """

    def __init__(self, signs: Tensor, P: int, d: int, first: int = 0) -> None:
        self.signs, self.P, self.d, self.first = signs, P, d, first
        self.n = signs.shape[-1]

    def project(self, x: Tensor, shift: Tensor | None = None, scale: float = 1.0) -> Tensor:
        if x.device.type == "cpu" and x.dtype == torch.float32 and x.ndim == 2:
            origin = (x.new_zeros(self.d) if shift is None else shift.flatten()).numpy()
            out = torch.from_numpy(np.empty((self.P, len(x)), np.float32))
            for s, rows, own in self._pieces():
                args = x.detach().numpy(), origin, np.float32(scale), s.numpy(), rows.start, out[own].numpy()
                parallel_for(loops.project, len(x), tile_width(self.n), *args)
            return out
        return super().project(x, shift, scale)

    def _project(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.pad(x, (0, self.n - self.d)) / self.n
        blocks = [transform(transform(x * s[0]) * s[1])[..., rows] for s, rows, _ in self._pieces()]
        return torch.cat(blocks, -1).transpose(-1, -2)

    def adjoint(self, g: Tensor) -> Tensor:
        if g.device.type == "cpu" and g.dtype == torch.float32 and g.ndim == 2:
            out = torch.from_numpy(np.zeros((g.shape[1], self.d), np.float32))
            for s, rows, own in self._pieces():
                args = g[own].detach().numpy(), s.numpy(), rows.start, out.numpy()
                parallel_for(loops.adjoint, g.shape[1], tile_width(self.n), *args)
            return out
        out = g.new_zeros(*g.shape[:-2], g.shape[-1], self.d)
        for s, rows, own in self._pieces():
            block = g.new_zeros(*g.shape[:-2], g.shape[-1], self.n)
            block[..., rows] = g[..., own, :].transpose(-1, -2)
            out += (transform(transform(block) * s[1]) * (s[0] / self.n))[..., : self.d]
        return out

    def split(self, size: int) -> list[HadamardDirections]:
        starts = range(0, self.P, size)
        return [HadamardDirections(self.signs, min(size, self.P - k), self.d, self.first + k) for k in starts]

    def blocks(self) -> list[HadamardDirections]:
        """Split at the boundaries of the blocks."""
        return [HadamardDirections(s[None], rows.stop - rows.start, self.d, rows.start) for s, rows, _ in self._pieces()]

    def to_float32(self) -> HadamardDirections:
        return HadamardDirections(self.signs.float(), self.P, self.d, self.first)

    def _pieces(self) -> list[tuple[Tensor, slice, slice]]:
        """Return for every block with rows of ours: its signs, the rows' places in the block, and among our rows."""
        pieces, end = [], self.first + self.P
        for k in range(self.first // self.n, -(-end // self.n)):
            start, stop = max(self.first, k * self.n), min(end, (k + 1) * self.n)
            rows, own = (slice(start - origin, stop - origin) for origin in (k * self.n, self.first))
            pieces.append((self.signs[k], rows, own))
        return pieces


def transform(x: Tensor) -> Tensor:
    """Compute the Walsh–Hadamard transform of the last dimension, n = 2^k, without normalisation."""
    n = x.shape[-1]
    h = 1
    while h < n:
        pairs = x.reshape(*x.shape[:-1], n // (2 * h), 2, h)
        x = torch.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], -2).flatten(-3)
        h *= 2
    return x
