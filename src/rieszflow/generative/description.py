"""The config.yaml of a run: its id, its settings, and a description of its training data."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from rieszflow._infra.files import MARK, Json, read_text
from rieszflow._infra.messages import one_line, short_repr
from rieszflow.errors import ConfigError, RunError
from rieszflow.generative.config import Config, Count
from rieszflow.generative.rows import TableRows
from rieszflow.generative.schema import YAML_BYTES, StrictModel, dump_yaml, parse_yaml

VERSION = 9  # of a run: config.yaml, networks and checkpoints


def write_description(run: str, data: Json, config: Config) -> str:
    """Return the text of a config.yaml."""
    return dump_yaml({"format": MARK, "version": VERSION, "run": run, "data": data, "config": config.to_dict()})


def read_description(file: Path) -> tuple[str, Json, Config]:
    """Read the id, the data and the settings of a config.yaml; raise RunError for what rieszflow does not write."""
    text = read_text(file, YAML_BYTES)
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise RunError(f"{file}: not readable YAML ({error})") from None
    if not isinstance(content, dict) or content.get("format") != MARK:
        raise RunError(f"{file}: not written by rieszflow")
    if content.get("version") != VERSION:
        found = short_repr(content.get("version"))
        raise RunError(f"{file}: is a run of version {found}, this rieszflow reads version {VERSION}; train again")
    if not isinstance(run := content.get("run"), str):
        raise RunError(f"{file}: `run` must be the id of the run, got {short_repr(run)}")
    data = content.get("data")
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise RunError(f"{file}: `data` must be a mapping of names, got {short_repr(data)}")
    try:
        _Data(**data)
    except ConfigError as error:
        raise RunError(f"{file}: `data.{str(error)[1:]}") from None
    try:
        return run, data, Config.from_dict(content.get("config"), str(file), whole=True)
    except ConfigError as error:
        raise RunError(str(error)) from None


def settings_hash(data: Json, config: Config) -> str:
    """Return a hash of the settings and data that networks and checkpoints depend on."""
    # Data may be moved; their fingerprint identifies them.
    described = {key: value for key, value in data.items() if key not in ("name", "path")}
    content = json.dumps({"settings": config.fixed(), "data": described}, default=str, sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


_Number = Annotated[float, Field(gt=-1e300, lt=1e300)]
_Positive = Annotated[float, Field(gt=0, lt=1e300)]
_NotNegative = Annotated[float, Field(ge=0, lt=1e300)]
_Tail = Annotated[float, Field(ge=0, le=1e3)]


class _Columns(StrictModel):  # the fields of `data.ColumnScaler`
    centre: list[_Number]
    spread: list[_NotNegative]
    tail: list[_Tail]


class _Condition(StrictModel):  # the fields that `describe_condition` returns, for labels or for values
    weight: _Positive
    classes: list[Annotated[int, Field(ge=-(2**63), lt=2**63)]] | None = None
    counts: list[Count] | None = None
    names: list[str] | None = None
    centre: list[_Number] | None = None
    spread: list[_Positive] | None = None
    tail: list[_Tail] | None = None
    low: list[_Number] | None = None
    high: list[_Number] | None = None

    @model_validator(mode="after")
    def _check(self) -> _Condition:
        given = {name: value for name, value in dict(self).items() if isinstance(value, list)}
        labels = given.keys() == {"classes", "counts"}
        values = given.keys() == {"names", "centre", "spread", "tail", "low", "high"}
        lengths = {len(value) for value in given.values()}
        ordered = not labels or given["classes"] == sorted(set(given["classes"]))
        if not (labels or values) or len(lengths) != 1 or 0 in lengths or not ordered:
            raise ValueError("must describe labels or values as rieszflow does")
        return self


class _Data(StrictModel):
    name: str
    path: str | None
    shape: list[Count]
    low: _Number
    high: _Number
    columns: _Columns | None
    table: str | None = None
    points: Count
    fingerprint: str
    condition: _Condition | None = None

    @model_validator(mode="after")
    def _check(self) -> _Data:
        if len(self.shape) not in (1, 3) or math.prod(self.shape) > 10**9:
            raise ValueError(f"`shape` must be [d] or [C, H, W] with at most 10^9 numbers, got {short_repr(self.shape)}")
        if self.high <= self.low:
            raise ValueError(f"`high` must be above `low`, got {self.high}")
        lengths = None if self.columns is None else {len(v) for v in dict(self.columns).values()}
        if self.table is not None:
            try:
                d = TableRows.from_json(self.table).scaler.d
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"`table` must describe columns as rieszflow does ({one_line(error, 60)})") from None
            if lengths is not None or self.shape != [d]:
                raise ValueError(f"`table` must describe the {self.shape} coordinates, got {d}")
        elif lengths != (None if len(self.shape) == 3 else {self.shape[0]}):
            raise ValueError("`columns` must be null for images, and describe each column of vectors")
        return self
