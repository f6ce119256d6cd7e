"""ip_hash: the client's address decides, consistently."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from stickyproxy.base.hashing import SlotTable, address_key
from stickyproxy.base.values import boolean
from stickyproxy.model.service import OptionValue
from stickyproxy.routing.endpoint import (
    Affinity,
    Balancer,
    Endpoint,
    Evidence,
    Meaning,
    Members,
    Pick,
    Request,
)
from stickyproxy.routing.policy import Option, PolicyKind


@dataclass(frozen=True, slots=True)
class IpHashPolicy:
    """A client address keeps its endpoint; adding one to n moves about 1/(n+1) of the addresses,
    removing one moves only its own."""

    kind: ClassVar[str] = "ip_hash"
    affinity: ClassVar[bool] = True

    def build(self, members: Members, previous: Balancer | None) -> IpHashBalancer:
        """Takes over the slot table of ``previous``, if that hashed addresses too."""
        if isinstance(previous, IpHashBalancer):
            return IpHashBalancer(members, previous.table.updated(members.accepting))
        return IpHashBalancer(members, SlotTable(members.accepting))

    def describe(self) -> str:
        return "ip hash"

    def options(self) -> Mapping[str, OptionValue]:
        return {"ip_hash": True}


def _make(options: Mapping[str, Any]) -> IpHashPolicy | None:
    return IpHashPolicy() if options.get("ip_hash") else None


KIND = PolicyKind(make=_make, options={"ip_hash": Option(bool, boolean, by_address=True)}, rank=2)


class IpHashBalancer:
    """Draining endpoints are not in the table: their clients have moved on."""

    strips: frozenset[bytes] = frozenset()

    def __init__(self, members: Members, table: SlotTable[Endpoint]) -> None:
        self.table = table
        self._picks = {e: Pick(e, Affinity.HASHED) for e in members.accepting}

    def pick(self, request: Request, tried: Collection[Endpoint]) -> Pick | None:
        """The endpoint of the client's address; the next best if that is in ``tried``; None if
        there is none."""
        endpoint = self.table.owner(address_key(request.client_address), tried)
        return None if endpoint is None else self._picks[endpoint]

    def evidence(self, request: Request) -> Sequence[Evidence]:
        """See ``endpoint.ReadsRequests``."""
        address = request.client_address
        key = address_key(address)
        owner, slot = self.table.owner(key), self.table.slot(key)
        found = Evidence("client address", address.encode(), Meaning.KEY, True, owner, slot)
        return (found,)

    def __repr__(self) -> str:
        return f"<IpHashBalancer over {len(self._picks)}>"
