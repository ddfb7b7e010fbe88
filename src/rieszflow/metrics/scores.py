"""`evaluate`: all scores of a generated set, each beside that of real training data, the yardstick."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rieszflow._infra.isolation import torch_defaults
from rieszflow._infra.notices import notice
from rieszflow._types import Progress, ProgressCallback
from rieszflow.data import Dataset
from rieszflow.errors import InputError
from rieszflow.metrics.classifier import train_classifier
from rieszflow.metrics.distances import energy_pvalue, frechet_distance, kernel_distance, nearest, precision_recall
from rieszflow.metrics.inception import check_inception, inception_distances
from rieszflow.sliced import energy_distance

__all__ = ["AROUND_ZERO", "BETTER", "evaluate"]

BETTER = {
    "energy_distance_V": "lower",
    "energy_distance_U": "lower",
    "energy_pvalue": "higher",
    "frechet_distance": "lower",
    "kernel_distance": "lower",
    "precision": "higher",
    "recall": "higher",
    "label_accuracy": "higher",
    "inception_fid": "lower",
    "inception_kid": "lower",
}


AROUND_ZERO = (
    "energy_distance_U and kernel_distance are unbiased: around 0, and so below it at times, where nothing differs; a p-value "
    "is anything in [0, 1] there, and near 0 where samples and data can be told apart"
)

_FEW = 1000  # held-out data; fewer make a Fréchet distance of real data to real data large, see `frechet_distance`
_TESTED = 2000  # data of each kind in the permutation test: it holds all their distances


@dataclass(frozen=True)
class _Space:
    """Where Fréchet distance and precision/recall are taken."""

    name: str
    features: Callable[[Tensor], Tensor]
    accuracy: float | None
    guesses: Callable[[Tensor], Tensor] | None = None


@torch_defaults
def evaluate(
    samples: Tensor,
    data: Dataset,
    *,
    seed: int = 0,
    inception_weights: str | Path | None = None,
    labels: Tensor | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """All scores of a generated set against held-out data, and of an equally large real training set beside them.

    Args:
        samples: `(n, *shape)`, values in [0, 1] like the data set's.
        data: with labels: features of a classifier trained on them; without: the values themselves.
        seed: of the classifier, and of the choice of real data.
        inception_weights: file with torch-fidelity's Inception weights, for the FID of the literature; None to leave it out.
        labels: (n,) which every sample was asked to have; the data need labels, too.
        progress: Called before every score, with a `Progress` whose `what` names the score, and at the end.

    Returns:
        A dict that JSON can say:

        - "samples" and "held_out": how many of each were compared, n and m cut to the smaller of the two;
        - "seed", "feature_space", and "classifier_accuracy" (None without labels);
        - "scores": {score: {"generated": ..., "training_data": ...}}. The scores are the energy distance, in the
          statisticians' convention ("energy_distance_V", "energy_distance_U"), its permutation p-value "energy_pvalue" (of
          2,000 data each at most),
          "frechet_distance" in the feature space, "kernel_distance" there (of features scaled to a mean square of one on the
          real data), "precision" and "recall", and "inception_fid" and "inception_kid" if asked for; with `labels`
          "label_accuracy", the share whose label the classifier recovers, beside that of all held-out data;
        - with `labels` "frechet_by_label": {label: {"generated": ..., "training_data": ...}}, for as many data of each;
        - "better": {score: "lower" or "higher"};
        - "cautions": sentences, which are given as `Notice`, too;
        - "nearest_training_distance": {"generated": median, "held_out": median}.

    Raises:
        InputError, InputTypeError: fewer than 4 data to compare, or what the scores refuse.
    """
    n = min(len(samples), len(data.held_out), len(data.train))
    if n <= 3:
        raise InputError(f"samples: {n} left to compare; at least 4 samples, held-out and training data are needed")
    if inception_weights is not None:
        check_inception(samples, inception_weights)
    generator = torch.Generator().manual_seed(seed)
    sets = {"generated": samples[:n], "training_data": data.train[torch.randperm(len(data.train), generator=generator)[:n]]}
    real = data.held_out[torch.randperm(len(data.held_out), generator=generator)[:n]]
    total, done = 2 * (6 + (inception_weights is not None)) + 2, itertools.count()

    def report(what: str) -> None:
        if progress is not None:
            progress(Progress(what, next(done), total))

    report("features")
    space = _feature_space(data, seed)
    if labels is not None and (space.guesses is None or labels.shape != (len(samples),)):
        raise InputError(f"labels: shape {tuple(labels.shape)} given; ({len(samples)},), of data with labels, is accepted")
    # The cubic kernel expects features of size one, as Inception's are nearly; a classifier's are what they happen to be.
    real_features = space.features(real)
    size = real_features.square().mean().sqrt()
    scores: dict[str, dict[str, float]] = {}
    for name, x in sets.items():
        features = space.features(x)
        for names, measure in _measures(x, real, features, real_features, size, seed, inception_weights).items():
            report(names[0])
            for score, value in zip(names, measure(), strict=True):
                scores.setdefault(score, {})[name] = value
    by_label = {}
    if labels is not None and space.guesses is not None and space.accuracy is not None:
        right = (space.guesses(samples) == labels).double().mean().item()
        scores["label_accuracy"] = {"generated": right, "training_data": space.accuracy}
        by_label = {"frechet_by_label": _by_label(samples, labels, data, space, generator)}
    cautions = []
    if n < _FEW:
        cautions.append(
            f"{n} held-out data are few: Fréchet distances, that of the training data too, are too large for fewer than {_FEW} "
            "(the less data, the larger), and the other scores are noisy; compare them only between evaluations of as many data"
        )
        notice(cautions[0])
    report("nearest training data")
    train = data.train.flatten(1)
    memory = {k: nearest(v[:1000], train)[1].median().item() for k, v in (("generated", samples), ("held_out", real))}
    report("scores")
    return {
        "samples": n,
        "held_out": n,
        "seed": seed,
        "feature_space": space.name,
        "classifier_accuracy": space.accuracy,
        "scores": scores,
        **by_label,
        "better": {score: BETTER[score] for score in scores},
        "cautions": cautions,
        "nearest_training_distance": memory,
    }


def _measures(
    x: Tensor, real: Tensor, features: Tensor, real_features: Tensor, size: Tensor, seed: int, inception: str | Path | None
) -> dict[tuple[str, ...], Callable[[], Iterable[float]]]:
    """Return functions that compute the scores of one set, by the names of the scores."""
    a, b = x.flatten(1), real.flatten(1)
    found: dict[tuple[str, ...], Callable[[], Iterable[float]]] = {
        ("energy_distance_V",): lambda: [energy_distance(a, b, statistic="V").item()],
        ("energy_distance_U",): lambda: [energy_distance(a, b, statistic="U").item()],
        ("energy_pvalue",): lambda: [energy_pvalue(a[:_TESTED], b[:_TESTED], seed=seed)],
        ("frechet_distance",): lambda: [frechet_distance(features, real_features)],
        ("kernel_distance",): lambda: [kernel_distance(features / size, real_features / size)],
        ("precision", "recall"): lambda: precision_recall(features, real_features),
    }
    if inception is not None:
        found["inception_fid", "inception_kid"] = lambda: inception_distances(x, real, inception).values()
    return found


def _by_label(
    samples: Tensor, labels: Tensor, data: Dataset, space: _Space, generator: torch.Generator
) -> dict[str, dict[str, float]]:
    """Fréchet distances of one label's samples, and of training data, to its held-out data; as many of each."""
    assert data.train_labels is not None and data.held_out_labels is not None
    found = {}
    for label in labels.unique().tolist():
        mine, real, train = samples[labels == label], data.held_out[data.held_out_labels == label], data.train_labels == label
        n = min(len(mine), len(real), int(train.sum()))
        if n < 2:
            continue
        chosen = train.nonzero().flatten()
        chosen = chosen[torch.randperm(len(chosen), generator=generator)[:n]]
        against = space.features(real[:n])
        sets = {"generated": mine[:n], "training_data": data.train[chosen]}
        found[str(label)] = {name: frechet_distance(space.features(x), against) for name, x in sets.items()}
    return found


def _feature_space(data: Dataset, seed: int) -> _Space:
    if data.train_labels is None or data.held_out_labels is None:
        return _Space("the data's own values (no labels to train a classifier on)", lambda x: x.flatten(1), None)
    classifier, accuracy = train_classifier(data, seed=seed)
    return _Space(
        f"64 features of a classifier trained on the labels of {data.name}", classifier.features, accuracy, classifier.guesses
    )
