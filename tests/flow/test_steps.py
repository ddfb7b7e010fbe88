"""Updates of velocities and positions, against the formulas in float64."""

import pytest
import torch
from problems import generator

from rieszflow.flow.steps import update_positions, update_velocity


def _cloud(shape, dtype, seed):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 5, 4), (5000, 30)], ids=str)  # the last one is shared by threads
@pytest.mark.parametrize("lying", [False, True], ids=["in a row", "transposed"])
def test_formulas(shape, dtype, lying):
    x, v, gradient = (_cloud(shape, dtype, seed) for seed in range(3))
    if lying:
        x, v, gradient = (t.mT.contiguous().mT for t in (x, v, gradient))
    eps, before = torch.finfo(dtype).eps, x.clone()
    wanted = gradient.double() + 0.7 * v.double()
    found = update_velocity(gradient, v, 0.7)
    # m, the product and the sum are rounded once each
    assert found.dtype == dtype and ((found.double() - wanted).abs() <= 3 * eps * (wanted.abs() + v.double().abs())).all()
    for bounds in (None, (-0.5, 0.25)):
        wanted = x.double() - 2.5 * v.double()
        wanted = wanted if bounds is None else wanted.clamp(*bounds)
        found = update_positions(x, v, 2.5, bounds)
        assert ((found.double() - wanted).abs() <= 3 * eps * (x.double().abs() + 2.5 * v.double().abs())).all()
    assert torch.equal(x, before)


def test_the_first_step_has_no_velocity():
    gradient = _cloud((4, 2), torch.float32, 0)
    assert update_velocity(gradient, None, 0.9) is gradient


def test_nan_is_not_clipped_away():
    """A velocity that is NaN must not end as a point on the bound, where nobody would see it."""
    x, v = torch.zeros(4, 2), torch.full((4, 2), float("nan"))
    assert update_positions(x, v, 1.0, (0.0, 1.0)).isnan().all()
