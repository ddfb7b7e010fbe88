"""The steps of a stage: its flow, the fit of its network Φ_l(x_old) ≈ x_old − x, and what happens before and after."""

from __future__ import annotations

import contextlib
import copy
import gc
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rieszflow._infra import ranks
from rieszflow._infra.files import prefixed
from rieszflow._types import Progress
from rieszflow.errors import RunError
from rieszflow.flow import ParticleFlow, geometric_schedule
from rieszflow.generative.config import Config
from rieszflow.generative.latents import draw_latents, fit_mixture, has_support, load_mixture
from rieszflow.generative.levels import pool, upsample
from rieszflow.generative.networks import as_data, build, displace
from rieszflow.generative.run import StageMetrics
from rieszflow.generative.state import WATCHED, Context, FitPhase, FlowPhase, LevelData, Pictures, State, Tensors, level_data
from rieszflow.generative.vectors import Gaussians, Support, nearest_distances
from rieszflow.sliced import energy_distance

_PATHS = 12  # fresh samples whose paths through the stages are kept for a picture
_RATE = 0.2  # samples improve if their distance's excess over that of training data decreases like (flow steps)^-_RATE
_SHORTER = 0.8  # factor of the step length after a stage without improvement
_SAME = 0.02  # a difference of distances that is noise, relative to the distance of training data
_PATIENCE = 2  # stages without improvement at the shortest steps


def blank_state(context: Context, stage: int, step: int, fitting: bool, factor: float | None) -> State:
    """Return a state without particles, whose flow, networks and generators are ready to load a checkpoint."""
    data, device = level_data(context, stage), context.here.device
    data_rng, slice_rng = torch.Generator(), torch.Generator(device).manual_seed(context.config.seed + 1)
    data_rng.set_state(context.random_state)
    phase: FlowPhase | FitPhase
    if fitting:
        phase = new_fit(context, data, stage, step, data_rng)
    else:
        phase = new_flow(context, data, stage, step, slice_rng, factor)
    # Small gradients would vanish in fp16; in other precisions the scaler does nothing.
    scaler = torch.amp.GradScaler(device.type, enabled=_autocast_dtype(context) is torch.float16)
    return State(stage, phase, step, data, data_rng, slice_rng, scaler, step_factor=factor)


def first_state(context: Context) -> State:
    """Return the state before the first flow, when x is noise."""
    factor = next_factor(context.config, []) if context.config.validation else None
    state = blank_state(context, 1, 0, fitting=False, factor=factor)
    level, config, condition = state.data.level, context.config, context.condition
    if context.here.main and config.latents == "mixture":
        targets = pool(context.targets, context.run.shape, level.factor, condition.leading)
        context.run.save_network(0, vars(fit_mixture(targets, torch.Generator().manual_seed(config.seed))))
    elif context.here.main and context.whitening is not None:
        gaussians = Gaussians.fit(context.targets, condition.leading, condition.labels)
        context.run.save_network(0, prefixed("gaussian", vars(gaussians)) | prefixed("whitening", vars(context.whitening)))
    ranks.wait(context.here.group)
    mixture = load_mixture(context.run, state.data.watched.shape[1], condition)

    def latents(n: int, first: int) -> Tensor:
        values = None if context.conditions is None else context.conditions[first : first + n]
        x = draw_latents(config, level.shape, n, state.data_rng, mixture=mixture, condition=condition, values=values)
        return x.to(context.here.device)

    state.x = ranks.shard(latents(context.particles, 0), context.here.group)
    state.x_old = _start_of_flow(context, state.x)
    state.fresh = latents(WATCHED, context.particles)
    state.path = state.fresh[None, :_PATHS].clone()
    if context.custom is not None:
        state.init_weights = context.custom.state_dict()
    return state


def next_stage(context: Context, state: State) -> None:
    """Begin the next stage: l ← l + 1, x_old ← x; on larger images if a level begins."""
    state.stage, state.step = state.stage + 1, 0
    if state.data.level.last < state.stage <= context.last:
        _next_level(context, state)
    if state.stage > context.levels[-1].first:  # the last level has begun
        state.init_weights = {}
    if state.data.level.config.paper.reset_velocity:
        state.rest()
    state.phase = new_flow(context, state.data, state.stage, 0, state.slice_rng, state.step_factor)
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
        state.x[:, leading:] += config.noise_std * ranks.shard(noise, context.here.group).to(state.x)
    state.fresh = upsample(state.fresh, small, level.shape, level.sample_noise_std, state.data_rng, upsampling, leading)
    state.path = upsample(state.path, small, level.shape, 0.0, None, leading=leading)  # unchanged, in larger pixels
    state.data = data
    state.rest()


def new_flow(
    context: Context, data: LevelData, stage: int, step: int, slice_rng: torch.Generator, factor: float | None
) -> FlowPhase:
    """Return the flow of a stage after some steps, without its velocities."""
    level, config = data.level, data.level.config
    first, last = (factor, factor) if factor is not None else config.step_schedule or (1.0, 1.0)
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
        group=context.here.group,
        step_schedule=geometric_schedule(first, last, sum(config.flow_steps())),
        combine=config.combine,
        record=config.model == "recorded",
        bins=config.bins,
        frozen=0 if level.condition.constraint is None else level.condition.constraint,
    )
    flow.steps = sum(context.schedule[level.first - 1 : stage - 1]) + step
    return FlowPhase(flow)


def flow_step(state: State, phase: FlowPhase) -> None:
    """Make a step with every kind of slices in turn: v ← ∇ + m v, x ← x − τ N v."""
    phase.flow.velocities = list(state.velocities)
    state.x = phase.flow.step(state.x)
    state.velocities = list(phase.flow.velocities)


def new_fit(context: Context, data: LevelData, stage: int, step: int, data_rng: torch.Generator) -> FitPhase:
    """Return new networks and an optimiser for the fit of a stage that begins or continues at a step."""
    level, config, here = data.level, data.level.config, context.here
    average, phi = (
        build(config, level.shape, copy.deepcopy(context.custom), level.condition).to(here.device) for _ in range(2)
    )
    average.requires_grad_(False)
    phi.requires_grad_(True).train()
    optimiser = torch.optim.Adam(phi.parameters(), lr=config.learning_rate)
    model: nn.Module = phi
    generator = data_rng
    if here.group is not None:
        with ranks.sending(here.group):
            model = nn.parallel.DistributedDataParallel(phi, None if here.device.type == "cpu" else [here.device])
        # Every process draws its own share of a batch. A single process uses the common generator, and resumes exactly.
        seed = np.random.SeedSequence((config.seed, stage, step, here.rank)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed) >> 1)
    random_state = torch.Generator().manual_seed(config.seed + 1_000_003 * stage).get_state()
    return FitPhase(phi, average, optimiser, random_state, model, generator)


def begin_fit(context: Context, state: State) -> None:
    """Begin the fit of Φ_l with the weights of Φ_{l−1}, scaled to the size of the displacements."""
    level = state.data.level
    fit = new_fit(context, state.data, state.stage, 0, state.data_rng)
    if state.stage > level.first:
        fit.average.load_state_dict(context.run.load_network(state.stage - 1))
        fit.phi.load_state_dict(fit.average.state_dict())
    elif state.init_weights:
        for module in (fit.average, fit.phi):
            module.net.load_state_dict(state.init_weights)
    # The clamp avoids a division by zero if no particle moved.
    scale = ranks.mean((state.x_old - state.x).pow(2), context.here.group).sqrt().clamp(min=1e-12)
    if level.config.paper.fit == "plain":
        scale = torch.ones_like(scale)
    for module in (fit.phi, fit.average):
        module.scale.copy_(scale)
    state.phase, state.step = fit, 0


def fit_step(context: Context, state: State, fit: FitPhase) -> None:
    """Make a step of Adam towards Φ_l(x_old) = x_old − x on a batch of particles, and update the average of the weights."""
    config, here = state.data.level.config, context.here
    plain = config.paper.fit == "plain"
    for group in fit.optimiser.param_groups:
        factor = 1.0 if plain else 0.5 * (1 + math.cos(math.pi * state.step / config.fit_steps))
        group["lr"] = config.learning_rate * factor
    size = max(1, config.fit_batch_size // here.number)
    rows = torch.randint(len(state.x), (size,), generator=fit.generator).to(here.device)
    x = state.x_old[rows]
    v = x - state.x[rows]
    dtype = _autocast_dtype(context)
    with ranks.sending(here.group):
        with contextlib.nullcontext() if dtype is None else torch.autocast(here.device.type, dtype):
            residual = fit.model(x, normalised=True) - v / fit.phi.scale
        errors = residual.pow(2) if config.loss == "squared" else residual.abs()
        # Plain displacements become small. A sum keeps gradients far above Adam's ε, as in the paper's scripts.
        loss = errors.sum(1).mean() if plain else errors.mean()
        fit.optimiser.zero_grad()
        state.scaler.scale(loss).backward()
    state.scaler.unscale_(fit.optimiser)
    if not plain:
        torch.nn.utils.clip_grad_norm_(fit.phi.parameters(), 1.0)
    state.scaler.step(fit.optimiser)
    state.scaler.update()
    # The decay grows with the number of steps, so that the average of a few steps forgets its start.
    decay = min(config.ema, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for old, new in zip(fit.average.state_dict().values(), fit.phi.state_dict().values(), strict=True):
            old.lerp_(new, 1 - decay) if old.is_floating_point() else old.copy_(new)
    fit.loss, fit.random_state = loss.item(), torch.get_rng_state()


def _autocast_dtype(context: Context) -> torch.dtype | None:
    """Return the dtype of mixed precision; None for float32."""
    precision = context.config.mixed_precision
    if precision == "bf16":
        return torch.bfloat16
    return torch.float16 if precision == "fp16" and context.here.device.type != "cpu" else None


def write_network(context: Context, state: State, fit: FitPhase) -> None:
    """Continue from x ← x_old − Φ_l(x_old), so that later stages correct the error of Φ_l; write Φ_l and its metrics."""
    clip, group, flowed = context.config.clip, context.here.group, state.x
    fitted, wanted = displace(fit.average, state.x_old, clip), state.x_old - flowed
    missed, size = (ranks.mean(t.pow(2), group) for t in (fitted - flowed, wanted))
    error = (missed / size.clamp(min=1e-24)).item()
    if not math.isfinite(error):
        raise RunError(f"network {state.stage} returns non-finite values; try a smaller learning_rate")
    if state.data.level.config.paper.continue_from == "network":
        state.x = fitted
    watched, watched_fitted = (ranks.all_gather_rows(t[:WATCHED], group)[:WATCHED] for t in (flowed, fitted))
    if context.here.main:
        state.fresh = displace(fit.average, state.fresh, clip)
        clouds = {"particles": watched, "network_particles": watched_fitted}
        weights = fit.average.state_dict()
        _write(context, state, weights, clouds, displacement_rms=size.sqrt().item(), fit_error=error)
    ranks.wait(group)


def write_recording(context: Context, state: State, phase: FlowPhase) -> None:
    """Write the part of a recording that the last flow made, its metrics, and the next step factor. Particles stay in place."""
    assert phase.flow.recorder is not None
    segment = phase.flow.recorder.segment
    rows = context.watched[context.watched < len(state.x)].to(state.x.device)
    watched = ranks.all_gather_rows(state.x[rows], context.here.group)[:WATCHED]
    if context.here.main:
        state.fresh, velocities = segment.push(state.fresh, state.fresh_velocities)
        state.fresh_velocities = list(velocities)
        tensors = segment.to_tensors()
        if has_support(context.config, context.condition, context.run.shape):
            support = Support.fit(state.x.cpu(), context.targets, context.condition.labels)
            tensors |= prefixed("support", vars(support))
        _write(context, state, tensors, {"particles": watched}, megabytes=segment.nbytes / 1e6)
    ranks.wait(context.here.group)
    if context.config.validation:
        factor = next_factor(context.config, state.rows) if context.here.main else 0.0
        state.step_factor = ranks.broadcast(factor, context.here.group)


def end_if_due(context: Context, state: State) -> None:
    """End a training by validation data or `patience`: the best stage becomes the last one, and later ones are removed."""
    config, main = context.config, context.here.main
    best = best_stage(state.rows) if main else 0
    waited = 0 < config.patience <= len(state.rows) - best
    last = state.stage == context.last and (config.patience or config.validation)
    if last or state.step_factor == 0 or ranks.broadcast(int(waited), context.here.group):
        if main:
            context.run.save_network(best, context.run.load_network(best), last=True)
        ranks.wait(context.here.group)
        state.stage = context.last


def _distances(rows: Sequence[StageMetrics], name: str) -> list[float]:
    """Return a cloud's distances to held-out or validation data by which stages are judged."""
    return [(row.frechet_distance or row.nearest_distance or row.energy_distance)[name] for row in rows]


def best_stage(rows: Sequence[StageMetrics]) -> int:
    """Return the number of the stage with the best fresh samples; with validation data, the last one equal up to noise."""
    distances, floors = _distances(rows, "fresh_samples"), _distances(rows, "training_data")
    close = min(distances) + (0.0 if rows[-1].step_factor is None else _SAME * abs(floors[-1]))
    return max(k for k, distance in enumerate(distances, 1) if distance <= close)


def next_factor(config: Config, rows: Sequence[StageMetrics]) -> float:
    """Return the factor of τ in the stage after some stages; 0 if the training has come to its end."""
    assert config.step_schedule is not None
    factor, last = config.step_schedule
    distances, waited = _distances(rows, "fresh_samples"), 0
    for k, floor in enumerate(_distances(rows, "training_data")[1:], 1):
        best = min(distances[:k])
        expected = (rows[k - 1].flow_steps_total / rows[k].flow_steps_total) ** _RATE
        if best - distances[k] > (1 - expected) * max(0.0, best - floor):
            waited = 0
        elif factor > last:
            factor = max(last, _SHORTER * factor)
        else:
            waited += 1
    return 0.0 if waited >= _PATIENCE else factor


def _write(context: Context, state: State, tensors: Tensors, clouds: Tensors, **measured: Any) -> None:
    """Write a stage's file and metrics, draw its pictures, and report progress."""
    level, held_out = state.data.level, state.data.held_out
    watched = {**clouds, "fresh_samples": as_data(state.fresh, level), "training_data": state.data.watched}
    watched = {name: context.condition.comparable(context.unwhitened(x)) for name, x in watched.items()}
    if context.config.validation and len(level.shape) == 3:
        from rieszflow.metrics import frechet_distance  # imports SciPy, which samples do not need

        measured |= {"frechet_distance": {name: frechet_distance(x, held_out) for name, x in watched.items()}}
    if context.config.patience and held_out.shape[1] <= 100:  # strays and blurred shapes, which the energy distance misses
        both = {name: (nearest_distances(x, held_out), nearest_distances(held_out, x)) for name, x in watched.items()}
        measured["nearest_distance"] = {name: (a.mean() + b.mean()).item() for name, (a, b) in both.items()}
    row = StageMetrics(
        stage=state.stage,
        level=level.factor,
        flow_steps=context.schedule[state.stage - 1],
        flow_steps_total=sum(context.schedule[: state.stage]),
        energy_distance={name: energy_distance(x, held_out, statistic="U").item() for name, x in watched.items()},
        seconds=dict(state.seconds),
        step_factor=state.step_factor,
        **measured,
    )
    state.path = torch.cat([state.path, state.fresh[None, :_PATHS]])
    # The network before the checkpoint: a run killed between the two repeats this stage, with the same result.
    context.run.save_network(state.stage, tensors)
    state.rows = [*state.rows[: state.stage - 1], row]
    context.run.write_metrics(state.rows)
    if context.draw is not None:
        context.draw(context.run, _pictures(context, state, clouds["particles"]))
        gc.collect()  # figures leave reference cycles that keep frames, and so gigabytes of particles, alive
    context.report(Progress(state.phase.name, state.step, state.step, state.stage, context.last, None, row.to_dict()))


def _pictures(context: Context, state: State, particles: Tensor) -> Pictures:
    condition, known = context.condition, None
    shown = (condition.data(context.unwhitened(t)).cpu() for t in (particles, state.fresh, state.path))
    particles, samples, path = (upsample(t, state.data.level.shape, context.run.shape, 0.0, None) for t in shown)
    values = None if context.conditions is None else context.conditions[context.particles :]
    if context.config.conditions_on_image and condition.constraint is not None and values is not None:
        known = condition.constraint.project(values)
    return Pictures(particles, samples, path, state.rows, values if context.config.condition == "class" else None, known)
