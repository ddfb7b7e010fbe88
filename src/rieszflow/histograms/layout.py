"""How a slice's table is laid out: TAIL geometric bins, B equal ones over the range, TAIL geometric ones.

Two geometric bins an octave, 32 octaves: a point 10⁷ ranges away still has a bin of its own magnitude. Outliers and heavy tails
thus cost neither memory nor the resolution of the rest.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from rieszflow._infra.jit import OPTIONS

__all__ = ["FIRST", "PER_OCTAVE", "STEEP", "TAIL", "place", "tail_edge"]

TAIL = 64
PER_OCTAVE = 2
FIRST = 64.0  # the first geometric bins are as wide as half of B/64 equal ones
STEEP = 2.0
"""A bin that holds more than this many times the mass of its emptier neighbour holds a point mass.

What is above that counts as a tie in the middle of the bin. It is not spread over the bin.
"""


@numba.njit(**OPTIONS)
def place(u, B):
    """Bin and fraction inside it of a point u equal bins right of `low`, anywhere on the line."""
    # As `loops.count_rows` rounds, to the last bit: a point must be looked up in the bin that it was counted in.
    above = min(max(np.float32(u), np.float32(-1)), np.float32(B)) + np.float32(1)
    k = int(above) - 1 if above >= 0 else -1  # -1, too, for what is no number
    if 0 <= k < B:
        return TAIL + k, np.float32(u - k)
    right = k >= B
    far = u - B if right else -u
    v = 1.0 + (0.0 if far < 0 else far) * (FIRST / B)
    if not v < 1e30:  # infinity, and what is no number
        v = 1e30
    mantissa, exponent = math.frexp(v)
    within = (2.0 * mantissa - 1.0) * PER_OCTAVE
    step = min(int(within), PER_OCTAVE - 1)
    k = (exponent - 1) * PER_OCTAVE + step
    fraction = np.float32(within - step)
    if k >= TAIL:
        k, fraction = TAIL - 1, np.float32(0.5)
    if right:
        return TAIL + B + k, fraction
    return TAIL - 1 - k, np.float32(1.0) - fraction


@numba.njit(**OPTIONS)
def tail_edge(k, B):
    """Distance from the range, in equal bins, of the inner edge of the k-th geometric bin."""
    return (2.0 ** (k // PER_OCTAVE) * (1.0 + (k % PER_OCTAVE) / PER_OCTAVE) - 1.0) * B / FIRST
