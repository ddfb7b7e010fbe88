"""Engines: MMD² and its derivatives on all slices, a one-dimensional problem many times.

`sort` is exact and the reference, for Riesz(1.0). `bins` takes linear time and no memory that grows with N, for all kernels. A
new engine is one file with a subclass of `Engine` and one entry in `ENGINES`; `tests/engines/test_contract.py` then covers it.
"""

from __future__ import annotations

from torch import Tensor

from rieszflow.engines.base import Engine, Problem, Result
from rieszflow.engines.bins import Bins, CachedTarget
from rieszflow.engines.sort import Sort
from rieszflow.errors import InputError

__all__ = ["ENGINES", "Bins", "CachedTarget", "Engine", "Problem", "Result", "caching_engine", "choose"]

_BINS = Bins()
ENGINES: dict[str, Engine] = {"sort": Sort(), "bins": _BINS}

# Below this number the tables of the bins cost more than the points, and the exact engine is about as fast.
_FEW = 4096


def choose(name: str, problem: Problem, x: Tensor, y: Tensor) -> Engine:
    """Return the engine of a name.

    Of the engines that support the problem, "auto" prefers an exact one for few points, float64 and derivatives by weights.

    Raises:
        InputError: An unknown name, or a problem that the engine does not support.
    """
    if isinstance(name, str) and name == "auto":
        precise = problem.need.weights or x.dtype.itemsize > 4 or x.shape[-2] + y.shape[-2] < _FEW
        by_preference = sorted(ENGINES.values(), key=lambda engine: engine.exact, reverse=precise)
        found = next((engine for engine in by_preference if engine.refusal(problem) is None), _BINS)
    elif isinstance(name, str) and name in ENGINES:
        found = ENGINES[name]
    else:
        raise InputError(f"`engine` must be one of {', '.join(map(repr, ('auto', *ENGINES)))}, got {name!r}")
    refusal = found.refusal(problem)
    if refusal is not None:
        raise InputError(refusal)
    return found


def caching_engine(name: str, problem: Problem) -> Bins | None:
    """Return the engine that can cache targets, if the name and the problem allow it."""
    return _BINS if name in ("auto", _BINS.name) and _BINS.can_cache(problem) else None
