"""The generative model: a sequence of networks trained along the flow, or the flow itself, recorded.

From the bottom up: `schema`, `config` (settings) → `condition`, `levels`, `networks` → `description`, `run` (the folder of a
training) → `training_data` → `context` (the part of a training that does not change), `state` (the part that does) → `steps`,
`stages` → `loop` (the algorithm) → `model` (`GenerativeFlow`).
"""

from rieszflow.errors import ConfigError, RunError
from rieszflow.generative.config import Config, PaperSettings
from rieszflow.generative.context import Pictures
from rieszflow.generative.model import GenerativeFlow
from rieszflow.generative.run import Run
from rieszflow.generative.schema import presets
from rieszflow.generative.training_data import load_data

__all__ = ["Config", "ConfigError", "GenerativeFlow", "PaperSettings", "Pictures", "Run", "RunError", "load_data", "presets"]
