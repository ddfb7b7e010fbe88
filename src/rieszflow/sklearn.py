"""`EnergyDrift`: drift detection as an estimator of scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rieszflow._infra import validate
from rieszflow._infra.extras import extra
from rieszflow._types import DirectionsName, PointSource, ScaleName
from rieszflow.data import as_points
from rieszflow.data.points import conversion_hint
from rieszflow.data.streams import open_table
from rieszflow.errors import InputError, InputTypeError
from rieszflow.sketch import SliceSketch
from rieszflow.two_sample import TwoSampleTest, drift_test

if TYPE_CHECKING:
    from rieszflow.data.tables import Table

with extra("generative", "EnergyDrift"):
    from sklearn.base import BaseEstimator
    from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["EnergyDrift"]


class EnergyDrift(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A detector of drift away from a reference, by `drift_test`.

    It stores a sketch of the reference with a random sample of its points. All rows that are passed together get one verdict,
    because drift is a property of a distribution and not of a row.

    Args:
        alpha: Level of the test, the largest probability of a false alarm.
        slices, permutations, directions: See `two_sample_test`.
        scale: See `SliceSketch`; "auto" is "columns" if the reference has feature names.
        random_state: Seed of the directions and the permutations, an integer; None for 0.

    Attributes:
        sketch_: The `SliceSketch` of the reference.
        n_features_in_: Number of columns of the reference.
        feature_names_in_: Their names, if there are some.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> drift = EnergyDrift().fit(rng.normal(size=(1000, 3)))
        >>> drift.predict(rng.normal(size=(4, 3)) + 3).tolist(), bool(drift.test(rng.normal(size=(200, 3))).pvalue > 0.05)
        ([-1, -1, -1, -1], True)
    """

    def __init__(
        self,
        *,
        alpha: float = 0.05,
        slices: int = 256,
        permutations: int = 999,
        directions: DirectionsName = "auto",
        scale: ScaleName = "auto",
        random_state: int | None = 0,
    ) -> None:
        self.alpha, self.slices, self.permutations = alpha, slices, permutations
        self.directions, self.scale, self.random_state = directions, scale, random_state

    def fit(self, X: PointSource, y: object = None) -> EnergyDrift:
        """Use points (n, d), n ≥ 2, as the reference, and return the estimator.

        Raises:
            ValueError, TypeError: Data that scikit-learn or `SliceSketch` refuses; masked values, dates and times, integers
                that float64 would round.
        """
        self._level()
        seed, points = self._seed(), self._points(X, reset=True)
        scale = "columns" if self.scale == "auto" and hasattr(self, "feature_names_in_") else self.scale
        self.sketch_ = SliceSketch.from_points(points, slices=self.slices, directions=self.directions, seed=seed, scale=scale)
        return self

    def test(self, X: PointSource) -> TwoSampleTest:
        """Test points (n, d), n ≥ 2, against the reference."""
        check_is_fitted(self)
        return drift_test(self._points(X, reset=False), self.sketch_, permutations=self.permutations, seed=self._seed())

    def score(self, X: PointSource, y: object = None) -> float:
        """Return the negative energy distance of points (n, d) from the reference, unbiased: around 0 without drift."""
        check_is_fitted(self)
        return -self.sketch_.distance(self._points(X, reset=False), statistic="U")

    def predict(self, X: PointSource) -> np.ndarray:
        """Return −1 for every row if the rows together have drifted, else 1, like the outlier detectors of scikit-learn."""
        level, found = self._level(), self.test(X)
        return np.full(found.x.n, -1 if found.pvalue <= level else 1)

    def _points(self, X: Any, reset: bool) -> np.ndarray | Table:
        """Return `X` validated by scikit-learn, and refuse what it would lose: masks, digits of integers, units of time.

        A data frame with text or times is returned as a table.
        """
        if isinstance(X, torch.Tensor):
            X = as_points(X, "X").cpu().numpy()
        elif hasattr(type(X), "collect"):
            raise InputTypeError(f"`X` must be an array or a data frame in memory, got {type(X).__name__}{conversion_hint(X)}")
        columns = [X]
        if hasattr(X, "columns"):  # of an Arrow table, or of a data frame, each with its own type
            columns = list(X.columns) if hasattr(type(X), "column_names") else [X[name] for name in X.columns]
        arrays = [part if isinstance(part, np.ndarray) else np.asarray(part) for part in columns]
        arrays = [np.array(array.tolist()) if array.dtype.kind == "O" else array for array in arrays]
        if hasattr(X, "columns") and any(array.dtype.kind in "OSUmM" for array in arrays):
            validate_data(self, X, reset=reset, skip_check_array=True)  # names and number of columns
            table = open_table(X)
            assert table is not None
            return table
        for array in arrays:
            changed = array.dtype.kind in "iumM" or (array.dtype.kind == "f" and array.dtype.itemsize > 8)
            if array.size and array.ndim and (changed or isinstance(array, np.ma.MaskedArray)):
                as_points(array.reshape(len(array), -1), "X")
        return np.asarray(validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], ensure_min_samples=2))

    def _level(self) -> float:
        level = validate.positive_float("alpha", self.alpha)
        if level >= 1:
            raise InputError(f"`alpha` must be between 0 and 1, got {self.alpha!r}")
        return level

    def _seed(self) -> int:
        return validate.integer_seed(0 if self.random_state is None else self.random_state, "random_state")
