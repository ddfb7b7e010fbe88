"""report.html of a run: one file, without references to other files or to the network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rieszflow._infra.extras import extra
from rieszflow._infra.files import Json, atomically
from rieszflow._infra.messages import printable
from rieszflow.report.figures import image_zoom, picture, save_picture, stage_curves, trajectories

with extra("cli", "figures"):
    from PIL import Image

if TYPE_CHECKING:
    from rieszflow.generative.run import Run, StageMetrics
    from rieszflow.generative.state import Pictures

_GRID, _ACROSS = 64, 8  # images in a grid, and in a row of it
_CLOUD = 2000  # points in a scatter plot
_PLOT_WIDTH = 450  # pixels; two plots fit side by side on the page

_METHOD = {
    "networks": "Networks were trained, one after another, to do the same. They turn fresh noise into the samples below.",
    "recorded": "Its steps were recorded. Applied to fresh noise, which took no part in the flow, they give the samples below.",
}
_CURVES = {
    "particles": "particles of the flow",
    "network_particles": "particles after the network",
    "fresh_samples": "fresh samples",
}


def draw(run: Run, pictures: Pictures) -> None:
    """Draw the figures of the stage that was just finished, and write the report: the `draw` callback of a training."""
    number, shape = len(pictures.rows), run.shape
    images = len(shape) == 3
    samples, columns = _in_rows(pictures) if images else (pictures.samples[:_CLOUD], None)
    particles = pictures.particles[: _GRID if images else _CLOUD]
    for name, x, across in (("particles", particles, None), ("samples", samples, columns)):
        save_picture(run.path / "images" / f"{name}-{number:04d}.png", picture(x.view(-1, *shape), across))
    path = pictures.path
    if len(path) > 16:
        path = path[torch.linspace(0, len(path) - 1, 16).round().long()]
    save_picture(run.path / "images" / "way.png", trajectories(path, shape))
    write_report(run, pictures.rows)


def _in_rows(pictures: Pictures) -> tuple[Tensor, int | None]:
    """Return the samples to draw and their number per row: a row for each label, or the known parts above the samples."""
    x, labels, known = pictures.samples, pictures.labels, pictures.known
    if labels is not None:
        rows = [x[labels == label][:_ACROSS] for label in labels.unique().tolist()[: 2 * _ACROSS]]
        across = min(map(len, rows))
        return torch.cat([row[:across] for row in rows]), across
    if known is not None:
        starts = range(0, min(_GRID // 2, len(x)), _ACROSS)
        return torch.cat([part[start : start + _ACROSS] for start in starts for part in (known, x)]), _ACROSS
    return x[:_GRID], None


def write_report(run: Run, rows: Sequence[StageMetrics] | None = None) -> Path:
    """Write report.html from the files in the run's folder, and return its path; `rows` are the run's metrics, if known."""
    rows, evaluation = run.metrics() if rows is None else rows, run.evaluation()
    sections = [*(_stage_sections(run, rows) if rows else []), *(_evaluation_section(run, evaluation) if evaluation else [])]
    settings = "".join(f"<tr><td>{_text(k)}</td><td>{_text(v)}</td></tr>" for k, v in run.config.to_dict().items())
    sections.append(
        "<h2>Settings</h2><details><summary>config.yaml</summary><div class=wide>"
        f"<table class=settings>{settings}</table></div></details>"
    )
    data = f"{run.data['points']:,} {noun(run.shape)} of shape {tuple(run.shape)}"
    seconds = f", {sum(rows[-1].seconds.values()):.0f} s" if rows else ""
    scale = "" if run.columns is None else " Distances are those of columns scaled by their interquartile ranges."
    finished = run.finished()
    if len(rows) > finished:
        scale = f" It went on to stage {len(rows)} without better samples.{scale}"
    summary = f"Trained on {data}: {finished} of {run.total_stages()} stages{seconds}.{scale}"
    template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    title, method = _text(Path(run.data["name"]).name), _METHOD[run.config.model]
    page = template.substitute(title=title, method=method, summary=_text(summary), sections="\n".join(sections))
    file = run.path / "report.html"
    content = page.encode("utf-8", "replace")  # names of files may contain bytes that are not text
    atomically(file, lambda temporary: temporary.write_bytes(content))
    return file


def _stage_sections(run: Run, rows: Sequence[StageMetrics]) -> list[str]:
    """Return the sections about the training: samples, their way from noise to data, and curves."""
    images, number = len(run.shape) == 3, run.finished()  # fewer than the rows if validation data ended the training
    kind = "Grid of small images" if images else "Scatter plot of the first two coordinates"
    layout = ""
    if images and run.config.condition == "class":
        layout = f" A row for each label: {', '.join(map(str, run.data['condition']['classes'][: 2 * _ACROSS]))}."
    elif images and run.config.condition not in ("", "values"):
        layout = " Above each row, the known part of these samples."
    figures = [
        _figure(run, f"{name}-{number:04d}", f"{kind}: {what}, after stage {number}.", caption)
        for name, what, caption in (
            ("samples", "samples made from fresh noise", f"Samples made from fresh noise.{layout}"),
            ("particles", "particles of the flow", "Particles of the flow, which samples should resemble."),
        )
    ]
    alt = f"Scatter plot: samples as noise, pale, and after stages up to number {number}, ever darker."
    if images:
        alt = f"Grid of images: a column for each sample, noise in the top row, after stage {number} in the last row."
    caption = "Samples: noise first, then after each stage" + (" (16 rows of them)." if number > 15 else ".")
    return [
        f"<h2>Samples</h2><div class=pair>{''.join(figures)}</div>",
        "<h2>From noise to data</h2>" + _figure(run, "way", alt, caption),
        f"<h2>Curves</h2><div class=pair>{_curves(rows)}</div><p>{stage_caption(rows)}</p>" + _table(*stage_table(rows)),
    ]


def _curves(rows: Sequence[StageMetrics]) -> str:
    over = f"over stages {rows[0].stage} to {rows[-1].stage}"
    data, figures = reference_data(rows), ""
    measured = {"energy": [row.energy_distance for row in rows]}
    if frechet := [row.frechet_distance for row in rows if row.frechet_distance is not None]:
        measured["Fréchet"] = frechet
    for name, distances in measured.items():
        fresh, baseline = [e["fresh_samples"] for e in distances], distances[-1]["training_data"]
        curves = {label: [e[key] for e in distances] for key, label in _CURVES.items() if key in distances[-1]}
        figures += _inline(
            stage_curves(rows, curves, f"{name} distance to {data}", baseline),
            f"Curves of {name} distances to {data} {over}: fresh samples go from {fresh[0]:.3g} to {fresh[-1]:.3g}; "
            f"a dashed line marks training data at {baseline:.3g}.",
            f"{name[0].upper()}{name[1:]} distance to {data} after each stage; lower is better.",
        )
    if errors := [row.fit_error for row in rows if row.fit_error is not None]:
        figures += _inline(
            stage_curves(rows, {"fit error": errors}, "relative squared fit error"),
            f"Curve of the fit error {over}: from {errors[0]:.3g} to {errors[-1]:.3g}.",
            "Fit error: the share of the displacement that a network misses. Late displacements are small and mostly noise of "
            "the random directions, which no network can predict.",
        )
    return figures


def _evaluation_section(run: Run, evaluation: Json) -> list[str]:
    notes = (*score_notes(evaluation, run.shape), *evaluation.get("cautions", []))
    items = "".join(f"<li>{_text(note)}</li>" for note in notes)
    alt = "Two rows of generated images, each above a row of the training images nearest to them."
    nearest = _figure(run, "nearest", alt, "Samples, and below each its L2-nearest training image.")
    of_rows = [_table(*row_scores(evaluation))] if "table" in evaluation else []
    return ["<h2>Evaluation</h2>" + _table(*score_table(evaluation)), *of_rows, f"<ul>{items}</ul>", nearest]


def score_table(evaluation: Json) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of the scores of an evaluation."""
    from rieszflow.metrics.scores import BETTER  # imports SciPy, which pictures do not need

    cells = [
        [score, f"{values['generated']:.4f}", f"{values['training_data']:.4f}", BETTER.get(score, "")]
        for score, values in evaluation["scores"].items()
    ]
    return ["score", "generated", "training data", "better"], cells


def row_scores(evaluation: Json) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of the scores of rows of a table."""
    from rieszflow.metrics.tables import describe_scores

    return ["score of rows", "samples", "training data"], describe_scores(evaluation["table"])


def score_notes(evaluation: Json, shape: tuple[int, ...]) -> list[str]:
    """Return sentences that explain the scores of an evaluation."""
    from rieszflow.metrics.scores import AROUND_ZERO

    what, nearest = noun(shape), evaluation["nearest_training_distance"]
    notes = [
        f"{evaluation['samples']} generated {what}, and as many from the training data for comparison, were compared with "
        f"{evaluation['held_out']} held-out {what}",
        f"features: {evaluation['feature_space']} (not the Inception FID of the literature)",
        AROUND_ZERO,
        f"median L2 distance to the nearest training point: generated {nearest['generated']:.3f}, held-out "
        f"{nearest['held_out']:.3f} (a much smaller value for generated ones would indicate memorisation)",
    ]
    if "observation_residual" in evaluation:
        notes.append(f"root mean square deviation of samples from their condition: {evaluation['observation_residual']:.2g}")
    if "table" in evaluation:
        notes.append(evaluation["table"]["note"])
    for label, found in evaluation.get("frechet_by_label", {}).items():
        notes.append(f"label {label}: Fréchet distance {found['generated']:.2f}, training data {found['training_data']:.2f}")
    return notes


def noun(shape: tuple[int, ...]) -> str:
    """Return "images" or "points", for data of this shape."""
    return "images" if len(shape) == 3 else "points"


def stage_table(rows: Sequence[StageMetrics]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of metrics.jsonl, without empty columns. Seconds are those of each stage."""
    headings = ("stage", "pooled", "steps", "fit error", "particles", "fitted", "fresh", "seconds")
    seconds = [0.0, *(sum(row.seconds.values()) for row in rows)]  # counted from the start of the training
    cells = []
    for row, (before, after) in zip(rows, pairwise(seconds), strict=True):
        e = row.energy_distance
        distances = [f"{e[key]:.4f}" if key in e else "" for key in _CURVES]
        pooled = str(row.level) if row.level != 1 else ""
        error = f"{row.fit_error:.3f}" if row.fit_error is not None else ""
        cells.append([str(row.stage), pooled, str(row.flow_steps), error, *distances, f"{after - before:.1f}"])
    filled = [k for k in range(len(headings)) if any(line[k] for line in cells)]
    return [headings[k] for k in filled], [[line[k] for k in filled] for line in cells]


def stage_caption(rows: Sequence[StageMetrics]) -> str:
    """Return the caption of `stage_table`."""
    fitted, error = "", ""
    if "network_particles" in rows[-1].energy_distance:
        fitted, error = ", of the particles after the network", " Fit error: the share of the displacement that it misses."
    return (
        f"Unbiased energy distances to {reference_data(rows)}, lower is better: of the flow's particles{fitted} and of fresh "
        f"samples. They are around 0, possibly negative, for equal distributions.{error}"
    )


def reference_data(rows: Sequence[StageMetrics]) -> str:
    """Return the name of the data that samples are compared to after each stage."""
    return "held-out data" if rows[0].step_factor is None else "validation data"


def _text(value: object) -> str:
    return html.escape(printable(value))


def _figure(run: Run, name: str, alt: str, caption: str) -> str:
    """Return a figure from a file, or "" if it does not exist; pixels of images are enlarged at least three times."""
    file = run.path / "images" / f"{name}.png"
    if not file.is_file():
        return ""
    with Image.open(file) as image:
        width = round(image.width * max(1, 3 / image_zoom(run.shape))) if len(run.shape) == 3 else 0
        return _inline(image, alt, caption, width)


def _inline(image: Image.Image, alt: str, caption: str, pixelated_width: int = 0) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    attributes = f'{" class=pixels" if pixelated_width else ""} alt="{_text(alt)}" src="{source}"'
    style = f"width: {pixelated_width or _PLOT_WIDTH}px"
    return f'<figure style="{style}"><img{attributes}><figcaption>{_text(caption)}</figcaption></figure>'


def _table(headings: list[str], rows: list[list[str]]) -> str:
    """Return a table in a box that scrolls if the page is narrow."""
    lines = ["".join(f"<th>{_text(name)}</th>" for name in headings)]
    lines += ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    return "<div class=wide><table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"
