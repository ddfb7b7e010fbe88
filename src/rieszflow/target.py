"""A target that can remember: what an engine keeps of it on some slices, so that a gradient costs nothing for the target."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rieszflow import directions, engines
from rieszflow._infra import ranks, validate
from rieszflow._infra.isolation import isolated_numerics
from rieszflow._infra.ranks import Group
from rieszflow._infra.workspace import BufferPool
from rieszflow._types import Batches, Cloud, EngineName, Need, Pair, Points, PointsT, Seed, Statistic
from rieszflow.constraints import ConstraintLike, as_constraint
from rieszflow.data import stream
from rieszflow.directions import Directions, Kind
from rieszflow.engines import CachedTarget, Engine, Problem, Result
from rieszflow.errors import InputError
from rieszflow.histograms import StepTables, record_step
from rieszflow.kernels import Kernel, Riesz, check_kernel

__all__ = ["CachedSlices", "Target"]


@dataclass(frozen=True)
class CachedSlices:
    """A set of slices that is used again.

    Attributes:
        seed: which the slices are drawn from.
        uses: how many calls it has served.
        target: what the engine keeps of the target on these slices.
    """

    seed: int
    uses: int
    target: CachedTarget


@dataclass(frozen=True)
class _Pool:
    """The sets of slices that are kept, one a turn, and the number of calls so far."""

    calls: int = 0
    sets: tuple[CachedSlices, ...] = ()


class Target:
    """Points y to move others towards. What does not change about them is kept between calls.

    `gradient(x)` is `sliced_mmd2_gradient(x, y)` on random slices. With `Riesz(1.0)` and the linear-time engine, a set of
    slices can serve `refresh_every` calls. Then the target is counted once for the set, and not in every call. There are `refresh_every` sets,
    used in turn, so that no two calls in a row see the same slices. What is kept takes 5 KB a slice and set.

    Args:
        y: points (M, d) or (..., M, d); float32 or float64; tensor or NumPy array. Or batches of points (m, d), for a target
            too large for memory: all that `rieszflow.stream` takes, with `Riesz(1.0)` on the linear-time engine, without
            weights. A set of slices takes one pass over them, so there is one pass in `refresh_every` calls.
        kernel: as in `sliced_mmd2_gradient`.
        slices: number P of random directions.
        directions: as in `sliced_mmd2_gradient`.
        engine: as in `sliced_mmd2_gradient`.
        seed: of the directions. A whole number; or a torch.Generator, which goes on; or None for torch's default generator.
        y_weights: non-negative weights of y, (M,) or (..., M), of sum one. None for 1/M each.
        reuse: number of calls that a set of slices serves, at least 1. With 1 every call has fresh slices, and a flow gets
            further (see `ParticleFlow`). More is for targets so much larger than x that passing over them takes the time. None
            for the same slices in all calls, on the linear-time engine with `Riesz(1.0)`: then the gradient is that of one
            function. They are drawn anew only if x leaves the range that the bins were made for.
        target_batch_size: number of targets that a call sees, in turn, at least 1; y should be in random order then. None: all of them. The
            slices' own noise is larger than that of some thousand targets, so fewer of very many cost nothing but time.
        group: a torch.distributed process group. Its ranks hold parts of the clouds: y, y_weights (of sum one over all ranks)
            and the points of `gradient`. Every rank makes the same calls, with the first rank's slices. The ranks add up
            tables, 4 (B + 128) P bytes for B bins whatever N is. Results are those of one process, up to rounding. On the
            linear-time engine only. None: all points are here.
        frozen: what of a point does not move: a number k of leading coordinates, a `Mask` or a `Pool`. It is projected like the
            rest, and the gradient is zero there.

    Attributes:
        y: the points, or the first batch of them.
        frozen: what of a point does not move; None for nothing.
        y_weights: as given.
        group: as given.
        generator: of the directions; None for torch's default generator.
        memory: of gradients, to be used again.

    Raises:
        InputError (a ValueError): what `sliced_mmd2_gradient` refuses, and a setting that the engine does not have.
        InputTypeError (a TypeError): a wrong type or dtype.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> target = Target(torch.zeros(3000, 2), slices=64, seed=g, engine="bins")
        >>> gradient = target.gradient(torch.tensor([[3.0, 4.0]]))
        >>> [round(v, 1) for v in gradient[0].tolist()]
        [0.6, 0.8]
    """

    def __init__(
        self,
        y: object,
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
        self.stream = None if isinstance(y, (Tensor, np.ndarray)) else stream(y)
        self.y = validate.points("y", y if self.stream is None else self.stream.first).detach()
        self.frozen = as_constraint(frozen, self.y.shape[-1])
        self.group = ranks.check(group)
        check_kernel(kernel)
        self.kernel = kernel
        self.slices = validate.positive_int("slices", slices)
        self.directions = directions
        self.engine = engine
        self.generator = validate.generator(seed)
        self.refresh_every = None if refresh_every is None else validate.positive_int("refresh_every", refresh_every)
        self._problem = Problem(kernel, Need(x=True), self.group)
        engines.choose(engine, self._problem, self.y, self.y)
        self._keeper = engines.caching_engine(engine, self._problem)
        if self.stream is not None and (self._keeper is None or y_weights is not None):
            raise InputError("y: comes in batches; engine 'bins' or 'auto' and Riesz(1.0), without weights, are accepted")
        if refresh_every is None and (self._keeper is None or self.y.ndim > 2):
            raise InputError("reuse: None given; engine 'bins' or 'auto', Riesz(1.0) and one cloud (M, d) are accepted with it")
        self.y_weights = validate.weights("y_weights", y_weights, self.y, self.group)
        self.target_batch_size = (
            None if target_batch_size is None else validate.positive_int("target_batch_size", target_batch_size)
        )
        if target_batch_size is not None and (
            refresh_every != 1 or self.stream is not None or y_weights is not None or self.y.ndim != 2
        ):
            raise InputError(
                "`target_batch_size` must be None unless refresh_every=1, there are no weights and y is a tensor (M, d)"
            )
        self._pool = _Pool()
        self.memory = BufferPool()  # of gradients, and of the particles of a flow

    @property
    def kept(self) -> tuple[CachedSlices, ...]:
        """The sets of slices that are kept at present."""
        return self._pool.sets

    @isolated_numerics
    def gradient(self, x: PointsT, *, statistic: Statistic = "V", x_weights: Points | None = None) -> PointsT:
        """Gradient of D² by x.

        Args:
            x: points (N, d) or (..., N, d), tensor or NumPy array, with the d, batch dimensions, dtype and device of y.
            statistic: "V" or "U", as in `sliced_mmd2_gradient`.
            x_weights: non-negative weights of x, (N,) or (..., N), of sum one. None for 1/N each.

        Returns:
            The gradient, shape and dtype of x, detached. An array if x is one.

        Raises:
            InputError, InputTypeError: what `sliced_mmd2_gradient` refuses.
        """
        points = validate.points("x", x)
        y = self.y if self.stream is None else self.y.to(points.dtype)
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
        caching_engine = self._keeper
        if caching_engine is not None and (self.stream is not None or self.refresh_every is None):
            return self._on_kept(caching_engine, x, unbiased)
        engine = engines.choose(self.engine, self._problem, x.points, self.y)
        if engine is caching_engine and self.refresh_every != 1 and x.points.ndim == 2:
            return self._on_kept(caching_engine, x, unbiased)
        seed, y = self._seed(), self._seen()
        return engine.evaluate(Pair(x, y, unbiased), self._sample(seed), self._problem)

    def _seen(self) -> Cloud:
        """The targets of the next call: all, or the next `target_batch_size` of them."""
        calls = self._pool.calls
        self._pool = dataclasses.replace(self._pool, calls=calls + 1)
        M = len(self.y)
        # Over several ranks everyone gives its share.
        many = M if self.target_batch_size is None else -(-self.target_batch_size * M // ranks.total(M, self.group))
        if many >= M:
            return Cloud(self.y, self.y_weights).detached()
        start = calls * many % M
        rest = start + many - M
        return Cloud(self.y[start : start + many] if rest <= 0 else torch.cat([self.y[start:], self.y[:rest]]))

    def check_recording(self) -> None:
        """Raises InputError where steps cannot be recorded."""
        caching_engine = self._keeper
        if (
            caching_engine is None
            or caching_engine.name != "bins"
            or self.stream is not None
            or self.refresh_every != 1
            or self.y.ndim != 2
        ):
            raise InputError(
                "recording: engine 'bins' or 'auto', Riesz(1.0), refresh_every=1 and a target (M, d) in memory are accepted with it"
            )
        if isinstance(self.directions, Tensor):
            raise InputError("recording: given with a tensor of directions; names and PatchSlices are accepted with it")

    @isolated_numerics
    def record_step(self, x: Tensor, draw: Callable[[int], Directions], bins: int) -> tuple[int, Directions, StepTables]:
        """The next slices' seed, the slices, and what the gradient by particles x (N, d) is on them, as a function.

        `draw` makes slices of a seed.
        """
        validate.pair(x, self.y, check_finite=False)
        seed = self._seed()
        slices = draw(seed)
        return seed, slices, record_step(Pair(Cloud(x), self._seen(), False).detached(), slices, bins, self.group)

    def _on_kept(self, caching_engine: Engine, x: Cloud, unbiased: bool) -> Result:
        """On the slices whose turn it is: fresh ones if too few are kept, or if these have served their calls."""
        calls, sets = self._pool.calls, list(self._pool.sets)
        turn = 0 if self.refresh_every is None else calls % self.refresh_every
        if turn < len(sets) and (self.refresh_every is None or sets[turn].uses < self.refresh_every):
            used = dataclasses.replace(sets[turn], uses=sets[turn].uses + 1)
        else:
            seed = self._seed()
            used = CachedSlices(seed, 1, caching_engine.cache(self._source, x.points, self._sample(seed), self._problem))
        result = used.target.evaluate(x, unbiased)
        sets[turn : turn + 1] = [] if result.stale else [used]
        self._pool = _Pool(calls + 1, tuple(sets))
        return result

    @property
    def _source(self) -> Cloud | Batches:
        """The target as an engine keeps it."""
        return Cloud(self.y, self.y_weights).detached() if self.stream is None else self.stream

    def _seed(self) -> int:
        """Of the next slices, the same on all ranks."""
        device = self.generator.device if self.generator is not None else "cpu"
        return ranks.broadcast_int(int(torch.randint(2**62, (), generator=self.generator, device=device).item()), self.group)

    def _sample(self, seed: int) -> Directions:
        generator = torch.Generator(self.y.device).manual_seed(seed)
        return directions.sample(self.directions, self.slices, self.y.shape[-1], self.y, generator)

    def state(self) -> dict[str, Tensor]:
        """What is needed to go on with the very same slices and bins: a few numbers a slice. See `load_state`."""
        state = {"calls": _whole(self._pool.calls), "entries": _whole(len(self.kept))}
        for k, kept in enumerate(self.kept):
            state[f"{k}.seed"], state[f"{k}.uses"] = _whole(kept.seed), _whole(kept.uses)
            state |= {f"{k}.{name}": v for name, v in kept.target.state().items()}
        return state

    @isolated_numerics
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` returned, and counts the target anew. Raises KeyError for a state of other slices."""
        sets = []
        for k in range(int(state["entries"])):
            if self._keeper is None:
                raise KeyError("entries")
            prefix, seed = f"{k}.", int(state[f"{k}.seed"])
            own = {key.removeprefix(prefix): v.to(self.y.device) for key, v in state.items() if key.startswith(prefix)}
            target = self._keeper.restore_cache(self._source, own, self._sample(seed), self._problem)
            sets.append(CachedSlices(seed, int(own["uses"]), target))
        self._pool = _Pool(int(state["calls"]), tuple(sets))


def _whole(number: int) -> Tensor:
    return torch.tensor(number, dtype=torch.int64, device="cpu")
