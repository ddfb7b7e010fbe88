"""Levels of resolution: the flow starts on images reduced by average pooling, and continues on larger ones (paper, section 5).

A run without `levels` has one level of full size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rieszflow.directions import Kind, PatchSlices
from rieszflow.errors import ConfigError
from rieszflow.flow.segments import Plan
from rieszflow.flow.steps import default_step_sizes
from rieszflow.generative.condition import UNCONDITIONAL, Condition
from rieszflow.generative.config import Config, UpsamplingName
from rieszflow.kernels import Riesz


@dataclass(frozen=True)
class Level:
    """Stages `first` … `last` of a run, with their settings, on data of shape `shape`, pooled by `factor`."""

    config: Config
    factor: int
    shape: tuple[int, ...]
    first: int
    last: int
    condition: Condition = UNCONDITIONAL

    def kinds(self) -> list[Kind]:
        """Return the kinds of slices that a flow step uses."""
        config, (C, H, W) = self.config, (self.shape if len(self.shape) == 3 else (1, 1, 1))
        single, k = config.paper.single_patch, self.condition.leading
        try:
            patches: list[Kind] = [
                PatchSlices((C, H, W), size, stretch, stretch in config.by_colour, single, k)
                for size, stretch in config.patch_slices
            ]
        except ValueError as error:
            raise ConfigError(f"`patch_slices` do not fit: {error}") from None
        return patches if config.patches_only else [config.directions, *patches]

    @property
    def sample_noise_std(self) -> float:
        """Standard deviation of the noise that is added to samples when they are upsampled to this level."""
        own = self.config.paper.sample_noise_std
        return self.config.noise_std if own is None else own

    def plan(self) -> Plan:
        """Return the settings that all steps of the level's recording share."""
        kinds, bounds = self.kinds(), (0.0, 1.0) if self.config.clip else None
        slices, d = (self.config.slices,) * len(kinds), self.condition.leading + math.prod(self.shape)
        return Plan(d, tuple(kinds), slices, self.config.bins, bounds, self.condition.constraint)


def levels(config: Config, shape: tuple[int, ...], condition: Condition = UNCONDITIONAL) -> list[Level]:
    """Return the levels of a run on data of a shape, the coarsest first; raise ConfigError if they do not fit it."""
    if len(shape) != 3:
        for name in ("levels", "patch_slices"):
            if getattr(config, name):
                raise ConfigError(f"`{name}` must be empty for data that are not images (C, H, W), got data of shape {shape}")
    if config.latents == ("gaussian" if len(shape) == 3 else "smooth"):
        raise ConfigError(f"`latents` must not be {config.latents!r} for data of shape {shape}")
    found: list[Level] = []
    for factor, settings in config.level_configs():
        if any(side % factor for side in shape[1:]):
            raise ConfigError(f"`levels` must have factors that divide images of {shape[1]} × {shape[2]} pixels, got {factor}")
        first = found[-1].last + 1 if found else 1
        small = shape if factor == 1 else (shape[0], shape[1] // factor, shape[2] // factor)
        if settings.slices == 0:  # flows are unstable in steps longer than about 3 P/d times the default
            d = condition.leading + math.prod(small)
            P = min(max(64, 4 * d), 512)
            schedule = tuple(min(length, 2.5 * P / d) for length in settings.step_schedule or ()) or None
            settings = settings.model_copy(update={"slices": P, "step_schedule": schedule})
        found.append(Level(settings, factor, small, first, first + settings.stages - 1, condition))
        found[-1].kinds()  # raises an error for patches that do not fit
    return found


def step_sizes(level: Level, y: Tensor) -> tuple[float, ...]:
    """Return τ of every kind of slices, for targets y of shape (M, d)."""
    config, kinds = level.config, level.kinds()
    n, d = len(kinds), y.shape[1]
    given = config.paper.patch_step_sizes or (() if config.step_size is None else (config.step_size,) * n)
    if not given:
        return tuple(default_step_sizes(y, kinds, [config.slices] * n, [config.momentum] * n, level.condition.constraint))
    # The paper scales gradients on a single patch by the constant of the whole image.
    c = Riesz(1.0).basis_constant
    sizes = [kind.patch_dim if isinstance(kind, PatchSlices) and kind.single_patch else d for kind in kinds]
    return tuple(tau * (c(d) / c(size)) for tau, size in zip(given, sizes, strict=True))


def pool(x: Tensor, shape: tuple[int, ...], factor: int, leading: int = 0) -> Tensor:
    """Average-pool flat images x (n, d) of a shape to (n, d / factor²); the first `leading` coordinates are unchanged."""
    if factor == 1:
        return x
    parts = x[:, leading:].split(10_000)
    images = [functional.avg_pool2d(part.reshape(-1, *shape), factor).flatten(1) for part in parts]
    return torch.cat([x[:, :leading], torch.cat(images)], 1)


def upsample(
    x: Tensor,
    small: tuple[int, ...],
    large: tuple[int, ...],
    noise_std: float,
    generator: torch.Generator | None,
    upsampling: UpsamplingName = "repeat",
    leading: int = 0,
) -> Tensor:
    """Upsample flat images x (…, d) of shape `small` to (…, d′) of shape `large`, and add Gaussian noise drawn on the CPU.

    The first `leading` coordinates, which precede the image, are unchanged.
    """
    if small == large:
        return x
    factor, mode = large[1] // small[1], "nearest" if upsampling == "repeat" else "bilinear"
    parts = x[..., leading:].reshape(-1, *small).split(10_000)
    images = torch.cat([functional.interpolate(part, scale_factor=factor, mode=mode) for part in parts])
    images = images.reshape(*x.shape[:-1], math.prod(large))
    if noise_std:
        images += noise_std * torch.randn(images.shape, generator=generator).to(images)
    return torch.cat([x[..., :leading], images], -1)
