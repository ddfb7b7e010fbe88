"""Figures: grids of images, scatter plots, curves, histograms of two sketches and heat maps; also for TensorBoard."""

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
from rieszflow._infra.messages import notice, on_one_line

with extra("cli", "figures"):
    from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rieszflow.data.encoding import ColumnEncoding
    from rieszflow.generative.run import Run, StageMetrics
    from rieszflow.generative.state import Pictures
    from rieszflow.two_sample.comparison import Comparison
    from rieszflow.two_sample.coverage import CoverageTest
    from rieszflow.two_sample.pairwise import PairwiseDistances


def picture(x: Tensor, columns: int | None = None) -> Image.Image:
    """Draw data in [0, 1]: images (n, C, H, W) as a grid, vectors (n, d) as a scatter plot of the first two coordinates."""
    if x.ndim == 2:
        return _scatter([x], [""])
    n, C, H, W = x.shape
    if C not in (1, 3):  # draw the channels side by side
        x, W, C = x.permute(0, 2, 1, 3).reshape(n, 1, H, C * W), C * W, 1
    columns = columns or math.ceil(math.sqrt(n))
    rows, gap = math.ceil(n / columns), max(1, W // 14)
    canvas = np.full((rows * (H + gap) + gap, columns * (W + gap) + gap, C), 96, np.uint8)
    values = (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    for k, image in enumerate(values):
        top, left = gap + (k // columns) * (H + gap), gap + (k % columns) * (W + gap)
        canvas[top : top + H, left : left + W] = image
    zoom = image_zoom((C, H, W))
    image = Image.fromarray(canvas[:, :, 0] if C == 1 else canvas)
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def image_zoom(shape: tuple[int, ...]) -> int:
    """Return the factor by which images (C, H, W) are enlarged in a grid, to a width of about 40 pixels."""
    C, _, W = shape
    return max(1, round(40 / (W if C in (1, 3) else C * W)))


def save_picture(path: Path, image: Image.Image) -> None:
    """Write an image to a PNG file atomically."""
    atomically(path, lambda temporary: image.save(temporary, "PNG"))


def trajectories(path: Tensor, shape: tuple[int, ...]) -> Image.Image:
    """Draw the states (L + 1, k, d) of k samples, from noise to the last stage: a column for each image, or a scatter plot."""
    if len(shape) == 3:
        return picture(path.flatten(0, 1).view(-1, *shape), columns=path.shape[1])
    return _scatter(list(path), [f"{k}" if k in (0, len(path) - 1) else "" for k in range(len(path))])


def _scatter(clouds: list[Tensor], labels: list[str]) -> Image.Image:
    figure, axes = _figure(5, 5, xlabel="first coordinate", ylabel="second coordinate")
    for k, (x, label) in enumerate(zip(clouds, labels, strict=True)):
        second = x[:, 1] if x.shape[1] > 1 else torch.zeros(len(x))
        shade = (k + 1) / len(clouds)
        axes.scatter(x[:, 0], second, s=6, alpha=0.3 + 0.5 * shade, color=(0.75 * (1 - shade), 0.2, shade), label=label or None)
    if any(labels):
        axes.legend(title="after stage", markerscale=2)
    return _rendered(figure)


def _figure(width: float, height: float, columns: int = 1, **settings: str) -> tuple[Figure, Any]:
    """Return a figure and its axes. Importing Matplotlib takes a third of a second, which a grid of images does not need."""
    with extra("cli", "figures"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="tight")
    return figure, figure.subplots(1, columns, subplot_kw=settings)


def _rendered(figure: Figure) -> Image.Image:
    """Return a figure as an image, with a notice if the font lacks letters."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(buffer, format="png")
    texts = {str(warning.message) for warning in caught}
    missing_glyphs = {text for text in texts if text.startswith("Glyph")}  # one for every letter
    for text in texts - missing_glyphs:
        warnings.warn(text, stacklevel=2)
    if missing_glyphs:
        notice("Matplotlib's font lacks letters of some names; the figure shows boxes instead")
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def stage_curves(
    rows: Sequence[StageMetrics], curves: dict[str, list[float]], ylabel: str, baseline: float | None = None
) -> Image.Image:
    """Plot values against the stage; with the baseline of training data, on a symmetric logarithmic scale."""
    figure, axes = _figure(5, 3.6, xlabel="stage", ylabel=ylabel)
    for label, values in curves.items():
        axes.plot([row.stage for row in rows], values, marker="o", ms=3, label=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if baseline is None:
        axes.set_ylim(bottom=0)
    else:
        axes.axhline(baseline, color="grey", ls="--", lw=1, label="training data")
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.legend(fontsize=8)
    return _rendered(figure)


def comparison(found: Comparison, labels: tuple[str, str]) -> Image.Image:
    """Draw histograms of two samples in the three columns and the random direction that differ most, and where they differ."""
    from rieszflow.sketch.columns import encoded_columns, shares

    x, y, test = found.x, found.y, found.test
    panels: list[tuple[str, int, ColumnEncoding | None]] = []  # title, index of a coordinate or a slice, column
    if x.plan.settings.has_columns:
        columns, order = encoded_columns(x), y.feature_distances(x).argsort(descending=True)
        panels += [(columns[k][0].name, columns[k][1], columns[k][0]) for k in order[:3].tolist()]
    k = int(y.slice_distances(x).argmax())
    panels.append((f"slice {k}", k, None))
    witness = test is not None and len(test.kernels) > 0 and x.plan.settings.has_columns
    figure, all_axes = _figure(3.4 * (len(panels) + witness), 2.8, len(panels) + witness)
    for axes, (title, index, column) in zip(np.atleast_1d(all_axes), panels, strict=False):
        axes.set(yticks=[])
        for k, (sketch, label) in enumerate(zip((x, y), labels, strict=True)):
            if column is not None and column.kind == "category":
                found_shares = shares(sketch, column, index)
                places = np.arange(len(found_shares)) + 0.4 * k
                axes.bar(places, list(found_shares.values()), 0.4, alpha=0.6, label=label)
                for tick in axes.set_xticks(places - 0.2, [_short_name(name, 12) for name in found_shares], rotation=90):
                    tick.label1.set_parse_math(False)
                continue
            edges, density = sketch.histogram(index, column is not None)
            axes.stairs(density, edges, fill=True, alpha=0.45, label=label)
            axes.locator_params(axis="x", nbins=4)
            if column is not None and column.kind == "time":
                axes.xaxis.set_major_formatter(lambda v, _: str(np.datetime64(round(v), "s"))[:10])
                axes.locator_params(axis="x", nbins=2)
        axes.set_title(_short_name(title, 32), parse_math=False)
    if test is not None and witness:
        _draw_witness(all_axes[-1], found, [(title, index) for title, index, column in panels if column is not None], labels)
    # The texts are set afterwards, because Matplotlib hides labels that begin with "_" and takes "$" for mathematics.
    for text, label in zip(figure.axes[0].legend(["x", "y"], fontsize=7).get_texts(), labels, strict=True):
        text.set(text=_short_name(label, 24), parse_math=False)
    return _rendered(figure)


def _draw_witness(axes: Any, found: Comparison, columns: list[tuple[str, int]], labels: tuple[str, str]) -> None:
    """Draw where one sample is denser at the scale that decided: over the column that decided, or else over two columns."""
    from rieszflow.data import stream

    assert found.test is not None
    points = found.test.drawn
    column = 0 if found.x.d == 1 else found.test.kernels[0].column
    points = points if column is None else points[np.argsort(points[:, column])]
    cloud = stream(points)
    cloud.names = found.x.names
    values, errors = found.witness(cloud)
    axes.set_title("where they differ")
    if column is not None:
        axes.fill_between(points[:, column], values - 2 * errors, values + 2 * errors, alpha=0.3)
        axes.plot(points[:, column], values)
        axes.axhline(0, color="grey", lw=1)
        axes.set(yticks=[])
        axes.set_ylabel(f"above 0: denser in {_short_name(labels[0], 16)}", parse_math=False, fontsize=7)
        columns = [(found.column_name(column), column)]
    else:
        order, limit = np.argsort(np.abs(values)), float(np.abs(values).max())
        shown = points[order][:, [index for _, index in columns[:2]]]
        mesh = axes.scatter(*shown.T, c=values[order], s=4, cmap="RdBu_r", vmin=-limit, vmax=limit)
        texts = [f"denser in\n{_short_name(label, 16)}" for label in reversed(labels)]
        for tick in axes.figure.colorbar(mesh, ax=axes).ax.set_yticks([-limit, limit], texts, fontsize=7):
            tick.label2.set_parse_math(False)
    for set_label, (name, _) in zip((axes.set_xlabel, axes.set_ylabel)[: len(columns)], columns, strict=False):
        set_label(_short_name(name, 32), parse_math=False)


def coverage(found: CoverageTest) -> Image.Image:
    """Draw the share of true values in central regions against their probability: on the diagonal for a correct model."""
    levels, n = np.linspace(0, 1, 101), len(found.ranks)
    figure, axes = _figure(4.2, 4, xlabel="probability of the region", ylabel="share of true values inside")
    error = 2 * np.sqrt(levels * (1 - levels) / n)
    axes.fill_between(levels, levels - error, levels + error, color="grey", alpha=0.3, label="± 2 standard errors")
    for k, (name, shares) in enumerate(zip(found.names, found.coverage(levels).T, strict=True)):
        axes.plot(levels, shares, lw=2 if k == 0 else 1, label=name if len(found.names) <= 8 or k == 0 else None)
    axes.set(xlim=(0, 1), ylim=(0, 1), title=f"p-value {found.pvalue:.3g}")
    axes.legend(fontsize=7)
    return _rendered(figure)


def heat_map(found: PairwiseDistances) -> Image.Image:
    """Draw the distances of all pairs of groups as a heat map, with similar groups side by side."""
    order, K = found.order(), len(found)
    side = min(14.0, 2.6 + 0.16 * K)
    figure, axes = _figure(side + 0.8, side)
    mesh = axes.imshow(np.maximum(found.distances, 0)[np.ix_(order, order)], cmap="viridis")
    figure.colorbar(mesh, ax=axes, shrink=0.8, label="energy distance")
    if K <= 80:
        names = [_short_name(found.names[k], 24) for k in order]
        for set_ticks, rotation in ((axes.set_xticks, 90), (axes.set_yticks, 0)):
            for tick in set_ticks(range(K), names, rotation=rotation, fontsize=7):
                tick.label1.set_parse_math(False)
    else:
        axes.set(xticks=[], yticks=[])
    return _rendered(figure)


def _short_name(text: str, limit: int) -> str:
    """Return the name of a file or column on one line, shortened in the middle."""
    text = on_one_line(text)
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[1 - limit // 2 :]}"


def to_tensorboard(run: Run, pictures: Pictures) -> None:
    """Write the metrics and images of the last stage for TensorBoard, as a `draw` callback that runs after `draw`.

    They go to the folder `tensorboard` of the run and are indexed by the number of flow steps so far. A training that is
    resumed from a checkpoint replaces what it wrote after it.

    Raises:
        MissingPackageError: If tensorboard is not installed.
    """
    with extra("tensorboard", "TensorBoard"):
        from torch.utils.tensorboard import SummaryWriter

    row = pictures.rows[-1]
    step = row.flow_steps_total
    with SummaryWriter(str(run.path / "tensorboard"), purge_step=step) as writer:
        add: Any = writer
        for name, value in row.to_dict().items():
            for key, number in value.items() if isinstance(value, dict) else [("", value)]:
                if isinstance(number, (int, float)):
                    add.add_scalar(f"{name}/{key}" if key else name, number, step)
        for name in ("particles", "samples"):
            file = run.path / "images" / f"{name}-{row.stage:04d}.png"
            if file.is_file():
                with Image.open(file) as image:
                    add.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
