"""`compare` chooses the test that fits; its numbers are those of that test."""

import numpy as np
import pytest
import torch
from problems import generator

import rieszflow as rf


def samples():
    g = generator(0)
    return torch.randn(600, 3, generator=g), torch.randn(500, 3, generator=g) + torch.tensor([0.0, 0.8, 0.0])


def same(found, test):
    return (found.pvalue, found.statistic, found.confidence_interval, found.permutations) == (
        test.pvalue, test.statistic, test.confidence_interval, test.permutations,
    )  # fmt: skip


def test_points_on_both_sides():
    x, y = samples()
    found = rf.compare(x, y, slices=64, permutations=99, seed=3)
    assert same(found, rf.two_sample_test(x, y, slices=64, permutations=99, seed=3))
    assert rf.compare(x, y, permutations=19).x.slices == 256


def test_a_sketch_on_either_side(tmp_path):
    x, y = samples()
    sketch = rf.SliceSketch.from_points(x, slices=64)
    sketch.save(tmp_path / "x.sketch")
    wanted = rf.drift_test(y, sketch, permutations=99, seed=3)
    for reference in (sketch, tmp_path / "x.sketch", str(tmp_path / "x.sketch")):
        left = rf.compare(reference, y, permutations=99, seed=3)
        right = rf.compare(y, reference, permutations=99, seed=3)
        assert same(left, wanted) and same(right, wanted)
        assert (left.x.n, left.y.n, right.x.n, right.y.n) == (600, 500, 500, 600)


def test_two_sketches_have_a_distance_and_no_test():
    x, y = samples()
    one = rf.SliceSketch.from_points(x, slices=64)
    two = one.empty().update(y)
    found = rf.compare(one, two)
    assert found.statistic == two.distance(one, statistic="U")
    assert (found.test, found.pvalue, found.confidence_interval, found.permutations) == (None, None, None, None)


def test_columns_come_by_how_much_they_differ():
    x, y = samples()
    found = rf.compare(x, y, slices=8, permutations=19)
    names, apart, changes = zip(*found.columns(), strict=True)
    assert names[0] == "column 1" and list(apart) == sorted(apart, reverse=True) and len(names) == 3
    np.testing.assert_allclose(sorted(apart), sorted(found.y.feature_distances(found.x).tolist()))
    assert found.columns(1) == [(names[0], apart[0], changes[0])] and found.columns(0) == []


def test_what_a_sketch_has_of_its_own():
    x, y = samples()
    sketch = rf.SliceSketch.from_points(x, slices=8)
    with pytest.raises(rf.errors.InputError, match="`slices` must be None with a sketch, which has its own, got 9"):
        rf.compare(sketch, y, slices=9)
    with pytest.raises(rf.errors.InputError, match="`common` must be False with a sketch"):
        rf.compare(y, sketch, common=True)
