"""What every engine must do: against brute force on one slice, against one another on many, at every scale."""

import re

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from problems import clouds, generator, gradient_1d_by_hand, relative, simplex

import rieszflow as rf
from rieszflow import directions, engines
from rieszflow._types import Need
from rieszflow.engines import Problem

ENGINES = list(engines.ENGINES)
KINDS = list(directions.KINDS)
EPS = torch.finfo(torch.float32).eps


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    x=st.lists(st.integers(-4, 4), min_size=1, max_size=12),
    y=st.lists(st.integers(-4, 4), min_size=1, max_size=12),
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
@example(x=[-1, 2, -1, -2], y=[-2], weighted=False, seed=0)  # a point within rounding of the last bin's right edge
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


@pytest.mark.parametrize("engine", ENGINES)
def test_any_scale_in_float64(engine):
    x, y = clouds(1, 60, 50, 3)
    options = {"slices": 32, "engine": engine}
    value, gradient = (f(x, y, **options, seed=generator(2)) for f in (rf.sliced_mmd2, rf.sliced_mmd2_gradient))
    for s in (2.0**1000, 2.0**515, 2.0**-560, 2.0**-1000):
        assert rf.sliced_mmd2(s * x, s * y, **options, seed=generator(2)) == s * value
        assert torch.equal(rf.sliced_mmd2_gradient(s * x, s * y, **options, seed=generator(2)), gradient)


def test_one_point_apart_from_many_copies():
    """All of a sample in one place: bins as narrow as they get, and one point at 10^20 of their widths and more."""
    for far in (1.0, 1e6):
        x, y = torch.zeros(3000, 3), torch.zeros(2000, 3)
        x[1234, 0] = far
        got, exact = (rf.sliced_mmd2(x, y, slices=8, engine=e, seed=generator(1)).item() for e in ENGINES)
        assert got == pytest.approx(exact, rel=1e-4)


def test_weights_derivatives_need_the_exact_engine():
    x, y = clouds(1, 5, 4, 3)
    a = simplex(1, 5).requires_grad_()
    with pytest.raises(ValueError, match="^`x_weights` and `y_weights` must not .*sort"):
        rf.sliced_mmd2(x, y, slices=8, engine="bins", x_weights=a)
    rf.sliced_mmd2(x, y, slices=8, x_weights=a).backward()  # "auto" takes it
    assert torch.isfinite(a.grad).all()


def test_engines_say_what_they_do_not_support():
    """In a sentence that begins with the argument. "auto" takes an engine that supports the problem."""
    x, y = clouds(1, 5, 4, 3)
    for kernel in (rf.Riesz(1.0), rf.Gaussian(1.0)):
        for need in (Need(value=True), Need(x=True), Need(b=True)):
            problem = Problem(kernel, need)
            able = [engine for engine in engines.ENGINES.values() if engine.refusal(problem) is None]
            for engine in engines.ENGINES.values():
                refusal = engine.refusal(problem)
                if refusal is not None:
                    assert re.match("`(kernel|x_weights)` ", refusal)
                    with pytest.raises(ValueError, match=re.escape(refusal)):
                        engines.choose(engine.name, problem, x, y)
            if able:
                assert engines.choose("auto", problem, x, y) in able
