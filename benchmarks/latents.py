"""Compare the energy distance and the pixel noise of particles from white and from smooth latents after equally many steps.

Pixel noise is measured by the total variation: the mean absolute difference of neighbouring pixels.

Run: python benchmarks/latents.py [--data fashion-mnist] [--particles 2000] [--steps 450]
"""

import math

import torch
from common import parser

import rieszflow as rf
from rieszflow.data import load
from rieszflow.generative import Config
from rieszflow.generative.latents import draw_latents


def total_variation(x: torch.Tensor, shape: tuple[int, ...]) -> float:
    image = x.view(-1, *shape)
    return sum(image.diff(dim=k).abs().mean().item() for k in (-1, -2))


def main() -> None:
    command = parser(__doc__, particles=2000, steps=450)
    command.add_argument("--data", default="fashion-mnist")
    options = command.parse_args()
    data = load(options.data)
    g = torch.Generator().manual_seed(0)
    targets = data.train.flatten(1)[torch.randperm(len(data.train), generator=g)[:6000]]
    held_out = data.held_out.flatten(1)[:2000]
    d = math.prod(data.shape)
    yardstick = rf.energy_distance(targets[:2000], held_out, statistic="U")
    print(f"{options.data}, {options.particles} particles, {options.steps} steps of one orthogonal block, τ = 1, m = 0.8")
    print(f"training data  energy distance {yardstick:+.4f}  total variation {total_variation(targets, data.shape):.3f}")
    for latents in ("uniform", "smooth"):
        x = draw_latents(Config(latents=latents), data.shape, options.particles, g)
        start = total_variation(x, data.shape)
        flow = rf.ParticleFlow(targets, slices=d, step_size=1.0, momentum=0.8, seed=g, bounds=(0.0, 1.0))
        x = flow.run(x, steps=options.steps)
        distance = rf.energy_distance(x[:2000], held_out, statistic="U")
        end = total_variation(x, data.shape)
        print(f"{latents:>13}  energy distance {distance:+.4f}  total variation {end:.3f} (from {start:.3f})")


if __name__ == "__main__":
    main()
