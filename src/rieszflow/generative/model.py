"""`GenerativeFlow`: train, sample, save, load, in a few lines of Python."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn

from rieszflow import _validate, data
from rieszflow._files import aside, one_line
from rieszflow._notices import notice
from rieszflow._surroundings import defaults
from rieszflow._types import Progress, ProgressCallback, Seed
from rieszflow.data import Dataset
from rieszflow.errors import ConfigError, InputError, RunError, WriteError
from rieszflow.generative.config import Config
from rieszflow.generative.latents import draw_latents
from rieszflow.generative.networks import as_data, build, check_memory, displace
from rieszflow.generative.pyramid import grow, levels
from rieszflow.generative.run import Run
from rieszflow.generative.training import Pictures, train

__all__ = ["GenerativeFlow"]


class GenerativeFlow:
    """A sequence of networks trained along the sliced MMD flow that turns noise into data.

    Args:
        config: settings; None for `Config()` with `settings` as keyword arguments.
        network: a module that maps (B, *shape) to (B, *shape), copied for every l; or a name of `Config.network`; None for
            the one that the config names.
        settings: fields of `Config`, instead of `config`.

    Attributes:
        config: the settings.
        run: the folder of networks, checkpoints and metrics (`rieszflow.generative.Run`); None before `fit`.

    Raises:
        ConfigError: unknown setting, or value out of range.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> flow = GenerativeFlow(particles=200, networks=2, first_steps=8, slices=8, fit_steps=50, width=32)
        >>> flow.fit(torch.randn(300, 2, generator=g)).sample(5, seed=1).shape
        torch.Size([5, 2])

    Source: paper, section 4 (its Algorithm for training generative sliced MMD flows).
    """

    def __init__(self, config: Config | None = None, network: nn.Module | str | None = None, **settings: Any) -> None:
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
        self._temporary: weakref.finalize[..., GenerativeFlow] | None = None  # removes a temporary run's folder

    @defaults
    def fit(
        self,
        data: Dataset | Tensor | np.ndarray,
        held_out: Tensor | np.ndarray | None = None,
        run: str | os.PathLike[str] | None = None,
        progress: ProgressCallback | None = None,
        draw: Callable[[Run, Pictures], Any] | None = None,
    ) -> GenerativeFlow:
        """Trains on data, and returns itself.

        Args:
            data: vectors (n, d) or images (n, C, H, W), of any real dtype; or a `rieszflow.data.Dataset`. Pictures of bytes
                are taken in [0, 1], channels last are put first, as `rieszflow.data.as_points` does. Scaled to [0, 1] inside;
                samples come back in the data's own values.
            held_out: data of the same form for the energy distances in the metrics; None to keep a share back.
            run: folder for networks, checkpoints and metrics, which must be empty or absent; None for a temporary one
                that lives as long as this object (`save` keeps it).
            progress: called with a `Progress` after every step.
            draw: called with the run and `Pictures` after every network.

        Raises:
            RunError, ConfigError, ValueError, TypeError: each names what was wrong.
        """
        dataset = data if isinstance(data, Dataset) else _dataset(data, held_out, self.config)
        # Settings that do not fit the data or the machine are refused before any file is written.
        device = self.config.torch_device()
        for level in levels(self.config, dataset.shape):
            check_memory(level.config, level.shape, device, training=True)
            build(level.config, level.shape, self.network)
            draw_latents(level.config, level.shape, 1, torch.Generator())
        if run is None:
            if self._temporary is not None:
                self._temporary()
            run = tempfile.mkdtemp(prefix="rieszflow-")
            self._temporary = weakref.finalize(self, shutil.rmtree, run, ignore_errors=True)
        # Under torchrun the first process makes the folder, and the others find it.
        ranks = PartialState(cpu=device.type == "cpu")
        with ranks.main_process_first():
            create = ranks.is_main_process
            self.run = Run.create(run, self.config, describe(dataset)) if create else Run.open(run)
        train(self.run, dataset, self.network, progress, draw)
        return self

    @classmethod
    @defaults
    def resume(
        cls,
        run: str | os.PathLike[str],
        data: Dataset | Tensor | np.ndarray | None = None,
        held_out: Tensor | np.ndarray | None = None,
        network: nn.Module | None = None,
        progress: ProgressCallback | None = None,
        draw: Callable[[Run, Pictures], Any] | None = None,
    ) -> GenerativeFlow:
        """Continues a run from its last checkpoint; on a CPU the networks are bit-identical to an uninterrupted run's.

        Args:
            run: its folder.
            data, held_out: what `fit` was given; None where the run names a data set that `rieszflow.data.load` finds.
            network: the module that `fit` was given, if one was.
            progress, draw: as in `fit`.

        Raises:
            RunError: no run, a damaged or foreign file, or other data than the run began with.
        """
        flow = cls.load(run, network)
        assert flow.run is not None
        flow.run.check()
        if data is None:
            dataset = load_data(flow.run)
        else:
            dataset = data if isinstance(data, Dataset) else _dataset(data, held_out, flow.config)
        now, then = describe(dataset), flow.run.data
        if now["fingerprint"] != then["fingerprint"]:
            raise RunError(
                f"{flow.run.path}: began with {then['points']} training data of {then['name']}; "
                f"those given now ({now['points']} of {now['name']}) are not the same"
            )
        for key in now.keys() & then.keys() - {"name", "path"}:
            if now[key] != then[key]:
                file = flow.run.path / "config.yaml"
                raise RunError(f"{file}: {key} of the data is {then[key]!r}, the data given now have {now[key]!r}")
        train(flow.run, dataset, network, progress, draw)
        return flow

    @defaults
    def sample(
        self,
        n: int,
        *,
        seed: Seed = None,
        batch_size: int = 500,
        progress: ProgressCallback | None = None,
    ) -> Tensor:
        """n new samples: fresh latents through all networks; one network in memory at a time.

        Args:
            n: how many, at least 1.
            seed: of the latents: a whole number, or a CPU torch.Generator that goes on; None for torch's default generator.
            batch_size: latents in one pass of a network.
            progress: called after every network with a `Progress`.

        Returns:
            (n, d) or (n, C, H, W), on the CPU, in the data's own values; images are clipped to their range. float32, but
            float64 where float32 could not tell those values apart.

        Raises:
            RunError: nothing trained yet; a network is missing, damaged or of another run; or config.yaml was edited.
            ValueError: n or batch_size below 1.
        """
        n, batch_size = _validate.positive_int("n", n), _validate.positive_int("batch_size", batch_size)
        if self.run is None or (last := self.run.trained()) == 0:
            raise RunError("no trained network yet: call fit first, or resume the run")
        if last < (total := self.config.total_networks()):
            notice(f"{self.run.path}: is not trained to its end; samples go through {last} of {total} networks")
        device = self.config.torch_device()
        generator = _validate.generator(seed)
        x, shape = torch.empty(0), self.run.shape
        check_memory(levels(self.config, shape)[-1].config, shape, device, training=False, samples=n)
        for level in levels(self.config, self.run.shape):
            if level.first > last:
                break
            noise = level.config.noise
            x = (
                draw_latents(level.config, level.shape, n, generator)
                if level.first == 1
                else grow(x, shape, level.shape, noise, generator)
            )
            x, shape = x.to(device), level.shape
            phi = build(level.config, shape, self.network).to(device)
            stop = min(last, level.last)
            for number in range(level.first, stop + 1):
                if not self.config.shared or number == level.first:
                    file = stop if self.config.shared else number
                    try:
                        phi.load_state_dict(self.run.load_network(file))
                    except RuntimeError as error:
                        reason = one_line(error)
                        raise RunError(f"{self.run.network_file(file)}: does not fit the network ({reason})") from None
                step = number - level.first if self.config.shared else None
                x = displace(phi, x, level.config.clip, step, batch_size)
                if progress is not None:
                    progress(Progress("networks", number, last))
        # a run that has not come to its last level yet: its samples are what they are, in larger pixels
        x = grow(x, shape, self.run.shape, 0.0, None)
        known = self.run.data
        x = as_data(x, self.run.shape).cpu()
        return data.unscaled(x, known["low"], known["high"], known.get("centre")).view(n, *self.run.shape)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Copies the run (networks, settings, metrics, checkpoint) to a folder.

        Args:
            path: the folder, which must be empty or absent.
            overwrite: replace the run that is there. What is no run is never replaced.

        Raises:
            RunError: nothing to save, or something in the way.
        """
        if self.run is None:
            raise RunError("nothing to save: call fit first")
        path = Path(path)
        there = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if there and not overwrite:
            raise RunError(f"{path}: exists and is not an empty folder; choose another, or overwrite=True to replace a run")
        if there and path.resolve() == self.run.path.resolve():
            return
        try:
            with aside(path) as temporary:
                shutil.copytree(self.run.path, temporary, ignore=shutil.ignore_patterns(".*"))
                temporary.chmod(0o755)
                if there:
                    self._replace(path, temporary)
                    return
                if path.exists():
                    path.rmdir()
                os.replace(temporary, path)
        except OSError as error:
            raise WriteError(
                f"{path}: cannot be written ({error.strerror or one_line(error)}); what was there before is untouched"
            ) from error

    @staticmethod
    def _replace(path: Path, new: Path) -> None:
        """Puts a run's folder in the place of another run's, which is not being trained."""
        with aside(path) as old:
            with Run.open(path).exclusively():
                os.replace(path, old)
            try:
                os.replace(new, path)
            except BaseException:
                os.replace(old, path)
                raise

    @classmethod
    def load(cls, path: str | os.PathLike[str], network: nn.Module | None = None) -> GenerativeFlow:
        """Opens a run's folder. `network`: the module that `fit` was given, if one was.

        Raises:
            RunError: no run of rieszflow, or damaged.
        """
        run = Run.open(path)
        if (run.config.network == "custom") != (network is not None):
            wanted = "needs the nn.Module as `network=`" if network is None else "was not trained with a custom network"
            raise RunError(f"{run.path}: {wanted}")
        flow = cls(run.config, network)
        flow.run = run
        return flow


def describe(dataset: Dataset) -> dict[str, Any]:
    """What config.yaml says of the data, with a fingerprint of the training part."""
    digest = hashlib.blake2b(dataset.train.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
    return {
        "name": dataset.name,
        "path": dataset.path,
        "shape": list(dataset.shape),
        "low": dataset.low,
        "high": dataset.high,
        "centre": None if dataset.centre is None else list(dataset.centre),
        "points": len(dataset.train),
        "fingerprint": digest,
    }


def load_data(run: Run, moved: str | os.PathLike[str] | None = None) -> Dataset:
    """The data that a run's config.yaml names; `moved` says where they are now, if not where they were."""
    if run.data["name"] == "tensor":
        raise RunError(f"{run.path}: was trained on a tensor given in Python; pass it again as `data`")
    name, path = run.data["name"], run.data["path"]
    if moved is not None:
        name, path = (name, str(moved)) if name in data.NAMED else (str(moved), None)
    return data.load(name, path, run.config.held_out, run.config.seed)


def _dataset(x: Any, held_out: Any, config: Config) -> Dataset:
    """A Dataset from tensors or arrays given in Python."""
    parts: list[np.ndarray | None] = []
    for name, t in (("data", x), ("held_out", held_out)):
        if t is None and name == "held_out":
            parts.append(None)
            continue
        t = _validate.points(name, data.as_points(t, name)).cpu()
        if t.ndim not in (2, 4):
            raise InputError(f"{name}: shape {tuple(t.shape)} given; (n, d), (n, H, W) or (n, C, H, W) is accepted")
        parts.append(t.numpy())
    train, test = parts
    assert train is not None
    if test is not None and train.shape[1:] != test.shape[1:]:
        raise InputError(f"held_out: data of shape {test.shape[1:]} given, data has {train.shape[1:]}")
    return data.from_arrays("tensor", train, test, config.held_out, config.seed)
