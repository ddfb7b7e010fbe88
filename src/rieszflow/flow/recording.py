"""What the steps of a flow did, and the same done to new points: a generative model without a network.

A step of a flow moves a particle by a sum of functions of its projections, 2(G − F) on every slice. Once these functions are
written down, neither the particles nor the target are needed any more: new points follow them. Points that start like the
particles end as the particles do, and there may be any number of them.

Liutkus et al., Sliced-Wasserstein Flows (ICML 2019), and Dai and Seljak, Sliced Iterative Normalizing Flows (ICML 2021), replay
transport maps of slices in this way. For flows of the MMD we know of no source.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.files import Format, Json, load_header, load_tensors, save_tensors
from rieszflow._infra.text import one_line
from rieszflow._types import PointsT, Progress, ProgressCallback
from rieszflow.errors import FileError, InputError, RunError
from rieszflow.flow.segments import Plan, Segment, Step

__all__ = ["Plan", "RecordedFlow", "Recorder", "Segment", "Step"]

_FORMAT, _END_FORMAT = Format("recorded flow", 1), Format("end of a recorded flow", 1)
_END = "end.safetensors"  # says how many parts a folder has
_PUSHED = 256_000_000  # bytes of points and velocities moved by a part of a recording each time that it is read
_SEGMENT = 64_000_000  # bytes of a recording in memory before they go to its folder


class RecordedFlow:
    """A flow that was recorded: it moves new points as it moved its particles, without them and without the target.

    `ParticleFlow(..., record=True).recorded()` makes one, `RecordedFlow.load` opens a file or folder.

    Attributes:
        plan: what all steps have in common: dimension, kinds of slices, bins, bounds, what is frozen.

    Example:
        >>> import rieszflow as rf
        >>> g = torch.Generator().manual_seed(0)
        >>> y = torch.randn(3000, 2, generator=g) + 5
        >>> flow = rf.ParticleFlow(y, slices=16, momentum=0.5, record=True, seed=g)
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
            batch_size: points at a time. They need twice their memory for every kind of slices, or 256 MB if that is more.
            progress: called with a `Progress` after every step.

        Returns:
            Where they end, in the shape and dtype of z. An array if z is one.

        Raises:
            InputError (a ValueError): another dimension, NaN or infinity, batch_size below 1.
            InputTypeError (a TypeError): a wrong type or dtype.
            FileError: a part of the recording is missing or damaged.
        """
        points, batch_size = validate.points("z", z), validate.positive_int("batch_size", batch_size)
        if points.ndim != 2 or points.shape[1] != self.plan.d:
            raise InputError(f"z: shape {tuple(points.shape)} given; (n, {self.plan.d}) is accepted")
        out, done = torch.empty_like(points), 0
        size = self._together(batch_size)
        for first in range(0, len(points), size):
            batches = [(x.float(), Segment(self.plan).rest()) for x in points.detach()[first : first + size].split(batch_size)]
            for part in self._parts:  # each part is read once for many batches
                segment = self._segment(part)
                for k, (x, velocities) in enumerate(batches):
                    shifted = _shifted(progress, done, len(self) * -(-len(points) // batch_size))
                    batches[k] = segment.push(x, velocities, shifted)
                    done += len(segment.steps)
            out[first : first + size] = torch.cat([x for x, _ in batches])
        if not torch.isfinite(out).all():
            raise InputError(
                "`z` must stay finite, got NaN or infinity; step sizes were too large, or z is far from the particles"
            )
        if self.plan.frozen is not None:
            out = self.plan.frozen.restore(out, points.detach())  # as it was given, in float64 too
        return out.numpy() if isinstance(z, np.ndarray) else out

    def _together(self, batch_size: int) -> int:
        """Return the number of points, in whole batches, that each part moves before the next part is read."""
        size = 4 * self.plan.d * (1 + len(self.plan.kinds)) * batch_size
        return batch_size * max(1, _PUSHED // size)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one file of safetensors, with version and checksum.

        Raises:
            WriteError: the file cannot be written; what was there before is untouched.
        """
        steps = [step for part in self._parts for step in self._segment(part).steps]
        _write(Path(path), Segment(self.plan, steps), {"after": ""})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RecordedFlow:
        """Opens what `save` wrote, or the folder that a flow recorded to, whose parts are read as they are needed.

        Raises:
            FileError: a file is missing, damaged, truncated, or of another kind or version; parts are of different recordings;
                a single part is given; or the folder lacks the mark that `ParticleFlow.recorded` writes at the end.
        """
        path = Path(path)
        if not path.is_dir():
            tensors, meta = load_tensors(path, _FORMAT)
            if meta.get("after") != "" or "part" in meta:
                raise FileError(f"{path}: must be a whole recording, got one part; load its folder")
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
        if not os.path.lexists(path / _END):
            raise FileError(f"{path}: {_END} is missing: ParticleFlow.recorded() was not called, or the file was lost")
        _, end = load_tensors(path / _END, _END_FORMAT)
        if (end.get("parts"), end.get("after")) != (len(files), before):
            raise FileError(f"{path}: must have the {end.get('parts')!r} parts that {_END} states, got {len(files)}")
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
        if self._folder is not None and self._size >= _SEGMENT and step.moves:
            self.flush()

    def flush(self) -> None:
        """What is in memory goes to the folder, if there is one."""
        if self._folder is None or not self.segment.steps:
            return
        number = len(self._files) + 1
        file = self._folder / f"{number:04d}.safetensors"
        self._after = _write(file, self.segment, {"after": self._after, "part": number})
        self._files.append(file)
        self.segment, self._size = Segment(self.plan), 0

    def recorded(self) -> RecordedFlow:
        """Return the recording so far. In a folder its end is marked, so that a part that is lost later is noticed."""
        if self._folder is None:
            return RecordedFlow(self.plan, [self.segment])
        self.flush()
        save_tensors(self._folder / _END, _END_FORMAT, {}, {"parts": len(self._files), "after": self._after})
        return RecordedFlow(self.plan, self._files)


def _shifted(progress: ProgressCallback | None, done: int, total: int) -> ProgressCallback | None:
    """A callback for steps that come after others."""
    return None if progress is None else lambda at: progress(Progress("steps", done + at.done, total))


def _write(path: Path, segment: Segment, place: Json) -> str:
    return save_tensors(path, _FORMAT, segment.tensors(), {**segment.plan.said(), **place})


def _read(path: Path, plan: Plan) -> Segment:
    tensors, meta = load_tensors(path, _FORMAT)
    if _plan(path, meta) != plan:
        raise FileError(f"{path}: belongs to another recording: its slices or bounds are other ones")
    return _made(path, plan, tensors)


def _plan(path: Path, meta: Json) -> Plan:
    try:
        return Plan.heard(meta)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise FileError(f"{path}: damaged: its settings cannot be read ({one_line(error)})") from None


def _made(path: Path, plan: Plan, tensors: dict[str, Tensor]) -> Segment:
    try:
        return Segment.of(plan, tensors)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise FileError(f"{path}: damaged: its tables do not fit its settings ({one_line(error)})") from None
