"""Round robin: the endpoints take turns, no affinity."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from stickyproxy.model.service import OptionValue
from stickyproxy.routing.endpoint import (
    ALL_TENTHS,
    Affinity,
    Balancer,
    Endpoint,
    Members,
    Pick,
    Request,
)
from stickyproxy.routing.policy import PolicyKind


@dataclass(frozen=True, slots=True)
class RoundRobinPolicy:
    """The endpoints take turns."""

    kind: ClassVar[str] = "round_robin"
    affinity: ClassVar[bool] = False

    def build(self, members: Members, previous: Balancer | None) -> RoundRobinBalancer:
        """Continues where ``previous`` stopped, if that took turns too."""
        if isinstance(previous, RoundRobinBalancer):
            return RoundRobinBalancer(members, previous.cursor)
        # Not the random module: workers forked from one parent would all start alike.
        return RoundRobinBalancer(members, secrets.randbelow(1 << 16))

    def describe(self) -> str:
        return "round robin"

    def options(self) -> Mapping[str, OptionValue]:
        return {}


KIND = PolicyKind(make=lambda options: None)  # the default: no option asks for it


class RoundRobinBalancer:
    """``cursor`` is the index of the endpoint whose turn was last."""

    strips: frozenset[bytes] = frozenset()

    def __init__(self, members: Members, cursor: int) -> None:
        self.cursor = cursor
        self._picks = [Pick(endpoint, Affinity.NONE) for endpoint in _turns(members.accepting)]

    def pick(self, request: Request, tried: Collection[Endpoint]) -> Pick | None:
        """The next endpoint that is not in ``tried``; None if there is none."""
        picks = self._picks
        for _ in picks:
            self.cursor = (self.cursor + 1) % len(picks)
            pick = picks[self.cursor]
            if pick.endpoint not in tried:
                return pick
        return None

    def __repr__(self) -> str:
        return f"<RoundRobinBalancer over {len(self._picks)}>"


def _turns(endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
    """Whose turn it is, one after the other. While somebody warms up these are ten rounds, and
    whoever has so many tenths is in so many of them."""
    if all(endpoint.tenths == ALL_TENTHS for endpoint in endpoints):
        return endpoints
    return [
        endpoint
        for before in range(ALL_TENTHS)
        for endpoint in endpoints
        if (before + 1) * endpoint.tenths // ALL_TENTHS > before * endpoint.tenths // ALL_TENTHS
    ]
