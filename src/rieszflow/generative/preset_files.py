"""Presets: settings by the name of a data set, and files of settings."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from rieszflow._infra.files import read_text
from rieszflow.errors import ConfigError, FileError
from rieszflow.generative.yaml_text import YAML_BYTES, parse_yaml

__all__ = ["presets", "read_preset"]


def presets() -> list[tuple[str, str]]:
    """All (data set, preset name) that come with the library."""
    folder = resources.files("rieszflow.generative") / "presets"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".yaml"))
    return [(d, n) for d, n, _ in (name.rsplit(".", 2) for name in names)]


def read_preset(dataset: str, name: str) -> object:
    """What a preset or a file of settings says; nothing is no settings."""
    try:
        if name.endswith((".yaml", ".yml")) or os.sep in name:
            if not Path(name).is_file():
                raise ConfigError(f"preset: no file {name}")
            text = read_text(Path(name), YAML_BYTES)
        else:
            file = resources.files("rieszflow.generative") / "presets" / f"{dataset}.{name}.yaml"
            if not file.is_file():
                accepted = ", ".join(n for d, n in presets() if d == dataset) or "none"
                raise ConfigError(f"preset: {name!r} given; for {dataset} accepted: {accepted}, or a YAML file's path")
            text = file.read_text(encoding="utf-8")
        values = parse_yaml(text)
    except ConfigError:
        raise
    except FileError as error:
        raise ConfigError(f"preset: {error}") from None
    except ValueError as error:
        raise ConfigError(f"preset {name}: not readable YAML ({error})") from None
    return {} if values is None else values
