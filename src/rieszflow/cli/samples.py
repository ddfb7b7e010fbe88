"""rieszflow sample | evaluate | info."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rieszflow.cli.app import Force, RunArgument, app
from rieszflow.cli.bars import Passes
from rieszflow.cli.checks import at_least, check_can_write, check_file
from rieszflow.cli.terminal import print_table, show
from rieszflow.errors import InputError

if TYPE_CHECKING:
    from rieszflow.generative import Run


@app.command()
def sample(
    run: RunArgument,
    n: Annotated[int, typer.Option("-n", help="How many samples.")] = 1000,
    out: Annotated[
        Path, typer.Option(help="File for the samples, .npz (array x) or .npy; a .png with a grid beside it.")
    ] = Path("samples.npz"),
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples in one pass of a network.")] = 500,
    label: Annotated[int | None, typer.Option(help="Of all samples; a model trained --by-class.", show_default=False)] = None,
    condition: Annotated[
        str | None,
        typer.Option(help="Values of the columns in the model's --condition, as in 50,1200.5.", show_default=False),
    ] = None,
    observed: Annotated[
        str | None,
        typer.Option(
            help="Images to complete, one or as many as samples: a .npy or .npz file, or held-out for the data's own.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Draw new samples from a run, in the data's own values."""
    for option, value, least in (("-n", n, 1), ("--seed", seed, 0), ("--batch-size", batch_size, 1)):
        at_least(option, value, least)
    check_file(out, ".npz", ".npy", force=force, picture=True)

    import numpy as np

    from rieszflow import report
    from rieszflow._infra.files import atomically
    from rieszflow.data import scaled
    from rieszflow.generative import GenerativeFlow

    flow = GenerativeFlow.load(run)
    assert flow.run is not None
    wanted = _asked(flow.run, n, label, condition, observed)
    with Passes() as passes:
        x = flow.sample(n, condition=wanted, seed=seed, batch_size=batch_size, progress=passes)
    array = x.numpy()
    atomically(out, lambda t: np.savez_compressed(t, x=array) if out.suffix == ".npz" else np.save(t, array))
    known = flow.run.data
    shown = scaled(x[: 64 if x.ndim == 4 else 2000], known["low"], known["high"], flow.run.columns)
    report.save_picture(out.with_suffix(".png"), report.picture(shown))
    show(f"{out}: {n} samples of shape {tuple(x.shape[1:])}; picture: {out.with_suffix('.png')}")


def _asked(run: Run, n: int, label: int | None, condition: str | None, observed: str | None) -> Any:
    """Return the `condition` of `GenerativeFlow.sample` that --label, --condition or --observed stands for."""
    kind = run.config.condition
    fits = {
        "--label": (label, kind == "class", "--by-class"),
        "--condition": (condition, kind.startswith(("columns:", "values")), "--condition"),
        "--observed": (observed, kind not in ("", "class") and not kind.startswith(("columns:", "values")), "--observe"),
    }
    for option, (value, fit, needed) in fits.items():
        if value is not None and not fit:
            trained = f"with the condition {kind[:40]!r}" if kind else "without a condition"
            raise InputError(f"{option}: {run.path} was trained {trained}; it needs a run of `rieszflow train … {needed}`")
    if condition is not None:
        try:
            return [float(number) for number in condition.split(",")]
        except ValueError:
            raise InputError(f"--condition: {condition!r} given; numbers with commas between them are accepted") from None
    if observed is None:
        return label
    if observed == "held-out":
        from rieszflow.generative import load_data

        content = load_data(run)
        return content.unscale(content.held_out[[k % len(content.held_out) for k in range(n)]])
    file = Path(observed)
    if file.suffix not in (".npy", ".npz") or not file.is_file():
        raise InputError(f"--observed: {file} given; a .npy or .npz file that exists, or held-out, is accepted")
    from rieszflow.data.files import numpy_file

    return numpy_file(file).train


@app.command()
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
    at_least("-n", n, 4)
    at_least("--seed", seed, 0)
    from rieszflow import metrics, report
    from rieszflow.generative import GenerativeFlow, load_data
    from rieszflow.generative.training_data import held_out_conditions, residual

    flow = GenerativeFlow.load(run)
    assert flow.run is not None
    _check_can_evaluate(flow.run, inception_weights)
    content = load_data(flow.run, data)
    known = held_out_conditions(flow.run, content, n, seed)
    with Passes() as passes:
        x = content.scale(flow.sample(n, condition=known, seed=seed, progress=passes))
        labels = known if flow.config.condition == "class" else None
        scores = metrics.evaluate(
            x, content, seed=seed, inception_weights=inception_weights, labels=labels, progress=passes.scores
        )
        if (off := residual(flow.run, x, known, content)) is not None:
            scores["observation_residual"] = off
    flow.run.write_evaluation(scores)
    if x.ndim == 4:
        shown = x[:16]
        closest = content.train[metrics.nearest(shown, content.train.flatten(1))[0]]
        pairs = [part for k in (0, 8) for part in (shown[k : k + 8], closest[k : k + 8])]
        import torch

        report.save_picture(flow.run.path / "images" / "nearest.png", report.picture(torch.cat(pairs), columns=8))
    report.write_report(flow.run)
    rows = [
        [score, f"{values['generated']:.4f}", f"{values['training_data']:.4f}", scores["better"][score]]
        for score, values in scores["scores"].items()
    ]
    print_table(["score", "generated", "training data", "better"], rows)
    show("training data: as many real ones, the yardstick")
    show(metrics.AROUND_ZERO)
    show(f"{scores['samples']} samples against {scores['held_out']} held-out data, seed {seed}")
    if "observation_residual" in scores:
        show(f"root mean square by which samples miss what is known of them: {scores['observation_residual']:.2g}")
    for label, found in scores.get("frechet_by_label", {}).items():
        show(f"label {label}: Fréchet distance {found['generated']:.2f}, training data {found['training_data']:.2f}")
    show(f"features: {scores['feature_space']} (not the Inception FID of the literature)")
    memory = scores["nearest_training_distance"]
    show(
        f"median distance to the nearest training datum: generated {memory['generated']:.3f}, "
        f"held-out {memory['held_out']:.3f} (much smaller would mean memorising); "
        f"all in {run / 'evaluation.json'} and {run / 'report.html'}"
    )


def _check_can_evaluate(run: Run, inception_weights: Path | None) -> None:
    """Check the report's input and that all files can be written, before scoring, which takes a while."""
    import torch

    from rieszflow.metrics.inception import check_inception

    run.metrics()
    if inception_weights is not None:
        check_inception(torch.empty(0, *run.shape), inception_weights)
    for file in (run.path / "evaluation.json", run.path / "report.html", run.path / "images" / "nearest.png"):
        if file.is_dir():
            raise InputError(f"RUN: {file} must be a file or absent, got a folder; remove it")
        check_can_write("RUN", file.parent if file.parent.exists() else run.path)


@app.command()
def info(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run.", show_default=False)] = None,
) -> None:
    """What a run is and how far it has come; without a run: data sets and presets."""
    from rieszflow import report
    from rieszflow._infra.text import printable
    from rieszflow.data import NAMED
    from rieszflow.generative import Run, presets

    if run is None:
        own = ", hf:NAME, a folder of pictures or IDX files, a .npy or .npz file, a .csv or .parquet table"
        show("data sets: " + ", ".join(NAMED) + own)
        show("presets:   " + ", ".join(f"{d} {n}" for d, n in presets()))
        return
    opened = Run.open(run)
    show(
        f"{run}: {printable(opened.data['name'])}, {opened.data['points']:,} training {report.noun(opened.shape)} of shape "
        f"{opened.shape}, {opened.finished()} of {opened.config.total_stages()} stages"
    )
    if opened.config.condition:
        show(f"samples take the condition: {printable(opened.config.condition[:60])}")
    if missing := opened.missing():
        show(f"missing stages: {', '.join(map(str, missing))}; `rieszflow resume` trains them")
    if (state := opened.load_state()) is not None and opened.finished() < opened.config.total_stages():
        meta = state[1]
        show(f"checkpoint: stage {meta['stage']}, {meta['phase']}, step {meta['step']}")
    if not (rows := opened.metrics()):
        return
    of_networks = opened.config.model == "networks"
    print_table(*report.stage_table(rows))
    show(
        "energy distances to held-out data, lower is better: of the flow's particles, "
        f"{'of the particles as fitted by the network, ' if of_networks else ''}and of fresh samples. They are unbiased: "
        "around 0, and sometimes negative, if the distributions agree."
        f"{' Fit error: the share of the displacement that the network misses.' if of_networks else ''}"
    )
