"""The sliced energy distance as a metric of torchmetrics: batch by batch, in constant memory, summed over processes."""

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
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._types import DirectionsName, ScaleName, Statistic
from rieszflow.data import stream
from rieszflow.data.streams import choose_spreads
from rieszflow.errors import InputError, InputTypeError
from rieszflow.loss import flat_points
from rieszflow.sketch.counts import add_points
from rieszflow.sketch.plan import Plan, SliceSettings, notice_if_coarse

with extra("generative", "SlicedEnergyDistance"):
    from torchmetrics import Metric


class SlicedEnergyDistance(Metric):
    """The energy distance between all points seen as real and all others, like torchmetrics' FID but without stored features.

    The state is that of two `SliceSketch`es, 20 KB per slice, whatever the number of points. States of several processes add up
    without loss: how points are spread over batches and processes does not matter. States can be merged and loaded only
    between metrics with equal `points`, `slices`, `directions`, `seed`, `scale` and `reset_real`. They stay in float64 even if
    a module that contains the metric is converted to another dtype.

    Calling the metric, as in `metric(x, real=False)`, counts the batch and returns the distance between that batch and all
    points of the other cloud seen so far, or NaN if one of them has too few points for `compute`.

    Args:
        points: Points of shape (m, ...), m ≥ 1, similar to those to come, that determine where the bins are; they are not
            counted. Every process needs the same ones.
        slices, directions, seed: See `SliceSketch`.
        scale: See `SliceSketch`; "auto" keeps raw units.
        statistic: "U" (unbiased, as other metrics of samples are) or "V" (non-negative).
        reset_real: If False, `reset` keeps the real points, which may be the same in every epoch.
        kwargs: See `torchmetrics.Metric`.

    Raises:
        InputTypeError, InputError: A wrong type, dtype or shape, NaN or infinity, an unknown name, a number out of range.
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

    References:
        Székely and Rizzo, Energy statistics: A class of statistics based on distances (2013).
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    plan: Tensor

    @isolated_numerics
    def __init__(
        self,
        points: Tensor,
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
        x = validate.points("points", flat_points("points", points).detach().cpu())
        self.statistic, self.reset_real = validate.statistic(statistic), reset_real
        self._min_points = 2 if statistic == "U" else 1
        cloud = stream(x)
        cloud.common_unit = points.ndim > 2
        self._settings = SliceSettings(cloud.d, slices, directions, seed, None, choose_spreads(scale, [cloud]))
        grids = Plan.fit(self._settings.rescale(x), self._settings).random_grids
        self._grid_tensors = [grid.to_tensors() for grid in grids]
        P, width = sum(grid.directions.P for grid in grids), grids[0].B + 2 * histograms.TAIL
        digest = hashlib.sha256(repr((self._settings, x.dtype, x.shape, reset_real)).encode())
        digest.update(x.contiguous().numpy().tobytes())
        # Four numbers that are equal for metrics that may share their states, as in a MetricCollection. They are the first
        # state, so that a merge is refused before anything is added.
        plan = torch.from_numpy(np.frombuffer(digest.digest(), np.int64).copy())
        self.add_state("plan", plan.to(self.device), _require_equal)
        for name in ("real", "made"):
            counts = torch.zeros(P, width, dtype=torch.float64, device=self.device)
            self.add_state(f"{name}_counts", counts, "sum")
            self.add_state(f"{name}_tail_sums", counts.new_zeros(P, 2 * histograms.TAIL), "sum")
            self.add_state(f"{name}_n", counts.new_zeros((), dtype=torch.int64), "sum")

    def _grids(self, device: torch.device) -> Iterator[tuple[histograms.BinGrid, slice]]:
        """Yield the bins of every part of the slices, on a device, and the part's rows among all."""
        first = 0
        tensors = [{**grid, "shift": grid["shift"].to(device)} for grid in self._grid_tensors]
        parts = histograms.split_directions(self._settings.draw(tensors[0]["shift"]))
        for part, grid in zip(parts, tensors, strict=True):
            yield histograms.BinGrid.from_tensors(part, grid), slice(first, first + part.P)
            first += part.P

    @isolated_numerics
    def update(self, x: Tensor, real: bool) -> None:
        """Count a batch.

        Args:
            x: Points of shape (n, ...), float64, float32, bfloat16 or float16, on the metric's device.
            real: True for points of the first cloud, False for the second.
        """
        points = validate.points("x", flat_points("x", x).detach())
        if points.shape[1] != self._settings.d:
            raise InputError(f"`x` must have points of {self._settings.d} numbers, as `points` had, got {points.shape[1]}")
        if not isinstance(real, bool):
            raise InputTypeError(f"`real` must be True or False, got {real!r}")
        if self._is_synced:
            raise InputError("update: the metric must not be synced, or `unsync` would lose the batch; call `unsync` first")
        counts, tail_sums, n = self._state(real)
        if points.device != counts.device:
            raise InputError(f"`x` must be on the metric's device {counts.device}, got {points.device}; move it with .to(...)")
        scaled = self._settings.rescale(points)
        for grid, rows in self._grids(points.device):
            if rows.start == 0:
                notice_if_coarse(grid, scaled)
            add_points(grid, scaled, None, counts[rows], tail_sums[rows])
        with torch.inference_mode():
            n += len(points)

    def forward(self, x: Tensor, real: bool) -> Tensor:
        """Count a batch as `update` does, and return its distance from all points of the other cloud seen so far, or NaN."""
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
        """Return the energy distance on the slices, in float64; raise InputError if there are too few points."""
        for real in (True, False):
            n = int(self._state(real)[2])
            if n < self._min_points:
                if self._is_synced and self._to_sync:
                    self.unsync()  # torchmetrics does so only if compute returns
                raise InputError(f"compute: at least {self._min_points} points with real={real} must have been seen, got {n}")
        return self._distance()

    @isolated_numerics
    def _distance(self) -> Tensor:
        """Return the energy distance, or NaN if there are too few points."""
        clouds = [self._state(real) for real in (True, False)]
        total = torch.zeros((), dtype=torch.float64, device=clouds[0][0].device)
        if any(n < self._min_points for _, _, n in clouds):
            return total * torch.nan
        for grid, rows in self._grids(total.device):
            x, y = (
                histograms.Histogram(grid, (counts[rows] / n).float(), tail_sums[rows] / n, 1 / int(n))
                for counts, tail_sums, n in clouds
            )
            total += histograms.CdfEvaluator(x, y, self.statistic == "U").values().sum()
        return total / self._settings.slices

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one value or several; see `torchmetrics.Metric.plot`."""
        return self._plot(val, ax)

    def _state(self, real: bool) -> tuple[Tensor, Tensor, Tensor]:
        name = "real" if real else "made"
        return getattr(self, f"{name}_counts"), getattr(self, f"{name}_tail_sums"), getattr(self, f"{name}_n")

    def _set_state(self, real: bool, values: Sequence[Tensor]) -> None:
        for part, value in zip(("counts", "tail_sums", "n"), values, strict=True):
            setattr(self, f"{'real' if real else 'made'}_{part}", value)

    def reset(self) -> None:
        """Forget the points; the real ones only with `reset_real`."""
        if self._is_synced and not self.reset_real:
            self.unsync()  # keep the real points of this process only
        real = None if self.reset_real else self._state(True)
        super().reset()
        if real is not None:
            self._set_state(True, real)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the points of another metric, or raise InputError if it has other settings."""
        super().merge_state(incoming_state)
        self._computed = None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        found = {name: state_dict[prefix + name] for name in self._defaults if prefix + name in state_dict}
        if found:
            for name, default in self._defaults.items():
                value = found.get(name)
                assert isinstance(default, Tensor)
                if not isinstance(value, Tensor) or (value.shape, value.dtype) != (default.shape, default.dtype):
                    shape = tuple(default.shape)
                    raise InputError(f"`state_dict` must have a state {name!r} of shape {shape} and dtype {default.dtype}")
            _require_equal(torch.stack([self.plan, found["plan"].to(self.plan.device)]))
            self._computed = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        # Counts beyond float16's range, or too large to be exact in float32, must survive a conversion of an outer module.
        def keep_dtype(t: Tensor) -> Tensor:
            moved = fn(t)
            return moved if moved.dtype == t.dtype else t.to(moved.device)

        return super()._apply(keep_dtype, exclude_state)


def _require_equal(plans: Tensor) -> Tensor:
    if (plans != plans[0]).any():
        raise InputError(
            "the state must be that of a metric with equal `points`, `slices`, `directions`, `seed`, `scale` and `reset_real`"
        )
    return plans[0]
