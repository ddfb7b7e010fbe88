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
from accelerate import PartialState

from rieszflow._infra.messages import one_line
from rieszflow._infra.ranks import Group
from rieszflow.errors import RankError, RunError


@dataclass(frozen=True)
class Processes:
    """The `number` of processes that train a run, and the rank of this one; `group` is None if there is only one."""

    number: int
    rank: int
    device: torch.device
    group: Group

    @property
    def main(self) -> bool:
        """True for the process that writes files and shows progress."""
        return self.rank == 0


def processes(device: torch.device) -> Processes:
    """Form the group of this job's processes; `device` is the one in the settings."""
    try:
        state = PartialState(cpu=device.type == "cpu")
    except ValueError as error:  # environment variables left by another program
        raise RunError(
            f"WORLD_SIZE={os.environ.get('WORLD_SIZE')} is set, but this process was not started by torchrun "
            f"({one_line(error, 100)}); unset it"
        ) from None
    if state.num_processes == 1:
        return Processes(1, 0, device, None)
    if device.type == "cuda":  # one for each process of a machine
        device = torch.device("cuda", state.local_process_index % torch.cuda.device_count())
        torch.cuda.set_device(device)
    atexit.register(state.destroy_process_group)  # whose threads would sometimes abort the process at its end
    return Processes(state.num_processes, state.process_index, device, dist.group.WORLD)


@contextlib.contextmanager
def report_rank_errors(path: Path) -> Iterator[None]:
    """Convert a RankError, raised if another process of the training is lost, to a RunError that says what to do."""
    try:
        yield
    except RankError as error:
        reason = one_line(error.__cause__ or error, 200)
        raise RunError(
            f"{path}: another process of this run has ended or cannot be reached ({reason}); resume the run"
        ) from error


@contextlib.contextmanager
def sigterm_as_error(path: Path) -> Iterator[None]:
    """Raise a RunError on SIGTERM, which torchrun sends to all other processes as soon as one has ended."""

    def end(number: int, frame: FrameType | None) -> None:
        raise RunError(
            f"{path}: terminated (SIGTERM), as torchrun does when another process of this run has ended; resume the run"
        )

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
