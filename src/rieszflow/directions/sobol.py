"""Quasi-Monte-Carlo directions: scrambled Sobol points through the normal quantile function, normalised.

The scrambling makes every single direction uniform on the sphere. They are best with P a power of two and small d.
Source: Hertrich, Jahn and Quellmalz, Fast Summation of Radial Kernels via QMC Slicing (ICLR 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rieszflow.directions.dense import Dense
from rieszflow.errors import InputError

__all__ = ["LARGEST", "sample"]

LARGEST = torch.quasirandom.SobolEngine.MAXDIM


def sample(P: int, d: int, like: Tensor, generator: torch.Generator | None) -> Dense:
    """See `base.Draw`. Refuses d above `LARGEST`."""
    if d > LARGEST:
        raise InputError(f"directions: 'sobol' given for points of dimension d = {d}; up to {LARGEST} is accepted")
    device = generator.device if generator is not None else "cpu"
    seed = torch.randint(2**31, (), generator=generator, device=device).item()
    engine = torch.quasirandom.SobolEngine(d, scramble=True, seed=int(seed))
    # The engine rounds its first point to torch's default dtype of the moment; here it always has float32's digits.
    first = engine.quasi.to(torch.float32) / 2**engine.MAXBIT
    u = engine.draw(P, dtype=torch.float64)
    u[0] = first
    xi = torch.special.ndtri(u.clamp(2.0**-40, 1 - 2.0**-40))
    return Dense(torch.nn.functional.normalize(xi, dim=1).to(like))
