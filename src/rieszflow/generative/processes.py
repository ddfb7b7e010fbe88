"""The processes of torchrun or `accelerate launch` that train one run together."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist

from rieszflow._infra import ranks
from rieszflow._infra.extras import extra
from rieszflow._infra.ranks import Group
from rieszflow._infra.text import one_line
from rieszflow.errors import RankError, RunError

with extra("generative", "generative models"):
    from accelerate import PartialState

__all__ = ["Processes", "one_sentence", "processes", "told_to_end"]


@dataclass(frozen=True)
class Processes:
    """Which of how many this process is.

    Attributes:
        number: how many there are.
        rank: of this one, from 0.
        device: that this one works on.
        group: to talk to the others; None for one process.
    """

    number: int
    rank: int
    device: torch.device
    group: Group

    @property
    def main(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns when all are here."""
        ranks.wait(self.group)


def processes(device: torch.device) -> Processes:
    """The processes of this job; the group is made if there is none yet. `device` is the one that the settings name."""
    try:
        state = PartialState(cpu=device.type == "cpu")
    except ValueError as error:  # variables left by another program
        raise RunError(
            f"WORLD_SIZE={os.environ.get('WORLD_SIZE')} is set, but this process was not started by torchrun "
            f"({one_line(error, 100)}); unset it"
        ) from None
    if state.num_processes == 1:
        return Processes(1, 0, device, None)
    if device.type == "cuda":  # one for every process of a machine
        device = torch.device("cuda", state.local_process_index % torch.cuda.device_count())
        torch.cuda.set_device(device)
    atexit.register(_part)  # of several calls the last one finds nothing left to do
    return Processes(state.num_processes, state.process_index, device, dist.group.WORLD)


def _part() -> None:
    """Ends the group. A process that ends with it still there is aborted now and then: the group's threads are running."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def one_sentence(path: Path) -> Iterator[None]:
    """That another process is there no more is an error of the run, which says what to do."""
    try:
        yield
    except RankError as error:
        reason = one_line(error.__cause__ or error, 200)
        raise RunError(
            f"{path}: another process of this run has ended or cannot be reached ({reason}); resume the run"
        ) from error


@contextlib.contextmanager
def told_to_end(path: Path) -> Iterator[None]:
    """SIGTERM is an error with a sentence: torchrun sends it to all others as soon as one process has ended."""

    def end(number: int, frame: FrameType | None) -> None:
        raise RunError(
            f"{path}: told to end (SIGTERM), as torchrun does when another process of this run has ended; resume the run"
        )

    if threading.current_thread() is not threading.main_thread():  # only there Python takes signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
