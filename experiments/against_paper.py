"""Compare the paper's flow as usually implemented, the same flow on this library's engine, and this library's recipe.

All move the same number of particles to the same images. Their Fréchet distance to held-out images, in the features of one
classifier, and their energy distance are recorded as functions of seconds and steps, excluding the time for scoring.

  usual    uniform latents, independent directions, sorting (`usual` in benchmarks/common.py), τ = 1, the paper's momentum and P
  engine   the same latents, τ, momentum and P; this library's directions and engine
  recipe   the `cpu` preset of the data: its latents, kinds of slices, step lengths and momentum, for --rounds steps

Run: python experiments/against_paper.py [--data digits] [--minutes 60] [--particles 20000]      (digits: a few minutes)
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from shared import independent, save, usual
from torch import Tensor

import rieszflow as rf
from rieszflow.data import load
from rieszflow.generative import Config
from rieszflow.generative.latents import draw_latents
from rieszflow.generative.levels import levels
from rieszflow.metrics import frechet_distance, train_classifier

NAMES = {"usual": "the paper's flow, usual implementation", "engine": "the same flow, rieszflow's engine",
         "recipe": "rieszflow's recipe"}  # fmt: skip
MOMENTUM, P, COMPARED = {"fashion-mnist": 0.8, "digits": 0.7}, 1000, 4000
Score = Callable[[Tensor], dict[str, float]]
Rows = list[dict[str, float]]


def usual_steps(x: Tensor, y: Tensor, momentum: float) -> Iterator[Tensor]:
    g, v = torch.Generator().manual_seed(1), torch.zeros_like(x)
    while True:
        v = usual(x, y, independent(P, x.shape[1], g)) + momentum * v
        x = x - 0.5 * len(x) * v  # the flow of ½ MMD²
        yield x


def engine_steps(x: Tensor, y: Tensor, momentum: float) -> Iterator[Tensor]:
    flow = rf.ParticleFlow(y, slices=P, step_size=1.0, momentum=momentum, seed=1)
    while True:
        x = flow.step(x)
        yield x


def recipe_steps(x: Tensor, y: Tensor, config: Config, shape: tuple[int, ...], rounds: int) -> Iterator[Tensor]:
    first, last = config.step_schedule
    flow = rf.ParticleFlow(y, slices=config.slices, step_size=None, momentum=config.momentum, bounds=(0.0, 1.0), seed=1,
                           directions=levels(config, shape)[0].kinds(),
                           step_schedule=rf.geometric_schedule(first, last, rounds))  # fmt: skip
    for _ in range(rounds):
        x = flow.step(x)
        yield x


def scored(steps: Iterator[Tensor], score: Score, limit: float, keep: Callable[[Rows], object]) -> Rows:
    """Score the particles after 1, 2, 3, 4, 6, 8, … steps and at the end."""
    rows: Rows = []
    seconds, number, due = 0.0, 0, 1
    while True:
        started = time.perf_counter()
        x = next(steps, None)
        seconds += time.perf_counter() - started
        over = x is None or seconds > limit
        if x is not None:
            number, last = number + 1, x
        if number >= due or over:
            rows.append({"step": number, "seconds": seconds, **score(last)})
            print({name: round(value, 4) for name, value in rows[-1].items()}, flush=True)
            keep(rows)
            due = math.ceil(number * 1.3)
        if over:
            return rows


def reached(rows: Rows, level: float) -> float | None:
    """Return the seconds until the Fréchet distance is at most `level`, interpolated on logarithmic axes, or None."""
    if rows[0]["Fréchet"] <= level:
        return rows[0]["seconds"]
    for a, b in itertools.pairwise(rows):
        if b["Fréchet"] <= level:
            share = math.log(a["Fréchet"] / level) / math.log(a["Fréchet"] / b["Fréchet"])
            return math.exp(math.log(a["seconds"]) + share * math.log(b["seconds"] / a["seconds"]))
    return None


def compared(found: dict[str, Rows]) -> list[dict[str, Any]]:
    """Compare the seconds that each flow needs to reach the levels of the usual implementation halfway and at the end."""
    best = list(itertools.accumulate((row["Fréchet"] for row in found["usual"]), min))
    table = []
    for level in (best[len(best) // 2], best[-1]):
        seconds = {name: reached(rows, level) for name, rows in found.items()}
        base = seconds["usual"]
        times = {name: None if t is None or base is None else base / t for name, t in seconds.items()}
        table.append({"Fréchet": level, "seconds": seconds, "times as fast": times})
    return table


def drawn(found: dict[str, Rows], floor: dict[str, float], data: str) -> Figure:
    figure = Figure(figsize=(13, 8))
    axes = figure.subplots(2, 2)
    for row, what in zip(axes, ("Fréchet", "energy"), strict=True):
        for axis, over in zip(row, ("seconds", "step"), strict=True):
            for name, rows in found.items():
                axis.plot([r[over] for r in rows], [r[what] for r in rows], ".-", label=NAMES[name])
            axis.axhline(floor[what], color="grey", linestyle=":", label="training images")
            axis.set(xscale="log", yscale="log", ylabel=f"{what} distance of particles",
                     xlabel="seconds of flow, two CPU cores" if over == "seconds" else "flow steps")  # fmt: skip
            if what == "energy":
                axis.set_yscale("symlog", linthresh=0.01)
    axes[0][0].legend()
    figure.suptitle(f"Particles moved to {data}, by the paper's flow and by this library's recipe")
    figure.tight_layout()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(MOMENTUM), default="fashion-mnist")
    parser.add_argument(
        "--minutes",
        type=float,
        help="minutes of the usual implementation, an eighth of it for the others; default 60, for digits 3",
    )
    parser.add_argument("--particles", type=int, default=20_000, help="as many targets; all images, if there are fewer")
    parser.add_argument("--rounds", type=int, default=300, help="steps of the recipe")
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"), help="folder for the JSON and the PNG")
    args = parser.parse_args()
    minutes = args.minutes or (3.0 if args.data == "digits" else 60.0)
    data, config = load(args.data), Config.preset(args.data, "cpu")
    g = torch.Generator().manual_seed(0)
    train = data.train[torch.randperm(len(data.train), generator=g)]
    held_out = data.held_out[torch.randperm(len(data.held_out), generator=g)[:COMPARED]]
    y = train[: args.particles].flatten(1)
    classifier, _ = train_classifier(data)
    real = classifier.features(held_out)

    def score(x: Tensor) -> dict[str, float]:
        x = x[: len(held_out)].clamp(0, 1)
        energy = rf.energy_distance(x[:2000], held_out[:2000].flatten(1), statistic="U").item()
        return {"Fréchet": frechet_distance(classifier.features(x.view(-1, *data.shape)), real), "energy": energy}

    def latents(kind: Config) -> Tensor:
        return draw_latents(kind, data.shape, len(y), torch.Generator().manual_seed(2))

    momentum, uniform = MOMENTUM[args.data], latents(Config())
    ways = {
        "recipe": (recipe_steps(latents(config), y, config, data.shape, args.rounds), 7.5 * minutes),
        "engine": (engine_steps(uniform, y, momentum), 7.5 * minutes),
        "usual": (usual_steps(uniform, y, momentum), 60 * minutes),
    }
    floor, found = score(train[-len(held_out) :].flatten(1)), dict[str, Rows]()

    def keep(name: str, rows: Rows) -> None:
        found[name] = rows
        content = {"data": args.data, "particles": len(y), "targets": len(y), "compared": len(held_out), "slices": P,
                   "training images": floor, "rows": found}  # fmt: skip
        if "usual" in found:
            content["compared at"] = compared(found)
        save(args, f"against_paper-{args.data}", content, drawn(found, floor, args.data))

    args.out.mkdir(parents=True, exist_ok=True)
    for name, (steps, limit) in ways.items():
        print(NAMES[name], flush=True)
        scored(steps, score, limit, lambda rows, name=name: keep(name, rows))
    for row in compared(found):
        print(f"Fréchet distance {row['Fréchet']:.2f}:", end="")
        for name, t in row["seconds"].items():
            times = row["times as fast"][name]
            print(f"  {name} never" if t is None else f"  {name} {t:.1f} s, {times:.0f} times as fast", end="")
        print()


if __name__ == "__main__":
    main()
