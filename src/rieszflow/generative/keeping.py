"""How what a training's state is made of goes into a file, and back: a kind for tensors, generators, networks and so on.

A field of the state names its kind in its type, such as `Annotated[Tensor, Rows()]`. `tensors_of` and `filled` then need to
know nothing of the state itself.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import torch
from torch import Tensor, nn

from rieszflow._infra import ranks
from rieszflow._infra.files import Json
from rieszflow.flow import ParticleFlow
from rieszflow.flow.segments import Segment
from rieszflow.generative.processes import Processes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "Flow", "Generator", "Kind", "Moments", "Named", "Parts", "Rows", "Said", "Scaling", "Weights", "Whole", "Wholes", "below",
    "filled", "said_of", "tensors_of",
]  # fmt: skip

Tensors = dict[str, Tensor]
S = TypeVar("S", bound="DataclassInstance")


# The values of a field have the type that stands beside its kind, which Python's types cannot say of an annotation: Any here.
@dataclass(frozen=True)
class Kind:
    """One way of being kept. `name` in the file; the field's own if empty."""

    name: str = ""

    def save(self, name: str, value: Any, here: Processes) -> Tensors:
        """Under which names the file holds which tensors. All processes make this call."""
        raise NotImplementedError

    def load(self, name: str, tensors: Tensors, blank: Any, here: Processes) -> Any:
        """What `save` was given. `blank` is an object of the same make; None where the field has nothing to keep."""
        raise NotImplementedError


@dataclass(frozen=True)
class Said(Kind):
    """Numbers and words: they stand in the file's header."""


@dataclass(frozen=True)
class Whole(Kind):
    """A tensor that all processes have alike. `moved` to the device, or left on the CPU."""

    moved: bool = True

    def save(self, name: str, value: Any, here: Processes) -> Tensors:
        return {name: value}

    def load(self, name: str, tensors: Tensors, blank: Any, here: Processes) -> Tensor:
        return tensors[name].to(here.device) if self.moved else tensors[name]


@dataclass(frozen=True)
class Wholes(Kind):
    """A tuple of such tensors on the device, of which some may be None."""

    def save(self, name: str, value: Any, here: Processes) -> Tensors:
        return {f"{name}.{k}": t for k, t in enumerate(value) if t is not None}

    def load(self, name: str, tensors: Tensors, blank: Any, here: Processes) -> tuple[Tensor | None, ...]:
        return tuple(tensors[key].to(here.device) if (key := f"{name}.{k}") in tensors else None for k in range(len(blank)))


@dataclass(frozen=True)
class Rows(Kind):
    """A tensor of which every process has a part: the file holds all, for any number of processes.

    `many`: a tuple of them, of which some may be None.
    """

    many: bool = False

    def save(self, name: str, value: Any, here: Processes) -> Tensors:
        found = {f"{name}.{k}": t for k, t in enumerate(value) if t is not None} if self.many else {name: value}
        return {key: ranks.all_gather_rows(t, here.group) for key, t in found.items()}

    def load(self, name: str, tensors: Tensors, blank: Any, here: Processes) -> Tensor | tuple[Tensor | None, ...]:
        if not self.many:
            return self._part(tensors[name], here)
        return tuple(self._part(tensors[key], here) if (key := f"{name}.{k}") in tensors else None for k in range(len(blank)))

    def _part(self, whole: Tensor, here: Processes) -> Tensor:
        return ranks.shard(whole.to(here.device), here.group)


@dataclass(frozen=True)
class Generator(Kind):
    """A source of randomness."""

    def save(self, name: str, value: Any, here: Processes) -> Tensors:
        return {name: value.get_state()}

    def load(self, name: str, tensors: Tensors, blank: Any, here: Processes) -> torch.Generator:
        generator: torch.Generator = blank
        generator.set_state(tensors[name])
        return generator


@dataclass(frozen=True)
class Named(Kind):
    """Tensors by name."""

    def save(self, name: str, value: Any, here: Processes) -> Tensors:
        return {f"{name}.{key}": t for key, t in value.items()}

    def load(self, name: str, tensors: Tensors, blank: Any, here: Processes) -> Tensors:
        return below(tensors, name)


@dataclass(frozen=True)
class Weights(Kind):
    """A network."""

    def save(self, name: str, value: Any, here: Processes) -> Tensors:
        return {f"{name}.{key}": t for key, t in value.state_dict().items()}

    def load(self, name: str, tensors: Tensors, blank: Any, here: Processes) -> nn.Module:
        network: nn.Module = blank
        network.load_state_dict(below(tensors, name))
        return network


@dataclass(frozen=True)
class Moments(Kind):
    """What an optimiser keeps of every weight."""

    def save(self, name: str, value: Any, here: Processes) -> Tensors:
        slots = value.state_dict()["state"].items()
        return {f"{name}.{number}.{key}": t for number, slot in slots for key, t in slot.items()}

    def load(self, name: str, tensors: Tensors, blank: Any, here: Processes) -> torch.optim.Optimizer:
        optimiser: torch.optim.Optimizer = blank
        state: dict[int, Tensors] = {}
        for place, t in below(tensors, name).items():
            number, key = place.split(".")
            state.setdefault(int(number), {})[key] = t
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        return optimiser


@dataclass(frozen=True)
class Scaling(Kind):
    """The factor of a loss in fp16; nothing in other precisions, which a run may have had before."""

    def save(self, name: str, value: Any, here: Processes) -> Tensors:
        return {f"{name}.{key}": torch.tensor(number, dtype=torch.float64) for key, number in value.state_dict().items()}

    def load(self, name: str, tensors: Tensors, blank: Any, here: Processes) -> torch.amp.GradScaler:
        scaler: torch.amp.GradScaler = blank
        state = scaler.state_dict()  # with the type of every number
        if state and (found := below(tensors, name)):
            scaler.load_state_dict({key: type(state[key])(t.item()) for key, t in found.items()})
        return scaler


@dataclass(frozen=True)
class Flow(Kind):
    """The slices that a flow is using, and what it has written down. Its velocities are a field of their own."""

    def save(self, name: str, value: Any, here: Processes) -> Tensors:
        flow: ParticleFlow = value
        written = {} if flow.recorder is None else flow.recorder.segment.to_tensors()
        return {f"{name}.{key}": t for key, t in flow.state().items()} | {f"recorded.{key}": t for key, t in written.items()}

    def load(self, name: str, tensors: Tensors, blank: Any, here: Processes) -> ParticleFlow:
        flow: ParticleFlow = blank
        flow.load_state(below(tensors, name))
        if flow.recorder is not None:
            flow.recorder.segment = Segment.from_tensors(flow.recorder.plan, below(tensors, "recorded"))
        return flow


@dataclass(frozen=True)
class Parts(Kind):
    """A dataclass of such fields, under their own names."""

    def save(self, name: str, value: Any, here: Processes) -> Tensors:
        return tensors_of(value, here)

    def load(self, name: str, tensors: Tensors, blank: Any, here: Processes) -> Any:
        return filled(blank, tensors, {}, here)


def tensors_of(state: object, here: Processes) -> Tensors:
    """All tensors of a dataclass whose fields have kinds, under their names in the file. All processes make this call."""
    found: Tensors = {}
    for field, kind in _kinds(type(state)).items():
        value = getattr(state, field)
        if value is not None and not isinstance(kind, Said):
            found |= kind.save(kind.name or field, value, here)
    return found


def said_of(state: object) -> Json:
    """What the header says: the numbers and words."""
    return {field: getattr(state, field) for field, kind in _kinds(type(state)).items() if isinstance(kind, Said)}


def filled(blank: S, tensors: Tensors, said: Json, here: Processes) -> S:
    """The dataclass that `tensors_of` and `said_of` were given. Generators, networks and the like are those of `blank`.

    Raises:
        KeyError, RuntimeError, ValueError: the file is of a state of another make.
    """
    values: Json = {}
    for field, kind in _kinds(type(blank)).items():
        value = getattr(blank, field)
        if isinstance(kind, Said):
            values[field] = said[field]
        elif value is not None:
            values[field] = kind.load(kind.name or field, tensors, value, here)
    return dataclasses.replace(blank, **values)


def below(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors under a name, by what follows it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def _kinds(of: type) -> dict[str, Kind]:
    """The kind of every field that has one."""
    hints = get_type_hints(of, include_extras=True)
    kinds = {name: getattr(hint, "__metadata__", (None,))[0] for name, hint in hints.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, Kind)}
