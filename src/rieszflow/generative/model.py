"""`GenerativeFlow`: train a generative model, draw samples, save it and load it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from rieszflow._infra import ranks
from rieszflow._infra.extras import extra
from rieszflow._infra.files import Json
from rieszflow._infra.numerics import torch_defaults
from rieszflow._types import Points, PointSource, ProgressCallback, Seed
from rieszflow.constraints import Constraint, Pool
from rieszflow.data import Dataset
from rieszflow.data.streams import open_table
from rieszflow.errors import ConfigError, InputError, RunError
from rieszflow.generative.condition import condition_setting
from rieszflow.generative.config import Config
from rieszflow.generative.hub import OnHub
from rieszflow.generative.loop import train
from rieszflow.generative.processes import processes, report_rank_errors
from rieszflow.generative.run import Run
from rieszflow.generative.run_copies import Temporary, all_files, copy_files, new_folder, read_files
from rieszflow.generative.sampling import draw_samples
from rieszflow.generative.state import DrawCallback, checked_levels
from rieszflow.generative.training_data import check_same, dataset, describe, load_data

if TYPE_CHECKING:
    import pyarrow
    from pandas import DataFrame

# Settings that ask for networks, also for vectors, of which a flow is recorded by default.
_OF_NETWORKS = frozenset({
    "model", "network", "channels", "unet_patch_size", "layers", "attention", "width", "fit_steps", "fit_batch_size",
    "learning_rate", "loss", "ema", "paper", "mixed_precision", "refresh_every",
})  # fmt: skip


class GenerativeFlow(OnHub):
    """A model that turns noise into data along the sliced MMD flow: networks trained along the flow, or a recording of it.

    Args:
        config: The settings; None for a `Config` of `settings`. For vectors, those that `settings` leave out are the ones of
            the preset `table`, a recorded flow, unless there is a `network`, a `model` or another setting of networks.
        network: A module that maps `(B, *shape)` to `(B, *shape)`, of which each stage trains a copy; or a name of
            `Config.network`; None for the network in the settings.
        settings: Fields of `Config`, instead of `config`.

    Attributes:
        config: The settings.
        run: The folder of networks, checkpoints and metrics (`rieszflow.generative.Run`); None before `fit`.

    Raises:
        ConfigError: A setting is unknown or not valid.

    Example:
        >>> import torch
        >>> g = torch.Generator().manual_seed(0)
        >>> flow = GenerativeFlow(particles=200, stages=2, initial_steps=8, slices=8, fit_steps=50, width=32)
        >>> flow.fit(torch.randn(300, 2, generator=g)).sample(5, seed=1).shape
        torch.Size([5, 2])

    References:
        Hertrich, Wald, Altekrüger, Hagemann, *Generative Sliced MMD Flows with Riesz Kernels*, ICLR 2024, section 4.
    """

    def __init__(self, config: Config | None = None, *, network: nn.Module | str | None = None, **settings: Any) -> None:
        if config is not None and not isinstance(config, Config):
            raise ConfigError(
                f"`config` must be a Config, got {type(config).__name__}; pass a dictionary as GenerativeFlow(**dictionary)"
            )
        if config is not None and settings:
            raise ConfigError(f"`config` must be passed without further settings, got {', '.join(settings)}")
        if network is not None:
            name = "custom" if isinstance(network, nn.Module) else network
            config, settings = None, {**(config.to_dict() if config else settings), "network": name}
        self.config = config or Config.from_dict(settings, "GenerativeFlow")
        self._open = None if config is not None or _OF_NETWORKS & settings.keys() else settings
        self.network = network if isinstance(network, nn.Module) else None
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
            for name, content in state["run"].items():
                file = self._temporary.path / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            self.run = Run.open(self._temporary.path)

    @torch_defaults
    def fit(
        self,
        data: PointSource,
        *,
        condition: object = None,
        held_out: Points | None = None,
        held_out_condition: object = None,
        label: str | None = None,
        run: str | os.PathLike[str] | None = None,
        progress: ProgressCallback | None = None,
        draw: DrawCallback | None = None,
    ) -> GenerativeFlow:
        """Train on data.

        Args:
            data: Vectors (n, d) or images (n, C, H, W) of any real dtype, converted by `rieszflow.data.as_points`; a table
                that `rieszflow.Table` accepts, with all kinds of columns; a `rieszflow.data.Dataset`; or a name or path that
                `rieszflow.data.load` accepts.
            condition: What samples can be conditioned on: integer labels (n,), or "class" for those of a Dataset; numbers
                (n, k), or the names of a table's columns, "age,income"; for images a `Mask`, a `Pool`, or a name of
                `Config.condition`, such as "left-half". None for the condition in the settings.
            held_out: Data of the same form for the energy distances in the metrics; None to hold out a part of `data`.
            held_out_condition: Labels or numbers of `held_out`.
            label: The column of a table whose values are labels: every label has a flow of its own, and samples have the
                label's shares, or a label that `condition` names.
            run: Folder for networks, checkpoints and metrics, which must be empty or absent; None for a temporary one
                that exists as long as this object (`save` keeps it).
            progress: Called with a `Progress` after every step.
            draw: Called with the run and `Pictures` after every stage.

        Returns:
            This object.

        Raises:
            RunError: The folder is not empty, or training in it is not possible.
            ConfigError: The settings do not fit the data or the machine.
            InputError, InputTypeError: Data or condition are not accepted.
        """
        table = None if isinstance(data, Dataset) else open_table(data)
        if label is not None:
            if condition is not None:
                raise InputError(f"`condition` must be None with a label, got {condition!r}")
            self.config = Config(**{**dict(self.config), "condition": "class"})
        if condition is not None:
            wanted = condition_setting(condition, table is not None)
            if (own := self.config.condition) not in ("", wanted):
                raise ConfigError(f"`condition` must be that of the settings, {own[:40]!r}, or None, got {wanted[:40]!r}")
            self.config = Config(**{**dict(self.config), "condition": wanted})
        found = dataset(table or data, held_out, self.config, condition, held_out_condition, label)
        if isinstance(condition, Constraint):
            fits = condition.shape == found.shape if isinstance(condition, Pool) else condition.d == math.prod(found.shape)
            if not fits:
                raise InputError(f"`condition` must fit data of shape {found.shape}, got {condition!r}")
        if self._open is not None and len(found.shape) == 1:
            self.config = Config.preset("vectors", "table", **{**self._open, "condition": self.config.condition})
        description = describe(found, self.config)
        checked = checked_levels(self.config, description, self.network)
        self.run = self._create_run(run, description)
        train(self.run, found, checked, network=self.network, progress=progress, draw=draw)
        return self

    def _create_run(self, folder: str | os.PathLike[str] | None, description: Json) -> Run:
        """Create the folder in the first process; the others wait and open it."""
        temporary = Temporary() if folder is None else None
        folder = temporary.path if temporary else Path(folder or "")
        here = processes(self.config.torch_device())
        run = Run.create(folder, self.config, description) if here.main else None
        with report_rank_errors(folder):
            ranks.wait(here.group)
        self._temporary = temporary  # removes an older one
        return Run.open(folder) if run is None else run

    @classmethod
    @torch_defaults
    def resume(
        cls,
        run: str | os.PathLike[str],
        data: PointSource | None = None,
        *,
        condition: object = None,
        held_out: Points | None = None,
        held_out_condition: object = None,
        network: nn.Module | None = None,
        progress: ProgressCallback | None = None,
        draw: DrawCallback | None = None,
    ) -> GenerativeFlow:
        """Continue a run from its last checkpoint; on a CPU the networks are bit-identical to those of an uninterrupted run.

        Args:
            run: Its folder.
            data: The data of `fit`; None if `rieszflow.data.load` finds the data set that the run names.
            condition: The `condition` of `fit`, if it was labels or numbers.
            held_out, held_out_condition: Those of `fit`.
            network: The module that the model was made with, if any.
            progress, draw: As in `fit`.

        Raises:
            RunError: There is no run, a file is damaged or foreign, or the data differ from those that the run began with.
        """
        flow = cls.load(run, network=network)
        assert flow.run is not None
        flow.run.check()
        found = load_data(flow.run) if data is None else dataset(data, held_out, flow.config, condition, held_out_condition)
        check_same(flow.run, found)
        checked = checked_levels(flow.config, flow.run.data, network)
        train(flow.run, found, checked, network=network, progress=progress, draw=draw)
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
        """Draw samples: move fresh latents through all stages. One stage is in memory at a time.

        Args:
            n: Number of samples.
            condition: The condition, one for all samples or one for each: labels; numbers (k,) or (n, k) in their own units;
                images (C, H, W) or (n, C, H, W), of which only the known part is used, or pooled images. None for a model
                without a condition, or to draw labels with their frequencies in the training data.
            seed: Seed of the latents: an integer, or a CPU torch.Generator, which advances; None for torch's default one.
            batch_size: Number of latents that go through a network at a time; at least 4,000 for a recorded flow.
            progress: Called after every stage with a `Progress`.

        Returns:
            Samples (n, d) or (n, C, H, W), on the CPU, in the units of the data; images are clipped to their range. float32,
            or float64 if float32 could not distinguish the values.

        Raises:
            RunError: Nothing is trained yet; a network is missing, damaged or of another run; or config.yaml was edited.
            InputError: `n` or `batch_size` is below 1, or the condition does not fit the model or `n`.
        """
        return self._draw(n, condition, seed, batch_size, progress)[0]

    def sample_frame(
        self,
        n: int,
        *,
        condition: Mapping[str, object] | None = None,
        seed: Seed = None,
        batch_size: int = 500,
        progress: ProgressCallback | None = None,
    ) -> DataFrame:
        """Draw rows of a model that was trained on a table, with the same columns, types, decimals and missing cells.

        Args:
            n, seed, batch_size, progress: As in `sample`.
            condition: Values of the label, or of the columns that the model is conditioned on, by their names, for all rows.
                None for labels as often as in the training data.

        Returns:
            A pandas DataFrame. Columns that training left out, such as ids and free text, are missing.

        Raises:
            RunError: As `sample`; or the model was not trained on a table.
            InputError: As `sample`; the condition names other columns, or a category that the training data do not have.
        """
        with extra("tables", "sample_frame"):
            import pandas as _  # noqa: F401
        return self.sample_table(n, condition=condition, seed=seed, batch_size=batch_size, progress=progress).to_pandas()

    @torch_defaults
    def sample_table(
        self,
        n: int,
        *,
        condition: Mapping[str, object] | None = None,
        seed: Seed = None,
        batch_size: int = 500,
        progress: ProgressCallback | None = None,
    ) -> pyarrow.Table:
        """Draw rows as `sample_frame` does, and return a table of Arrow."""
        rows = None if self.run is None else self.run.rows
        if rows is None:
            raise RunError("rows can be drawn of a model that was trained on a table; `sample` returns arrays of others")
        return rows.to_arrow(*self._draw(n, condition, seed, batch_size, progress))

    def _draw(
        self, n: int, condition: object, seed: Seed, batch_size: int, progress: ProgressCallback | None
    ) -> tuple[Tensor, Tensor | None]:
        if self.run is None:
            raise RunError("nothing is trained yet: call fit first, or resume the run")
        return draw_samples(self.run, self.network, n, condition, seed, batch_size, progress)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Copy the run (networks, settings, metrics, checkpoint) to a folder.

        Args:
            path: The folder, which must be empty or absent.
            overwrite: True to replace an existing run. A folder that is not a run is never replaced.

        Raises:
            RunError: Nothing is trained, something else is at the path, or a link leads out of the run.
        """
        if self.run is None:
            raise RunError("nothing to save: call fit first")
        path, own = Path(path), self.run.path
        if not (overwrite and path.exists() and path.resolve() == own.resolve()):
            with new_folder(path, overwrite) as temporary:
                copy_files(self.run, all_files(own), temporary)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, network: nn.Module | None = None) -> GenerativeFlow:
        """Open the folder of a run.

        Args:
            path: The folder.
            network: The module that the model was made with, if any.

        Raises:
            RunError: The folder is not a run of rieszflow, or is damaged.
        """
        run = Run.open(path)
        if (run.config.network == "custom") != (network is not None):
            wanted = "needs the nn.Module as `network=`" if network is None else "was not trained with a custom network"
            raise RunError(f"{run.path}: {wanted}")
        flow = cls(run.config, network=network)
        flow.run = run
        return flow
