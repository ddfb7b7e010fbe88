"""Measure how much of the displacement in a flow is projection noise, which no network can learn.

Particles start from smooth latents in the box (Fashion-MNIST, momentum 0.8). After some common steps, the flow is continued
twice with different slices. The share of noise is half the mean squared difference of the two displacements, divided by the
mean square of a displacement. The final energy distance (U-statistic, 2,000 held-out images) and the time per step are reported
as well. Step sizes are in units of the mean distance between targets times 1 − m.

Run: python benchmarks/noise.py [--particles 10000] [--before 32]
"""

import itertools
import time

import matplotlib.pyplot as plt
import torch
from common import parser, save

import rieszflow as rf
from rieszflow.data import load
from rieszflow.generative import Config
from rieszflow.generative.latents import draw_latents

MOMENTUM = 0.8
STEPS = (64, 256)
WAYS = list(itertools.product((8, 2, 1), (1.5, 0.4)))  # refresh_every, step size


def main() -> None:
    options = parser(__doc__, particles=10_000, before=32).parse_args()
    data = load("fashion-mnist")
    g = torch.Generator().manual_seed(0)
    y = data.train.flatten(1)[torch.randperm(len(data.train), generator=g)[:12_000]]
    held_out = data.held_out.flatten(1)[:2000]
    mean = torch.pdist(y[:2000]).mean().item()

    def distance(x: torch.Tensor) -> float:
        return rf.energy_distance(x[:2000], held_out, statistic="U").item()

    def flow(seed: int, refresh_every: int, step: float) -> rf.ParticleFlow:
        tau, drawn = step * (1 - MOMENTUM) * mean, torch.Generator().manual_seed(seed)
        return rf.ParticleFlow(
            y, slices=1024, step_size=tau, momentum=MOMENTUM, refresh_every=refresh_every, bounds=(0.0, 1.0), seed=drawn
        )

    latents = draw_latents(Config(latents="smooth"), data.shape, options.particles, g)
    start = flow(1, 1, 1.5).run(latents, steps=options.before)
    print(f"energy distance of training data {distance(y):.4f}, before {distance(start):.4f}")
    rows = []
    for steps, (refresh_every, step) in itertools.product(STEPS, WAYS):
        begun = time.perf_counter()
        one, two = (flow(seed, refresh_every, step).run(start, steps=steps) for seed in (2, 3))
        seconds = (time.perf_counter() - begun) / (2 * steps)
        noise = ((one - two).square().mean() / 2 / (one - start).square().mean()).item()
        rows.append(
            {
                "steps": steps,
                "refresh_every": refresh_every,
                "step": step,
                "noise": noise,
                "distance": distance(one),
                "seconds_a_step": seconds,
            }
        )
        print(
            f"{steps:>4} steps of {step}, slices used {refresh_every} times: noise {noise:.2f}, "
            f"energy distance {distance(one):.4f}, "
            f"{1e3 * seconds:.0f} ms a step",
            flush=True,
        )
    figure, axes = plt.subplots(figsize=(6, 3.5))
    for refresh_every, step in WAYS:
        own = [r for r in rows if (r["refresh_every"], r["step"]) == (refresh_every, step)]
        axes.plot([r["noise"] for r in own], [r["distance"] for r in own], "o-", label=f"used {refresh_every} ×, step {step}")
    axes.set(
        xlabel="share of noise in the displacement",
        ylabel="energy distance (U)",
        title=f"after {STEPS[0]} (upper ends) and {STEPS[1]} further steps",
    )
    axes.legend(fontsize=8)
    save(options, "noise", {"particles": options.particles, "before": options.before, "rows": rows}, figure)


if __name__ == "__main__":
    main()
