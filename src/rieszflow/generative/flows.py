"""The flow of a network: how particles move."""

from __future__ import annotations

from dataclasses import replace

import torch

from rieszflow.directions import Kind
from rieszflow.flow import ParticleFlow
from rieszflow.generative.context import Context, Stage
from rieszflow.generative.state import State

__all__ = ["flow_step", "new_flows"]


def new_flows(context: Context, stage: Stage, network: int, drawer: torch.Generator) -> tuple[ParticleFlow, ...]:
    """The flow that a network follows, or one for every scale of patches."""
    level, config = stage.level, stage.level.config
    kinds: list[Kind] = [*level.local_slices()] or [config.directions]
    return tuple(
        ParticleFlow(
            stage.targets,
            slices=config.slices,
            step_size=step_size,
            momentum=config.momentum_of(network - level.first + 1),
            directions=kind,
            seed=drawer,
            reuse=config.reuse,
            bounds=(0.0, 1.0) if config.clip else None,
            group=context.group,
        )
        for kind, step_size in zip(kinds, stage.step_sizes, strict=True)
    )


def flow_step(state: State) -> State:
    """v ← ∇D²(x) + m v, x ← x − τ N v; on every scale of patches in turn."""
    x, velocities = state.x, []
    for flow, velocity in zip(state.flows, state.velocities, strict=True):
        flow.velocity = velocity
        x = flow.step(x)
        velocities.append(flow.velocity)
    return replace(state, x=x, velocities=tuple(velocities), step=state.step + 1)
