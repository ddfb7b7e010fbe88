"""Particles flow from one corner to two moons; the picture shows them after 0, 1, 4, 16, 64 and 256 steps.

Run: python examples/two_moons.py [OUT.png]
"""

import sys

import torch
from matplotlib.figure import Figure
from sklearn.datasets import make_moons

import rieszflow as rf

STEPS = [0, 1, 4, 16, 64, 256]


def main(out: str = "two_moons.png") -> None:
    g = torch.Generator().manual_seed(0)
    target = torch.tensor(make_moons(2000, noise=0.05, random_state=0)[0], dtype=torch.float32)
    start = 0.3 * torch.randn(1000, 2, generator=g) + torch.tensor([-3.0, 2.0])
    flow = rf.ParticleFlow(target, slices=32, step_size=0.1, momentum=0.8, seed=g)
    flow.run(start, steps=max(STEPS), record=STEPS)
    figure = Figure(figsize=(15, 2.8), layout="tight")
    for axes, k in zip(figure.subplots(1, len(STEPS), sharex=True, sharey=True), STEPS, strict=True):
        x = flow.trajectory[k]
        axes.scatter(*target.T, s=1, color="lightgrey")
        axes.scatter(*x.T, s=1, color="tab:red")
        axes.set_title(f"step {k}: energy distance {rf.energy_distance(x, target):.4f}", fontsize=9)
    figure.savefig(out, dpi=110)
    print(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
