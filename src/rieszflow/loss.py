"""MMD² on slices as a loss to train networks with: a module, and the `torch.library` operator behind it.

The operator is one node in graphs of `torch.compile` and `torch.export`. It returns value and gradients from the same counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from rieszflow import engines, exact, sliced
from rieszflow._infra import validate
from rieszflow._infra.autograd import draw_outside_transforms, may_be_recomputed, recomputing, second_derivative
from rieszflow._infra.numerics import isolated_numerics
from rieszflow._types import DirectionsName, EngineName, Need, Statistic
from rieszflow.directions import KINDS, PatchSlices
from rieszflow.engines import Problem
from rieszflow.errors import DerivativeError, InputError, InputTypeError
from rieszflow.kernels import Kernel, Riesz, check_kernel

if TYPE_CHECKING:
    from torch._functorch.autograd_function import VmapInfo

__all__ = ["SlicedMMDLoss", "flat_points"]

_SEEDS = 2**62  # seeds are taken modulo this, so that they fit into int64
_DRAWS = 2**14  # calls in checkpoints that are remembered for recomputation
_MIN_SLICES = 256
_Results = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class _Options:
    kernel: Kernel
    slices: int | Literal["auto"]
    directions: DirectionsName | PatchSlices
    engine: EngineName
    statistic: Statistic


# An operator takes only tensors and numbers, so options are passed by their index.
_registry: list[_Options] = []


def _index(options: _Options) -> int:
    if options not in _registry:
        _registry.append(options)
    return _registry.index(options)


@torch.library.custom_op("rieszflow::sliced_mmd2", mutates_args=())
def _sliced_mmd2(x: Tensor, y: Tensor, seed: Tensor, index: int, need_x: bool, need_y: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return MMD² of x (..., N, d) and y (..., M, d), and its gradients by them, empty if they are not needed."""
    return _evaluate(x, y, seed, _registry[index], Need(True, need_x, need_y))


@isolated_numerics
def _evaluate(x: Tensor, y: Tensor, seed: Tensor, options: _Options, need: Need) -> _Results:
    pair, _ = validate.clouds(x, y, None, None, options.statistic)
    (N, d), M, auto = x.shape[-2:], y.shape[-2], options.slices == options.engine == "auto"
    # Batches for which all pairs take about as long as slices (benchmarks/losses.py).
    if auto and options.directions == "auto" and max(N, M) <= (1024 if d <= 64 else 512):
        value, (by_x, _, by_y, _) = exact.evaluate(pair, options.kernel, need)
    else:
        blocks = -(-_MIN_SLICES // d) * d if d <= 64 else min(1024, max(_MIN_SLICES, 1 << (d - 1).bit_length()))
        slices = options.slices if options.slices != "auto" else blocks
        # The error of bins is far below that of some hundred slices, and their loops are faster for batches, too.
        engine = "bins" if auto else options.engine
        result = sliced.evaluate(pair, Problem(options.kernel, need), slices, options.directions, engine, int(seed))
        value, by_x, by_y = result.value, result.x, result.y
    assert value is not None
    by_x, by_y = (x.new_empty(0) if t is None else t.to(x.dtype) for t in (by_x, by_y))
    return value.to(x.dtype), by_x, by_y


@_sliced_mmd2.register_fake
def _(x: Tensor, y: Tensor, seed: Tensor, index: int, need_x: bool, need_y: bool) -> _Results:
    gx, gy = (torch.empty_like(t) if need else t.new_empty(0) for t, need in ((x, need_x), (y, need_y)))
    return x.new_empty(x.shape[:-2]), gx, gy


def _setup(ctx: Any, inputs: tuple[object, ...], output: _Results) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])
    ctx.needed = inputs[4:]


def _backward(ctx: Any, value: Tensor | None, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    if any(g is not None for g in gradients):
        raise second_derivative("SlicedMMDLoss")
    found = [
        value[..., None, None] * g if value is not None and needed else None
        for g, needed in zip(ctx.saved_tensors, ctx.needed, strict=True)
    ]
    return *found, None, None, None, None


# Compiled code uses this registration: an autograd function would be traced with gradients of all outputs, which are refused.
_sliced_mmd2.register_autograd(_backward, setup_context=_setup)


class _Differentiable(torch.autograd.Function):
    """The operator for `torch.func`, which does not use `register_autograd`."""

    @staticmethod
    def forward(x: Tensor, y: Tensor, seed: Tensor, index: int, need_x: bool, need_y: bool) -> _Results:
        found: _Results = _sliced_mmd2(x, y, seed, index, need_x, need_y)
        return found

    setup_context = staticmethod(_setup)
    backward = staticmethod(_backward)

    @staticmethod
    def jvp(ctx: object, *tangents: Tensor | None) -> None:
        raise DerivativeError("`SlicedMMDLoss` can be differentiated in reverse mode, got a forward-mode derivative")

    @staticmethod
    def vmap(
        info: VmapInfo, in_dims: tuple[int | None, ...], x: Tensor, y: Tensor, seed: Tensor, index: int, *need: bool
    ) -> tuple[_Results, tuple[int, int | None, int | None]]:
        if in_dims[2] is not None:
            raise InputError("`SlicedMMDLoss` must be one module for all members of a vmap, got a vmap over modules")
        # Inside vmap a batched tensor does not show an outer grad or backward; the tensor below it does.
        need_x, need_y = need[0] or x.requires_grad, need[1] or y.requires_grad
        x, y = (
            t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
            for t, dim in ((x, in_dims[0]), (y, in_dims[1]))
        )
        found = _Differentiable.apply(x, y, seed, index, need_x, need_y)  # type: ignore[no-untyped-call]  # PyTorch's
        return found, (0, 0 if need_x else None, 0 if need_y else None)


class SlicedMMDLoss(nn.Module):
    """The loss `sliced_mmd2` between two batches, on fresh slices at every call; the exact `mmd2` for small batches.

    Fresh slices make the loss an unbiased estimate at every step, so a few hundred slices a step suffice. It computes in
    float32 for narrower batches, also under autocast, and works in `torch.compile` with `fullgraph=True`, in `torch.func.grad`
    and `vmap`, on the meta device, and in an activation checkpoint, which recomputes it on the same slices. For that, a call in
    a checkpoint or under `torch.no_grad` draws one number from torch's default generator, which the checkpoint must restore
    (`preserve_rng_state=True`, the default).

    Args:
        kernel: As in `sliced_mmd2`.
        slices: Number P of directions at every call, or "auto". If `directions` and `engine` are "auto" as well, "auto" is the
            exact `mmd2` for batches of up to 1,024 points (512 for d > 64). Otherwise it is whole blocks on bins: the smallest
            multiple of d from 256 on for d ≤ 64, the next power of two between 256 and 1,024 for larger d.
        directions, engine: As in `sliced_mmd2`, but `directions` is no tensor.
        statistic: "V", or "U", which is unbiased in the samples, too, and preferable for small batches.
        seed: Non-negative integer: equal modules use equal slices at equal calls. None to draw one from torch's default
            generator. A generator is not accepted, because the seed is saved.

    Attributes:
        calls: Number of calls, a buffer, so that training from a `state_dict` continues with the same slices.
        seed: Seed of the slices, a buffer, too.

    Raises:
        InputTypeError (a TypeError): A wrong type.
        InputError (a ValueError): An unknown name, a number out of range, or a kernel that the engine does not support.

    Example:
        >>> loss = SlicedMMDLoss(slices=64, seed=0)
        >>> x = torch.zeros(8, 1, 4, 4, dtype=torch.bfloat16, requires_grad=True)
        >>> loss(x, torch.ones(6, 1, 4, 4)).backward()
        >>> x.grad.shape, x.grad.dtype
        (torch.Size([8, 1, 4, 4]), torch.bfloat16)
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
        if not isinstance(directions, PatchSlices):
            validate.choice("directions", directions, ("auto", *KINDS), " or PatchSlices")
        dummy = torch.empty(1, 1, dtype=torch.float32, device="cpu")
        engines.choose(engine, Problem(kernel, Need(True, True, True)), dummy, dummy)
        slices = slices if slices == "auto" else validate.positive_int("slices", slices)
        self.options = _Options(kernel, slices, directions, engine, validate.statistic(statistic))
        seed = validate.integer_seed(draw_outside_transforms() if seed is None else seed) % _SEEDS
        with torch.inference_mode(False):  # so that calls outside of it can count, too
            self.register_buffer("seed", torch.tensor(seed, dtype=torch.int64, device="cpu"))
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64, device="cpu"))
        self._index = _index(self.options)
        self._draws: dict[int, int] = {}

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute MMD² between two batches.

        Args:
            x: Batch of shape (N, ...), float64, float32, bfloat16 or float16; a point has all dimensions behind the first.
            y: Batch of shape (M, ...) with points of the same dimension, on the device of x.

        Returns:
            The value, a scalar: float64 if x or y is, else float32.

        Raises:
            InputError, InputTypeError, DerivativeError: As in `mmd2`.
        """
        x, y = flat_points("x", x), flat_points("y", y)
        if x.dtype != y.dtype:
            x, y = x.double(), y.double()
        if x.is_meta or y.is_meta or self.seed.is_meta:
            if not (x.is_meta and y.is_meta):
                at = ", ".join(f"{name} on {t.device}" for name, t in (("x", x), ("y", y), ("the module", self.seed)))
                raise InputError(f"`x` and `y` must both be on the meta device if either of them or the module is, got {at}")
            if x.shape[1] != y.shape[1]:
                raise InputError(f"`y` must have points of dimension d = {x.shape[1]}, as x has, got d = {y.shape[1]}")
        apply: Callable[..., _Results] = _sliced_mmd2 if torch.compiler.is_compiling() else _Differentiable.apply
        need = [t.requires_grad and torch.is_grad_enabled() for t in (x, y)]
        return apply(x, y, self._next_seed(x), self._index, *need)[0]

    def _next_seed(self, x: Tensor) -> Tensor:
        """Return the seed of this call's slices, in a recomputation by a checkpoint that of the first computation."""
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
                    "An activation checkpoint must restore torch's random state so that `SlicedMMDLoss` uses the same slices, "
                    "got preserve_rng_state=False, or a call in a backward pass of other code"
                )
            return torch.full_like(self.calls, self._draws[draw])
        if len(self._draws) == _DRAWS:
            del self._draws[next(iter(self._draws))]
        self._draws[draw] = int(self.calls)
        call = self.calls.clone()
        self.calls += 1
        return call

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in vars(self.options).items())

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # PyTorch's
        self._draws = {}
        self._index = _index(self.options)  # another process has other indices


def flat_points(name: str, x: Tensor) -> Tensor:
    """Flatten a batch (N, ...) to points (N, d) in float32 or float64."""
    if not isinstance(x, Tensor):
        raise InputTypeError(f"`{name}` must be a torch.Tensor of shape (N, ...), got {type(x).__name__}")
    if x.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise InputTypeError(f"`{name}` must have dtype float64, float32, bfloat16 or float16, got {x.dtype}")
    if x.ndim < 2:
        raise InputError(f"`{name}` must have shape (N, ...) with at least two dimensions, got {tuple(x.shape)}")
    return x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))
