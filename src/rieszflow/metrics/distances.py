"""Distances between two sets of features, and how well one covers the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rieszflow._infra import validate
from rieszflow._infra.extras import extra
from rieszflow._infra.isolation import torch_defaults
from rieszflow._infra.scaling import power_of_two
from rieszflow._types import Points
from rieszflow.errors import InputError
from rieszflow.two_sample.gram import Gram, pair_distances
from rieszflow.two_sample.permutations import draw_splits, permutation_rng

__all__ = ["energy_pvalue", "frechet_distance", "kernel_distance", "nearest", "precision_recall"]


def _features(name: str, x: Points) -> Tensor:
    features = validate.points(name, x)
    if features.ndim != 2 or len(features) < 2:
        raise InputError(f"{name}: shape {tuple(features.shape)} given; (n, d) with n of at least 2 is accepted")
    return features.double()


def _pair(x: Points, y: Points) -> tuple[Tensor, Tensor, float]:
    """Both sets of features in a unit, in which their squares neither overflow nor vanish, and that unit's factor."""
    a, b = _features("x", x), _features("y", y)
    if a.shape[1] != b.shape[1]:
        raise InputError(f"y: features of dimension {b.shape[1]} given, x has {a.shape[1]}; they must be equal")
    largest = max(a.abs().max().item(), b.abs().max().item())
    unit = 1.0 if 1e-100 < largest < 1e100 else power_of_two(largest, a.dtype)
    return a * unit, b * unit, unit


@torch_defaults
def frechet_distance(x: Points, y: Points) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features, ‖m₁ − m₂‖² + tr(S₁ + S₂ − 2(S₁S₂)^½).

    Its mean is above 0 for equal distributions, by an amount that falls like 1/n: compare distances of equal n only.

    Args:
        x: features (n, d), n ≥ 2; float32 or float64.
        y: features (m, d), m ≥ 2.

    Raises:
        InputError, InputTypeError: other shapes or dtypes, different d, NaN or infinity.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> round(frechet_distance(x, x + 3), 6)
        9.0

    Source: Heusel et al., NeurIPS 2017. Computed by torchmetrics' FrechetInceptionDistance with an identity for a network.
    """
    with extra("generative", "frechet_distance"):
        from torchmetrics.image.fid import FrechetInceptionDistance

    a, b, unit = _pair(x, y)
    # The distance is invariant under a common shift; without it sums of squares would lose digits.
    centre = b.mean(0)
    a, b = a - centre, b - centre
    if a.shape[1] > len(a) + len(b):
        # All of them lie in a space of n + m dimensions, where the same costs (n + m)³ instead of d³: pixels are many.
        basis = torch.linalg.qr(torch.cat([a, b]).T).Q
        a, b = a @ basis, b @ basis
    network = nn.Identity()
    network.num_features = a.shape[1]  # type: ignore[assignment]
    fid = FrechetInceptionDistance(feature=network, normalize=True).set_dtype(torch.float64)
    fid.update(b, real=True)
    fid.update(a, real=False)
    return max(0.0, float(fid.compute())) / unit / unit


@torch_defaults
def kernel_distance(x: Points, y: Points) -> float:
    """Squared MMD of two sets of features with the kernel (⟨x, y⟩/d + 1)³, U-statistic: unbiased, and so below 0 at times.

    Unlike the Fréchet distance it has no bias for few samples. With Inception features it is the kernel inception distance
    (KID) of the literature.

    Args:
        x: features (n, d), n ≥ 2; float32 or float64.
        y: features (m, d), m ≥ 2. Of the larger set the first min(n, m) are used.

    Raises:
        InputError, InputTypeError: as `frechet_distance`, and features so large that the kernel overflows.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> kernel_distance(x, x + 3)
        3259.0

    Source: Bińkowski et al., ICLR 2018. Computed by torchmetrics.
    """
    with extra("generative", "kernel_distance"):
        from torchmetrics.image.kid import poly_mmd

    a, b, unit = _pair(x, y)
    if unit < 1:
        raise InputError(
            f"x, y: features of up to {1 / unit:.3g} given, whose kernel overflows; divide them by a constant first"
        )
    n = min(len(a), len(b))  # torchmetrics' formula is one for equal sizes
    return float(poly_mmd(b[:n] / unit, a[:n] / unit))


@torch_defaults
def energy_pvalue(x: Points, y: Points, *, permutations: int = 499, seed: int = 0) -> float:
    """p-value of the energy test for equal distributions, by permutations: uniform on [0, 1] or larger where they are equal.

    Args:
        x: points (n, d), n ≥ 2; float32 or float64. Distances of all pairs are held in memory, (n + m)² numbers.
        y: points (m, d), m ≥ 2.
        permutations: B, at least 1; the least p-value is 1 / (B + 1). Where the points can be split in less than B + 2 ways,
            all are tried. A notice says so if the p-value cannot be as small as 0.05.
        seed: of the permutations; a whole number.

    Raises:
        InputError, InputTypeError: as `frechet_distance`.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> energy_pvalue(torch.rand(50, 2, generator=g), torch.rand(60, 2, generator=g) + 0.5)
        0.002

    Source: Székely and Rizzo, Testing for Equal Distributions in High Dimension (2004).
    """
    a, b, _ = _pair(x, y)
    permutations = validate.positive_int("permutations", permutations)
    gram = Gram.from_distances(pair_distances(torch.cat([a, b]).detach().cpu().numpy()), len(a))
    return gram.permutation_test(draw_splits(len(a), len(b), permutations, permutation_rng(seed))).pvalue


@torch_defaults
def precision_recall(x: Points, y: Points, *, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall of generated features x against real features y, with k-nearest-neighbour balls.

    Precision: share of x within some real point's k-th-neighbour ball (is it realistic?). Recall: share of y within
    some generated point's ball (is everything covered?). Both depend on n and m: compare at equal sizes.

    Args:
        x: generated features (n, d), more than k; float32 or float64.
        y: real features (m, d), more than k.
        k: which nearest neighbour says how large a ball is, at least 1.

    Returns:
        Precision and recall, in [0, 1].

    Raises:
        InputError, InputTypeError: as `frechet_distance`, and k not below n and m.

    Source: Kynkäänniemi et al., NeurIPS 2019.
    """
    (a, b, _), k = _pair(x, y), validate.positive_int("k", k)
    if min(len(a), len(b)) <= k:
        raise InputError(f"k: {k} given; fewer than the {min(len(a), len(b))} points are accepted")

    def covered(points: Tensor, by: Tensor) -> float:
        radii = torch.cat([torch.cdist(part, by).kthvalue(k + 1, dim=1).values for part in by.split(1024)])
        inside = [(torch.cdist(part, by) <= radii).any(1) for part in points.split(1024)]
        return torch.cat(inside).double().mean().item()

    return covered(a, b), covered(b, a)


@torch_defaults
def nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest row of y for every row of x: is the model memorising?

    Args:
        x: (n, ...), float32 or float64; flattened.
        y: (m, ...), of the same shape a row.

    Returns:
        Indices (n,), and L2 distances (n,).
    """
    a, b, unit = _pair(x.flatten(1), y.flatten(1))
    best = [torch.cdist(part, b).min(1) for part in a.split(256)]
    return torch.cat([found.indices for found in best]), torch.cat([found.values for found in best]) / unit
