"""Compare kinds of slices on Fashion-MNIST by the Fréchet and energy distance as functions of time.

Particles, and new points that follow the recording, are compared with 4,000 held-out images.

Run: python experiments/scales.py [--only NAME ...] [--out FILE.json] [--picture FILE.png]     (an hour for all)
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import rieszflow as rf
from rieszflow.data import load
from rieszflow.generative import Config
from rieszflow.generative.latents import draw_latents
from rieszflow.metrics import frechet_distance, train_classifier

SHAPE = (1, 28, 28)
COMPARED = 4000


def patches(size: int, scale: int) -> rf.PatchSlices:
    return rf.PatchSlices(SHAPE, size, scale)


BEST: list[Any] = ["hadamard", patches(10, 2), patches(7, 1)]
ALL: list[Any] = ["hadamard", patches(7, 4), patches(7, 2), patches(7, 1)]
# All settings have about the same number of single steps and thus of slices.
SETTINGS: dict[str, dict[str, Any]] = {
    "whole images": {"kinds": ["hadamard"], "steps": 1800},
    "patches 7 × 7, stretched 4, 2, 1": {"kinds": ALL[1:]},
    "whole, and 7 × 7 stretched 4, 2, 1": {"kinds": ALL},
    "whole, 10 × 10 stretched 2, and 7 × 7": {"kinds": BEST},
    "the same, summed": {"kinds": BEST, "summed": True},
    "the same, half the length": {"kinds": BEST, "first": 8.0, "last": 0.25},
    "the same, twice the length": {"kinds": BEST, "first": 32.0, "last": 1.0},
    "the same, momentum 0.5": {"kinds": BEST, "momentum": 0.5},
    "the same, momentum 0.9": {"kinds": BEST, "momentum": 0.9},
    "the same, momentum 0.9, five times the steps": {"kinds": BEST, "momentum": 0.9, "steps": 3000},
    "the same, P = 256": {"kinds": BEST, "P": 256, "steps": 2400},
    "the same, P = 4096": {"kinds": BEST, "P": 4096, "steps": 150},
    "patches 3 × 3": {"kinds": ["hadamard", patches(3, 8), patches(3, 4), patches(3, 1)]},
    "patches 14 × 14": {"kinds": ["hadamard", patches(14, 2), patches(14, 1)]},
    "without clipping": {"kinds": BEST, "bounds": None},
    "white latents": {"kinds": BEST, "latents": "uniform"},
}


def latents(name: str, n: int, seed: int) -> Tensor:
    return draw_latents(Config(latents=name), SHAPE, n, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def run(
    y: Tensor,
    score: Any,
    *,
    kinds: list[Any],
    particles: int,
    first: float = 16.0,
    last: float = 0.5,
    momentum: float = 0.8,
    P: int = 1024,
    steps: int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    latents_name: str = "smooth",
    summed: bool = False,
) -> list[dict[str, float]]:
    """Score particles over the seconds of the flow, excluding the time for moving the new points."""
    rounds = steps or 1800 // len(kinds)
    flow = rf.ParticleFlow(
        y, slices=P, step_size=None, momentum=momentum, directions=kinds, target_batch_size=particles, bounds=bounds, seed=1,
        step_schedule=rf.geometric_schedule(first, last, rounds), combine="sum" if summed else "alternate", record=True,
    )  # fmt: skip
    x, z, rows, seconds = latents(latents_name, particles, 2), latents(latents_name, COMPARED, 3), [], 0.0
    velocities: Any = [None] * len(kinds)
    marks = {max(1, round(rounds * share)) for share in (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)}
    for k in range(1, rounds + 1):
        started = time.perf_counter()
        x = flow.step(x)
        seconds += time.perf_counter() - started
        if k in marks:
            assert flow.recorder is not None
            z, velocities = flow.recorder.segment.push(z, velocities)
            flow.recorder.segment.steps.clear()
            rows.append({"round": k, "seconds": seconds, **score("particles", x[:COMPARED]), **score("replayed", z)})
            print({key: round(v, 3) for key, v in rows[-1].items()}, flush=True)
    return rows


def draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(14, 5), layout="constrained")
    for axis, what in zip(axes, ("Fréchet", "energy"), strict=True):
        for k, (name, rows) in enumerate(found.items()):
            seconds, values = [r["seconds"] for r in rows], [r[f"particles, {what}"] for r in rows]
            axis.plot(seconds, values, label=name, color=f"C{k % 10}", linestyle=("-", "--")[k // 10])
        axis.set(xscale="log", yscale="log" if what == "Fréchet" else "linear", xlabel="seconds", ylabel=f"{what} distance")
    axes[1].set_ylim(-0.01, 0.1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="names of settings, or their beginnings")
    parser.add_argument("--particles", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=Path("runs/scales.json"))
    parser.add_argument("--picture", type=Path, default=Path("runs/scales.png"))
    args = parser.parse_args()
    data = load("fashion-mnist")
    y = data.train.flatten(1)[torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))]
    held_out = data.held_out[torch.randperm(len(data.held_out), generator=torch.Generator().manual_seed(0))[:COMPARED]]
    classifier, _ = train_classifier(data)
    real = classifier.features(held_out)

    def score(name: str, x: Tensor) -> dict[str, float]:
        x = x.clamp(0, 1)
        distance = rf.energy_distance(x[:2000], held_out[:2000].flatten(1), statistic="U").item()
        return {
            f"{name}, Fréchet": frechet_distance(classifier.features(x.view(-1, *SHAPE)), real),
            f"{name}, energy": distance,
        }

    args.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, float]]] = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name, setting in SETTINGS.items():
        if args.only and not any(name == only or name.startswith(f"{only},") for only in args.only):
            continue
        print(name, flush=True)
        own = {("latents_name" if key == "latents" else key): value for key, value in setting.items()}
        found[name] = run(y, score, particles=args.particles, **own)
        args.out.write_text(json.dumps(found, indent=1))
    draw(found, args.picture)


if __name__ == "__main__":
    main()
