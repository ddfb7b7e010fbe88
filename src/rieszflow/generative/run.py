"""The folder of a training run.

All data files are written atomically, with a checksum and the random id of their run; tensor files also have a hash of the
settings and data that they depend on. Damaged files, files of other runs, and settings edited after training are refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout
from torch import Tensor

from rieszflow._infra import files
from rieszflow._infra.files import Format, Json, atomically, load_header, load_tensors, read_text, save_tensors
from rieszflow._infra.messages import notice, one_line, short_repr
from rieszflow.data import ColumnScaler
from rieszflow.data.dataset import Scaler
from rieszflow.errors import FileError, RunError, WriteError
from rieszflow.generative.config import Config
from rieszflow.generative.description import VERSION, read_description, settings_hash, write_description
from rieszflow.generative.rows import TableRows

NETWORK, STATE = Format("network", VERSION), Format("state", VERSION)
RESTORES = "`resume` restores it from the checkpoint"
_MAX_TEXT_BYTES = 100_000_000


@dataclass(frozen=True)
class StageMetrics:
    """The measurements after one stage: a line of metrics.jsonl."""

    stage: int  # its number, from 1
    level: int  # the factor by which its images are pooled
    flow_steps: int
    flow_steps_total: int  # of all stages so far
    energy_distance: dict[str, float]  # unbiased estimates of the distance to held-out or validation data, by point cloud
    seconds: dict[str, float]  # time spent so far, by phase
    displacement_rms: float | None = None  # root mean square of the particles' displacements; None in a recording
    fit_error: float | None = None  # fraction of the mean squared displacement that the network misses; None in a recording
    megabytes: float | None = None  # size of the stage's part of a recording; None for a network
    frechet_distance: dict[str, float] | None = None  # to validation data, by point cloud; None without them
    nearest_distance: dict[str, float] | None = None  # sum of both mean distances to the nearest; None without `patience`
    step_factor: float | None = None  # the factor of τ that validation data led to; None without them

    def to_dict(self) -> Json:
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


class Run:
    """The folder of one training run, opened by `Run.open` or made by `Run.create`.

    It contains config.yaml, metrics.jsonl (a line per stage), networks/0001.safetensors, … (a network or a part of a recording
    per stage; 0000 for latents fitted to the data), state.safetensors (the checkpoint; only its header once training is
    finished), evaluation.json (the scores of `rieszflow evaluate`), images/ and report.html.

    Attributes:
        path: The folder.
        config: The settings.
        data: The description of the training data in config.yaml.
        id: A random id, which all files of the run contain.
    """

    def __init__(self, path: Path, run: str, data: Json, config: Config) -> None:
        self.path, self.id, self.data, self.config = path, run, data, config
        self._header = {"run": run, "settings": settings_hash(data, config)}

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Config, data: Json) -> Run:
        """Make a run in a folder that is new, or empty but for the leftovers of a killed process."""
        path = Path(path)
        if "\0" in str(path):
            raise RunError(f"`run` must be the name of a folder, got {str(path)!r}")
        run = cls(path, secrets.token_hex(8), data, config)
        run._check_empty()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{path}: cannot be made ({error.strerror or one_line(error)})") from None
        with run.exclusively():  # of two processes that create a run in one folder, the second must see the first
            run._check_empty()
            files.remove_leftovers(path)
            text = write_description(run.id, data, config)
            atomically(path / "config.yaml", lambda t: t.write_text(text, encoding="utf-8"))
        return run

    def _check_empty(self) -> None:
        empty = self.path.is_dir() and all(f.name == ".lock" or files.TEMPORARY.fullmatch(f.name) for f in self.path.iterdir())
        if os.path.lexists(self.path) and not empty:
            raise RunError(f"{self.path}: exists and is not an empty folder; choose another, or resume it")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Open the run in a folder; raise RunError if there is none, or its config.yaml is damaged or of another version."""
        path = Path(path)
        file = path / "config.yaml"
        if not os.path.isfile(file):  # does not raise, whatever the name is
            raise RunError(f"{path}: not a run of rieszflow (it has no config.yaml)")
        return cls(path, *read_description(file))

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Lock the run for training. The system releases the lock when the process ends."""
        lock = FileLock(self.path / ".lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(f"{self.path}: is already being trained by another process or call") from None
        except (OSError, NotImplementedError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
            raise WriteError(f"{self.path}: cannot be locked for training ({reason}); nothing was changed") from None
        try:
            yield
        finally:
            lock.release()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data["shape"])

    @cached_property
    def rows(self) -> TableRows | None:
        """Return the columns of the table that the run was trained on; None for other data."""
        return None if self.data.get("table") is None else TableRows.from_json(self.data["table"])

    @property
    def columns(self) -> Scaler | None:
        """Return the scaling of the columns of vectors; None for images."""
        if self.rows is not None:
            return self.rows.scaler
        columns = self.data["columns"]
        return None if columns is None else ColumnScaler(**{key: tuple(value) for key, value in columns.items()})

    def network_file(self, stage: int) -> Path:
        return self.path / "networks" / f"{stage:04d}.safetensors"

    def _stages(self) -> list[int]:
        """Return the numbers of the stages whose files exist, in order."""
        folder = self.path / "networks"
        names = (file.name for file in folder.iterdir()) if folder.is_dir() else ()
        numbers = {int(name[:-12]) for name in names if re.fullmatch(r"[0-9]{4,9}\.safetensors", name)}
        return sorted(number for number in numbers if number and self.network_file(number).is_file())

    def finished(self) -> int:
        """Return the number of finished stages, not counting those after a missing one."""
        found = self._stages()
        return next((k for k, number in enumerate(found) if number != k + 1), len(found))

    def missing(self, last: int | None = None) -> list[int]:
        """Return the stages up to `last` without a file; by default, up to the last with a file or a checkpoint."""
        found = self._stages()
        if last is None:
            last = max([self._checkpointed() or 0, *found[-1:]])
            if not last:
                return []
        found += [0] if self.network_file(0).is_file() else []
        return [number for number in self.files(last) if number not in found]

    def files(self, last: int) -> range:
        """Return the numbers of the files that stages up to `last` need: theirs, and 0 for latents that are fitted."""
        return range(0 if self.config.latents in ("mixture", "gaussian") else 1, last + 1)

    def _checkpointed(self) -> int | None:
        """Return the number of stages that were finished at the last checkpoint; None if that is unknown."""
        file = self.path / "state.safetensors"
        try:
            header, _ = load_header(file, STATE)
            self._check_belongs(file, header)
            return min(int(header["stage"]) - 1, self.total_stages())
        except (FileError, KeyError, TypeError, ValueError, OverflowError):
            return None

    def _load(self, file: Path, form: Format, cure: str) -> tuple[dict[str, Tensor], Json]:
        try:
            tensors, header = load_tensors(file, form)
        except FileError as error:
            raise (RunError(f"{error}; {cure}") if ": damaged" in str(error) else error) from None
        self._check_belongs(file, header)
        return tensors, header

    def _check_belongs(self, file: Path, header: Json) -> None:
        if header.get("run") != self._header["run"]:
            raise RunError(f"{file}: belongs to another run than config.yaml")
        if header.get("settings") != self._header["settings"]:
            raise RunError(
                f"{file}: was trained with other settings or data than config.yaml states; undo the edits in config.yaml"
            )

    def check(self) -> None:
        """Refuse networks whose headers do not belong to this run, its settings and its data."""
        for file in map(self.network_file, self._stages()):
            self._check_belongs(file, load_header(file, NETWORK)[0])

    def total_stages(self) -> int:
        """Return the number of stages of the whole model: those in config.yaml, or fewer if the training ended by itself."""
        with contextlib.suppress(FileError, IndexError):  # a damaged file, or none
            last = self._stages()[-1]
            if load_header(self.network_file(last), NETWORK)[0].get("last") is True:
                return last
        return self.config.total_stages()

    def trained(self) -> int:
        """Return the number of stages trained so far; refuse missing and foreign ones, and more than config.yaml states."""
        if not self.path.is_dir():
            raise RunError(f"{self.path}: the folder of the run is missing; it was moved or removed")
        self.check()
        found, total = self._stages(), self.total_stages()
        if found and found[-1] > total:
            file = self.network_file(found[-1])
            raise RunError(f"{file}: is of stage {found[-1]}, but config.yaml has {total} stages; raise `stages`")
        if missing := self.missing():
            file = self.network_file(missing[0])
            cure = "a folder is in its place; remove it and" if file.is_dir() else "to train it again,"
            raise RunError(f"{file}: is missing; {cure} resume the run")
        return found[-1] if found else 0

    def save_network(self, stage: int, tensors: dict[str, Tensor], last: bool = False) -> None:
        """Write the network of a stage, after removing those of later stages; `last` marks the end of the model."""
        for number in reversed(self._stages()):
            if number > stage > 0:
                self.network_file(number).unlink()
        save_tensors(self.network_file(stage), NETWORK, tensors, {"stage": stage, "last": last, **self._header})

    def load_network(self, stage: int) -> dict[str, Tensor]:
        """Return the tensors of a stage; refuse a damaged or foreign file, and an edited config.yaml."""
        file = self.network_file(stage)
        tensors, header = self._load(file, NETWORK, "to train it again, remove it and resume the run")
        if header.get("stage") != stage:
            raise RunError(f"{file}: must be of stage {stage}, got stage {short_repr(header.get('stage'))}")
        return tensors

    def complete(self) -> bool:
        """Return True if all stages and their metrics are there; refuse damaged and foreign networks."""
        total = self.total_stages()
        if self.finished() < total or self.missing():
            return False
        for number in self.files(total):
            self.load_network(number)
        with contextlib.suppress(RunError):
            return len(self.metrics()) >= total
        return False

    def has_state(self) -> bool:
        return os.path.lexists(self.path / "state.safetensors")

    def save_state(self, tensors: dict[str, Tensor], header: Json) -> None:
        save_tensors(self.path / "state.safetensors", STATE, tensors, {**header, **self._header})

    def load_state(self) -> tuple[dict[str, Tensor], Json] | None:
        """Return the tensors and the header of the last checkpoint; None if there is none yet."""
        if not self.has_state():
            return None
        file = self.path / "state.safetensors"
        tensors, header = self._load(file, STATE, "to train again from the first stage, remove it and resume the run")
        stage = header.get("stage")
        if type(stage) is not int or not 1 <= stage < 1 << 31:
            raise RunError(f"{file}: damaged: its header does not state the stage; remove it and resume the run")
        return tensors, header

    def metrics(self) -> list[StageMetrics]:
        """Return the lines of metrics.jsonl; raise RunError if some are damaged, edited, missing, or of another run."""
        file, rows = self.path / "metrics.jsonl", []
        if os.path.lexists(file):
            for number, line in enumerate(read_text(file, _MAX_TEXT_BYTES).splitlines(), 1):
                content = _verify_checksum(f"{file}: line {number}", line)
                if content.pop("run", None) != self.id:
                    raise RunError(f"{file}: line {number} belongs to another run; {RESTORES}")
                try:
                    rows.append(StageMetrics(**content))
                except TypeError as error:
                    raise RunError(f"{file}: line {number}: damaged ({one_line(error, 100)}); {RESTORES}") from None
                if rows[-1].stage != number:
                    raise RunError(f"{file}: line {number} is of stage {short_repr(rows[-1].stage)}; {RESTORES}")
        checkpointed = self._checkpointed()
        done = self.finished() if checkpointed is None else checkpointed
        if len(rows) < done:
            raise RunError(f"{file}: has {len(rows)} lines, but {done} stages are trained; {RESTORES}")
        return rows

    def write_metrics(self, rows: Sequence[StageMetrics]) -> None:
        text = "".join(json.dumps(_with_checksum({**row.to_dict(), "run": self.id})) + "\n" for row in rows)
        atomically(self.path / "metrics.jsonl", lambda t: t.write_text(text, encoding="utf-8"))

    def evaluation(self) -> Json | None:
        """Return the scores of `rieszflow evaluate`; None if there are none, or if training continued since (with a notice)."""
        file = self.path / "evaluation.json"
        if not os.path.lexists(file):
            return None
        scores = _verify_checksum(str(file), read_text(file, _MAX_TEXT_BYTES))
        found = self._stages()
        if not found or scores.pop("network_checksum", None) != self._checksum(found[-1]):
            notice(f"{file}: the scores are of other networks than those of the run now; evaluate again")
            return None
        return scores

    def write_evaluation(self, scores: Json) -> None:
        content = _with_checksum({**scores, "network_checksum": self._checksum(self.trained())})
        text = json.dumps(content, indent=2) + "\n"
        atomically(self.path / "evaluation.json", lambda t: t.write_text(text, encoding="utf-8"))

    def _checksum(self, stage: int) -> str:
        return load_header(self.network_file(stage), NETWORK)[1]


def _with_checksum(content: Json) -> Json:
    """Return JSON content with its checksum as the last entry."""
    return {**content, "checksum": hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()}


def _verify_checksum(where: str, text: str) -> Json:
    """Parse JSON text and return its content without the checksum of `_with_checksum`, which must be correct."""
    try:
        content: Json = json.loads(text)
        checksum = content.pop("checksum")
        fits = _with_checksum(content)["checksum"] == checksum
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(f"{where}: damaged ({type(error).__name__}: {one_line(error, 100)})") from None
    if not fits:
        raise RunError(f"{where}: damaged or edited: its checksum does not fit its contents")
    return content
