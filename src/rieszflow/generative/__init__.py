"""The generative model: a sequence of networks trained along the flow.

config → networks → run (files) → training (the algorithm) → model (`GenerativeFlow`).
"""

from rieszflow.errors import ConfigError, RunError
from rieszflow.generative.config import Config, presets
from rieszflow.generative.model import GenerativeFlow
from rieszflow.generative.run import Run
from rieszflow.generative.training import Pictures

__all__ = ["Config", "ConfigError", "GenerativeFlow", "Pictures", "Run", "RunError", "presets"]
