"""A uniform random sample of all rows that went by, of fixed size; samples of parts add up to a sample of the whole.

Every row gets a random key, and the rows with the least keys are kept (bottom-k sampling). Keys come from a hash of the rows up
to this one: the same rows give the same sample however they are cut into batches, and different files have keys of their own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra import ranks
from rieszflow._infra.ranks import Group
from rieszflow.errors import InputError

__all__ = ["Reservoir", "capacity"]

_ROWS = 2048
_NUMBERS = 1 << 20  # 4 MB in float32
_FEWEST = 64
_HASHED = 8  # columns, spread evenly


def capacity(sample: Any, d: int) -> int:
    """The `sample` argument of a sketch; None: 2,048 rows, fewer (64 at least) where they were more than 2^20 numbers."""
    if sample is None:
        return min(_ROWS, max(_FEWEST, _NUMBERS // d))
    if isinstance(sample, bool) or not isinstance(sample, (int, np.integer)) or sample < 0:
        raise InputError(
            f"reservoir_size: {sample!r} given; a whole number of at least 0, or None for the default, is accepted"
        )
    return int(sample)


class Reservoir:
    """At most `size` rows of d columns.

    Attributes:
        seen: rows that went by. rows: (k, d) float64, k = min(size, seen), by rising keys. keys: (k,) uint64.
    """

    def __init__(self, size: int, d: int, seed: int) -> None:
        self.size, self.seen = size, 0
        self.rows, self.keys = np.empty((0, d)), np.empty(0, np.uint64)
        self._state = np.array([seed], np.uint64)

    def see(self, x: Tensor, scaled: Tensor) -> None:
        """Take rows (n, d) as they come, drawn by their values divided by the columns' spreads: no unit changes the choice."""
        self.seen += len(x)
        if not self.size:
            return
        # Rounded to float32, columns divided by their spreads give the same keys in any unit. Adding 0 turns −0 into 0.
        columns = scaled[:, :: math.ceil(x.shape[1] / _HASHED)].float().double().cpu().numpy() + 0.0
        code = np.zeros(len(x), np.uint64)
        for bits in np.ascontiguousarray(columns.T).view(np.uint64):
            code = _mixed(code ^ bits)
        sums = np.cumsum(code, dtype=np.uint64) + self._state
        self._state = sums[-1:]
        keys = _mixed(sums)
        new = np.flatnonzero(keys < self.keys[-1]) if len(self.keys) == self.size else np.arange(len(x))
        if len(new) > self.size:
            new = new[np.argpartition(keys[new], self.size)[: self.size]]
        self._take(x[torch.from_numpy(np.sort(new)).to(x.device)].double().cpu().numpy(), keys[np.sort(new)])

    def add(self, other: Reservoir) -> None:
        """The rows of another one went by as well."""
        keys = other.keys
        if np.isin(keys, self.keys).any():
            # The same rows once more, or two files that begin alike: keys as random as before, and not the same ones. They are
            # the k least of n uniform numbers, which are partial sums of exponential ones over the sum of n + 1 of them.
            rng = np.random.default_rng([self.seen, other.seen, *map(int, self.keys[:4])])
            steps = rng.exponential(size=len(keys)).cumsum()
            total = steps[-1] + rng.gamma(other.seen + 1 - len(keys))
            keys = rng.permutation((steps / total * 2.0**64).astype(np.uint64))
        self.seen, self.size = self.seen + other.seen, min(self.size, other.size)
        self._take(other.rows, keys)

    def reduce(self, group: Group) -> None:
        """The rows of all ranks went by, on every one of them."""
        rows, keys = torch.from_numpy(self.rows), torch.from_numpy(self.keys.view(np.int64))
        self.rows, self.keys = self.rows[:0], self.keys[:0]
        self.seen = int(ranks.all_reduce_sum(np.array([self.seen], np.int64), group)[0])
        self._take(ranks.all_gather_rows(rows, group).numpy(), ranks.all_gather_rows(keys, group).numpy().view(np.uint64))

    def _take(self, rows: np.ndarray, keys: np.ndarray) -> None:
        rows, keys = np.concatenate([self.rows, rows]), np.concatenate([self.keys, keys])
        least = np.argsort(keys, kind="stable")[: self.size]
        self.rows, self.keys = rows[least], keys[least]

    # Files.

    def tensors(self) -> dict[str, Tensor]:
        rows = torch.from_numpy(self.rows)
        narrow = rows.float()
        rows = narrow if torch.equal(narrow.double(), rows) else rows
        return {"sample.rows": rows, "sample.keys": torch.from_numpy(self.keys.view(np.int64))}

    def fill(self, tensors: dict[str, Tensor], seen: int) -> None:
        """Restore the rows from `tensors` and `seen`. Raises InputError if they do not fit together."""
        kept, keys, k = tensors["sample.rows"], tensors["sample.keys"], min(self.size, seen)
        if kept.dtype not in (torch.float32, torch.float64) or keys.dtype != torch.int64:
            raise InputError(f"a sample of {kept.dtype} with keys of {keys.dtype}")
        if kept.shape != (k, self.rows.shape[1]) or keys.shape != (k,) or not torch.isfinite(kept).all():
            raise InputError(f"a sample must have {k} finite rows, got shape {tuple(kept.shape)}")
        self.seen, self.rows, self.keys = seen, kept.double().numpy(), keys.numpy().view(np.uint64)
        if (self.keys[1:] < self.keys[:-1]).any():
            raise InputError("a sample with unsorted keys")


def _mixed(v: np.ndarray) -> np.ndarray:
    """uint64 to uint64, one to one and as if at random (the finaliser of splitmix64)."""
    v = v + np.uint64(0x9E3779B97F4A7C15)
    v = (v ^ (v >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    v = (v ^ (v >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = v ^ (v >> np.uint64(31))
    return mixed
