"""Measure time per particle and peak memory beyond inputs and output as functions of N = M, each size in its own process.

Points lie in memory-mapped files. Memory is the growth of the anonymous resident set (RssAnon) since before the first call,
including compiled code and minus the gradient itself, sampled every few milliseconds. Seconds are the minimum of three to forty
calls after the first, because the first calls of a process touch memory that is not mapped yet.

Run: python benchmarks/growth.py [--d 784] [--slices 1024] [--largest 1000000] [--scratch FOLDER]
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from common import parser, save

import rieszflow as rf


def anonymous() -> int:
    """Return the anonymous resident memory of this process in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def write(path: Path, n: int, d: int, seed: int) -> np.ndarray:
    file = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
    g = np.random.default_rng(seed)
    for start in range(0, n, 10_000):
        part = file[start : start + 10_000]
        part[:] = g.random(part.shape, np.float32) ** (1 + seed)
    file.flush()
    return np.load(path, mmap_mode="r+")


def one(n: int, d: int, slices: int, scratch: str) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        x, y = (torch.from_numpy(write(Path(folder) / f"{k}.npy", n, d, k)) for k in (0, 1))
        peak, done = [0], threading.Event()

        def watch() -> None:
            while not done.wait(0.003):
                peak[0] = max(peak[0], anonymous())

        before = anonymous()
        thread = threading.Thread(target=watch)
        thread.start()
        seconds = []
        for k in range(1 + max(3, min(40, 1_000_000 // n))):
            start = time.perf_counter()
            gradient = rf.sliced_mmd2_gradient(x, y, slices=slices, engine="bins", seed=torch.Generator().manual_seed(k))
            seconds.append(time.perf_counter() - start)
            size = gradient.numel() * 4
            del gradient
        done.set()
        thread.join()
    print(json.dumps({"n": n, "seconds": min(seconds[1:]), "extra_bytes": max(0, peak[0] - before - size)}))


def main() -> None:
    command = parser(__doc__, d=784, slices=1024, largest=1_000_000, one=0)
    command.add_argument("--scratch", default=tempfile.gettempdir())
    options = command.parse_args()
    if options.one:
        one(options.one, options.d, options.slices, options.scratch)
        return
    rows = []
    for n in (1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000):
        if n > options.largest:
            break
        arguments = ["--one", str(n), "--d", str(options.d), "--slices", str(options.slices), "--scratch", options.scratch]
        result = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
        row = json.loads(result.stdout.splitlines()[-1])
        rows.append(row)
        print(
            f"N = M = {n:>9,}: {row['seconds']:8.3f} s, {row['seconds'] / n * 1e6:7.2f} µs a particle, "
            f"{row['extra_bytes'] / 1e6:6.0f} MB beyond inputs and output",
            flush=True,
        )
    figure, axes = plt.subplots(figsize=(6, 3))
    axes.loglog([r["n"] for r in rows], [r["seconds"] for r in rows], "o-", label="seconds for one gradient")
    axes.loglog([r["n"] for r in rows], [r["seconds"] / r["n"] * 1e4 for r in rows], "s--", label="per 10,000 particles")
    axes.set(xlabel="N = M", title=f"d = {options.d}, P = {options.slices}, memory-mapped points")
    axes.legend()
    save(options, f"growth-{options.d}", {"d": options.d, "slices": options.slices, "rows": rows}, figure)


if __name__ == "__main__":
    main()
