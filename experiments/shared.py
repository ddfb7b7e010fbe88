"""Import the code that benchmarks and experiments share, benchmarks/common.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from common import EXPERIMENTS, images, in_turn, independent, options, parser, save, usual

__all__ = ["EXPERIMENTS", "images", "in_turn", "independent", "options", "parser", "save", "usual"]
