"""The part of a training that does not change, and the targets at the size of a level."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from rieszflow._infra import ranks
from rieszflow._infra.files import Json
from rieszflow._infra.ranks import Group
from rieszflow._types import Progress, ProgressCallback
from rieszflow.data import Dataset
from rieszflow.errors import RunError
from rieszflow.generative.condition import Condition, raw_conditions
from rieszflow.generative.config import Config
from rieszflow.generative.levels import Level, draw_latents, levels, pool, step_sizes
from rieszflow.generative.networks import build, check_memory
from rieszflow.generative.processes import Processes
from rieszflow.generative.run import Run, StageMetrics

__all__ = ["WATCHED", "Context", "DrawCallback", "LevelData", "Pictures", "checked_levels", "level_data", "prepare"]

WATCHED = 2000  # points in the energy distances of metrics.jsonl, and fresh samples followed through the stages


@dataclass(frozen=True)
class Pictures:
    """Points to draw after a stage, in [0, 1] and in the full size of the data.

    Attributes:
        particles: (n, d), after the flow.
        samples: (n, d), from fresh latents.
        path: (stages, n, d), some of those samples from their latents on.
        rows: the lines of metrics.jsonl so far.
        labels: (n,), the labels that the samples were asked to have; None without.
        known: (n, d), the known part of the samples, zero elsewhere; None without.
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
    """Data, settings and processes of a training.

    Attributes:
        schedule: T_1, …, T_L.
        here: this process among those that train the run.
        targets: (M, d) at full size, on the CPU.
        held_out: (n, d) at full size, on the CPU, for the metrics.
        held_out_digest: a checksum of them.
        random_state: of the random source after the targets were chosen.
        conditions: values of the condition for the particles, then for the fresh samples; None without a condition.
        custom: the user's own network; None for a network of `Config.network`.
        progress, draw: the user's callbacks, on the first process only.
    """

    run: Run
    levels: Sequence[Level]
    schedule: Sequence[int]
    here: Processes
    targets: Tensor
    held_out: Tensor
    held_out_digest: str
    random_state: Tensor
    conditions: Tensor | None
    custom: nn.Module | None
    progress: ProgressCallback | None
    draw: DrawCallback | None

    @property
    def config(self) -> Config:
        return self.run.config

    @property
    def device(self) -> torch.device:
        return self.here.device

    @property
    def group(self) -> Group:
        return self.here.group

    @property
    def last(self) -> int:
        """L, the number of the last stage."""
        return self.levels[-1].last

    @property
    def condition(self) -> Condition:
        return self.levels[0].condition

    def report(self, progress: Progress) -> None:
        if self.progress is not None:
            self.progress(progress)


def checked_levels(config: Config, data: Json, custom: nn.Module | None) -> list[Level]:
    """Return the levels of a training on described data, after checking that settings, data and memory fit together.

    Raises:
        ConfigError: the settings do not fit the data or the machine.
    """
    shape = tuple(data["shape"])
    condition = Condition.from_config(config, shape, data.get("condition"))
    found, device = levels(config, shape, condition), config.torch_device()
    for level in found:
        check_memory(level.config, level.shape, device, training=True)
        if config.model == "networks":
            build(level.config, level.shape, custom, condition)
        draw_latents(level.config, level.shape, 1, torch.Generator())
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
    """Return the context of a run's training on data.

    Raises:
        RunError: there are more processes than particles.
    """
    config, condition = run.config, levels[0].condition
    if here.number > config.particles:
        raise RunError(f"`particles` must be at least the number of processes, {here.number}, got {config.particles}")
    generator = torch.Generator().manual_seed(config.seed)
    train, held_out = data.train.flatten(1), data.held_out.flatten(1)[:WATCHED]
    known, known_held_out = raw_conditions(config, data)
    order = torch.arange(len(train)) if config.paper.first_targets else torch.randperm(len(train), generator=generator)
    targets = order[: config.targets]
    held_out = condition.join(None if known_held_out is None else known_held_out[:WATCHED], held_out)
    conditions = None
    if known is not None:
        # Conditions of data that are not targets, as far as there are enough: a particle with the condition of a target would
        # move to that very target, and the pair would be memorised.
        conditions = known[order[(len(targets) + torch.arange(config.particles + WATCHED)) % len(order)]]
    return Context(
        run=run,
        levels=levels,
        schedule=config.flow_steps(),
        here=here,
        targets=condition.join(None if known is None else known[targets], train[targets]),
        held_out=held_out,
        held_out_digest=hashlib.blake2b(held_out.contiguous().numpy().tobytes(), digest_size=16).hexdigest(),
        random_state=generator.get_state(),
        conditions=conditions,
        custom=copy.deepcopy(custom),
        progress=progress if here.main else None,
        draw=draw if here.main else None,
    )


@dataclass(frozen=True)
class LevelData:
    """The targets at the size of a level, on the device."""

    level: Level
    targets: Tensor  # (m, d), this process's part
    watched: Tensor  # (n, d), some of all targets, for the metrics
    held_out: Tensor  # (n, d), for the metrics
    step_sizes: tuple[float, ...]  # τ for each kind of slices


def level_data(context: Context, stage: int) -> LevelData:
    """Return the data of the level of a stage; of the last level after the last stage."""
    level = next((level for level in context.levels if stage <= level.last), context.levels[-1])
    targets, held_out = (
        pool(t, context.run.shape, level.factor, level.condition.leading).to(context.device)
        for t in (context.targets, context.held_out)
    )
    watched = targets[:WATCHED]
    return LevelData(level, ranks.shard(targets, context.group), watched, held_out, step_sizes(level, watched))
