"""docs/cli.md, which `scripts/make_cli_docs.py` writes."""

import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_reference_is_current(monkeypatch):
    if f"typer=={version('typer')}" not in (ROOT / "constraints.txt").read_text(encoding="utf-8").split():
        pytest.skip("another version of Typer formats the help differently")
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    from make_cli_docs import PAGE, cli_docs

    text = cli_docs()
    assert PAGE.read_text(encoding="utf-8") == text, "run: python scripts/make_cli_docs.py"
    commands = re.findall(r"^## `rieszflow (\w+)`$", text, re.MULTILINE)
    assert sorted(commands) == ["compare", "evaluate", "impute", "info", "pairwise", "resume", "sample", "sketch", "train"]
    assert text.count("\nExample: `rieszflow ") == len(commands)
