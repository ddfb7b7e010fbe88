"""Brute force in O(N M): the reference against which everything else is tested."""

from rieszflow.exact.functional import energy_distance, evaluate, mmd2, mmd2_gradient

__all__ = ["energy_distance", "evaluate", "mmd2", "mmd2_gradient"]
