"""Local slices of images: a slice sees one patch, somewhere in the image.

A direction lives on a patch of size × size pixels and all C channels. It is stretched to (scale·size)² pixels by repeating each
one, and then placed somewhere; it wraps around the border. Its inner product with an image is that with the pooled patch: sums
over scale × scale pixels, divided by `scale`. So a patch has n = C·size² numbers whatever its scale is, the mean over its
slices has the constant of R^n, and nothing is copied for a slice.
Source: paper, section 5 and its appendix on images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rieszflow import _validate
from rieszflow._surroundings import plain
from rieszflow.directions.base import Directions
from rieszflow.errors import InputError

__all__ = ["LocalSlices"]


@dataclass(frozen=True)
class LocalSlices:
    """Slices of patches of images, instead of slices of whole images. Give it as the argument `directions`.

    Images are flat: a point has d = C·H·W numbers in the order (C, H, W). The patches of one draw tile the image. They lie on a
    grid with a random origin, so every pixel is in one of them or, near a seam, in several. The sliced functionals then
    estimate the mean, over all places q, of D² between the patches at q. Value and gradient are unbiased for it.

    Args:
        shape: (C, H, W) of an image.
        size: pixels along a patch's side, before stretching.
        scale: factor of stretching, at least 1; scale·size is at most H and W.

    Raises:
        InputError (a ValueError): numbers that are not whole, or a patch that does not fit into the image.

    Example:
        >>> import rieszflow as rf
        >>> g = torch.Generator().manual_seed(0)
        >>> x, y = torch.rand(50, 3 * 16 * 16, generator=g), torch.rand(60, 3 * 16 * 16, generator=g)
        >>> local = rf.LocalSlices((3, 16, 16), size=7, scale=2)
        >>> rf.sliced_mmd2_gradient(x, y, slices=100, directions=local, seed=g).shape
        torch.Size([50, 768])
    """

    shape: tuple[int, int, int]
    size: int = 7
    scale: int = 1

    def __post_init__(self) -> None:
        try:
            C, H, W, size, scale = (_validate.positive_int("", v) for v in (*self.shape, self.size, self.scale))
        except (TypeError, ValueError):
            raise InputError(
                f"directions: {self!r} given; a shape (C, H, W), size and scale of whole numbers are accepted"
            ) from None
        for name, value in (("shape", (C, H, W)), ("size", size), ("scale", scale)):
            object.__setattr__(self, name, value)
        if self.size * self.scale > min(self.shape[1:]):
            raise InputError(
                f"directions: patches of {self.size} × {self.size} pixels stretched by {self.scale} do not fit into images of "
                f"{self.shape[1]} × {self.shape[2]}"
            )

    def sample(self, P: int, d: int, like: Tensor, generator: torch.Generator | None) -> Local:
        """See `base.Draw`."""
        if d != math.prod(self.shape):
            raise InputError(f"directions: slices of images {self.shape} given, the points have d = {d}")
        device = generator.device if generator is not None else "cpu"
        side, grids = self.size * self.scale, []
        for length in self.shape[1:]:
            tiles = -(-length // side)
            origin = int(torch.randint(length, (), generator=generator, device=device))
            starts = (origin + torch.arange(tiles, device="cpu") * length // tiles)[:, None]
            grids.append(((starts + torch.arange(side, device="cpu")) % length).flatten().to(like.device))
        places = len(grids[0]) * len(grids[1]) // side**2
        each = -(-P // places)
        n = self.shape[0] * self.size**2
        blocks = [
            # Haar blocks at every place: at right angles to one another within it
            torch.linalg.qr(torch.randn(places, n, min(n, each - k), generator=generator, device=device, dtype=torch.float32))
            for k in range(0, each, n)
        ]
        signs = [r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2) for _, r in blocks]
        xi = torch.cat([q * s for (q, _), s in zip(blocks, signs, strict=True)], -1).transpose(-1, -2)
        return Local(xi.to(like), self, grids[0], grids[1], P)


class Local(Directions):
    """Directions on patches. Direction p is number p // places of place p % places.

    Attributes:
        xi: (places, directions of a place, n).
        kind: shape of the images, size and scale of the patches.
        down: for all places from top to bottom, the pixels that their patches cover in this direction: numbers in [0, H).
        across: likewise from left to right, numbers in [0, W).
        places: number of places, those from top to bottom times those from left to right.
    """

    def __init__(self, xi: Tensor, kind: LocalSlices, down: Tensor, across: Tensor, P: int) -> None:
        self.xi, self.kind, self.down, self.across, self.P = xi, kind, down, across, P
        self.places, self.n = len(xi), xi.shape[-1]

    @plain
    def _project(self, x: Tensor) -> Tensor:
        C, H, W = self.kind.shape
        s, k = self.kind.size, self.kind.scale
        batch = x.shape[:-1]
        tiles = x.reshape(-1, C, H, W).index_select(2, self.down).index_select(3, self.across)
        i, j = len(self.down) // (s * k), len(self.across) // (s * k)
        # (points, C, i, s, k, j, s, k) to one row of n numbers for every place and point
        pooled = tiles.view(-1, C, i, s, k, j, s, k).sum((4, 7)) / k
        patches = pooled.permute(2, 4, 0, 1, 3, 5).reshape(i * j, -1, self.n)
        projected = torch.bmm(self.xi, patches.transpose(1, 2))  # (places, directions of a place, points)
        projected = projected.transpose(0, 1).reshape(-1, projected.shape[-1])[: self.P]
        return projected.view(self.P, *batch).movedim(0, -2)

    @plain
    def adjoint(self, g: Tensor) -> Tensor:
        C, H, W = self.kind.shape
        s, k = self.kind.size, self.kind.scale
        batch = (*g.shape[:-2], g.shape[-1])
        flat = g.movedim(-2, 0).reshape(self.P, -1)
        places, each, _ = self.xi.shape
        full = flat.new_zeros(each * places, flat.shape[1])
        full[: self.P] = flat
        patches = torch.bmm(full.view(each, places, -1).permute(1, 2, 0), self.xi) / k  # (places, points, n)
        i, j = len(self.down) // (s * k), len(self.across) // (s * k)
        tiles = patches.view(i, j, -1, C, s, s).permute(2, 3, 0, 4, 1, 5)
        tiles = tiles[:, :, :, :, None, :, :, None].expand(-1, -1, i, s, k, j, s, k).reshape(-1, C, i * s * k, j * s * k)
        wide = tiles.new_zeros(len(tiles), C, i * s * k, W).index_add_(3, self.across, tiles)
        out = tiles.new_zeros(len(tiles), C, H, W).index_add_(2, self.down, wide)
        return out.view(*batch, C * H * W)

    def split(self, size: int) -> list[Local]:
        """Parts with equally many directions at all places, so of at least as many directions as there are places."""
        places, each, _ = self.xi.shape
        step = max(1, size // places)
        return [
            Local(self.xi[:, k : k + step], self.kind, self.down, self.across, min(self.P, (k + step) * places) - k * places)
            for k in range(0, each, step)
        ]

    def to_float32(self) -> Local:
        return Local(self.xi.float(), self.kind, self.down, self.across, self.P)
