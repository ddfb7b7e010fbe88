"""How Numba compiles our loops: its options, whether the result can be kept on disk, and a word when a compilation begins.

Numba keeps machine code beside the source, or in the user's cache folder, or in NUMBA_CACHE_DIR, and refuses to define a
function where none of them can be written, as in a container that is read-only. There we compile in every process anew. No
folder that others could write is taken instead: what Numba reads from its cache is executed.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numba
from numba.core import event

__all__ = ["OPTIONS"]

_LOG = logging.getLogger("rieszflow")
_HERE = Path(__file__).parent


def _can_keep(folder: Path) -> bool:
    """Whether Numba finds a place for what it compiles of the files of a folder: it looks for one on decorating a function."""
    home = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~"))
    beside = folder / "__pycache__"
    if not os.path.isabs(home) and not os.access(beside if beside.exists() else folder, os.W_OK):
        # A user without a home: Numba would make a folder of the name "~" where the user happens to be, and trust it later.
        return False
    defined: dict[str, Any] = {}
    exec(compile("def probe(): pass", str(folder / "__init__.py"), "exec"), defined)
    try:
        numba.njit(cache=True)(defined["probe"])
    except (RuntimeError, OSError):
        return False
    return True


KEPT = all(_can_keep(folder) for folder in (_HERE / "directions", _HERE / "engines"))
OPTIONS: dict[str, Any] = {"nogil": True, "cache": KEPT, "fastmath": {"nsz", "contract"}, "error_model": "numpy"}


class _Announcer(event.Listener):
    """Numba broadcasts a compilation, and nothing where it finds the code on disk. The first one of ours is logged."""

    def on_start(self, event: event.Event) -> None:
        if self.said or not event.data["dispatcher"].py_func.__module__.startswith("rieszflow."):
            return
        self.said = True
        _LOG.info(
            "compiling for this machine, once: some seconds"
            if KEPT
            else "compiling for this machine, some seconds in every process: no folder can be written to keep the result in; "
            "NUMBA_CACHE_DIR names one"
        )

    def on_end(self, event: event.Event) -> None:
        pass

    said = False


event.register("numba:compile", _Announcer())
