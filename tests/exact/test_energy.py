"""The compiled path of brute force for float32 clouds, against brute force in float64."""

import pytest
import torch
from problems import clouds, generator, simplex

import rieszflow as rf
from rieszflow._types import Cloud, Pair
from rieszflow.exact import energy


def results(x, y, a, b, statistic):
    """The value, and the derivatives by all that is given."""
    leaves = [t.clone().requires_grad_() for t in (x, y, a, b) if t is not None]
    weights = dict(zip(("x_weights", "y_weights"), leaves[2:], strict=True)) if a is not None else {}
    value = rf.mmd2(*leaves[:2], statistic=statistic, **weights)
    return value.detach(), *torch.autograd.grad(value, leaves)


def problem(kind, d):
    """Clouds of 90 and 70 points, with pairs of a cloud and of both in one place or near."""
    x, y = clouds(1, 90, 70, d, torch.float32)
    if kind == "far from the origin":
        x, y = x + 300, y + 300
    elif kind == "clusters":
        x[:30], x[30:], y[:40] = 1e-3 * x[:30] + 5, 1e-3 * x[30:] - 5, 1e-3 * y[:40] + 5
    elif kind == "an outlier":
        x[0] = 1e5
    x[1], y[0], x[2], y[1] = x[3], x[4], x[5] * (1 + 1e-6), x[6] * (1 - 1e-6)
    return x, y


@pytest.mark.parametrize("kind", ["near the origin", "far from the origin", "clusters", "an outlier"])
@pytest.mark.parametrize("d", [1, 8, 9, 60])
@pytest.mark.parametrize("statistic", ["V", "U"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("small", [False, True])
def test_is_brute_force(kind, d, statistic, weighted, small, monkeypatch):
    """Of their scale, distances are off by 1e-6 at most (`exact.loops`), the rounding of the points left out: both see the same
    ones. That is a bound for values and weights' derivatives. Forces are unit vectors, whose errors are 3e-5 for the closest
    pairs that a product gives, and their sums are rounded to 6e-8."""
    if small:
        monkeypatch.setattr(energy, "_PRODUCTS", 700)
        monkeypatch.setattr(energy, "_SHARE", 0)
    x, y = problem(kind, d)
    a, b = (simplex(2, 90, torch.float32), simplex(3, 70, torch.float32)) if weighted else (None, None)
    assert energy.supports(Pair(Cloud(x), Cloud(y)), rf.Riesz(1.0))
    found = results(x, y, a, b, statistic)
    wanted = results(*(t if t is None else t.double() for t in (x, y, a, b)), statistic)
    scale = torch.cdist(x.double(), y.double()).mean()
    assert (found[0] - wanted[0]).abs() < 1e-6 * scale
    for k in (1, 2):
        assert (found[k] - wanted[k]).norm() < 1e-6 * wanted[k].norm()
        assert found[k].dtype == torch.float32
    for mine, theirs in zip(found[3:], wanted[3:], strict=True):
        assert (mine - theirs).abs().max() < 1e-6 * torch.cdist(x.double(), x.double()).max()
    if not weighted:
        assert torch.equal(rf.mmd2_gradient(x, y, statistic=statistic), found[1])


def test_which_clouds_it_takes():
    """Float64, other kernels, batches, few points, and squares beyond float32's range are left to float64."""
    x, y = clouds(1, 90, 70, 20, torch.float32)
    riesz = rf.Riesz(1.0)
    assert energy.supports(Pair(Cloud(x), Cloud(y)), riesz)
    others = ((x.double(), y.double()), (x[None], y[None]), (x[:5], y[:5]), (x * 1e25, y), (x * 1e-25, y * 1e-25))
    assert not any(energy.supports(Pair(Cloud(a), Cloud(b)), riesz) for a, b in others)
    assert not energy.supports(Pair(Cloud(x), Cloud(y)), rf.Riesz(0.5)) and not energy.supports(
        Pair(Cloud(x), Cloud(y)), rf.Gaussian()
    )
    for scale in (1e25, 1e-25):
        torch.testing.assert_close(rf.mmd2(x * scale, y * scale) / scale, rf.mmd2(x, y), rtol=1e-5, atol=0)


@pytest.mark.parametrize("d", [2, 30])
def test_threads_do_not_change_it(d, monkeypatch):
    monkeypatch.setattr(energy, "_SHARE", 0)
    x, y = torch.randn(200, d, generator=generator(1)), torch.randn(150, d, generator=generator(2))
    found = rf.mmd2(x, y), rf.mmd2_gradient(x, y)
    monkeypatch.setattr("rieszflow._infra.jit.threads", lambda: 3)
    assert torch.equal(rf.mmd2(x, y), found[0]) and torch.equal(rf.mmd2_gradient(x, y), found[1])
