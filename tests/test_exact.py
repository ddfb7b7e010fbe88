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
def test_gradient_function_is_autograds(kernel):
    x, y = clouds(7, 6, 8, 3)
    a, b = simplex(8, 6), simplex(9, 8)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(rf.mmd2(leaf, y, kernel=kernel, x_weights=a, y_weights=b), leaf)
    torch.testing.assert_close(rf.mmd2_gradient(x, y, kernel=kernel, x_weights=a, y_weights=b), wanted, rtol=1e-12, atol=1e-14)


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
    assert rf.mmd2(x, y, kernel=rf.Riesz(r)).item() == pytest.approx(5**r, rel=torch.finfo(dtype).eps * 4)
    assert rf.energy_distance(x, y, r=r).item() == pytest.approx(2 * 5**r, rel=torch.finfo(dtype).eps * 4)


def test_uniforms_and_gaussians_on_the_line():
    # A midpoint grid of n cells has the population's distribution function up to 1/(2n): D² to about its square.
    x, y, wanted = two_uniforms_1d(1000, 2.0, 0.7)
    assert rf.mmd2(x, y).item() == pytest.approx(wanted, abs=2e-6)
    # Quantile grids of two normal laws: their tails beyond 1 − 1/2n hold about σ/n of E|X|.
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
    monkeypatch.setattr("rieszflow.exact._PAIRS", 64)
    torch.testing.assert_close((rf.mmd2(x, y), rf.mmd2_gradient(x, y)), values, rtol=1e-13, atol=1e-15)


def test_far_from_the_origin_and_close_together():
    # float32 points 1e4 from the origin, differences exactly representable: the value must not lose them.
    x = torch.tensor([[10000.0, 0.0], [10000.0, 0.25]])
    y = torch.tensor([[10000.0, 0.5]])
    wanted = (0.5 + 0.25) / 2 - 0.25 * 0.25
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
    """1/3 and 1/7 rounded to float32 would leave the measures with different masses, 1e-8 of E‖X − Y‖ = 1e4."""
    x, y = torch.tensor([[0.0], [1e4]]).repeat(3, 1), torch.tensor([[0.0], [1e4]]).repeat(7, 1)
    assert abs(rf.mmd2(x, y).item()) < 1e-11


# Numbers as large and as small as they get.


def power_of_two_times(v, t):
    """v · 2^t in parts, for 2^t alone may be no number."""
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
    assert rf.mmd2(x, y).item() == math.inf  # 6e38
    assert rf.mmd2(x, x, kernel=rf.Riesz(1.9)).item() == 0
    assert rf.mmd2_gradient(x, y).flatten().tolist() == [0.5, 0.5]
    assert rf.mmd2(x.double(), y.double()).item() == 2 * float(torch.tensor(3e38))
    x, y = (torch.tensor([[v]], dtype=torch.float64) for v in (1.7e308, -1.7e308))
    assert rf.mmd2(x, y).item() == math.inf
    assert rf.mmd2(x, y, kernel=rf.Riesz(0.5)).item() == pytest.approx(math.sqrt(2) * math.sqrt(1.7e308), rel=1e-12)
    assert rf.mmd2(x, y, kernel=rf.Gaussian(1e-300)).item() == 1


def test_small_distances_beside_a_huge_one():
    """What is near one another is so at any distance from the rest: one point 10^300 off, a kernel of length 10^−10."""
    x = torch.tensor([[0.0, 0.0], [1e-10, 0.0], [1e290, 1e290]], dtype=torch.float64)
    y = torch.tensor([[0.0, 2e-10]], dtype=torch.float64)
    kernel = rf.Gaussian(1e-10)
    e = math.exp
    wanted = 0.5 * (3 + 2 * e(-0.5)) / 9 + 0.5 - (e(-2) + e(-2.5)) / 3
    assert rf.mmd2(x, y, kernel=kernel).item() == pytest.approx(wanted, rel=1e-14)
    # ∂/∂x_i of ½aᵀKa − aᵀKb: the third point feels nothing, and the others in the unit 1/σ
    pull = torch.tensor(
        [[e(-0.5) / 9, -2 * e(-2) / 3], [-e(-0.5) / 9 + e(-2.5) / 3, -2 * e(-2.5) / 3], [0, 0]], dtype=torch.float64
    )
    torch.testing.assert_close(1e-10 * rf.mmd2_gradient(x, y, kernel=kernel), pull, rtol=1e-12, atol=1e-15)


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
    parts = [0.5 * mean(X, X, A, A, True), 0.5 * mean(Y, Y, B, B, True), mean(X, Y, A, B, False)]
    assert sum(parts) < 0.05
    leaf = a.clone().requires_grad_()
    value = rf.mmd2(x, y, kernel=kernel, statistic="U", x_weights=leaf, y_weights=b)
    # An exponent of some hundreds is known to 1e-13 of itself.
    assert value.item() == pytest.approx(parts[0] + parts[1] - parts[2], abs=1e-11 * sum(parts), rel=0)
    if weighted:
        # ½ Σ' w w K / (1 − Σw²) − wᵀKb, by hand
        K = torch.tensor(
            [[kernel_by_hand(kernel, p, q) * (i != j) for j, q in enumerate(X)] for i, p in enumerate(X)], dtype=torch.float64
        )
        L = torch.tensor([[kernel_by_hand(kernel, p, q) for q in Y] for p in X], dtype=torch.float64)
        n = 1 - (a**2).sum()
        wanted = K @ a / n + (a @ K @ a) / n**2 * a - L @ b
        (slope,) = torch.autograd.grad(value, leaf)
        torch.testing.assert_close(slope, wanted, rtol=1e-10, atol=1e-11 * wanted.abs().max().item())


def test_u_statistic_with_nearly_all_weight_on_one_point():
    """½ E over distinct pairs of two points is their kernel, whatever the weights are."""
    x, y = clouds(1, 2, 3, 2)
    w = torch.tensor([1 - 1e-12, 1e-12], dtype=torch.float64)
    own = rf.mmd2(x, y, kernel=rf.Gaussian(1.0), statistic="U", x_weights=w) - rf.mmd2(x[:1], y, kernel=rf.Gaussian(1.0))
    k = kernel_by_hand(rf.Gaussian(1.0), x[0], x[1])
    yy = [kernel_by_hand(rf.Gaussian(1.0), y[i], y[j]) for i in range(3) for j in range(3)]
    off = [kernel_by_hand(rf.Gaussian(1.0), y[i], y[j]) for i in range(3) for j in range(3) if i != j]
    assert own.item() == pytest.approx(0.5 * (k - 1) + 0.5 * (sum(off) / 6 - sum(yy) / 9), abs=1e-11)


# Derivatives of derivatives.


FUNCTIONALS = {
    "mmd2": lambda x, y, **w: rf.mmd2(x, y, kernel=rf.Gaussian(1.0), **w),
    "energy_distance": lambda x, y, **w: rf.energy_distance(x, y, r=1.5, **w),
    "sliced_mmd2": lambda x, y, **w: rf.sliced_mmd2(x, y, slices=8, seed=generator(1), **w),
    "sliced on bins": lambda x, y, **w: rf.sliced_mmd2(x, y, slices=8, engine="bins", seed=generator(1)),
}


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_a_second_derivative_is_an_error(name):
    f = FUNCTIONALS[name]
    x, y = clouds(1, 6, 5, 3)
    says = "^(mmd2, energy_distance|sliced_mmd2): differentiable once"
    for k in range(2):
        leaves = [t.clone().requires_grad_(i == k) for i, t in enumerate((x, y))]
        (first,) = torch.autograd.grad(f(*leaves), leaves[k], create_graph=True)
        torch.testing.assert_close(first.detach(), torch.autograd.grad(f(*leaves), leaves[k])[0])  # itself it is right
        with pytest.raises(RuntimeError, match=says):
            (first**2).sum().backward()
    for second in (torch.autograd.functional.hessian, lambda g, z: torch.autograd.functional.hvp(g, z, torch.ones_like(z))):
        with pytest.raises(RuntimeError, match=says):
            second(lambda z: f(z, y), x)
    if name != "sliced on bins":
        w = simplex(1, 6).requires_grad_()
        (first,) = torch.autograd.grad(f(x, y, x_weights=w), w, create_graph=True)
        with pytest.raises(RuntimeError, match=says):
            (first**2).sum().backward()
    # By the upstream gradient, too, though there it would be a first one.
    leaf, factor = x.clone().requires_grad_(), torch.ones((), dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(factor * f(leaf, y), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=says):
        first.sum().backward()


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_the_first_derivative_may_be_asked_for_with_a_graph(name):
    """Whoever builds a graph and goes no further through it gets what he always got; so does who goes on beside it."""
    x, y = clouds(1, 6, 5, 3)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(FUNCTIONALS[name](leaf, y), leaf, create_graph=True)
    (second,) = torch.autograd.grad((first.detach() * leaf**2).sum(), leaf)
    torch.testing.assert_close(second, 2 * first.detach() * x)
