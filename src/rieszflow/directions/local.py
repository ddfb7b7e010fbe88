"""Locally connected slices of images: a slice sees one patch, somewhere in the image.

A direction on a patch of size × size pixels and all C channels is stretched by nearest up-sampling to (scale·size)², and placed
periodically: it wraps around the border. Pooling the patch by sums over scale × scale pixels and dividing by `scale` is the
same inner product, so a patch has n = C·size² numbers whatever its scale is, its slices average to `size`-patches' own D²
with the constant of R^n, and nothing is ever copied per slice. Source: paper, section 5 and its appendix on images.
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
    """Give it as `directions`: slices on patches of images, flat as (C, H, W), instead of slices of all of an image.

    The patches of one draw tile the image: they lie on a grid with a random origin, so that every pixel is in one or, near a
    seam, in several of them. Value and gradient are those of the mean, over all places q, of D² between the patches at q; the
    gradient is unbiased for it.

    Args:
        shape: (C, H, W) of an image.
        size: pixels along a patch's side, before stretching.
        scale: stretching, at least 1; scale·size is at most H and W.

    Raises:
        ValueError: a patch that does not fit into the image.

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
            # Haar blocks at every place: orthogonal to one another within it
            torch.linalg.qr(torch.randn(places, n, min(n, each - k), generator=generator, device=device, dtype=torch.float32))
            for k in range(0, each, n)
        ]
        signs = [r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2) for _, r in blocks]
        xi = torch.cat([q * s for (q, _), s in zip(blocks, signs, strict=True)], -1).transpose(-1, -2)
        return Local(xi.to(like), self, grids[0], grids[1], P)


class Local(Directions):
    """Slices on patches: `xi` (places, rows of a place, n); slice p is row p // places of place p % places."""

    def __init__(self, xi: Tensor, kind: LocalSlices, rows: Tensor, columns: Tensor, P: int) -> None:
        self.xi, self.kind, self.rows, self.columns, self.P = xi, kind, rows, columns, P
        self.places, self.n = len(xi), xi.shape[-1]

    @plain
    def _project(self, x: Tensor) -> Tensor:
        C, H, W = self.kind.shape
        s, k = self.kind.size, self.kind.scale
        batch = x.shape[:-1]
        tiles = x.reshape(-1, C, H, W).index_select(2, self.rows).index_select(3, self.columns)
        i, j = len(self.rows) // (s * k), len(self.columns) // (s * k)
        # (points, C, i, s, k, j, s, k) to one row of n numbers for every place and point
        pooled = tiles.view(-1, C, i, s, k, j, s, k).sum((4, 7)) / k
        patches = pooled.permute(2, 4, 0, 1, 3, 5).reshape(i * j, -1, self.n)
        projected = torch.bmm(self.xi, patches.transpose(1, 2))  # (places, rows, points)
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
        i, j = len(self.rows) // (s * k), len(self.columns) // (s * k)
        tiles = patches.view(i, j, -1, C, s, s).permute(2, 3, 0, 4, 1, 5)
        tiles = tiles[:, :, :, :, None, :, :, None].expand(-1, -1, i, s, k, j, s, k).reshape(-1, C, i * s * k, j * s * k)
        wide = tiles.new_zeros(len(tiles), C, i * s * k, W).index_add_(3, self.columns, tiles)
        out = tiles.new_zeros(len(tiles), C, H, W).index_add_(2, self.rows, wide)
        return out.view(*batch, C * H * W)

    def split(self, rows: int) -> list[Directions]:
        """Parts of whole rows of all places, at most `rows` slices where there are no more places than that."""
        places, each, _ = self.xi.shape
        step = max(1, rows // places)
        return [
            Local(self.xi[:, k : k + step], self.kind, self.rows, self.columns, min(self.P, (k + step) * places) - k * places)
            for k in range(0, each, step)
        ]

    def single(self) -> Directions:
        return Local(self.xi.float(), self.kind, self.rows, self.columns, self.P)
