"""Test problems with known answers. All distances are MMD²."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import rieszflow as rf
from rieszflow._infra.files import Json

KERNELS = [
    rf.Riesz(0.3),
    rf.Riesz(1.0),
    rf.Riesz(1.7),
    rf.Gaussian(0.8),
    rf.Laplace(1.2),
    rf.InverseMultiquadric(0.7),
    rf.Matern(0.5, 0.9),
    rf.Matern(1.5, 0.9),
    rf.Matern(2.5, 0.9),
]


@contextlib.contextmanager
def killed(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """Expect a training in the block to be interrupted after a number of checkpoints, whose files are as a kill leaves them."""
    from rieszflow.generative import loop as training

    saves = [0]

    def stopping(context, state, save=training._save):
        save(context, state)
        saves[0] += 1
        if saves[0] == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "_save", stopping)
        with pytest.raises(KeyboardInterrupt):
            yield


def content(file: Path) -> tuple[Json, bytes]:
    """A run's tensor file without its id and checksum, in which equal runs differ."""
    raw = file.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    ours = json.loads(header["__metadata__"].pop("rieszflow"))
    del ours["checksum"], ours["meta"]["run"]
    return {**header, "ours": ours}, raw[end:]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clouds(seed: int, N: int, M: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = generator(seed)
    x = torch.randn(N, d, generator=g, dtype=torch.float64)
    y = 1.5 * torch.randn(M, d, generator=g, dtype=torch.float64) + 0.5
    return x.to(dtype), y.to(dtype)


def simplex(seed: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    w = torch.rand(n, generator=generator(seed), dtype=torch.float64) + 0.05
    return (w / w.sum()).to(dtype)


def relative(one: Tensor, two: Tensor) -> float:
    """‖one − two‖ / ‖two‖."""
    return ((one - two).norm() / two.norm()).item()


def kernel_by_hand(kernel: rf.Kernel, p: np.ndarray, q: np.ndarray) -> float:
    """K(p, q) in plain Python, from the formulas and not from the library."""
    rho = math.dist(p, q)
    match kernel:
        case rf.Riesz():
            return -(rho**kernel.r)
        case rf.Gaussian():
            return math.exp(-(rho**2) / (2 * kernel.sigma**2))
        case rf.Laplace():
            return math.exp(-rho / kernel.sigma)
        case rf.InverseMultiquadric():
            return 1 / math.sqrt(1 + rho**2 / kernel.c**2)
        case rf.Matern():
            s = math.sqrt(2 * kernel.nu) * rho / kernel.sigma
            return {0.5: 1.0, 1.5: 1 + s, 2.5: 1 + s + s * s / 3}[kernel.nu] * math.exp(-s)
    raise AssertionError(kernel)


def mmd2_by_hand(x: Tensor, y: Tensor, kernel: rf.Kernel, a: Tensor, b: Tensor, statistic: str = "V") -> float:
    """ΣΣ aaK + ΣΣ bbK − 2ΣΣ abK by three double loops."""
    X, Y, A, B = (t.double().numpy() for t in (x, y, a, b))

    def mean(P: np.ndarray, Q: np.ndarray, u: np.ndarray, v: np.ndarray, distinct: bool) -> float:
        total = weight = 0.0
        for i in range(len(P)):
            for j in range(len(Q)):
                if not (distinct and i == j):
                    total += u[i] * v[j] * kernel_by_hand(kernel, P[i], Q[j])
                    weight += u[i] * v[j]
        return total / weight

    u = statistic == "U"
    return mean(X, X, A, A, u) + mean(Y, Y, B, B, u) - 2 * mean(X, Y, A, B, False)


def gradient_1d_by_hand(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """∂/∂x_i of MMD² with −|s − t|: 2a_i [Σ_j b_j sign(x_i − y_j) − Σ_k a_k sign(x_i − x_k)], sign(0) = 0."""
    return 2 * a * (np.sign(x[:, None] - y[None]) @ b - np.sign(x[:, None] - x[None]) @ a)


def two_uniforms_1d(n: int, length: float, shift: float) -> tuple[Tensor, Tensor, float]:
    """Midpoint grids of U[0, L] and U[s, s + L], s ≤ L, and the population's MMD² = 2∫(F − G)² dt = 2s²/L − 2s³/(3L²).

    |F − G| rises linearly from 0 to s/L over [0, s], stays there over [s, L], and falls back over [L, L + s].
    """
    grid = (torch.arange(n, dtype=torch.float64) + 0.5).div(n).mul(length).unsqueeze(1)
    h = shift / length
    return grid, grid + shift, 2 * h**2 * (length - shift) + 4 * shift * h**2 / 3


def two_gaussians_1d(mean: float, s1: float, s2: float) -> float:
    """MMD² between N(0, s1²) and N(m, s2²): E|Z| of a normal variable, three times (folded normal distribution)."""

    def folded(m: float, s: float) -> float:
        return s * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * s**2)) + m * math.erf(m / (s * math.sqrt(2)))

    return 2 * folded(mean, math.hypot(s1, s2)) - folded(0, s1 * math.sqrt(2)) - folded(0, s2 * math.sqrt(2))
