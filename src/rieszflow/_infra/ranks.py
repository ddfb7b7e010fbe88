"""Communication between the processes of a torch.distributed group, whose ranks hold consecutive parts of a cloud.

`group` is None if this process holds the whole cloud; then nothing is sent.
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

from rieszflow._infra.messages import one_line
from rieszflow.errors import InputError, InputTypeError, RankError

Group: TypeAlias = Any  # dist.ProcessGroup or None: PyTorch builds without torch.distributed have no such class
Values = TypeVar("Values", Tensor, npt.NDArray[Any])
Number = TypeVar("Number", int, float)


@contextlib.contextmanager
def sending(group: Group) -> Iterator[None]:
    """Convert errors of communication to `RankError`; gloo, the backend for CPUs, raises bare RuntimeErrors."""
    try:
        yield
    except RuntimeError as error:
        foreign = isinstance(error, dist.DistError) or type(error) is RuntimeError
        if group is None or not foreign:
            raise
        raise RankError(f"another process has ended or cannot be reached ({one_line(error, 200)})") from error


def check(group: Group) -> Group:
    """Return the `group` argument of a public function, if it is valid."""
    if group is None:
        return None
    if not dist.is_available() or not dist.is_initialized():
        raise InputError(
            "`group` must be None if torch.distributed is not initialised; call torch.distributed.init_process_group first"
        )
    if not isinstance(group, dist.ProcessGroup):
        raise InputTypeError(f"`group` must be a torch.distributed.ProcessGroup or None, got {type(group).__name__}")
    return group


def all_reduce_sum(values: Values, group: Group, operation: dist.ReduceOp.RedOpType | None = None) -> Values:
    """Replace an array or tensor by its sum over all ranks, or by the result of another `torch.distributed.ReduceOp`."""
    if group is None:
        return values
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    nccl = dist.get_backend(group) == "nccl"
    sent = tensor.to(torch.device("cuda", torch.cuda.current_device()) if nccl else "cpu")
    with sending(group):
        dist.all_reduce(sent, operation or dist.ReduceOp.SUM, group=group)
    if sent is not tensor:
        tensor.copy_(sent)
    return values


def all_reduce_range(low: Values, high: Values, group: Group) -> tuple[Values, Values]:
    """Return the elementwise minimum of `low` and maximum of `high` over all ranks."""
    if group is None:
        return low, high
    return all_reduce_sum(low, group, dist.ReduceOp.MIN), all_reduce_sum(high, group, dist.ReduceOp.MAX)


def total(n: int, group: Group) -> int:
    """Return the number of points on all ranks."""
    return offset(n, group)[1]


def offset(n: int, group: Group) -> tuple[int, int]:
    """Return the index of the first of this rank's n points, and the number of points on all ranks."""
    if group is None:
        return 0, n
    sizes = np.zeros(dist.get_world_size(group), np.int64)
    sizes[dist.get_rank(group)] = n
    all_reduce_sum(sizes, group)
    return int(sizes[: dist.get_rank(group)].sum()), int(sizes.sum())


def shard(t: Tensor, group: Group) -> Tensor:
    """Return this rank's rows of a tensor that is equal on all ranks."""
    return t if group is None else t.tensor_split(dist.get_world_size(group))[dist.get_rank(group)].clone()


def all_gather_rows(t: Tensor, group: Group) -> Tensor:
    """Return the rows of all ranks; the inverse of `shard`."""
    if group is None:
        return t
    first, n = offset(len(t), group)
    rows = t.new_zeros(n, *t.shape[1:])
    rows[first : first + len(t)] = t
    return all_reduce_sum(rows, group)


def broadcast(number: Number, group: Group) -> Number:
    """Return the first rank's number, an int64 or a float64."""
    if group is None:
        return number
    kind = type(number)
    return kind(all_reduce_sum(np.array([number if dist.get_rank(group) == 0 else kind(0)]), group)[0])


def mean(values: Tensor, group: Group) -> Tensor:
    """Return the mean of the values on all ranks, as a tensor without dimensions."""
    if group is None:
        return values.mean()
    count = torch.tensor(values.numel(), dtype=torch.float64, device=values.device)
    sums = all_reduce_sum(torch.stack([values.sum().double(), count]), group)
    return sums[0].div(sums[1]).float()


def wait(group: Group) -> None:
    """Return when all ranks have called this."""
    broadcast(0, group)
