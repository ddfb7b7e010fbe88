"""The README and the guides run as they stand."""

import doctest
import gc
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import rieszflow as rf
from rieszflow.generative import Config, RunError
from rieszflow.generative.levels import levels

ROOT = Path(__file__).parent.parent
README, TRAINING = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/training.md"))


def test_the_readme_prints_what_it_shows(tmp_path, monkeypatch):
    """The Python examples are one session, and the command of the first door shows its real output."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    examples = doctest.DocTestParser().get_doctest("".join(blocks), {}, "README.md", "README.md", 0)
    with torch.random.fork_rng(devices=[]):
        assert doctest.DocTestRunner().run(examples).failed == 0
    shown = re.search(r"\$ rieszflow (compare [^#]*)#.*?\n(.*?)```", README, re.DOTALL)
    found = subprocess.run([sys.executable, "-m", "rieszflow", *shown[1].split()], capture_output=True, text=True, check=True)
    assert found.stdout.split() == shown[2].split()


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 100


def test_the_guide_to_training_runs(tmp_path, monkeypatch):
    """Twice, as in a notebook, in the same folder, and without a warning, even about a folder that was left open."""
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TRAINING, re.DOTALL)
    # CPython discards warnings of a finalizer, even as errors: they are recorded instead.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.manual_seed(0)
        names: dict = {}
        exec(code.replace("stages=5, fit_steps=300", "stages=1, fit_steps=5"), names)  # the first time quickly
        first = names["flow"].run.path
        exec(code, names)
        gc.collect()
        assert not first.exists() and names["flow"].run.path.is_dir()
    assert [str(w.message) for w in caught if not issubclass(w.category, DeprecationWarning)] == []
    assert names["new"].shape == (100, 50)
    assert torch.equal(names["again"].sample(100, seed=0), names["new"])


def test_saving_over_something(tmp_path):
    """A run is replaced if asked for, what is no run never; nothing hidden stays behind."""
    flow = rf.GenerativeFlow(particles=20, stages=1, initial_steps=2, slices=4, fit_steps=2, width=4)
    flow.fit(torch.randn(20, 2, generator=torch.Generator().manual_seed(0)))
    first = flow.run.path
    flow.save(tmp_path / "run")
    flow.fit(torch.randn(30, 2, generator=torch.Generator().manual_seed(1)))
    assert not first.exists()
    with pytest.raises(RunError, match="overwrite=True"):
        flow.save(tmp_path / "run")
    flow.save(tmp_path / "run", overwrite=True)
    saved = rf.GenerativeFlow.load(tmp_path / "run")
    assert torch.equal(saved.sample(3, seed=0), flow.sample(3, seed=0))
    saved.save(tmp_path / "run", overwrite=True)  # onto itself: stays as it is
    assert torch.equal(saved.sample(3, seed=0), flow.sample(3, seed=0))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "only copy.txt").write_text("dear")
    for path in ("photos", "photos/only copy.txt"):
        with pytest.raises(RunError, match="not a run of rieszflow"):
            flow.save(tmp_path / path, overwrite=True)
    assert (tmp_path / "photos" / "only copy.txt").read_text() == "dear"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "run"]


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/data.md",
        "docs/tables.md",
        "docs/tests.md",
        "docs/gallery.md",
        "docs/fashion-mnist.md",
        "docs/photographs.md",
        "docs/design.md",
        "docs/measured.md",
        "docs/scaling.md",
        "docs/groups.md",
        "docs/paper.md",
        "docs/conditional.md",
        "docs/training.md",
        "docs/cli.md",
    ],
)
def test_every_picture_and_page_is_there(page):
    file = ROOT / page
    for target in re.findall(r"\]\(([^)]+)\)", file.read_text(encoding="utf-8")):
        assert (file.parent / target.partition("#")[0]).exists(), target


def test_the_own_preset_is_one(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", TRAINING, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block)
    config = Config.preset("images", str(tmp_path / "mine.yaml"))
    assert len(block.splitlines()) <= 12 and config.total_stages() == 10
    (level,) = levels(config, (3, 32, 32))
    assert config.model == "recorded" and len(level.kinds()) == 3
