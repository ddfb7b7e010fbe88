"""`EnergyDrift` as scikit-learn wants estimators, and as the drift test that it is. SciPy's names of results."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import rieszflow as rf
from rieszflow.errors import InputError
from rieszflow.sklearn import EnergyDrift


@pytest.mark.filterwarnings("ignore")  # few permutations, few points: notices, and a skipped check of array libraries
def test_scikit_learns_own_checks():
    expected = {"check_methods_subset_invariance": "the verdict is one for all rows together"}
    found = check_estimator(EnergyDrift(slices=16, permutations=19), expected_failed_checks=expected, on_skip=None)
    assert sum(check["status"] == "passed" for check in found) > 35


def test_it_is_the_drift_test():
    rng = np.random.default_rng(1)
    reference, same, other = rng.normal(size=(900, 4)), rng.normal(size=(300, 4)), rng.normal(size=(300, 4)) + 0.4
    drift = EnergyDrift(slices=64, random_state=5).fit(reference)
    for x, verdict in ((same, 1), (other, -1)):
        assert (drift.predict(x) == verdict).all() and drift.predict(x).shape == (300,)
        test = rf.drift_test(x, drift.sketch_, seed=5)
        assert drift.test(x).pvalue == test.p_value and (test.statistic, test.pvalue) == (test.distance, test.p_value)
        assert drift.score(x) == pytest.approx(-test.distance)
    assert drift.score(same) > drift.score(other)
    assert drift.sketch_.distance(reference) == pytest.approx(0, abs=1e-12)
    # Sensitive to alpha and to nothing else; the parameters survive a clone and a pipeline.
    assert (clone(drift).set_params(alpha=1e-4).fit(reference).predict(other) == 1).all()
    assert (make_pipeline(StandardScaler(), EnergyDrift(slices=64)).fit(reference).predict(other) == -1).all()


def test_a_level_is_kept():
    """Fresh reference and data, 40 times at the level 0.2: more than 17 alarms have a probability of less than 0.001."""
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(40):
        drift = EnergyDrift(alpha=0.2, slices=16, permutations=99).fit(rng.normal(size=(80, 2)))
        alarms += drift.predict(rng.normal(size=(60, 2)))[0] == -1
    assert alarms <= 17


def test_what_is_refused():
    x = np.random.default_rng(3).normal(size=(20, 2))
    with pytest.raises(InputError, match=r"alpha: 1\.5 given"):
        EnergyDrift(alpha=1.5).fit(x)
    with pytest.raises(ValueError, match="X has 3 features"):
        EnergyDrift().fit(x).test(np.zeros((5, 3)))
