"""The flow of a stage."""

from __future__ import annotations

import torch

from rieszflow.flow import ParticleFlow, geometric_schedule
from rieszflow.generative.context import Context, LevelData
from rieszflow.generative.state import FlowPhase, State

__all__ = ["flow_step", "new_flow"]


def new_flow(context: Context, data: LevelData, stage: int, step: int, slice_rng: torch.Generator) -> ParticleFlow:
    """Return the flow of a stage after some steps, without its velocities."""
    level, config = data.level, data.level.config
    flow = ParticleFlow(
        data.targets,
        slices=config.slices,
        step_size=list(data.step_sizes),
        momentum=config.momentum_of(stage - level.first + 1),
        directions=level.kinds(),
        seed=slice_rng,
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
    flow.steps = sum(context.schedule[level.first - 1 : stage - 1]) + step
    return flow


def flow_step(state: State, phase: FlowPhase) -> None:
    """v ← ∇ + m v, x ← x − τ N v, on every kind of slices in turn."""
    phase.flow.velocities = list(state.velocities)
    state.x = phase.flow.step(state.x)
    state.velocities = list(phase.flow.velocities)
