"""What a person looks at: picture grids, curves, and report.html, one file that needs nothing else and asks no network."""

from __future__ import annotations

import base64
import html
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rieszflow._files import atomically
from rieszflow.generative.run import Run
from rieszflow.generative.training import Pictures
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
    figure.savefig(buffer, format="png")
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def _curves(rows: list[dict[str, Any]]) -> Image.Image:
    figure = Figure(figsize=(10, 3.6), dpi=110, layout="tight")
    left, right = figure.subplots(1, 2)
    steps = [row["network"] for row in rows]
    for key, label in (("particles", "particles of the flow"), ("network_particles", "particles after the network"),
                       ("fresh_samples", "fresh samples")):  # fmt: skip
        left.plot(steps, [row["energy_distance"][key] for row in rows], marker="o", ms=3, label=label)
    yardstick = rows[-1]["energy_distance"]["training_data"]
    left.axhline(yardstick, color="grey", ls="--", lw=1, label="training data (yardstick)")
    left.set(xlabel="network", ylabel="energy distance to held-out data", xscale="linear")
    left.set_yscale("symlog", linthresh=1e-3)
    left.legend(fontsize=7)
    right.plot(steps, [row["fit_error"] for row in rows], marker="o", ms=3, color="tab:red")
    right.set(xlabel="network", ylabel="fit error, relative squared", ylim=(0, None))
    return _image(figure)


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
        axis.set(title=title, yticks=[])
    figure.axes[0].legend(fontsize=7)
    return _image(figure)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>rieszflow: {title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; color: #222; }}
img {{ max-width: 100%; }} h2 {{ margin-top: 2em; border-bottom: 1px solid #ccc; }}
table {{ border-collapse: collapse; font-size: 13px; }}
td, th {{ padding: 2px 10px; text-align: right; border-bottom: 1px solid #eee; }}
td:first-child, th:first-child {{ text-align: left; }}
.pair {{ display: flex; gap: 16px; flex-wrap: wrap; }} figure {{ margin: 0; }}
figcaption {{ color: #666; font-size: 13px; }}
.pair figure {{ flex: 1 1 380px; }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
{sections}
</body></html>
"""


def write_report(run: Run) -> Path:
    """Builds report.html from what the run's folder holds; returns its path."""
    rows = run.metrics()
    sections = []
    if rows:
        number = len(rows)
        sections.append(
            "<h2>Samples</h2><div class=pair>"
            + _figure(run.path / "images" / f"samples-{number:04d}.png", "Fresh samples: new noise, sent through all networks.")
            + _figure(
                run.path / "images" / f"particles-{number:04d}.png",
                "Particles of the flow, which the last network was fitted to.",
            )
            + "</div>"
        )
        caption = "Fresh samples on their way: noise first, then after each network" + (
            " (some of them)." if number > 15 else "."
        )
        sections.append("<h2>From noise to data</h2>" + _figure(run.path / "images" / "way.png", caption))
        caption = (
            "Fit error: the share of the displacement that a network misses. Late displacements are small and mostly "
            "noise of the random slices, which no network can foresee."
        )
        sections.append("<h2>Curves</h2>" + _inline(_curves(rows), caption) + _rows_table(rows))
    evaluation = run.evaluation()
    if evaluation is not None:
        sections.append("<h2>Evaluation</h2>" + _evaluation_table(evaluation))
        caption = "Samples, and below each its L2-nearest training image."
        sections.append(_figure(run.path / "images" / "nearest.png", caption))
    settings = "".join(f"<tr><td>{_text(k)}</td><td>{_text(v)}</td></tr>" for k, v in run.config.to_dict().items())
    sections.append(f"<h2>Settings</h2><details><summary>config.yaml</summary><table>{settings}</table></details>")
    summary = (
        f"Generative sliced MMD flow on {run.data['points']} training data of shape {tuple(run.shape)}: "
        f"{len(rows)} of {run.config.total_networks()} networks trained"
        + (f", {sum(rows[-1]['seconds'].values()):.0f} s of flow and fit." if rows else ".")
    )
    title = Path(run.data["name"]).name
    page = _PAGE.format(title=_text(title), summary=_text(summary), sections="\n".join(sections))
    file = run.path / "report.html"
    atomically(file, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return file


def _text(value: Any) -> str:
    return html.escape(str(value))


def _figure(file: Path, caption: str) -> str:
    return _inline(Image.open(file), caption) if file.is_file() else ""


def _inline(image: Image.Image, caption: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    source = base64.b64encode(buffer.getvalue()).decode()
    text = _text(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{source}"><figcaption>{text}</figcaption></figure>'


def _rows_table(rows: list[dict[str, Any]]) -> str:
    head = "network|pooled by|flow steps|fit error|particles|network's particles|fresh samples|seconds"
    lines = ["<p>Energy distances (statisticians' convention, unbiased) to held-out data:</p><table><tr>"]
    lines += [f"<th>{name}</th>" for name in head.split("|")] + ["</tr>"]
    for row in rows:
        e = row["energy_distance"]
        cells = [row["network"], row["level"], row["flow_steps"], f"{row['fit_error']:.3f}"]
        cells += [f"{e[key]:.4f}" for key in ("particles", "network_particles", "fresh_samples")]
        cells += [f"{sum(row['seconds'].values()):.0f}"]
        lines.append("<tr>" + "".join(f"<td>{_text(c)}</td>" for c in cells) + "</tr>")
    return "".join(lines) + "</table>"


def _evaluation_table(evaluation: dict[str, Any]) -> str:
    lines = [
        f"<p>{evaluation['samples']} generated and as many training data, each against {evaluation['held_out']} held-out "
        f"data; features: {_text(evaluation['feature_space'])}. This is not the Inception FID of the literature.</p>"
        "<table><tr><th>score</th><th>generated</th><th>training data (yardstick)</th></tr>"
    ]
    for score, values in evaluation["scores"].items():
        lines.append(
            f"<tr><td>{_text(score)}</td><td>{values['generated']:.4f}</td><td>{values['training_data']:.4f}</td></tr>"
        )
    memory = evaluation["nearest_training_distance"]
    lines.append(
        f"</table><p>Median L2 distance to the nearest training datum: generated {memory['generated']:.3f}, "
        f"held-out {memory['held_out']:.3f} (much smaller would mean memorising).</p>"
    )
    return "".join(lines)
