"""The config.yaml of a run: its id, its settings, and a description of its training data."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

from rieszflow._infra.files import MARK, Json, read_text
from rieszflow._infra.text import short_repr
from rieszflow.errors import ConfigError, FileError, RunError
from rieszflow.generative.checks import is_whole, shown
from rieszflow.generative.config import Config
from rieszflow.generative.yaml_text import YAML_BYTES, dump_yaml, parse_yaml

__all__ = ["VERSION", "Description"]

VERSION = 7  # of a run: config.yaml, networks and checkpoints


@dataclass(frozen=True)
class Description:
    """A config.yaml.

    Attributes:
        config: settings.
        data: name, path, shape, low, high, training points, fingerprint.
        id: random id of the run, which all its files contain.
    """

    config: Config
    data: Json
    id: str

    def text(self) -> str:
        content: Json = {"format": MARK, "version": VERSION, "run": self.id, "data": self.data}
        content["config"] = self.config.to_dict()
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
            found = short_repr(content.get("version"))
            raise RunError(f"{file}: is a run of version {found}, this rieszflow reads version {VERSION}; train again")
        if not isinstance(run := content.get("run"), str):
            raise RunError(f"{file}: `run` must be the id of the run, got {short_repr(run)}")
        data = _checked_data(file, content.get("data"))
        try:
            config = Config.from_dict(content.get("config"), str(file), whole=True)
        except ConfigError as error:
            raise RunError(str(error)) from None
        return cls(config, data, run)

    def settings_hash(self) -> str:
        """Return a hash of the settings and data that networks and checkpoints depend on."""
        # The place of the data may change: their fingerprint identifies them.
        data = {key: value for key, value in self.data.items() if key not in ("name", "path")}
        content = json.dumps({"settings": self.config.fixed(), "data": data}, default=str, sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


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
    """Return True if `said` can be the fields of `data.ColumnScaler` for d columns."""
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
