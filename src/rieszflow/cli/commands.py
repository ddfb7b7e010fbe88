"""The Typer application, and what surrounds every command: notices and warnings, error messages, interrupts, exit codes."""

from __future__ import annotations

import io
import logging
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer import Option
from typer.core import TyperGroup

from rieszflow import __version__
from rieszflow._infra.messages import Notice
from rieszflow.cli.output import console, print_message
from rieszflow.errors import RieszflowError


class Invocation(logging.Handler):
    """The state of the running command; as a logging handler it prints the library's log records."""

    def __init__(self, rank: int = 0) -> None:
        super().__init__()
        self.rank = rank  # under torchrun, otherwise 0; only rank 0 prints, apart from errors
        self.notices: list[str] = []
        self.run: Path | None = None  # folder of the run that the command trains
        self.interrupted = False
        self._warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if self.rank == 0:
            print_message("note", record.getMessage())

    def show_warning(self, message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object) -> None:
        """Print a warning on one line, unless it was printed before."""
        ours = issubclass(category, Notice)
        text = str(message) if ours else f"{message} ({category.__name__} of {'/'.join(Path(filename).parts[-2:])})"
        printed = self.notices if ours else self._warnings
        if text not in printed:
            printed.append(text)
            if self.rank == 0:
                print_message("note" if ours else "warning", text)

    def fail(self, message: str) -> None:
        print_message("error", f"process {self.rank}: {message}" if self.rank else message)


_invocation = Invocation()


def invocation() -> Invocation:
    """Return the state of the running command."""
    return _invocation


class Commands(TyperGroup):
    """All commands. Refused input ends in one line on stderr; a bug keeps its traceback.

    The exit code is 1 if a command fails, 2 if Typer refuses the arguments, and 130 after Ctrl-C.
    """

    def main(self, args: Sequence[str] | None = None, *_: object, **__: object) -> NoReturn:
        global _invocation
        args = list(sys.argv[1:] if args is None else args)
        _invocation = current = Invocation(_rank(args[0] if args else ""))
        console.quiet = current.rank != 0
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="rieszflow")
        code: int | None
        try:
            with _handlers_installed(current):
                code = super().main(args or ["--help"], standalone_mode=False)
                if sys.stdout is not None:
                    sys.stdout.flush()
        except BrokenPipeError:
            # The reader has gone, as after `| head`. Python would report another error when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (KeyboardInterrupt, typer.Abort) as error:
            if isinstance(error.__cause__, EOFError):  # Typer takes EOFError for the end of user input; here it is a bug
                raise error.__cause__ from None
            code = 130
        except Exception as error:
            code = 130 if current.interrupted else _report(error)
            if code is None:
                raise
        if code == 130:
            resumable = current.run is not None and (current.run / "config.yaml").is_file()
            hint = f"; `rieszflow resume {shlex.quote(str(current.run))}` continues from the last checkpoint"
            current.fail("interrupted" + (hint if resumable else ""))
        sys.exit(code or (0 if args else 2))


@contextmanager
def _handlers_installed(current: Invocation) -> Iterator[None]:
    """Print log records and warnings on one line each, and record Ctrl-C, which other code may turn into another error."""

    def interrupt(*_: object) -> None:
        current.interrupted = True
        raise KeyboardInterrupt

    log = logging.getLogger("rieszflow")
    level, handler = log.level, signal.getsignal(signal.SIGINT)
    replace = threading.current_thread() is threading.main_thread() and handler is signal.default_int_handler
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # its notes about a folder for fonts concern nobody here
    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        warnings.showwarning = current.show_warning
        log.addHandler(current)
        log.setLevel(logging.INFO)
        if replace:
            signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            if replace:  # a second Ctrl-C during cleanup ends the process at once
                signal.signal(signal.SIGINT, signal.SIG_DFL if current.interrupted else handler)
            log.removeHandler(current)
            log.setLevel(level)


def _rank(command: str) -> int:
    """Return the rank under torchrun for a command that runs in several processes, otherwise 0."""
    rank, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    consistent = rank.isdecimal() and size.isdecimal() and int(rank) < int(size)  # not variables of another program
    return int(rank) if consistent and command in ("train", "resume") else 0


def _report(error: Exception) -> int | None:
    """Print an error in the input or the environment and return the exit code; return None for a bug."""
    message, code = str(error), 1
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # ClickException, of Click or of Typer's copy
        message, code = error.format_message(), error.exit_code
    # PyTorch's error for a full GPU has a type that is not imported here; that for a full CPU has only a text.
    elif isinstance(error, MemoryError) or "allocate memory" in message or type(error).__name__ == "OutOfMemoryError":
        message = f"not enough memory ({message})" if message else "not enough memory"
    elif not isinstance(error, RieszflowError) and not (isinstance(error, OSError) and error.errno is not None):
        return None
    _invocation.fail(message)
    return code


app = typer.Typer(
    cls=Commands,
    name="rieszflow",
    help="Compare samples of distributions, and train generative models, with the sliced MMD of the Riesz kernel.",
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
)


def _version(requested: bool) -> None:
    if requested:
        console.print(f"rieszflow {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass
