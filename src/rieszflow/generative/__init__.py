"""The generative model: a sequence of networks trained along the flow, or the recorded flow itself.

From the bottom up: `schema`, `config` (settings) → `condition`, `levels`, `networks` → `description`, `run` (the folder of a
run) → `training_data`, `state`, `stages`, `loop` (training) → `model` (`GenerativeFlow`).
"""

from rieszflow._infra.extras import extra

with extra("generative", "generative models"):
    from rieszflow.errors import ConfigError, RunError
    from rieszflow.generative.config import Config, PaperSettings
    from rieszflow.generative.model import GenerativeFlow
    from rieszflow.generative.run import Run
    from rieszflow.generative.schema import presets
    from rieszflow.generative.state import Pictures
    from rieszflow.generative.training_data import load_data

__all__ = ["Config", "ConfigError", "GenerativeFlow", "PaperSettings", "Pictures", "Run", "RunError", "load_data", "presets"]
