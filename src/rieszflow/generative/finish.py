"""After a fit: the particles go on from what the network does, and the network, its metrics and pictures are written."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import replace

import torch
from torch import Tensor

from rieszflow._infra import ranks
from rieszflow._infra.files import Json
from rieszflow._types import Progress
from rieszflow.errors import RunError
from rieszflow.generative.begin import PICTURED
from rieszflow.generative.context import WATCHED, Context, Pictures, Stage
from rieszflow.generative.networks import Displacement, as_data, displace
from rieszflow.generative.pyramid import grow
from rieszflow.generative.state import State
from rieszflow.sliced import energy_distance

__all__ = ["finish", "finish_part"]


def finish(context: Context, state: State) -> State:
    """x ← x_old − Φ_l(x_old): errors of the network do not pile up unseen.

    Raises:
        RunError: the network returns non-finite values.
    """
    started = time.perf_counter()
    assert state.fit is not None
    phi, flowed = state.fit.average, state.x
    state = replace(state, x=displace(phi, state.x_old, context.config.clip))
    wanted = state.x_old - flowed
    off, size = (ranks.mean(t.pow(2), context.group) for t in (state.x - flowed, wanted))
    error = (off / size.clamp(min=1e-24)).item()
    if not math.isfinite(error):
        raise RunError(f"network {state.network} returns non-finite values; try a smaller learning_rate")
    moved = state.x
    if state.stage.level.config.continue_from == "flow":
        state = replace(state, x=flowed)
    shown, after = (ranks.all_gather_rows(t[:WATCHED], context.group)[:WATCHED] for t in (flowed, moved))
    if context.here.main:
        fresh = displace(phi, state.fresh, context.config.clip)
        state = replace(state, fresh=fresh, path=torch.cat([state.path, fresh[None, :PICTURED]]))
        row = _row(context, state, size, error, {"particles": shown, "network_particles": after})
        state = _write(context, state, phi, row)
        _tell(context, state, shown, "fit")
    context.here.wait()
    return replace(state, seconds={**state.seconds, "finish": state.seconds["finish"] + time.perf_counter() - started})


def finish_part(context: Context, state: State) -> State:
    """The part of a recording that the last flow steps made, its metrics and pictures. Particles stay where they are."""
    started = time.perf_counter()
    assert state.flow is not None and state.flow.recorder is not None
    segment, stage = state.flow.recorder.segment, state.stage
    shown = ranks.all_gather_rows(state.x[:WATCHED], context.group)[:WATCHED]
    if context.here.main:
        fresh, velocities = segment.push(state.fresh, state.fresh_velocities)
        path = torch.cat([state.path, fresh[None, :PICTURED]])
        state = replace(state, fresh=fresh, fresh_velocities=velocities, path=path)
        row = {**_row_head(context, state), "megabytes": segment.nbytes / 1e6}
        row |= _distances(stage, {"particles": shown, "fresh_samples": as_data(fresh, stage.level)})
        checksum = context.run.save_network(state.network, segment.to_tensors(), {})
        rows = (*state.rows[: state.network - 1], {**row, "seconds": dict(state.seconds), "network_checksum": checksum})
        state = replace(state, after=checksum, rows=rows)
        context.run.write_metrics(state.rows)
        _tell(context, state, shown, "flow")
    context.here.wait()
    return replace(state, seconds={**state.seconds, "finish": state.seconds["finish"] + time.perf_counter() - started})


def _tell(context: Context, state: State, particles: Tensor, what: str) -> None:
    """Pictures, and a word of progress."""
    shown = (context.condition.data(t).cpu() for t in (particles, state.fresh, state.path))
    particles, samples, path = (grow(t, state.stage.level.shape, context.run.shape, 0.0, None) for t in shown)
    if context.callbacks.draw is not None:
        asked = None if context.conditions is None else context.conditions[context.config.particles :]
        kind, known = context.condition.kind, context.condition.known
        labels = asked if kind == "class" else None
        part = known.project(asked) if kind == "observed" and known is not None and asked is not None else None
        context.callbacks.draw(context.run, Pictures(particles, samples, path, labels, part))
        gc.collect()  # figures leave reference cycles that keep frames, and so gigabytes of particles, alive
    context.callbacks.tell(Progress(what, state.step, state.step, state.network, context.last, None, state.rows[-1]))


def _row(context: Context, state: State, size: Tensor, error: float, moved: dict[str, Tensor]) -> Json:
    """A line of metrics.jsonl.

    `size` is the mean square of displacements. `moved` are particles after the flow and after the network.
    """
    return {
        **_row_head(context, state),
        "displacement_rms": size.sqrt().item(),
        "fit_error": error,
        **_distances(state.stage, {**moved, "fresh_samples": as_data(state.fresh, state.stage.level)}),
        "seconds": dict(state.seconds),
    }


def _row_head(context: Context, state: State) -> Json:
    return {
        "network": state.network,
        "level": state.stage.level.factor,
        "flow_steps": context.schedule[state.network - 1],
        "flow_steps_total": sum(context.schedule[: state.network]),
    }


def _distances(stage: Stage, clouds: dict[str, Tensor]) -> Json:
    found = {**clouds, "training_data": stage.watched}
    return {"energy_distance": {n: energy_distance(x, stage.held_out, statistic="U").item() for n, x in found.items()}}


def _write(context: Context, state: State, phi: Displacement, row: Json) -> State:
    """The network's file and the metrics."""
    run = context.run
    # Network first, checkpoint last: a run killed between the two fits this network again, to the same weights.
    checksum = run.save_network(state.network, phi.state_dict(), {"fit_error": row["fit_error"]})
    state = replace(state, after=checksum, rows=(*state.rows[: state.network - 1], {**row, "network_checksum": checksum}))
    run.write_metrics(state.rows)
    return state
