"""Checkpoints: the state of a training as a file that any number of processes can read, regardless of how many wrote it.

Once all networks are trained, a checkpoint has no tensors, because the particles are no longer needed.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import Tensor

from rieszflow._infra.files import Json, out_of_memory
from rieszflow._infra.text import one_line
from rieszflow.errors import RankError, RunError
from rieszflow.generative.begin import blank
from rieszflow.generative.context import Context
from rieszflow.generative.keeping import filled, said_of, tensors_of
from rieszflow.generative.networks import build
from rieszflow.generative.state import State

__all__ = ["restore", "save"]


def save(context: Context, state: State) -> None:
    """Writes the state. All processes make this call; the first one writes."""
    tensors = {} if state.network > context.last else tensors_of(state, context.here)
    if context.here.main:
        context.run.save_state(tensors, {**said_of(state), "held_out": context.held_out_digest})


def restore(context: Context, tensors: dict[str, Tensor], said: Json) -> State:
    """The state that `save` wrote.

    Raises:
        RunError: it is of another make, or was trained with other held-out data.
    """
    run = context.run
    if said.get("held_out") != context.held_out_digest:
        raise RunError(f"{run.path}: began with other held-out data than those given now")
    try:
        if not tensors and said["network"] > context.last:
            ended = blank(context, said["network"], "flow", 0)
            return replace(ended, rows=tuple(said["rows"][: ended.network - 1]), after=said["after"])
        state = filled(blank(context, said["network"], said["phase"], said["step"]), tensors, said, context.here)
        if state.initial:  # that it fits, here rather than when it is needed
            level, custom = state.stage.level, copy.deepcopy(context.custom)
            build(level.config, level.shape, custom, level.condition).net.load_state_dict(state.initial)
        return replace(state, rows=tuple(state.rows[: state.network - 1]))
    except RankError:
        raise
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        if out_of_memory(error):
            raise
        raise RunError(f"{run.path / 'state.safetensors'}: does not fit this run ({one_line(error)})") from None
