"""Units of permutation: points, or groups of points, with or without weights."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass

import numpy as np

from rieszflow._types import Points, PointSource
from rieszflow.data import load_labelled
from rieszflow.errors import InputError, InputTypeError
from rieszflow.sketch.counts import point_weights


@dataclass
class Units:
    """Points that are assigned to blocks: one by one, or in groups that stay together; with weights or without."""

    n: int  # points, or groups
    group: np.ndarray | None = None  # of every point, (points,) integers below n
    weights: np.ndarray | None = None  # of every point


def read_groups(x: PointSource, y: PointSource, groups: object) -> list[tuple[PointSource, np.ndarray | None]]:
    """Return both samples, and the group of every point as an integer, from 0 in each sample."""
    if groups is None:
        return [(x, None), (y, None)]
    pair = (groups, groups) if isinstance(groups, str) else groups
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise InputTypeError(
            f"`groups` must be the name of a column or a pair of sequences of labels, got {reprlib.repr(groups)}"
        )
    found: list[tuple[PointSource, np.ndarray | None]] = []
    seen: set[str] = set()
    for name, points, of in (("x", x, pair[0]), ("y", y, pair[1])):
        cloud, labels = load_labelled(points, of)
        names, group = np.unique(labels, return_inverse=True)
        if len(names) < 2:
            raise InputError(f"`groups` must have at least two groups in {name}, got {names[0]!r} only")
        if both := seen & set(names):
            raise InputError(f"`groups` must be in one sample each, got {min(both)!r} in both")
        seen = set(names)
        found.append((cloud, group))
    return found


def read_weights(points: tuple[object, object], given: tuple[Points | None, Points | None]) -> list[np.ndarray | None]:
    names = ("x_weights", "y_weights")
    if (given[0] is None) != (given[1] is None):
        missing = names[0] if given[0] is None else names[1]
        raise InputError(f"`{missing}` must be given if the other sample has weights, got None; ones weigh all points equally")
    found = [
        None if w is None else point_weights(w, x, name).double().cpu().numpy()
        for name, x, w in zip(names, points, given, strict=True)
    ]
    for name, w in zip(names, found, strict=True):
        if w is not None and (w.sum() / w.max()) ** 2 < (1 + 1e-9) * ((w / w.max()) ** 2).sum():
            raise InputError(f"`{name}` must be positive for at least two points, got one that outweighs the others")
    largest = max((float(w.max()) for w in found if w is not None), default=1.0)
    return [None if w is None else w / largest for w in found]
