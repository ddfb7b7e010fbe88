"""The sliced energy distance as a metric of torchmetrics: batch after batch, in constant memory, added up over processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rieszflow import histograms
from rieszflow._infra import validate
from rieszflow._infra.extras import extra
from rieszflow._infra.isolation import isolated_numerics
from rieszflow._types import DirectionsName, ScaleName, Statistic
from rieszflow.data.scale import spreads_of_rows
from rieszflow.errors import InputError, InputTypeError
from rieszflow.loss import flat_points
from rieszflow.sketch.counts import add_points
from rieszflow.sketch.plan import Plan, SliceSettings, notice_if_coarse

with extra("generative", "SlicedEnergyDistance"):
    from torchmetrics import Metric

__all__ = ["SlicedEnergyDistance"]


class SlicedEnergyDistance(Metric):
    """Energy distance between all points seen as real and all others, like torchmetrics' FID but without keeping features.

    What is kept are the tables of a `SliceSketch`, 20 KB a slice for both clouds, whatever the number of points. Those of
    several processes add up without loss: how points are spread over batches and processes does not matter. States can be added
    up, merged and loaded only between metrics with equal `rows`, `slices`, `directions`, `seed`, `scale` and `reset_real`. They
    stay in float64 even if a module that contains the metric is converted to another dtype.

    Calling the metric, as in `metric(x, real=False)`, counts the batch and returns the distance between that batch and all
    points of the other cloud seen so far, or NaN if one of them has too few points, where `compute` raises an error.

    Args:
        rows: some points (m, ...), m ≥ 1, like those that are to come: they say where the bins should be. They are not counted.
            Every process needs the same ones.
        slices: number P of directions.
        directions: "auto", "orthogonal", "hadamard", "sobol" or "independent", as in `sliced_mmd2`.
        seed: of the directions, a whole number.
        scale: "columns" divides every column by its robust spread in `rows` (interquartile range, or standard deviation if that
            is 0); "none" keeps raw units; "auto" keeps raw units and gives a notice if the spreads of `rows` (m, d) differ more
            than tenfold.
        statistic: "U", unbiased in the samples, or "V", never negative.
        reset_real: whether `reset` forgets the real points, too. False where they are the same for every epoch.
        kwargs: as for every `torchmetrics.Metric`.

    Raises:
        InputTypeError (a TypeError): a wrong type or dtype.
        InputError (a ValueError): a wrong shape, NaN or infinity, an unknown name, a number out of range.
        MissingPackageError: torchmetrics is not installed.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> real, made = torch.randn(4000, 3, generator=g), torch.randn(4000, 3, generator=g) + 1
        >>> metric = SlicedEnergyDistance(real[:100])
        >>> for batch in real.split(500):
        ...     metric.update(batch, real=True)
        >>> for batch in made.split(500):
        ...     metric.update(batch, real=False)
        >>> abs(metric.compute().item() - 1.0) < 0.1
        True

    Source: Székely and Rizzo, Energy statistics (2013), on slices by the paper's Theorem 1.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    plan: Tensor

    def __init__(
        self,
        rows: Any,
        *,
        slices: int = 1024,
        directions: DirectionsName = "auto",
        seed: int = 0,
        scale: ScaleName = "auto",
        statistic: Statistic = "U",
        reset_real: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        points = validate.points("rows", flat_points("rows", rows).detach().cpu())
        if statistic not in ("V", "U"):
            raise InputError(f'statistic: {statistic!r} given; "V" (non-negative) and "U" (unbiased) are accepted')
        self.statistic, self.reset_real = statistic, reset_real
        spreads = spreads_of_rows(scale, points, False, getattr(rows, "ndim", 2) > 2)
        self._drawn = SliceSettings(points.shape[1], slices, directions, seed, None, spreads)
        grids = Plan.fit(self._drawn.rescale(points), self._drawn).random_grids
        self._spans = [grid.to_tensors() for grid in grids]
        P, width = sum(grid.directions.P for grid in grids), grids[0].B + 2 * histograms.TAIL
        # The first state, so that a merge is refused before anything is added.
        device = self.device
        self.add_state("plan", _fingerprint(points, self._drawn, reset_real).to(device), _agreed)
        for name in ("real", "made"):
            self.add_state(f"{name}_mass", torch.zeros(P, width, dtype=torch.float64, device=device), "sum")
            self.add_state(f"{name}_moments", torch.zeros(P, 2 * histograms.TAIL, dtype=torch.float64, device=device), "sum")
            self.add_state(f"{name}_n", torch.zeros((), dtype=torch.int64, device=device), "sum")

    def _grids(self, device: torch.device) -> Iterator[tuple[histograms.BinGrid, slice]]:
        """The bins on a device, a part of the slices after another, and the part's rows among all."""
        first = 0
        spans = [{**span, "shift": span["shift"].to(device)} for span in self._spans]
        for part, span in zip(histograms.split_directions(self._drawn.draw(spans[0]["shift"])), spans, strict=True):
            yield histograms.BinGrid.from_tensors(part, span), slice(first, first + part.P)
            first += part.P

    @isolated_numerics
    def update(self, x: Tensor, real: bool) -> None:
        """Counts a batch.

        Args:
            x: points (n, ...), float64, float32, bfloat16 or float16, on the metric's device, of as many numbers each as
                `rows`.
            real: whether they are of the first cloud, or of the second.

        Raises:
            InputError, InputTypeError: what is not accepted. Nothing is counted then.
        """
        points = validate.points("x", flat_points("x", x).detach())
        if points.shape[1] != self._drawn.d:
            raise InputError(f"x: points of {points.shape[1]} numbers given, rows had {self._drawn.d}; they must be equal")
        if not isinstance(real, bool):
            raise InputTypeError(f"real: {real!r} given; True and False are accepted")
        if self._is_synced:
            raise InputError("update: the metric must not be synced, or `unsync` would lose the batch; call `unsync` first")
        mass, moments, n = self._state(real)
        if points.device != mass.device:
            raise InputError(f"`x` must be on the metric's device {mass.device}, got {points.device}; metric.to(...) moves it")
        scaled = self._drawn.rescale(points)
        for grid, rows in self._grids(points.device):
            if rows.start == 0:
                notice_if_coarse(grid, scaled)
            add_points(grid, scaled, None, mass[rows], moments[rows])
        with torch.inference_mode():
            n += len(points)

    def forward(self, x: Tensor, real: bool) -> Tensor:
        """Count a batch and return its distance from all points of the other cloud seen so far.

        Args:
            x: as in `update`.
            real: as in `update`.

        Returns:
            The distance as in `compute`, or NaN if the batch or the other cloud has too few points.

        Raises:
            InputError, InputTypeError: as `update`.
        """
        before = self._state(real)
        self._set_state(real, [torch.zeros_like(t) for t in before])
        try:
            self.update(x, real)
            with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.dist_sync_on_step):
                value = self._distance()
        finally:
            self._set_state(real, [a + b for a, b in zip(before, self._state(real), strict=True)])
        self._forward_cache = value  # type: ignore[assignment]  # torchmetrics' type is that of its first value, None
        return value

    def compute(self) -> Tensor:
        """Return 2E‖X−Y‖ − E‖X−X′‖ − E‖Y−Y′‖ on the slices in float64, in the unit of the points; scaled columns have none.

        Raises:
            InputError: fewer than two real points, or two others ("V" needs one of each).
        """
        for real in (True, False):
            n = int(self._state(real)[2])
            if n < self._least:
                if self._is_synced and self._to_sync:
                    self.unsync()  # torchmetrics does so only where compute returns
                raise InputError(f"compute: at least {self._least} points with real={real} must have been seen, got {n}")
        return self._distance()

    @property
    def _least(self) -> int:
        return 2 if self.statistic == "U" else 1

    @isolated_numerics
    def _distance(self) -> Tensor:
        """Return the value of `compute`, or NaN if there are too few points."""
        clouds = [self._state(real) for real in (True, False)]
        total = torch.zeros((), dtype=torch.float64, device=clouds[0][0].device)
        if any(n < self._least for _, _, n in clouds):
            return total * torch.nan
        for grid, rows in self._grids(clouds[0][0].device):
            x, y = (
                histograms.Histogram(grid, (mass[rows] / n).float(), moments[rows] / n, 1 / int(n))
                for mass, moments, n in clouds
            )
            total += histograms.CdfEvaluator(x, y, self.statistic == "U").values().sum()
        return total / self._drawn.slices

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value or several, as every metric of torchmetrics does.

        Args:
            val: a result of `forward` or `compute`, or a list of them. None for `compute()`.
            ax: Matplotlib axes to draw on. None for new ones.

        Returns:
            The figure and the axes.

        Raises:
            ModuleNotFoundError: Matplotlib is not installed.
        """
        return self._plot(val, ax)

    def _state(self, real: bool) -> tuple[Tensor, Tensor, Tensor]:
        name = "real" if real else "made"
        return getattr(self, f"{name}_mass"), getattr(self, f"{name}_moments"), getattr(self, f"{name}_n")

    def _set_state(self, real: bool, values: Sequence[Tensor]) -> None:
        name = "real" if real else "made"
        for part, value in zip(("mass", "moments", "n"), values, strict=True):
            setattr(self, f"{name}_{part}", value)

    def reset(self) -> None:
        """Forgets the points, and the real ones only if `reset_real`."""
        if self._is_synced and not self.reset_real:
            self.unsync()  # of the real points, those of this process are kept
        kept = None if self.reset_real else self._state(True)
        super().reset()
        if kept is not None:
            self._set_state(True, kept)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the points that another metric has seen, as torchmetrics does.

        Raises:
            InputError: the state has other `rows`, `slices`, `directions`, `seed`, `scale` or `reset_real`. Nothing is added.
        """
        super().merge_state(incoming_state)
        self._computed = None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        given = {name: state_dict[prefix + name] for name in self._defaults if prefix + name in state_dict}
        if given:
            for name, default in self._defaults.items():
                value = given.get(name)
                assert isinstance(default, Tensor)
                if not isinstance(value, Tensor) or (value.shape, value.dtype) != (default.shape, default.dtype):
                    what = f"{name!r} of shape {tuple(default.shape)} and dtype {default.dtype}"
                    raise InputError(f"`state_dict` must have a state {what}")
            _agreed(torch.stack([self.plan, given["plan"].to(self.plan.device)]))
            self._computed = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        # Counts beyond float16's range, or too large to be exact in float32, must survive a conversion of an outer module.
        def keeping_dtype(t: Tensor) -> Tensor:
            moved = fn(t)
            return moved if moved.dtype == t.dtype else t.to(moved.device)

        return super()._apply(keeping_dtype, exclude_state)


def _fingerprint(rows: Tensor, drawn: SliceSettings, reset_real: bool) -> Tensor:
    """Return four numbers that are equal for metrics that may share their states, as in a MetricCollection."""
    digest = hashlib.sha256(repr((drawn, rows.dtype, rows.shape, *(() if reset_real else ("kept",)))).encode())
    digest.update(rows.contiguous().numpy().tobytes())
    return torch.from_numpy(np.frombuffer(digest.digest(), np.int64).copy())


def _agreed(plans: Tensor) -> Tensor:
    """Return the row that all rows must be equal to."""
    if (plans != plans[0]).any():
        raise InputError(
            "state: must be of a metric with equal `rows`, `slices`, `directions`, `seed`, `scale` and `reset_real`, "
            "got one of another"
        )
    return plans[0]
