"""A target that can remember: its tables on a pool of slices, so that a gradient costs nothing for the target."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rieszflow import _ranks, _validate, directions, engines
from rieszflow._ranks import Group
from rieszflow._scratch import Recycled
from rieszflow._types import Seed
from rieszflow.data import stream
from rieszflow.directions import LocalSlices
from rieszflow.engines import bins
from rieszflow.engines._result import Result
from rieszflow.errors import InputError
from rieszflow.kernels import Kernel, Riesz, check_kernel

__all__ = ["Target"]

_DRIFT = 0.02  # share of projections that may leave a table's range before it is made anew


class Target:
    """Points y to move others towards, with what does not change about them kept between calls.

    `gradient(x)` is `sliced_mmd2_gradient(x, y)` on random slices. With Riesz(1.0) and the linear-time engine, a set of slices
    and the target's tables on it can serve `reuse` calls, `reuse` sets in turn, so that no two calls in a row see the same
    slices; then they are drawn anew. The tables take 5 KB a slice and set.

    Args:
        y: points (M, d) or (..., M, d); float32 or float64; tensor or NumPy array. Or whatever else `rieszflow.stream` takes,
            (M, d) in batches, for a target too large for memory: with Riesz(1.0) on the linear-time engine, without weights;
            it is passed over once for a set of slices, that is once in `reuse` calls on average.
        kernel, slices, directions, engine: as in `sliced_mmd2_gradient`.
        seed: of the slices, a new set of them for every call: a whole number, or a torch.Generator that goes on; None for
            torch's default generator.
        y_weights: non-negative weights of y that sum to one; None for 1/M.
        reuse: calls that a set of slices serves, at least 1; 1 for fresh slices in every call. A flow gets further on fresh
            slices (see `ParticleFlow`); more is for targets so much larger than x that to pass over them is what takes time.
        group: a torch.distributed process group: y, y_weights (of sum one over all ranks) and the points of `gradient`
            are this rank's parts of clouds that lie on all ranks, and every rank makes the same calls. The ranks add up tables,
            4 (B + 128) P bytes for B bins whatever N is, and use the first rank's slices. Results are those of one process to
            rounding. On the linear-time engine only. None: clouds are here whole.

    Raises:
        TypeError, ValueError: what `sliced_mmd2_gradient` refuses.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> target = Target(torch.zeros(3000, 2), slices=64, seed=g, engine="bins")
        >>> gradient = target.gradient(torch.tensor([[3.0, 4.0]]))
        >>> [round(v, 1) for v in gradient[0].tolist()]
        [0.6, 0.8]
    """

    def __init__(
        self,
        y: Any,
        *,
        kernel: Kernel = Riesz(1.0),
        slices: int = 1024,
        directions: str | Tensor | LocalSlices = "auto",
        engine: str = "auto",
        seed: Seed = None,
        y_weights: Any = None,
        reuse: int = 1,
        group: Group = None,
    ) -> None:
        self.stream = None if isinstance(y, (Tensor, np.ndarray)) else stream(y)
        self.y = _validate.points("y", y if self.stream is None else self.stream.first).detach()
        self.group = _ranks.check(group)
        check_kernel(kernel)
        self.kernel = kernel
        self.slices = _validate.positive_int("slices", slices)
        self.directions = directions
        self.engine = "bins" if group is not None and engine == "auto" else engine
        if group is not None and self.engine != "bins":
            raise InputError(f"engine: {engine!r} given with a group; 'bins' and 'auto' are accepted")
        if self.stream is not None:
            if engine not in ("auto", "bins") or kernel != Riesz(1.0) or y_weights is not None:
                raise InputError("y: comes in batches; engine 'bins' or 'auto' and Riesz(1.0), without weights, are accepted")
            self.engine = "bins"
        engines.get(self.engine, kernel, self.y, self.y)
        self.generator = _validate.generator(seed)
        self.y_weights = _validate.weights("y_weights", y_weights, self.y, self.group)
        self.reuse = _validate.positive_int("reuse", reuse)
        self._pool: list[_Entry] = []
        self._calls = 0
        self.memory = Recycled()  # of gradients, and of the particles of a flow

    def gradient(self, x: Any, *, statistic: str = "V", x_weights: Any = None) -> Any:
        """Gradient of D² with respect to x, (..., N, d) like the target in d, batch, dtype and device; NumPy for NumPy.

        Detached, like `sliced_mmd2_gradient`'s: nothing can be differentiated through it.

        Raises:
            TypeError, ValueError: what `sliced_mmd2_gradient` refuses.
        """
        numpy = isinstance(x, np.ndarray)
        x = _validate.points("x", x)
        y = self.y if self.stream is None else self.y.to(x.dtype)
        x, _, _ = _validate.pair(x, y, look=False)
        a = _validate.weights("x_weights", x_weights, x, self.group)
        unbiased = _validate.statistic(statistic, ("x", x, a), ("y", self.y, self.y_weights)) == "U"
        with self.memory.in_use():
            result = self._evaluate(x.detach(), a, unbiased)
        assert result.x is not None
        return result.x.numpy() if numpy else result.x

    def _evaluate(self, x: Tensor, a: Tensor | None, unbiased: bool) -> Result:
        solver = engines.get(self.engine, self.kernel, x, self.y)
        need = (False, True, False, False, False)
        one_by_one = x.ndim > 2 or self.reuse == 1
        if self.stream is None and (solver is not bins or self.kernel != Riesz(1.0) or one_by_one):
            arguments = (x, self.y, a, self.y_weights, self._sample(self._seed()), self.kernel, unbiased, need)
            return solver.evaluate(*arguments) if self.group is None else bins.evaluate(*arguments, self.group)
        entry = self._turn(x)
        result = Result()
        drift = False
        for t in entry.tables:
            part = bins.against(t, x, None, a, None, self.kernel, unbiased, need, entry.P, self.group)
            drift |= part.outside > t.outside + _DRIFT
            result += part
        if drift:
            self._pool.remove(entry)
        return result

    def _turn(self, x: Tensor) -> _Entry:
        """The set of slices whose turn it is, fresh if the pool is not full or it has done its duty."""
        turn = self._calls % self.reuse
        self._calls += 1
        if turn < len(self._pool) and self._pool[turn].uses < self.reuse:
            entry = self._pool[turn]
        else:
            seed = self._seed()
            y = self.y if self.stream is None else self.stream
            entry = _Entry(seed, bins.tables(y, self.y_weights, self._sample(seed), self.kernel, x, self.group))
            if turn < len(self._pool):
                self._pool[turn] = entry
            else:
                self._pool.append(entry)
        entry.uses += 1
        return entry

    def _seed(self) -> int:
        """Of the next slices, the same on all ranks."""
        device = self.generator.device if self.generator is not None else "cpu"
        return _ranks.agreed(int(torch.randint(2**62, (), generator=self.generator, device=device).item()), self.group)

    def _sample(self, seed: int) -> directions.Directions:
        generator = torch.Generator(self.y.device).manual_seed(seed)
        return directions.sample(self.directions, self.slices, self.y.shape[-1], self.y, generator)

    def state(self) -> dict[str, Tensor]:
        """What is needed to go on with the very same slices and ranges: a few numbers a slice. See `load_state`."""
        state = {"calls": _whole(self._calls), "entries": _whole(len(self._pool))}
        for k, entry in enumerate(self._pool):
            state[f"{k}.seed"], state[f"{k}.uses"] = _whole(entry.seed), _whole(entry.uses)
            for i, t in enumerate(entry.tables):
                state |= {f"{k}.{i}.{name}": v for name, v in t.span().items()}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` returned; the tables are counted anew. Raises KeyError for a state of other slices."""
        self._calls = int(state["calls"])
        self._pool = []
        for k in range(int(state["entries"])):
            seed = int(state[f"{k}.seed"])
            found = []
            for i, part in enumerate(bins.parts(self._sample(seed))):
                span = {name.removeprefix(f"{k}.{i}."): v for name, v in state.items() if name.startswith(f"{k}.{i}.")}
                found.append(bins.known(part, self.y, span))
            bins.fill(found, self.y if self.stream is None else self.stream, self.y_weights, self.group)
            self._pool.append(_Entry(seed, found, int(state[f"{k}.uses"])))


def _whole(number: int) -> Tensor:
    return torch.tensor(number, dtype=torch.int64, device="cpu")


class _Entry:
    def __init__(self, seed: int, tables: list[bins.Tables], uses: int = 0) -> None:
        self.seed, self.tables, self.uses = seed, tables, uses
        self.P = sum(t.xi.P for t in tables)
