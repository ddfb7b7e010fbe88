"""Compiled loops shared out over threads: as many as PyTorch uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch

__all__ = ["share", "threads"]


def threads() -> int:
    return torch.get_num_threads()


@lru_cache(maxsize=1)
def _pool(process: int, helpers: int) -> ThreadPoolExecutor:
    # Kept, for starting threads costs milliseconds; by process, for a fork has none of its parent's threads.
    return ThreadPoolExecutor(helpers, thread_name_prefix="rieszflow")


def share(work: Callable[..., Any], n: int, tile: int, *args: Any) -> None:
    """Calls `work(first, last, worker, tile, *args)` on parts of 0 … n − 1 that begin at multiples of `tile`, one a thread.

    `work` is a Numba function that releases the interpreter's lock; which worker gets which part depends on n, tile and the
    number of threads alone.
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
