"""Reproduce Figure 2 of the paper: particles after 2^k steps from a uniform start, without and with momentum.

Run: python experiments/trajectories.py [--full]
"""

import torch
from matplotlib.figure import Figure
from shared import images, options, save

import rieszflow as rf
from rieszflow.report import picture


def main() -> None:
    given = options(__doc__)
    for name, momentum, n, last in (("digits", 0.7, 1000, 11), ("fashion-mnist", 0.8, 20_000 if given.full else 2000, 9)):
        g = torch.Generator().manual_seed(0)
        y, held_out, shape = images(name, n, g)
        steps = [2**k for k in range(0, (16 if given.full else last) + 1)]
        start = torch.rand(len(y), y.shape[1], generator=g)
        curves, grids = {}, {}
        for m in (0.0, momentum):
            flow = rf.ParticleFlow(y, slices=1024, step_size=1.0, momentum=m, seed=torch.Generator().manual_seed(1))
            flow.run(start, steps=steps[-1], snapshots=steps)
            distance = [rf.energy_distance(flow.trajectory[k][:2000], held_out[:2000], statistic="U").item() for k in steps]
            curves[f"momentum {m}"] = distance
            grids[m] = torch.cat([flow.trajectory[k][:8] for k in steps[::2]])
            print(
                f"{name}, momentum {m}: " + ", ".join(f"{k}: {v:.4f}" for k, v in zip(steps, distance, strict=True)), flush=True
            )
        figure = Figure(figsize=(13, 6), layout="tight")
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
        shown = steps[::2]
        for axes, (m, grid) in zip((left, middle), grids.items(), strict=True):
            image = picture(grid.clamp(0, 1).view(-1, *shape), columns=8)
            axes.imshow(image, cmap="gray", aspect="auto")
            axes.set(title=f"momentum {m}", xticks=[])
            axes.set_yticks([(k + 0.5) * image.height / len(shown) for k in range(len(shown))], [str(s) for s in shown])
        for label, distance in curves.items():
            right.loglog(steps, [max(v, 1e-4) for v in distance], "o-", label=label)
        yardstick = rf.energy_distance(y[:2000], held_out[:2000], statistic="U").item()
        right.axhline(max(yardstick, 1e-4), color="grey", ls="--", label="training data")
        right.set(xlabel="steps", ylabel="energy distance to held-out data (U; below 1e-4 drawn there)", title=name)
        right.legend()
        content = {"data": name, "N": len(y), "steps": steps, "energy_distance_U": curves, "training_data": yardstick}
        save(given, f"trajectories-{name}", content, figure)


if __name__ == "__main__":
    main()
