"""rieszflow: comparing and moving distributions given by samples, with the Riesz kernel on one-dimensional slices."""

from rieszflow._notices import Notice
from rieszflow.directions import LocalSlices
from rieszflow.exact import energy_distance, mmd2, mmd2_gradient
from rieszflow.flow import ParticleFlow
from rieszflow.generative import GenerativeFlow
from rieszflow.kernels import Gaussian, InverseMultiquadric, Kernel, Laplace, Matern, Riesz
from rieszflow.sketch import SliceSketch
from rieszflow.sliced import sliced_mmd2, sliced_mmd2_gradient
from rieszflow.stream import stream
from rieszflow.target import Target
from rieszflow.two_sample import TwoSampleTest, drift_test, two_sample_test

__version__ = "0.1.0"
__all__ = [
    "Gaussian",
    "GenerativeFlow",
    "InverseMultiquadric",
    "Kernel",
    "Laplace",
    "LocalSlices",
    "Matern",
    "Notice",
    "ParticleFlow",
    "Riesz",
    "SliceSketch",
    "Target",
    "TwoSampleTest",
    "drift_test",
    "energy_distance",
    "mmd2",
    "mmd2_gradient",
    "sliced_mmd2",
    "sliced_mmd2_gradient",
    "stream",
    "two_sample_test",
]
