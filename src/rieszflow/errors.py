"""Every error that rieszflow raises on purpose. All else is a bug of ours, or of a library that we use."""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DatasetError",
    "DerivativeError",
    "FileError",
    "InputError",
    "InputTypeError",
    "MissingPackageError",
    "RankError",
    "RieszflowError",
    "RunError",
    "WriteError",
]


class RieszflowError(Exception):
    """Base class. The message names the argument or the file, what was given, and what is accepted."""


class InputError(RieszflowError, ValueError):
    """A value that is not accepted: a wrong shape, NaN, a number out of range, an unknown name."""


class InputTypeError(RieszflowError, TypeError):
    """A type or dtype that is not accepted."""


class DatasetError(InputError):
    """A data set is missing, damaged, or of a form that is not accepted."""


class ConfigError(InputError):
    """A setting of a run is not accepted. The message names it."""


class FileError(InputError):
    """A file or folder of ours is missing, damaged, foreign, or of another version. The message names it."""


RunError = FileError  # what is wrong with a run is wrong with its folder or one of its files


class WriteError(RieszflowError, OSError):
    """A file could not be written. The message names it, gives the system's reason, and says what is there now."""


class MissingPackageError(RieszflowError, ImportError):
    """A package is needed that is not installed. The message gives the command that installs it."""


class DerivativeError(RieszflowError, RuntimeError):
    """A derivative that we do not have: a second one."""


class RankError(RieszflowError, RuntimeError):
    """Another process of a torch.distributed group has ended, or cannot be reached."""
