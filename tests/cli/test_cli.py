"""The command line. Real processes train, are killed, resume; calls in this process see one line for every mistake."""

import contextlib
import dataclasses
import io
import json
import logging
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from accelerate import PartialState
from PIL import Image
from problems import content
from rich.console import Console

from rieszflow import Progress, cli, report
from rieszflow._infra.messages import notice
from rieszflow.cli import commands, output
from rieszflow.generative import Config, Run
from rieszflow.generative.run import StageMetrics

TINY = [
    "particles=300", "stages=3", "initial_steps=8", "max_step_increment=8", "slices=16", "network=mlp", "width=32", "layers=2",
    "fit_steps=60", "checkpoint_seconds=0.000001", "ema=0.9",
]  # fmt: skip


def program(*arguments, cwd=None):
    """The program, as a user starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "rieszflow", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def rieszflow(*arguments, cwd="."):
    """The same in this process, and well."""
    done = called(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done


def called(*arguments, cwd=".", encoding="utf-8"):
    """The same in this process: an interpreter and PyTorch take three seconds to start. A bug's exception comes through."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, newline="") for _ in range(2)]
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
        pytest.raises(SystemExit) as end,
    ):
        cli.app([*map(str, arguments)])
    for stream in streams:
        stream.flush()
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
    return subprocess.CompletedProcess(arguments, end.value.code, out, err)


def train_arguments(out):
    settings = [part for item in TINY for part in ("--set", item)]
    return ["train", "digits", "--preset", "networks", "--out", out, "--seed", 3, "--device", "cpu", *settings]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    program(*train_arguments(path))
    return path


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """A run on points without labels, which is evaluated without training a classifier."""
    folder = tmp_path_factory.mktemp("points")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(200, 2)))
    settings = ["--set", "stages=3", "--set", "particles=50", "--set", "fit_steps=5", "--set", "width=8"]
    done = called("train", "x.npy", "--preset", "networks", "--out", "run", *settings, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_train_leaves_a_whole_run(run):
    names = {p.name for p in run.iterdir() if p.name != ".lock"}
    assert names == {"config.yaml", "images", "metrics.jsonl", "networks", "report.html", "state.safetensors"}
    assert len(list((run / "networks").iterdir())) == 3
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    for name in ("samples-0003.png", "particles-0003.png", "way.png"):
        assert Image.open(run / "images" / name).width > 100


@pytest.mark.parametrize(
    "targets",
    [
        [(2, "flow", 3), (3, "fit", 1)],
        pytest.param([(1, "flow", 2), (1, "fit", 20), (2, "flow", 3), (2, "fit", 50), (3, "fit", 1)], marks=pytest.mark.slow),
    ],
    ids=["twice", "in every network"],
)
def test_killed_anywhere_and_resumed_is_bit_identical(run, tmp_path, targets):
    """Killed during flows and fits, and resumed each time, a training gives the same networks, byte for byte."""
    path = tmp_path / "killed"
    command = train_arguments(path)
    for target in targets:
        process = subprocess.Popen(
            [sys.executable, "-m", "rieszflow", *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and position(path) < order(*target):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        assert process.poll() is None, process.stderr.read().decode()
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stderr.close()
        command = ["resume", path]
    program("resume", path)
    for file in sorted((run / "networks").iterdir()):
        assert content(file) == content(path / "networks" / file.name)
    assert [dataclasses.replace(row, seconds={}) for row in Run.open(run).metrics()] == [
        dataclasses.replace(row, seconds={}) for row in Run.open(path).metrics()
    ]
    assert not list(path.rglob("*.tmp*"))


def order(network, phase, step):
    return network, phase == "fit", step


def position(path):
    """Where the last checkpoint is: its header read as a reader of an atomically replaced file may."""
    try:
        with open(path / "state.safetensors", "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except FileNotFoundError:
        return order(0, "flow", 0)
    meta = json.loads(header["__metadata__"]["rieszflow"])["meta"]
    return order(meta["stage"], meta["phase"], meta["step"])


def test_sample(run, tmp_path):
    program("sample", run, "-n", 20, "--out", tmp_path / "a.npz", "--seed", 1)
    rieszflow("sample", run, "-n", 20, "--out", tmp_path / "b.npy", "--seed", 1)
    a, b = np.load(tmp_path / "a.npz")["x"], np.load(tmp_path / "b.npy")
    assert a.shape == (20, 1, 8, 8) and a.dtype == np.float32 and np.array_equal(a, b)
    assert Image.open(tmp_path / "a.png").width > 100
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "a.png", "b.npy", "b.png"]


def test_evaluate_and_info(run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    out = rieszflow("evaluate", path, "-n", 200).stdout
    scores = json.loads((path / "evaluation.json").read_text())
    assert scores["samples"] == 200 and scores["classifier_accuracy"] > 0.9
    assert "not the Inception FID" in out and f"{scores['scores']['recall']['generated']:.4f}" in out
    assert Image.open(path / "images" / "nearest.png").width > 100
    assert "precision" in (path / "report.html").read_text()
    out = rieszflow("info", path).stdout
    assert "3 of 3 stages" in out and "digits" in out
    assert "fashion-mnist paper" in rieszflow("info").stdout


def test_vectors_from_a_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 2)) * [1, 3]
    np.save(tmp_path / "points.npy", x)
    settings = [p for s in ("particles=200", "stages=2", "initial_steps=8", "fit_steps=50", "width=16") for p in ("--set", s)]
    rieszflow("train", tmp_path / "points.npy", "--out", tmp_path / "run", *settings)
    rieszflow("evaluate", tmp_path / "run", "-n", 50)
    rieszflow("sample", tmp_path / "run", "-n", 10, "--out", tmp_path / "s.npy")
    assert np.load(tmp_path / "s.npy").shape == (10, 2)
    assert "the data&#x27;s own values" in (tmp_path / "run" / "report.html").read_text()


def test_report_is_self_contained(run):
    page = (run / "report.html").read_text()
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert len(sources) >= 4 and all(source.startswith("data:") for source in sources)
    assert "url(" not in page and "@import" not in page and "<script" not in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_report_in_a_browser(run, tmp_path):
    """Headless Chromium renders it with all images and without any network request."""
    page = (run / "report.html").read_text()
    picture, requested = open_in_chromium(page, tmp_path / "report")
    # The pictures are dark grids on a white page: a page without them would be nearly all white.
    assert (picture < 120).mean() > 0.05
    assert not requested
    # The same instrument sees a request when there is one.
    _, requested = open_in_chromium(page + '<img src="http://127.0.0.1:9/x.png">', tmp_path / "control")
    assert requested == {"http://127.0.0.1:9/x.png"}


def open_in_chromium(page, folder):
    """A screenshot as an array of grey values, and the URLs that were requested, but for the browser's own errands."""
    folder.mkdir()
    (folder / "page.html").write_text(page)
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
    flags += f" --disable-sync --user-data-dir={folder / 'profile'} --log-net-log={folder / 'net.json'}"
    flags += f" --screenshot={folder / 'shot.png'} --window-size=1000,2200"
    command = ["chromium", *flags.split(), (folder / "page.html").as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    urls = set(re.findall(r'"url":"(https?://[^"]*)"', (folder / "net.json").read_text()))
    own = re.compile(r"https?://[^/]*\.(google|googleapis|gvt1)\.com/")
    return np.asarray(Image.open(folder / "shot.png").convert("L"), dtype=float), {u for u in urls if not own.match(u)}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "nothing"], "got 'nothing', which does not exist"),
        (["train", "fashion-mnist", "--data", "/nowhere"], "dataset-fashion-mnist"),
        (["train", "digits", "--preset", "huge"], "`preset` must be 'cpu', 'networks'"),
        (["train", "digits", "--preset", "nowhere.yaml"], "a file that exists, got 'nowhere.yaml'"),
        (["train", "digits", "--set", "stages=0"], "`stages` must be greater than or equal to 1, got 0"),
        (["train", "digits", "--set", "nonsense=1"], "`nonsense` is not known"),
        (["train", "digits", "--set", "networks"], "--set must be KEY=VALUE, got 'networks'"),
        (
            ["train", "digits", "--preset", "networks", "--set", "channels=[8,8,8,8,8]"],
            "must not shrink images of 8 × 8 by more than their size, got a factor of 16",
        ),
        (["train", "digits", "--device", "warp"], "device"),
        (["train", "digits", "--out", "{run}"], "--out must be a new or an empty folder"),
        (["resume", "{tmp}"], "not a run of rieszflow"),
        (["info", "{tmp}/nothing"], "not a run of rieszflow"),
        (["sample", "{tmp}"], "not a run of rieszflow"),
        (["sample", "{run}", "--out", "x.txt"], "--out must end in .npz or .npy, got x.txt"),
        (["evaluate", "{run}", "--inception-weights", "nowhere.pth"], "got nowhere.pth: no such file"),
        (["sample", "{run}", "--out", "no/x.npz"], "create no first"),
        (["sample", "{run}", "--out", "{run}/images/x.png/x.npz"], "--out must be in an existing folder"),
        (["train", "digits", "--out", "{run}/config.yaml"], "config.yaml is a file"),
        (["train", "digits", "--out", "{run}/config.yaml/x"], "config.yaml is a file"),
        (["train", "digits", "--out", "/proc/run"], "cannot write in /proc"),
        (["sample", "{run}", "-n", "1000000000000000"], "GiB for samples for data of shape (1, 8, 8)"),
    ],
)
def test_mistakes_end_in_one_line(run, tmp_path, arguments, says):
    done = called(*(a.format(run=run, tmp=tmp_path) for a in arguments), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and says in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert [p for p in Path(tmp_path).rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument 'DATASET'"),
        (["train", "digits", "--nonsense"], "No such option: --nonsense"),
        (["sample", "run", "-n", "many"], "Invalid value for '-n'"),
        (["sample", "run", "-n"], "requires an argument"),
        (["info", "one", "two"], "unexpected extra argument"),
        (["sample", "run", "-n", "0"], "Invalid value for '-n'"),
        (["sample", "run", "--seed", "-1"], "Invalid value for '--seed'"),
        (["sample", "run", "--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["evaluate", "run", "-n", "3"], "Invalid value for '-n'"),
        (["evaluate", "run", "--seed", "-1"], "Invalid value for '--seed'"),
    ],
)
def test_errors_of_typer_are_one_line(arguments, says):
    done = called(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and says in done.stderr


@pytest.mark.parametrize(
    ("command", "wrong", "code"),
    [
        (["train", "digits"], ["--device", "warp"], 1),
        (["train", "digits"], ["--out", "/proc/run"], 1),
        (["train", "x.npy"], ["--device", "warp"], 1),
        (["evaluate", "{run}"], ["-n", "0"], 2),
        (["compare", "x.npy", "x.npy"], ["--out", "no/x.png"], 1),
        (["compare", "x.npy", "x.npy"], ["--slices", "0"], 2),
        (["sketch", "x.npy"], ["--out", "x.npy"], 1),
    ],
)
def test_wrong_options_are_found_before_data_are_loaded(run, tmp_path, monkeypatch, command, wrong, code):
    def loaded(*_, **__):
        raise AssertionError("data were loaded")

    for place in ("data.load", "data.stream", "generative.GenerativeFlow"):
        monkeypatch.setattr(f"rieszflow.{place}", loaded)
    done = called(*(part.format(run=run) for part in command), *wrong, cwd=tmp_path)
    assert done.returncode == code and wrong[0].strip("-") in done.stderr and done.stderr.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("rieszflow.generative.presets", lambda: [][0])
    with pytest.raises(IndexError):
        cli.app(["info"])
    monkeypatch.setattr("rieszflow.generative.presets", lambda: pickle.loads(b""))
    with pytest.raises(EOFError):
        cli.app(["info"])


@pytest.mark.parametrize("after", [KeyboardInterrupt, ImportError])
def test_interrupted(points, tmp_path, monkeypatch, after):
    """The message has the command that resumes the run, quoted for a shell, even if a library changes the exception."""

    def interrupted(*_, **__):
        # as the system does it; raises KeyboardInterrupt in a function of ours, or an error of a half-imported library
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise after("half imported") from None

    path = tmp_path / "my run"
    shutil.copytree(points, path)
    monkeypatch.setattr("rieszflow.generative.GenerativeFlow.resume", interrupted)
    monkeypatch.setattr("rieszflow.generative.GenerativeFlow.load", interrupted)
    old = signal.getsignal(signal.SIGINT)
    try:
        done = called("resume", path)
        again = f"error: interrupted; `rieszflow resume '{path}'` continues from the last checkpoint\n"
        assert (done.returncode, done.stderr) == (130, again)
        # Once more while tidying up ends the process at once, without a word of Python's.
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        signal.signal(signal.SIGINT, old)
        done = called("evaluate", path)
        assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
    finally:
        signal.signal(signal.SIGINT, old)


def test_interrupted_while_importing(tmp_path):
    """Interrupted while PyTorch is being imported, it prints one line and no traceback."""
    command = [sys.executable, "-m", "rieszflow", "train", "digits"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    # Python may end itself by the signal where it was caught within an `exec`; to a shell both are 130.
    assert process.returncode in (130, -signal.SIGINT) and (out, err) == ("", "error: interrupted\n")


def test_notices_and_warnings_are_lines(tmp_path, monkeypatch):
    """Each notice is printed once, also with --json; warnings of other libraries are marked; only rank 0 prints."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 2)))
    drawn = report.comparison

    def comparison(*arguments):
        for text in ("one\nthing", "one\nthing", "another"):
            notice(text)
        for _ in range(3):
            warnings.warn_explicit("old", FutureWarning, "/site-packages/torch/nn.py", 7)
        return drawn(*arguments)

    monkeypatch.setattr(report, "comparison", comparison)
    done = called("compare", "x.npy", "x.npy", "--json", "--out", "c.png", cwd=tmp_path)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: compiling")]
    assert lines == ["note: one thing", "note: another", "warning: old (FutureWarning of torch/nn.py)"]
    assert json.loads(done.stdout)["notices"] == ["one\nthing", "another"]
    monkeypatch.setattr(commands, "_rank", lambda _: 1)
    assert called("compare", "x.npy", "x.npy", "--json", "--out", "d.png", cwd=tmp_path).stderr == ""


def test_log_records_are_printed_as_notes(monkeypatch):
    monkeypatch.setattr("rieszflow.generative.presets", lambda: logging.getLogger("rieszflow").info("compiling") or [])
    assert called("info").stderr == "note: compiling\n"
    assert not logging.getLogger("rieszflow").handlers


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_encodings_that_lack_letters(points, tmp_path, encoding):
    """Every command prints its numbers, even if the encoding lacks letters of a name."""
    path = tmp_path / "größe数"
    shutil.copytree(points, path)
    np.save(tmp_path / "größe数.npy", np.random.default_rng(0).normal(size=(50, 2)))
    for command, shows in (
        (["info", path], "3 of 3 stages"),
        (["sample", path, "-n", 4, "--out", tmp_path / "s数.npz"], "4 samples of shape (2,)"),
        (["evaluate", path, "-n", 20], "frechet_distance"),
        (
            ["compare", tmp_path / "größe数.npy", tmp_path / "größe数.npy", "--out", tmp_path / "c.png"],
            "95 % confidence interval",
        ),
        (["--help"], "compare"),
    ):
        done = called(*command, encoding=encoding)
        assert done.returncode == 0, done.stderr
        assert shows in done.stdout
    done = called("compare", tmp_path / "ö…数.npy", "x.npy", encoding=encoding)
    spelt = {"ascii": "o...?.npy", "latin-1": "ö...?.npy", "cp1252": "ö…?.npy"}[encoding]
    assert done.returncode == 1 and spelt in done.stderr and done.stderr.count("\n") == 1


def test_transliteration():
    signs = "D² = 1 × 2 … → ≥ Fréchet “a” \udcff 数"
    assert signs.encode("ascii", "rieszflow") == b'D2 = 1 x 2 ... -> >= Frechet "a" ? ?'


@pytest.mark.parametrize("columns", [80, 40])
def test_tables_in_narrow_terminals(points, tmp_path, monkeypatch, columns):
    """No heading and no number is cut or wrapped; a table wider than the terminal becomes a list."""
    path = tmp_path / "run"
    shutil.copytree(points, path)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(output.console, "_width", None)  # it may have been fixed on import, by COLUMNS of that moment
    info, scores = called("info", path).stdout, called("evaluate", path, "-n", 20).stdout
    headings, lines = report.page.stage_table(Run.open(path).metrics())
    assert headings == ["stage", "steps", "fit error", "particles", "fitted", "fresh", "seconds"]
    assert all(text in info for line in [headings, *lines] for text in line)
    for score, values in Run.open(path).evaluation()["scores"].items():
        assert score in scores and f"{values['generated']:.4f}" in scores
    assert ("│" in info, "│" in scores) == (columns == 80,) * 2
    framed = [line for line in (info + scores).splitlines() if line[:1] in "┏┃┡│└"]
    assert all(len(line) <= columns for line in framed)


def test_names_are_not_markup(tmp_path):
    """Names that look like Rich markup, mathematics, hidden labels or escape sequences are printed as text."""
    x = np.random.default_rng(0).normal(size=(50, 2))
    for names in (("[red].npy", "_x.npy"), ("a$\\b$.npy", ":bug:.npy"), ("\x1b[31mx.npy", "数.npy")):
        for name in names:
            np.save(tmp_path / name, x)
        done = called("compare", *names, "--slices", 16, "--permutations", 19, "--out", "c.png", "--force", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert all(f"{name}: 50 points".replace("\x1b", "?") in done.stdout for name in names)
    assert "shows boxes instead" in done.stderr


def test_remaining_time_from_the_first_steps(monkeypatch):
    """The bar of the whole training counts scheduled steps: 8 + 10, 16 + 10 and, on the second level, 8 + 20."""
    levels = [{"factor": 2, "stages": 2}, {"factor": 1, "stages": 1, "fit_steps": 20}]
    config = Config(initial_steps=8, max_step_increment=8, max_steps=64, fit_steps=10, levels=levels)
    monkeypatch.setattr(output, "console", Console(file=io.StringIO(), force_terminal=True, width=80))
    seconds = iter(range(1000))
    with output.TrainingBars(config) as show:
        show.get_time = lambda: float(next(seconds))
        overall = show.tasks[show.total]
        assert overall.total == 18 + 26 + 28
        for step in range(1, 6):
            show(Progress("flow", step, 8, 1, 3))
        assert overall.completed == 5 and overall.time_remaining is not None
        show(Progress("fit", 4, 10, 2, 3, 0.5))
        assert overall.completed == 18 + 16 + 4 and overall.description == "stage 2 of 3"
        show(Progress("fit", 20, 20, 3, 3, 0.5))
        assert overall.completed == overall.total


def test_best_stage_is_named(points, tmp_path, monkeypatch):
    """Only stages of the last level count, and only if later ones are worse by more than the noise of real data."""

    def rows(*fresh, noise=-0.001, levels=None):
        levels = levels or [1] * len(fresh)
        distances = [{"fresh_samples": value, "training_data": noise} for value in fresh]
        return [StageMetrics(k, level, 8, 8 * k, e, {}) for k, (level, e) in enumerate(zip(levels, distances, strict=True), 1)]

    best = cli.runs._best_stage
    assert best(rows(0.5, 0.25, 0.2525)).startswith("fresh samples were best after stage 2, at 0.2500; later")
    assert best(rows(0.5, 0.25, 0.2515)) == best(rows(0.5, 0.25, 0.125)) == best(rows(0.5)) == ""
    assert best(rows(0.1, 0.25, 0.125, levels=[2, 1, 1])) == ""
    shutil.copytree(points, tmp_path / "run")
    monkeypatch.setattr(Run, "metrics", lambda _: rows(0.5, 0.25, 0.75))
    assert rieszflow("resume", tmp_path / "run").stdout.splitlines()[-1].startswith("fresh samples were best after stage 2")


def test_closed_pipe(points):
    """A reader that closes the pipe, as `| head -0` does, causes no message."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "rieszflow", "info", points], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 1 and done.stderr == ""


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_closed_streams(monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    for arguments, code in ((["info"], 0), (["info", "nothing"], 1)):
        with pytest.raises(SystemExit) as end:
            cli.app(arguments)
        assert end.value.code == code


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_no_bars_in_a_pipe(monkeypatch, name):
    """Build servers set these variables, which make Rich take every pipe for a terminal."""
    monkeypatch.setenv(name, "1")
    pipe = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=pipe))
    with output.ProgressBars() as passes:
        passes(Progress("points", 1, 2))
    assert pipe.getvalue() == ""


def test_a_variable_of_another_program_does_not_silence_us(monkeypatch):
    for number, size, rank in ((3, None, 0), ("", 2, 0), (1, 2, 1), (5, 2, 0), (2, 2, 0), (1, "two", 0), (1, "", 0)):
        for name, value in (("RANK", number), ("WORLD_SIZE", size)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, str(value))
        assert commands._rank("train") == commands._rank("resume") == rank
        assert commands._rank("sample") == commands._rank("") == 0
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "presets" in called("info").stdout
    assert called("resume", "nothing").stderr.startswith("error: process 1: nothing: not a run")
    assert "presets" in called("info").stdout


def test_torchruns_variables_without_torchrun(tmp_path, monkeypatch):
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", ""), ("LOCAL_RANK", "-1")):
        monkeypatch.setenv(name, value)
    PartialState._reset_state()  # which is kept from an earlier training in this process
    done = called("train", "digits", "--device", "cpu", "--out", "run", cwd=tmp_path)
    PartialState._reset_state()
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "WORLD_SIZE=2 is set, but this process was not started by torchrun" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "files"),
    [
        (["sample", "{run}"], ["samples.npz"]),
        (["sample", "{run}", "--out", "new.npy"], ["new.png"]),
        (["compare", "x.npy", "x.npy", "--out", "c.png"], ["c.png"]),
        (["pairwise", "x.csv", "--by", "g", "--out", "p.csv"], ["p.csv"]),
        (["pairwise", "x.csv", "--by", "g", "--out", "p.csv"], ["p.png"]),
        (["sketch", "x.npy", "--out", "x.sketch"], ["x.sketch"]),
    ],
)
def test_nothing_is_overwritten_without_force(points, tmp_path, command, files):
    x = np.random.default_rng(0).normal(size=(20, 2))
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "x.csv").write_text("a,b,g\n" + "".join(f"{a},{b},{k % 2}\n" for k, (a, b) in enumerate(x)))
    command = [part.format(run=points) for part in command]
    for file in files:
        (tmp_path / file).write_text("dear")
    before = sorted(p.name for p in tmp_path.iterdir())
    done = called(*command, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert f"--out: {files[0]} exists; choose another name, or overwrite it with --force" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before and (tmp_path / files[0]).read_text() == "dear"
    done = called(*command, "--force", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / files[0]).read_bytes() != b"dear", done.stderr


def test_compare_writes_no_unrequested_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 2))
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "x.csv").write_text("a,b,g\n" + "".join(f"{a},{b},{k % 5}\n" for k, (a, b) in enumerate(x)))
    rieszflow("compare", "x.npy", "x.npy", "--permutations", 19, cwd=tmp_path)
    out = rieszflow("pairwise", "x.csv", "--by", "g", "--top", 2, "--permutations", 0, cwd=tmp_path).stdout
    assert "4 of 10 pairs; --out pairwise.csv writes all pairs and a heat map" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.csv", "x.npy"]


@pytest.mark.parametrize("wrong", ["evaluation.json", "report.html", "images/nearest.png", "full"])
def test_evaluate_checks_first_that_it_can_write(points, tmp_path, monkeypatch, wrong):
    shutil.copytree(points, tmp_path / "run")
    if wrong == "full":

        def full(**_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("rieszflow.cli.options.tempfile.TemporaryFile", full)
    else:
        (tmp_path / "run" / wrong).unlink(missing_ok=True)
        (tmp_path / "run" / wrong).mkdir(parents=True)
    monkeypatch.setattr("rieszflow.generative.GenerativeFlow.sample", lambda *_, **__: pytest.fail("samples were drawn"))
    done = called("evaluate", tmp_path / "run")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert ("No space left" if wrong == "full" else f"{wrong} must be a file or absent, got a folder") in done.stderr


def test_help_reads_well(monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")  # as terminals without a size say; it hides nothing
    out = program("--help").stdout
    monkeypatch.undo()
    for command in ("train", "resume", "sample", "evaluate", "info"):
        assert command in out
        assert called(command, "--help").returncode == 0
    assert called("trian").returncode == 2
    alone = called()
    assert alone.returncode == 2 and "compare" in alone.stdout and alone.stderr == ""
    assert called("--version").stdout == f"rieszflow {rieszflow_version()}\n"


def rieszflow_version():
    text = (Path(__file__).parents[2] / "src" / "rieszflow" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.*)"', text, re.MULTILINE)[1]
