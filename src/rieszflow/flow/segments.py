"""The steps of a recorded flow: their common settings, what each step did, and their replay on new points."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from rieszflow import directions
from rieszflow._infra.files import Json
from rieszflow._infra.isolation import isolated_numerics
from rieszflow._infra.validate import positive_int
from rieszflow._infra.workspace import BufferPool
from rieszflow._types import Progress, ProgressCallback
from rieszflow.constraints import Constraint, FixedPrefix, as_constraint
from rieszflow.directions import Kind, PatchSlices
from rieszflow.flow.moves import update_positions, update_velocity
from rieszflow.histograms.replay import StepTables, replay_step

__all__ = ["Plan", "Segment", "Step"]


@dataclass(frozen=True)
class Plan:
    """The settings that all steps of a recording share.

    Attributes:
        d: dimension of the points.
        kinds: of slices.
        slices: P, of every kind.
        bins: B, of all tables.
        bounds: (low, high) that points are clipped to after every move, or None.
        frozen: what of a point does not move, or None.
    """

    d: int
    kinds: tuple[Kind, ...]
    slices: tuple[int, ...]
    bins: int
    bounds: tuple[float, float] | None
    frozen: Constraint | None = None

    def said(self) -> Json:
        """Return the plan as JSON."""
        kinds = [dataclasses.asdict(k) if isinstance(k, PatchSlices) else k for k in self.kinds]
        frozen = {} if self.frozen is None else {"frozen": self.frozen.to_dict()}
        return {"d": self.d, "kinds": kinds, "slices": self.slices, "bins": self.bins, "bounds": self.bounds, **frozen}

    @classmethod
    def heard(cls, said: Json) -> Plan:
        """Return the plan from the JSON of `said`. Raises KeyError, TypeError or ValueError if it is malformed."""
        d, bins = positive_int("d", said["d"]), positive_int("bins", said["bins"])
        kinds = tuple(_kind(k, d) for k in said["kinds"])
        slices = tuple(positive_int("slices", P) for P in said["slices"])
        if not kinds or len(kinds) != len(slices):
            raise ValueError(f"{len(kinds)} kinds of slices, but {len(slices)} numbers of slices")
        bounds = said["bounds"]
        if bounds is not None:
            low, high = (float(v) if type(v) in (int, float) else math.nan for v in bounds)
            if not -math.inf < low < high < math.inf:
                raise ValueError(f"bounds {bounds!r}")
            bounds = low, high
        held = Constraint.from_dict(said["frozen"]) if "frozen" in said else 0
        frozen = as_constraint(held.k if isinstance(held, FixedPrefix) else held, d)
        return cls(d, kinds, slices, bins, bounds, frozen)

    def draw(self, kind: int, seed: int, like: Tensor) -> directions.Directions:
        """Draw the slices of a step, with a generator on the CPU so that a recording replays equally on every device."""
        generator = torch.Generator("cpu").manual_seed(seed)
        return directions.sample(self.kinds[kind], self.slices[kind], self.d, like, generator)


@dataclass(frozen=True)
class Step:
    """One step on slices of one kind: v ← ∇D²(x) + m v.

    Attributes:
        kind: number of the kind of slices.
        seed: of the slices.
        momentum: m, of the velocity of this kind.
        length: τ N; points move by it along the velocity.
        moves: whether points move now, along all velocities since the last move; not where several kinds are summed.
        trace: ∇D² as a function of the point.
    """

    kind: int
    seed: int
    momentum: float
    length: float
    moves: bool
    trace: StepTables

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in vars(self.trace).values())


_NUMBERS = {
    "kind": torch.int64, "seed": torch.int64, "momentum": torch.float64, "length": torch.float64, "moves": torch.bool,
}  # fmt: skip
_TRACE = tuple(field.name for field in dataclasses.fields(StepTables))


class Segment:
    """Consecutive steps of a recording, in memory.

    Attributes:
        plan: the settings that they share.
        steps: the steps.
    """

    def __init__(self, plan: Plan, steps: Sequence[Step] = ()) -> None:
        self.plan, self.steps = plan, list(steps)
        self._memory = BufferPool()

    @property
    def nbytes(self) -> int:
        return sum(step.nbytes for step in self.steps)

    def rest(self) -> tuple[Tensor | None, ...]:
        """Return the velocities of points at rest."""
        return (None,) * len(self.plan.kinds)

    @isolated_numerics
    def push(
        self, x: Tensor, velocities: Sequence[Tensor | None], progress: ProgressCallback | None = None
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Return points x (n, d) in float32 and their velocities after all steps, without changing the arguments."""
        found, pending = [None if v is None else v.clone() for v in velocities], []
        with self._memory.in_use():
            for number, step in enumerate(self.steps, 1):
                slices = self.plan.draw(step.kind, step.seed, x)
                gradient = replay_step(step.trace, slices, x)
                if self.plan.frozen is not None:
                    gradient = self.plan.frozen.project_out(gradient)
                found[step.kind] = update_velocity(gradient, found[step.kind], step.momentum)
                pending.append(step)
                if step.moves:
                    for one in pending:
                        velocity = found[one.kind]
                        assert velocity is not None
                        x = update_positions(
                            x, velocity, one.length, self.plan.bounds if one is step else None, self.plan.frozen
                        )
                    pending = []
                if progress is not None:
                    progress(Progress("steps", number, len(self.steps)))
        return x, tuple(found)

    def tensors(self) -> dict[str, Tensor]:
        """Return the steps as tensors; the tables of each kind of slices are stacked."""
        tensors = {name: torch.tensor([getattr(s, name) for s in self.steps], dtype=t) for name, t in _NUMBERS.items()}
        for kind in range(len(self.plan.kinds)):
            traces = [s.trace for s in self.steps if s.kind == kind]
            if traces:
                tensors |= {f"{kind}.{name}": torch.stack([getattr(t, name) for t in traces]) for name in _TRACE}
        return tensors

    @classmethod
    def of(cls, plan: Plan, tensors: dict[str, Tensor]) -> Segment:
        """Return the segment from what `tensors` returned.

        Raises:
            ValueError, KeyError: wrong names, shapes or dtypes, or impossible numbers.
        """
        many = len(tensors["kind"])
        if any((tensors[name].shape, tensors[name].dtype) != ((many,), dtype) for name, dtype in _NUMBERS.items()):
            raise ValueError("arrays of steps with unequal lengths or wrong dtypes")
        kinds = tensors["kind"].tolist()
        if not set(kinds) <= set(range(len(plan.kinds))):
            raise ValueError("a step on slices of an unknown kind")
        rows: dict[int, Iterator[int]] = {}
        for k in set(kinds):
            _check(plan, k, kinds.count(k), {name: tensors[f"{k}.{name}"] for name in _TRACE})
            rows[k] = iter(range(kinds.count(k)))
        seeds, momenta, lengths, moves = (tensors[name].tolist() for name in list(_NUMBERS)[1:])
        if not all(0 <= m < 1 for m in momenta) or not all(0 <= length < math.inf for length in lengths):
            raise ValueError("momenta or lengths out of range")
        if moves and not moves[-1]:
            raise ValueError("points do not move after the last step")
        steps = []
        for number, k in enumerate(kinds):
            row = next(rows[k])
            trace = StepTables(*(tensors[f"{k}.{name}"][row] for name in _TRACE))
            steps.append(Step(k, seeds[number], momenta[number], lengths[number], moves[number], trace))
        return cls(plan, steps)


def _check(plan: Plan, kind: int, many: int, found: dict[str, Tensor]) -> None:
    """Check that the tables of a kind can be evaluated."""
    P = plan.slices[kind]
    for name, shape, dtype in (
        ("shift", (plan.d,), torch.float32),
        ("scale", (), torch.float64),
        ("low", (P,), torch.float32),
        ("inverse", (P,), torch.float32),
        ("unit", (P,), torch.float32),
        ("table", (P, plan.bins + 1), torch.int8),
    ):
        if found[name].shape != (many, *shape) or found[name].dtype != dtype:
            raise ValueError(f"{kind}.{name}: {tuple(found[name].shape)} {found[name].dtype}")
        if dtype.is_floating_point and not torch.isfinite(found[name]).all():
            raise ValueError(f"{kind}.{name}: NaN or infinity")
    if (found["scale"] <= 0).any() or (found["inverse"] <= 0).any() or (found["unit"] < 0).any():
        raise ValueError(f"{kind}: scales, bin widths or units out of range")


_RENAMED_FIELDS = {"scale": "stretch", "one": "single_patch"}  # of `PatchSlices`, in recordings of older versions


def _kind(said: object, d: int) -> Kind:
    """Return the kind of slices of points in R^d, from its name or from the output of `dataclasses.asdict`."""
    if isinstance(said, dict):
        fields = {_RENAMED_FIELDS.get(name, str(name)): value for name, value in said.items()}
        patches = PatchSlices(**{**fields, "shape": tuple(said["shape"])})
        if patches.d != d:
            raise ValueError(f"slices of images {patches.shape} for points with d = {d}")
        return patches
    for name in ("auto", *directions.KINDS):
        if said == name:
            return cast(Kind, name)
    raise ValueError(f"unknown kind of slices {str(said)[:40]!r}")
