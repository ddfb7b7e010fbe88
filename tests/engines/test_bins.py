"""The linear-time engine for r = 1: its bound, point masses and outliers, against the exact one."""

import numpy as np
import pytest
import torch
from problems import clouds, generator, relative, simplex

import rieszflow as rf
from rieszflow import directions, engines
from rieszflow._types import Cloud, Need
from rieszflow.engines import Problem
from rieszflow.histograms import Histogram, loops

EPS = torch.finfo(torch.float32).eps


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
    """|F̂ − F| and |Ĝ − G| are at most the counts of the point's own bin; the gradient is 4(G − F) over N."""
    g = generator(n)
    x, y = shapes(x_shape, n, g), shapes(y_shape, 2 * n, g)
    xi = torch.ones(1, 1)
    got, exact = (rf.sliced_mmd2_gradient(x, y, directions=xi, engine=e)[:, 0] * n for e in ("bins", "sort"))
    problem = Problem(rf.Riesz(1.0), Need(x=True))
    (t,) = engines.CachedTarget.for_points(x, Cloud(y), directions.DenseDirections(xi), problem).histograms
    grid = t.grid
    f = Histogram.from_points(grid, Cloud(x)).counts
    u = (grid.project(x)[0].numpy() - grid.low.numpy()[0]) * grid.inverse.numpy()[0]
    own = np.array([loops.locate(v, grid.B)[0] for v in u])
    bound = 4 * (f[0] + t.counts[0]).numpy()[own]
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
    wanted = 2 * rf.Riesz(1.0).basis_constant(xi.n) / 128 * xi.adjoint(side)
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


@pytest.mark.parametrize("kind", ["orthogonal", "hadamard"])
def test_what_float32_cannot_hold_is_refused(kind, request):
    """A point 10^50 times the spread away: its projections, in the others' unit, are no numbers. Never outside of a table.

    Other devices give NaN in place of gradients, because to refuse them would be to wait for the device.
    """
    g = generator(1)
    x, y = 1e-20 * torch.randn(3000, 70, generator=g), 1e-20 * torch.randn(3000, 70, generator=g)
    x[1234], x[2345] = 1e30, -1e30
    options = {"slices": 64, "directions": kind}
    target = rf.Target(y, **options, engine="bins", refresh_every=2, seed=g)
    functions = [
        lambda **more: rf.sliced_mmd2_gradient(x, y, **options, **more, seed=g),
        lambda **more: rf.sliced_mmd2(x, y, **options, **more, seed=g),
    ]
    for function in functions:
        with pytest.raises(ValueError, match="^`x` and `y` must lie within"):
            function(engine="bins")
        with pytest.raises(ValueError, match="^`x` and `y` must lie within"):
            function(kernel=rf.Gaussian(1e10))
        assert torch.isfinite(function(engine="sort")).all()
    with pytest.raises(ValueError, match="^`x` and `y` must lie within"):
        target.gradient(x)
    request.getfixturevalue("torch_backend")
    with pytest.raises(ValueError, match="^`x` and `y` must lie within"):
        rf.sliced_mmd2(x, y, **options, engine="bins", seed=g)
    assert functions[0](engine="bins").isnan().all() and target.gradient(x).isnan().all()
    wide = torch.cat([torch.full((20, 3), 3e38), torch.full((20, 3), -3e38)])
    for engine in engines.ENGINES:
        with pytest.raises(ValueError, match="^`x` and `y` must have differences that torch.float32 can hold"):
            rf.sliced_mmd2(wide, -wide, slices=8, engine=engine)
