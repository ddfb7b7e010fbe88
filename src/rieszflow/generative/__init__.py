"""The generative model: a sequence of networks trained along the flow.

config → networks → run (files) → training (the algorithm) → model (`GenerativeFlow`).
"""

from rieszflow.generative.config import Config, ConfigError, presets
from rieszflow.generative.model import GenerativeFlow
from rieszflow.generative.run import Run, RunError
from rieszflow.generative.training import Pictures, Progress

__all__ = ["Config", "ConfigError", "GenerativeFlow", "Pictures", "Progress", "Run", "RunError", "presets"]
