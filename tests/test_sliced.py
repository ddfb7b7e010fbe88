"""Sliced values and gradients: every engine and kind of direction against brute force and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import clouds, generator, simplex

import rieszflow as rf
from rieszflow import directions

KINDS = list(directions.KINDS)


def unit(seed, P, d, dtype=torch.float64):
    return torch.nn.functional.normalize(torch.randn(P, d, generator=generator(seed), dtype=torch.float64), dim=1).to(dtype)


@pytest.mark.parametrize("statistic", ["V", "U"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("N", "M"), [(6, 9), (2, 2), (50, 3)])
def test_sliced_value_is_the_mean_of_1d_brute_force(statistic, weighted, dtype, N, M):
    x, y = clouds(1, N, M, 5, dtype)
    a, b = (simplex(2, N, dtype), simplex(3, M, dtype)) if weighted else (None, None)
    xi = unit(4, 7, 5, dtype)
    value = rf.sliced_mmd2(x, y, directions=xi, statistic=statistic, x_weights=a, y_weights=b).item()
    one = [rf.mmd2((x @ t)[:, None], (y @ t)[:, None], statistic=statistic, x_weights=a, y_weights=b).item() for t in xi]
    wanted = rf.Riesz().basis_constant(5) * sum(one) / 7
    assert value == pytest.approx(wanted, rel=1e-12 if dtype == torch.float64 else 2e-5, abs=torch.finfo(dtype).eps)


@pytest.mark.parametrize("statistic", ["V", "U"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_is_the_mean_of_1d_brute_force(statistic, dtype, weighted):
    x, y = clouds(1, 8, 11, 4, dtype)
    a, b = (simplex(2, 8, dtype), simplex(3, 11, dtype)) if weighted else (None, None)
    xi = unit(4, 6, 4, dtype)
    gradient = rf.sliced_mmd2_gradient(x, y, directions=xi, statistic=statistic, x_weights=a, y_weights=b)
    leaf = x.double().requires_grad_()
    wide = {k: None if w is None else w.double() for k, w in (("x_weights", a), ("y_weights", b))}
    total = sum(rf.mmd2((leaf @ t)[:, None], (y.double() @ t)[:, None], statistic=statistic, **wide) for t in xi.double())
    (wanted,) = torch.autograd.grad(rf.Riesz().basis_constant(4) / 6 * total, leaf)
    torch.testing.assert_close(gradient.double(), wanted, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("statistic", ["V", "U"])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_autograd_by_gradcheck(statistic, batch):
    x, y = clouds(4, 5, 4, 3)
    x, y = (t.expand(*batch, *t.shape) + 0.01 * torch.arange(math.prod(batch)).view(*batch, 1, 1) for t in (x, y))
    xi = unit(5, 6, 3)

    def f(x, y, a, b):
        return rf.sliced_mmd2(x, y, directions=xi, statistic=statistic, x_weights=a / a.sum(), y_weights=b / b.sum())

    arguments = [t.clone().requires_grad_() for t in (x, y, simplex(6, 5), simplex(7, 4))]
    assert torch.autograd.gradcheck(f, arguments)


def test_autograd_is_the_gradient_function():
    x, y = clouds(8, 30, 20, 6, torch.float32)
    leaf = x.clone().requires_grad_()
    rf.sliced_mmd2(leaf, y, slices=12, seed=generator(1)).backward()
    torch.testing.assert_close(leaf.grad, rf.sliced_mmd2_gradient(x, y, slices=12, seed=generator(1)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 2, 3, 8, 30])
def test_sliced_converges_to_brute_force(kind, d):
    """An average over independent draws, within five standard errors of the brute-force value and gradient."""
    x, y = clouds(2, 6, 7, d)
    g = generator(3)
    draws = torch.stack([rf.sliced_mmd2(x, y, slices=2 * d, directions=kind, seed=g) for _ in range(400)])
    error = 5 * draws.std() / 20 + 1e-12
    assert (draws.mean() - rf.mmd2(x, y)).abs() < error
    draws = torch.stack([rf.sliced_mmd2_gradient(x, y, slices=2 * d, directions=kind, seed=g) for _ in range(400)])
    # 6·30 numbers are looked at: five standard errors still leave a chance of 1e-4 in all.
    assert ((draws.mean(0) - rf.mmd2_gradient(x, y)).abs() <= 5 * draws.std(0) / 20 + 1e-12).all()


def test_directions_are_what_they_say():
    for P, d in ((1, 1), (5, 3), (64, 64), (70, 64), (3, 200)):
        for kind in KINDS:
            xi = directions.sample(kind, P, d, torch.zeros(1, dtype=torch.float32), generator(0))
            dense = xi.project(torch.eye(d)).contiguous()
            assert dense.shape == (P, d) and xi.P == P and xi.n >= d
            assert (dense.norm(dim=1) < 1 + 1e-5).all()  # shorter only where points are padded with zeros
            if xi.n == d:
                torch.testing.assert_close(dense.norm(dim=1), torch.ones(P), rtol=0, atol=1e-5)
        first = directions.sample("orthogonal", P, d, torch.zeros(1), generator(0)).xi[: min(P, d)]
        torch.testing.assert_close(first @ first.T, torch.eye(len(first)), rtol=0, atol=1e-5)


def test_haar_blocks_are_uniform():
    """Every entry of a Haar matrix has mean 0 and variance 1/d; 3000 blocks, five standard errors."""
    d, n = 3, 3000
    g = generator(5)
    like = torch.zeros(1, dtype=torch.float64)
    blocks = torch.stack([directions.sample("orthogonal", d, d, like, g).xi for _ in range(n)])
    assert (blocks.mean(0).abs() < 5 / math.sqrt(d * n)).all()
    assert ((blocks**2).mean(0) - 1 / d).abs().max() < 5 * (blocks**2).std(0).max() / math.sqrt(n)


def test_orthogonal_blocks_have_the_smaller_error():
    x, y = clouds(1, 40, 40, 16)
    exact = rf.mmd2_gradient(x, y)

    def error(kind):
        g = generator(7)
        errors = [(rf.sliced_mmd2_gradient(x, y, slices=16, directions=kind, seed=g) - exact).norm() for _ in range(50)]
        return torch.stack(errors).square().mean().sqrt()

    assert error("orthogonal") < 0.9 * error("independent")


def test_theorem_4_rate():
    """Independent directions: the root mean square error falls like 1/√P, so 16 times the slices give a quarter."""
    x, y = clouds(1, 30, 30, 20)
    exact = rf.mmd2_gradient(x, y)

    def error(P):
        g = generator(11)
        draws = [rf.sliced_mmd2_gradient(x, y, slices=P, directions="independent", seed=g) for _ in range(60)]
        return torch.stack([(t - exact).norm().square() for t in draws]).mean().sqrt().item()

    # 60 draws of a norm with a relative spread of some 10 % fix the ratio to a few per cent.
    assert error(50) / error(800) == pytest.approx(4, rel=0.15)


@given(seed=st.integers(0, 2**31), N=st.integers(1, 9), M=st.integers(1, 9), d=st.integers(1, 5), scale=st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_invariances(seed, N, M, d, scale):
    x, y = clouds(seed, N, M, d)
    xi = unit(seed, 5, d)
    value, gradient = rf.sliced_mmd2(x, y, directions=xi), rf.sliced_mmd2_gradient(x, y, directions=xi)
    assert value >= 0
    order = torch.randperm(N, generator=generator(seed))
    shift = torch.randn(d, generator=generator(seed), dtype=torch.float64)
    same = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(
        rf.sliced_mmd2(scale * x[order] + shift, scale * y + shift, directions=xi), scale * value, **same
    )
    torch.testing.assert_close(rf.sliced_mmd2_gradient(scale * x[order], scale * y, directions=xi), gradient[order], **same)
    torch.testing.assert_close(rf.sliced_mmd2(y, x, directions=xi), value, **same)
    twice = rf.sliced_mmd2_gradient(x.repeat(2, 1), y.repeat(3, 1), directions=xi)
    # A matrix product may round two copies of a point differently and so break their tie; together they act as one.
    torch.testing.assert_close(twice[:N] + twice[N:], gradient, **same)
    assert rf.sliced_mmd2(x, x[order], directions=xi) < 1e-12
    rotation = torch.linalg.qr(torch.randn(d, d, generator=generator(seed), dtype=torch.float64))[0]
    turned = rf.sliced_mmd2(x @ rotation, y @ rotation, directions=xi @ rotation)
    torch.testing.assert_close(turned, value, **same)


def test_batches_and_chunks(monkeypatch):
    x, y = (torch.stack(c) for c in zip(*(clouds(s, 6, 4, 3, torch.float32) for s in range(4)), strict=True))
    xi = unit(1, 9, 3, torch.float32)
    value, gradient = rf.sliced_mmd2(x, y, directions=xi), rf.sliced_mmd2_gradient(x, y, directions=xi)
    for k in range(4):
        torch.testing.assert_close(rf.sliced_mmd2(x[k], y[k], directions=xi), value[k], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(rf.sliced_mmd2_gradient(x[k], y[k], directions=xi), gradient[k], rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("rieszflow.engines.sort._PROJECTIONS", 50)
    torch.testing.assert_close(rf.sliced_mmd2(x, y, directions=xi), value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rf.sliced_mmd2_gradient(x, y, directions=xi), gradient, rtol=1e-5, atol=1e-6)


def test_same_seed_same_numbers_and_numpy_in_kind():
    x, y = clouds(1, 20, 30, 5, torch.float32)
    one, two = (rf.sliced_mmd2_gradient(x, y, slices=10, seed=generator(3)) for _ in range(2))
    assert torch.equal(one, two)
    as_numpy = rf.sliced_mmd2_gradient(x.numpy(), y.numpy(), slices=10, seed=generator(3))
    assert isinstance(as_numpy, np.ndarray) and np.array_equal(as_numpy, one.numpy())
    assert isinstance(rf.sliced_mmd2(x.numpy(), y.numpy(), slices=10), np.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu():
    x, y = clouds(1, 200, 300, 10, torch.float32)
    xi = unit(2, 32, 10, torch.float32)
    for function in (rf.sliced_mmd2, rf.sliced_mmd2_gradient):
        torch.testing.assert_close(
            function(x.cuda(), y.cuda(), directions=xi).cpu(), function(x, y, directions=xi), atol=1e-5, rtol=1e-4
        )
    for function in (rf.mmd2, rf.mmd2_gradient):
        torch.testing.assert_close(function(x.cuda(), y.cuda()).cpu(), function(x, y), atol=1e-6, rtol=1e-5)
