"""Blocks of d directions orthogonal to one another, each block Haar-distributed.

Every single direction is uniform on the sphere, so averages are unbiased. Inside a block the squared projections of
any z sum to ‖z‖²: for the same P the error is smaller than with independent directions, most of all where P is a
multiple of d. Source: QR of a Gaussian matrix with positive diagonal of R (Mezzadri, Notices of the AMS 54, 2007).
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample(P: int, d: int, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else "cpu"
    blocks = []
    for start in range(0, P, d):
        normal = torch.randn(d, min(d, P - start), generator=generator, device=device, dtype=torch.float32)
        q, r = torch.linalg.qr(normal)
        blocks.append((q * r.diagonal().sign()).T)
    return torch.cat(blocks)
