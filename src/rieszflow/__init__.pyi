from ._infra.messages import Notice
from ._types import Progress
from .constraints import Mask, Pool
from .data import stream
from .data.encoding import TableEncoding
from .data.tables import Table
from .directions import PatchSlices
from .exact import mmd2, mmd2_gradient
from .flow import ParticleFlow, RecordedFlow, geometric_schedule
from .generative import GenerativeFlow
from .kernels import Gaussian, InverseMultiquadric, Kernel, Laplace, Matern, Riesz
from .loss import SlicedMMDLoss
from .scoring import energy_score
from .sketch import SliceSketch
from .sliced import energy_distance, sliced_mmd2, sliced_mmd2_gradient
from .target import Target
from .two_sample import (
    Comparison,
    CoverageTest,
    DriftMonitor,
    PairwiseDistances,
    TwoSampleTest,
    compare,
    coverage_test,
    drift_test,
    pairwise_energy_distance,
    two_sample_test,
)

__version__: str
__all__ = [
    "Comparison", "CoverageTest", "DriftMonitor", "Gaussian", "GenerativeFlow", "InverseMultiquadric", "Kernel", "Laplace",
    "Mask", "Matern", "Notice", "PairwiseDistances", "ParticleFlow", "PatchSlices", "Pool", "Progress", "RecordedFlow",
    "Riesz", "SliceSketch", "SlicedMMDLoss", "Table", "TableEncoding", "Target", "TwoSampleTest", "compare", "coverage_test",
    "drift_test", "energy_distance", "energy_score", "geometric_schedule", "mmd2", "mmd2_gradient",
    "pairwise_energy_distance", "sliced_mmd2", "sliced_mmd2_gradient", "stream", "two_sample_test",
]  # fmt: skip
