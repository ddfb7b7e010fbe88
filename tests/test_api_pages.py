"""Every public name has its place on the API pages."""

import importlib
import re
from pathlib import Path

import pytest

import rieszflow as rf

PAGES = [p.read_text(encoding="utf-8") for p in sorted((Path(__file__).parent.parent / "docs" / "api").glob("*.rst"))]
MODULES = ["data", "directions", "engines", "errors", "generative", "metrics", "permutations", "report", "sklearn"]


def _named(module: str) -> set[str]:
    """Names of a module that the pages take up: one by one, in a list of members, or all of them."""
    found: set[str] = set()
    for page in PAGES:
        here = "rieszflow"
        for line in page.splitlines():
            if match := re.match(r"\.\. (currentmodule|automodule):: (\S+)", line):
                here, all_of_it = match[2], match[1] == "automodule"
            elif match := re.match(r"\.\. auto(?:function|class):: (\S+)", line):
                full = match[1] if "." in match[1] else f"{here}.{match[1]}"
                found |= {full.removeprefix(f"{module}.")} if full.startswith(f"{module}.") else set()
            elif (match := re.match(r"   :members:(.*)", line)) and here == module and all_of_it:
                names = [name.strip() for name in match[1].split(",") if name.strip()]
                found |= set(names or importlib.import_module(module).__all__)
    return found


@pytest.mark.parametrize("module", ["rieszflow", *(f"rieszflow.{name}" for name in MODULES)])
def test_every_public_name_is_on_a_page(module):
    names = rf.__all__ if module == "rieszflow" else importlib.import_module(module).__all__
    at_home_elsewhere = set() if module == "rieszflow" else {*rf.__all__, *rf.errors.__all__} - set(_named(module))
    if module == "rieszflow.errors":
        at_home_elsewhere = set()
    assert {name for name in names if not name.isupper()} - at_home_elsewhere <= _named(module)
