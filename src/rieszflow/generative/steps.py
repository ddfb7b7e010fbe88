"""The steps of a stage: its flow, and the fit of its network, Φ_l(x_old) ≈ x_old − x, which starts from Φ_{l−1}."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from rieszflow._infra import ranks
from rieszflow.flow import ParticleFlow, geometric_schedule
from rieszflow.generative.context import Context, LevelData
from rieszflow.generative.networks import build
from rieszflow.generative.state import FitPhase, FlowPhase, State

__all__ = ["begin_fit", "fit_step", "flow_step", "new_fit", "new_flow", "new_scaler", "own_random_state"]


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
        step_schedule=geometric_schedule(*config.step_schedule, level.steps()) if config.step_schedule else None,
        combine=config.combine,
        record=config.model == "recorded",
        bins=config.bins,
        frozen=0 if level.condition.constraint is None else level.condition.constraint,
    )
    flow.steps = sum(context.schedule[level.first - 1 : stage - 1]) + step
    return flow


def flow_step(state: State, phase: FlowPhase) -> None:
    """v ← ∇ + m v, x ← x − τ N v, on every kind of slices in turn."""
    phase.flow.velocities = list(state.velocities)
    state.x = phase.flow.step(state.x)
    state.velocities = list(phase.flow.velocities)


def new_fit(context: Context, data: LevelData, stage: int, step: int, data_rng: torch.Generator) -> FitPhase:
    """Return new networks and an optimiser for the fit of a stage that begins or continues at a step."""
    level, config, device = data.level, data.level.config, context.device
    average, phi = (build(config, level.shape, copy.deepcopy(context.custom), level.condition).to(device) for _ in range(2))
    average.requires_grad_(False)
    phi.requires_grad_(True).train()
    optimiser = torch.optim.Adam(phi.parameters(), lr=config.learning_rate)
    model: nn.Module = phi
    generator = data_rng
    if context.group is not None:
        with ranks.sending(context.group):
            model = nn.parallel.DistributedDataParallel(phi, None if device.type == "cpu" else [device])
        # Every process draws its own share of a batch. A single process uses the common generator, and resumes exactly.
        seed = np.random.SeedSequence((config.seed, stage, step, context.here.rank)).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed) >> 1)
    random_state = torch.Generator().manual_seed(config.seed + 1_000_003 * stage).get_state()
    return FitPhase(phi, average, optimiser, random_state, model, generator)


def begin_fit(context: Context, state: State) -> None:
    """Start the fit of Φ_l from Φ_{l−1}, scaled to the size of the displacements."""
    level = state.data.level
    fit = new_fit(context, state.data, state.stage, 0, state.data_rng)
    if state.stage > level.first:
        fit.average.load_state_dict(context.run.load_network(state.stage - 1))
        fit.phi.load_state_dict(fit.average.state_dict())
    elif state.init_weights:
        for module in (fit.average, fit.phi):
            module.net.load_state_dict(state.init_weights)
    # The clamp avoids a division by zero if no particle moved.
    scale = ranks.mean((state.x_old - state.x).pow(2), context.group).sqrt().clamp(min=1e-12)
    if level.config.paper.fit == "plain":
        scale = torch.ones_like(scale)
    for module in (fit.phi, fit.average):
        module.scale.copy_(scale)
    state.phase, state.step = fit, 0


def fit_step(context: Context, state: State, fit: FitPhase) -> None:
    """Make a step of Adam towards Φ_l(x_old) = x_old − x on a batch of particles, and update the average of the weights."""
    config = state.data.level.config
    plain = config.paper.fit == "plain"
    for group in fit.optimiser.param_groups:
        factor = 1.0 if plain else 0.5 * (1 + math.cos(math.pi * state.step / config.fit_steps))
        group["lr"] = config.learning_rate * factor
    size = max(1, config.fit_batch_size // context.here.number)
    rows = torch.randint(len(state.x), (size,), generator=fit.generator).to(context.device)
    x = state.x_old[rows]
    v = x - state.x[rows]
    with ranks.sending(context.group):
        with _autocast(context):
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
    _update_average(fit, config.ema, state.step)
    fit.loss = loss.item()


@torch.no_grad()
def _update_average(fit: FitPhase, ema: float, step: int) -> None:
    # The decay grows with the number of steps, so that the average of a few steps forgets its start.
    decay = min(ema, (1 + step) / (10 + step)) if ema else 0.0
    for old, new in zip(fit.average.state_dict().values(), fit.phi.state_dict().values(), strict=True):
        old.lerp_(new, 1 - decay) if old.is_floating_point() else old.copy_(new)


def _autocast(context: Context) -> contextlib.AbstractContextManager[object]:
    dtype = _dtype(context)
    return contextlib.nullcontext() if dtype is None else torch.autocast(context.device.type, dtype)


def _dtype(context: Context) -> torch.dtype | None:
    """Return the dtype of mixed precision; None for float32."""
    precision = context.config.mixed_precision
    if precision == "bf16":
        return torch.bfloat16
    return torch.float16 if precision == "fp16" and context.device.type != "cpu" else None


def new_scaler(context: Context) -> torch.amp.GradScaler:
    """Return a scaler of the loss, whose small gradients would vanish in fp16; it does nothing in other precisions."""
    return torch.amp.GradScaler(context.device.type, enabled=_dtype(context) is torch.float16)


@contextlib.contextmanager
def own_random_state(fit: FitPhase) -> Iterator[None]:
    """Give the fit its own state of torch's default generator, which dropout draws from, and restore the caller's."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(fit.random_state)
        yield
