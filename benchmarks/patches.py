"""Time one gradient on slices of patches and one on slices of whole images, in turn in one process.

Run: python benchmarks/patches.py [--repeats 9]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import rieszflow as rf

CASES = [((1, 28, 28), 10_000, 1024), ((3, 32, 32), 5_000, 2048)]


def main(repeats: int) -> None:
    print("seconds of a gradient, and the ratio of a slice on patches to a slice of the whole image (median of paired runs)")
    for shape, n, P in CASES:
        g = torch.Generator().manual_seed(0)
        d = shape[0] * shape[1] * shape[2]
        x, y = torch.rand(n, d, generator=g), torch.rand(n, d, generator=g) ** 2
        kinds = {"whole": "hadamard", **{f"stretch {k}": rf.PatchSlices(shape, 7, k) for k in (1, 2, 4)}}
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for turn in range(repeats + 1):
            for name, kind in kinds.items():
                start = time.perf_counter()
                rf.sliced_mmd2_gradient(x, y, slices=P, directions=kind, engine="bins", seed=turn)
                if turn:  # the first one compiles and fills caches
                    seconds[name].append(time.perf_counter() - start)
        for name, found in seconds.items():
            ratios = [a / b for a, b in zip(found, seconds["whole"], strict=True)]
            print(f"{shape}, N = M = {n}, P = {P}, {name}: {statistics.median(found):.4f} s, {statistics.median(ratios):.2f}×")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    main(parser.parse_args().repeats)
