"""Validation data shorten the steps and end the training of a recorded flow, or `patience` ends it, at the best stage."""

import pytest
import torch
from problems import generator
from test_recorded import VALIDATED

import rieszflow as rf
from rieszflow.data import load
from rieszflow.errors import ConfigError
from rieszflow.generative import Config
from rieszflow.generative.processes import Processes
from rieszflow.generative.run import Run, StageMetrics
from rieszflow.generative.stages import best_stage, next_factor
from rieszflow.generative.state import checked_levels, prepare
from rieszflow.generative.training_data import describe


def rows(fresh, training_data=1.0):
    distances = [{"fresh_samples": f, "training_data": training_data} for f in fresh]
    return [StageMetrics(k, 1, 5, 5 * k, {}, {}, frechet_distance=d, step_factor=1.0) for k, d in enumerate(distances, 1)]


def test_steps_become_shorter_without_improvement_until_the_end():
    """By hand: the excess 8, 4, 2 falls faster than stage^-0.2. Then 1.9 is above 2 (3/4)^0.2 = 1.89, and so on."""
    config = Config(model="recorded", step_schedule=(10.0, 4.0), validation=0.1)
    found = [next_factor(config, rows([9, 5, 3, 2.9, 2.89, 2.88, 2.87, 2.86, 2.85, 2.84][:k])) for k in range(11)]
    assert found == pytest.approx([10, 10, 10, 10, 8, 6.4, 5.12, 4.096, 4, 4, 0])
    found = [next_factor(config, rows([1 + k**-0.6 for k in range(1, n + 1)])) for n in range(40)]
    assert found == [10.0] * 40  # slow, but steady
    assert next_factor(config, rows([9, 9, 9, 9, 2])) == pytest.approx(5.12)  # an improvement starts the count again
    assert next_factor(config, rows([0.9, 0.8, 0.7])) == 10.0  # closer than training data: any improvement counts
    assert best_stage(rows([9, 2, 3])) == 2
    assert best_stage(rows([9, 2, 2.01])) == 3  # the difference is noise


def test_vectors_are_compared_by_their_energy_distance():
    distances = [{"fresh_samples": f, "training_data": 0.0} for f in (3.0, 1.0, 2.0)]
    assert best_stage([StageMetrics(k, 1, 5, 5 * k, d, {}) for k, d in enumerate(distances, 1)]) == 2


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A training whose last stage but one is declared the best."""
    path = tmp_path_factory.mktemp("validated") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rieszflow.generative.stages.best_stage", lambda rows: len(rows) - 1)
        return rf.GenerativeFlow(**VALIDATED).fit(load("digits"), run=path)


def test_the_model_ends_at_its_best_stage(ended):
    metrics = ended.run.metrics()
    best = len(metrics) - 1
    assert len(metrics) < VALIDATED["stages"]
    assert ended.run.trained() == ended.run.total_stages() == best and ended.run.complete()
    assert sorted(f.name for f in (ended.run.path / "networks").iterdir()) == [
        f"{k:04d}.safetensors" for k in range(1, best + 1)
    ]
    factors = [row.step_factor for row in metrics]
    assert factors[0] == 8.0 and factors[-1] == 4.0 and factors == sorted(factors, reverse=True)


def test_the_end_is_final(ended, tmp_path):
    ended.save(tmp_path / "copy")
    expected = ended.sample(5, seed=1)
    before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "copy" / "networks").iterdir()}
    again = rf.GenerativeFlow.resume(tmp_path / "copy", load("digits"))
    assert before == {f.name: f.stat().st_mtime_ns for f in (tmp_path / "copy" / "networks").iterdir()}
    assert torch.equal(again.sample(5, seed=1), expected)
    report = rf.report.write_report(ended.run).read_text(encoding="utf-8")
    last = ended.run.trained()
    assert f"{last} of {last} stages" in report and f"It went on to stage {last + 1} without better samples." in report
    assert "Fréchet distance to validation data" in report


def test_validation_data_are_no_targets(tmp_path):
    """Every digit is in exactly one of the two sets, and none of the held-out ones is in either."""
    data, config = load("digits"), Config(**VALIDATED)
    run = Run.create(tmp_path / "run", config, describe(data, config))
    levels = checked_levels(config, run.data, None)
    context = prepare(run, data, levels, None, Processes(1, 0, torch.device("cpu"), None))
    assert len(context.targets) + len(context.held_out) == len(data.train) and len(context.held_out) == 153
    together = torch.cat([context.targets, context.held_out]).sort(dim=0).values
    torch.testing.assert_close(together, data.train.flatten(1).sort(dim=0).values, rtol=0, atol=0)


def test_patience_ends_the_training_at_its_best_stage(tmp_path):
    x = torch.randn(200, 2, generator=generator(0))
    settings = {"particles": 300, "slices": 8, "initial_steps": 4, "max_steps": 4, "stages": 40, "patience": 2}
    run = rf.GenerativeFlow(**settings).fit(x, run=tmp_path / "run").run
    distances = [row.nearest_distance["fresh_samples"] for row in run.metrics()]
    best = distances.index(min(distances)) + 1
    assert run.total_stages() == run.trained() == best == len(distances) - 2
    assert rf.GenerativeFlow.resume(run.path, x).sample(3, seed=0).shape == (3, 2)
    for wrong in ({"validation": 0.1, "step_schedule": (2.0, 1.0)}, {"levels": [{"factor": 2}, {"factor": 1}]}):
        with pytest.raises(ConfigError, match="`patience` must be 0 with `validation` or `levels`, got 2"):
            Config(model="recorded", patience=2, **wrong)


def test_too_few_data_are_refused():
    with pytest.raises(ConfigError, match="`validation` must leave 2 of 2 data"):
        rf.GenerativeFlow(model="recorded", step_schedule=(4.0, 1.0), validation=0.1, particles=10, slices=4).fit(
            torch.randn(4, 2, generator=generator(0))
        )
