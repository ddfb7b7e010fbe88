"""Derivatives that can be taken once: to differentiate them again is an error, never a silent zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rieszflow.errors import DerivativeError

__all__ = ["draw_outside_transforms", "may_be_recomputed", "once", "recomputing"]


def once(name: str, gradients: Sequence[Tensor | None], roots: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients, marked so that differentiating them by what they depend on is an error.

    PyTorch's own marker `once_differentiable` is not enough. It says nothing where the upstream gradient is a constant, and
    zeros would come out.

    Args:
        name: of the functional, for the message.
        gradients: what `backward` is about to return.
        roots: the tensors that the gradients depend on.
    """
    if not torch.is_grad_enabled():
        return list(gradients)
    given = [g for g in gradients if g is not None]
    live = [t for t in roots if t is not None and t.requires_grad]
    marked = iter(_Once.apply(name, len(given), *given, *live))  # type: ignore[no-untyped-call]  # PyTorch's
    return [None if g is None else next(marked) for g in gradients]


def recomputing() -> bool:
    """Return True during a backward pass, when an activation checkpoint recomputes its forward pass."""
    return bool(torch._C._current_graph_task_id() != -1)


def may_be_recomputed() -> bool:
    """Return True if an activation checkpoint may be computing its forward pass for the first time.

    A reentrant checkpoint does so with gradients disabled, a non-reentrant one under saved-tensor hooks. Nothing else shows it.
    """
    if torch.is_inference_mode_enabled():
        return False
    return not torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def draw_outside_transforms() -> int:
    """Draw an integer from torch's default generator, whose state a checkpoint restores. Works inside `vmap`, too."""
    with torch._C._DisableFuncTorch():
        return int(torch.randint(2**62, (), device="cpu"))


class _Once(torch.autograd.Function):
    # `ctx` is PyTorch's, which takes any attribute.

    @staticmethod
    def forward(ctx: Any, name: str, many: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.name = name
        return tuple(t.detach() for t in tensors[:many])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> None:
        raise DerivativeError(
            f"{ctx.name}: differentiable once, and a second derivative was asked for (by a gradient penalty or a Hessian, "
            "say); for few points write the sum over pairs in PyTorch"
        )
