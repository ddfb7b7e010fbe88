"""Draw the figures of docs/design.md. Run: python docs/drawings.py"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

OUT = Path(__file__).parent / "drawings"
X, Y, GREY = "#0072B2", "#D55E00", "#555555"  # distinguishable with colour blindness


def save(figure: Figure, name: str) -> None:
    figure.savefig(OUT / f"{name}.png", dpi=130, bbox_inches="tight", facecolor="white")


def slices() -> None:
    """Draw two clouds, their projections on one direction, and the two distribution functions."""
    g = np.random.default_rng(3)
    x, y = g.normal(size=(12, 2)) * 0.7 + (-1.2, 0.4), g.normal(size=(12, 2)) * (0.8, 0.5) + (1.2, -0.3)
    direction = np.array([np.cos(0.45), np.sin(0.45)])
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for cloud, colour, name in ((x, X, "particles x"), (y, Y, "targets y")):
        left.scatter(*cloud.T, color=colour, s=34, label=name, zorder=3)
        feet = (cloud @ direction)[:, None] * direction
        for point, foot in zip(cloud, feet, strict=True):
            left.plot(*zip(point, foot, strict=True), color=colour, lw=0.6, alpha=0.5)
        left.scatter(*feet.T, color=colour, s=14, marker="|", zorder=3)
    left.plot(*(np.array([-3, 3.2])[:, None] * direction).T, color="black", lw=1)
    left.annotate("direction ξ", 3.0 * direction, xytext=(-58, 12), textcoords="offset points")
    left.set(title="One slice: projections ⟨ξ, x⟩ and ⟨ξ, y⟩ on a direction", xticks=[], yticks=[], aspect="equal")
    left.set(ylim=(-1.9, 3.2))
    left.legend(loc="upper right", frameon=False)
    grid = np.linspace(-3.5, 3.5, 1000)
    F, G = (np.searchsorted(np.sort(cloud @ direction), grid, side="right") / len(cloud) for cloud in (x, y))
    right.step(grid, F, color=X, label="F: share of x below")
    right.step(grid, G, color=Y, label="G: share of y below")
    right.fill_between(grid, F, G, step="pre", color=GREY, alpha=0.18, lw=0)
    at = float(np.sort(x @ direction)[5])
    f, h = np.interp(at, grid, F), np.interp(at, grid, G)
    right.annotate("", (at, h), (at, f), arrowprops={"arrowstyle": "<->", "color": "black"})
    right.annotate("F − G: how strongly a particle\nhere is pulled to the right", (at, (f + h) / 2), xytext=(-142, 74),
                   textcoords="offset points", arrowprops={"arrowstyle": "-", "color": GREY})  # fmt: skip
    right.set(title="The gradient is a difference of two distribution functions", xlabel="position on the slice",
              ylabel="share of points", ylim=(-0.03, 1.05))  # fmt: skip
    right.legend(loc="lower right", frameon=False)
    save(figure, "slices")


def passes() -> None:
    """Draw the path of a point through the two passes of the linear-time engine."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    axes = figure.subplots()
    first = [("load", "64 points"), ("project", "fast transform"), ("count", "one bin a slice")]
    second = [
        ("load", "64 points"),
        ("project", "fast transform"),
        ("look up", "one line a slice"),
        ("back", "transform again"),
    ]
    for row, steps, title, names in (
        (3.2, first, "pass 1, over x and over y", ("points", "")),
        (0.4, second, "pass 2, over x", ("points", "gradient")),
    ):
        axes.text(-0.2, row + 1.35, title, fontsize=12, weight="bold")
        box(axes, (0, row), names[0], "(N, d)", X)
        for k, (name, what) in enumerate(steps):
            box(axes, (2.2 * (k + 1), row), name, what, "white")
            arrow(axes, (2.2 * k + 1.7, row + 0.5), (2.2 * (k + 1), row + 0.5))
    box(axes, (8.8, 3.2), "tables", "F and G, (P, B)", "#E8E8E8")
    arrow(axes, (2.2 * 3 + 1.7, 3.7), (8.8, 3.7))
    box(axes, (8.8, 1.85), "cumulate", "2(G − F) as lines", "#E8E8E8")
    arrow(axes, (9.65, 3.2), (9.65, 2.85))
    arrow(axes, (8.8, 2.2), (7.45, 1.4))
    box(axes, (11, 0.4), "gradient", "(N, d)", Y)
    arrow(axes, (2.2 * 4 + 1.7, 0.9), (11, 0.9))
    axes.text(0, -0.35, "No array of all N × P projections ever exists: they are made again in the second pass.", color=GREY)
    axes.set(xlim=(-0.3, 13), ylim=(-0.6, 5))
    axes.axis("off")
    save(figure, "passes")


def training() -> None:
    """Draw the training loop."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots()
    boxes = [
        ((0, 1), "noise", "x, N particles", X),
        ((2.7, 1), "flow", "T_l steps:\nv ← ∇D²(x) + m v\nx ← x − τ N v", "white"),
        ((6.2, 1), "fit", "network Φ_l to\nΦ_l(x_old) ≈ x_old − x", "white"),
        ((9.7, 1), "go on", "x ← x_old − Φ_l(x_old)", "white"),
    ]
    for corner, name, what, colour in boxes:
        box(axes, corner, name, what, colour, width=2.6 if colour == "white" else 1.9, height=1.5)
    for start, end in (((1.9, 1.75), (2.7, 1.75)), ((5.3, 1.75), (6.2, 1.75)), ((8.8, 1.75), (9.7, 1.75))):
        arrow(axes, start, end)
    axes.add_patch(
        FancyArrowPatch(
            (11, 2.5), (4, 2.5), connectionstyle="arc3,rad=0.28", arrowstyle="-|>", mutation_scale=16, color="black"
        )
    )
    axes.text(7.5, 3.62, "for l = 1, …, L; a checkpoint holds this state, whole", ha="center", color=GREY)
    axes.text(0, 0.35, "Afterwards fresh noise goes through Φ_1, …, Φ_L: x ← x − Φ_l(x). These are the samples.", color=GREY)
    axes.set(xlim=(-0.2, 12.6), ylim=(0.1, 3.9))
    axes.axis("off")
    save(figure, "training")


def box(
    axes: Axes, corner: tuple[float, float], name: str, what: str, colour: str, width: float = 1.7, height: float = 1.0
) -> None:
    dark = colour in (X, Y)
    patch = FancyBboxPatch(
        corner, width, height, boxstyle="round,pad=0,rounding_size=0.12", facecolor=colour, edgecolor="black"
    )
    axes.add_patch(patch)
    middle, ink = corner[0] + width / 2, "white" if dark else "black"
    axes.text(middle, corner[1] + height - 0.3, name, ha="center", va="center", color=ink, fontsize=11, weight="bold")
    axes.text(middle, corner[1] + (height - 0.45) / 2, what, ha="center", va="center", color=ink, fontsize=9)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color="black", shrinkA=1, shrinkB=1))


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    slices()
    passes()
    training()
