"""Compiled loops: Numba's options, whether its code can be kept on disk, a word when a compilation begins, and threads.

Numba keeps machine code beside the source, or in the user's cache folder, or in NUMBA_CACHE_DIR. Where none of them can be
written, as in a read-only container, it refuses to define a function that is to be kept. There every process compiles anew. We
never take a folder that others can write: Numba executes what it reads from its cache.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import torch
from numba.core import event

__all__ = ["KEPT", "OPTIONS", "SUMS", "parallel_for", "threads", "tile_width"]

_LOG = logging.getLogger("rieszflow")
_HERE = Path(__file__).parent.parent
_FOLDERS = tuple(
    _HERE / name for name in (".", "directions", "engines", "exact", "flow", "histograms", "two_sample")
)  # with loops


def _can_keep(folder: Path) -> bool:
    """Whether Numba finds a place for what it compiles from a folder's files. It looks for one when a function is decorated."""
    home = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~"))
    beside = folder / "__pycache__"
    if not os.path.isabs(home) and not os.access(beside if beside.exists() else folder, os.W_OK):
        # A user without a home: Numba would make a folder called "~" in the working directory, and trust it later.
        return False
    defined: dict[str, Any] = {}  # Any: whatever a module's namespace holds
    exec(compile("def probe(): pass", str(folder / "__init__.py"), "exec"), defined)
    try:
        probe = numba.njit(cache=True)(defined["probe"])
        _remove_damaged(Path(str(probe.stats.cache_path)))
    except (RuntimeError, OSError):
        return False
    return True


def _remove_damaged(cache: Path) -> None:
    """Remove cache files that a full disk or a crash truncated; Numba would raise an error instead of recompiling."""
    for file in cache.glob(f"*.py{sys.version_info[0]}{sys.version_info[1]}*.nb[ic]"):
        try:
            content = file.read_bytes()
            whole = content[:1] == b"\x80" and content[-1:] == b"."  # how every pickle begins and ends
            if whole and file.suffix == ".nbi":
                stream = io.BytesIO(content)
                if pickle.load(stream) == numba.__version__:
                    pickle.load(stream)
        except (FileNotFoundError, ImportError):  # removed by another process; an index of a module that imports this one
            continue
        except Exception:  # unpickling damaged data raises errors of any kind
            whole = False
        if not whole:
            _LOG.warning("%s: damaged; removed, and its code is compiled again", file)
            file.unlink(missing_ok=True)


KEPT = all(_can_keep(folder) for folder in _FOLDERS)
# Any: Numba has no types, and its options are of all kinds.
OPTIONS: dict[str, Any] = {"nogil": True, "cache": KEPT, "fastmath": {"nsz", "contract"}, "error_model": "numpy"}
# For loops whose sums may be reordered, so that they can be vectorised.
SUMS = {**OPTIONS, "fastmath": OPTIONS["fastmath"] | {"reassoc"}}


class _Announcer(event.Listener):
    """Logs the first compilation of ours. Numba sends no event where it finds the code on disk."""

    said = False

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


event.register("numba:compile", _Announcer())  # type: ignore[no-untyped-call]  # Numba has no types


def threads() -> int:
    """As many as PyTorch uses."""
    return torch.get_num_threads()


@lru_cache(maxsize=1)
def _pool(process: int, helpers: int) -> ThreadPoolExecutor:
    # Kept, because starting threads costs milliseconds. One a process, because a fork has none of its parent's threads.
    return ThreadPoolExecutor(helpers, thread_name_prefix="rieszflow")


def parallel_for(work: Callable[..., object], n: int, tile: int, *args: object) -> None:
    """Calls `work(first, last, worker, tile, *args)` on parts of 0 … n − 1, one part a thread.

    Parts begin at multiples of `tile`. Which worker gets which part depends on n, tile and the number of threads alone.

    Args:
        work: a Numba function that releases the interpreter's lock.
        n: how many items there are.
        tile: items that stay together.
        args: further arguments of `work`.
    """
    tiles = -(-n // tile)
    workers = max(1, min(threads(), tiles))
    cuts = [min(n, tiles * k // workers * tile) for k in range(workers + 1)]
    parts = [(cuts[k], cuts[k + 1], k, tile, *args) for k in range(workers)]
    tasks = [_pool(os.getpid(), threads()).submit(work, *part) for part in parts[1:]]
    try:
        work(*parts[0])
    finally:
        for task in tasks:
            task.result()


def tile_width(n: int) -> int:
    """Points of a tile with n numbers each: 256 KB a tile at n = 1024, in whole vectors of 16 floats."""
    return 64 if n <= 2048 else max(16, (1 << 17) // n // 16 * 16)
