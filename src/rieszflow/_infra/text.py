"""Text for messages: names, values and errors from outside, on one line and of limited length."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

__all__ = ["on_one_line", "one_line", "printable", "short_repr", "shorten", "suggestion"]


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
