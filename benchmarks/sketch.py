"""Measure how fast sketches are built: rows per second, and bytes per second relative to the memory bandwidth.

Sketches are built from an array in memory and from a cached .npy file, including histograms of single columns. The bandwidth is
that of a sum over a large array with all threads. Seconds are the minimum over several passes.

Run: python benchmarks/sketch.py [--repeats 5]
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from common import parser, save
from floor import least, rates

from rieszflow import SliceSketch

CASES = ((10, 256, 1_000_000), (100, 256, 500_000), (784, 1024, 100_000))  # d, P, rows


def main() -> None:
    options = parser(__doc__, repeats=5).parse_args()
    bandwidth = rates(options.repeats)["bytes read"]
    rows = []
    for d, P, n in CASES:
        x = torch.rand(n, d, generator=torch.Generator().manual_seed(0))
        empty = SliceSketch(x[:1000], slices=P)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "x.npy"
            np.save(file, x.numpy())
            seconds = {
                "memory": least(lambda e=empty, x=x: e.empty().update(x), options.repeats),
                "file": least(lambda e=empty, f=file: e.empty().update(f), options.repeats),
            }
        for source, s in seconds.items():
            share = 4 * n * d / s / bandwidth
            rows.append(
                {"d": d, "slices": P, "rows": n, "source": source, "rows_per_second": n / s, "share_of_bandwidth": share}
            )
            print(
                f"d = {d:>3}, P = {P:>4}, from {source:>6}: {n / s:10,.0f} rows a second, {4e-9 * n * d / s:.2f} GB/s, "
                f"{100 * share:.1f} % of {bandwidth / 1e9:.1f} GB/s"
            )
    figure, axes = plt.subplots(figsize=(6, 2.4))
    axes.barh([f"d = {r['d']}, P = {r['slices']}, {r['source']}" for r in rows], [r["rows_per_second"] for r in rows])
    axes.set(xlabel="rows per second", xscale="log")
    axes.invert_yaxis()
    save(options, "sketch", {"bytes_per_second": bandwidth, "rows": rows}, figure)


if __name__ == "__main__":
    main()
