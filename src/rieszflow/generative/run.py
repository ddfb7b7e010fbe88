"""A run's folder: what is in it, and how it is written and read. Every file appears whole or not at all.

config.yaml          settings, data set, shapes: everything needed to repeat the run
networks/0001.safetensors …   one network each
state.safetensors    particles, momentum, random states, and a fit's state: all that `resume` needs; only a header once finished
metrics.jsonl        one line per network
evaluation.json      what `evaluate` found
images/              PNGs
report.html          everything to look at, in one file

Files belong together. Networks and state hold the settings and what was known of the data when they were trained, and the
checksum of the network before them, which holds the one before that: a file of another run, or a setting changed afterwards,
does not fit. Equal runs have equal files. Lines of metrics and the scores hold the checksum of their network, and their own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from rieszflow._infra.extras import extra
from rieszflow._infra.files import (
    Format,
    Json,
    atomically,
    is_temporary,
    load_header,
    load_tensors,
    read_text,
    remove_leftovers,
    save_tensors,
)
from rieszflow._infra.notices import notice
from rieszflow._infra.text import one_line
from rieszflow.data import ColumnScaler
from rieszflow.errors import FileError, RunError, WriteError
from rieszflow.generative.checks import MOST, is_whole, shown
from rieszflow.generative.config import Config
from rieszflow.generative.description import VERSION, Description, check_belongs
from rieszflow.generative.sealed import sealed, unsealed

with extra("generative", "generative models"):
    from filelock import FileLock, Timeout

__all__ = ["NETWORK", "RESTORED", "STATE", "Run"]

NETWORK, STATE = Format("network", VERSION), Format("state", VERSION)
RESTORED = "`resume` restores it from the checkpoint"
_METRICS_BYTES = 100_000_000


class Run:
    """The folder of one training run, opened (`Run.open`) or made (`Run.create`).

    Attributes:
        path: the folder.
        config: settings.
        data: what was trained on: name, path, shape, low, high, training points, fingerprint.
    """

    def __init__(self, path: Path, description: Description) -> None:
        self.path, self.config, self.data = path, description.config, description.data
        self._identity = description.identity()

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Config, data: Json) -> Run:
        """A new folder, or an empty one. What a first write that was killed has left in it counts as nothing."""
        path = Path(path)
        if "\0" in str(path):
            raise RunError(f"{str(path)!r}: the name of a folder is needed")
        description = Description(config, data)
        run = cls(path, description)
        run._check_empty()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{path}: cannot be made ({error.strerror or one_line(error)})") from None
        text = description.text()
        with run.exclusively():  # of two that begin at once in one folder the second must see the first
            run._check_empty()
            remove_leftovers(path)
            atomically(path / "config.yaml", lambda t: t.write_text(text, encoding="utf-8"))
        return run

    def _check_empty(self) -> None:
        there = os.path.lexists(self.path)
        if there and (
            not self.path.is_dir() or any(f.name != ".lock" and not is_temporary(f.name) for f in self.path.iterdir())
        ):
            raise RunError(f"{self.path}: exists and is not an empty folder; choose another, or resume it")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """The run in a folder. Raises RunError for whatever in its config.yaml cannot be."""
        path = Path(path)
        file = path / "config.yaml"
        if not os.path.isfile(file):  # which raises nothing, whatever the name is
            raise RunError(f"{path}: no run of rieszflow (no config.yaml in it)")
        return cls(path, Description.read(file))

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Only one process may train a run. The system frees the lock of a process that ends, however it ends."""
        lock = FileLock(self.path / ".lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(f"{self.path}: is being trained already, by another process or call") from None
        except (OSError, NotImplementedError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
            raise WriteError(f"{self.path}: cannot be locked for training ({reason}); nothing was changed") from None
        try:
            yield
        finally:
            lock.release()

    def clear_temporaries(self) -> None:
        """Removes what a killed process was about to write. Only for the process that trains the run."""
        for folder in (self.path, self.path / "networks", self.path / "images"):
            remove_leftovers(folder)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data["shape"])

    @property
    def columns(self) -> ColumnScaler | None:
        """Return the scaling of the columns of vectors; None for images."""
        said = self.data["columns"]
        return None if said is None else ColumnScaler(**{key: tuple(value) for key, value in said.items()})

    def network_file(self, number: int) -> Path:
        return self.path / "networks" / f"{number:04d}.safetensors"

    # Networks.

    def _there(self) -> list[int]:
        """Numbers of the networks that are there, in order."""
        folder = self.path / "networks"
        names = (file.name for file in folder.iterdir() if file.is_file()) if folder.is_dir() else ()
        numbers = {int(name[:-12]) for name in names if re.fullmatch(r"[0-9]{4,9}\.safetensors", name)}
        return sorted(number for number in numbers if number and self.network_file(number).is_file())

    def finished(self) -> int:
        """Return how many of networks 1, 2, … are there, up to the first gap."""
        there = self._there()
        return next((k for k, number in enumerate(there) if number != k + 1), len(there))

    def missing(self, last: int | None = None) -> list[int]:
        """Numbers of those of networks 1 … last that are not there; without `last`, of all that have been trained."""
        there = self._there()
        if last is None:
            last = max([self._recorded() or 0, *there[-1:]])
        return [n for n in range(1, last + 1) if n not in there]

    def _recorded(self) -> int | None:
        """Networks that were finished when the last checkpoint was written; None where that cannot be known."""
        file = self.path / "state.safetensors"
        try:
            meta, _ = load_header(file, STATE)
            check_belongs(file, meta, self._identity)
            return min(int(meta["network"]) - 1, self.config.total_stages())
        except (FileError, KeyError, TypeError):
            return None

    def check(self) -> None:
        """That what is there was trained with the settings and data of config.yaml, by the files' headers alone: quickly."""
        for number in self._there():
            check_belongs(self.network_file(number), load_header(self.network_file(number), NETWORK)[0], self._identity)

    def trained(self) -> int:
        """How many networks samples go through: all that have been trained so far.

        Raises:
            RunError: one of them is missing or of another run, or there are more than config.yaml names.
        """
        if not self.path.is_dir():
            raise RunError(f"{self.path}: the folder of the run is missing; it was moved or removed")
        self.check()
        there, total = self._there(), self.config.total_stages()
        if there and there[-1] > total:
            raise RunError(
                f"{self.network_file(there[-1])}: network {there[-1]} of a run whose config.yaml names {total} stages; "
                "give as many `stages` as there are, or more"
            )
        if missing := self.missing():
            what = (
                "a folder is in its place; remove it, and" if self.network_file(missing[0]).is_dir() else "to train it again,"
            )
            raise RunError(f"{self.network_file(missing[0])}: is missing; {what} resume the run")
        return there[-1] if there else 0

    def save_network(self, number: int, weights: dict[str, Tensor], meta: Json) -> str:
        """Writes a network, and returns its checksum."""
        whole = {"number": number, **meta, "after": self.checksum(number - 1), **self._identity}
        return save_tensors(self.network_file(number), NETWORK, weights, whole)

    def checksum(self, number: int) -> str:
        """What a network's file says that its checksum is; "" for number 0, which stands for the noise."""
        return load_header(self.network_file(number), NETWORK)[1] if number else ""

    def load_network(self, number: int) -> dict[str, Tensor]:
        """A network's weights.

        Raises:
            RunError: it is missing or damaged; of another run, or after another network than the one that is there; or
                settings or data in config.yaml are not those that it was trained with.
        """
        file = self.network_file(number)
        try:
            tensors, meta = load_tensors(file, NETWORK)
        except FileError as error:
            if ": damaged" in str(error):
                raise RunError(f"{error}; to train it again, remove it and resume the run") from None
            raise
        if meta.get("number") != number:
            raise RunError(f"{file}: is network {shown(meta.get('number'))}, not {number}")
        check_belongs(file, meta, self._identity)
        before = number - 1
        if meta.get("after") != self.checksum(before):
            was = f"another network {before} than the one that is there" if before else "another network"
            raise RunError(f"{file}: belongs to another run: it was trained after {was}")
        return tensors

    # The checkpoint.

    def save_state(self, tensors: dict[str, Tensor], meta: Json) -> None:
        """Writes a checkpoint. `meta` says in `after` what the checksum of the last finished network is."""
        save_tensors(self.path / "state.safetensors", STATE, tensors, {**meta, **self._identity})

    def has_state(self) -> bool:
        return os.path.lexists(self.path / "state.safetensors")

    def load_state(self) -> tuple[dict[str, Tensor], Json] | None:
        """The last checkpoint, or None where a run was killed before its first."""
        file = self.path / "state.safetensors"
        if not self.has_state():
            return None
        try:
            tensors, meta = load_tensors(file, STATE)
        except FileError as error:
            if ": damaged" in str(error):
                raise RunError(f"{error}; remove it and resume, and the run begins again") from None
            raise
        check_belongs(file, meta, self._identity)
        if not is_whole(meta.get("network"), 1, MOST) or not isinstance(meta.get("after"), str):
            raise RunError(f"{file}: damaged: it does not state after which network it was written; remove it and resume")
        return tensors, meta

    def complete(self) -> bool:
        """Whether all networks are there, and their lines of metrics. Raises RunError for a damaged or foreign network."""
        total = self.config.total_stages()
        if self.finished() < total or self.missing():
            return False
        for number in range(1, total + 1):
            self.load_network(number)
        try:
            return len(self.metrics()) >= total
        except RunError:
            return False

    def verify(self, meta: Json) -> None:
        """Reads all networks that a checkpoint (its metadata) goes on from. Raises RunError for what is damaged or foreign."""
        last = meta["network"] - 1
        for number in range(1, last + 1):
            self.load_network(number)
            if number == last and meta["after"] != self.checksum(last):
                raise RunError(
                    f"{self.path / 'state.safetensors'}: belongs to another run: {self.network_file(last)} is not its"
                )

    # What is read by people.

    def metrics(self) -> list[Json]:
        """The lines of metrics.jsonl.

        Raises:
            RunError: damaged or edited, lines are missing, or they are of other networks than those that are there.
        """
        file = self.path / "metrics.jsonl"
        rows = []
        if os.path.lexists(file):
            for k, line in enumerate(read_text(file, _METRICS_BYTES).splitlines(), 1):
                row = unsealed(f"{file}: line {k}", line)
                if row.get("network") != k:
                    raise RunError(f"{file}: line {k} is of network {shown(row.get('network'))}; {RESTORED}")
                if (own := self.network_file(k)).is_file() and row.get("network_checksum") != self.checksum(k):
                    raise RunError(f"{file}: line {k} is of another network than {own}; {RESTORED}")
                rows.append(row)
        done = self.finished() if (recorded := self._recorded()) is None else recorded
        if len(rows) < done:
            raise RunError(f"{file}: has {len(rows)} lines, {done} networks are trained; {RESTORED}")
        return rows

    def write_metrics(self, rows: Sequence[Json]) -> None:
        text = "".join(json.dumps(sealed(row)) + "\n" for row in rows)
        atomically(self.path / "metrics.jsonl", lambda t: t.write_text(text, encoding="utf-8"))

    def evaluation(self) -> Json | None:
        """What `rieszflow evaluate` wrote, or None; None with a notice where more networks have been trained since.

        Raises:
            RunError: damaged or edited.
        """
        file = self.path / "evaluation.json"
        if not os.path.lexists(file):
            return None
        scores = unsealed(str(file), read_text(file, _METRICS_BYTES))
        there = self._there()
        if not there or scores.pop("network_checksum", None) != self.checksum(there[-1]):
            notice(f"{file}: scores other networks than those that are there now; evaluate again")
            return None
        return scores

    def write_evaluation(self, scores: Json) -> None:
        content = sealed({**scores, "network_checksum": self.checksum(self.trained())})
        text = json.dumps(content, indent=2) + "\n"
        atomically(self.path / "evaluation.json", lambda t: t.write_text(text, encoding="utf-8"))
