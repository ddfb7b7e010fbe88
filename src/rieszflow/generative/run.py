"""A run's folder: what is in it, and how it is written and read. Every file appears whole or not at all.

config.yaml          settings, data set, shapes: everything needed to repeat the run
networks/0001.safetensors …   one network each
state.safetensors    particles, momentum, random states, and a fit's state: all that `resume` needs
metrics.jsonl        one line per network
evaluation.json      what `evaluate` found
images/              PNGs
report.html          everything to look at, in one file

Files belong together. Networks and state hold the settings and what was known of the data when they were trained, and the
checksum of the network before them, which holds the one before that: a file of another run, or a setting changed afterwards,
does not fit. Equal runs have equal files. Lines of metrics and the scores hold the checksum of their network, and their own.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from rieszflow._files import (
    FORMAT,
    VERSION,
    atomically,
    is_temporary,
    load_header,
    load_tensors,
    one_line,
    read_text,
    remove_leftovers,
    save_tensors,
)
from rieszflow._notices import notice
from rieszflow.errors import ConfigError, FileError, RunError, WriteError
from rieszflow.generative.config import YAML_BYTES, Config, dump_yaml, parse_yaml, shown

__all__ = ["RESTORED", "Run", "RunError"]


class Run:
    """The folder of one training run, opened (`Run.open`) or made (`Run.create`).

    Attributes:
        path: the folder.
        config: settings.
        data: what was trained on: name, path, shape, low, high, training points, fingerprint.
    """

    def __init__(self, path: Path, config: Config, data: dict[str, Any]) -> None:
        self.path, self.config, self.data = path, config, data

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Config, data: dict[str, Any]) -> Run:
        """A new folder, or an empty one. What a first write that was killed has left in it counts as nothing."""
        path = Path(path)
        if "\0" in str(path):
            raise RunError(f"{str(path)!r}: the name of a folder is needed")
        run = cls(path, config, data)
        run._check_empty()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{path}: cannot be made ({error.strerror or one_line(error)})") from None
        content = {"format": FORMAT, "version": VERSION, "data": data, "config": config.to_dict()}
        text = dump_yaml(content)
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
        try:
            content = parse_yaml(read_text(file, YAML_BYTES))
        except FileError:
            raise
        except ValueError as error:
            raise RunError(f"{file}: not readable YAML ({error})") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise RunError(f"{file}: not written by rieszflow")
        if content.get("version") != VERSION:
            raise RunError(f"{file}: of version {shown(content.get('version'))}; this rieszflow reads version {VERSION}")
        _check_data(file, content.get("data"))
        try:
            config = Config.from_dict(content.get("config"), str(file), whole=True)
        except ConfigError as error:
            raise RunError(str(error)) from None
        return cls(path, config, content["data"])

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

    def network_file(self, number: int) -> Path:
        return self.path / "networks" / f"{number:04d}.safetensors"

    # Networks.

    def _there(self) -> list[int]:
        """Numbers of the networks that are there, in order."""
        folder = self.path / "networks"
        names = (file.name for file in folder.iterdir() if file.is_file()) if folder.is_dir() else ()
        numbers = {int(name[:-12]) for name in names if re.fullmatch(r"[0-9]{4,9}\.safetensors", name)}
        return sorted(number for number in numbers if number and self.network_file(number).is_file())

    def _needed(self, last: int) -> list[int]:
        """Numbers of the files that stand for networks 1 … last: a shared network has one for its level."""
        if not self.config.shared:
            return list(range(1, last + 1))
        return [end for end in self._ends() if end < last] + [last] * (last > 0)

    def _ends(self) -> list[int]:
        return list(itertools.accumulate(config.networks for _, config in self.config.level_configs()))

    def _before(self, number: int) -> int:
        """The network that a network goes on from; 0 if it is the first."""
        return max((n for n in self._needed(number) if n < number), default=0)

    def finished(self) -> int:
        """Networks 1, 2, … that are there, up to the first gap; of a shared one, the steps that it has learned."""
        there = self._there()
        if self.config.shared:
            return there[-1] if there else 0
        return next((k for k, number in enumerate(there) if number != k + 1), len(there))

    def missing(self, last: int | None = None) -> list[int]:
        """Numbers of those of networks 1 … last that are not there; without `last`, of all that have been trained."""
        there = self._there()
        if last is None:
            last = max([self._recorded() or 0, *there[-1:]])
        return [n for n in self._needed(last) if n not in there and not self._replaced(n, last)]

    def _replaced(self, number: int, last: int) -> bool:
        """A shared network one step further is there: the run was killed before it could say so, and will learn it again."""
        return self.config.shared and number == last and number + 1 in self._there() and number not in self._ends()

    def _recorded(self) -> int | None:
        """Networks that were finished when the last checkpoint was written; None where that cannot be known."""
        file = self.path / "state.safetensors"
        try:
            meta, _ = load_header(file, "state")
            self._check_belongs(file, meta)
            return min(meta["network"] - 1, self.config.total_networks())
        except (FileError, KeyError, TypeError):
            return None

    def check(self) -> None:
        """That what is there was trained with the settings and data of config.yaml, by the files' headers alone: quickly."""
        for number in self._there():
            self._check_belongs(self.network_file(number), load_header(self.network_file(number), "network")[0])

    def trained(self) -> int:
        """How many networks samples go through: all that have been trained so far.

        Raises:
            RunError: one of them is missing or of another run, or there are more than config.yaml names.
        """
        self.check()
        there, total = self._there(), self.config.total_networks()
        if there and there[-1] > total:
            raise RunError(
                f"{self.network_file(there[-1])}: network {there[-1]} of a run whose config.yaml names {total} networks; "
                "give as many `networks` as there are, or more"
            )
        if missing := self.missing():
            what = (
                "a folder is in its place; remove it, and" if self.network_file(missing[0]).is_dir() else "to train it again,"
            )
            raise RunError(f"{self.network_file(missing[0])}: is missing; {what} resume the run")
        return there[-1] if there else 0

    def save_network(self, number: int, weights: dict[str, Tensor], meta: dict[str, Any]) -> str:
        """Writes a network, and returns its checksum."""
        before = self._before(number)
        whole = {"number": number, **meta, "after": self.checksum(before), **self._identity()}
        return save_tensors(self.network_file(number), "network", weights, whole)

    def checksum(self, number: int) -> str:
        """What a network's file says that its checksum is; "" for number 0, which stands for the noise."""
        return load_header(self.network_file(number), "network")[1] if number else ""

    def forget_networks(self, first: int, last: int) -> None:
        """Removes networks first … last, which a shared one has replaced."""
        for number in range(first, last + 1):
            self.network_file(number).unlink(missing_ok=True)

    def load_network(self, number: int) -> dict[str, Tensor]:
        """A network's weights.

        Raises:
            RunError: it is missing or damaged; of another run, or after another network than the one that is there; or
                settings or data in config.yaml are not those that it was trained with.
        """
        file = self.network_file(number)
        try:
            tensors, meta = load_tensors(file, "network")
        except FileError as error:
            if ": damaged" in str(error):
                raise RunError(f"{error}; to train it again, remove it and resume the run") from None
            raise
        if meta.get("number") != number:
            raise RunError(f"{file}: is network {shown(meta.get('number'))}, not {number}")
        self._check_belongs(file, meta)
        before = self._before(number)
        if meta.get("after") != self.checksum(before):
            was = f"another network {before} than the one that is there" if before else "another network"
            raise RunError(f"{file}: belongs to another run: it was trained after {was}")
        return tensors

    def _identity(self) -> dict[str, Any]:
        """What networks and checkpoints depend on. Where the data lie may change: their fingerprint says that it is they."""
        data = {"centre": None, **{key: value for key, value in self.data.items() if key not in ("name", "path")}}
        return json.loads(json.dumps({"settings": self.config.fixed(), "data": data}, default=str, sort_keys=True))

    def _check_belongs(self, file: Path, meta: dict[str, Any]) -> None:
        for part, now in self._identity().items():
            then = meta.get(part)
            if not isinstance(then, dict):
                raise RunError(f"{file}: belongs to another run: it does not say what it was trained with")
            apart = [key for key in {**now, **then} if key not in now or key not in then or now[key] != then[key]]
            if apart:
                what = [f"{key} {_said(then, key)}, in config.yaml {_said(now, key)}" for key in apart[:3]]
                more = f"; and {len(apart) - 3} more" if len(apart) > 3 else ""
                raise RunError(
                    f"{file}: trained with other {part}: {'; '.join(what)}{more}; config.yaml was edited, or the file is of "
                    "another run"
                )

    # The checkpoint.

    def save_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Writes a checkpoint. `meta` says in `after` what the checksum of the last finished network is."""
        save_tensors(self.path / "state.safetensors", "state", tensors, {**meta, **self._identity()})

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint, or None where a run was killed before its first."""
        file = self.path / "state.safetensors"
        if not os.path.lexists(file):
            return None
        try:
            tensors, meta = load_tensors(file, "state")
        except FileError as error:
            if ": damaged" in str(error):
                raise RunError(f"{error}; remove it and resume, and the run begins again") from None
            raise
        self._check_belongs(file, meta)
        return tensors, meta

    def complete(self) -> bool:
        """Whether all networks are there, and their lines of metrics. Raises RunError for a damaged or foreign network."""
        total = self.config.total_networks()
        if self.finished() < total or self.missing():
            return False
        for number in self._needed(total):
            self.load_network(number)
        try:
            return len(self.metrics()) >= total
        except RunError:
            return False

    def verify(self, meta: dict[str, Any]) -> None:
        """Reads all networks that a checkpoint (its metadata) goes on from. Raises RunError for what is damaged or foreign."""
        last = meta["network"] - 1
        for number in self._needed(last):
            if self._replaced(number, last):
                continue
            self.load_network(number)
            if number == last and meta["after"] != self.checksum(last):
                raise RunError(
                    f"{self.path / 'state.safetensors'}: belongs to another run: {self.network_file(last)} is not its"
                )

    # What is read by people.

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl.

        Raises:
            RunError: damaged or edited, lines are missing, or they are of other networks than those that are there.
        """
        file = self.path / "metrics.jsonl"
        rows = []
        if os.path.lexists(file):
            for k, line in enumerate(read_text(file, _METRICS_BYTES).splitlines(), 1):
                row = _unsealed(f"{file}: line {k}", line)
                if row.get("network") != k:
                    raise RunError(f"{file}: line {k} is of network {shown(row.get('network'))}; {RESTORED}")
                if (own := self.network_file(k)).is_file() and row.get("network_checksum") != self.checksum(k):
                    raise RunError(f"{file}: line {k} is of another network than {own}; {RESTORED}")
                rows.append(row)
        done = self.finished() if (recorded := self._recorded()) is None else recorded
        if len(rows) < done:
            raise RunError(f"{file}: has {len(rows)} lines, {done} networks are trained; {RESTORED}")
        return rows

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(_sealed(row)) + "\n" for row in rows)
        atomically(self.path / "metrics.jsonl", lambda t: t.write_text(text, encoding="utf-8"))

    def evaluation(self) -> dict[str, Any] | None:
        """What `rieszflow evaluate` wrote, or None; None with a notice where more networks have been trained since.

        Raises:
            RunError: damaged or edited.
        """
        file = self.path / "evaluation.json"
        if not os.path.lexists(file):
            return None
        scores = _unsealed(str(file), read_text(file, _METRICS_BYTES))
        there = self._there()
        if not there or scores.pop("network_checksum", None) != self.checksum(there[-1]):
            notice(f"{file}: scores other networks than those that are there now; evaluate again")
            return None
        return scores

    def write_evaluation(self, scores: dict[str, Any]) -> None:
        sealed = _sealed({**scores, "network_checksum": self.checksum(self.trained())})
        text = json.dumps(sealed, indent=2) + "\n"
        atomically(self.path / "evaluation.json", lambda t: t.write_text(text, encoding="utf-8"))


_METRICS_BYTES = 100_000_000
RESTORED = "`resume` restores it from the checkpoint"


def _said(values: dict[str, Any], key: str) -> str:
    return shown(values[key]) if key in values else "nothing"


def _sealed(content: dict[str, Any]) -> dict[str, Any]:
    """With a checksum as its last entry."""
    return {**content, "checksum": hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()}


def _unsealed(where: str, text: str) -> dict[str, Any]:
    """What `_sealed` returned, read from JSON, without the checksum. Raises RunError if it does not fit."""
    try:
        content = json.loads(text)
        checksum = content.pop("checksum")
        fits = _sealed(content)["checksum"] == checksum
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(f"{where}: damaged ({type(error).__name__}: {one_line(error, 100)})") from None
    if not fits:
        raise RunError(f"{where}: damaged or edited: its checksum does not fit its contents")
    return content


_LARGEST = 10**9  # numbers of a datum


def _check_data(file: Path, data: Any) -> None:
    """The data section of a config.yaml."""
    needed = ("name", "path", "shape", "low", "high", "points", "fingerprint")
    if not isinstance(data, dict):
        raise RunError(f"{file}: its data section is {shown(data)}; a mapping is needed")
    if odd := [key for key in data if not isinstance(key, str)]:
        raise RunError(f"{file}: its data section has the key {shown(odd[0])}; names are accepted")
    if missing := [key for key in needed if key not in data]:
        raise RunError(f"{file}: its data section lacks {', '.join(missing)}")

    def need(key: str, ok: bool, accepted: str) -> None:
        if not ok:
            raise RunError(f"{file}: data: {key}: {shown(data[key])} given; {accepted} accepted")

    def whole(v: Any, least: int) -> bool:
        return isinstance(v, int) and not isinstance(v, bool) and least <= v <= _LARGEST

    def number(v: Any) -> bool:
        return isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e300

    need("name", isinstance(data["name"], str), "text is")
    need("path", data["path"] is None or isinstance(data["path"], str), "null or text is")
    shape = data["shape"]
    sound = isinstance(shape, list) and len(shape) in (1, 3) and all(whole(v, 1) for v in shape)
    need("shape", sound and math.prod(shape) <= _LARGEST, "a list (d) or (C, H, W) of whole numbers of at least 1 is")
    need("low", number(data["low"]), "a finite number is")
    need("high", number(data["high"]) and data["high"] > data["low"], "a finite number above low is")
    centre, d = data.get("centre"), math.prod(shape)
    centred = isinstance(centre, list) and len(centre) == d and all(number(v) for v in centre)
    if centre is not None and not centred:
        raise RunError(f"{file}: data: centre: {shown(centre)} given; null or a list of {d} numbers is accepted")
    need("points", whole(data["points"], 1), "a whole number of at least 1 is")
    need("fingerprint", isinstance(data["fingerprint"], str), "text is")
