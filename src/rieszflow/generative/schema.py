"""Strict pydantic models with our messages, safe YAML, and the presets of the library."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from rieszflow._infra.files import read_text
from rieszflow._infra.messages import one_line, short_repr, shorten, suggestion
from rieszflow.errors import ConfigError, FileError, InputError

YAML_BYTES = 4_000_000  # settings take about 1,000; the data section may have numbers for every column


class StrictModel(BaseModel):
    """A pydantic model that converts only integers to floats, and raises ConfigError."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    if not TYPE_CHECKING:  # type checkers see the fields as arguments

        def __init__(self, **settings):
            try:
                super().__init__(**settings)
            except ValidationError as error:
                raise ConfigError(describe_error(error, type(self))) from None


def unknown_name(name: object, model: type[BaseModel]) -> str:
    """Return the message about a name that is not a field of a model."""
    known = suggestion(name, model.model_fields)
    return f"`{shorten(str(name), 60)}` is not known" + (f"; {known}" if known else "")


def describe_error(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first of pydantic's errors in our form: "`name` must …, got …"."""
    first = error.errors(include_url=False)[0]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    message, got = first["msg"], short_repr(first["input"])
    if first["type"] == "value_error":  # raised by a validator of ours
        message = message.removeprefix("Value error, ")
        if not name:
            return message
        return f"`{name}.{message[1:]}" if message.startswith("`") else f"`{name}` {message}, got {got}"
    if first["type"] == "extra_forbidden":
        return unknown_name(first["loc"][-1], model)
    if first["type"] == "missing":
        return f"`{name}` is missing"
    message = message.replace("valid tuple", "list").split(" after validation")[0]
    return f"`{name}` must {message.removeprefix('Input should ').removeprefix('Tuple should ')}, got {got}"


class _Loader(yaml.SafeLoader):
    """A safe loader that reads 1e-3 as a number, and refuses duplicate keys and aliases, which can expand to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise InputError(f"line {event.start_mark.line + 1}: aliases (*name) are not accepted; write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise InputError(f"line {key.start_mark.line + 1}: the key {short_repr(key.value)} is there twice")
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """A safe dumper that quotes strings that `_Loader` would read as numbers, and writes no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def dump_yaml(content: object) -> str:
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def parse_yaml(text: str) -> object:
    """Parse YAML text; raise InputError, with a message of one line, for anything wrong with it."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except Exception as error:  # the parser's errors, and those of its constructors for !!int "", 2001-99-99 etc.
        raise InputError(one_line(error)) from None


def presets() -> list[tuple[str, str]]:
    """Return the library's presets as pairs (data set, name)."""
    folder = resources.files("rieszflow.generative") / "presets"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".yaml"))
    return [(dataset, name) for dataset, name, _ in (file.rsplit(".", 2) for file in names)]


def read_preset(dataset: str, name: str) -> object:
    """Return the content of a preset, or of a file of settings."""
    try:
        if name.endswith((".yaml", ".yml")) or os.sep in name:
            if not Path(name).is_file():
                raise ConfigError(f"`preset` must be a preset's name or a file that exists, got {name!r}")
            text = read_text(Path(name), YAML_BYTES)
        else:
            file = resources.files("rieszflow.generative") / "presets" / f"{dataset}.{name}.yaml"
            if not file.is_file():
                known = "".join(f"{n!r}, " for d, n in presets() if d == dataset)
                raise ConfigError(f"`preset` must be {known}or the path of a YAML file for {dataset}, got {name!r}")
            text = file.read_text(encoding="utf-8")
        values = parse_yaml(text)
    except ConfigError:
        raise
    except FileError as error:
        raise ConfigError(f"preset: {error}") from None
    except ValueError as error:
        raise ConfigError(f"preset {name}: not readable YAML ({error})") from None
    return {} if values is None else values
