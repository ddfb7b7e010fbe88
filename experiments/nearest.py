"""Show samples of a run with their L2-nearest training images and the distances, to detect memorisation.

Held-out images are the reference: samples of a model that memorises would be much closer to the training data.

Run: python experiments/nearest.py RUN [--full]     (RUN: runs/demo after `make demo`)
"""

import sys

import torch
from matplotlib.figure import Figure
from shared import options, save

import rieszflow as rf
from rieszflow import metrics, report
from rieszflow.generative import load_data


def main() -> None:
    folder = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "runs/demo"
    given = options(__doc__)
    flow = rf.GenerativeFlow.load(folder)
    data = load_data(flow.run)
    n = min(10_000 if given.full else 1000, len(data.held_out))
    x = data.scale(flow.sample(n, seed=0))
    train = data.train.flatten(1)
    index, distance = metrics.nearest(x, train)
    _, yardstick = metrics.nearest(data.held_out[:n], train)
    pairs = [part for k in (0, 10, 20) for part in (x[k : k + 10], data.train[index[k : k + 10]])]
    figure = Figure(figsize=(11, 4.6), layout="tight")
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    left.imshow(report.picture(torch.cat(pairs), columns=10), cmap="gray")
    left.set(xticks=[], yticks=[], title="samples, and below each its nearest training image")
    bins = torch.linspace(0, max(distance.max(), yardstick.max()).item(), 40).tolist()
    for values, label in ((distance, "samples"), (yardstick, "held-out images")):
        right.hist(values.tolist(), bins, alpha=0.5, label=f"{label}: median {values.median():.3f}")
    right.set(xlabel="L2 distance to the nearest training image", ylabel="images")
    right.legend()
    medians = {"samples": distance.median().item(), "held_out": yardstick.median().item()}
    print(
        f"{n} images, median distance to the nearest training image: samples {medians['samples']:.3f}, "
        f"held-out {medians['held_out']:.3f}"
    )
    save(given, f"nearest-{flow.run.data['name']}", {"n": n, "median_distance": medians}, figure)


if __name__ == "__main__":
    main()
