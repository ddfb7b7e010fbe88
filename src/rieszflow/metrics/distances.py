"""Distances between two sets of features, and how well one set covers the other."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from rieszflow._infra import validate
from rieszflow._infra.extras import extra
from rieszflow._infra.numerics import power_of_two, torch_defaults
from rieszflow._types import Points
from rieszflow.errors import InputError
from rieszflow.two_sample.permutations import Gram, draw_splits, pair_distances, permutation_rng


def _pair(x: Points, y: Points) -> tuple[Tensor, Tensor, float]:
    """Return both sets of features, scaled so that squares neither overflow nor underflow, and the scale factor."""
    a, b = validate.points("x", x).double(), validate.points("y", y).double()
    for name, features in (("x", a), ("y", b)):
        if features.ndim != 2 or len(features) < 2:
            raise InputError(f"`{name}` must have shape (n, d) with n ≥ 2, got {tuple(features.shape)}")
    if a.shape[1] != b.shape[1]:
        raise InputError(f"`y` must have features of dimension d = {a.shape[1]}, as x has, got d = {b.shape[1]}")
    largest = max(a.abs().max().item(), b.abs().max().item())
    unit = 1.0 if 1e-100 < largest < 1e100 else power_of_two(largest, a.dtype)
    return a * unit, b * unit, unit


@torch_defaults
def frechet_distance(x: Points, y: Points) -> float:
    r"""Return the squared Fréchet distance between Gaussians fitted to two sets of features.

    .. math:: \|m_1 - m_2\|^2 + \operatorname{tr}(S_1 + S_2 - 2 (S_1 S_2)^{1/2})

    Its mean is positive for equal distributions and decreases like 1/n, so compare only distances of equal n.

    Args:
        x, y: Features of shape (n, d) and (m, d), n, m ≥ 2, float32 or float64.

    Raises:
        InputError, InputTypeError: Other shapes or dtypes, different d, NaN or infinity.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> round(frechet_distance(x, x + 3), 6)
        9.0

    References:
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule (NeurIPS 2017).
    """
    a, b, unit = _pair(x, y)
    means = a.mean(0), b.mean(0)
    # With S = AᵀA for centred features, tr (S₁ S₂)^½ is the sum of the singular values of A₁ A₂ᵀ or, cheaper, of R₁ R₂ᵀ.
    a, b = ((t - mean) / math.sqrt(len(t) - 1) for t, mean in zip((a, b), means, strict=True))
    product = torch.linalg.qr(a, mode="r").R @ torch.linalg.qr(b, mode="r").R.T
    shift = (means[0] - means[1]).square().sum()
    distance = shift + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(product).sum()
    return max(0.0, float(distance)) / unit / unit


@torch_defaults
def kernel_distance(x: Points, y: Points) -> float:
    """Return the unbiased squared MMD of two sets of features with the kernel (⟨x, y⟩/d + 1)³, which may be negative.

    Unlike the Fréchet distance, it has no bias for few samples. With Inception features it is the kernel inception distance.

    Args:
        x, y: See `frechet_distance`. Only the first min(n, m) features of both sets are used.

    Raises:
        InputError, InputTypeError: As `frechet_distance`, and features so large that the kernel overflows.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> kernel_distance(x, x + 3)
        3259.0

    References:
        Bińkowski et al., Demystifying MMD GANs (ICLR 2018). Computed by torchmetrics.
    """
    with extra("generative", "kernel_distance"):
        from torchmetrics.image.kid import poly_mmd

    a, b, unit = _pair(x, y)
    if unit < 1:
        raise InputError(f"`x` and `y` must be below 1e100, so that the kernel does not overflow, got up to {1 / unit:.3g}")
    n = min(len(a), len(b))  # torchmetrics' formula is for equal sizes
    return float(poly_mmd(b[:n] / unit, a[:n] / unit))


@torch_defaults
def energy_pvalue(x: Points, y: Points, *, permutations: int = 999, seed: int = 0) -> float:
    """Return the p-value of the energy test for equal distributions, by permutations of single points.

    Args:
        x, y: See `frechet_distance`. The distances of all pairs, (n + m)² numbers, are held in memory.
        permutations, seed: See `two_sample_test`.

    Raises:
        InputError, InputTypeError: As `frechet_distance`.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> energy_pvalue(torch.rand(50, 2, generator=g), torch.rand(60, 2, generator=g) + 0.5)
        0.001

    References:
        Székely and Rizzo, Testing for Equal Distributions in High Dimension (2004).
    """
    a, b, _ = _pair(x, y)
    permutations = validate.positive_int("permutations", permutations)
    gram = Gram.from_distances(pair_distances(torch.cat([a, b]).detach().cpu().numpy()), len(a))
    return gram.pvalue(draw_splits(gram.K, gram.L, permutations, permutation_rng(seed)))


@torch_defaults
def precision_recall(x: Points, y: Points, *, k: int = 3) -> tuple[float, float]:
    """Return improved precision and recall of generated features x with respect to real features y, in [0, 1].

    Precision is the share of x within the k-th-neighbour ball of some real point (are samples realistic?), recall the share of
    y within that of some generated point (is everything covered?). Both depend on n and m, so compare at equal sizes.

    Args:
        x, y: Generated and real features of shape (n, d) and (m, d), n, m > k, float32 or float64.
        k: The nearest neighbour that determines the radius of a ball.

    References:
        Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models (NeurIPS 2019).
    """
    (a, b, _), k = _pair(x, y), validate.positive_int("k", k)
    if min(len(a), len(b)) <= k:
        raise InputError(f"`k` must be less than the {min(len(a), len(b))} points, got {k}")

    def covered(points: Tensor, by: Tensor) -> float:
        radii = torch.cat([torch.cdist(part, by).kthvalue(k + 1, dim=1).values for part in by.split(1024)])
        inside = [(torch.cdist(part, by) <= radii).any(1) for part in points.split(1024)]
        return torch.cat(inside).double().mean().item()

    return covered(a, b), covered(b, a)


@torch_defaults
def nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return indices (n,) and L2 distances (n,) of the nearest row of y (m, ...) for every row of x (n, ...).

    Generated samples whose distances to the training data are near zero are memorised.
    """
    a, b, unit = _pair(x.flatten(1), y.flatten(1))
    best = [torch.cdist(part, b).min(1) for part in a.split(256)]
    return torch.cat([found.indices for found in best]), torch.cat([found.values for found in best]) / unit


@torch_defaults
def inception_distances(x: Tensor, y: Tensor, weights: str | Path) -> dict[str, float]:
    """Return FID and KID as in the literature: distances between Inception features of images, with local weights.

    Args:
        x, y: Images of shape (n, C, H, W) and (m, C, H, W), C 1 or 3, float32 in [0, 1].
        weights: The file `weights-inception-2015-12-05-*.pth` of torch-fidelity. Needs the extra `fid`.

    Returns:
        {"inception_fid": `frechet_distance`, "inception_kid": `kernel_distance`} of the features.

    Raises:
        InputError: The file does not exist, or the data are not images.
        MissingPackageError: The extra is not installed.
    """
    check_inception(x, weights)
    with extra("fid", "Inception FID"):
        from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))

    def features(images: Tensor) -> Tensor:
        pixels = (images.clamp(0, 1).expand(-1, 3, -1, -1) * 255).byte()
        return torch.cat([network(part) for part in pixels.split(100)])

    a, b = features(x), features(y)
    return {"inception_fid": frechet_distance(a, b), "inception_kid": kernel_distance(a, b)}


def check_inception(x: Tensor, weights: str | Path) -> None:
    """Raise an error unless `inception_distances` can be computed of data like x."""
    if not Path(weights).is_file():
        raise InputError(f"`inception_weights` must be the file of torch-fidelity's weights, got {weights}: no such file")
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise InputError(f"Inception distances need images with 1 or 3 channels, got data of shape {tuple(x.shape[1:])}")
    with extra("fid", "Inception FID"):
        import torch_fidelity  # noqa: F401
