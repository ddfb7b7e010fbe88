"""Engines: MMD² and its derivatives on all slices, a one-dimensional problem many times.

`sort` is exact and the reference, for Riesz(1.0). `bins` takes linear time and memory independent of N, for all kernels. A new
engine is a subclass of `Engine` and an entry in `ENGINES`, which `tests/engines/test_contract.py` covers.
"""

from __future__ import annotations

from torch import Tensor

from rieszflow._infra import validate
from rieszflow._types import Need
from rieszflow.engines.base import Engine, Problem, Result
from rieszflow.engines.bins import Bins, CachedTarget
from rieszflow.engines.sort import Sort
from rieszflow.errors import InputError
from rieszflow.histograms import uses_cdf

__all__ = ["ENGINES", "Bins", "CachedTarget", "Engine", "Problem", "Result", "can_cache", "choose"]

ENGINES: dict[str, Engine] = {"sort": Sort(), "bins": Bins()}
_FEW = 4096  # with fewer points the tables of the bins cost more than the points, and sorting is about as fast


def choose(name: str, problem: Problem, x: Tensor, y: Tensor) -> Engine:
    """Return the engine of a name, or raise InputError if there is none, or if it does not support the problem.

    "auto" prefers the exact engine for few points, float64 and derivatives by weights.
    """
    validate.choice("engine", name, ("auto", *ENGINES))
    if name == "auto":
        precise = problem.need.weights or x.dtype.itemsize > 4 or x.shape[-2] + y.shape[-2] < _FEW
        name = "sort" if precise and ENGINES["sort"].refusal(problem) is None else "bins"
    if refusal := ENGINES[name].refusal(problem):
        raise InputError(refusal)
    return ENGINES[name]


def can_cache(name: str, problem: Problem) -> bool:
    """Return True if targets can be cached for this engine and problem."""
    return name in ("auto", "bins") and uses_cdf(problem.kernel) and problem.need == Need(x=True)
