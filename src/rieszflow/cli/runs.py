"""rieszflow train | resume | sample | evaluate | info."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from rieszflow._infra.extras import extra
from rieszflow.cli import options
from rieszflow.cli.commands import app, invocation
from rieszflow.cli.output import ProgressBars, TrainingBars, print_table, show
from rieszflow.errors import InputError

if TYPE_CHECKING:
    from rieszflow.generative import Run
    from rieszflow.generative.run import StageMetrics
    from rieszflow.generative.state import DrawCallback, Pictures

TensorBoard = Annotated[bool, Option("--tensorboard", help="Write curves and images for TensorBoard to RUN/tensorboard, too.")]


@app.command(epilog="Example: `rieszflow sample runs/fashion -n 100 --out garments.npz`")
def sample(
    run: options.RunPath,
    n: Annotated[int, Option("-n", min=1, help="Number of samples.")] = 1000,
    out: Annotated[
        Path | None,
        Option(
            help="File: .csv or .parquet for a run on a table; otherwise .npz or .npy, with which a figure (.png) is written.",
            show_default="samples.csv or samples.npz",
        ),
    ] = None,
    seed: options.Seed = 0,
    batch_size: Annotated[int, Option(min=1, help="Number of samples computed at a time.")] = 500,
    label: Annotated[int | None, Option(help="Label of all samples, for a run trained with --by-class.")] = None,
    given: Annotated[
        str | None, Option(help="Values of the label or of the columns of the run's --condition, such as age=40,sex=female.")
    ] = None,
    observed: Annotated[str | None, Option(help="Images to complete: a .npy or .npz file, or held-out.")] = None,
    force: options.Force = False,
) -> None:
    """Draw new samples from a trained run, in the units of its data."""
    import numpy as np

    from rieszflow import report
    from rieszflow._infra.files import atomically
    from rieszflow.data import scale_points
    from rieszflow.generative import GenerativeFlow
    from rieszflow.generative.rows import write_table

    flow = GenerativeFlow.load(run)
    assert flow.run is not None
    rows = flow.run.rows
    out = out or Path("samples.csv" if rows else "samples.npz")
    options.check_new_file(out, *((".csv", ".parquet") if rows else (".npz", ".npy")), force=force, figure=not rows)
    if rows is not None:
        if label is not None or observed is not None:
            raise InputError("--label and --observed do not fit a run on a table; --given names a label or columns")
        with ProgressBars() as progress:
            table = flow.sample_table(
                n, condition=options.given_values(given), seed=seed, batch_size=batch_size, progress=progress
            )
        write_table(table, out, (rows.options.get("missing") or [""])[0])
        show(f"{out}: {n} rows of {table.num_columns} columns")
        return
    wanted = _condition(flow.run, n, label, given, observed)
    with ProgressBars() as progress:
        x = flow.sample(n, condition=wanted, seed=seed, batch_size=batch_size, progress=progress)
    array = x.numpy()
    atomically(out, lambda t: np.savez_compressed(t, x=array) if out.suffix == ".npz" else np.save(t, array))
    known = flow.run.data
    shown = scale_points(x[: 64 if x.ndim == 4 else 2000], known["low"], known["high"], flow.run.columns)
    report.save_picture(out.with_suffix(".png"), report.picture(shown))
    show(f"{out}: {n} samples of shape {tuple(x.shape[1:])}; figure: {out.with_suffix('.png')}")


def _condition(run: Run, n: int, label: int | None, condition: str | None, observed: str | None) -> object:
    """Return the value of --label, --condition or --observed, the option that the run was trained for."""
    kind = run.config.condition
    flags = {"": "no condition", "class": "--label", "columns": "--given", "values": "--given"}
    accepted = flags.get(kind.partition(":")[0], "--observed")
    for option, value in (("--label", label), ("--given", condition), ("--observed", observed)):
        if value is not None and option != accepted:
            raise InputError(f"{option} does not fit {run.path}, which takes {accepted} (its condition is {kind[:40]!r})")
    if condition is not None:
        try:
            return [float(number) for number in condition.split(",")]
        except ValueError:
            raise InputError(f"--given must be numbers separated by commas, got {condition!r}") from None
    if observed is None:
        return label
    if observed == "held-out":
        from rieszflow.generative import load_data

        content = load_data(run)
        return content.unscale(content.held_out[[k % len(content.held_out) for k in range(n)]])
    file = Path(observed)
    if file.suffix not in (".npy", ".npz") or not file.is_file():
        raise InputError(f"--observed must be an existing .npy or .npz file, or held-out, got {file}")
    from rieszflow.data.files import read_numpy

    return read_numpy(file).train


@app.command(epilog="Example: `rieszflow evaluate runs/fashion -n 5000`")
def evaluate(
    run: options.RunPath,
    n: Annotated[int, Option("-n", min=4, help="Number of samples, and of held-out points if there are as many.")] = 2000,
    seed: options.Seed = 0,
    data: options.DataPath = None,
    inception_weights: Annotated[
        Path | None, Option(help="Inception weights of torch-fidelity, for FID as in the literature.")
    ] = None,
) -> None:
    """Score fresh samples against held-out data, with the same scores of real training data for comparison."""
    import torch

    from rieszflow import metrics, report
    from rieszflow.generative import GenerativeFlow, load_data
    from rieszflow.generative.condition import raw_conditions
    from rieszflow.generative.training_data import held_out_conditions, residual

    flow = GenerativeFlow.load(run)
    assert flow.run is not None
    _check_evaluation(flow.run, inception_weights)
    content = load_data(flow.run, data)
    known = held_out_conditions(flow.run, content, n, seed)
    with ProgressBars() as progress:
        x = content.scale(flow.sample(n, condition=known, seed=seed, progress=progress))
        labels = known if flow.config.condition == "class" else None
        scores = metrics.evaluate(
            x, content, seed=seed, inception_weights=inception_weights, labels=labels, progress=partial(progress, bar="scores")
        )
        if (off := residual(flow.run, x, known, content)) is not None:
            scores["observation_residual"] = off
        if (rows := flow.run.rows) is not None:
            sets = (content.train, content.held_out, x)
            given = (*raw_conditions(flow.config, content), known)
            train, held_out, drawn = (rows.codes(content.unscale(p), c) for p, c in zip(sets, given, strict=True))
            label = None if rows.label is None else [c.name for c in rows.encoding.columns].index(rows.label)
            scores["table"] = metrics.table_scores(rows.encoding, train, held_out, drawn, label, seed)
            if label is not None and "frechet_by_label" in scores:
                names = rows.encoding.columns[label].categories
                scores["frechet_by_label"] = {names[int(k)]: v for k, v in scores["frechet_by_label"].items()}
    flow.run.write_evaluation(scores)
    if x.ndim == 4:
        shown = x[:16]
        nearest = content.train[metrics.nearest(shown, content.train.flatten(1))[0]]
        pairs = [part for k in (0, 8) for part in (shown[k : k + 8], nearest[k : k + 8])]
        report.save_picture(flow.run.path / "images" / "nearest.png", report.picture(torch.cat(pairs), columns=8))
    report.write_report(flow.run)
    print_table(*report.page.score_table(scores))
    if "table" in scores:
        print_table(*report.page.row_scores(scores))
    for note in report.page.score_notes(scores, flow.run.shape):
        show(note)
    show(f"seed {seed}; all scores: {run / 'evaluation.json'}; report: {run / 'report.html'}")


def _check_evaluation(run: Run, inception_weights: Path | None) -> None:
    """Fail early: check that the files of an evaluation can be read and written, since scoring takes a while."""
    import torch

    from rieszflow.metrics.distances import check_inception

    run.metrics()
    if inception_weights is not None:
        check_inception(torch.empty(0, *run.shape), inception_weights)
    for file in (run.path / "evaluation.json", run.path / "report.html", run.path / "images" / "nearest.png"):
        if file.is_dir():
            raise InputError(f"RUN: {file} must be a file or absent, got a folder; remove it")
        options.check_writable("RUN", file.parent if file.parent.exists() else run.path)


@app.command(epilog="Example: `rieszflow info runs/fashion`")
def info(run: Annotated[Path | None, Argument(metavar="[RUN]", help="Folder of a run.")] = None) -> None:
    """Describe a run and its progress; without a run, list data sets and presets."""
    from rieszflow import report
    from rieszflow._infra.messages import printable
    from rieszflow.data import NAMED
    from rieszflow.generative import Run, presets

    if run is None:
        show(f"data sets: {', '.join(NAMED)}, {options.DATA_FORMATS}")
        show("presets:   " + ", ".join(f"{d} {n}" for d, n in presets()))
        return
    opened = Run.open(run)
    finished, total = opened.finished(), opened.total_stages()
    data = f"{opened.data['points']:,} training {report.page.noun(opened.shape)} of shape {opened.shape}"
    show(f"{run}: {printable(opened.data['name'])}, {data}, {finished} of {total} stages")
    if opened.config.condition:
        show(f"condition: {printable(opened.config.condition[:60])}")
    if missing := opened.missing():
        show(f"missing stages: {', '.join(map(str, missing))}; `rieszflow resume` trains them")
    if (state := opened.load_state()) is not None and finished < total:
        meta = state[1]
        show(f"checkpoint: stage {meta['stage']}, {meta['phase']}, step {meta['step']}")
    if rows := opened.metrics():
        print_table(*report.page.stage_table(rows))
        show(report.page.stage_caption(rows))


@app.command(epilog="Example: `rieszflow train fashion-mnist --preset cpu --out runs/fashion`")
def train(
    dataset: Annotated[
        str, Argument(metavar="DATASET", help=f"digits, fashion-mnist, mnist, cifar10, celeba, {options.DATA_FORMATS}.")
    ],
    data: Annotated[Path | None, Option(help="Folder that contains the files of a named data set.")] = None,
    preset: Annotated[
        str | None,
        Option(help="Name of a preset (see `rieszflow info`), or a YAML file.", show_default="table for vectors, else cpu"),
    ] = None,
    out: Annotated[Path | None, Option(help="Folder of the run; new or empty.", show_default="runs/DATASET-PRESET")] = None,
    seed: Annotated[int | None, Option(help="Seed of all random numbers.", show_default="the preset's")] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, …", show_default="the preset's")] = None,
    by_class: Annotated[bool, Option("--by-class", help="Condition samples on the label.")] = False,
    observe: Annotated[
        str | None,
        Option(
            help="Condition samples on a part of the image: left-half, right-half, top-half, bottom-half, or pool:4 for the "
            "means of 4 × 4 pixels."
        ),
    ] = None,
    label: Annotated[str | None, Option(help="Column of a table whose values are labels, each with a flow of its own.")] = None,
    condition: Annotated[str | None, Option(help="Condition samples on these columns of a table, such as age,income.")] = None,
    categories: Annotated[
        str | None, Option(help="Columns of a table to read as categories, though they hold numbers.")
    ] = None,
    missing: Annotated[list[str] | None, Option(help="Text of a missing value in a table, such as ?. Repeatable.")] = None,
    set_: Annotated[
        list[str] | None, Option("--set", help="Override a setting of the preset, as in --set stages=4. Repeatable.")
    ] = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Train a generative flow on a data set, and write the model, metrics and report.html to a folder."""
    name = dataset.removeprefix("hf:")
    from rieszflow.data import NAMED, load
    from rieszflow.data.files import holds_table
    from rieszflow.data.paths import is_query

    is_rows = name not in NAMED and holds_table(dataset)
    name = "query" if is_query(dataset) else name
    kind = "vectors" if is_rows or preset in ("table", "networks") else "images"
    first_preset = preset or ("table" if kind == "vectors" else "cpu")
    out = out or Path("runs") / f"{Path(name).absolute().stem.strip('*?') or 'rows'}-{Path(first_preset).stem}"
    options.check_new_run(out)
    overrides = options.parse_settings(set_ or [])
    overrides |= {key: value for key, value in (("seed", seed), ("device", device)) if value is not None}
    overrides |= _condition_setting(by_class or label is not None, observe, condition)

    from rieszflow import report
    from rieszflow.data.tables import Table
    from rieszflow.generative import Config, GenerativeFlow
    from rieszflow.generative.rows import load_rows

    # Only loading tells whether a file or folder holds images or vectors; the settings used before are the same for both.
    config = Config.preset(name if name in NAMED else kind, first_preset, **overrides)
    config.torch_device()
    if is_rows:
        table = Table(dataset, categories=next(csv.reader([categories or ""])), missing=missing)
        content = load_rows(table, config.held_out, config.seed, label, config.condition_columns)
    elif of_tables := [k for k, v in {"label": label, "categories": categories, "missing": missing}.items() if v]:
        raise InputError(f"--{of_tables[0]} must be omitted without a table, got {dataset}")
    else:
        content = load(dataset, data, config.held_out, config.seed)
    if name not in NAMED and (found := "images" if len(content.shape) == 3 else "vectors") != kind:
        config = Config.preset(found, preset or ("cpu" if found == "images" else "table"), **overrides)
    available = len(content.train) - config.validation_size(len(content.train))
    targets = min(config.targets or available, available)
    show(
        f"{content.name}: {len(content.train):,} training {report.page.noun(content.shape)} of shape {content.shape}, "
        f"{config.particles:,} particles flow towards {targets:,} of them; run: {out}"
    )
    invocation().run = out
    with TrainingBars(config) as bars:
        flow = GenerativeFlow(config).fit(content, run=out, progress=bars, draw=_draw(tensorboard))
    assert flow.run is not None
    _show_result(flow.run)


@app.command(epilog="Example: `rieszflow resume runs/fashion`")
def resume(run: options.RunPath, data: options.DataPath = None, tensorboard: TensorBoard = False) -> None:
    """Continue an interrupted run from its last checkpoint, with the same data and settings."""
    from rieszflow.generative import GenerativeFlow, Run, load_data

    opened = Run.open(run)
    opened.config.torch_device()
    if opened.finished() == opened.total_stages():
        show(f"{run}: all {opened.finished()} stages are already trained")
    invocation().run = run
    with TrainingBars(opened.config) as bars:
        GenerativeFlow.resume(run, load_data(opened, data), progress=bars, draw=_draw(tensorboard))
    _show_result(opened)


def _condition_setting(by_class: bool, observe: str | None, columns: str | None) -> options.Keywords:
    """Return the setting that --by-class, --observe or --condition stands for."""
    given = {"--by-class": "class" if by_class else None, "--observe": observe, "--condition": columns and f"columns:{columns}"}
    chosen = {option: value for option, value in given.items() if value is not None}
    if len(chosen) > 1:
        raise InputError(f"only one of {' and '.join(chosen)} can be used")
    if observe is not None:
        from rieszflow.generative.config import HALVES

        if observe not in HALVES and not (observe.startswith("pool:") and observe[5:].isdecimal()):
            raise InputError(f"--observe must be one of {', '.join(HALVES)} or pool:4, got {observe!r}")
    return {"condition": next(iter(chosen.values()))} if chosen else {}


def _draw(tensorboard: bool) -> DrawCallback:
    from rieszflow import report

    if not tensorboard:
        return report.draw
    with extra("tensorboard", "--tensorboard"):
        import tensorboard as _  # noqa: F401  # if it is missing, fail before the training and not after its first stage

    def draw(run: Run, pictures: Pictures) -> None:
        report.draw(run, pictures)
        report.to_tensorboard(run, pictures)

    return draw


def _show_result(run: Run) -> None:
    from rieszflow.report.page import reference_data

    rows, unit = run.metrics(), " of columns scaled by their interquartile ranges" if run.columns is not None else ""
    data = reference_data(rows)
    show(f"energy distances{unit} to {data}: lower is better; around 0, possibly negative, for equal distributions")
    show(f"report: {run.path / 'report.html'}")
    if rows[-1].step_factor is not None or run.total_stages() < len(rows):
        show(f"the model ends with stage {run.total_stages()}, the best of {len(rows)} on {data}")
    elif best := _best_stage(rows):
        show(best)


def _best_stage(rows: list[StageMetrics]) -> str:
    """Return a sentence that names the stage with the best fresh samples if later ones made them worse; otherwise ""."""
    rows = [row for row in rows if row.level == rows[-1].level]  # other levels have smaller images
    best = min(rows, key=lambda row: row.energy_distance["fresh_samples"])
    lowest, last = (row.energy_distance["fresh_samples"] for row in (best, rows[-1]))
    if last - lowest <= 2 * abs(rows[-1].energy_distance["training_data"]):  # noise: 0 for infinitely many points
        return ""
    later = f"later stages made them worse, {last:.4f} at the end"
    return f"fresh samples were best after stage {best.stage}, at {lowest:.4f}; {later}"
