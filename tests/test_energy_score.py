"""The energy score: against its formula over all pairs, closed forms, and MMD²."""

import math

import numpy as np
import pytest
import torch
from problems import generator

import rieszflow as rf
from rieszflow import scoring as module
from rieszflow.errors import DerivativeError, InputError, InputTypeError


def brute(samples, y, fair, weights=None):
    m = samples.shape[-2]
    w = torch.full((m,), 1 / m, dtype=samples.dtype) if weights is None else weights
    away = (w * (samples - y.unsqueeze(-2)).norm(dim=-1)).sum(-1)
    pairs = w.unsqueeze(-1) * w.unsqueeze(-2)
    apart = (pairs * (samples.unsqueeze(-2) - samples.unsqueeze(-3) + 1e-300).norm(dim=-1)).sum((-1, -2))
    return away - apart / (2 * (1 - (w**2).sum(-1) if fair else 1))


WAYS = {
    "loops": {},
    "one item a thread": {"_SHARE": 0},
    "sorted, in chunks": {"_FEW": 0, "_compiled": module._chunked},
    "in small chunks": {"_FEW": 0, "_compiled": module._chunked, "pairs": 30},
    "in rows": {"_FEW": 0, "_compiled": module._chunked, "pairs": 1},
}


def use(way, monkeypatch):
    for name, value in WAYS[way].items():
        if name == "pairs":
            monkeypatch.setattr("rieszflow.exact.pairs._PAIRS", value)
        else:
            monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("batch", [(), (3,), (2, 4)])
@pytest.mark.parametrize("fair", [True, False])
@pytest.mark.parametrize("weighted", ["no", "shared", "each"])
@pytest.mark.parametrize("way", WAYS)
def test_is_the_formula(d, batch, fair, weighted, way, monkeypatch):
    """Values and gradients, however the pairs are cut. Sums of some hundred numbers of size one in float64."""
    use(way, monkeypatch)
    g = generator(d)
    x, y = torch.randn(*batch, 9, d, generator=g).double(), torch.randn(*batch, d, generator=g).double()
    upstream = torch.rand(batch, generator=g).double()
    w = torch.rand(*(batch if weighted == "each" else ()), 9, generator=g).double() * (torch.arange(9) != 4)
    w = None if weighted == "no" else w / w.sum(-1, keepdim=True)
    found, expected = [], []
    for to, function in ((found, rf.energy_score), (expected, brute)):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        score = function(a, b, fair=fair, weights=w)
        torch.testing.assert_close(score.detach(), function(x, y, fair=fair, weights=w), rtol=0, atol=1e-12)
        (score * upstream).sum().backward()
        to += [score, a.grad, b.grad]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("d", [1, 3])
def test_is_the_distance_to_a_point(d):
    g = generator(1)
    x, y = torch.randn(40, d, generator=g).double(), torch.randn(d, generator=g).double()
    torch.testing.assert_close(2 * rf.energy_score(x, y, fair=False), rf.mmd2(x, y[None]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_samples_in_one_place(d, way, monkeypatch):
    """Each is pulled to y with the weight 1/m, and none pushes another."""
    use(way, monkeypatch)
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


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("way", ["loops", "sorted, in chunks"])
def test_gradients_of_samples_far_from_y(d, way, monkeypatch):
    """Gradients do not see how far y is beyond its direction. Differences of float32 numbers are exact enough in float64;
    differences from y in float32 or, far enough, in float64 would be those of a few multiples of its rounding."""
    use(way, monkeypatch)
    x = 0.01 * torch.randn(50, d, generator=generator(5))
    apart = x.double()[:, None] - x.double()
    pushed = (apart / (apart.norm(dim=2, keepdim=True) + 1e-300)).sum(1) / (50 * 49)
    for dtype, far, near in ((torch.float32, 4e5, 1e-8), (torch.float64, 1e25, 1e-15)):
        y = torch.zeros(d, dtype=dtype)
        y[0] = far
        leaf = x.to(dtype, copy=True).requires_grad_()
        rf.energy_score(leaf, y).backward()
        away = x.double() - y.double()
        wanted = away / away.norm(dim=1, keepdim=True) / 50 - pushed
        torch.testing.assert_close(leaf.grad.double(), wanted, rtol=0, atol=near)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("fair", [True, False])
@pytest.mark.parametrize("way", ["loops", "sorted, in chunks"])
def test_any_scale(d, fair, way, monkeypatch):
    """Powers of two change nothing but the exponent as long as no number is denormal; gradients stay as they are."""
    use(way, monkeypatch)
    g = generator(6)
    x, y = torch.randn(3, 20, d, generator=g).double(), torch.randn(3, d, generator=g).double()
    leaf = x.clone().requires_grad_()
    unit = rf.energy_score(leaf, y, fair=fair)
    unit.sum().backward()
    for e in (-980, -600, 600, 1018):
        scaled = (x * 2.0**e).requires_grad_()
        score = rf.energy_score(scaled, y * 2.0**e, fair=fair)
        torch.testing.assert_close(score * 2.0 ** (-e // 2) * 2.0 ** (-e - -e // 2), unit, rtol=1e-12, atol=0)
        score.sum().backward()
        torch.testing.assert_close(scaled.grad, leaf.grad, rtol=0, atol=1e-13)
    # All of the range: |x − y| is beyond it, the mean is not.
    small = torch.tensor([[1.7], [-1.7], [0.0], [0.0]], dtype=torch.float64).expand(4, d)
    wanted = 1e308 * brute(small, -small[0], fair).item()
    assert rf.energy_score(1e308 * small, -1e308 * small[0], fair=fair).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("fair", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("way", ["loops", "sorted, in chunks"])
def test_missing_numbers(d, fair, weighted, way, monkeypatch):
    """ "omit" is the score without the members that miss a number; "propagate" changes nothing for forecasts that miss none."""
    use(way, monkeypatch)
    g = generator(7)
    x, y = torch.randn(6, 8, d, generator=g).double(), torch.randn(6, d, generator=g).double()
    w = torch.rand(6, 8, generator=g).double() if weighted else torch.ones(6, 8).double()
    w /= w.sum(-1, keepdim=True)
    whole = rf.energy_score(x, y, fair=fair, weights=w)
    x[0, 3, d - 1] = x[1, :7, 0] = x[2, :, 0] = y[3, 0] = x[4, 0] = math.nan
    given = w if weighted else None
    with pytest.raises(InputError, match="`samples` must be finite, got NaN or infinity"):
        rf.energy_score(x, y, fair=fair, weights=given)
    leaf, target = x.clone().requires_grad_(), y.clone().requires_grad_()
    score = rf.energy_score(leaf, target, fair=fair, weights=given, nan_policy="omit")
    score.nansum().backward()
    assert torch.isfinite(leaf.grad).all() and torch.isfinite(target.grad).all() and not leaf.grad[x.isnan()].any()
    for k in range(6):
        kept = ~x[k].isnan().any(1)
        if k == 3 or kept.sum() < (2 if fair else 1):
            assert score[k].isnan() and not leaf.grad[k].any()
            continue
        part = x[k, kept].requires_grad_()
        want = brute(part, y[k], fair, w[k, kept] / w[k, kept].sum()) if kept.sum() > 1 else (part[0] - y[k]).norm()
        want.backward()
        torch.testing.assert_close(score[k], want, rtol=0, atol=1e-12)
        torch.testing.assert_close(leaf.grad[k, kept], part.grad, rtol=0, atol=1e-12)
    leaf = x.clone().requires_grad_()
    score = rf.energy_score(leaf, y, fair=fair, weights=given, nan_policy="propagate")
    score.sum().backward()
    assert score[:5].isnan().all() and leaf.grad[:5].isnan().all() and leaf.grad[5].isfinite().all()
    torch.testing.assert_close(score[5], whole[5], rtol=0, atol=1e-12)
    for policy in ("omit", "propagate"):
        with pytest.raises(InputError, match="`y` must be finite or NaN, got infinity"):
            rf.energy_score(x, y / 0, nan_policy=policy)


def test_fair_scores_do_not_depend_on_the_weights():
    """Means over 20,000 forecasts of 5 members, with equal weights and with weights far from equal: the spread of one score
    is below 1. Without `fair` the second misses Σw² ≥ 0.5 of ½E‖X − X′‖ = 0.56, and the first 0.2."""
    g = generator(8)
    w = torch.tensor([0.7, 0.1, 0.1, 0.05, 0.05])
    x, y = torch.randn(20_000, 5, 1, generator=g), torch.randn(20_000, 1, generator=g)
    mean = {(fair, k): rf.energy_score(x, y, fair=fair, weights=(None, w)[k]).mean() for fair in (True, False) for k in (0, 1)}
    assert abs(mean[True, 0] - mean[True, 1]) < 10 / math.sqrt(20_000) < mean[False, 1] - mean[False, 0] - 0.05


def test_arrays_in_arrays_out():
    g = np.random.default_rng(0)
    x, y = g.normal(size=(4, 6, 2)), g.normal(size=(4, 2))
    found = rf.energy_score(x, y)
    assert isinstance(found, np.ndarray) and found.shape == (4,)
    assert isinstance(rf.energy_score(x[0], y[0]), np.float64)


@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        (torch.zeros(4, 2), torch.zeros(3), InputError, r"`y` must have shape \(2,\) .*, got \(3,\)"),
        (torch.zeros(5, 4, 2), torch.zeros(2), InputError, r"`y` must have shape \(5, 2\) .*, got \(2,\)"),
        (torch.zeros(1, 2), torch.zeros(2), InputError, "`samples` must have two members .*, got one"),
        (torch.zeros(4), torch.zeros(1), InputError, r"`samples` must .* got \(4,\)"),
        (
            torch.zeros(4, 2),
            torch.zeros(2).double(),
            InputTypeError,
            "`y` must be torch.float32 on cpu .*, got torch.float64 on cpu",
        ),
        (
            torch.zeros(4, 2),
            np.zeros(2, np.float32),
            InputTypeError,
            "`y` must have the type of `samples`, Tensor, got ndarray",
        ),
        (torch.zeros(4, 2), torch.tensor([1.0, math.nan]), InputError, "`y` must be finite, got NaN or infinity"),
        (torch.full((4, 2), math.inf), torch.zeros(2), InputError, "`samples` must be finite, got NaN or infinity"),
        (torch.zeros(4, 2, dtype=torch.int64), torch.zeros(2), InputTypeError, "`samples` must .* got dtype"),
    ],
)
def test_what_does_not_fit_is_refused(x, y, error, words):
    with pytest.raises(error, match=words):
        rf.energy_score(x, y)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"nan_policy": "drop"}, InputError, '`nan_policy` must be "raise", "omit" or "propagate", got \'drop\''),
        ({"weights": torch.full((3,), 1 / 3)}, InputError, r"`weights` must .* got shape \(3,\)"),
        ({"weights": torch.full((4,), 1.0)}, InputError, "`weights` must sum to one, got sum 4"),
        ({"weights": torch.full((4,), 0.25).double()}, InputTypeError, "`weights` must .* got torch.float64"),
        ({"weights": torch.tensor([1.0, 0, 0, 0])}, InputError, "`weights` must have two positive entries"),
        ({"weights": torch.full((4,), 0.25, requires_grad=True)}, DerivativeError, "`weights` must not require a gradient"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        rf.energy_score(torch.zeros(4, 2), torch.zeros(2), **options)


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
