"""The main algorithm: flow some steps, fit a network to where the particles went, go on from what the network does.

For l = 1, …, L (paper, section 4): x_old = x; T_l flow steps move x; Φ_l is fitted to Φ_l(x_old) ≈ x_old − x, starting from
Φ_{l−1}; x = x_old − Φ_l(x_old).

A recorded flow is the same without networks: what the T_l steps did is written down, and x goes on from where it is.

All that changes is a `State`; all that does not is a `Context`. Checkpoints are states, so a run that is killed anywhere goes
on from its last checkpoint, on a CPU to bit-identical networks.

Over the processes of torchrun or `accelerate launch` every rank holds a part of the particles and of the targets. Flow steps
add up tables (see `Target`), the fit is data-parallel, each rank drawing its share of a batch from its own particles. What is
random and common (latents, noise, slices) is drawn alike on all ranks; the first rank writes the run's folder, which all must
see.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

import torch
from torch import nn

from rieszflow._infra import ranks
from rieszflow._types import Progress, ProgressCallback
from rieszflow.data import Dataset
from rieszflow.errors import RunError
from rieszflow.generative.begin import next_network
from rieszflow.generative.checkpoint import save
from rieszflow.generative.context import Callbacks, Context, DrawCallback, prepare
from rieszflow.generative.finish import finish, finish_part
from rieszflow.generative.fit import begin_fit, fit_step, own_randomness, with_randomness
from rieszflow.generative.flows import flow_step
from rieszflow.generative.networks import check_memory
from rieszflow.generative.processes import one_sentence, processes, told_to_end
from rieszflow.generative.pyramid import levels
from rieszflow.generative.resume import begin, caught_up
from rieszflow.generative.run import Run
from rieszflow.generative.state import State

__all__ = ["train"]


def train(
    run: Run,
    data: Dataset,
    *,
    network: nn.Module | None = None,
    progress: ProgressCallback | None = None,
    draw: DrawCallback | None = None,
) -> None:
    """Train a run to its end, from its last checkpoint if there is one. A finished run stays as it is.

    Networks that are missing are trained again. The particles that led to them are gone, so this begins at the first one, on a
    CPU with the same results; where they are the same, the networks after the missing ones are kept.

    Args:
        run: the folder.
        data: what to train on.
        network: the module, where the settings say "custom".
        progress: called after every step.
        draw: called after every network.

    Raises:
        RunError: a file is damaged or of another run, another process is training the run, or one of the processes of this run
            has ended.
        ConfigError: the settings do not fit the data or the machine.
    """
    device = run.config.torch_device()
    for level in levels(run.config, run.shape):
        check_memory(level.config, level.shape, device, training=True)
    here = processes(device)
    with contextlib.ExitStack() as around:
        if here.group is not None:
            around.enter_context(told_to_end(run.path))
            around.enter_context(one_sentence(run.path))
        if here.main:
            around.enter_context(run.exclusively())
        if not run.has_state() and run.complete():
            return
        _train(prepare(run, data, network, here, Callbacks(progress, draw)))


def _train(context: Context) -> None:
    """The paper's algorithm."""
    state, later = begin(context)
    while state.network <= context.last:  # for l = 1, …, L
        if state.phase == "flow":
            state = _flow(context, state)  # T_l times: v ← ∇D²(x) + m v, x ← x − τ N v
        if context.config.model == "recorded":
            state = finish_part(context, state)  # what these steps did is written down
        else:
            if state.phase == "flow":
                state = _saved(context, begin_fit(context, state))  # Φ_l ← Φ_{l−1}
            state = _fit(context, state)  # Φ_l(x_old) ≈ x_old − x
            state = finish(context, state)  # x ← x_old − Φ_l(x_old)
        if later is not None and state.network == later.network:
            waiting, later = caught_up(context, later), None
            if waiting is not None:
                state = waiting
                continue
        state = _saved(context, next_network(context, state))  # x_old ← x, on larger images where a level begins


def _flow(context: Context, state: State) -> State:
    steps, clock = context.schedule[state.network - 1], _Clock(context)
    while state.step < steps:
        state = clock.counted(flow_step(state))
        if clock.due():
            save(context, state)
            clock.saved()
        context.callbacks.tell(Progress("flow", state.step, steps, state.network, context.last))
    if not torch.isfinite(state.x).all():
        raise RunError("the particles have left the finite numbers; try a smaller step_size or momentum")
    return state


def _fit(context: Context, state: State) -> State:
    assert state.fit is not None
    steps, clock = state.stage.level.config.fit_steps, _Clock(context)
    with own_randomness(state.fit):
        while state.step < steps:
            state = clock.counted(fit_step(context, state))
            if clock.due():
                save(context, with_randomness(state))
                clock.saved()
            loss = None if state.fit is None else state.fit.loss
            context.callbacks.tell(Progress("fit", state.step, steps, state.network, context.last, loss))
    return state


def _saved(context: Context, state: State) -> State:
    """The state, which is written, with the seconds that this took: a large one takes some."""
    started = time.perf_counter()
    save(context, state)
    return replace(state, seconds={**state.seconds, "finish": state.seconds["finish"] + time.perf_counter() - started})


class _Clock:
    """Counts the seconds of a phase, and says when a checkpoint is due."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._last = self._saved = time.perf_counter()

    def counted(self, state: State) -> State:
        """The state, with the seconds since the last call."""
        now = time.perf_counter()
        spent, self._last = now - self._last, now
        return replace(state, seconds={**state.seconds, state.phase: state.seconds[state.phase] + spent})

    def due(self) -> bool:
        # The first rank's clock is the one that counts: all ranks save together.
        late = time.perf_counter() - self._saved > self._context.config.checkpoint_seconds
        return bool(ranks.broadcast_int(int(late), self._context.group))

    def saved(self) -> None:
        self._saved = time.perf_counter()
