"""rieszflow pairwise."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from rieszflow._infra.messages import on_one_line
from rieszflow.cli.app import app
from rieszflow.cli.error_handling import invocation
from rieszflow.cli.options import Force, Json, Keywords, Scale, Seed, check_new_file, scale_line, with_reading_options
from rieszflow.cli.output import ProgressBars, print_table, show


@app.command(epilog="Example: `rieszflow pairwise cells.h5ad --by perturbation --obsm X_pca --out pairwise.csv`")
@with_reading_options
def pairwise(
    source: Annotated[str, Argument(metavar="SOURCE", help="A .csv, .tsv, .parquet or .h5ad file.")],
    by: Annotated[str, Option(help="Column of group labels; in obs for an .h5ad file.")],
    obsm: Annotated[str | None, Option(help="Key in obsm of an .h5ad file that holds the points.", show_default="X")] = None,
    layer: Annotated[str | None, Option(help="Layer of an .h5ad file that holds the points.", show_default="X")] = None,
    slices: Annotated[int, Option(min=1, help="Number of random directions.")] = 256,
    permutations: Annotated[int, Option(min=0, help="Number of permutations of each test; 0 for no tests.")] = 999,
    seed: Seed = 0,
    top: Annotated[int, Option(min=0, help="Number of pairs to list from each end of the ranking.")] = 5,
    out: Annotated[Path | None, Option(help="Table (.csv) of all pairs; a heat map (.png) is written with it.")] = None,
    force: Force = False,
    as_json: Json = False,
    scale: Scale = "auto",
    *,
    reading: Keywords,
) -> None:
    """Compute the energy distances between all groups of points, with p-values and a heat map of similar groups."""
    if out is not None:
        check_new_file(out, ".csv", force=force, figure=True)

    from rieszflow import report
    from rieszflow._infra.files import atomically
    from rieszflow._types import PointSource
    from rieszflow.data import stream
    from rieszflow.data.options import TableOptions
    from rieszflow.two_sample.pairwise import pairwise_energy_distance

    points: PointSource = source
    if TableOptions(**reading) != TableOptions():
        points = stream(source, **{**reading, "exclude": [*reading.get("exclude", ()), by]})
    with ProgressBars() as progress:
        found = pairwise_energy_distance(
            points,
            by,
            obsm=obsm,
            layer=layer,
            slices=slices,
            permutations=permutations,
            seed=seed,
            scale=scale,
            progress=progress,
        )
    pairs = found.pairs()
    if out is not None:
        text = io.StringIO()
        rows = csv.DictWriter(text, list(pairs[0]), lineterminator="\n")
        rows.writeheader()
        rows.writerows(pairs)
        atomically(out, lambda file: file.write_text(text.getvalue(), encoding="utf-8"))
        report.save_picture(out.with_suffix(".png"), report.heat_map(found))
    if as_json:
        content = {"source": source, "by": by, "estimator": "U", "scale": found.scale, "pairs": pairs}
        print(json.dumps({**content, "notices": invocation().notices}))
        return
    show(on_one_line(f"{source}: {int(found.sizes.sum())} points in {len(found)} groups by {by}, {slices} slices"))
    show("energy distance (MMD², unbiased: around 0, possibly negative, for equal distributions)")
    show(scale_line(found.scale))
    shown = pairs if len(pairs) <= 2 * top else [*pairs[:top], *pairs[len(pairs) - top :]]
    if shown:
        cells = [
            [on_one_line(str(value)) if isinstance(value, (str, int)) else f"{value:.4g}" for value in row.values()]
            for row in shown
        ]
        print_table([name.replace("_", " ") for name in shown[0]], cells)
    if out is not None:
        show(f"all {len(pairs)} pairs: {out}; heat map: {out.with_suffix('.png')}")
    elif len(shown) < len(pairs):
        show(f"{len(shown)} of {len(pairs)} pairs; --out pairwise.csv writes all pairs and a heat map")
