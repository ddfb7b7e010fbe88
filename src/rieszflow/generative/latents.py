"""The noise that the particles start from, and that every sample starts from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rieszflow.errors import ConfigError
from rieszflow.generative.config import Config

__all__ = ["draw_latents"]

_FALL = 1.5  # amplitude over frequency falls like f^-1.5; photographs have 1 to 2


def draw_latents(config: Config, shape: tuple[int, ...], n: int, generator: torch.Generator | None) -> Tensor:
    """n flat latents (n, d) in [0, 1]^d, float32, on the CPU; every coordinate is uniform on [0, 1].

    "uniform": independent coordinates, the paper's noise. "smooth", for images: neighbouring pixels go together, as they
    do in pictures. Periodic Gaussian noise of variance one whose amplitude falls with the frequency, channels independent,
    through the normal distribution function. The energy distance hardly feels the pixel noise of white latents, so the
    flow takes very long to remove it; smooth latents have little (`benchmarks/latents.py` measures it).

    Raises:
        ConfigError: "smooth" for data that are no images.
    """
    d = math.prod(shape)
    if config.latents == "uniform":
        return torch.rand(n, d, generator=generator)
    if len(shape) != 3:
        raise ConfigError(f"latents: 'smooth' needs images (C, H, W), the data have the shape {shape}; use 'uniform'")
    H, W = shape[1:]
    rows, columns = torch.fft.fftfreq(H) * H, torch.fft.rfftfreq(W) * W
    amplitude = (rows[:, None].square() + columns.square()).clamp(min=1) ** (-_FALL / 2)
    # Variance one: the mean of amplitude² over all frequencies, of which rfft keeps half.
    whole = (rows[:, None].square() + (torch.fft.fftfreq(W) * W).square()).clamp(min=1) ** -_FALL
    white = torch.randn(n, *shape, generator=generator)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * (amplitude / whole.mean().sqrt()), s=(H, W))
    uniform: Tensor = torch.special.ndtr(noise)
    return uniform.flatten(1)
