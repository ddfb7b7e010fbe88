"""A training's state: all that changes while it runs. A checkpoint is this, written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import torch
from torch import Tensor, nn

from rieszflow._infra.files import Json
from rieszflow.flow import ParticleFlow
from rieszflow.generative.context import Stage
from rieszflow.generative.keeping import (
    Flow,
    Generator,
    Moments,
    Named,
    Parts,
    Rows,
    Said,
    Scaling,
    Weights,
    Whole,
    Wholes,
)
from rieszflow.generative.networks import Displacement

__all__ = ["Fit", "Phase", "State"]

Phase: TypeAlias = Literal["flow", "fit"]


@dataclass(frozen=True)
class Fit:
    """A network that is being fitted. A step changes networks and optimiser in place.

    Attributes:
        phi: Φ_l, which learns.
        average: the moving average of its weights, which is kept.
        optimiser: Adam and its moments.
        randomness: of torch's default generator, from which dropout and the like draw; as of the last checkpoint.
        model: `phi`, or what averages its gradients over all processes.
        source: what batches are drawn with: the common source, or one of this process's own.
        loss: of the last step, normalised; None before the first.
    """

    phi: Annotated[Displacement, Weights()]
    average: Annotated[Displacement, Weights()]
    optimiser: Annotated[torch.optim.Optimizer, Moments("adam")]
    randomness: Annotated[Tensor, Whole("random.fit", moved=False)]
    model: nn.Module
    source: torch.Generator
    loss: float | None = None


@dataclass(frozen=True)
class State:
    """Where a training is. Steps return a new one; generators, flows and networks in it move in place.

    Attributes:
        network: l, the network at work, from 1; L + 1 at the end.
        phase: "flow" while particles move, "fit" while the network learns.
        step: steps done of this phase.
        x: particles (n, d), this process's part.
        x_old: particles before this network's flow, (n, d); none in a recording.
        velocities: v of every kind of slices, (n, d); None before its first step.
        flow: how particles move, with the part of a recording that is being made; None in a fit.
        fit: the network; None in a flow.
        fresh: samples that never were particles, after the last network, (n, d).
        fresh_velocities: theirs, in a recording; None before its level's first step.
        path: some of them after every network, (networks, n, d).
        chooser: the source of all chance that does not depend on the device.
        drawer: the source of directions, on the device.
        scaler: of the loss, in fp16.
        initial: weights that a level's first network starts from, where the network is the user's own.
        seconds: spent in flows, in fits, and after them: on scores, pictures and checkpoints.
        after: the checksum of the last finished network.
        rows: the lines of metrics.jsonl.
        stage: the targets at this level's size; they follow from `network`, so they are not kept.
    """

    network: Annotated[int, Said()]
    phase: Annotated[Phase, Said()]
    step: Annotated[int, Said()]
    x: Annotated[Tensor, Rows()]
    x_old: Annotated[Tensor, Rows()]
    velocities: Annotated[tuple[Tensor | None, ...], Rows("velocity", many=True)]
    flow: Annotated[ParticleFlow | None, Flow("target")]
    fit: Annotated[Fit | None, Parts()]
    fresh: Annotated[Tensor, Whole()]
    fresh_velocities: Annotated[tuple[Tensor | None, ...], Wholes("fresh_velocity")]
    path: Annotated[Tensor, Whole()]
    chooser: Annotated[torch.Generator, Generator("random.chooser")]
    drawer: Annotated[torch.Generator, Generator("random.slices")]
    scaler: Annotated[torch.amp.GradScaler, Scaling()]
    initial: Annotated[dict[str, Tensor], Named("custom")]
    seconds: Annotated[dict[str, float], Said()]
    after: Annotated[str, Said()]
    rows: Annotated[tuple[Json, ...], Said()]
    stage: Stage
