"""The command line: rieszflow train | resume | sample | evaluate | info | compare | sketch | pairwise.

A module holds the commands of one group: `train`, `samples`, `compare`, `pairwise`. They are added to `app`. They share
`terminal` (what is printed), `bars`, and `checks` (of options). Every command ends in `way_out`. What a command needs beyond
this is imported when it runs: PyTorch alone takes two seconds.
"""

from rieszflow._infra.extras import extra

with extra("cli", "the command line"):
    from rieszflow.cli import compare, pairwise, samples, train
    from rieszflow.cli.app import app

__all__ = ["app", "compare", "pairwise", "samples", "train"]
