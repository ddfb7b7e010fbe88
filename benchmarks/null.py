"""Measure the level of both tests under the null hypothesis at 0.05, the coverage of their intervals, and their power.

Null: n points x and m points y are independent and identically distributed; the drift test uses a sketch of y. Distributions
include ties, constants and heavy tails; some samples are tiny or of unequal size. A share may exceed the level by chance: for a
correct test, one cell in a thousand is above 0.085 (400 repeats) or 0.13 (100 repeats, for large samples). Few slices are used,
because the level does not depend on their number.

Intervals: the share of intervals that contain the energy distance, which is known from large samples.

Power: normal points, shifted along one axis, are tested against a reference of 20,000 points, by the two-sample test, which has
all points of the reference, and by the drift test, which has a sketch of them.

Cells are distributed over one single-threaded process per core.

Run: OMP_NUM_THREADS=1 python benchmarks/null.py [--repeats 400] [--power 100]
"""

import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
from common import parser, save

import rieszflow as rf

LEVEL = 0.05
PERMUTATIONS = 199
Draw = Callable[[np.random.Generator, int], np.ndarray]


def flags(p: float) -> Draw:
    return lambda g, n: (g.random((n, 1)) < p) * 1.0


CASES: dict[str, Draw] = {
    "normal, d = 3": lambda g, n: g.normal(size=(n, 3)),
    "normal, d = 50": lambda g, n: g.normal(size=(n, 50)),
    "Cauchy, d = 1": lambda g, n: g.standard_cauchy((n, 1)),
    "Pareto, α = 0.5, d = 2": lambda g, n: g.pareto(0.5, (n, 2)),
    "flag, P(1) = 0.5": flags(0.5),
    "flag, P(1) = 0.02": flags(0.02),
    "flag, P(1) = 0.001": flags(0.001),
    "constant, d = 3": lambda g, n: np.full((n, 3), 0.1),
    "die": lambda g, n: g.integers(1, 7, (n, 1)) * 1.0,
    "one of 10, one-hot": lambda g, n: np.eye(10)[g.integers(0, 10, n)],
}
SIZES = ((2, 2), (2, 5), (5, 5), (5, 40), (40, 40), (100, 1000), (1000, 100), (2, 10_000))
INTERVALS: dict[str, tuple[Draw, Draw]] = {
    "normal, d = 3, alike": (CASES["normal, d = 3"], CASES["normal, d = 3"]),
    "normal, d = 3, shift 0.5": (CASES["normal, d = 3"], lambda g, n: g.normal((0.5, 0, 0), size=(n, 3))),
    "flag, 0.02 and 0.02": (CASES["flag, P(1) = 0.02"], CASES["flag, P(1) = 0.02"]),
    "flag, 0.02 and 0.1": (flags(0.02), flags(0.1)),
    "lognormal, scales 1 and 1.5": (lambda g, n: g.lognormal(size=(n, 1)), lambda g, n: 1.5 * g.lognormal(size=(n, 1))),
}
INTERVAL_SIZES = ((5, 5), (20, 40), (100, 1000), (1000, 1000))


def slices(x: np.ndarray) -> int:
    return 1 if x.shape[1] == 1 else 4


def both(x: np.ndarray, y: np.ndarray, seed: int, permutations: int = PERMUTATIONS) -> dict[str, rf.TwoSampleTest]:
    reference = rf.SliceSketch.from_points(y, slices=slices(y), seed=seed)
    return {
        "two-sample": rf.two_sample_test(x, y, slices=slices(x), permutations=permutations, seed=seed),
        "drift": rf.drift_test(x, reference, permutations=permutations, seed=seed),
    }


def null(name: str, n: int, m: int, repeats: int) -> dict[str, float]:
    draw = CASES[name]
    p: dict[str, list[float]] = {"two-sample": [], "drift": []}
    for k in range(repeats):
        g = np.random.default_rng([k, n, m])
        for which, test in both(draw(g, n), draw(g, m), k).items():
            p[which].append(test.pvalue)
    return {which: float(np.mean(np.array(v) <= LEVEL)) for which, v in p.items()}


def covered(name: str, n: int, m: int, repeats: int) -> dict[str, float]:
    one, other = INTERVALS[name]
    g = np.random.default_rng(0)
    truth = 0.0
    if one is not other:
        sample = one(g, 100_000)
        truth = rf.SliceSketch.from_points(sample, slices=1 if sample.shape[1] == 1 else 256).distance(
            other(g, 100_000), statistic="U"
        )
    hits = {"two-sample": 0, "drift": 0}
    for k in range(repeats):
        g = np.random.default_rng([k, n, m])
        x, y = one(g, n), other(g, m)
        for which, test in both(x, y, k, 1).items():
            hits[which] += int(test.confidence_interval[0] <= truth <= test.confidence_interval[1])
    return {which: many / repeats for which, many in hits.items()}


def power(n: int, shift: float, repeats: int, d: int = 10, m: int = 20_000) -> dict[str, float]:
    hits = {"all points": 0, "2,048 kept": 0, "256 kept": 0}
    for k in range(repeats):
        g = np.random.default_rng([k, n, round(1000 * shift)])
        x, y = g.normal(size=(n, d)), g.normal(size=(m, d))
        x[:, 0] += shift
        tests = {
            "all points": rf.two_sample_test(x, y, slices=32, permutations=PERMUTATIONS, seed=k),
            "2,048 kept": rf.drift_test(x, rf.SliceSketch.from_points(y, slices=32, seed=k), permutations=PERMUTATIONS, seed=k),
            "256 kept": rf.drift_test(
                x, rf.SliceSketch.from_points(y, slices=32, seed=k, reservoir_size=256), permutations=PERMUTATIONS, seed=k
            ),
        }
        for name, test in tests.items():
            hits[name] += int(test.pvalue <= LEVEL)
    return {name: many / repeats for name, many in hits.items()}


def share(n: int, m: int, repeats: int) -> int:
    """Return the number of repeats, which is smaller for large samples."""
    return repeats if n + m <= 100 else max(1, repeats // 4)


def cells(
    pool: ProcessPoolExecutor, title: str, way: Callable, names: Iterable[str], sizes: tuple, repeats: int
) -> dict[str, list[dict[str, float]]]:
    """Evaluate `way` for every name and size and print a Markdown table: two-sample test / drift test."""
    waiting = {name: [pool.submit(way, name, n, m, share(n, m, repeats)) for n, m in sizes] for name in names}
    print(f"\n| {title} | " + " | ".join(f"{n:,} : {m:,}" for n, m in sizes) + " |\n|---|" + "---|" * len(sizes))
    rows = {}
    for name, row in waiting.items():
        rows[name] = [cell.result() for cell in row]
        print(f"| {name} | " + " | ".join(" / ".join(f"{v:.3f}" for v in c.values()) for c in rows[name]) + " |", flush=True)
    return rows


def main() -> None:
    options = parser(__doc__, repeats=400, power=100).parse_args()
    with ProcessPoolExecutor(initializer=warnings.simplefilter, initargs=("ignore", rf.Notice)) as pool:
        # Notices report p-values that cannot be small.
        rejected = cells(pool, f"rejected at {LEVEL}, n : m", null, CASES, SIZES, options.repeats)
        intervals = cells(pool, "intervals that hold D², n : m", covered, INTERVALS, INTERVAL_SIZES, options.repeats)
        shifts = [(200, shift) for shift in (0.0, 0.15, 0.3, 0.45)] + [(5000, shift) for shift in (0.0, 0.04, 0.08, 0.12)]
        found = list(pool.map(power, *zip(*shifts, strict=True), [options.power] * len(shifts)))
    chances = [
        scipy.stats.binom(many := share(n, m, options.repeats), LEVEL).sf(round(v * many) - 1)
        for row in rejected.values()
        for (n, m), cell in zip(SIZES, row, strict=True)
        for v in cell.values()
    ]
    print(f"\nleast probable of {len(chances)} shares under a test of exactly this level: {min(chances):.2g}")
    curves: dict[int, dict[float, dict[str, float]]] = {}
    for (n, shift), row in zip(shifts, found, strict=True):
        curves.setdefault(n, {})[shift] = row
        print(f"n = {n:,}, shift {shift}: " + ", ".join(f"{name} {v:.2f}" for name, v in row.items()))
    figure, panels = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
    for axes, (n, rows) in zip(panels, curves.items(), strict=True):
        for name, mark in (("all points", "o-"), ("2,048 kept", "s--"), ("256 kept", "^:")):
            axes.plot(list(rows), [row[name] for row in rows.values()], mark, label=name)
        axes.axhline(LEVEL, color="grey", lw=1)
        axes.set(xlabel="shift along one axis of 10", title=f"n = {n:,}")
    panels[0].set(ylabel=f"share rejected at {LEVEL}")
    panels[0].legend()
    content = {
        "repeats": {f"{n} : {m}": share(n, m, options.repeats) for n, m in (*SIZES, *INTERVAL_SIZES)},
        "least_probable": min(chances),
        "level": LEVEL,
        "sizes": SIZES,
        "rejected": rejected,
        "interval_sizes": INTERVAL_SIZES,
        "intervals": intervals,
        "power": curves,
    }
    save(options, "null", content, figure)


if __name__ == "__main__":
    main()
