"""What a person looks at: picture grids, curves, and report.html, one file that needs nothing else and asks no network."""

from __future__ import annotations

import base64
import html
import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from rieszflow._files import atomically
from rieszflow._notices import notice
from rieszflow.generative.run import Run
from rieszflow.generative.context import Pictures
from rieszflow.metrics import AROUND_ZERO, BETTER
from rieszflow.sketch import SliceSketch

__all__ = ["column_names", "comparison", "draw", "picture", "save_picture", "write_report"]

_GRID = 64  # images in a grid
_CLOUD = 2000  # points in a scatter plot


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
    zoom = max(1, round(40 / W))
    image = Image.fromarray(canvas[:, :, 0] if C == 1 else canvas)
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def save_picture(path: Path, image: Image.Image) -> None:
    atomically(path, lambda temporary: image.save(temporary, "PNG"))


def draw(run: Run, pictures: Pictures) -> None:
    """The pictures of a network that was just finished, and the report anew. The `draw` callback of a training."""
    number, shape = len(run.metrics()), run.shape
    folder = run.path / "images"
    for name, flat in (("particles", pictures.particles), ("samples", pictures.samples)):
        shown = flat[: _GRID if len(shape) == 3 else _CLOUD]
        save_picture(folder / f"{name}-{number:04d}.png", picture(shown.view(-1, *shape)))
    way = pictures.path
    if len(way) > 16:
        way = way[torch.linspace(0, len(way) - 1, 16).round().long()]
    save_picture(folder / "way.png", _way(way, shape))
    write_report(run)


def _way(path: Tensor, shape: tuple[int, ...]) -> Image.Image:
    """(L + 1, k, d): for images one column per sample, from noise at the top to the last network at the bottom."""
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
        axes.legend(title="after network", markerscale=2)
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


def _distance_curves(rows: list[dict[str, Any]]) -> Image.Image:
    figure, axes, steps = _axes(rows)
    for key, label in (("particles", "particles of the flow"), ("network_particles", "particles after the network"),
                       ("fresh_samples", "fresh samples")):  # fmt: skip
        axes.plot(steps, [row["energy_distance"][key] for row in rows], marker="o", ms=3, label=label)
    yardstick = rows[-1]["energy_distance"]["training_data"]
    axes.axhline(yardstick, color="grey", ls="--", lw=1, label="training data (yardstick)")
    axes.set(ylabel="energy distance to held-out data")
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.legend(fontsize=8)
    return _image(figure)


def _error_curve(rows: list[dict[str, Any]]) -> Image.Image:
    figure, axes, steps = _axes(rows)
    errors = [row["fit_error"] for row in rows]
    axes.plot(steps, errors, marker="o", ms=3, color="tab:red")
    axes.set(ylabel="fit error, relative squared", ylim=(0, 1.1 * max(errors) or 1))
    return _image(figure)


def _axes(rows: list[dict[str, Any]]) -> tuple[Figure, Any, list[int]]:
    figure = Figure(figsize=(5, 3.6), dpi=110, layout="tight")
    axes = figure.add_subplot()
    axes.set(xlabel="network")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes, [row["network"] for row in rows]


def column_names(sketch: SliceSketch) -> list[str]:
    return sketch.names or [f"column {k}" for k in range(sketch.d)]


def comparison(x: SliceSketch, y: SliceSketch, labels: tuple[str, str]) -> Image.Image:
    """Histograms of two sketches on the columns and on the random slice that differ most."""
    panels: list[tuple[str, int, bool]] = []  # title, number, whether it is a column
    if x.columns:
        names = column_names(y)
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


def _name(text: str, most: int) -> str:
    """A file's or column's name as there is room for it; the end tells more than the middle."""
    text = "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))
    return text if len(text) <= most else f"{text[: most // 2]}…{text[1 - most // 2 :]}"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>rieszflow: {title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark; --ink: #222; --paper: #fff; --soft: #5c5c5c; --line: #ccc; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #ddd; --paper: #17191c; --soft: #a3a3a3; --line: #45484d; }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; }}
body {{ color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }}
h2 {{ margin-top: 2em; border-bottom: 1px solid var(--line); }}
img {{ box-sizing: border-box; max-width: 100%; height: auto; border: 6px solid #888; border-radius: 3px; }}
table {{ border-collapse: collapse; font-size: 13px; overflow-wrap: normal; }}
td, th {{ padding: 2px 10px; text-align: right; border-bottom: 1px solid var(--line); }}
td:first-child, th:first-child, .settings td {{ text-align: left; }}
.wide {{ overflow-x: auto; }}
.pair {{ display: flex; gap: 16px; flex-wrap: wrap; }} figure {{ margin: 0; }}
figcaption {{ color: var(--soft); font-size: 13px; }}
.pair figure {{ flex: 1 1 min(380px, 100%); min-width: 0; }}
</style></head><body>
<h1>{title}</h1>
<p>This is what a generative flow has learned: noise was moved towards the data along the sliced MMD flow, networks were
trained, one after the other, to make the same moves, and fresh noise sent through all of them gives the samples below.
Energy distances say how far something is from data that no network has seen: lower is better, they lie around 0 (at times
below it) where nothing differs, and real training data set the yardstick; more in docs/design.md of the project.</p>
<p>{summary}</p>
{sections}
</body></html>
"""


def write_report(run: Run) -> Path:
    """Builds report.html from what the run's folder holds; returns its path."""
    rows = run.metrics()
    sections = []
    if rows:
        sections += [_samples(run, len(rows)), _way_section(run, len(rows)), _curves(rows)]
    evaluation = run.evaluation()
    if evaluation is not None:
        caption = "Samples, and below each its L2-nearest training image."
        alt = "Two rows of generated images, each above a row of the training images nearest to them."
        nearest = _figure(run.path / "images" / "nearest.png", alt, caption)
        sections.append("<h2>Evaluation</h2>" + _evaluation_table(evaluation) + nearest)
    settings = "".join(f"<tr><td>{_text(k)}</td><td>{_text(v)}</td></tr>" for k, v in run.config.to_dict().items())
    sections.append(
        "<h2>Settings</h2><details><summary>config.yaml</summary><div class=wide>"
        f"<table class=settings>{settings}</table></div></details>"
    )
    summary = (
        f"Trained on {run.data['points']} data of shape {tuple(run.shape)}: "
        f"{len(rows)} of {run.config.total_networks()} networks"
        + (f", {sum(rows[-1]['seconds'].values()):.0f} s of flow and fit." if rows else ".")
    )
    title = Path(run.data["name"]).name
    page = _PAGE.format(title=_text(title), summary=_text(summary), sections="\n".join(sections))
    file = run.path / "report.html"
    # A file's name may hold bytes that are no text.
    content = page.encode("utf-8", "replace")
    atomically(file, lambda temporary: temporary.write_bytes(content))
    return file


def _samples(run: Run, number: int) -> str:
    kind = "Grid of small images" if len(run.shape) == 3 else "Scatter plot of the first two coordinates"
    shown = (
        ("samples", "samples made from new noise", "Fresh samples: new noise, sent through all networks."),
        ("particles", "particles of the flow", "Particles of the flow, which the last network was fitted to."),
    )
    figures = [
        _figure(run.path / "images" / f"{name}-{number:04d}.png", f"{kind}: {what}, at network {number}.", caption)
        for name, what, caption in shown
    ]
    return f"<h2>Samples</h2><div class=pair>{''.join(figures)}</div>"


def _way_section(run: Run, number: int) -> str:
    if len(run.shape) == 3:
        alt = f"Grid of images: a column for every sample, noise in the top row, after network {number} in the last row."
    else:
        alt = f"Scatter plot: samples as noise, pale, and after networks up to number {number}, ever darker."
    caption = "Fresh samples on their way: noise first, then after each network" + (" (some of them)." if number > 15 else ".")
    return "<h2>From noise to data</h2>" + _figure(run.path / "images" / "way.png", alt, caption)


def _curves(rows: list[dict[str, Any]]) -> str:
    first, last = rows[0], rows[-1]
    over = f"over networks {first['network']} to {last['network']}"
    fresh, yardstick = ([row["energy_distance"][key] for row in (first, last)] for key in ("fresh_samples", "training_data"))
    distances = _inline(
        _distance_curves(rows),
        f"Curves of energy distances to held-out data {over}: fresh samples go from {fresh[0]:.3g} to {fresh[1]:.3g}; "
        f"a dashed line marks training data at {yardstick[1]:.3g}.",
        "Energy distance to held-out data after every network; lower is better.",
    )
    errors = _inline(
        _error_curve(rows),
        f"Curve of the fit error {over}: from {first['fit_error']:.3g} to {last['fit_error']:.3g}.",
        "Fit error: the share of the displacement that a network misses. Late displacements are small and mostly noise of the "
        "random slices, which no network can foresee.",
    )
    return f"<h2>Curves</h2><div class=pair>{distances}{errors}</div>" + _rows_table(rows)


def _text(value: Any) -> str:
    return html.escape(str(value))


def _figure(file: Path, alt: str, caption: str) -> str:
    return _inline(Image.open(file), alt, caption) if file.is_file() else ""


def _inline(image: Image.Image, alt: str, caption: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return f'<figure><img alt="{_text(alt)}" src="{source}"><figcaption>{_text(caption)}</figcaption></figure>'


def _table(head: list[str], rows: list[list[Any]]) -> str:
    """In a box of its own, which scrolls where the page is narrow."""
    lines = ["".join(f"<th>{_text(name)}</th>" for name in head)]
    lines += ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    return "<div class=wide><table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def _rows_table(rows: list[dict[str, Any]]) -> str:
    head = "network|pooled by|flow steps|fit error|particles|network's particles|fresh samples|seconds"
    cells = []
    for row in rows:
        e = row["energy_distance"]
        distances = [f"{e[key]:.4f}" for key in ("particles", "network_particles", "fresh_samples")]
        seconds = f"{sum(row['seconds'].values()):.0f}"
        cells.append([row["network"], row["level"], row["flow_steps"], f"{row['fit_error']:.3f}", *distances, seconds])
    words = "Energy distances (statisticians' convention, unbiased) to held-out data; lower is better:"
    return f"<p>{_text(words)}</p>" + _table(head.split("|"), cells)


def _evaluation_table(evaluation: dict[str, Any]) -> str:
    rows = [
        [score, f"{values['generated']:.4f}", f"{values['training_data']:.4f}", BETTER.get(score, "")]
        for score, values in evaluation["scores"].items()
    ]
    memory = evaluation["nearest_training_distance"]
    before = (
        f"{evaluation['samples']} generated and as many training data, each against {evaluation['held_out']} held-out data; "
        f"features: {evaluation['feature_space']}. This is not the Inception FID of the literature."
    )
    after = [
        f"{AROUND_ZERO[0].upper()}{AROUND_ZERO[1:]}.",
        *(f"{caution[0].upper()}{caution[1:]}." for caution in evaluation.get("cautions", [])),
        f"Median L2 distance to the nearest training datum: generated {memory['generated']:.3f}, "
        f"held-out {memory['held_out']:.3f} (much smaller would mean memorising).",
    ]
    table = _table(["score", "generated", "training data (yardstick)", "better"], rows)
    return f"<p>{_text(before)}</p>{table}" + "".join(f"<p>{_text(line)}</p>" for line in after)
