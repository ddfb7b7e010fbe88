"""MMD² on random one-dimensional slices: value, gradient and autograd. The engines do the work."""

from __future__ import annotations

import torch

from rieszflow import engines
from rieszflow._infra import validate
from rieszflow._infra.autograd import recomputing, with_derivatives
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._types import EngineName, Need, Pair, Points, PointsT, Seed, Statistic
from rieszflow.directions import Kind, sample
from rieszflow.engines import Problem, Result
from rieszflow.errors import DerivativeError
from rieszflow.exact import mmd2
from rieszflow.kernels import Kernel, Riesz, check_kernel

__all__ = ["energy_distance", "evaluate", "sliced_mmd2", "sliced_mmd2_gradient"]


@isolated_numerics
def sliced_mmd2(
    x: PointsT,
    y: PointsT,
    *,
    kernel: Kernel = Riesz(1.0),
    slices: int = 1024,
    directions: Kind = "auto",
    engine: EngineName = "auto",
    seed: Seed = None,
    statistic: Statistic = "V",
    x_weights: Points | None = None,
    y_weights: Points | None = None,
) -> PointsT:
    r"""Estimate `mmd2` on P random directions.

    .. math::
        \mathrm{MMD}_K^2(\mu, \nu) = \mathbb{E}_\xi\, \mathrm{MMD}_f^2(\langle \xi, \mu \rangle, \langle \xi, \nu \rangle)
        \approx \frac{1}{P} \sum_{p=1}^{P} \mathrm{MMD}_f^2(\langle \xi_p, \mu \rangle, \langle \xi_p, \nu \rangle)

    with the one-dimensional basis function f of the kernel, which for `Riesz(1.0)` is :math:`f(t) = -c_{d,1} |t|`.

    The estimate is unbiased over the directions, and its relative error falls like 1/√P. With fast directions and bins it takes
    O((N + M) P log d) time, compared to O(N M d) for all pairs.

    Args:
        x, y: As in `mmd2`.
        kernel: `Riesz(1.0)`; with engine "bins" any other, too. A kernel much narrower than the data is refused, because bins
            do not resolve it. Gradients of `Riesz(r)` with r < 1 are inaccurate, and a warning says so.
        slices: Number P of directions. Prefer whole blocks: a multiple of d for "orthogonal", of the next power of two for
            "hadamard".
        directions: "orthogonal" (Haar blocks), "hadamard" (orthogonal blocks by a fast transform), "sobol" (quasi-Monte-Carlo),
            "independent", or "auto": "orthogonal" up to d = 64, "hadamard" above. Or `PatchSlices`, for patches of images. Or a
            tensor (P, d) of unit rows, which sets P.
        engine: "sort" is exact on every slice, for `Riesz(1.0)`. "bins" takes linear time, and memory independent of N; its
            error on a slice is at most the share of points in a bin, about 1e-3 in total. "auto" is "bins" for float32 with
            4096 points or more, and for other kernels.
        seed: Seed of the directions: an integer, a torch.Generator, or None for torch's default generator.
        statistic: "V" for means over all pairs, which is non-negative; "U" for means over the pairs i ≠ k, which is unbiased.
        x_weights, y_weights: As in `mmd2`.

    Returns:
        The value, as in `mmd2`.

    Raises:
        InputError, InputTypeError, DerivativeError: As in `mmd2`. InputError also for a kernel or a derivative that the engine
            does not support, and for points further apart than the dtype can hold.

    Example:
        >>> x, y = torch.zeros(5, 2), torch.tensor([[3.0, 4.0]])
        >>> round(sliced_mmd2(x, y, slices=4096, seed=0).item(), 1)
        10.0

    References:
        Hertrich et al., Generative Sliced MMD Flows with Riesz Kernels (ICLR 2024), Theorems 1 and 4.
    """
    pair, in_kind = validate.clouds(x, y, x_weights, y_weights, statistic)
    inputs = (pair.x.points, pair.y.points, pair.x.weights, pair.y.weights)
    need = Need(True, *(t is not None and t.requires_grad for t in inputs))
    if isinstance(seed, torch.Generator) and recomputing() and need != Need(True):
        raise DerivativeError("`seed` must be an integer or None in an activation checkpoint, got a torch.Generator")
    found = evaluate(pair, Problem(kernel, need), slices, directions, engine, seed)
    assert found.value is not None
    value = found.value.to(pair.x.points.dtype)
    return in_kind(with_derivatives("sliced_mmd2", value, inputs, (found.x, found.y, found.a, found.b)))


@isolated_numerics
def sliced_mmd2_gradient(
    x: PointsT,
    y: PointsT,
    *,
    kernel: Kernel = Riesz(1.0),
    slices: int = 1024,
    directions: Kind = "auto",
    engine: EngineName = "auto",
    seed: Seed = None,
    statistic: Statistic = "V",
    x_weights: Points | None = None,
    y_weights: Points | None = None,
) -> PointsT:
    r"""Compute the gradient of `sliced_mmd2` by x, without autograd.

    For `Riesz(1.0)` it is

    .. math::
        \nabla_{x_i} = a_i \frac{c_{d,1}}{P} \sum_{p=1}^{P}
        4 [ G_p(\langle \xi_p, x_i \rangle) - F_p(\langle \xi_p, x_i \rangle) ] \xi_p

    with the distribution functions F_p and G_p of the projected x and y, which take mid-ranks at ties. Copies of a point can
    have different gradients, because their projections can differ by rounding.

    Args:
        x, y, kernel, slices, directions, engine, seed, statistic, x_weights, y_weights: As in `sliced_mmd2`.

    Returns:
        The gradient in the shape and dtype of x, detached; an array if x and y are arrays.

    Example:
        >>> sliced_mmd2_gradient(torch.tensor([[2.0]]), torch.tensor([[0.0]]), slices=8, seed=0).tolist()
        [[2.0]]

    References:
        Hertrich et al., Generative Sliced MMD Flows with Riesz Kernels (ICLR 2024), section 3.
    """
    pair, in_kind = validate.clouds(x, y, x_weights, y_weights, statistic)
    gradient = evaluate(pair, Problem(kernel, Need(x=True)), slices, directions, engine, seed).x
    assert gradient is not None
    return in_kind(gradient)


def energy_distance(
    x: PointsT,
    y: PointsT,
    *,
    r: float = 1.0,
    slices: int | None = None,
    seed: Seed = None,
    statistic: Statistic = "V",
    x_weights: Points | None = None,
    y_weights: Points | None = None,
) -> PointsT:
    r"""Compute the energy distance over all pairs of points, or estimate it on random slices.

    .. math::
        2\, \mathbb{E} \|X - Y\|^r - \mathbb{E} \|X - X'\|^r - \mathbb{E} \|Y - Y'\|^r

    This is `mmd2` with the kernel `Riesz(r)`. SciPy's `energy_distance` in one dimension is its square root for r = 1.

    Args:
        x, y, statistic, x_weights, y_weights: As in `mmd2`.
        r: Exponent, in the open interval (0, 2).
        slices: Number of random slices to estimate it on, as `sliced_mmd2` does; None for all pairs.
        seed: Seed of the slices, as in `sliced_mmd2`.

    Example:
        >>> x, y = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
        >>> energy_distance(x, y).item()
        10.0

    References:
        Székely and Rizzo, Energy Statistics, J. Statist. Plann. Inference 143 (2013).
    """
    kernel = Riesz(r)
    if slices is None:
        return mmd2(x, y, kernel=kernel, statistic=statistic, x_weights=x_weights, y_weights=y_weights)
    return sliced_mmd2(
        x, y, kernel=kernel, slices=slices, seed=seed, statistic=statistic, x_weights=x_weights, y_weights=y_weights
    )


def evaluate(pair: Pair, problem: Problem, slices: int, kind: Kind, engine: EngineName, seed: Seed) -> Result:
    """Choose an engine, draw slices and evaluate a problem on them."""
    check_kernel(problem.kernel)
    x = pair.x.points.detach()
    chosen = engines.choose(engine, problem, x, pair.y.points)
    P = validate.positive_int("slices", slices)
    return chosen.evaluate(pair.detached(), sample(kind, P, x.shape[-1], x, seed), problem)
