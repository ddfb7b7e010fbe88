"""Warnings about the input, and text for messages."""

from __future__ import annotations

import difflib
import reprlib
import sys
import warnings
from collections.abc import Iterable


class Notice(UserWarning):
    """A warning about input that was dropped, guessed or converted; the message says what.

    Notices are Python warnings: `warnings.simplefilter("ignore", rieszflow.Notice)` silences them, "error" makes them errors.
    """


def notice(message: str) -> None:
    """Warn at the line of the caller's code that led here, behind the frames of this package and of PyTorch's autograd."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in ("rieszflow", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, Notice, stacklevel=level)


def shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def one_line(error: object, limit: int = 300) -> str:
    """Return the message of an error without line breaks, cut because some libraries write whole pages."""
    return shorten(" ".join(str(error).split()) or type(error).__name__, limit)


def on_one_line(text: str) -> str:
    """Return a text on one line, with "?" for what cannot be printed, such as the escape sequences of a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def printable(text: object) -> str:
    """Return a text on one line, with control characters and undecodable bytes written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def short_repr(value: object, limit: int = 120) -> str:
    """Return the `repr` of a value of any size, on one line."""
    try:
        text = repr(value) if isinstance(value, (int, float, str, list, tuple, dict)) else reprlib.repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a very long number"
    return shorten(text, limit)


def suggestion(name: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return "did you mean …?" with the known name that is most similar, or an empty string."""
    near = difflib.get_close_matches(str(name), list(known), 1, cutoff)
    return f"did you mean {near[0]!r}?" if near else ""
