"""Warnings about input that was dropped, guessed or converted."""

from __future__ import annotations

import sys
import warnings

__all__ = ["Notice", "notice"]


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
