"""`evaluate`: scores of a generated set, each next to that of real training data, which shows the best possible values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rieszflow._infra.messages import notice
from rieszflow._infra.numerics import torch_defaults
from rieszflow._types import Progress, ProgressCallback
from rieszflow.data import Dataset
from rieszflow.errors import InputError
from rieszflow.metrics import distances
from rieszflow.sliced import energy_distance

_LOWER = "energy_distance_V", "energy_distance_U", "frechet_distance", "kernel_distance", "inception_fid", "inception_kid"
_HIGHER = "energy_pvalue", "precision", "recall", "label_accuracy"
BETTER = dict.fromkeys(_LOWER, "lower") | dict.fromkeys(_HIGHER, "higher")
AROUND_ZERO = (
    "energy_distance_U and kernel_distance are unbiased: around 0, and sometimes negative, if samples and data agree; then the "
    "p-value is uniform on [0, 1], and it is near 0 if they differ"
)
_FEW = 1000  # held-out data; with fewer, the Fréchet distance of real data to real data is large
_TESTED, _PERMUTATIONS = 2000, 499  # of the permutation test, which holds all distances


class Classifier(nn.Sequential):
    """Two convolutions and a hidden layer, or two hidden layers, whose last 64 activations are the features."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        if len(shape) == 3:
            body = nn.Sequential(
                nn.Conv2d(shape[0], 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                nn.Linear(64 * (shape[1] // 4) * (shape[2] // 4), 64), nn.ReLU(),
            )  # fmt: skip
        else:
            body = nn.Sequential(nn.Linear(math.prod(shape), 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        super().__init__(body, nn.Linear(64, classes))

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the features (n, 64), computed in batches."""
        return torch.cat([self[0](part) for part in x.split(1000)])

    @torch.no_grad()
    def predictions(self, x: Tensor) -> Tensor:
        """Return the most likely labels (n,), computed in batches."""
        return torch.cat([self(part).argmax(1) for part in x.split(1000)])

    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        return (self.predictions(x) == labels).double().mean().item()


@torch_defaults
def train_classifier(data: Dataset, *, seed: int = 0, steps: int = 1500, batch_size: int = 128) -> tuple[Classifier, float]:
    """Train a small classifier on the training labels of a data set.

    Args:
        data: A data set with labels.
        seed: Seed of the initial weights and the batches.
        steps: Number of steps of Adam.
        batch_size: Number of data in a step.

    Returns:
        The classifier, with methods `features` and `predictions`, and its accuracy on the held-out data.
    """
    assert data.train_labels is not None and data.held_out_labels is not None
    classes = int(torch.cat([data.train_labels, data.held_out_labels]).max()) + 1
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(data.shape, classes)
    optimiser = torch.optim.Adam(classifier.parameters(), 1e-3)
    for _ in range(steps):
        batch = torch.randint(len(data.train), (batch_size,), generator=generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(classifier(data.train[batch]), data.train_labels[batch]).backward()
        optimiser.step()
    classifier.requires_grad_(False)
    return classifier, classifier.accuracy(data.held_out, data.held_out_labels)


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
    """Compute all scores of a generated set against held-out data, and those of equally many training data.

    Args:
        samples: Samples of shape `(n, *shape)`, with values in [0, 1] like those of the data set.
        data: With labels, features are those of a classifier trained on them; otherwise they are the values themselves.
        seed: Seed of the classifier and of the choice of real data.
        inception_weights: The file of torch-fidelity's Inception weights, for the FID of the literature; None to omit it.
        labels: Labels (n,) that the samples were generated for; the data need labels, too.
        progress: Called before every score, with a `Progress` whose `what` is the name of the score, and at the end.

    Returns:
        A dict that JSON can represent:

        - "samples" and "held_out": numbers of data compared, n and m cut to the smaller of the two;
        - "seed", "feature_space", and "classifier_accuracy" (None without labels);
        - "scores": {score: {"generated": ..., "training_data": ...}} for "energy_distance_V", "energy_distance_U",
          "energy_pvalue" (of at most 2,000 data each, by 499 permutations to save time), "frechet_distance" and
          "kernel_distance" of features (the latter scaled to a mean square of one on the real data), "precision", "recall",
          "inception_fid" and "inception_kid" if asked for, and with `labels` "label_accuracy", the share of labels that the
          classifier recovers (for training data: its accuracy on all held-out data);
        - with `labels` "frechet_by_label": {label: {"generated": ..., "training_data": ...}}, for equal numbers of data;
        - "better": {score: "lower" or "higher"};
        - "cautions": sentences, which are also given as `Notice`;
        - "nearest_training_distance": {"generated": median, "held_out": median}.

    Raises:
        InputError, InputTypeError: Fewer than 4 data to compare, or data that a score refuses.
    """
    n = min(len(samples), len(data.held_out), len(data.train))
    if n <= 3:
        raise InputError(f"at least 4 samples, held-out and training data are needed, got {n} to compare")
    if inception_weights is not None:
        distances.check_inception(samples, inception_weights)
    generator = torch.Generator().manual_seed(seed)
    sets = {"generated": samples[:n], "training_data": data.train[torch.randperm(len(data.train), generator=generator)[:n]]}
    real = data.held_out[torch.randperm(len(data.held_out), generator=generator)[:n]]
    total, done = 2 * (6 + (inception_weights is not None)) + 2, itertools.count()

    def report(what: str) -> None:
        if progress is not None:
            progress(Progress(what, next(done), total))

    report("features")
    has_labels = data.train_labels is not None and data.held_out_labels is not None
    classifier, accuracy = train_classifier(data, seed=seed) if has_labels else (None, None)
    features: Callable[[Tensor], Tensor] = (lambda x: x.flatten(1)) if classifier is None else classifier.features
    if labels is not None and (classifier is None or labels.shape != (len(samples),)):
        found = tuple(labels.shape)
        raise InputError(f"`labels` must have shape ({len(samples)},), and the data must have labels, got shape {found}")
    real_features = features(real)
    size = real_features.square().mean().sqrt()  # the cubic kernel expects features of size one, as Inception's are nearly
    scores: dict[str, dict[str, float]] = {}
    for name, x in sets.items():
        for names, measure in _measures(x, real, features(x), real_features, size, seed, inception_weights).items():
            report(names[0])
            for score, value in zip(names, measure(), strict=True):
                scores.setdefault(score, {})[name] = value
    by_label = {}
    if labels is not None and classifier is not None and accuracy is not None:
        scores["label_accuracy"] = {"generated": classifier.accuracy(samples, labels), "training_data": accuracy}
        by_label = {"frechet_by_label": _frechet_by_label(samples, labels, data, features, generator)}
    cautions = []
    if n < _FEW:
        cautions.append(
            f"{n} held-out data are few: with fewer than {_FEW}, Fréchet distances are too large, also that of the training "
            "data, and the other scores are noisy; compare them only between evaluations with equal numbers of data"
        )
        notice(cautions[0])
    report("nearest training data")
    train = data.train.flatten(1)
    memory = {k: distances.nearest(v[:1000], train)[1].median().item() for k, v in (("generated", samples), ("held_out", real))}
    report("scores")
    trained = f"64 features of a classifier trained on the labels of {data.name}"
    space = "the data's own values (no labels to train a classifier on)" if classifier is None else trained
    return {
        "samples": n, "held_out": n, "seed": seed, "feature_space": space, "classifier_accuracy": accuracy,
        "scores": scores, **by_label, "better": {score: BETTER[score] for score in scores}, "cautions": cautions,
        "nearest_training_distance": memory,
    }  # fmt: skip


def _measures(
    x: Tensor, real: Tensor, features: Tensor, real_features: Tensor, size: Tensor, seed: int, inception: str | Path | None
) -> dict[tuple[str, ...], Callable[[], Iterable[float]]]:
    """Return functions that compute the scores of one set, by the names of the scores."""
    a, b = x.flatten(1), real.flatten(1)
    measures: dict[tuple[str, ...], Callable[[], Iterable[float]]] = {
        ("energy_distance_V",): lambda: [energy_distance(a, b, statistic="V").item()],
        ("energy_distance_U",): lambda: [energy_distance(a, b, statistic="U").item()],
        ("energy_pvalue",): lambda: [distances.energy_pvalue(a[:_TESTED], b[:_TESTED], permutations=_PERMUTATIONS, seed=seed)],
        ("frechet_distance",): lambda: [distances.frechet_distance(features, real_features)],
        ("kernel_distance",): lambda: [distances.kernel_distance(features / size, real_features / size)],
        ("precision", "recall"): lambda: distances.precision_recall(features, real_features),
    }
    if inception is not None:
        measures["inception_fid", "inception_kid"] = lambda: distances.inception_distances(x, real, inception).values()
    return measures


def _frechet_by_label(
    samples: Tensor, labels: Tensor, data: Dataset, features: Callable[[Tensor], Tensor], generator: torch.Generator
) -> dict[str, dict[str, float]]:
    """Return the Fréchet distances to the held-out data of each label, with equal numbers of data."""
    assert data.train_labels is not None and data.held_out_labels is not None
    found = {}
    for label in labels.unique().tolist():
        mine, real = samples[labels == label], data.held_out[data.held_out_labels == label]
        rows = (data.train_labels == label).nonzero().flatten()
        n = min(len(mine), len(real), len(rows))
        if n >= 2:
            train = data.train[rows[torch.randperm(len(rows), generator=generator)[:n]]]
            sets, wanted = {"generated": mine[:n], "training_data": train}, features(real[:n])
            found[str(label)] = {name: distances.frechet_distance(features(x), wanted) for name, x in sets.items()}
    return found
