"""Particles moved along the gradient of D²."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rieszflow import _ranks, _validate
from rieszflow._ranks import Group
from rieszflow._scratch import fresh
from rieszflow._types import Seed
from rieszflow.data import stream
from rieszflow.directions import LocalSlices
from rieszflow.errors import InputError
from rieszflow.exact import mmd2_gradient
from rieszflow.kernels import Kernel, Riesz
from rieszflow.target import Target

__all__ = ["ParticleFlow"]


class ParticleFlow:
    """The flow of particles towards a target: v ← ∇D²(x) + m v, x ← x − τ N v (paper, section 3).

    Args:
        y: target points, (M, d) or (..., M, d); float32 or float64; tensor or NumPy array. Or batches of them: see `Target`.
        kernel: any; on slices kernels other than `Riesz(1.0)` must not be too narrow for the data (see `sliced_mmd2`).
        slices: random directions P; None for the exact gradient by brute force, O(NM).
        step_size: τ > 0, in units where 1 moves every particle by N times its gradient.
        momentum: m in [0, 1).
        directions, engine: as in `sliced_mmd2_gradient`.
        seed: of the directions: a whole number, or a torch.Generator that goes on; None for torch's default generator.
        y_weights: non-negative weights of y that sum to one; None for 1/M.
        reuse: steps that a set of slices serves, spread so that no two steps in a row see the same (see `Target`); 1 for
            fresh slices at every step. A second use of slices moves particles less, and mostly astray: 8 save a quarter of a
            step where N = M, and take four times as many. Only the linear-time engine does so.
        group: a torch.distributed process group whose ranks hold parts of particles and target each (see `Target`); with slices
            only. None: all are here.
        bounds: (low, high): after every step coordinates are clipped to this interval (projected gradient), for targets known
            to lie in the box, like images in [0, 1]^d; None for no bounds.

    Attributes:
        velocity: v after the last step, shape of x; None before the first. Assign it to go on from a saved state.
        tables: the `Target` with the slices in use; its `state` and `load_state` make a flow go on exactly.
        trajectory: the particles that the last `run` was asked to record, by step number.

    Raises:
        TypeError, ValueError: what `sliced_mmd2_gradient` refuses, and τ or m out of range.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> target = torch.randn(200, 2, generator=g) + 5
        >>> flow = ParticleFlow(target, slices=16, momentum=0.5, seed=g)
        >>> x = flow.run(torch.rand(200, 2, generator=g), steps=100)
        >>> bool((x.mean(0) - target.mean(0)).abs().max() < 0.5)
        True
    """

    def __init__(
        self,
        y: Any,
        *,
        kernel: Kernel = Riesz(1.0),
        slices: int | None = 1024,
        step_size: float = 1.0,
        momentum: float = 0.0,
        directions: str | Tensor | LocalSlices = "auto",
        engine: str = "auto",
        seed: Seed = None,
        y_weights: Any = None,
        reuse: int = 1,
        bounds: tuple[float, float] | None = None,
        group: Group = None,
    ) -> None:
        if group is not None and slices is None:
            raise InputError("group: given without slices; the exact gradient is to be had in one process only")
        in_memory = isinstance(y, (Tensor, np.ndarray))
        self.y = _validate.points("y", y).detach() if in_memory else stream(y)
        if slices is None and not in_memory:
            raise InputError("y: comes in batches, and slices is None; the exact gradient needs a tensor or array")
        self.kernel = kernel
        self.slices = None if slices is None else _validate.positive_int("slices", slices)
        self.step_size = _validate.positive_float("step_size", step_size)
        self.momentum = _validate.number(momentum)
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum: {momentum!r} given; a number in [0, 1) is accepted")
        self.tables = Target(
            self.y,
            kernel=kernel,
            slices=self.slices or 1,
            directions=directions,
            engine=engine,
            seed=seed,
            y_weights=y_weights,
            reuse=reuse,
            group=group,
        )
        self.bounds = None if bounds is None else _interval(bounds)
        self.velocity: Tensor | None = None
        self.trajectory: dict[int, Any] = {}

    def gradient(self, x: Tensor) -> Tensor:
        """∇D² at the particles; shape of x, detached."""
        if self.slices is None:
            return mmd2_gradient(x, self.y, kernel=self.kernel, y_weights=self.tables.y_weights)
        return self.tables.gradient(x)

    def step(self, x: Tensor) -> Tensor:
        """One step: the new particles, detached; `x` is left as it is."""
        x = _validate.points("x", x, look=False).detach()
        gradient = self.gradient(x)
        if self.velocity is None:
            self.velocity = gradient
        elif self.velocity.shape != x.shape:
            raise InputError(
                f"x: shape {tuple(x.shape)} given, the flow's velocity has {tuple(self.velocity.shape)}; "
                "set velocity = None to start anew"
            )
        else:
            # In the gradient's memory: fresh arrays of this size cost more than the additions.
            self.velocity = gradient.add_(self.velocity, alpha=self.momentum)
        tau = self.step_size * _ranks.total(x.shape[-2], self.tables.group)
        with self.tables.memory.in_use():
            x = torch.add(x, self.velocity, alpha=-tau, out=fresh(x))
        return x if self.bounds is None else x.clamp_(*self.bounds)

    def run(self, x: Any, steps: int, callback: Callable[[int, Tensor], Any] | None = None, record: Iterable[int] = ()) -> Any:
        """`steps` steps from `x`.

        Args:
            x: particles (N, d) or (..., N, d), like the target in d, dtype and device; left as they are.
            steps: number of steps, at least 1.
            callback: called after every step with (steps done, particles); returning True ends the flow there.
            record: step numbers whose particles are kept in `self.trajectory` (0 is the start), a dict from step
                number to particles in the kind of `x`.

        Returns:
            The particles after the last step: a tensor, detached, or an array if `x` was one.
        """
        numpy = isinstance(x, np.ndarray)
        x = _validate.points("x", x).detach()
        steps, wanted = _validate.positive_int("steps", steps), set(record)
        self.trajectory = {}

        def keep(k: int) -> None:
            if k in wanted:
                self.trajectory[k] = x.numpy().copy() if numpy else x.clone()

        keep(0)
        for k in range(1, steps + 1):
            x = self.step(x)
            keep(k)
            if callback is not None and callback(k, x) is True:
                break
        return x.numpy() if numpy else x


def _interval(bounds: Any) -> tuple[float, float]:
    ends = tuple(_validate.number(v) for v in bounds) if isinstance(bounds, (tuple, list, np.ndarray)) else ()
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise InputError(f"bounds: {bounds!r} given; a pair (low, high) with low < high, or None, is accepted")
    return ends
