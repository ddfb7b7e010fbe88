"""The settings of a run: one flat dataclass, read from YAML presets, written to a run's config.yaml."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import torch

from rieszflow._infra.text import suggestion
from rieszflow._types import DirectionsName
from rieszflow.errors import ConfigError
from rieszflow.generative.checks import (
    TEXT,
    TRUTH,
    Check,
    fraction,
    is_number,
    is_whole,
    list_of,
    number,
    one_of,
    optional,
    shown,
    whole,
)
from rieszflow.generative.preset_files import read_preset

__all__ = [
    "HALVES",
    "Config",
    "LatentsName",
    "LossName",
    "ModelName",
    "NetworkName",
    "PrecisionName",
    "UpsamplingName",
    "is_condition",
]  # fmt: skip

LatentsName: TypeAlias = Literal["uniform", "smooth"]
NetworkName: TypeAlias = Literal["auto", "unet", "ddpm", "mlp", "custom"]
ModelName: TypeAlias = Literal["networks", "recorded"]
LossName: TypeAlias = Literal["squared", "absolute"]
FitName: TypeAlias = Literal["normalised", "plain"]
PlacesName: TypeAlias = Literal["tiled", "one"]
UpsamplingName: TypeAlias = Literal["repeat", "smooth"]
ContinueName: TypeAlias = Literal["network", "flow"]
CombineName: TypeAlias = Literal["alternate", "sum"]
PrecisionName: TypeAlias = Literal["no", "bf16", "fp16"]

Scope: TypeAlias = Literal["level", "run", "free"]
T = TypeVar("T")

_POSITIVE = number("a positive number is", lambda v: v > 0)
_NOT_NEGATIVE = number("a number of at least 0 is", lambda v: v >= 0)


def _is_pair(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(is_whole(v, 1, 10**9) for v in value)


HALVES = ("left-half", "right-half", "top-half", "bottom-half")


def is_condition(value: object) -> bool:
    if not isinstance(value, str):
        return False
    kind, colon, rest = value.partition(":")
    if colon:
        return bool(rest) and kind in ("columns", "pool", "mask")
    return value in ("", "class", "values", *HALVES)


def _setting(default: T, check: Check, doc: str, scope: Scope = "level") -> T:
    """A field of `Config`: what it is by default, what it may be, what it means, and for what it stands.

    `scope`: "level" settings may differ from level to level. "run" settings are of the whole run. "free" ones are, too, and
    may be changed while a run is on its way.
    """
    return dataclasses.field(default=default, metadata={"check": check, "doc": doc, "scope": scope})


@dataclass(frozen=True)
class Config:
    """Everything that is needed to repeat a run, but for the data.

    Once a run has begun, its config.yaml may name another `device`, `mixed_precision` and `checkpoint_seconds`, and more
    `stages` (with `levels`: of the last one), to go on training. Other changes are refused.

    Network l is trained after T_l flow steps: T_1 = `initial_steps`, T_{l+1} = min(T_l + min(2^{l−1}·T_1, `max_step_increment`),
    `max_steps`) (the paper's schedule).

    Raises:
        ConfigError: naming the setting, its value and what is accepted.

    Example:
        >>> Config(initial_steps=32, max_step_increment=64, max_steps=150, stages=5).flow_steps()
        [32, 64, 128, 150, 150]
    """

    model: ModelName = _setting(
        "networks",
        one_of(get_args(ModelName)),
        'What is kept of the flow. "networks": networks that learn to make its moves, the paper\'s. "recorded": what its steps '
        "did, which is done to new points (see `rieszflow.RecordedFlow`).",
        "run",
    )

    # The flow.
    particles: int = _setting(4000, whole(2), "N: particles that start as noise and move to the data.", "run")
    targets: int | None = _setting(None, optional(whole(2)), "M: training data to move to, at most. None: all.", "run")
    first_targets: bool = _setting(
        False, TRUTH, "The `targets` are the first of the training data. If not, they are chosen at random.", "run"
    )
    target_batch_size: int | None = _setting(
        None, optional(whole(2)), "Targets that a flow step sees, in turn (see `rieszflow.Target`). None: all.", "run"
    )
    slices: int = _setting(256, whole(1, 10**7), "P: random directions of a flow step.")
    directions: DirectionsName = _setting("auto", one_of(get_args(DirectionsName)), "Their kind.")
    refresh_every: int = _setting(1, whole(), "Steps that a set of slices serves (see `rieszflow.Target`).")
    step_size: float | None = _setting(
        None, optional(_POSITIVE), "τ. None: 0.4 (1 − `momentum`) times the mean distance between targets."
    )
    step_schedule: tuple[float, ...] = _setting(
        (),
        list_of("a list of two positive numbers is", lambda v: isinstance(v, (int, float)) and is_number(v) and v > 0),
        "What τ is multiplied by at a level's first and last flow step; it falls by the same factor in every step. Empty: 1.",
    )
    momentum: float = _setting(0.7, fraction(), "m: how much of the last velocity is kept.")
    momentum_gain: float = _setting(0.0, fraction(), "What m grows by from network to network.")
    momentum_cap: float = _setting(0.8, fraction(), "What m grows to.")
    initial_steps: int = _setting(16, whole(), "T_1: flow steps before the first network.")
    max_step_increment: int = _setting(64, whole(), "What T_l grows by from network to network, at most.")
    max_steps: int = _setting(256, whole(), "What T_l grows to.")
    reset_velocity: bool = _setting(
        False, TRUTH, "Particles begin the flow of every network at rest. If not, they keep their velocity in a level."
    )
    continue_from: ContinueName = _setting(
        "network",
        one_of(get_args(ContinueName)),
        'Where particles start the next stage: where the "network" moved them, as samples do, or where the "flow" did.',
    )
    clip: bool = _setting(False, TRUTH, "Keep particles and samples in the data's box [0, 1]^d.", "run")
    latents: LatentsName = _setting(
        "uniform",
        one_of(get_args(LatentsName)),
        'The noise: "uniform" on [0, 1]^d (the paper\'s) or, for images, "smooth".',
        "run",
    )
    condition: str = _setting(
        "",
        Check(is_condition, f"'class', 'values', 'columns:a', 'pool:4', {', '.join(map(repr, HALVES))} or '' are"),
        'What samples can be asked to agree with. "class": labels. "values": numbers next to the data; "columns:age,income": '
        'these columns of a table. Of images what is known: "left-half" and so on; "pool:4": means of 4 × 4 pixels; "mask:…": '
        "what `rieszflow.Mask` writes. Empty: nothing.",
        "run",
    )
    condition_weight: float = _setting(
        1.0, _POSITIVE, "Mean distance between conditions, labels or numbers, beside that between data.", "run"
    )
    stages: int = _setting(10, whole(1, 10**5), "L: stages of every level, a file each: networks, or parts of a recording.")
    bins: int = _setting(64, whole(8, 1024), "Of a recording's tables; a slice takes as many bytes in every step.")

    # Images.
    levels: tuple[dict[str, Any], ...] = _setting(
        (),
        list_of("a list of mappings is", lambda v: True),
        "Sizes of images, coarsest first: mappings with the key `factor`, by which images are pooled, and settings of that "
        "level. Factors end at 1 and divide one another. Schedule and momentum begin anew in each level.",
        "run",
    )
    noise_std: float = _setting(
        0.0, _NOT_NEGATIVE, "Standard deviation of the noise that is added where images grow to this level."
    )
    upsampling: UpsamplingName = _setting(
        "repeat",
        one_of(get_args(UpsamplingName)),
        'How images grow to this level: "repeat" pixels, as in the paper, or "smooth", by bilinear interpolation.',
    )
    sample_noise_std: float | None = _setting(
        None, optional(_NOT_NEGATIVE), "The same for samples. None: as for the particles."
    )
    patch_slices: tuple[tuple[int, int], ...] = _setting(
        (),
        list_of("a list of pairs [size, scale] of whole numbers is", _is_pair),
        "Slices on patches, which take turns with those of whole images: pixels along a side, and stretch (see "
        "`rieszflow.PatchSlices`). `slices` of each.",
    )
    by_colour: tuple[int, ...] = _setting(
        (),
        list_of("a list of whole numbers of at least 1 is", lambda v: is_whole(v, 1, 10**9)),
        "Stretches of `patch_slices` at which a patch is of one colour: brightness, or one of two differences of colours.",
    )
    local_scales: tuple[int, ...] = _setting(
        (),
        list_of("a list of whole numbers of at least 1 is", lambda v: is_whole(v, 1, 10**9)),
        "Slices on patches only, stretched by each of these factors in turn, `slices` of them each.",
    )
    local_size: int = _setting(7, whole(1, 1024), "Pixels along the side of a patch of `local_scales`.")
    local_steps: tuple[float, ...] = _setting(
        (),
        list_of("a list of positive numbers is", lambda v: isinstance(v, (int, float)) and is_number(v) and v > 0),
        "τ of every factor in `local_scales`. Empty: `step_size` for all.",
    )

    combine: CombineName = _setting(
        "alternate",
        one_of(get_args(CombineName)),
        '"sum": gradients on all kinds of slices are taken at the same particles and added up. "alternate": kinds take turns.',
    )
    places: PlacesName = _setting(
        "tiled",
        one_of(get_args(PlacesName)),
        'Where patches are: "tiled", all over the image; or "one", the paper\'s: in a step all slices of a kind share a random '
        "place, and have the constant c_d of the whole image, where a step size is given.",
    )

    # The network.
    network: NetworkName = _setting(
        "auto",
        one_of(get_args(NetworkName)),
        '"unet" (diffusers\' UNet2DModel), "ddpm" (it as in the paper: groups of 32 channels, attention in the middle only, no '
        'time, 0 at first), "mlp", "auto" (unet for images), or "custom" (a module of your own).',
        "run",
    )
    channels: tuple[int, ...] = _setting(
        (32, 64),
        list_of("a list of whole numbers, one per level, is", lambda v: is_whole(v, 1, 10**5), 1, 16),
        "Of the unet, one number for every halving of the image.",
    )
    unet_patch_size: int = _setting(1, whole(1, 1024), "The unet sees p × p pixels as one.")
    layers: int = _setting(2, whole(1, 256), "Residual blocks of the unet at each size, or hidden layers of the mlp.")
    attention: bool = _setting(False, TRUTH, "Attention at the unet's coarsest size.")
    width: int = _setting(256, whole(1, 10**6), "Of the mlp's hidden layers.")

    # The fit.
    fit_steps: int = _setting(500, whole(), "Adam steps. Every network starts from the one before.")
    fit_batch_size: int = _setting(100, whole(1, 10**7), "Particles of a step.")
    fit: FitName = _setting(
        "normalised",
        one_of(get_args(FitName)),
        '"normalised": the network sees 4x − 2 and learns displacements of mean square 1, by gradients of at most 1, and the '
        'learning rate falls to 0 along a cosine. "plain", the paper\'s: none of these.',
    )
    learning_rate: float = _setting(1e-3, _POSITIVE, "At the first step.")
    loss: LossName = _setting("squared", one_of(get_args(LossName)), "Error of a displacement.")
    ema: float = _setting(0.0, fraction(), "Decay of the moving average of the weights. 0: no average.")

    # The run.
    seed: int = _setting(
        0, Check(lambda v: is_whole(v, 0, 2**63 - 1), "a whole number in [0, 2^63) is"), "Of all chance.", "run"
    )
    device: str = _setting("auto", TEXT, '"auto", "cpu", "cuda", …', "free")
    mixed_precision: PrecisionName = _setting(
        "no", one_of(get_args(PrecisionName)), "Of the fit. fp16 is for GPUs, a CPU computes in float32.", "free"
    )
    held_out: float = _setting(
        0.15, fraction(zero=False), "Share kept for the metrics, where the data have no test part.", "run"
    )
    checkpoint_seconds: float = _setting(60.0, _POSITIVE, "Seconds between checkpoints.", "free")

    def __post_init__(self) -> None:
        for name, field in _FIELDS.items():
            value = getattr(self, name)
            if isinstance(field.default, tuple) and isinstance(value, list):
                value = tuple(tuple(v) if name == "patch_slices" and isinstance(v, list) else v for v in value)
                object.__setattr__(self, name, value)
            field.metadata["check"](name, value)
        if self.local_steps and len(self.local_steps) != len(self.local_scales):
            raise ConfigError(
                f"local_steps: {len(self.local_steps)} step sizes given for {len(self.local_scales)} local_scales; one each is "
                "accepted"
            )
        if len(self.step_schedule) not in (0, 2):
            raise ConfigError(
                f"step_schedule: {shown(list(self.step_schedule))} given; two numbers, the first and the last, or none are accepted"
            )
        if unknown := sorted(set(self.by_colour) - {scale for _, scale in self.patch_slices}):
            raise ConfigError(f"by_colour: {unknown[0]} given; stretches of patches are accepted")
        if self.patch_slices and self.local_scales:
            raise ConfigError("patch_slices: given together with local_scales; one of them is accepted")
        if self.model == "recorded" and (self.refresh_every != 1 or self.network == "custom"):
            raise ConfigError(
                "model: 'recorded' given with refresh_every or a network; refresh_every 1 and no network are accepted with it"
            )
        if self.model == "recorded" and any(config.reset_velocity for _, config in self.level_configs()):
            raise ConfigError("reset_velocity: given with model 'recorded'; it is accepted with networks")
        if self.levels and self.condition and self.condition not in ("class", "values"):
            raise ConfigError(f"condition: {shown(self.condition)} given with levels; it is accepted without them")
        if self.target_batch_size is not None and self.refresh_every != 1:
            raise ConfigError("`target_batch_size` must be None with `refresh_every` other than 1")
        factors = [factor for factor, _ in self.level_configs()]
        if factors[-1] != 1 or any(a <= b or a % b for a, b in itertools.pairwise(factors)):
            raise ConfigError(
                f"levels: factors {factors} given; falling ones that divide one another and end at 1 are accepted"
            )

    def level_configs(self) -> list[tuple[int, Config]]:
        """Factor and settings of every level; without `levels`, one of factor 1 with these settings."""
        if not self.levels:
            return [(1, self)]
        return [self._level_config(f"levels[{k}]", own) for k, own in enumerate(self.levels)]

    def _level_config(self, where: str, own: object) -> tuple[int, Config]:
        if not isinstance(own, dict) or "factor" not in own:
            raise ConfigError(
                f"{where}: {shown(own)} given; a mapping with the key factor, and settings of its own, is accepted"
            )
        own = dict(own)
        factor = own.pop("factor")
        if not is_whole(factor, 1, 2**20):
            raise ConfigError(f"{where}: factor: {shown(factor)} given; a whole number of at least 1 is accepted")
        for key in own:
            if key not in _OF_LEVELS:
                what = "it is one of the whole run" if key in _FIELDS else _meant(key, ["factor", *_OF_LEVELS])
                raise ConfigError(f"{where}: no setting {shown(key)} of a level; {what}")
        try:
            return factor, dataclasses.replace(self, levels=(), **own)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    def total_stages(self) -> int:
        """L, of all levels."""
        return sum(config.stages for _, config in self.level_configs())

    def momentum_of(self, network: int) -> float:
        """m for the network-th network (from 1) of a level."""
        if not self.momentum_gain:
            return self.momentum
        return min(self.momentum + self.momentum_gain * (network - 1), self.momentum_cap)

    def flow_steps(self) -> list[int]:
        """T_1, …, T_L of all levels."""
        if self.levels:
            return [steps for _, config in self.level_configs() for steps in config.flow_steps()]
        steps = [min(self.initial_steps, self.max_steps)]
        for level in range(self.stages - 1):
            steps.append(min(steps[-1] + min(self.initial_steps << min(level, 40), self.max_step_increment), self.max_steps))
        return steps

    def torch_device(self) -> torch.device:
        """The device to work on: "auto" is CUDA where there is some.

        Raises:
            ConfigError: this machine has no such device.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            there = torch.zeros(1, device=self.device)
            there.item()  # "meta" has no numbers
            return there.device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).split(".")[0].split("\n")[0]
            raise ConfigError(f"device: {shown(self.device)} given, which is not available here ({reason})") from None

    def to_dict(self) -> dict[str, Any]:
        """As YAML can say it, and `from_dict` takes it."""
        values = dataclasses.asdict(self)
        return {
            name: [list(v) if isinstance(v, tuple) else v for v in value] if isinstance(value, tuple) else value
            for name, value in values.items()
        }

    def fixed(self) -> dict[str, Any]:
        """The settings that a trained network depends on, which may not change any more; `levels[k]` are keys of their own."""
        values = {key: value for key, value in self.to_dict().items() if key in _FIXED and key != "levels"}
        for key in _LATER:  # settings that older files do not know, and that change nothing
            if values[key] == _as_list(_FIELDS[key].default):
                del values[key]
        # The step schedule depends on the number of steps, and so on the number of stages.
        if not self.step_schedule:
            del values["stages"]
        for k, (own, (_, config)) in enumerate(zip(self.levels, self.level_configs(), strict=False)):
            own = {**own, "stages": config.stages}
            if k == len(self.levels) - 1 and not (self.step_schedule or config.step_schedule):
                del own["stages"]
            values |= {f"levels[{k}].{key}": value for key, value in own.items()}
        return values

    @classmethod
    def from_dict(cls, values: object, source: str, whole: bool = False) -> Config:
        """From a mapping of settings.

        Args:
            values: the mapping.
            source: what messages name as the place of a mistake.
            whole: all settings must be there, as in a run's config.yaml.

        Raises:
            ConfigError: no mapping, unknown settings, or values that are not accepted.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: a mapping of settings is needed, {type(values).__name__} given")
        _check_names(values, source)
        if whole and (missing := [name for name in _FIELDS if name not in values and name not in _LATER]):
            raise ConfigError(f"{source}: its config section lacks {', '.join(missing)}")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def preset(cls, dataset: str, name: str, **overrides: Any) -> Config:
        """A preset that comes with the library, or a YAML file of settings.

        Args:
            dataset: "digits", "fashion-mnist", …; "images" and "vectors" for data of your own.
            name: of the preset, such as "cpu"; or a file's path.
            overrides: settings to change.

        Raises:
            ConfigError: no such preset or file, or settings that are not accepted.
        """
        _check_names(overrides, "settings")  # here, lest a wrong one be laid at the preset's door
        values = read_preset(dataset, name)
        if isinstance(values, dict):
            values = {**values, **overrides}
        return cls.from_dict(values, f"preset {name}")


_FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Config)}
_OF_LEVELS = [name for name, field in _FIELDS.items() if field.metadata["scope"] == "level"]
# Added since runs of this version were first written: config.yaml may lack them.
_LATER = (
    "model", "target_batch_size", "step_schedule", "bins", "patch_slices", "by_colour",
    "first_targets", "reset_velocity", "continue_from", "sample_noise_std", "upsampling", "combine", "places", "fit", "condition",
    "condition_weight",
)  # fmt: skip
_FIXED = [name for name, field in _FIELDS.items() if field.metadata["scope"] != "free"]
# For help() and the API pages: what stands beside the fields.
_DOCS = "\n".join(f"        {name}: {field.metadata['doc']}" for name, field in _FIELDS.items())
Config.__doc__ = f"{Config.__doc__}\n    Attributes:\n{_DOCS}\n    "


def _as_list(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _check_names(values: Mapping[Any, object], source: str) -> None:
    for key in values:
        if key not in _FIELDS:
            raise ConfigError(f"{source}: unknown setting {shown(key)}; {_meant(key, _FIELDS)}")


def _meant(key: object, known: Iterable[str]) -> str:
    """The second half of a message about an unknown name: the nearest known one."""
    return suggestion(key, known) or "help(rieszflow.generative.Config) lists them"
