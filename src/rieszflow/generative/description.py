"""What config.yaml says of a run: its settings, and the data that it is trained on.

Networks and checkpoints hold a copy of what they depend on. So a file of another run, or a setting that was changed
afterwards, is found.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from rieszflow._infra.files import MARK, Json, read_text
from rieszflow.errors import ConfigError, FileError, RunError
from rieszflow.generative.checks import is_whole, shown
from rieszflow.generative.config import Config
from rieszflow.generative.schema import YAML_BYTES, dump_yaml, parse_yaml

__all__ = ["VERSION", "Description", "check_belongs"]

VERSION = 6  # of a run: config.yaml, networks and checkpoints


@dataclass(frozen=True)
class Description:
    """A config.yaml.

    Attributes:
        config: settings.
        data: name, path, shape, low, high, training points, fingerprint.
    """

    config: Config
    data: Json

    def text(self) -> str:
        content = {"format": MARK, "version": VERSION, "data": self.data, "config": self.config.to_dict()}
        return dump_yaml(content)

    @classmethod
    def read(cls, file: Path) -> Description:
        """Raises RunError for whatever in the file cannot be."""
        try:
            content = parse_yaml(read_text(file, YAML_BYTES))
        except FileError:
            raise
        except ValueError as error:
            raise RunError(f"{file}: not readable YAML ({error})") from None
        if not isinstance(content, dict) or content.get("format") != MARK:
            raise RunError(f"{file}: not written by rieszflow")
        if content.get("version") != VERSION:
            raise RunError(f"{file}: of version {shown(content.get('version'))}; this rieszflow reads version {VERSION}")
        data = _checked_data(file, content.get("data"))
        try:
            config = Config.from_dict(content.get("config"), str(file), whole=True)
        except ConfigError as error:
            raise RunError(str(error)) from None
        return cls(config, data)

    def identity(self) -> Json:
        """What networks and checkpoints depend on. Where the data lie may change: their fingerprint says that it is they."""
        data = {key: value for key, value in self.data.items() if key not in ("name", "path")}
        identity: Json = json.loads(json.dumps({"settings": self.config.fixed(), "data": data}, default=str, sort_keys=True))
        return identity


def check_belongs(file: Path, meta: Json, identity: Json) -> None:
    """That a file, by its metadata, is of the run with an identity.

    Raises:
        RunError: naming what is different.
    """
    for part, now in identity.items():
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


def _said(values: Json, key: str) -> str:
    return shown(values[key]) if key in values else "nothing"


_NEEDED = ("name", "path", "shape", "low", "high", "columns", "points", "fingerprint")
_LARGEST = 10**9  # numbers of a datum


def _checked_data(file: Path, data: object) -> Json:
    """The data section of a config.yaml."""
    if not isinstance(data, dict):
        raise RunError(f"{file}: its data section is {shown(data)}; a mapping is needed")
    if odd := [key for key in data if not isinstance(key, str)]:
        raise RunError(f"{file}: its data section has the key {shown(odd[0])}; names are accepted")
    if missing := [key for key in _NEEDED if key not in data]:
        raise RunError(f"{file}: its data section lacks {', '.join(missing)}")

    def need(key: str, ok: bool, accepted: str) -> None:
        if not ok:
            raise RunError(f"{file}: data: {key}: {shown(data[key])} given; {accepted} accepted")

    need("name", isinstance(data["name"], str), "text is")
    need("path", data["path"] is None or isinstance(data["path"], str), "null or text is")
    shape = data["shape"]
    sound = isinstance(shape, list) and len(shape) in (1, 3) and all(is_whole(v, 1, _LARGEST) for v in shape)
    need("shape", sound and math.prod(shape) <= _LARGEST, "a list (d) or (C, H, W) of whole numbers of at least 1 is")
    need("low", _number(data["low"]), "a finite number is")
    need("high", _number(data["high"]) and data["high"] > data["low"], "a finite number above low is")
    fits = data["columns"] is None if len(shape) == 3 else _sound_columns(data["columns"], shape[0])
    need("columns", fits, "null for images, centre, spread and tail of each column for vectors are")
    condition = data.get("condition")
    if condition is not None and not _sound_condition(condition):
        raise RunError(f"{file}: data: condition: {shown(condition)} given; what rieszflow wrote there is accepted")
    need("points", is_whole(data["points"], 1, _LARGEST), "a whole number of at least 1 is")
    need("fingerprint", isinstance(data["fingerprint"], str), "text is")
    return data


def _sound_columns(said: object, d: int) -> bool:
    """Return True if `said` can be the fields of `data.Columns` for d columns."""
    if not isinstance(said, dict) or said.keys() != {"centre", "spread", "tail"}:
        return False
    if not all(isinstance(v, list) and len(v) == d and all(map(_number, v)) for v in said.values()):
        return False
    return bool(min(said["spread"]) >= 0 and min(said["tail"]) >= 0 and max(said["tail"]) <= 1e3)


def _sound_condition(said: object) -> bool:
    """Whether it can be what `describe_condition` returned."""
    if not isinstance(said, dict) or not _number(said.get("weight")) or not said["weight"] > 0:
        return False
    lists = {key: value for key, value in said.items() if key != "weight"}
    if not all(isinstance(v, list) and 0 < len(v) <= _LARGEST for v in lists.values()) or len({*map(len, lists.values())}) != 1:
        return False
    if lists.keys() == {"classes", "counts"}:
        whole = all(is_whole(v, -(2**63), 2**63 - 1) for v in lists["classes"] + lists["counts"])
        return whole and sorted(set(lists["classes"])) == lists["classes"] and min(lists["counts"]) > 0
    if lists.keys() != {"names", "centre", "spread", "tail", "low", "high"} or not all(
        isinstance(v, str) for v in lists.pop("names")
    ):
        return False
    numbers = all(_number(v) for values in lists.values() for v in values)
    return numbers and min(lists["spread"]) > 0 and min(lists["tail"]) >= 0 and max(lists["tail"]) <= 1e3


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
