"""Packages that do not come with rieszflow by itself: extras, each for those who need what it is for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rieszflow.errors import MissingPackageError

__all__ = ["extra"]


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Imports in this block are of packages that an extra brings.

    Args:
        name: of the extra, in pyproject.toml.
        what: what they are needed for, to be said where one is missing.

    Raises:
        MissingPackageError: one is not installed.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package == "rieszflow":
            raise  # a fault of ours
        gone = isinstance(error, ModuleNotFoundError)
        why = f"needs {package}, which is not installed" if gone else f"{package or 'a package'} cannot be imported ({error})"
        raise MissingPackageError(f"{what}: {why}: pip install 'rieszflow[{name}]'") from None
