"""The main algorithm end to end, small: it learns, saves, loads, resumes, and refuses what it should."""

import copy
import dataclasses
import json
import math
import pickle
import shutil

import pytest
import torch
import yaml
from problems import content, generator
from safetensors.torch import load_file, save_file
from torch import nn

import rieszflow as rf
from rieszflow._infra.files import atomically, load_tensors, save_tensors
from rieszflow.generative import Config, ConfigError, Run, RunError, presets
from rieszflow.generative.networks import build
from rieszflow.generative.run import NETWORK, STATE

TINY = {
    "particles": 200,
    "stages": 3,
    "initial_steps": 6,
    "slices": 8,
    "fit_steps": 40,
    "width": 32,
    "layers": 1,
    "device": "cpu",
}


def ring(n: int, seed: int) -> torch.Tensor:
    g = generator(seed)
    angle = 2 * math.pi * torch.rand(n, generator=g)
    radius = 5 + 0.2 * torch.randn(n, generator=g)
    return torch.stack([3 + radius * angle.cos(), radius * angle.sin()], 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "ring"
    return rf.GenerativeFlow(**TINY).fit(ring(300, 0), run=path)


def test_learns_a_ring():
    """2-D points on a noisy circle: fresh samples come five times closer than noise all over the ring's box.

    1,000 against 1,000 points of one distribution differ by about E|X − X′|/1000·√2 ≈ 0.01 here, the noise by 0.25.
    """
    flow = rf.GenerativeFlow(
        particles=1000,
        stages=3,
        initial_steps=20,
        max_step_increment=40,
        max_steps=60,
        slices=32,
        fit_steps=300,
        width=64,
        layers=3,
        device="cpu",
    ).fit(ring(1000, 1))
    held_out = ring(1000, 2)
    samples = flow.sample(1000, seed=3)
    noise = torch.tensor([-2.0, -5.0]) + 10 * torch.rand(1000, 2, generator=generator(4))  # all over the ring's box
    before, after = (rf.energy_distance(t, held_out, statistic="U").item() for t in (noise, samples))
    assert after < 0.2 * before
    assert ((samples - torch.tensor([3.0, 0.0])).norm(dim=1) - 5).abs().median() < 0.4
    assert samples.shape == (1000, 2) and samples.isfinite().all()


def test_learns_small_images():
    """Two kinds of 8 × 8 images through diffusers' UNet: what comes out is nearer to them than the noise was."""
    g = generator(0)
    bars = torch.zeros(200, 1, 8, 8)
    bars[:100, :, 2:4], bars[100:, :, :, 5:7] = 1, 1
    bars = (bars + 0.05 * torch.randn(bars.shape, generator=g)).clamp(0, 1)
    flow = rf.GenerativeFlow(
        particles=200,
        stages=2,
        initial_steps=40,
        max_step_increment=40,
        slices=64,
        fit_steps=60,
        channels=[8, 16],
        clip=True,
        layers=1,
        device="cpu",
    ).fit(bars)
    samples = flow.sample(100, seed=1)
    assert samples.shape == (100, 1, 8, 8) and samples.min() >= 0 and samples.max() <= 1
    rows = flow.run.metrics()
    assert rows[-1].energy_distance["fresh_samples"] < 0.3 * rf.energy_distance(
        torch.rand(200, 64, generator=g), bars.flatten(1), statistic="U"
    )


def test_schedule_is_the_papers():
    assert Config.preset("mnist", "paper", stages=11).flow_steps() == [
        32, 64, 128, 256, 512, 1024, 2048, 4096, 6144, 8192, 10240,
    ]  # fmt: skip
    assert max(Config.preset("mnist", "paper").flow_steps()) == 30000


def test_run_folder_and_metrics(trained):
    run = trained.run
    assert sorted(p.name for p in run.path.iterdir() if p.name != ".lock") == [
        "config.yaml",
        "metrics.jsonl",
        "networks",
        "state.safetensors",
    ]
    rows = run.metrics()
    assert run.finished() == 3 and [row.stage for row in rows] == [1, 2, 3]
    assert [row.flow_steps for row in rows] == run.config.flow_steps()
    for row in rows:
        assert row.fit_error >= 0 and set(row.energy_distance) == {
            "particles", "network_particles", "fresh_samples", "training_data",
        }  # fmt: skip
        assert all(math.isfinite(e) for e in row.energy_distance.values())
    # nearer than noise all over the ring's box (0.017); 45 held-out points leave that uncertain by E|X − X′|/45 = 0.01
    box = torch.tensor([-2.0, -5.0]) + 10 * torch.rand(2000, 2, generator=generator(0))
    noise = rf.energy_distance(*map(trained.run.columns.transform, (box, ring(2000, 1))), statistic="U").item()
    assert rows[-1].energy_distance["fresh_samples"] < noise + 0.01


def test_the_sampler_is_the_trained_map(trained):
    """sample() is x ← x − Φ_l(x) for l = 1 … L from uniform noise, done here by hand from the files."""
    x = torch.rand(7, 2, generator=generator(5))
    for number in (1, 2, 3):
        weights = load_file(trained.run.network_file(number))
        phi = build(trained.config, (2,))
        phi.load_state_dict(weights)
        with torch.no_grad():
            x = x - weights["scale"] * phi.net(4 * x - 2)
    torch.testing.assert_close(trained.sample(7, seed=5), trained.run.columns.inverse_transform(x), rtol=1e-5, atol=1e-5)


def test_seeds_and_global_state(trained, tmp_path):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = rf.GenerativeFlow(**TINY).fit(ring(300, 0))
    assert torch.equal(torch.get_rng_state(), before)
    for number in (1, 2, 3):
        one, two = trained.run.load_network(number), again.run.load_network(number)
        assert all(torch.equal(one[k], two[k]) for k in one)
    assert torch.equal(trained.sample(5, seed=1), again.sample(5, seed=generator(1)))
    assert not torch.equal(trained.sample(5, seed=1), trained.sample(5, seed=2))
    other = rf.GenerativeFlow(**{**TINY, "seed": 1, "stages": 1}).fit(ring(300, 0))
    assert not torch.equal(other.run.load_network(1)["net.1.weight"], trained.run.load_network(1)["net.1.weight"])


def test_save_and_load(trained, tmp_path):
    trained.save(tmp_path / "copy")
    loaded = rf.GenerativeFlow.load(tmp_path / "copy")
    assert loaded.config == trained.config
    assert torch.equal(loaded.sample(9, seed=1), trained.sample(9, seed=1))
    with pytest.raises(RunError, match="not an empty folder"):
        trained.save(tmp_path / "copy")
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda flow: pickle.loads(pickle.dumps(flow)),
}


@pytest.mark.parametrize("how", COPIES)
def test_copies_keep_their_results(how, tmp_path):
    """Those of a temporary run live as long as they do, and no longer; those of a run with a folder share it."""
    settings = {"particles": 40, "stages": 2, "initial_steps": 2, "slices": 4, "fit_steps": 3, "width": 4}
    data = torch.rand(50, 2, generator=generator(0))
    for folder in (None, tmp_path / "run"):
        flow = rf.GenerativeFlow(**settings).fit(data, run=folder)
        expected, first = flow.sample(5, seed=1), flow.run.path
        again = COPIES[how](flow)
        del flow
        assert first.exists() == (folder is not None)
        assert torch.equal(again.sample(5, seed=1), expected) and again.config.stages == 2
        second = again.run.path
        assert (second == first) == (folder is not None)
        del again
        assert second.exists() == (folder is not None)
    kept = COPIES[how](rf.GenerativeFlow.load(tmp_path / "run"))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(RunError, match="the folder of the run is missing"):
        kept.sample(3)
    assert COPIES[how](rf.GenerativeFlow(**settings)).run is None


def test_samples_that_are_no_numbers_are_refused(trained, tmp_path):
    path = shutil.copytree(trained.run.path, tmp_path / "run")
    run = Run.open(path)
    number = run.finished()
    weights = run.load_network(number)
    run.save_network(number, {name: t * float("nan") for name, t in weights.items()})
    with pytest.raises(RunError, match="samples must be finite"):
        rf.GenerativeFlow.load(path).sample(3, seed=0)


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop_at", [(1, "flow", 3), (1, "fit", 20), (2, "fit", 40), (3, "flow", 1), (3, "fit", 39)])
def test_interrupted_and_resumed_is_uninterrupted(tmp_path, stop_at):
    data = ring(300, 0)
    settings = {**TINY, "checkpoint_seconds": 1e-6, "ema": 0.9, "momentum": 0.6}
    whole = rf.GenerativeFlow(**settings).fit(data)

    def stop(p):
        if (p.stage, p.what, p.done) == stop_at:
            raise Stop

    with pytest.raises(Stop):
        rf.GenerativeFlow(**settings).fit(data, run=tmp_path / "run", progress=stop)
    resumed = rf.GenerativeFlow.resume(tmp_path / "run", data)
    for number in (1, 2, 3):
        assert content(whole.run.network_file(number)) == content(resumed.run.network_file(number))
    for one, two in zip(whole.run.metrics(), resumed.run.metrics(), strict=True):
        assert dataclasses.replace(one, seconds={}) == dataclasses.replace(two, seconds={})


def test_only_one_trains_a_run(tmp_path):
    data, refused = ring(300, 0), []

    def second(p):
        if not refused:
            with pytest.raises(RunError, match="is already being trained") as caught:
                rf.GenerativeFlow.resume(tmp_path / "run", data)
            refused.append(caught)

    flow = rf.GenerativeFlow(**TINY).fit(data, run=tmp_path / "run", progress=second)
    assert refused and flow.run.finished() == 3
    rf.GenerativeFlow.resume(tmp_path / "run", data)  # and afterwards it is free


def test_custom_network_with_dropout(tmp_path):
    net = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 2))
    original = [p.clone() for p in net.parameters()]
    data = ring(300, 0)

    def stop(p):
        if (p.stage, p.what, p.done) == (2, "fit", 17):
            raise Stop

    settings = {**TINY, "stages": 2, "checkpoint_seconds": 1e-6}
    whole = rf.GenerativeFlow(**settings, network=net).fit(data)
    with pytest.raises(Stop):
        rf.GenerativeFlow(**settings, network=net).fit(data, run=tmp_path / "run", progress=stop)
    resumed = rf.GenerativeFlow.resume(tmp_path / "run", data, network=net)
    assert content(whole.run.network_file(2)) == content(resumed.run.network_file(2))
    assert all(torch.equal(a, b) for a, b in zip(original, net.parameters(), strict=True))
    with pytest.raises(RunError, match="needs the nn.Module"):
        rf.GenerativeFlow.load(tmp_path / "run")
    with pytest.raises(ConfigError, match="must return the shape of its input"):
        rf.GenerativeFlow(**settings, network=nn.Linear(2, 3)).fit(data)


def test_resume_refuses_other_data(trained):
    with pytest.raises(RunError, match="was trained on other data"):
        rf.GenerativeFlow.resume(trained.run.path, ring(300, 9))
    with pytest.raises(RunError, match="pass it again"):
        rf.GenerativeFlow.resume(trained.run.path)


def truncate(raw):
    return raw[: len(raw) // 2]


def flip(raw):
    return raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:]


@pytest.mark.parametrize("damage", [truncate, flip, lambda raw: b"", lambda raw: b"\x80\x04junk" * 100])
def test_damaged_files_are_refused(trained, tmp_path, damage):
    trained.save(tmp_path / "run")
    for file, use in (
        (tmp_path / "run/networks/0002.safetensors", lambda: rf.GenerativeFlow.load(tmp_path / "run").sample(1)),
        (tmp_path / "run/state.safetensors", lambda: rf.GenerativeFlow.resume(tmp_path / "run", ring(300, 0))),
    ):
        raw = file.read_bytes()
        file.write_bytes(damage(raw))
        with pytest.raises(RunError, match=f"{file.name}: damaged"):
            use()
        file.write_bytes(raw)


def test_foreign_files_are_refused(trained, tmp_path):
    trained.save(tmp_path / "run")
    file = tmp_path / "run/networks/0001.safetensors"
    save_file({"weight": torch.zeros(3)}, file)
    with pytest.raises(RunError, match="not one of rieszflow's"):
        rf.GenerativeFlow.load(tmp_path / "run").sample(1)
    file.write_bytes((tmp_path / "run/networks/0002.safetensors").read_bytes())
    with pytest.raises(RunError, match="must be of stage 1, got stage 2"):
        rf.GenerativeFlow.load(tmp_path / "run").sample(1)
    save_tensors(file, STATE, {}, {})
    with pytest.raises(RunError, match="must hold a network, got a state"):
        rf.GenerativeFlow.load(tmp_path / "run").sample(1)
    save_tensors(file, NETWORK, {"x": torch.zeros(1)}, {"stage": 1})
    with pytest.raises(RunError, match="belongs to another run"):
        rf.GenerativeFlow.load(tmp_path / "run").sample(1)
    save_tensors(file, NETWORK, {"x": torch.zeros(1)}, {"stage": 1, **Run.open(tmp_path / "run")._header})
    with pytest.raises(RunError, match="does not fit the network"):
        rf.GenerativeFlow.load(tmp_path / "run").sample(1)
    torch.save({"a": 1}, tmp_path / "p.safetensors")
    with pytest.raises(RunError, match="damaged, or no safetensors"):
        load_tensors(tmp_path / "p.safetensors", STATE)
    with pytest.raises(RunError, match="not a run of rieszflow"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(version=99), "version 99"),
        (lambda c: c.update(format="other"), "not written by rieszflow"),
        (lambda c: c["data"].pop("shape"), "`data.shape` is missing"),
        (lambda c: c["config"].update(sices=3), "`sices` is not known"),
        (lambda c: c["config"].update(momentum=2), "`momentum` must be less than 1, got 2"),
        (lambda c: c.pop("config"), "mapping"),
    ],
)
def test_bad_config_files(trained, tmp_path, change, says):
    trained.save(tmp_path / "run")
    file = tmp_path / "run" / "config.yaml"
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=says):
        rf.GenerativeFlow.load(tmp_path / "run")
    file.write_text("{: [")
    with pytest.raises(RunError, match="YAML"):
        rf.GenerativeFlow.load(tmp_path / "run")


def test_atomic_writes_leave_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    atomically(file, lambda t: t.write_text("old"))

    def fails(temporary):
        temporary.write_text("half")
        raise Stop

    with pytest.raises(Stop):
        atomically(file, fails)
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"particles": 1}, "`particles` must be greater than or equal to 2, got 1"),
        ({"stages": 0}, "`stages` must .*got 0"),
        ({"momentum": 1.0}, "momentum"),
        ({"held_out": 0}, "held_out"),
        ({"network": "transformer"}, "network"),
        ({"channels": []}, "channels"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"attention": 1}, "attention"),
        ({"seed": -1}, "seed"),
        ({"nonsense": 3}, "`nonsense` is not known"),
    ],
)
def test_bad_settings(settings, says):
    with pytest.raises(ConfigError, match=says):
        rf.GenerativeFlow(**settings)


def test_unet_takes_sides_that_its_levels_do_not_divide():
    # 7 × 5 is padded to 8 × 8 inside; what comes out must have the size of what went in
    g = torch.Generator().manual_seed(0)
    flow = rf.GenerativeFlow(**{**TINY, "channels": [8, 8, 8]}).fit(torch.rand(20, 1, 7, 5, generator=g))
    assert flow.sample(3, seed=0).shape == (3, 1, 7, 5)


def test_bad_calls(trained, tmp_path):
    with pytest.raises(RunError, match="call fit first"):
        rf.GenerativeFlow().sample(3)
    with pytest.raises(ValueError, match="^`n` must .* got 0"):
        trained.sample(0)
    with pytest.raises(TypeError, match="^data: must be a torch.Tensor.* got list"):
        rf.GenerativeFlow(**TINY).fit([1, 2])
    with pytest.raises(ValueError, match="^`data` must be finite, got NaN"):
        rf.GenerativeFlow(**TINY).fit(ring(20, 0) * float("nan"))
    with pytest.raises(ValueError, match="^`held_out` must"):
        rf.GenerativeFlow(**TINY).fit(ring(20, 0), held_out=torch.rand(5, 3))
    with pytest.raises(ConfigError, match="which needs images"):
        rf.GenerativeFlow(**TINY, network="unet").fit(ring(20, 0))
    with pytest.raises(ConfigError, match="must not shrink images .*got a factor of 8"):
        rf.GenerativeFlow(**{**TINY, "channels": [8, 8, 8, 8]}).fit(torch.rand(20, 1, 6, 6))
    with pytest.raises(RunError, match="not an empty folder"):
        rf.GenerativeFlow(**TINY).fit(ring(20, 0), run=trained.run.path)


def test_presets_are_sound(tmp_path):
    assert {
        ("digits", "cpu"),
        ("fashion-mnist", "cpu"),
        ("fashion-mnist", "paper"),
        ("images", "cpu"),
        ("vectors", "table"),
        ("vectors", "networks"),
    } <= set(presets())
    for dataset, name in presets():
        Config.preset(dataset, name)
    own = tmp_path / "own.yaml"
    own.write_text("stages: 3\nslices: 10\n")
    assert Config.preset("images", str(own), seed=4) == Config(stages=3, slices=10, seed=4)
    own.write_text("stages: three\n")
    with pytest.raises(ConfigError, match="`stages` must be a valid integer, got 'three'"):
        Config.preset("images", str(own))
    own.write_text("- a\n")
    with pytest.raises(ConfigError, match="mapping"):
        Config.preset("images", str(own))
    with pytest.raises(ConfigError, match="must be 'cpu', 'networks', or the path"):
        Config.preset("digits", "huge")


def test_metrics_are_json(trained):
    text = (trained.run.path / "metrics.jsonl").read_text()
    assert all(json.loads(line) for line in text.splitlines())


def test_stopped_inside_a_flow_with_kept_tables(tmp_path):
    """Enough points for the linear-time engine: the slices in use and their ranges are part of the checkpoint."""
    data = torch.randn(4000, 70, generator=generator(0))
    settings = {
        "particles": 3000, "stages": 2, "initial_steps": 14, "slices": 64, "refresh_every": 3, "fit_steps": 20, "width": 16,
        "checkpoint_seconds": 1e-6, "seed": 1, "device": "cpu",
    }  # fmt: skip

    class Stop(Exception):
        pass

    def stop(p):
        if p.what == "flow" and p.stage == 1 and p.done == 7:
            raise Stop

    rf.GenerativeFlow(**settings).fit(data, run=tmp_path / "whole")
    with pytest.raises(Stop):
        rf.GenerativeFlow(**settings).fit(data, run=tmp_path / "stopped", progress=stop)
    state = Run.open(tmp_path / "stopped").load_state()
    assert state[1]["step"] == 7 and int(state[0]["target.0.entries"]) == 3
    rf.GenerativeFlow.resume(tmp_path / "stopped", data)
    for k in ("0001", "0002"):
        one, two = (tmp_path / run / "networks" / f"{k}.safetensors" for run in ("whole", "stopped"))
        assert content(one) == content(two)
