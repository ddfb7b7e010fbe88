"""The steps of a recorded flow: their settings, what each step does, and their replay on new points."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor

from rieszflow import directions
from rieszflow._infra.files import Json, check_tensors
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._infra.validate import choice, positive_int
from rieszflow._infra.workspace import BufferPool
from rieszflow.constraints import Constraint, FixedPrefix, Labels, as_constraint
from rieszflow.directions import Kind, PatchSlices
from rieszflow.flow.steps import apply_moves, update_velocity
from rieszflow.histograms import StepTables, replay_step

Velocities: TypeAlias = Sequence[Tensor | None]  # of every kind of slices; None at rest


@dataclass(frozen=True)
class Plan:
    """The settings that all steps of a recording share."""

    d: int  # dimension of the points
    kinds: tuple[Kind, ...]
    slices: tuple[int, ...]  # of every kind
    bins: int
    bounds: tuple[float, float] | None  # that points are clipped to after every move
    frozen: Constraint | None = None

    def to_dict(self) -> Json:
        kinds = [dataclasses.asdict(k) if isinstance(k, PatchSlices) else k for k in self.kinds]
        frozen = {} if self.frozen is None else {"frozen": self.frozen.to_dict()}
        return {"d": self.d, "kinds": kinds, "slices": self.slices, "bins": self.bins, "bounds": self.bounds, **frozen}

    @classmethod
    def from_dict(cls, content: Json) -> Plan:
        """Return the plan from what `to_dict` returned. Raises KeyError, TypeError or ValueError if it is malformed."""
        d, bins = positive_int("d", content["d"]), positive_int("bins", content["bins"])
        kinds = tuple(_kind(k, d) for k in content["kinds"])
        slices = tuple(positive_int("slices", P) for P in content["slices"])
        if not kinds or len(kinds) != len(slices):
            raise ValueError(f"{len(kinds)} kinds of slices, but {len(slices)} numbers of slices")
        bounds = content["bounds"]
        if bounds is not None:
            low, high = (float(v) if type(v) in (int, float) else math.nan for v in bounds)
            if not -math.inf < low < high < math.inf:
                raise ValueError(f"bounds {bounds!r}")
            bounds = low, high
        frozen = Constraint.from_dict(content["frozen"]) if "frozen" in content else 0
        frozen = frozen.k if type(frozen) is FixedPrefix else frozen
        return cls(d, kinds, slices, bins, bounds, as_constraint(frozen, d))

    def draw(self, kind: int, seed: int, like: Tensor) -> directions.Directions:
        """Draw the slices of a step, with a generator on the CPU so that a recording replays equally on every device."""
        return directions.sample(self.kinds[kind], self.slices[kind], self.slice_dim, like, seed)

    @property
    def slice_dim(self) -> int:
        """Dimension of the slices, which do not see `Labels`."""
        return self.d - isinstance(self.frozen, Labels)


_RENAMED_FIELDS = {"scale": "stretch", "one": "single_patch"}  # of `PatchSlices`, in recordings of older versions


def _kind(content: object, d: int) -> Kind:
    if isinstance(content, dict):
        fields = {_RENAMED_FIELDS.get(name, str(name)): value for name, value in content.items()}
        patches = PatchSlices(**{**fields, "shape": tuple(content["shape"])})
        if patches.d != d:
            raise ValueError(f"slices of images {patches.shape} for points with d = {d}")
        return patches
    return cast(Kind, choice("kinds", content, ("auto", *directions.KINDS)))


@dataclass(frozen=True)
class Step:
    """One step on slices of one kind: v ← ∇MMD²(x) + m v."""

    kind: int  # index of the kind of slices
    seed: int  # of the slices
    momentum: float  # m
    length: float  # ½ τ N: points move by −length · v
    moves: bool  # True if points move now, along all velocities since the last move
    tables: StepTables  # ∇MMD² as a function of the point

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in vars(self.tables).values())


_NUMBERS = {
    "kind": torch.int64, "seed": torch.int64, "momentum": torch.float64, "length": torch.float64, "moves": torch.bool,
}  # fmt: skip
_TABLES = tuple(field.name for field in dataclasses.fields(StepTables))


class Segment:
    """Consecutive steps of a recording, in memory."""

    def __init__(self, plan: Plan, steps: Iterable[Step] = ()) -> None:
        self.plan, self.steps = plan, list(steps)
        self._memory = BufferPool()

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def nbytes(self) -> int:
        return sum(step.nbytes for step in self.steps)

    @isolated_numerics
    def push(
        self, x: Tensor, velocities: Velocities, after_step: Callable[[], object] = lambda: None
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Return points x (n, d) in float32 and their velocities after all steps, without changing the arguments."""
        found, frozen = [None if v is None else v.clone() for v in velocities], self.plan.frozen
        moves: list[tuple[Tensor, float]] = []
        with self._memory.in_use():
            for step in self.steps:
                gradient = replay_step(step.tables, self.plan.draw(step.kind, step.seed, x), x, frozen)
                if frozen is not None:
                    gradient = frozen.project_out(gradient)
                velocity = found[step.kind] = update_velocity(gradient, found[step.kind], step.momentum)
                moves.append((velocity, step.length))
                if step.moves:
                    x = apply_moves(x, moves, self.plan.bounds, frozen)
                    moves.clear()
                after_step()
        return x, tuple(found)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the steps as tensors, in which the tables of each kind of slices are stacked."""
        tensors = {name: torch.tensor([getattr(s, name) for s in self.steps], dtype=t) for name, t in _NUMBERS.items()}
        for kind in range(len(self.plan.kinds)):
            if tables := [step.tables for step in self.steps if step.kind == kind]:
                tensors |= {f"{kind}.{name}": torch.stack([getattr(t, name) for t in tables]).cpu() for name in _TABLES}
        return tensors

    @classmethod
    def from_tensors(cls, plan: Plan, tensors: dict[str, Tensor]) -> Segment:
        """Return the segment from what `to_tensors` returned. Raises KeyError or ValueError if it is malformed."""
        n = len(tensors["kind"])
        if any((tensors[name].shape, tensors[name].dtype) != ((n,), dtype) for name, dtype in _NUMBERS.items()):
            raise ValueError("arrays of steps with unequal lengths or wrong dtypes")
        kinds, seeds, momenta, lengths, moves = (tensors[name].tolist() for name in _NUMBERS)
        if not set(kinds) <= set(range(len(plan.kinds))):
            raise ValueError("a step on slices of an unknown kind")
        if not all(0 <= m < 1 for m in momenta) or not all(0 <= length < math.inf for length in lengths):
            raise ValueError("momenta or lengths out of range")
        if moves and not moves[-1]:
            raise ValueError("points do not move after the last step")
        tables = {k: _unstack(plan, k, kinds.count(k), tensors) for k in set(kinds)}
        steps = zip(kinds, seeds, momenta, lengths, moves, strict=True)
        return cls(plan, [Step(*numbers, next(tables[numbers[0]])) for numbers in steps])


def _unstack(plan: Plan, kind: int, n: int, tensors: dict[str, Tensor]) -> Iterator[StepTables]:
    """Return the n tables of a kind of slices, after checking that they can be evaluated."""
    P, f32, lead = plan.slices[kind], torch.float32, (n, plan.frozen.number) if isinstance(plan.frozen, Labels) else (n,)
    found = {name: tensors[f"{kind}.{name}"] for name in _TABLES}
    check_tensors(found, {
        "shift": ((*lead, plan.slice_dim), f32), "low": ((*lead, P), f32), "inverse": ((*lead, P), f32),
        "unit": ((*lead, P), f32), "scale": (lead, torch.float64), "table": ((*lead, P, plan.bins + 1), torch.int8),
    })  # fmt: skip
    if (found["scale"] <= 0).any() or (found["inverse"] <= 0).any() or (found["unit"] < 0).any():
        raise ValueError(f"{kind}: scales, bin widths or units out of range")
    return (StepTables(**{name: t[row] for name, t in found.items()}) for row in range(n))


def replay(
    segments: Iterable[Segment], batches: Iterable[Tensor], after_step: Callable[[], object] = lambda: None
) -> list[Tensor]:
    """Return batches of points at rest after all steps of consecutive segments, of which one at a time is in memory."""
    points, velocities = list(batches), dict[int, Velocities]()
    for segment in segments:
        for k, x in enumerate(points):
            at_rest = (None,) * len(segment.plan.kinds)
            points[k], velocities[k] = segment.push(x, velocities.get(k, at_rest), after_step)
        del segment  # before the next one is read
    return points
