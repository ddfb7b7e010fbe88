"""The part of a training that changes, and its form in a checkpoint.

A stage has two phases: particles flow, and then, unless the flow is recorded, a network is fitted to where they went.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from rieszflow._infra import ranks
from rieszflow._infra.files import Json
from rieszflow.flow import ParticleFlow
from rieszflow.flow.segments import Segment
from rieszflow.generative.context import LevelData
from rieszflow.generative.networks import Displacement
from rieszflow.generative.processes import Processes
from rieszflow.generative.run import StageMetrics

__all__ = ["FitPhase", "FlowPhase", "PhaseName", "State"]

PhaseName: TypeAlias = Literal["flow", "fit"]
Tensors: TypeAlias = dict[str, Tensor]


@dataclass
class FlowPhase:
    """Particles are moving along a flow, which may record its steps."""

    name: ClassVar[PhaseName] = "flow"
    flow: ParticleFlow

    def to_tensors(self) -> Tensors:
        recorded = {} if self.flow.recorder is None else self.flow.recorder.segment.to_tensors()
        return _prefixed("target", self.flow.state()) | _prefixed("recorded", recorded)

    def load_tensors(self, tensors: Tensors) -> None:
        self.flow.load_state(_below("target", tensors))
        if self.flow.recorder is not None:
            self.flow.recorder.segment = Segment.from_tensors(self.flow.recorder.plan, _below("recorded", tensors))


@dataclass
class FitPhase:
    """A network is being fitted.

    Attributes:
        phi: Φ_l, which learns.
        average: the moving average of its weights, which is the result.
        random_state: of torch's default generator, which dropout draws from; as of the last checkpoint.
        model: `phi`, or a wrapper that averages its gradients over all processes.
        generator: draws the batches.
        loss: normalised loss of the last step; None before the first.
    """

    name: ClassVar[PhaseName] = "fit"
    phi: Displacement
    average: Displacement
    optimiser: torch.optim.Optimizer
    random_state: Tensor
    model: nn.Module
    generator: torch.Generator
    loss: float | None = None

    def to_tensors(self) -> Tensors:
        slots = self.optimiser.state_dict()["state"]
        adam = {f"{number}.{key}": t for number, slot in slots.items() for key, t in slot.items()}
        networks = _prefixed("phi", self.phi.state_dict()) | _prefixed("average", self.average.state_dict())
        return networks | _prefixed("adam", adam) | {"random.fit": self.random_state}

    def load_tensors(self, tensors: Tensors) -> None:
        self.phi.load_state_dict(_below("phi", tensors))
        self.average.load_state_dict(_below("average", tensors))
        slots: dict[int, Tensors] = {}
        for name, t in _below("adam", tensors).items():
            number, key = name.split(".")
            slots.setdefault(int(number), {})[key] = t
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": slots})
        self.random_state = tensors["random.fit"]


@dataclass
class State:
    """All that changes during a training. The functions that advance a training change it in place.

    Attributes:
        stage: l, from 1; L + 1 at the end.
        step: number of steps done in this phase.
        data: targets at the size of the stage's level. They follow from `stage`, so checkpoints do not contain them.
        data_rng: generator of all random numbers that do not depend on the device.
        slice_rng: generator of slices, on the device.
        x: this process's particles (n, d).
        x_old: particles before this stage's flow (n, d); empty in a recording.
        velocities: v for each kind of slices, (n, d); None before its first step.
        fresh: samples that never were particles (n, d), after the last stage.
        fresh_velocities: their velocities in a recording; None before the level's first step.
        path: some of them after every stage, (stages, n, d).
        init_weights: initial weights of each level's first network if it is the user's own; otherwise empty.
        seconds: time spent in flows, in fits, and after them on metrics, pictures and checkpoints.
        rows: the lines of metrics.jsonl.
    """

    stage: int
    phase: FlowPhase | FitPhase
    step: int
    data: LevelData
    data_rng: torch.Generator
    slice_rng: torch.Generator
    scaler: torch.amp.GradScaler
    x: Tensor
    x_old: Tensor
    velocities: list[Tensor | None]
    fresh: Tensor
    fresh_velocities: list[Tensor | None]
    path: Tensor
    init_weights: Tensors = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"flow": 0.0, "fit": 0.0, "finish": 0.0})
    rows: list[StageMetrics] = field(default_factory=list)

    def header(self) -> Json:
        """Return the JSON-able part of a checkpoint."""
        rows = [row.to_dict() for row in self.rows]
        return {"stage": self.stage, "phase": self.phase.name, "step": self.step, "seconds": self.seconds, "rows": rows}

    def to_tensors(self, here: Processes) -> Tensors:
        """Return the tensors of a checkpoint, with the particles of all processes. All processes must make this call."""
        sharded = {"x": self.x, "x_old": self.x_old, **_numbered("velocity", self.velocities)}
        tensors = {name: ranks.all_gather_rows(t, here.group) for name, t in sharded.items()}
        tensors |= {"fresh": self.fresh, "path": self.path, **_numbered("fresh_velocity", self.fresh_velocities)}
        tensors |= {"random.data": self.data_rng.get_state(), "random.slices": self.slice_rng.get_state()}
        scale = {key: torch.tensor(number, dtype=torch.float64) for key, number in self.scaler.state_dict().items()}
        return tensors | _prefixed("scaler", scale) | _prefixed("init", self.init_weights) | self.phase.to_tensors()

    def load_tensors(self, tensors: Tensors, here: Processes) -> None:
        """Restore the output of `to_tensors`, for any number of processes.

        Raises:
            KeyError, RuntimeError, ValueError: the tensors do not fit this state.
        """
        self.fresh, self.path = (tensors[name].to(here.device) for name in ("fresh", "path"))
        self.x, self.x_old = (ranks.shard(tensors[name].to(here.device), here.group) for name in ("x", "x_old"))
        velocities = [tensors.get(f"velocity.{k}") for k in range(len(self.velocities))]
        self.velocities = [None if v is None else ranks.shard(v.to(here.device), here.group) for v in velocities]
        velocities = [tensors.get(f"fresh_velocity.{k}") for k in range(len(self.fresh_velocities))]
        self.fresh_velocities = [None if v is None else v.to(here.device) for v in velocities]
        self.data_rng.set_state(tensors["random.data"])
        self.slice_rng.set_state(tensors["random.slices"])
        self.init_weights = _below("init", tensors)
        scale, saved = self.scaler.state_dict(), _below("scaler", tensors)
        if scale and saved:  # the precision may have been changed since
            self.scaler.load_state_dict({key: type(scale[key])(t.item()) for key, t in saved.items()})
        self.phase.load_tensors(tensors)


def _numbered(name: str, tensors: Sequence[Tensor | None]) -> Tensors:
    return {f"{name}.{k}": t for k, t in enumerate(tensors) if t is not None}


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    return {f"{prefix}.{name}": t for name, t in tensors.items()}


def _below(prefix: str, tensors: Tensors) -> Tensors:
    """Return the tensors whose names have a prefix, by the rest of their names."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
