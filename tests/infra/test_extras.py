"""The core with nothing but PyTorch, NumPy, SciPy, Numba and safetensors; and one line for every package that is missing."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rieszflow._infra import extras
from rieszflow._infra.extras import extra
from rieszflow.errors import MissingPackageError

EXTRAS = ("PIL", "accelerate", "datasets", "diffusers", "duckdb", "matplotlib", "pandas", "pyarrow", "rich", "sklearn")
EXTRAS += ("torch_fidelity", "torchmetrics", "typer", "yaml")
# A finder before all others, so that nothing of the extras is found, as in an environment without them.
WITHOUT = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def without_extras(code, cwd):
    return subprocess.run([sys.executable, "-c", WITHOUT + code], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_the_core_needs_no_extra(tmp_path):
    code = """
import torch, rieszflow as rf
g = torch.Generator().manual_seed(0)
x, y = torch.randn(300, 5, generator=g), torch.randn(200, 5, generator=g) + 1
rf.energy_distance(x, y, statistic="U"), rf.mmd2(x, y, kernel=rf.Matern(1.5)), rf.energy_score(x.view(60, 5, 5), y[:60])
rf.sliced_mmd2(x, y), rf.sliced_mmd2_gradient(x, y), rf.two_sample_test(x, y, permutations=99)
flow = rf.ParticleFlow(y, record=True, seed=g)
flow.run(x, steps=3)
flow.recorded().save("flow.safetensors")
rf.RecordedFlow.load("flow.safetensors").push(x)
rf.SliceSketch.from_points(x).save("x.sketch")
rf.drift_test(y.numpy(), rf.SliceSketch.load("x.sketch"), permutations=99)
rf.compare(x, y, permutations=99)
rf.metrics.precision_recall(x, y), rf.metrics.energy_pvalue(x, y, permutations=99)
"""
    done = without_extras(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_command_installs_what_is_missing(monkeypatch):
    """The command names packages of a registry; in a clone that was never installed it names the extra."""
    wanted = ["torch>=2", 'pillow>=10; extra == "cli"', 'typer>=0.12; extra == "cli"', 'nowhere>=3; extra == "fid"']
    monkeypatch.setattr(extras.metadata, "requires", lambda _: wanted)
    monkeypatch.setattr(extras, "_installed", lambda requirement: requirement.startswith("pillow"))
    for name, command in (("cli", "pip install 'typer>=0.12'"), ("fid", "pip install 'nowhere>=3'")):
        with pytest.raises(MissingPackageError) as caught, extra(name, "it"):
            raise ModuleNotFoundError("no x", name="x")
        assert str(caught.value) == f"it: needs x, which is not installed: {command}"
    monkeypatch.setattr(extras, "_installed", lambda _: True)
    assert extras._command("cli") == "pip install 'pillow>=10' 'typer>=0.12'"
    monkeypatch.setattr(extras.metadata, "requires", lambda _: None)
    assert extras._command("cli") == "pip install '.[cli]' in a clone of rieszflow"
    monkeypatch.undo()
    assert extras._installed("torch>=2.6") and not extras._installed("no-such-package>=1")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("rf.GenerativeFlow", "generative models: needs yaml, which is not installed: pip install .*'pyyaml.*"),
        ("rf.stream('t.csv')", "t.csv: needs duckdb, which is not installed: pip install .*'pyarrow>=14'"),
        ("rf.report", "figures: needs .*: pip install 'matplotlib.*' 'pillow.*"),
        ("rf.data.load('digits')", "digits: needs sklearn, which is not installed: pip install .*'scikit-learn.*"),
        ("rf.data.load('images')", "images: needs PIL, which is not installed: pip install .*'pillow.*"),
        ("rf.metrics.kernel_distance(x, x)", "kernel_distance: needs torchmetrics, .*: pip install .*'torchmetrics>=1.5'"),
        ("rf.cli", "the command line: needs (typer|rich), which is not installed: pip install .*'rich.*'typer.*"),
    ],
)
def test_a_missing_package_is_named_with_the_command(code, says, tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "images").mkdir()
    program = f"""
import torch, rieszflow as rf
x = torch.rand(9, 2)
try:
    {code}
except rf.errors.MissingPackageError as error:
    assert isinstance(error, ImportError)
    print(error)
"""
    done = without_extras(program, tmp_path)
    assert re.fullmatch(
        re.escape(says).replace(r"\.\*", ".*").replace(r"\(typer\|rich\)", "(typer|rich)"), done.stdout.strip()
    ), done


def test_the_command_line_without_its_extra_is_one_line(tmp_path):
    done = without_extras("import runpy; runpy.run_module('rieszflow', run_name='__main__')", tmp_path)
    assert done.returncode == 1 and not done.stdout
    assert re.fullmatch(
        r"error: the command line: needs \w+, which is not installed: pip install .*'typer[^\n]*\n", done.stderr
    )


def test_a_broken_package_is_told_from_a_missing_one():
    with (
        pytest.raises(MissingPackageError, match=r"tables: foo cannot be imported \(no symbol\): pip"),
        extra("tables", "tables"),
    ):
        raise ImportError("no symbol", name="foo.bar")
    with pytest.raises(ModuleNotFoundError, match=r"rieszflow\.nonsense"), extra("tables", "tables"):
        import rieszflow.nonsense  # noqa: F401


def test_every_extra_that_is_named_exists():
    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for file in (root / "src").rglob("*.py") for name in re.findall(r'\bextra\("(\w+)"', file.read_text())}
    assert named and named <= set(extras)
