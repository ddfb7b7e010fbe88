"""The contract of engines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rieszflow._infra.ranks import Group
from rieszflow._types import Need, Pair
from rieszflow.directions import Directions
from rieszflow.kernels import Kernel


@dataclass(frozen=True)
class Problem:
    """The kernel, the needed results, and the process group whose ranks hold parts of the clouds; None if they are complete."""

    kernel: Kernel
    need: Need
    group: Group = None


@dataclass
class Result:
    """The answer of an engine; None for what was not needed.

    Attributes:
        value: MMD², float64 of the clouds' batch shape.
        x, y: Derivatives by the points, in their shape and dtype.
        a, b: Derivatives by the weights of x (..., N) and y (..., M).
        stale: True if x left the cached bin range; the result is valid, but the cache should be rebuilt before the next call.
    """

    value: Tensor | None = None
    x: Tensor | None = None
    y: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    stale: bool | Tensor = False

    def __iadd__(self, part: Result) -> Result:
        """Add the result on further slices, in the memory of the first one."""
        for name in ("value", "x", "y", "a", "b"):
            old, new = getattr(self, name), getattr(part, name)
            if new is not None:
                setattr(self, name, new if old is None else old.add_(new))
        self.stale |= part.stale
        return self


class Engine(ABC):
    """MMD² and its derivatives on all slices.

    Attributes:
        name: Name in the `engine` argument.
    """

    name: ClassVar[str]

    @abstractmethod
    def refusal(self, problem: Problem) -> str | None:
        """Return a message why this engine does not support a problem, which begins with the argument; None if it does."""

    @abstractmethod
    def evaluate(self, pair: Pair, directions: Directions, problem: Problem) -> Result:
        """Return the means of MMD² and its derivatives over the slices, for detached clouds and a supported problem.

        Raises InputError for batches with a group, and for points that the engine cannot hold or resolve.
        """
