"""The command line as real processes: train, kill -9, resume, sample, evaluate, info, and one line for every mistake."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rieszflow.generative import Run

TINY = [
    "particles=300", "networks=3", "first_steps=8", "growth_cap=8", "slices=16", "network=mlp", "width=32", "layers=2",
    "fit_steps=60", "checkpoint_seconds=0.000001", "ema=0.9",
]  # fmt: skip


def rieszflow(*arguments, cwd=None, check=True):
    done = subprocess.run(
        [sys.executable, "-m", "rieszflow", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def train_arguments(out):
    settings = [part for item in TINY for part in ("--set", item)]
    return ["train", "digits", "--out", out, "--seed", 3, "--device", "cpu", *settings]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    rieszflow(*train_arguments(path))
    return path


def test_train_leaves_a_whole_run(run):
    names = {p.name for p in run.iterdir() if p.name != ".lock"}
    assert names == {"config.yaml", "images", "metrics.jsonl", "networks", "report.html", "state.safetensors"}
    assert len(list((run / "networks").iterdir())) == 3
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    for name in ("samples-0003.png", "particles-0003.png", "way.png"):
        assert Image.open(run / "images" / name).width > 100


def test_killed_anywhere_and_resumed_is_bit_identical(run, tmp_path):
    """SIGKILL in a flow and in a fit of every network; each time `resume` goes on; the networks end up byte for byte equal."""
    path = tmp_path / "killed"
    command = train_arguments(path)
    for target in [(1, "flow", 2), (1, "fit", 20), (2, "flow", 3), (2, "fit", 50), (3, "fit", 1)]:
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
    rieszflow("resume", path)
    for file in sorted((run / "networks").iterdir()):
        assert file.read_bytes() == (path / "networks" / file.name).read_bytes()
    assert [{**row, "seconds": 0} for row in Run.open(run).metrics()] == [
        {**row, "seconds": 0} for row in Run.open(path).metrics()
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
    return order(meta["network"], meta["phase"], meta["step"])


def test_sample(run, tmp_path):
    rieszflow("sample", run, "-n", 20, "--out", tmp_path / "a.npz", "--seed", 1)
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
    assert "3 of 3 networks" in out and "digits" in out
    assert "fashion-mnist paper" in rieszflow("info").stdout


def test_vectors_from_a_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 2)) * [1, 3]
    np.save(tmp_path / "points.npy", x)
    settings = [p for s in ("particles=200", "networks=2", "first_steps=8", "fit_steps=50", "width=16") for p in ("--set", s)]
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
    """Opened in headless Chromium: it renders with its pictures and asks no network for anything."""
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
        (["train", "nothing"], "no known data set"),
        (["train", "fashion-mnist", "--data", "/nowhere"], "dataset-fashion-mnist"),
        (["train", "digits", "--preset", "huge"], "accepted: cpu"),
        (["train", "digits", "--preset", "nowhere.yaml"], "no file"),
        (["train", "digits", "--set", "networks=0"], "networks: 0"),
        (["train", "digits", "--set", "nonsense=1"], "unknown setting 'nonsense'"),
        (["train", "digits", "--set", "networks"], "KEY=VALUE"),
        (["train", "digits", "--set", "channels=[8,8,8,8,8]"], "shrink images by 16"),
        (["train", "digits", "--device", "warp"], "device"),
        (["train", "digits", "--out", "{run}"], "not an empty folder"),
        (["resume", "{tmp}"], "no run of rieszflow"),
        (["info", "{tmp}/nothing"], "no run of rieszflow"),
        (["sample", "{tmp}"], "no run of rieszflow"),
        (["sample", "{run}", "-n", "0"], "n: 0"),
        (["sample", "{run}", "--out", "x.txt"], ".npz or .npy"),
        (["sample", "{run}", "--seed", "-1"], "seed"),
        (["evaluate", "{run}", "-n", "3"], "at least 4"),
        (["evaluate", "{run}", "--inception-weights", "nowhere.pth"], "no file nowhere.pth"),
    ],
)
def test_mistakes_end_in_one_line(run, tmp_path, arguments, says):
    done = rieszflow(*(a.format(run=run, tmp=tmp_path) for a in arguments), cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and says in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert [p for p in Path(tmp_path).rglob("*") if p.is_file()] == []


def test_help_reads_well():
    out = rieszflow("--help").stdout
    for command in ("train", "resume", "sample", "evaluate", "info"):
        assert command in out
        assert rieszflow(command, "--help").returncode == 0
    assert rieszflow("trian", check=False).returncode == 2
