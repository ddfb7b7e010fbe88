"""A network's fit: Φ_l(x_old) ≈ x_old − x, starting from Φ_{l−1}."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from rieszflow._infra import ranks
from rieszflow.generative.context import Context, Stage
from rieszflow.generative.networks import build
from rieszflow.generative.state import Fit, State

__all__ = ["begin_fit", "fit_step", "new_fit", "new_scaler", "own_randomness", "with_randomness"]


def new_fit(context: Context, stage: Stage, network: int, step: int, chooser: torch.Generator) -> Fit:
    """Fresh networks and an optimiser, for the fit of a network that has come to a step."""
    config, device = stage.level.config, context.device
    average, phi = (
        build(config, stage.level.shape, copy.deepcopy(context.custom), stage.level.condition).to(device) for _ in range(2)
    )
    average.requires_grad_(False)
    phi.requires_grad_(True).train()
    optimiser = torch.optim.Adam(phi.parameters(), lr=config.learning_rate)
    model: nn.Module = phi
    source = chooser
    if context.group is not None:
        with ranks.sending(context.group):
            model = nn.parallel.DistributedDataParallel(phi, None if device.type == "cpu" else [device])
        # Every process draws its own share of a batch. One process goes on with the common source, and is resumed exactly.
        seed = np.random.SeedSequence((config.seed, network, step, context.here.rank)).generate_state(1, np.uint64)[0]
        source = torch.Generator().manual_seed(int(seed) >> 1)
    randomness = torch.Generator().manual_seed(config.seed + 1_000_003 * network).get_state()
    return Fit(phi, average, optimiser, randomness, model, source)


def begin_fit(context: Context, state: State) -> State:
    """Φ_l starts as Φ_{l−1}, and is told the size of the displacements."""
    level = state.stage.level
    fit = new_fit(context, state.stage, state.network, 0, state.chooser)
    if state.network > level.first:
        fit.average.load_state_dict(context.run.load_network(state.network - 1))
        fit.phi.load_state_dict(fit.average.state_dict())
    elif state.initial:
        for module in (fit.average, fit.phi):
            module.net.load_state_dict(state.initial)
    # A displacement of exactly zero cannot be divided by its size, and needs no network either.
    scale = ranks.mean((state.x_old - state.x).pow(2), context.group).sqrt().clamp(min=1e-12)
    if level.config.fit == "plain":
        scale = torch.ones_like(scale)
    for module in (fit.phi, fit.average):
        module.scale.copy_(scale)
    return replace(state, phase="fit", step=0, flow=None, fit=fit)


def fit_step(context: Context, state: State) -> State:
    """One step of Adam towards Φ_l(x_old) = x_old − x on a batch of particles, and of the average of the weights."""
    fit, config = state.fit, state.stage.level.config
    assert fit is not None
    plain = config.fit == "plain"
    for group in fit.optimiser.param_groups:
        falls = 1.0 if plain else 0.5 * (1 + math.cos(math.pi * state.step / config.fit_steps))
        group["lr"] = config.learning_rate * falls
    rows = torch.randint(len(state.x), (max(1, config.fit_batch_size // context.here.number),), generator=fit.source)
    rows = rows.to(context.device)
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
    return replace(state, step=state.step + 1, fit=replace(fit, loss=loss.item()))


@torch.no_grad()
def _update_average(fit: Fit, ema: float, step: int) -> None:
    # Like every average of a few steps it must forget its start: the decay grows with the steps done.
    decay = min(ema, (1 + step) / (10 + step)) if ema else 0.0
    for old, new in zip(fit.average.state_dict().values(), fit.phi.state_dict().values(), strict=True):
        old.lerp_(new, 1 - decay) if old.is_floating_point() else old.copy_(new)


# Precision and chance.


def _autocast(context: Context) -> contextlib.AbstractContextManager[object]:
    dtype = _dtype(context)
    return contextlib.nullcontext() if dtype is None else torch.autocast(context.device.type, dtype)


def _dtype(context: Context) -> torch.dtype | None:
    """What the network computes in; None for float32."""
    precision = context.config.mixed_precision
    if precision == "bf16":
        return torch.bfloat16
    return torch.float16 if precision == "fp16" and context.device.type != "cpu" else None


def new_scaler(context: Context) -> torch.amp.GradScaler:
    """Of the loss, whose small gradients would vanish in fp16; in other precisions it does nothing."""
    return torch.amp.GradScaler(context.device.type, enabled=_dtype(context) is torch.float16)


@contextlib.contextmanager
def own_randomness(fit: Fit) -> Iterator[None]:
    """Dropout and the like draw from torch's default generator: give the fit its own, and leave the caller's alone."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(fit.randomness)
        yield


def with_randomness(state: State) -> State:
    """As a checkpoint needs it: with what `own_randomness` has come to."""
    assert state.fit is not None
    return replace(state, fit=replace(state.fit, randomness=torch.get_rng_state()))
