"""What the README says runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch

import rieszflow as rf
from rieszflow.generative import Config
from rieszflow.generative.pyramid import levels

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_api_in_ten_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        names: dict = {}
        exec(code, names)
    x, y, moved = names["x"], names["y"], names["moved"]
    assert rf.energy_distance(moved, y) < 0.5 * rf.energy_distance(x, y)
    assert names["new"].shape == (100, 50)
    assert torch.equal(names["again"].sample(100, seed=0), names["new"])


@pytest.mark.parametrize(
    "page",
    ["README.md", "docs/gallery.md", "docs/fashion-mnist.md", "docs/photographs.md", "docs/design.md", "docs/scaling.md"],
)
def test_every_picture_and_page_is_there(page):
    file = Path(__file__).parent.parent / page
    for target in re.findall(r"\]\(([^)]+)\)", file.read_text(encoding="utf-8")):
        assert (file.parent / target).exists(), target


def test_the_own_preset_is_one(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block)
    config = Config.preset("images", str(tmp_path / "mine.yaml"))
    assert len(block.splitlines()) <= 10 and config.total_networks() == 10
    assert [level.shape[1] for level in levels(config, (3, 32, 32))] == [8, 16, 32]
