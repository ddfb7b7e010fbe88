"""Evaluate samples by label: how often a classifier recognises the label, and how well another one learns from samples alone.

  accuracy of a classifier trained on real data, on real held-out data and on samples with the requested label
  accuracy on real held-out data of classifiers trained on samples, on equally many real images, and on all real images
  Fréchet distances, by label and of all samples; also for a run without labels, if one is given

Run: rieszflow train fashion-mnist --by-class --out runs/by-class
     python experiments/by_class.py runs/by-class [--without runs/fashion-mnist-cpu]
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from shared import save
from torch import Tensor

from rieszflow import report
from rieszflow.data import Dataset
from rieszflow.generative import GenerativeFlow, load_data
from rieszflow.metrics import evaluate, frechet_distance, train_classifier


def learned_from(data: Dataset, x: Tensor, labels: Tensor, seed: int) -> float:
    """Return the held-out accuracy of a classifier trained on x."""
    return train_classifier(dataclasses.replace(data, train=x, train_labels=labels), seed=seed, steps=3000)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--without", type=Path, help="a run on the same data without labels")
    parser.add_argument("-n", type=int, default=10_000, help="samples to learn from")
    parser.add_argument("--compared", type=int, default=2000, help="samples to score")
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"))
    args = parser.parse_args()
    flow = GenerativeFlow.load(args.run)
    assert flow.run is not None
    data = load_data(flow.run)
    assert data.train_labels is not None and data.held_out_labels is not None
    classes = data.train_labels.unique()
    labels = classes[torch.arange(args.n) % len(classes)]
    started = time.perf_counter()
    x = data.scale(flow.sample(args.n, condition=labels, seed=1))
    seconds = time.perf_counter() - started
    rows = torch.randperm(len(data.held_out), generator=torch.Generator().manual_seed(0))[: args.compared]
    wanted = data.held_out_labels[rows]
    scored = evaluate(data.scale(flow.sample(len(rows), condition=wanted, seed=2)), data, labels=wanted)
    content: dict[str, Any] = {
        "seconds of sampling": seconds,
        "scores": scored["scores"],
        "by label": scored["frechet_by_label"],
    }
    if args.without is not None:
        other = GenerativeFlow.load(args.without)
        content["without labels"] = evaluate(data.scale(other.sample(len(rows), seed=2)), data)["scores"]
    real = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(1))[: args.n]
    content["trained on"] = {
        f"{args.n} samples": [learned_from(data, x, labels, seed) for seed in range(2)],
        f"{args.n} real data": [learned_from(data, data.train[real], data.train_labels[real], seed) for seed in range(2)],
        "all real data": [learned_from(data, data.train, data.train_labels, seed) for seed in range(2)],
    }
    classifier, _ = train_classifier(data)
    content["guessed right by label"] = {
        int(c): (classifier.predictions(x[labels == c]) == c).double().mean().item() for c in classes
    }
    content["Fréchet distance of all samples"] = frechet_distance(
        classifier.features(x), classifier.features(data.held_out[: args.n])
    )
    for key, value in content.items():
        print(key, value)
    shown = torch.cat([x[labels == c][:14] for c in classes])
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"by-class-{Path(data.name).stem}"
    save(args, name, content, None)
    report.save_picture(args.out / f"{name}.png", report.picture(shown, columns=14))


if __name__ == "__main__":
    main()
