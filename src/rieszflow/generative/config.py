"""The settings of a run: one flat dataclass, read from YAML presets, written to a run's config.yaml."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import os
import re
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml

from rieszflow._files import one_line, read_text
from rieszflow.errors import ConfigError, FileError, InputError

__all__ = ["Config", "ConfigError", "dump_yaml", "parse_yaml", "presets", "shown"]


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

    Once a run has begun, its config.yaml may name another `device`, `mixed_precision` and `checkpoint_seconds`, and more
    `networks` (with `levels`: of the last one; not if `shared`), to go on training; what else is changed is refused.

    Numbers have upper limits far beyond what makes sense, such as 10⁹ `particles` and 256 `layers`: a slip of the hand should
    not ask for more memory than there is.

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
                    f"{where}: {shown(own)} given; a mapping with the key factor, and settings of its own, is accepted"
                )
            own = dict(own)
            factor = own.pop("factor")
            if not isinstance(factor, int) or isinstance(factor, bool) or not 1 <= factor <= 2**20:
                raise ConfigError(f"{where}: factor: {shown(factor)} given; a whole number of at least 1 is accepted")
            accepted = [f.name for f in dataclasses.fields(self) if f.name not in _WHOLE_RUN]
            for key in own:
                if key not in accepted:
                    what = "it is one of the whole run" if key in _WHOLE_RUN else meant(key, ["factor", *accepted])
                    raise ConfigError(f"{where}: no setting {shown(key)} of a level; {what}")
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
            there = torch.zeros(1, device=self.device)
            there.item()  # "meta" has no numbers
            return there.device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).split(".")[0].split("\n")[0]
            raise ConfigError(f"device: {shown(self.device)} given, which is not to be had here ({reason})") from None

    def to_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {**values, **{name: list(values[name]) for name in _LISTS}}

    def fixed(self) -> dict[str, Any]:
        """The settings that a trained network depends on, which may not change any more; `levels[k]` are keys of their own."""
        free = {*_FREE} if self.shared else {*_FREE, "networks"}
        values = {key: value for key, value in self.to_dict().items() if key not in free and key != "levels"}
        for k, (own, (_, config)) in enumerate(zip(self.levels, self.level_configs(), strict=False)):
            own = {**own, "networks": config.networks}
            if k == len(self.levels) - 1 and not self.shared:
                del own["networks"]
            values |= {f"levels[{k}].{key}": value for key, value in own.items()}
        return values

    @classmethod
    def from_dict(cls, values: Any, source: str, whole: bool = False) -> Config:
        """From a mapping of settings; with `whole` all must be there, as in a run's config.yaml."""
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: a mapping of settings is needed, {type(values).__name__} given")
        _check_names(values, source)
        if whole and (missing := [field.name for field in dataclasses.fields(cls) if field.name not in values]):
            raise ConfigError(f"{source}: its config section lacks {', '.join(missing)}")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def preset(cls, dataset: str, name: str, **overrides: Any) -> Config:
        """A preset of a data set ("digits", "fashion-mnist", …; "images", "vectors" for own data), or a YAML file's path."""
        _check_names(overrides, "settings")  # here, lest a wrong one be laid at the preset's door
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
            text = read_text(file, YAML_BYTES) if isinstance(file, Path) else file.read_text(encoding="utf-8")
            values = parse_yaml(text)
        except FileError as error:
            raise ConfigError(f"preset: {error}") from None
        except ValueError as error:
            raise ConfigError(f"preset {name}: not readable YAML ({error})") from None
        values = {} if values is None else values
        if isinstance(values, dict):
            values = {**values, **overrides}
        return cls.from_dict(values, f"preset {name}")


def presets() -> list[tuple[str, str]]:
    """All (data set, preset name) that come with the library."""
    folder = resources.files("rieszflow.generative") / "presets"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".yaml"))
    return [(d, n) for d, n, _ in (name.rsplit(".", 2) for name in names)]


YAML_BYTES = 4_000_000  # settings are some 1,000; the data section may hold numbers of every column


class _Loader(yaml.SafeLoader):
    """Plain YAML: no aliases, of which a few lines unfold to gigabytes; no key twice; 1e-3 is a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise InputError(f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not accepted; write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise InputError(f"line {key.start_mark.line + 1}: the key {shown(key.value)} is there twice")
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would take for a number, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def dump_yaml(content: Any) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_yaml(text: str) -> Any:
    """What a YAML text says. Raises ValueError with one line for whatever is wrong with it."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except Exception as error:  # the parser's own, and what its constructors raise for !!int "", 2001-99-99 and the like
        raise InputError(one_line(error)) from None


def shown(value: Any) -> str:
    """A value as messages show it: one line, not too long."""
    try:
        text = repr(value) if isinstance(value, (int, float, str, list, tuple, dict)) else reprlib.repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = "a very long number"
    return text if len(text) <= 120 else text[:120] + "…"


def meant(key: Any, known: Iterable[str]) -> str:
    """The second half of a message about an unknown name: the nearest known one."""
    near = difflib.get_close_matches(str(key), list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else "help(rieszflow.generative.Config) says which there are"


def _check_names(values: dict[Any, Any], source: str) -> None:
    known = [field.name for field in dataclasses.fields(Config)]
    for key in values:
        if key not in known:
            raise ConfigError(f"{source}: unknown setting {shown(key)}; {meant(key, known)}")


_AT_LEAST_ONE = (
    "slices", "reuse", "first_steps", "growth_cap", "steps_cap", "networks", "patch", "layers", "width", "fit_steps",
    "batch_size", "local_size",
)  # fmt: skip
_LISTS = ("channels", "levels", "local_scales", "local_steps")
_WHOLE_RUN = (
    "particles", "targets", "clip", "latents", "levels", "network", "shared", "seed", "device", "mixed_precision", "held_out",
    "checkpoint_seconds",
)  # fmt: skip
_FREE = ("device", "mixed_precision", "checkpoint_seconds")  # may change while a run is on its way
_LIMITS = {
    "layers": 256, "width": 10**6, "patch": 1024, "local_size": 1024, "networks": 10**5, "slices": 10**7, "batch_size": 10**7,
}  # fmt: skip
_MOST = 10**9  # of all other whole numbers
_LONGEST = 100  # entries of a list
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
            raise ConfigError(f"{name}: {shown(value)} given; {accepted} accepted")

    def whole(v: Any, least: int, most: int = _MOST) -> bool:
        return isinstance(v, int) and not isinstance(v, bool) and least <= v <= most

    def number(v: Any) -> bool:
        return not isinstance(v, bool) and (
            (isinstance(v, int) and abs(v) < 2**63) or (isinstance(v, float) and math.isfinite(v))
        )

    def many(accepts: Callable[[Any], bool]) -> bool:
        return isinstance(value, tuple) and len(value) <= _LONGEST and all(accepts(v) for v in value)

    if name in _AT_LEAST_ONE:
        most = _LIMITS.get(name, _MOST)
        need(whole(value, 1, most), f"a whole number of at least 1 and at most {most:,} is")
    elif name == "particles":
        need(whole(value, 2), f"a whole number of at least 2 and at most {_MOST:,} is")
    elif name == "targets":
        need(value is None or whole(value, 2), f"null or a whole number of at least 2 and at most {_MOST:,} is")
    elif name == "seed":
        need(whole(value, 0, 2**63 - 1), "a whole number in [0, 2^63) is")
    elif name == "step_size" and value is None:
        pass
    elif name in _POSITIVE:
        need(number(value) and value > 0, "a positive number is")
    elif name in _FRACTIONS:
        above = value > 0 or (value == 0 and _FRACTIONS[name][0] == "[") if number(value) else False
        need(above and value < 1, f"a number in {_FRACTIONS[name]} is")
    elif name in _CHOICES:
        need(value in _CHOICES[name], ", ".join(map(repr, _CHOICES[name])) + " are")
    elif name == "channels":
        need(many(lambda v: whole(v, 1, 10**5)) and 0 < len(value) <= 16, "a list of whole numbers, one per level, is")
    elif name == "noise":
        need(number(value) and value >= 0, "a number of at least 0 is")
    elif name == "local_scales":
        need(many(lambda v: whole(v, 1)), "a list of whole numbers of at least 1 is")
    elif name == "local_steps":
        need(many(lambda v: number(v) and v > 0), "a list of positive numbers is")
    elif name == "levels":
        need(isinstance(value, tuple) and len(value) <= _LONGEST, "a list of mappings is")
    elif name in ("attention", "clip", "shared"):
        need(isinstance(value, bool), "true or false is")
    else:
        need(isinstance(value, str), "a name is")
