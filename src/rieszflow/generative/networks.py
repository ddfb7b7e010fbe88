"""The networks Φ that displace particles: built by name, and applied in batches."""

from __future__ import annotations

import itertools
import math
import os

import torch
from torch import Tensor, nn
from torch.nn import functional

from rieszflow._infra.extras import extra
from rieszflow.errors import ConfigError
from rieszflow.generative.condition import NOTHING, Condition
from rieszflow.generative.config import Config
from rieszflow.generative.pyramid import Level

__all__ = ["Displacement", "as_data", "build", "check_memory", "displace"]

_GROUPS = 32  # of channels that the paper's network normalises together


class Displacement(nn.Module):
    """Φ(x) = scale · net((x − ½)·4): flat particles (B, d) in, displacements (B, d) out. With `plain`, net(x).

    Particles near [0, 1] reach the network with a spread of about one, and what it has to learn, the displacement divided by
    its root mean square, has size one at every l: the same learning rate serves all networks. `scale` is saved with
    the weights.

    With a condition of k numbers before x they reach the network as k more channels, each of one number, or as k more
    coordinates. What is known does not move.
    """

    scale: Tensor

    def __init__(
        self,
        net: nn.Module,
        shape: tuple[int, ...],
        plain: bool = False,
        condition: Condition = NOTHING,
    ) -> None:
        super().__init__()
        self.net, self.plain, self.condition = net, plain, condition
        self.shape = shape
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor, normalised: bool = False) -> Tensor:
        """Φ(x), or Φ(x) / scale."""
        k = self.condition.leading
        z = x[:, k:].reshape(-1, *self.shape)
        z = z if self.plain else 4 * z - 2
        if k:  # a number for every pixel, or beside the others; of size one, whatever it weighs in the flow
            c = x[:, :k] / self.condition.weight
            z = torch.cat([z, c.view(*c.shape, *[1] * (z.ndim - 2)).expand(-1, -1, *z.shape[2:])], 1)
        out = self.net(z)
        if not isinstance(out, Tensor) or out.shape != (len(x), *self.shape):
            given = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ConfigError(
                f"network: returns {given} for an input of shape {(len(x), *self.shape)}; equal shapes are needed"
            )
        flat = out.flatten(1).float()
        if k:
            flat = torch.cat([flat.new_zeros(len(flat), k), flat], 1)
        elif self.condition.known is not None:
            flat = flat - self.condition.known.project(flat)
        return flat if normalised else flat * self.scale


def build(
    config: Config, shape: tuple[int, ...], custom: nn.Module | None = None, condition: Condition = NOTHING
) -> Displacement:
    """A fresh network for data of a shape, (C, H, W) or (d,). Initialised from the config's seed, and from nothing else."""
    kind = config.network
    if kind == "auto":
        kind = "unet" if len(shape) == 3 else "mlp"
    plain = config.fit == "plain"
    if kind == "custom":
        if custom is None:
            raise ConfigError("network: 'custom' given; pass the nn.Module itself as `network=`")
        return Displacement(custom, shape, plain=plain, condition=condition)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        net = _mlp(config, shape, condition.leading) if kind == "mlp" else _UNet(config, shape, condition.leading)
        return Displacement(net, shape, plain, condition)


def check_memory(config: Config, shape: tuple[int, ...], device: torch.device, training: bool, samples: int = 0) -> None:
    """Refuses settings that cannot work on this machine, before anything is allocated: the least that they need is counted.

    In float32: the weights, for training with gradients, average and the optimiser's two moments; all particles before and
    after a step; the slices' tables, 1,152 numbers each; samples before and after a network.

    Raises:
        ConfigError: more is needed than the machine (or the GPU) has.
    """
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        return
    weights = 0 if config.model == "recorded" else _weights(config, shape)
    need = {"weights": 4 * weights * (5 if training else 1), "samples": 2 * 4 * samples * math.prod(shape)}
    if training:
        need |= {"particles": 2 * 4 * config.particles * math.prod(shape), "slices": 4 * 1152 * config.slices}
    if sum(need.values()) > there:
        parts = ", ".join(f"{size / 2**30:,.1f} GiB for {what}" for what, size in need.items() if size > 2**26)
        raise ConfigError(f"the settings need {parts} at least, for data of shape {shape}; there are {there / 2**30:,.1f} GiB")


def _weights(config: Config, shape: tuple[int, ...]) -> int:
    """How many numbers a network has, without making it; none of a custom one, which is there already."""
    if config.network == "custom":
        return 0
    if config.network == "mlp" or len(shape) != 3:
        d, width = math.prod(shape), config.width
        return (2 * d + 1) * width + d + (config.layers - 1) * (width + 1) * width
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return sum(p.numel() for p in _UNet(config, shape).parameters())


class _UNet(nn.Module):
    """diffusers' UNet2DModel as a plain map: its time input is held at 0, because every stage has a network of its own.

    With `patch` p > 1 the network sees p × p pixels as one with p² times the channels: on a CPU most of a UNet's time
    goes into its finest level, and this one is p² times smaller.
    """

    def __init__(self, config: Config, shape: tuple[int, ...], leading: int = 0) -> None:
        super().__init__()
        with extra("generative", f"network: {config.network!r}"):
            from diffusers.models.unets.unet_2d import UNet2DModel

        if len(shape) != 3:
            raise ConfigError(f"network: {config.network!r} needs images (C, H, W), the data have the shape {shape}; use 'mlp'")
        levels, patch = len(config.channels), config.unet_patch_size
        ddpm = config.network == "ddpm"
        if ddpm and any(channels % _GROUPS for channels in config.channels):
            raise ConfigError(
                f"channels: {list(config.channels)} given; multiples of {_GROUPS} are accepted with network 'ddpm'"
            )
        if config.attention and config.channels[-1] < 8:
            raise ConfigError(
                f"attention: needs 8 channels or more at the coarse level, channels ends with {config.channels[-1]}"
            )
        factor = patch * 2 ** (levels - 1)
        if factor > max(shape[1:]):
            raise ConfigError(
                f"channels: patches of {patch} and {levels} levels shrink images by {factor}, more than "
                f"{shape[1]} × {shape[2]} have; give fewer levels or a smaller patch"
            )
        # every level halves the sides: repeat the edge up to the next multiple, cut it off again behind
        height, width = (side + -side % factor for side in shape[1:])
        top, left = (height - shape[1]) // 2, (width - shape[2]) // 2
        self.pad = (left, width - shape[2] - left, top, height - shape[1] - top)
        self.fold, self.unfold = nn.PixelUnshuffle(patch), nn.PixelShuffle(patch)
        down, up = ["DownBlock2D"] * levels, ["UpBlock2D"] * levels
        if config.attention and not ddpm:
            down[-1], up[0] = "AttnDownBlock2D", "AttnUpBlock2D"
        self.unet = UNet2DModel(
            sample_size=(height // patch, width // patch),
            in_channels=(shape[0] + leading) * patch**2,
            out_channels=shape[0] * patch**2,
            layers_per_block=config.layers,
            block_out_channels=config.channels,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            add_attention=config.attention or ddpm,
            attention_head_dim=config.channels[-1] if ddpm else 8,
            norm_num_groups=_GROUPS if ddpm else max(1, math.gcd(*config.channels) // 4),
            norm_eps=1e-6 if ddpm else 1e-5,
        )
        if ddpm:
            _as_in_paper(self.unet)

    def forward(self, x: Tensor) -> Tensor:
        left, _, top, _ = self.pad
        padded = functional.pad(x, self.pad, mode="replicate") if any(self.pad) else x
        out: Tensor = self.unfold(self.unet(self.fold(padded), 0, return_dict=False)[0])
        return out[..., top : top + x.shape[-2], left : left + x.shape[-1]]


class _NoTime(nn.Module):
    """In the place of a time embedding."""

    def forward(self, time: Tensor) -> None:
        return None


def _as_in_paper(unet: nn.Module) -> None:
    """A unet without time that begins as 0: residual blocks and attention add nothing at first, and nothing comes out."""
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


def _mlp(config: Config, shape: tuple[int, ...], leading: int = 0) -> nn.Module:
    d = math.prod(shape)
    sizes = [(shape[0] + leading) * math.prod(shape[1:])] + [config.width] * config.layers
    hidden: list[nn.Module] = [nn.Flatten()]
    for a, b in itertools.pairwise(sizes):
        hidden += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], d), nn.Unflatten(1, shape))


@torch.no_grad()
def displace(phi: Displacement, x: Tensor, clip: bool, batch_size: int = 500) -> Tensor:
    """Return x − Φ(x), computed in batches and clipped to [0, 1] like the flow's particles if `clip`."""
    phi.eval()
    out = torch.cat([part - phi(part) for part in x.split(batch_size)])
    out = out.clamp_(0, 1) if clip else out
    return out if phi.condition.known is None else phi.condition.known.restore(out, x)


def as_data(x: Tensor, level: Level) -> Tensor:
    """Particles as samples of the data: images are clipped to their range [0, 1], vectors may lie anywhere."""
    if len(level.shape) != 3:
        return x
    k = level.condition.leading
    return torch.cat([x[:, :k], x[:, k:].clamp(0, 1)], 1) if k else x.clamp(0, 1)
