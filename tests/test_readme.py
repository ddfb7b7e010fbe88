"""What the README says runs as it stands there."""

import re
from pathlib import Path

import torch

import rieszflow as rf

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


def test_every_picture_and_page_is_there():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (Path(__file__).parent.parent / target).is_file(), target
