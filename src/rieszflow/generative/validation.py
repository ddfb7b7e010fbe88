"""Decisions that depend on validation data: shorter steps, the end of a training, and the last stage of its model."""

from __future__ import annotations

from collections.abc import Sequence

from rieszflow.generative.config import Config
from rieszflow.generative.run import StageMetrics

_RATE = 0.2  # samples improve if their distance's excess over that of training data decreases like (flow steps)^-_RATE
_SHORTER = 0.8  # factor of the step length after a stage without improvement
_SAME = 0.02  # a difference of distances that is noise, relative to the distance of training data
_PATIENCE = 2  # stages without improvement at the shortest steps


def _distances(rows: Sequence[StageMetrics], name: str) -> list[float]:
    """Return a cloud's distances to the validation data: Fréchet for images, energy for vectors, whose shapes also matter."""
    return [(row.frechet_distance or row.energy_distance)[name] for row in rows]


def best_stage(rows: Sequence[StageMetrics]) -> int:
    """Return the number of the last stage whose fresh samples are as close to the validation data as any, but for noise."""
    distances, floors = _distances(rows, "fresh_samples"), _distances(rows, "training_data")
    close = min(distances) + _SAME * abs(floors[-1])
    return max(k for k, distance in enumerate(distances, 1) if distance <= close)


def next_factor(config: Config, rows: Sequence[StageMetrics]) -> float:
    """Return the factor of τ in the stage after some stages; 0 if the training has come to its end."""
    assert config.step_schedule is not None
    factor, last = config.step_schedule
    distances, waited = _distances(rows, "fresh_samples"), 0
    for k, floor in enumerate(_distances(rows, "training_data")[1:], 1):
        best = min(distances[:k])
        expected = (rows[k - 1].flow_steps_total / rows[k].flow_steps_total) ** _RATE
        if best - distances[k] > (1 - expected) * max(0.0, best - floor):
            waited = 0
        elif factor > last:
            factor = max(last, _SHORTER * factor)
        else:
            waited += 1
    return 0.0 if waited >= _PATIENCE else factor
