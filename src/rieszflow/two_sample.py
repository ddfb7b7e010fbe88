"""Are two samples of one distribution? A test that passes over the points once, whatever the number of permutations.

Points are dealt at random into blocks of equal size, whose tables of bins are counted. For r = 1 the statistic D² is a squared
Euclidean norm: with the distribution functions F_k of the blocks on all slices as vectors, it is ‖Σ_k w_k F_k‖², w = 1/K_x on
the blocks of x and −1/K_y on those of y. Permuting whole blocks needs their Gram matrix and nothing else: B permutations cost
B·K² operations, not B·N·P. Under the null hypothesis blocks are exchangeable, so the p-value is exact, and some tens of blocks
have nearly the power of single points. Source: Domingo-Enrich, Dwivedi, Mackey, Cheap Permutation Testing (2025).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rieszflow import _validate
from rieszflow.engines import _bins_cpu as cpu
from rieszflow.engines import bins
from rieszflow.kernels import Riesz
from rieszflow.sketch import SliceSketch, met
from rieszflow.stream import Stream, stream
from rieszflow.stream import common as stream_common

__all__ = ["TwoSampleTest", "drift_test", "two_sample_test"]

_BLOCKS = 32  # of the smaller sample
_MOST_TIMES = 8  # as many of the larger one; what it has more than that does not enter the test
_TOGETHER = 1 << 24  # numbers of all blocks at a time in the Gram matrix

Progress = Callable[[str, int, int], Any]


@dataclass(frozen=True)
class TwoSampleTest:
    """What a test found.

    Attributes:
        p_value: probability of a statistic as large if both samples are of one distribution.
        distance: D² (half the energy distance) of all points on the slices, unbiased: it may be below 0.
        interval: approximate 95 % confidence interval of D²: 1.96 standard errors, of the points by the jackknife over blocks
            and of the slices by their spread.
        permutations: B.
        blocks: blocks of x and of y. tested: points of x and of y in them.
        x, y: sketches of all points, for `feature_distances`, `slice_distances` and more.
    """

    p_value: float
    distance: float
    interval: tuple[float, float]
    permutations: int
    blocks: tuple[int, int]
    tested: tuple[int, int]
    x: SliceSketch
    y: SliceSketch


def two_sample_test(
    x: Any,
    y: Any,
    slices: int = 256,
    permutations: int = 999,
    directions: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    common: bool = False,
) -> TwoSampleTest:
    """Tests whether two samples are of one distribution, by the sliced energy distance and permutations of blocks.

    Args:
        x, y: points (n, d) and (m, d), n, m ≥ 2: all that `rieszflow.stream` takes, but iterators. Where one has more than 8
            times as many as the other, a random part of it is tested; all of it enters the distance.
        slices: random directions P. Whole orthogonal blocks pay (see `sliced_mmd2`).
        permutations: B; the least p-value is 1 / (B + 1).
        directions: as in `SliceSketch`. seed: of directions, blocks and permutations.
        progress: called after every batch with "x" or "y", points counted, and how many there are.
        common: of tables with different columns, compare those that both have. Without it different columns are refused;
            equal ones in another order are matched by name.

    Raises:
        TypeError, ValueError: what `rieszflow.stream` refuses, different d, fewer than two points.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> a, b = torch.randn(500, 2, generator=g), torch.randn(400, 2, generator=g)
        >>> two_sample_test(a, b).p_value > 0.05, two_sample_test(a, b + 0.5).p_value
        (True, 0.001)
    """
    x, y = _points("x", x), _points("y", y)
    x, y = stream_common(x, y) if common else (x, y.matched(x.names, x.name, x.left_out))
    if x.d != y.d:
        raise ValueError(f"y: points of dimension d = {y.d} given, x has d = {x.d}; they must be equal")
    permutations = _validate.positive_int("permutations", permutations)
    n, m = x.count(), y.count()
    size = max(1, min(n, m) // _BLOCKS)
    K, L = (min(many // size, _MOST_TIMES * _BLOCKS) for many in (n, m))
    rows = np.random.default_rng(0).integers(0, 2**62, 128)
    some = np.concatenate([x.rows(rows % n), y.rows(rows % m)])
    empty = SliceSketch(some, slices, directions, seed, x.names or y.names)
    rng = np.random.default_rng(seed)
    sketches, blocks = [], []
    for name, cloud, many in (("x", x, K), ("y", y, L)):
        whole, counts = _deal(empty, cloud, many, size, rng, name, progress)
        sketches.append(whole)
        blocks.append(counts)
    w = np.concatenate([np.full(K, 1 / K), np.full(L, -1 / L)])
    gram, slice_error = _gram(empty, [np.concatenate(pair) / size for pair in zip(*blocks, strict=True)], w)
    null = _squares(rng.permuted(np.tile(w, (permutations, 1)), axis=1), gram)
    distance = sketches[1].distance(sketches[0], "U")
    half = 1.96 * math.hypot(_jackknife(gram, K), slice_error)
    return TwoSampleTest(
        _p_value(_squares(w[None], gram)[0], null), distance, (distance - half, distance + half), permutations,
        (K, L), (K * size, L * size), *sketches,
    )  # fmt: skip


def drift_test(
    x: Any, reference: SliceSketch, permutations: int = 999, seed: int = 0, progress: Progress | None = None
) -> TwoSampleTest:
    """Tests whether points are of the distribution that a sketch was made of: for drift, where the reference's points are gone.

    They cannot be permuted then. The null distribution of D² is that of ‖Σ_k ε_k (F_k − F)‖² with standard normal multipliers ε
    on the blocks of x (wild bootstrap), widened by 1 + n/m for the noise of the reference's m points. It is approximate:
    right for many points in x.

    Args:
        x: points (n, d), n ≥ 2: all that `rieszflow.stream` takes, but iterators.
        reference: a sketch of points without weights.
        permutations: draws of the multipliers. seed: of blocks and multipliers. progress: as in `two_sample_test`.

    Raises:
        TypeError, ValueError: what `rieszflow.stream` refuses, another d, an empty or weighted sketch.

    Source: Leucht and Neumann, Dependent wild bootstrap for degenerate U- and V-statistics (2013).
    """
    if not isinstance(reference, SliceSketch):
        raise TypeError(f"reference: {type(reference).__name__} given; a SliceSketch is accepted")
    if reference.n < 2 or reference._weighted:
        raise ValueError("reference: a sketch of two or more points without weights is needed")
    x = _points("x", x).matched(reference.names, "the reference")
    if x.d != reference.d:
        raise ValueError(f"x: points of dimension d = {x.d} given, the reference has d = {reference.d}; they must be equal")
    permutations = _validate.positive_int("permutations", permutations)
    n = x.count()
    K = min(n, 2 * _BLOCKS)
    size = n // K
    rng = np.random.default_rng(seed)
    whole, counts = _deal(reference.empty(), x, K, size, rng, "x", progress)
    masses = [
        np.concatenate([c / size, (r.cpu().numpy() / reference.weight)[None]])
        for c, r in zip(counts, reference._counts[: reference._random], strict=True)
    ]
    w = np.append(np.full(K, 1 / K), -1.0)
    gram, slice_error = _gram(reference, masses, w)
    widened = 1 + K * size / reference.n
    inner = gram[:K, :K]
    centred = inner - inner.mean(0) - inner.mean(1)[:, None] + inner.mean()
    null = widened * K / (K - 1) * _squares(rng.normal(size=(permutations, K)) / K, centred)
    distance = reference.distance(whole, "U")
    half = 1.96 * math.hypot(math.sqrt(widened) * _jackknife(gram, K), slice_error)
    return TwoSampleTest(
        _p_value(_squares(w[None], gram)[0], null), distance, (distance - half, distance + half), permutations,
        (K, 1), (K * size, reference.n), whole, reference,
    )  # fmt: skip


def _points(name: str, source: Any) -> Stream:
    found = stream(source)
    if found.count() < 2:
        raise ValueError(f"{name}: one point given; at least two are needed")
    return found


def _deal(
    empty: SliceSketch, cloud: Stream, K: int, size: int, rng: np.random.Generator, name: str, progress: Progress | None
) -> tuple[SliceSketch, list[np.ndarray]]:
    """The sketch of a cloud, and the counts (K, P, bins) of K blocks of `size` random points on every part of the slices."""
    whole, parts = empty.empty(), empty._parts[: empty._random]
    counts = [np.zeros((K, t.xi.P, t.B + 2 * bins.TAIL), np.float32) for t in parts]
    # How many points every block still gets, and how many none does: who gets which is drawn batch by batch.
    left = np.array([size] * K + [cloud.count() - K * size])
    for batch in cloud:
        whole._count(batch, None)
        drawn = rng.multivariate_hypergeometric(left, len(batch), method="marginals")
        left -= drawn
        order = torch.from_numpy(rng.permutation(len(batch)))
        for k, mine in enumerate(order.split(drawn.tolist())[:K]):
            if len(mine):
                for t, c in zip(parts, counts, strict=True):
                    t, points = met(t, batch[mine])
                    mass, _ = t.passes.count(t, points, None, False, 1.0, "block")
                    c[k] += torch.as_tensor(mass).cpu().numpy()
        if progress is not None:
            progress(name, whole.n, cloud.count())
    return whole, counts


def _gram(like: SliceSketch, masses: list[np.ndarray], w: np.ndarray) -> tuple[np.ndarray, float]:
    """Gram matrix (K, K) of the blocks' distribution functions less their mean, and the slices' standard error of wᵀGw.

    masses: of the blocks on every part, (K, P, bins).
    """
    K = len(w)
    gram, each = np.zeros((K, K)), []
    for t, mass in zip(like._parts[: like._random], masses, strict=True):
        unit = Riesz(1.0).slicing_constant(t.xi.n) / (t.scale * like.slices)
        for part, root in _pieces(t, mass):
            f = part.astype(np.float64)
            f -= f.mean(0)
            F = f.cumsum(-1)
            # A difference that goes from a to b over a bin of width h has the square's integral h ((a + b)²/4 + (b − a)²/12).
            features = np.stack([(F - f / 2) * root, f * (root / math.sqrt(12))], -1) * math.sqrt(unit)
            each.append((np.tensordot(w, features, 1) ** 2).sum((-1, -2)))
            flat = features.reshape(K, -1)
            gram += flat @ flat.T
    values = np.concatenate(each) * like.slices
    return gram, float(values.std() / math.sqrt(len(values)))


def _pieces(t: bins.Tables, mass: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some slices at a time: masses (K, p, bins), and the roots of the bins' widths (p, bins)."""
    tail = np.diff([cpu.tail_edge(k, t.B) for k in range(bins.TAIL + 1)])
    widths = np.concatenate([tail[::-1], np.ones(t.B), tail])
    inverse = np.asarray(t.inverse.cpu() if isinstance(t.inverse, torch.Tensor) else t.inverse, np.float64)
    step = max(1, _TOGETHER // (2 * len(mass) * len(widths)))
    for k in range(0, t.xi.P, step):
        yield mass[:, k : k + step], np.sqrt(widths / inverse[k : k + step, None])


def _squares(w: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """wᵀGw for every row of w."""
    return ((w @ gram) * w).sum(1)


def _p_value(statistic: float, null: np.ndarray) -> float:
    # Equal up to rounding counts as equal: sums of products of float64.
    return float(1 + (null >= statistic - 1e-9 * abs(statistic)).sum()) / (len(null) + 1)


def _jackknife(gram: np.ndarray, k: int) -> float:
    """Standard error of D² (without the pairs of a block with itself) from leaving out one block of x (the first k) or y.

    A single block for y is a reference that does not vary.
    """
    inner, across, outer = gram[:k, :k], gram[:k, k:], gram[k:, k:]
    L = len(outer)
    of_x, of_y = (g.sum() - np.trace(g) for g in (inner, outer))
    rows_x, rows_y = (g.sum(1) - np.diag(g) for g in (inner, outer))
    constant = of_y / (L * (L - 1)) if L > 1 else outer[0, 0]
    variance = 0.0
    if k > 2:
        without = (of_x - 2 * rows_x) / ((k - 1) * (k - 2)) + constant - 2 * (across.sum() - across.sum(1)) / ((k - 1) * L)
        variance += (k - 1) / k * ((without - without.mean()) ** 2).sum()
    if L > 2:
        fixed = of_x / (k * (k - 1))
        without = fixed + (of_y - 2 * rows_y) / ((L - 1) * (L - 2)) - 2 * (across.sum() - across.sum(0)) / (k * (L - 1))
        variance += (L - 1) / L * ((without - without.mean()) ** 2).sum()
    return math.sqrt(variance)
