"""A training: what stays constant (`Context`), and what changes and is saved in checkpoints (`State`).

A stage has two phases: particles flow, and then, unless the flow is recorded, a network is fitted to their displacements.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from rieszflow._infra import ranks
from rieszflow._infra.files import Json, below, prefixed
from rieszflow._types import ProgressCallback
from rieszflow.data import Dataset
from rieszflow.errors import ConfigError, RunError
from rieszflow.flow import ParticleFlow
from rieszflow.flow.segments import Segment
from rieszflow.generative.condition import Condition, raw_conditions
from rieszflow.generative.config import Config
from rieszflow.generative.latents import load_whitening
from rieszflow.generative.levels import Level, levels, pool, step_sizes
from rieszflow.generative.networks import Displacement, build, check_memory
from rieszflow.generative.processes import Processes
from rieszflow.generative.run import Run, StageMetrics
from rieszflow.generative.vectors import Whitening, groups_of
from rieszflow.target import InterpolatedPoints

PhaseName: TypeAlias = Literal["flow", "fit"]
Tensors: TypeAlias = dict[str, Tensor]

WATCHED = 2000  # points in the energy distances of metrics.jsonl; also the number of fresh samples


@dataclass(frozen=True)
class Pictures:
    """Points to draw after a stage, scaled to [0, 1] and at the full size of the data.

    Attributes:
        particles: (n, d), after the flow.
        samples: (n, d), from fresh latents.
        path: (stages, n, d), some of those samples after every stage, starting with their latents.
        rows: The lines of metrics.jsonl so far.
        labels: (n,), the labels requested for the samples; None without such a condition.
        known: (n, d), the known part of the samples, zero elsewhere; None without such a condition.
    """

    particles: Tensor
    samples: Tensor
    path: Tensor
    rows: Sequence[StageMetrics]
    labels: Tensor | None = None
    known: Tensor | None = None


DrawCallback: TypeAlias = Callable[[Run, Pictures], object]
"""Called with the run and its `Pictures` after every stage."""


@dataclass(frozen=True)
class Context:
    """Data, settings and processes of a training."""

    run: Run
    levels: Sequence[Level]
    schedule: Sequence[int]  # T_1, …, T_L
    here: Processes
    targets: Tensor  # (M, d) at full size, on the CPU, whitened
    held_out: Tensor  # (n, d) at full size, on the CPU, for the metrics; the validation data if there are any
    whitening: Whitening | None
    held_out_digest: str  # a checksum of `held_out`
    random_state: Tensor  # of the data generator after the targets were chosen
    particles: int  # the number of particles, of all processes
    watched: Tensor  # rows of the particles in the metrics, with labels as frequent as in the data
    conditions: Tensor | None  # of the particles, then of the fresh samples
    custom: nn.Module | None  # the user's own network
    report: ProgressCallback
    draw: DrawCallback | None

    @property
    def config(self) -> Config:
        return self.run.config

    @property
    def last(self) -> int:
        """L, the number of the last stage."""
        return self.levels[-1].last

    @property
    def condition(self) -> Condition:
        return self.levels[0].condition

    def unwhitened(self, points: Tensor) -> Tensor:
        """Return points (n, k + d), or the same for every stage (stages, n, k + d), in the units of the training."""
        if self.whitening is None:
            return points
        return self.whitening.to(points.device).inverse(points.flatten(0, -2)).view(points.shape)


def checked_levels(config: Config, data: Json, custom: nn.Module | None) -> list[Level]:
    """Return the resolution levels of a training; raise ConfigError if settings, data and memory do not fit together."""
    shape, device = tuple(data["shape"]), config.torch_device()
    condition = Condition.from_config(config, shape, data.get("condition"))
    found = levels(config, shape, condition)
    for level in found:
        check_memory(level.config, level.shape, device, training=True)
        if config.model == "networks":
            build(level.config, level.shape, custom, condition)
    return found


def prepare(
    run: Run,
    data: Dataset,
    levels: Sequence[Level],
    custom: nn.Module | None,
    here: Processes,
    progress: ProgressCallback | None = None,
    draw: DrawCallback | None = None,
) -> Context:
    """Return the context of a run's training on data."""
    config, condition = run.config, levels[0].condition
    if here.number > config.particles:
        raise RunError(f"`particles` must be at least the number of processes, {here.number}, got {config.particles}")
    if here.number > 1 and (config.neighbours or config.flow_per_label):
        raise RunError("flows with `neighbours` or `flow_per_label` are trained by a single process")
    generator = torch.Generator().manual_seed(config.seed)
    train, held_out = data.train.flatten(1), data.held_out.flatten(1)[:WATCHED]
    known, known_held_out = raw_conditions(config, data)
    order = torch.arange(len(train)) if config.paper.first_targets else torch.randperm(len(train), generator=generator)
    if config.validation:
        size = config.validation_size(len(train))
        if not 2 <= size <= len(train) - 2:
            raise ConfigError(f"`validation` must leave 2 of {len(train)} data on both sides, got {config.validation}")
        order, validation = order[:-size], order[-size:]
        held_out, known_held_out = train[validation], None if known is None else known[validation]
    targets = order[: config.targets]
    held_out = condition.comparable(condition.join(None if known_held_out is None else known_held_out[:WATCHED], held_out))
    points, whitening = condition.join(None if known is None else known[targets], train[targets]), None
    if config.latents == "gaussian":
        groups = groups_of(points, condition.labels)
        if min(len(points[rows]) for rows in groups) == 0:
            raise ConfigError("`validation` and `targets` must leave every label a target")
        saved = run.network_file(0).is_file()  # on another machine, a new fit would differ in the last bits
        whitening = load_whitening(run, condition) if saved else None
        whitening = whitening or Whitening.fit(condition.data(points), config.whitening, groups)
        points = whitening.transform(points)
    conditions = None
    if known is not None:
        # Take conditions of data that are not targets, as far as possible: a particle with the condition of a target would move
        # to that very target, and the pair would be memorised.
        drawn = known[order[(len(targets) + torch.arange(config.particles + WATCHED)) % len(order)]]
        conditions = condition.for_training(config.particles, drawn, WATCHED)
    particles, watched = config.particles, torch.arange(min(WATCHED, config.particles))
    if condition.labels > 1 and conditions is not None:
        particles = len(conditions) - WATCHED
        label, each = condition.encode(conditions[particles:])[:, 0].long(), particles // condition.labels
        watched = label * each + (torch.arange(WATCHED) - torch.searchsorted(label, label)) % each
    return Context(
        run=run, levels=levels, schedule=config.flow_steps(), here=here,
        targets=points, whitening=whitening, particles=particles, watched=watched,
        held_out=held_out, held_out_digest=hashlib.blake2b(held_out.contiguous().numpy().tobytes(), digest_size=16).hexdigest(),
        random_state=generator.get_state(), conditions=conditions, custom=copy.deepcopy(custom),
        report=progress if progress and here.main else lambda _: None, draw=draw if here.main else None,
    )  # fmt: skip


@dataclass(frozen=True)
class LevelData:
    """The targets at the size of a level, on the device."""

    level: Level
    targets: Tensor | InterpolatedPoints  # (m, d), this process's part
    watched: Tensor  # (n, d), some of all targets, for the metrics
    held_out: Tensor  # (n, d), for the metrics
    step_sizes: tuple[float, ...]  # τ for each kind of slices


def level_data(context: Context, stage: int) -> LevelData:
    """Return the data of the level of a stage; of the last level after the last stage."""
    level, here = next((level for level in context.levels if stage <= level.last), context.levels[-1]), context.here
    targets, held_out = (
        pool(t, context.run.shape, level.factor, level.condition.leading).to(here.device)
        for t in (context.targets, context.held_out)
    )
    watched, constraint = targets[:WATCHED], level.condition.constraint or 0
    k = context.config.neighbours if len(targets) <= context.config.particles else 0
    found = InterpolatedPoints(targets, k, constraint, context.config.seed) if k else ranks.shard(targets, here.group)
    return LevelData(level, found, watched, held_out, step_sizes(level, watched))


@dataclass
class FlowPhase:
    """Particles are moving along a flow, which may record its steps."""

    name: ClassVar[PhaseName] = "flow"
    loss: ClassVar[None] = None
    flow: ParticleFlow

    def to_tensors(self) -> Tensors:
        recorded = {} if self.flow.recorder is None else self.flow.recorder.segment.to_tensors()
        return prefixed("target", self.flow.state()) | prefixed("recorded", recorded)

    def load_tensors(self, tensors: Tensors) -> None:
        self.flow.load_state(below("target", tensors))
        if self.flow.recorder is not None:
            self.flow.recorder.segment = Segment.from_tensors(self.flow.recorder.plan, below("recorded", tensors))


@dataclass
class FitPhase:
    """A network is being fitted."""

    name: ClassVar[PhaseName] = "fit"
    phi: Displacement  # Φ_l, which learns
    average: Displacement  # the result: the moving average of its weights
    optimiser: torch.optim.Optimizer
    random_state: Tensor  # of torch's default generator, which dropout draws from, after the last step
    model: nn.Module  # `phi`, or a wrapper that averages its gradients over all processes
    generator: torch.Generator  # draws the batches
    loss: float | None = None  # normalised, of the last step

    def to_tensors(self) -> Tensors:
        slots = self.optimiser.state_dict()["state"]
        adam = {f"{number}.{key}": t for number, slot in slots.items() for key, t in slot.items()}
        networks = prefixed("phi", self.phi.state_dict()) | prefixed("average", self.average.state_dict())
        return networks | prefixed("adam", adam) | {"random.fit": self.random_state}

    def load_tensors(self, tensors: Tensors) -> None:
        self.phi.load_state_dict(below("phi", tensors))
        self.average.load_state_dict(below("average", tensors))
        slots: dict[int, Tensors] = {}
        for name, t in below("adam", tensors).items():
            number, key = name.split(".")
            slots.setdefault(int(number), {})[key] = t
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": slots})
        self.random_state = tensors["random.fit"]


@dataclass
class State:
    """The changing part of a training. The functions that advance a training change it in place."""

    stage: int  # l, from 1; L + 1 at the end
    phase: FlowPhase | FitPhase
    step: int  # number of steps done in this phase
    data: LevelData  # follows from `stage`, so checkpoints do not contain it
    data_rng: torch.Generator  # draws all random numbers that do not depend on the device
    slice_rng: torch.Generator  # draws slices, on the device
    scaler: torch.amp.GradScaler
    x: Tensor = field(init=False)  # (n, d), this process's particles
    x_old: Tensor = field(init=False)  # (n, d), particles before this stage's flow; empty in a recording
    velocities: list[Tensor | None] = field(init=False)  # v for each kind of slices, (n, d); None before its first step
    fresh: Tensor = field(init=False)  # (n, d), samples from latents that were never particles, after the last stage
    fresh_velocities: list[Tensor | None] = field(init=False)  # in a recording; None before the level's first step
    path: Tensor = field(init=False)  # (stages, n, d), some of the fresh samples after every stage
    step_factor: float | None = None  # of τ, chosen by validation data, which end the training with 0; None without them
    init_weights: Tensors = field(default_factory=dict)  # of each level's first network, if it is the user's own
    saved: float = field(default_factory=time.perf_counter)  # when the last checkpoint was written
    # Time spent in flows, in fits, and after them on metrics, pictures and checkpoints.
    seconds: dict[str, float] = field(default_factory=lambda: {"flow": 0.0, "fit": 0.0, "finish": 0.0})
    rows: list[StageMetrics] = field(default_factory=list)  # of metrics.jsonl

    def __post_init__(self) -> None:
        self.rest()

    def rest(self) -> None:
        """Set all velocities to zero."""
        self.velocities = [None] * len(self.data.step_sizes)
        self.fresh_velocities = [None] * len(self.data.step_sizes)

    def header(self) -> Json:
        """Return the JSON-able part of a checkpoint."""
        return {
            "stage": self.stage, "phase": self.phase.name, "step": self.step, "step_factor": self.step_factor,
            "seconds": self.seconds, "rows": [row.to_dict() for row in self.rows],
        }  # fmt: skip

    def to_tensors(self, here: Processes) -> Tensors:
        """Return the tensors of a checkpoint, with the particles of all processes. All processes must make this call."""
        sharded = {"x": self.x, "x_old": self.x_old, **_numbered("velocity", self.velocities)}
        tensors = {name: ranks.all_gather_rows(t, here.group) for name, t in sharded.items()}
        tensors |= {"fresh": self.fresh, "path": self.path, **_numbered("fresh_velocity", self.fresh_velocities)}
        tensors |= {"random.data": self.data_rng.get_state(), "random.slices": self.slice_rng.get_state()}
        scale = {key: torch.tensor(number, dtype=torch.float64) for key, number in self.scaler.state_dict().items()}
        return tensors | prefixed("scaler", scale) | prefixed("init", self.init_weights) | self.phase.to_tensors()

    def load_tensors(self, tensors: Tensors, here: Processes) -> None:
        """Restore the output of `to_tensors`, for any number of processes."""
        self.fresh, self.path = (tensors[name].to(here.device) for name in ("fresh", "path"))
        self.x, self.x_old = (ranks.shard(tensors[name].to(here.device), here.group) for name in ("x", "x_old"))
        velocities = [tensors.get(f"velocity.{k}") for k in range(len(self.velocities))]
        self.velocities = [None if v is None else ranks.shard(v.to(here.device), here.group) for v in velocities]
        velocities = [tensors.get(f"fresh_velocity.{k}") for k in range(len(self.fresh_velocities))]
        self.fresh_velocities = [None if v is None else v.to(here.device) for v in velocities]
        self.data_rng.set_state(tensors["random.data"])
        self.slice_rng.set_state(tensors["random.slices"])
        self.init_weights = below("init", tensors)
        scale, saved = self.scaler.state_dict(), below("scaler", tensors)
        if scale and saved:  # the precision may have been changed since
            self.scaler.load_state_dict({key: type(scale[key])(t.item()) for key, t in saved.items()})
        self.phase.load_tensors(tensors)


def _numbered(name: str, tensors: Sequence[Tensor | None]) -> Tensors:
    return {f"{name}.{k}": t for k, t in enumerate(tensors) if t is not None}
