"""rieszflow compare | sketch | pairwise | impute."""

from __future__ import annotations

import csv
import io
import json
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from rieszflow._infra.messages import on_one_line
from rieszflow.cli.commands import app, invocation
from rieszflow.cli.options import Force, Json, Keywords, Scale, Seed, check_new_file, scale_line, with_reading_options
from rieszflow.cli.output import ProgressBars, print_table, show
from rieszflow.errors import InputError

SOURCE = "a .npy, .npz, .csv, .tsv or .parquet file, a folder of tables or of images"
_SCALES = 3  # of columns and of all columns together, listed at the most
_CONVENTION = "energy distance (MMD², unbiased: around 0, possibly negative, for equal distributions)"


def _print_json(content: Keywords) -> None:
    print(json.dumps({**content, "notices": invocation().notices}))


@app.command(epilog="Example: `rieszflow compare january.csv february.csv --out differences.png`")
@with_reading_options
def compare(
    a: Annotated[str, Argument(metavar="A", help=f"First sample: {SOURCE}, or a .sketch file.")],
    b: Annotated[str, Argument(metavar="B", help="Second sample, in any of these forms.")],
    slices: Annotated[int | None, Option(min=1, help="Number of random directions.", show_default="256")] = None,
    permutations: Annotated[int, Option(min=1, help="Number of permutations of the test.")] = 999,
    seed: Seed = 0,
    top: Annotated[
        int,
        Option(min=0, help="Number of columns to list, those that differ most; up to three with the scale of the difference."),
    ] = 5,
    out: Annotated[
        Path | None, Option(help="Figure (.png) of the columns and the direction that differ most, and of where they differ.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
    common: Annotated[bool, Option("--common", help="Compare only the columns that both tables have.")] = False,
    groups: Annotated[
        str | None,
        Option(help="Column of labels, such as patients or days, whose rows belong together and are permuted as one."),
    ] = None,
    scale: Scale = "auto",
    *,
    reading: Keywords,
) -> None:
    """Test whether two samples have the same distribution, and list the columns and scales that differ most."""
    if out is not None:
        check_new_file(out, ".png", force=force)

    from rieszflow import report
    from rieszflow.data.streams import open_source
    from rieszflow.two_sample import compare

    x, y = (path if path.endswith(".sketch") else open_source(path, **reading) for path in (a, b))
    with ProgressBars() as progress:
        found = compare(
            x, y, groups=groups, slices=slices, permutations=permutations, seed=seed, scale=scale, common=common,
            progress=progress,
        )  # fmt: skip
    if out is not None:
        report.save_picture(out, report.comparison(found, (Path(a).name, Path(b).name)))
    columns, scales = found.columns(top), found.scales(min(top, _SCALES))
    if as_json:
        _print_json({
            "a": a, "b": b, "distance": found.statistic, "estimator": "U",
            "confidence_interval": found.confidence_interval, "pvalue": found.pvalue,
            "effect_size": found.test.effect_size if found.test else None,
            "n": [found.x.n, found.y.n], "d": found.x.d, "slices": found.x.slices, "scale": found.scale,
            "columns": [{"name": name, "energy_coefficient": value, "change": change} for name, value, change in columns],
            "scales": [{"name": name, "width": width, "pvalue": pvalue} for name, width, pvalue in scales],
        })  # fmt: skip
        return
    show(on_one_line(f"{a}: {found.x.n} points; {b}: {found.y.n} points; d = {found.x.d}, {found.x.slices} slices"))
    distance = f"{_CONVENTION}: {found.statistic:.6g}"
    if found.confidence_interval is None:
        show(f"{distance}; no test, because two sketches contain no points to permute")
    else:
        low, high = found.confidence_interval
        show(f"{distance}, 95 % confidence interval {low:.3g} to {high:.3g}")
        show(f"p-value {found.pvalue:.4g} ({found.permutations} permutations)")
    show(scale_line(found.scale))
    if columns:
        cells = [[on_one_line(name), f"{value:.3g}", on_one_line(change)] for name, value, change in columns]
        print_table(["column", "energy coefficient (0 to 1)", f"{Path(a).name} → {Path(b).name}"], cells)
    if scales:
        cells = [
            [on_one_line(name), "energy distance" if width is None else f"Gaussian of width {width:.3g}", f"{pvalue:.3g}"]
            for name, width, pvalue in scales
        ]
        print_table(["differences are clearest in", "by the kernel", "adjusted p-value"], cells)
    if out is not None:
        show(f"figure: {out}")


@app.command(epilog="Example: `rieszflow sketch reference.parquet --out reference.sketch`")
@with_reading_options
def sketch(
    sources: Annotated[list[str], Argument(metavar="SOURCE…", help=f"Points: {SOURCE}; or .sketch files with equal bins.")],
    out: Annotated[Path, Option("--out", "-o", help="The .sketch file to write.")],
    force: Force = False,
    slices: Annotated[int | None, Option(min=1, help="Number of random directions, 5 KB each.", show_default="256")] = None,
    seed: Annotated[int | None, Option(min=0, help="Seed of the directions.", show_default="0")] = None,
    like: Annotated[
        Path | None, Option(help="Sketch to be merged or compared with, whose directions and bins are used.")
    ] = None,
    scale: Scale = "auto",
    reservoir_size: Annotated[
        int | None, Option(min=0, help="Number of points to store for tests.", show_default="2048")
    ] = None,
    *,
    reading: Keywords,
) -> None:
    """Summarise files of any size in a sketch of a few megabytes, to compare other data with it later."""
    for option, value in (("--slices", slices), ("--seed", seed), ("--reservoir-size", reservoir_size)):
        if value is not None and like is not None:
            raise InputError(f"{option} must be omitted with --like, whose sketch has its own, got {value}")
    if scale != "auto" and (like is not None or any(source.endswith(".sketch") for source in sources)):
        raise InputError(f"--scale must be auto with a sketch, which has its own, got {scale}")
    check_new_file(out, ".sketch", force=force)
    from rieszflow.data.encoding import open_clouds
    from rieszflow.data.streams import open_source
    from rieszflow.sketch import Plan, SliceSketch
    from rieszflow.sketch.plan import SliceSettings

    read = [SliceSketch.load(source) if source.endswith(".sketch") else open_source(source, **reading) for source in sources]
    made = [SliceSketch.load(like), *read] if like is not None else read
    total = next((source.empty() for source in made if isinstance(source, SliceSketch)), None)
    if total is None:
        (first, *_), units = open_clouds([source for source in read if not isinstance(source, SliceSketch)], scale)
        settings = SliceSettings(first.d, slices or 256, "auto", seed or 0, first.names, units.spreads, units.encoding)
        total = SliceSketch(Plan.fit(settings.rescale(first.first), settings), reservoir_size=reservoir_size)
    with ProgressBars() as progress:
        for name, source in zip(sources, read, strict=True):
            if isinstance(source, SliceSketch):
                total.merge(source)
            else:
                total.update(source, progress=partial(progress, label=Path(name).name))
    total.save(out)
    stored = 0 if total.reservoir is None else len(total.reservoir)
    show(f"{out}: {total.n} points, d = {total.d}, {out.stat().st_size / 1e6:.1f} MB, including {stored} random points")
    show(scale_line(total.scale))


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
    from rieszflow.data.streams import open_source
    from rieszflow.two_sample.pairwise import pairwise_energy_distance

    points = source if source.endswith(".h5ad") and not reading else open_source(source, **reading)
    with ProgressBars() as progress:
        found = pairwise_energy_distance(
            points, by, obsm=obsm, layer=layer,
            slices=slices, permutations=permutations, seed=seed, scale=scale, progress=progress,
        )  # fmt: skip
    pairs = found.pairs()
    if out is not None:
        text = io.StringIO()
        rows = csv.DictWriter(text, list(pairs[0]), lineterminator="\n")
        rows.writeheader()
        rows.writerows(pairs)
        atomically(out, lambda file: file.write_text(text.getvalue(), encoding="utf-8"))
        report.save_picture(out.with_suffix(".png"), report.heat_map(found))
    if as_json:
        _print_json({"source": source, "by": by, "estimator": "U", "scale": found.scale, "pairs": pairs})
        return
    show(on_one_line(f"{source}: {int(found.sizes.sum())} points in {len(found)} groups by {by}, {slices} slices"))
    show(_CONVENTION)
    show(scale_line(found.scale))
    shown = pairs if len(pairs) <= 2 * top else [*pairs[:top], *pairs[len(pairs) - top :]]
    cells = [[f"{v:.4g}" if isinstance(v, float) else on_one_line(str(v)) for v in row.values()] for row in shown]
    if shown:
        print_table([name.replace("_", " ") for name in shown[0]], cells)
    if out is not None:
        show(f"all {len(pairs)} pairs: {out}; heat map: {out.with_suffix('.png')}")
    elif len(shown) < len(pairs):
        show(f"{len(shown)} of {len(pairs)} pairs; --out pairwise.csv writes all pairs and a heat map")


@app.command(epilog="Example: `rieszflow impute holes.csv --draws 20 --out filled.csv`")
@with_reading_options
def impute(
    source: Annotated[str, Argument(metavar="TABLE", help="A table with missing cells.")],
    out: Annotated[Path, Option("--out", "-o", help="File (.csv or .parquet) to write.")],
    draws: Annotated[int, Option(min=1, help="Number of draws, which a first column `draw` numbers if there are several.")] = 1,
    seed: Seed = 0,
    force: Force = False,
    *,
    reading: Keywords,
) -> None:
    """Fill missing cells of a table at random, given the known cells of their rows."""
    check_new_file(out, ".csv", ".parquet", force=force)
    import pyarrow as pa

    from rieszflow.data.tables import Table
    from rieszflow.generative.impute import impute_tables
    from rieszflow.generative.rows import write_table

    with ProgressBars() as progress:
        found = impute_tables(Table(source, **reading), draws, seed=seed, progress=progress)
    if draws > 1:
        number = [pa.array([k] * table.num_rows) for k, table in enumerate(found, 1)]
        found = [table.add_column(0, "draw", column) for table, column in zip(found, number, strict=True)]
    write_table(pa.concat_tables(found), out)
    show(f"{out}: {found[0].num_rows} rows, {draws} {'draw' if draws == 1 else 'draws'}")
