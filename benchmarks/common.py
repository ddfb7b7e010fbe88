"""Shared code of benchmarks and experiments: options, interleaved timing, the usual implementation, JSON and PNG output."""

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
from matplotlib.figure import Figure

import rieszflow as rf
from rieszflow._infra.files import atomically
from rieszflow.data import load

matplotlib.use("Agg")
BENCHMARKS, EXPERIMENTS = Path("docs/benchmarks"), Path("docs/experiments")


def usual(x: torch.Tensor, y: torch.Tensor, xi: torch.Tensor) -> torch.Tensor:
    """Compute the gradient of MMD² as usual: dense directions, and three sorts (joint projections, their order, and x)."""
    N, M = len(x), len(y)
    px, py = xi @ x.T, xi @ y.T
    order = torch.cat([px, py], 1).sort(dim=1).indices
    joined_rank = order.sort(dim=1).indices[:, :N]  # rank of every x among all points
    places = torch.arange(N).expand_as(px)
    own_rank = torch.empty_like(places).scatter_(1, px.sort(dim=1).indices, places)  # rank of every x among x
    F, G = (own_rank + 0.5) / N, (joined_rank - own_rank) / M
    scale = rf.Riesz().basis_constant(x.shape[1]) / len(xi)
    return scale / N * (4 * (G - F)).T @ xi


def independent(P: int, d: int, g: torch.Generator) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(P, d, generator=g), dim=1)


def seconds(way: Callable[[], Any]) -> tuple[float, Any]:
    """Return the duration of a call in seconds and its result."""
    start = time.perf_counter()
    result = way()
    return time.perf_counter() - start, result


def in_turn(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Time alternatives in turn (A B C A B C …) after one warm-up round.

    Each timed call follows an untimed call of the same alternative. Otherwise it would pay for the memory that the previous
    alternative has fragmented: the usual implementation frees several gigabytes.
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
    """Return the median, minimum and maximum of the ratios base / way over all rounds."""
    found = {}
    for name, times in seconds.items():
        pairs = [a / b for a, b in zip(seconds[base], times, strict=True)]
        found[name] = {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs)}
    return found


def parser(doc: str | None, out: Path = BENCHMARKS, **defaults: int) -> argparse.ArgumentParser:
    """Create a parser for integer options with these defaults and for the output folder."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        found.add_argument(f"--{name}", type=int, default=default)
    found.add_argument("--out", type=Path, default=out, help="folder for the JSON and the PNG")
    return found


def options(doc: str | None) -> argparse.Namespace:
    """Parse the options of an experiment."""
    found = parser(doc, EXPERIMENTS)
    found.add_argument("--full", action="store_true", help="use the paper's size instead of a quick one")
    return found.parse_args()


def save(given: argparse.Namespace, name: str, content: dict[str, Any], figure: Figure | None = None) -> None:
    """Write NAME.json and NAME.png to the chosen folder; the name of a full experiment ends in -full."""
    stem = given.out / (name + ("-full" if getattr(given, "full", False) else ""))
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
    text = json.dumps({"machine": machine, **content}, indent=1) + "\n"
    atomically(stem.with_suffix(".json"), lambda path: path.write_text(text, encoding="utf-8"))
    if figure is not None:
        atomically(stem.with_suffix(".png"), lambda path: figure.savefig(path, dpi=120, bbox_inches="tight"))
    print(f"saved {stem}.json" + (" and .png" if figure is not None else ""), flush=True)


def images(name: str, n: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
    """Return n training images and up to n held-out ones, flattened, and their shape."""
    data = load(name)
    train = data.train.flatten(1)[torch.randperm(len(data.train), generator=g)[:n]]
    held_out = data.held_out.flatten(1)[torch.randperm(len(data.held_out), generator=g)[:n]]
    return train, held_out, data.shape
