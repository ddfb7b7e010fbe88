"""Latents: the points at which the flow starts, noise or a mixture of Gaussians that resembles the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rieszflow._infra.files import as_file_error, below, check_tensors
from rieszflow.constraints import Constraint
from rieszflow.generative.condition import UNCONDITIONAL, Condition
from rieszflow.generative.config import Config
from rieszflow.generative.run import Run
from rieszflow.generative.vectors import Gaussians, Whitening

_SPECTRUM = 1.5  # amplitudes decrease with the frequency f as f^-1.5; in photographs the exponent is between 1 and 2
_MAX_CLUSTERS, _CLUSTER_SIZE = 1000, 60  # clusters, and the mean number of points in one
_MIN_SIZE = 10  # points of a cluster that is kept: the mean and spread of fewer would reveal single points
_RANK = 12  # directions in which the points of a cluster are correlated
_SPREAD = 1.7  # factor of the standard deviations, without which the flow reaches fewer of the rare points (`docs/measured.md`)
_ITERATIONS = 15  # of k-means
_FEW = 10  # dimensions in which distances to the nearest points tell strays from other samples
_ROWS = 2048  # points at a time


@dataclass(frozen=True)
class Mixture:
    """K Gaussians with means μ and covariances FᵀF, fitted to clusters of the targets.

    A flow from there is several times shorter than one from noise. Source: Richardson and Weiss, On GANs and GMMs (2018).
    """

    weight: Tensor  # (K,) float32
    mean: Tensor  # μ, (K, d) float16
    factor: Tensor  # F, (K, q, d) float16

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor], d: int) -> Mixture:
        """Return the mixture from its tensors by name. Raises KeyError or ValueError if they are malformed."""
        found = Mixture(*(tensors[name] for name in ("weight", "mean", "factor")))
        K, q = len(found.weight), len(found.factor[0])
        f16 = torch.float16
        check_tensors(tensors, {"weight": ((K,), torch.float32), "mean": ((K, d), f16), "factor": ((K, q, d), f16)})
        if not (found.weight > 0).all():
            raise ValueError("weights out of range")
        return found

    def draw(self, n: int, known: Tensor | None, constraint: Constraint | None, generator: torch.Generator | None) -> Tensor:
        """Draw n points (n, d), float32. With `known` points (n, d), from clusters whose fixed part is close to theirs."""
        if known is None or constraint is None:
            chosen = torch.multinomial(self.weight, n, replacement=True, generator=generator)
        else:
            chosen = self._close(known, constraint, generator)
        return torch.cat([self._draw_from(part, generator) for part in chosen.split(_ROWS)])

    def _draw_from(self, k: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw a point from each of the clusters k (n,)."""
        x = self.mean[k].float()
        z = torch.randn(len(k), self.factor.shape[1], generator=generator)
        for cluster in k.unique().tolist():  # without a copy of the factors for every point
            rows = (k == cluster).nonzero()[:, 0]
            x[rows] += z[rows] @ self.factor[cluster].float()
        return x

    def _close(self, known: Tensor, constraint: Constraint, generator: torch.Generator | None) -> Tensor:
        """Draw a cluster for each of the points, with probability proportional to w exp(−‖Px − Pμ‖² / S).

        S is the mean squared distance between the fixed parts of points and of the mean of their cluster.
        """
        S = (self.weight @ constraint.project(self.factor.float()).square().sum((1, 2)) / self.weight.sum()).clamp(min=1e-6)
        means, chosen = constraint.project(self.mean.float()), []
        for part in known.split(_ROWS):
            logits = self.weight.log() - torch.cdist(constraint.project(part.float()), means).square() / S
            chosen.append(torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0])
        return torch.cat(chosen)


def fit_mixture(x: Tensor, generator: torch.Generator) -> Mixture:
    """Fit a Gaussian to each of the clusters of points x (n, d) by k-means; small clusters are left out."""
    n, d = x.shape
    means = x[torch.randperm(n, generator=generator)[: max(1, min(_MAX_CLUSTERS, n // _CLUSTER_SIZE))]]
    for _ in range(_ITERATIONS):
        cluster = _nearest(x, means)
        counts = cluster.bincount(minlength=len(means))
        means = torch.zeros_like(means).index_add_(0, cluster, x) / counts.clamp(min=1)[:, None]
        means = means[counts > 0]
    cluster = _nearest(x, means)
    counts = cluster.bincount(minlength=len(means))
    kept = (counts >= min(_MIN_SIZE, int(counts.max()))).nonzero()[:, 0]
    mean, factor = torch.empty(len(kept), d), torch.zeros(len(kept), min(_RANK, d), d)
    for k, members in enumerate(kept.tolist()):
        points = x[cluster == members]
        mean[k] = points.mean(0)
        rank = min(_RANK, d, len(points) // 4)  # the covariance of few points is known in few directions
        _, s, v = torch.linalg.svd(points - mean[k], full_matrices=False)
        factor[k, :rank] = v[:rank] * (_SPREAD * s[:rank, None] / len(points) ** 0.5)
    return Mixture(counts[kept] / n, mean.half(), factor.half())


def _nearest(x: Tensor, means: Tensor) -> Tensor:
    """Return the index of the nearest mean for every point (n,)."""
    squares = means.square().sum(1)
    return torch.cat([(squares - 2 * part @ means.T).argmin(1) for part in x.split(_ROWS)])


def load_mixture(run: Run, d: int, condition: Condition = UNCONDITIONAL) -> Mixture | Gaussians | None:
    """Return the distribution that latents (n, d) of a run are drawn from; None if they are noise."""
    if run.config.latents not in ("mixture", "gaussian"):
        return None
    tensors, lead = run.load_network(0), condition.leading
    with as_file_error(f"{run.network_file(0)}: does not fit the run"):
        if run.config.latents == "mixture":
            return Mixture.from_tensors(tensors, d)
        return Gaussians.from_tensors(below("gaussian", tensors), d - lead, lead, condition.labels)


def load_whitening(run: Run, condition: Condition) -> Whitening | None:
    """Return the whitening of a run with Gaussian latents; None for other latents."""
    if run.config.latents != "gaussian":
        return None
    tensors = below("whitening", run.load_network(0))
    with as_file_error(f"{run.network_file(0)}: does not fit the run"):
        return Whitening.from_tensors(tensors, math.prod(run.shape), condition.labels)


def has_support(config: Config, condition: Condition, shape: tuple[int, ...]) -> bool:
    """Return True if samples outside of the `Support` of a recorded flow are drawn again: in up to ten dimensions."""
    plain = not condition.leading or condition.labels > 1
    return config.model == "recorded" and config.latents == "gaussian" and plain and math.prod(shape) <= _FEW


def draw_latents(
    config: Config,
    shape: tuple[int, ...],
    n: int,
    generator: torch.Generator | None,
    *,
    mixture: Mixture | Gaussians | None = None,
    condition: Condition = UNCONDITIONAL,
    values: Tensor | None = None,
) -> Tensor:
    """Draw n flat latents, float32 on the CPU, joined to the values of a condition: (n, k + d).

    "uniform": independent coordinates, uniform on [0, 1], as in the paper. "smooth", for images: periodic Gaussian noise with
    the spectrum of a photograph and independent channels, mapped through the normal distribution function. Independent latents
    have much pixel noise, which the energy distance hardly sees, so the flow removes it slowly (`benchmarks/latents.py`).
    "mixture": points of the `mixture`, clipped to the box if the flow is. "gaussian": points of these, given the condition.
    """
    d = math.prod(shape)
    if isinstance(mixture, Gaussians):
        return condition.join(
            values, mixture.draw(torch.empty(n, 0) if values is None else condition.encode(values), generator)
        )
    if mixture is not None:
        known = None if values is None else condition.join(values, torch.zeros(n, d))
        x = condition.data(mixture.draw(n, known, condition.constraint, generator))
        return condition.join(values, x.clamp_(0, 1) if config.clip else x)
    uniform = config.latents == "uniform"
    return condition.join(values, torch.rand(n, d, generator=generator) if uniform else _smooth(shape, n, generator))


def _smooth(shape: tuple[int, ...], n: int, generator: torch.Generator | None) -> Tensor:
    H, W = shape[1:]
    rows, columns = torch.fft.fftfreq(H) * H, torch.fft.rfftfreq(W) * W
    amplitude = (rows[:, None].square() + columns.square()).clamp(min=1) ** (-_SPECTRUM / 2)
    # The variance is the mean of amplitude² over all frequencies, of which rfft keeps half.
    power = (rows[:, None].square() + (torch.fft.fftfreq(W) * W).square()).clamp(min=1) ** -_SPECTRUM
    white = torch.randn(n, *shape, generator=generator)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * (amplitude / power.mean().sqrt()), s=(H, W))
    uniform: Tensor = torch.special.ndtr(noise)
    return uniform.flatten(1)
