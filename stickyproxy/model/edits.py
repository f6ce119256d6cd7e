"""Header fields that a service sets and removes, as declared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edits:
    """Fields are (name, value); to set one takes the place of all others of its name."""

    request_set: tuple[tuple[str, str], ...] = ()
    request_remove: tuple[str, ...] = ()
    response_set: tuple[tuple[str, str], ...] = ()
    response_remove: tuple[str, ...] = ()


NO_EDITS = Edits()
