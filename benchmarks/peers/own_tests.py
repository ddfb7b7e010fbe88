"""Run the two-sample tests of dcor, hyppo and pted, as these packages ship them, with functions of rieszflow in their place.

Replaced are `dcor.homogeneity.energy_test` and `dcor.energy_distance` (with the mean and the exponent 1), `Energy` and `MMD` of
`hyppo.ksample`, and `pted` and `pted_coverage_test` of pted. With dcor 0.7, hyppo 0.5.2 and pted 2.0, three of 20 tests differ:
two expect results of the type of their arrays (array_api_strict), where rieszflow returns floats; and hyppo's
`test_against_dcor` expects 158.66 for an energy distance that is 3,146.52 for dcor and rieszflow.

Run: pip install -r benchmarks/peers.txt; python benchmarks/peers/own_tests.py
"""

import sys
import warnings
from types import SimpleNamespace

import dcor
import hyppo.ksample
import numpy as np
import pted
import pted.tests
import pytest

import rieszflow as rf

DCOR = ["dcor.tests.test_homogeneity", "dcor.tests.test_energy"]
HYPPO = ["hyppo.ksample.tests.test_energy", "hyppo.ksample.tests.test_mmd"]


def column(x: object) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x[:, None] if x.ndim == 1 else x


def seed_of(state: object) -> int:
    """Draw a seed from NumPy's old or new generators, from a seed, or from the global state, which these tests set."""
    if isinstance(state, (int, np.integer)):
        return int(state)
    draw = getattr(state, "randint", None) or getattr(state, "integers", None) or np.random.randint
    return int(draw(1 << 31))


def energy_test(*samples: object, num_resamples: int = 0, random_state: object = None, **options: object) -> SimpleNamespace:
    if len(samples) != 2 or options.get("exponent", 1) != 1 or options.get("average") is not None:
        return dcor_test(*samples, num_resamples=num_resamples, random_state=random_state, **options)
    x, y = map(column, samples)
    found = rf.two_sample_test(x, y, permutations=max(num_resamples, 1), seed=seed_of(random_state))
    n, m = len(x), len(y)
    return SimpleNamespace(pvalue=found.pvalue, statistic=n * m / (n + m) * rf.mmd2(x, y).item())


def energy_distance(x: object, y: object, *, exponent: float = 1, **options: object) -> object:
    """Replace the V-statistic (dcor's default) and the U-statistic; the other options are dcor's own."""
    kind = options.get("estimation_stat", dcor.EstimationStatistic.V_STATISTIC)
    if exponent != 1 or not isinstance(x, np.ndarray) or options.get("average") is not None:
        return dcor_distance(x, y, exponent=exponent, **options)
    statistic = (
        "U"
        if dcor.EstimationStatistic.from_string(kind).name.startswith("U")
        else "V"
        if isinstance(kind, str)
        else kind.name[0]
    )
    return np.float64(rf.mmd2(column(x), column(y), statistic=statistic).item())


class Energy:
    """The interface of hyppo's tests; its biased Energy statistic is the energy distance of all pairs."""

    def __init__(self, *args: object, bias: bool = False, **options: object) -> None:
        self.statistic_of = "V" if bias else "U"

    def statistic(self, x: object, y: object) -> float:
        return float(rf.mmd2(column(x), column(y), statistic=self.statistic_of))

    def test(self, x: object, y: object, reps: int = 1000, random_state: object = None, **_: object) -> tuple[float, float]:
        found = rf.two_sample_test(column(x), column(y), permutations=reps, seed=seed_of(random_state))
        return self.statistic(x, y), found.pvalue


def coverage(truth: np.ndarray, samples: np.ndarray, permutations: int = 999, **_: object) -> float:
    return rf.coverage_test(samples.transpose(1, 0, 2), truth, permutations=permutations, seed=seed_of(None)).pvalue


def two_sample(x: np.ndarray, y: np.ndarray, permutations: int = 999, **_: object) -> float:
    if x is y:  # pted's test has two tails: it rejects samples that are too much alike, which ours never does
        return float(pted.pted(x, y, permutations))
    return rf.two_sample_test(column(x), column(y), permutations=permutations, seed=seed_of(None)).pvalue


dcor_test, dcor_distance = dcor.homogeneity.energy_test, dcor.energy_distance


def main() -> None:
    warnings.simplefilter("ignore", rf.Notice)
    dcor.homogeneity.energy_test, dcor.energy_distance = energy_test, energy_distance
    hyppo.ksample.Energy = hyppo.ksample.MMD = Energy
    code = pytest.main(
        ["-q", "-rA", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-W", "ignore", "--pyargs", *DCOR, *HYPPO]
    )
    pted.tests.pted, pted.tests.pted_coverage_test = two_sample, coverage
    try:
        pted.tests.test()
    except AssertionError as error:
        print(f"pted: FAILED {error}")
    sys.exit(code)


if __name__ == "__main__":
    main()
