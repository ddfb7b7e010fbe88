"""Copies of a run's folder. Links out of the run, which could lead to private files, are not followed."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rieszflow._infra.files import aside, open_regular
from rieszflow._infra.messages import one_line
from rieszflow.errors import RunError, WriteError
from rieszflow.generative.run import Run


class Temporary:
    """A new folder that is removed when this object is garbage-collected."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="rieszflow-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def all_files(folder: Path) -> Iterator[Path]:
    """Yield every path in a folder that is neither hidden nor a folder itself."""
    for entry in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in entry.relative_to(folder).parts)
        if not hidden and (entry.is_symlink() or not entry.is_dir()):
            yield entry


def copy_files(run: Run, files: Iterable[Path], to: Path) -> None:
    """Copy files of a run to a new folder; refuse links out of the run and files that are not regular."""
    roots = [run.path]
    if run.path.parent.name == "snapshots":  # the Hugging Face Hub's cache, which links to files in blobs
        roots.append(run.path.parent.parent / "blobs")
    for file in files:
        real, copy = file.resolve(), to / file.relative_to(run.path)
        if not any(real.is_relative_to(root.resolve()) for root in roots):
            raise RunError(f"{file}: must be a file inside of {run.path}, got a link that leads out of it; remove the link")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with open_regular(real) as source, open(copy, "xb") as target:
            shutil.copyfileobj(source, target, 1 << 20)


def read_files(run: Run) -> dict[str, bytes]:
    """Return the contents of the files of a run, by their paths in its folder."""
    found = {}
    for file in all_files(run.path):
        with open_regular(file) as opened:
            found[file.relative_to(run.path).as_posix()] = opened.read()
    return found


@contextmanager
def new_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill, which then replaces `path`, an empty or absent folder or, with `overwrite`, a run."""
    there = os.path.lexists(path) and (not path.is_dir() or any(path.iterdir()))
    if there and not overwrite:
        raise RunError(f"{path}: exists and is not an empty folder; choose another, or overwrite=True to replace a run")
    try:
        with aside(path) as temporary:
            temporary.mkdir()
            yield temporary
            if there:
                _replace(path, temporary)
                return
            if path.exists():
                path.rmdir()
            os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise WriteError(f"{path}: cannot be written ({reason}); what was there before is untouched") from error


def _replace(path: Path, new: Path) -> None:
    """Replace the folder of a run, which must not be in training, with a new one."""
    with aside(path) as old:
        with Run.open(path).exclusively():
            os.replace(path, old)
        try:
            os.replace(new, path)
        except BaseException:
            os.replace(old, path)
            raise
