"""rieszflow compare | sketch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from rieszflow.errors import InputError

if TYPE_CHECKING:
    from rieszflow.two_sample.compare import Comparison

SOURCE = "a .npy, .npz, .csv, .tsv or .parquet file, a folder of tables or of pictures"


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=f"{SOURCE}, or a .sketch file.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise; one row is one point.", show_default=False)],
    slices: Annotated[int | None, typer.Option(help="Random directions; a sketch has its own.", show_default="256")] = None,
    permutations: Annotated[int, typer.Option(help="The least p-value is one over this plus one.")] = 999,
    seed: Annotated[int, typer.Option(help="Seed of directions and permutations.")] = 0,
    top: Annotated[int, typer.Option(help="Columns to name, those that differ most.")] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Picture of the columns and the slice that differ most, a .png.", show_default=False)
    ] = None,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of a table.")] = False,
    common: Annotated[bool, typer.Option("--common", help="Compare the columns that both tables have.")] = False,
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
    """Test whether two files hold samples of one distribution; say by how much and where they differ."""
    numbers = (
        ("--slices", 256 if slices is None else slices, 1),
        ("--permutations", permutations, 1),
        ("--seed", seed, 0),
        ("--top", top, 0),
    )
    for option, value, least in numbers:
        at_least(option, value, least)
    if out is not None:
        check_file(out, ".png", force=force)

    from rieszflow import report
    from rieszflow.data import stream
    from rieszflow.two_sample.compare import compare, is_sketch

    reading = table_options(
        header, columns, exclude, delimiter=delimiter, decimal=decimal, thousands=thousands, missing=missing, dates=dates,
        encoding=encoding,
    )  # fmt: skip
    if is_sketch(a) or is_sketch(b):
        if slices is not None:
            raise InputError(f"--slices: {slices} given; a sketch has its own slices")
        if common:
            raise InputError("--common: a sketch is of all its columns; choose those of the other table with --columns")
    x, y = (path if is_sketch(path) else stream(path, **reading) for path in (a, b))
    with Passes() as passes:
        found = compare(x, y, slices=slices, permutations=permutations, seed=seed, scale=scale, common=common, progress=passes)
    if out is not None:
        report.save_picture(out, report.comparison(found.x, found.y, (Path(a).name, Path(b).name)))
    if as_json:
        _print_json(found, a, b, top)
    else:
        _print(found, a, b, top)
        if out is not None:
            show(f"picture: {out}")


def _print_json(found: Comparison, a: str, b: str, top: int) -> None:
    import json

    content = {
        "a": a,
        "b": b,
        "distance": found.statistic,
        "interval": None if found.confidence_interval is None else list(found.confidence_interval),
        "pvalue": found.pvalue,
        "n": [found.x.n, found.y.n],
        "d": found.x.d,
        "slices": found.x.slices,
        "convention": "half the energy distance",
        "scale": found.scale,
        "columns": [{"name": name, "energy_coefficient": value} for name, value in found.columns(top)],
        "notices": call().notices,
    }
    print(json.dumps(content))


def _print(found: Comparison, a: str, b: str, top: int) -> None:
    show(on_one_line(f"{a}: {found.x.n} points; {b}: {found.y.n} points; d = {found.x.d}, {found.x.slices} slices"))
    line = f"distance (D², half the energy distance; around 0 where nothing differs): {found.statistic:.6g}"
    if found.confidence_interval is None:
        show(f"{line}; two sketches have no points left, so there is no test")
    else:
        low, high = found.confidence_interval
        show(f"{line}, 95 % interval {low:.3g} … {high:.3g}")
        show(f"p-value {found.pvalue:.4g} ({found.permutations} permutations)")
    show(scale_line(found.scale))
    if differ := found.columns(top):
        cells = [[on_one_line(name), f"{value:.3g}"] for name, value in differ]
        print_table(["column", "energy coefficient (0: alike, 1: apart)"], cells)


@app.command()
def sketch(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE…", help=f"{SOURCE}; or .sketch files with equal bins.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The sketch.", show_default=False)],
    force: Force = False,
    slices: Annotated[int | None, typer.Option(help="Random directions: 5 KB each.", show_default="256")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the directions.", show_default="0")] = None,
    like: Annotated[
        Path | None,
        typer.Option(help="A sketch whose slices and bins to take, to merge and compare with it.", show_default=False),
    ] = None,
    scale: Scale = "auto",
    keep: Annotated[
        int | None,
        typer.Option(
            help="Random points to keep as they are, for tests; 0 for none. Default: 2,048 at most.", show_default=False
        ),
    ] = None,
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
    """Sum up files of any size in a sketch of a few megabytes, to compare new data with later."""
    settings = [("--slices", slices, 1), ("--seed", seed, 0), ("--keep", keep, 0)]
    for option, value, least in settings:
        if value is not None:
            at_least(option, value, least)
            if like is not None:
                raise InputError(f"{option}: {value} given with --like, whose sketch has its own")
    if scale != "auto" and (like is not None or any(source.endswith(".sketch") for source in sources)):
        raise InputError(f"--scale must be auto with a sketch, which has its own, got {scale}")
    check_file(out, ".sketch", force=force)
    from rieszflow.data import Stream, stream
    from rieszflow.data.scale import choose_spreads
    from rieszflow.sketch import Plan, SliceSketch
    from rieszflow.sketch.plan import SliceSettings

    reading = table_options(
        header, columns, exclude, delimiter=delimiter, decimal=decimal, thousands=thousands, missing=missing, dates=dates,
        encoding=encoding,
    )  # fmt: skip
    read = [SliceSketch.load(source) if source.endswith(".sketch") else stream(source, **reading) for source in sources]
    made = [SliceSketch.load(like), *read] if like is not None else read
    total = next((source.empty() for source in made if isinstance(source, SliceSketch)), None)
    if total is None:
        first, *others = (source for source in read if isinstance(source, Stream))
        clouds = [first, *(other.matched(first.names, first.name, first.left_out) for other in others)]
        drawn = SliceSettings(first.d, slices or 256, "auto", seed or 0, first.names, choose_spreads(scale, clouds))
        total = SliceSketch(Plan.fit(drawn.divide(first.first), drawn), reservoir_size=keep)
    with Passes() as passes:
        for name, source in zip(sources, read, strict=True):
            if isinstance(source, SliceSketch):
                total.merge(source)
            else:
                total.update(source, progress=passes.named(Path(name).name))
    total.save(out)
    kept = 0 if total.reservoir is None else len(total.reservoir)
    show(f"{out}: {total.n} points, d = {total.d}, {out.stat().st_size / 1e6:.1f} MB, with {kept} random points as they are")
    show(scale_line(total.scale))
