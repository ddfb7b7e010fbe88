"""rieszflow pairwise."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rieszflow._infra.text import on_one_line
from rieszflow.cli.app import Force, app
from rieszflow.cli.bars import Passes
from rieszflow.cli.checks import at_least, check_file
from rieszflow.cli.tables import (
    Columns,
    Dates,
    Decimal,
    Delimiter,
    Encoding,
    Exclude,
    Header,
    Missing,
    Scale,
    Thousands,
    scale_line,
    table_options,
)
from rieszflow.cli.terminal import print_table, show
from rieszflow.cli.way_out import call


@app.command()
def pairwise(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A .csv, .tsv, .parquet or .h5ad file.", show_default=False)],
    by: Annotated[str, typer.Option(help="The column of groups; in obs for an .h5ad file.", show_default=False)],
    obsm: Annotated[
        str | None, typer.Option(help="For an .h5ad file: the key in obsm, such as X_pca; default: X.", show_default=False)
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="For an .h5ad file: the layer that holds the points; default: X.", show_default=False)
    ] = None,
    slices: Annotated[int, typer.Option(help="Random directions.")] = 256,
    permutations: Annotated[int, typer.Option(help="For every p-value; 0 for none, which is faster.")] = 999,
    seed: Annotated[int, typer.Option(help="Seed of directions, blocks and permutations.")] = 0,
    top: Annotated[int, typer.Option(help="Pairs to name, of those furthest apart and of those nearest.")] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Table of all pairs, a .csv; a heat map is written next to it.", show_default=False)
    ] = None,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of tables.")] = False,
    scale: Scale = "auto",
    columns: Columns = None,
    exclude: Exclude = None,
    header: Header = "auto",
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    thousands: Thousands = None,
    missing: Missing = None,
    dates: Dates = False,
    encoding: Encoding = "utf-8",
) -> None:
    """Energy distances between all groups of points: a table, and a heat map with alike groups side by side."""
    for option, value, least in (
        ("--slices", slices, 1),
        ("--permutations", permutations, 0),
        ("--seed", seed, 0),
        ("--top", top, 0),
    ):
        at_least(option, value, least)
    if out is not None:
        check_file(out, ".csv", force=force, picture=True)

    from rieszflow import report
    from rieszflow._infra.files import atomically
    from rieszflow.data import stream
    from rieszflow.data.options import TableOptions
    from rieszflow.two_sample.pairwise import pairwise_energy_distance

    reading = table_options(
        header, columns, exclude, delimiter=delimiter, decimal=decimal, thousands=thousands, missing=missing, dates=dates,
        encoding=encoding,
    )  # fmt: skip
    points: Any = source
    if TableOptions(**reading) != TableOptions():
        points = stream(source, **{**reading, "exclude": [*reading.get("exclude", ()), by]})
    with Passes() as passes:
        found = pairwise_energy_distance(
            points,
            by,
            obsm=obsm,
            layer=layer,
            slices=slices,
            permutations=permutations,
            seed=seed,
            scale=scale,
            progress=passes,
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
        convention = "2E|X-Y| - E|X-X'| - E|Y-Y'|, Euclidean, not squared, U-statistic"
        content = {"source": source, "by": by, "convention": convention, "scale": found.scale, "pairs": pairs}
        print(json.dumps({**content, "notices": call().notices}))
        return
    show(on_one_line(f"{source}: {int(found.sizes.sum())} points in {len(found)} groups by {by}, {slices} slices"))
    show("energy distance 2E|X-Y| - E|X-X'| - E|Y-Y'|, unbiased: around 0, and sometimes negative, if the groups agree")
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
