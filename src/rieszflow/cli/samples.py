"""rieszflow sample | evaluate | info."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from rieszflow.cli.commands import app
from rieszflow.cli.options import DATA_FORMATS, DataPath, Force, RunPath, Seed, check_new_file, check_writable
from rieszflow.cli.output import ProgressBars, print_table, show
from rieszflow.errors import InputError

if TYPE_CHECKING:
    from rieszflow.generative import Run


@app.command(epilog="Example: `rieszflow sample runs/fashion -n 100 --out garments.npz`")
def sample(
    run: RunPath,
    n: Annotated[int, Option("-n", min=1, help="Number of samples.")] = 1000,
    out: Annotated[Path, Option(help="File (.npz or .npy); a figure (.png) is written with it.")] = Path("samples.npz"),
    seed: Seed = 0,
    batch_size: Annotated[int, Option(min=1, help="Number of samples computed at a time.")] = 500,
    label: Annotated[int | None, Option(help="Label of all samples, for a run trained with --by-class.")] = None,
    condition: Annotated[str | None, Option(help="Values of the columns of the run's --condition, such as 50,1200.5.")] = None,
    observed: Annotated[str | None, Option(help="Images to complete: a .npy or .npz file, or held-out.")] = None,
    force: Force = False,
) -> None:
    """Draw new samples from a trained run, in the units of its data."""
    check_new_file(out, ".npz", ".npy", force=force, figure=True)

    import numpy as np

    from rieszflow import report
    from rieszflow._infra.files import atomically
    from rieszflow.data import scale_points
    from rieszflow.generative import GenerativeFlow

    flow = GenerativeFlow.load(run)
    assert flow.run is not None
    wanted = _condition(flow.run, n, label, condition, observed)
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
    accepted = {"": "no condition", "class": "--label"}.get(kind, "--observed")
    if kind.startswith(("columns:", "values")):
        accepted = "--condition"
    for option, value in (("--label", label), ("--condition", condition), ("--observed", observed)):
        if value is not None and option != accepted:
            raise InputError(f"{option} does not fit {run.path}, which takes {accepted} (its condition is {kind[:40]!r})")
    if condition is not None:
        try:
            return [float(number) for number in condition.split(",")]
        except ValueError:
            raise InputError(f"--condition must be numbers separated by commas, got {condition!r}") from None
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
    run: RunPath,
    n: Annotated[int, Option("-n", min=4, help="Number of samples, and of held-out points if there are as many.")] = 2000,
    seed: Seed = 0,
    data: DataPath = None,
    inception_weights: Annotated[
        Path | None, Option(help="Inception weights of torch-fidelity, for FID as in the literature.")
    ] = None,
) -> None:
    """Score fresh samples against held-out data, with the same scores of real training data for comparison."""
    import torch

    from rieszflow import metrics, report
    from rieszflow.generative import GenerativeFlow, load_data
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
    flow.run.write_evaluation(scores)
    if x.ndim == 4:
        shown = x[:16]
        nearest = content.train[metrics.nearest(shown, content.train.flatten(1))[0]]
        pairs = [part for k in (0, 8) for part in (shown[k : k + 8], nearest[k : k + 8])]
        report.save_picture(flow.run.path / "images" / "nearest.png", report.picture(torch.cat(pairs), columns=8))
    report.write_report(flow.run)
    print_table(*report.page.score_table(scores))
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
        check_writable("RUN", file.parent if file.parent.exists() else run.path)


@app.command(epilog="Example: `rieszflow info runs/fashion`")
def info(
    run: Annotated[Path | None, Argument(metavar="[RUN]", help="Folder of a run.")] = None,
) -> None:
    """Describe a run and its progress; without a run, list data sets and presets."""
    from rieszflow import report
    from rieszflow._infra.messages import printable
    from rieszflow.data import NAMED
    from rieszflow.generative import Run, presets

    if run is None:
        show(f"data sets: {', '.join(NAMED)}, {DATA_FORMATS}")
        show("presets:   " + ", ".join(f"{d} {n}" for d, n in presets()))
        return
    opened = Run.open(run)
    finished, total = opened.finished(), opened.config.total_stages()
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
