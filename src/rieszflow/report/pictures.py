"""Pictures: grids of images, scatter plots, curves, histograms of two sketches."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rieszflow._infra.extras import extra
from rieszflow._infra.files import atomically
from rieszflow._infra.notices import notice
from rieszflow._infra.text import on_one_line
from rieszflow.sketch import SliceSketch
from rieszflow.two_sample.pairwise import PairwiseDistances

with extra("cli", "pictures"):
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    from PIL import Image

if TYPE_CHECKING:
    from rieszflow.generative.run import StageMetrics

__all__ = [
    "ACROSS",
    "CLOUD",
    "GRID",
    "comparison",
    "distance_curves",
    "error_curve",
    "heat_map",
    "picture",
    "save_picture",
    "way",
    "zoom_of",
]

GRID = 64  # images in a grid
ACROSS = 8  # of them in a row
CLOUD = 2000  # points in a scatter plot


def picture(x: Tensor, columns: int | None = None) -> Image.Image:
    """Data in [0, 1] as one picture: images (n, C, H, W) as a grid, vectors (n, d) as a scatter plot of two coordinates."""
    if x.ndim == 2:
        return _scatter([x], [""])
    n, C, H, W = x.shape
    if C not in (1, 3):  # no colours known: the channels side by side
        x, W, C = x.permute(0, 2, 1, 3).reshape(n, 1, H, C * W), C * W, 1
    columns = columns or math.ceil(math.sqrt(n))
    rows, gap = math.ceil(n / columns), max(1, W // 14)
    canvas = np.full((rows * (H + gap) + gap, columns * (W + gap) + gap, C), 96, np.uint8)
    values = (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    for k, image in enumerate(values):
        top, left = gap + (k // columns) * (H + gap), gap + (k % columns) * (W + gap)
        canvas[top : top + H, left : left + W] = image
    zoom = zoom_of((C, H, W))
    image = Image.fromarray(canvas[:, :, 0] if C == 1 else canvas)
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def zoom_of(shape: tuple[int, ...]) -> int:
    """Return the factor by which images (C, H, W) are enlarged in a grid, to a width of about 40 pixels."""
    C, _, W = shape
    return max(1, round(40 / (W if C in (1, 3) else C * W)))


def save_picture(path: Path, image: Image.Image) -> None:
    """Writes a picture as a PNG file, which appears whole or not at all."""
    atomically(path, lambda temporary: image.save(temporary, "PNG"))


def way(path: Tensor, shape: tuple[int, ...]) -> Image.Image:
    """Draw the path (L + 1, k, d) of samples: one column per image, from noise (top) to the last stage (bottom)."""
    if len(shape) == 3:
        return picture(path.flatten(0, 1).view(-1, *shape), columns=path.shape[1])
    return _scatter(list(path), [f"{k}" if k in (0, len(path) - 1) else "" for k in range(len(path))])


def _scatter(clouds: list[Tensor], labels: list[str]) -> Image.Image:
    figure = Figure(figsize=(5, 5), dpi=110, layout="tight")
    axes = figure.add_subplot()
    for k, (x, label) in enumerate(zip(clouds, labels, strict=True)):
        second = x[:, 1] if x.shape[1] > 1 else torch.zeros(len(x))
        shade = (k + 1) / len(clouds)
        axes.scatter(x[:, 0], second, s=6, alpha=0.3 + 0.5 * shade, color=(0.75 * (1 - shade), 0.2, shade), label=label or None)
    if any(labels):
        axes.legend(title="after stage", markerscale=2)
    axes.set_xlabel("first coordinate")
    axes.set_ylabel("second coordinate")
    return _image(figure)


def _image(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(buffer, format="png")
    for text in {str(warning.message) for warning in caught}:
        if not text.startswith("Glyph"):  # one for every letter
            warnings.warn(text, stacklevel=2)
    if any(str(warning.message).startswith("Glyph") for warning in caught):
        notice("a picture's names are in letters that Matplotlib's font lacks; boxes stand for them")
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def distance_curves(rows: Sequence[StageMetrics]) -> Image.Image:
    figure, axes, steps = _axes(rows)
    for key, label in (("particles", "particles of the flow"), ("network_particles", "particles after the network"),
                       ("fresh_samples", "fresh samples")):  # fmt: skip
        if key in rows[-1].energy_distance:
            axes.plot(steps, [row.energy_distance[key] for row in rows], marker="o", ms=3, label=label)
    yardstick = rows[-1].energy_distance["training_data"]
    axes.axhline(yardstick, color="grey", ls="--", lw=1, label="training data (yardstick)")
    axes.set(ylabel="energy distance to held-out data")
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.legend(fontsize=8)
    return _image(figure)


def error_curve(rows: Sequence[StageMetrics]) -> Image.Image:
    figure, axes, steps = _axes(rows)
    errors = [row.fit_error or 0.0 for row in rows]
    axes.plot(steps, errors, marker="o", ms=3, color="tab:red")
    axes.set(ylabel="fit error, relative squared", ylim=(0, 1.1 * max(errors) or 1))
    return _image(figure)


def _axes(rows: Sequence[StageMetrics]) -> tuple[Figure, Any, list[int]]:
    figure = Figure(figsize=(5, 3.6), dpi=110, layout="tight")
    axes = figure.add_subplot()
    axes.set(xlabel="stage")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes, [row.stage for row in rows]


def comparison(x: SliceSketch, y: SliceSketch, labels: tuple[str, str]) -> Image.Image:
    """Histograms of two sketches on the columns and on the random slice that differ most."""
    panels: list[tuple[str, int, bool]] = []  # title, number, whether it is a column
    if x.columns:
        names = y.names or [f"column {k}" for k in range(y.d)]
        panels += [(names[k], k, True) for k in y.feature_distances(x).argsort(descending=True)[:3].tolist()]
    k = int(y.slice_distances(x).argmax())
    panels.append((f"slice {k}", k, False))
    figure = Figure(figsize=(3.4 * len(panels), 2.8), dpi=110, layout="tight")
    for axis, (title, number, column) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for sketch, label in zip((x, y), labels, strict=True):
            edges, density = sketch.histogram(number, column)
            axis.stairs(density, edges, fill=True, alpha=0.45, label=label)
        axis.set(yticks=[])
        axis.set_title(_name(title, 32), parse_math=False)
    # Set later, for Matplotlib takes "_" in front for a label that is not to be shown, and "$" for mathematics.
    for text, label in zip(figure.axes[0].legend(["x", "y"], fontsize=7).get_texts(), labels, strict=True):
        text.set(text=_name(label, 24), parse_math=False)
    return _image(figure)


def heat_map(found: PairwiseDistances) -> Image.Image:
    """All pairs of groups as a map of colours, groups that are alike side by side."""
    order, K = found.order(), len(found)
    side = min(14.0, 2.6 + 0.16 * K)
    figure = Figure(figsize=(side + 0.8, side), dpi=110, layout="tight")
    axis = figure.subplots()
    shown = axis.imshow(np.maximum(found.distances, 0)[np.ix_(order, order)], cmap="viridis")
    figure.colorbar(shown, ax=axis, shrink=0.8, label="energy distance")
    if K <= 80:
        names = [_name(found.names[k], 24) for k in order]
        for ticks, turn in ((axis.set_xticks, 90), (axis.set_yticks, 0)):
            for tick in ticks(range(K), names, rotation=turn, fontsize=7):
                tick.label1.set_parse_math(False)
    else:
        axis.set(xticks=[], yticks=[])
    return _image(figure)


def _name(text: str, most: int) -> str:
    """A file's or column's name as there is room for it; the end tells more than the middle."""
    text = on_one_line(text)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[1 - most // 2 :]}"
