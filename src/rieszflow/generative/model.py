"""`GenerativeFlow`: train, sample, save, load, in a few lines of Python."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rieszflow import data
from rieszflow._infra import validate
from rieszflow._infra.files import out_of_memory
from rieszflow._infra.isolation import torch_defaults
from rieszflow._infra.notices import notice
from rieszflow._infra.text import one_line
from rieszflow._types import Points, Progress, ProgressCallback, Seed
from rieszflow.constraints import Constraint, Pool
from rieszflow.data import Dataset
from rieszflow.data.datasets import holds_table
from rieszflow.errors import ConfigError, InputError, RunError
from rieszflow.flow.segments import Segment, replay
from rieszflow.generative.condition import Condition, setting_of
from rieszflow.generative.config import Config
from rieszflow.generative.context import DrawCallback
from rieszflow.generative.hub import OnHub
from rieszflow.generative.latents import draw_latents
from rieszflow.generative.loop import train
from rieszflow.generative.networks import Displacement, build, check_memory, displace
from rieszflow.generative.processes import one_sentence, processes
from rieszflow.generative.pyramid import Level, grow, levels
from rieszflow.generative.run import Run
from rieszflow.generative.run_copies import Temporary, read_files, save_copy, write_files
from rieszflow.generative.training_data import check_same, dataset, describe, load_data

__all__ = ["GenerativeFlow"]

_PUSHED = 4000  # points at a time through a recording


class GenerativeFlow(OnHub):
    """A model that turns noise into data along the sliced MMD flow: networks trained along it, or the flow itself, recorded.

    Args:
        config: settings; None for `Config()` with `settings` as keyword arguments.
        network: a module that maps `(B, *shape)` to `(B, *shape)`, copied for every l; or a name of `Config.network`; None for
            the one that the config names.
        settings: fields of `Config`, instead of `config`.

    Attributes:
        config: the settings.
        run: the folder of networks, checkpoints and metrics (`rieszflow.generative.Run`); None before `fit`.

    Raises:
        ConfigError: unknown setting, or value out of range.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> flow = GenerativeFlow(particles=200, stages=2, initial_steps=8, slices=8, fit_steps=50, width=32)
        >>> flow.fit(torch.randn(300, 2, generator=g)).sample(5, seed=1).shape
        torch.Size([5, 2])

    Source: paper, section 4 (its Algorithm for training generative sliced MMD flows).
    """

    # `settings` are fields of Config, each of its own type.
    def __init__(self, config: Config | None = None, *, network: nn.Module | str | None = None, **settings: Any) -> None:
        if config is not None and not isinstance(config, Config):
            raise ConfigError(
                f"`config` must be a Config, got {type(config).__name__}; a dictionary goes in as GenerativeFlow(**it)"
            )
        if config is not None and settings:
            raise ConfigError(f"config: give either a Config or settings ({', '.join(settings)}), not both")
        if isinstance(network, nn.Module):
            settings = {**(config.to_dict() if config else settings), "network": "custom"}
            config = None
        elif network is not None:
            settings, network = {**settings, "network": network}, None
        self.config = config or Config.from_dict(settings, "GenerativeFlow")
        self.network: nn.Module | None = network
        self.run: Run | None = None
        self._temporary: Temporary | None = None  # the folder of a run, kept as long as this object

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles: all files of a temporary run, or the path of a permanent one."""
        state = dict(vars(self))
        if self._temporary is not None and self.run is not None:
            state |= {"run": read_files(self.run), "_temporary": None}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if isinstance(state["run"], dict):
            self._temporary = Temporary()
            write_files(state["run"], self._temporary.path)
            self.run = Run.open(self._temporary.path)

    @torch_defaults
    def fit(
        self,
        data: Dataset | Points | str | os.PathLike[str],
        *,
        condition: object = None,
        held_out: Points | None = None,
        held_out_condition: object = None,
        run: str | os.PathLike[str] | None = None,
        progress: ProgressCallback | None = None,
        draw: DrawCallback | None = None,
    ) -> GenerativeFlow:
        """Trains on data, and returns itself.

        Args:
            data: vectors (n, d) or images (n, C, H, W), of any real dtype; or a `rieszflow.data.Dataset`, or a name or path
                that `rieszflow.data.load` takes. Pictures of bytes are taken in [0, 1], channels last are put first, as
                `rieszflow.data.as_points` does. Scaled to [0, 1] inside; samples come back in the data's own values.
            condition: what samples can be asked to agree with: labels (n,) of whole numbers, or "class" for those of a
                Dataset; numbers (n, k) beside the data, or the names of a table's columns, "age,income"; for images a `Mask` or
                a `Pool`, or a name of `Config.condition`, such as "left-half". None: what the config says.
            held_out: data of the same form for the energy distances in the metrics; None to keep a share back.
            held_out_condition: labels or numbers of these.
            run: folder for networks, checkpoints and metrics, which must be empty or absent; None for a temporary one
                that lives as long as this object (`save` keeps it).
            progress: called with a `Progress` after every step.
            draw: called with the run and `Pictures` after every network.

        Raises:
            RunError: the folder is not empty, or cannot be trained in.
            ConfigError: the settings do not fit the data or the machine.
            InputError, InputTypeError: the data are not accepted.
        """
        self._set_condition(condition, isinstance(data, (str, os.PathLike)) and holds_table(data))
        found = dataset(data, held_out, self.config, condition, held_out_condition)
        if isinstance(condition, Constraint):
            fits = condition.shape == found.shape if isinstance(condition, Pool) else condition.d == math.prod(found.shape)
            if not fits:
                raise InputError(f"condition: {condition!r} given, the data have the shape {found.shape}")
        known = Condition.of(self.config, found.shape, describe(found, self.config).get("condition"))
        # Settings that do not fit the data or the machine are refused before any file is written.
        device = self.config.torch_device()
        for level in levels(self.config, found.shape, known):
            check_memory(level.config, level.shape, device, training=True)
            if self.config.model == "networks":
                build(level.config, level.shape, self.network, known)
            draw_latents(level.config, level.shape, 1, torch.Generator())
        self.run = self._new_run(run, found, device)
        train(self.run, found, network=self.network, progress=progress, draw=draw)
        return self

    def _set_condition(self, condition: object, of_table: bool) -> None:
        """The config's condition, from what `fit` was given."""
        if condition is None:
            return
        wanted = setting_of(condition, of_table)
        if self.config.condition not in ("", wanted):
            raise ConfigError(f"condition: {wanted[:40]!r} given to fit, and {self.config.condition[:40]!r} in the settings")
        self.config = replace(self.config, condition=wanted)

    def _new_run(self, folder: str | os.PathLike[str] | None, found: Dataset, device: torch.device) -> Run:
        """The first of several processes makes the folder, and the others find it."""
        temporary: Temporary | None = None
        if folder is None:
            temporary = Temporary()
            folder = temporary.path
        here = processes(device)
        run = Run.create(folder, self.config, describe(found, self.config)) if here.main else None
        with one_sentence(Path(folder)):
            here.wait()
        self._temporary = temporary  # removes an older one
        return Run.open(folder) if run is None else run

    @classmethod
    @torch_defaults
    def resume(
        cls,
        run: str | os.PathLike[str],
        data: Dataset | Points | None = None,
        *,
        condition: object = None,
        held_out: Points | None = None,
        held_out_condition: object = None,
        network: nn.Module | None = None,
        progress: ProgressCallback | None = None,
        draw: DrawCallback | None = None,
    ) -> GenerativeFlow:
        """Continues a run from its last checkpoint; on a CPU the networks are bit-identical to an uninterrupted run's.

        Args:
            run: its folder.
            data: what `fit` was given; None where the run names a data set that `rieszflow.data.load` finds.
            condition: what `fit` was given, if it was labels or numbers.
            held_out: what `fit` was given.
            held_out_condition: what `fit` was given.
            network: the module that `fit` was given, if one was.
            progress: as in `fit`.
            draw: as in `fit`.

        Raises:
            RunError: no run, a damaged or foreign file, or other data than the run began with.
        """
        flow = cls.load(run, network=network)
        assert flow.run is not None
        flow.run.check()
        found = load_data(flow.run) if data is None else dataset(data, held_out, flow.config, condition, held_out_condition)
        check_same(flow.run, found)
        train(flow.run, found, network=network, progress=progress, draw=draw)
        return flow

    @torch_defaults
    def sample(
        self,
        n: int,
        *,
        condition: object = None,
        seed: Seed = None,
        batch_size: int = 500,
        progress: ProgressCallback | None = None,
    ) -> Tensor:
        """n new samples: fresh latents through all networks; one network in memory at a time.

        Args:
            n: how many, at least 1.
            condition: what they shall agree with, for all of them or for each: a label or n; numbers (k,) or (n, k), in their
                own values; an image (C, H, W) or n of them, of which only the known part is looked at, or pooled images. None
                where the model was trained without; of labels, None draws them as often as they were in training.
            seed: of the latents: a whole number, or a CPU torch.Generator that goes on; None for torch's default generator.
            batch_size: latents in one pass of a network; a recorded flow takes 4,000 at least.
            progress: called after every stage with a `Progress`.

        Returns:
            (n, d) or (n, C, H, W), on the CPU, in the data's own values; images are clipped to their range. float32, but
            float64 where float32 could not tell those values apart.

        Raises:
            RunError: nothing trained yet; a network is missing, damaged or of another run; or config.yaml was edited.
            InputError: n or batch_size below 1; or a condition that the model does not know, of another shape or length.
        """
        n, batch_size = validate.positive_int("n", n), validate.positive_int("batch_size", batch_size)
        if self.run is None or (last := self.run.trained()) == 0:
            raise RunError("no trained network yet: call fit first, or resume the run")
        if last < (total := self.config.total_stages()):
            notice(f"{self.run.path}: training is not finished; samples go through {last} of {total} stages")
        device = self.config.torch_device()
        generator = validate.generator(seed)
        x, shape = torch.empty(0), self.run.shape
        known = Condition.of(self.config, shape, self.run.data.get("condition"))
        asked = known.asked(condition, n, self.run.data, generator)
        check_memory(levels(self.config, shape)[-1].config, shape, device, training=False, samples=n)
        for level in levels(self.config, self.run.shape, known):
            if level.first > last:
                break
            if level.first == 1:
                x = known.join(asked, draw_latents(level.config, level.shape, n, generator))
            else:
                x = grow(x, shape, level.shape, level.sample_noise_std, generator, level.config.upsampling, known.leading)
            x, shape = x.to(device), level.shape
            if self.config.model == "recorded":
                x = self._pushed(level, x, min(last, level.last), last, batch_size, progress)
                continue
            phi = build(level.config, shape, self.network, known).to(device)
            for number in range(level.first, min(last, level.last) + 1):
                self._load_weights(phi, number)
                x = displace(phi, x, level.config.clip, batch_size)
                if progress is not None:
                    progress(Progress("stages", number, last))
        if not x.isfinite().all():
            raise RunError(f"{self.run.path}: samples must be finite, got NaN or infinity from its networks or recording")
        # a run that has not come to its last level yet: its samples are what they are, in larger pixels
        x = known.data(grow(x, shape, self.run.shape, 0.0, None, leading=known.leading)).cpu()
        if len(self.run.shape) == 3:
            x = x.clamp(0, 1)
        said = self.run.data
        return data.unscale_points(x, said["low"], said["high"], self.run.columns).view(n, *self.run.shape)

    def _pushed(
        self, level: Level, x: Tensor, end: int, last: int, batch_size: int, progress: ProgressCallback | None
    ) -> Tensor:
        """Points moved as a level's particles were, part after part of the recording; one of them in memory at a time."""
        assert self.run is not None
        plan = level.plan()
        # Slices and tables are made anew for every batch, so batches are larger than a network's.
        run = self.run

        def segments() -> Iterator[Segment]:
            for number in range(level.first, end + 1):
                try:
                    yield Segment.from_tensors(plan, run.load_network(number))
                except (KeyError, ValueError, TypeError, IndexError) as error:
                    raise RunError(f"{run.network_file(number)}: does not fit the run ({one_line(error)})") from None
                if progress is not None:
                    progress(Progress("stages", number, last))

        return torch.cat(replay(segments(), x.split(max(batch_size, _PUSHED))))

    def _load_weights(self, phi: Displacement, number: int) -> None:
        assert self.run is not None
        try:
            phi.load_state_dict(self.run.load_network(number))
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            raise RunError(f"{self.run.network_file(number)}: does not fit the network ({one_line(error)})") from None

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Copies the run (networks, settings, metrics, checkpoint) to a folder.

        Args:
            path: the folder, which must be empty or absent.
            overwrite: replace the run that is there. What is no run is never replaced.

        Raises:
            RunError: nothing is trained, something else is at the path, or a link leads out of the run.
        """
        if self.run is None:
            raise RunError("nothing to save: call fit first")
        save_copy(self.run, Path(path), overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, network: nn.Module | None = None) -> GenerativeFlow:
        """Opens a run's folder.

        Args:
            path: the folder.
            network: the module that `fit` was given, if one was.

        Raises:
            RunError: no run of rieszflow, or damaged.
        """
        run = Run.open(path)
        if (run.config.network == "custom") != (network is not None):
            wanted = "needs the nn.Module as `network=`" if network is None else "was not trained with a custom network"
            raise RunError(f"{run.path}: {wanted}")
        flow = cls(run.config, network=network)
        flow.run = run
        return flow
