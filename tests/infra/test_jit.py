"""Lazy imports, and the cache of compiled loops, also on file systems that are not writable."""

import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numba
import pytest
from numba.core.caching import CacheImpl

import rieszflow as rf
from rieszflow._infra import jit

PACKAGE = Path(rf.__file__).parent


def python(code, cwd, **environment):
    """Run code in a new interpreter, without HOME and cache folders unless given."""
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR")}
    command = [*environment.pop("command", []), sys.executable, "-c", code]
    done = subprocess.run(command, env={**kept, **environment}, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


# Imports.


def test_the_package_and_the_command_line_import_little(tmp_path):
    """PyTorch alone is a thousand modules and two seconds."""
    heavy = "('torch', 'numba', 'scipy', 'matplotlib', 'sklearn', 'diffusers', 'accelerate', 'torchmetrics', 'pyarrow')"
    code = (
        "import sys, rieszflow; assert len(sys.modules) < 150, len(sys.modules); import rieszflow.cli; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert python(code, tmp_path).stdout == "[]\n"


def test_every_public_name_is_there():
    assert set(rf.__all__) <= set(dir(rf))
    for name in rf.__all__:
        assert getattr(rf, name).__name__ == name
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    public = {name for name in modules if not name.startswith("_")}
    assert set(rf._ROOMS) == public and all(getattr(rf, name).__name__ == f"rieszflow.{name}" for name in public)
    with pytest.raises(AttributeError, match="nonsense"):
        rf.nonsense  # noqa: B018


def test_stream_is_a_function_only():
    assert isinstance(rf.stream, types.FunctionType) and not importlib.util.find_spec("rieszflow.stream")


# Numba's cache.


def test_found_out_whether_code_can_be_kept(tmp_path, monkeypatch):
    assert jit._can_cache(PACKAGE / "engines") == jit._can_cache(PACKAGE / "directions")
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    assert not jit._can_cache(PACKAGE / "engines")


@pytest.mark.parametrize("home", ["~", "relative", ""])
def test_no_folder_is_made_for_a_user_without_home(tmp_path, monkeypatch, home):
    """Numba would make a cache folder where the user happens to be: strangers may write there, and it would be trusted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path.replace("~", home))
    monkeypatch.setattr("os.access", lambda *_: False)
    assert not jit._can_cache(PACKAGE / "engines")
    assert not list(tmp_path.iterdir())


def test_imports_where_nothing_can_be_kept(tmp_path):
    """Numba's own setting leaves only the place for notebooks, which does not suit files: what a read-only container gives."""
    code = (
        "from rieszflow.engines import sort; from rieszflow._infra.jit import CACHED; "
        "print(CACHED, sort.radix_gradient.stats.cache_path)"
    )
    assert python(code, tmp_path, NUMBA_CACHE_LOCATOR_CLASSES="IPythonCacheLocator").stdout == "False None\n"
    assert not list(tmp_path.iterdir())


def test_damaged_files_of_the_cache_are_removed(tmp_path, caplog):
    """Truncated files make Numba raise. Complete files stay, and files that it does not read."""
    version, python = pickle.dumps(numba.__version__), f"py{sys.version_info[0]}{sys.version_info[1]}"
    whole = version + pickle.dumps(((0.0, 1), {"key": "f-1.1.nbc"}))
    for name, content in (("f-1", whole), ("other-1", pickle.dumps("0.1") + b"anything."), ("empty-1", b"")):
        (tmp_path / f"{name}.{python}.nbi").write_bytes(content)
    for k, content in enumerate((bytes(len(whole)), whole[:-3], b"garbage", whole[:-20] + b"\xff" * 19 + b".", version)):
        (tmp_path / f"bad-{k}.{python}.nbi").write_bytes(content)
    for name, content in (("f-1.1", pickle.dumps(b"code")), ("bad.1", b""), ("bad.2", bytes(9)), ("bad.3", whole[:-1])):
        (tmp_path / f"{name.replace('.', f'.{python}.')}.nbc").write_bytes(content)
    (tmp_path / "bad-1.py20.nbi").write_bytes(b"")
    jit._remove_damaged(tmp_path)
    names = {f"f-1.{python}.nbi", f"other-1.{python}.nbi", f"f-1.{python}.1.nbc", "bad-1.py20.nbi"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert len(caplog.messages) == 9 and all("damaged; removed" in text for text in caplog.messages)


WORK = """
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
import torch, rieszflow as rf
x = torch.arange(12.0).reshape(6, 2)
g = torch.Generator().manual_seed(0)
print(rf.sliced_mmd2_gradient(x, x + 1, slices=4, seed=g, engine="sort").abs().sum().item())
"""


@pytest.mark.slow
def test_two_processes_compile_at_once_and_a_third_need_not(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", WORK]
    both = [subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    (first, words), second = (process.communicate(timeout=300) for process in both)
    assert first and second[0] == first and words.count("compiling for this machine, once") == 1
    third = python(WORK, tmp_path, NUMBA_CACHE_DIR=str(tmp_path))
    assert third.stdout == first and "compiling" not in third.stderr


@pytest.mark.slow
@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, to give it away"
)
def test_neither_installation_nor_home_can_be_written(tmp_path):
    """As in a container that is read-only: loops run, and nothing is left anywhere."""
    shutil.copytree(PACKAGE, tmp_path / "src" / "rieszflow", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path, *tmp_path.parents):  # pytest's folders are for their owner alone
        if path.stat().st_mode & 0o005 != 0o005:
            path.chmod(0o755)
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for cache in ("/nowhere", str(tmp_path)):
        done = python(WORK, "/", command=drop, HOME="/nonexistent", PYTHONPATH=str(tmp_path / "src"), NUMBA_CACHE_DIR=cache)
        assert float(done.stdout) > 0 and "no cache folder is writable" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["src"] and not list(tmp_path.rglob("__pycache__"))
