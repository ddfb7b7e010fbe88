"""Particles that move along the gradient of MMD²."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra import ranks, validate
from rieszflow._infra.files import below
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._infra.ranks import Group
from rieszflow._infra.workspace import BufferPool
from rieszflow._types import EngineName, Points, PointSource, PointsT, Progress, ProgressCallback, Seed
from rieszflow.constraints import ConstraintLike, as_constraint
from rieszflow.directions import Kind
from rieszflow.errors import InputError
from rieszflow.exact import mmd2_gradient
from rieszflow.flow.recording import RecordedFlow, Recorder
from rieszflow.flow.segments import Plan, Step
from rieszflow.flow.steps import apply_moves, default_step_sizes, update_velocity
from rieszflow.histograms import replay_step
from rieszflow.kernels import Kernel, Riesz, check_kernel
from rieszflow.target import Target

T = TypeVar("T")


class ParticleFlow:
    r"""The flow of N particles x towards a target y along the gradient of MMD², with momentum.

    .. math::
        v_{k+1} = \nabla_x \mathrm{MMD}^2(x_k, y) + m\, v_k, \qquad x_{k+1} = x_k - \tfrac{1}{2}\, \tau N\, v_{k+1}

    The factor ½ is there because the paper's functional is ½ MMD², half of the usual normalisation that the rest of this
    library reports; so τ is the paper's step size.

    The caller holds the particles, the flow holds their velocities. Slices may be of several kinds, such as whole images and
    patches. A step then moves along the slices of each kind in turn, with a velocity, step size and momentum of their own.

    Args:
        y: Target points, as in `Target`. Without slices, a tensor or array.
        kernel: Any kernel. On slices, kernels other than `Riesz(1.0)` must not be too narrow for the data, see `sliced_mmd2`.
        slices: Number P of random directions, or a list with one for every kind. None for the exact gradient by brute force,
            O(NM) a step.
        step_size: τ > 0, or a list with one for every kind. None: 0.4 (1 − m) times the mean distance between targets, or
            between their patches, divided between the kinds.
        momentum: m in [0, 1), or a list with one for every kind.
        directions: As in `sliced_mmd2`, or a list of several kinds. Unused without slices, as are engine, seed, refresh_every
            and target_batch_size.
        engine, seed, y_weights, target_batch_size: As in `Target`.
        refresh_every: Number of steps that a set of slices serves, see `Target`; 1 for fresh slices in every step. On slices
            seen before, particles make little progress: with 8, a step for N = M takes a quarter less time, but four times as
            many steps are needed. Only on the linear-time engine.
        bounds: (low, high). Coordinates are clipped to this interval after every step (projected gradient descent), for targets
            that lie in the box, such as images in [0, 1]^d. None for no bounds.
        group: A torch.distributed process group whose ranks hold parts of the particles and of the target, as in `Target`. Only
            with slices.
        step_schedule: Function of the number of previous steps that returns the factor of τ, see `geometric_schedule`. None
            for 1.
        combine: With several kinds, "alternate" moves the particles on each kind in turn; "sum" evaluates all gradients at the
            same particles and adds them up.
        record: True to record the steps in memory, so that new points can follow (`recorded`); or a new or empty folder to
            which they are written. Requires `Riesz(1.0)` on the linear-time engine. Particles move by the recorded gradients,
            and `run` and `step` only continue from the last particles.
        bins: Number of bins of the tables of a recording.
        frozen: Part of a particle that does not move: a number of leading coordinates, a `Mask` or a `Pool`. Slices see it, and
            `bounds` do not apply to it. Pairs (condition, x) flow towards pairs (condition, data), and x becomes a sample of
            the data given the condition.

    Attributes:
        targets: Sources of gradients, a `Target` for every kind of slices.
        step_sizes: τ of every kind.
        momenta: m of every kind.
        frozen: The constraint on the particles, or None.
        steps: Number of steps so far. With a step_schedule, set it to continue from a saved state.
        velocities: v of every kind after the last step, in the shape of x; None before the first step. Set them to continue
            from a saved state.
        trajectory: Snapshots of the last `run`: particles by the number of the step.

    Raises:
        InputError, InputTypeError: As in `sliced_mmd2`, and for numbers out of range and lists of different lengths.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> target = torch.randn(200, 2, generator=g) + 5
        >>> flow = ParticleFlow(target, slices=16, momentum=0.5, seed=g)
        >>> x = flow.run(torch.rand(200, 2, generator=g), steps=100)
        >>> bool((x.mean(0) - target.mean(0)).abs().max() < 0.5)
        True

    References:
        Hertrich, Wald, Altekrüger and Hagemann, Generative Sliced MMD Flows with Riesz Kernels, ICLR 2024, section 3.
    """

    def __init__(
        self,
        y: PointSource,
        *,
        kernel: Kernel = Riesz(1.0),
        slices: int | Sequence[int] | None = 1024,
        step_size: float | Sequence[float] | None = 1.0,
        momentum: float | Sequence[float] = 0.0,
        directions: Kind | Sequence[Kind] = "auto",
        engine: EngineName = "auto",
        seed: Seed = None,
        y_weights: Points | None = None,
        refresh_every: int | None = 1,
        target_batch_size: int | None = None,
        bounds: tuple[float, float] | None = None,
        group: Group = None,
        step_schedule: Callable[[int], float] | None = None,
        combine: Literal["alternate", "sum"] = "alternate",
        record: bool | str | os.PathLike[str] = False,
        bins: int = 64,
        frozen: ConstraintLike = 0,
    ) -> None:
        # A string is a sequence, too.
        kinds = list(directions) if isinstance(directions, (list, tuple)) else [cast(Kind, directions)]
        K = len(kinds)
        self.momenta = [validate.real(m) for m in _per_kind("momentum", momentum, K)]
        if not all(0 <= m < 1 for m in self.momenta):
            raise InputError(f"`momentum` must be in [0, 1), got {momentum!r}")
        self.bounds = None if bounds is None else _interval(bounds)
        validate.choice("combine", combine, ("alternate", "sum"))
        self.step_schedule, self.combine, self.steps, self._group = step_schedule, combine, 0, group
        self.targets: Sequence[Target | _BruteForce]
        counts = [0] * K if slices is None else _per_kind("slices", slices, K)
        if slices is not None:
            make = partial(
                Target, y, kernel=kernel, engine=engine, seed=validate.generator(seed), y_weights=y_weights,
                refresh_every=refresh_every, target_batch_size=target_batch_size, group=group, frozen=frozen,
            )  # fmt: skip
            self.targets = [make(slices=P, directions=kind) for kind, P in zip(kinds, counts, strict=True)]
        elif group is not None or K > 1:
            name = "group" if group is not None else "directions"
            raise InputError(f"`{name}` must not be given if slices is None, because the exact gradient has no slices")
        else:
            self.targets = [_BruteForce(y, kernel, y_weights, frozen)]
        self.frozen = self.targets[0].frozen
        if step_size is None:
            self.step_sizes = default_step_sizes(self.targets[0].y, kinds, counts, self.momenta, self.frozen)
        else:
            self.step_sizes = [validate.positive_float("step_size", t) for t in _per_kind("step_size", step_size, K)]
        self.velocities: list[Tensor | None] = [None] * K
        self.trajectory: dict[int, Points] = {}
        self.recorder: Recorder | None = None
        if record:
            for target in self.targets:
                if isinstance(target, _BruteForce):
                    raise InputError("`record` must be False without slices, because slices are what is recorded")
                target._check_recordable()
            bins = validate.positive_int("bins", bins)
            plan = Plan(self.targets[0].y.shape[1], tuple(kinds), tuple(counts), bins, self.bounds, self.frozen)
            self.recorder = Recorder(plan, None if isinstance(record, bool) else Path(record))

    def state(self) -> dict[str, Tensor]:
        """Return what is needed to continue with the same slices, besides `velocities` and `steps`. See `load_state`."""
        return {f"{k}.{name}": t for k, target in enumerate(self.targets) for name, t in target.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned. Raises KeyError for a state of other slices."""
        for k, target in enumerate(self.targets):
            target.load_state(below(k, state))

    def recorded(self) -> RecordedFlow:
        """Return the recording of all steps so far, or raise InputError if the flow was made without `record`."""
        if self.recorder is None:
            raise InputError("`record` must be True to make a recording; this flow was made without it")
        return self.recorder.recorded()

    def gradient(self, x: Tensor) -> Tensor:
        """Return ∇MMD² at the particles x on the first kind of slices, in their shape, detached."""
        return self.targets[0].gradient(x)

    @isolated_numerics
    def step(self, x: Tensor) -> Tensor:
        """Take one step on every kind of slices.

        Args:
            x: Particles (N, d) or (..., N, d), with the d, batch dimensions, dtype and device of the target. Not changed.

        Returns:
            The new particles, detached. The new velocities are in `velocities`.

        Raises:
            InputError, InputTypeError: Particles that do not fit the target or the velocity, or from which a recording cannot
                continue; an invalid value of `step_schedule`.
        """
        x = validate.points("x", x, check_finite=False).detach()
        if self.recorder is not None:
            self.recorder.check_continues(x)
        factor = 1.0 if self.step_schedule is None else validate.real(self.step_schedule(self.steps))
        if not 0 <= factor < math.inf:
            raise InputError(f"`step_schedule` must return finite numbers of at least 0, got {factor!r} for step {self.steps}")
        N, last = ranks.total(x.shape[-2], self._group), len(self.targets) - 1
        lengths = [0.5 * tau * factor * N for tau in self.step_sizes]
        moves: list[tuple[Tensor, float]] = []
        for k, length in enumerate(lengths):
            velocity = self.velocities[k] = self._next_velocity(k, x, length)
            moves.append((velocity, length))
            if self.combine == "alternate" or k == last:
                with self.targets[0].memory.in_use():
                    x = apply_moves(x, moves, self.bounds, self.frozen)
                moves.clear()
        self.steps += 1
        if self.recorder is not None:
            self.recorder.end = x, x._version
        return x

    def _next_velocity(self, k: int, x: Tensor, length: float) -> Tensor:
        """Return ∇MMD²(x) + m v on a kind of slices, and record the gradient if steps are recorded."""
        target, velocity, recorder = self.targets[k], self.velocities[k], self.recorder
        if velocity is not None and velocity.shape != x.shape:
            raise InputError(
                f"`x` must have the shape {tuple(velocity.shape)} of the flow's velocity, got {tuple(x.shape)}; set every "
                "entry of `velocities` to None to start over"
            )
        if recorder is None:
            return update_velocity(target.gradient(x), velocity, self.momenta[k])
        assert isinstance(target, Target)
        seed, drawn, tables = target._record_step(x, lambda seed: recorder.plan.draw(k, seed, x), recorder.plan.bins)
        moves = self.combine == "alternate" or k == len(self.targets) - 1
        recorder.add(Step(k, seed, self.momenta[k], length, moves, tables))
        with target.memory.in_use():
            gradient = replay_step(tables, drawn, x, self.frozen)
            if self.frozen is not None:
                gradient = self.frozen.project_out(gradient)
            return update_velocity(gradient, velocity, self.momenta[k])

    def run(
        self,
        x: PointsT,
        *,
        steps: int,
        callback: Callable[[int, Tensor], object] | None = None,
        snapshots: Iterable[int] = (),
        progress: ProgressCallback | None = None,
    ) -> PointsT:
        """Take several steps.

        Args:
            x: Particles (N, d) or (..., N, d), tensor or NumPy array, with the d, batch dimensions, dtype and device of the
                target. Not changed.
            steps: Number of steps, at least 1.
            callback: Called after every step with the number of steps so far and the particles. The run ends if it returns
                True.
            snapshots: Numbers of steps after which a copy of the particles is stored in `trajectory`, in the type of x; 0 is
                the start.
            progress: Called with a `Progress` after every step.

        Returns:
            The particles after the last step, detached. An array if x is one.

        Raises:
            InputError, InputTypeError: As in `step`, and for steps out of range, and NaN or infinity in x.
        """
        particles, wanted = validate.points("x", x).detach(), set(snapshots)
        steps = validate.positive_int("steps", steps)
        self.trajectory = {}
        for k in range(steps + 1):
            particles = self.step(particles) if k else particles
            if k in wanted:
                self.trajectory[k] = particles.numpy().copy() if isinstance(x, np.ndarray) else particles.clone()
            if k and progress is not None:
                progress(Progress("steps", k, steps))
            if k and callback is not None and callback(k, particles) is True:
                break
        if not torch.isfinite(particles).all():
            raise InputError("`x` must stay finite, got NaN or infinity; try a smaller `step_size` or `momentum`")
        return particles.numpy() if isinstance(x, np.ndarray) else particles


class _BruteForce:
    """A target whose gradients are over all pairs of points."""

    def __init__(self, y: PointSource, kernel: Kernel, y_weights: Points | None, frozen: ConstraintLike) -> None:
        if not isinstance(y, (Tensor, np.ndarray)):
            raise InputError("`y` must be a tensor or array if slices is None, got batches")
        check_kernel(kernel)
        self.y, self.kernel = validate.points("y", y).detach(), kernel
        self.y_weights = validate.weights("y_weights", y_weights, self.y)
        self.frozen = as_constraint(frozen, self.y.shape[-1])
        self.memory = BufferPool()

    def gradient(self, x: Tensor) -> Tensor:
        gradient = mmd2_gradient(x, self.y, kernel=self.kernel, y_weights=self.y_weights)
        return gradient if self.frozen is None else self.frozen.project_out(gradient)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if state:
            raise KeyError("the state of slices, but there are none")


def _interval(bounds: object) -> tuple[float, float]:
    ends = [validate.real(v) for v in bounds] if isinstance(bounds, (tuple, list, np.ndarray)) else []
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise InputError(f"`bounds` must be None or a pair (low, high) with low < high, got {bounds!r}")
    return ends[0], ends[1]


def _per_kind(name: str, value: T | Sequence[T], K: int) -> list[T]:
    if not isinstance(value, (list, tuple)):
        return [cast(T, value)] * K
    if len(value) != K:
        raise InputError(f"`{name}` must be one value, or one for each of {K} kinds of directions, got {len(value)} values")
    return list(value)
