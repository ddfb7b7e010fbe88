"""How tables are read, in one bundle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rieszflow.errors import InputError

__all__ = ["Reading"]


@dataclass(frozen=True)
class Reading:
    """How tables are read; the keyword arguments of `rieszflow.stream`, which says what each means."""

    columns: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    header: bool | str = "auto"
    delimiter: str | None = None
    decimal: str = "."
    thousands: str | None = None
    missing: Sequence[str] | None = None
    dates: bool = False
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        for name in ("columns", "exclude", "missing"):
            value = getattr(self, name)
            if value is None and name != "exclude":
                continue
            if isinstance(value, str) or not isinstance(value, Iterable) or not all(isinstance(v, str) for v in value):
                what = "texts" if name == "missing" else "names of columns"
                raise InputError(f"{name}: {value!r} given; a list of {what} is accepted")
            object.__setattr__(self, name, tuple(value))  # equal to another only as a tuple
        if self.columns is not None and (not self.columns or len(set(self.columns)) < len(self.columns)):
            raise InputError(f"columns: {list(self.columns)!r} given; one or more different names are accepted")
        if self.header not in ("auto", True, False):
            raise InputError(f"header: {self.header!r} given; True, False and 'auto' are accepted")
        for name, none in (("delimiter", True), ("decimal", False), ("thousands", True)):
            value = getattr(self, name)
            if not (none and value is None) and not (isinstance(value, str) and len(value) == 1):
                raise InputError(f"{name}: {value!r} given; a single character is accepted")
        if self.thousands == self.decimal:
            raise InputError(f"thousands: {self.thousands!r} given, and decimal is the same; they must differ")
        if not isinstance(self.dates, bool):
            raise InputError(f"dates: {self.dates!r} given; True and False are accepted")
        try:
            "".encode(self.encoding)
        except (LookupError, TypeError):
            raise InputError(f"encoding: {self.encoding!r} given; a name like 'utf-8' or 'latin-1' is accepted") from None

    def plain(self, cell: str) -> str:
        """A cell as Python writes numbers, if it is one."""
        cell = cell.strip()
        if self.thousands:
            cell = cell.replace(self.thousands, "")
        return cell.replace(".", "\0").replace(self.decimal, ".") if self.decimal != "." else cell
