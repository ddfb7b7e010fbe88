"""Particles moved along the gradient of D²."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from rieszflow import _ranks, _validate
from rieszflow._ranks import Group
from rieszflow._scratch import Recycled, fresh
from rieszflow._types import EngineName, Points, PointsT, Seed
from rieszflow.directions import Kind
from rieszflow.errors import InputError
from rieszflow.exact import mmd2_gradient
from rieszflow.kernels import Kernel, Riesz, check_kernel
from rieszflow.target import Target

__all__ = ["ParticleFlow"]


class ParticleFlow:
    """The flow of particles x towards a target y: v ← ∇D²(x) + m v, x ← x − τ N v.

    The target and the rule are fixed. What moves are the particles, which the caller holds, and their velocity v.

    Args:
        y: target points (M, d) or (..., M, d); float32 or float64; tensor or NumPy array. With slices also batches of points,
            see `Target`.
        kernel: any. On slices, kernels other than `Riesz(1.0)` must not be too narrow for the data, see `sliced_mmd2`.
        slices: number P of random directions. None for the exact gradient by brute force, O(NM) a step.
        step_size: τ > 0. A step of size 1 moves every particle by N times its gradient.
        momentum: m in [0, 1).
        directions: as in `sliced_mmd2_gradient`. Not used without slices, and neither are engine, seed and reuse.
        engine: as in `sliced_mmd2_gradient`.
        seed: of the directions. A whole number; or a torch.Generator, which goes on; or None for torch's default generator.
        y_weights: non-negative weights of y, (M,) or (..., M), of sum one. None for 1/M each.
        reuse: number of steps that a set of slices serves; 1 for fresh slices in every step. The steps are spread: no two in
            a row see the same slices, see `Target`. On slices seen before, particles move less and mostly astray: with 8, a
            step for N = M takes a quarter less time, but four times as many steps are needed. Only on the linear-time engine.
        bounds: (low, high). After every step coordinates are clipped to this interval (projected gradient), for targets that
            lie in the box, like images in [0, 1]^d. None for no bounds.
        group: a torch.distributed process group. Its ranks hold parts of the particles and of the target, see `Target`. With
            slices only. None: all points are here.

    Attributes:
        target: where gradients come from, a `Target` with the slices in use. Its `state` and `load_state` let a flow go on
            exactly.
        step_size: as given.
        momentum: as given.
        bounds: as given.
        velocity: v after the last step, shape of x. None before the first step. Set it to go on from a saved state.
        trajectory: what the last `run` was asked to record: particles by the number of the step.

    Raises:
        InputError (a ValueError): step_size, momentum or bounds out of range, or what `sliced_mmd2_gradient` refuses.
        InputTypeError (a TypeError): a wrong type or dtype.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> target = torch.randn(200, 2, generator=g) + 5
        >>> flow = ParticleFlow(target, slices=16, momentum=0.5, seed=g)
        >>> x = flow.run(torch.rand(200, 2, generator=g), steps=100)
        >>> bool((x.mean(0) - target.mean(0)).abs().max() < 0.5)
        True

    Source: paper, section 3.
    """

    def __init__(
        self,
        y: object,
        *,
        kernel: Kernel = Riesz(1.0),
        slices: int | None = 1024,
        step_size: float = 1.0,
        momentum: float = 0.0,
        directions: Kind = "auto",
        engine: EngineName = "auto",
        seed: Seed = None,
        y_weights: Points | None = None,
        reuse: int | None = 1,
        bounds: tuple[float, float] | None = None,
        group: Group = None,
    ) -> None:
        self.step_size = _validate.positive_float("step_size", step_size)
        self.momentum = _validate.number(momentum)
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum: {momentum!r} given; a number in [0, 1) is accepted")
        self.bounds = None if bounds is None else _interval(bounds)
        self.target: Target | _BruteForce
        if slices is not None:
            self.target = Target(
                y,
                kernel=kernel,
                slices=slices,
                directions=directions,
                engine=engine,
                seed=seed,
                y_weights=y_weights,
                reuse=reuse,
                group=group,
            )
        elif group is not None:
            raise InputError("group: given without slices; the exact gradient works in one process only")
        else:
            self.target = _BruteForce(y, kernel, y_weights)
        self.velocity: Tensor | None = None
        self.trajectory: dict[int, Points] = {}

    def state(self) -> dict[str, Tensor]:
        """What is needed to go on with the very same slices, beside `velocity`. See `load_state`."""
        return self.target.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` returned. Raises KeyError for a state of other slices."""
        self.target.load_state(state)

    def gradient(self, x: Tensor) -> Tensor:
        """∇D² at the particles x: of their shape, detached."""
        return self.target.gradient(x)

    def step(self, x: Tensor) -> Tensor:
        """One step.

        Args:
            x: particles (N, d) or (..., N, d), with the d, batch dimensions, dtype and device of the target. Not changed.

        Returns:
            The new particles, detached. The new velocity is in `velocity`.

        Raises:
            InputError (a ValueError): particles that do not fit the target or the velocity.
            InputTypeError (a TypeError): a wrong type or dtype.
        """
        x = _validate.points("x", x, look=False).detach()
        self.velocity = self._faster(self.gradient(x))
        tau = self.step_size * _ranks.total(x.shape[-2], self.target.group)
        with self.target.memory.in_use():
            x = torch.add(x, self.velocity, alpha=-tau, out=fresh(x))
        return x if self.bounds is None else x.clamp_(*self.bounds)

    def _faster(self, gradient: Tensor) -> Tensor:
        """∇D²(x) + m v, in the memory of the gradient: fresh arrays of this size would cost more than the additions."""
        if self.velocity is None:
            return gradient
        if self.velocity.shape != gradient.shape:
            raise InputError(
                f"x: shape {tuple(gradient.shape)} given, the flow's velocity has {tuple(self.velocity.shape)}; "
                "set velocity = None to start anew"
            )
        return gradient.add_(self.velocity, alpha=self.momentum)

    def run(
        self,
        x: PointsT,
        *,
        steps: int,
        callback: Callable[[int, Tensor], object] | None = None,
        record: Iterable[int] = (),
    ) -> PointsT:
        """Several steps.

        Args:
            x: particles (N, d) or (..., N, d), tensor or NumPy array, with the d, batch dimensions, dtype and device of the
                target. Not changed.
            steps: number of steps, at least 1.
            callback: called after every step with the number of steps done and the particles. If it returns True, the flow ends
                there.
            record: numbers of steps whose particles are kept in `trajectory`, in the kind of x; 0 is the start.

        Returns:
            The particles after the last step, detached. An array if x was one.

        Raises:
            InputError (a ValueError): steps out of range, NaN or infinity in x, or what `step` refuses.
            InputTypeError (a TypeError): a wrong type or dtype.
        """
        at, wanted = _validate.points("x", x).detach(), set(record)
        self.trajectory = {}

        def keep(k: int) -> None:
            if k in wanted:
                self.trajectory[k] = at.numpy().copy() if isinstance(x, np.ndarray) else at.clone()

        steps = _validate.positive_int("steps", steps)
        keep(0)
        for k in range(1, steps + 1):
            at = self.step(at)
            keep(k)
            if callback is not None and callback(k, at) is True:
                break
        return at.numpy() if isinstance(x, np.ndarray) else at


class _BruteForce:
    """The exact gradient towards y, in the place of a `Target`."""

    group: Group = None

    def __init__(self, y: object, kernel: Kernel, y_weights: Points | None) -> None:
        if not isinstance(y, (Tensor, np.ndarray)):
            raise InputError("y: comes in batches, and slices is None; the exact gradient needs a tensor or array")
        check_kernel(kernel)
        self.y, self.kernel = _validate.points("y", y).detach(), kernel
        self.y_weights = _validate.weights("y_weights", y_weights, self.y)
        self.memory = Recycled()  # of the particles

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if state:
            raise KeyError("a state of slices, and there are none")

    def gradient(self, x: Tensor) -> Tensor:
        return mmd2_gradient(x, self.y, kernel=self.kernel, y_weights=self.y_weights)


def _interval(bounds: object) -> tuple[float, float]:
    ends = [_validate.number(v) for v in bounds] if isinstance(bounds, (tuple, list, np.ndarray)) else []
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise InputError(f"bounds: {bounds!r} given; a pair (low, high) with low < high, or None, is accepted")
    return ends[0], ends[1]
