"""What a balancer's file declares: a policy, and the options by which a service asks for it.

A file in ``balancers/`` is found by being there. It has a policy, the balancer that is built from
it, and ``KIND``, from which the validator of ``[[services]]`` and labels, the snapshots that
controllers hand out and the reports learn all they have to know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from stickyproxy.model.service import OptionValue, PolicySpec
from stickyproxy.routing.endpoint import Balancer, Members


class Policy(PolicySpec, Protocol):
    """What a service declares, and what it takes to keep it."""

    def build(self, members: Members, previous: Balancer | None) -> Balancer:
        """A balancer over these members. ``previous`` is the one it replaces (of whatever
        policy): its cursor or slot table may be carried over."""


@dataclass(frozen=True, slots=True)
class Option:
    """A key of ``[[services]]``, which is a label too: ``com.docker.lb.`` and its name."""

    type: type[bool] | type[str] | type[float]
    """Of what ``parse`` returns. What is off is False, or None if it is no bool."""
    parse: Callable[[object], OptionValue]
    """From a TOML value or the text of a label; raises ValueError with a sentence that names the
    value and the remedy (``base.values`` has some)."""
    adjusts: str = ""
    """The option without which it has no meaning; empty: it asks for a policy by itself."""
    beside: frozenset[str] = frozenset()
    """Options that ask for a policy too, and may be there nevertheless. A service may ask for no
    two policies otherwise."""
    by_address: bool = False
    """True if it is of no use where all clients come from one address."""

    @property
    def off(self) -> bool | None:
        """Its value if a service does not set it."""
        return False if self.type is bool else None


@dataclass(frozen=True, slots=True)
class PolicyKind:
    """What there is to know of a policy before a service asks for it."""

    make: Callable[[Mapping[str, Any]], Policy | None]
    """The policy that these options ask for, None if they do not ask for it. They are valid, those
    that are off are missing, and ``context_root`` is always among them."""
    options: Mapping[str, Option] = field(default_factory=dict)
    rank: int = 100
    """Who is asked first to make a policy has the lowest. Of two options that may not be combined,
    the one of the higher rank is called wrong."""
