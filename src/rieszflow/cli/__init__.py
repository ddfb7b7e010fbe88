"""The command line: rieszflow train | resume | sample | evaluate | info | compare | sketch.

A module holds the commands of one group: `train`, `samples`, `compare`. They are added to `app`. They share `terminal` (what is
printed), `bars`, and `checks` (of options). Every command ends in `way_out`. What a command needs beyond this is imported
when it runs: PyTorch alone takes two seconds.
"""

import sys

try:
    from rieszflow.cli import compare, samples, train
    from rieszflow.cli.app import app
except KeyboardInterrupt:  # nobody can catch it for us yet
    print("error: interrupted", file=sys.stderr)
    sys.exit(130)

__all__ = ["app", "compare", "main", "samples", "train"]


def main() -> None:
    """The console script's entry."""
    app()
