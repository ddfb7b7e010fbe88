"""Where a training goes on: at its last checkpoint, or at the first network where files are missing."""

from __future__ import annotations

import json
from dataclasses import dataclass

from torch import Tensor

from rieszflow._infra.files import Json
from rieszflow._infra.notices import notice
from rieszflow.errors import RunError
from rieszflow.generative.begin import start
from rieszflow.generative.checkpoint import restore, save
from rieszflow.generative.context import Context
from rieszflow.generative.run import RESTORED
from rieszflow.generative.state import State

__all__ = ["Later", "begin", "caught_up"]


@dataclass(frozen=True)
class Later:
    """A checkpoint that waits until all missing networks, up to `network`, are trained again."""

    network: int
    tensors: dict[str, Tensor]
    said: Json


def begin(context: Context) -> tuple[State, Later | None]:
    """From a checkpoint, if all that came before it is there and whole; otherwise from the start.

    Raises:
        RunError: a file is damaged or of another run, or a folder is in the place of a network.
    """
    run, why, later = context.run, "", None
    if context.here.main:
        run.clear_temporaries()
    context.here.wait()
    saved = run.load_state()
    for file in map(run.network_file, range(1, context.last + 1)):
        if file.is_dir():
            raise RunError(f"{file}: a folder is in the place of a network; remove it, and resume")
    if saved is not None and not saved[0] and saved[1]["network"] <= context.last:
        why = f"{run.path}: training was finished, but config.yaml asks for more networks now"
    elif saved is not None:
        if not (missing := run.missing(saved[1]["network"] - 1)):
            run.verify(saved[1])
            return _restored(context, *saved), None
        later = Later(missing[-1], *saved)
        why = f"{run.network_file(missing[0])} is missing"
    elif run.finished() or run.missing():
        why = f"{run.path / 'state.safetensors'} is missing"
    if why and context.here.main:
        notice(f"{why}: the training begins again at the first network")
    state = start(context)
    save(context, state)
    return state, later


def caught_up(context: Context, later: Later) -> State | None:
    """The later state, if the networks that were missing are what they were; None if not."""
    try:
        context.run.verify(later.said)
    except RunError:  # other weights, as on a GPU: what was trained after them does not fit any more
        return None
    if context.here.main:
        context.run.write_metrics(later.said["rows"])
        context.run.save_state(later.tensors, later.said)
    return _restored(context, later.tensors, later.said)


def _restored(context: Context, tensors: dict[str, Tensor], said: Json) -> State:
    state = restore(context, tensors, said)
    if context.here.main:
        _restore_metrics(context, state)
    return state


def _restore_metrics(context: Context, state: State) -> None:
    """metrics.jsonl, where it is not what the checkpoint says that it was."""
    try:
        there, why = context.run.metrics()[: len(state.rows)], "metrics.jsonl: other lines than the checkpoint has"
    except RunError as error:
        there, why = [], str(error)
    if json.dumps(there) != json.dumps(state.rows):
        context.run.write_metrics(state.rows)
        notice(f"{why.removesuffix('; ' + RESTORED)}: its lines are written anew from the checkpoint")
