"""Configuration templates in the format of whatever they configure: see ``peers/README.md``."""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

_DIRECTIVE = re.compile(r"(\s*)@(if|each) ([^:]+): ?(.*)")
_VALUE = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint as configurations name it: the id is its identity, the address where it is."""

    id: str
    port: int
    host: str = "127.0.0.1"
    slot: str = ""
    """What it has in common with who is in its place before and after it; no peer knows of it."""

    def values(self) -> dict[str, str]:
        """What a template may say of it."""
        number = self.id.lstrip(string.ascii_letters)
        values = {"id": self.id, "number": number, "host": self.host, "port": str(self.port)}
        return values | {"slot": self.slot}


def render(
    text: str,
    asked: Collection[str],
    values: Mapping[str, str],
    targets: Mapping[str, Sequence[Target]],
) -> str:
    """The configuration that a template stands for. Raises KeyError for a value it lacks."""
    return "".join(f"{line}\n" for line in _lines(text, asked, values, targets))


def _lines(
    text: str,
    asked: Collection[str],
    values: Mapping[str, str],
    targets: Mapping[str, Sequence[Target]],
) -> Iterator[str]:
    for line in text.splitlines():
        directive = _DIRECTIVE.fullmatch(line)
        if directive is None:
            yield _filled(line, values)
            continue
        indent, kind, condition, rest = directive.groups()
        if kind == "each":
            for target in targets.get(condition, ()):
                yield indent + _filled(rest, {**values, **target.values()})
        elif _holds(condition, asked):
            yield indent + _filled(rest, values)


def _holds(condition: str, asked: Collection[str]) -> bool:
    """``a b``: any of them was asked for. ``!a !b``: none of them was."""
    wanted = [word for word in condition.split() if not word.startswith("!")]
    unwanted = [word[1:] for word in condition.split() if word.startswith("!")]
    if any(word in asked for word in unwanted):
        return False
    return not wanted or any(word in asked for word in wanted)


def _filled(line: str, values: Mapping[str, str]) -> str:
    return _VALUE.sub(lambda found: values[found[1]], line)
