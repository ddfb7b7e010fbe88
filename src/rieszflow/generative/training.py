"""The main algorithm: flow some steps, fit a network to where the particles went, go on from what the network does.

For l = 1, …, L (paper, section 4): x_old = x; T_l flow steps move x; Φ_l is fitted to Φ_l(x_old) ≈ x_old − x, starting from
Φ_{l−1}; x = x_old − Φ_l(x_old).

A training is a small state machine (network, phase, step); `_save` writes all of it, so that a run killed anywhere goes on
from its last checkpoint to bit-identical networks on a CPU.

Over the processes of torchrun or `accelerate launch` every rank holds a part of the particles and of the targets. Flow steps
add up tables (see `Target`), the fit is data-parallel, each rank drawing its share of a batch from its own particles. What is
random and common (latents, noise, slices) is drawn alike on all ranks; the first rank writes the run's folder, which all must
see. Checkpoints hold whole clouds, so any number of processes can resume them.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from rieszflow import _ranks
from rieszflow._files import one_line
from rieszflow._notices import notice
from rieszflow._types import Progress, ProgressCallback
from rieszflow.data import Dataset
from rieszflow.directions import LocalSlices
from rieszflow.errors import RunError
from rieszflow.exact import energy_distance
from rieszflow.flow import ParticleFlow
from rieszflow.generative.latents import draw_latents
from rieszflow.generative.networks import Displacement, as_data, build, check_memory, displace
from rieszflow.generative.pyramid import Level, grow, levels, shrink
from rieszflow.generative.run import RESTORED, Run
from rieszflow.kernels import Riesz

__all__ = ["default_steps", "train"]

_WATCHED = 2000  # points in the energy distances of metrics.jsonl, and fresh samples followed through the networks
_REPLAYED = 2000  # particles of every earlier step that a shared network goes on learning from
_PICTURED = 12  # fresh samples whose way through the networks is kept
_STEP = 0.4  # τ / (1 − m) by the targets' mean distance: with m = 0.8 τ ≈ 1 on Fashion-MNIST, the paper's


@dataclass
class Pictures:
    """What is to be seen after a network: flat tensors of [0, 1] data."""

    particles: Tensor
    samples: Tensor
    path: Tensor


def train(
    run: Run,
    data: Dataset,
    custom: nn.Module | None = None,
    progress: ProgressCallback | None = None,
    draw: Callable[[Run, Pictures], Any] | None = None,
) -> None:
    """Trains a run to its end, from its last checkpoint if it has one.

    Networks that are missing are trained again. The particles that led to them are gone, so this begins at the first one, on a
    CPU with the same results; where they are the same, the networks after the missing ones are kept.

    Raises:
        RunError: a file is damaged or of another run, another process is training the run, or one of the processes of this run
            has ended.
    """
    device = run.config.torch_device()
    for level in levels(run.config, run.shape):
        check_memory(level.config, level.shape, device, training=True)
    ranks = PartialState(cpu=device.type == "cpu")
    silent = not ranks.is_main_process
    told = _told_to_end(run) if ranks.num_processes > 1 else contextlib.nullcontext()
    with told, contextlib.nullcontext() if silent else run.exclusively():
        arguments = (None, None) if silent else (progress, draw)
        if run.load_state() is None and run.complete():
            return
        try:
            _Training(run, data, custom, *arguments).go()
        except (RuntimeError, torch.distributed.DistError) as error:
            if ranks.num_processes > 1 and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
                raise RunError(
                    f"{run.path}: another process of this run has ended or cannot be reached; resume the run"
                ) from error
            raise


@contextlib.contextmanager
def _told_to_end(run: Run) -> Iterator[None]:
    """SIGTERM is an error with a sentence: torchrun sends it to all others as soon as one process has ended."""

    def end(number: int, frame: Any) -> None:
        raise RunError(
            f"{run.path}: told to end (SIGTERM), as torchrun does when another process of this run has ended; resume the run"
        )

    if threading.current_thread() is not threading.main_thread():  # only there Python takes signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Training:
    def __init__(self, run: Run, data: Dataset, custom: Any, progress: Any, draw: Any) -> None:
        self.run, self.config = run, run.config
        self.progress = progress or (lambda _: None)
        self.draw = draw or (lambda run, pictures: None)
        config = run.config
        # accelerate keeps its state in a global; another run in this process may have asked for another precision.
        AcceleratorState._reset_state(reset_partial_state=True)
        self.device = config.torch_device()
        self.accelerator = Accelerator(
            mixed_precision=config.mixed_precision, cpu=self.device.type == "cpu", device_placement=False
        )
        self.main, self.world = self.accelerator.is_main_process, self.accelerator.num_processes
        self.group = torch.distributed.group.WORLD if self.world > 1 else None
        if self.world > config.particles:
            raise RunError(f"{self.world} processes given for {config.particles} particles; every one needs some")
        if self.group is not None and self.device.type == "cuda":
            self.device = self.accelerator.device
        if self.main:
            run.clear_temporaries()
        self.levels = levels(config, run.shape)
        self.schedule = config.flow_steps()
        self.custom = copy.deepcopy(custom)
        train = data.train.flatten(1)
        self.chooser = torch.Generator().manual_seed(config.seed)
        targets = train[torch.randperm(len(train), generator=self.chooser)[: config.targets]]
        self.full_targets, self.full_held_out = targets, data.held_out.flatten(1)[:_WATCHED]
        # Two sources of randomness: what is drawn once per step on the device, and all the rest.
        self.slices = torch.Generator(self.device).manual_seed(config.seed + 1)
        self.held_out_digest = hashlib.blake2b(self.full_held_out.contiguous().numpy().tobytes(), digest_size=16).hexdigest()
        self.later: tuple[int, dict[str, Tensor], dict[str, Any]] | None = None
        self.accelerator.wait_for_everyone()
        self._continue(run.load_state())

    def _continue(self, saved: tuple[dict[str, Tensor], dict[str, Any]] | None) -> None:
        """From a checkpoint, if all that came before it is there and whole; otherwise from the start."""
        run, why = self.run, None
        for file in map(run.network_file, range(1, self.levels[-1].last + 1)):
            if file.is_dir():
                raise RunError(f"{file}: a folder is in the place of a network; remove it, and resume")
        if saved is not None:
            if not (missing := run.missing(saved[1]["network"] - 1)):
                run.verify(saved[1])
                self._restore(*saved)
                return
            self.later = (missing[-1], *saved)
            why = run.network_file(missing[0])
        elif run.finished() or run.missing():
            why = run.path / "state.safetensors"
        if why is not None and self.main:
            notice(f"{why} is missing: the training begins again at the first network")
        self._start()

    def _caught_up(self) -> bool:
        """Whether the network that was missing is what it was: then the checkpoint of before goes on from there."""
        assert self.later is not None
        _, tensors, meta = self.later
        self.later = None
        try:
            self.run.verify(meta)
        except RunError:  # other weights, as on a GPU: what was trained after them does not fit any more
            return False
        if self.main:
            self.run.write_metrics(meta["rows"])
            self.run.save_state(tensors, meta)
        self._restore(tensors, meta)
        return True

    def _start(self) -> None:
        self.network, self.phase, self.step = 1, "flow", 0
        self._enter_level(self.levels[0])
        self.x = _ranks.part(self._latents(self.config.particles), self.group)
        self.fresh = self.fresh_start = self._latents(_WATCHED)
        self.path = self.fresh[None, :_PICTURED].clone()
        self.seconds = {"flow": 0.0, "fit": 0.0, "finish": 0.0}
        self.rows: list[dict[str, Any]] = []
        self.after = ""  # checksum of the last finished network
        self._begin_flow()

    def _latents(self, n: int) -> Tensor:
        return draw_latents(self.config, self.level.shape, n, self.chooser).to(self.device)

    def _enter_level(self, level: Level) -> None:
        """The targets as this level sees them, and no momentum yet."""
        self.level = level
        targets, self.held_out = (
            shrink(t, self.run.shape, level.factor).to(self.device) for t in (self.full_targets, self.full_held_out)
        )
        self.watched, self.targets = targets[:_WATCHED], _ranks.part(targets, self.group)
        self.step_sizes = self._step_sizes()
        # of a shared network's earlier steps: where particles were, and where they went
        replayed = _ranks.part(torch.empty(min(_REPLAYED, self.config.particles)), self.group)
        self.replay = self.targets.new_empty(0, 2, len(replayed), self.targets.shape[1])
        self.velocities: list[Tensor | None] = [None] * len(self.step_sizes)

    def _step_sizes(self) -> list[float]:
        """τ of the flow, or of every scale of local slices."""
        config, kinds = self.level.config, self.level.local_slices()
        if config.local_steps:
            return list(config.local_steps)
        if config.step_size is not None:
            return [config.step_size] * max(1, len(kinds))
        return default_steps(self.watched, kinds, config.slices, config.momentum)

    def _next_level(self) -> None:
        """Particles and fresh samples at the size of the level that the next network belongs to."""
        old = self.level
        self._enter_level(_level_of(self.network, self.levels))
        noise = self.level.config.noise
        self.x = grow(self.x, old.shape, self.level.shape, 0.0, None)
        if noise:
            white = torch.randn(self.config.particles, self.x.shape[1], generator=self.chooser)
            self.x = self.x + noise * _ranks.part(white, self.group).to(self.x)
        self.fresh = grow(self.fresh, old.shape, self.level.shape, noise, self.chooser)
        self.fresh_start = self.fresh
        self.path = grow(self.path, old.shape, self.level.shape, 0.0, None)

    def go(self) -> None:
        while self.network <= self.levels[-1].last:
            if self.phase == "flow":
                self._flow()
                self._begin_fit()
            with self._own_randomness():
                self._fit()
            self._finish_network()

    # Flow: x_old, x, velocities, and the flow's slices. Several scales of local slices are flows that take turns.

    def _begin_flow(self) -> None:
        if self.level.last < self.network <= self.levels[-1].last:
            self._next_level()
        self.phase, self.step, self.x_old = "flow", 0, self.x
        self._build_flows()
        self._save()

    def _build_flows(self) -> None:
        config = self.level.config
        kinds: list[Any] = [*self.level.local_slices()] or [config.directions]
        self.flows = [
            ParticleFlow(
                self.targets,
                slices=config.slices,
                step_size=step_size,
                momentum=config.momentum_of(self.network - self.level.first + 1),
                directions=kind,
                seed=self.slices,
                reuse=config.reuse,
                bounds=(0.0, 1.0) if config.clip else None,
                group=self.group,
            )
            for kind, step_size in zip(kinds, self.step_sizes, strict=True)
        ]

    def _flow(self) -> None:
        steps = self.schedule[self.network - 1]
        for flow, velocity in zip(self.flows, self.velocities, strict=True):
            flow.velocity = velocity
        clock = self._clock("flow")
        while self.step < steps:
            for flow in self.flows:
                self.x = flow.step(self.x)
            self.velocities, self.step = [flow.velocity for flow in self.flows], self.step + 1
            next(clock)
            self._report(steps)
        if not torch.isfinite(self.x).all():
            raise RunError("the particles have left the finite numbers; try a smaller step_size or momentum")

    # Fit: phi (the trained network), average (its exponential moving average), optimiser.

    def _begin_fit(self) -> None:
        self.phase, self.step = "fit", 0
        self._build()
        if self.network > self.level.first:
            self.average.load_state_dict(self.run.load_network(self.network - 1))
            self._inner().load_state_dict(self.average.state_dict())
        # A displacement of exactly zero cannot be divided by its size, and needs no network either.
        scale = self._mean((self.x_old - self.x).pow(2)).sqrt().clamp(min=1e-12)
        for module in (self._inner(), self.average):
            (module.scale if self._number is None else module.scale[self._number]).copy_(scale)
        self.randomness = torch.Generator().manual_seed(self.config.seed + 1_000_003 * self.network).get_state()
        self._save()

    def _build(self) -> None:
        config, shape = self.level.config, self.level.shape
        self.average = build(config, shape, copy.deepcopy(self.custom)).to(self.device)
        self.average.requires_grad_(False)
        phi = build(config, shape, copy.deepcopy(self.custom)).to(self.device).requires_grad_(True)
        optimiser = torch.optim.Adam(phi.parameters(), lr=config.learning_rate)
        self.phi, self.optimiser = self.accelerator.prepare(phi, optimiser)

    @property
    def _number(self) -> int | None:
        """What a shared network is told: the step's number within the level."""
        return self.network - self.level.first if self.config.shared else None

    def _inner(self) -> Displacement:
        return self.accelerator.unwrap_model(self.phi)

    def _fit(self) -> None:
        config, phi = self.level.config, self._inner()
        wanted = self.x_old - self.x
        # What a rank draws of its own; one process goes on with the common source, and is resumed exactly.
        self.drawer = self.chooser
        if self.group is not None:
            numbers = (config.seed, self.network, self.step, self.accelerator.process_index)
            self.drawer = torch.Generator().manual_seed(hash(numbers) % 2**63)
        phi.train()
        clock = self._clock("fit")
        while self.step < config.fit_steps:
            for group in self.optimiser.param_groups:
                group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * self.step / config.fit_steps))
            x, v, number = self._batch(wanted, max(1, config.batch_size // self.world))
            with self.accelerator.autocast():
                residual = self.phi(x, number, normalised=True) - v / (phi.scale if number is None else phi.scale[number, None])
            loss = residual.pow(2).mean() if config.loss == "squared" else residual.abs().mean()
            self.optimiser.zero_grad()
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(phi.parameters(), 1.0)
            self.optimiser.step()
            self._update_average(phi)
            self.step += 1
            next(clock)
            self._report(config.fit_steps, loss.item())

    def _batch(self, wanted: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Particles, their displacements, and what a shared network is told; half of them from its earlier steps, if any."""
        K, _, R, _ = self.replay.shape
        earlier = size // 2 if K else 0
        rows = torch.randint(len(wanted), (size - earlier,), generator=self.drawer).to(self.device)
        x, v = self.x_old[rows], wanted[rows]
        if self._number is None:
            return x, v, None
        number = torch.full((size - earlier,), self._number, device=self.device)
        if earlier:
            k, rows = (torch.randint(n, (earlier,), generator=self.drawer).to(self.device) for n in (K, R))
            old = self.replay[k, :, rows]
            x, v, number = torch.cat([x, old[:, 0]]), torch.cat([v, old[:, 1]]), torch.cat([number, k])
        return x, v, number

    @torch.no_grad()
    def _update_average(self, phi: Displacement) -> None:
        # Like every average of a few steps it must forget its start: the decay grows with the steps done.
        ema = self.level.config.ema
        decay = min(ema, (1 + self.step) / (10 + self.step)) if ema else 0.0
        for old, new in zip(self.average.state_dict().values(), phi.state_dict().values(), strict=True):
            old.lerp_(new, 1 - decay) if old.is_floating_point() else old.copy_(new)

    def _finish_network(self) -> None:
        started = time.perf_counter()
        flowed, phi = self.x, self.average
        self.x = displace(phi, self.x_old, self.config.clip, self._number)
        wanted = self.x_old - flowed
        error = (self._mean((self.x - flowed).pow(2)) / self._mean(wanted.pow(2)).clamp(min=1e-24)).item()
        if not math.isfinite(error):
            raise RunError(f"network {self.network} returns non-finite values; try a smaller learning_rate")
        if self.config.shared:
            pair = torch.stack([self.x_old, wanted])[None, :, : self.replay.shape[2]]
            self.replay = torch.cat([self.replay, pair])
        shown, after = (_ranks.joined(t[:_WATCHED], self.group)[:_WATCHED] for t in (flowed, self.x))
        if self.main:
            self._record(phi, error, shown, after)
        self.accelerator.wait_for_everyone()
        self.seconds["finish"] += time.perf_counter() - started
        if self.later is not None and self.network == self.later[0] and self._caught_up():
            return
        self.network += 1
        self._begin_flow()

    def _record(self, phi: Displacement, error: float, shown: Tensor, after: Tensor) -> None:
        """Metrics, pictures and the network's file: the first rank's work."""
        self._follow_samples(phi)

        def distance(x: Tensor) -> float:
            return energy_distance(x, self.held_out, statistic="U").item()

        row: dict[str, Any] = {
            "network": self.network,
            "level": self.level.factor,
            "flow_steps": self.schedule[self.network - 1],
            "flow_steps_total": sum(self.schedule[: self.network]),
            "displacement_rms": (phi.scale if self._number is None else phi.scale[self._number]).item(),
            "fit_error": error,
            "energy_distance": {
                "particles": distance(shown),
                "network_particles": distance(after),
                "fresh_samples": distance(as_data(self.fresh, self.level.shape)),
                "training_data": distance(self.watched),
            },
        }
        row["seconds"] = dict(self.seconds)
        # Network first, checkpoint last: a run killed between the two fits this network again, to the same weights.
        self.after = row["network_checksum"] = self.run.save_network(self.network, phi.state_dict(), {"fit_error": error})
        self.rows = [*self.rows[: self.network - 1], row]
        if self.config.shared:
            self.run.forget_networks(self.level.first, self.network - 1)
        self.run.write_metrics(self.rows)
        whole = (grow(t.cpu(), self.level.shape, self.run.shape, 0.0, None) for t in (shown, self.fresh, self.path))
        self.draw(self.run, Pictures(*whole))
        self.progress(Progress("fit", self.step, self.step, self.network, self.levels[-1].last, None, row))

    def _mean(self, values: Tensor) -> Tensor:
        """The mean over all ranks' particles."""
        if self.group is None:
            return values.mean()
        both = torch.stack([values.sum().double(), torch.tensor(values.numel(), dtype=torch.float64, device=values.device)])
        total, many = _ranks.summed(both, self.group)
        return (total / many).float()

    def _follow_samples(self, phi: Displacement) -> None:
        """Fresh samples one network further; through a shared one from the level's start, for it has changed at every step."""
        numbers: list[int | None] = [None]
        if self._number is not None:
            self.fresh, numbers = self.fresh_start, list(range(self._number + 1))
            self.path = self.path[: len(self.path) - self._number]
        for number in numbers:
            self.fresh = displace(phi, self.fresh, self.config.clip, number)
            self.path = torch.cat([self.path, self.fresh[None, :_PICTURED]])

    # Bookkeeping.

    def _report(self, steps: int, loss: float | None = None) -> None:
        self.progress(Progress(self.phase, self.step, steps, self.network, self.levels[-1].last, loss))

    def _clock(self, phase: str) -> Iterator[None]:
        """Counts the seconds of a phase, and writes a checkpoint when one is due."""
        last = saved = time.perf_counter()
        while True:
            now = time.perf_counter()
            self.seconds[phase] += now - last
            last = now
            # The first rank's clock is the one that counts: all ranks save together.
            if _ranks.agreed(int(now - saved > self.config.checkpoint_seconds), self.group):
                self._save()
                saved = time.perf_counter()
            yield

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Dropout and the like draw from torch's default generator: give the fit its own, and leave the caller's alone."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.randomness)
            yield

    def _save(self) -> None:
        tensors = {
            "x": _ranks.joined(self.x, self.group),
            "x_old": _ranks.joined(self.x_old, self.group),
            "fresh": self.fresh,
            "path": self.path,
            "random.chooser": self.chooser.get_state(),
            "random.slices": self.slices.get_state(),
        }
        if self.config.shared:
            # (steps, 2, particles, d) with the particles in front, so that ranks' parts are rows
            replay = _ranks.joined(self.replay.movedim(2, 0), self.group).movedim(0, 2)
            tensors |= {"replay": replay, "fresh_start": self.fresh_start}
        tensors |= {f"velocity.{k}": _ranks.joined(v, self.group) for k, v in enumerate(self.velocities) if v is not None}
        if not self.main:
            return
        if self.phase == "flow":
            for k, flow in enumerate(self.flows):
                tensors |= {f"target.{k}.{name}": t for name, t in flow.target.state().items()}
        if self.phase == "fit":
            tensors["random.fit"] = self.randomness if self.step == 0 else torch.get_rng_state()
            for prefix, module in (("phi.", self._inner()), ("average.", self.average)):
                tensors |= {prefix + name: t for name, t in module.state_dict().items()}
            for number, slots in self.optimiser.state_dict()["state"].items():
                tensors |= {f"adam.{number}.{name}": t for name, t in slots.items()}
        if self.custom is not None and self.network <= self.levels[-1].first:
            # What a level's first network starts from: whoever resumes may have made the module anew.
            tensors |= {f"custom.{name}": t for name, t in self.custom.state_dict().items()}
        meta = {
            "network": self.network, "phase": self.phase, "step": self.step, "seconds": self.seconds, "after": self.after,
            "held_out": self.held_out_digest, "rows": self.rows,
        }  # fmt: skip
        self.run.save_state(tensors, meta)

    def _restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        if meta.get("held_out") != self.held_out_digest:
            raise RunError(f"{self.run.path}: began with other held-out data than those given now")
        try:
            self.network, self.phase, self.step = meta["network"], meta["phase"], meta["step"]
            self.seconds, self.after = meta["seconds"], meta["after"]
            self.rows = meta["rows"][: self.network - 1]
            if custom := _below(tensors, "custom."):
                self.custom.load_state_dict(custom)
            self.x, self.x_old = (_ranks.part(tensors[name].to(self.device), self.group) for name in ("x", "x_old"))
            self.fresh, self.path = (tensors[name].to(self.device) for name in ("fresh", "path"))
            self._enter_level(_level_of(self.network, self.levels))
            if self.config.shared:
                replay = _ranks.part(tensors["replay"].to(self.device).movedim(2, 0), self.group)
                self.replay, self.fresh_start = replay.movedim(0, 2), tensors["fresh_start"].to(self.device)
            for k in range(len(self.velocities)):
                if (velocity := tensors.get(f"velocity.{k}")) is not None:
                    self.velocities[k] = _ranks.part(velocity.to(self.device), self.group)
            self.chooser.set_state(tensors["random.chooser"])
            self.slices.set_state(tensors["random.slices"])
            self._build_flows()
            if self.phase == "flow":
                for k, flow in enumerate(self.flows):
                    flow.target.load_state(_below(tensors, f"target.{k}."))
            if self.phase == "fit":
                self.randomness = tensors["random.fit"]
                self._build()
                for prefix, module in (("phi.", self._inner()), ("average.", self.average)):
                    module.load_state_dict(_below(tensors, prefix))
                state: dict[int, dict[str, Tensor]] = {}
                for name, t in _below(tensors, "adam.").items():
                    number, slot = name.split(".")
                    state.setdefault(int(number), {})[slot] = t
                self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
            raise RunError(f"{self.run.path / 'state.safetensors'}: does not fit this run ({one_line(error)})") from None
        if self.main:
            self._restore_metrics()

    def _restore_metrics(self) -> None:
        """metrics.jsonl, where it is not what the checkpoint says that it was."""
        try:
            there, why = self.run.metrics()[: len(self.rows)], "metrics.jsonl: other lines than the checkpoint has"
        except RunError as error:
            there, why = [], str(error)
        if json.dumps(there) != json.dumps(self.rows):
            self.run.write_metrics(self.rows)
            notice(f"{why.removesuffix('; ' + RESTORED)}: its lines are written anew from the checkpoint")


def _level_of(network: int, all_levels: list[Level]) -> Level:
    """The level that a network belongs to; the last one for a run that is at its end."""
    return next((level for level in all_levels if network <= level.last), all_levels[-1])


def default_steps(y: Tensor, kinds: list[LocalSlices], P: int, momentum: float) -> list[float]:
    """τ towards targets y where the settings name none: one, or one for every kind of slices on patches, which take turns."""
    share = _STEP * (1 - momentum)
    if not kinds:
        return [share * _mean_distance(y)]
    return [share * _patch_distance(y, kind, P) / len(kinds) for kind in kinds]


def _patch_distance(y: Tensor, kind: LocalSlices, P: int) -> float:
    """What `_mean_distance` is for whole images: E‖patch of Y − patch of Y′‖, times the places that share a step's force.

    A place has P / places slices for patches of n numbers; where those are fewer than n, most of a step is noise, and steps are
    made shorter by as much.
    """
    generator = torch.Generator(y.device).manual_seed(0)
    xi = kind.sample(1024, y.shape[1], y, generator)
    p = xi.project(y)
    distance = Riesz(1.0).basis_constant(xi.n) * (p - p.roll(1, dims=1)).abs().mean().item()
    return distance * min(xi.places, P / xi.n)


def _mean_distance(y: Tensor) -> float:
    """E‖Y − Y′‖ over distinct pairs."""
    return torch.pdist(y).mean().item()


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
