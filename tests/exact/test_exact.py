"""Brute force against plain loops, closed forms, SciPy, autograd's own checks and the invariances of the theory."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import KERNELS, clouds, generator, kernel_by_hand, mmd2_by_hand, simplex, two_gaussians_1d, two_uniforms_1d
from scipy.stats import energy_distance as scipy_energy_distance
from scipy.stats import norm

import rieszflow as rf

# Sums of some hundred terms of size one in float64: 1e-16 each, 1e-13 together, and a margin.
FLOAT64 = 1e-12


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize("statistic", ["V", "U"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("N", "M", "d"), [(7, 5, 3), (2, 9, 1), (6, 6, 40)])
def test_value_against_loops(kernel, statistic, weighted, N, M, d):
    x, y = clouds(1, N, M, d)
    a, b = (simplex(2, N), simplex(3, M)) if weighted else (torch.full((N,), 1 / N).double(), torch.full((M,), 1 / M).double())
    weights = {"x_weights": a, "y_weights": b} if weighted else {}
    value = rf.mmd2(x, y, kernel=kernel, statistic=statistic, **weights)
    assert value.item() == pytest.approx(mmd2_by_hand(x, y, kernel, a, b, statistic), abs=FLOAT64)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize("statistic", ["V", "U"])
def test_gradients_by_gradcheck(kernel, statistic):
    x, y = clouds(4, 5, 4, 2)
    a, b = simplex(5, 5), simplex(6, 4)

    def f(x, y, a, b):
        return rf.mmd2(x, y, kernel=kernel, statistic=statistic, x_weights=a / a.sum(), y_weights=b / b.sum())

    assert torch.autograd.gradcheck(f, [t.clone().requires_grad_() for t in (x, y, a, b)])


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize("statistic", ["V", "U"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_function_is_autograds(kernel, statistic, weighted):
    x, y = clouds(7, 6, 8, 3)
    weights = {"x_weights": simplex(8, 6), "y_weights": simplex(9, 8)} if weighted else {}
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(rf.mmd2(leaf, y, kernel=kernel, statistic=statistic, **weights), leaf)
    found = rf.mmd2_gradient(x, y, kernel=kernel, statistic=statistic, **weights)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
@pytest.mark.parametrize("statistic", ["V", "U"])
def test_gradient_function_against_loops(kernel, statistic):
    """Central differences of the value by loops, h = 1e-5: off by h² times a third derivative, and by 1e-16/h of rounding."""
    x, y = clouds(7, 4, 5, 2)
    a, b = simplex(8, 4), simplex(9, 5)
    wanted, h = torch.zeros_like(x), 1e-5
    for i in range(4):
        for k in range(2):
            step = torch.zeros_like(x)
            step[i, k] = h
            above, below = (mmd2_by_hand(x + s, y, kernel, a, b, statistic) for s in (step, -step))
            wanted[i, k] = (above - below) / (2 * h)
    found = rf.mmd2_gradient(x, y, kernel=kernel, statistic=statistic, x_weights=a, y_weights=b)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)


def test_unbiased_gradient_of_equal_weights_by_its_formula():
    """Of N equal weights the pull of the others counts N/(N − 1) times. Batches and arrays as everywhere."""
    x, y = clouds(7, 6, 8, 3)
    kernel = rf.Gaussian(0.8)
    V, U = (rf.mmd2_gradient(x, y, kernel=kernel, statistic=s) for s in ("V", "U"))
    alone = torch.stack([rf.mmd2_gradient(p[None], y, kernel=kernel)[0] / 6 for p in x])  # one point: no pull of others
    torch.testing.assert_close(U - alone, 6 / 5 * (V - alone), rtol=1e-12, atol=1e-15)
    batch = rf.mmd2_gradient(torch.stack([x, 2 * x]), torch.stack([y, y]), kernel=kernel, statistic="U")
    torch.testing.assert_close(batch[0], U, rtol=1e-12, atol=1e-15)
    assert np.array_equal(rf.mmd2_gradient(x.numpy(), y.numpy(), kernel=kernel, statistic="U"), U.numpy())


@pytest.mark.parametrize("kernel", KERNELS, ids=repr)
def test_coincident_points_have_finite_gradients(kernel):
    x = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    y = torch.cat([torch.zeros(2, 3), torch.ones(1, 3)]).double()
    rf.mmd2(x, y, kernel=kernel, statistic="U").backward()
    assert torch.isfinite(x.grad).all()
    # Only the one distinct target acts: −∇K/M·1/N, along the diagonal and equal for all.
    assert torch.allclose(x.grad, x.grad[:1].expand_as(x.grad)) and (x.grad[0, 0] == x.grad[0, 1])
    assert rf.mmd2_gradient(torch.zeros(4, 3), torch.zeros(2, 3), kernel=kernel).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("r", [0.2, 1.0, 1.9])
def test_point_masses(r, dtype):
    x, y = torch.tensor([[1.0, 2.0]], dtype=dtype), torch.tensor([[4.0, 6.0]], dtype=dtype)
    assert rf.mmd2(x, y, kernel=rf.Riesz(r)).item() == pytest.approx(2 * 5**r, rel=torch.finfo(dtype).eps * 4)
    assert rf.energy_distance(x, y, r=r).item() == pytest.approx(2 * 5**r, rel=torch.finfo(dtype).eps * 4)


def test_uniforms_and_gaussians_on_the_line():
    # A midpoint grid of n cells has the population's distribution function up to 1/(2n): MMD² to about its square.
    x, y, wanted = two_uniforms_1d(1000, 2.0, 0.7)
    assert rf.mmd2(x, y).item() == pytest.approx(wanted, abs=2e-6)
    # Quantile grids of two normal distributions: their tails beyond 1 − 1/2n hold about σ/n of E|X|.
    q = (np.arange(2000) + 0.5) / 2000
    x, y = (torch.from_numpy(norm(m, s).ppf(q))[:, None] for m, s in ((0, 1.0), (1.3, 0.6)))
    assert rf.mmd2(x, y).item() == pytest.approx(two_gaussians_1d(1.3, 1.0, 0.6), abs=1e-3)


@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_scipy_in_one_dimension(seed, N, M):
    x, y = clouds(seed, N, M, 1)
    wanted = scipy_energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert rf.energy_distance(x, y).item() == pytest.approx(wanted, abs=FLOAT64)


@given(
    seed=st.integers(0, 2**31),
    N=st.integers(1, 8),
    M=st.integers(1, 8),
    d=st.integers(1, 6),
    kernel=st.sampled_from(KERNELS),
    scale=st.floats(0.1, 10),
)
@settings(max_examples=60, deadline=None)
def test_invariances(seed, N, M, d, kernel, scale):
    x, y = clouds(seed, N, M, d)
    value = rf.mmd2(x, y, kernel=kernel).item()
    g = generator(seed)
    rotation = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0]
    shift = 10 * torch.randn(d, generator=g, dtype=torch.float64)
    order = torch.randperm(N, generator=g)
    assert value >= -FLOAT64
    assert rf.mmd2(x, x[order], kernel=kernel).item() == pytest.approx(0, abs=FLOAT64)
    assert rf.mmd2(y, x, kernel=kernel).item() == pytest.approx(value, abs=FLOAT64)
    # A shift by 10 costs about two digits of the coordinates; r = 0.3 takes the distance's 0.3rd power and no more.
    assert rf.mmd2(x[order] @ rotation + shift, y @ rotation + shift, kernel=kernel).item() == pytest.approx(value, abs=1e-10)
    # Duplicating all points leaves the measures as they are.
    assert rf.mmd2(x.repeat(2, 1), y.repeat(3, 1), kernel=kernel).item() == pytest.approx(value, abs=FLOAT64)
    # A weight is a multiplicity.
    multiplicity = torch.randint(1, 4, (N,), generator=g)
    weights = multiplicity.double() / multiplicity.sum()
    repeated = rf.mmd2(x.repeat_interleave(multiplicity, 0), y, kernel=kernel).item()
    assert rf.mmd2(x, y, kernel=kernel, x_weights=weights).item() == pytest.approx(repeated, abs=FLOAT64)
    if isinstance(kernel, rf.Riesz):
        scaled = rf.mmd2(scale * x, scale * y, kernel=kernel).item()
        assert scaled == pytest.approx(scale**kernel.r * value, abs=FLOAT64 * 10**kernel.r, rel=1e-12)


def test_u_statistic_is_unbiased():
    # Mean over all ordered pairs of distinct points is the U-statistic's self term: on the whole population the U-statistic
    # of random subsamples averages to the value. Here: 4000 subsamples, checked at 5 standard errors.
    x, y = clouds(3, 30, 30, 2)
    g = generator(0)
    values = torch.stack(
        [
            rf.mmd2(x[torch.randint(30, (4,), generator=g)], y[torch.randint(30, (5,), generator=g)], statistic="U")
            for _ in range(4000)
        ]
    )
    wanted = rf.mmd2(x, y).item()
    assert abs(values.mean().item() - wanted) < 5 * values.std().item() / math.sqrt(4000)


def test_chunks_do_not_change_the_value(monkeypatch):
    x, y = clouds(5, 40, 30, 4)
    values = rf.mmd2(x, y), rf.mmd2_gradient(x, y)
    monkeypatch.setattr("rieszflow.exact.pairs._PAIRS", 64)
    torch.testing.assert_close((rf.mmd2(x, y), rf.mmd2_gradient(x, y)), values, rtol=1e-13, atol=1e-15)


def test_far_from_the_origin_and_close_together():
    # float32 points 1e4 from the origin, differences exactly representable: the value must not lose them.
    x = torch.tensor([[10000.0, 0.0], [10000.0, 0.25]])
    y = torch.tensor([[10000.0, 0.5]])
    wanted = 2 * (0.5 + 0.25) / 2 - 2 * 0.25 * 0.25
    assert rf.mmd2(x, y).item() == pytest.approx(wanted, rel=1e-7)


def test_batches_numpy_and_dtypes():
    x, y = (torch.stack(c) for c in zip(*(clouds(s, 6, 4, 3) for s in range(5)), strict=True))
    for kernel in (rf.Riesz(), rf.Gaussian()):
        values, gradients = rf.mmd2(x, y, kernel=kernel), rf.mmd2_gradient(x, y, kernel=kernel)
        for k in range(5):
            torch.testing.assert_close(values[k], rf.mmd2(x[k], y[k], kernel=kernel))
            torch.testing.assert_close(gradients[k], rf.mmd2_gradient(x[k], y[k], kernel=kernel))
    as_numpy = rf.energy_distance(x[0].numpy(), y[0].numpy())
    assert isinstance(as_numpy, np.float64) and as_numpy == rf.energy_distance(x[0], y[0]).item()
    assert rf.mmd2_gradient(x[0].numpy()[::-1], y[0].numpy()).shape == (6, 3)
    assert rf.mmd2(x.float(), y.float()).dtype == torch.float32


def test_riesz_constant():
    # c_{d,1} in closed form: E|ξ₁| is 2/π on the circle and 1/2 on the sphere of R³.
    assert rf.Riesz(1.0).basis_constant(1) == pytest.approx(1)
    assert rf.Riesz(1.0).basis_constant(2) == pytest.approx(math.pi / 2)
    assert rf.Riesz(1.0).basis_constant(3) == pytest.approx(2)
    # And for general r by Monte Carlo, at 5 standard errors.
    for r in (0.5, 1.5):
        xi = torch.nn.functional.normalize(torch.randn(200_000, 7, generator=generator(0), dtype=torch.float64), dim=1)
        sample = xi[:, 0].abs() ** r
        error = 5 * sample.std().item() / math.sqrt(len(sample))
        assert abs(1 / rf.Riesz(r).basis_constant(7) - sample.mean().item()) < error


def test_a_shared_weight_vector_collects_the_derivatives_of_a_batch():
    x, y = (torch.stack(c) for c in zip(*(clouds(s, 6, 4, 3) for s in range(3)), strict=True))
    a = simplex(1, 6).requires_grad_()
    rf.mmd2(x, y, x_weights=a).sum().backward()
    wanted = torch.zeros_like(a)
    for k in range(3):
        one = a.detach().clone().requires_grad_()
        rf.mmd2(x[k], y[k], x_weights=one).backward()
        wanted += one.grad
    torch.testing.assert_close(a.grad, wanted, rtol=1e-13, atol=0)


def test_equal_weights_are_equal_in_float32():
    """1/3 and 1/7 rounded to float32 would leave the clouds with different total weights, an error of 1e-8 of E‖X − Y‖."""
    x, y = torch.tensor([[0.0], [1e4]]).repeat(3, 1), torch.tensor([[0.0], [1e4]]).repeat(7, 1)
    assert abs(rf.mmd2(x, y).item()) < 1e-11


@pytest.mark.parametrize("width", [0.3, 0.1, 0.05])
@pytest.mark.parametrize("weighted", [False, True])
def test_u_statistic_of_a_narrow_kernel(width, weighted):
    """Against sums without the diagonal, free of rounding. Pairs are some e^(−ρ²/2σ²) ~ 1e-2 … 1e-300: total less diagonal
    would leave no digit of them."""
    g = generator(1)
    x, y = 5 * torch.rand(12, 2, generator=g, dtype=torch.float64), 5 * torch.rand(9, 2, generator=g, dtype=torch.float64)
    kernel = rf.Gaussian(width)
    a, b = (simplex(2, 12), simplex(3, 9)) if weighted else (torch.full((n,), 1 / n, dtype=torch.float64) for n in (12, 9))

    def mean(P, Q, u, v, distinct):
        pairs = [(i, j) for i in range(len(P)) for j in range(len(Q)) if not (distinct and i == j)]
        total = math.fsum(u[i] * v[j] * kernel_by_hand(kernel, P[i], Q[j]) for i, j in pairs)
        return total / math.fsum(u[i] * v[j] for i, j in pairs)

    X, Y, A, B = (t.tolist() for t in (x, y, a, b))
    parts = [mean(X, X, A, A, True), mean(Y, Y, B, B, True), 2 * mean(X, Y, A, B, False)]
    assert sum(parts) < 0.1
    leaf = a.clone().requires_grad_()
    value = rf.mmd2(x, y, kernel=kernel, statistic="U", x_weights=leaf, y_weights=b)
    # An exponent of some hundreds is known to 1e-13 of itself.
    assert value.item() == pytest.approx(parts[0] + parts[1] - parts[2], abs=1e-11 * sum(parts), rel=0)
    if weighted:
        # Σ' w w K / (1 − Σw²) − 2wᵀKb, by hand
        K = torch.tensor(
            [[kernel_by_hand(kernel, p, q) * (i != j) for j, q in enumerate(X)] for i, p in enumerate(X)], dtype=torch.float64
        )
        L = torch.tensor([[kernel_by_hand(kernel, p, q) for q in Y] for p in X], dtype=torch.float64)
        n = 1 - (a**2).sum()
        wanted = 2 * (K @ a / n + (a @ K @ a) / n**2 * a - L @ b)
        (slope,) = torch.autograd.grad(value, leaf)
        torch.testing.assert_close(slope, wanted, rtol=1e-10, atol=1e-11 * wanted.abs().max().item())


def test_u_statistic_with_nearly_all_weight_on_one_point():
    """The mean over the distinct pairs of two points is their kernel, whatever the weights are."""
    x, y = clouds(1, 2, 3, 2)
    w = torch.tensor([1 - 1e-12, 1e-12], dtype=torch.float64)
    own = rf.mmd2(x, y, kernel=rf.Gaussian(1.0), statistic="U", x_weights=w) - rf.mmd2(x[:1], y, kernel=rf.Gaussian(1.0))
    k = kernel_by_hand(rf.Gaussian(1.0), x[0], x[1])
    yy = [kernel_by_hand(rf.Gaussian(1.0), y[i], y[j]) for i in range(3) for j in range(3)]
    off = [kernel_by_hand(rf.Gaussian(1.0), y[i], y[j]) for i in range(3) for j in range(3) if i != j]
    assert own.item() == pytest.approx((k - 1) + (sum(off) / 6 - sum(yy) / 9), abs=1e-11)
