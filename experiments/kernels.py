"""Compare kernels as in the paper: MMD flows with Gaussian, inverse multiquadric, Laplace and Riesz kernels.

Gradients are exact. Every flow uses the best of several step sizes, judged by its final W₁, so that no kernel suffers from a
bad choice. Points in the plane start far from their target; digits start as uniform noise. W₁ is exact (an assignment problem).

Run: python experiments/kernels.py [--full]
"""

import torch
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from shared import images, options, save

import rieszflow as rf
from rieszflow.report import picture


def kernels(scale: float) -> dict[str, rf.Kernel]:
    """Return kernels with parameters from far below to far above the size of the target."""
    found: dict[str, rf.Kernel] = {f"Riesz r = {r}": rf.Riesz(r) for r in (0.5, 1.0, 1.5)}
    for factor in (0.05, 0.25, 1.0, 4.0):
        found[f"Gaussian {factor} s"] = rf.Gaussian(factor * scale)
        found[f"Laplace {factor} s"] = rf.Laplace(factor * scale)
        found[f"inverse multiquadric {factor} s"] = rf.InverseMultiquadric(factor * scale)
    return found


def wasserstein(x: torch.Tensor, y: torch.Tensor) -> float:
    cost = torch.cdist(x.double(), y.double()).numpy()
    return cost[linear_sum_assignment(cost)].mean()


def run(kernel: rf.Kernel, start: torch.Tensor, y: torch.Tensor, marks: list[int], scale: float) -> dict:
    """Run the flow with several step sizes and return the best result."""
    best = None
    # Step sizes in units of the target's size, for the gradient of ½ MMD² at that distance.
    size = rf.mmd2_gradient(torch.zeros(1, y.shape[1]), scale * torch.eye(1, y.shape[1]), kernel=kernel).norm().item() / 2
    for step in (0.01, 0.1, 1.0, 10.0):
        flow = rf.ParticleFlow(y, kernel=kernel, slices=None, step_size=step * scale / max(size, 1e-6), momentum=0.5)
        x = flow.run(start, steps=marks[-1], snapshots=marks)
        if not torch.isfinite(x).all():
            continue
        curve = [wasserstein(flow.trajectory[k], y) for k in marks]
        energy = [rf.energy_distance(flow.trajectory[k], y).item() for k in marks]
        if best is None or curve[-1] < best["W1"][-1]:
            best = {"step": step, "W1": curve, "energy_distance": energy, "x": x}
    assert best is not None
    return best


def plane(n: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    angle = 2 * torch.pi * torch.rand(n, generator=g)
    ring = torch.stack([angle.cos(), angle.sin()], 1)
    ring[n // 2 :] = 0.3 * ring[n // 2 :] + torch.tensor([2.0, 1.0])
    return 0.1 * torch.randn(n, 2, generator=g) + torch.tensor([-6.0, -4.0]), ring + 0.02 * torch.randn(n, 2, generator=g)


def main() -> None:
    given = options(__doc__)
    g = torch.Generator().manual_seed(0)
    n, last = (1000, 12) if given.full else (300, 9)
    marks = [0, *(2**k for k in range(last + 1))]
    digits, _, shape = images("digits", n, g)
    for name, start, y in (("plane", *plane(n, g)), ("digits", torch.rand(digits.shape, generator=g), digits)):
        scale = torch.pdist(y).mean().item()
        results = {}
        for label, kernel in kernels(scale).items():
            results[label] = run(kernel, start, y, marks, scale)
            r = results[label]
            print(
                f"{name:>7} {label:>30}: W1 {r['W1'][0]:.3f} to {r['W1'][-1]:.4f}, "
                f"energy distance {r['energy_distance'][-1]:.5f}",
                flush=True,
            )
        figure = Figure(figsize=(16, 8), layout="tight")
        grid = figure.add_gridspec(3, 8)
        for k, (label, r) in enumerate(results.items()):
            axes = figure.add_subplot(grid[k // 5, k % 5])
            if name == "plane":
                axes.scatter(*y.T, s=2, color="lightgrey")
                axes.scatter(*r["x"].T, s=2, color="tab:red")
                axes.set(xlim=(-7, 3), ylim=(-5, 2.5))
            else:
                axes.imshow(picture(r["x"][:16].clamp(0, 1).view(-1, *shape)), cmap="gray")
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"{label}\nW₁ {r['W1'][-1]:.3f}", fontsize=8)
        for row, key in ((0, "W1"), (1, "energy_distance")):
            axes = figure.add_subplot(grid[row, 5:])
            for label, r in results.items():
                style = {"lw": 2.5} if label.startswith("Riesz") else {"lw": 0.8, "ls": "--"}
                axes.loglog(marks[1:], [max(v, 1e-6) for v in r[key][1:]], label=label, **style)
            axes.set(xlabel="steps", ylabel={"W1": "W₁"}.get(key, "energy distance"))
        place = figure.add_subplot(grid[2, 5:])
        place.axis("off")
        place.legend(*axes.get_legend_handles_labels(), fontsize=8, ncols=3, loc="center")
        content = {label: {k: v for k, v in r.items() if k != "x"} for label, r in results.items()}
        save(given, f"kernels-{name}", {"N": n, "steps": marks, "scale": scale, "kernels": content}, figure)


if __name__ == "__main__":
    main()
