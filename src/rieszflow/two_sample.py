"""Are two samples of one distribution? A test that passes over the points once, whatever the number of permutations.

Points are dealt at random into blocks of equal size, whose tables of bins are counted. For r = 1 the statistic D² is a squared
Euclidean norm: with the distribution functions F_k of the blocks on all slices as vectors, it is ‖Σ_k w_k F_k‖², with the
blocks' shares of x as w_k, and less their shares of y. Permuting whole blocks needs their Gram matrix and nothing else: B
permutations cost B·K² operations, not B·N·P. Points that are in no block are a vector each for x and y that keeps its place.
Given those, blocks are exchangeable under the null hypothesis, so the p-value is exact, and some tens of blocks have nearly the
power of single points. Source: Domingo-Enrich, Dwivedi, Mackey, Cheap Permutation Testing (2025).

Where the points of y are gone, the random ones that its sketch has kept are the blocks, and all others keep their place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
import torch

from rieszflow import _validate
from rieszflow._clouds import Cloud
from rieszflow._notices import notice
from rieszflow._surroundings import plain
from rieszflow._types import Progress, ProgressCallback
from rieszflow.data import Stream, stream
from rieszflow.data import common as stream_common
from rieszflow.engines import bins
from rieszflow.engines.bins import passes
from rieszflow.errors import InputError, InputTypeError
from rieszflow.kernels import Riesz
from rieszflow.sketch import SliceSketch

__all__ = ["TwoSampleTest", "drift_test", "two_sample_test"]

_BLOCKS = 32  # of the smaller sample
_MOST_TIMES = 8  # as many of the larger one; what it has more than that keeps its place
_MOST_TIMES_DRIFT = 4  # a sketch has 1,024 slices, and so larger tables than the two-sample test
_TOGETHER = 1 << 24  # numbers of all rows at a time in the Gram matrix
_TIE = 1e-12  # of the largest entry of the Gram matrix: sums of the same float64 numbers in another order
_LEVEL = 0.05  # of tests, usually


@dataclass(frozen=True)
class TwoSampleTest:
    """What a test found.

    Attributes:
        p_value: probability of a statistic as large if both samples are of one distribution; exact.
        distance: D² (half the energy distance) of all points on the slices, unbiased: it may be below 0.
        interval: approximate 95 % confidence interval of D²: standard errors, of the points by the spread of their blocks and
            of the slices by theirs, times Student's quantile for the number of blocks. Values that are too rare to be among the
            points widen nothing: then it is too narrow.
        permutations: B; or the number of all ways to split the points, where that is less than B + 2: then all are tried.
        blocks: blocks of x and of y that are permuted. tested: points of x and of y in them; the others keep their place.
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


@plain
def two_sample_test(
    x: Any,
    y: Any,
    *,
    slices: int = 256,
    permutations: int = 999,
    directions: str = "auto",
    seed: int = 0,
    progress: ProgressCallback | None = None,
    common: bool = False,
) -> TwoSampleTest:
    """Tests whether two samples are of one distribution, by the sliced energy distance and permutations of blocks.

    The p-value is exact for independent points of any distribution and any n and m: ties, constants and heavy tails included.
    If the null hypothesis holds, it is at most α with a probability of at most α. The interval is approximate.

    Args:
        x, y: points (n, d) and (m, d), n, m ≥ 2: all that `rieszflow.stream` takes, but iterators. Where one has more than 8
            times as many as the other, a random part of it is permuted; all of it enters the statistic and the distance.
        slices: random directions P. Whole orthogonal blocks pay (see `sliced_mmd2`).
        permutations: B; the least p-value is 1 / (B + 1). Where the points can be split in less than B + 2 ways, all are tried.
            A notice says so if the p-value cannot be as small as 0.05.
        directions: as in `SliceSketch`. seed: of directions, blocks and permutations.
        progress: called after every batch with a `Progress` that counts the points of "x" or "y".
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
        raise InputError(f"y: points of dimension d = {y.d} given, x has d = {x.d}; they must be equal")
    permutations = _validate.positive_int("permutations", permutations)
    n, m = x.count(), y.count()
    size = max(1, min(n, m) // _BLOCKS)
    K, L = (min(many // size, _MOST_TIMES * _BLOCKS) for many in (n, m))
    # Drawn from all points alike: bins that know which points are of x would tell them from those of y.
    rows = np.random.default_rng(0).integers(0, n + m, 256)
    some = np.concatenate([cloud.rows(mine) for cloud, mine in ((x, rows[rows < n]), (y, rows[rows >= n] - n)) if len(mine)])
    rng = _generator(seed)
    empty = SliceSketch(some, slices=slices, directions=directions, seed=int(rng.integers(0, 2**63)), names=x.names or y.names)
    one, of_x = _deal(empty, x, K, size, rng, "x", progress)
    two, of_y = _deal(empty, y, L, size, rng, "y", progress)
    return _test(one, two, of_x, of_y, size, permutations, rng)


@plain
def drift_test(
    x: Any, reference: SliceSketch, *, permutations: int = 999, seed: int = 0, progress: ProgressCallback | None = None
) -> TwoSampleTest:
    """Tests whether points are of the distribution that a sketch was made of: for drift, where the reference's points are gone.

    Blocks of x are permuted with blocks of the random points that the sketch has kept (`SliceSketch.kept`); all points of x and
    of the reference enter the statistic. The p-value is exact as that of `two_sample_test` is. Its power is that of a test
    against all points of the reference for x of fewer points than were kept; for more of them it grows with the number kept.

    Args:
        x: points (n, d), n ≥ 2: all that `rieszflow.stream` takes, but iterators.
        reference: a sketch of points without weights that keeps at least two of them.
        permutations: as in `two_sample_test`. seed: of blocks and permutations. progress: as in `two_sample_test`, of x.

    Raises:
        TypeError, ValueError: what `rieszflow.stream` refuses, another d, an empty or weighted sketch, one without points kept.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> reference = SliceSketch.of(torch.randn(5000, 2, generator=g), slices=64)
        >>> same, other = torch.randn(300, 2, generator=g), torch.randn(300, 2, generator=g) + 0.5
        >>> drift_test(same, reference).p_value > 0.05, drift_test(other, reference).p_value
        (True, 0.001)
    """
    if not isinstance(reference, SliceSketch):
        raise InputTypeError(f"reference: {type(reference).__name__} given; a SliceSketch is accepted")
    if reference.n < 2 or reference._weighted:
        raise InputError("reference: a sketch of two or more points without weights is needed")
    x = _points("x", x).matched(reference.names, "the reference")
    if x.d != reference.d:
        raise InputError(f"x: points of dimension d = {x.d} given, the reference has d = {reference.d}; they must be equal")
    permutations = _validate.positive_int("permutations", permutations)
    kept = reference.kept
    if kept is None or len(kept) < 2:
        raise InputError(
            "reference: a sketch that keeps a sample of its points is needed for a test; this one was made with sample=0 or 1, "
            "or by an earlier version, or merged with one that was. Its distances are right; for a test make it again"
        )
    n, R = x.count(), len(kept)
    size = max(1, min(n, R) // _BLOCKS)
    K, L = (min(many // size, _MOST_TIMES_DRIFT * _BLOCKS) for many in (n, R))
    rng = _generator(seed)
    # In one dtype: equal points must be in equal bins, whichever side they are on.
    dtype = torch.promote_types(x.first.dtype, reference.dtype)
    kept = kept.to(dtype) if torch.equal(kept.to(dtype).double(), kept) else kept
    cast = reference.empty().wider(kept.dtype)
    whole, of_x = _deal(cast, x, K, size, rng, "x", progress)
    _, of_reference = _deal(cast, stream(kept), L, size, rng, "reference", None)
    return _test(whole, reference, of_x, of_reference, size, permutations, rng)


def _points(name: str, source: Any) -> Stream:
    found = stream(source)
    if found.count() < 2:
        raise InputError(f"{name}: one point given; at least two are needed")
    return found


def _generator(seed: Any) -> np.random.Generator:
    """Not `default_rng(seed)`: data made with that, or with torch.manual_seed(seed), would meet the same numbers here again."""
    return np.random.default_rng([_validate.whole_seed(seed), 0x7E57])


def _deal(
    empty: SliceSketch, cloud: Stream, K: int, size: int, rng: np.random.Generator, name: str, progress: ProgressCallback | None
) -> tuple[SliceSketch, list[np.ndarray]]:
    """The sketch of a cloud, and the counts (K, P, bins) of K blocks of `size` random points on every part of the slices."""
    whole, parts = empty.empty(), empty._parts[: empty._random]
    counts = [np.zeros((K, t.directions.P, t.B + 2 * bins.TAIL), np.min_scalar_type(size)) for t in parts]
    # How many points every block still gets, and how many none does: who gets which is drawn batch by batch.
    left = np.array([size] * K + [cloud.count() - K * size])
    for batch in cloud:
        whole._count(batch, None)
        drawn = rng.multivariate_hypergeometric(left, len(batch), method="marginals")
        left -= drawn
        order = torch.from_numpy(rng.permutation(len(batch)))
        for k, mine in enumerate(order.split(drawn.tolist())[:K]):
            if len(mine):
                # A single point twice: its projections, a product with a vector, would differ in the last digit from those of
                # the same point among others, and equal points must be in equal bins.
                times = 2 if len(mine) == 1 else 1
                for t, c in zip(parts, counts, strict=True):
                    t, points = t.met(batch[mine.repeat(times)])
                    mass, _ = passes.of(t).count(t, Cloud(points), moments=False, scale=1 / times, memory="block")
                    c[k] += mass.cpu().numpy().astype(c.dtype)
        if progress is not None:
            progress(Progress(name, whole.n, cloud.count()))
    return whole, counts


def _test(
    x: SliceSketch,
    y: SliceSketch,
    of_x: list[np.ndarray],
    of_y: list[np.ndarray],
    size: int,
    permutations: int,
    rng: np.random.Generator,
) -> TwoSampleTest:
    """x, y: all points. of_x, of_y: counts of the blocks to permute, of `size` points each, on every part of the slices."""
    K, L = len(of_x[0]), len(of_y[0])
    # The rows of the Gram matrix: blocks of x, blocks of y, what is in no block of x and of y. Then what they weigh in x and y.
    masses, others = [], [x.n - K * size, y.n - L * size]
    for k, blocks in enumerate(zip(of_x, of_y, strict=True)):
        rest = [s._counts[k].cpu().numpy() - b.sum(0, dtype=np.float64) for s, b in zip((x, y), blocks, strict=True)]
        masses.append([*blocks, np.stack(rest)])
    in_x = np.array([size] * K + [0] * L + [others[0], 0]) / x.n
    in_y = np.array([0] * K + [size] * L + [0, others[1]]) / y.n
    numbers = np.array([size] * (K + L) + [max(1, many) for many in others])
    gram, slice_error = _gram(x, masses, numbers, in_x - in_y)
    p_value, tried = _permute(gram, in_x - in_y, K, L, permutations, rng)
    distance = y.distance(x, statistic="U")
    error = math.hypot(_points_error(gram, in_x, in_y, K, L), slice_error)
    half = float(scipy.stats.t.ppf(0.975, min(K, L) - 1)) * error
    # Where nothing varies, the unbiased distance's correction is all there is: the plain distance is not above the interval.
    interval = distance - half, max(distance + half, y.distance(x))
    return TwoSampleTest(p_value, distance, interval, tried, (K, L), (K * size, L * size), x, y)


def _gram(like: SliceSketch, masses: list[list[np.ndarray]], numbers: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, float]:
    """Gram matrix (K, K) of the rows' distribution functions less the first one, and the slices' standard error of wᵀGw.

    masses: of every part, arrays (…, P, bins) that have K rows together. numbers: of points in every row.
    """
    K = len(w)
    gram, each = np.zeros((K, K)), []
    for t, mass in zip(like._parts[: like._random], masses, strict=True):
        unit = Riesz(1.0).basis_constant(t.directions.n) / (t.scale * like.slices)
        for some, h in _pieces(t, K):
            f = np.concatenate([m[:, some] for m in mass]) / numbers[:, None, None]
            F = (f - f[0]).cumsum(-1)
            # Differences of distribution functions are linear between edges, so that over a bin of width h from a to b their
            # product with another from c to d has the integral h (ac + bd + (ad + bc)/2) / 3. At both ends all are 0.
            inner = h[:, 1:] / 6
            integrated = F * (h / 3)
            integrated[..., :-1] += F[..., :-1] * (2 * inner) + F[..., 1:] * inner
            integrated[..., 1:] += F[..., :-1] * inner
            each.append((np.tensordot(w, F, 1) * np.tensordot(w, integrated, 1)).sum(-1) * unit)
            gram += unit * (F.reshape(K, -1) @ integrated.reshape(K, -1).T)
    values = np.concatenate(each) * like.slices
    return gram, float(values.std() / math.sqrt(len(values)))


def _pieces(t: bins.Grid, K: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Some slices at a time, for tables of K rows: which, and the widths of their bins (p, bins)."""
    tail = np.diff([bins.tail_edge(k, t.B) for k in range(bins.TAIL + 1)])
    widths = np.concatenate([tail[::-1], np.ones(t.B), tail])
    inverse = np.asarray(t.inverse.cpu().numpy(), np.float64)
    step = max(1, _TOGETHER // (4 * K * len(widths)))
    for k in range(0, t.directions.P, step):
        yield slice(k, k + step), widths / inverse[k : k + step, None]


def _permute(gram: np.ndarray, w: np.ndarray, K: int, L: int, permutations: int, rng: np.random.Generator) -> tuple[float, int]:
    """The p-value of wᵀGw among those with the first K + L weights permuted, and how many were tried."""
    ways = math.comb(K + L, K)
    whole = ways <= permutations + 1
    if whole:
        tried = np.tile(w, (ways, 1))
        tried[:, : K + L] = w[K]
        for row, chosen in zip(tried, itertools.combinations(range(K + L), K), strict=True):
            row[list(chosen)] = w[0]
    else:
        tried = np.tile(w, (permutations, 1))
        tried[:, : K + L] = rng.permuted(tried[:, : K + L], axis=1)
    null, tie = _squares(tried, gram), _TIE * gram.diagonal()[w != 0].max()
    found = int((null >= _squares(w[None], gram)[0] - tie).sum())
    # All ways contain the one that was found; random ones do not.
    p_value = found / ways if whole else (1 + found) / (permutations + 1)
    least = (null >= null.max() - tie).mean() if whole else 1 / (permutations + 1)
    if least > _LEVEL:
        why = f"there are {ways} ways to split so few points" if whole else f"{permutations} permutations are tried"
        notice(f"p-value: cannot be less than {least:.3g}, whatever the samples look like: {why}")
    return p_value, len(tried)


def _squares(w: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """wᵀGw for every row of w."""
    return ((w @ gram) * w).sum(1)


def _points_error(gram: np.ndarray, in_x: np.ndarray, in_y: np.ndarray, K: int, L: int) -> float:
    """Standard error of D² from the points: Hoeffding's two terms, by the blocks.

    The first is the spread of what every block adds to D², without its distance from itself. The second is there if x and y are
    alike, or all blocks of one of them: it is the spread of products of different blocks, of all of them as one sample.
    """
    variance = 0.0
    for mine, theirs, these in ((in_x, in_y, slice(K)), (in_y, in_x, slice(K, K + L))):
        share = mine[these]
        own = gram[these] @ mine - share * gram.diagonal()[these]
        adds = 2 * (own / (1 - share) - gram[these] @ theirs)
        variance += adds.var(ddof=1) * share[0]
    pooled = gram[: K + L, : K + L]
    centred = pooled - pooled.mean(0) - pooled.mean(1)[:, None] + pooled.mean()
    products = ((centred**2).sum() - (centred.diagonal() ** 2).sum()) / ((K + L) * (K + L - 1))
    return math.sqrt(variance + 2 * (in_x[0] + in_y[K]) ** 2 * products)
