"""`EnergyDrift` as scikit-learn wants estimators, and as the drift test that it is. SciPy's names of results."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import rieszflow as rf
from rieszflow.errors import InputError, InputTypeError
from rieszflow.sklearn import EnergyDrift


@pytest.mark.filterwarnings("ignore")  # few permutations, few points: notices, and a skipped check of array libraries
def test_scikit_learns_own_checks():
    expected = {"check_methods_subset_invariance": "the verdict is one for all rows together"}
    found = check_estimator(EnergyDrift(slices=16, permutations=19), expected_failed_checks=expected, on_skip=None)
    assert sum(check["status"] == "passed" for check in found) > 35


def test_it_is_the_drift_test():
    rng = np.random.default_rng(1)
    reference, same, other = rng.normal(size=(3000, 4)), rng.normal(size=(300, 4)), rng.normal(size=(300, 4)) + 0.4
    drift = EnergyDrift(slices=64, random_state=5).fit(reference)
    for x, verdict in ((same, 1), (other, -1)):
        assert (drift.predict(x) == verdict).all() and drift.predict(x).shape == (300,)
        test = rf.drift_test(x, drift.sketch_, seed=5)
        assert drift.test(x).pvalue == test.pvalue
        assert drift.score(x) == pytest.approx(-test.statistic)
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
    with pytest.raises(InputError, match=r"`alpha` must be between 0 and 1, got 1\.5"):
        EnergyDrift(alpha=1.5).fit(x)
    with pytest.raises(ValueError, match="X has 3 features"):
        EnergyDrift().fit(x).test(np.zeros((5, 3)))


def test_what_scikit_learn_would_lose_is_refused():
    """Masks, and digits of whole numbers beyond 2^53, in an array, a list, and a column of a frame beside floats."""
    pandas = pytest.importorskip("pandas")
    x = np.random.default_rng(4).normal(size=(40, 2))
    drift, large = EnergyDrift(slices=8, permutations=9), 2**60 + np.arange(40)[:, None]
    frame = pandas.DataFrame({"a": x[:, 0], "id": large[:, 0]})
    for data, says in (
        (np.ma.masked_greater(x, 1), "X: must have no masked values"),
        (large, "float64 rounds them"),
        (large.tolist(), "float64 rounds them"),
        (large.astype(object), "float64 rounds them"),
        (frame, "float64 rounds them"),
        (frame.astype({"id": "Int64"}), "float64 rounds them"),
    ):
        with pytest.raises((TypeError, ValueError), match=says):
            drift.fit(data)
        fitted = drift.fit(np.zeros(np.shape(data)) + np.arange(40)[:, None])
        for method in (fitted.test, fitted.score, fitted.predict):
            with pytest.raises((TypeError, ValueError), match=says):
                method(data)
    for data in (np.ma.MaskedArray(x), x.astype(np.longdouble), large - 2**60, x.astype(object), x.tolist()):
        drift.fit(data)


def test_units_of_time_and_frames_without_values_are_refused():
    """As raw counts of time they would depend on the library's unit: nanoseconds in pandas, microseconds in polars."""
    pandas = pytest.importorskip("pandas")
    x = np.random.default_rng(5).normal(size=(40, 2))
    frame = pandas.DataFrame(x, columns=["a", "b"])
    when = pandas.date_range("2020", periods=40)
    for data, says in (
        (when.to_numpy()[:, None], "dtype datetime64"),
        ((when - when[0]).to_numpy()[:, None], "dtype timedelta64"),
    ):
        with pytest.raises(InputTypeError, match=says):
            EnergyDrift(slices=8).fit(data)
    mixed = frame.assign(a=when, job=["x", "y"] * 20)  # the columns of frames are encoded, and times are seconds
    drift = EnergyDrift(slices=8).fit(mixed)
    assert drift.predict(mixed).tolist() == [1] * 40 and drift.n_features_in_ == 3
    assert drift.predict(mixed.assign(job="x")).tolist() == [-1] * 40

    class LazyFrame:
        columns = ("a",)

        def collect(self):
            raise AssertionError

    with pytest.raises(InputTypeError, match=r"in memory, got LazyFrame; \.collect\(\) converts it"):
        EnergyDrift(slices=8).fit(LazyFrame())


def test_tables_of_arrow_and_tensors_are_what_their_numbers_are():
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    x = np.random.default_rng(6).normal(size=(40, 2))
    frame = pandas.DataFrame(x, columns=["a", "b"])
    table = pyarrow.table(frame)
    want = EnergyDrift(slices=8, scale="none").fit(x).score(x + 1)
    for data in (table, torch.tensor(x, requires_grad=True)):
        assert EnergyDrift(slices=8, scale="none").fit(data).score(x + 1) == want
    narrow = torch.tensor(x).bfloat16()
    assert EnergyDrift(slices=8).fit(narrow).score(x) == EnergyDrift(slices=8).fit(narrow.float().numpy()).score(x)
    with pytest.raises(InputError, match="float64 rounds them"):
        EnergyDrift(slices=8).fit(pyarrow.table({"a": x[:, 0], "id": 2**60 + np.arange(40)}))


def test_settings_are_checked_by_their_own_names_before_anything_changes():
    x = np.random.default_rng(7).normal(size=(40, 2))
    drift = EnergyDrift(slices=8, permutations=19).fit(x)
    for setting, value in (("alpha", 7), ("random_state", -1), ("random_state", np.random.RandomState(0))):
        changed = clone(drift).fit(x).set_params(**{setting: value})
        with pytest.raises(InputError, match=f"`{setting}` must be"):
            changed.predict(x)
        with pytest.raises(InputError, match=f"`{setting}` must be"):
            changed.fit(np.zeros((5, 3)))
        assert changed.n_features_in_ == changed.sketch_.d == 2
