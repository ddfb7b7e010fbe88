"""Sketches and recordings whose checksums are right and whose contents are not: one line that says so, or finite numbers."""

import copy
import os
import random
import warnings
from pathlib import Path

import pytest
import torch
from problems import generator

import rieszflow as rf
from rieszflow._infra.files import load_tensors, save_tensors
from rieszflow.errors import FileError, InputError
from rieszflow.flow.recording import _FORMAT
from rieszflow.sketch.counts import SKETCH

VALUES = [
    None, True, False, 0, -1, 1, 2, 3, 3.5, -0.0, 0.5, float("nan"), float("inf"), 1e300, 1e-300, 10**12, 2**64, 10**400, "",
    "text", "hadamard", [], [0], [1], [1, 0], [0, 1], [float("nan"), 1.0], [-1], [[]], {}, {"a": 1},
    {"leading": 1}, {"leading": 5},
]  # fmt: skip
NUMBERS = [0.0, -1.0, 1.0, 0.5, 2.0, 3.0, 1e-30, 1e30, 3e38, 1e308, float("nan"), float("inf"), -float("inf")]


def points(n, d, seed):
    return torch.randn(n, d, generator=generator(seed))


def sketches(path):
    x = points(60, 3, 0)
    empty = rf.SliceSketch(x, slices=5, names=["a", "b", "c"], reservoir_size=10)
    for name, sketch in (
        ("plain", empty.empty().update(x)),
        ("weighted", empty.empty().update(x, x_weights=torch.rand(60, generator=generator(1)))),
        ("empty", empty),
    ):
        sketch.save(path / name)
        yield path / name, SKETCH


def recordings(path):
    y, start = points(60, 4, 2), points(40, 4, 3)
    for name, settings in (
        ("bounded", {"bounds": (-2.0, 2.0), "momentum": 0.5}),
        ("frozen", {"frozen": 1}),
        ("summed", {"directions": ["hadamard", rf.PatchSlices((1, 2, 2), 2)], "slices": [4, 4], "combine": None}),
    ):
        if settings.pop("combine", 0) is None:
            settings["combine"] = "sum"
        flow = rf.ParticleFlow(y, record=True, bins=8, seed=0, **{"slices": 4, **settings})
        flow.run(start, steps=3)
        flow.recorded().save(path / name)
        yield path / name, _FORMAT


def use_sketch(path):
    sketch = rf.SliceSketch.load(path)
    found = [] if sketch.reservoir is None else [sketch.reservoir]
    if sketch.n > 1:
        x = points(20, 3, 4)
        found += [torch.tensor(sketch.distance(x, statistic=s)) for s in ("V", "U")]
        found += [sketch.gradient(x), sketch.feature_distances(x), torch.from_numpy(sketch.histogram(0)[1])]
    sketch.empty().merge(sketch)
    return found


def use_recording(path):
    return [rf.RecordedFlow.load(path).push(points(7, 4, 5), batch_size=4)]


def change(content, r):
    """Change, remove or rename a value somewhere in JSON-able content."""
    places, waiting = [], [content]
    while waiting:
        at = waiting.pop()
        for key in list(at) if isinstance(at, dict) else range(len(at)):
            places.append((at, key))
            if isinstance(at[key], (dict, list)):
                waiting.append(at[key])
    at, key = r.choice(places)
    if r.random() < 0.8 or isinstance(at, list):
        at[key] = copy.deepcopy(r.choice(VALUES))
    else:
        del at[key]


def change_tensor(tensors, r):
    """Change numbers, dtype, shape or name of a tensor."""
    name = r.choice(sorted(tensors))
    t, how = tensors[name], r.randrange(6)
    if how < 3:
        flat = t.clone().reshape(-1)
        if flat.numel():
            value = torch.tensor(r.choice(NUMBERS), dtype=torch.float64).to(t.dtype)
            flat[slice(None) if how == 2 else r.randrange(flat.numel())] = value
        tensors[name] = flat.reshape(t.shape)
    elif how == 3:
        tensors[name] = t.to(r.choice([torch.float64, torch.float32, torch.int64, torch.int8, torch.bool, torch.complex64]))
    elif how == 4:
        tensors[name] = r.choice([t[None], t.reshape(-1)[:-1], t.reshape(-1)[:0], torch.cat([t.reshape(-1)] * 2)])
    else:
        del tensors[name]


def fuzz(files, use, numbers, path):
    kinds = dict.fromkeys(("right", "line"), 0)
    loaded = [(file, form, load_tensors(file, form)) for file, form in files]
    for file, _, _ in loaded:
        use(file)
    for number in numbers:
        r = random.Random(number)
        file, form, (tensors, meta) = r.choice(loaded)
        tensors, meta = dict(tensors), copy.deepcopy(meta)
        for _ in range(r.choice([1, 1, 2])):
            change(meta, r) if r.random() < 0.5 or not tensors else change_tensor(tensors, r)
        bad = path / "bad"
        save_tensors(bad, form, tensors, meta)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rf.Notice)
            warnings.filterwarnings("ignore", "Casting complex values")
            try:
                found, kind = use(bad), "right"
            except InputError as error:
                found, kind, line = [], "line", error
            except Exception as error:
                raise AssertionError(f"{number}: {file.name} raises {type(error).__name__}: {error}") from error
        if kind == "line":
            assert "\n" not in str(line) and len(str(line)) < 700, f"{number}: {line}"
            assert isinstance(line, FileError) == (str(bad) in str(line)), f"{number}: {line}"
        assert all(torch.isfinite(t).all() for t in found), f"{number}: {file.name} gives NaN or infinity"
        kinds[kind] += 1
    return kinds


KINDS = {"sketches": (sketches, use_sketch), "recordings": (recordings, use_recording)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("numbers", [range(60), pytest.param(range(1000, 1800), marks=pytest.mark.slow)])
def test_contents_changed_at_random(kind, numbers, tmp_path):
    make, use = KINDS[kind]
    found = fuzz(list(make(tmp_path)), use, numbers, tmp_path)
    assert found["line"] > len(numbers) / 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda t, m: t["0.scale"].zero_(),
        lambda t, m: t["0.scale"].fill_(0.3),
        lambda t, m: t["0.inverse"].neg_(),
        lambda t, m: t["0.counts"].neg_(),
        lambda t, m: t["0.counts"].add_(1),
        lambda t, m: t["0.sums"].fill_(1.0),
        lambda t, m: t.update({"0.low": t["0.low"] * float("nan")}),
        lambda t, m: t.update({"0.B": torch.tensor(2**40)}),
        lambda t, m: t.update({"sample.keys": t["sample.keys"].flip(0)}),
        lambda t, m: m.update(weight=1e308),
        lambda t, m: m.update(weight=-1.0),
        lambda t, m: m.update(squares=1e-9),
        lambda t, m: m.update(n=61),
        lambda t, m: m.update(n=True),
        lambda t, m: m.update(d=10**9),
        lambda t, m: m.update(names="abc"),
        lambda t, m: m.update(seen=61),
    ],
)
def test_sketches_that_cannot_be(damage, tmp_path):
    for file, form in list(sketches(tmp_path))[:2]:
        tensors, meta = load_tensors(file, form)
        tensors = {name: t.clone() for name, t in tensors.items()}
        if "weight" in file.name and "sample.keys" in tensors and meta["seen"] == 0:
            tensors["sample.keys"] = torch.tensor([1])  # which a sketch of weights has none of
        damage(tensors, meta)
        save_tensors(tmp_path / "bad", form, tensors, meta)
        with pytest.raises(FileError, match="damaged: its parts do not fit together"):
            rf.SliceSketch.load(tmp_path / "bad")


@pytest.mark.parametrize(
    "damage",
    [
        *[lambda t, m, b=b: m.update(bounds=b) for b in ([0], [1, 0], [0, float("nan")], [0, 0], "ab", 5, [0, float("inf")])],
        lambda t, m: m.update(d=0),
        lambda t, m: m.update(bins=float("inf")),
        lambda t, m: m.update(kinds=[]),
        lambda t, m: m.update(slices=[4, 4]),
        lambda t, m: m.update(frozen={"leading": 4}),
        lambda t, m: t["0.scale"].zero_(),
        lambda t, m: t["0.inverse"].zero_(),
        lambda t, m: t["0.unit"].neg_(),
        lambda t, m: t["momentum"].fill_(1.0),
        lambda t, m: t["length"].neg_(),
        lambda t, m: t["moves"].fill_(False),
        lambda t, m: t.update(kind=t["kind"].double()),
    ],
)
def test_recordings_that_cannot_be(damage, tmp_path):
    file, form = next(recordings(tmp_path))
    tensors, meta = load_tensors(file, form)
    damage(tensors, meta)
    save_tensors(tmp_path / "bad", form, tensors, meta)
    with pytest.raises(FileError, match="damaged"):
        rf.RecordedFlow.load(tmp_path / "bad")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("what", ["pipe", "endless", "folder"])
def test_files_that_are_no_regular_files_are_refused(what, tmp_path):
    """A pipe would be waited for, and a device has no end."""
    flow = rf.ParticleFlow(points(60, 4, 2), record=tmp_path / "recording", slices=4, seed=0)
    flow.run(points(40, 4, 3), steps=1)
    flow.recorded()

    def put(path: Path) -> Path:
        path.unlink(missing_ok=True)
        if what == "pipe":
            os.mkfifo(path)
        elif what == "endless":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
        return path

    opening = [
        (lambda: rf.SliceSketch.load(put(tmp_path / "a.sketch"))),
        (lambda: rf.generative.Config.preset("digits", str(put(tmp_path / "own.yaml")))),
        (lambda: rf.GenerativeFlow.load(put(tmp_path / "config.yaml").parent)),
        (lambda: rf.RecordedFlow.load(put(tmp_path / "recording" / "end.safetensors").parent)),
        (lambda: rf.RecordedFlow.load(put(tmp_path / "recording" / "0001.safetensors").parent)),
    ]
    for number, action in enumerate(opening):
        with pytest.raises(InputError) as caught:
            action()
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value), number
