"""The one way out of every command: notices and warnings, refusals, interrupts, exit codes."""

from __future__ import annotations

import io
import logging
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from rieszflow import Notice
from rieszflow.cli import terminal
from rieszflow.cli.terminal import say
from rieszflow.errors import RieszflowError

__all__ = ["Commands", "call"]

_Refused: Any = typer.BadParameter.__mro__[2]  # ClickException; Typer has had Click's own, and now has a copy


class Call:
    """What is known of the command at work: the notices given so far, and the run that could be resumed."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.run: Path | None = None
        self.interrupted = False
        self._said: set[str] = set()

    @contextmanager
    def prints_warnings(self) -> Iterator[None]:
        """Our notices in one line each, other libraries' warnings likewise; every text once, and the first process only."""
        log, handler = logging.getLogger("rieszflow"), LogLines()
        level = log.level
        # It says that its folder for settings and fonts cannot be written. That harms nobody here.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("always", Notice)
            warnings.showwarning = self._show
            log.addHandler(handler)
            log.setLevel(logging.INFO)
            try:
                yield
            finally:
                log.removeHandler(handler)
                log.setLevel(level)

    def _show(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        text, ours = str(message), issubclass(category, Notice)
        if ours and text not in self.notices:
            self.notices.append(text)
        if not ours:
            text += f" ({category.__name__} of {'/'.join(Path(filename).parts[-2:])})"
        if text not in self._said and terminal.RANK == 0:
            self._said.add(text)
            say("note" if ours else "warning", text)

    @contextmanager
    def notes_interrupts(self) -> Iterator[None]:
        """Remembers Ctrl-C, for what is interrupted may end in another error: a half-imported library in an ImportError."""

        def interrupt(*_: Any) -> None:
            self.interrupted = True
            raise KeyboardInterrupt

        old = signal.getsignal(signal.SIGINT)
        mine = threading.current_thread() is threading.main_thread() and old is signal.default_int_handler
        if mine:
            signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            if mine:  # a second Ctrl-C, while we tidy up, ends the process at once
                signal.signal(signal.SIGINT, signal.SIG_DFL if self.interrupted else old)


class LogLines(logging.Handler):
    """What the library logs, as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        if terminal.RANK == 0:
            say("note", record.getMessage())


_call = Call()


def call() -> Call:
    """The command at work."""
    return _call


class Commands(TyperGroup):
    """All commands, and the one way out of them: wrong input ends in one line on stderr; a bug keeps its traceback.

    Exit codes: 1 for what a command refuses, 2 for what Typer refuses, 130 after Ctrl-C.
    """

    def main(self, args: Any = None, *rest: Any, **extra: Any) -> Any:
        global _call
        _call = Call()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="rieszflow")
        args = list(sys.argv[1:] if args is None else args)
        terminal.begin(args[0] if args else "")
        try:
            with _call.notes_interrupts(), _call.prints_warnings():
                code = super().main(args or ["--help"], *rest, **{**extra, "standalone_mode": False})
                if sys.stdout is not None:
                    sys.stdout.flush()
        except BrokenPipeError:
            # Nobody reads on, as after `| head`. Rich and Typer end quietly then, and so do we: Python would complain once
            # more on flushing at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (KeyboardInterrupt, typer.Abort) as error:
            if isinstance(error.__cause__, EOFError):  # Typer takes EOFError for the end of user input; here it is a bug
                raise error.__cause__ from None
            code = 130
        except Exception as error:
            if not _call.interrupted:
                code = refusal(error)
                if code is None:
                    raise
            else:
                code = 130
        if code == 130:
            run = _call.run
            on = f"; `rieszflow resume {shlex.quote(str(run))}` goes on from the last checkpoint"
            fail("interrupted" + (on if run is not None and (run / "config.yaml").is_file() else ""))
        sys.exit(code or (0 if args else 2))


def refusal(error: Exception) -> int | None:
    """Says what was wrong with the input and returns the exit code; None for a bug."""
    if isinstance(error, _Refused):
        fail(error.format_message())
        return int(error.exit_code)
    # PyTorch has a type for a GPU without memory, which is not imported here, and for the CPU's only a text.
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError":
        fail(f"not enough memory ({error})" if str(error) else "not enough memory")
        return 1
    if isinstance(error, RieszflowError) or (isinstance(error, OSError) and error.errno is not None):
        fail(str(error))
        return 1
    return None


def fail(message: str) -> None:
    say("error", (f"process {terminal.RANK}: " if terminal.RANK else "") + message)
