"""Engines, fast directions and kept targets: against brute force on small inputs, against one another on large ones."""

import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import KERNELS, clouds, generator, gradient_1d_by_hand, kernel_by_hand, simplex

import rieszflow as rf
from rieszflow import _basis, directions, engines
from rieszflow._clouds import Cloud, Need
from rieszflow._scratch import scratch
from rieszflow.directions.hadamard import Hadamard
from rieszflow.engines import Problem
from rieszflow.engines.bins import counted, layout, loops, passes
from rieszflow.engines.bins.device import Device

ENGINES = list(engines.ENGINES)
KINDS = list(directions.KINDS)
EPS = torch.finfo(torch.float32).eps


def relative(one, two):
    return ((one - two).norm() / two.norm()).item()


@pytest.fixture
def on_device_passes(monkeypatch):
    """The passes that CUDA uses, here on the CPU."""
    monkeypatch.setattr(passes, "of", lambda frame: Device())


# One dimension.


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    x=st.lists(st.integers(-4, 4), min_size=1, max_size=12),
    y=st.lists(st.integers(-4, 4), min_size=1, max_size=12),
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_ties(engine, dtype, x, y, weighted, seed):
    """Whole numbers in a small range: ties within x, within y and across; −0 and +0 are one value. Exact for bins too: no bin
    holds two different values, and a bin with empty neighbours counts as a tie."""
    X, Y = (torch.tensor(v, dtype=dtype)[:, None] * 0.5 for v in (x, y))
    X[X == 0] = -0.0
    a, b = (simplex(seed, len(x), dtype), simplex(seed + 1, len(y), dtype)) if weighted else (None, None)
    one = torch.ones(1, 1, dtype=dtype)
    gradient = rf.sliced_mmd2_gradient(X, Y, directions=one, engine=engine, x_weights=a, y_weights=b)
    wa, wb = ((torch.full((len(v),), 1 / len(v), dtype=dtype) if w is None else w).numpy() for v, w in ((x, a), (y, b)))
    wanted = gradient_1d_by_hand(X[:, 0].numpy(), Y[:, 0].numpy(), wa, wb)
    # A sum of at most 24 weights, each rounded once; the bins' tables are float32 for both dtypes.
    eps = EPS if engine == "bins" else torch.finfo(dtype).eps
    np.testing.assert_allclose(gradient[:, 0].numpy(), wanted, atol=24 * eps)


def shapes(name, n, g):
    normal = torch.randn(n, 1, generator=g)
    return {
        "normal": normal,
        "cauchy": normal / torch.randn(n, 1, generator=g),
        "point masses": torch.randint(3, (n, 1), generator=g) * 1.0,
        "half a point": torch.where(normal > 0, normal, torch.zeros(1)),
        "two scales": torch.where(normal > 1.5, 1e4 + normal, 1e-3 * normal),
        "outlier": torch.cat([normal[1:], torch.full((1, 1), 1e8)]),
        "all equal": torch.full((n, 1), 0.3),
        "whole numbers": torch.randint(256, (n, 1), generator=g) / 255.0,
    }[name]


SHAPES = ["normal", "cauchy", "point masses", "half a point", "two scales", "outlier", "all equal", "whole numbers"]


@pytest.mark.parametrize("x_shape", SHAPES)
@pytest.mark.parametrize("y_shape", SHAPES)
@pytest.mark.parametrize("n", [5, 900])
def test_bins_keep_their_bound(x_shape, y_shape, n):
    """|F̂ − F| and |Ĝ − G| are at most the masses of the point's own bin, whatever the data are (docstring of bins.py)."""
    g = generator(n)
    x, y = shapes(x_shape, n, g), shapes(y_shape, 2 * n, g)
    xi = torch.ones(1, 1)
    got, exact = (rf.sliced_mmd2_gradient(x, y, directions=xi, engine=e)[:, 0] * n for e in ("bins", "sort"))
    problem = Problem(rf.Riesz(1.0), Need(x=True))
    (t,) = engines.ENGINES["bins"].keep(Cloud(y), x, directions.Dense(xi), problem).tables
    grid = t.grid
    f = counted(grid, Cloud(x)).mass
    u, index = np.empty(n, np.float32), np.empty(n, np.uint32)
    loops.locate(grid.project(x)[0].numpy(), n, grid.low.numpy()[0], grid.inverse.numpy()[0], grid.B, u, index)
    own = np.array([layout.place(v, grid.B)[0] for v in u])
    bound = 2 * (f[0] + t.mass[0]).numpy()[own]
    assert (np.abs((got - exact).numpy()) <= bound + 4 * EPS).all()


@pytest.mark.parametrize("shape", ["point masses", "all equal", "whole numbers"])
def test_bins_are_exact_at_point_masses(shape):
    g = generator(1)
    x, y = shapes(shape, 500, g), shapes(shape, 700, g)
    got, exact = (rf.sliced_mmd2_gradient(x, y, directions=torch.ones(1, 1), engine=e) * 500 for e in ("bins", "sort"))
    torch.testing.assert_close(got, exact, rtol=0, atol=10 * EPS)  # a handful of roundings of sums of at most 2


@pytest.mark.parametrize("shape", ["normal", "cauchy", "outlier", "point masses"])
@pytest.mark.parametrize("statistic", ["V", "U"])
def test_values_of_the_bins(shape, statistic):
    """∫(F − G)² with F, G off by their bins' masses: |error| ≤ ∫ 2 (m_F + m_G) |F − G| + …, which for 3000 points a bin of
    at most half a per cent makes about one per cent; outliers keep their own magnitude."""
    g = generator(2)
    x, y = shapes(shape, 3000, g), 1.3 * shapes(shape, 2000, g) + 0.4
    got, exact = (
        rf.sliced_mmd2(x.float(), y.float(), directions=torch.ones(1, 1), engine=e, statistic=statistic).item()
        for e in ("bins", "sort")
    )
    assert got == pytest.approx(exact, rel=0.02)


# Many dimensions.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("statistic", ["V", "U"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("d", [1, 3, 100])
def test_engines_agree(kind, statistic, weighted, d):
    """On the same slices: derivatives by both clouds, and values; batches; float64."""
    x, y = clouds(3, 2500, 1800, d, torch.float32)
    a, b = (simplex(2, 2500, torch.float32), simplex(3, 1800, torch.float32)) if weighted else (None, None)
    results = {}
    for engine in ENGINES:
        leaves = x.clone().requires_grad_(), y.clone().requires_grad_()
        value = rf.sliced_mmd2(
            *leaves, slices=256, directions=kind, engine=engine, statistic=statistic,
            x_weights=a, y_weights=b, seed=generator(5),
        )  # fmt: skip
        value.backward()
        gradient = rf.sliced_mmd2_gradient(
            x, y, slices=256, directions=kind, engine=engine, statistic=statistic,
            x_weights=a, y_weights=b, seed=generator(5),
        )  # fmt: skip
        if engine == "bins" and kind == "hadamard":
            # Half as many bins serve where no value is asked for.
            assert relative(gradient, leaves[0].grad) < 0.01
        else:
            torch.testing.assert_close(leaves[0].grad, gradient, rtol=1e-4, atol=1e-9)
        results[engine] = value.detach(), leaves[0].grad, leaves[1].grad
    (v, gx, gy), (w, hx, hy) = results["bins"], results["sort"]
    assert v.item() == pytest.approx(w.item(), rel=2e-3)
    # A bin holds some 5 of 2000 points; as a tie or spread it is off by about one, of differences of some 200.
    assert relative(gx, hx) < 0.01 and relative(gy, hy) < 0.01


def test_engines_agree_at_size():
    """20,000 points: bins hold a thousandth of the mass, and within them the distribution is nearly linear."""
    g = generator(0)
    x, y = torch.rand(20_000, 100, generator=g), torch.rand(20_000, 100, generator=g) ** 2
    got, exact = (rf.sliced_mmd2_gradient(x, y, slices=128, engine=e, seed=generator(1)) for e in ("bins", "sort"))
    assert relative(got, exact) < 3e-3


def test_batches_and_float64_on_bins():
    x, y = (torch.stack(c) for c in zip(*(clouds(s, 60, 40, 70) for s in range(3)), strict=True))
    a = torch.stack([simplex(s, 60) for s in range(3)])
    value = rf.sliced_mmd2(x, y, slices=64, engine="bins", x_weights=a, seed=generator(2))
    gradient = rf.sliced_mmd2_gradient(x, y, slices=64, engine="bins", x_weights=a, seed=generator(2))
    assert value.shape == (3,) and gradient.shape == x.shape and gradient.dtype == torch.float64
    for k in range(3):
        one = rf.sliced_mmd2_gradient(x[k], y[k], slices=64, engine="bins", x_weights=a[k], seed=generator(2))
        assert torch.equal(one, gradient[k])
        exact = rf.sliced_mmd2_gradient(x[k], y[k], slices=64, engine="sort", x_weights=a[k], seed=generator(2))
        # 100 points in 128 bins: many share one, and are off by about a point, of differences of some ten
        assert relative(one, exact) < 0.1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-39])
@pytest.mark.parametrize("kind", ["hadamard", "orthogonal"])
def test_scale_does_not_matter(engine, scale, kind):
    """For r = 1 gradients have no unit and values the points'. 1e-39 is denormal and keeps some 20 bits."""
    x, y = clouds(4, 800, 600, 70, torch.float32)
    small, large = ((f * x, f * y) for f in (1.0, scale))
    one, two = (
        rf.sliced_mmd2_gradient(*c, slices=128, directions=kind, engine=engine, seed=generator(1)) for c in (small, large)
    )
    assert relative(two, one) < (1e-3 if engine == "sort" else 1e-2)
    v, w = (rf.sliced_mmd2(*c, slices=128, directions=kind, engine=engine, seed=generator(1)).item() for c in (small, large))
    # the value itself is denormal for the smallest: 1e-45 is its last bit
    assert w == pytest.approx(scale * v, rel=1e-3, abs=1e-44)


@pytest.mark.parametrize("kind", ["hadamard", "orthogonal"])
def test_one_outlier_spoils_nothing(kind):
    """One point at 10⁸ times the spread: the others' gradients and its own stay those of the exact engine."""
    x, y = clouds(4, 3000, 2500, 70, torch.float32)
    x[17] *= 1e8 / x[17].norm()
    got, exact = (
        rf.sliced_mmd2_gradient(x, y, slices=128, directions=kind, engine=e, seed=generator(1)) for e in ("bins", "sort")
    )
    assert relative(got, exact) < 0.01
    assert relative(got[17], exact[17]) < 0.01
    v, w = (rf.sliced_mmd2(x, y, slices=128, directions=kind, engine=e, seed=generator(1)).item() for e in ("bins", "sort"))
    assert v == pytest.approx(w, rel=1e-3)


@pytest.mark.parametrize("kind", ["hadamard", "orthogonal"])
def test_two_points(kind):
    """All of x in one place, all of y in another: every slice is two point masses, and nothing acts inside a cloud."""
    x, y = torch.full((3000, 70), 0.2), torch.full((2000, 70), 0.7)
    gradient = rf.sliced_mmd2_gradient(x, y, slices=128, directions=kind, engine="bins", seed=generator(1)) * 3000
    xi = directions.sample(kind, 128, 70, x, generator(1))
    side = xi.project(x[:1] - y[:1]).sign()
    wanted = rf.Riesz(1.0).basis_constant(xi.n) / 128 * xi.adjoint(side)
    torch.testing.assert_close(gradient, wanted.expand_as(gradient), rtol=0, atol=1e-5)


def test_binary_images():
    """Sparse vectors of zeros and ones, many of them copies of one another."""
    g = generator(6)
    pool = (torch.rand(40, 100, generator=g) < 0.1).float()
    x, y = pool[torch.randint(30, (3000,), generator=g)], pool[torch.randint(10, 40, (3000,), generator=g)]
    got, exact = (
        rf.sliced_mmd2_gradient(x, y, slices=256, directions="hadamard", engine=e, seed=generator(1)) for e in ("bins", "sort")
    )
    # forty point masses a slice, which now and then share one of a thousand bins
    assert relative(got, exact) < 0.03


# Fast directions.


@pytest.mark.parametrize(("P", "d"), [(64, 5), (100, 64), (200, 100), (128, 128), (40, 300)])
def test_hadamard_paths_agree(P, d):
    """Compiled and plain transforms, adjoints, parts; whole blocks keep lengths."""
    xi = directions.sample("hadamard", P, d, torch.zeros(1), generator(3))
    wide = Hadamard(xi.signs.double(), P, d)
    x, g = torch.randn(77, d, generator=generator(1)), torch.randn(P, 77, generator=generator(2))
    projected, back = wide.project(x.double()), wide.adjoint(g.double())
    torch.testing.assert_close(xi.project(x).double(), projected, rtol=0, atol=2e-5)
    torch.testing.assert_close(xi.adjoint(g).double(), back, rtol=0, atol=5e-5)
    torch.testing.assert_close((projected * g).sum(), (back * x).sum())
    for step in (1, 30, 64):
        parts = wide.split(step)
        torch.testing.assert_close(torch.cat([p.project(x.double()) for p in parts]), projected)
        pieces = g.double().split(step)
        torch.testing.assert_close(sum(p.adjoint(h) for p, h in zip(parts, pieces, strict=True)), back)
    if P % xi.n == 0:
        torch.testing.assert_close((projected**2).sum(0), (x.double() ** 2).sum(1) * P / xi.n)


@pytest.mark.parametrize("d", [2, 3, 8, 64, 100])
def test_hadamard_bias(d):
    """c_{n,1} E|⟨ξ, z⟩| = ‖z‖ for the worst z, a coordinate axis, up to O(1/n): measured over 4000 blocks, within 1 %."""
    z = torch.zeros(1, d)
    z[0, 0] = 1
    xi = directions.sample("hadamard", 4000 * max(64, 1 << (d - 1).bit_length()), d, z, generator(9))
    mean = xi.project(z).abs().double().mean().item()
    assert rf.Riesz(1.0).basis_constant(xi.n) * mean == pytest.approx(1, abs=0.01)


def test_sobol_beats_independent_directions():
    x, y = clouds(1, 40, 40, 3)
    exact = rf.mmd2(x, y)

    def error(kind):
        draws = [rf.sliced_mmd2(x, y, slices=256, directions=kind, seed=generator(s)) - exact for s in range(30)]
        return torch.stack(draws).square().mean().sqrt().item()

    assert error("sobol") < 0.5 * error("independent")


# Slices of kernels, and kernels on bins.


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("d", [1, 2, 3, 8, 50, 785])
def test_slices_average_to_the_kernel(kernel, d):
    """k(ρ) = ∫ f(ρ s) dμ(s) with the density of one coordinate of the sphere, ∝ sin^{d−2} θ at s = cos θ."""
    rho = np.array([0.1, 1.0, 3.0])
    if d == 1:
        mean = kernel.basis(rho, 1)
    else:
        nodes, weights = np.polynomial.legendre.leggauss(800)
        theta = (nodes + 1) * np.pi / 4
        density = weights * np.sin(theta) ** (d - 2)
        mean = (kernel.basis(rho[:, None] * np.cos(theta), d) * density).sum(1) / density.sum()
    wanted = [kernel_by_hand(kernel, np.array([0.0]), np.array([v])) for v in rho]
    # |t|^0.3 has a cusp at the end of the integral, which costs the quadrature digits
    np.testing.assert_allclose(mean, wanted, atol=1e-5 if kernel == rf.Riesz(0.3) else 1e-7)


@pytest.mark.parametrize("dof", [1, 3, 5])
@pytest.mark.parametrize("d", [1, 2, 7, 64])
def test_kept_slices_are_the_quadrature(d, dof):
    """Between the nodes, at distances from 1e-4 to 1e4 lengths of the slice, and beyond the end where nothing is left."""
    t = 10 ** np.random.default_rng(d).uniform(-4, 4, 200) / math.sqrt(d)
    np.testing.assert_allclose(_basis.student(t, d, dof), _basis._student(t, d, dof), rtol=0, atol=1e-8)
    assert _basis.student(np.array([0.0]), d, dof)[0] == pytest.approx(1, abs=1e-9)
    assert np.array_equal(_basis.student(np.array([[1e7, np.inf]]), d, dof), [[0, 0]])
    # The functions are kept: as many nodes again are asked for by nobody.
    before = _basis._student_interpolator.cache_info()
    _basis.student(t, d, dof)
    after = _basis._student_interpolator.cache_info()
    assert after.hits == before.hits + 1 and after.misses == before.misses and after.maxsize is not None


def brute_slices(x, y, kernel, xi, statistic, a, b):
    """Mean over slices of the one-dimensional functional with the kernel's slice, and its gradient, by all pairs."""
    px, py = xi.project(x).numpy(), xi.project(y).numpy()
    top = 2.1 * max(np.abs(px).max(), np.abs(py).max())
    if isinstance(kernel, rf.Riesz):
        f = lambda t: kernel.basis(np.abs(t), xi.n)  # noqa: E731
        df = lambda t: np.where(t == 0, 0, kernel.r * f(np.where(t == 0, 1, t)) / np.where(t == 0, 1, t))  # noqa: E731
    else:
        from scipy.interpolate import CubicSpline

        nodes = np.linspace(0, top, 20_001)
        spline = CubicSpline(nodes, kernel.basis(nodes, xi.n))
        f = lambda t: spline(np.abs(t))  # noqa: E731
        df = lambda t: np.sign(t) * spline(np.abs(t), 1)  # noqa: E731
    a, b = a.numpy(), b.numpy()
    alpha, beta = ((1 / (1 - (w**2).sum()) if statistic == "U" else 1.0) for w in (a, b))
    value, derivative = 0.0, np.empty_like(px)
    for p, (u, v) in enumerate(zip(px, py, strict=True)):
        own = f(np.zeros(1))[0] if statistic == "U" else 0.0
        xx, yy = a @ f(u[:, None] - u) @ a - own * (a**2).sum(), b @ f(v[:, None] - v) @ b - own * (b**2).sum()
        value += 0.5 * alpha * xx + 0.5 * beta * yy - a @ f(u[:, None] - v) @ b
        derivative[p] = a * (alpha * (df(u[:, None] - u) @ a) - df(u[:, None] - v) @ b)
    return value / xi.P, xi.adjoint(torch.from_numpy(derivative / xi.P))


# Relative errors of gradients as docs/design.md states them, for 300 points of unit spread per dimension and kernels as wide as
# the data. A kink in the kernel (Laplace, Matérn ½) or worse (Riesz below 1) makes near pairs count that bins do not resolve.
STATED = [
    (rf.Riesz(1.5), 2e-3), (rf.Riesz(1.9), 2e-3), (rf.Gaussian(1.0), 1e-2), (rf.InverseMultiquadric(1.0), 1e-2),
    (rf.Matern(1.5, 1.0), 1e-2), (rf.Matern(2.5, 1.0), 1e-2), (rf.Laplace(1.0), 0.15), (rf.Matern(0.5, 1.0), 0.15),
]  # fmt: skip


def widened(kernel, s):
    match kernel:
        case rf.Riesz():
            return kernel
        case rf.Matern():
            return rf.Matern(kernel.nu, s)
    return type(kernel)(s)


@pytest.mark.parametrize(("kernel", "stated"), STATED, ids=lambda v: str(v))
@pytest.mark.parametrize("statistic", ["V", "U"])
@pytest.mark.parametrize(("d", "weighted"), [(3, True), (70, False), (70, True)])
def test_kernels_on_bins(kernel, stated, statistic, d, weighted):
    x, y = clouds(1, 300, 200, d)
    kernel = widened(kernel, math.sqrt(d))
    a, b = (
        (simplex(2, 300), simplex(3, 200)) if weighted else (torch.full((n,), 1 / n, dtype=torch.float64) for n in (300, 200))
    )
    xi = directions.sample("auto", 64, d, x, generator(5))
    value, gradient = brute_slices(x, y, kernel, xi, statistic, a, b)
    options = {"kernel": kernel, "slices": 64, "statistic": statistic, "seed": generator(5)}
    if weighted:
        options |= {"x_weights": a, "y_weights": b}
    assert relative(rf.sliced_mmd2_gradient(x, y, **options), gradient) < stated
    options["seed"] = generator(5)
    leaf = x.clone().requires_grad_()
    got = rf.sliced_mmd2(leaf, y, **options)
    got.backward()
    assert got.item() == pytest.approx(value, rel=0.01)
    assert relative(leaf.grad, gradient) < stated


@pytest.mark.parametrize("kernel", [rf.Gaussian(4.0), rf.Riesz(1.5), rf.InverseMultiquadric(4.0)], ids=str)
def test_sliced_kernels_converge_to_brute_force(kernel):
    """Slices, constants and bins together: the mean of many draws is the kernel's own gradient and value."""
    x, y = clouds(2, 40, 50, 8)
    g = generator(3)
    draws = torch.stack([rf.sliced_mmd2(x, y, kernel=kernel, slices=64, seed=g) for _ in range(100)])
    exact = rf.mmd2(x, y, kernel=kernel)
    assert (draws.mean() - exact).abs() < 5 * draws.std() / 10 + 5e-3 * exact
    mean = torch.stack([rf.sliced_mmd2_gradient(x, y, kernel=kernel, slices=64, seed=g) for _ in range(100)]).mean(0)
    assert relative(mean, rf.mmd2_gradient(x, y, kernel=kernel)) < 0.03  # what 6400 slices leave


def test_gradients_of_riesz_below_one_come_with_a_warning():
    x, y = clouds(2, 40, 50, 8)
    with pytest.warns(UserWarning, match=r"^kernel: gradients of Riesz\(r=0.5\)"):
        rf.sliced_mmd2_gradient(x, y, kernel=rf.Riesz(0.5), slices=8)
    draws = torch.stack([rf.sliced_mmd2(x, y, kernel=rf.Riesz(0.5), slices=64, seed=generator(k)) for k in range(100)])
    assert (draws.mean() - rf.mmd2(x, y, kernel=rf.Riesz(0.5))).abs() < 5 * draws.std() / 10 + 1e-3 * draws.mean()


def sized(kernel, s):
    """The kernel for points s times as large, and the power of s that its values take."""
    if isinstance(kernel, rf.Riesz):
        return kernel, kernel.r
    return (rf.Matern(kernel.nu, s) if isinstance(kernel, rf.Matern) else type(kernel)(s)), 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kernel", [k for k in KERNELS if k != rf.Riesz(1.0)], ids=str)
@pytest.mark.filterwarnings("ignore:kernel. gradients of Riesz")
def test_kernels_on_bins_at_any_scale(kernel, dtype):
    """All is taken in the unit of the projections: the same up to the rounding of one factor and of the result."""
    x, y = clouds(1, 60, 50, 3, dtype)
    kernel, _ = sized(kernel, 2.0)
    for e in (93, 120, -93, -120) if dtype == torch.float32 else (515, 1000, -565, -1000):
        other, r = sized(kernel, 2.0 ** (e + 1))
        for statistic, kind in (("V", "orthogonal"), ("U", "hadamard")):
            one, two = (
                [f(c * x, c * y, kernel=k, slices=32, directions=kind, statistic=statistic, seed=generator(2)).double()
                 for f in (rf.sliced_mmd2, rf.sliced_mmd2_gradient)]
                for k, c in ((kernel, 1.0), (other, 2.0**e))
            )  # fmt: skip
            for got, base, power in ((two[0], one[0], e * r), (two[1], one[1], e * (r - 1))):
                wanted = base * 2.0 ** (power / 2) * 2.0 ** (power / 2)
                if wanted.abs().max() > torch.finfo(dtype).max:
                    assert torch.isinf(got).any() and not torch.isnan(got).any()
                elif wanted.abs().max() > 1e5 * torch.finfo(dtype).tiny:  # below, results have fewer digits
                    assert (got / wanted.abs().max() - wanted / wanted.abs().max()).abs().max() < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_any_scale_in_float64(engine):
    x, y = clouds(1, 60, 50, 3)
    options = {"slices": 32, "engine": engine}
    value, gradient = (f(x, y, **options, seed=generator(2)) for f in (rf.sliced_mmd2, rf.sliced_mmd2_gradient))
    for s in (2.0**1000, 2.0**515, 2.0**-560, 2.0**-1000):
        assert rf.sliced_mmd2(s * x, s * y, **options, seed=generator(2)) == s * value
        assert torch.equal(rf.sliced_mmd2_gradient(s * x, s * y, **options, seed=generator(2)), gradient)


@pytest.mark.parametrize("kind", ["orthogonal", "hadamard"])
def test_what_float32_cannot_hold_is_refused(kind, request):
    """A point 10^50 times the spread away: its projections, in the others' unit, are no numbers. Never outside of a table."""
    g = generator(1)
    x, y = 1e-20 * torch.randn(3000, 70, generator=g), 1e-20 * torch.randn(3000, 70, generator=g)
    x[1234], x[2345] = 1e30, -1e30
    options = {"slices": 64, "directions": kind}
    target = rf.Target(y, **options, engine="bins", reuse=2, seed=g)
    for _ in range(2):
        for function in (rf.sliced_mmd2, rf.sliced_mmd2_gradient):
            with pytest.raises(ValueError, match="^x, y: points so far from the others"):
                function(x, y, **options, engine="bins", seed=g)
            with pytest.raises(ValueError, match="^x, y: points so far from the others"):
                function(x, y, kernel=rf.Gaussian(1e10), **options, seed=g)
            assert torch.isfinite(function(x, y, **options, engine="sort", seed=g)).all()
        with pytest.raises(ValueError, match="^x, y: points so far from the others"):
            target.gradient(x)
        if "on_device_passes" not in request.fixturenames:
            request.getfixturevalue("on_device_passes")
    wide = torch.cat([torch.full((20, 3), 3e38), torch.full((20, 3), -3e38)])
    for engine in ENGINES:
        with pytest.raises(ValueError, match="^x, y: points further apart than torch.float32 can hold"):
            rf.sliced_mmd2(wide, -wide, slices=8, engine=engine)


def test_one_point_apart_from_many_copies():
    """All of a sample in one place: bins as narrow as they get, and one point at 10^20 of their widths and more."""
    for far in (1.0, 1e6):
        x, y = torch.zeros(3000, 3), torch.zeros(2000, 3)
        x[1234, 0] = far
        got, exact = (rf.sliced_mmd2(x, y, slices=8, engine=e, seed=generator(1)).item() for e in ENGINES)
        assert got == pytest.approx(exact, rel=1e-4)


def test_kernels_that_are_too_wide_come_with_a_warning():
    """Up to there gradients are right; beyond, the kernel's values differ in their last digits only."""
    x, y = clouds(1, 60, 50, 3)
    options = {"slices": 32, "directions": "orthogonal"}
    for s in (1e2, 1e3):
        one, two = (
            rf.sliced_mmd2_gradient(x, y, kernel=rf.Gaussian(v), **options, seed=generator(1)) * v**2 for v in (10 * s, s)
        )
        # k is 1 − ρ²/2σ² up to ρ⁴/8σ⁴: all slopes are the same but for the unit, and for 1e-16 σ²/ρw, w a 500th of ρ
        assert relative(one, two) < 0.01
    for kernel in (rf.Gaussian(1e6), rf.Laplace(1e6), rf.Matern(1.5, 1e9), rf.InverseMultiquadric(1e200)):
        with pytest.warns(UserWarning, match="^kernel: .* times as wide"):
            rf.sliced_mmd2_gradient(x, y, kernel=kernel, **options)
    assert rf.sliced_mmd2_gradient(x[:1].expand(5, 3), x[:1], kernel=rf.Gaussian(1e9), **options).abs().max() == 0


# The passes for other devices.


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kernel", [rf.Riesz(1.0), rf.Gaussian(8.0)], ids=str)
def test_device_passes(kernel, weighted, monkeypatch, request):
    x, y = clouds(3, 700, 500, 70, torch.float32)
    x[5] *= 1000 if kernel == rf.Riesz(1.0) else 1
    a, b = (simplex(2, 700, torch.float32), simplex(3, 500, torch.float32)) if weighted else (None, None)
    options = {"kernel": kernel, "slices": 100, "engine": "bins", "x_weights": a, "y_weights": b}
    value = rf.sliced_mmd2(x, y, **options, seed=generator(1))
    gradient = rf.sliced_mmd2_gradient(x, y, **options, seed=generator(1))
    request.getfixturevalue("on_device_passes")
    torch.testing.assert_close(rf.sliced_mmd2(x, y, **options, seed=generator(1)), value, rtol=1e-4, atol=1e-6)
    # A projection at the edge of a bin may fall to either side of it by rounding, which moves one count.
    assert relative(rf.sliced_mmd2_gradient(x, y, **options, seed=generator(1)), gradient) < 1e-3


# Targets that remember.


def test_target_is_the_plain_gradient():
    x, y = clouds(1, 3000, 2000, 70, torch.float32)
    fresh = rf.Target(y, slices=64, seed=generator(4), reuse=1).gradient(x)
    seed = int(torch.randint(2**62, (), generator=generator(4)))  # of a set of slices
    assert torch.equal(fresh, rf.sliced_mmd2_gradient(x, y, slices=64, seed=generator(seed)))
    assert torch.equal(fresh, rf.Target(y, slices=64, seed=generator(4), reuse=2).gradient(x))
    # Kept tables: every turn again the same gradient, and other slices in between.
    target = rf.Target(y, slices=64, seed=generator(4), reuse=3)
    first, second, third, again = (target.gradient(x) for _ in range(4))
    assert torch.equal(first, again) and not torch.equal(first, second) and not torch.equal(second, third)
    for _ in range(5):
        target.gradient(x)
    assert not torch.equal(target.gradient(x), first)  # three uses are over
    as_numpy = rf.Target(y.numpy(), slices=64, seed=generator(4), reuse=1).gradient(x.numpy())
    assert isinstance(as_numpy, np.ndarray) and np.array_equal(as_numpy, fresh.numpy())


def test_target_follows_points_that_move():
    """Tables made for points far away would be coarse at the target: their range is made anew when the points leave it."""
    _, y = clouds(1, 10, 3000, 10, torch.float32)
    target = rf.Target(y, slices=40, seed=generator(4), reuse=4, engine="bins")
    for shift in (0.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0, 100.0):
        x = clouds(2, 3000, 10, 10, torch.float32)[0] + shift
        gradient = target.gradient(x)
    outward = gradient.mean(0) * 3000
    torch.testing.assert_close(outward.norm(), torch.tensor(1.0), rtol=0, atol=0.2)  # one unit of force, up to slice error
    assert all(outside < 0.05 for kept in target.kept for outside in kept.target.outside)


def test_target_goes_on_from_its_state():
    x, y = clouds(1, 3000, 2000, 70, torch.float32)
    g = generator(4)
    target = rf.Target(y, slices=100, seed=g, reuse=3)
    for _ in range(4):
        target.gradient(x)
    state, random = target.state(), g.get_state()
    wanted = [target.gradient(x) for _ in range(8)]
    h = torch.Generator()
    h.set_state(random)
    other = rf.Target(y, slices=100, seed=h, reuse=3)
    other.load_state(state)
    assert all(torch.equal(other.gradient(x), w) for w in wanted)


def test_bad_targets():
    y = torch.rand(10, 3)
    for key, value in {"reuse": 0, "slices": 0, "seed": "1", "kernel": "gauss", "engine": "fft"}.items():
        with pytest.raises((ValueError, TypeError), match=f"^{key}: "):
            rf.Target(y, **{key: value})
    target = rf.Target(y, slices=4)
    for x in (torch.rand(5, 2), torch.rand(5, 3).double(), torch.full((5, 3), float("nan")), np.zeros((5, 3))):
        with pytest.raises((ValueError, TypeError), match=r"^[xy]: "):
            target.gradient(x)


def test_weights_derivatives_need_the_exact_engine():
    x, y = clouds(1, 5, 4, 3)
    a = simplex(1, 5).requires_grad_()
    with pytest.raises(ValueError, match="^x_weights, y_weights: .*sort"):
        rf.sliced_mmd2(x, y, slices=8, engine="bins", x_weights=a)
    rf.sliced_mmd2(x, y, slices=8, x_weights=a).backward()  # "auto" takes it
    assert torch.isfinite(a.grad).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_scratch_is_each_process_own():
    """What a forked process writes into its working memory must not reach its parent's."""
    mine = scratch("test", (1000,), np.float32)
    mine[:] = 1
    child = os.fork()
    if child == 0:
        scratch("test", (1000,), np.float32)[:] = 2
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (scratch("test", (1000,), np.float32) == 1).all()
    assert scratch("test", (10, 20), np.int64).shape == (10, 20)
    assert scratch("test", (3000, 2000), np.float32).nbytes == 24_000_000
