"""Compare the gradient and the value of a distance between two clouds with other libraries, timed in turn in one process.

Gradients, on Fashion-MNIST halfway between noise and data: the energy distance by GeomLoss (`SamplesLoss("energy")`) and by
autograd through `torch.cdist`, both exact and quadratic, and POT's sliced Wasserstein distance, which is another functional
for the same task. Sliced gradients are random. Their error is relative to the exact gradient of their own functional (for POT,
to 8 times the slices) and decreases like 1/√P, so the time to equal error is proportional to seconds · error².

Values: dcor in d dimensions, and SciPy in one dimension.

Run: pip install -r benchmarks/peers.txt; python benchmarks/peers.py [--n 20000] [--slices 1024] [--repeats 3]
"""

import statistics
from typing import Any

import dcor
import geomloss
import matplotlib.pyplot as plt
import ot
import scipy.stats
import torch
from common import in_turn, parser, save

import rieszflow as rf
from rieszflow.data import load


def by_autograd(function: Any, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x), x)[0]


def gradients(n: int, slices: int, repeats: int, g: torch.Generator) -> list[dict[str, Any]]:
    images = load("fashion-mnist").train.flatten(1)
    images = images[torch.randperm(len(images), generator=g)]
    y, near = images[:n], images[n : 2 * n]
    x = 0.5 * (torch.rand(y.shape, generator=g) + near)
    energy = geomloss.SamplesLoss("energy", backend="tensorized")

    def wasserstein(P: int) -> torch.Tensor:
        seed = int(torch.randint(2**31, (), generator=g))
        return by_autograd(lambda x: ot.sliced_wasserstein_distance(x, y, n_projections=P, seed=seed) ** 2, x)

    ways = {
        "rieszflow, sliced": lambda: rf.sliced_mmd2_gradient(x, y, slices=slices, engine="bins", seed=g),
        "rieszflow, exact": lambda: rf.mmd2_gradient(x, y),
        "torch.cdist": lambda: by_autograd(lambda x: torch.cdist(x, y).mean() - 0.5 * torch.cdist(x, x).mean(), x),
        "GeomLoss, tensorized": lambda: by_autograd(lambda x: energy(x, y), x),
        "POT, sliced Wasserstein": lambda: wasserstein(slices),
    }
    seconds = in_turn(ways, repeats)
    exact = rf.mmd2_gradient(x.double(), y.double()).float()
    reference = {name: exact for name in ways}
    reference["POT, sliced Wasserstein"] = torch.stack([wasserstein(slices) for _ in range(8)]).mean(0)
    rows: list[dict[str, Any]] = []
    for name, way in ways.items():
        times = repeats if "sliced" in name.lower() else 1  # the others are deterministic
        errors = [((way() - reference[name]).norm() / reference[name].norm()).item() for _ in range(times)]
        error = statistics.mean(e * e for e in errors) ** 0.5
        row = {"way": name, "seconds": statistics.median(seconds[name]), "all_seconds": seconds[name], "error": error}
        own = rows[0] if rows else row
        row["times_as_long"] = row["seconds"] / own["seconds"]
        if "POT" in name:
            row["times_as_long_to_same_error"] = row["times_as_long"] * (error / own["error"]) ** 2
        rows.append(row)
        print(
            f"{name:>24}: {row['seconds']:8.3f} s  {row['times_as_long']:7.1f} times as long  relative error {error:.1e}",
            flush=True,
        )
    print(f"POT to the error of rieszflow's slices: {rows[-1]['times_as_long_to_same_error']:.0f} times as long")
    error, took = rows[0]["error"], rows[0]["seconds"]
    for wanted in (0.1, 0.05):
        P = slices * (error / wanted) ** 2
        print(f"rieszflow to an error of {wanted:.0%}: {took * P / slices:.2f} s (P = {P:.0f})")
    return rows


def values(n: int, slices: int, repeats: int, g: torch.Generator) -> list[dict[str, Any]]:
    images = load("fashion-mnist").train.flatten(1)
    x, y = images[:n], 0.9 * images[n : 2 * n]
    # In one dimension the only slice is the line.
    s, t = torch.randn(1_000_000, 1, generator=g), 1.1 * torch.randn(1_000_000, 1, generator=g)
    tasks = {
        f"N = M = {n:,}, d = {x.shape[1]}": {
            "rieszflow, sliced": lambda: rf.sliced_mmd2(x, y, slices=slices, engine="bins", seed=g).item(),
            "rieszflow, exact": lambda: rf.energy_distance(x, y).item(),
            "dcor": lambda: float(dcor.energy_distance(x.numpy(), y.numpy())),
        },
        "N = M = 1,000,000, d = 1": {
            "rieszflow, sort": lambda: rf.sliced_mmd2(s, t, slices=1, engine="sort").item(),
            "rieszflow, bins": lambda: rf.sliced_mmd2(s, t, slices=1, engine="bins").item(),
            "SciPy": lambda: scipy.stats.energy_distance(s[:, 0].numpy(), t[:, 0].numpy()) ** 2,
        },
    }
    rows = []
    for task, ways in tasks.items():
        print(task)
        seconds = {name: statistics.median(times) for name, times in in_turn(ways, repeats).items()}
        first = next(iter(seconds.values()))
        for name, way in ways.items():
            rows.append({"task": task, "way": name, "seconds": seconds[name], "value": way()})
            print(
                f"{name:>24}: {seconds[name]:8.3f} s  {seconds[name] / first:7.1f} times as long  2D² = {rows[-1]['value']:.6f}"
            )
    return rows


def main() -> None:
    options = parser(__doc__, n=20_000, slices=1024, repeats=3).parse_args()
    g = torch.Generator().manual_seed(0)
    print(f"gradient, Fashion-MNIST, N = M = {options.n:,}, d = 784, {torch.get_num_threads()} threads")
    rows = gradients(options.n, options.slices, options.repeats, g)
    of_values = values(min(options.n, 5000), options.slices, options.repeats, g)
    figure, axes = plt.subplots(figsize=(6, 2.4))
    axes.barh([r["way"] for r in rows], [r["seconds"] for r in rows], color="tab:blue", log=True)
    axes.bar_label(axes.containers[0], [f" {r['seconds']:.2f} s, error {r['error']:.0e}" for r in rows], fontsize=8)
    axes.set(xlabel="seconds for one gradient", title=f"N = M = {options.n:,}, d = 784, P = {options.slices}")
    axes.set_xlim(right=20 * max(r["seconds"] for r in rows))
    axes.invert_yaxis()
    save(options, "peers", {"n": options.n, "slices": options.slices, "gradients": rows, "values": of_values}, figure)


if __name__ == "__main__":
    main()
