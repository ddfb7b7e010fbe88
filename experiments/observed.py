"""Complete partially observed held-out images several times, and check whether the spread of the completions is right.

The true image should be distributed like one more completion. Its ranks among the completions, along several directions of
the unknown part, should be uniform, and intervals between completions should contain the truth with their nominal probability.

Run: rieszflow train fashion-mnist --observe left-half --out runs/left-half
     python experiments/observed.py runs/left-half [--images 200 --answers 100]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from shared import save
from torch import Tensor

from rieszflow import report
from rieszflow.generative import GenerativeFlow, load_data
from rieszflow.generative.condition import image_constraint
from rieszflow.generative.config import Config
from rieszflow.generative.latents import draw_latents
from rieszflow.generative.training_data import residual

DIRECTIONS = 20
SHARES = (0.5, 0.8, 0.9)


def covered(ranks: Tensor, answers: int) -> dict[str, float]:
    """Return how often the truth lies within the given central share of the completions."""
    place = (ranks.double() + 0.5) / (answers + 1)
    return {f"{share:.0%}": ((place - 0.5).abs() <= share / 2).double().mean().item() for share in SHARES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"))
    args = parser.parse_args()
    flow = GenerativeFlow.load(args.run)
    assert flow.run is not None
    data, kind = load_data(flow.run), flow.config.condition
    known = image_constraint(kind, data.shape)
    g = torch.Generator().manual_seed(0)
    truth = data.held_out[torch.randperm(len(data.held_out), generator=g)[: args.images]]
    asked = truth.repeat_interleave(args.answers, 0)
    started = time.perf_counter()
    x = data.scale(flow.sample(len(asked), condition=data.unscale(asked), seed=1))
    seconds = time.perf_counter() - started
    answers = x.view(len(truth), args.answers, *data.shape)

    # Smooth directions: differences of single pixels are mostly noise.
    along = draw_latents(Config(latents="smooth"), data.shape, DIRECTIONS, g) - 0.5
    along = along - known.project(along)
    seen, true = answers.flatten(2) @ along.T, truth.flatten(1) @ along.T
    below = (seen < true[:, None]).sum(1)
    ties = (seen == true[:, None]).sum(1)
    ranks = below + (torch.rand(below.shape, generator=g) * (ties + 1)).long()

    def apart(a: Tensor, b: Tensor) -> float:
        return (a - b).flatten(1).norm(dim=1).mean().item()

    content: dict[str, Any] = {
        "known": kind if len(kind) < 40 else kind[:40],
        "residual": residual(flow.run, x, asked, data),
        "largest residual of a number": known.project((x - asked).flatten(1)).abs().max().item(),
        "truth within the middle of the answers": covered(ranks, args.answers),
        "distance of an answer to the truth": apart(answers[:, 0], truth),
        "distance between two answers": apart(answers[:, 0], answers[:, 1]),
        "distance of the mean answer to the truth": apart(answers.mean(1), truth),
        "distance of another image to the truth": apart(truth.roll(1, 0), truth),
        "samples": len(x),
        "seconds": seconds,
    }
    for key, value in content.items():
        print(key, value)
    figure = Figure(figsize=(6, 3.2), layout="tight")
    axes = figure.add_subplot()
    axes.hist(ranks.flatten().numpy(), bins=21, range=(-0.5, args.answers + 0.5), density=True)
    axes.axhline(1 / (args.answers + 1), color="grey", ls="--", label="uniform")
    axes.set(xlabel=f"rank of the truth among {args.answers} completions", ylabel="share", title=kind[:40])
    axes.legend()
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"observed-{Path(data.name).stem}-{kind[:20].replace(':', '-')}"
    save(args, f"{name}-ranks", content, figure)
    part = known.project(truth.flatten(1)).view_as(truth)
    rows = [torch.cat([part[k : k + 1], answers[k, :6], answers[k].mean(0, keepdim=True), truth[k : k + 1]]) for k in range(10)]
    report.save_picture(args.out / f"{name}.png", report.picture(torch.cat(rows), columns=9))


if __name__ == "__main__":
    main()
