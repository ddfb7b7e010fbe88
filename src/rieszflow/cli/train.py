"""rieszflow train | resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from rieszflow._infra.extras import extra
from rieszflow.cli.app import RunArgument, app
from rieszflow.cli.bars import TrainingBars
from rieszflow.cli.checks import check_new_run, condition_setting, settings
from rieszflow.cli.terminal import show
from rieszflow.cli.way_out import call

TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Curves and pictures for TensorBoard, too, in RUN/tensorboard.")
]


@app.command()
def train(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="digits, fashion-mnist, mnist, cifar10, celeba, hf:NAME, a folder of pictures or IDX files, a .npy or .npz "
            "file, a .csv or .parquet table.",
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
    by_class: Annotated[bool, typer.Option("--by-class", help="Samples can be asked for by label.")] = False,
    observe: Annotated[
        str | None,
        typer.Option(
            help="What of an image is known, and samples complete: left-half, right-half, top-half, bottom-half, or pool:4 for "
            "the means of 4 × 4 pixels.",
            show_default=False,
        ),
    ] = None,
    condition: Annotated[
        str | None,
        typer.Option(
            help="Columns of a table to condition on, as in age,income; samples have the other columns.", show_default=False
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, as in --set stages=4; repeatable.", show_default=False)
    ] = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Train a generative flow on a data set; leaves the model, metrics and report.html in a folder."""
    name = dataset.removeprefix("hf:")
    out = out or Path("runs") / f"{Path(name).absolute().stem}-{Path(preset).stem}"
    check_new_run(out)
    overrides = settings(set_ or [])
    overrides |= {key: value for key, value in (("seed", seed), ("device", device)) if value is not None}
    overrides |= condition_setting(by_class, observe, condition)

    from rieszflow import report
    from rieszflow.data import NAMED, load
    from rieszflow.generative import Config, GenerativeFlow
    from rieszflow.generative.condition import condition_columns

    # What is in a file or folder decides between the presets for images and for vectors, but not the split's seed.
    config = Config.preset(name if name in NAMED else "images", preset, **overrides)
    config.torch_device()
    content = load(dataset, data, config.held_out, config.seed, condition_columns(config))
    if name not in NAMED and len(content.shape) != 3:
        config = Config.preset("vectors", preset, **overrides)
    targets = min(config.targets or len(content.train), len(content.train))
    show(
        f"{content.name}: {len(content.train):,} training {report.noun(content.shape)} of shape {content.shape}, "
        f"{config.particles:,} particles flow towards {targets:,} of them; run: {out}"
    )
    call().run = out
    with TrainingBars(config) as bars:
        flow = GenerativeFlow(config).fit(content, run=out, progress=bars, draw=_draw(tensorboard))
    assert flow.run is not None
    _finished(flow.run)


@app.command()
def resume(
    run: RunArgument,
    data: Annotated[Path | None, typer.Option(help="Where the data are now, if they were moved.", show_default=False)] = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Continue a run from its last checkpoint: killed or finished, on the same data and settings."""
    from rieszflow.generative import GenerativeFlow, Run, load_data

    opened = Run.open(run)
    opened.config.torch_device()
    if opened.finished() == opened.config.total_stages():
        show(f"{run}: all {opened.finished()} stages are already trained")
    call().run = run
    with TrainingBars(opened.config) as bars:
        GenerativeFlow.resume(run, load_data(opened, data), progress=bars, draw=_draw(tensorboard))
    _finished(opened)


def _draw(tensorboard: bool) -> Callable[[Any, Any], None]:
    """Return the callback that draws after every stage."""
    from rieszflow import report

    if not tensorboard:
        return report.draw
    with extra("tensorboard", "--tensorboard"):
        import tensorboard as _  # noqa: F401  # missing, it should be said before the training and not after its first part

    def both(run: Any, pictures: Any) -> None:
        report.draw(run, pictures)
        report.to_tensorboard(run, pictures)

    return both


def _finished(run: Any) -> None:
    unit = " (of columns scaled by their interquartile ranges)" if run.columns is not None else ""
    show(f"energy distances{unit}: lower is better; around 0, and sometimes negative, if the distributions agree")
    show(f"done: {run.path / 'report.html'}")
    if best := _better_before(run.metrics()):
        show(best)


def _better_before(rows: list[Any]) -> str:
    """Return a sentence that names the stage with the best fresh samples if later ones made them worse; otherwise ""."""
    of_level = [row for row in rows if row.level == rows[-1].level]  # other levels have smaller images
    best = min(of_level, key=lambda row: row.energy_distance["fresh_samples"])
    least, last = (row.energy_distance["fresh_samples"] for row in (best, rows[-1]))
    # The distance of training data is 0 up to noise.
    if last - least <= 2 * abs(rows[-1].energy_distance["training_data"]):
        return ""
    then = f"later stages made them worse, {last:.4f} at the end"
    return f"fresh samples were best after stage {best.stage}, at {least:.4f}; {then}"
