"""The generative model: a sequence of networks trained along the flow, or the flow itself, recorded.

In the order in which data flow: `config` (settings) → `condition` (what is known of a datum) → `pyramid` (levels), `networks`,
`latents`, `step_sizes` → `run` (the folder of a training) → `context` (what does not change) → `state` (what does) → `flows`,
`fit`, `finish` (steps) → `checkpoint`, `resume` → `loop` (the algorithm) → `model` (`GenerativeFlow`).
"""

from rieszflow.errors import ConfigError, RunError
from rieszflow.generative.config import Config
from rieszflow.generative.context import Pictures
from rieszflow.generative.model import GenerativeFlow
from rieszflow.generative.schema import presets
from rieszflow.generative.run import Run
from rieszflow.generative.training_data import columns_of, held_out_conditions, load_data, residual

__all__ = [
    "Config", "ConfigError", "GenerativeFlow", "Pictures", "Run", "RunError", "columns_of", "held_out_conditions", "load_data",
    "presets", "residual",
]  # fmt: skip
