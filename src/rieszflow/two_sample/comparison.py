"""`compare`, which tests points with points, or with a sketch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from rieszflow._types import PointSource, ProgressCallback, ScaleName
from rieszflow.errors import InputError
from rieszflow.sketch import SliceSketch
from rieszflow.sketch.columns import describe_change, encoded_columns
from rieszflow.two_sample.api import TwoSampleTest, two_sample_test
from rieszflow.two_sample.drift import drift_test
from rieszflow.two_sample.multiscale import Witness


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        x, y: Sketches of all points of x and y, with the same slices and bins.
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

    def columns(self, top: int | None = None) -> list[tuple[str, float, str]]:
        """Return the `top` columns that differ most, or all: their names, energy coefficients, and how they differ.

        The energy coefficient is 0 for equal distributions and 1 for two different constants. Numbers are described by their
        quartiles, categories by the shares that moved most, and both by the shares of missing cells, in x and in y.
        """
        if not self.x.plan.settings.has_columns:
            return []
        coefficients, names = self.y.feature_distances(self.x), [column.name for column, _ in encoded_columns(self.y)]
        order = coefficients.argsort(descending=True, stable=True)[:top].tolist()
        return [(names[k], coefficients[k].item(), describe_change(self.x, self.y, k)) for k in order]

    def witness(self, points: PointSource) -> Witness:
        """Return `TwoSampleTest.witness` at points (n, d), positive where x is denser than y."""
        if self.test is None:
            raise InputError("`compare` must be given points for a witness, got two sketches")
        found = self.test.witness(points)
        return found if self.test.x is self.x else Witness(-found.values, found.standard_errors)

    def scales(self, top: int | None = None) -> list[tuple[str, float | None, float]]:
        """Return at which scales the samples differ most, once for each column and for all columns together.

        Returns:
            The name of a column or "all columns", the width of the Gaussian kernel in the unit of the column (without unit for
            scaled columns together) or None for the energy distance, and the p-value, adjusted for the number of kernels.
        """
        found: dict[str, tuple[str, float | None, float]] = {}
        spreads, encoding = self.x.plan.settings.spreads, self.x.plan.settings.encoding
        for kernel in self.test.kernels if self.test else ():
            column = 0 if self.x.d == 1 else kernel.column
            name = "all columns" if column is None else self.column_name(column)
            unit = 1.0 if column is None or spreads is None else spreads[column]
            # On the two values of a category's coordinate all kernels are multiples of the energy distance.
            width = kernel.width if column is None or encoding is None or encoding.numeric[column] else None
            found.setdefault(name, (name, None if width is None else width * unit, kernel.pvalue))
        return list(found.values())[:top]

    def column_name(self, column: int) -> str:
        """Return the name of a column, "column k" if it has none."""
        return self.y.names[column] if self.y.names else f"column {column}"


def compare(
    x: PointSource,
    y: PointSource,
    *,
    groups: object = None,
    slices: int | None = None,
    permutations: int = 999,
    seed: int = 0,
    scale: ScaleName = "auto",
    common: bool = False,
    progress: ProgressCallback | None = None,
) -> Comparison:
    """Compare two samples: points with `two_sample_test`, points and a sketch with `drift_test`, two sketches without a test.

    Args:
        x, y: Points of shape (n, d) and (m, d), n, m ≥ 2: anything that `rieszflow.stream` accepts, except iterators. Or
            sketches, or the paths of .sketch files.
        groups: Points that belong together, see `two_sample_test`; for samples that are not sketches.
        slices: Number of random directions; None for 256, or those of a sketch.
        permutations, seed, common, progress: See `two_sample_test`.
        scale: See `two_sample_test`; with a sketch "auto" or the sketch's own.

    Raises:
        InputError, InputTypeError, DatasetError, FileError: Points, sketches or files that the test or `SliceSketch.load`
            refuses; `groups`, `slices` or `common` with a sketch; sketches with different slices or bins.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> a, b = torch.randn(500, 2, generator=g), torch.randn(400, 2, generator=g) + torch.tensor([0.0, 0.5])
        >>> found = compare(a, b)
        >>> found.pvalue, found.columns(1)[0][0]
        (0.001, 'column 1')
    """
    one, two = _load_sketch(x), _load_sketch(y)
    reference = two if one is None else one
    if reference is None:
        test = two_sample_test(
            x, y, groups=groups, slices=256 if slices is None else slices, permutations=permutations, seed=seed, scale=scale,
            common=common, progress=progress,
        )  # fmt: skip
    else:
        if slices is not None:
            raise InputError(f"`slices` must be None with a sketch, which has its own, got {slices}")
        if groups is not None:
            raise InputError(f"`groups` must be None with a sketch, whose points have no groups, got {groups!r}")
        if common:
            raise InputError("`common` must be False with a sketch, which has all its columns; choose those of the table")
        if one is not None and two is not None:
            one.plan.settings.check_scale(scale, "sketches have")
            return Comparison(one, two, None, two.distance(one, statistic="U"))
        points = x if one is None else y
        test = drift_test(points, reference, permutations=permutations, seed=seed, scale=scale, progress=progress)
    one, two = (test.x, test.y) if one is None else (test.y, test.x)
    return Comparison(one, two, test, test.statistic, test.pvalue, test.confidence_interval, test.permutations)


def _load_sketch(source: PointSource) -> SliceSketch | None:
    """Return a sketch as it is, or that of a .sketch file; None for points."""
    if isinstance(source, (str, os.PathLike)) and os.fspath(source).endswith(".sketch"):
        return SliceSketch.load(source)
    return source if isinstance(source, SliceSketch) else None
