"""Packages of the extras in pyproject.toml, which rieszflow does not install by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from rieszflow.errors import MissingPackageError


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Turn a failed import in this block into MissingPackageError: `what` needs a package of the extra `name`."""
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package == "rieszflow":
            raise
        why = f"{package or 'a package'} cannot be imported ({error})"
        if isinstance(error, ModuleNotFoundError):
            why = f"needs {package}, which is not installed"
        raise MissingPackageError(f"{what}: {why}: {_command(name)}") from None


def _command(name: str) -> str:
    """Return the pip command for the packages of an extra that are not installed, or for all of them if none is missing.

    It names the packages instead of `rieszflow[extra]`, which pip would look up in a registry.
    """
    try:
        requirements = metadata.requires("rieszflow") or []
    except metadata.PackageNotFoundError:
        requirements = []
    own = [line.partition(";")[0].strip() for line in requirements if re.search(rf"""extra == ["']{name}["']""", line)]
    if not own:  # a clone on the path that was never installed
        return f"pip install '.[{name}]' in a clone of rieszflow"
    missing = [requirement for requirement in own if not _installed(requirement)]
    return " ".join(["pip install", *(f"'{requirement}'" for requirement in missing or own)])


def _installed(requirement: str) -> bool:
    try:
        metadata.distribution(re.split(r"[^\w.-]", requirement)[0])
    except metadata.PackageNotFoundError:
        return False
    return True
