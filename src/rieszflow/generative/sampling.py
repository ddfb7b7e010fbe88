"""The passage of fresh latents through all stages of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rieszflow._infra import validate
from rieszflow._infra.files import as_file_error, below
from rieszflow._infra.messages import notice
from rieszflow._types import Progress, ProgressCallback, Seed
from rieszflow.data import unscale_points
from rieszflow.errors import RunError
from rieszflow.flow.segments import Segment, replay
from rieszflow.generative.condition import Condition
from rieszflow.generative.latents import draw_latents, has_support, load_mixture, load_whitening
from rieszflow.generative.levels import Level, levels, upsample
from rieszflow.generative.networks import build, check_memory, displace
from rieszflow.generative.run import Run
from rieszflow.generative.vectors import Support

_ROUNDS = 10  # of new samples in place of strays
_REPLAYED = 4000  # smallest batch of points that a recording moves


def draw_samples(
    run: Run,
    network: nn.Module | None,
    n: int,
    condition: object,
    seed: Seed,
    batch_size: int,
    progress: ProgressCallback | None,
) -> tuple[Tensor, Tensor | None]:
    """Return the result of `GenerativeFlow.sample` and the condition of every sample, (n,) or (n, k); None without one."""
    config = run.config
    n, batch_size = validate.positive_int("n", n), validate.positive_int("batch_size", batch_size)
    if (last := run.trained()) == 0:
        raise RunError("nothing is trained yet: call fit first, or resume the run")
    if last < (total := run.total_stages()):
        notice(f"{run.path}: training is not finished; samples go through {last} of {total} stages")
    device, generator = config.torch_device(), validate.generator(seed)
    x, shape, described = torch.empty(0), run.shape, run.data
    known = Condition.from_config(config, shape, described.get("condition"))
    if run.rows is not None and isinstance(condition, Mapping):
        condition = run.rows.parse(condition)
    values = known.parse(condition, n, described, generator)
    check_memory(levels(config, shape)[-1].config, shape, device, training=False, samples=n)
    for level in levels(config, run.shape, known):
        if level.first > last:
            break
        if level.first == 1:
            mixture = load_mixture(run, known.leading + math.prod(level.shape), known)
            x = draw_latents(config, level.shape, n, generator, mixture=mixture, condition=known, values=values)
        else:
            x = upsample(x, shape, level.shape, level.sample_noise_std, generator, level.config.upsampling, known.leading)
        x, shape = x.to(device), level.shape
        stages = _counted(range(level.first, min(last, level.last) + 1), last, progress)
        if config.model == "recorded":
            size = max(batch_size, _REPLAYED)
            x = torch.cat(replay(_segments(run, level, stages), x.split(size)))
            if has_support(config, known, shape):
                _redraw_strays(run, x, level, last, size, generator, mixture=mixture, condition=known, values=values)
            continue
        phi = build(level.config, shape, network, known).to(device)
        for stage in stages:
            weights = run.load_network(stage)
            with as_file_error(f"{run.network_file(stage)}: does not fit the network"):
                phi.load_state_dict(weights)
            x = displace(phi, x, level.config.clip, batch_size)
    if not x.isfinite().all():
        raise RunError(f"{run.path}: samples must be finite, got NaN or infinity from its networks or recording")
    # In an unfinished run the last level may not have begun, so the samples are enlarged to full size.
    x = upsample(x, shape, run.shape, 0.0, None, leading=known.leading).cpu()
    if (whitening := load_whitening(run, known)) is not None:
        x = whitening.inverse(x)
    x = known.data(x)
    if len(run.shape) == 3:
        x = x.clamp(0, 1)
    samples = unscale_points(x, described["low"], described["high"], run.columns)
    return (samples if run.rows is not None else samples.view(n, *run.shape)), values


def _redraw_strays(
    run: Run, x: Tensor, level: Level, last: int, size: int, generator: torch.Generator | None, **latents: Any
) -> None:
    """Replace samples that are strays by new ones, in place; those that are strays again after some rounds remain."""
    tensors, values = run.load_network(last), latents.pop("values")
    with as_file_error(f"{run.network_file(last)}: does not fit the run"):
        support = Support.from_tensors(below("support", tensors), x.shape[1], level.condition.labels)
    for _ in range(_ROUNDS):
        if not len(rows := support.strays(x.cpu())):
            break
        own = None if values is None else values[rows]
        z = draw_latents(run.config, level.shape, len(rows), generator, values=own, **latents).to(x.device)
        x[rows.to(x.device)] = torch.cat(replay(_segments(run, level, iter(range(1, last + 1))), z.split(size)))


def _segments(run: Run, level: Level, stages: Iterator[int]) -> Iterator[Segment]:
    plan = level.plan()
    for stage in stages:
        tensors = run.load_network(stage)
        with as_file_error(f"{run.network_file(stage)}: does not fit the run"):
            segment = Segment.from_tensors(plan, tensors)
        yield segment


def _counted(stages: range, last: int, progress: ProgressCallback | None) -> Iterator[int]:
    """Yield stages, and report each when the next is requested."""
    for stage in stages:
        yield stage
        if progress is not None:
            progress(Progress("stages", stage, last))
