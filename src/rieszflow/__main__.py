"""The console script, and `python -m rieszflow`."""

import os
import signal
import sys
from collections.abc import Callable


def main() -> None:
    """Run the command line; if it cannot be imported, print why on one line."""
    try:
        _app()()
    except KeyboardInterrupt:  # after the imports, before the command handles Ctrl-C itself
        _interrupted()


def _app() -> Callable[[], object]:
    """Import the command line. Ctrl-C during the import prints one line instead of a traceback."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, _interrupted)
    try:
        from rieszflow.cli import app
    except ImportError as error:
        from rieszflow.errors import MissingPackageError

        if not isinstance(error, MissingPackageError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return app


def _interrupted(*_: object) -> None:
    """Exit at once: nothing needs cleaning up, and a library that is being imported may catch or change any exception."""
    print("error: interrupted", file=sys.stderr, flush=True)
    os._exit(130)


if __name__ == "__main__":
    main()
