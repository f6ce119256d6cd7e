"""Header fields that a service sets and removes, as declared."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Edits:
    """Fields are (name, value); to set one takes the place of all others of its name."""

    request_set: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """What endpoints are told may be a secret, such as a key for them."""
    request_remove: tuple[str, ...] = ()
    response_set: tuple[tuple[str, str], ...] = ()
    response_remove: tuple[str, ...] = ()


NO_EDITS = Edits()
