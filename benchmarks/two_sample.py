"""Compare the two-sample test with dcor's energy test: time for large samples, and power at equal level.

Time: ours is measured with N = M = 100,000, d = 100 and 999 permutations, and dcor's with fewer points, because its time and
memory are quadratic. Power: both are measured with N = M = 200 on the same pairs of normal clouds, shifted along one axis, with
d = 100, level 0.05 and 199 permutations.

Run: pip install -r benchmarks/peers.txt; python benchmarks/two_sample.py [--n 100000] [--dcor 2000] [--pairs 100]
"""

import dcor
import matplotlib.pyplot as plt
import numpy as np
import torch
from common import parser, save, seconds

import rieszflow as rf

LEVEL = 0.05


def clouds(n: int, shift: float, seed: int, d: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, d, generator=g), torch.randn(n, d, generator=g)
    y[:, 0] += shift
    return x, y


def by_dcor(x: torch.Tensor, y: torch.Tensor, permutations: int, seed: int) -> float:
    state = np.random.RandomState(seed)
    return dcor.homogeneity.energy_test(
        x.double().numpy(), y.double().numpy(), num_resamples=permutations, random_state=state
    ).pvalue


def main() -> None:
    command = parser(__doc__, n=100_000, dcor=2000, pairs=100)
    options = command.parse_args()
    x, y = clouds(options.n, 0.05, 0)
    small = clouds(options.dcor, 0.05, 0)
    rf.two_sample_test(*clouds(1000, 0, 0))  # compiled
    times = {}
    for name, way in {
        f"rieszflow, N = M = {options.n:,}": lambda: rf.two_sample_test(x, y, permutations=999).pvalue,
        f"rieszflow, N = M = {options.dcor:,}": lambda: rf.two_sample_test(*small, permutations=999).pvalue,
        f"dcor, N = M = {options.dcor:,}": lambda: by_dcor(*small, 999, 0),
    }.items():
        times[name], p = seconds(way)
        print(f"{name}: {times[name]:.2f} s, p = {p:.3f}", flush=True)
    power = []
    for shift in (0.0, 0.3, 0.45, 0.6, 0.8):
        pairs = [clouds(200, shift, 1 + k) for k in range(options.pairs)]
        ours = np.mean([rf.two_sample_test(*c, permutations=199, seed=k).pvalue <= LEVEL for k, c in enumerate(pairs)])
        theirs = np.mean([by_dcor(*c, 199, k) <= LEVEL for k, c in enumerate(pairs)])
        power.append({"shift": shift, "rieszflow": float(ours), "dcor": float(theirs)})
        print(f"shift {shift}: rejected by rieszflow {ours:.2f}, by dcor {theirs:.2f}", flush=True)
    figure, axes = plt.subplots(figsize=(5, 3))
    for name, mark in (("rieszflow", "o-"), ("dcor", "s--")):
        axes.plot([r["shift"] for r in power], [r[name] for r in power], mark, label=name)
    axes.axhline(LEVEL, color="grey", lw=1)
    axes.set(xlabel="shift along one axis of 100", ylabel=f"share rejected at {LEVEL}", title="N = M = 200")
    axes.legend()
    save(options, "two-sample", {"seconds": times, "pairs": options.pairs, "power": power}, figure)


if __name__ == "__main__":
    main()
