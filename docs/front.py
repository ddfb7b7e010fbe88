"""Draw the picture of the README: a flow of points in the plane, and new samples that follow a recorded flow of images.

The flow of images starts at noise, which the preset does not.

Run: rieszflow train fashion-mnist --set latents=smooth --set "step_schedule=[14.0, 2.5]" --set stages=26 --out runs/noise
     python docs/front.py runs/noise
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import rieszflow as rf
from rieszflow.flow.segments import Segment
from rieszflow.generative.latents import draw_latents
from rieszflow.generative.levels import levels

MARKS = (0, 3, 10, 30, 100, 650)  # flow steps
SHOWN = (24, 1, 29, 47)  # four of the 48 samples of seed 3, of different kinds


def samples(run: Path) -> list[Tensor]:
    """Return latents and the points that they become after MARKS steps of a recorded flow."""
    flow = rf.GenerativeFlow.load(run)
    (level,) = levels(flow.config, flow.run.shape)
    plan = level.plan()
    x = draw_latents(flow.config, level.shape, 48, torch.Generator().manual_seed(3))
    parts = (Segment.from_tensors(plan, flow.run.load_network(k)) for k in range(1, flow.run.trained() + 1))
    steps = (step for part in parts for step in part.steps)
    velocities, found = (None,) * len(plan.kinds), [x]
    for before, after in pairwise(MARKS):
        some = [next(steps) for _ in range((after - before) * len(plan.kinds))]
        x, velocities = Segment(plan, some).push(x, velocities)
        found.append(x)
    return found


def rings(n: int, g: torch.Generator) -> Tensor:
    """Draw points on three rings."""
    angle = 2 * torch.pi * torch.rand(n, generator=g)
    centre = torch.tensor([[-1.1, -0.6], [1.1, -0.6], [0.0, 1.1]])[torch.randint(3, (n,), generator=g)]
    return centre + 0.75 * torch.stack([angle.cos(), angle.sin()], 1) + 0.03 * torch.randn(n, 2, generator=g)


def main(run: Path) -> None:
    g = torch.Generator().manual_seed(0)
    target, images = rings(3000, g), samples(run)
    flow = rf.ParticleFlow(target, slices=64, step_size=0.1, momentum=0.6, seed=1)
    flow.run(0.25 * torch.randn(1500, 2, generator=g), steps=MARKS[-1], snapshots=MARKS)
    figure = Figure(figsize=(9, 7.6), layout="constrained")
    axes = figure.subplots(1 + len(SHOWN), len(MARKS))
    for column, step, image in zip(axes.T, MARKS, images, strict=True):
        plane, *rest = column
        plane.scatter(*target[:1500].T, s=0.8, color="#D5D5D5", linewidths=0)
        plane.scatter(*flow.trajectory[step].T, s=2.2, color="#0072B2", linewidths=0)
        plane.set(xlim=(-2.1, 2.1), ylim=(-1.7, 2.2), aspect="equal")
        plane.set_title("start" if step == 0 else f"{step} steps", fontsize=9)
        for axis, k in zip(rest, SHOWN, strict=True):
            axis.imshow(image[k].view(28, 28), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for axis in column:
            axis.axis("off")
    figure.savefig(Path(__file__).parent / "front.png", dpi=110, facecolor="white")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
