"""Two clouds, or the sketches of them: how far apart they are, where they differ, and the test that fits them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from rieszflow._types import ProgressCallback, ScaleName
from rieszflow.data import stream
from rieszflow.data.scale import check_scale
from rieszflow.errors import InputError
from rieszflow.sketch import SliceSketch
from rieszflow.two_sample import TwoSampleTest, drift_test, two_sample_test

__all__ = ["Comparison", "compare", "is_sketch"]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        x: sketch of all points of x.
        y: sketch of all points of y, with the same slices and bins.
        test: the test that was made; None for two sketches, which have no points left to permute.
        statistic: D² (half the energy distance) on the slices, unbiased: around 0, and at times below it, where nothing differs.
    """

    x: SliceSketch
    y: SliceSketch
    test: TwoSampleTest | None
    statistic: float

    @property
    def confidence_interval(self) -> tuple[float, float] | None:
        """Approximate 95 % confidence interval of the distance; None without a test."""
        return None if self.test is None else self.test.confidence_interval

    @property
    def pvalue(self) -> float | None:
        """Exact p-value for equal distributions; None without a test."""
        return None if self.test is None else self.test.pvalue

    @property
    def scale(self) -> str:
        """Return "columns" if every column was divided by its spread, "none" for raw units."""
        return self.x.scale

    @property
    def permutations(self) -> int | None:
        """How many were tried; None without a test."""
        return None if self.test is None else self.test.permutations

    def columns(self, top: int | None = None) -> list[tuple[str, float]]:
        """Columns and their energy coefficients (0: alike, 1: apart), those that differ most first.

        Args:
            top: how many; None for all of them.

        Returns:
            Pairs of name and coefficient; none where d is above 4,096, for then columns are not counted by themselves.
        """
        if not self.x.columns:
            return []
        names = self.y.names or [f"column {k}" for k in range(self.y.d)]
        apart = self.y.feature_distances(self.x)
        return [(names[k], apart[k].item()) for k in apart.argsort(descending=True)[:top].tolist()]


def is_sketch(source: Any) -> bool:
    """Whether a source is a sketch, or the file of one."""
    return isinstance(source, SliceSketch) or (isinstance(source, (str, os.PathLike)) and os.fspath(source).endswith(".sketch"))


def compare(
    x: Any,
    y: Any,
    *,
    slices: int | None = None,
    permutations: int = 999,
    seed: int = 0,
    scale: ScaleName = "auto",
    common: bool = False,
    progress: ProgressCallback | None = None,
) -> Comparison:
    """Compares two clouds, with the test that fits what is there of them.

    Points on both sides: `two_sample_test`. A sketch on one side: `drift_test` against it. Two sketches: their distance.

    Args:
        x: points (n, d), n ≥ 2: all that `rieszflow.stream` takes, but iterators; or a `SliceSketch`, or a .sketch file.
        y: likewise.
        slices: random directions; None for 256. A sketch has its own.
        permutations: of the test; the least p-value is one over this number plus one.
        seed: of directions, blocks and permutations; a whole number.
        scale: as in `two_sample_test`; with a sketch "auto" or the sketch's own.
        common: of tables with different columns, compare those that both have.
        progress: called after every batch with a `Progress` that counts points.

    Raises:
        InputError, InputTypeError, DatasetError, FileError: what `stream`, the test or `SliceSketch.load` refuses; `slices` or
            `common` given with a sketch; sketches that do not have the same slices and bins.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> a, b = torch.randn(500, 2, generator=g), torch.randn(400, 2, generator=g) + torch.tensor([0.0, 0.5])
        >>> found = compare(a, b)
        >>> found.pvalue, found.columns(1)[0][0]
        (0.001, 'column 1')
    """
    one, two = (_sketch(source) if is_sketch(source) else None for source in (x, y))
    if one is not None or two is not None:
        if slices is not None:
            raise InputError(f"slices: {slices} given; a sketch has its own slices")
        if common:
            raise InputError("common: a sketch is of all its columns; choose those of the other table with `columns`")
    options: dict[str, Any] = {"permutations": permutations, "seed": seed, "scale": scale, "progress": progress}
    if one is not None and two is not None:
        check_scale(scale)
        if scale not in ("auto", one.scale):
            raise InputError(f"`scale` must be 'auto' or {one.scale!r}, which the sketches have, got {scale!r}")
        return Comparison(one, two, None, two.distance(one, statistic="U"))
    if one is not None:
        test = drift_test(stream(y), one, **options)
        return Comparison(one, test.x, test, test.statistic)
    if two is not None:
        test = drift_test(stream(x), two, **options)
        return Comparison(test.x, two, test, test.statistic)
    test = two_sample_test(x, y, slices=256 if slices is None else slices, common=common, **options)
    return Comparison(test.x, test.y, test, test.statistic)


def _sketch(source: Any) -> SliceSketch:
    return source if isinstance(source, SliceSketch) else SliceSketch.load(source)
