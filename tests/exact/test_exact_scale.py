"""Brute force at any scale: numbers as large and as small as they get."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import KERNELS, clouds, simplex

import rieszflow as rf


def power_of_two_times(v, t):
    """Return v · 2^t in parts, because 2^t alone may overflow."""
    whole = math.floor(t)
    v = v * 2.0 ** (t - whole)
    for part in (whole // 2, whole - whole // 2):
        v = v * 2.0**part
    return v


def close_to(got, wanted, rel):
    """Equal to `rel` of the largest number, and infinite in the same places."""
    inside = torch.isfinite(wanted)
    if not torch.equal(got[~inside], wanted[~inside]):
        return False
    unit = torch.where(inside, wanted, 0).abs().max().clamp(min=torch.finfo(wanted.dtype).tiny)
    return not inside.any() or bool((got / unit - wanted / unit)[inside].abs().max() < rel)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize("statistic", ["V", "U"])
@given(seed=st.integers(0, 1000), e=st.integers(-960, 1010), weighted=st.booleans(), batch=st.booleans())
@settings(max_examples=15, deadline=None)
def test_any_scale(kernel, statistic, seed, e, weighted, batch):
    """Points and the kernel's length times 2^e: K times 2^(re), gradients 2^((r − 1)e), r = 0 for a kernel with a length.

    Smaller numbers than these lose bits by themselves, for one of the batch is 2^−40 times the other."""
    x, y = clouds(seed, 6, 5, 3)
    if batch:
        x, y = torch.stack([x, 2.0**-40 * x]), torch.stack([y, 2.0**-40 * y])
    s = 2.0**e
    r = kernel.degree or 0.0
    scaled = kernel if kernel.degree else widened(kernel, s)
    a, b = (simplex(2, 6).requires_grad_(), simplex(3, 5)) if weighted else (None, None)
    leaves = x.clone().requires_grad_(), (s * x).requires_grad_()
    values = [
        rf.mmd2(leaves[0], y, kernel=kernel, statistic=statistic, x_weights=a, y_weights=b),
        rf.mmd2(leaves[1], s * y, kernel=scaled, statistic=statistic, x_weights=a, y_weights=b),
    ]
    # Factors 2^t of some hundreds are rounded in t: some 1e-13; sums of thirty terms add 1e-14. The U-statistic is a difference
    # that may be a thousandth of its terms or less, which are as large as the V-statistic's: errors are held against those.
    size = rf.mmd2(x, y, kernel=kernel, statistic="V", x_weights=a, y_weights=b).detach().abs()
    apart = power_of_two_times(values[1].detach(), -r * e) - values[0].detach()
    inside = torch.isfinite(values[1].detach()) & (values[1].detach().abs() > 2.0**-1000)
    assert (apart.abs() <= 1e-12 * torch.maximum(size, values[0].detach().abs()))[inside].all()
    assert close_to(values[1], power_of_two_times(values[0], r * e), 1e-9)
    inputs = [[leaf] if a is None else [leaf, a] for leaf in leaves]
    one, two = (torch.autograd.grad(v.sum(), i) for v, i in zip(values, inputs, strict=True))
    for members in range(2) if batch else [...]:  # each has its own size
        assert close_to(two[0][members], power_of_two_times(one[0][members], (r - 1) * e), 1e-12)
    if weighted:
        assert close_to(two[1], power_of_two_times(one[1], r * e), 1e-12)
    if r == 1:  # no rounding at all, but at the very end of the range
        assert torch.equal(values[1].detach(), power_of_two_times(values[0].detach(), 1.0 * e)) or abs(e) > 900


def widened(kernel, s):
    match kernel:
        case rf.Matern():
            return rf.Matern(kernel.nu, kernel.sigma * s)
        case rf.InverseMultiquadric():
            return rf.InverseMultiquadric(kernel.c * s)
    return type(kernel)(kernel.sigma * s)


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e38, 1e-38, 1e-44])
def test_any_scale_in_float32(scale):
    """Taken in float64, and rounded once at the end."""
    x, y = (0.2 * c.float() * scale for c in clouds(4, 20, 30, 3))
    for kernel in (rf.Riesz(1.0), rf.Riesz(0.5), rf.Gaussian(scale)):
        assert torch.equal(rf.mmd2(x, y, kernel=kernel), rf.mmd2(x.double(), y.double(), kernel=kernel).float())
        assert torch.equal(
            rf.mmd2_gradient(x, y, kernel=kernel), rf.mmd2_gradient(x.double(), y.double(), kernel=kernel).float()
        )


def test_beyond_the_range_comes_infinity():
    x, y = torch.tensor([[3e38], [3e38]]), torch.tensor([[-3e38], [-3e38]])
    assert rf.mmd2(x, y).item() == math.inf  # 12e38
    assert rf.mmd2(x, x, kernel=rf.Riesz(1.9)).item() == 0
    assert rf.mmd2_gradient(x, y).flatten().tolist() == [1, 1]
    assert rf.mmd2(x.double(), y.double()).item() == 4 * float(torch.tensor(3e38))
    x, y = (torch.tensor([[v]], dtype=torch.float64) for v in (1.7e308, -1.7e308))
    assert rf.mmd2(x, y).item() == math.inf
    assert rf.mmd2(x, y, kernel=rf.Riesz(0.5)).item() == pytest.approx(2 * math.sqrt(2) * math.sqrt(1.7e308), rel=1e-12)
    assert rf.mmd2(x, y, kernel=rf.Gaussian(1e-300)).item() == 2


def test_small_distances_next_to_a_huge_one():
    """Two close points stay distinct whatever the distance of a third: one at 10^290, a kernel of length 10^−10."""
    x = torch.tensor([[0.0, 0.0], [1e-10, 0.0], [1e290, 1e290]], dtype=torch.float64)
    y = torch.tensor([[0.0, 2e-10]], dtype=torch.float64)
    kernel = rf.Gaussian(1e-10)
    e = math.exp
    wanted = (3 + 2 * e(-0.5)) / 9 + 1 - 2 * (e(-2) + e(-2.5)) / 3
    assert rf.mmd2(x, y, kernel=kernel).item() == pytest.approx(wanted, rel=1e-14)
    # ∂/∂x_i of aᵀKa − 2aᵀKb in the unit 1/σ; that of the third point is zero
    pull = 2 * torch.tensor(
        [[e(-0.5) / 9, -2 * e(-2) / 3], [-e(-0.5) / 9 + e(-2.5) / 3, -2 * e(-2.5) / 3], [0, 0]], dtype=torch.float64
    )
    torch.testing.assert_close(1e-10 * rf.mmd2_gradient(x, y, kernel=kernel), pull, rtol=1e-12, atol=1e-15)
