"""Particles moved along the gradient of D²."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra import ranks, validate
from rieszflow._infra.ranks import Group
from rieszflow._infra.workspace import BufferPool
from rieszflow._types import EngineName, Points, PointsT, Seed
from rieszflow.constraints import Constraint, ConstraintLike, as_constraint
from rieszflow.directions import Kind
from rieszflow.errors import InputError
from rieszflow.exact import mmd2_gradient
from rieszflow.flow.moves import update_positions, update_velocity
from rieszflow.flow.recording import Plan, RecordedFlow, Recorder, Step
from rieszflow.flow.step_sizes import default_steps, geometric_schedule
from rieszflow.histograms.replay import replay_step
from rieszflow.kernels import Kernel, Riesz, check_kernel
from rieszflow.target import Target

__all__ = ["ParticleFlow", "geometric_schedule"]


class ParticleFlow:
    """The flow of particles x towards a target y: v ← ∇D²(x) + m v, x ← x − τ N v.

    The target and the rule are fixed. What moves are the particles, which the caller holds, and their velocity v. Slices may be
    of several kinds, such as whole images and patches. Then a step is one on every kind, one after the other, and every kind
    has a velocity, a step size and a momentum of its own.

    Args:
        y: target points (M, d) or (..., M, d); float32 or float64; tensor or NumPy array. With slices also batches of points,
            see `Target`.
        kernel: any. On slices, kernels other than `Riesz(1.0)` must not be too narrow for the data, see `sliced_mmd2`.
        slices: number P of random directions; or a list with one for every kind. None for the exact gradient by brute force,
            O(NM) a step.
        step_size: τ > 0; or a list with one for every kind. A step of size 1 moves every particle by N times its gradient.
            None: 0.4 (1 − m) times the mean distance between targets, or between their patches, shared by the kinds.
        momentum: m in [0, 1); or a list with one for every kind.
        directions: as in `sliced_mmd2_gradient`, or a list of several kinds. Not used without slices, and neither are engine,
            seed, reuse and batch.
        engine: as in `sliced_mmd2_gradient`.
        seed: of the directions. A whole number; or a torch.Generator, which goes on; or None for torch's default generator.
        y_weights: non-negative weights of y, (M,) or (..., M), of sum one. None for 1/M each.
        reuse: number of steps that a set of slices serves; 1 for fresh slices in every step. The steps are spread: no two in
            a row see the same slices, see `Target`. On slices seen before, particles move less and mostly astray: with 8, a
            step for N = M takes a quarter less time, but four times as many steps are needed. Only on the linear-time engine.
        target_batch_size: number of targets that a step sees, see `Target`. None: all.
        bounds: (low, high). After every step coordinates are clipped to this interval (projected gradient), for targets that
            lie in the box, like images in [0, 1]^d. None for no bounds.
        group: a torch.distributed process group. Its ranks hold parts of the particles and of the target, see `Target`. With
            slices only. None: all points are here.
        step_schedule: what τ is multiplied by in a step, of the number of steps before it; see `geometric_schedule`. None: always 1.
        combine: with several kinds, "sum": all gradients are taken at the same particles and added up; "alternate": kinds take
            turns.
        record: True to write down what steps do, so that new points can follow (`recorded`), in memory; or an empty folder,
            where the recording grows; `recorded` ends it there. With `Riesz(1.0)` on the linear-time engine. The particles
            move by the recorded steps. A flow makes one recording: `run` and `step` continue only from where the last step
            ended.
        bins: of the tables of a recording.
        frozen: what of a particle does not move: a number k of leading coordinates, a `Mask` or a `Pool`. Slices see it, and
            `bounds` leave it alone. So pairs (condition, x) flow towards pairs (condition, data), and x becomes a sample of the
            data given the condition.

    Attributes:
        targets: where gradients come from, a `Target` for every kind of slices.
        step_sizes: τ of every kind.
        momenta: m of every kind.
        bounds: as given.
        frozen: what of a particle does not move; None for nothing.
        steps: how many have been done. Set it to go on from a saved state, if there are `lengths`.
        velocities: v of every kind after the last step, shape of x. None before the first step. Set it to go on from a saved
            state.
        trajectory: what the last `run` was asked to record: particles by the number of the step.

    Raises:
        InputError (a ValueError): step_size, momentum or bounds out of range, lists of different lengths, or what
            `sliced_mmd2_gradient` refuses.
        InputTypeError (a TypeError): a wrong type or dtype.

    Example:
        >>> import torch
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
        self.momenta = [_momentum(m) for m in _each("momentum", momentum, K)]
        self.bounds = None if bounds is None else _interval(bounds)
        if combine not in ("alternate", "sum"):
            raise InputError(f"`combine` must be 'alternate' or 'sum', got {combine!r}")
        self.step_schedule, self.combine, self.steps = step_schedule, combine, 0
        self.targets: list[Target | _BruteForce]
        if slices is not None:
            generator = validate.generator(seed)
            self.targets = [
                Target(
                    y,
                    kernel=kernel,
                    slices=P,
                    directions=kind,
                    engine=engine,
                    seed=generator,
                    y_weights=y_weights,
                    refresh_every=refresh_every,
                    target_batch_size=target_batch_size,
                    group=group,
                    frozen=frozen,
                )
                for kind, P in zip(kinds, _each("slices", slices, K), strict=True)
            ]
        elif group is not None:
            raise InputError("group: given without slices; the exact gradient works in one process only")
        elif K > 1:
            raise InputError(f"directions: {K} kinds given without slices; the exact gradient has none")
        else:
            self.targets = [_BruteForce(y, kernel, y_weights, frozen)]
        self.frozen = self.targets[0].frozen
        if step_size is None:
            self.step_sizes = default_steps(self.targets[0].y, kinds, _many(self.targets), self.momenta, self.frozen)
        else:
            self.step_sizes = [validate.positive_float("step_size", t) for t in _each("step_size", step_size, K)]
        self.velocities: list[Tensor | None] = [None] * K
        self.trajectory: dict[int, Points] = {}
        self.recorder = self._new_recorder(record, kinds, validate.positive_int("bins", bins)) if record else None
        self._end: tuple[Tensor, int] | None = None  # where a recording continues: the particles and their version

    def _new_recorder(self, where: bool | str | os.PathLike[str], kinds: list[Kind], bins: int) -> Recorder:
        for target in self.targets:
            if isinstance(target, _BruteForce):
                raise InputError("`record` must be False without slices, because slices are what is recorded")
            target.check_recording()
        plan = Plan(self.targets[0].y.shape[1], tuple(kinds), tuple(_many(self.targets)), bins, self.bounds, self.frozen)
        return Recorder(plan, None if isinstance(where, bool) else Path(where))

    @property
    def velocity(self) -> Tensor | None:
        """v of the first kind of slices."""
        return self.velocities[0]

    @velocity.setter
    def velocity(self, v: Tensor | None) -> None:
        self.velocities[0] = v

    @property
    def target(self) -> Target | _BruteForce:
        """The target on the first kind of slices."""
        return self.targets[0]

    def state(self) -> dict[str, Tensor]:
        """What is needed to go on with the very same slices, beside `velocities` and `steps`. See `load_state`."""
        return {f"{k}.{name}": t for k, target in enumerate(self.targets) for name, t in target.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` returned. Raises KeyError for a state of other slices."""
        for k, target in enumerate(self.targets):
            prefix = f"{k}."
            target.load_state({name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)})

    def recorded(self) -> RecordedFlow:
        """What all steps so far did, to be done to new points.

        Raises:
            InputError: the flow was made without `recording`.
        """
        if self.recorder is None:
            raise InputError("`record` must be True to make a recording; this flow was made without it")
        return self.recorder.recorded()

    def gradient(self, x: Tensor) -> Tensor:
        """∇D² at the particles x, on the first kind of slices: of their shape, detached."""
        return self.target.gradient(x)

    def step(self, x: Tensor) -> Tensor:
        """One step, on every kind of slices.

        Args:
            x: particles (N, d) or (..., N, d), with the d, batch dimensions, dtype and device of the target. Not changed.

        Returns:
            The new particles, detached. The new velocities are in `velocities`.

        Raises:
            InputError (a ValueError): particles that do not fit the target or the velocity, or from which a recording cannot
                continue; or an invalid value of `lengths`.
            InputTypeError (a TypeError): a wrong type or dtype.
        """
        x = validate.points("x", x, check_finite=False).detach()
        self._check_goes_on(x)
        factor = 1.0 if self.step_schedule is None else validate.real(self.step_schedule(self.steps))
        if not 0 <= factor < math.inf:
            raise InputError(f"`step_schedule` must return finite numbers of at least 0, got {factor!r} for step {self.steps}")
        N = ranks.total(x.shape[-2], self.targets[0].group)
        # The flow follows ½ MMD², as in the paper; gradients and velocities are those of MMD².
        lengths = [0.5 * tau * factor * N for tau in self.step_sizes]
        last = len(self.targets) - 1
        for k in range(last + 1):
            self.velocities[k] = self._faster(k, x, lengths[k])
            if self.combine == "alternate":
                x = self._moved(x, k, lengths[k], self.bounds)
        if self.combine == "sum":
            for k in range(last + 1):
                x = self._moved(x, k, lengths[k], self.bounds if k == last else None)
        self.steps += 1
        if self.recorder is not None:
            self._end = x, x._version
        return x

    def _check_goes_on(self, x: Tensor) -> None:
        """Refuse particles other than those the recorded steps led to: the steps could not be replayed together."""
        if self._end is None:
            return
        end, version = self._end
        there = end.shape == x.shape and end.dtype == x.dtype and end.device == x.device and end._version == version
        if not there or not (torch.equal(x, end) or end.isnan().any()):
            raise InputError(
                "`x` must be the particles that the last step returned, because the flow is recorded, got others; make a "
                "new ParticleFlow for a new recording"
            )

    def _faster(self, k: int, x: Tensor, length: float) -> Tensor:
        """∇D²(x) + m v on a kind of slices, written down if there is a recording."""
        target, velocity, recorder = self.targets[k], self.velocities[k], self.recorder
        if velocity is not None and velocity.shape != x.shape:
            raise InputError(
                f"x: shape {tuple(x.shape)} given, the flow's velocity has {tuple(velocity.shape)}; "
                "set velocities = [None] of every kind to start anew"
            )
        if recorder is None:
            return update_velocity(target.gradient(x), velocity, self.momenta[k])
        assert isinstance(target, Target)
        seed, drawn, trace = target.record_step(x, lambda seed: recorder.plan.draw(k, seed, x), recorder.plan.bins)
        moves = self.combine == "alternate" or k == len(self.targets) - 1
        recorder.add(Step(k, seed, self.momenta[k], length, moves, trace))
        with target.memory.in_use():
            gradient = replay_step(trace, drawn, x)
            if self.frozen is not None:
                gradient = self.frozen.project_out(gradient)
            return update_velocity(gradient, velocity, self.momenta[k])

    def _moved(self, x: Tensor, k: int, length: float, bounds: tuple[float, float] | None) -> Tensor:
        velocity = self.velocities[k]
        assert velocity is not None
        with self.targets[0].memory.in_use():
            return update_positions(x, velocity, length, bounds, self.frozen)

    def run(
        self,
        x: PointsT,
        *,
        steps: int,
        callback: Callable[[int, Tensor], object] | None = None,
        snapshots: Iterable[int] = (),
    ) -> PointsT:
        """Several steps.

        Args:
            x: particles (N, d) or (..., N, d), tensor or NumPy array, with the d, batch dimensions, dtype and device of the
                target. Not changed.
            steps: number of steps, at least 1.
            callback: called after every step with the number of steps done and the particles. If it returns True, the flow ends
                there.
            snapshots: numbers of steps whose particles are kept in `trajectory`, in the kind of x; 0 is the start.

        Returns:
            The particles after the last step, detached. An array if x was one.

        Raises:
            InputError (a ValueError): steps out of range, NaN or infinity in x, or what `step` refuses.
            InputTypeError (a TypeError): a wrong type or dtype.
        """
        at, wanted = validate.points("x", x).detach(), set(snapshots)
        self.trajectory = {}

        def keep(k: int) -> None:
            if k in wanted:
                self.trajectory[k] = at.numpy().copy() if isinstance(x, np.ndarray) else at.clone()

        steps = validate.positive_int("steps", steps)
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

    def __init__(self, y: object, kernel: Kernel, y_weights: Points | None, frozen: ConstraintLike) -> None:
        if not isinstance(y, (Tensor, np.ndarray)):
            raise InputError("y: comes in batches, and slices is None; the exact gradient needs a tensor or array")
        check_kernel(kernel)
        self.y, self.kernel = validate.points("y", y).detach(), kernel
        self.y_weights = validate.weights("y_weights", y_weights, self.y)
        self.frozen: Constraint | None = as_constraint(frozen, self.y.shape[-1])
        self.memory = BufferPool()  # of the particles

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if state:
            raise KeyError("a state of slices, and there are none")

    def gradient(self, x: Tensor) -> Tensor:
        gradient = mmd2_gradient(x, self.y, kernel=self.kernel, y_weights=self.y_weights)
        return gradient if self.frozen is None else self.frozen.project_out(gradient)


def _interval(bounds: object) -> tuple[float, float]:
    ends = [validate.real(v) for v in bounds] if isinstance(bounds, (tuple, list, np.ndarray)) else []
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise InputError(f"`bounds` must be None or a pair (low, high) with low < high, got {bounds!r}")
    return ends[0], ends[1]


def _each(name: str, value: object, K: int) -> list[Any]:
    """A value for every kind of slices."""
    if not isinstance(value, (list, tuple)):
        return [value] * K
    if len(value) != K:
        raise InputError(
            f"{name}: {len(value)} values given for {K} kinds of directions; one for each, or one for all, is accepted"
        )
    return list(value)


def _momentum(value: Any) -> float:
    m = validate.real(value)
    if not 0 <= m < 1:
        raise InputError(f"`momentum` must be in [0, 1), got {value!r}")
    return m


def _many(targets: Sequence[Target | _BruteForce]) -> list[int]:
    return [target.slices if isinstance(target, Target) else 0 for target in targets]
