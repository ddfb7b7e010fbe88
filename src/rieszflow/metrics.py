"""How good is a generated set? Every score stands beside the score of real held-out data, the yardstick.

Fréchet distance and precision/recall are taken in the features of a small classifier trained on the data set's own labels.
They rank models of one data set; they are not the Inception FID of the literature and not comparable with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rieszflow import _validate
from rieszflow._notices import notice
from rieszflow._surroundings import defaults
from rieszflow.data import Dataset
from rieszflow.engines._scale import power_of_two
from rieszflow.errors import InputError, MissingPackageError
from rieszflow.exact import energy_distance
from rieszflow.permutations import p_value, source

__all__ = [
    "AROUND_ZERO",
    "BETTER",
    "Classifier",
    "energy_p_value",
    "evaluate",
    "frechet_distance",
    "inception_distances",
    "kernel_distance",
    "nearest",
    "precision_recall",
    "train_classifier",
]

BETTER = {
    "energy_distance_V": "lower",
    "energy_distance_U": "lower",
    "energy_p_value": "higher",
    "frechet_distance": "lower",
    "kernel_distance": "lower",
    "precision": "higher",
    "recall": "higher",
    "inception_fid": "lower",
    "inception_kid": "lower",
}
AROUND_ZERO = (
    "energy_distance_U and kernel_distance are unbiased: around 0, and so below it at times, where nothing differs; a p-value "
    "is anything in [0, 1] there, and near 0 where samples and data can be told apart"
)

_FEW = 1000  # held-out data; fewer make a Fréchet distance of real data to real data large, see `frechet_distance`
_TESTED = 2000  # data of each kind in the permutation test: it holds all their distances


def _features(name: str, x: Any) -> Tensor:
    x = _validate.points(name, x)
    if x.ndim != 2 or len(x) < 2:
        raise InputError(f"{name}: shape {tuple(x.shape)} given; (n, d) with n of at least 2 is accepted")
    return x.double()


def _pair(x: Any, y: Any) -> tuple[Tensor, Tensor, float]:
    """Both sets of features in a unit, in which their squares neither overflow nor vanish, and that unit's factor."""
    a, b = _features("x", x), _features("y", y)
    if a.shape[1] != b.shape[1]:
        raise InputError(f"y: features of dimension {b.shape[1]} given, x has {a.shape[1]}; they must be equal")
    largest = max(a.abs().max().item(), b.abs().max().item())
    unit = 1.0 if 1e-100 < largest < 1e100 else power_of_two(largest, a.dtype)
    return a * unit, b * unit, unit


@defaults
def frechet_distance(x: Any, y: Any) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features, ‖m₁ − m₂‖² + tr(S₁ + S₂ − 2(S₁S₂)^½).

    Its mean is above 0 for equal distributions, by an amount that falls like 1/n: compare distances of equal n only.

    Args:
        x, y: features (n, d) and (m, d), n, m ≥ 2; float32 or float64.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> round(frechet_distance(x, x + 3), 6)
        9.0

    Source: Heusel et al., NeurIPS 2017. Computed by torchmetrics' FrechetInceptionDistance with an identity for a network.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b, unit = _pair(x, y)
    network = nn.Identity()
    network.num_features = a.shape[1]  # type: ignore[assignment]
    # The distance is invariant under a common shift; without it sums of squares would lose digits.
    centre = b.mean(0)
    fid = FrechetInceptionDistance(feature=network, normalize=True).set_dtype(torch.float64)
    fid.update(b - centre, real=True)
    fid.update(a - centre, real=False)
    return max(0.0, fid.compute().item()) / unit / unit


@defaults
def kernel_distance(x: Any, y: Any) -> float:
    """Squared MMD of two sets of features with the kernel (⟨x, y⟩/d + 1)³, U-statistic: unbiased, and so below 0 at times.

    Unlike the Fréchet distance it has no bias for few samples. With Inception features it is the kernel inception distance
    (KID) of the literature.

    Args:
        x, y: features (n, d) and (m, d), n, m ≥ 2; float32 or float64. Of the larger set the first min(n, m) are used.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> kernel_distance(x, x + 3)
        3259.0

    Source: Bińkowski et al., ICLR 2018. Computed by torchmetrics.
    """
    from torchmetrics.image.kid import poly_mmd

    a, b, unit = _pair(x, y)
    if unit < 1:
        raise InputError(
            f"x, y: features of up to {1 / unit:.3g} given, whose kernel overflows; divide them by a constant first"
        )
    n = min(len(a), len(b))  # torchmetrics' formula is one for equal sizes
    return poly_mmd(b[:n] / unit, a[:n] / unit).item()


@defaults
def energy_p_value(x: Any, y: Any, *, permutations: int = 499, seed: int = 0) -> float:
    """p-value of the energy test for equal distributions, by permutations: uniform on [0, 1] or larger where they are equal.

    Args:
        x, y: (n, d) and (m, d), n, m ≥ 2; float32 or float64. Distances of all pairs are held in memory, (n + m)² numbers.
        permutations: B, at least 1; the least p-value is 1 / (B + 1). seed: of the permutations.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> energy_p_value(torch.rand(50, 2, generator=g), torch.rand(60, 2, generator=g) + 0.5)
        0.002

    Source: Székely and Rizzo, Testing for Equal Distributions in High Dimension (2004).
    """
    a, b, _ = _pair(x, y)
    permutations = _validate.positive_int("permutations", permutations)
    points = torch.cat([a, b])
    distances = torch.cdist(points, points).cpu().numpy()
    weights = np.concatenate([np.full(len(a), 1 / len(a)), np.full(len(b), -1 / len(b))])
    found = p_value(
        lambda w: -((w @ distances) * w).sum(1),
        weights,
        (len(a), len(b)),
        permutations=permutations,
        scale=float(distances.max()),
        random=source(seed),
    )
    return found.value


@defaults
def precision_recall(x: Any, y: Any, *, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall of generated features x against real features y, with k-nearest-neighbour balls.

    Precision: share of x within some real point's k-th-neighbour ball (is it realistic?). Recall: share of y within
    some generated point's ball (is everything covered?). Both depend on n and m: compare at equal sizes.

    Args:
        x, y: features (n, d), (m, d), more than k points each. k: at least 1.

    Source: Kynkäänniemi et al., NeurIPS 2019.
    """
    (x, y, _), k = _pair(x, y), _validate.positive_int("k", k)
    if min(len(x), len(y)) <= k:
        raise InputError(f"k: {k} given; fewer than the {min(len(x), len(y))} points are accepted")

    def covered(points: Tensor, by: Tensor) -> float:
        radii = torch.cat([torch.cdist(part, by).kthvalue(k + 1, dim=1).values for part in by.split(1024)])
        inside = [(torch.cdist(part, by) <= radii).any(1) for part in points.split(1024)]
        return torch.cat(inside).double().mean().item()

    return covered(x, y), covered(y, x)


@defaults
def nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """For every row of x the index of, and the L2 distance to, the nearest row of y: is the model memorising?"""
    a, b, unit = _pair(x.flatten(1), y.flatten(1))
    best = [torch.cdist(part, b).min(1) for part in a.split(256)]
    return torch.cat([found.indices for found in best]), torch.cat([found.values for found in best]) / unit


class Classifier(nn.Module):
    """Two convolutions and one hidden layer, whose 64 activations are the features."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        if len(shape) == 3:
            self.body: nn.Module = nn.Sequential(
                nn.Conv2d(shape[0], 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                nn.Linear(64 * (shape[1] // 4) * (shape[2] // 4), 64), nn.ReLU(),
            )  # fmt: skip
        else:
            self.body = nn.Sequential(nn.Linear(math.prod(shape), 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """(n, 64), in batches."""
        return torch.cat([self.body(part) for part in x.split(1000)])


@defaults
def train_classifier(data: Dataset, seed: int = 0, steps: int = 1500, batch_size: int = 128) -> tuple[Classifier, float]:
    """The classifier on the training labels, and its accuracy on the held-out ones."""
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
    with torch.no_grad():
        guesses = torch.cat([classifier(part).argmax(1) for part in data.held_out.split(1000)])
    return classifier.requires_grad_(False), (guesses == data.held_out_labels).double().mean().item()


@dataclass
class _Space:
    """Where Fréchet distance and precision/recall are taken."""

    name: str
    features: Callable[[Tensor], Tensor]
    accuracy: float | None


@defaults
def evaluate(samples: Tensor, data: Dataset, seed: int = 0, inception_weights: str | Path | None = None) -> dict[str, Any]:
    """All scores of a generated set against held-out data, and of an equally large real training set beside them.

    Args:
        samples: (n, *shape), values in [0, 1] like the data set's.
        data: with labels: features of a classifier trained on them; without: the values themselves.
        seed: of the classifier, and of the choice of real data.
        inception_weights: file with torch-fidelity's Inception weights, for the FID of the literature; None to leave it out.

    Returns:
        {"samples": n, "held_out": m, "seed", "feature_space", "classifier_accuracy", "scores": {score: {"generated": …,
        "training_data": …}}, "better": {score: "lower" or "higher"}, "cautions": [sentences, also given as `Notice`],
        "nearest_training_distance": {"generated": median, "held_out": median}}. The scores are
        the energy distance (statisticians' convention, V- and U-statistic), its permutation p-value (of 2,000 data each at
        most), "frechet_distance" in the feature space, "kernel_distance" there (of features scaled to a mean square of one on
        the real data), "precision", "recall", and "inception_fid" and "inception_kid" if asked for. n and m are both cut to the
        smaller of the two.
    """
    n = min(len(samples), len(data.held_out), len(data.train))
    if n <= 3:
        raise InputError(f"samples: {n} left to compare; at least 4 samples, held-out and training data are needed")
    if inception_weights is not None:
        _check_inception(samples, inception_weights)
    generator = torch.Generator().manual_seed(seed)
    sets = {"generated": samples[:n], "training_data": data.train[torch.randperm(len(data.train), generator=generator)[:n]]}
    real = data.held_out[torch.randperm(len(data.held_out), generator=generator)[:n]]
    space = _feature_space(data, seed)
    # The cubic kernel expects features of size one, as Inception's are nearly; a classifier's are what they happen to be.
    real_features = space.features(real)
    size = real_features.square().mean().sqrt()
    scores: dict[str, dict[str, float]] = {}
    for name, x in sets.items():
        features = space.features(x)
        precision, recall = precision_recall(features, real_features)
        one = {
            "energy_distance_V": energy_distance(x.flatten(1), real.flatten(1), statistic="V").item(),
            "energy_distance_U": energy_distance(x.flatten(1), real.flatten(1), statistic="U").item(),
            "energy_p_value": energy_p_value(x[:_TESTED].flatten(1), real[:_TESTED].flatten(1), seed=seed),
            "frechet_distance": frechet_distance(features, real_features),
            "kernel_distance": kernel_distance(features / size, real_features / size),
            "precision": precision,
            "recall": recall,
        }
        if inception_weights is not None:
            one |= inception_distances(x, real, inception_weights)
        for score, value in one.items():
            scores.setdefault(score, {})[name] = value
    cautions = []
    if n < _FEW:
        cautions.append(
            f"{n} held-out data are few: Fréchet distances, that of the training data too, are too large for fewer than {_FEW} "
            "(the less data, the larger), and the other scores are noisy; compare them only between evaluations of as many data"
        )
        notice(cautions[0])
    train = data.train.flatten(1)
    memory = {k: nearest(v[:1000], train)[1].median().item() for k, v in (("generated", samples), ("held_out", real))}
    return {
        "samples": n,
        "held_out": n,
        "seed": seed,
        "feature_space": space.name,
        "classifier_accuracy": space.accuracy,
        "scores": scores,
        "better": {score: BETTER[score] for score in scores},
        "cautions": cautions,
        "nearest_training_distance": memory,
    }


def _feature_space(data: Dataset, seed: int) -> _Space:
    if data.train_labels is None or data.held_out_labels is None:
        return _Space("the data's own values (no labels to train a classifier on)", lambda x: x.flatten(1), None)
    classifier, accuracy = train_classifier(data, seed)
    return _Space(f"64 features of a classifier trained on the labels of {data.name}", classifier.features, accuracy)


@defaults
def inception_distances(x: Tensor, y: Tensor, weights: str | Path) -> dict[str, float]:
    """The literature's FID and KID (Inception features, 2048), of images (n, C, H, W) in [0, 1], C 1 or 3, with local weights.

    Args:
        weights: torch-fidelity's `weights-inception-2015-12-05-*.pth`. Needs the extra `rieszflow[fid]`.

    Returns:
        {"inception_fid": `frechet_distance`, "inception_kid": `kernel_distance`} of the features.

    Raises:
        ValueError: no such file, or not images. ImportError: the extra is not installed.
    """
    _check_inception(x, weights)
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))

    def features(images: Tensor) -> Tensor:
        bytes_ = (images.clamp(0, 1).expand(-1, 3, -1, -1) * 255).byte()
        return torch.cat([network(part) for part in bytes_.split(100)])

    a, b = features(x), features(y)
    return {"inception_fid": frechet_distance(a, b), "inception_kid": kernel_distance(a, b)}


def _check_inception(x: Tensor, weights: str | Path) -> None:
    if not Path(weights).is_file():
        raise InputError(f"inception_weights: no file {weights}; torch-fidelity's Inception weights are needed")
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise InputError(
            f"inception_distances: data of shape {tuple(x.shape[1:])} given; images with 1 or 3 channels are needed"
        )
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        raise MissingPackageError("Inception FID needs the extra: pip install 'rieszflow[fid]'") from None
