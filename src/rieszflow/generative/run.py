"""A run's folder: what is in it, and how it is written and read. Every file appears whole or not at all.

config.yaml          settings, data set, shapes: everything needed to repeat the run
networks/0001.safetensors …   one network each
state.safetensors    particles, momentum, random states, and a fit's state: all that `resume` needs
metrics.jsonl        one line per network
images/              PNGs
report.html          everything to look at, in one file
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from torch import Tensor

from rieszflow._files import FORMAT, VERSION, FileError, atomically, load_tensors, save_tensors
from rieszflow.generative.config import Config

__all__ = ["Run", "RunError"]

RunError = FileError  # what is wrong with a run is wrong with its folder or one of its files


class Run:
    """The folder of one training run, opened (`Run.open`) or made (`Run.create`).

    Attributes:
        path: the folder.
        config: settings.
        data: what was trained on: name, path, shape, low, high, training points, fingerprint.
    """

    def __init__(self, path: Path, config: Config, data: dict[str, Any]) -> None:
        self.path, self.config, self.data = path, config, data

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Config, data: dict[str, Any]) -> Run:
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path}: exists and is not an empty folder; choose another, or resume it")
        run = cls(path, config, data)
        content = {"format": FORMAT, "version": VERSION, "data": data, "config": config.to_dict()}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        atomically(path / "config.yaml", lambda t: t.write_text(text, encoding="utf-8"))
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        path = Path(path)
        file = path / "config.yaml"
        if not file.is_file():
            raise RunError(f"{path}: no run of rieszflow (no config.yaml in it)")
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunError(f"{file}: not readable YAML ({' '.join(str(error).split())})") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise RunError(f"{file}: not written by rieszflow")
        if content.get("version") != VERSION:
            raise RunError(f"{file}: of version {content.get('version')}; this rieszflow reads version {VERSION}")
        data = content.get("data")
        needed = {"name", "path", "shape", "low", "high", "points", "fingerprint"}
        if not isinstance(data, dict) or not needed <= set(data):
            raise RunError(f"{file}: its data section lacks {', '.join(sorted(needed - set(data or {})))}")
        return cls(path, Config.from_dict(content.get("config"), str(file)), data)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Only one process may train a run. The system frees the lock of a process that ends, however it ends."""
        try:
            with FileLock(self.path / ".lock", blocking=False):
                yield
        except Timeout:
            raise RunError(f"{self.path}: is being trained already, by another process or call") from None

    def clear_temporaries(self) -> None:
        """Removes what a killed process was about to write. Only for the process that trains the run."""
        for file in self.path.rglob(".*.tmp*"):
            file.unlink(missing_ok=True)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data["shape"])

    def network_file(self, number: int) -> Path:
        return self.path / "networks" / f"{number:04d}.safetensors"

    def finished(self) -> int:
        """Networks 1, 2, … that are there; of a shared one, the steps that it has learned."""
        if self.config.shared:
            return max((int(file.stem) for file in (self.path / "networks").glob("[0-9]*.safetensors")), default=0)
        count = 0
        while self.network_file(count + 1).is_file():
            count += 1
        return count

    def save_network(self, number: int, weights: dict[str, Tensor], meta: dict[str, Any]) -> None:
        save_tensors(self.network_file(number), "network", weights, {"number": number, **meta})

    def forget_networks(self, first: int, last: int) -> None:
        """Removes networks first … last, which a shared one has replaced."""
        for number in range(first, last + 1):
            self.network_file(number).unlink(missing_ok=True)

    def load_network(self, number: int) -> dict[str, Tensor]:
        tensors, meta = load_tensors(self.network_file(number), "network")
        if meta.get("number") != number:
            raise RunError(f"{self.network_file(number)}: is network {meta.get('number')}, not {number}")
        return tensors

    def save_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        save_tensors(self.path / "state.safetensors", "state", tensors, meta)

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint, or None where a run was killed before its first."""
        file = self.path / "state.safetensors"
        return load_tensors(file, "state") if file.exists() else None

    def metrics(self) -> list[dict[str, Any]]:
        file = self.path / "metrics.jsonl"
        if not file.is_file():
            return []
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise RunError(f"{file}: damaged ({error})") from None

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        atomically(self.path / "metrics.jsonl", lambda t: t.write_text(text, encoding="utf-8"))

    def evaluation(self) -> dict[str, Any] | None:
        """What `rieszflow evaluate` wrote, or None."""
        file = self.path / "evaluation.json"
        if not file.is_file():
            return None
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{file}: damaged ({error})") from None

    def write_evaluation(self, scores: dict[str, Any]) -> None:
        text = json.dumps(scores, indent=2) + "\n"
        atomically(self.path / "evaluation.json", lambda t: t.write_text(text, encoding="utf-8"))
