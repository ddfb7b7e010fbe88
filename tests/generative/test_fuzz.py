"""Every file of a run and of a sketch, damaged at random: what reads it ends in one line of ours, or in the right result."""

import contextlib
import copy
import json
import random
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from problems import content, generator

import rieszflow as rf
from rieszflow.errors import FileError, WriteError
from rieszflow.generative import ConfigError, Run

MUTATIONS = 400
FAST = 30

TINY = {
    "particles": 40, "stages": 3, "initial_steps": 2, "max_step_increment": 1, "slices": 3, "fit_steps": 4, "width": 4,
    "layers": 1, "device": "cpu",
}  # fmt: skip
FILES = [
    "config.yaml", "metrics.jsonl", "evaluation.json", "state.safetensors", "networks/0001.safetensors",
    "networks/0002.safetensors", "networks/0003.safetensors", "networks", "a.sketch",
]  # fmt: skip
SCORES = {"samples": 4, "scores": {"recall": {"generated": 0.5, "training_data": 0.75}}}


def points(seed):
    return torch.randn(60, 2, generator=generator(seed))


class Stop(Exception):
    pass


def make(path, seed, stop=None):
    """A run and a sketch in a folder; stopped in the third network's fit, if so wanted."""

    def stopping(p):
        if (p.stage, p.what, p.done) == stop:
            raise Stop

    with contextlib.suppress(Stop):
        settings = {**TINY, "checkpoint_seconds": 1e-9 if stop else 60}
        rf.GenerativeFlow(**settings).fit(points(seed), run=path, progress=stopping)
    Run.open(path).write_evaluation(SCORES)
    rf.SliceSketch.from_points(points(seed), slices=4).save(path / "a.sketch")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("fuzz")
    made = {"whole": (0, None), "half": (0, (3, "fit", 2)), "other": (1, None)}
    for name, (seed, stop) in made.items():
        make(base / name, seed, stop)
    return base


# What a reader may do, as JSON-able results. `resume` ends a run: that of the half one is the whole one's.


def look(path):
    run = Run.open(path)
    state = run.load_state()
    return [
        run.config.fixed(), run.shape, {k: v for k, v in run.data.items() if k not in ("name", "path")}, run.finished(),
        run.missing(), [{**row.to_dict(), "seconds": 0} for row in run.metrics()], run.evaluation(),
        state and state[1]["stage"],
    ]  # fmt: skip


def sample(path):
    return rf.GenerativeFlow.load(path).sample(6, seed=1).tolist()


def resume(path):
    flow = rf.GenerativeFlow.resume(path, points(0))
    rows = [{**row.to_dict(), "seconds": 0} for row in flow.run.metrics()]
    networks = sorted((path / "networks").glob("*.safetensors"))
    return [(file.name, str(content(file))) for file in networks] + rows


def sketch(path):
    found = rf.SliceSketch.load(path / "a.sketch")
    return found.distance(points(3), statistic="U"), found.feature_distances(points(3)).tolist(), found.n, found.names


READERS = {"look": look, "sample": sample, "resume": resume, "sketch": sketch}


def outcome(reader, path):
    """("right", its result), or ("line", message); anything else is an error of ours and is raised."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            result, line = READERS[reader](path), None
        except (FileError, ConfigError, WriteError) as error:
            line = str(error)
    if line is not None:
        assert "\n" not in line and len(line) < 1000 and str(path) in line, line
        return "line", line
    assert all(issubclass(w.category, rf.Notice) for w in said), [str(w.message) for w in said]
    return "right", json.dumps(result)


# Damages: each returns what it has done, for the message of a failing test.


def flip(file, r, folders):
    raw = bytearray(file.read_bytes())
    for _ in range(r.choice([1, 1, 1, 2, 30])):
        raw[r.randrange(len(raw))] ^= 1 << r.randrange(8)
    file.write_bytes(raw)


def flip_in_the_header(file, r, folders):
    raw = bytearray(file.read_bytes())
    raw[r.randrange(min(len(raw), 3000))] ^= 1 << r.randrange(8)
    file.write_bytes(raw)


def truncate(file, r, folders):
    raw = file.read_bytes()
    file.write_bytes(raw[: r.randrange(len(raw))])


def block(file, r, folders):
    """A block of bytes removed, repeated, zeroed, or put elsewhere."""
    raw = file.read_bytes()
    start, size = r.randrange(len(raw)), r.choice([1, 16, 512])
    head, part, tail = raw[:start], raw[start : start + size], raw[start + size :]
    file.write_bytes(r.choice([head + tail, head + part + part + tail, head + b"\0" * len(part) + tail, part + head + tail]))


def append(file, r, folders):
    file.write_bytes(file.read_bytes() + r.choice([b"\0", b"\n\n", b"{}\n", b"x" * 100, file.read_bytes()]))


def lines(file, r, folders):
    """A line removed, repeated or moved."""
    rows = file.read_bytes().splitlines(True)
    row = rows.pop(r.randrange(len(rows)))
    for _ in range(r.randrange(3)):
        rows.insert(r.randrange(len(rows) + 1), row)
    file.write_bytes(b"".join(rows))


def swap(file, r, folders):
    """The same file of another run, or of this one's earlier life, or another file of this run."""
    root = file.parent if file.parent.name != "networks" else file.parent.parent
    name = file.relative_to(root)
    source = r.choice([folders / "other" / name, folders / "half" / name, root / r.choice(FILES)])
    if source.is_file() and source != file:
        shutil.copy(source, file)
    else:
        file.unlink()


VALUES = [
    None, True, 0, -1, 1, 2, 3.5, -0.0, float("nan"), float("inf"), 1e300, 10**12, 2**64, "", "text", "1", "a" * 3000, [], [1],
    [-1], [0, 0, 0], [10**6] * 3, {}, {"a": 1}, [[[]]], "meta", "cuda", "é\n\t\0",
]  # fmt: skip


def places(content):
    """All (container, key) in a tree."""
    found, waiting = [], [content]
    while waiting:
        at = waiting.pop()
        for key in at if isinstance(at, dict) else range(len(at)):
            found.append((at, key))
            if isinstance(at[key], (dict, list)):
                waiting.append(at[key])
    return found


def edit(file, r, folders):
    """A value of a YAML or JSON file changed, removed, or under another name; in tensor files a value of the header."""
    if file.suffix in (".safetensors", ".sketch"):
        raw = file.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        header["__metadata__"]["rieszflow"] = json.loads(header["__metadata__"]["rieszflow"])
        change(header, r)
        with contextlib.suppress(KeyError, TypeError):
            header["__metadata__"]["rieszflow"] = json.dumps(header["__metadata__"]["rieszflow"])
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
        return
    if file.suffix == ".yaml":
        content = yaml.safe_load(file.read_text())
        change(content, r)
        file.write_text(yaml.safe_dump(content))
        return
    rows = (
        [json.loads(line) for line in file.read_text().splitlines()]
        if file.suffix == ".jsonl"
        else [json.loads(file.read_text())]
    )
    change(r.choice(rows), r)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def change(content, r):
    at, key = r.choice(places(content))
    how = r.randrange(3)
    if how == 0 or isinstance(at, list):
        at[key] = copy.deepcopy(r.choice(VALUES))
    elif how == 1:
        del at[key]
    else:
        at[key + r.choice(["s", "é", " "])] = at.pop(key)


def replace(file, r, folders):
    """Removed; or a folder, an empty file, a link to itself or to another file is in its place."""
    shutil.rmtree(file) if file.is_dir() else file.unlink()
    what = r.randrange(6)
    if what == 1:
        file.mkdir()
    elif what == 2:
        file.touch()
    elif what == 3:
        file.symlink_to(file.name)
    elif what == 4:
        file.symlink_to(folders / "other" / "config.yaml")
    elif what == 5:
        file.write_bytes(r.randbytes(200))


DAMAGES = [flip, flip, flip_in_the_header, flip_in_the_header, truncate, block, append, lines, swap, edit, edit, edit, replace]


def fuzz(folders, path, numbers):
    expected = {}
    for name in ("whole", "half", "other"):
        for reader in READERS if name != "other" else ["sketch"]:
            kind, expected[name, reader] = outcome(reader, shutil.copytree(folders / name, path / f"{name}-{reader}"))
            assert kind == "right"
    assert expected["half", "resume"] == expected["whole", "resume"]
    kinds = dict.fromkeys(("right", "line"), 0)
    for number in numbers:
        r = random.Random(number)
        start, damage = r.choice(["whole", "half"]), r.choice(DAMAGES)
        target = Path(shutil.copytree(folders / start, path / str(number)))
        file = target / r.choice([name for name in FILES if (target / name).exists()])
        damage = damage if file.is_file() else replace
        damage(file, r, folders)
        for reader in ["sketch"] if file.name == "a.sketch" else ["look", "sample", "resume"]:
            done = f"{number}: {start}, {damage.__name__} of {file.name}: {reader}"
            again = Path(shutil.copytree(target, path / f"{number}-{reader}", symlinks=True))
            try:
                kind, result = outcome(reader, again)
            except Exception as error:
                raise AssertionError(f"{done} raises {type(error).__name__}: {error}") from error
            kinds[kind] += 1
            if kind == "right" and result != expected[start, reader]:
                found, wanted = json.loads(result), json.loads(expected[start, reader])
                assert true(reader, target, found, wanted, expected), f"{done} gives another result"
            shutil.rmtree(again)
        shutil.rmtree(target)
    return kinds


def true(reader, target, found, wanted, expected):
    """Results that are other ones, and true: what was taken away is not there, and the number of networks may be changed."""
    if reader == "sketch":  # another sketch is a sketch
        return found == json.loads(expected["other", "sketch"])
    stages = Run.open(target).config.stages
    if reader == "resume":
        files, rows = found[:stages], found[stages:]
        return stages != 3 and (files + rows)[: len(files)][:3] == wanted[:stages][:3] and rows[:3] == wanted[3:][:stages]
    if reader == "look":
        *config, finished, missing, rows, scores, state = found
        there = [k for k in (1, 2, 3) if (target / f"networks/000{k}.safetensors").is_file()]
        return (
            [config, rows] == [wanted[:3], wanted[5]]
            and (finished == wanted[3] or finished == next(k for k in range(4) if k + 1 not in there))
            and (missing == wanted[4] or not {*missing} & {*there})
            and scores in (wanted[6], None)
            and state in (wanted[7], 3, None)
        )
    return False


def test_some_damages(folders, tmp_path):
    kinds = fuzz(folders, tmp_path, range(FAST))
    assert kinds["right"] > FAST / 2 and kinds["line"] > FAST / 2


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_all_damages(folders, tmp_path, part):
    size = MUTATIONS // 4
    kinds = fuzz(folders, tmp_path, range(1000 + part * size, 1000 + (part + 1) * size))
    assert min(kinds.values()) > size / 2
