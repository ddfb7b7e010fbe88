"""`compare`: the energy distance of two samples or sketches, the columns that differ, and the test that fits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from rieszflow._types import PointSource, ProgressCallback, ScaleName
from rieszflow.errors import InputError
from rieszflow.sketch import SliceSketch
from rieszflow.two_sample.api import TwoSampleTest, check_scale_of, drift_test, two_sample_test

__all__ = ["Comparison", "compare", "is_sketch"]


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        x: Sketch of all points of x.
        y: Sketch of all points of y, with the same slices and bins.
        test: The test; None for two sketches, which have no points left to permute.
        statistic: Unbiased estimate of the energy distance (MMD²): around 0, and sometimes negative, if the samples agree.
        pvalue, confidence_interval, permutations: Those of the test; None without a test.
    """

    x: SliceSketch
    y: SliceSketch
    test: TwoSampleTest | None
    statistic: float
    pvalue: float | None = None
    confidence_interval: tuple[float, float] | None = None
    permutations: int | None = None

    @property
    def scale(self) -> Literal["columns", "none"]:
        """Return "columns" if every column was divided by its spread, "none" for raw units."""
        return self.x.scale

    def columns(self, top: int | None = None) -> list[tuple[str, float]]:
        """Return the names of the columns and their energy coefficients (0: alike, 1: apart), the largest first.

        Args:
            top: Number of columns; None for all of them.
        """
        if not self.x.plan.settings.has_columns:
            return []
        names = self.y.names or [f"column {k}" for k in range(self.y.d)]
        coefficients = self.y.feature_distances(self.x)
        return [(names[k], coefficients[k].item()) for k in coefficients.argsort(descending=True)[:top].tolist()]


def is_sketch(source: object) -> bool:
    """Return True for a sketch or the path of a .sketch file."""
    return isinstance(source, SliceSketch) or (isinstance(source, (str, os.PathLike)) and os.fspath(source).endswith(".sketch"))


def compare(
    x: PointSource,
    y: PointSource,
    *,
    slices: int | None = None,
    permutations: int = 999,
    seed: int = 0,
    scale: ScaleName = "auto",
    common: bool = False,
    progress: ProgressCallback | None = None,
) -> Comparison:
    """Compare two samples: points with `two_sample_test`, points and a sketch with `drift_test`, two sketches without a test.

    Args:
        x: Points of shape (n, d), n ≥ 2: anything that `rieszflow.stream` accepts, except iterators; or a `SliceSketch`, or the
            path of a .sketch file.
        y: Points of shape (m, d), m ≥ 2, or a sketch, like x.
        slices: Number of random directions; None for 256, or those of a sketch.
        permutations, seed, common, progress: See `two_sample_test`.
        scale: See `two_sample_test`; with a sketch "auto" or the sketch's own.

    Raises:
        InputError, InputTypeError, DatasetError, FileError: Points or files that `stream`, the test or `SliceSketch.load`
            refuses; `slices` or `common` with a sketch; sketches with different slices or bins.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> a, b = torch.randn(500, 2, generator=g), torch.randn(400, 2, generator=g) + torch.tensor([0.0, 0.5])
        >>> found = compare(a, b)
        >>> found.pvalue, found.columns(1)[0][0]
        (0.001, 'column 1')
    """
    one, two = (_load(source) if is_sketch(source) else None for source in (x, y))
    if one is None and two is None:
        test = two_sample_test(
            x, y, slices=256 if slices is None else slices, permutations=permutations, seed=seed, scale=scale, common=common,
            progress=progress,
        )  # fmt: skip
        return _comparison(test.x, test.y, test)
    if slices is not None:
        raise InputError(f"`slices` must be None with a sketch, which has its own, got {slices}")
    if common:
        raise InputError("`common` must be False with a sketch, which has all its columns; choose those of the table")
    if one is not None and two is not None:
        check_scale_of(one, scale, "sketches have")
        return Comparison(one, two, None, two.distance(one, statistic="U"))
    reference, points = (one, y) if one is not None else (two, x)
    assert reference is not None
    test = drift_test(points, reference, permutations=permutations, seed=seed, scale=scale, progress=progress)
    return _comparison(reference, test.x, test) if one is not None else _comparison(test.x, reference, test)


def _comparison(x: SliceSketch, y: SliceSketch, test: TwoSampleTest) -> Comparison:
    return Comparison(x, y, test, test.statistic, test.pvalue, test.confidence_interval, test.permutations)


def _load(source: PointSource) -> SliceSketch:
    if isinstance(source, SliceSketch):
        return source
    assert isinstance(source, (str, os.PathLike))
    return SliceSketch.load(source)
