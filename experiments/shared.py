"""What the experiments share: their options, and results as JSON and PNG under docs/experiments."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from rieszflow._files import atomically
from rieszflow.data import load


def options(doc: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the paper's size instead of one for a few minutes")
    parser.add_argument("--out", type=Path, default=Path("docs/experiments"), help="folder for the JSON and the PNG")
    return parser.parse_args()


def save(given: argparse.Namespace, name: str, content: dict[str, Any], figure: Figure | None = None) -> None:
    """NAME.json and NAME.png; a full run's name ends in -full."""
    stem = given.out / (name + ("-full" if given.full else ""))
    text = json.dumps({"full": given.full, "threads": torch.get_num_threads(), "torch": torch.__version__, **content}, indent=1)
    atomically(stem.with_suffix(".json"), lambda path: path.write_text(text + "\n", encoding="utf-8"))
    if figure is not None:
        atomically(stem.with_suffix(".png"), lambda path: figure.savefig(path, dpi=110, bbox_inches="tight"))
    print(f"saved {stem}.json" + (" and .png" if figure is not None else ""), flush=True)


def images(name: str, n: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
    """n training and up to n held-out images, flat, and their shape."""
    data = load(name)
    train = data.train.flatten(1)[torch.randperm(len(data.train), generator=g)[:n]]
    held_out = data.held_out.flatten(1)[torch.randperm(len(data.held_out), generator=g)[:n]]
    return train, held_out, data.shape
