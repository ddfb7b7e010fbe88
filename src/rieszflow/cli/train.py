"""rieszflow train | resume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from rieszflow._infra.extras import extra
from rieszflow.cli.commands import app, invocation
from rieszflow.cli.options import DATA_FORMATS, DataPath, Keywords, RunPath, check_new_run
from rieszflow.cli.output import TrainingBars, show
from rieszflow.errors import InputError

if TYPE_CHECKING:
    from rieszflow.generative import Run
    from rieszflow.generative.context import DrawCallback, Pictures
    from rieszflow.generative.run import StageMetrics

TensorBoard = Annotated[bool, Option("--tensorboard", help="Write curves and images for TensorBoard to RUN/tensorboard, too.")]


@app.command(epilog="Example: `rieszflow train fashion-mnist --preset cpu --out runs/fashion`")
def train(
    dataset: Annotated[
        str, Argument(metavar="DATASET", help=f"digits, fashion-mnist, mnist, cifar10, celeba, {DATA_FORMATS}.")
    ],
    data: Annotated[Path | None, Option(help="Folder that contains the files of a named data set.")] = None,
    preset: Annotated[str, Option(help="Name of a preset (see `rieszflow info`), or a YAML file.")] = "cpu",
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
    condition: Annotated[str | None, Option(help="Condition samples on these columns of a table, such as age,income.")] = None,
    set_: Annotated[
        list[str] | None, Option("--set", help="Override a setting of the preset, as in --set stages=4. Repeatable.")
    ] = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Train a generative flow on a data set, and write the model, metrics and report.html to a folder."""
    name = dataset.removeprefix("hf:")
    out = out or Path("runs") / f"{Path(name).absolute().stem}-{Path(preset).stem}"
    check_new_run(out)
    overrides = _parse_settings(set_ or [])
    overrides |= {key: value for key, value in (("seed", seed), ("device", device)) if value is not None}
    overrides |= _condition_setting(by_class, observe, condition)

    from rieszflow import report
    from rieszflow.data import NAMED, load
    from rieszflow.generative import Config, GenerativeFlow
    from rieszflow.generative.condition import condition_columns

    # Only loading tells whether a file or folder holds images or vectors; the settings used before are the same for both.
    config = Config.preset(name if name in NAMED else "images", preset, **overrides)
    config.torch_device()
    content = load(dataset, data, config.held_out, config.seed, condition_columns(config))
    if name not in NAMED and len(content.shape) != 3:
        config = Config.preset("vectors", preset, **overrides)
    targets = min(config.targets or len(content.train), len(content.train))
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
def resume(run: RunPath, data: DataPath = None, tensorboard: TensorBoard = False) -> None:
    """Continue an interrupted run from its last checkpoint, with the same data and settings."""
    from rieszflow.generative import GenerativeFlow, Run, load_data

    opened = Run.open(run)
    opened.config.torch_device()
    if opened.finished() == opened.config.total_stages():
        show(f"{run}: all {opened.finished()} stages are already trained")
    invocation().run = run
    with TrainingBars(opened.config) as bars:
        GenerativeFlow.resume(run, load_data(opened, data), progress=bars, draw=_draw(tensorboard))
    _show_result(opened)


def _parse_settings(items: list[str]) -> Keywords:
    """Parse the KEY=VALUE of every `--set`."""
    from rieszflow.generative.schema import parse_yaml

    values = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign:
            raise InputError(f"--set must be KEY=VALUE, got {item!r}")
        try:
            values[key] = parse_yaml(value)
        except ValueError:
            raise InputError(f"--set: the value of {key} must be valid YAML, got {value!r}") from None
    return values


def _condition_setting(by_class: bool, observe: str | None, columns: str | None) -> Keywords:
    """Return the setting that --by-class, --observe or --condition stands for."""
    options = {
        "--by-class": "class" if by_class else None,
        "--observe": observe,
        "--condition": columns and f"columns:{columns}",
    }
    chosen = {option: value for option, value in options.items() if value is not None}
    if len(chosen) > 1:
        raise InputError(f"only one of {' and '.join(chosen)} can be used")
    if observe is not None:
        from rieszflow.generative.config import HALVES

        if observe not in HALVES and not (observe.startswith("pool:") and observe[5:].isdecimal()):
            raise InputError(f"--observe must be one of {', '.join(HALVES)} or pool:4, got {observe!r}")
    return {"condition": next(iter(chosen.values()))} if chosen else {}


def _draw(tensorboard: bool) -> DrawCallback:
    """Return the callback that draws after every stage."""
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
    unit = " of columns scaled by their interquartile ranges" if run.columns is not None else ""
    show(f"energy distances{unit} to held-out data: lower is better; around 0, possibly negative, for equal distributions")
    show(f"report: {run.path / 'report.html'}")
    if best := _best_stage(run.metrics()):
        show(best)


def _best_stage(rows: list[StageMetrics]) -> str:
    """Return a sentence that names the stage with the best fresh samples if later ones made them worse; otherwise ""."""
    rows = [row for row in rows if row.level == rows[-1].level]  # other levels have smaller images
    best = min(rows, key=lambda row: row.energy_distance["fresh_samples"])
    lowest, last = (row.energy_distance["fresh_samples"] for row in (best, rows[-1]))
    noise = abs(rows[-1].energy_distance["training_data"])  # it would be 0 for infinitely many points
    if last - lowest <= 2 * noise:
        return ""
    return (
        f"fresh samples were best after stage {best.stage}, at {lowest:.4f}; "
        f"later stages made them worse, {last:.4f} at the end"
    )
