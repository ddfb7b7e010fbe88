"""The console script, and `python -m rieszflow`."""

import os
import signal
import sys


def main() -> None:
    """Run the command line. An interrupt or a missing package ends it with one line instead of a traceback."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if ours:
            signal.signal(signal.SIGINT, _interrupted)
        from rieszflow.cli import app

        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        app()
    except KeyboardInterrupt:  # before the command handles Ctrl-C itself
        _interrupted()
    except ImportError as error:
        from rieszflow.errors import MissingPackageError

        if not isinstance(error, MissingPackageError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _interrupted(*_: object) -> None:
    """Exit at once: nothing needs cleaning up, and a library that is being imported may catch or change any exception."""
    print("error: interrupted", file=sys.stderr, flush=True)
    os._exit(130)


if __name__ == "__main__":
    main()
