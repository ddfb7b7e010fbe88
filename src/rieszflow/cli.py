"""rieszflow train | resume | sample | evaluate | info | compare | sketch."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

app = typer.Typer(
    name="rieszflow",
    help="Turn noise into data along the sliced MMD flow with the Riesz kernel, and measure how well it went.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)
# Under torchrun the first process speaks for all of them.
_RANK = int(os.environ.get("RANK", "0"))
console = Console(quiet=_RANK != 0)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]


def _one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Wrong input ends in one line on stderr and exit code 1 (2 for what Typer itself refuses); a bug keeps its traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            _fail("interrupted; `rieszflow resume RUN` goes on from the last checkpoint", 130)
        except (ValueError, TypeError, OSError, ImportError) as error:
            _fail(str(error), 1)

    return wrapped


def _fail(message: str, code: int) -> None:
    process = f"process {_RANK}: " if _RANK else ""
    print(f"error: {process}" + " ".join(message.split()), file=sys.stderr)
    raise typer.Exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"rieszflow {version('rieszflow')}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
@_one_line_errors
def train(
    dataset: Annotated[
        str,
        typer.Argument(
            help="digits, fashion-mnist, mnist, cifar10, celeba, hf:NAME, a folder of images or IDX files, a .npy/.npz file.",
            show_default=False,
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="Where the files of a named data set are.", show_default=False)] = None,
    preset: Annotated[str, typer.Option(help="A preset's name (see `rieszflow info`), or a YAML file.")] = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run, empty or new.", show_default="runs/DATASET-PRESET")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", show_default=False)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; default: the preset's.", show_default=False)] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, as in --set networks=4; repeatable.", show_default=False)
    ] = None,
) -> None:
    """Train a generative flow on a data set; leaves networks, metrics and report.html in a folder."""
    from rieszflow import report
    from rieszflow.data import NAMED, load
    from rieszflow.generative import Config, GenerativeFlow

    overrides = _overrides(set_ or [])
    overrides |= {key: value for key, value in (("seed", seed), ("device", device)) if value is not None}
    name = dataset.removeprefix("hf:")
    if name in NAMED:
        config = Config.preset(name, preset, **overrides)
        content = load(dataset, data, config.held_out, config.seed)
    else:
        # What is in a file or folder decides between the presets for images and for vectors, but not the split's seed.
        first = Config.preset("images", preset, **overrides)
        content = load(dataset, data, first.held_out, first.seed)
        config = Config.preset("images" if len(content.shape) == 3 else "vectors", preset, **overrides)
    out = out or Path("runs") / f"{Path(name).stem}-{Path(preset).stem}"
    targets = min(config.targets or len(content.train), len(content.train))
    console.print(
        f"{content.name}: {len(content.train)} training data of shape {content.shape}, {config.particles} particles flow "
        f"towards {targets} of them; run: {out}",
        soft_wrap=True,
    )
    with _Training() as show:
        flow = GenerativeFlow(config).fit(content, run=out, progress=show, draw=report.draw)
    assert flow.run is not None
    _finished(flow.run)


@app.command()
@_one_line_errors
def resume(
    run: RunArgument,
    data: Annotated[Path | None, typer.Option(help="Where the data are now, if they were moved.", show_default=False)] = None,
) -> None:
    """Continue a run from its last checkpoint: killed or finished, on the same data and settings."""
    from rieszflow import report
    from rieszflow.generative import GenerativeFlow, Run
    from rieszflow.generative.model import load_data

    opened = Run.open(run)
    if opened.finished() == opened.config.total_networks():
        console.print(f"{run}: all {opened.finished()} networks are trained already", soft_wrap=True)
    with _Training() as show:
        GenerativeFlow.resume(run, load_data(opened, data), progress=show, draw=report.draw)
    _finished(opened)


@app.command()
@_one_line_errors
def sample(
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", help="How many samples.")] = 1000,
    out: Annotated[
        Path, typer.Option(help="File for the samples, .npz (array x) or .npy; a .png with a grid beside it.")
    ] = Path("samples.npz"),
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples in one pass of a network.")] = 500,
) -> None:
    """Draw new samples from a run, in the data's own values."""
    import numpy as np

    from rieszflow import report
    from rieszflow._files import atomically
    from rieszflow.generative import GenerativeFlow

    if out.suffix not in (".npz", ".npy"):
        raise ValueError(f"--out: {out} given; a name that ends in .npz or .npy is accepted")
    flow = GenerativeFlow.load(run)
    assert flow.run is not None
    with _bars() as bars:
        task = bars.add_task("networks")
        x = flow.sample(n, seed, None, batch_size, lambda done, of: bars.update(task, completed=done, total=of))
    array = x.numpy()
    atomically(out, lambda t: np.savez_compressed(t, x=array) if out.suffix == ".npz" else np.save(t, array))
    shown = (x[: 64 if x.ndim == 4 else 2000] - flow.run.data["low"]) / (flow.run.data["high"] - flow.run.data["low"])
    report.save_picture(out.with_suffix(".png"), report.picture(shown))
    console.print(f"{out}: {n} samples of shape {tuple(x.shape[1:])}; picture: {out.with_suffix('.png')}", soft_wrap=True)


@app.command()
@_one_line_errors
def evaluate(
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", help="Samples, and as many held-out data, if there are.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of noise, classifier and choice of real data.")] = 0,
    data: Annotated[Path | None, typer.Option(help="Where the data are now, if they were moved.", show_default=False)] = None,
    inception_weights: Annotated[
        Path | None, typer.Option(help="torch-fidelity's Inception weights, for FID as in the literature.", show_default=False)
    ] = None,
) -> None:
    """Score fresh samples against held-out data, with real training data as the yardstick beside every score."""
    from rieszflow import metrics, report
    from rieszflow.generative import GenerativeFlow
    from rieszflow.generative.model import load_data

    flow = GenerativeFlow.load(run)
    assert flow.run is not None
    content = load_data(flow.run, data)
    with console.status("sampling and scoring"):
        x = (flow.sample(n, seed) - content.low) / (content.high - content.low)
        scores = metrics.evaluate(x, content, seed, inception_weights)
    flow.run.write_evaluation(scores)
    if x.ndim == 4:
        shown = x[:16]
        closest = content.train[metrics.nearest(shown, content.train.flatten(1))[0]]
        pairs = [part for k in (0, 8) for part in (shown[k : k + 8], closest[k : k + 8])]
        import torch

        report.save_picture(flow.run.path / "images" / "nearest.png", report.picture(torch.cat(pairs), columns=8))
    report.write_report(flow.run)
    table = Table("score", "generated", "training data (yardstick)")
    for score, values in scores["scores"].items():
        table.add_row(score, f"{values['generated']:.4f}", f"{values['training_data']:.4f}")
    console.print(table)
    console.print(f"{scores['samples']} samples against {scores['held_out']} held-out data, seed {seed}", soft_wrap=True)
    console.print(f"features: {scores['feature_space']} (not the Inception FID of the literature)", soft_wrap=True)
    memory = scores["nearest_training_distance"]
    console.print(
        f"median distance to the nearest training datum: generated {memory['generated']:.3f}, "
        f"held-out {memory['held_out']:.3f}; all in {run / 'evaluation.json'} and {run / 'report.html'}",
        soft_wrap=True,
    )


@app.command()
@_one_line_errors
def info(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run.", show_default=False)] = None,
) -> None:
    """What a run is and how far it has come; without a run: data sets and presets."""
    from rieszflow.data import NAMED
    from rieszflow.generative import Run, presets

    if run is None:
        console.print("data sets: " + ", ".join(NAMED) + ", hf:NAME, a folder of images or IDX files, a .npy or .npz file")
        console.print("presets:   " + ", ".join(f"{d} {n}" for d, n in presets()))
        return
    opened = Run.open(run)
    console.print(
        f"{run}: {opened.data['name']}, {opened.data['points']} training data of shape {opened.shape}, "
        f"{opened.finished()} of {opened.config.total_networks()} networks",
        soft_wrap=True,
    )
    if (state := opened.load_state()) is not None and opened.finished() < opened.config.total_networks():
        meta = state[1]
        console.print(f"checkpoint: network {meta['network']}, {meta['phase']}, step {meta['step']}", soft_wrap=True)
    table = Table(
        "network", "pooled by", "flow steps", "fit error", "particles", "network's particles", "fresh samples", "seconds"
    )
    for row in opened.metrics():
        table.add_row(*_cells(row))
    console.print(table)
    console.print("energy distances (statisticians' convention, unbiased) are to held-out data", soft_wrap=True)


SOURCE = "a .npy, .npz, .csv or .parquet file, a folder of Parquet files or images"


@app.command()
@_one_line_errors
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help=f"{SOURCE}, or a .sketch file.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise; one row is one point.", show_default=False)],
    slices: Annotated[int, typer.Option(help="Random directions; a sketch's own if there is one.")] = 256,
    permutations: Annotated[int, typer.Option(help="The least p-value is one over this plus one.")] = 999,
    seed: Annotated[int, typer.Option(help="Seed of directions and permutations.")] = 0,
    top: Annotated[int, typer.Option(help="Columns to name, those that differ most.")] = 5,
    out: Annotated[Path, typer.Option(help="Picture of the columns and the slice that differ most.")] = Path("compare.png"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of a table.")] = False,
) -> None:
    """Test whether two files hold samples of one distribution; say by how much and where they differ."""
    import json

    from rieszflow import report
    from rieszflow.sketch import SliceSketch
    from rieszflow.two_sample import drift_test, two_sample_test

    if out.suffix != ".png":
        raise ValueError(f"--out: {out} given; a name that ends in .png is accepted")
    if top < 0:
        raise ValueError(f"--top: {top} given; 0 or more is accepted")
    one, two = (SliceSketch.load(path) if path.endswith(".sketch") else None for path in (a, b))
    found: dict[str, Any] = {"a": a, "b": b}
    with _Passes() as passes:
        if one is not None and two is not None:
            test, x, y = None, one, two
            found |= {"distance": y.distance(x, "U"), "interval": None, "p_value": None}
        else:
            if one is not None:
                test = drift_test(b, one, permutations, seed, progress=passes)
                x, y = one, test.x
            elif two is not None:
                test = drift_test(a, two, permutations, seed, progress=passes)
                x, y = test.x, two
            else:
                test = two_sample_test(a, b, slices, permutations, seed=seed, progress=passes)
                x, y = test.x, test.y
            found |= {"distance": test.distance, "interval": list(test.interval), "p_value": test.p_value}
    found |= {"n": [x.n, y.n], "d": x.d, "slices": x.slices, "convention": "half the energy distance"}
    columns = []
    if x.columns:
        names, apart = report.column_names(y), y.feature_distances(x)
        columns = [(names[k], apart[k].item()) for k in apart.argsort(descending=True)[:top].tolist()]
    found["columns"] = [{"name": name, "energy_coefficient": value} for name, value in columns]
    report.save_picture(out, report.comparison(x, y, (Path(a).name, Path(b).name)))
    if as_json:
        print(json.dumps(found))
        return
    console.print(f"{a}: {x.n} points; {b}: {y.n} points; d = {x.d}, {x.slices} slices", soft_wrap=True)
    line = f"distance (D², half the energy distance): {found['distance']:.6g}"
    if test is None:
        console.print(f"{line}; two sketches have no points left, so there is no test", soft_wrap=True)
    else:
        low, high = test.interval
        how = "permutations" if test.blocks[1] > 1 else "multipliers (approximate)"
        console.print(f"{line}, 95 % interval {low:.3g} … {high:.3g}", soft_wrap=True)
        console.print(f"p-value {test.p_value:.4g} ({test.permutations} {how})", soft_wrap=True)
    if columns:
        table = Table("column", "energy coefficient (0: alike, 1: apart)")
        for name, value in columns:
            table.add_row(name, f"{value:.3g}")
        console.print(table)
    console.print(f"picture: {out}", soft_wrap=True)


@app.command()
@_one_line_errors
def sketch(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE…", help=f"{SOURCE}; or .sketch files with equal bins.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The sketch.", show_default=False)],
    slices: Annotated[int, typer.Option(help="Random directions: 5 KB each.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the directions.")] = 0,
    like: Annotated[
        Path | None,
        typer.Option(help="A sketch whose slices and bins to take, to merge and compare with it.", show_default=False),
    ] = None,
) -> None:
    """Sum up files of any size in a sketch of a few megabytes, to compare new data with later."""
    from rieszflow.sketch import SliceSketch
    from rieszflow.stream import stream

    total = SliceSketch.load(like).empty() if like is not None else None
    with _Passes() as passes:
        for source in sources:
            if source.endswith(".sketch"):
                part = SliceSketch.load(source)
                total = part if total is None else total.merge(part)
                continue
            points = stream(source)
            if total is None:
                total = SliceSketch(points.first, slices, "auto", seed, points.names)
            total.update(points, progress=functools.partial(passes, Path(source).name))
    assert total is not None
    total.save(out)
    console.print(f"{out}: {total.n} points, d = {total.d}, {out.stat().st_size / 1e6:.1f} MB", soft_wrap=True)


class _Passes:
    """A live bar for every pass over points."""

    def __enter__(self) -> _Passes:
        self.bars = _bars()
        self.tasks: dict[str, Any] = {}
        self.bars.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.bars.stop()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name)
        self.bars.update(self.tasks[name], completed=done, total=total)


def _overrides(items: list[str]) -> dict[str, Any]:
    values = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign:
            raise ValueError(f"--set: {item!r} given; KEY=VALUE is accepted")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(f"--set: the value of {key} is not readable: {value!r}") from None
    return values


def _cells(row: dict[str, Any]) -> list[str]:
    e = row["energy_distance"]
    distances = [f"{e[key]:.4f}" for key in ("particles", "network_particles", "fresh_samples")]
    seconds = f"{sum(row['seconds'].values()):.0f}"
    return [str(row["network"]), str(row["level"]), str(row["flow_steps"]), f"{row['fit_error']:.3f}", *distances, seconds]


def _bars() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # Where nobody watches, Rich would print an empty line for every bar.
    return Progress(*columns, console=console, transient=True, disable=not console.is_interactive)


class _Training:
    """Live bars for the networks and the phase at work, and a line for every finished network."""

    def __enter__(self) -> _Training:
        self.bars = _bars()
        self.total = self.bars.add_task("networks", total=None)
        self.phase = self.bars.add_task("flow", total=None)
        self.bars.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.bars.stop()

    def __call__(self, progress: Any) -> None:
        self.bars.update(self.total, completed=progress.network - 1, total=progress.networks)
        loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
        self.bars.update(
            self.phase,
            description=f"{progress.phase} {progress.network}{loss}",
            completed=progress.step,
            total=progress.steps,
        )
        if progress.row is not None:
            self.bars.update(self.total, completed=progress.network)
            number, level, steps, error, _, _, fresh, seconds = _cells(progress.row)
            yardstick = progress.row["energy_distance"]["training_data"]
            pooled = "" if level == "1" else f"  pooled by {level}"
            console.print(
                f"network {number:>3}{pooled}  flow steps {steps:>5}  fit error {error}  energy distance of fresh samples "
                f"{fresh} (training data {yardstick:.4f})  {seconds:>5} s",
                soft_wrap=True,
            )


def _finished(run: Any) -> None:
    console.print(f"done: {run.path / 'report.html'}", soft_wrap=True)


def main() -> None:
    """The console script's entry."""
    app()
