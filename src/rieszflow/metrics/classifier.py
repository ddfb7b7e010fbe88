"""A small classifier of a data set's own labels, whose features are the space to compare in."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rieszflow._infra.isolation import torch_defaults
from rieszflow.data import Dataset

__all__ = ["Classifier", "train_classifier"]


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
        logits: Tensor = self.head(self.body(x))
        return logits

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """(n, 64), in batches."""
        return torch.cat([self.body(part) for part in x.split(1000)])

    @torch.no_grad()
    def guesses(self, x: Tensor) -> Tensor:
        """The most likely label of each, (n,), in batches."""
        return torch.cat([self(part).argmax(1) for part in x.split(1000)])


@torch_defaults
def train_classifier(data: Dataset, *, seed: int = 0, steps: int = 1500, batch_size: int = 128) -> tuple[Classifier, float]:
    """Trains a classifier on the training labels.

    Args:
        data: with labels.
        seed: of its first weights and its batches.
        steps: of Adam.
        batch_size: data in a step.

    Returns:
        The classifier, and its accuracy on the held-out data, in [0, 1].
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
    return classifier, (classifier.guesses(data.held_out) == data.held_out_labels).double().mean().item()
