"""Warnings about input that was dropped, guessed or converted."""

from __future__ import annotations

import sys
import warnings

__all__ = ["Notice", "notice"]

_SKIPPED = ("rieszflow", "torch")


class Notice(UserWarning):
    """A warning about input that was dropped, guessed or converted; the message says what.

    Notices are Python warnings: `warnings.simplefilter("ignore", rieszflow.Notice)` silences them, "error" makes them errors.
    """


def notice(message: str) -> None:
    """Warn at the line outside of this package, and of PyTorch's calls in between, that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] in _SKIPPED:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, Notice, stacklevel=level)
