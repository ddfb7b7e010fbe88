"""What a setting may be: small checks that say in words what they accept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rieszflow._infra.text import short_repr as shown
from rieszflow.errors import ConfigError

__all__ = [
    "MOST",
    "TEXT",
    "TRUTH",
    "Check",
    "fraction",
    "is_number",
    "list_of",
    "number",
    "one_of",
    "optional",
    "shown",
    "whole",
]

MOST = 10**9  # of whole numbers: a slip of the hand should not ask for more memory than there is
LONGEST = 100  # entries of a list


@dataclass(frozen=True)
class Check:
    """Whether a value is accepted.

    Attributes:
        fits: the question itself.
        accepted: the second half of the message, such as "a positive number is".
    """

    fits: Callable[[object], bool]
    accepted: str

    def __call__(self, name: str, value: object) -> None:
        """Raises ConfigError, naming the setting, its value and what is accepted."""
        if not self.fits(value):
            raise ConfigError(f"{name}: {shown(value)} given; {self.accepted} accepted")


def is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: object) -> bool:
    """A finite number that float64 and int64 can hold."""
    if isinstance(value, bool):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else isinstance(value, float) and math.isfinite(value)


def whole(least: int = 1, most: int = MOST) -> Check:
    return Check(lambda v: is_whole(v, least, most), f"a whole number of at least {least} and at most {most:,} is")


def number(accepted: str, fits: Callable[[float], bool]) -> Check:
    """A finite number for which `fits` is true."""
    return Check(lambda v: isinstance(v, (int, float)) and is_number(v) and fits(v), accepted)


def fraction(zero: bool = True) -> Check:
    """In [0, 1), or in (0, 1)."""
    return number(f"a number in {'[' if zero else '('}0, 1) is", lambda v: 0 <= v < 1 and (zero or v > 0))


def one_of(names: tuple[str, ...]) -> Check:
    return Check(lambda v: isinstance(v, str) and v in names, ", ".join(map(repr, names)) + " are")


def optional(check: Check) -> Check:
    return Check(lambda v: v is None or check.fits(v), f"null or {check.accepted}")


def list_of(accepted: str, each: Callable[[object], bool], least: int = 0, most: int = LONGEST) -> Check:
    """A tuple (lists of a file are tuples by then) of `least` to `most` entries."""
    return Check(lambda v: isinstance(v, tuple) and least <= len(v) <= most and all(map(each, v)), accepted)


TRUTH = Check(lambda v: isinstance(v, bool), "true or false is")
TEXT = Check(lambda v: isinstance(v, str), "a name is")
