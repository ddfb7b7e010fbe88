"""Latents: the law of noise at a pixel and between neighbours, and mixtures against the moments of their data."""

import math

import numpy as np
import pytest
import torch
from problems import generator
from scipy.stats import kstest

import rieszflow as rf
from rieszflow.constraints import FixedPrefix, Mask
from rieszflow.errors import RunError
from rieszflow.generative import Config, ConfigError
from rieszflow.generative.condition import image_constraint
from rieszflow.generative.latents import _SPREAD, Mixture, draw_latents, fit_mixture

SHAPES = [(1, 8, 8), (3, 7, 10), (1, 1, 5)]


@pytest.mark.parametrize("kind", ["uniform", "smooth"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_coordinate_is_uniform(kind, shape):
    """Kolmogorov–Smirnov at three coordinates; the seed is fixed, and would fail by chance with probability 3e-6 each."""
    x = draw_latents(Config(latents=kind), shape, 2000, generator(1))
    assert x.shape == (2000, math.prod(shape)) and x.dtype == torch.float32
    assert x.min() >= 0 and x.max() <= 1
    for k in (0, x.shape[1] // 2, -1):
        assert kstest(x[:, k].numpy(), "uniform").pvalue > 1e-6


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 7, 10)])
def test_smooth_latents_are_correlated_as_defined(shape):
    """Covariance of periodic Gaussian noise: the Fourier sum of its squared amplitudes f^-3, written out as a loop."""
    _, H, W = shape
    n = 4000
    z = torch.special.ndtri(draw_latents(Config(latents="smooth"), shape, n, generator(2)).double()).view(n, *shape)
    for dy, dx in ((0, 1), (1, 0), (2, 3)):
        total = covariance = 0.0
        for u in range(H):
            for v in range(W):
                f2 = max(1.0, min(u, H - u) ** 2 + min(v, W - v) ** 2)
                total += f2**-1.5
                covariance += f2**-1.5 * math.cos(2 * math.pi * (u * dy / H + v * dx / W))
        found = (z * z.roll((-dy, -dx), (2, 3))).mean((0, 1)).numpy()
        # A mean of 2n products of variance 2 at most, at H·W pixels: six standard errors.
        assert np.abs(found - covariance / total).max() < 6 * math.sqrt(2 / (2 * n))
    channels = (z[:, 0] * z[:, 1]).mean(0)
    assert channels.abs().max() < 6 / math.sqrt(n)


def test_smooth_latents_need_images(tmp_path):
    flow = rf.GenerativeFlow(latents="smooth", model="networks", device="cpu")
    with pytest.raises(ConfigError, match="^`latents` must not be 'smooth' for data of shape"):
        flow.fit(torch.rand(100, 2, generator=generator(0)), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="^`latents` must be 'uniform', 'smooth', 'mixture' or 'gaussian', got 'white'"):
        Config(latents="white")


def blobs(n: int, d: int) -> torch.Tensor:
    """Return n points around two corners of the unit cube, with different spreads in different directions."""
    g = generator(3)
    spread = torch.linspace(0.01, 0.1, d)
    return torch.rand(n, 1, generator=g).round().expand(n, d) * 0.6 + 0.2 + spread * torch.randn(n, d, generator=g)


def test_a_mixture_has_the_mean_and_the_widened_variance_of_its_data():
    """The law of total variance, exact for clusters that are all kept, in all directions, but for float16 (2^-11)."""
    x = blobs(3000, 3)
    found = fit_mixture(x, generator(0))
    assert len(found.weight) > 10 and found.weight.sum().item() == pytest.approx(1, abs=1e-6)
    mean = found.weight @ found.mean.float()
    within = found.factor.float().square().sum(1) / _SPREAD**2
    variance = found.weight @ (found.mean.float().square() + within) - mean**2
    assert (mean - x.mean(0)).abs().max() < 2e-3
    assert (variance - x.var(0, correction=0)).abs().max() < 2e-3


def test_points_of_a_mixture_have_its_moments():
    found, n = fit_mixture(blobs(3000, 30), generator(0)), 20_000
    drawn = found.draw(n, None, None, generator(1))
    assert drawn.shape == (n, 30) and drawn.dtype == torch.float32
    w, mean, factor = found.weight / found.weight.sum(), found.mean.float(), found.factor.float()
    second = mean.T @ (w[:, None] * mean) + torch.einsum("k,kqi,kqj->ij", w, factor, factor)
    for a, b in ((drawn.mean(0), w @ mean), (drawn.T @ drawn / n, second)):
        # Six standard errors of a mean, or of a product, whose standard deviations are below 1.
        assert (a - b).abs().max() < 6 / math.sqrt(n)


def test_small_clusters_are_left_out():
    """A point far from all others would be its own cluster, and be remembered."""
    x = torch.cat([blobs(2000, 5), torch.full((1, 5), 1000.0)])
    for seed in range(10):
        assert fit_mixture(x, generator(seed)).mean.max() < 500


def test_a_mixture_fits_few_points():
    x = torch.rand(3, 4, generator=generator(0))
    found = fit_mixture(x, generator(0))
    assert torch.allclose(found.mean.float(), x.mean(0), atol=1e-3)


def test_known_parts_choose_the_clusters():
    """Labels in front of the points, and known coordinates of theirs, select the corner that they belong to."""
    x = blobs(3000, 6)
    found, n = fit_mixture(x, generator(0)), 500
    side = torch.arange(n) % 2
    known = (side[:, None] * 0.6 + 0.2).expand(n, 6).float()
    mask = Mask(torch.tensor([True, True, False, False, False, False]))
    for constraint in (FixedPrefix(2), mask):
        drawn = found.draw(n, known, constraint, generator(1))
        assert ((drawn[:, 2:].mean(1) > 0.5) == side.bool()).all()


TINY = {
    "model": "recorded", "particles": 200, "slices": 16, "latents": "mixture", "clip": True, "stages": 2, "initial_steps": 3,
    "max_steps": 3, "device": "cpu", "momentum": 0.5,
}  # fmt: skip


def images(n: int) -> torch.Tensor:
    return blobs(n, 16).clamp(0, 1).view(n, 1, 4, 4)


@pytest.mark.parametrize("condition", ["left-half", "pool:2"])
def test_known_parts_of_images_stay(condition):
    x = images(400)
    flow = rf.GenerativeFlow(**TINY).fit(x, condition=condition)
    sampled = flow.sample(20, condition=x[:20], seed=0)
    known = image_constraint(condition, (1, 4, 4))
    assert torch.allclose(known.project(sampled.flatten(1)), known.project(x[:20].flatten(1)), atol=1e-5)


def test_labels_and_networks(tmp_path):
    """Samples of a sequence of networks by label; the labels are the brightness."""
    x = images(400)
    labels = (x.mean((1, 2, 3)) > 0.5).long()
    settings = {**TINY, "model": "networks", "fit_steps": 5, "network": "mlp", "width": 8}
    flow = rf.GenerativeFlow(**settings).fit(x, condition=labels, run=tmp_path / "run")
    asked = torch.arange(40) % 2
    sampled = flow.sample(40, condition=asked, seed=0)
    assert ((sampled.mean((1, 2, 3)) > 0.5).long() == asked).all()
    assert torch.equal(rf.GenerativeFlow.load(tmp_path / "run").sample(40, condition=asked, seed=0), sampled)


def test_vectors_start_close_to_the_data():
    """Without any flow to speak of, samples have the moments of the data."""
    x = blobs(1000, 4) * 50 + 7
    flow = rf.GenerativeFlow(**{**TINY, "clip": False, "step_size": 1e-9}).fit(x)
    sampled = flow.sample(4000, seed=0)
    assert ((sampled.mean(0) - x.mean(0)).abs() < 0.1 * x.std(0)).all() and ((sampled.std(0) / x.std(0) - 1).abs() < 0.1).all()


def test_a_missing_or_damaged_mixture_is_refused(tmp_path):
    x, run = images(400), tmp_path / "run"
    flow = rf.GenerativeFlow(**TINY).fit(x, run=run)
    wanted, file = flow.sample(5, seed=0), run / "networks" / "0000.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-40] + b"0" * 40)
    with pytest.raises(RunError, match="0000.safetensors: damaged"):
        flow.sample(5, seed=0)
    file.write_bytes((run / "networks" / "0001.safetensors").read_bytes())
    with pytest.raises(RunError, match="0000.safetensors: must be of stage 0, got stage 1"):
        flow.sample(5, seed=0)
    flow.run.save_network(0, {name: t[..., :-1] for name, t in flow.run.load_network(1).items() if t.ndim})
    with pytest.raises(RunError, match="0000.safetensors: does not fit the run"):
        flow.sample(5, seed=0)
    file.unlink()
    with pytest.raises(RunError, match="0000.safetensors: is missing; to train it again, resume the run"):
        flow.sample(5, seed=0)
    with pytest.warns(UserWarning, match="0000.safetensors is missing: training starts again at stage 1"):
        again = rf.GenerativeFlow.resume(run, x)
    assert torch.equal(again.sample(5, seed=0), wanted)


@pytest.mark.parametrize(
    "change",
    [{"weight": torch.tensor([-1.0])}, {"mean": torch.zeros(1, 3)}, {"factor": torch.full((1, 1, 3), math.nan).half()},
     {"mean": torch.zeros(1, 4).half()}, {"weight": torch.zeros(0)}, {"factor": torch.zeros(0, 1, 3).half()}],
)  # fmt: skip
def test_malformed_mixtures_are_refused(change):
    half = {"mean": torch.zeros(1, 3).half(), "factor": torch.zeros(1, 1, 3).half()}
    good = {"weight": torch.ones(1), **half}
    assert Mixture.from_tensors(good, 3).draw(2, None, None, generator(0)).shape == (2, 3)
    with pytest.raises((KeyError, ValueError, IndexError)):
        Mixture.from_tensors({**good, **change}, 3)
