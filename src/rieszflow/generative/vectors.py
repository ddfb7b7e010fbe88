"""Vectors: their half whitening, and Gaussian latents, from which the way to the data is short."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rieszflow._infra.files import check_tensors
from rieszflow.constraints import Labels, Rows
from rieszflow.directions.base import sobol_normals

_FLOOR = 1e-4  # smallest eigenvalue of a covariance, relative to the largest
_NUMBERS = 10_000_000  # in the points whose principal directions are computed, and in the directions that are kept
_INSIDE = 0.999  # share of the data that are no strays
_REFERENCE = 10_000  # data of a label that strays are compared with
_ROWS = 2000  # points at a time
_PAIRWISE = 1000  # points whose mean distance is computed


@dataclass(frozen=True)
class Whitening:
    r"""The map :math:`z = s_c\, C^{-p/2} (x - \mu)` of data x with label c, mean μ and covariance C; p = ½ whitens by half.

    Eigenvalues are those of C relative to the largest, and at least 1e-4. Directions that few points do not determine have the
    latter. The factors s_c make the mean distance between points with one label equal to that between all data.
    """

    mean: Tensor  # μ, (d,)
    vectors: Tensor  # eigenvectors of C, (q, d)
    factor: Tensor  # eigenvalues of C^(−p/2), (q,)
    rest: Tensor  # the one for other directions, ()
    scale: Tensor  # s_c, (K,); K = 1 without labels

    @staticmethod
    def fit(x: Tensor, exponent: float, groups: Sequence[Rows]) -> Whitening:
        """Fit the map to data x (n, d), given the rows of every label, or all rows."""
        mean, s, vectors = principal(x)
        w = (s / s[0].clamp(min=1e-30)).square().clamp(min=_FLOOR)
        rest, one = x.new_tensor(_FLOOR ** (-exponent / 2) if len(s) < x.shape[1] else 1.0), x.new_ones(1)
        found = Whitening(mean, vectors, w ** (-exponent / 2), rest, one)
        z = found.transform(x)
        distances = torch.stack([mean_distance(z[rows]) for rows in groups])
        known = distances > 0  # False for NaN, of a single point
        typical = distances[known].mean() if known.any() else one[0]
        scale = mean_distance(x) / torch.where(known, distances, typical)
        return Whitening(mean, vectors, found.factor, rest, scale)

    def transform(self, points: Tensor) -> Tensor:
        """Return points (n, k + d) of data after k leading coordinates, of which the first is a label if there are labels."""
        lead, x = points.tensor_split([points.shape[1] - len(self.mean)], 1)
        x = self._stretch(x - self.mean, self.factor, self.rest) * self._scales(lead)
        return torch.cat([lead, x], 1)

    def inverse(self, points: Tensor) -> Tensor:
        """Return the data after their leading coordinates; the inverse of `transform`."""
        lead, x = points.tensor_split([points.shape[1] - len(self.mean)], 1)
        x = self._stretch(x / self._scales(lead), 1 / self.factor, 1 / self.rest) + self.mean
        return torch.cat([lead, x], 1)

    def _stretch(self, x: Tensor, factor: Tensor, rest: Tensor) -> Tensor:
        return rest * x + (x @ self.vectors.T * (factor - rest)) @ self.vectors

    def _scales(self, lead: Tensor) -> Tensor:
        return self.scale[lead[:, 0].long()][:, None] if len(self.scale) > 1 else self.scale

    def to(self, device: torch.device) -> Whitening:
        return Whitening(**{name: t.to(device) for name, t in vars(self).items()})

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor], d: int, labels: int) -> Whitening:
        """Return the map from its tensors by name. Raises KeyError or ValueError if they are malformed."""
        q, f32 = len(tensors["vectors"]), torch.float32
        shapes = {"mean": (d,), "vectors": (q, d), "factor": (q,), "rest": (), "scale": (labels,)}
        check_tensors(tensors, {name: (shape, f32) for name, shape in shapes.items()})
        if not all((tensors[name] > 0).all() for name in ("factor", "rest", "scale")):
            raise ValueError("factors out of range")
        return Whitening(**tensors)


@dataclass(frozen=True)
class Gaussians:
    """The Gaussian of the data given their condition, with a mean that is linear in it; with labels, one for each."""

    mean: Tensor  # (K, d)
    slope: Tensor  # (k, d), of k leading coordinates that are no labels
    factor: Tensor  # (K, q, d): the covariance is FᵀF

    @staticmethod
    def fit(points: Tensor, lead: int, labels: int) -> Gaussians:
        """Fit to points (n, k + d) after k leading coordinates, which are a label if there are several labels."""
        c, x = points.tensor_split([lead], 1)
        k, d, groups = 0 if labels > 1 else lead, points.shape[1] - lead, groups_of(points, labels)
        slope = torch.linalg.lstsq(c - c.mean(0), x - x.mean(0), driver="gelsd").solution if k else x.new_empty(0, d)
        mean = x.new_zeros(len(groups), d)
        rank = max(1, min(d, _NUMBERS // (d * len(groups)), max(len(points[rows]) for rows in groups)))
        factor = x.new_zeros(len(groups), rank, d)
        for label, rows in enumerate(groups):
            residual = x[rows] - c[rows] @ slope if k else x[rows]
            if len(residual):
                mean[label], s, vectors = principal(residual)
                factor[label, : len(s)] = (vectors * s[:, None])[:rank]
        return Gaussians(mean, slope, factor)

    def draw(self, known: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw a point for each of the leading coordinates (n, k), evenly: scrambled Sobol points for every label."""
        K, q = self.factor.shape[:2]
        label = known[:, 0].long() if K > 1 else torch.zeros(len(known), dtype=torch.int64)
        x = self.mean[label] + (known @ self.slope if len(self.slope) else 0)
        for own in label.unique().tolist():
            rows = (label == own).nonzero()[:, 0]
            x[rows] += sobol_normals(len(rows), q, generator).float() @ self.factor[own]
        return x

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor], d: int, lead: int, labels: int) -> Gaussians:
        """Return the Gaussians from their tensors by name. Raises KeyError or ValueError if they are malformed."""
        q, f32, k = tensors["factor"].shape[1], torch.float32, lead if labels == 1 else 0
        check_tensors(tensors, {"mean": ((labels, d), f32), "slope": ((k, d), f32), "factor": ((labels, q, d), f32)})
        return Gaussians(**tensors)


@dataclass(frozen=True)
class Support:
    r"""The region around the final particles p outside of which samples are strays, in up to ten dimensions.

    A sample z is a stray if :math:`\min_j \|z - p_j\| > t`, where t is the 99.9th percentile of :math:`\min_j \|y_i - p_j\|`
    over the data y. Particles further from the data than 99.9 % of these are from each other are left out. With labels, all of
    this is within a label.
    """

    points: Tensor  # p, (m, k + d)
    limit: Tensor  # t, (K,); K = 1 without labels

    @staticmethod
    def fit(particles: Tensor, y: Tensor, labels: int) -> Support:
        """Fit to particles and data (n, k + d), of which the first coordinate is a label if there are several labels."""
        kept, limits = [], []
        for own, theirs in zip(groups_of(particles, labels), groups_of(y, labels), strict=True):
            p, data = particles[own], y[theirs][:_REFERENCE]
            near = p[nearest_distances(p, data) <= _percentile(nearest_distances(data, data, apart=True))]
            kept.append(near if len(near) else p)
            limits.append(_percentile(nearest_distances(data, kept[-1])))
        return Support(torch.cat(kept), torch.stack(limits))

    def strays(self, x: Tensor) -> Tensor:
        """Return the rows of the points x (n, k + d) that are strays."""
        K, order, found = len(self.limit), torch.arange(len(x)), []
        for rows, own, limit in zip(groups_of(x, K), groups_of(self.points, K), self.limit, strict=True):
            found.append(order[rows][nearest_distances(x[rows], self.points[own]) > limit])
        return torch.cat(found)

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor], d: int, labels: int) -> Support:
        """Return the region from its tensors by name. Raises KeyError or ValueError if they are malformed."""
        shapes = {"points": (len(tensors["points"]), d), "limit": (labels,)}
        check_tensors(tensors, {name: (shape, torch.float32) for name, shape in shapes.items()})
        return Support(**tensors)


def groups_of(points: Tensor, labels: int) -> list[Rows]:
    """Return the rows of every label among points with this number of labels, or all rows if it is 1."""
    return Labels(number=labels).rows(points) if labels > 1 else [slice(None)]


def nearest_distances(x: Tensor, y: Tensor, apart: bool = False) -> Tensor:
    """Return the distance of every point of x to the nearest of y, or, `apart`, the nearest but one."""
    found = [torch.cdist(part, y).topk(min(2, len(y)) if apart else 1, largest=False).values[:, -1] for part in x.split(_ROWS)]
    return torch.cat(found)


def _percentile(distances: Tensor) -> Tensor:
    return distances.sort().values[min(len(distances) - 1, int(_INSIDE * len(distances)))]


def principal(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (d,), standard deviations (q,) and principal directions (q, d) of points (n, d), the largest first.

    For points with more than 10⁷ numbers in all, they are those of a part of them, evenly spaced.
    """
    n = min(len(x), max(2, _NUMBERS // x.shape[1]))
    x = x[torch.linspace(0, len(x) - 1, n, dtype=torch.float64).round().long()]
    _, s, vectors = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    return x.mean(0), s / math.sqrt(n), vectors


def mean_distance(x: Tensor) -> Tensor:
    """Return the mean distance between points (n, d), evenly spaced among them; NaN for a single one."""
    return torch.pdist(x[torch.linspace(0, max(0, len(x) - 1), min(len(x), _PAIRWISE)).round().long()]).mean()
