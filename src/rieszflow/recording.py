"""What the steps of a flow did, and the same done to new points: a generative model without a network.

A step of a flow moves a particle by a sum of functions of its projections, 2(G − F) on every slice. Once these functions are
written down, neither the particles nor the target are needed any more: new points follow them. Points that start like the
particles end as the particles do, and there may be any number of them.

Liutkus et al., Sliced-Wasserstein Flows (ICML 2019), and Dai and Seljak, Sliced Iterative Normalizing Flows (ICML 2021), replay
transport maps of slices in this way. For flows of the MMD we know of no source.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rieszflow import _validate, directions
from rieszflow._files import Format, Json, load_header, load_tensors, save_tensors
from rieszflow._moves import faster, moved
from rieszflow._scratch import Recycled
from rieszflow._surroundings import plain
from rieszflow._types import PointsT, Progress, ProgressCallback
from rieszflow.directions import Kind, LocalSlices
from rieszflow.engines.bins.recorded import Trace, follow
from rieszflow.errors import FileError, InputError, RunError
from rieszflow.frozen import Known, heard, known

__all__ = ["Plan", "RecordedFlow", "Recorder", "Segment", "Step"]

_FORMAT = Format("recorded flow", 1)
_SEGMENT = 64_000_000  # bytes of a recording in memory before they go to its folder


@dataclass(frozen=True)
class Plan:
    """What all steps of a recording have in common.

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
    frozen: Known | None = None

    def said(self) -> Json:
        """As JSON can say it."""
        kinds = [dataclasses.asdict(k) if isinstance(k, LocalSlices) else k for k in self.kinds]
        frozen = {} if self.frozen is None else {"frozen": self.frozen.said()}
        return {"d": self.d, "kinds": kinds, "slices": self.slices, "bins": self.bins, "bounds": self.bounds, **frozen}

    @classmethod
    def heard(cls, said: Json) -> Plan:
        """What `said` returned. Raises KeyError, TypeError or ValueError for anything else."""
        kinds = tuple(
            LocalSlices(**{**k, "shape": tuple(k["shape"])}) if isinstance(k, dict) else str(k) for k in said["kinds"]
        )
        if unknown := [k for k in kinds if isinstance(k, str) and k not in ("auto", *directions.KINDS)]:
            raise ValueError(f"slices of the unknown kind {unknown[0]!r}")
        bounds = None if said["bounds"] is None else (float(said["bounds"][0]), float(said["bounds"][1]))
        d, slices = int(said["d"]), tuple(map(int, said["slices"]))
        frozen = known(heard(said["frozen"]), d) if "frozen" in said else None
        return cls(d, kinds, slices, int(said["bins"]), bounds, frozen)  # type: ignore[arg-type]

    def draw(self, kind: int, seed: int, like: Tensor) -> directions.Directions:
        """The slices of a step. From the CPU's generator, so that a recording means the same on every device."""
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
    trace: Trace

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in vars(self.trace).values())


_NUMBERS = ("kind", "seed", "momentum", "length", "moves")
_TRACE = tuple(field.name for field in dataclasses.fields(Trace))


class Segment:
    """Consecutive steps of a recording, in memory.

    Attributes:
        plan: what they have in common.
        steps: the steps.
    """

    def __init__(self, plan: Plan, steps: Sequence[Step] = ()) -> None:
        self.plan, self.steps = plan, list(steps)
        self._memory = Recycled()

    @property
    def nbytes(self) -> int:
        return sum(step.nbytes for step in self.steps)

    def rest(self) -> tuple[Tensor | None, ...]:
        """The velocities of points at rest."""
        return (None,) * len(self.plan.kinds)

    @plain
    def push(
        self, x: Tensor, velocities: Sequence[Tensor | None], progress: ProgressCallback | None = None
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Points x (n, d) in float32 and their velocities, after all steps. What is given is not changed."""
        found, pending = [None if v is None else v.clone() for v in velocities], []
        with self._memory.in_use():
            for number, step in enumerate(self.steps, 1):
                slices = self.plan.draw(step.kind, step.seed, x)
                gradient = follow(step.trace, slices, x)
                if self.plan.frozen is not None:
                    gradient = self.plan.frozen.hold(gradient)
                found[step.kind] = faster(gradient, found[step.kind], step.momentum)
                pending.append(step)
                if step.moves:
                    for one in pending:
                        velocity = found[one.kind]
                        assert velocity is not None
                        x = moved(x, velocity, one.length, self.plan.bounds if one is step else None, self.plan.frozen)
                    pending = []
                if progress is not None:
                    progress(Progress("steps", number, len(self.steps)))
        return x, tuple(found)

    def tensors(self) -> dict[str, Tensor]:
        """The steps as tensors: those of a kind one below the other."""
        tensors = {
            "kind": torch.tensor([s.kind for s in self.steps], dtype=torch.int64),
            "seed": torch.tensor([s.seed for s in self.steps], dtype=torch.int64),
            "momentum": torch.tensor([s.momentum for s in self.steps], dtype=torch.float64),
            "length": torch.tensor([s.length for s in self.steps], dtype=torch.float64),
            "moves": torch.tensor([s.moves for s in self.steps], dtype=torch.bool),
        }
        for kind in range(len(self.plan.kinds)):
            traces = [s.trace for s in self.steps if s.kind == kind]
            if traces:
                tensors |= {f"{kind}.{name}": torch.stack([getattr(t, name) for t in traces]) for name in _TRACE}
        return tensors

    @classmethod
    def of(cls, plan: Plan, tensors: dict[str, Tensor]) -> Segment:
        """What `tensors` returned.

        Raises:
            ValueError, KeyError: other names, shapes, dtypes, or numbers that cannot be.
        """
        kinds, many = tensors["kind"].tolist(), len(tensors["kind"])
        if any(tensors[name].shape != (many,) for name in _NUMBERS) or set(kinds) - set(range(len(plan.kinds))):
            raise ValueError("numbers of steps that do not belong together")
        rows: dict[int, Iterator[int]] = {}
        for k in set(kinds):
            _check(plan, k, kinds.count(k), {name: tensors[f"{k}.{name}"] for name in _TRACE})
            rows[k] = iter(range(kinds.count(k)))
        seeds, momenta, lengths, moves = (tensors[name].tolist() for name in _NUMBERS[1:])
        if not all(np.isfinite(v) for v in (*momenta, *lengths)):
            raise ValueError("momenta and lengths that are no numbers")
        steps = []
        for number, k in enumerate(kinds):
            row = next(rows[k])
            trace = Trace(*(tensors[f"{k}.{name}"][row] for name in _TRACE))
            steps.append(Step(k, int(seeds[number]), momenta[number], lengths[number], bool(moves[number]), trace))
        return cls(plan, steps)


def _check(plan: Plan, kind: int, many: int, found: dict[str, Tensor]) -> None:
    """That tables of a kind can be looked up."""
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


class RecordedFlow:
    """A flow that was recorded: it moves new points as it moved its particles, without them and without the target.

    `ParticleFlow(..., recording=True).recorded()` makes one, `RecordedFlow.load` opens a file or folder.

    Attributes:
        plan: what all steps have in common: dimension, kinds of slices, bins, bounds, what is frozen.

    Example:
        >>> import rieszflow as rf
        >>> g = torch.Generator().manual_seed(0)
        >>> y = torch.randn(3000, 2, generator=g) + 5
        >>> flow = rf.ParticleFlow(y, slices=16, momentum=0.5, recording=True, seed=g)
        >>> x = flow.run(torch.rand(3000, 2, generator=g), steps=60)
        >>> z = flow.recorded().push(torch.rand(1000, 2, generator=g))
        >>> bool(rf.mmd2(z, y[:1000]) < 0.01)
        True

    Source: see the module's docstring.
    """

    def __init__(self, plan: Plan, parts: Sequence[Segment | Path]) -> None:
        self.plan, self._parts = plan, list(parts)
        self._lengths = [(len(s.steps), s.nbytes) for s in map(self._segment, self._parts)]

    def _segment(self, part: Segment | Path) -> Segment:
        return part if isinstance(part, Segment) else _read(part, self.plan)

    def __len__(self) -> int:
        """The number of steps, each on slices of one kind."""
        return sum(steps for steps, _ in self._lengths)

    @property
    def nbytes(self) -> int:
        """Size of what was written down."""
        return sum(size for _, size in self._lengths)

    def push(self, z: PointsT, *, batch_size: int = 4000, progress: ProgressCallback | None = None) -> PointsT:
        """Moves new points as the particles were moved.

        Args:
            z: points (n, d), which start like the particles did, with what is frozen of each in its place; float32,
                or float64, which is made float32 and given back as float64. Tensor, on any device, or NumPy array. Not changed.
            batch_size: points at a time. Twice their memory is needed for every kind of slices.
            progress: called with a `Progress` after every step.

        Returns:
            Where they end, in the shape and dtype of z. An array if z is one.

        Raises:
            InputError (a ValueError): another dimension, NaN or infinity, batch_size below 1.
            InputTypeError (a TypeError): a wrong type or dtype.
            FileError: a part of the recording is missing or damaged.
        """
        points, batch_size = _validate.points("z", z), _validate.positive_int("batch_size", batch_size)
        if points.ndim != 2 or points.shape[1] != self.plan.d:
            raise InputError(f"z: shape {tuple(points.shape)} given; (n, {self.plan.d}) is accepted")
        out = torch.empty_like(points)
        batches, done = points.detach().split(batch_size), 0
        for k, batch in enumerate(batches):
            x, velocities = batch.float(), Segment(self.plan).rest()
            for part in self._parts:
                segment = self._segment(part)
                x, velocities = segment.push(x, velocities, _shifted(progress, done, len(self) * len(batches)))
                done += len(segment.steps)
            out[k * batch_size : k * batch_size + len(batch)] = x
        if self.plan.frozen is not None:
            out = self.plan.frozen.put(out, points.detach())  # as it was given, in float64 too
        return out.numpy() if isinstance(z, np.ndarray) else out

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one file of safetensors, with version and checksum.

        Raises:
            WriteError: the file cannot be written; what was there before is untouched.
        """
        steps = [step for part in self._parts for step in self._segment(part).steps]
        _write(Path(path), Segment(self.plan, steps))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RecordedFlow:
        """Opens what `save` wrote, or the folder that a flow recorded to, whose parts are read as they are needed.

        Raises:
            FileError: missing, damaged, truncated, of another kind or version, or parts of different recordings.
        """
        path = Path(path)
        if not path.is_dir():
            tensors, meta = load_tensors(path, _FORMAT)
            plan = _plan(path, meta)
            return cls(plan, [_made(path, plan, tensors)])
        files = sorted(path.glob("[0-9]*.safetensors"))
        if not files or [f.stem for f in files] != [f"{k:04d}" for k in range(1, len(files) + 1)]:
            raise FileError(f"{path}: no recording, or parts are missing: 0001.safetensors, 0002.safetensors, … are needed")
        before = ""
        for file in files:
            meta, checksum = load_header(file, _FORMAT)
            if meta.get("after") != before:
                raise FileError(f"{file}: belongs to another recording than the part before it")
            before = checksum
        return cls(_plan(files[0], load_header(files[0], _FORMAT)[0]), files)


class Recorder:
    """A recording that is being made, in memory or in a folder, where it grows.

    Args:
        plan: what all steps have in common.
        folder: an empty or new one, or None for memory.

    Raises:
        RunError: the folder is not empty.
    """

    def __init__(self, plan: Plan, folder: Path | None = None) -> None:
        self.plan, self._folder, self._files, self._after = plan, folder, list[Path](), ""
        if folder is not None:
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise RunError(f"{folder}: exists and is not an empty folder; choose another for the recording")
            folder.mkdir(parents=True, exist_ok=True)
        self.segment = Segment(plan)
        self._size = 0

    def add(self, step: Step) -> None:
        self.segment.steps.append(step)
        self._size += step.nbytes
        if self._folder is not None and self._size >= _SEGMENT:
            self.flush()

    def flush(self) -> None:
        """What is in memory goes to the folder, if there is one."""
        if self._folder is None or not self.segment.steps:
            return
        file = self._folder / f"{len(self._files) + 1:04d}.safetensors"
        self._after = _write(file, self.segment, self._after)
        self._files.append(file)
        self.segment, self._size = Segment(self.plan), 0

    def recorded(self) -> RecordedFlow:
        self.flush()
        return RecordedFlow(self.plan, self._files if self._folder is not None else [self.segment])


def _shifted(progress: ProgressCallback | None, done: int, total: int) -> ProgressCallback | None:
    """A callback for steps that come after others."""
    return None if progress is None else lambda at: progress(Progress("steps", done + at.done, total))


def _write(path: Path, segment: Segment, after: str = "") -> str:
    return save_tensors(path, _FORMAT, segment.tensors(), {**segment.plan.said(), "after": after})


def _read(path: Path, plan: Plan) -> Segment:
    tensors, meta = load_tensors(path, _FORMAT)
    if _plan(path, meta) != plan:
        raise FileError(f"{path}: belongs to another recording: its slices or bounds are other ones")
    return _made(path, plan, tensors)


def _plan(path: Path, meta: Json) -> Plan:
    try:
        return Plan.heard(meta)
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path}: damaged: what it says of its slices is not readable ({error})") from None


def _made(path: Path, plan: Plan, tensors: dict[str, Tensor]) -> Segment:
    try:
        return Segment.of(plan, tensors)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise FileError(f"{path}: damaged: its tables do not fit what it says of them ({error})") from None
