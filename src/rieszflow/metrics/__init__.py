"""How good is a generated set? Every score stands beside that of real training data, the yardstick.

Fréchet distance, precision and recall are taken in the features of a small classifier, which is trained on the data set's own
labels. They rank models of one data set. They are not the Inception FID of the literature, and not comparable with it.
"""

from rieszflow.metrics.classifier import Classifier, train_classifier
from rieszflow.metrics.distances import energy_p_value, frechet_distance, kernel_distance, nearest, precision_recall
from rieszflow.metrics.inception import inception_distances
from rieszflow.metrics.scores import AROUND_ZERO, BETTER, evaluate

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
