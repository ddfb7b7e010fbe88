"""What the processes of a torch.distributed group tell one another about a cloud that lies in parts on all of them.

`group` is None for a cloud that is here whole; then nothing is sent. The cloud is the ranks' parts one after another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from rieszflow.errors import InputError, InputTypeError, RankError

__all__ = [
    "Group",
    "all_gather_rows",
    "all_reduce_range",
    "all_reduce_sum",
    "broadcast_int",
    "check",
    "mean",
    "offset",
    "sending",
    "shard",
    "total",
    "wait",
]

Group: TypeAlias = Any  # dist.ProcessGroup or None: PyTorch builds without torch.distributed have no such class
Values = TypeVar("Values", Tensor, npt.NDArray[Any])  # numbers of any dtype


@contextlib.contextmanager
def sending(group: Group) -> Iterator[None]:
    """What the other ranks' ends do to a message between them is a `RankError`.

    Around nothing but messages, for gloo (the backend of CPUs) says all that happens to it in bare RuntimeErrors.
    """
    try:
        yield
    except RuntimeError as error:
        foreign = isinstance(error, dist.DistError) or type(error) is RuntimeError
        if group is None or not foreign:
            raise
        reason = " ".join(str(error).split())[:200]
        raise RankError(f"another process has ended or cannot be reached ({reason})") from error


def check(group: Group) -> Group:
    """The `group` argument of a public function."""
    if group is None:
        return None
    if not dist.is_available() or not dist.is_initialized():
        raise InputError(
            "group: given, but torch.distributed is not initialised; call torch.distributed.init_process_group first"
        )
    if not isinstance(group, dist.ProcessGroup):
        raise InputTypeError(f"group: {type(group).__name__} given; a torch.distributed.ProcessGroup or None is accepted")
    return group


def _device(group: Group) -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else torch.device("cpu")


def all_reduce_sum(values: Values, group: Group, operation: Any = None) -> Values:
    """The sum over all ranks of an array or tensor, in its own memory.

    Args:
        values: what this rank adds; overwritten by the sum.
        group: the ranks; None for this one alone.
        operation: a `torch.distributed.ReduceOp` instead of the sum.

    Raises:
        RankError: another rank has ended or cannot be reached.
    """
    if group is None:
        return values
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    sent = tensor.to(_device(group))
    with sending(group):
        dist.all_reduce(sent, operation or dist.ReduceOp.SUM, group=group)
    if sent is not tensor:
        tensor.copy_(sent)
    return values


def all_reduce_range(low: Values, high: Values, group: Group) -> tuple[Values, Values]:
    """Least of `low` and greatest of `high`, element by element."""
    if group is None:
        return low, high
    return all_reduce_sum(low, group, dist.ReduceOp.MIN), all_reduce_sum(high, group, dist.ReduceOp.MAX)


def total(n: int, group: Group) -> int:
    """The number of points of all ranks."""
    return offset(n, group)[1]


def offset(n: int, group: Group) -> tuple[int, int]:
    """Number of the first of this rank's n points among all, and how many all are."""
    if group is None:
        return 0, n
    sizes = np.zeros(dist.get_world_size(group), np.int64)
    sizes[dist.get_rank(group)] = n
    all_reduce_sum(sizes, group)
    return int(sizes[: dist.get_rank(group)].sum()), int(sizes.sum())


def shard(t: Tensor, group: Group) -> Tensor:
    """This rank's rows of a tensor that all ranks have whole."""
    return t if group is None else t.tensor_split(dist.get_world_size(group))[dist.get_rank(group)].clone()


def all_gather_rows(t: Tensor, group: Group) -> Tensor:
    """The rows of all ranks, on all of them: the inverse of `part`."""
    if group is None:
        return t
    first, many = offset(len(t), group)
    whole = t.new_zeros(many, *t.shape[1:])
    whole[first : first + len(t)] = t
    return all_reduce_sum(whole, group)


def broadcast_int(number: int, group: Group) -> int:
    """The first rank's number, on all of them."""
    if group is None:
        return number
    return int(all_reduce_sum(np.array([number if dist.get_rank(group) == 0 else 0], np.int64), group)[0])


def mean(values: Tensor, group: Group) -> Tensor:
    """The mean of all ranks' numbers: a tensor of no dimensions, the same on all of them."""
    if group is None:
        return values.mean()
    both = torch.stack([values.sum().double(), torch.tensor(values.numel(), dtype=torch.float64, device=values.device)])
    both = all_reduce_sum(both, group)
    return both[0].div(both[1]).float()


def wait(group: Group) -> None:
    """Returns when all ranks are here."""
    broadcast_int(0, group)
