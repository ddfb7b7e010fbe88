"""Levels of resolution: the flow begins on images made small by average pooling, and goes on where they are larger.

A run without `levels` is one level at full size. Source: paper, section 5 and its appendix on images.
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
from rieszflow.generative.condition import NOTHING, Condition
from rieszflow.generative.config import Config, UpsamplingName

__all__ = ["Level", "grow", "levels", "shrink"]


@dataclass(frozen=True)
class Level:
    """Networks `first` … `last` of a run, with their settings, on data of shape `shape`, pooled by `factor`."""

    config: Config
    factor: int
    shape: tuple[int, ...]
    first: int
    last: int
    condition: Condition = NOTHING

    @property
    def d(self) -> int:
        """Of a point: what stands before the data, and the data."""
        return self.condition.leading + math.prod(self.shape)

    def kinds(self) -> list[Kind]:
        """The kinds of slices that a flow step goes through."""
        config, (C, H, W) = self.config, (self.shape if len(self.shape) == 3 else (1, 1, 1))
        name, pairs = "patch_slices", config.patch_slices
        if config.local_scales:
            name, pairs = "local_scales", tuple((config.local_size, scale) for scale in config.local_scales)
        one, k = config.places == "one", self.condition.leading
        try:
            patches = [PatchSlices((C, H, W), size, scale, scale in config.by_colour, one, k) for size, scale in pairs]
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None
        return [*patches] if config.local_scales else [config.directions, *patches]

    @property
    def sample_noise_std(self) -> float:
        """Standard deviation of what is added to samples where they grow to this level."""
        own = self.config.sample_noise_std
        return self.config.noise_std if own is None else own

    def steps(self) -> int:
        """Flow steps of the whole level."""
        return sum(self.config.flow_steps())

    def plan(self) -> Plan:
        """What all steps of the level's recording have in common."""
        kinds, bounds = self.kinds(), (0.0, 1.0) if self.config.clip else None
        slices, bins = (self.config.slices,) * len(kinds), self.config.bins
        return Plan(self.d, tuple(kinds), slices, bins, bounds, self.condition.known)


def levels(config: Config, shape: tuple[int, ...], condition: Condition = NOTHING) -> list[Level]:
    """The levels of a run on data of a shape, coarsest first. Of an image that is known in part there is one level.

    Raises:
        ConfigError: levels or local slices of data that are no images, or that do not fit the images' size.
    """
    names = [name for name in ("levels", "patch_slices", "local_scales") if getattr(config, name)]
    if names and len(shape) != 3:
        name = names[0]
        raise ConfigError(f"{name}: need images (C, H, W), the data have the shape {shape}")
    found: list[Level] = []
    for factor, settings in config.level_configs():
        if any(side % factor for side in shape[1:]):
            raise ConfigError(f"levels: the factor {factor} does not divide images of {shape[1]} × {shape[2]} pixels")
        first = found[-1].last + 1 if found else 1
        small = shape if factor == 1 else (shape[0], shape[1] // factor, shape[2] // factor)
        found.append(Level(settings, factor, small, first, first + settings.stages - 1, condition))
        found[-1].kinds()
    return found


def shrink(x: Tensor, shape: tuple[int, ...], factor: int, leading: int = 0) -> Tensor:
    """Flat images (n, d) of a shape, made smaller by average pooling: (n, d / factor²). Leading numbers stay as they are."""
    if factor == 1:
        return x
    if leading:
        return torch.cat([x[:, :leading], shrink(x[:, leading:], shape, factor)], 1)
    return torch.cat([functional.avg_pool2d(part.view(-1, *shape), factor).flatten(1) for part in x.split(10_000)])


def grow(
    x: Tensor,
    small: tuple[int, ...],
    large: tuple[int, ...],
    noise: float,
    generator: torch.Generator | None,
    growth: UpsamplingName = "repeat",
    leading: int = 0,
) -> Tensor:
    """Flat images, made larger, plus Gaussian noise of a standard deviation, drawn on the CPU.

    (…, d) of shape `small` to (…, d′) of shape `large`. Leading numbers, before the images, stay as they are.
    """
    if small == large:
        return x
    if leading:
        return torch.cat([x[..., :leading], grow(x[..., leading:], small, large, noise, generator, growth)], -1)
    images = x.reshape(-1, *small)
    factor = large[1] // small[1]
    if growth == "repeat":
        images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    else:
        parts = images.split(10_000)
        images = torch.cat([functional.interpolate(part, scale_factor=factor, mode="bilinear") for part in parts])
    images = images.reshape(*x.shape[:-1], math.prod(large))
    if not noise:
        return images
    return images + noise * torch.randn(images.shape, generator=generator).to(images)
