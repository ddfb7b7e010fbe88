"""The settings of a run: a pydantic model, read from YAML presets and written to a run's config.yaml."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import AfterValidator, Field, model_validator

from rieszflow._infra.messages import short_repr
from rieszflow._types import DirectionsName
from rieszflow.errors import ConfigError
from rieszflow.generative.schema import StrictModel, read_preset, unknown_name

UpsamplingName: TypeAlias = Literal["repeat", "smooth"]

HALVES = ("left-half", "right-half", "top-half", "bottom-half")


def is_condition(value: str) -> bool:
    kind, colon, rest = value.partition(":")
    return bool(rest) and kind in ("columns", "pool", "mask") if colon else value in ("", "class", "values", *HALVES)


def _check_condition(value: str) -> str:
    if not is_condition(value):
        raise ValueError(f"must be 'class', 'values', 'columns:NAMES', 'pool:SIZE', {', '.join(map(repr, HALVES))} or ''")
    return value


Count = Annotated[int, Field(ge=1, le=10**9)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
_LIST = Field(strict=False, max_length=100)  # not strict: lists of a YAML file become tuples
Channels = Annotated[tuple[Annotated[int, Field(ge=1, le=10**5)], ...], Field(strict=False, min_length=1, max_length=16)]


class PaperSettings(StrictModel):
    """Settings that reproduce the published scripts of the paper; only the `paper` presets use them."""

    first_targets: bool = False
    """Use the first `targets` of the training data in all levels instead of a random choice."""
    momentum_gain: Fraction = 0.0
    """Increase of the momentum m from stage to stage."""
    momentum_cap: Fraction = 0.8
    """Largest momentum that `momentum_gain` leads to."""
    reset_velocity: bool = False
    """Start the flow of every stage at rest. By default particles keep their velocity within a level."""
    continue_from: Literal["network", "flow"] = "network"
    """Start the next stage where the "network" moved the particles, as it will move samples, or where the "flow" did."""
    sample_noise_std: NotNegative | None = None
    """`noise_std` for samples. None: as for the particles."""
    patch_step_sizes: Annotated[tuple[Positive, ...], _LIST] = ()
    """τ of each of the `patch_slices`; needs `patches_only`. Empty: `step_size` for all."""
    single_patch: bool = False
    """Place all slices of one kind in a step on the same random patch; step sizes, if set, are for the constant c_d of the
    whole image. By default patches tile the image."""
    fit: Literal["normalised", "plain"] = "normalised"
    """How networks are fitted. "normalised": on inputs 4x − 2 and displacements of mean square 1, with gradients clipped at
    norm 1, and a learning rate that decreases to 0 along a cosine. "plain": none of these."""


class Config(StrictModel):
    """The settings of a run: everything needed to repeat it, except the data.

    Stage l of a level has T_l flow steps, by the paper's schedule: T_1 = `initial_steps`,
    T_{l+1} = min(T_l + min(2^{l−1} T_1, `max_step_increment`), `max_steps`).

    In the config.yaml of a run that has begun, `device`, `mixed_precision` and `checkpoint_seconds` may be changed, and
    `stages` (of the last level) raised, unless there is a `step_schedule`.

    Raises:
        ConfigError: A setting is unknown or not valid.

    Example:
        >>> Config(initial_steps=32, max_step_increment=64, max_steps=150, stages=5).flow_steps()
        [32, 64, 128, 150, 150]
    """

    model: Literal["networks", "recorded"] = "networks"
    """The kind of model. "networks": the paper's networks, which learn the flow's displacements. "recorded": the steps of the
    flow, which are repeated for new points (see `rieszflow.RecordedFlow`)."""

    # The flow.
    particles: Annotated[int, Field(ge=2, le=10**9)] = 4000
    """N, the number of particles that flow from noise to the data."""
    targets: Annotated[int, Field(ge=2, le=10**9)] | None = None
    """M, the number of training data to flow to, chosen at random. None: all."""
    target_batch_size: Annotated[int, Field(ge=2, le=10**9)] | None = None
    """Targets per flow step, in turn (see `rieszflow.Target`). None: all."""
    slices: Annotated[int, Field(ge=0, le=10**7)] = 256
    """P, the number of random directions per flow step and kind of slices. 0: 4 d, at least 64 and at most 512."""
    directions: DirectionsName = "auto"
    """The kind of directions."""
    refresh_every: Count = 1
    """Number of steps for which a set of slices is used (see `rieszflow.Target`)."""
    step_size: Positive | None = None
    """τ. None: 0.4 (1 − `momentum`) times the mean distance between targets."""
    step_schedule: Annotated[tuple[Positive, Positive], Field(strict=False)] | None = None
    """Factors of τ at the first and the last flow step of a level, with a geometric decrease between them; with `validation`,
    the factor decreases when samples do not improve. None: 1."""
    validation: Fraction = 0.0
    """Share of the training data, at most 2,000, that are not targets: fresh samples of a recorded flow are compared to them
    after every stage, to shorten the steps, to end the training, and to choose the last stage of the model. 0: none."""
    patience: Annotated[int, Field(ge=0)] = 0
    """End at the best stage after as many without better samples, by distances to the nearest held-out data. 0: do not."""
    momentum: Fraction = 0.7
    """m, the fraction of the last velocity that is kept."""
    initial_steps: Count = 16
    """T_1, the number of flow steps of the first stage."""
    max_step_increment: Count = 64
    """Largest increase of T_l from stage to stage."""
    max_steps: Count = 256
    """Largest T_l."""
    clip: bool = False
    """Keep particles and samples in the box [0, 1]^d of the data."""
    latents: Literal["uniform", "smooth", "mixture", "gaussian"] = "uniform"
    """The points that become samples: noise, "uniform" on [0, 1]^d as in the paper or, for images, "smooth"; or a "mixture" of
    Gaussians fitted to the targets; or, for vectors, even (Sobol) points of the "gaussian" with their mean and covariance."""
    whitening: Annotated[float, Field(ge=0, le=1)] = 0.0
    """p: vectors with covariance C are mapped by C^(−p/2) before the flow, and back after it. Needs Gaussian `latents`."""
    neighbours: Annotated[int, Field(ge=0, le=10**4)] = 0
    """k: targets are new points in every step, between a datum and one of its k nearest; not if they outnumber particles."""
    flow_per_label: bool = False
    """Record a flow for each label (condition "class"), of at least 1,000 particles each. Needs Gaussian `latents`."""
    condition: Annotated[str, AfterValidator(_check_condition)] = ""
    """The condition of samples. "class": labels. "values": numbers next to the data. "columns:age,income": columns of a table.
    Known parts of images: "left-half" etc.; "pool:4": means of 4 × 4 pixels; "mask:…": a `rieszflow.Mask` as text."""
    condition_weight: Positive = 1.0
    """Mean distance between conditions (labels or values) relative to the mean distance between data."""
    stages: Annotated[int, Field(ge=1, le=10**5)] = 10
    """L, the number of stages of a level. Each stage is a network, or a part of a recording, in a file of its own."""
    bins: Annotated[int, Field(ge=8, le=1024)] = 64
    """Bins of a recording's tables, which take this many bytes per slice and step."""

    # Images.
    levels: Annotated[tuple[dict[str, object], ...], _LIST] = ()
    """Resolutions of images, the coarsest first: mappings with the pooling `factor` and settings of this level. Factors
    decrease to 1, and each divides the one before. Schedule and momentum restart in every level."""
    noise_std: NotNegative = 0.0
    """Standard deviation of the noise added to images upsampled to this level."""
    upsampling: UpsamplingName = "repeat"
    """How images are upsampled to this level: "repeat" pixels, as in the paper, or "smooth", by bilinear interpolation."""
    patch_slices: Annotated[tuple[Annotated[tuple[Count, Count], Field(strict=False)], ...], _LIST] = ()
    """Pairs [size, stretch] of further slices, on patches (see `rieszflow.PatchSlices`); `slices` of each."""
    patches_only: bool = False
    """Use `patch_slices` only, and no slices of the whole image."""
    by_colour: Annotated[tuple[Count, ...], _LIST] = ()
    """Stretches of `patch_slices` at which every slice has one colour channel: brightness, or one of two colour differences."""
    combine: Literal["alternate", "sum"] = "alternate"
    """How kinds of slices are used. "sum": add their gradients at the same particles. "alternate": they take turns."""

    # The network and its fit.
    network: Literal["auto", "unet", "ddpm", "mlp", "custom"] = "auto"
    """The network: "unet" (UNet2DModel of diffusers), "ddpm" (as in the paper: groups of 32 channels, attention in the middle
    only, no time input, initially zero), "mlp", "auto" (unet or, for vectors, mlp), or "custom" (your own module)."""
    channels: Channels = (32, 64)
    """Channels of the unet, one number for each halving of the image."""
    unet_patch_size: Annotated[int, Field(ge=1, le=1024)] = 1
    """p: the unet sees p × p pixels as one pixel with p² times the channels."""
    layers: Annotated[int, Field(ge=1, le=256)] = 2
    """Residual blocks of the unet at each size, or hidden layers of the mlp."""
    attention: bool = False
    """Use attention at the unet's coarsest size."""
    width: Annotated[int, Field(ge=1, le=10**6)] = 256
    """Width of the mlp's hidden layers."""
    fit_steps: Count = 500
    """Steps of Adam per network. Every network starts from the weights of the previous one."""
    fit_batch_size: Annotated[int, Field(ge=1, le=10**7)] = 100
    """Particles per step of Adam."""
    learning_rate: Positive = 1e-3
    """Learning rate at the first step."""
    loss: Literal["squared", "absolute"] = "squared"
    """The error of a displacement."""
    ema: Fraction = 0.0
    """Decay of the moving average of the weights. 0: no average."""
    paper: PaperSettings = PaperSettings()
    """Settings that only the paper's own scripts need."""

    # The run.
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of everything random."""
    device: str = "auto"
    """The device to train on: "auto", "cpu", "cuda", …"""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the fit. A CPU uses float32 instead of fp16."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of the data held out for the metrics, if the data set has no test part."""
    checkpoint_seconds: Positive = 60.0
    """Seconds between checkpoints."""

    @model_validator(mode="after")
    def _check(self) -> Config:
        paper = self.paper
        if unknown := sorted(set(self.by_colour) - {stretch for _, stretch in self.patch_slices}):
            raise ValueError(f"`by_colour` must list stretches of `patch_slices`, got {unknown[0]}")
        if self.patches_only and not self.patch_slices:
            raise ValueError("`patch_slices` must not be empty with `patches_only`, got ()")
        if paper.patch_step_sizes and not (self.patches_only and len(paper.patch_step_sizes) == len(self.patch_slices)):
            wanted, got = "an entry for each of the `patch_slices` and needs `patches_only`", short_repr(paper.patch_step_sizes)
            raise ValueError(f"`paper.patch_step_sizes` must have {wanted}, got {got}")
        if self.target_batch_size is not None and self.refresh_every != 1:
            raise ValueError(f"`refresh_every` must be 1 with a `target_batch_size`, got {self.refresh_every}")
        if self.patience and (self.validation or self.levels):
            raise ValueError(f"`patience` must be 0 with `validation` or `levels`, got {self.patience}")
        changed = {"refresh_every": self.refresh_every != 1, "network": self.network == "custom"}
        unfit = [name for name, is_unfit in (changed | {"paper.reset_velocity": paper.reset_velocity}).items() if is_unfit]
        if self.validation and (self.model != "recorded" or self.levels or self.step_schedule is None):
            raise ValueError(f"`validation` must be 0 without a recorded flow and `step_schedule`, got {self.validation}")
        if (self.whitening or self.flow_per_label) and (self.latents != "gaussian" or self.clip):
            raise ValueError("`latents` must be 'gaussian', without `clip`, with `whitening` or `flow_per_label`")
        if (self.flow_per_label and self.model == "networks") or (self.neighbours and (self.refresh_every != 1 or self.levels)):
            raise ValueError("`flow_per_label` needs a recorded flow, and `neighbours` neither `refresh_every` nor levels")
        if self.model == "recorded" and unfit:
            raise ValueError(f"`{unfit[0]}` must have its default with the model 'recorded'")
        if self.levels:
            if self.condition not in ("", "class", "values"):
                raise ValueError(f"`condition` must be 'class', 'values' or '' with levels, got {self.condition[:40]!r}")
            factors = [factor for factor, _ in self.level_configs()]
            if factors[-1] != 1 or any(a <= b or a % b for a, b in itertools.pairwise(factors)):
                raise ValueError(f"`levels` must have factors that decrease to 1 and divide one another, got {factors}")
        return self

    @property
    def condition_columns(self) -> list[str]:
        """The columns of a table that `condition` names."""
        kind, _, names = self.condition.partition(":")
        return [name.strip() for name in names.split(",")] if kind == "columns" else []

    @property
    def conditions_on_image(self) -> bool:
        """True if `condition` names a part of an image."""
        return self.condition.startswith(("pool:", "mask:")) or self.condition in HALVES

    def validation_size(self, n: int) -> int:
        """Return the number of validation data among n training data."""
        return min(2000, math.ceil(self.validation * n))

    def level_configs(self) -> list[tuple[int, Config]]:
        """Return the factor and the settings of every level; without `levels`, one level of factor 1."""
        if not self.levels:
            return [(1, self)]
        found = []
        for k, level in enumerate(self.levels):
            factor = (own := dict(level)).pop("factor", None)
            if type(factor) is not int or not 1 <= factor <= 2**20:
                raise ConfigError(f"`levels[{k}].factor` must be a positive integer, got {short_repr(factor)}")
            if whole := [name for name in own if name in _RUN_SETTINGS]:
                raise ConfigError(f"`levels[{k}].{whole[0]}` must be set for the whole run and not for a level")
            try:
                found.append((factor, Config(**_overlay({**dict(self), "levels": ()}, own))))
            except ConfigError as error:
                raise ConfigError(f"`levels[{k}].{str(error)[1:]}") from None
        return found

    def total_stages(self) -> int:
        """Return the number of stages of all levels."""
        return sum(config.stages for _, config in self.level_configs())

    def momentum_of(self, stage: int) -> float:
        """Return m in a stage of a level, counted from 1."""
        m, gain = self.momentum, self.paper.momentum_gain
        return min(m + gain * (stage - 1), self.paper.momentum_cap) if gain else m

    def flow_steps(self) -> list[int]:
        """Return T_1, …, T_L of all levels."""
        if self.levels:
            return [steps for _, config in self.level_configs() for steps in config.flow_steps()]
        steps = [min(self.initial_steps, self.max_steps)]
        for k in range(self.stages - 1):
            steps.append(min(steps[-1] + min(self.initial_steps << min(k, 40), self.max_step_increment), self.max_steps))
        return steps

    def torch_device(self) -> torch.device:
        """Return the device to work on; "auto" is CUDA if it is available."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            probe = torch.zeros(1, device=self.device)
            probe.item()  # fails on "meta", which has no values
            return probe.device
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).split(".")[0].split("\n")[0]
            raise ConfigError(f"`device` must be available on this machine, got {short_repr(self.device)} ({reason})") from None

    def to_dict(self) -> dict[str, object]:
        """Return the settings as they are written to YAML."""
        return self.model_dump(mode="json")

    def fixed(self) -> dict[str, object]:
        """Return the settings that trained networks depend on, as JSON; they must not change any more."""
        configs = [config for _, config in self.level_configs()]
        stages: list[int | None] = [config.stages for config in configs]
        if not configs[-1].step_schedule:  # stages may be added, because step sizes do not depend on their number
            stages[-1] = None
        levels = [{key: value for key, value in level.items() if key != "stages"} for level in self.levels]
        settings = {key: value for key, value in self.to_dict().items() if key not in _FREE_SETTINGS}
        return {**settings, "levels": levels, "stages": stages}

    @classmethod
    def from_dict(cls, values: object, source: str, whole: bool = False) -> Config:
        """Return the settings in a mapping from `source`, which may lack settings unless it must be `whole`."""
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: the settings must be a mapping, got {short_repr(values)}")
        try:
            if odd := [name for name in values if name not in cls.model_fields]:
                raise ConfigError(unknown_name(odd[0], cls))
            if whole and (missing := [name for name in cls.model_fields if name not in values]):
                raise ConfigError(f"`{missing[0]}` is missing")
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def preset(cls, dataset: str, name: str, **overrides: Any) -> Config:
        """Return a preset of the library, or the settings in a YAML file.

        Args:
            dataset: "digits", "fashion-mnist", …; "images" and "vectors" for your own data.
            name: The name of the preset, such as "cpu", or the path of a file.
            overrides: Settings that replace those of the preset.

        Raises:
            ConfigError: There is no such preset or file, or settings are not valid.
        """
        if odd := [setting for setting in overrides if setting not in cls.model_fields]:
            raise ConfigError(unknown_name(odd[0], cls))
        values = read_preset(dataset, name)
        return cls.from_dict(_overlay(values, overrides) if isinstance(values, dict) else values, f"preset {name}")


# Levels cannot override the settings of a whole run; the free ones may change after training has begun.
_FREE_SETTINGS = frozenset({"device", "mixed_precision", "checkpoint_seconds"})
_RUN_SETTINGS = _FREE_SETTINGS | {
    "model", "particles", "targets", "target_batch_size", "clip", "latents", "condition", "condition_weight", "levels",
    "network", "seed", "held_out", "validation", "patience", "whitening", "neighbours", "flow_per_label",
}  # fmt: skip


def _overlay(base: Mapping[str, object], own: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings `base` updated by `own`; the section `paper` is merged."""
    merged: dict[str, Any] = {**base, **own}
    old, new = base.get("paper"), own.get("paper")
    if isinstance(old, (dict, PaperSettings)) and isinstance(new, dict):
        merged["paper"] = {**dict(old), **new}
    return merged
