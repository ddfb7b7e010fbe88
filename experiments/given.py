"""Sample columns of a table given others: scikit-learn's diabetes data, compared with a linear model with Gaussian noise.

Given age, sex, body mass index and blood pressure, the models sample six blood values and the progression after one year, all
scaled to mean 0 and variance 1 on the training data. Better models have a lower energy score. Scores are computed for several
splits into training and held-out data.

Run: python experiments/given.py [--splits 5]      (a few minutes)
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared import save
from torch import Tensor

import rieszflow as rf

K, ANSWERS = 4, 200
RECORDED: dict[str, Any] = {
    "model": "recorded", "particles": 4000, "stages": 4, "initial_steps": 50, "max_steps": 50, "slices": 256, "momentum": 0.8,
    "step_schedule": [8.0, 1.0],
}  # fmt: skip
NETWORKS: dict[str, Any] = {
    "model": "networks",
    "particles": 4000,
    "stages": 8,
    "initial_steps": 16,
    "max_step_increment": 32,
    "max_steps": 64,
    "slices": 256,
}

SHORT = {"initial_steps": 10, "max_steps": 10, "stages": 3, "patience": 0}
FLOWS = {"recorded flow": RECORDED, "networks": NETWORKS, "preset table": {}, "preset table, 30 steps": SHORT}


def linear(c: Tensor, y: Tensor, at: Tensor, g: torch.Generator) -> Tensor:
    """Sample from the linear model with Gaussian noise."""
    ones = torch.ones(len(c), 1).double()
    B = torch.linalg.lstsq(torch.cat([c, ones], 1), y).solution
    rest = y - torch.cat([c, ones], 1) @ B
    L = torch.linalg.cholesky(rest.T @ rest / (len(c) - K - 1))
    mean = torch.cat([at, torch.ones(len(at), 1).double()], 1) @ B
    return mean[:, None] + torch.randn(len(at), ANSWERS, y.shape[1], generator=g).double() @ L.T


def flowed(settings: dict[str, Any], c: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Sample from a generative flow."""
    flow = rf.GenerativeFlow(**settings).fit(y, condition=c)
    n = len(at) * ANSWERS
    return flow.sample(n, condition=at.repeat_interleave(ANSWERS, 0), seed=1).view(len(at), ANSWERS, -1).double()


def main() -> None:
    from sklearn.datasets import load_diabetes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--more", type=json.loads, default={}, help="further settings, as JSON")
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"))
    args = parser.parse_args()
    bunch = load_diabetes()
    table = torch.from_numpy(np.column_stack([bunch.data, bunch.target]))
    scores: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for split in range(args.splits):
        g = torch.Generator().manual_seed(split)
        order = torch.randperm(len(table), generator=g)
        train, test = table[order[100:]], table[order[:100]]
        centre, spread = train.mean(0), train.std(0)
        (c, y), (at, truth) = (((t - centre) / spread).split([K, 7], 1) for t in (train, test))
        models = {
            "no condition: the training data themselves": lambda y=y, g=g: y[
                torch.randint(len(y), (100, ANSWERS), generator=g)
            ],
            "linear, Gaussian": lambda c=c, y=y, at=at, g=g: linear(c, y, at, g),
        }
        for name, settings in FLOWS.items():
            full = {**settings, **args.more, "seed": split}
            models[name] = lambda full=full, c=c, y=y, at=at: flowed(full, c, y, at)
        for name, model in models.items():
            started = time.perf_counter()
            scores.setdefault(name, []).append(rf.energy_score(model(), truth).mean().item())
            seconds[name] = seconds.get(name, 0.0) + (time.perf_counter() - started) / args.splits
    for name, values in scores.items():
        print(f"{name}: energy score {np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}, {seconds[name]:.1f} s")
    against = np.array(scores["linear, Gaussian"])
    apart = {name: (np.array(v) - against).tolist() for name, v in scores.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    save(args, "given-diabetes", {"energy score": scores, "less the linear model's": apart, "seconds": seconds}, None)


if __name__ == "__main__":
    main()
