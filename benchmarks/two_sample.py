"""Time the two-sample test, and those of pted, dcor, hyppo and goodpoints (Compress Then Test), all with 999 permutations.

pted, dcor and hyppo compare all pairs of points, so they get few, and are not called again after a minute. The aggregated test
of goodpoints combines seven Gaussian kernels around the median distance (its own numbers of permutations, 299 and 200).

Run: pip install -r benchmarks/peers.txt; python benchmarks/two_sample.py [--repeats 3] [--largest 1000000]
"""

import contextlib
from collections.abc import Callable
from typing import Any

import dcor
import hyppo.ksample
import numpy as np
import pted
from common import parser, save
from common import seconds as timed
from goodpoints.ctt import actt
from scipy.spatial.distance import pdist

import rieszflow as rf

PERMUTATIONS = 999
MOST = {"pted": 2_000, "dcor": 1_000, "hyppo": 1_000, "goodpoints": 16_384}  # points of each sample


def by_goodpoints(x: np.ndarray, y: np.ndarray) -> Any:
    n = 1 << (2 * (len(x).bit_length() // 2))  # it needs a power of four
    widths = np.median(pdist(x[:500])) * np.sqrt(2) * 2.0 ** np.arange(-3, 4)
    x, y = (np.resize(v, (n, v.shape[1])) if len(v) < n else v[:n] for v in (x, y))
    with contextlib.redirect_stdout(None):  # it prints every step
        return actt(x, y, g=4, lam=widths, weights=np.full(7, 1 / 7))


def ways(x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {
        "rieszflow": lambda: rf.two_sample_test(x, y, permutations=PERMUTATIONS),
        'kernels="energy"': lambda: rf.two_sample_test(x, y, permutations=PERMUTATIONS, kernels="energy"),
        "pted": lambda: pted.pted(x, y, permutations=PERMUTATIONS),
        "dcor": lambda: dcor.homogeneity.energy_test(x, y, num_resamples=PERMUTATIONS, random_state=0),
        "hyppo": lambda: hyppo.ksample.Energy().test(x, y, reps=PERMUTATIONS, auto=False, random_state=0),
        "goodpoints": lambda: by_goodpoints(x, y),
    }
    return {name: way for name, way in found.items() if len(x) <= MOST.get(name, len(x))}


def fastest(way: Callable[[], Any], repeats: int) -> float:
    """Return the shortest of several durations; a call of more than five seconds is not repeated."""
    times: list[float] = []
    while len(times) <= repeats and max(times, default=0) < 5:  # the first one compiles
        times.append(timed(way)[0])
    return min(times)


def main() -> None:
    options = parser(__doc__, repeats=3, largest=1_000_000).parse_args()
    names, rows, slow = ["rieszflow", 'kernels="energy"', *MOST], [], set[str]()
    print("| n = m, d | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for n in (1_000, 10_000, 100_000, 1_000_000):
        for d in (2, 10, 50):
            if n > options.largest:
                continue
            g = np.random.default_rng(0)
            x, y = g.normal(size=(n, d)), g.normal(size=(n, d))
            seconds = {name: fastest(way, options.repeats) for name, way in ways(x, y).items() if name not in slow}
            slow |= {name for name, duration in seconds.items() if duration > 60}
            rows.append({"n": n, "d": d, "seconds": seconds})
            cells = [f"{seconds[name]:.3f}" if name in seconds else "" for name in names]
            print(f"| {n:,}, {d} | " + " | ".join(cells) + " |", flush=True)
    save(options, "two-sample", {"permutations": PERMUTATIONS, "rows": rows})


if __name__ == "__main__":
    main()
