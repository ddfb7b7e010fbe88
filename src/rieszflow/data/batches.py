"""Batches as tensors, whatever holds them: loaders, lists, iterators, arrays."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.notices import notice
from rieszflow.data.columns import named
from rieszflow.data.points import as_points
from rieszflow.data.tables import Table
from rieszflow.errors import InputError, InputTypeError

__all__ = ["Source", "batch_points", "passes"]

_ENTRIES = ("x", "image", "images", "pixel_values", "data")


@dataclass(frozen=True)
class Source:
    """Where points come from.

    Attributes:
        name: for messages.
        batches: a pass over all of them.
        n: how many; None where only a pass would tell.
        names: of the d columns, or None.
        rows: points by their numbers, from anywhere, where that is cheap; else None.
        left_out: columns of a table that are not read, with the reason.
        is_table: whether columns can be chosen by name.
        once: True for an iterator, which can be read only once.
        table: the table, whose columns can be read as labels; None otherwise.
    """

    name: str
    batches: Callable[[], Iterable[Any]]
    n: int | None = None
    names: list[str] | None = None
    rows: Callable[[np.ndarray], np.ndarray] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    is_table: bool = False
    once: bool = False
    table: Table | None = None


def passes(source: Iterable[Any]) -> Callable[[], Iterable[Any]]:
    """Passes over batches. The first one is for a look at the first batch, and the second goes on from there."""
    begun: list[Iterator[Any]] = []
    seen: list[Any] = []

    def look(passing: Iterator[Any]) -> Iterator[Any]:
        for batch in passing:
            seen.append(batch)
            yield batch

    def batches() -> Iterable[Any]:
        if not begun:
            begun.append(iter(source))
            return look(begun[0])
        if seen:
            first = list(seen)
            seen.clear()
            return itertools.chain(first, begun[0])
        if isinstance(source, Iterator):
            raise InputError("iterator: can be passed over once; give a list, a DataLoader or a file for more")
        return source

    return batches


def batch_points(batch: Any, name: str) -> Tensor:
    """A batch as a tensor (m, …) of float32 or float64, pictures with their channels first."""
    batch = as_points(_entry(batch, name), name)
    if batch.ndim < 2:
        raise InputError(
            f"{name}: shape {tuple(batch.shape)} given, which can be one point or many; batches (m, d) are accepted"
        )
    if isinstance(batch, Tensor):
        return batch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of memory that cannot be written: nobody here writes to points
        batch = batch.copy() if any(step < 0 for step in batch.strides) else np.ascontiguousarray(batch)
        return torch.from_numpy(batch)


def _entry(batch: Any, name: str) -> Any:
    """The points of a batch that holds more than points."""
    if isinstance(batch, Mapping):
        known = [key for key in _ENTRIES if key in batch]
        if len(batch) != 1 and len(known) != 1:
            raise InputTypeError(
                f"{name}: a mapping with the keys {named([str(key) for key in batch])} given; one key, or one of "
                f"{named(_ENTRIES)} beside others, is accepted"
            )
        key = known[0] if known else next(iter(batch))
        if len(batch) > 1:
            notice(f"{name.partition(', batch')[0]}: of every batch the entry {key!r} counts, the others are left out")
        return batch[key]
    if isinstance(batch, (tuple, list)):
        if not batch:
            raise InputTypeError(f"{name}: an empty {type(batch).__name__} given; a tensor or array (m, ...) is accepted")
        if any(getattr(entry, "ndim", 0) == 0 for entry in batch):
            raise InputTypeError(
                f"{name}: a single point, or plain numbers, given; batches that are tensors or arrays (m, d) are accepted"
            )
        if len(batch) > 1:
            notice(f"{name.partition(', batch')[0]}: of every batch, {len(batch)} entries, the first one counts")
        return batch[0]
    return batch
