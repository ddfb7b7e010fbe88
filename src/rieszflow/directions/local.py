"""Local slices of images: a slice sees one patch, somewhere in the image.

A direction lives on a patch of size × size pixels and all C channels. It is stretched to (scale·size)² pixels by repeating each
one, and then placed somewhere; it wraps around the border. Its inner product with an image is that with the pooled patch: sums
over scale × scale pixels, divided by `scale`. So a patch has C·size² numbers whatever its scale is, and nothing is copied for a
slice. Directions on a patch are those of `hadamard.py`: the numbers are padded with zeros to n = 2^k, 64 for 7 × 7 pixels. The
mean over its slices has the constant of R^n.

A condition, such as a one-hot label, may stand before the pixels. Every patch sees all of it, so that slices know what a patch
is of. It is made smaller as a patch is smaller than the image, and weighs as much beside the one as beside the other.
Source: paper, section 5 and its appendix on images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.isolation import isolated_numerics
from rieszflow.directions.base import Directions
from rieszflow.directions.hadamard import SMALLEST, transform
from rieszflow.errors import InputError

__all__ = ["Local", "PatchSlices"]


@dataclass(frozen=True)
class PatchSlices:
    """Slices of patches of images, instead of slices of whole images. Give it as the argument `directions`.

    Images are flat: a point has d = C·H·W numbers in the order (C, H, W). The patches of one draw tile the image. They lie on a
    grid with a random origin, so every pixel is in one of them or, near a seam, in several. The sliced functionals then
    estimate the mean, over all places q, of D² between the patches at q. Value and gradient are unbiased for it.

    With `one` a draw has one patch only, at a random place, as in the paper's experiments. It estimates the same, with more
    noise.

    Args:
        shape: (C, H, W) of an image.
        size: pixels along a patch's side, before stretching.
        scale: factor of stretching, at least 1; scale·size is at most H and W.
        by_colour: whether a patch is of one colour only. Of three channels, red, green and blue, the colours are brightness and
            two differences, an orthonormal basis of them; otherwise they are the channels. Differences of colours vary little
            from pixel to pixel, so all slices that mix them with brightness are nearly blind to noise in them.
        one: whether a draw has one patch, which all its slices share, instead of patches that tile the image.
        condition: k numbers before the pixels, d = k + C·H·W, which every patch sees, times size·scale / √(H·W).

    Raises:
        InputError (a ValueError): numbers that are not whole, or a patch that does not fit into the image.

    Example:
        >>> import rieszflow as rf
        >>> g = torch.Generator().manual_seed(0)
        >>> x, y = torch.rand(50, 3 * 16 * 16, generator=g), torch.rand(60, 3 * 16 * 16, generator=g)
        >>> local = rf.PatchSlices((3, 16, 16), size=7, scale=2)
        >>> rf.sliced_mmd2_gradient(x, y, slices=100, directions=local, seed=g).shape
        torch.Size([50, 768])
    """

    shape: tuple[int, int, int]
    size: int = 7
    scale: int = 1
    by_colour: bool = False
    one: bool = False
    condition: int = 0

    def __post_init__(self) -> None:
        try:
            C, H, W, size, scale = (validate.positive_int("", v) for v in (*self.shape, self.size, self.scale))
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

        if isinstance(self.condition, bool) or not isinstance(self.condition, int) or self.condition < 0:
            raise InputError(f"directions: condition={self.condition!r} given; a whole number of at least 0 is accepted")
        for name in ("by_colour", "one"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"directions: {name}={getattr(self, name)!r} given; True or False is accepted")

    @property
    def d(self) -> int:
        """Of the points."""
        return self.condition + math.prod(self.shape)

    @property
    def heed(self) -> float:
        """What the condition is multiplied by."""
        return self.size * self.scale / math.sqrt(self.shape[1] * self.shape[2])

    @property
    def numbers(self) -> int:
        """Of a patch, without the condition."""
        return (1 if self.by_colour else self.shape[0]) * self.size**2

    @property
    def n(self) -> int:
        """The dimension that they are padded to."""
        return max(SMALLEST, 1 << (self.numbers + self.condition - 1).bit_length())

    @property
    def places(self) -> int:
        """How many patches a draw has, in all colours."""
        tiles = 1 if self.one else math.prod(-(-length // (self.size * self.scale)) for length in self.shape[1:])
        return tiles * self.shape[0] if self.by_colour else tiles

    @property
    def colours(self) -> Tensor | None:
        """An orthonormal basis of the channels (C, C), float64, in which patches see the image; None for the channels."""
        if not self.by_colour or self.shape[0] != 3:
            return None
        rows = torch.tensor([[1, 1, 1], [1, -1, 0], [1, 1, -2]], dtype=torch.float64, device="cpu")
        basis: Tensor = rows / rows.norm(dim=1, keepdim=True)
        return basis

    def sample(self, P: int, d: int, like: Tensor, generator: torch.Generator | None) -> Local:
        """See `base.Draw`."""
        if d != self.d:
            before = f" after {self.condition} numbers of a condition" if self.condition else ""
            raise InputError(f"directions: slices of images {self.shape}{before} given, the points have d = {d}")
        device = generator.device if generator is not None else "cpu"
        pixels = self._pixels([int(torch.randint(length, (), generator=generator, device=device)) for length in self.shape[1:]])
        # Every place has P / places directions, rounded up or down, in blocks of n.
        blocks = [
            _Block(q, min(self.n, last - first))
            for q in range(self.places)
            for last in [(q + 1) * P // self.places]
            for first in range(q * P // self.places, last, self.n)
        ]
        signs = 2 * torch.randint(2, (len(blocks), 2, self.n), generator=generator, device=device, dtype=torch.int8) - 1
        return Local(signs.to(like), blocks, pixels.to(like.device), self)

    def _pixels(self, origin: list[int]) -> Tensor:
        """The pixels under every number of every patch, (places, numbers, scale²), in [0, C·H·W)."""
        (C, H, W), s, k = self.shape, self.size, self.scale
        lines = []
        for length, start in zip((H, W), origin, strict=True):
            tiles = -(-length // (s * k))
            starts = (start + np.arange(tiles) * length // tiles)[: 1 if self.one else tiles, None]
            tiles = len(starts)
            lines.append(((starts + np.arange(s * k)) % length).reshape(tiles, s, k))
        down, across = lines
        channel = np.arange(C)[:, None, None, None, None]
        # (places down, places across, C, s, s, k, k)
        flat = (channel * H + down[:, None, None, :, None, :, None]) * W + across[None, :, None, None, :, None, :]
        return torch.from_numpy(flat.reshape(self.places, self.numbers, k * k).astype(np.int32))


@dataclass(frozen=True)
class _Block:
    """The first `rows` of a block of n directions, on the patch at a place."""

    place: int
    rows: int


class Local(Directions):
    """Directions on patches, block after block.

    Attributes:
        signs: D₁ and D₂ of every block, (blocks, 2, n), numbers −1 and 1.
        blocks: where each is, and how many of its directions there are.
        pixels: which pixels a patch's numbers are sums of, (places, numbers, scale²) int32, without the condition. With
            `by_colour` they are pixels of the image in these colours.
        kind: shape of the images, size and scale of the patches.
    """

    def __init__(self, signs: Tensor, blocks: list[_Block], pixels: Tensor, kind: PatchSlices) -> None:
        self.signs, self.blocks, self.pixels, self.kind = signs, blocks, pixels, kind
        self.P, self.n = sum(block.rows for block in blocks), signs.shape[-1]

    @cached_property
    @isolated_numerics
    def xi(self) -> list[Tensor]:
        """The directions on the patch of every block, and on the condition behind it, (rows, numbers + condition)."""
        m, unit = (
            self.pixels.shape[1] + self.kind.condition,
            torch.eye(self.n, dtype=self.signs.dtype, device=self.signs.device),
        )
        return [
            (transform(transform(unit[: block.rows]) * s[1]) * (s[0] / self.n))[:, :m]
            for block, s in zip(self.blocks, self.signs, strict=True)
        ]

    @isolated_numerics
    def _project(self, x: Tensor) -> Tensor:
        k, flat, found, at, patch = self.kind.condition, x.reshape(-1, x.shape[-1]), list[Tensor](), -1, x
        condition, flat = flat[:, :k] * self.kind.heed, self._coloured(flat[:, k:])
        for block, xi in zip(self.blocks, self.xi, strict=True):
            if block.place != at:
                at, patch = block.place, flat[:, self.pixels[block.place].long()].sum(-1) / self.kind.scale
                patch = torch.cat([patch, condition], 1) if k else patch
            found.append(xi @ patch.T)
        return torch.cat(found).view(self.P, *x.shape[:-1]).movedim(0, -2)

    @isolated_numerics
    def adjoint(self, g: Tensor) -> Tensor:
        flat, batch = g.movedim(-2, 0).reshape(self.P, -1), (*g.shape[:-2], g.shape[-1])
        k, out = self.kind.condition, flat.new_zeros(flat.shape[1], math.prod(self.kind.shape))
        condition = flat.new_zeros(flat.shape[1], k)
        parts = flat.split([block.rows for block in self.blocks])
        for block, xi, part in zip(self.blocks, self.xi, parts, strict=True):
            pixels = self.pixels[block.place]
            forces = part.T @ xi
            condition += forces[:, len(pixels) :] * self.kind.heed
            out.index_add_(
                1, pixels.flatten(), (forces[:, : len(pixels)] / self.kind.scale).repeat_interleave(pixels.shape[1], 1)
            )
        out = self._coloured(out, back=True)
        return (torch.cat([condition, out], 1) if k else out).reshape(*batch, -1)

    def _coloured(self, flat: Tensor, back: bool = False) -> Tensor:
        """Images (n, d) in the colours that patches see, or back."""
        basis = self.kind.colours
        if basis is None:
            return flat
        basis = (basis.T if back else basis).to(flat)
        return (basis @ flat.view(len(flat), len(basis), -1)).flatten(1)

    def split(self, size: int) -> list[Local]:
        parts: list[Local] = []
        rest = list(zip(self.blocks, self.signs, strict=True))
        while rest:
            many, taken = 0, 0
            while taken < len(rest) and (not taken or many + rest[taken][0].rows <= size):
                many, taken = many + rest[taken][0].rows, taken + 1
            signs = torch.stack([s for _, s in rest[:taken]])
            parts.append(Local(signs, [block for block, _ in rest[:taken]], self.pixels, self.kind))
            rest = rest[taken:]
        return parts

    def to_float32(self) -> Local:
        return Local(self.signs.float(), self.blocks, self.pixels, self.kind)
