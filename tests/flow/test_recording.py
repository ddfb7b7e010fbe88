"""Recorded flows: against the particles that they were recorded from, against fresh points, and damaged files."""

import pytest
import torch
from problems import generator

import rieszflow as rf
from rieszflow._infra.files import load_tensors, save_tensors
from rieszflow.errors import FileError, InputError, RunError
from rieszflow.flow.recording import _FORMAT
from rieszflow.histograms import replay_step

SHAPE = (1, 12, 12)
KINDS = ["hadamard", rf.PatchSlices(SHAPE, 5, 2), rf.PatchSlices(SHAPE, 4)]


def images(n, seed):
    """Bright squares at random places on a dark ground, many pixels exactly 0."""
    g = generator(seed)
    x = torch.zeros(n, 12, 12)
    for k, (i, j) in enumerate(torch.randint(1, 6, (n, 2), generator=g).tolist()):
        x[k, i : i + 5, j : j + 5] = 0.5 + 0.5 * torch.rand(1, generator=g)
    return x.flatten(1)


def recorded(N=1500, steps=25, y=None, **settings):
    settings = {
        "slices": [128, 64, 100], "step_size": None, "momentum": [0.8, 0.5, 0.0], "directions": KINDS, "bounds": (0.0, 1.0),
        "step_schedule": rf.geometric_schedule(6, 1, steps), "seed": generator(1), "record": True, **settings,
    }  # fmt: skip
    flow = rf.ParticleFlow(images(1500, 2) if y is None else y, **settings)
    start = torch.rand(N, 144, generator=generator(3))
    return flow, start, flow.run(start, steps=steps)


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_replay_of_the_particles_is_their_trajectory(summed, threads):
    """The same operations on the same numbers. Points may be met in other places of a vector, where sums round in their own
    way: 75 steps of numbers of size one, 1e-7 each, and a factor for what they grow to."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        flow, start, end = recorded(combine="sum" if summed else "alternate")
        replay = flow.recorded()
        assert len(replay) == 75
        torch.testing.assert_close(replay.push(start), end, rtol=0, atol=1e-4)
        torch.testing.assert_close(replay.push(start, batch_size=400), end, rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(replay.push(start.numpy())), end, rtol=0, atol=1e-4)
        assert replay.push(start.double()).dtype == torch.float64
    finally:
        torch.set_num_threads(before)


def test_a_recorded_gradient_is_the_gradient():
    """With many bins, on data without point masses: the edges are exact, and a table's unit is 1/127 of its largest value.
    Rounding is at most half a unit a slice, with signs by chance; between edges F̂ is off by less than a bin's mass, 1/128."""
    g = generator(5)
    x, y = torch.rand(1200, 144, generator=g), torch.rand(900, 144, generator=g) ** 2
    for kind in KINDS:
        flow = rf.ParticleFlow(y, slices=256, directions=kind, record=True, bins=128, seed=generator(7))
        flow.step(x)
        step = flow.recorder.segment.steps[0]
        drawn = flow.recorder.plan.draw(0, step.seed, x)
        found = replay_step(step.tables, drawn, x)
        again = rf.Target(y, slices=256, directions=kind, seed=generator(7), engine="sort")
        exact = again.gradient(x)
        assert (found - exact).norm() < 0.03 * exact.norm()


def test_fresh_points_end_where_the_particles_do():
    """Fresh latents against held-out data, next to the particles. Both are 1,500 points that follow the same functions: their
    energy distances to 1,500 data differ by chance, 2 E‖Y − Y′‖ / 1,500 at most, and by what particles fit of themselves,
    which is of the same size as N is; three times their sum is granted."""
    flow, _, end = recorded(N=1500, steps=60)
    fresh = flow.recorded().push(torch.rand(1500, 144, generator=generator(11)))
    held_out, targets = images(1500, 12), images(1500, 2)
    chance = 2 * torch.pdist(targets[:500]).mean().item() / 1500
    start = rf.energy_distance(torch.rand(1500, 144, generator=generator(3)), held_out, statistic="U").item()
    particles, replayed = (rf.energy_distance(x, held_out, statistic="U").item() for x in (end, fresh))
    assert particles < 0.05 * start
    assert abs(replayed - particles) < 6 * chance


def test_a_folder_holds_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("rieszflow.flow.recording._SEGMENT", 60_000)
    flow, start, end = recorded(steps=12, record=tmp_path / "r")
    assert len(sorted((tmp_path / "r").iterdir())) > 2  # it has grown there on the way
    assert flow.recorder.segment.nbytes < 60_000
    replay = flow.recorded()
    torch.testing.assert_close(replay.push(start), end, rtol=0, atol=1e-4)
    opened = rf.RecordedFlow.load(tmp_path / "r")
    assert len(opened) == len(replay) == 36 and opened.nbytes == replay.nbytes
    assert torch.equal(opened.push(start), replay.push(start))
    opened.save(tmp_path / "one.safetensors")
    assert torch.equal(rf.RecordedFlow.load(tmp_path / "one.safetensors").push(start), replay.push(start))
    with pytest.raises(RunError, match="not an empty folder"):
        recorded(record=tmp_path / "r")
    files = sorted((tmp_path / "r").iterdir())
    files[0].rename(tmp_path / "first")
    with pytest.raises(FileError, match="parts are missing"):
        rf.RecordedFlow.load(tmp_path / "r")
    files[1].rename(files[0])
    with pytest.raises(FileError, match="another recording|parts are missing"):
        rf.RecordedFlow.load(tmp_path / "r")


def small_flow(**settings):
    g = generator(7)
    flow = rf.ParticleFlow(torch.randn(400, 3, generator=g) + 3, slices=8, momentum=0.5, seed=1, record=True, **settings)
    return flow, torch.rand(400, 3, generator=g), g


def test_a_second_run_goes_on_or_is_refused():
    """New points with the steps of other points before them would follow no flow at all."""
    flow, start, g = small_flow()
    x = flow.run(start, steps=20)
    y = flow.step(flow.run(x, steps=4))
    torch.testing.assert_close(flow.recorded().push(start), y, rtol=0, atol=1e-4)
    other = torch.rand(400, 3, generator=g)
    for go_on in (lambda x: flow.run(x, steps=2), flow.step):
        for bad in (start, other, other[:100], y + 1e-3):
            with pytest.raises(InputError, match="`x` must be the particles that the last step returned"):
                go_on(bad)
    assert len(flow.recorded()) == 25
    array = flow.run(y.numpy(), steps=1)
    assert len(flow.recorded()) == 26
    end = torch.from_numpy(array).clone()
    again = flow.run(end, steps=1)
    again += 1  # in its own memory
    with pytest.raises(InputError, match="got others"):
        flow.step(again)


def test_without_a_recording_runs_may_begin_anywhere():
    flow, start, _ = small_flow()
    flow.recorder = None
    flow.run(start, steps=2)
    flow.run(start, steps=2)


def test_a_folder_that_has_lost_its_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rieszflow.flow.recording._SEGMENT", 3000)
    flow, start, _ = small_flow()
    flow.recorder = type(flow.recorder)(flow.recorder.plan, tmp_path / "r")
    x = flow.run(start, steps=12)
    with pytest.raises(FileError, match="end.safetensors is missing: ParticleFlow.recorded"):
        rf.RecordedFlow.load(tmp_path / "r")
    assert len(flow.recorded()) == len(rf.RecordedFlow.load(tmp_path / "r")) == 12
    flow.run(x, steps=12)
    with pytest.raises(FileError, match="parts that end.safetensors states"):
        rf.RecordedFlow.load(tmp_path / "r")
    expected = flow.recorded().push(start)
    assert torch.equal(rf.RecordedFlow.load(tmp_path / "r").push(start), expected)
    files = sorted((tmp_path / "r").glob("0*"))
    assert len(files) > 3
    with pytest.raises(FileError, match="must be a whole recording, got one part; load its folder"):
        rf.RecordedFlow.load(files[0])
    files[-1].unlink()
    with pytest.raises(FileError, match=f"the {len(files)} parts that end.safetensors states, got {len(files) - 1}"):
        rf.RecordedFlow.load(tmp_path / "r")


def test_parts_end_after_whole_steps(tmp_path, monkeypatch):
    """Summed kinds move the points once for all of them: a part that ended before would lose the move."""
    monkeypatch.setattr("rieszflow.flow.recording._SEGMENT", 1)
    settings = {"slices": [16, 8, 12], "combine": "sum"}
    flow, start, end = recorded(N=200, steps=4, record=tmp_path / "r", **settings)
    assert len(flow.recorded()._parts) == 4
    torch.testing.assert_close(flow.recorded().push(start), end, rtol=0, atol=1e-4)


def test_every_part_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr("rieszflow.flow.recording._SEGMENT", 3000)
    flow, start, _ = small_flow()
    flow.recorder = type(flow.recorder)(flow.recorder.plan, tmp_path / "r")
    flow.run(start, steps=12)
    replay, read = flow.recorded(), []
    expected = torch.cat([replay.push(part) for part in start.split(50)])
    original, done = type(replay)._load_segment, []
    monkeypatch.setattr(type(replay), "_load_segment", lambda self, part: read.append(part) or original(self, part))
    assert torch.equal(replay.push(start, batch_size=50, progress=lambda p: done.append((p.done, p.total))), expected)
    assert len(read) == len(replay._parts) > 2
    assert done == [(k, 96) for k in range(1, 97)]
    monkeypatch.setattr("rieszflow.flow.recording._PUSHED", 4 * 3 * 2 * 150)  # memory for three batches
    read.clear()
    assert torch.equal(replay.push(start, batch_size=50), expected) and len(read) == 3 * len(replay._parts)


def test_points_that_leave_the_finite_numbers_are_refused():
    flow, start, _ = small_flow(step_size=1e38)
    flow.step(start)
    flow.velocities = [None]
    replay = flow.recorded()
    replay._parts[0].steps *= 3
    with pytest.raises(InputError, match="must stay finite"):
        replay.push(start)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    flow, _, _ = recorded(N=300, steps=2)
    path = tmp_path_factory.mktemp("recording") / "small.safetensors"
    flow.recorded().save(path)
    return path


def test_truncated_and_flipped_files_are_refused(small, tmp_path):
    raw = small.read_bytes()
    for length in (0, 7, 100, len(raw) // 2, len(raw) - 1):
        (tmp_path / "bad.safetensors").write_bytes(raw[:length])
        with pytest.raises(FileError, match="damaged"):
            rf.RecordedFlow.load(tmp_path / "bad.safetensors")
    flipped = bytearray(raw)
    flipped[-1000] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(flipped)
    with pytest.raises(FileError, match="its checksum does not fit"):
        rf.RecordedFlow.load(tmp_path / "bad.safetensors")
    with pytest.raises(FileError, match="no such file"):
        rf.RecordedFlow.load(tmp_path / "none.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="this is no recording"):
        rf.RecordedFlow.load(tmp_path / "empty")


@pytest.mark.parametrize(
    "change",
    [
        lambda t, m: t.pop("0.table"),
        lambda t, m: t.update({"0.table": t["0.table"][:, :-1]}),
        lambda t, m: t.update({"0.table": t["0.table"].float()}),
        lambda t, m: t.update({"kind": t["kind"] + 1}),
        lambda t, m: t.update({"seed": t["seed"][:-1]}),
        lambda t, m: t["0.unit"].fill_(float("nan")),
        lambda t, m: t["length"].fill_(float("inf")),
        lambda t, m: m.update(slices=[1, 2, 3]),
        lambda t, m: m.update(kinds=["hadamard"]),
        lambda t, m: m.update(kinds=["no such kind", *m["kinds"][1:]]),
        lambda t, m: m.update(d="many"),
        lambda t, m: m.pop("bounds"),
    ],
)
def test_files_that_do_not_fit_themselves_are_refused(small, tmp_path, change):
    tensors, meta = load_tensors(small, _FORMAT)
    change(tensors, meta)
    save_tensors(tmp_path / "bad.safetensors", _FORMAT, tensors, meta)
    with pytest.raises(FileError, match="damaged"):
        rf.RecordedFlow.load(tmp_path / "bad.safetensors")


def test_foreign_files_are_refused(tmp_path):
    x = torch.rand(50, 3)
    rf.SliceSketch(x, slices=8, seed=0).update(x).save(tmp_path / "sketch.safetensors")
    with pytest.raises(FileError, match="must hold a recorded flow, got a"):
        rf.RecordedFlow.load(tmp_path / "sketch.safetensors")


def test_bad_input():
    y = torch.rand(40, 5)
    with pytest.raises(InputError, match="refresh_every=1"):
        rf.ParticleFlow(y, record=True, refresh_every=2)
    with pytest.raises(InputError, match="Riesz"):
        rf.ParticleFlow(y, record=True, kernel=rf.Gaussian(1.0))
    with pytest.raises(InputError, match="without slices"):
        rf.ParticleFlow(y, record=True, slices=None)
    with pytest.raises(InputError, match="must be a name or PatchSlices with `record`, got a tensor"):
        rf.ParticleFlow(y, record=True, directions=torch.eye(5))
    with pytest.raises(InputError, match="made without it"):
        rf.ParticleFlow(y).recorded()
    flow = rf.ParticleFlow(y, record=True, slices=8, seed=0)
    flow.step(torch.rand(30, 5))
    replay = flow.recorded()
    for bad in (torch.rand(3, 4), torch.rand(5), torch.full((2, 5), float("nan"))):
        with pytest.raises(InputError, match="z"):
            replay.push(bad)
    with pytest.raises(InputError, match="batch_size"):
        replay.push(torch.rand(3, 5), batch_size=0)


def test_recordings_with_old_names_of_patch_settings(small, tmp_path):
    """Versions before these names were changed wrote the same format otherwise."""
    tensors, meta = load_tensors(small, _FORMAT)
    old = {"stretch": "scale", "single_patch": "one"}
    for kind in meta["kinds"][1:]:
        for new, name in old.items():
            kind[name] = kind.pop(new)
    save_tensors(tmp_path / "old.safetensors", _FORMAT, tensors, meta)
    z = torch.rand(50, 144, generator=generator(4))
    expected = rf.RecordedFlow.load(small).push(z)
    assert torch.equal(rf.RecordedFlow.load(tmp_path / "old.safetensors").push(z), expected)
