"""Options and what they may be. These checks cost nothing: they come before a command loads or computes anything."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from rieszflow.cli import terminal
from rieszflow.errors import InputError

__all__ = ["at_least", "check_can_write", "check_file", "check_new_run", "condition_setting", "settings"]


def at_least(option: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{option}: {value} given; a whole number of at least {least} is accepted")


def check_file(out: Path, *suffixes: str, force: bool, picture: bool = False) -> None:
    """Check that a file, and with `picture` one of the same name, can be written; existing files need --force."""
    if out.suffix not in suffixes:
        raise InputError(f"--out: {out} given; a name that ends in {' or '.join(suffixes)} is accepted")
    for file in [out, out.with_suffix(".png")] if picture else [out]:
        if file.is_dir():
            raise InputError(f"--out: {file} is a folder; a file's name is accepted")
        if os.path.lexists(file) and not force:
            raise InputError(f"--out: {file} exists; choose another name, or overwrite it with --force")
    if not out.parent.is_dir():
        raise InputError(f"--out: {out} given, but there is no folder {out.parent}; make it first")
    check_can_write("--out", out.parent)


def check_new_run(out: Path) -> None:
    if terminal.RANK:
        return  # the first process makes the folder
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out: {out} exists and is not an empty folder; choose another, or resume it")
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"--out: {out} given, but {there} is a file; choose another")
    check_can_write("--out", there)


def check_can_write(name: str, folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))  # a full disk accepts an empty file
    except OSError as error:
        raise InputError(f"{name}: cannot write in {folder} ({error.strerror})") from None


def condition_setting(by_class: bool, observe: str | None, columns: str | None) -> dict[str, Any]:
    """Return the setting that --by-class, --observe or --condition stands for."""
    names = columns and f"columns:{columns}"
    found = {"--by-class": "class" if by_class else None, "--observe": observe, "--condition": names}
    asked = {option: value for option, value in found.items() if value is not None}
    if len(asked) > 1:
        raise InputError(f"{' and '.join(asked)}: given together; one of them is accepted")
    if observe is not None:
        from rieszflow.generative.config import HALVES

        if observe not in HALVES and not (observe.startswith("pool:") and observe[5:].isdecimal()):
            raise InputError(f"--observe: {observe!r} given; {', '.join(HALVES)} or pool:4 is accepted")
    return {"condition": next(iter(asked.values()))} if asked else {}


def settings(items: list[str]) -> dict[str, Any]:
    """What `--set KEY=VALUE` gives, from every time that it was given."""
    from rieszflow.generative.schema import parse_yaml

    values = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign:
            raise InputError(f"--set: {item!r} given; KEY=VALUE is accepted")
        try:
            values[key] = parse_yaml(value)
        except ValueError:
            raise InputError(f"--set: the value of {key} is not readable: {value!r}") from None
    return values
