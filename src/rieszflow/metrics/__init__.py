"""How good is a generated set? Every score stands beside that of real training data, the yardstick.

Fréchet distance, precision and recall are taken in the features of a small classifier, which is trained on the data set's own
labels. They rank models of one data set. They are not the Inception FID of the literature, and not comparable with it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rieszflow.metrics.classifier import Classifier, train_classifier
from rieszflow.metrics.distances import energy_pvalue, frechet_distance, kernel_distance, nearest, precision_recall
from rieszflow.metrics.inception import inception_distances
from rieszflow.metrics.scores import AROUND_ZERO, BETTER, evaluate

if TYPE_CHECKING:
    from rieszflow.metrics.running import SlicedEnergyDistance

__all__ = [
    "AROUND_ZERO",
    "BETTER",
    "Classifier",
    "SlicedEnergyDistance",
    "energy_pvalue",
    "evaluate",
    "frechet_distance",
    "inception_distances",
    "kernel_distance",
    "nearest",
    "precision_recall",
    "train_classifier",
]

if not TYPE_CHECKING:
    # torchmetrics is an extra: its base class is imported by those who ask for the metric (PEP 562).
    def __getattr__(name: str) -> Any:
        if name != "SlicedEnergyDistance":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module("rieszflow.metrics.running").SlicedEnergyDistance
