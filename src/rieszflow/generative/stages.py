"""The beginning and the end of stages: noise, larger images at a new level, and the files written after a flow or a fit."""

from __future__ import annotations

import gc
import math

import torch
from torch import Tensor

from rieszflow._infra import ranks
from rieszflow._types import Progress
from rieszflow.errors import RunError
from rieszflow.generative.context import WATCHED, Context, Pictures, level_data
from rieszflow.generative.levels import draw_latents, upsample
from rieszflow.generative.networks import as_data, displace
from rieszflow.generative.run import StageMetrics
from rieszflow.generative.state import FitPhase, FlowPhase, PhaseName, State
from rieszflow.generative.steps import new_fit, new_flow, new_scaler
from rieszflow.sliced import energy_distance

__all__ = ["blank_state", "first_state", "next_stage", "write_network", "write_recording"]

_PATHS = 12  # fresh samples whose paths through the stages are kept for a picture


def blank_state(context: Context, stage: int, phase: PhaseName, step: int) -> State:
    """Return a state without particles, whose flow, networks and generators are ready to load a checkpoint."""
    data = level_data(context, stage)
    data_rng, slice_rng = torch.Generator(), torch.Generator(context.device).manual_seed(context.config.seed + 1)
    data_rng.set_state(context.random_state)
    empty = data.targets.new_empty(0, data.targets.shape[1])
    new_phase: FlowPhase | FitPhase
    if phase == "flow":
        new_phase = FlowPhase(new_flow(context, data, stage, step, slice_rng))
    else:
        new_phase = new_fit(context, data, stage, step, data_rng)
    return State(
        stage=stage,
        phase=new_phase,
        step=step,
        data=data,
        data_rng=data_rng,
        slice_rng=slice_rng,
        scaler=new_scaler(context),
        x=empty,
        x_old=empty,
        velocities=[None] * len(data.step_sizes),
        fresh=empty,
        fresh_velocities=[None] * len(data.step_sizes),
        path=empty,
    )


def first_state(context: Context) -> State:
    """Return the state before the first flow, when x is noise."""
    state = blank_state(context, 1, "flow", 0)

    def latents(n: int, first: int) -> Tensor:
        noise = draw_latents(context.config, state.data.level.shape, n, state.data_rng)
        known = None if context.conditions is None else context.conditions[first : first + n]
        return context.condition.join(known, noise).to(context.device)

    state.x = ranks.shard(latents(context.config.particles, 0), context.group)
    state.x_old = _start_of_flow(context, state.x)
    state.fresh = latents(WATCHED, context.config.particles)
    state.path = state.fresh[None, :_PATHS].clone()
    if context.custom is not None:
        state.init_weights = context.custom.state_dict()
    return state


def next_stage(context: Context, state: State) -> None:
    """l ← l + 1, x_old ← x; on larger images if a level begins."""
    state.stage, state.step = state.stage + 1, 0
    if state.data.level.last < state.stage <= context.last:
        _next_level(context, state)
    if state.stage > context.levels[-1].first:  # the last level has begun
        state.init_weights = {}
    if state.data.level.config.paper.reset_velocity:
        state.velocities = [None] * len(state.velocities)
    state.phase = FlowPhase(new_flow(context, state.data, state.stage, 0, state.slice_rng))
    state.x_old = _start_of_flow(context, state.x)


def _start_of_flow(context: Context, x: Tensor) -> Tensor:
    """Return the particles that a network learns from; a recording needs none."""
    return x.new_zeros(0, x.shape[1]) if context.config.model == "recorded" else x


def _next_level(context: Context, state: State) -> None:
    """Enlarge particles and fresh samples to the next level's size, add its noise, and set all velocities to zero."""
    small, data = state.data.level.shape, level_data(context, state.stage)
    level, config = data.level, data.level.config
    upsampling, leading = config.upsampling, level.condition.leading
    state.x = upsample(state.x, small, level.shape, 0.0, None, upsampling, leading)
    if config.noise_std:
        noise = torch.randn(context.config.particles, state.x.shape[1] - leading, generator=state.data_rng)
        state.x[:, leading:] += config.noise_std * ranks.shard(noise, context.group).to(state.x)
    state.fresh = upsample(state.fresh, small, level.shape, level.sample_noise_std, state.data_rng, upsampling, leading)
    state.path = upsample(state.path, small, level.shape, 0.0, None, leading=leading)  # unchanged, in larger pixels
    state.data = data
    state.velocities = [None] * len(data.step_sizes)
    state.fresh_velocities = [None] * len(data.step_sizes)


def write_network(context: Context, state: State, fit: FitPhase) -> None:
    """x ← x_old − Φ_l(x_old), so that the network's errors are corrected later; write the network, its metrics and pictures.

    Raises:
        RunError: the network returns non-finite values.
    """
    clip, flowed = context.config.clip, state.x
    fitted, wanted = displace(fit.average, state.x_old, clip), state.x_old - flowed
    missed, size = (ranks.mean(t.pow(2), context.group) for t in (fitted - flowed, wanted))
    error = (missed / size.clamp(min=1e-24)).item()
    if not math.isfinite(error):
        raise RunError(f"network {state.stage} returns non-finite values; try a smaller learning_rate")
    if state.data.level.config.paper.continue_from == "network":
        state.x = fitted
    watched, watched_fitted = (ranks.all_gather_rows(t[:WATCHED], context.group)[:WATCHED] for t in (flowed, fitted))
    if context.here.main:
        state.fresh = displace(fit.average, state.fresh, clip)
        clouds = {"particles": watched, "network_particles": watched_fitted}
        row = _metrics(context, state, clouds, displacement_rms=size.sqrt().item(), fit_error=error)
        _write(context, state, fit.average.state_dict(), row, watched)
    context.here.wait()


def write_recording(context: Context, state: State, phase: FlowPhase) -> None:
    """Write the part of a recording that the last flow made, its metrics and pictures. Particles stay where they are."""
    assert phase.flow.recorder is not None
    segment = phase.flow.recorder.segment
    watched = ranks.all_gather_rows(state.x[:WATCHED], context.group)[:WATCHED]
    if context.here.main:
        state.fresh, velocities = segment.push(state.fresh, state.fresh_velocities)
        state.fresh_velocities = list(velocities)
        row = _metrics(context, state, {"particles": watched}, megabytes=segment.nbytes / 1e6)
        _write(context, state, segment.to_tensors(), row, watched)
    context.here.wait()


def _metrics(context: Context, state: State, clouds: dict[str, Tensor], **measured: float) -> StageMetrics:
    clouds |= {"fresh_samples": as_data(state.fresh, state.data.level), "training_data": state.data.watched}
    held_out = state.data.held_out
    return StageMetrics(
        stage=state.stage,
        level=state.data.level.factor,
        flow_steps=context.schedule[state.stage - 1],
        flow_steps_total=sum(context.schedule[: state.stage]),
        energy_distance={name: energy_distance(x, held_out, statistic="U").item() for name, x in clouds.items()},
        seconds=dict(state.seconds),
        **measured,
    )


def _write(context: Context, state: State, tensors: dict[str, Tensor], row: StageMetrics, particles: Tensor) -> None:
    """Write a stage's file and metrics, draw its pictures, and report progress."""
    state.path = torch.cat([state.path, state.fresh[None, :_PATHS]])
    # The network before the checkpoint: a run killed between the two repeats this stage, with the same result.
    context.run.save_network(state.stage, tensors)
    state.rows = [*state.rows[: state.stage - 1], row]
    context.run.write_metrics(state.rows)
    if context.draw is not None:
        context.draw(context.run, _pictures(context, state, particles))
        gc.collect()  # figures leave reference cycles that keep frames, and so gigabytes of particles, alive
    context.report(Progress(state.phase.name, state.step, state.step, state.stage, context.last, None, row.to_dict()))


def _pictures(context: Context, state: State, particles: Tensor) -> Pictures:
    shown = (context.condition.data(t).cpu() for t in (particles, state.fresh, state.path))
    particles, samples, path = (upsample(t, state.data.level.shape, context.run.shape, 0.0, None) for t in shown)
    condition, known = context.condition, None
    values = None if context.conditions is None else context.conditions[context.config.particles :]
    if condition.kind == "observed" and condition.constraint is not None and values is not None:
        known = condition.constraint.project(values)
    return Pictures(particles, samples, path, state.rows, values if condition.kind == "class" else None, known)
