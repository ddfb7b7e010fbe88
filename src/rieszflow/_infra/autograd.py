"""Derivatives that can be taken once: differentiating them again is an error, never a silent zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rieszflow.errors import DerivativeError


def second_derivative(name: str) -> DerivativeError:
    """Return the error for a second derivative of the functional `name`."""
    return DerivativeError(
        f"`{name}` can be differentiated once, got a second derivative, as of a gradient penalty or a Hessian; for few points, "
        "write the sum over pairs in PyTorch"
    )


def with_derivatives(name: str, value: Tensor, inputs: Sequence[Tensor | None], derivatives: Sequence[Tensor | None]) -> Tensor:
    """Attach a value (...) to the graph of its inputs, given its derivatives by them; a batch may share an input.

    PyTorch's `once_differentiable` is not enough: if the upstream gradient is a constant, a second derivative would be zero.
    """
    leaves = [t for t in inputs if t is not None and t.requires_grad]
    # An empty tensor that depends on every leaf, so that a second backward pass is detected without saving the inputs.
    root = torch.cat([t[..., :0].flatten() for t in leaves]) if leaves else None
    found: Tensor = _Attach.apply(name, value, derivatives, root, *inputs)  # type: ignore[no-untyped-call]  # PyTorch's
    return found


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, name: str, value: Tensor, derivatives: Sequence[Tensor | None], root: Tensor | None, *inputs: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(root, *derivatives)
        ctx.name = name
        ctx.kinds = [None if t is None else (t.shape, t.dtype) for t in inputs]
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        root, *derivatives = ctx.saved_tensors
        factor = upstream.detach()
        found: list[Tensor | None] = []
        for g, kind in zip(derivatives, ctx.kinds, strict=True):
            if g is not None:
                shape, dtype = kind
                g = (factor.to(g.dtype).reshape(factor.shape + (1,) * (g.ndim - factor.ndim)) * g).to(dtype).sum_to_size(shape)
            found.append(g)
        if torch.is_grad_enabled():
            live = [t for t in (root, upstream) if t is not None and t.requires_grad]
            given = [g for g in found if g is not None]
            marked = iter(_Once.apply(ctx.name, len(given), *given, *live))  # type: ignore[no-untyped-call]  # PyTorch's
            found = [None if g is None else next(marked) for g in found]
        return None, None, None, None, *found


class _Once(torch.autograd.Function):
    """The identity, whose own derivative by the tensors behind the first `count` is an error."""

    @staticmethod
    def forward(ctx: Any, name: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.name = name
        return tuple(t.detach() for t in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> None:
        raise second_derivative(ctx.name)


def recomputing() -> bool:
    """Return True during a backward pass, when an activation checkpoint recomputes its forward pass."""
    return bool(torch._C._current_graph_task_id() != -1)


def may_be_recomputed() -> bool:
    """Return True if an activation checkpoint may be computing its forward pass for the first time.

    The only signs are disabled gradients (reentrant checkpoints) or saved-tensor hooks (non-reentrant ones).
    """
    if torch.is_inference_mode_enabled():
        return False
    return not torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def draw_outside_transforms() -> int:
    """Draw an integer from torch's default generator, whose state a checkpoint restores. Works inside `vmap`, too."""
    with torch._C._DisableFuncTorch():
        return int(torch.randint(2**62, (), device="cpu"))
