"""The contract of engines. An engine computes D² and its derivatives on given slices, where everything has one dimension.

Adding an engine is adding one file with a subclass of `Engine`, and one entry in `engines.ENGINES`. The tests in
`tests/engines/test_contract.py` then run for it, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rieszflow._infra.isolation import isolated_numerics
from rieszflow._infra.ranks import Group
from rieszflow._types import Batches, Cloud, Need, Pair
from rieszflow.directions import Directions
from rieszflow.errors import InputError
from rieszflow.kernels import Kernel

__all__ = ["CachedTarget", "Engine", "Problem", "Result", "Sum"]


@dataclass(frozen=True)
class Problem:
    """What is to be computed, whatever the points are.

    Attributes:
        kernel: K.
        need: the value, and the derivatives.
        group: a torch.distributed process group if points are this rank's parts of clouds over all ranks; None if the clouds
            are here whole.
    """

    kernel: Kernel
    need: Need
    group: Group = None


@dataclass(frozen=True)
class Result:
    """What an engine answers; None for what was not asked for.

    Attributes:
        value: D², float64 of the clouds' batch shape.
        x: derivative by the points of x, in their shape and dtype.
        y: derivative by the points of y.
        a: derivative by the weights of x, (..., N).
        b: derivative by the weights of y, (..., M).
        outgrown: x has moved so far that what was kept of y no longer fits. The numbers hold; keep anew for the next call.
    """

    value: Tensor | None = None
    x: Tensor | None = None
    y: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    stale: bool = False


_PARTS = ("value", "x", "y", "a", "b")


def _made(part: Callable[[str], Tensor | None], stale: bool = False) -> Result:
    """The result whose parts a function gives by name."""
    return Result(part("value"), part("x"), part("y"), part("a"), part("b"), stale)


class Sum:
    """Results of parts of the slices, added up in the memory of the first one. That memory belongs to the sum."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, part: Result) -> None:
        for name in _PARTS:
            new: Tensor | None = getattr(part, name)
            if new is not None:
                self._sums[name] = self._sums[name].add_(new) if name in self._sums else new

    def result(self, stale: bool = False) -> Result:
        return _made(self._sums.get, stale)


class CachedTarget(ABC):
    """What an engine keeps of a target y on some slices, so that a call costs nothing for y."""

    @abstractmethod
    def evaluate(self, x: Cloud, unbiased: bool) -> Result:
        """What `Engine.evaluate` gives for x (N, d) and this target."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The numbers that `Engine.restore` needs, but for the target and the slices."""


class Engine(ABC):
    """All slices of D² and its derivatives.

    Attributes:
        name: of the `engine` argument.
        exact: whether results are those of brute force on the same slices, up to rounding.
        takes_batches: whether `_evaluate` takes clouds with batch dimensions. If not, `evaluate` gives it one after another.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    takes_batches: ClassVar[bool]

    @abstractmethod
    def refusal(self, problem: Problem) -> str | None:
        """Why this engine does not take a problem, in one sentence that begins with the argument's name. None: it does."""

    def supports(self, problem: Problem) -> bool:
        return self.refusal(problem) is None

    @isolated_numerics
    def evaluate(self, pair: Pair, directions: Directions, problem: Problem) -> Result:
        """D² and its derivatives, averaged over the slices.

        Args:
            pair: detached clouds (..., N, d) and (..., M, d). With a group they are this rank's parts, (N, d) and (M, d).
            directions: the slices, for points of dimension d.
            problem: one that this engine supports.

        Raises:
            InputError: batches with a group; points that the engine cannot hold or resolve.
        """
        if pair.x.points.ndim == 2 or (self.takes_batches and problem.group is None):
            return self._evaluate(pair, directions, problem)
        if problem.group is not None:
            raise InputError("group: given with batches of clouds; one cloud (N, d) over the ranks is accepted")
        shape = pair.x.points.shape[:-2]
        each = [self._evaluate(one, directions, problem) for one in _one_by_one(pair)]

        def stacked(name: str) -> Tensor | None:
            parts = [part for part in (getattr(result, name) for result in each) if part is not None]
            return torch.stack(parts).view(*shape, *parts[0].shape) if parts else None

        return _made(stacked)

    @abstractmethod
    def _evaluate(self, pair: Pair, directions: Directions, problem: Problem) -> Result:
        """`evaluate`; clouds have no batch dimensions unless `takes_batches`."""

    def can_cache(self, problem: Problem) -> bool:
        """Whether `keep` can keep a target for this problem."""
        return False

    def keep(self, y: Cloud | Batches, x: Tensor, directions: Directions, problem: Problem) -> CachedTarget:
        """What is kept of a target y on these slices, for points that lie like x (N, d)."""
        raise NotImplementedError

    def restore(self, y: Cloud | Batches, state: dict[str, Tensor], directions: Directions, problem: Problem) -> CachedTarget:
        """The very thing whose `state` it was, from the same target and slices. Raises KeyError for a state of others."""
        raise NotImplementedError


def _one_by_one(pair: Pair) -> list[Pair]:
    def members(cloud: Cloud) -> list[Cloud]:
        points, w = cloud.points, cloud.weights
        flat = points.flatten(0, -3)
        if w is None:
            return [Cloud(p) for p in flat]
        weights = w.expand(*points.shape[:-2], w.shape[-1]).flatten(0, -2)
        return [Cloud(p, v) for p, v in zip(flat, weights, strict=True)]

    return [Pair(x, y, pair.unbiased) for x, y in zip(members(pair.x), members(pair.y), strict=True)]
