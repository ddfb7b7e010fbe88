"""Measure the error against brute force and the time of the second call as functions of d and P, for N = M = 2,000.

Run: python benchmarks/sizes.py [--n 2000]
"""

import time

import matplotlib.pyplot as plt
import torch
from common import parser, save

import rieszflow as rf


def main() -> None:
    options = parser(__doc__, n=2000).parse_args()
    rows = []
    g = torch.Generator().manual_seed(0)
    dimensions, counts = (2, 3, 8, 64, 65, 100, 784, 3072, 12_288), (64, 256, 1024, 4096, 16_384)
    for d in dimensions:
        x = torch.rand(options.n, d, generator=g)
        y = torch.rand(options.n, d, generator=g) ** 2
        exact = rf.mmd2_gradient(x, y)
        for P in counts:
            if P * d > 2**26:  # the largest corner adds nothing and takes minutes
                continue
            for _ in range(2):
                start = time.perf_counter()
                got = rf.sliced_mmd2_gradient(x, y, slices=P, engine="bins", seed=g)
                seconds = time.perf_counter() - start
            rows.append({"d": d, "P": P, "seconds": seconds, "error": ((got - exact).norm() / exact.norm()).item()})
        mine = [r for r in rows if r["d"] == d]
        cells = [f"P {r['P']}: {r['seconds'] * 1e3:.0f} ms, {r['error']:.2f}" for r in mine]
        print(f"d = {d:>6}: " + "  ".join(cells), flush=True)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4))
    for d in dimensions:
        mine = [r for r in rows if r["d"] == d]
        for ax, key in zip(axes, ("seconds", "error"), strict=True):
            ax.loglog([r["P"] for r in mine], [r[key] for r in mine], "o-", label=f"d = {d}")
            ax.set(xlabel="P", ylabel=key)
    axes[1].legend(fontsize=7)
    save(options, "sizes", {"n": options.n, "rows": rows}, figure)


if __name__ == "__main__":
    main()
