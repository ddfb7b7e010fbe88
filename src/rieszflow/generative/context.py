"""What does not change during a training: its run, data, processes and callbacks; and the targets as a level sees them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from rieszflow._infra import ranks
from rieszflow._infra.ranks import Group
from rieszflow._types import Progress, ProgressCallback
from rieszflow.data import Dataset
from rieszflow.errors import RunError
from rieszflow.generative.condition import Condition, raw_conditions
from rieszflow.generative.config import Config
from rieszflow.generative.processes import Processes
from rieszflow.generative.pyramid import Level, levels, shrink
from rieszflow.generative.run import Run
from rieszflow.generative.step_sizes import step_sizes

__all__ = ["WATCHED", "Callbacks", "Context", "DrawCallback", "Pictures", "Stage", "enter", "prepare"]

WATCHED = 2000  # points in the energy distances of metrics.jsonl, and fresh samples followed through the networks


@dataclass(frozen=True)
class Pictures:
    """What is to be seen after a network, in [0, 1] and in the full size of the data.

    Attributes:
        particles: (n, d), after the flow.
        samples: (n, d), fresh latents after the network.
        path: (network, n, d), some of those samples from their latents on.
        labels: (n,), which the samples were asked to have; None without.
        known: (n, d), what of the samples was known, the rest zero; None without.
    """

    particles: Tensor
    samples: Tensor
    path: Tensor
    labels: Tensor | None = None
    known: Tensor | None = None


DrawCallback: TypeAlias = Callable[[Run, Pictures], object]
"""Called with the run and its `Pictures` after every network."""


@dataclass(frozen=True)
class Callbacks:
    """Who is told of a training. Nobody by default."""

    progress: ProgressCallback | None = None
    draw: DrawCallback | None = None

    def tell(self, progress: Progress) -> None:
        if self.progress is not None:
            self.progress(progress)


@dataclass(frozen=True)
class Context:
    """What a training works with.

    Attributes:
        run: the folder, with settings and description of the data.
        levels: of resolution, coarsest first.
        schedule: T_1, …, T_L.
        here: this process among those that train the run.
        targets: (M, d) at full size, on the CPU, all of them.
        held_out: (n, d) likewise, for the metrics.
        held_out_digest: a checksum of them.
        random: the state of the random source after the targets were chosen.
        conditions: what is known of the particles and of the fresh samples, one after the other, as `Condition.join` takes it;
            None without a condition.
        custom: the network's module, where it is one of the user's own.
        callbacks: who is told.
    """

    run: Run
    levels: tuple[Level, ...]
    schedule: tuple[int, ...]
    here: Processes
    targets: Tensor
    held_out: Tensor
    held_out_digest: str
    random: Tensor
    conditions: Tensor | None
    custom: nn.Module | None
    callbacks: Callbacks

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
        """L, the number of the last network."""
        return self.levels[-1].last

    @property
    def condition(self) -> Condition:
        return self.levels[0].condition

    def level_of(self, network: int) -> Level:
        """The level that a network belongs to; the last one for a run that is at its end."""
        return next((level for level in self.levels if network <= level.last), self.levels[-1])


def prepare(run: Run, data: Dataset, custom: nn.Module | None, here: Processes, callbacks: Callbacks) -> Context:
    """The context of a run's training on data.

    Raises:
        RunError: there are more processes than particles.
        ConfigError: levels or patches do not fit the data.
    """
    config = run.config
    if here.number > config.particles:
        raise RunError(f"{here.number} processes given for {config.particles} particles; every one needs some")
    chooser = torch.Generator().manual_seed(config.seed)
    train, held_out = data.train.flatten(1), data.held_out.flatten(1)[:WATCHED]
    condition = Condition.of(config, run.shape, run.data.get("condition"))
    known, known_held_out = raw_conditions(config, data)
    order = torch.arange(len(train)) if config.first_targets else torch.randperm(len(train), generator=chooser)
    targets = order[: config.targets]
    held_out = condition.join(None if known_held_out is None else known_held_out[:WATCHED], held_out)
    return Context(
        run=run,
        levels=tuple(levels(config, run.shape, condition)),
        schedule=tuple(config.flow_steps()),
        here=here,
        targets=condition.join(None if known is None else known[targets], train[targets]),
        held_out=held_out,
        held_out_digest=hashlib.blake2b(held_out.contiguous().numpy().tobytes(), digest_size=16).hexdigest(),
        random=chooser.get_state(),
        conditions=None if known is None else _conditions(known, order, len(targets), config.particles),
        custom=copy.deepcopy(custom),
        callbacks=callbacks if here.main else Callbacks(),
    )


def _conditions(known: Tensor, order: Tensor, targets: int, particles: int) -> Tensor:
    """For particles and fresh samples: of data that are no targets, as far as there are enough.

    A particle with the condition of a target would move to that very target, and learn the pair by heart.
    """
    places = (targets + torch.arange(particles + WATCHED)) % len(order)
    return known[order[places]]


@dataclass(frozen=True)
class Stage:
    """The targets as a level sees them.

    Attributes:
        level: its settings and size.
        targets: (m, d), this process's part.
        watched: (n, d), some of all targets, for the metrics.
        held_out: (n, d), likewise.
        step_sizes: τ of every flow.
    """

    level: Level
    targets: Tensor
    watched: Tensor
    held_out: Tensor
    step_sizes: tuple[float, ...]


def enter(context: Context, level: Level) -> Stage:
    """The targets at a level's size, on the device."""
    targets, held_out = (
        shrink(t, context.run.shape, level.factor, level.condition.leading).to(context.device)
        for t in (context.targets, context.held_out)
    )
    watched = targets[:WATCHED]
    return Stage(level, ranks.shard(targets, context.group), watched, held_out, step_sizes(level, watched))
