"""D² on slices as a loss to train networks with: a module, and the operator behind it that PyTorch's own tools understand.

An operator of `torch.library` is one node in the graphs of `torch.compile` and `torch.export`, and knows what `torch.func.grad`
and `vmap` make of it. Its forward pass gives the value and the gradients: both come from the same counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rieszflow import engines, exact
from rieszflow._infra import validate
from rieszflow._infra.autograd import draw_outside_transforms, may_be_recomputed, recomputing
from rieszflow._infra.isolation import isolated_numerics
from rieszflow._types import DirectionsName, EngineName, Need, Pair, Statistic
from rieszflow.directions import KINDS, PatchSlices
from rieszflow.engines import Problem
from rieszflow.errors import DerivativeError, InputError, InputTypeError
from rieszflow.kernels import Kernel, Riesz, check_kernel
from rieszflow.sliced import prepared

__all__ = ["SlicedMMDLoss", "flat"]

_SEEDS = 2**62  # seeds are taken modulo this, in whole numbers of 64 bits
# Largest batch for which all pairs take about as long as slices, by dimension (benchmarks/losses.py).
_EXACT = {64: 1024, math.inf: 512}
_DRAWS = 2**14  # calls in checkpoints that are remembered for recomputation


@dataclass(frozen=True)
class _Setting:
    """What is the same at every call of a loss."""

    kernel: Kernel
    slices: int | Literal["auto"]
    directions: DirectionsName | PatchSlices
    engine: EngineName
    statistic: Statistic

    def exact(self, pair: Pair) -> bool:
        """Return True if all pairs of points are compared instead of slices."""
        x, y = pair.x.points.shape, pair.y.points.shape
        few = next(n for d, n in _EXACT.items() if x[-1] <= d)
        return self.slices == self.directions == self.engine == "auto" and max(x[-2], y[-2]) <= few

    def many(self, d: int) -> int:
        """Return the number of slices for points of dimension d: whole blocks, with at least 256 slices in total."""
        if self.slices != "auto":
            return self.slices
        return -(-256 // d) * d if d <= 64 else min(1024, max(256, 1 << (d - 1).bit_length()))


# An operator takes tensors and numbers only, so a setting goes by its number. Equal settings have one.
_settings: list[_Setting] = []


def _number(setting: _Setting) -> int:
    if setting not in _settings:
        _settings.append(setting)
    return _settings.index(setting)


@torch.library.custom_op("rieszflow::sliced_mmd2", mutates_args=())
def _sliced_mmd2(x: Tensor, y: Tensor, seed: Tensor, setting: int, need_x: bool, need_y: bool) -> tuple[Tensor, Tensor, Tensor]:
    """D² of x (..., N, d) and y (..., M, d), and its gradients by them, empty where they are not needed."""
    return _evaluated(x, y, seed, setting, need_x, need_y)


@isolated_numerics
def _evaluated(x: Tensor, y: Tensor, seed: Tensor, setting: int, need_x: bool, need_y: bool) -> tuple[Tensor, Tensor, Tensor]:
    it = _settings[setting]
    pair, _ = validate.clouds(x, y, None, None, it.statistic)
    need = Need(True, need_x, need_y)
    if it.exact(pair):
        value, (by_x, _, by_y, _) = exact.evaluate(pair, it.kernel, need)
    else:
        # The error of bins is far below that of some hundred slices, and their loops are faster for batches, too.
        engine = "bins" if it.slices == it.engine == "auto" else it.engine
        work = prepared(pair, Problem(it.kernel, need), it.many(x.shape[-1]), it.directions, engine, int(seed))
        result = work.evaluate(pair.x, pair.y)
        value, by_x, by_y = result.value, result.x, result.y
    assert value is not None
    by_x, by_y = (x.new_empty(0) if t is None else t.to(x.dtype) for t in (by_x, by_y))
    return value.to(x.dtype), by_x, by_y


@_sliced_mmd2.register_fake
def _(x: Tensor, y: Tensor, seed: Tensor, setting: int, need_x: bool, need_y: bool) -> tuple[Tensor, Tensor, Tensor]:
    gx, gy = (torch.empty_like(t) if need else t.new_empty(0) for t, need in ((x, need_x), (y, need_y)))
    return x.new_empty(x.shape[:-2]), gx, gy


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])
    ctx.needed = inputs[4:]


def _backward(ctx: Any, value: Tensor | None, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    if any(g is not None for g in gradients):
        raise DerivativeError(
            "SlicedMMDLoss: differentiable once, and a second derivative was asked for (by a gradient penalty or a Hessian); "
            "for few points write the sum over pairs in PyTorch"
        )
    found = [
        value[..., None, None] * g if value is not None and needed else None
        for g, needed in zip(ctx.saved_tensors, ctx.needed, strict=True)
    ]
    return *found, None, None, None, None


# Where code is compiled, a function of ours would be traced with gradients for all outputs, which are refused above.
_sliced_mmd2.register_autograd(_backward, setup_context=_setup)


class _Differentiable(torch.autograd.Function):
    """The operator for `torch.func`, which does not know what `register_autograd` says."""

    @staticmethod
    def forward(x: Tensor, y: Tensor, seed: Tensor, setting: int, need_x: bool, need_y: bool) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = _sliced_mmd2(x, y, seed, setting, need_x, need_y)
        return found

    setup_context = staticmethod(_setup)
    backward = staticmethod(_backward)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        raise DerivativeError("SlicedMMDLoss: a forward-mode derivative was asked for; derivatives come by the way back only")

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        x: Tensor,
        y: Tensor,
        seed: Tensor,
        setting: int,
        need_x: bool,
        need_y: bool,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int | None, int | None]]:
        if in_dims[2] is not None:
            raise InputError("SlicedMMDLoss: a vmap over modules given; one over points is accepted, on the same slices")
        # Inside vmap a batched tensor does not show an outer grad or backward; the tensor below it does.
        need_x, need_y = need_x or x.requires_grad, need_y or y.requires_grad
        x, y = (
            t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in ((x, in_dims[0]), (y, in_dims[1]))
        )
        found = _Differentiable.apply(x, y, seed, setting, need_x, need_y)  # type: ignore[no-untyped-call]  # PyTorch's
        return found, (0, 0 if need_x else None, 0 if need_y else None)


class SlicedMMDLoss(nn.Module):
    """`sliced_mmd2` between two batches as a loss: on fresh slices at every call, in float32 whatever the batches are.

    For small batches it is the exact `mmd2` (see `slices`).

    Fresh slices make the loss an unbiased estimate at every step. A network sees all directions in time with some hundreds of
    slices a step. It works under autocast, in `torch.compile` with `fullgraph=True`, in `torch.func.grad` and `vmap`, and in an
    activation checkpoint: a recomputation uses the slices of the first computation and does not count as a call. For that, a
    call in a checkpoint or under `torch.no_grad` draws one number from torch's default generator, which the checkpoint must
    restore (`preserve_rng_state=True`, the default). Points on the meta device give a value on the meta device.

    Args:
        kernel: as in `sliced_mmd2`.
        slices: number P of directions at every call, or "auto". "auto" takes the exact `mmd2` over all pairs, which has no
            slicing noise, for batches of up to 1,024 points (512 for d > 64), if `directions` and `engine` are "auto" as well.
            Otherwise it takes whole blocks of slices, for d ≤ 64 the least multiple of d from 256 on, for larger d the least
            power of two from d on, but between 256 and 1,024; bins are used if `engine` is "auto".
        directions: "auto", "orthogonal", "hadamard", "sobol", "independent", or `PatchSlices` for patches of images.
        engine: as in `sliced_mmd2`.
        statistic: "V", or "U", which is unbiased in the samples too, and so the one to take for small batches.
        seed: a whole number from 0: equal modules see equal slices at equal calls. None for one from torch's default generator.

    Attributes:
        calls: how often it was called, a buffer: a training that goes on from a `state_dict` sees the slices that it would have
            seen.
        seed: of the slices, a buffer, too.

    Raises:
        InputTypeError (a TypeError): a wrong type.
        InputError (a ValueError): an unknown name, a number out of range, a kernel that the engine does not have.

    Example:
        >>> loss = SlicedMMDLoss(slices=64, seed=0)
        >>> x = torch.zeros(8, 1, 4, 4, dtype=torch.bfloat16, requires_grad=True)
        >>> loss(x, torch.ones(6, 1, 4, 4)).backward()
        >>> x.grad.shape, x.grad.dtype
        (torch.Size([8, 1, 4, 4]), torch.bfloat16)

    Source: paper, Theorems 1 and 4.
    """

    calls: Tensor
    seed: Tensor

    def __init__(
        self,
        kernel: Kernel = Riesz(1.0),
        slices: int | Literal["auto"] = "auto",
        *,
        directions: DirectionsName | PatchSlices = "auto",
        engine: EngineName = "auto",
        statistic: Statistic = "V",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_kernel(kernel)
        if not isinstance(directions, PatchSlices) and directions not in ("auto", *KINDS):
            accepted = ", ".join(repr(name) for name in ("auto", *KINDS))
            raise InputError(
                f"directions: {directions!r} given; {accepted} and PatchSlices are accepted, drawn anew at every call"
            )
        if engine not in ("auto", *engines.ENGINES):
            raise InputError(f"engine: {engine!r} given; {', '.join(map(repr, ('auto', *engines.ENGINES)))} are accepted")
        if statistic not in ("V", "U"):
            raise InputError(f'statistic: {statistic!r} given; "V" (non-negative) and "U" (unbiased) are accepted')
        if slices != "auto":
            slices = validate.positive_int("slices", slices)
        self.setting = _Setting(kernel, slices, directions, engine, statistic)
        if seed is None:
            seed = draw_outside_transforms()
        whole = validate.integer_seed(seed) % _SEEDS
        with torch.inference_mode(False):  # calls outside of it count, too
            self.register_buffer("seed", torch.tensor(whole, dtype=torch.int64, device="cpu"))
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64, device="cpu"))
        self._number = _number(self.setting)
        self._draws: dict[int, int] = {}

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """D² between two batches.

        Args:
            x: (N, ...), float64, float32, bfloat16 or float16; the dimensions behind the first make one point of d numbers.
            y: (M, ...), of as many numbers a point, on the device of x.

        Returns:
            The value, without dimensions: float64 if x or y is, else float32.

        Raises:
            InputTypeError (a TypeError): a wrong type or dtype.
            InputError (a ValueError): a wrong shape, no points, NaN or infinity.
            DerivativeError (a RuntimeError): a second derivative, on the way back.
        """
        x, y = flat("x", x), flat("y", y)
        if x.dtype != y.dtype:
            x, y = x.double(), y.double()
        if x.is_meta or y.is_meta or self.seed.is_meta:
            self._check_meta(x, y)
        way: Any = _sliced_mmd2 if torch.compiler.is_compiling() else _Differentiable.apply
        need = [t.requires_grad and torch.is_grad_enabled() for t in (x, y)]
        value: Tensor = way(x, y, self._next_seed(x), self._number, *need)[0]
        return value

    def _check_meta(self, x: Tensor, y: Tensor) -> None:
        """Refuse points of which only some are on the meta device, and shapes that do not fit."""
        if not (x.is_meta and y.is_meta):
            places = ", ".join(f"{name} on {t.device}" for name, t in (("x", x), ("y", y), ("the module", self.seed)))
            raise InputError(f"`x` and `y` must both be on the meta device if either of them or the module is, got {places}")
        if x.shape[1] != y.shape[1]:
            raise InputError(f"`y` must have points of dimension d = {x.shape[1]}, as x has, got d = {y.shape[1]}")

    def _next_seed(self, x: Tensor) -> Tensor:
        """Return the seed of this call's slices; a recomputation by a checkpoint gets the seed of the first computation."""
        if not x.is_meta and not torch.compiler.is_compiling() and (recomputing() or may_be_recomputed()):
            call = self._call_by_draw()
        else:
            call = self.calls.clone()
            self.calls += not x.is_meta
        # Seeds of successive calls are far apart, so that modules with neighbouring seeds share no slices.
        return (self.seed + 1_000_003 * call).remainder(_SEEDS)

    def _call_by_draw(self) -> Tensor:
        """Return the number of this call, which a draw from torch's generator identifies in a recomputation."""
        draw = draw_outside_transforms()
        if recomputing() and self._draws:
            if draw not in self._draws:
                raise DerivativeError(
                    "SlicedMMDLoss: an activation checkpoint must restore torch's random state to compute the loss again on "
                    "the same slices, got preserve_rng_state=False, or a call in a backward pass of other code"
                )
            return torch.full_like(self.calls, self._draws[draw])
        if len(self._draws) == _DRAWS:
            del self._draws[next(iter(self._draws))]
        self._draws[draw] = int(self.calls)
        call = self.calls.clone()
        self.calls += 1
        return call

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in vars(self.setting).items())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # PyTorch's
        self._draws = {}
        self._number = _number(self.setting)  # another process has other numbers


_WIDE = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}


def flat(name: str, x: Tensor) -> Tensor:
    """Points (N, d) in float32 or float64."""
    if not isinstance(x, Tensor):
        raise InputTypeError(f"{name}: {type(x).__name__} given; a torch.Tensor (N, ...) is accepted")
    if x.dtype not in _WIDE:
        raise InputTypeError(f"{name}: dtype {x.dtype} given; float64, float32, bfloat16 and float16 are accepted")
    if x.ndim < 2:
        raise InputError(f"{name}: shape {tuple(x.shape)} given; (N, ...) with numbers of every point is accepted")
    return x.flatten(1).to(_WIDE[x.dtype])
