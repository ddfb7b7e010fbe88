"""Search the settings of recorded flows of images: kinds of slices, their numbers, step lengths, momentum, latents and bins.

Every trial takes the same CPU time, whatever its settings: the first rounds are timed, and the flow is given as many as fit.
Its score is that of fresh latents which only follow the recording, against validation images, which are training images that
are not targets. Test images are never used. Known settings come first,
and variations of one of them at a time; then Optuna proposes.

Run: python experiments/search.py fashion-mnist [--trials 40] [--seconds 60] [--seed 0]

Needs optuna. Several processes may share a search; each should have one thread (OMP_NUM_THREADS=1). The trials are kept in
DATA.db in the folder of `--out`; a table and a picture of them are written at the end.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any, NamedTuple

import optuna
import torch
from matplotlib.figure import Figure
from photographs import patches
from shared import EXPERIMENTS, parser, save
from torch import Tensor

import rieszflow as rf
from rieszflow.data import Dataset, as_points, load
from rieszflow.generative import Config
from rieszflow.generative.latents import Mixture, draw_latents, fit_mixture
from rieszflow.metrics import frechet_distance, precision_recall, train_classifier


class Task(NamedTuple):
    """A data set, split into targets and validation images."""

    shape: tuple[int, int, int]
    targets: Tensor  # (M, d)
    validation: Tensor  # features (n, k)
    features: Any  # of images (n, d)
    sets: int  # of as many fresh latents as validation images
    space: dict[str, list[Any]]
    known: list[dict[str, Any]]
    mixture: Mixture


FASHION = {
    "coarse": ["none", "whole", "5x4", "6x4", "7x4", "7x3", "8x2", "9x2", "9x3", "10x2", "12x2", "14x2"],
    "middle": ["none", "none", "none", "5x2", "7x2", "10x1"],
    "fine": ["3x1", "4x1", "5x1", "6x1", "7x1", "8x1"],
}
DIGITS = {
    "coarse": ["none", "whole", "8x1", "4x2", "3x2"],
    "middle": ["none"],
    "fine": ["none", "2x1", "3x1", "4x1", "5x1", "6x1"],
}
PHOTOGRAPHS = {
    "coarse": ["whole", "7x4", "8x4", "10x3", "6x4", "6x5", "8x3", "10x2"],
    "middle": ["none", "none", "6x2", "7x2", "8x2", "10x2"],
    "fine": ["4x1", "5x1", "6x1", "7x1", "8x1", "10x1"],
}
VARIATIONS: dict[str, list[dict[str, Any]]] = {
    "fashion-mnist": [
        {"batch": 4000}, {"coarse": "7x3"}, {"N": 4000}, {"N": 12000, "batch": 4000}, {"momentum": 0.95},
        {"latents": "smooth", "first": 16.0, "last": 6.0}, {"fine": "6x1"}, {"P_coarse": 512, "P_fine": 512},
        {"middle": "7x2"}, {"coarse": "6x4"}, {"coarse": "9x2"},
        {"fine": "4x1"}, {"ratio": 0.7}, {"ratio": 1.4}, {"bins": 16}, {"P_coarse": 2048, "P_fine": 2048}, {"momentum": 0.8},
        {"last": 3.0}, {"first": 12.0}, {"first": 4.0}, {"P_coarse": 512}, {"P_fine": 512}, {"middle": "10x1"},
        {"coarse": "5x4"}, {"coarse": "7x4"},
    ],
    "photographs": [
        {"latents": "smooth", "first": 12.0}, {"momentum": 0.9}, {"first": 12.0, "last": 2.0},
        {"colours": "none"}, {"colours": "both"},
        {"fine": "6x1"}, {"fine": "5x1"}, {"coarse": "6x4"}, {"coarse": "8x4"}, {"middle": "6x2"}, {"batch": 1500}, {"N": 2000},
        {"N": 8000}, {"P_coarse": 512, "P_fine": 1024}, {"P_fine": 2048}, {"last": 3.0}, {"middle": "none"}, {"coarse": "10x3"},
        {"ratio": 1.5}, {"ratio": 0.6},
    ],
}  # fmt: skip
COMMON = {"momentum": 0.9, "latents": "mixture", "bins": 32, "ratio": 1.0, "P_coarse": 1024, "P_fine": 1024, "colours": "fine"}


def task(name: str) -> Task:
    if name == "photographs":
        images = as_points(torch.from_numpy(patches(4000, 32, 32)).movedim(3, 1), "photographs")
        data = Dataset("photographs", images[:3000], images[3000:3900])
        space, N = PHOTOGRAPHS, 4000
        known = [{"coarse": "7x4", "middle": "8x2", "fine": "8x1", "first": 6.0, "last": 1.5, "momentum": 0.8}]
    else:
        data, generator = load(name), torch.Generator().manual_seed(0)
        order = torch.randperm(len(data.train), generator=generator)
        many = min(4000, len(order) // 6)
        held, rest = order[:many], order[many:]
        space, N = (FASHION, 8000) if name == "fashion-mnist" else (DIGITS, 8000)
        known = [
            {"coarse": "10x2", "middle": "none", "fine": "5x1", "first": 6.0, "last": 1.5},
            {"coarse": "12x2", "middle": "none", "fine": "5x1", "first": 6.0, "last": 1.5},
        ]
        if name == "digits":
            known = [{"coarse": "4x2", "middle": "none", "fine": "6x1", "first": 6.0, "last": last} for last in (2.0, 4.0)]
        assert data.train_labels is not None
        labels = data.train_labels
        data = Dataset(name, data.train[rest], data.train[held], labels[rest], labels[held])
    features: Any = lambda x: x  # noqa: E731
    if data.train_labels is not None:
        classifier, _ = train_classifier(data, seed=0)
        features = lambda x: classifier.features(x.view(-1, *data.shape))  # noqa: E731
    validation = features(data.held_out.flatten(1))
    known += [known[0] | change for change in VARIATIONS.get(name, [])]
    known = [{**COMMON, "N": N, "batch": min(len(data.train), N), **settings} for settings in known]
    sets = 1 if len(validation) > 600 else 4
    targets = data.train.flatten(1)
    mixture = fit_mixture(targets, torch.Generator().manual_seed(0))
    return Task(data.shape, targets, validation, features, sets, space, known, mixture)


def propose(trial: optuna.Trial, task: Task) -> dict[str, Any]:
    """Return the settings of a trial."""
    found = {name: trial.suggest_categorical(name, list(dict.fromkeys(kinds))) for name, kinds in task.space.items()}
    M = len(task.targets)
    found |= {
        "P_coarse": trial.suggest_categorical("P_coarse", [256, 512, 1024, 2048]),
        "P_fine": trial.suggest_categorical("P_fine", [256, 512, 1024, 2048]),
        "first": trial.suggest_float("first", 2.0, 20.0, log=True),
        "last": trial.suggest_float("last", 0.5, 8.0, log=True),
        "ratio": trial.suggest_float("ratio", 0.5, 2.0, log=True),
        "momentum": trial.suggest_categorical("momentum", [0.7, 0.8, 0.9, 0.95]),
        "latents": trial.suggest_categorical("latents", ["mixture", "smooth"]),
        "bins": trial.suggest_categorical("bins", [16, 32, 64]),
        "N": trial.suggest_int("N", 2000, 16000, log=True),
        "batch": trial.suggest_int("batch", min(1000, M // 2), min(16000, M), log=True),
    }
    if task.shape[0] == 3:
        found["colours"] = trial.suggest_categorical("colours", ["none", "fine", "both"])
    return found


def kinds_of(settings: dict[str, Any], shape: tuple[int, int, int]) -> tuple[list[Any], list[int], list[float]]:
    """Return kinds of slices, their numbers, and factors of their step sizes."""
    kinds, numbers, factors = [], [], []
    for name in ("coarse", "middle", "fine"):
        if settings[name] == "none":
            continue
        P = settings["P_fine" if name == "fine" else "P_coarse"]
        factors.append(settings["ratio"] if name == "fine" else 1.0)
        numbers.append(P)
        if settings[name] == "whole":
            kinds.append("auto")
            continue
        size, stretch = map(int, settings[name].split("x"))
        coloured = shape[0] == 3 and (settings["colours"] == "both" or (settings["colours"] == "fine" and name == "fine"))
        kinds.append(rf.PatchSlices(shape, size, stretch, by_colour=coloured))
    return kinds, numbers, factors


def score(settings: dict[str, Any], task: Task, seconds: float, seed: int) -> dict[str, Any]:
    """Return the scores of fresh latents that follow a recorded flow of some CPU seconds."""
    kinds, numbers, factors = kinds_of(settings, task.shape)
    if not kinds:
        raise optuna.TrialPruned("no slices")
    generator = torch.Generator().manual_seed(seed)
    config, mixture = Config(latents=settings["latents"], clip=True), task.mixture if settings["latents"] == "mixture" else None
    n = task.sets * len(task.validation)
    x, fresh = (draw_latents(config, task.shape, k, generator, mixture=mixture) for k in (settings["N"], n))
    y = task.targets[torch.randperm(len(task.targets), generator=generator)]
    flow = rf.ParticleFlow(
        y, slices=numbers, step_size=None, momentum=settings["momentum"], directions=kinds, seed=generator, bounds=(0.0, 1.0),
        target_batch_size=settings["batch"] if settings["batch"] < len(y) else None, record=True, bins=settings["bins"],
    )  # fmt: skip
    flow.step_sizes = [tau * factor for tau, factor in zip(flow.step_sizes, factors, strict=True)]
    ratio, rounds, spent = settings["last"] / settings["first"], 1000, 0.0
    flow.step_schedule = lambda k: settings["first"] * ratio ** min(1.0, k / max(1, rounds - 1))
    k = 0
    while k < rounds:
        started = time.process_time()
        x = flow.step(x)
        if k == 4:  # the first ones compile, and fill caches
            spent = 0.0
        spent += time.process_time() - started
        k += 1
        if k == 12:
            rounds = max(20, round(seconds / (spent / 8)))
    recorded = flow.recorded()
    pushed = recorded.push(fresh)
    if not torch.isfinite(pushed).all():
        raise optuna.TrialPruned("diverged")
    sets = task.features(pushed).split(len(task.validation))
    rows = torch.tensor([[frechet_distance(s, task.validation), *precision_recall(s, task.validation)] for s in sets])
    frechet, precision, recall = rows.mean(0).tolist()
    particles = frechet_distance(task.features(x[: len(task.validation)]), task.validation)
    return {
        "frechet": frechet, "precision": precision, "recall": recall, "particles": particles,
        "rounds": rounds, "megabytes": recorded.nbytes / 1e6, "seconds": spent,
    }  # fmt: skip


def main() -> None:
    options = parser(__doc__, EXPERIMENTS, trials=40, seconds=60, seed=0)
    options.add_argument("data", choices=["fashion-mnist", "digits", "photographs"])
    given = options.parse_args()
    of = task(given.data)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given.out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=f"{given.data} {given.seconds} s", storage=f"sqlite:///{given.out / given.data}.db", load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=given.seed, n_startup_trials=8, multivariate=True, constant_liar=True),
    )  # fmt: skip
    if not study.trials:
        for settings in of.known:
            study.enqueue_trial(settings)

    def objective(trial: optuna.Trial) -> float:
        settings = propose(trial, of)
        found = score(settings, of, given.seconds, given.seed)
        for name, value in found.items():
            trial.set_user_attr(name, value)
        text = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        print(f"{trial.number}: {text}; {json.dumps(settings)}", flush=True)
        return float(found["frechet"] + 10 * (1 - found["precision"] + 1 - found["recall"]))

    study.optimize(objective, n_trials=given.trials)
    done = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE and t.values]
    done.sort(key=lambda t: t.values[0] if t.values else math.inf)
    rows = [{"score": t.values[0], **t.user_attrs, **t.params} for t in done if t.values]
    figure = Figure(figsize=(12, 6), layout="tight")
    names = ["coarse", "middle", "fine", "first", "last", "momentum", "N", "batch"]
    for axes, name in zip(figure.subplots(2, 4, sharey=True).flat, names, strict=True):
        axes.semilogy([row[name] for row in rows], [row["frechet"] for row in rows], ".")
        axes.set(xlabel=name, ylabel="Fréchet distance")
        axes.tick_params(axis="x", rotation=60 if isinstance(rows[0][name], str) else 0)
    save(given, f"search-{given.data}", {"seconds": given.seconds, "trials": rows}, figure)


if __name__ == "__main__":
    main()
