"""Two-sample tests that pass over the points once, whatever the number of permutations.

Random blocks consist of equally many points. With the mean features F_k of the blocks as vectors, MMD² is the squared
norm ‖Σ_k w_k F_k‖², where w_k is the share of block k in x less that in y. Permuting whole blocks needs the Gram matrix of the
F_k and nothing else: B permutations cost B·K² operations, not B·N·D. Points in no block are not permuted. Given those, blocks
are exchangeable under the null hypothesis, so the p-value is exact, and some tens of blocks have nearly the power of single
points.
"""

from rieszflow.two_sample.api import TwoSampleTest, two_sample_test
from rieszflow.two_sample.comparison import Comparison, compare
from rieszflow.two_sample.coverage import CoverageTest, coverage_test
from rieszflow.two_sample.drift import DriftMonitor, drift_test
from rieszflow.two_sample.pairwise import PairwiseDistances, pairwise_energy_distance

__all__ = [
    "Comparison", "CoverageTest", "DriftMonitor", "PairwiseDistances", "TwoSampleTest", "compare", "coverage_test",
    "drift_test", "pairwise_energy_distance", "two_sample_test",
]  # fmt: skip
