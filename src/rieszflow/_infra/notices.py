"""Warnings about input that was dropped, guessed or converted."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

__all__ = ["Notice", "notice"]

_PACKAGE = str(Path(__file__).parents[1]) + os.sep


class Notice(UserWarning):
    """A warning about input that was dropped, guessed or converted; the message says what.

    Notices are Python warnings: `warnings.simplefilter("ignore", rieszflow.Notice)` silences them, "error" makes them errors.
    """


def notice(message: str) -> None:
    """Warn at the line outside of this package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, Notice, stacklevel=level)
