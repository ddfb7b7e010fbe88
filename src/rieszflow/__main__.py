"""The console script, and `python -m rieszflow`."""

import sys


def main() -> None:
    """Runs the command line, or says in one line why it cannot be had."""
    try:
        from rieszflow.cli import app
    except KeyboardInterrupt:  # nobody can catch it for us yet
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    except ImportError as error:
        from rieszflow.errors import MissingPackageError

        if not isinstance(error, MissingPackageError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    app()


if __name__ == "__main__":
    main()
