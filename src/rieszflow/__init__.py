"""rieszflow: comparing and moving distributions given by samples, with the Riesz kernel on one-dimensional slices."""

import importlib
from typing import TYPE_CHECKING

from rieszflow._notices import Notice
from rieszflow._types import Progress

if TYPE_CHECKING:
    from rieszflow.comparison import Comparison, compare
    from rieszflow.data import stream
    from rieszflow.directions import LocalSlices
    from rieszflow.exact import energy_distance, mmd2, mmd2_gradient
    from rieszflow.flow import ParticleFlow, falling
    from rieszflow.frozen import Mask, Pool
    from rieszflow.generative import GenerativeFlow
    from rieszflow.groups import PairwiseDistances, pairwise_energy_distance
    from rieszflow.kernels import Gaussian, InverseMultiquadric, Kernel, Laplace, Matern, Riesz
    from rieszflow.loss import SlicedMMDLoss
    from rieszflow.recording import RecordedFlow
    from rieszflow.scoring import energy_score
    from rieszflow.sketch import SliceSketch
    from rieszflow.sliced import sliced_mmd2, sliced_mmd2_gradient
    from rieszflow.target import Target
    from rieszflow.two_sample import TwoSampleTest, drift_test, two_sample_test

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Gaussian",
    "GenerativeFlow",
    "InverseMultiquadric",
    "Kernel",
    "Laplace",
    "LocalSlices",
    "Mask",
    "Matern",
    "Notice",
    "PairwiseDistances",
    "ParticleFlow",
    "Pool",
    "Progress",
    "RecordedFlow",
    "Riesz",
    "SliceSketch",
    "SlicedMMDLoss",
    "Target",
    "TwoSampleTest",
    "compare",
    "drift_test",
    "energy_distance",
    "energy_score",
    "falling",
    "mmd2",
    "mmd2_gradient",
    "pairwise_energy_distance",
    "sliced_mmd2",
    "sliced_mmd2_gradient",
    "stream",
    "two_sample_test",
]

if not TYPE_CHECKING:
    # PyTorch and what else we stand on take seconds to import: a name is fetched when it is asked for (PEP 562).
    _HOME = {
        "Comparison": "comparison",
        "Gaussian": "kernels",
        "GenerativeFlow": "generative",
        "InverseMultiquadric": "kernels",
        "Kernel": "kernels",
        "Laplace": "kernels",
        "LocalSlices": "directions",
        "Mask": "frozen",
        "Matern": "kernels",
        "PairwiseDistances": "groups",
        "ParticleFlow": "flow",
        "Pool": "frozen",
        "RecordedFlow": "recording",
        "Riesz": "kernels",
        "SliceSketch": "sketch",
        "SlicedMMDLoss": "loss",
        "Target": "target",
        "TwoSampleTest": "two_sample",
        "compare": "comparison",
        "drift_test": "two_sample",
        "energy_distance": "exact",
        "energy_score": "scoring",
        "falling": "flow",
        "mmd2": "exact",
        "mmd2_gradient": "exact",
        "pairwise_energy_distance": "groups",
        "sliced_mmd2": "sliced",
        "sliced_mmd2_gradient": "sliced",
        "stream": "data",
        "two_sample_test": "two_sample",
    }
    _MODULES = [
        *(
            "cli",
            "comparison",
            "data",
            "directions",
            "engines",
            "errors",
            "exact",
            "flow",
            "frozen",
            "generative",
            "groups",
            "kernels",
            "loss",
            "metrics",
            "permutations",
            "recording",
            "report",
        ),
        *("scoring", "sketch", "sklearn", "sliced", "step_sizes", "target", "two_sample"),
    ]

    def __getattr__(name):
        if name in _HOME:
            value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
            return value
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__, *_MODULES})
