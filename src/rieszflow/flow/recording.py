"""Recordings of flows, which new points can follow: a generative model without a network.

A step of a flow moves a particle by a sum of functions of its projections, 2(G − F) on every slice. With these functions, and
without particles and target, any number of new points that start like the particles end like them.

References:
    Liutkus et al., Sliced-Wasserstein Flows, ICML 2019, and Dai and Seljak, Sliced Iterative Normalizing Flows, ICML 2021,
    replay transport maps of slices in this way. We know of no reference for flows of the MMD.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.files import Format, Json, as_file_error, load_header, load_tensors, save_tensors, tensor_shapes
from rieszflow._infra.validate import points, positive_int
from rieszflow._types import PointsT, Progress, ProgressCallback
from rieszflow.errors import FileError, InputError, RunError
from rieszflow.flow.segments import Plan, Segment, Step, replay

_FORMAT, _END_FORMAT = Format("recorded flow", 1), Format("end of a recorded flow", 1)
_END = "end.safetensors"  # states how many parts a folder has
_PUSHED = 256_000_000  # bytes of points and velocities that are moved each time that the parts are read
_SEGMENT = 64_000_000  # bytes of a recording in memory before they are written to its folder


@dataclass(frozen=True)
class _Part:
    """A segment in a file, to be read when it is needed."""

    path: Path
    n_steps: int
    nbytes: int

    def __len__(self) -> int:
        return self.n_steps


class RecordedFlow:
    """A recording of a flow, which moves new points as the flow moved its particles.

    `ParticleFlow(..., record=True).recorded()` makes one, and `RecordedFlow.load` opens a file or folder.

    Attributes:
        plan: The settings that all steps share: dimension, kinds of slices, bins, bounds and constraint.

    Example:
        >>> import rieszflow as rf
        >>> g = torch.Generator().manual_seed(0)
        >>> y = torch.randn(3000, 2, generator=g) + 5
        >>> flow = rf.ParticleFlow(y, slices=16, momentum=0.5, record=True, seed=g)
        >>> x = flow.run(torch.rand(3000, 2, generator=g), steps=60)
        >>> z = flow.recorded().push(torch.rand(1000, 2, generator=g))
        >>> bool(rf.mmd2(z, y[:1000]) < 0.02)
        True
    """

    def __init__(self, plan: Plan, parts: Iterable[Segment | _Part]) -> None:
        self.plan, self._parts = plan, list(parts)

    def _load_segment(self, part: Segment | _Part) -> Segment:
        if isinstance(part, Segment):
            return part
        tensors, meta = load_tensors(part.path, _FORMAT)
        if _plan(part.path, meta) != self.plan:
            raise FileError(f"{part.path}: belongs to another recording, with other slices or bounds")
        return _read(part.path, self.plan, tensors)

    def __len__(self) -> int:
        """Return the number of steps, each on slices of one kind."""
        return sum(map(len, self._parts))

    @property
    def nbytes(self) -> int:
        """Size of the recording in bytes, in memory or on disk."""
        return sum(part.nbytes for part in self._parts)

    def push(self, z: PointsT, *, batch_size: int = 4000, progress: ProgressCallback | None = None) -> PointsT:
        """Move new points as the particles were moved.

        Args:
            z: Points (n, d) that start like the particles did, each with the part that is frozen; tensor on any device, or
                NumPy array. float64 is converted to float32, and the result back. Not changed.
            batch_size: Number of points that are moved at a time. They need twice their memory for every kind of slices, or
                256 MB if that is more.
            progress: Called with a `Progress` after every step.

        Returns:
            The points at the end of the flow, in the shape and dtype of z; an array if z is one.

        Raises:
            InputError, InputTypeError: Another dimension or dtype, NaN or infinity, or batch_size below 1.
            FileError: A part of the recording is missing or damaged.
        """
        start, batch_size = points("z", z).detach(), positive_int("batch_size", batch_size)
        if start.ndim != 2 or start.shape[1] != self.plan.d:
            raise InputError(f"`z` must have shape (n, {self.plan.d}), got {tuple(start.shape)}")
        done, total = itertools.count(1), len(self) * -(-len(start) // batch_size)

        def after_step() -> None:
            if progress is not None:
                progress(Progress("steps", next(done), total))

        size = batch_size * max(1, _PUSHED // (4 * self.plan.d * (1 + len(self.plan.kinds)) * batch_size))
        out = torch.empty_like(start)
        for first in range(0, len(start), size):
            batches = [x.float() for x in start[first : first + size].split(batch_size)]
            out[first : first + size] = torch.cat(replay(map(self._load_segment, self._parts), batches, after_step))
        if not torch.isfinite(out).all():
            raise InputError(
                "`z` must stay finite, got NaN or infinity; step sizes were too large, or z is far from the particles"
            )
        if self.plan.frozen is not None:
            out = self.plan.frozen.restore(out, start)  # exactly, in float64 too
        return out.numpy() if isinstance(z, np.ndarray) else out

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recording to one safetensors file, or raise WriteError and leave what was there before untouched."""
        steps = [step for part in self._parts for step in self._load_segment(part).steps]
        _write(Path(path), Segment(self.plan, steps), {"after": ""})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RecordedFlow:
        """Open a file that `save` wrote, or the folder that a flow recorded to, whose parts are read when they are needed.

        Raises:
            FileError: A file is missing, damaged, or of another kind or version; parts are of different recordings; a single
                part is given; or the folder lacks the file that `ParticleFlow.recorded` writes at the end.
        """
        path = Path(path)
        if not path.is_dir():
            tensors, meta = load_tensors(path, _FORMAT)
            if meta.get("after") != "" or "part" in meta:
                raise FileError(f"{path}: must be a whole recording, got one part; load its folder")
            plan = _plan(path, meta)
            return cls(plan, [_read(path, plan, tensors)])
        files = sorted(path.glob("[0-9]*.safetensors"))
        if not files or [f.stem for f in files] != [f"{k:04d}" for k in range(1, len(files) + 1)]:
            raise FileError(
                f"{path}: must contain 0001.safetensors, 0002.safetensors, …; this is no recording, or parts are missing"
            )
        after, parts = "", []
        for file in files:
            meta, checksum = load_header(file, _FORMAT)
            if meta.get("after") != after:
                raise FileError(f"{file}: belongs to another recording than the part before it")
            after = checksum
            parts.append(_Part(file, math.prod(tensor_shapes(file).get("kind", (0,))), file.stat().st_size))
        if not os.path.lexists(path / _END):
            raise FileError(f"{path}: {_END} is missing: ParticleFlow.recorded() was not called, or the file was lost")
        _, end = load_tensors(path / _END, _END_FORMAT)
        if (end.get("parts"), end.get("after")) != (len(files), after):
            raise FileError(f"{path}: must have the {end.get('parts')!r} parts that {_END} states, got {len(files)}")
        return cls(_plan(files[0], load_header(files[0], _FORMAT)[0]), parts)


class Recorder:
    """A recording in progress, in memory, or in a new or empty folder to which segments are written."""

    def __init__(self, plan: Plan, folder: Path | None = None) -> None:
        self.plan, self._folder, self._parts, self._after = plan, folder, list[_Part](), ""
        if folder is not None:
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise RunError(f"{folder}: exists and is not an empty folder; choose another for the recording")
            folder.mkdir(parents=True, exist_ok=True)
        self.segment, self._size = Segment(plan), 0
        self.end: tuple[Tensor, int] | None = None  # the particles after the last step, and their version

    def check_continues(self, x: Tensor) -> None:
        """Refuse particles other than those that the recorded steps led to, since new points could not follow both."""
        if self.end is None:
            return
        end, version = self.end
        fits = end.shape == x.shape and end.dtype == x.dtype and end.device == x.device and end._version == version
        same = fits and (x.data_ptr(), x.stride()) == (end.data_ptr(), end.stride())  # equal without waiting for a device
        if not same and not (fits and (torch.equal(x, end) or end.isnan().any())):
            raise InputError(
                "`x` must be the particles that the last step returned, because the flow is recorded, got others; make a "
                "new ParticleFlow for a new recording"
            )

    def add(self, step: Step) -> None:
        self.segment.steps.append(step)
        self._size += step.nbytes
        if self._folder is not None and self._size >= _SEGMENT and step.moves:
            self._flush(self._folder)

    def _flush(self, folder: Path) -> None:
        if self.segment.steps:
            number = len(self._parts) + 1
            file = folder / f"{number:04d}.safetensors"
            self._after = _write(file, self.segment, {"after": self._after, "part": number})
            self._parts.append(_Part(file, len(self.segment), file.stat().st_size))
            self.segment, self._size = Segment(self.plan), 0

    def recorded(self) -> RecordedFlow:
        """Return the recording so far. In a folder, its end is marked so that a part that is lost later is noticed."""
        if self._folder is None:
            return RecordedFlow(self.plan, [self.segment])
        self._flush(self._folder)
        save_tensors(self._folder / _END, _END_FORMAT, {}, {"parts": len(self._parts), "after": self._after})
        return RecordedFlow(self.plan, self._parts)


def _write(path: Path, segment: Segment, place: Json) -> str:
    return save_tensors(path, _FORMAT, segment.to_tensors(), {**segment.plan.to_dict(), **place})


def _plan(path: Path, meta: Json) -> Plan:
    with as_file_error(f"{path}: damaged: its settings cannot be read"):
        return Plan.from_dict(meta)


def _read(path: Path, plan: Plan, tensors: dict[str, Tensor]) -> Segment:
    with as_file_error(f"{path}: damaged: its tables do not fit its settings"):
        return Segment.from_tensors(plan, tensors)
