"""The settings of a run: one flat dataclass, read from YAML presets, written to a run's config.yaml."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml

__all__ = ["Config", "ConfigError", "presets"]


class ConfigError(ValueError):
    """A setting is unknown, missing or out of range. The message names it, and says what is accepted."""


@dataclass(frozen=True)
class Config:
    """Everything needed to repeat a run, but for the data themselves.

    Flow: N `particles` start as `latents`, noise that is "uniform" on [0, 1]^d (the paper's) or, for images, "smooth";
    `targets` M training data at most (None: all); `slices` P with `directions`, a set of which serves `reuse` steps (see
    `rieszflow.Target`); `step_size` τ (None: 0.4 (1 − m) times the targets' mean distance from one another, for forces have
    size one whatever the dimension is); `momentum` m, which grows by `momentum_gain` from network to network up to
    `momentum_cap`; with `clip` particles and samples are kept in the data's box [0, 1]^d. Network l is trained after T_l steps:
    T_1 = `first_steps`, T_{l+1} = min(T_l + min(2^{l−1}·T_1, `growth_cap`), `steps_cap`) (the paper's schedule); L `networks`.

    Images: `levels`, coarsest first, is a list of mappings with the key `factor` (images are pooled by it) and settings of that
    level's own; the rest is taken from above. Factors end at 1 and divide one another; `networks` is then per level, schedule
    and momentum begin anew in each, and particles are repeated up to the next level's size, plus `noise` of that standard
    deviation. `local_scales`: slices on patches of `local_size` pixels stretched by each of these factors, in turn, `slices`
    of them each (see `rieszflow.LocalSlices`); `local_steps` are their step sizes (empty: `step_size` for all).

    Fit: `fit_steps` Adam steps of `batch_size` with `learning_rate` decaying to 0 by a cosine, `loss` "squared" or "absolute",
    weights averaged with `ema` (0: off), each network started from the one before.

    Network: `network` is "unet" (diffusers' UNet2DModel on patches of `patch` × `patch` pixels, with `channels` per level,
    `layers` residual blocks a level and `attention` at the coarse level), "mlp" (`width`, `layers` hidden layers), "auto"
    (unet for images) or "custom". `shared`: one unet for all steps of a level, which is told the step's number by diffusers'
    time embedding; half of every batch are particles of earlier steps, so that it does not forget them.

    Run: `seed`; `device` ("auto", "cpu", "cuda", …); `mixed_precision` ("no", "bf16", "fp16"); `held_out` share where the
    data have no test part; `checkpoint_seconds` between checkpoints.

    Raises:
        ConfigError: naming the setting, its value and what is accepted.

    Example:
        >>> Config(first_steps=32, growth_cap=64, steps_cap=150, networks=5).flow_steps()
        [32, 64, 128, 150, 150]
    """

    particles: int = 4000
    targets: int | None = None
    slices: int = 256
    directions: str = "auto"
    reuse: int = 1
    step_size: float | None = None
    momentum: float = 0.7
    momentum_gain: float = 0.0
    momentum_cap: float = 0.8
    first_steps: int = 16
    growth_cap: int = 64
    steps_cap: int = 256
    clip: bool = False
    latents: str = "uniform"
    networks: int = 10
    levels: tuple[dict[str, Any], ...] = ()
    noise: float = 0.0
    local_scales: tuple[int, ...] = ()
    local_size: int = 7
    local_steps: tuple[float, ...] = ()
    network: str = "auto"
    shared: bool = False
    channels: tuple[int, ...] = (32, 64)
    patch: int = 1
    layers: int = 2
    attention: bool = False
    width: int = 256
    fit_steps: int = 500
    batch_size: int = 100
    learning_rate: float = 1e-3
    loss: str = "squared"
    ema: float = 0.0
    seed: int = 0
    device: str = "auto"
    mixed_precision: str = "no"
    held_out: float = 0.15
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in _LISTS:
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list) else value)
        for field in dataclasses.fields(self):
            _check(field.name, getattr(self, field.name))
        if self.local_steps and len(self.local_steps) != len(self.local_scales):
            raise ConfigError(
                f"local_steps: {len(self.local_steps)} step sizes given for {len(self.local_scales)} local_scales; one each is "
                "accepted"
            )
        factors = [factor for factor, _ in self.level_configs()]
        if factors[-1] != 1 or any(a <= b or a % b for a, b in itertools.pairwise(factors)):
            raise ConfigError(
                f"levels: factors {factors} given; falling ones that divide one another and end at 1 are accepted"
            )

    def level_configs(self) -> list[tuple[int, Config]]:
        """Factor and settings of every level; without `levels`, one of factor 1 with these settings."""
        if not self.levels:
            return [(1, self)]
        found = []
        for k, own in enumerate(self.levels):
            where = f"levels[{k}]"
            if not isinstance(own, dict) or "factor" not in own:
                raise ConfigError(
                    f"{where}: {own!r} given; a mapping with the key factor, and settings of its own, is accepted"
                )
            own = dict(own)
            factor = own.pop("factor")
            if not isinstance(factor, int) or isinstance(factor, bool) or factor < 1:
                raise ConfigError(f"{where}: factor: {factor!r} given; a whole number of at least 1 is accepted")
            accepted = [f.name for f in dataclasses.fields(self) if f.name not in _WHOLE_RUN]
            for key in own:
                if key not in accepted:
                    raise ConfigError(f"{where}: no setting {key!r} of a level; accepted: factor, {', '.join(accepted)}")
            try:
                found.append((factor, dataclasses.replace(self, levels=(), **own)))
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
        return found

    def total_networks(self) -> int:
        """L, of all levels."""
        return sum(config.networks for _, config in self.level_configs())

    def momentum_of(self, network: int) -> float:
        """m for the network-th network (from 1) of a level."""
        if not self.momentum_gain:
            return self.momentum
        return min(self.momentum + self.momentum_gain * (network - 1), self.momentum_cap)

    def flow_steps(self) -> list[int]:
        """T_1, …, T_L of all levels."""
        if self.levels:
            return [steps for _, config in self.level_configs() for steps in config.flow_steps()]
        steps = [min(self.first_steps, self.steps_cap)]
        for level in range(self.networks - 1):
            steps.append(min(steps[-1] + min(self.first_steps << min(level, 40), self.growth_cap), self.steps_cap))
        return steps

    def torch_device(self) -> torch.device:
        """The device to work on: "auto" is CUDA where there is some. Raises ConfigError where it is not to be had."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            return torch.empty(0, device=self.device).device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).split(".")[0].split("\n")[0]
            raise ConfigError(f"device: {self.device!r} given, which is not to be had here ({reason})") from None

    def to_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {**values, **{name: list(values[name]) for name in _LISTS}}

    @classmethod
    def from_dict(cls, values: Any, source: str) -> Config:
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: a mapping of settings is needed, {type(values).__name__} given")
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [str(key) for key in values if key not in known]
        if unknown:
            raise ConfigError(f"{source}: unknown setting {unknown[0]!r}; accepted: {', '.join(known)}")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def preset(cls, dataset: str, name: str, **overrides: Any) -> Config:
        """A preset of a data set ("digits", "fashion-mnist", …; "images", "vectors" for own data), or a YAML file's path."""
        file: Any
        if name.endswith((".yaml", ".yml")) or os.sep in name:
            file = Path(name)
            if not file.is_file():
                raise ConfigError(f"preset: no file {name}")
        else:
            file = resources.files("rieszflow.generative") / "presets" / f"{dataset}.{name}.yaml"
            if not file.is_file():
                accepted = ", ".join(n for d, n in presets() if d == dataset) or "none"
                raise ConfigError(f"preset: {name!r} given; for {dataset} accepted: {accepted}, or a YAML file's path")
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"preset {name}: not readable YAML ({' '.join(str(error).split())})") from None
        if isinstance(values, dict):
            values = {**values, **overrides}
        return cls.from_dict(values, f"preset {name}")


def presets() -> list[tuple[str, str]]:
    """All (data set, preset name) that come with the library."""
    folder = resources.files("rieszflow.generative") / "presets"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".yaml"))
    return [(d, n) for d, n, _ in (name.rsplit(".", 2) for name in names)]


_AT_LEAST_ONE = (
    "slices", "reuse", "first_steps", "growth_cap", "steps_cap", "networks", "patch", "layers", "width", "fit_steps",
    "batch_size", "local_size",
)  # fmt: skip
_LISTS = ("channels", "levels", "local_scales", "local_steps")
_WHOLE_RUN = (
    "particles", "targets", "clip", "latents", "levels", "network", "shared", "seed", "device", "mixed_precision", "held_out",
    "checkpoint_seconds",
)  # fmt: skip
_POSITIVE = ("step_size", "learning_rate", "checkpoint_seconds")
_FRACTIONS = {"momentum": "[0, 1)", "momentum_gain": "[0, 1)", "momentum_cap": "[0, 1)", "ema": "[0, 1)", "held_out": "(0, 1)"}
_CHOICES = {
    "network": ("auto", "unet", "mlp", "custom"),
    "latents": ("uniform", "smooth"),
    "loss": ("squared", "absolute"),
    "mixed_precision": ("no", "bf16", "fp16"),
    "directions": ("auto", "independent", "orthogonal", "hadamard", "sobol"),
}


def _check(name: str, value: Any) -> None:
    def need(ok: bool, accepted: str) -> None:
        if not ok:
            raise ConfigError(f"{name}: {value!r} given; {accepted} accepted")

    def whole(v: Any, least: int) -> bool:
        return isinstance(v, int) and not isinstance(v, bool) and v >= least

    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if name in _AT_LEAST_ONE:
        need(whole(value, 1), "a whole number of at least 1 is")
    elif name == "particles":
        need(whole(value, 2), "a whole number of at least 2 is")
    elif name == "targets":
        need(value is None or whole(value, 2), "null or a whole number of at least 2 is")
    elif name == "seed":
        need(whole(value, 0) and value < 2**63, "a whole number in [0, 2^63) is")
    elif name == "step_size" and value is None:
        pass
    elif name in _POSITIVE:
        need(number and value > 0, "a positive number is")
    elif name in _FRACTIONS:
        above = value > 0 or (value == 0 and _FRACTIONS[name][0] == "[") if number else False
        need(above and value < 1, f"a number in {_FRACTIONS[name]} is")
    elif name in _CHOICES:
        need(value in _CHOICES[name], ", ".join(map(repr, _CHOICES[name])) + " are")
    elif name == "channels":
        ok = isinstance(value, tuple) and len(value) > 0 and all(whole(v, 1) for v in value)
        need(ok, "a list of whole numbers, one per level, is")
    elif name == "noise":
        need(number and value >= 0, "a number of at least 0 is")
    elif name == "local_scales":
        need(isinstance(value, tuple) and all(whole(v, 1) for v in value), "a list of whole numbers of at least 1 is")
    elif name == "local_steps":
        fine = isinstance(value, tuple) and all(isinstance(v, (int, float)) and 0 < v < math.inf for v in value)
        need(fine, "a list of positive numbers is")
    elif name == "levels":
        need(isinstance(value, tuple), "a list of mappings is")
    elif name in ("attention", "clip", "shared"):
        need(isinstance(value, bool), "true or false is")
    else:
        need(isinstance(value, str), "a name is")
