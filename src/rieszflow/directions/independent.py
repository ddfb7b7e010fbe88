"""Independent directions, uniform on the sphere: normalised Gaussian vectors."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(P: int, d: int, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else "cpu"
    xi = torch.randn(P, d, generator=generator, device=device, dtype=torch.float32)
    return torch.nn.functional.normalize(xi, dim=1)
