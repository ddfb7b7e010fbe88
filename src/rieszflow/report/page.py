"""report.html: one file that needs nothing else and asks no network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rieszflow._infra.extras import extra
from rieszflow._infra.files import atomically
from rieszflow._infra.text import printable
from rieszflow.metrics import AROUND_ZERO, BETTER
from rieszflow.report.pictures import ACROSS, CLOUD, GRID, distance_curves, error_curve, picture, save_picture, way, zoom_of
from rieszflow.report.stages import noun, stage_table

with extra("cli", "pictures"):
    from PIL import Image

if TYPE_CHECKING:
    from rieszflow.generative.context import Pictures
    from rieszflow.generative.run import Run, StageMetrics

__all__ = ["draw", "write_report"]

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
img {{ box-sizing: border-box; max-width: 100%; height: auto; border: {border}px solid #888; border-radius: 3px; }}
img.pixels {{ image-rendering: pixelated; }}
table {{ border-collapse: collapse; font-size: 13px; overflow-wrap: normal; }}
td, th {{ padding: 2px 10px; text-align: right; border-bottom: 1px solid var(--line); }}
td:first-child, th:first-child, .settings td {{ text-align: left; }}
.wide {{ overflow-x: auto; }}
.pair {{ display: flex; gap: 16px; flex-wrap: wrap; }} figure {{ margin: 0; }}
figcaption {{ color: var(--soft); font-size: 13px; }}
.pair figure {{ flex: 1 1 min(380px, 100%); min-width: 0; }}
</style></head><body>
<h1>{title}</h1>
<p>This is what a generative flow has learned: noise was moved towards the data along the sliced MMD flow. {how}
Energy distances say how far something is from data held out of the training: lower is better, they lie around 0 (at times
below it) where nothing differs, and real training data set the yardstick; more in docs/design.md of the project.</p>
<p>{summary}</p>
{sections}
</body></html>
"""


_HOW = {
    "networks": (
        "Networks were trained, one after the other, to make the same moves, and fresh noise sent through all of them gives "
        "the samples below."
    ),
    "recorded": (
        "What every step did was written down, and the same done to fresh noise, which took no part in the flow, gives the "
        "samples below. There is no network in it."
    ),
}
_BORDER = 6  # around a picture
_WORK = {"networks": "flow and fit", "recorded": "flow"}


def draw(run: Run, pictures: Pictures) -> None:
    """Draw the pictures of a stage that was just finished, and write the report: the `draw` callback of a training."""
    number, shape = len(pictures.rows), run.shape
    folder = run.path / "images"
    for name, flat in (("particles", pictures.particles), ("samples", pictures.samples)):
        shown, columns = flat[: GRID if len(shape) == 3 else CLOUD], None
        if name == "samples" and len(shape) == 3:
            shown, columns = _in_rows(pictures)
        save_picture(folder / f"{name}-{number:04d}.png", picture(shown.view(-1, *shape), columns))
    path = pictures.path
    if len(path) > 16:
        path = path[torch.linspace(0, len(path) - 1, 16).round().long()]
    save_picture(folder / "way.png", way(path, shape))
    write_report(run, pictures.rows)


def _in_rows(pictures: Pictures) -> tuple[Tensor, int | None]:
    """Samples to be shown, and how many in a row: a row for every label, or what is known of samples above them."""
    x, labels, known = pictures.samples, pictures.labels, pictures.known
    if labels is not None:
        rows = [x[labels == label][:ACROSS] for label in labels.unique().tolist()[: 2 * ACROSS]]
        across = min(map(len, rows))
        return torch.cat([row[:across] for row in rows]), across
    if known is not None:
        starts = range(0, min(GRID // 2, len(x)), ACROSS)
        return torch.cat([part[start : start + ACROSS] for start in starts for part in (known, x)]), ACROSS
    return x[:GRID], None


def write_report(run: Run, rows: Sequence[StageMetrics] | None = None) -> Path:
    """Builds report.html from what the run's folder holds; returns its path."""
    rows = run.metrics() if rows is None else rows
    sections = []
    if rows:
        sections += [_samples(run, len(rows)), _way_section(run, len(rows)), _curves(rows)]
    evaluation = run.evaluation()
    if evaluation is not None:
        caption = "Samples, and below each its L2-nearest training image."
        alt = "Two rows of generated images, each above a row of the training images nearest to them."
        nearest = _figure(run.path / "images" / "nearest.png", alt, caption, run.shape)
        sections.append("<h2>Evaluation</h2>" + _evaluation_table(evaluation) + nearest)
    settings = "".join(f"<tr><td>{_text(k)}</td><td>{_text(v)}</td></tr>" for k, v in run.config.to_dict().items())
    sections.append(
        "<h2>Settings</h2><details><summary>config.yaml</summary><div class=wide>"
        f"<table class=settings>{settings}</table></div></details>"
    )
    summary = (
        f"Trained on {run.data['points']:,} {noun(run.shape)} of shape {tuple(run.shape)}: "
        f"{len(rows)} of {run.config.total_stages()} stages"
        + (f", {sum(rows[-1].seconds.values()):.0f} s of {_WORK[run.config.model]}." if rows else ".")
        + (" Distances are those of columns scaled by their interquartile ranges." if run.columns is not None else "")
    )
    title = Path(run.data["name"]).name
    page = _PAGE.format(
        title=_text(title), how=_HOW[run.config.model], summary=_text(summary), sections="\n".join(sections), border=_BORDER
    )
    file = run.path / "report.html"
    # A file's name may hold bytes that are no text.
    content = page.encode("utf-8", "replace")
    atomically(file, lambda temporary: temporary.write_bytes(content))
    return file


def _samples(run: Run, number: int) -> str:
    kind = "Grid of small images" if len(run.shape) == 3 else "Scatter plot of the first two coordinates"
    shown = (
        ("samples", "samples made from new noise", f"Fresh samples: new noise, moved by what was learned.{_told(run)}"),
        ("particles", "particles of the flow", "Particles of the flow, which samples should look like."),
    )
    figures = [
        _figure(run.path / "images" / f"{name}-{number:04d}.png", f"{kind}: {what}, after stage {number}.", caption, run.shape)
        for name, what, caption in shown
    ]
    return f"<h2>Samples</h2><div class=pair>{''.join(figures)}</div>"


def _told(run: Run) -> str:
    """What the rows of samples are, where they were asked for something."""
    kind = run.config.condition
    if not kind or kind == "values" or len(run.shape) != 3:
        return ""
    if kind == "class":
        return f" A row for every label: {', '.join(map(str, run.data['condition']['classes'][: 2 * ACROSS]))}."
    return " Above each row of samples what was known of them."


def _way_section(run: Run, number: int) -> str:
    if len(run.shape) == 3:
        alt = f"Grid of images: a column for every sample, noise in the top row, after stage {number} in the last row."
    else:
        alt = f"Scatter plot: samples as noise, pale, and after stages up to number {number}, ever darker."
    caption = "Fresh samples: noise first, then after each stage" + (" (some of them)." if number > 15 else ".")
    return "<h2>From noise to data</h2>" + _figure(run.path / "images" / "way.png", alt, caption, run.shape)


def _curves(rows: Sequence[StageMetrics]) -> str:
    first, last = rows[0], rows[-1]
    over = f"over stages {first.stage} to {last.stage}"
    fresh, yardstick = ([row.energy_distance[key] for row in (first, last)] for key in ("fresh_samples", "training_data"))
    distances = _inline(
        distance_curves(rows),
        f"Curves of energy distances to held-out data {over}: fresh samples go from {fresh[0]:.3g} to {fresh[1]:.3g}; "
        f"a dashed line marks training data at {yardstick[1]:.3g}.",
        "Energy distance to held-out data after every stage; lower is better.",
    )
    if last.fit_error is None:
        return f"<h2>Curves</h2>{distances}" + _rows_table(rows)
    errors = _inline(
        error_curve(rows),
        f"Curve of the fit error {over}: from {first.fit_error:.3g} to {last.fit_error:.3g}.",
        "Fit error: the share of the displacement that a network misses. Late displacements are small and mostly noise of the "
        "random slices, which no network can foresee.",
    )
    return f"<h2>Curves</h2><div class=pair>{distances}{errors}</div>" + _rows_table(rows)


def _text(value: Any) -> str:
    return html.escape(printable(value))


def _figure(file: Path, alt: str, caption: str, shape: tuple[int, ...]) -> str:
    """Return a figure of data. Small images are enlarged at least threefold, as far as the page is wide enough."""
    if not file.is_file():
        return ""
    with Image.open(file) as image:
        return _inline(image, alt, caption, round(image.width * max(1, 3 / zoom_of(shape))) if len(shape) == 3 else 0)


def _inline(image: Image.Image, alt: str, caption: str, width: int = 0) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    attributes = f' class=pixels style="width: {width + 2 * _BORDER}px"' if width else ""
    basis = f' style="flex-basis: min({width + 2 * _BORDER}px, 100%)"' if width else ""
    words = _text(caption)
    return f'<figure{basis}><img{attributes} alt="{_text(alt)}" src="{source}"><figcaption>{words}</figcaption></figure>'


def _table(head: list[str], rows: list[list[Any]]) -> str:
    """In a box of its own, which scrolls where the page is narrow."""
    lines = ["".join(f"<th>{_text(name)}</th>" for name in head)]
    lines += ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    return "<div class=wide><table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def _rows_table(rows: Sequence[StageMetrics]) -> str:
    fitted = "of the particles as fitted by the network, " if "network_particles" in rows[-1].energy_distance else ""
    clouds = f"of the flow's particles, {fitted}and of fresh samples"
    words = f"Unbiased energy distances to held-out data, lower is better: {clouds}."
    return f"<p>{words}</p>" + _table(*stage_table(rows))


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
