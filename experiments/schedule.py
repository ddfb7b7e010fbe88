"""Plot the energy distance of the paper's flow and of ours over flow steps and seconds, on the same data.

The paper's flow uses a uniform start, new independent directions in every step, P = 1,000, τ = 1 and momentum 0.8. Its seconds
are the number of steps times the measured time of one step of the usual implementation (dense directions, three sorts). Ours
uses whole orthogonal blocks of a fast transform with cached targets and automatic τ, once from the same start and once from
smooth latents kept in [0, 1]^d.

Run: python experiments/schedule.py [--full]
"""

import math
import time

import torch
from matplotlib.figure import Figure
from shared import images, independent, options, save, usual

import rieszflow as rf
from rieszflow.flow.steps import default_step_sizes
from rieszflow.generative import Config
from rieszflow.generative.latents import draw_latents


def main() -> None:
    given = options(__doc__)
    n, last = (20_000, 12) if given.full else (4000, 9)
    g = torch.Generator().manual_seed(0)
    y, held_out, shape = images("fashion-mnist", n, g)
    d = y.shape[1]
    uniform, smooth = (draw_latents(Config(latents=kind), shape, n, g) for kind in ("uniform", "smooth"))
    (tau,) = default_step_sizes(y[:2000], ["auto"], [1024], [0.8])
    start = time.perf_counter()
    for _ in range(3):
        usual(uniform, y, independent(1000, d, g))
    of_usual = (time.perf_counter() - start) / 3
    ways = {
        "paper": (uniform, {"slices": 1000, "directions": "independent", "step_size": 1.0}),
        "ours, uniform start": (uniform, {"slices": 1024, "step_size": tau, "engine": "bins"}),
        "ours, smooth start in the box": (smooth, {"slices": 1024, "step_size": tau, "engine": "bins", "bounds": (0.0, 1.0)}),
    }
    marks = [2**k for k in range(last + 1)]
    rows = {}
    for name, (x, settings) in ways.items():
        flow = rf.ParticleFlow(y, momentum=0.8, seed=torch.Generator().manual_seed(1), **settings)
        seconds, distances, spent = [], [], 0.0
        for k in range(1, marks[-1] + 1):
            start = time.perf_counter()
            x = flow.step(x)
            spent += time.perf_counter() - start
            if k in marks:
                seconds.append(k * of_usual if name == "paper" else spent)
                distances.append(rf.energy_distance(x[:2000], held_out[:2000], statistic="U").item())
        rows[name] = {"seconds": seconds, "energy_distance_U": distances}
        print(
            f"{name}: " + ", ".join(f"{k}: {v:.4f} ({s:.0f} s)" for k, v, s in zip(marks, distances, seconds, strict=True)),
            flush=True,
        )
    yardstick = rf.energy_distance(y[:2000], held_out[:2000], statistic="U").item()
    print(f"training data: {yardstick:.4f}")
    for level in (0.1, 0.03):
        reached = {
            name: next((k for k, v in enumerate(r["energy_distance_U"]) if v <= level), None) for name, r in rows.items()
        }
        print(f"to {level}: " + ", ".join(
            f"{name} " + ("not reached" if k is None else f"{marks[k]} steps, {rows[name]['seconds'][k]:.1f} s")
            for name, k in reached.items()
        ), flush=True)  # fmt: skip
    figure = Figure(figsize=(11, 4), layout="tight")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, r in rows.items():
        shown = [max(v, 1e-4) if math.isfinite(v) else math.nan for v in r["energy_distance_U"]]
        left.loglog(marks, shown, "o-", label=name)
        right.loglog(r["seconds"], shown, "o-", label=name)
    for axes in (left, right):
        axes.axhline(max(yardstick, 1e-4), color="grey", ls="--", label="training data")
    left.set(xlabel="steps", ylabel="energy distance to held-out data (U)", title=f"Fashion-MNIST, N = M = {n:,}")
    right.set(xlabel="seconds", title="the paper's: steps × the usual implementation's step")
    right.legend(fontsize=8)
    save(
        given,
        "schedule",
        {"N": n, "steps": marks, "usual_step_seconds": of_usual, "training_data": yardstick, "ways": rows},
        figure,
    )


if __name__ == "__main__":
    main()
