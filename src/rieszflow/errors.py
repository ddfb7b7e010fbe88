"""Every error that rieszflow raises on purpose. Any other error is a bug, here or in a library."""

__all__ = [
    "ConfigError", "DatasetError", "DerivativeError", "FileError", "InputError", "InputTypeError", "MissingPackageError",
    "RankError", "RieszflowError", "RunError", "WriteError",
]  # fmt: skip


class RieszflowError(Exception):
    """Base class. The message names the argument or file, and says what it must be and what it is."""


class InputError(RieszflowError, ValueError):
    """An invalid value: a wrong shape, NaN, a number out of range, an unknown name."""


class InputTypeError(RieszflowError, TypeError):
    """An invalid type or dtype."""


class DatasetError(InputError):
    """A data set that is missing, damaged, or in an unsupported format."""


class ConfigError(InputError):
    """An invalid setting of a run."""


class FileError(InputError):
    """A file or folder of rieszflow that is missing, damaged, foreign, or of another version."""


RunError = FileError  # an error of a run is an error of its folder or one of its files


class WriteError(RieszflowError, OSError):
    """A file that cannot be written. The message gives the system's reason, and says what is there now."""


class MissingPackageError(RieszflowError, ImportError):
    """A package that is needed but not installed. The message gives the command that installs it."""


class DerivativeError(RieszflowError, RuntimeError):
    """A derivative that is not implemented, such as a second one."""


class RankError(RieszflowError, RuntimeError):
    """A process of a torch.distributed group that has ended or cannot be reached."""
