"""The training loop of section 4 of the paper, and its checkpoints.

A killed run continues from its last checkpoint, on a CPU to bit-identical networks. With several processes each holds a part of
the particles and targets and draws its share of a batch from its own particles; all draw the same latents, noise and slices.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from rieszflow._infra import ranks
from rieszflow._infra.files import Json, as_file_error, remove_leftovers
from rieszflow._infra.messages import notice
from rieszflow._types import Progress, ProgressCallback
from rieszflow.data import Dataset
from rieszflow.errors import RunError
from rieszflow.generative import stages
from rieszflow.generative.levels import Level
from rieszflow.generative.networks import build
from rieszflow.generative.processes import processes, report_rank_errors, sigterm_as_error
from rieszflow.generative.run import RESTORES, Run, StageMetrics
from rieszflow.generative.state import Context, DrawCallback, FitPhase, FlowPhase, State, prepare
from rieszflow.generative.vectors import mean_distance

# Energy distance by which fresh samples may exceed particles, relative to the mean distance between data. With 91 particles a
# label, it is 0.008 on the vowel data, and samples are clearly worse; with 1,000 it is less than 0.001.
_LAG = 0.004


def train(
    run: Run,
    data: Dataset,
    levels: Sequence[Level],
    *,
    network: nn.Module | None = None,
    progress: ProgressCallback | None = None,
    draw: DrawCallback | None = None,
) -> None:
    """Train a run to its end, from its last checkpoint if there is one. A finished run stays as it is.

    If a network is missing, training starts again at the first stage, because the particles that led to the network are gone.
    """
    here = processes(run.config.torch_device())
    with contextlib.ExitStack() as stack:
        if here.group is not None:
            stack.enter_context(sigterm_as_error(run.path))
            stack.enter_context(report_rank_errors(run.path))
        if here.main:
            stack.enter_context(run.exclusively())
        if run.has_state() or not run.complete():
            _train(prepare(run, data, levels, network, here, progress, draw))


def _train(context: Context) -> None:
    """Run the algorithm of the paper from the last checkpoint."""
    state = _resume(context)
    while state.stage <= context.last:  # for l = 1, …, L
        if isinstance(state.phase, FlowPhase):
            _flow(context, state, state.phase)  # T_l times: v ← ∇ + m v, x ← x − τ N v
            with _timed(state):
                if context.config.model == "recorded":
                    stages.write_recording(context, state, state.phase)
                else:
                    stages.begin_fit(context, state)  # Φ_l ← Φ_{l−1}
                    _save(context, state)
        if isinstance(state.phase, FitPhase):
            _fit(context, state, state.phase)  # Φ_l(x_old) ≈ x_old − x
            with _timed(state):
                stages.write_network(context, state, state.phase)  # x ← x_old − Φ_l(x_old)
        with _timed(state):
            stages.end_if_due(context, state)
            _notice_overfit(context, state)
            stages.next_stage(context, state)  # x_old ← x, on larger images if a level begins
            _save_if_due(context, state)


def _notice_overfit(context: Context, state: State) -> None:
    """Say at the end if fresh samples of vectors are much further from held-out data than the particles of a recorded flow."""
    if not context.here.main or context.config.model != "recorded" or len(context.run.shape) != 1 or state.stage < context.last:
        return
    distances = state.rows[context.run.total_stages() - 1].energy_distance
    lag = distances["fresh_samples"] - distances["particles"]
    scale = mean_distance(context.condition.comparable(context.unwhitened(state.data.watched.cpu()))).item()
    if lag > _LAG * scale:
        notice(
            f"{context.run.path}: new samples are further from the held-out data than the particles, by an energy distance of "
            f"{lag:.2g} ({lag / scale:.1%} of the mean distance between data); use more `particles` or fewer steps"
        )


def _flow(context: Context, state: State, phase: FlowPhase) -> None:
    _advance(context, state, context.schedule[state.stage - 1], lambda: stages.flow_step(state, phase))
    if not torch.isfinite(state.x).all():
        raise RunError("the particles diverged to NaN or infinity; try a smaller step_size or momentum")


def _fit(context: Context, state: State, phase: FitPhase) -> None:
    # Dropout draws from torch's default generator, whose state the fit must not share with the caller.
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(phase.random_state)
        _advance(context, state, state.data.level.config.fit_steps, lambda: stages.fit_step(context, state, phase))


def _advance(context: Context, state: State, steps: int, step: Callable[[], None]) -> None:
    """Make the remaining steps of a phase, with checkpoints when they are due."""
    phase, last = state.phase, time.perf_counter()
    while state.step < steps:
        step()
        state.step += 1
        now = time.perf_counter()
        state.seconds[phase.name] += now - last
        last = now
        _save_if_due(context, state)
        context.report(Progress(phase.name, state.step, steps, state.stage, context.last, phase.loss))


@contextlib.contextmanager
def _timed(state: State) -> Iterator[None]:
    """Add the time of a block to that spent outside of flows and fits."""
    started = time.perf_counter()
    yield
    state.seconds["finish"] += time.perf_counter() - started


def _save_if_due(context: Context, state: State) -> None:
    """Write a checkpoint at the end, or if the last one is `checkpoint_seconds` old, by the clock of the first rank."""
    due = state.stage > context.last or time.perf_counter() - state.saved > context.config.checkpoint_seconds
    if ranks.broadcast(int(due), context.here.group):
        _save(context, state)


def _save(context: Context, state: State) -> None:
    """Write a checkpoint that any number of processes can read; after the last stage without tensors, no longer needed."""
    state.saved = time.perf_counter()
    tensors: dict[str, Tensor] = {}
    header = {**state.header(), "held_out": context.held_out_digest}
    if state.stage > context.last:
        header["stage"] = context.run.total_stages() + 1
    else:
        tensors = state.to_tensors(context.here)
    if context.here.main:
        context.run.save_state(tensors, header)


def _resume(context: Context) -> State:
    """Return the state of the last checkpoint if all earlier stages have their files; otherwise the first state."""
    run, reason = context.run, ""
    if context.here.main:
        for folder in (run.path, run.path / "networks", run.path / "images"):
            remove_leftovers(folder)
    ranks.wait(context.here.group)
    saved = run.load_state()
    for file in map(run.network_file, range(1, context.last + 1)):
        if file.is_dir():
            raise RunError(f"{file}: must be the file of a network, got a folder; remove it, and resume")
    if saved is None:
        if run.finished() or run.missing():
            reason = f"{run.path / 'state.safetensors'} is missing"
    elif not saved[0] and saved[1]["stage"] <= run.total_stages():
        reason = f"{run.path}: training was finished, but config.yaml asks for more stages now"
    elif missing := run.missing(saved[1]["stage"] - 1):
        reason = f"{run.network_file(missing[0])} is missing"
    else:
        for number in run.files(saved[1]["stage"] - 1):
            run.load_network(number)  # raises an error for a damaged or foreign one
        return _restore(context, *saved)
    if reason and context.here.main:
        notice(f"{reason}: training starts again at stage 1")
    state = stages.first_state(context)
    _save(context, state)
    return state


def _restore(context: Context, tensors: dict[str, Tensor], header: Json) -> State:
    """Return the state that `_save` wrote."""
    run = context.run
    if header.get("held_out") != context.held_out_digest:
        raise RunError(f"{run.path}: the held-out data differ from those that the run began with")
    with as_file_error(f"{run.path / 'state.safetensors'}: does not fit this run"):
        finished = not tensors and header["stage"] > run.total_stages()
        fitting, stage = not finished and header["phase"] != "flow", context.last + 1 if finished else header["stage"]
        state = stages.blank_state(context, stage, header["step"], fitting, header["step_factor"])
        if not finished:
            state.seconds = {name: float(header["seconds"][name]) for name in state.seconds}
            state.load_tensors(tensors, context.here)
            if state.init_weights:  # check that they fit now, rather than when they are needed
                level = state.data.level
                network = build(level.config, level.shape, copy.deepcopy(context.custom), level.condition).net
                network.load_state_dict(state.init_weights)
        state.rows = [StageMetrics(**row) for row in header["rows"][: state.stage - 1]]
    if context.here.main:
        try:
            found, reason = run.metrics()[: len(state.rows)], "metrics.jsonl: differs from the checkpoint"
        except RunError as error:
            found, reason = [], str(error).removesuffix(f"; {RESTORES}")
        if repr(found) != repr(state.rows):  # unlike ==, repr treats NaNs as equal
            run.write_metrics(state.rows)
            notice(f"{reason}: it was restored from the checkpoint")
    return state
