"""Directions on patches of images.

A Hadamard direction on a patch of size × size pixels and C channels is stretched to (stretch·size)² pixels and placed in the
image with periodic boundary. Its inner product with an image is that with the pooled patch: sums over stretch × stretch pixels,
divided by `stretch`. So a patch has C·size² numbers whatever its stretch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.numerics import to_device
from rieszflow.directions.base import Directions
from rieszflow.directions.hadamard import padded_dim, random_signs, transform
from rieszflow.errors import InputError


@dataclass(frozen=True)
class PatchSlices:
    """Slices of image patches instead of whole images, for the argument `directions`.

    Images are flat points of dimension d = C·H·W in the order (C, H, W). The patches of one draw tile the image, on a grid with
    a random origin. The sliced functionals then estimate the mean over all positions q of MMD² between the patches at q, and
    value and gradient are unbiased for it.

    Args:
        shape: Shape (C, H, W) of an image.
        size: Side length of a patch in pixels, before stretching.
        stretch: Factor by which a patch is stretched, at least 1; stretch·size is at most H and W.
        by_colour: If True, a patch has one colour only. For three channels (red, green, blue) the colours are an orthonormal
            basis of brightness and two colour differences, otherwise they are the channels. Slices that mix brightness with
            colour differences, which vary little from pixel to pixel, are nearly blind to noise in the latter.
        single_patch: If True, all slices of a draw share one patch at a random position, as in the paper's experiments. It
            estimates the same mean with more noise.
        condition: Number of leading coordinates that hold a condition, d = condition + C·H·W. Every patch sees them, times
            stretch·size / √(H·W), so that a condition weighs as much next to a patch as next to the image.

    Raises:
        InputError (a ValueError): Sizes that are not positive integers, or a patch that does not fit into the image.

    Example:
        >>> import rieszflow as rf
        >>> g = torch.Generator().manual_seed(0)
        >>> x, y = torch.rand(50, 3 * 16 * 16, generator=g), torch.rand(60, 3 * 16 * 16, generator=g)
        >>> patches = rf.PatchSlices((3, 16, 16), size=7, stretch=2)
        >>> rf.sliced_mmd2_gradient(x, y, slices=100, directions=patches, seed=g).shape
        torch.Size([50, 768])

    References:
        Hertrich et al., Generative Sliced MMD Flows with Riesz Kernels (ICLR 2024), section 5 and the appendix on images.
    """

    shape: tuple[int, int, int]
    size: int = 7
    stretch: int = 1
    by_colour: bool = False
    single_patch: bool = False
    condition: int = 0

    def __post_init__(self) -> None:
        try:
            C, H, W, size, stretch = (validate.positive_int("", v) for v in (*self.shape, self.size, self.stretch))
        except (TypeError, ValueError):
            raise InputError(f"`shape`, `size` and `stretch` must be (C, H, W) and positive integers, got {self!r}") from None
        condition = validate.nonnegative_int("condition", self.condition)
        for name, value in (("shape", (C, H, W)), ("size", size), ("stretch", stretch), ("condition", condition)):
            object.__setattr__(self, name, value)
        if size * stretch > min(H, W):
            raise InputError(
                f"`size` · `stretch` must be at most {min(H, W)} for images of {H} × {W} pixels, got {size} · {stretch}"
            )
        for name in ("by_colour", "single_patch"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"`{name}` must be True or False, got {getattr(self, name)!r}")

    @property
    def d(self) -> int:
        """Dimension of the points."""
        return self.condition + math.prod(self.shape)

    @property
    def condition_scale(self) -> float:
        """Factor of the condition."""
        return self.size * self.stretch / math.sqrt(self.shape[1] * self.shape[2])

    @property
    def patch_dim(self) -> int:
        """Dimension of a patch, without the condition."""
        return (1 if self.by_colour else self.shape[0]) * self.size**2

    @property
    def n(self) -> int:
        """Dimension that a patch and the condition are padded to."""
        return padded_dim(self.patch_dim + self.condition)

    @property
    def n_patches(self) -> int:
        """Number of patches of a draw, in all colours."""
        tiles = 1 if self.single_patch else math.prod(-(-side // (self.size * self.stretch)) for side in self.shape[1:])
        return tiles * self.shape[0] if self.by_colour else tiles

    @property
    def colour_basis(self) -> Tensor | None:
        """Orthonormal basis (C, C) of the channels in which patches see the image, float64; None for the channels."""
        if not self.by_colour or self.shape[0] != 3:
            return None
        rows = torch.tensor([[1, 1, 1], [1, -1, 0], [1, 1, -2]], dtype=torch.float64, device="cpu")
        basis: Tensor = rows / rows.norm(dim=1, keepdim=True)
        return basis

    def sample(self, P: int, d: int, like: Tensor, generator: torch.Generator) -> PatchDirections:
        """Draw P directions; see `base.Sampler`."""
        if d != self.d:
            prefix = f" after {self.condition} coordinates of a condition" if self.condition else ""
            raise InputError(f"`directions` must fit points of dimension d = {d}, got patches of images {self.shape}{prefix}")
        device = generator.device
        pixels = self._pixels([int(torch.randint(side, (), generator=generator, device=device)) for side in self.shape[1:]])
        # Every patch has P / n_patches directions, rounded up or down, in blocks of n.
        blocks = []
        for q in range(self.n_patches):
            first, last = (k * P // self.n_patches for k in (q, q + 1))
            blocks += [_Block(q, min(self.n, last - start)) for start in range(first, last, self.n)]
        signs = random_signs(len(blocks), self.n, like, generator)
        return PatchDirections(signs, blocks, to_device(pixels, like.device), self)

    def _pixels(self, origin: list[int]) -> Tensor:
        """Return the pixels under every number of every patch, of shape (n_patches, patch_dim, stretch²), in [0, C·H·W)."""
        (C, H, W), s, k = self.shape, self.size, self.stretch
        lines = []
        for side, start in zip((H, W), origin, strict=True):
            tiles = -(-side // (s * k))
            starts = (start + np.arange(tiles) * side // tiles)[: 1 if self.single_patch else tiles, None]
            lines.append(((starts + np.arange(s * k)) % side).reshape(len(starts), s, k))
        down, across = lines
        channel = np.arange(C)[:, None, None, None, None]
        # (tiles down, tiles across, C, s, s, k, k)
        flat = (channel * H + down[:, None, None, :, None, :, None]) * W + across[None, :, None, None, :, None, :]
        return torch.from_numpy(flat.reshape(self.n_patches, self.patch_dim, k * k).astype(np.int32))


class _Block(NamedTuple):
    """The first `rows` directions of a Hadamard block on the patch of number `patch`."""

    patch: int
    rows: int


class PatchDirections(Directions):
    """Directions on patches, block after block.

    Attributes:
        signs: D₁ and D₂ of every block, shape (blocks, 2, n).
        blocks: Patch and number of directions of every block.
        pixels: Pixels that a patch's numbers are sums of, as in `PatchSlices._pixels`; `by_colour`, in the colour basis.
        kind: Images and patches.
    """

    def __init__(self, signs: Tensor, blocks: list[_Block], pixels: Tensor, kind: PatchSlices) -> None:
        self.signs, self.blocks, self.pixels, self.kind = signs, blocks, pixels, kind
        self.P, self.n = sum(block.rows for block in blocks), signs.shape[-1]

    @cached_property
    def xi(self) -> list[Tensor]:
        """Directions of every block as a matrix (rows, patch_dim + condition)."""
        H = transform(torch.eye(self.n, dtype=self.signs.dtype, device=self.signs.device))
        first, second = self.signs[:, :, None].unbind(1)
        # Sums of signs are exact in any order, and one operation for all blocks is faster than one for each.
        whole = (H[: max(block.rows for block in self.blocks)] * second) @ H * (first / self.n)
        return [
            xi[: block.rows, : self.kind.patch_dim + self.kind.condition] for block, xi in zip(self.blocks, whole, strict=True)
        ]

    def _project(self, x: Tensor) -> Tensor:
        k, flat, start = self.kind.condition, x.reshape(-1, x.shape[-1]), self.blocks[0].patch
        pixels = self.pixels[start : self.blocks[-1].patch + 1].long()
        patches = self._change_basis(flat[:, k:])[:, pixels].sum(-1).div_(self.kind.stretch).transpose(0, 1).contiguous()
        if k:
            condition = flat[:, :k] * self.kind.condition_scale
            patches = torch.cat([patches, condition.expand(len(patches), -1, -1)], -1)
        found = [xi @ patches[block.patch - start].T for block, xi in zip(self.blocks, self.xi, strict=True)]
        return torch.cat(found).view(self.P, *x.shape[:-1]).movedim(0, -2)

    def adjoint(self, g: Tensor) -> Tensor:
        flat, m = g.movedim(-2, 0).reshape(self.P, -1), self.kind.patch_dim
        parts = flat.split([block.rows for block in self.blocks])
        sums = torch.stack([part.T @ xi for part, xi in zip(parts, self.xi, strict=True)], 1)
        pooled = sums[:, :, :m, None].div(self.kind.stretch).expand(-1, -1, -1, self.pixels.shape[-1])
        pixels = torch.stack([self.pixels[block.patch] for block in self.blocks])
        images = flat.new_zeros(flat.shape[1], math.prod(self.kind.shape))
        images.index_add_(1, pixels.flatten(), pooled.flatten(1))
        images = self._change_basis(images, inverse=True)
        if self.kind.condition:
            images = torch.cat([sums[:, :, m:].sum(1) * self.kind.condition_scale, images], 1)
        return images.reshape(*g.shape[:-2], g.shape[-1], -1)

    def _change_basis(self, images: Tensor, inverse: bool = False) -> Tensor:
        """Express images (n, C·H·W) in the colour basis, or undo it."""
        basis = self.kind.colour_basis
        if basis is None:
            return images
        basis = to_device(basis.T if inverse else basis, images.device).to(images)
        return (basis @ images.view(len(images), len(basis), -1)).flatten(1)

    def split(self, size: int) -> list[PatchDirections]:
        starts, rows = [0], 0
        for k, block in enumerate(self.blocks):
            if k > starts[-1] and rows + block.rows > size:
                starts, rows = [*starts, k], 0
            rows += block.rows
        cuts = zip(starts, [*starts[1:], len(self.blocks)], strict=True)
        return [PatchDirections(self.signs[a:b], self.blocks[a:b], self.pixels, self.kind) for a, b in cuts]

    def to_float32(self) -> PatchDirections:
        return PatchDirections(self.signs.float(), self.blocks, self.pixels, self.kind)
