"""One slice, one dimension: D² of two weighted point sets on the line, and its derivative.

An engine is a module with two functions (the contract; every engine is tested by the same tests against brute force):

    gradient(px, py, a, b, self_factor) -> (..., P, N)
        the derivative by px of Σ ab|px − py| − ½ self_factor Σ aa|px − px′| in every slice, divided by the point's
        own weight; self_factor is a tensor (..., 1, 1). With distribution functions F of px and G of py (mid-ranks at
        ties): 2G − 1 − self_factor(2F − 1).
    profile(px, py, a, b) -> Profile
        everything a value and a derivative by all arguments is made of.

px is (..., P, N), py is (..., P, M); a and b are weights (..., N), (..., M), or None for equal ones. Adding an engine is
adding one file and one entry in `ENGINES`.
"""

from __future__ import annotations

from types import ModuleType

from rieszflow.engines import sort

__all__ = ["ENGINES", "get"]

ENGINES: dict[str, ModuleType] = {"sort": sort}


def get(name: str) -> ModuleType:
    """The engine of a name; `"auto"` picks."""
    if name == "auto":
        return sort
    if name not in ENGINES:
        raise ValueError(f"engine: {name!r} given; {', '.join(repr(n) for n in ('auto', *ENGINES))} are accepted")
    return ENGINES[name]
