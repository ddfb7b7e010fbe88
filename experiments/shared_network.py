"""One network for all steps, told the step by a time embedding, against a sequence of networks: quality, size, sampling time.

The `cpu` preset of digits (--full: of Fashion-MNIST), trained twice with one seed, and resumed where they were
stopped.

Runs lie in runs/shared-network-*. Run: python experiments/shared_network.py [--full]
"""

import time
from pathlib import Path

from matplotlib.figure import Figure
from shared import options, save

import rieszflow as rf
from rieszflow import metrics, report
from rieszflow.data import load
from rieszflow.generative import Config


def main() -> None:
    given = options(__doc__)
    name = "fashion-mnist" if given.full else "digits"
    data, rows = load(name), {}
    n = min(2000, len(data.held_out))
    figure = Figure(figsize=(10, 5.4), layout="tight")
    for axes, shared in zip(figure.subplots(1, 2), (False, True), strict=True):
        label = "one network" if shared else "a sequence of networks"
        folder = Path("runs") / f"shared-network-{name}-{shared}"
        if folder.is_dir():
            flow = rf.GenerativeFlow.resume(folder, data, draw=report.draw)
        else:
            flow = rf.GenerativeFlow(Config.preset(name, "cpu", shared=shared)).fit(data, run=folder, draw=report.draw)
        start = time.perf_counter()
        x = flow.sample(n, seed=0)
        seconds = time.perf_counter() - start
        size = sum(f.stat().st_size for f in (folder / "networks").iterdir())
        scores = metrics.evaluate(data.scale(x), data)["scores"]
        trained = sum(flow.run.metrics()[-1]["seconds"].values())
        rows[label] = {"megabytes": size / 1e6, "sampling_seconds": seconds, "training_seconds": trained, "scores": scores}
        print(f"{label}: {size / 1e6:.1f} MB, {n} samples in {seconds:.1f} s, trained in {trained:.0f} s; "
              + ", ".join(f"{k} {v['generated']:.4f} ({v['training_data']:.4f})" for k, v in scores.items()))  # fmt: skip
        axes.imshow(report.picture(x[:64].clamp(0, 1)), cmap="gray")
        axes.set(xticks=[], yticks=[], title=f"{label}: 2D² (U) {scores['energy_distance_U']['generated']:.4f}")
    save(given, "shared-network", {"data": name, "samples": n, "ways": rows}, figure)


if __name__ == "__main__":
    main()
