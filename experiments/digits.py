"""Compare models for the digits: recorded flows and sequences of networks of several lengths.

Every model is trained with several seeds. Several sets of new samples from each are compared with the 270 held-out digits,
because scores of a single set of 270 are noisy. Sets of training digits are scored for reference.

Run: python experiments/digits.py [--only NAME ...] [--seeds 2] [--out FILE.json]     (15 minutes)
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import rieszflow as rf
from rieszflow.data import load
from rieszflow.generative.schema import read_preset
from rieszflow.metrics import frechet_distance, precision_recall, train_classifier

SETS = 6
RECORDED: dict[str, Any] = {
    "model": "recorded",
    "particles": 8000,
    "slices": 512,
    "momentum": 0.8,
    "latents": "smooth",
    "clip": True,
    "step_schedule": [12.0, 1.0],
    "stages": 16,
    "initial_steps": 25,
    "max_steps": 25,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "networks": read_preset("digits", "networks"),  # type: ignore[dict-item]
    "recorded": RECORDED,
    "recorded, more particles": RECORDED | {"particles": 30000},
    "recorded, patches": RECORDED | {"patch_slices": [[4, 1]], "initial_steps": 12, "max_steps": 12},
    "recorded, half as long": RECORDED | {"stages": 8},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Digits by several models.")
    parser.add_argument("--only", nargs="*", default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--more", type=json.loads, default={}, help="further settings, as JSON")
    arguments = parser.parse_args()
    data = load("digits")
    classifier, _ = train_classifier(data, seed=0)
    generator = torch.Generator().manual_seed(0)

    def seen(images: Tensor) -> Tensor:
        return classifier.features(images.view(-1, *data.shape))

    held_out, train = seen(data.held_out), seen(data.train)
    n, found = len(held_out), {}

    def scores(sets: list[Tensor]) -> dict[str, tuple[float, float]]:
        rows = torch.tensor([[frechet_distance(s, held_out), *precision_recall(s, held_out)] for s in sets])
        return {
            name: (column.mean().item(), column.std().item())
            for name, column in zip(("Fréchet", "precision", "recall"), rows.T, strict=True)
        }

    def say(name: str, seconds: float, of: dict[str, tuple[float, float]]) -> None:
        found[name] = {"seconds": seconds, **of}
        text = ", ".join(f"{key} {mean:.3f} ± {spread:.3f}" for key, (mean, spread) in of.items())
        print(f"{name}: {seconds:.0f} s, {text}", flush=True)

    say("training data", 0.0, scores([train[torch.randperm(len(train), generator=generator)[:n]] for _ in range(SETS)]))
    for name in arguments.only:
        sets, started, spent = [], 0.0, 0.0
        for seed in range(arguments.seeds):
            started = time.perf_counter()
            flow = rf.GenerativeFlow(**{**SETTINGS[name], **arguments.more, "seed": seed}).fit(data)
            spent += time.perf_counter() - started
            features = seen(flow.sample(SETS * n, seed=100 + seed))
            sets += list(features.split(n))
        say(name, spent / arguments.seeds, scores(sets))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
