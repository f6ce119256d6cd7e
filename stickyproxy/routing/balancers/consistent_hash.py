"""Consistent hash of something in the request, as Istio's ``consistentHash`` has it: a header, a
cookie, a query parameter or the source address. Without a key: the fallback."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from stickyproxy.base.hashing import SlotTable, address_key
from stickyproxy.base.values import boolean, cookie_lifetime, cookie_path, query_name, token
from stickyproxy.model.service import OptionValue
from stickyproxy.routing.balancers.round_robin import RoundRobinPolicy
from stickyproxy.routing.endpoint import (
    Affinity,
    Balancer,
    Endpoint,
    Evidence,
    Meaning,
    Members,
    Pick,
    ReadsRequests,
    Request,
)
from stickyproxy.routing.policy import Option, Policy, PolicyKind
from stickyproxy.semantics import cookies

# --- where the key comes from ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeaderKey:
    """First value of a header field; ``name`` without case."""

    name: str

    def read(self, request: Request) -> bytes | None:
        return request.header(self.name)

    def describe(self) -> str:
        return f"header {self.name}"

    def options(self) -> Mapping[str, OptionValue]:
        return {"hash_header": self.name}


@dataclass(frozen=True, slots=True)
class CookieKey:
    """First cookie of that name, which is generated when absent if ``ttl`` is given: seconds, 0
    for a cookie that lives as long as the browser's session."""

    name: bytes
    ttl: float | None = None
    path: bytes | None = None

    def read(self, request: Request) -> bytes | None:
        values = request.cookies(self.name)
        return values[0].strip(b'"') if values else None

    def describe(self) -> str:
        return f"cookie {self.name.decode()}"

    def options(self) -> Mapping[str, OptionValue]:
        found: dict[str, OptionValue] = {"hash_cookie": self.name.decode()}
        if self.ttl is not None:
            found["hash_cookie_ttl"] = self.ttl
        if self.path is not None:
            found["hash_cookie_path"] = self.path.decode()
        return found


@dataclass(frozen=True, slots=True)
class QueryKey:
    """First value of a query parameter, as sent."""

    name: bytes

    def read(self, request: Request) -> bytes | None:
        return request.query(self.name)

    def describe(self) -> str:
        return f"query {self.name.decode()}"

    def options(self) -> Mapping[str, OptionValue]:
        return {"hash_query": self.name.decode()}


@dataclass(frozen=True, slots=True)
class SourceKey:
    """The client's address, as for ip_hash."""

    def read(self, request: Request) -> bytes | None:
        return address_key(request.client_address)

    def describe(self) -> str:
        return "source address"

    def options(self) -> Mapping[str, OptionValue]:
        return {"hash_source_ip": True}


Key = HeaderKey | CookieKey | QueryKey | SourceKey

# --- the policy -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConsistentHashPolicy:
    """Requests with the same key reach the same endpoint."""

    kind: ClassVar[str] = "consistent_hash"
    affinity: ClassVar[bool] = True

    key: Key
    fallback: Policy
    """For requests without a key."""

    def build(self, members: Members, previous: Balancer | None) -> ConsistentHashBalancer:
        """Takes over slot table and fallback of ``previous``, if that hashed a key too."""
        if isinstance(previous, ConsistentHashBalancer):
            table = previous.table.updated(members.accepting)
            fallback = self.fallback.build(members, previous.fallback)
        else:
            table = SlotTable(members.accepting)
            fallback = self.fallback.build(members, previous)
        return ConsistentHashBalancer(self.key, members, table, fallback)

    def describe(self) -> str:
        return f"hash of {self.key.describe()}"

    def options(self) -> Mapping[str, OptionValue]:
        return self.key.options()


def _make(options: Mapping[str, Any]) -> ConsistentHashPolicy | None:
    key = _key(options)
    return None if key is None else ConsistentHashPolicy(key, fallback=RoundRobinPolicy())


def _key(options: Mapping[str, Any]) -> Key | None:
    match options:
        case {"hash_header": name}:
            return HeaderKey(name)
        case {"hash_cookie": name}:
            path = options.get("hash_cookie_path")
            return CookieKey(
                name=name.encode(),
                ttl=options.get("hash_cookie_ttl"),
                path=None if path is None else path.encode(),
            )
        case {"hash_query": name}:
            return QueryKey(name.encode())
        case {"hash_source_ip": True}:
            return SourceKey()
        case _:
            return None


KIND = PolicyKind(
    make=_make,
    options={
        "hash_cookie": Option(str, token),
        "hash_cookie_ttl": Option(float, cookie_lifetime, adjusts="hash_cookie"),
        "hash_cookie_path": Option(str, cookie_path, adjusts="hash_cookie"),
        "hash_header": Option(str, token),
        "hash_query": Option(str, query_name),
        "hash_source_ip": Option(bool, boolean, by_address=True),
    },
    rank=3,
)


# With n of m endpoints tried, a value that points to another one is found after m/(m-n) draws on
# average; this many draws fail once in e**32.
_PATIENCE = 32


class ConsistentHashBalancer:
    """Draining endpoints are not in the table: their keys have moved on."""

    strips: frozenset[bytes] = frozenset()

    def __init__(
        self, key: Key, members: Members, table: SlotTable[Endpoint], fallback: Balancer
    ) -> None:
        self.table = table
        self.fallback = fallback
        self._key = key
        self._generated = key if isinstance(key, CookieKey) and key.ttl is not None else None
        self._picks = {e: Pick(e, Affinity.HASHED) for e in members.accepting}

    def pick(self, request: Request, tried: Collection[Endpoint]) -> Pick | None:
        """The endpoint of the request's key; the next best if that is in ``tried``; None if there
        is none. An empty key is no key: it would send unrelated clients to one endpoint."""
        key = self._key.read(request)
        if key:
            endpoint = self.table.owner(key, tried)
            return None if endpoint is None else self._picks[endpoint]
        if self._generated is not None:
            return self._generate(self._generated, tried)
        return self.fallback.pick(request, tried)

    def evidence(self, request: Request) -> Sequence[Evidence]:
        """See ``endpoint.ReadsRequests``."""
        source, key = self._key.describe(), self._key.read(request)
        if key:
            owner, slot = self.table.owner(key), self.table.slot(key)
            return (Evidence(source, key, Meaning.KEY, True, owner, slot),)
        empty = () if key is None else (Evidence(source, key, Meaning.NOTHING),)
        if self._generated is None and isinstance(self.fallback, ReadsRequests):
            return (*empty, *self.fallback.evidence(request))
        return empty

    def _generate(self, cookie: CookieKey, tried: Collection[Endpoint]) -> Pick | None:
        """A new session. After a failed try it is given a value of its own that points to another
        endpoint, so that the client's next request, which knows nothing of that try, agrees."""
        left = len(self._picks) - len(tried)
        draws = _PATIENCE * len(self._picks) // left if left > 0 else 1
        for _ in range(draws):
            value = secrets.token_hex(8).encode()
            endpoint = self.table.owner(value)
            if endpoint not in tried:
                break
        else:
            endpoint = self.table.owner(value, tried)
        if endpoint is None:
            return None
        return Pick(endpoint, Affinity.NEW, GeneratedCookie(cookie, value))

    def __repr__(self) -> str:
        return f"<ConsistentHashBalancer by {self._key.describe()} over {len(self._picks)}>"


@dataclass(frozen=True, slots=True)
class GeneratedCookie:
    """Implements ``endpoint.CookieIssue``."""

    key: CookieKey
    value: bytes
    due: bool = True

    def values(self, answered: Sequence[bytes], secure: bool) -> Sequence[bytes]:
        """The generated cookie, always. If the app sets one of that name, ours comes after it and
        is the one that user agents keep, as with Istio: the client's next request must carry the
        value that this one was hashed by. Apps with a cookie of that name of their own want
        ``sticky_session_cookie`` instead."""
        key = self.key
        return (cookies.generated_cookie(key.name, self.value, key.ttl or 0, key.path),)
