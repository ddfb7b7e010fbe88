"""How states begin: the first one, the one of the next network, and a blank one for a checkpoint to fill."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rieszflow._infra import ranks
from rieszflow.generative.context import WATCHED, Context, enter
from rieszflow.generative.fit import new_fit, new_scaler
from rieszflow.generative.flows import new_flow
from rieszflow.generative.latents import draw_latents
from rieszflow.generative.pyramid import grow
from rieszflow.generative.state import Phase, State

__all__ = ["PICTURED", "blank", "next_network", "start"]

PICTURED = 12  # fresh samples whose way through the networks is kept


def start(context: Context) -> State:
    """Before the first flow: x is noise."""
    state = blank(context, 1, "flow", 0)

    def latents(n: int, first: int) -> Tensor:
        noise = draw_latents(context.config, state.stage.level.shape, n, state.chooser)
        known = None if context.conditions is None else context.conditions[first : first + n]
        return context.condition.join(known, noise).to(context.device)

    x = ranks.shard(latents(context.config.particles, 0), context.group)
    fresh = latents(WATCHED, context.config.particles)
    return replace(
        state,
        x=x,
        x_old=_kept(context, x),
        fresh=fresh,
        path=fresh[None, :PICTURED].clone(),
        initial={} if context.custom is None else context.custom.state_dict(),
    )


def next_network(context: Context, state: State) -> State:
    """l ← l + 1, x_old ← x: the next network's flow starts from what this one does; at a level's end on larger images."""
    state = replace(state, network=state.network + 1, phase="flow", step=0, fit=None)
    if state.stage.level.last < state.network <= context.last:
        state = _next_level(context, state)
    if state.network > context.levels[-1].first:  # no level begins after this one
        state = replace(state, initial={})
    if state.stage.level.config.reset_velocity:
        state = replace(state, velocities=(None,) * len(state.velocities))
    flow = new_flow(context, state.stage, state.network, 0, state.drawer)
    return replace(state, x_old=_kept(context, state.x), flow=flow)


def _kept(context: Context, x: Tensor) -> Tensor:
    """Where a flow begins: a network learns from it, a recording needs none of it."""
    return x.new_zeros(0, x.shape[1]) if context.config.model == "recorded" else x


def _next_level(context: Context, state: State) -> State:
    """Particles and fresh samples at the size of the level that the next network belongs to, with noise, and at rest."""
    old, stage = state.stage.level.shape, enter(context, context.level_of(state.network))
    new, noise = stage.level.shape, stage.level.config.noise_std
    growth, leading = stage.level.config.upsampling, stage.level.condition.leading
    x = grow(state.x, old, new, 0.0, None, growth, leading)
    if noise:
        white = torch.randn(context.config.particles, x.shape[1] - leading, generator=state.chooser)
        x[:, leading:] += noise * ranks.shard(white, context.group).to(x)
    fresh = grow(state.fresh, old, new, stage.level.sample_noise_std, state.chooser, growth, leading)
    return replace(
        state,
        stage=stage,
        x=x,
        velocities=(None,) * len(stage.step_sizes),
        fresh=fresh,
        fresh_velocities=(None,) * len(stage.step_sizes),
        path=grow(state.path, old, new, 0.0, None, leading=leading),  # as it was, in larger pixels
    )


def blank(context: Context, network: int, phase: Phase, step: int) -> State:
    """A state at a place, with flows, networks and generators of the right make, and without particles."""
    stage = enter(context, context.level_of(network))
    chooser, drawer = torch.Generator(), torch.Generator(context.device).manual_seed(context.config.seed + 1)
    chooser.set_state(context.random)
    nothing = stage.targets.new_empty(0, stage.targets.shape[1])
    return State(
        network=network,
        phase=phase,
        step=step,
        x=nothing,
        x_old=nothing,
        velocities=(None,) * len(stage.step_sizes),
        flow=new_flow(context, stage, network, step, drawer) if phase == "flow" else None,
        fit=new_fit(context, stage, network, step, chooser) if phase == "fit" else None,
        fresh=nothing,
        fresh_velocities=(None,) * len(stage.step_sizes),
        path=nothing,
        chooser=chooser,
        drawer=drawer,
        scaler=new_scaler(context),
        initial={},
        seconds={"flow": 0.0, "fit": 0.0, "finish": 0.0},
        after="",
        rows=(),
        stage=stage,
    )
