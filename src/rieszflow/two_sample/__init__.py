"""Are two samples of one distribution? A test that passes over the points once, whatever the number of permutations.

Points are dealt at random into blocks of equal size (`blocks`). With r = 1 the statistic D² is a squared Euclidean norm:
with the distribution functions F_k of the blocks on all slices as vectors, it is ‖Σ_k w_k F_k‖². The weights w_k are the
blocks' shares of x, less their shares of y. Permuting whole blocks needs the Gram matrix of the F_k (`gram`) and nothing
else: B permutations cost B·K² operations, not B·N·P. Points that are in no block are one vector for x and one for y, which
keep their place. Given those, blocks are exchangeable under the null hypothesis. So the p-value is exact, and some tens of
blocks have nearly the power of single points. Where the points of y are gone, the random ones that its sketch has kept are
the blocks.

Source: Domingo-Enrich, Dwivedi, Mackey, Cheap Permutation Testing (2025).
"""

from rieszflow.two_sample.api import TwoSampleTest, drift_test, two_sample_test
from rieszflow.two_sample.compare import Comparison, compare
from rieszflow.two_sample.pairwise import PairwiseDistances, pairwise_energy_distance

__all__ = [
    "Comparison", "PairwiseDistances", "TwoSampleTest", "compare", "drift_test", "pairwise_energy_distance", "two_sample_test",
]  # fmt: skip
