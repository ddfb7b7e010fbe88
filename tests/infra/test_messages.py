"""Notices point to the line that called the package."""

import pytest
from problems import clouds

import rieszflow as rf


@pytest.mark.parametrize("call", [rf.sliced_mmd2, rf.sliced_mmd2_gradient], ids=lambda f: f.__name__)
def test_notices_point_to_the_caller(call):
    x, y = clouds(2, 40, 50, 8)

    def evaluate():
        value = call(x.requires_grad_(call is rf.sliced_mmd2), y, kernel=rf.Riesz(0.5), slices=8)
        if value.requires_grad:
            value.backward()

    with pytest.warns(rf.Notice, match="gradients of Riesz") as caught:
        evaluate()
    assert all(warning.filename == __file__ for warning in caught)
