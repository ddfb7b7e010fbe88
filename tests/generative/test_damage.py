"""Runs whose files were lost, swapped, edited or damaged, and disks that are full: one line that names the file, or the right
result. `test_fuzz.py` does the same at random."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from problems import content, generator
from torch import nn

import rieszflow as rf
from rieszflow._infra import files
from rieszflow._infra.files import atomically, load_tensors, save_tensors
from rieszflow._infra.messages import Notice
from rieszflow.errors import FileError, WriteError
from rieszflow.generative import Config, ConfigError, Run, RunError
from rieszflow.generative.networks import check_memory
from rieszflow.generative.run import NETWORK, STATE
from rieszflow.generative.schema import dump_yaml, parse_yaml
from rieszflow.sketch.counts import SKETCH

TINY = {
    "particles": 60, "stages": 3, "initial_steps": 2, "max_step_increment": 2, "slices": 4, "fit_steps": 6, "width": 8,
    "layers": 1, "device": "cpu", "checkpoint_seconds": 1e-9,
}  # fmt: skip


def points(seed=0):
    return torch.randn(80, 2, generator=generator(seed)) * torch.tensor([1.0, 3.0])


def images():
    return torch.rand(40, 1, 4, 4, generator=generator(1))


class Stop(Exception):
    pass


def stop_at(*where):
    def stop(p):
        if (p.stage, p.what, p.done) == where:
            raise Stop

    return stop


def stopped(path, where, data, **settings):
    with pytest.raises(Stop):
        rf.GenerativeFlow(**{**TINY, **settings}).fit(data, run=path, progress=stop_at(*where))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return rf.GenerativeFlow(**TINY).fit(points(), run=tmp_path_factory.mktemp("whole") / "run").run.path


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same settings, other data."""
    return rf.GenerativeFlow(**TINY).fit(points(1), run=tmp_path_factory.mktemp("other") / "run").run.path


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def network(path, number):
    return Path(path) / "networks" / f"{number:04d}.safetensors"


def sample(path):
    return rf.GenerativeFlow.load(path).sample(5, seed=1)


def resume(path, data=None):
    return rf.GenerativeFlow.resume(path, points() if data is None else data)


def refused(action, *says, kind=(RunError, ConfigError)):
    with pytest.raises(kind) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    for part in says:
        assert part in message


def edit(path, change):
    content = yaml.safe_load((path / "config.yaml").read_text())
    change(content)
    (path / "config.yaml").write_text(yaml.safe_dump(content))


def same_run(one, two):
    """Networks bit for bit, and what was measured."""
    names = sorted(f.name for f in (one / "networks").iterdir())
    assert names == sorted(f.name for f in (two / "networks").iterdir())
    for name in names:
        assert content(one / "networks" / name) == content(two / "networks" / name)
    a, b = ([dataclasses.replace(row, seconds={}) for row in Run.open(path).metrics()] for path in (one, two))
    assert a == b and len(a) == Run.open(one).config.total_stages()


# Networks that are missing, of another run, or damaged.


@pytest.mark.parametrize("gone", [(1,), (2,), (3,), (1, 3), (1, 2, 3)])
def test_missing_networks_are_noticed_and_trained_again(run, whole, gone):
    for number in gone:
        network(run, number).unlink()
    refused(lambda: sample(run), f"{gone[0]:04d}.safetensors: is missing; to train it again, resume the run")
    assert Run.open(run).missing() == list(gone)
    with pytest.warns(Notice, match=f"{gone[0]:04d}.safetensors is missing: training starts again at stage 1"):
        resume(run)
    same_run(run, whole)


def test_a_kill_while_a_missing_network_is_trained_again(run, whole):
    network(run, 2).unlink()
    with pytest.warns(Notice), pytest.raises(Stop):
        rf.GenerativeFlow.resume(run, points(), progress=stop_at(1, "fit", 3))
    refused(lambda: sample(run), "0002.safetensors: is missing")
    resume(run)
    same_run(run, whole)


def test_later_networks_of_an_earlier_training_are_not_kept(run, monkeypatch):
    """Training again may give other weights, as on a GPU: networks of later stages would not fit them."""
    network(run, 1).unlink()
    monkeypatch.setattr(rf.flow.steps, "_STEP", 0.3)
    before = [network(run, n).read_bytes() for n in (2, 3)]
    with pytest.warns(Notice), pytest.raises(Stop):
        rf.GenerativeFlow.resume(run, points(), progress=stop_at(2, "flow", 1))
    assert Run.open(run).finished() == 1 and not network(run, 2).exists() and not network(run, 3).exists()
    flow = resume(run)
    assert [network(run, n).read_bytes() for n in (2, 3)] != before and flow.run.finished() == 3
    assert len(flow.run.metrics()) == 3


def test_a_folder_in_the_place_of_a_network(run):
    network(run, 2).unlink()
    network(run, 2).mkdir()
    refused(lambda: sample(run), "0002.safetensors: is missing; a folder is in its place")
    refused(lambda: resume(run), "0002.safetensors: must be the file of a network, got a folder; remove it")
    network(run, 1).unlink()
    (run / "state.safetensors").unlink()
    refused(lambda: resume(run), "0002.safetensors: must be the file of a network, got a folder; remove it")
    network(run, 2).rmdir()
    with pytest.warns(Notice, match="state.safetensors is missing: training starts again"):
        resume(run)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_network_of_another_run(run, other, number):
    shutil.copy(network(other, number), network(run, number))
    for action in (sample, resume):
        refused(lambda action=action: action(run), f"{number:04d}.safetensors: belongs to another run")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_network_of_a_run_with_equal_settings_and_data(run, tmp_path, number):
    twin = rf.GenerativeFlow(**TINY).fit(points(), run=tmp_path / "twin").run.path
    shutil.copy(network(twin, number), network(run, number))
    for action in (sample, resume):
        refused(lambda action=action: action(run), f"{number:04d}.safetensors: belongs to another run")


def test_a_state_of_another_run(run, other, tmp_path):
    twin = rf.GenerativeFlow(**TINY).fit(points(), run=tmp_path / "twin").run.path
    for path in (other, twin):
        shutil.copy(path / "state.safetensors", run)
        refused(lambda: resume(run), "state.safetensors: belongs to another run")
        assert sample(run).shape == (5, 2)  # which needs no state


def test_a_damaged_first_network_stops_a_training_that_goes_on(tmp_path):
    stopped(tmp_path / "run", (3, "fit", 2), points())
    raw = bytearray(network(tmp_path / "run", 1).read_bytes())
    raw[-5] ^= 1
    network(tmp_path / "run", 1).write_bytes(raw)
    refused(lambda: resume(tmp_path / "run"), "0001.safetensors: damaged", "remove it and resume")
    network(tmp_path / "run", 1).unlink()
    rf.GenerativeFlow(**TINY).fit(points(), run=tmp_path / "whole")
    with pytest.warns(Notice, match="starts again"):
        resume(tmp_path / "run")
    same_run(tmp_path / "run", tmp_path / "whole")


def test_samples_of_an_unfinished_run_say_so(tmp_path, run):
    stopped(tmp_path / "half", (3, "flow", 1), points())
    with pytest.warns(Notice, match="training is not finished; samples go through 2 of 3 stages"):
        sample(tmp_path / "half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(run)


def test_a_lost_state(run, whole, tmp_path):
    """All is trained: nothing is missing. In the middle: begin again, and say so."""
    (run / "state.safetensors").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resume(run)
    same_run(run, whole)
    stopped(tmp_path / "half", (3, "flow", 1), points())
    (tmp_path / "half" / "state.safetensors").unlink()
    with pytest.warns(Notice, match="state.safetensors is missing: training starts again"):
        resume(tmp_path / "half")
    same_run(tmp_path / "half", whole)


def test_files_beside_the_networks_are_not_networks(run):
    expected = sample(run)
    for name in (
        "0002 (copy).safetensors",
        "1abc.safetensors",
        "00002.safetensors",
        "0000.safetensors",
        "0004.safetensors.part",
        "._0001.safetensors",
    ):
        (run / "networks" / name).write_bytes(b"junk")
    assert Run.open(run).finished() == 3 and torch.equal(sample(run), expected)
    shutil.copy(network(run, 3), network(run, 4))
    refused(lambda: sample(run), "0004.safetensors: is of stage 4, but config.yaml has 3 stages")


def test_linked_folders_and_files(run, tmp_path):
    expected = sample(run)
    (tmp_path / "link").symlink_to(run)
    moved = tmp_path / "moved.safetensors"
    network(run, 2).rename(moved)
    network(run, 2).symlink_to(moved)
    assert torch.equal(sample(tmp_path / "link"), expected)
    moved.unlink()
    refused(lambda: sample(tmp_path / "link"), "0002.safetensors: is missing")


def test_resumed_with_a_module_made_anew(tmp_path):
    """The first network starts from the weights that the run began with, whatever those given now are."""

    def module(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Linear(2, 2)

    settings = {**TINY, "stages": 2}
    first = rf.GenerativeFlow(**settings, network=module(0)).fit(points())
    with pytest.raises(Stop):
        rf.GenerativeFlow(**settings, network=module(0)).fit(points(), run=tmp_path / "run", progress=stop_at(1, "flow", 1))
    again = rf.GenerativeFlow.resume(tmp_path / "run", points(), network=module(1))
    for number in (1, 2):
        assert content(network(first.run.path, number)) == content(network(again.run.path, number))


def test_other_held_out_data_are_refused(tmp_path):
    with pytest.raises(Stop):
        rf.GenerativeFlow(**TINY).fit(points(), held_out=points(2), run=tmp_path / "run", progress=stop_at(2, "flow", 1))
    refused(lambda: rf.GenerativeFlow.resume(tmp_path / "run", points(), held_out=points(3)), "held-out data differ from those")


# Settings and data that were edited afterwards.


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("config", "clip", True),
        ("config", "latents", "smooth"),
        ("config", "layers", 2),
        ("config", "seed", 5),
        ("config", "levels", [{"factor": 1, "noise_std": 0.1}]),
        ("data", "low", -9.0),
        ("data", "high", 90),
        ("data", "points", 7),
        ("data", "fingerprint", "0" * 32),
    ],
)
def test_edited_settings_are_refused(run, section, key, value):
    edit(run, lambda content: content[section].__setitem__(key, value))
    refused(lambda: sample(run), "0001.safetensors: was trained with other settings or data than config.yaml states; undo")
    refused(lambda: resume(run), "config.yaml")


def test_what_may_be_edited(run, tmp_path, whole):
    """Device, precision, checkpoints, and where the data are; and more networks, which are what a longer run gives."""
    expected = sample(run)
    edit(run, lambda c: c["config"].update(device="auto", checkpoint_seconds=5, mixed_precision="bf16"))
    edit(run, lambda c: c["data"].update(path="/elsewhere"))
    assert torch.equal(sample(run), expected)
    longer = shutil.copytree(whole, tmp_path / "longer")
    edit(longer, lambda c: c["config"].update(stages=4))
    with pytest.warns(Notice, match="training was finished, but config.yaml asks for more stages now: training starts"):
        resume(longer)
    rf.GenerativeFlow(**{**TINY, "stages": 4}).fit(points(), run=tmp_path / "four")
    same_run(longer, tmp_path / "four")
    edit(longer, lambda c: c["config"].update(stages=3))
    refused(lambda: sample(longer), "0004.safetensors: is of stage 4, but config.yaml has 3 stages; raise `stages`")


def test_more_networks_of_the_last_level_only(tmp_path):
    levels = [{"factor": 2, "stages": 1}, {"factor": 1, "stages": 1}]
    settings = {**TINY, "width": 256, "channels": [8], "fit_steps": 2, "levels": levels}
    rf.GenerativeFlow(**settings).fit(images(), run=tmp_path / "run")
    edit(tmp_path / "run", lambda c: c["config"]["levels"][1].update(stages=2))
    with pytest.warns(Notice, match="starts again"):
        resume(tmp_path / "run", images())
    longer = [levels[0], {"factor": 1, "stages": 2}]
    rf.GenerativeFlow(**{**settings, "levels": longer}).fit(images(), run=tmp_path / "three")
    same_run(tmp_path / "run", tmp_path / "three")
    edit(tmp_path / "run", lambda c: c["config"]["levels"][0].update(stages=2))
    refused(lambda: sample(tmp_path / "run"), "was trained with other settings")


def test_a_finished_run_keeps_no_particles(run, whole):
    """The checkpoint's header stays: by it `resume` restores metrics, and tells networks of other runs apart."""
    tensors, meta = Run.open(run).load_state()
    assert not tensors and meta["stage"] == 4
    before = {f: f.read_bytes() for f in run.rglob("*") if f.is_file()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resume(run)
    assert before == {f: f.read_bytes() for f in run.rglob("*") if f.is_file()}


def test_a_state_that_does_not_say_where_it_is(run):
    tensors, meta = Run.open(run).load_state()
    for key in ("stage", "step", "rows"):
        save_tensors(run / "state.safetensors", STATE, tensors, {k: v for k, v in meta.items() if k != key})
        refused(lambda: resume(run), "state.safetensors: d")


EXHAUSTED = [
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    OSError(12, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", EXHAUSTED)
def test_too_little_memory_is_no_damaged_file(tmp_path, monkeypatch, error):
    def fails(*arguments, **more):
        raise error

    stopped(tmp_path / "run", (2, "fit", 2), points())
    rf.SliceSketch.from_points(points(), slices=4).save(tmp_path / "a.sketch")
    for name, action in (
        ("rieszflow.generative.stages.blank_state", lambda: resume(tmp_path / "run")),
        ("rieszflow._infra.files._read", lambda: resume(tmp_path / "run")),
        ("rieszflow.sketch.counts._read_plan", lambda: rf.SliceSketch.load(tmp_path / "a.sketch")),
        ("rieszflow.generative.networks.Displacement.load_state_dict", lambda: sample(tmp_path / "run")),
    ):
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.setattr(name, fails)
            with pytest.raises(type(error)) as caught:
                action()
        assert caught.value is error


def test_range_edited_before_anything_was_trained(tmp_path):
    stopped(tmp_path / "run", (1, "flow", 1), points())
    (tmp_path / "run" / "state.safetensors").unlink()
    edit(tmp_path / "run", lambda c: c["data"].update(low=-50.0))
    refused(lambda: resume(tmp_path / "run"), "config.yaml: `low` of the data must be 0.0, got -50.0")


# metrics.jsonl and evaluation.json


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: f.unlink(),
        lambda f: f.write_text(""),
        lambda f: f.write_bytes(f.read_bytes()[:-40]),
        lambda f: f.write_text("".join(f.read_text().splitlines(True)[1:])),
        lambda f: f.write_text("".join(f.read_text().splitlines(True)[:2])),
        lambda f: f.write_text(f.read_text().replace('"fit_error"', '"fit_eror"')),
        lambda f: f.write_text(f.read_text().replace('"flow_steps": 2', '"flow_steps": 3')),
        lambda f: f.write_text("[1]\n{}\n" + f.read_text()),
        lambda f: f.write_text("[" * 100_000),
        lambda f: f.write_bytes(b"\xff\xfe" * 10),
        lambda f: (f.unlink(), f.mkdir()),
    ],
)  # fmt: skip
def test_metrics_that_were_damaged(run, whole, damage):
    file = run / "metrics.jsonl"
    damage(file)
    refused(lambda: Run.open(run).metrics(), "metrics.jsonl")
    assert torch.equal(sample(run), sample(whole))
    if file.is_dir():
        refused(lambda: resume(run), "metrics.jsonl: cannot be written", "untouched", kind=WriteError)
        return
    with pytest.warns(Notice, match="metrics.jsonl.*: it was restored from the checkpoint"):
        resume(run)
    same_run(run, whole)


def test_metrics_of_another_run(run, other):
    shutil.copy(other / "metrics.jsonl", run)
    refused(lambda: Run.open(run).metrics(), "metrics.jsonl: line 1 belongs to another run", "`resume` restores it")


def test_scores_that_were_damaged_or_are_of_other_networks(run, other):
    opened = Run.open(run)
    scores = {"samples": 3, "scores": {"recall": {"generated": float("nan"), "training_data": 0.25}}}
    opened.write_evaluation(scores)
    assert json.dumps(opened.evaluation()) == json.dumps(scores)
    file = run / "evaluation.json"
    raw = file.read_text()
    for damaged in (raw[:-20], raw.replace("0.25", "0.35"), raw.replace("recall", "recal"), "", "[]", "3", '{"a": 1}'):
        file.write_text(damaged)
        refused(opened.evaluation, "evaluation.json: damaged")
    Run.open(other).write_evaluation(scores)
    shutil.copy(other / "evaluation.json", run)
    with pytest.warns(Notice, match="evaluation.json: the scores are of other networks than those of the run now"):
        assert opened.evaluation() is None


# config.yaml, presets and settings that cannot be


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["data"].update(shape=[-2]), "`data.shape[0]` must be greater than or equal to 1, got -2"),
        (lambda c: c["data"].update(shape=[0]), "`data.shape[0]` must be greater than or equal to 1, got 0"),
        (lambda c: c["data"].update(shape=[10**12]), "`data.shape[0]` must be less than or equal to"),
        (lambda c: c["data"].update(shape=[1, 10**5, 10**5]), "`data.shape"),
        (lambda c: c["data"].update(shape=[2, 2]), "`data.shape` must be [d] or [C, H, W]"),
        (lambda c: c["data"].update(shape="2"), "`data.shape` must be a valid list, got '2'"),
        (lambda c: c["data"].update(shape=[True]), "`data.shape[0]` must be a valid integer, got True"),
        (lambda c: c["data"].update(low=float("nan")), "`data.low` must be a finite number, got nan"),
        (lambda c: c["data"].update(high=float("inf")), "`data.high` must be a finite number, got inf"),
        (lambda c: c["data"].update(low="zero"), "`data.low` must be a valid number, got 'zero'"),
        (lambda c: c["data"].update(high=-99), "`data.high` must be above `low`, got -99"),
        (lambda c: c["data"].update(high=c["data"]["low"]), "`data.high`"),
        (lambda c: c["data"].update(points=0), "`data.points` must be greater than or equal to 1, got 0"),
        (lambda c: c["data"].update(points="HUGE"), "`data.points` must be less than or equal to"),
        (lambda c: c["data"].update(name=5), "`data.name` must be a valid string, got 5"),
        (lambda c: c["data"].update(path=5), "`data.path` must be a valid string, got 5"),
        (lambda c: c["data"].update(shape=[3]), "`data.columns` must be null for images"),
        (lambda c: c["data"].update(shape=[1, 1, 2]), "`data.columns` must be null for images"),
        (lambda c: c["data"].update(columns=None), "`data.columns` must be null for images"),
        (lambda c: c["data"]["columns"].update(spread=[1.0, -1.0]), "`data.columns.spread[1]` must be"),
        (lambda c: c["data"]["columns"].update(tail=[1.0, 1e9]), "`data.columns.tail[1]` must be"),
        (lambda c: c["data"].pop("columns"), "`data.columns` is missing"),
        (lambda c: c["data"].update(fingerprint=None), "`data.fingerprint` must be a valid string, got None"),
        (lambda c: c["data"].update(other=2001), "`data.other` is not known"),
        (lambda c: c["data"].update({5: 6}), "`data` must be a mapping of names"),
        (lambda c: c.update(data=[1]), "`data` must be a mapping of names, got [1]"),
        (lambda c: c.update(data=None), "`data` must be a mapping of names, got None"),
        (lambda c: c.update(version="x" * 5000), "of version 'xxx"),
        (lambda c: c["config"].pop("clip"), "`clip` is missing"),
        (lambda c: c["config"].update(clipp=True), "`clipp` is not known; did you mean 'clip'?"),
        (lambda c: c["config"].update({7: 1}), "`7` is not known"),
        (lambda c: c.update(config=[]), "the settings must be a mapping, got []"),
        (lambda c: c["config"].update(width=10**12), "`width` must be less than or equal to 1000000, got"),
        (lambda c: c["config"].update(layers=10**6), "`layers` must be less than or equal to 256, got 1000000"),
        (lambda c: c["config"].update(channels=[10**9]), "channels"),
        (lambda c: c["config"].update(channels=[8] * 10**4), "channels"),
        (lambda c: c["config"].update(particles=10**15), "`particles` must be less than or equal to 1000000000, got"),
        (lambda c: c["config"].update(slices=10**12), "slices"),
        (lambda c: c["config"].update(stages=10**9), "stages"),
        (lambda c: c["config"].update(stages=[3]), "`stages` must be a valid integer, got [3]"),
        (lambda c: c["config"].update(learning_rate="HUGE"), "`learning_rate` must be a valid number, got a very long number"),
        (lambda c: c["config"].update(momentum=".5"), "`momentum` must be a valid number, got '.5'"),
        (lambda c: c["config"].update(device=5), "`device` must be a valid string, got 5"),
        (lambda c: c["config"]["paper"].update(patch_step_sizes=[True]), "`paper.patch_step_sizes[0]` must be"),
        (lambda c: c["config"].update(levels=[{"factor": 1}] * 200), "levels"),
        (lambda c: c["config"].update(levels=[{"factor": 2**70}]), "`levels[0].factor`"),
        (lambda c: c["config"].update(levels=[{"factor": 1, "stagse": 2}]), "did you mean 'stages'?"),
    ],
)  # fmt: skip
def test_config_files_that_cannot_be(run, change, says):
    content = yaml.safe_load((run / "config.yaml").read_text())
    change(content)
    (run / "config.yaml").write_text(dump_yaml(content).replace("HUGE", "0x1" + "0" * 9999))
    refused(lambda: Run.open(run), str(run), says)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\xff\xfe\x00\x01" * 50, "not UTF-8"),
        (b"", "not written by rieszflow"),
        (b"- a\n- b\n", "not written by rieszflow"),
        (b"format:\trieszflow\n\tversion: 4\n", "YAML"),
        (b"format: rieszflow\nformat: rieszflow\n", "line 2: the key 'format' is there twice"),
        (b"a: &x [1]\nb: *x\n", "line 2: aliases (*name) are not accepted"),
        (b"a: &x [1]\nb: {<<: *x}\n", "aliases"),
        (b"a: !!python/object/apply:os.system [ls]\n", "YAML"),
        (b"a: !!int ''\n", "YAML"),
        (b"a: 2001-99-99\n", "YAML"),
        (b"a: " + b"9" * 5000, "YAML"),
        (b"? [1, 2]\n: 3\n", "YAML"),
        (b"[" * 1500, "YAML"),
        (b"a: 1\n" * 1_000_000, "larger than 4 MB"),
        (b"\0\0\0", "YAML"),
    ],
)  # fmt: skip
def test_config_files_that_are_none(run, raw, says):
    (run / "config.yaml").write_bytes(raw)
    refused(lambda: Run.open(run), "config.yaml", says)
    preset = run / "own.yaml"
    preset.write_bytes(raw)
    if says != "not written by rieszflow":
        refused(lambda: Config.preset("images", str(preset)), "own.yaml", says, kind=ConfigError)


def test_a_config_with_a_byte_order_mark_is_what_it_says(run):
    file = run / "config.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert sample(run).shape == (5, 2)


def test_yaml_says_what_it_said():
    """1e-3 is a number here; what looks like one is quoted, and comes back as text."""
    assert parse_yaml("[1e-3, 5E2, -1.5e+3, 1.e2]") == [1e-3, 500.0, -1500.0, 100.0]
    content = {"a": "1e5", "b": "123e4567", "c": ["x"], "d": ["x"], "e": 1e-7, "f": "é", "g": None}
    assert parse_yaml(dump_yaml(content)) == content
    shared = [1]
    assert parse_yaml(dump_yaml({"a": shared, "b": shared})) == {"a": [1], "b": [1]}


@pytest.mark.parametrize(
    ("name", "meant"), [("stagse", "stages"), ("slcies", "slices"), ("learning-rate", "learning_rate"), ("zzz", None)]
)
def test_did_you_mean(name, meant, tmp_path):
    says = f"; did you mean '{meant}'?" if meant else ""
    refused(lambda: rf.GenerativeFlow(**{name: 3}), f"`{name}` is not known{says}")
    refused(lambda: Config.preset("digits", "cpu", **{name: 3}), f"`{name}` is not known{says}")
    (tmp_path / "own.yaml").write_text(f"{name}: 3\n")
    refused(lambda: Config.preset("digits", str(tmp_path / "own.yaml")), f"`{name}` is not known{says}", "own.yaml")


@pytest.mark.parametrize("device", ["meta", "5", "warp", "", "cuda:99"])
def test_devices_that_cannot_be(device):
    refused(lambda: rf.GenerativeFlow(**{**TINY, "device": device}).fit(points()), "`device` must be available on this machine")


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"width": 10**6, "layers": 256}, (2,)),
        ({"channels": [10**5, 10**5]}, (1, 8, 8)),
        ({"particles": 10**9}, (1000,)),
        ({"slices": 10**7, "particles": 10**8}, (100,)),
    ],
)
def test_more_memory_than_there_is(tmp_path, monkeypatch, settings, shape):
    """On a machine of 16 GiB, whatever the tests run on."""
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**22}
    monkeypatch.setattr(os, "sysconf", lambda name: pages[name])
    config = Config(**{**TINY, **settings})
    refused(lambda: check_memory(config, shape, torch.device("cpu"), True), "GiB for", "there are 16.0 GiB")
    flow = rf.GenerativeFlow(config)
    refused(lambda: flow.fit(torch.rand(20, *shape), run=tmp_path / "run"), "there are 16.0 GiB")
    assert not (tmp_path / "run").exists()


def test_more_samples_than_memory(run):
    refused(lambda: rf.GenerativeFlow.load(run).sample(10**13), "GiB for samples")
    assert torch.equal(rf.GenerativeFlow.load(run).sample(5, seed=1, batch_size=10**15), sample(run))


def test_attention_needs_some_channels():
    flow = rf.GenerativeFlow(**{**TINY, "channels": [4], "attention": True})
    refused(lambda: flow.fit(images()), "`channels` must end with at least 8 with attention, got 4")


# Kills in a write, full disks, and folders that may not be written.


def dead_process():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_folder_whose_first_write_was_killed_is_empty(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / f".config.{files._HERE}-{dead_process()}-0.tmp.yaml").write_text("format: ri")
    (path / ".lock").touch()
    refused(lambda: resume(path), "not a run of rieszflow")
    rf.GenerativeFlow(**TINY).fit(points(), run=path)
    assert not [p for p in path.rglob("*") if ".tmp" in p.name]
    refused(lambda: rf.GenerativeFlow(**TINY).fit(points(), run=path), "exists and is not an empty folder")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / ".hidden").touch()
    refused(lambda: rf.GenerativeFlow(**TINY).fit(points(), run=tmp_path / "foreign"), "not an empty folder")
    assert [p.name for p in (tmp_path / "foreign").iterdir()] == [".hidden"]


def test_leftovers_of_processes_that_are_gone(tmp_path):
    """The next write to a path removes them, and nothing else: not those of the living, of other machines, of other paths."""
    gone, here = dead_process(), files._HERE
    file = tmp_path / "a [x].npz"
    leftovers = [f".a [x].{here}-{gone}-{k}.tmp.npz" for k in (0, 7)]
    kept = [
        f".a [x].{here}-{os.getpid()}-0.tmp.npz", f".a [x].{here}-1-0.tmp.npz", f".a [x].00000000-{gone}-0.tmp.npz",
        f".b.{here}-{gone}-0.tmp.npz", f".a [x].{here}-{gone}-0.tmp.png", f".a [x].{gone}.tmp.npz", ".a [x].npz",
        "a [x].npz.tmp",
    ]  # fmt: skip
    for name in [*leftovers, *kept]:
        (tmp_path / name).touch()
    (tmp_path / leftovers[0]).unlink()
    (tmp_path / leftovers[0]).mkdir()
    (tmp_path / leftovers[0] / "inside").touch()
    atomically(file, lambda t: t.write_text("new"))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, file.name])


def test_a_run_clears_up_before_it_goes_on(run):
    left = [run / folder / f".x.{files._HERE}-{dead_process()}-0.tmp.png" for folder in ("", "networks")]
    living = run / f".evaluation.{files._HERE}-{os.getpid()}-9.tmp.json"  # evaluated at the same time
    for file in [*left, living]:
        file.touch()
    resume(run)
    assert not any(file.exists() for file in left) and living.exists()


def test_two_threads_write_one_path(tmp_path):
    """Each has a file of its own to write to: what is there in the end is one of the two, whole."""
    file, barrier = tmp_path / "a.txt", threading.Barrier(2)

    def write(letter):
        def slowly(temporary):
            with open(temporary, "w") as out:
                out.write(letter * 1000)
                barrier.wait(timeout=30)
                out.write(letter * 1000)

        atomically(file, slowly)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() in ("a" * 2000, "b" * 2000) and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("reason", ["No space left on device", "Read-only file system", "Input/output error"])
def test_system_errors_name_the_file_and_what_is_safe(tmp_path, monkeypatch, call, reason):
    file = tmp_path / "a.txt"

    def fails(*arguments, **more):
        raise OSError(28, reason)

    monkeypatch.setattr(os, call, fails)
    refused(
        lambda: atomically(file, lambda t: t.write_text("new")),
        f"{file}: cannot be written ({reason}); nothing is left behind",
        kind=WriteError,
    )
    assert list(tmp_path.iterdir()) == []
    file.write_text("old")
    refused(lambda: atomically(file, lambda t: t.write_text("new")), "what was there before is untouched", kind=WriteError)
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_paths_that_cannot_be_written(tmp_path):
    def written(path):
        return lambda: atomically(path, lambda t: t.write_text("x"))

    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    refused(written(tmp_path / "folder"), "folder: cannot be written (Is a directory)", kind=WriteError)
    refused(written(tmp_path / "file" / "below" / "x"), "cannot be written (Not a directory)", kind=WriteError)
    refused(written(tmp_path / ("x" * 300)), "cannot be written (File name too long)", kind=WriteError)
    written(tmp_path / ("é" * 120 + ".npz"))()  # 244 bytes: as long as may be, and the hidden name beside it is shorter
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.txt"))
    written(strange)()
    assert strange.read_text() == "x"
    refused(lambda: rf.GenerativeFlow(**TINY).fit(points(), run=tmp_path / "file"), "not an empty folder")
    below = tmp_path / "file" / "run"
    refused(lambda: rf.GenerativeFlow(**TINY).fit(points(), run=below), "cannot be made (Not a directory)", kind=WriteError)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    if sys.platform != "linux" or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("numbers", [(0, 1, 3), pytest.param(range(40), marks=pytest.mark.slow)])
def test_a_full_disk_at_every_write(small_disk, tmp_path, whole, numbers):
    """The disk is full from the k-th file on, for every k; with room again the run ends as if nothing had been."""
    path, filler, ended = small_disk / "run", small_disk / "filler", False
    for k in numbers:
        writes = 0
        original = files.atomically

        def counting(file, write, k=k, original=original):
            nonlocal writes
            writes += 1
            if writes == k + 1:
                with open(filler, "wb", buffering=0) as out, contextlib.suppress(OSError):
                    while True:
                        out.write(b"x" * 4096)
            return original(file, write)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "atomically", counting)
            patch.setattr("rieszflow.generative.run.atomically", counting)
            try:
                rf.GenerativeFlow(**{**TINY, "checkpoint_seconds": 60}).fit(points(), run=path)
            except OSError as error:
                message = str(error)
            else:
                ended = True
        assert ended or re.search(r"cannot be (written|made|locked).*No space left on device", message)
        filler.unlink(missing_ok=True)
        if ended:
            break
        if (path / "config.yaml").exists():
            resume(path)
            same_run(path, whole)
        assert not list(small_disk.rglob(".*tmp*"))
        shutil.rmtree(path, ignore_errors=True)
    assert len(numbers) == 3 or (ended and k > 8)


def test_a_disk_that_may_only_be_read(small_disk, whole):
    """Sampling and looking need to write nothing; what writes says so."""
    path = Path(shutil.copytree(whole, small_disk / "run"))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    opened = Run.open(path)
    assert opened.metrics() and opened.evaluation() is None and opened.missing() == []
    assert torch.equal(sample(path), sample(whole))
    said = "(Read-only file system)"
    refused(lambda: resume(path), f"run: cannot be locked for training {said}; nothing was changed", kind=WriteError)
    refused(lambda: opened.write_evaluation({}), f"evaluation.json: cannot be written {said}", kind=WriteError)
    flow = rf.GenerativeFlow(**TINY)
    refused(lambda: flow.fit(points(), run=small_disk / "new"), f"new: cannot be made {said}", kind=WriteError)
    refused(lambda: rf.GenerativeFlow.load(whole).save(small_disk / "copy"), f"copy: cannot be written {said}", kind=WriteError)
    sketch = rf.SliceSketch.from_points(points(), slices=4)
    refused(lambda: sketch.save(small_disk / "a.sketch"), f"a.sketch: cannot be written {said}", kind=WriteError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.jsonl", "evaluation.json", "state.safetensors", "networks/0002.safetensors"]
)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(run, name):
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    opening = {
        "config.yaml": lambda: sample(run), "metrics.jsonl": lambda: Run.open(run).metrics(),
        "evaluation.json": lambda: Run.open(run).evaluation(), "state.safetensors": lambda: resume(run),
        "networks/0002.safetensors": lambda: sample(run),
    }  # fmt: skip
    refused(opening[name], str(run))


def test_names_that_are_not_utf8(tmp_path, whole):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe run"))
    rf.GenerativeFlow(**TINY).fit(points(), run=path)
    assert torch.equal(sample(path), sample(whole))
    file = path / "a.sketch"
    rf.SliceSketch.from_points(points(), slices=4).save(file)
    assert rf.SliceSketch.load(file).n == 80
    file.write_bytes(file.read_bytes()[:-30])
    refused(lambda: rf.SliceSketch.load(file), "damaged", kind=FileError)


def test_networks_deleted_while_a_run_is_trained(tmp_path):
    """The folder: training ends and says so. A network: training goes on, and samples are refused until it is there again."""
    path = tmp_path / "run"
    with pytest.raises((FileError, WriteError), match="0001.safetensors: no such file"):
        rf.GenerativeFlow(**TINY).fit(
            points(), run=path, progress=lambda p: p.stage == 2 and p.what == "flow" and shutil.rmtree(path, True)
        )


def test_two_begin_in_one_folder_at_once(tmp_path, monkeypatch):
    """The second one, which has seen an empty folder too, does not write over the first one's config.yaml."""
    path, first = tmp_path / "run", []
    original = Run.exclusively

    def overtaken(self):
        if not first:
            first.append(self)
            Run.create(path, Config(seed=1), DATA)
        return original(self)

    monkeypatch.setattr(Run, "exclusively", overtaken)
    refused(lambda: Run.create(path, Config(seed=2), DATA), "not an empty folder")
    assert first and Run.open(path).config.seed == 1


DATA = {
    "name": "tensor", "path": None, "shape": [2], "low": 0.0, "high": 1.0,
    "columns": {"centre": [0.0, 0.0], "spread": [1.0, 1.0], "tail": [0.0, 0.0]}, "points": 5, "fingerprint": "0" * 32,
}  # fmt: skip


def test_a_run_that_is_copied_while_it_is_trained(tmp_path, whole):
    """Copied at every step: the copy goes on to the same end, or was copied between two writes, and says what is missing."""
    copies = []

    def copy(p):
        if (p.stage, p.what, p.done) in ((1, "fit", 4), (2, "flow", 1), (3, "fit", 1)):
            copies.append(tmp_path / f"{p.stage}-{p.what}-{p.done}")
            shutil.copytree(tmp_path / "run", copies[-1])

    rf.GenerativeFlow(**TINY).fit(points(), run=tmp_path / "run", progress=copy)
    for path in copies:
        resume(path)
        same_run(path, whole)


# Tensor files and sketches


def test_versions_of_runs_and_sketches(tmp_path):
    file = tmp_path / "x"
    for form, now in ((NETWORK, 9), (SKETCH, 5)):
        save_tensors(file, form, {}, {})
        assert load_tensors(file, form) == ({}, {})
        file.write_bytes(file.read_bytes().replace(b'version\\": ' + str(now).encode(), b'version\\": 2'))
        refused(lambda form=form: load_tensors(file, form), f"of version 2; this rieszflow reads version {now}", kind=FileError)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int8, torch.complex64, torch.float64])
def test_tensors_of_every_kind(tmp_path, dtype):
    tensors = {
        "a": torch.arange(6).reshape(2, 3).to(dtype),
        "b": torch.zeros((), dtype=dtype),
        "c": torch.zeros(0, 3, dtype=dtype),
    }
    save_tensors(tmp_path / "x", NETWORK, tensors, {})
    found, _ = load_tensors(tmp_path / "x", NETWORK)
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == dtype for name in tensors)


def test_tensor_files_are_those_of_safetensors(tmp_path):
    """Bit for bit, for every dtype, so that readers in other languages read them too; a tensor is written without a copy."""
    g = generator(0)
    tensors = {f"é{k % 3}.{k}": torch.randint(0, 2, (k % 4 + 1, 3), generator=g).to(t) for k, t in enumerate(files._DTYPES)}
    tensors |= {
        'z\n"\x01': torch.zeros(0, 3),
        "s": torch.zeros((), dtype=torch.float64),
        "t": torch.rand(3, 4, generator=g).t(),
    }
    checksum = save_tensors(tmp_path / "x", NETWORK, tensors, {"a": "é\n"})
    header = {"version": NETWORK.version, "kind": "network", "meta": {"a": "é\n"}, "checksum": checksum}
    content = {name: t.contiguous() for name, t in tensors.items()}
    assert (tmp_path / "x").read_bytes() == safetensors.torch.save(content, {"rieszflow": json.dumps(header)})
    with pytest.raises(ValueError, match="must have dtypes that a safetensors file can hold, got .* of torch.complex128"):
        save_tensors(tmp_path / "y", NETWORK, {"a": torch.zeros(2, dtype=torch.complex128)}, {})


def test_writing_tensors_takes_no_memory(tmp_path):
    """100 MB of them, in a process of its own, whose peak is looked at before and after."""
    code = """
import resource, sys, torch
from pathlib import Path
from rieszflow._infra.files import Format, save_tensors
tensors = {f"{k}": torch.ones(12_500_000 // 2) for k in range(4)}
save_tensors(Path(sys.argv[1]), Format("x", 1), {"a": torch.ones(3)}, {})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save_tensors(Path(sys.argv[1]), Format("x", 1), tensors, {})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    if sys.platform != "linux":
        pytest.skip("ru_maxrss is in other units here")
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    assert int(subprocess.run(command, capture_output=True, check=True, text=True).stdout) < 25_000  # KB; one tensor


def test_names_that_are_none_and_data_that_are_none(tmp_path):
    flow = rf.GenerativeFlow(particles=20, stages=1, fit_steps=2, width=4, initial_steps=2)
    with pytest.raises(TypeError, match="got NoneType"):
        flow.fit(None)
    with pytest.raises(ValueError, match="must be the name of a folder"):
        flow.fit(torch.rand(20, 2, generator=torch.Generator().manual_seed(0)), run=f"{tmp_path}/a\0b")
    for name in ("", f"{tmp_path}/a\0b"):
        with pytest.raises(ValueError, match="the name of a file or folder is needed"):
            atomically(Path(name), lambda temporary: temporary.write_text("x"))
