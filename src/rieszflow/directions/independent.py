"""Independent directions, uniform on the sphere: normalised Gaussian vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from rieszflow.directions.dense import Dense

__all__ = ["sample"]


def sample(P: int, d: int, like: Tensor, generator: torch.Generator | None) -> Dense:
    """See `base.Draw`."""
    device = generator.device if generator is not None else "cpu"
    xi = torch.randn(P, d, generator=generator, device=device, dtype=torch.float32)
    return Dense(torch.nn.functional.normalize(xi, dim=1).to(like))
