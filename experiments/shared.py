"""Import the code that benchmarks and experiments share, benchmarks/common.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from common import images, in_turn, independent, options, save, usual

__all__ = ["images", "in_turn", "independent", "options", "save", "usual"]
