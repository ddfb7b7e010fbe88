"""The command line: rieszflow train | resume | sample | evaluate | info | compare | sketch | pairwise.

Commands import PyTorch and the rest of the library when they run, because that takes two seconds.
"""

from rieszflow._infra.extras import extra

with extra("cli", "the command line"):
    from rieszflow.cli import compare, runs
    from rieszflow.cli.commands import app

__all__ = ["app", "compare", "runs"]
