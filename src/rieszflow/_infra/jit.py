"""Numba's options, its cache on disk, and a parallel loop.

Numba stores machine code next to the source, in the user's cache folder or in NUMBA_CACHE_DIR. If none of them is writable, it
refuses to define a cached function; then every process compiles. A folder that others can write to is never used, because Numba
executes what it reads from its cache.
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

threads: Callable[[], int] = torch.get_num_threads
_LOG = logging.getLogger("rieszflow")
_PACKAGE = Path(__file__).parents[1]
_WITH_LOOPS = (".", "directions", "engines", "exact", "flow", "histograms", "two_sample")


def _can_cache(folder: Path) -> bool:
    """Return True if Numba can cache code from a folder, which it decides when a function is decorated."""
    home = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~"))
    local = folder / "__pycache__"
    if not os.path.isabs(home) and not os.access(local if local.exists() else folder, os.W_OK):
        return False  # without a home, Numba would create a folder "~" in the working directory, and trust it later
    defined: dict[str, Any] = {}
    exec(compile("def probe(): pass", str(folder / "__init__.py"), "exec"), defined)
    try:
        probe = numba.njit(cache=True)(defined["probe"])
        _remove_damaged(Path(str(probe.stats.cache_path)))
    except (RuntimeError, OSError):
        return False
    return True


def _remove_damaged(cache: Path) -> None:
    """Remove cache files that a full disk or a crash has truncated; Numba would raise an error instead of recompiling."""
    for file in cache.glob(f"*.py{sys.version_info[0]}{sys.version_info[1]}*.nb[ic]"):
        try:
            content = file.read_bytes()
            whole = content[:1] == b"\x80" and content[-1:] == b"."  # how every pickle begins and ends
            if whole and file.suffix == ".nbi":
                stream = io.BytesIO(content)
                if pickle.load(stream) == numba.__version__:
                    pickle.load(stream)
        except (FileNotFoundError, ImportError):  # removed by another process, or refers to a module that imports this one
            continue
        except Exception:  # unpickling damaged data raises errors of any kind
            whole = False
        if not whole:
            _LOG.warning("%s: damaged; removed, and its code is compiled again", file)
            file.unlink(missing_ok=True)


CACHED = all(_can_cache(_PACKAGE / folder) for folder in _WITH_LOOPS)
OPTIONS: dict[str, Any] = {"nogil": True, "cache": CACHED, "fastmath": {"nsz", "contract"}, "error_model": "numpy"}
SUMS = {**OPTIONS, "fastmath": {"nsz", "contract", "reassoc"}}  # for loops whose sums may be reordered and vectorised


class _Announcer(event.Listener):
    """Logs the first compilation of this package. Numba sends no event if it finds the code on disk."""

    announced = False

    def on_start(self, event: event.Event) -> None:
        if self.announced or not event.data["dispatcher"].py_func.__module__.startswith("rieszflow."):
            return
        self.announced = True
        where = "once" if CACHED else "in every process, because no cache folder is writable (set NUMBA_CACHE_DIR)"
        _LOG.info("compiling for this machine, %s; this takes some seconds", where)

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Announcer())  # type: ignore[no-untyped-call]  # Numba has no types


@lru_cache(maxsize=1)
def _pool(process: int, helpers: int) -> ThreadPoolExecutor:
    # Cached, because starting threads takes milliseconds; per process, because a fork has none of its parent's threads.
    return ThreadPoolExecutor(helpers, thread_name_prefix="rieszflow")


def parallel_for(work: Callable[..., object], n: int, tile: int, *args: object) -> None:
    """Call `work(first, last, worker, tile, *args)` on parts of 0 … n − 1, one part per thread, without the GIL.

    Parts begin at multiples of `tile`. They depend only on n, tile and the number of threads.
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
    """Return the number of points with n coordinates in a tile: 256 KB at n = 1024, in whole vectors of 16 floats."""
    return 64 if n <= 2048 else max(16, (1 << 17) // n // 16 * 16)
