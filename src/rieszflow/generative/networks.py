"""The networks Φ that predict the displacements of particles."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rieszflow._infra.extras import extra
from rieszflow._infra.validate import total_memory
from rieszflow.errors import ConfigError
from rieszflow.generative.condition import UNCONDITIONAL, Condition
from rieszflow.generative.config import Config
from rieszflow.generative.levels import Level

_GROUPS = 32  # channels per normalisation group of the paper's network


class Displacement(nn.Module):
    """The map Φ(x) = scale · net(4x − 2), or net(x) if `plain`, of flat particles (B, d) to displacements (B, d).

    The network sees particles with a spread of about one, and learns displacements divided by their root mean square `scale`,
    so one learning rate fits all stages. The k leading coordinates of a condition are k further channels or coordinates of its
    input, and are not displaced.
    """

    scale: Tensor

    def __init__(self, net: nn.Module, shape: tuple[int, ...], plain: bool, condition: Condition) -> None:
        super().__init__()
        self.net, self.shape, self.plain, self.condition = net, shape, plain, condition
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor, normalised: bool = False) -> Tensor:
        """Return Φ(x), or Φ(x) / scale if `normalised`."""
        k = self.condition.leading
        z = x[:, k:].reshape(-1, *self.shape)
        z = z if self.plain else 4 * z - 2
        if k:  # independent of the condition's weight in the flow
            c = x[:, :k] / self.condition.weight
            z = torch.cat([z, c.view(*c.shape, *[1] * (z.ndim - 2)).expand(-1, -1, *z.shape[2:])], 1)
        out = self.net(z)
        if not isinstance(out, Tensor) or out.shape != (len(x), *self.shape):
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ConfigError(f"`network` must return the shape of its input, {(len(x), *self.shape)}, got {found}")
        flat = out.flatten(1).float()
        if k:
            flat = torch.cat([flat.new_zeros(len(flat), k), flat], 1)
        elif self.condition.constraint is not None:
            flat = flat - self.condition.constraint.project(flat)
        return flat if normalised else flat * self.scale


def build(
    config: Config, shape: tuple[int, ...], custom: nn.Module | None = None, condition: Condition = UNCONDITIONAL
) -> Displacement:
    """Return a new network for data of shape (C, H, W) or (d,), initialised from the seed in the settings."""
    plain = config.paper.fit == "plain"
    if config.network == "custom":
        if custom is None:
            raise ConfigError("`network` must be an nn.Module for the setting network='custom', got None")
        return Displacement(custom, shape, plain, condition)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Displacement(_network(config, shape, condition.leading), shape, plain, condition)


def _network(config: Config, shape: tuple[int, ...], leading: int = 0) -> nn.Module:
    """Return a UNet or an MLP whose input has `leading` further channels or coordinates."""
    if config.network in ("unet", "ddpm") or (config.network == "auto" and len(shape) == 3):
        return _UNet(config, shape, leading)
    sizes = [(shape[0] + leading) * math.prod(shape[1:])] + [config.width] * config.layers
    hidden: list[nn.Module] = [nn.Flatten()]
    for a, b in itertools.pairwise(sizes):
        hidden += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], math.prod(shape)), nn.Unflatten(1, shape))


def check_memory(config: Config, shape: tuple[int, ...], device: torch.device, training: bool, samples: int = 0) -> None:
    """Refuse settings that need more memory than the machine or the GPU has, before anything is allocated.

    This is a lower bound in float32: the weights, for training with gradients, average and both moments; particles before and
    after a step; the slices' tables of 1,152 numbers; samples before and after a network.
    """
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else total_memory()
    weights = 0
    if config.model == "networks" and config.network != "custom":
        with torch.random.fork_rng(devices=[]), torch.device("meta"):  # without memory for the weights
            weights = sum(p.numel() for p in _network(config, shape).parameters())
    need = {"weights": 4 * weights * (5 if training else 1), "samples": 2 * 4 * samples * math.prod(shape)}
    if training:
        need |= {"particles": 2 * 4 * config.particles * math.prod(shape), "slices": 4 * 1152 * config.slices}
    if sum(need.values()) > memory:
        parts = ", ".join(f"{size / 2**30:,.1f} GiB for {what}" for what, size in need.items() if size > 2**26)
        raise ConfigError(f"the settings need at least {parts} for data of shape {shape}; there are {memory / 2**30:,.1f} GiB")


class _UNet(nn.Module):
    """The UNet2DModel of diffusers with a constant time input, because every stage has its own network.

    It sees p × p pixels as one pixel with p² times the channels, p = `unet_patch_size`: on a CPU most of a UNet's time is spent
    at the finest resolution.
    """

    def __init__(self, config: Config, shape: tuple[int, ...], leading: int = 0) -> None:
        super().__init__()
        with extra("generative", f"network: {config.network!r}"):
            from diffusers.models.unets.unet_2d import UNet2DModel

        if len(shape) != 3:
            raise ConfigError(f"`network` must be 'mlp' for data of shape {shape}, got {config.network!r}, which needs images")
        channels, size, ddpm = config.channels, config.unet_patch_size, config.network == "ddpm"
        if ddpm and any(number % _GROUPS for number in channels):
            raise ConfigError(f"`channels` must be multiples of {_GROUPS} with network 'ddpm', got {list(channels)}")
        if config.attention and channels[-1] < 8:
            raise ConfigError(f"`channels` must end with at least 8 with attention, got {channels[-1]}")
        factor = size * 2 ** (len(channels) - 1)
        if factor > max(shape[1:]):
            raise ConfigError(
                f"`channels` and `unet_patch_size` must not shrink images of {shape[1]} × {shape[2]} by more than their size, "
                f"got a factor of {factor}"
            )
        # Sides are padded to a multiple of the factor by repeating the edge, and the output is cropped.
        height, width = (side + -side % factor for side in shape[1:])
        top, left = (height - shape[1]) // 2, (width - shape[2]) // 2
        self.pad = (left, width - shape[2] - left, top, height - shape[1] - top)
        self.fold, self.unfold = nn.PixelUnshuffle(size), nn.PixelShuffle(size)
        down, up = ["DownBlock2D"] * len(channels), ["UpBlock2D"] * len(channels)
        if config.attention and not ddpm:
            down[-1], up[0] = "AttnDownBlock2D", "AttnUpBlock2D"
        self.unet = UNet2DModel(
            sample_size=(height // size, width // size),
            in_channels=(shape[0] + leading) * size**2, out_channels=shape[0] * size**2,
            layers_per_block=config.layers, block_out_channels=channels,
            down_block_types=tuple(down), up_block_types=tuple(up),
            add_attention=config.attention or ddpm, attention_head_dim=channels[-1] if ddpm else 8,
            norm_num_groups=_GROUPS if ddpm else max(1, math.gcd(*channels) // 4), norm_eps=1e-6 if ddpm else 1e-5,
        )  # fmt: skip
        if ddpm:
            _init_as_in_paper(self.unet)

    def forward(self, x: Tensor) -> Tensor:
        left, _, top, _ = self.pad
        padded = functional.pad(x, self.pad, mode="replicate") if any(self.pad) else x
        out: Tensor = self.unfold(self.unet(self.fold(padded), 0, return_dict=False)[0])
        return out[..., top : top + x.shape[-2], left : left + x.shape[-1]]


class _NoTime(nn.Module):
    def forward(self, time: Tensor) -> None:
        return None


def _init_as_in_paper(unet: nn.Module) -> None:
    """Remove the time input, and initialise residual blocks, attention and output to zero."""
    unet.time_embedding = _NoTime()
    for module in unet.modules():
        if hasattr(module, "time_emb_proj"):
            setattr(module, "time_emb_proj", None)  # noqa: B010  (mypy takes modules' members for tensors)
    for name, module in unet.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith(("conv2", "to_out.0", "conv_out")):
                nn.init.zeros_(module.weight)


@torch.no_grad()
def displace(phi: Displacement, x: Tensor, clip: bool, batch_size: int = 500) -> Tensor:
    """Return x − Φ(x), computed in batches and, if `clip`, clipped to [0, 1] like the flow's particles."""
    phi.eval()
    out = torch.cat([part - phi(part) for part in x.split(batch_size)])
    out = out.clamp_(0, 1) if clip else out
    constraint = phi.condition.constraint
    return out if constraint is None else constraint.restore(out, x)


def as_data(x: Tensor, level: Level) -> Tensor:
    """Return particles as samples: images are clipped to [0, 1], vectors are unchanged."""
    if len(level.shape) != 3:
        return x
    k = level.condition.leading
    return torch.cat([x[:, :k], x[:, k:].clamp(0, 1)], 1) if k else x.clamp(0, 1)
