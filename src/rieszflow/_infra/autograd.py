"""Derivatives that can be taken once: differentiating them again is an error, never a silent zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rieszflow.errors import DerivativeError

__all__ = ["draw_outside_transforms", "may_be_recomputed", "once", "recomputing", "second_derivative"]


def second_derivative(name: str) -> DerivativeError:
    """Return the error for a second derivative of the functional `name`."""
    return DerivativeError(
        f"`{name}` can be differentiated once, got a second derivative, as of a gradient penalty or a Hessian; for few points, "
        "write the sum over pairs in PyTorch"
    )


def once(name: str, gradients: Sequence[Tensor | None], roots: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the gradients of a backward pass, marked so that differentiating them by `roots` is an error.

    PyTorch's `once_differentiable` is not enough: if the upstream gradient is a constant, the derivative would be zero.

    Args:
        name: Name of the functional, for the message.
        gradients: Gradients that `backward` returns.
        roots: Tensors that the gradients depend on.
    """
    if not torch.is_grad_enabled():
        return list(gradients)
    given = [g for g in gradients if g is not None]
    live = [t for t in roots if t is not None and t.requires_grad]
    marked = iter(_Once.apply(name, len(given), *given, *live))  # type: ignore[no-untyped-call]  # PyTorch's
    return [None if g is None else next(marked) for g in gradients]


class _Once(torch.autograd.Function):
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
