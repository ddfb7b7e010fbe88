"""Blocks of d directions at right angles to one another, each block drawn from the Haar measure of rotations.

Every single direction is uniform on the sphere, so means over directions are unbiased. Inside a block the squared projections
of any z sum to ‖z‖². So for the same P the error is smaller than with independent directions, most of all where P is a
multiple of d. Source: QR of a Gaussian matrix with positive diagonal of R (Mezzadri, Notices of the AMS 54, 2007).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rieszflow.directions.dense import Dense

__all__ = ["sample"]


def sample(P: int, d: int, like: Tensor, generator: torch.Generator | None) -> Dense:
    """See `base.Draw`."""
    device = generator.device if generator is not None else "cpu"
    blocks = []
    for start in range(0, P, d):
        normal = torch.randn(d, min(d, P - start), generator=generator, device=device, dtype=torch.float32)
        q, r = torch.linalg.qr(normal)
        blocks.append((q * r.diagonal().sign()).T)
    return Dense(torch.cat(blocks).to(like))
