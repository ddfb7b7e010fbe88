"""Reproduce Figure 1 of the paper: run time of 1,000 gradients against N, and error of the sliced gradient against P and d.

Run time: brute force and slices for d = 100; the seconds per gradient are measured on a few gradients and multiplied by 1,000.
Error: relative to brute force for N = M = 1,000, averaged over several draws of every kind of direction, with the line √(d/P)
of Theorem 4.

Run: python experiments/figure1.py [--full]
"""

import time

import torch
from matplotlib.figure import Figure
from shared import options, save

import rieszflow as rf

KINDS = ("independent", "orthogonal", "hadamard", "sobol")


def clouds(n: int, d: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw uniform noise, and three Gaussians of standard deviation 0.1 with random centres in the unit cube."""
    centres = torch.rand(3, d, generator=g)
    y = centres[torch.randint(3, (n,), generator=g)] + 0.1 * torch.randn(n, d, generator=g)
    return torch.rand(n, d, generator=g), y


def seconds(way, repeats: int) -> float:
    way()
    start = time.perf_counter()
    for _ in range(repeats):
        way()
    return (time.perf_counter() - start) / repeats


def error(x, y, P: int, kind: str, draws: int, g: torch.Generator, exact: torch.Tensor) -> float:
    found = [rf.sliced_mmd2_gradient(x, y, slices=P, directions=kind, engine="sort", seed=g) for _ in range(draws)]
    return sum(((f - exact).norm() / exact.norm()).item() for f in found) / draws


def main() -> None:
    given = options(__doc__)
    g = torch.Generator().manual_seed(0)
    draws, repeats = (20, 20) if given.full else (5, 5)
    times = []
    for n in (100, 1000, 10_000, 30_000) if not given.full else (100, 300, 1000, 3000, 10_000, 30_000, 100_000):
        x, y = clouds(n, 100, g)
        row = {"N": n}
        if n <= 10_000 or given.full:
            row["brute force"] = 1000 * seconds(lambda x=x, y=y: rf.mmd2_gradient(x, y), 1 if n > 3000 else repeats)
        for P in (10, 100, 1000):
            way = lambda x=x, y=y, P=P: rf.sliced_mmd2_gradient(x, y, slices=P, directions="hadamard", seed=g)  # noqa: E731
            row[f"sliced, P = {P}"] = 1000 * seconds(way, repeats)
        times.append(row)
        print("1,000 gradients, s: " + ", ".join(f"{k} {v:.3g}" for k, v in row.items()), flush=True)
    by_P, by_d = [], []
    x, y = clouds(1000, 100, g)
    exact = rf.mmd2_gradient(x, y)
    for P in (8, 32, 128, 512, 2048, 8192):
        by_P.append({"P": P, "line": (100 / P) ** 0.5, **{k: error(x, y, P, k, draws, g, exact) for k in KINDS}})
        print("d = 100: " + ", ".join(f"{k} {v:.3g}" for k, v in by_P[-1].items()), flush=True)
    for d in (2, 8, 32, 128, 512, 2048):
        x, y = clouds(1000, d, g)
        exact = rf.mmd2_gradient(x, y)
        by_d.append({"d": d, "line": (d / 1024) ** 0.5, **{k: error(x, y, 1024, k, draws, g, exact) for k in KINDS}})
        print("P = 1024: " + ", ".join(f"{k} {v:.3g}" for k, v in by_d[-1].items()), flush=True)
    figure = Figure(figsize=(14, 4), layout="tight")
    left, middle, right = figure.subplots(1, 3)
    for key in times[0]:
        if key != "N":
            mine = [(r["N"], r[key]) for r in times if key in r]
            left.loglog(*zip(*mine, strict=True), "o-", label=key)
    left.set(xlabel="N = M", ylabel="seconds for 1,000 gradients", title="d = 100")
    for axes, rows, key in ((middle, by_P, "P"), (right, by_d, "d")):
        for kind in KINDS:
            axes.loglog([r[key] for r in rows], [r[kind] for r in rows], "o-", label=kind)
        axes.loglog([r[key] for r in rows], [r["line"] for r in rows], "k--", label="√(d/P)")
        axes.set(xlabel=key, ylabel="relative error", title="d = 100" if key == "P" else "P = 1,024")
    for axes in (left, middle, right):
        axes.legend(fontsize=8)
    save(given, "figure1", {"seconds_for_1000_gradients": times, "error_over_P": by_P, "error_over_d": by_d}, figure)


if __name__ == "__main__":
    main()
