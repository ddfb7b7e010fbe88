"""Plain YAML, read and written: the text of presets and of a run's config.yaml."""

from __future__ import annotations

import re
from typing import Any

from rieszflow._infra.extras import extra
from rieszflow._infra.text import one_line
from rieszflow.errors import InputError
from rieszflow.generative.checks import shown

with extra("generative", "generative models"):
    import yaml

__all__ = ["YAML_BYTES", "dump_yaml", "parse_yaml"]

YAML_BYTES = 4_000_000  # settings are some 1,000; the data section may hold numbers of every column


# PyYAML's methods take and return Any.
class _Loader(yaml.SafeLoader):
    """No aliases, of which a few lines unfold to gigabytes; no key twice; 1e-3 is a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = yaml.SafeLoader.peek_event(self)  # type: ignore[no-untyped-call]
            raise InputError(f"line {event.start_mark.line + 1}: aliases (*name) are not accepted; write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise InputError(f"line {key.start_mark.line + 1}: the key {shown(key.value)} is there twice")
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would take for a number, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def dump_yaml(content: object) -> str:
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def parse_yaml(text: str) -> object:
    """What a YAML text says.

    Raises:
        InputError: with one line, for whatever is wrong with it.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except Exception as error:  # the parser's own, and what its constructors raise for !!int "", 2001-99-99 and the like
        raise InputError(one_line(error)) from None
