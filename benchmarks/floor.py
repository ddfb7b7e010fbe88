"""Compare the stages of one gradient on bins with lower bounds for this machine.

Each of three lower bounds is a count divided by a rate that is measured here with all threads: bytes that must move between
memory and the caches (points read, gradient written), additions of the fast transform (divided by the rate of multiply-adds in
a matrix product, one slot each), and accesses to tables (increments or look-ups at random positions of a table in the L1
cache). At best the three overlap completely, so the largest is the lower bound; their sum is the time without any overlap.
Seconds are the minimum over several calls.

Run: python benchmarks/floor.py [--n 20000] [--d 784] [--repeats 7]
"""

import math
import time
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numba
import numpy as np
import torch
from common import parser, save

import rieszflow as rf
from rieszflow import directions, histograms
from rieszflow._infra import validate
from rieszflow._infra.jit import OPTIONS, parallel_for, threads
from rieszflow._types import Cloud
from rieszflow.histograms import BINS, TAIL, Histogram

ROW, ROUNDS = 4096, 4000


@numba.njit(**OPTIONS)
def increment(first, last, worker, tile, index, tables):
    table = tables[worker]
    for _ in range(first, last):
        for i in range(index.shape[0]):
            table[index[i]] += np.int32(1)


@numba.njit(**OPTIONS)
def look_up(first, last, worker, tile, index, tables, out):
    table, row = tables[worker], out[worker]
    for _ in range(first, last):
        for i in range(index.shape[0]):
            row[i] = table[index[i]]


def least(way: Callable[[], Any], repeats: int) -> float:
    way()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def rates(repeats: int) -> dict[str, float]:
    """Measure bytes, additions and table accesses per second."""
    rng, T = np.random.default_rng(0), threads()
    memory = torch.ones(1 << 26)
    a = torch.randn(2048, 2048)
    index = rng.integers(0, BINS + 2 * TAIL, ROW).astype(np.uint32)
    small, wide = (np.zeros((T, BINS + 2 * TAIL), t) for t in (np.int32, np.uint64))
    rounds, scratch = ROUNDS * T, np.empty((T, ROW), np.uint64)
    return {
        "bytes read": memory.nbytes / least(memory.sum, repeats),
        "bytes written": memory.nbytes / least(lambda: memory.fill_(2), repeats),
        "additions": 2048**3 / least(lambda: a @ a, repeats),
        "increments": rounds * ROW / least(lambda: parallel_for(increment, rounds, 1, index, small), repeats),
        "look-ups": rounds * ROW / least(lambda: parallel_for(look_up, rounds, 1, index, wide, scratch), repeats),
    }


def main() -> None:
    options = parser(__doc__, n=20_000, d=784, repeats=7).parse_args()
    N, d, repeats = options.n, options.d, options.repeats
    rate = rates(repeats)
    print("measured, a second: " + ", ".join(f"{v / 1e9:.2f}·10⁹ {name}" for name, v in rate.items()))
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(N, d, generator=g), torch.rand(N, d, generator=g) ** 2
    n = max(64, 1 << (d - 1).bit_length())
    (xi,) = histograms.split_directions(directions.sample("hadamard", n, d, x, g))
    choose = lambda: histograms.choose_grids(x, y, xi, rf.Riesz(1.0), bins=None, group=None)  # noqa: E731
    (grid,) = choose()
    of_x, of_y = (Histogram.from_points(grid, Cloud(cloud)) for cloud in (x, y))
    method, passed = histograms.CdfEvaluator(of_x, of_y, False), histograms.select_backend(grid)
    lines = method.derivative(of_x, of_y, 1.0, False)
    transform = 2 * n * math.log2(n) * N  # two rounds of n log₂ n additions a point
    points, table = 4 * N * d, 4 * n * (BINS + 2 * TAIL)
    # stage: seconds, bytes read, bytes written, additions, increments, look-ups
    stages = {
        "validation": (least(lambda: validate.pair(x, y), repeats), 2 * points, 0, 0, 0, 0),
        "ranges of the bins": (least(choose, repeats), 0, 0, 0, 0, 0),
        "count y": (least(lambda: Histogram.from_points(grid, Cloud(y)), repeats), points, 0, transform, N * n, 0),
        "count x": (least(lambda: Histogram.from_points(grid, Cloud(x)), repeats), points, 0, transform, N * n, 0),
        "cumulate": (least(lambda: method.derivative(of_x, of_y, 1.0, False), repeats), 2 * table, 2 * table, 0, 0, 0),
        "look up": (
            *(least(lambda: passed.look_up(grid, Cloud(x), lines), repeats), points, points),
            *(2 * transform, 0, N * n),
        ),
    }
    whole = least(lambda: rf.sliced_mmd2_gradient(x, y, slices=n, directions="hadamard", engine="bins", seed=g), repeats)
    passing = least(lambda: passed.extent(grid, x), repeats)  # one pass that loads and transforms, and keeps extremes only
    rows = []
    for name, (seconds, *counts) in stages.items():
        read_s, write_s, add_s, increment_s, look_s = (c / r for c, r in zip(counts, rate.values(), strict=True))
        floors = {"memory": read_s + write_s, "additions": add_s, "tables": increment_s + look_s}
        rows.append({"stage": name, "seconds": seconds, "floors": floors})
    sums = {k: sum(r["floors"][k] for r in rows) for k in ("memory", "additions", "tables")}
    rows.append({"stage": "sum of the stages", "seconds": sum(r["seconds"] for r in rows), "floors": sums})
    rows.append({"stage": "the call as a whole", "seconds": whole, "floors": sums})
    print(f"N = M = {N}, d = {d}, P = n = {n}, float32, {threads()} threads; milliseconds")
    print(f"{'':>20} {'time':>7} {'memory':>7} {'adds':>7} {'tables':>7} {'time/greatest':>14} {'time/sum':>9}")
    for r in rows:
        floors = list(r["floors"].values())
        top, total = max(floors), sum(floors)
        shares = f"{r['seconds'] / top:14.1f} {r['seconds'] / total:9.1f}" if top else ""
        print(f"{r['stage']:>20} {r['seconds'] * 1e3:7.1f} " + " ".join(f"{f * 1e3:7.1f}" for f in floors) + f" {shares}")
    print(f"of a count, loading and transforming (with extremes instead of counts): {passing * 1e3:.1f} ms")
    figure, axes = plt.subplots(figsize=(7, 2.8))
    shown = rows[:-2]
    axes.barh([r["stage"] for r in shown], [r["seconds"] * 1e3 for r in shown], color="lightgrey", label="measured")
    left = np.zeros(len(shown))
    for key, colour in zip(sums, ("tab:blue", "tab:orange", "tab:green"), strict=True):
        part = np.array([r["floors"][key] * 1e3 for r in shown])
        axes.barh([r["stage"] for r in shown], part, left=left, height=0.4, color=colour, label=f"{key} floor")
        left += part
    axes.set(xlabel="milliseconds", title=f"N = M = {N:,}, d = {d}, P = {n}")
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    save(options, "floor", {"n": N, "d": d, "slices": n, "rates": rate, "rows": rows, "load_and_transform": passing}, figure)


if __name__ == "__main__":
    main()
