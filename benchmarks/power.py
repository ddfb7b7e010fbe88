"""Measure the power of the aggregated two-sample test, compared with the test with the energy distance, at level 0.05.

The first problems are those of MMD-FUSE (Biggs, Schrab and Gretton 2023), with the powers published there for MMD-FUSE and for
MMDAgg (Schrab et al. 2023): one of four clusters is 30 % wider, and a uniform density with small bumps of either sign. The
others are differences of every kind: shifts, scales, correlations, oscillations, a bump in one of many columns, tails and
images. The last ones have up to a million points and differences that are as hard to see as those of fewer points.

Problems are distributed over one single-threaded process per core.

Run: OMP_NUM_THREADS=1 python benchmarks/power.py [--repeats 200] [--large 20]
"""

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from common import parser, save
from sklearn.datasets import load_digits

import rieszflow as rf

LEVEL = 0.05
Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def clusters(g: np.random.Generator, n: int, width: float = 1.3) -> tuple[np.ndarray, np.ndarray]:
    """Draw four normal clusters around (±20, ±20), one of which has another width in x."""
    pair = []
    for widths in ([width, 1, 1, 1], [1, 1, 1, 1]):
        c = g.integers(0, 4, n)
        pair.append(g.normal(size=(n, 2)) * np.array(widths)[c, None] + 40 * np.stack([c % 2, c // 2], 1) - 20)
    return pair[0], pair[1]


def bump(u: np.ndarray) -> np.ndarray:
    return np.where(np.abs(u) < 1, np.exp(-1 / np.maximum(1 - u**2, 1e-9)), 0)


def perturbed(g: np.random.Generator, n: int, d: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw x from 1 + scale·eᵈ Σ_v θ_v Π_i G(2 x_i − v_i) on the unit cube, with random signs θ, and y uniform."""
    signs, found, count = g.choice([-1, 1], 2**d), [], 0
    while count < n:
        x = g.random((2 * n, d))
        density = np.ones(len(x))
        for sign, corner in zip(signs, itertools.product((1, 2), repeat=d), strict=True):
            u = 2 * x - np.array(corner)
            density += np.exp(d) * scale * sign * np.prod(bump(4 * u + 3) - bump(4 * u + 1), 1)
        found.append(x[g.random(len(x)) * (1 + scale) < density])
        count += len(found[-1])
    return np.concatenate(found)[:n], g.random((n, d))


def shifted(
    g: np.random.Generator, n: int, d: int, shift: float, draw: str = "standard_normal"
) -> tuple[np.ndarray, np.ndarray]:
    x, y = getattr(g, draw)((n, d)), getattr(g, draw)((n, d))
    x[:, 0] += shift
    return x, y


def spread(g: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return g.normal(size=(n, 50)) + 0.06, g.normal(size=(n, 50))


def scaled(g: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return 1.1 * g.normal(size=(n, 10)), g.normal(size=(n, 10))


def correlated(g: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = g.normal(size=(2, n, 10))
    x[:, 1] = 0.5 * x[:, 0] + np.sqrt(0.75) * x[:, 1]
    return x, y


def oscillating(g: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    x = g.normal(size=(4 * n, 10))
    return x[g.random(4 * n) * 1.5 < 1 + 0.5 * np.sin(6 * x[:, 0])][:n], g.normal(size=(n, 10))


def bumped(g: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = g.normal(size=(2, n, 50))
    rows = g.random(n) < 0.1
    x[rows, 7] = 0.5 + 0.05 * g.normal(size=rows.sum())
    return x, y


def tails(g: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return g.standard_t(4, (n, 5)) / np.sqrt(2), g.normal(size=(n, 5))


def t3(g: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    return g.standard_t(3, (n, 2)) + np.array([0.15, 0]), g.standard_t(3, (n, 2))


@functools.cache
def images() -> tuple[np.ndarray, np.ndarray]:
    return load_digits(return_X_y=True)


def digits(g: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw different digits for x and y; those of class 3 are half as frequent in x."""
    x, labels = images()
    order = g.permutation(len(x))
    a, b = np.split(order, [len(x) // 2])
    weights = np.where(labels[a] == 3, 0.5, 1.0)
    return x[g.choice(a, n, replace=False, p=weights / weights.sum())], x[g.choice(b, n, replace=False)]


class Problem(NamedTuple):
    name: str
    n: int
    draw: Draw
    published: tuple[float, float] | None = None  # powers of MMD-FUSE and MMDAgg, from the tables of Biggs et al. (2023)


def scaled_down(n: int, small: float) -> list[Problem]:
    """Return problems whose differences are as hard to see among n points as among 1,500 if they are this much smaller."""
    return [
        Problem("one of four clusters wider", n, partial(clusters, width=1 + 0.3 * small)),
        Problem("perturbed uniform, d = 1", n, partial(perturbed, d=1, scale=0.2 * small)),
        Problem("perturbed uniform, d = 2", n, partial(perturbed, d=2, scale=0.4 * small)),
        Problem("shift on one axis, d = 10", n, partial(shifted, d=10, shift=0.15 * small)),
    ]


PUBLISHED = {
    "one of four clusters wider": {500: (0.18, 0.19), 1500: (0.64, 0.67), 3000: (0.97, 0.99)},
    "perturbed uniform, d = 1": {500: (0.22, 0.24), 1500: (0.73, 0.79), 3000: (0.99, 0.99)},
    "perturbed uniform, d = 2": {500: (0.17, 0.16), 1500: (0.69, 0.60), 3000: (0.99, 0.98)},
}
SMALL = [
    Problem(problem.name, n, problem.draw, powers)
    for problem in scaled_down(1500, 1)[:3]
    for n, powers in PUBLISHED[problem.name].items()
] + [
    Problem("shift 0.15, d = 1", 500, partial(shifted, d=1, shift=0.15)),
    Problem("shift 0.25 on one axis, d = 10", 500, partial(shifted, d=10, shift=0.25)),
    Problem("shift 0.06 on all axes, d = 50", 500, spread),
    Problem("scale 1.1, d = 10", 500, scaled),
    Problem("correlation 0.5 of two of 10 columns", 500, correlated),
    Problem("1 + sin(6t) / 2 in one of 10 columns", 500, oscillating),
    Problem("bump in one of 50 columns", 500, bumped),
    Problem("shift 0.15 of Student's t with 3 degrees, d = 2", 500, t3),
    Problem("shift 0.25 of Cauchy, d = 1", 500, partial(shifted, d=1, shift=0.25, draw="standard_cauchy")),
    Problem("tails of Student's t with 4 degrees, d = 5", 500, tails),
    Problem("digits, class 3 half as frequent, d = 64", 400, digits),
]
LARGE = [problem for n in (10_000, 100_000, 1_000_000) for problem in scaled_down(n, float(np.sqrt(1500 / n)))]


def rejections(draw: Draw, n: int, seeds: range) -> dict[str, int]:
    hits = {"auto": 0, "energy": 0}
    for seed in seeds:
        x, y = draw(np.random.default_rng([seed, n]), n)
        for kernels in hits:
            found = rf.two_sample_test(x, y, seed=seed, kernels=kernels, slices=8, scale="none")
            hits[kernels] += found.pvalue <= LEVEL
    return hits


def main() -> None:
    options = parser(__doc__, repeats=200, large=20).parse_args()
    cells = [(problem, options.repeats) for problem in SMALL] + [(problem, options.large) for problem in LARGE]
    rows = []
    with ProcessPoolExecutor() as pool:
        waiting = [[pool.submit(rejections, p.draw, p.n, range(k, k + 5)) for k in range(0, many, 5)] for p, many in cells]
        print("| problem | n = m | aggregated | energy distance | MMD-FUSE | MMDAgg |\n|---|---|---|---|---|---|")
        for (problem, many), parts in zip(cells, waiting, strict=True):
            found = [part.result() for part in parts]
            ours = {kernels: sum(part[kernels] for part in found) / many for kernels in ("auto", "energy")}
            peers = " | ".join(f"{v:.2f}" for v in problem.published) if problem.published else " | "
            print(f"| {problem.name} | {problem.n:,} | {ours['auto']:.3f} | {ours['energy']:.3f} | {peers} |", flush=True)
            rows.append({"problem": problem.name, "n": problem.n, "repeats": many, **ours, "published": problem.published})
    save(options, "power", {"level": LEVEL, "rows": rows})


if __name__ == "__main__":
    main()
