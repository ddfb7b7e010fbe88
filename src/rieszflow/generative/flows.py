"""The flow of a network, or of a part of a recording: how particles move."""

from __future__ import annotations

from dataclasses import replace

import torch

from rieszflow.flow import ParticleFlow, geometric_schedule
from rieszflow.generative.context import Context, Stage
from rieszflow.generative.state import State

__all__ = ["flow_step", "new_flow"]


def new_flow(context: Context, stage: Stage, network: int, step: int, drawer: torch.Generator) -> ParticleFlow:
    """The flow that a network follows, as it is after some steps, but for its velocities."""
    level, config = stage.level, stage.level.config
    flow = ParticleFlow(
        stage.targets,
        slices=config.slices,
        step_size=list(stage.step_sizes),
        momentum=config.momentum_of(network - level.first + 1),
        directions=level.kinds(),
        seed=drawer,
        refresh_every=config.refresh_every,
        target_batch_size=config.target_batch_size,
        bounds=(0.0, 1.0) if config.clip else None,
        group=context.group,
        step_schedule=geometric_schedule(config.step_schedule[0], config.step_schedule[1], level.steps())
        if config.step_schedule
        else None,
        combine=config.combine,
        record=config.model == "recorded",
        bins=config.bins,
        frozen=0 if level.condition.known is None else level.condition.known,
    )
    flow.steps = sum(context.schedule[level.first - 1 : network - 1]) + step
    return flow


def flow_step(state: State) -> State:
    """v ← ∇D²(x) + m v, x ← x − τ N v; on every kind of slices in turn."""
    assert state.flow is not None
    state.flow.velocities = list(state.velocities)
    x = state.flow.step(state.x)
    return replace(state, x=x, velocities=tuple(state.flow.velocities), step=state.step + 1)
