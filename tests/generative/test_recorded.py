"""The recorded model: it learns, is killed anywhere and goes on, samples in batches, and is refused if damaged."""

import gc
import sys
import weakref

import pytest
import torch
from problems import content, generator, killed

import rieszflow as rf
from rieszflow.data import load
from rieszflow.errors import ConfigError, InputError
from rieszflow.generative import Config, RunError
from rieszflow.generative.run import Run

SMALL = {
    "model": "recorded", "particles": 400, "target_batch_size": 300, "stages": 3, "initial_steps": 5, "max_steps": 5,
    "slices": 64, "patch_slices": [[4, 2], [4, 1]], "step_schedule": [8.0, 2.0], "latents": "smooth", "clip": True,
    "device": "cpu", "checkpoint_seconds": 1e-9,
}  # fmt: skip
VALIDATED = {**SMALL, "stages": 30, "validation": 0.1, "step_schedule": [8.0, 4.0]}  # ends by itself
LEVELS = {**SMALL, "levels": [{"factor": 2, "patch_slices": [[3, 1]]}, {"factor": 1, "stages": 2}], "noise_std": 0.05}


@pytest.fixture(scope="module", params=[SMALL, LEVELS, VALIDATED], ids=["one level", "two levels", "validated"])
def whole(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "run"
    return request.param, rf.GenerativeFlow(**request.param).fit(load("digits"), run=path)


def contents(path):
    return {file.name: content(file) for file in sorted((path / "networks").iterdir())}


def test_fresh_samples_come_closer_than_noise(whole):
    """Energy distances to held-out digits: ten times less than noise has. Chance adds some 2 E‖Y − Y′‖ / 270."""
    _, flow = whole
    data = load("digits")
    held_out = data.held_out.flatten(1)
    noise = rf.energy_distance(torch.rand(270, 64, generator=generator(1)), held_out, statistic="U").item()
    samples = data.scale(flow.sample(270, seed=1)).flatten(1)
    assert rf.energy_distance(samples, held_out, statistic="U").item() < 0.1 * noise
    rows = flow.run.metrics()
    assert [row.stage for row in rows] == list(range(1, len(rows) + 1))
    assert set(rows[-1].energy_distance) == {"particles", "fresh_samples", "training_data"}


def test_samples_go_the_way_of_the_particles(whole, monkeypatch):
    """In batches of any size: a point's way does not depend on its neighbours, but for the last bit of a sum."""
    _, flow = whole
    together = flow.sample(60, seed=3)
    monkeypatch.setattr("rieszflow.generative.sampling._REPLAYED", 1)
    torch.testing.assert_close(flow.sample(60, seed=3, batch_size=7), together, rtol=0, atol=0.05)


@pytest.mark.parametrize("stop", [1, 4, 8, 13])
def test_killed_anywhere_and_resumed_is_bit_identical(whole, tmp_path, monkeypatch, stop):
    """An exception after a checkpoint, in a flow and between parts: files are there as a kill would leave them."""
    settings, flow = whole
    with killed(monkeypatch, after=stop):
        rf.GenerativeFlow(**settings).fit(load("digits"), run=tmp_path / "run")
    rf.GenerativeFlow.resume(tmp_path / "run", load("digits"))
    assert contents(tmp_path / "run") == contents(flow.run.path)
    last, expected = (Run.open(p).metrics()[-1].energy_distance for p in (tmp_path / "run", flow.run.path))
    assert last == expected


def test_a_damaged_or_missing_part_is_refused(whole, tmp_path):
    _, flow = whole
    flow.save(tmp_path / "copy")
    file = tmp_path / "copy" / "networks" / "0002.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[:-100])
    with pytest.raises(RunError, match="damaged"):
        rf.GenerativeFlow.load(tmp_path / "copy").sample(3)
    file.unlink()
    with pytest.raises(RunError, match="is missing"):
        rf.GenerativeFlow.load(tmp_path / "copy").sample(3)
    rf.GenerativeFlow.resume(tmp_path / "copy", load("digits"))
    assert file.read_bytes() == raw


def test_settings_that_do_not_go_together():
    for change, says in (
        ({"refresh_every": 2}, "^`refresh_every` "), ({"network": "custom"}, "^`network` "),
        ({"step_schedule": [1.0]}, "^`step_schedule"),
        ({"step_schedule": [1.0, -1.0]}, "^`step_schedule"), ({"patch_slices": [[7]]}, "^`patch_slices"),
        ({"patch_slices": [7, 2]}, "^`patch_slices"),
        ({"patches_only": True}, "^`patch_slices` "), ({"target_batch_size": 1}, "^`target_batch_size` "),
        ({"by_colour": [2]}, "^`by_colour` must .*got 2"), ({"patch_slices": [[7, 1]], "by_colour": [0]}, "^`by_colour"),
        ({"model": "other"}, "^`model` "), ({"validation": 0.1}, "^`validation` must be 0 without"),
        ({"validation": 1.0, "step_schedule": [1.0, 1.0]}, "^`validation` must"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=says):
            Config(**{"model": "recorded", **change})
    with pytest.raises((ConfigError, InputError), match="patch_slices"):
        rf.GenerativeFlow(model="recorded", patch_slices=[[9, 1]]).fit(load("digits"))


def test_vectors_too():
    g = generator(0)
    y = torch.randn(2000, 3, generator=g) * torch.tensor([1.0, 2.0, 1.5]) + 4
    flow = rf.GenerativeFlow(model="recorded", particles=2000, stages=3, initial_steps=40, max_steps=40, slices=64,
                             step_schedule=[4.0, 1.0]).fit(y)  # fmt: skip
    x = flow.sample(2000, seed=1)
    # of the mean of 2,000 points 1/√2000 = 0.02 of the spread is chance, on either side; ten times that is granted
    assert ((x.mean(0) - y.mean(0)).abs() < 0.2 * y.std(0)).all()
    assert ((x.std(0) / y.std(0) - 1).abs() < 0.2).all()


def test_a_callback_that_leaves_a_cycle_keeps_no_flow(tmp_path, monkeypatch):
    """Figures leave cycles that hold the frames of their callers. The particles of finished stages must not stay with them."""
    made, alive = weakref.WeakSet(), []
    original = rf.ParticleFlow.step

    def step(self, x):
        made.add(self)
        return original(self, x)

    def draw(run, pictures):
        cycle = [sys._getframe()]
        cycle.append(cycle)

    def progress(at):
        if at.what == "flow" and at.done == 1:
            alive.append(len(made))

    monkeypatch.setattr(rf.ParticleFlow, "step", step)
    gc.disable()
    try:
        rf.GenerativeFlow(**SMALL).fit(load("digits"), run=tmp_path / "run", progress=progress, draw=draw)
    finally:
        gc.enable()
    assert alive == [1, 1, 1]
