"""Draw vectors.png: samples of recorded flows and networks on four sets in the plane, and print their strays.

Run `python docs/tables/vectors.py` in the root of the repository; about 10 minutes on one CPU core.
"""

from __future__ import annotations

import sys
import time

import matplotlib
import numpy as np
import torch
from scipy.spatial import cKDTree
from sklearn.datasets import make_moons

import rieszflow as rf

matplotlib.use("Agg")
import matplotlib.pyplot as plt

N = 4000
MODELS = {"recorded flow": {}, "networks": {"model": "networks"}}


def two_moons(n: int, seed: int) -> np.ndarray:
    return make_moons(n, noise=0.05, random_state=seed)[0]


def eight_gaussians(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angle = rng.integers(0, 8, n) * np.pi / 4
    return 2 * np.c_[np.cos(angle), np.sin(angle)] + 0.1 * rng.normal(size=(n, 2))


def checkerboard(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    a = rng.uniform(-2, 2, n)
    return 2 * np.c_[a, rng.uniform(0, 1, n) - 2 * rng.integers(0, 2, n) + np.floor(a) % 2]


def spiral(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t, sign = 3 * np.pi * np.sqrt(rng.uniform(size=n)), 2 * rng.integers(0, 2, n) - 1
    return (sign * t / 3)[:, None] * np.c_[-np.cos(t), np.sin(t)] + 0.1 * rng.normal(size=(n, 2))


def main(out: str = "docs/tables/vectors.png") -> None:
    torch.set_num_threads(1)
    sets = (two_moons, eight_gaussians, checkerboard, spiral)
    figure, axes = plt.subplots(3, 4, figsize=(12, 9.2))
    for column, make in zip(axes.T, sets, strict=True):
        name = make.__name__.replace("_", " ")
        data, fresh = make(N, 0), make(10_000, 51)
        tree = cKDTree(data)
        near = tree.query(fresh)[0]  # distances of fresh data to the nearest training point
        limit = np.quantile(near, 0.999)
        clouds = [("data", data)]
        for model, settings in MODELS.items():
            start = time.process_time()
            flow = rf.GenerativeFlow(**settings).fit(data)
            samples = flow.sample(N, seed=0).double().numpy()
            seconds = time.process_time() - start
            distance = tree.query(samples)[0]
            back = np.median(cKDTree(samples).query(fresh)[0]) / np.median(near)
            energy = rf.energy_distance(torch.from_numpy(samples), torch.from_numpy(fresh[:N])).item()
            print(
                f"{name:16} {model:14} strays {(distance > limit).mean():.2%}, distance to the nearest training point "
                f"{np.median(distance) / np.median(near):.2f}, from fresh data to the nearest sample {back:.2f}, "
                f"energy distance {energy:.4f}, {seconds:.0f} s",
                flush=True,
            )
            clouds.append((model, samples))
        for axis, (title, points) in zip(column, clouds, strict=True):
            axis.scatter(*points.T, s=1.5, lw=0, color="C0")
            axis.set(title=f"{name}: {title}", aspect="equal", xticks=[], yticks=[])
            axis.set(xlim=axes_limits(data)[0], ylim=axes_limits(data)[1])
    figure.tight_layout()
    figure.savefig(out, dpi=70)


def axes_limits(data: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    low, high = data.min(0), data.max(0)
    margin = 0.1 * (high - low)
    return tuple(zip(low - margin, high + margin, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
