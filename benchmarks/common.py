"""What the benchmarks share: the usual implementation, timing in turn, and the results as JSON and PNG."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch

import rieszflow as rf

matplotlib.use("Agg")
OUT = Path("docs/benchmarks")


def usual(x: torch.Tensor, y: torch.Tensor, xi: torch.Tensor) -> torch.Tensor:
    """The usual implementation: dense directions, a sort of the joined projections, one to invert it, and one for x."""
    N, M = len(x), len(y)
    px, py = xi @ x.T, xi @ y.T
    order = torch.cat([px, py], 1).sort(dim=1).indices
    joined_rank = order.sort(dim=1).indices[:, :N]  # place of every x among all
    places = torch.arange(N).expand_as(px)
    own_rank = torch.empty_like(places).scatter_(1, px.sort(dim=1).indices, places)  # place of every x among x
    F, G = (own_rank + 0.5) / N, (joined_rank - own_rank) / M
    scale = rf.Riesz().basis_constant(x.shape[1]) / len(xi)
    return scale / N * (2 * (G - F)).T @ xi


def independent(P: int, d: int, g: torch.Generator) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(P, d, generator=g), dim=1)


def in_turn(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every way, A B C A B C …, after one round that is not counted.

    Each call that counts comes right after one that does not: else a way would pay for the memory that the one before it left
    in pieces: the usual implementation frees some gigabytes.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for k in range(repeats + 1):
        for name, way in ways.items():
            if k:
                way()
            start = time.perf_counter()
            way()
            if k:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: dict[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """base / way, round by round: median, least, greatest."""
    found = {}
    for name, times in seconds.items():
        pairs = [a / b for a, b in zip(seconds[base], times, strict=True)]
        found[name] = {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs)}
    return found


def parser(doc: str | None, **defaults: int) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        found.add_argument(f"--{name}", type=int, default=default)
    found.add_argument("--out", type=Path, default=OUT, help="folder for the JSON and the PNG")
    return found


def save(out: Path, name: str, content: dict[str, Any], figure: Any) -> None:
    out.mkdir(parents=True, exist_ok=True)
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    (out / f"{name}.json").write_text(json.dumps({"machine": machine, **content}, indent=1) + "\n")
    figure.savefig(out / f"{name}.png", dpi=120, bbox_inches="tight")
    print(f"saved {out / name}.json and .png")
