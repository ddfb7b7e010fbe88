"""Independent directions, uniform on the sphere: normalised Gaussian vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(P: int, d: int, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else None
    xi = torch.randn(P, d, generator=generator, device=device)
    return torch.nn.functional.normalize(xi, dim=1)
