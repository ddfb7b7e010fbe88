"""A target distribution whose projections can be cached between gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rieszflow import directions, engines
from rieszflow._infra import ranks, validate
from rieszflow._infra.files import below, prefixed
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._infra.ranks import Group
from rieszflow._infra.workspace import BufferPool
from rieszflow._types import Cloud, EngineName, Need, Pair, Points, PointSource, PointsT, Seed, Statistic
from rieszflow.constraints import ConstraintLike, Labels, as_constraint
from rieszflow.data import Stream, stream
from rieszflow.directions import Directions, Kind
from rieszflow.engines import CachedTarget, Problem, Result
from rieszflow.errors import InputError
from rieszflow.histograms import StepTables, record_step
from rieszflow.kernels import Kernel, Riesz, check_kernel

__all__ = ["InterpolatedPoints", "Target"]

_USED = 100_000  # points between which new ones lie
_POOL = 10_000  # points among which neighbours are searched
_ROWS = 1000  # points whose neighbours are searched at a time


class InterpolatedPoints:
    r"""Random points between neighbours, for the argument `y` of `Target` and `ParticleFlow`.

    Every gradient is that of new points :math:`y_i + u\,(y_j - y_i)`, where u is uniform on [0, 1] and y_j one of the k points
    nearest to y_i. So a long flow does not end at the points y themselves.

    Args:
        y: Points of shape (n, d).
        neighbours: k, at least 1. Of more than 10,000 points, neighbours are searched among a random 10,000.
        frozen: `Labels` if neighbours must have the same label; the labels then get the same number of new points.
        seed: Seed of the random choices.

    Attributes:
        points: The points y, at most 100,000 of each label at random, sorted by label.
        neighbours: The rows of the neighbours of every point, (n, k).
    """

    def __init__(self, y: Tensor, neighbours: int, frozen: ConstraintLike = 0, seed: int = 0) -> None:
        constraint, k = as_constraint(frozen, y.shape[1]), validate.positive_int("neighbours", neighbours)
        parts, found, first = [], [], 0
        generator = torch.Generator().manual_seed(seed)
        for rows in [slice(None)] if constraint is None else constraint.rows(y):
            order = torch.randperm(len(y[rows]), generator=generator)[:_USED]
            parts.append(y[rows][order.to(y.device)])
            found.append(first + _nearest(parts[-1], k))
            first += len(order)
        self.points, self.neighbours, self._sizes = torch.cat(parts), torch.cat(found), [len(part) for part in parts]

    def draw(self, n: int, seed: int) -> Tensor:
        """Return n new points (n, d); every point is used about equally often, or, if there are more than n, at random."""
        generator, rows, first = torch.Generator().manual_seed(seed), [], 0
        for size in self._sizes:
            m = max(1, n // len(self._sizes)) if size else 0
            start = torch.randint(max(size, 1), (m if size > m else 1,), generator=generator)
            rows.append(first + (start if size > m else (torch.arange(m) + start) % max(size, 1)))
            first += size
        i, u = torch.cat(rows), torch.rand(sum(map(len, rows)), 1, generator=generator)
        j = torch.randint(self.neighbours.shape[1], i.shape, generator=generator)
        i, j, u = (t.to(self.points.device) for t in (i, j, u))
        return self.points[i].lerp(self.points[self.neighbours[i, j]], u.to(self.points))


def _nearest(y: Tensor, k: int) -> Tensor:
    """Return the rows of the k points nearest to each of y (n, d), among the first `_POOL` of them; fewer in turn."""
    pool, found = y[:_POOL], []
    if (most := min(k, len(pool) - 1)) < 1:
        return torch.zeros(len(y), k, dtype=torch.int64, device=y.device)
    for start in range(0, len(y), _ROWS):
        distance = torch.cdist(y[start : start + _ROWS], pool)
        distance[:, start:].fill_diagonal_(torch.inf)  # a point is not its own neighbour
        found.append(distance.topk(most, largest=False).indices)
    return torch.cat(found)[:, torch.arange(k) % most]


class Target:
    """Points y to move other points towards, with results that are cached between calls.

    `gradient(x)` is `sliced_mmd2_gradient(x, y)` on random slices. With `Riesz(1.0)` and the linear-time engine, there can be
    `refresh_every` sets of slices, used in turn, each of which serves as many calls, so that the target is counted once for a
    set. A cached set takes 5 KB a slice.

    Args:
        y: Points of shape (M, d) or (..., M, d); float32 or float64; tensor or NumPy array; or `InterpolatedPoints`, of which a
            call uses `target_batch_size`, or as many as there are points that move. Or, for a target too large for
            memory, anything else that `rieszflow.stream` accepts, with `Riesz(1.0)` on the linear-time engine and without
            weights. A set of slices takes one pass over it, so there is one pass in `refresh_every` calls.
        kernel, slices, directions, engine, seed: As in `sliced_mmd2`.
        y_weights: As in `mmd2`.
        refresh_every: Number of calls that a set of slices serves, at least 1. With 1, every call has fresh slices, and a flow
            converges further (see `ParticleFlow`). More is for targets much larger than x. None for the same slices in all
            calls, on the linear-time engine with `Riesz(1.0)`, so that all gradients are those of one function; they are drawn
            again only if x leaves the range of the bins.
        target_batch_size: Number of targets that a call uses, in turn; y should be in random order then. None for all.
            Projection noise dominates beyond a few thousand targets, so subsampling a very large target costs no accuracy.
        group: A torch.distributed process group whose ranks hold parts of the clouds: y, y_weights (with sum one over all
            ranks) and the points of `gradient`. Every rank makes the same calls, with the first rank's slices. Results are
            those of one process up to rounding; tables of 4 (B + 128) P bytes are exchanged for B bins, whatever N is. On the
            linear-time engine only. None if all points are here.
        frozen: Part of a point that does not move: a number of leading coordinates, a `Mask` or a `Pool`. It is projected like
            the rest, and the gradient is zero there.

    Attributes:
        y: The points, or the first batch of them.
        frozen: The constraint; None if there is none.
        generator: Generator of the directions; None for torch's default generator.
        memory: Memory of gradients and of the particles of a flow, which is reused.

    Raises:
        InputError, InputTypeError: As in `sliced_mmd2`, and for a setting that the engine does not support.

    Example:
        >>> target = Target(torch.zeros(3000, 2), slices=256, seed=2, engine="bins")
        >>> gradient = target.gradient(torch.tensor([[3.0, 4.0]]))
        >>> [round(v, 1) for v in gradient[0].tolist()]
        [1.2, 1.6]
    """

    def __init__(
        self,
        y: PointSource,
        *,
        kernel: Kernel = Riesz(1.0),
        slices: int = 1024,
        directions: Kind = "auto",
        engine: EngineName = "auto",
        seed: Seed = None,
        y_weights: Points | None = None,
        refresh_every: int | None = 1,
        target_batch_size: int | None = None,
        group: Group = None,
        frozen: ConstraintLike = 0,
    ) -> None:
        self._interpolated = y if isinstance(y, InterpolatedPoints) else None
        y = y.points if isinstance(y, InterpolatedPoints) else y
        self._stream = None if isinstance(y, (Tensor, np.ndarray)) else stream(y)
        self.y = validate.points("y", y if self._stream is None else self._stream.first).detach()
        self.frozen = as_constraint(frozen, self.y.shape[-1])
        self.group = ranks.check(group)
        check_kernel(kernel)
        self.kernel, self.directions, self.engine = kernel, directions, engine
        self.slices = validate.positive_int("slices", slices)
        self.generator = validate.generator(seed)
        self.refresh_every = None if refresh_every is None else validate.positive_int("refresh_every", refresh_every)
        self._problem = Problem(kernel, Need(x=True), self.group)
        engines.choose(engine, self._problem, self.y, self.y)
        self._can_cache = engines.can_cache(engine, self._problem)
        if self._stream is not None and (not self._can_cache or y_weights is not None):
            raise InputError(
                "`y` must be a tensor or array unless the kernel is Riesz(1.0), the engine 'bins' or 'auto' and y unweighted, "
                "got batches"
            )
        if refresh_every is None and (not self._can_cache or self.y.ndim > 2):
            raise InputError(
                "`refresh_every` must be an integer unless the kernel is Riesz(1.0), the engine 'bins' or 'auto' and y one "
                "cloud (M, d), got None"
            )
        self.y_weights = validate.weights("y_weights", y_weights, self.y, self.group)
        if target_batch_size is not None:
            target_batch_size = validate.positive_int("target_batch_size", target_batch_size)
            if refresh_every != 1 or self._stream is not None or y_weights is not None or self.y.ndim != 2:
                raise InputError(
                    "`target_batch_size` must be None unless refresh_every=1, there are no weights and y is a tensor (M, d)"
                )
        self.target_batch_size = target_batch_size
        self._calls, self._cached = 0, list[CachedTarget]()
        self.memory = BufferPool()

    @isolated_numerics
    def gradient(self, x: PointsT, *, statistic: Statistic = "V", x_weights: Points | None = None) -> PointsT:
        """Compute the gradient of MMD² by x.

        Args:
            x: Points of shape (N, d) or (..., N, d), with the batch dimensions, dtype and device of y; tensor or NumPy array.
            statistic: "V" or "U", as in `sliced_mmd2`.
            x_weights: As in `mmd2`.

        Returns:
            The gradient in the shape and dtype of x, detached; an array if x is one.

        Raises:
            InputError, InputTypeError: As in `sliced_mmd2`.
        """
        # On other devices NaN gives NaN, because a check would wait for the device in every step of a flow.
        points = validate.points("x", x, check_finite=self.y.device.type == "cpu")
        y = self.y if self._stream is None else self.y.to(points.dtype)
        validate.pair(points, y, check_finite=False)
        a = validate.weights("x_weights", x_weights, points, self.group)
        unbiased = validate.statistic(statistic, ("x", points, a), ("y", self.y, self.y_weights)) == "U"
        with self.memory.in_use():
            gradient = self._evaluate(Cloud(points, a).detached(), unbiased).x
            assert gradient is not None
            if self.frozen is not None:
                gradient = self.frozen.project_out(gradient)
        return gradient.numpy() if isinstance(x, np.ndarray) else gradient

    def _evaluate(self, x: Cloud, unbiased: bool) -> Result:
        if self._stream is not None or self.refresh_every is None:
            return self._evaluate_cached(x, unbiased)
        engine = engines.choose(self.engine, self._problem, x.points, self.y)
        if engine.name == "bins" and self._can_cache and self.refresh_every != 1 and x.points.ndim == 2:
            return self._evaluate_cached(x, unbiased)
        if isinstance(self.frozen, Labels):
            raise InputError("`frozen` must not be Labels for a flow that is not recorded")
        seed = self._next_seed()
        return engine.evaluate(Pair(x, self._next_batch(seed, len(x.points)), unbiased), self._sample(seed), self._problem)

    def _evaluate_cached(self, x: Cloud, unbiased: bool) -> Result:
        """Evaluate on the cached slices whose turn it is, or on fresh ones if these have served their calls."""
        every = self.refresh_every
        turn = 0 if every is None else self._calls % every
        if turn < len(self._cached) and (every is None or self._cached[turn].uses < every):
            slices = self._cached[turn]
        else:
            seed = self._next_seed()
            slices = CachedTarget.for_points(x.points, self._source, self._sample(seed), self._problem)
            slices.seed = seed
        result = slices.evaluate(x, unbiased)
        self._cached[turn : turn + 1] = [] if result.stale else [slices]
        self._calls += 1
        return result

    def _next_batch(self, seed: int, n: int) -> Cloud:
        """Return the targets of the next call: all, or this rank's share of the next `target_batch_size`.

        Of interpolated points there are n, the number of points that move, unless there is a `target_batch_size`.
        """
        if self._interpolated is not None:
            return Cloud(self._interpolated.draw(self.target_batch_size or n, seed))
        M = len(self.y)
        size = M if self.target_batch_size is None else -(-self.target_batch_size * M // ranks.total(M, self.group))
        start = self._calls * size % M
        rest = start + size - M
        self._calls += 1
        if size >= M:
            return Cloud(self.y, self.y_weights).detached()
        return Cloud(self.y[start : start + size] if rest <= 0 else torch.cat([self.y[start:], self.y[:rest]]))

    def _check_recordable(self) -> None:
        if not self._can_cache or self._stream is not None or self.refresh_every != 1 or self.y.ndim != 2:
            raise InputError(
                "`record` must be False unless the kernel is Riesz(1.0), the engine 'bins' or 'auto', refresh_every=1 and "
                "the target a cloud (M, d) in memory"
            )
        if isinstance(self.directions, Tensor):
            raise InputError("`directions` must be a name or PatchSlices with `record`, got a tensor")

    @isolated_numerics
    def _record_step(self, x: Tensor, draw: Callable[[int], Directions], bins: int) -> tuple[int, Directions, StepTables]:
        """Return the seed of the next slices, the slices that `draw` makes of it, and the tables of the gradient on them."""
        validate.pair(x, self.y, check_finite=False)
        seed = self._next_seed()
        slices = draw(seed)
        pair = Pair(Cloud(x), self._next_batch(seed, len(x)), False).detached()
        return seed, slices, record_step(pair, slices, bins, self.group, self.frozen)

    @property
    def _source(self) -> Cloud | Stream:
        return Cloud(self.y, self.y_weights).detached() if self._stream is None else self._stream

    def _next_seed(self) -> int:
        """Draw the seed of the next slices, the same on all ranks."""
        generator = torch.default_generator if self.generator is None else self.generator
        seed = torch.randint(2**62, (), generator=generator, device=generator.device).item()
        return ranks.broadcast(int(seed), self.group)

    def _sample(self, seed: int) -> Directions:
        return directions.sample(self.directions, self.slices, self.y.shape[-1], self.y, seed)

    def state(self) -> dict[str, Tensor]:
        """Return the state from which `load_state` continues with the same slices and bins: a few numbers a slice."""
        state, numbers = dict[str, Tensor](), {"calls": self._calls, "entries": len(self._cached)}
        for k, cached in enumerate(self._cached):
            state |= prefixed(k, cached.state())
            numbers |= {f"{k}.seed": cached.seed, f"{k}.uses": cached.uses}
        return state | {name: torch.tensor(number, dtype=torch.int64, device="cpu") for name, number in numbers.items()}

    @isolated_numerics
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state`, and count the target again. Raises KeyError if it has other slices."""
        cached = []
        for k in range(int(state["entries"])):
            if not self._can_cache:
                raise KeyError("entries")
            own, seed = {name: v.to(self.y.device) for name, v in below(k, state).items()}, int(state[f"{k}.seed"])
            target = CachedTarget.from_state(own, self._source, self._sample(seed), self.group)
            target.seed, target.uses = seed, int(own["uses"])
            cached.append(target)
        self._calls, self._cached = int(state["calls"]), cached
