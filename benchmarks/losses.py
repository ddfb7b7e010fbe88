"""Time a training loss and its gradient with rieszflow and with autograd, in turn in one process.

The alternatives are `torch.cdist` and, if it is installed, GeomLoss (`SamplesLoss("energy")`). `SlicedMMDLoss` is timed with
its default ("auto", which compares all pairs of small batches), and with slices for all batches. "auto" should switch at the
batch size from which slices are faster than all pairs.

Run: python benchmarks/losses.py [--repeats 5] [--largest 8192] [--threads 0]
"""

import statistics
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import torch
from common import in_turn, parser, ratios, save
from torch import Tensor

import rieszflow as rf

try:
    import geomloss
except ImportError:
    geomloss = None

BATCHES, DIMENSIONS, BASE = (64, 128, 256, 512, 1024, 2048, 4096, 8192), (2, 784), "torch.cdist"
PAIRS = 4096  # the largest batch for which all pairs are compared


def cdist(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y).mean() - 0.5 * torch.cdist(x, x).mean() - 0.5 * torch.cdist(y, y).mean()


def losses(d: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    auto = rf.SlicedMMDLoss(seed=0)
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        BASE: cdist,
        "rf.mmd2": rf.mmd2,
        "SlicedMMDLoss": auto,
        "on slices": rf.SlicedMMDLoss(slices=auto.setting.many(d), engine="bins", seed=0),
    }
    if geomloss is not None:
        ways["GeomLoss"] = geomloss.SamplesLoss("energy", backend="tensorized")
    return ways


def step(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x, y), x)[0]


def main() -> None:
    options = parser(__doc__, repeats=5, largest=BATCHES[-1], threads=0).parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    g = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    for d in DIMENSIONS:
        ways = losses(d)
        for n in (n for n in BATCHES if n <= options.largest):
            x, y = torch.rand(n, d, generator=g), torch.rand(n, d, generator=g) ** 2
            some = {name: way for name, way in ways.items() if n <= PAIRS or "slice" in name.lower()}
            calls = {name: lambda way=way, x=x, y=y: step(way, x, y) for name, way in some.items()}
            seconds = in_turn(calls, options.repeats)
            found = ratios(seconds, BASE if BASE in seconds else "SlicedMMDLoss")
            for name, times in seconds.items():
                middle = statistics.median(times)
                rows.append({"d": d, "batch": n, "way": name, "seconds": times, "times_as_fast": found[name]})
                print(
                    f"d = {d:>3}, batch {n:>4}, {name:>14}: {1e3 * middle:8.2f} ms   "
                    f"{found[name]['median']:5.2f} ({found[name]['min']:.2f}–{found[name]['max']:.2f})",
                    flush=True,
                )
    figure, all_axes = plt.subplots(1, len(DIMENSIONS), figsize=(9, 3.2), sharey=True)
    for d, axes in zip(DIMENSIONS, all_axes, strict=True):
        for name in losses(d):
            points = [(r["batch"], 1e3 * statistics.median(r["seconds"])) for r in rows if r["d"] == d and r["way"] == name]
            axes.loglog(*zip(*points, strict=True), marker=".", label=name)
        axes.set(xlabel="points in a batch", title=f"d = {d}")
    all_axes[0].set_ylabel("ms for value and gradient")
    all_axes[0].legend(fontsize=8)
    settings = {k: v for k, v in vars(options).items() if k != "out"}
    save(options, "losses", {"options": settings, "rows": rows}, figure)


if __name__ == "__main__":
    main()
