"""Scores of generated sets, and the energy distance as a metric of torchmetrics.

Fréchet distance, precision and recall are computed from the features of a small classifier, which is trained on the data set's
own labels. They rank models of one data set, but are not comparable with the Inception FID of the literature.
"""

from typing import TYPE_CHECKING

import lazy_loader

from rieszflow.metrics.distances import (
    energy_pvalue,
    frechet_distance,
    inception_distances,
    kernel_distance,
    nearest,
    precision_recall,
)
from rieszflow.metrics.scores import evaluate, train_classifier
from rieszflow.metrics.tables import table_scores

if TYPE_CHECKING:
    from rieszflow.metrics.running import SlicedEnergyDistance
else:  # torchmetrics is optional, so its base class is imported on first access
    __getattr__, _, _ = lazy_loader.attach(__name__, submod_attrs={"running": ["SlicedEnergyDistance"]})

__all__ = [
    "SlicedEnergyDistance", "energy_pvalue", "evaluate", "frechet_distance", "inception_distances", "kernel_distance",
    "nearest", "precision_recall", "table_scores", "train_classifier",
]  # fmt: skip
