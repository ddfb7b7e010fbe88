"""Check the wheel and the sdist, with the wheel installed alone. Run by `make release`: release_check.py PYTHON DIST"""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

OUTSIDE = """
from typing import assert_type

import torch

import rieszflow as rf

x = torch.zeros(3, 2)
assert_type(rf.energy_distance(x, x), torch.Tensor)
assert_type(rf.two_sample_test(x, x).pvalue, float)
rf.energy_distance(x, x, statistic="W")  # type: ignore[arg-type]
"""

INSIDE = """
import importlib.metadata, importlib.util, sys
import torch
import rieszflow as rf

assert "site-packages" in rf.__file__, rf.__file__
assert rf.__version__ == importlib.metadata.version("rieszflow") == sys.argv[1]
g = torch.Generator().manual_seed(0)
x, y = torch.randn(300, 3, generator=g), torch.randn(200, 3, generator=g) + 1
assert rf.sliced_mmd2_gradient(x, y, slices=64).shape == (300, 3)
assert rf.two_sample_test(x, y).pvalue == 0.001
moved = rf.ParticleFlow(y, slices=16).run(x, steps=20)
assert rf.energy_distance(moved, y) < rf.energy_distance(x, y)
sketch = rf.SliceSketch.from_points(x)
sketch.save("x.sketch")
assert rf.SliceSketch.load("x.sketch").distance(y) == sketch.distance(y)
for name in ("matplotlib", "diffusers", "typer", "sklearn", "torchmetrics", "pandas", "pyarrow"):
    assert importlib.util.find_spec(name) is None, f"{name} came along"
try:
    rf.GenerativeFlow
except rf.errors.MissingPackageError as e:
    assert "pip install 'accelerate" in str(e) and "rieszflow[" not in str(e) and "\\n" not in str(e), e
else:
    raise AssertionError("GenerativeFlow without its extra")
"""


def main(python: str, dist: str) -> None:
    (wheel,), (sdist,) = Path(dist).glob("*.whl"), Path(dist).glob("*.tar.gz")
    python = str(Path(python).absolute())  # not resolved: the target of the link is outside the environment
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        meta = email.message_from_bytes(packed.read(next(n for n in names if n.endswith(".dist-info/METADATA"))))
    version = meta["Version"]
    assert wheel.name == f"rieszflow-{version}-py3-none-any.whl" and sdist.name == f"rieszflow-{version}.tar.gz"
    assert meta["License-Expression"] == "MIT" and meta["License-File"] == "LICENSE" and meta["Summary"]
    assert any(n.endswith("licenses/LICENSE") for n in names)
    own = {n.removeprefix("rieszflow/") for n in names if n.startswith("rieszflow/")}
    source = Path(__file__).parents[2] / "src" / "rieszflow"
    wanted = {
        str(p.relative_to(source))
        for p in source.rglob("*")
        if p.suffix in (".py", ".pyi", ".yaml", ".html") or p.name == "py.typed"
    }
    assert own == wanted, f"missing {sorted(wanted - own)}, not ours {sorted(own - wanted)}"
    assert all(n.startswith(("rieszflow/", f"rieszflow-{version}.dist-info/")) for n in names)
    with tarfile.open(sdist) as packed_source:
        held = {n.name.split("/", 1)[1] for n in packed_source.getmembers() if n.isfile()}
    made = {"PKG-INFO", "setup.cfg", *(n for n in held if n.startswith("src/rieszflow.egg-info/"))}
    ours = {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", *(f"src/rieszflow/{n}" for n in wanted)}
    assert held - made == ours, f"the sdist: {sorted(held - made ^ ours)}"

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-I", "-c", INSIDE, version], cwd=folder, check=True)
        program = Path(python).parent / "rieszflow"
        done = subprocess.run([str(program), "--help"], cwd=folder, capture_output=True, text=True)
        assert done.returncode != 0 and "'typer" in done.stderr and done.stderr.count("\n") == 1, done
        Path(folder, "outside.py").write_text(OUTSIDE, encoding="utf-8")
        mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "--cache-dir", folder, "outside.py"]
        subprocess.run(mypy, cwd=folder, check=True)
    print(f"{wheel.name} ({wheel.stat().st_size // 1024} KB) and {sdist.name} ({sdist.stat().st_size // 1024} KB): good")


if __name__ == "__main__":
    main(*sys.argv[1:])
