"""The energy score: against its formula over all pairs, closed forms, and D²."""

import math

import numpy as np
import pytest
import torch
from problems import generator

import rieszflow as rf
from rieszflow import scoring as module
from rieszflow.errors import DerivativeError, InputError, InputTypeError


def brute(samples, y, fair):
    m = samples.shape[-2]
    away = (samples - y.unsqueeze(-2)).norm(dim=-1).mean(-1)
    apart = (samples.unsqueeze(-2) - samples.unsqueeze(-3) + 1e-300).norm(dim=-1).sum((-1, -2))
    return away - apart / (2 * m * (m - 1 if fair else m))


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("batch", [(), (3,), (2, 4)])
@pytest.mark.parametrize("fair", [True, False])
@pytest.mark.parametrize("pairs", [1 << 22, 30, 1])
def test_is_the_formula(d, batch, fair, pairs, monkeypatch):
    """Values and gradients, however the pairs are cut. Sums of some hundred numbers of size one in float64."""
    monkeypatch.setattr(module, "_PAIRS", pairs)
    g = generator(d)
    x, y = torch.randn(*batch, 9, d, generator=g).double(), torch.randn(*batch, d, generator=g).double()
    weights = torch.rand(batch, generator=g).double()
    found, expected = [], []
    for to, function in ((found, rf.energy_score), (expected, brute)):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        score = function(a, b, fair=fair)
        (score * weights).sum().backward()
        to += [score, a.grad, b.grad]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("d", [1, 3])
def test_is_the_distance_to_a_point(d):
    g = generator(1)
    x, y = torch.randn(40, d, generator=g).double(), torch.randn(d, generator=g).double()
    torch.testing.assert_close(rf.energy_score(x, y, fair=False), rf.mmd2(x, y[None]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("d", [1, 2])
def test_samples_in_one_place(d):
    """Each is pulled to y with the strength 1/m, and none pushes another."""
    x = torch.full((4, d), 2.0, requires_grad=True)
    rf.energy_score(x, torch.zeros(d)).backward()
    torch.testing.assert_close(x.grad, torch.full((4, d), 1 / 4 / math.sqrt(d)))
    at = torch.zeros(4, d, requires_grad=True)
    rf.energy_score(at, torch.zeros(d)).backward()
    assert not at.grad.any()


@pytest.mark.parametrize("y", [-1.3, 0.0, 2.0])
def test_crps_of_a_normal_distribution(y):
    """y (2Φ(y) − 1) + 2φ(y) − 1/√π (Gneiting and Raftery). Its mean over 100,000 samples has an error of about 1/√100,000."""
    x = torch.randn(100_000, 1, generator=generator(2)).double()
    cdf, pdf = 0.5 * (1 + math.erf(y / math.sqrt(2))), math.exp(-y * y / 2) / math.sqrt(2 * math.pi)
    expected = y * (2 * cdf - 1) + 2 * pdf - 1 / math.sqrt(math.pi)
    assert rf.energy_score(x, torch.tensor([y]).double()).item() == pytest.approx(expected, abs=5 / math.sqrt(100_000))


def test_fair_scores_do_not_depend_on_the_number_of_samples():
    """Means over 20,000 forecasts of 2 and of 20 samples: the error of one is its spread, below 1, over √20,000; five of them
    and twice. With all pairs, 2 samples miss a quarter of E‖X − X′‖, 0.44."""
    g = generator(3)
    y = torch.randn(20_000, 2, generator=g)
    few, many = (rf.energy_score(torch.randn(20_000, m, 2, generator=g), y).mean() for m in (2, 20))
    assert abs(few - many) < 10 / math.sqrt(20_000)
    assert rf.energy_score(torch.randn(20_000, 2, 2, generator=g), y, fair=False).mean() > few + 0.3


def test_far_from_zero():
    """y is taken off before anything else: in float32, numbers around 1,000 that differ by whole eighths are exact."""
    g = generator(4)
    x, y = torch.randint(0, 64, (3, 10, 2), generator=g) / 8.0, torch.randint(0, 64, (3, 2), generator=g) / 8.0
    assert torch.equal(rf.energy_score(x + 1000, y + 1000), rf.energy_score(x, y))


def test_arrays_in_arrays_out():
    g = np.random.default_rng(0)
    x, y = g.normal(size=(4, 6, 2)), g.normal(size=(4, 2))
    found = rf.energy_score(x, y)
    assert isinstance(found, np.ndarray) and found.shape == (4,)
    assert isinstance(rf.energy_score(x[0], y[0]), np.float64)


@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        (torch.zeros(4, 2), torch.zeros(3), InputError, r"y: shape \(3,\) given; \(2,\) is accepted"),
        (torch.zeros(5, 4, 2), torch.zeros(2), InputError, r"y: shape \(2,\) given; \(5, 2\)"),
        (torch.zeros(1, 2), torch.zeros(2), InputError, "samples: one given"),
        (torch.zeros(4), torch.zeros(1), InputError, r"samples: shape \(4,\)"),
        (torch.zeros(4, 2), torch.zeros(2).double(), InputTypeError, "y: torch.float64"),
        (torch.zeros(4, 2), np.zeros(2, np.float32), InputTypeError, "y: ndarray given"),
        (torch.zeros(4, 2), torch.tensor([1.0, math.nan]), InputError, "y: contains NaN"),
        (torch.full((4, 2), math.inf), torch.zeros(2), InputError, "samples: contains NaN"),
        (torch.zeros(4, 2, dtype=torch.int64), torch.zeros(2), InputTypeError, "samples: dtype"),
    ],
)
def test_what_does_not_fit_is_refused(x, y, error, words):
    with pytest.raises(error, match=words):
        rf.energy_score(x, y)


def test_a_second_derivative_is_an_error():
    x = torch.randn(5, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(rf.energy_score(x, torch.zeros(2)), x, create_graph=True)
    with pytest.raises(DerivativeError, match="energy_score"):
        gradient.sum().backward()


@pytest.mark.parametrize("fair", [True, False])
def test_is_what_scoringrules_says(fair):
    """Another library's sums over pairs, and its CRPS in one dimension; float64 sums of some thousand numbers of size one."""
    import scoringrules

    rng = np.random.default_rng(3)
    samples, y, estimator = rng.normal(size=(6, 5, 40, 3)), rng.normal(size=(6, 5, 3)), "fair" if fair else "nrg"
    theirs = scoringrules.energy_score(y, samples, estimator=estimator)
    np.testing.assert_allclose(rf.energy_score(samples, y, fair=fair), theirs, rtol=0, atol=1e-12)
    theirs = scoringrules.crps_ensemble(y[..., 0], samples[..., 0], estimator=estimator)
    np.testing.assert_allclose(rf.energy_score(samples[..., :1], y[..., :1], fair=fair), theirs, rtol=0, atol=1e-12)
