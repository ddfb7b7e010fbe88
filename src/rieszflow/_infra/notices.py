"""What happened to the input on its way in is said, not done in silence."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

__all__ = ["Notice", "notice"]

_HERE = str(Path(__file__).parent)


class Notice(UserWarning):
    """Something was left out, guessed or changed on reading; the message says what.

    Notices are Python warnings: `warnings.simplefilter("ignore", rieszflow.Notice)` silences them, "error" makes them errors.
    """


def notice(message: str) -> None:
    """Warns at the line outside of this package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, Notice, stacklevel=level)
