"""The noise: its law at a pixel and between neighbours, against what its definition says."""

import math

import numpy as np
import pytest
import torch
from problems import generator
from scipy.stats import kstest

import rieszflow as rf
from rieszflow.generative import Config, ConfigError
from rieszflow.generative.levels import draw_latents

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
    flow = rf.GenerativeFlow(latents="smooth", device="cpu")
    with pytest.raises(ConfigError, match="^`latents` must be 'uniform' for data that are not images"):
        flow.fit(torch.rand(100, 2, generator=generator(0)), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="^`latents` must be 'uniform' or 'smooth', got 'white'"):
        Config(latents="white")
