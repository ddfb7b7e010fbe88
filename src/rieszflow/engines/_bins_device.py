"""The bins' passes in plain PyTorch operations, for every device that is not the CPU. Tables as in _bins_cpu.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rieszflow.engines._bins_cpu import FIRST, PER_OCTAVE, STEEP, TAIL, check_inside

__all__ = ["Device"]

_TILE = 1 << 25  # projections at a time: 128 MB of float32


class Device:
    @staticmethod
    def _tiles(t: Any, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        step = max(1, _TILE // t.xi.P)
        for start in range(0, len(x), step):
            part = slice(start, min(len(x), start + step))
            yield part, t.xi.project(((x[part].detach() - t.shift) * t.scale).float())

    @staticmethod
    def _place(t: Any, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bin, fraction inside it, and position, (P, m) each; see _bins_cpu.place."""
        u = (projected - t.low[:, None]) * t.inverse[:, None]
        inside, right = (u >= 0) & (u < t.B), u >= t.B
        k = u.floor().nan_to_num(0).clamp(0, t.B - 1)
        fraction = u - k
        v = 1 + torch.where(right, u - t.B, -u).clamp(min=0).nan_to_num(1e30) * (FIRST / t.B)
        mantissa, exponent = torch.frexp(v.clamp(max=1e30))
        within = (2 * mantissa - 1) * PER_OCTAVE
        step = within.floor().clamp(max=PER_OCTAVE - 1)
        far = (exponent - 1) * PER_OCTAVE + step.long()
        within = torch.where(far >= TAIL, 0.5, within - step)
        far = far.clamp(max=TAIL - 1)
        index = torch.where(inside, TAIL + k.long(), torch.where(right, TAIL + t.B + far, TAIL - 1 - far))
        return index, torch.where(inside, fraction, torch.where(right, within, 1 - within)), u

    @staticmethod
    def extent(t: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ends = [(tile.amin(1), tile.amax(1)) for _, tile in Device._tiles(t, x)]
        return torch.stack([e[0] for e in ends]).amin(0), torch.stack([e[1] for e in ends]).amax(0)

    @staticmethod
    def count(t: Any, x: Tensor, w: Tensor | None, moments: bool, scale: float, memory: str | None = None) -> tuple[Any, Any]:
        P = t.xi.P
        mass = torch.zeros(P, t.B + 2 * TAIL, dtype=torch.float32, device=x.device)
        sums = torch.zeros(P, 2 * TAIL, dtype=torch.float64, device=x.device)
        for part, tile in Device._tiles(t, x):
            index, _, u = Device._place(t, tile)
            weights = torch.ones_like(u) if w is None else w[part].detach().float().expand_as(u)
            mass.scatter_add_(1, index, weights)
            slot = torch.where(index < TAIL, index, (index - t.B).clamp(min=0))
            tail = (index < TAIL) | (index >= TAIL + t.B)
            sums.scatter_add_(1, slot.clamp(max=2 * TAIL - 1), torch.where(tail, u * weights, 0).double())
        check_inside(sums, moments)
        return mass * scale, sums * scale

    @staticmethod
    def look_up(t: Any, x: Tensor, w: Tensor | None, lines: Tensor, own: Tensor | None) -> Tensor:
        out = torch.empty_like(x)
        for part, tile in Device._tiles(t, x):
            index, fraction, _ = Device._place(t, tile)
            value = lines[..., 0].gather(1, index) + fraction * lines[..., 1].gather(1, index)
            if w is not None:
                mine = w[part].detach().float()
                value = mine * value if own is None else mine * (value - mine * (own[0] + fraction * own[1]))
            out[part] = t.xi.adjoint(value).to(x)
        return out

    @staticmethod
    def cumulate(f: Tensor, g: Tensor, alpha: float, factor: float) -> Tensor:
        def middle(mass: Tensor) -> Tensor:
            mass = mass.double()
            return 2 * mass.cumsum(1) - mass - 1

        def limited(mass: Tensor) -> Tensor:
            padded = torch.nn.functional.pad(mass, (1, 1))
            return torch.minimum(mass, STEEP * torch.minimum(padded[:, :-2], padded[:, 2:]))

        rise = 2 * (limited(g) - alpha * limited(f)).double()
        left = middle(g) - alpha * middle(f) - 0.5 * rise
        return (factor * torch.stack([left, rise], -1)).float()

    @staticmethod
    def integrals(t: Any, f: Tensor, f_moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """∫(F − G)², ∫F(1 − F), ∫G(1 − G) per slice; see _bins_cpu.integrals."""
        import numpy as np

        from rieszflow._threads import share
        from rieszflow.engines import _bins_cpu as cpu

        # Small tables, sequential along the bins: the CPU's loop serves.
        out = np.empty((len(f), 3))
        tables = [v.cpu().numpy() for v in (f, t.mass, f_moments, t.moments, t.inverse)]
        share(cpu.integrals, len(out), 1, *tables, out)
        return torch.from_numpy(out).to(f.device).unbind(1)  # type: ignore[return-value]
