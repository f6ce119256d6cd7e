"""sticky_session_cookie: a pin keeps each client at one endpoint.

The app may use a cookie of the configured name (NAME) itself, or may not. If not, NAME carries
the pin. If it does, its cookie passes untouched and a companion (NAME_lb) carries the pin. Which
of the two a client holds is all the state there is, and it is the client that keeps it:

    the client sends                            it goes to               owed to it
    ------------------------------------------  -----------------------  --------------------
    a companion that resolves                   its endpoint
    NAME with a pin that resolves               its endpoint             companion, if stale
    NAME with anything else: the app's value    the value's owner        companion
    none of these                               the fallback's choice    NAME, or companion
                                                                         if a stale one came

Stale is a companion that does not resolve: it is always overwritten, because it is asked first
and its endpoint may come back.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ClassVar

from stickyproxy.base.hashing import SlotTable, looks_like_pin
from stickyproxy.base.values import token
from stickyproxy.model.service import OptionValue
from stickyproxy.routing.balancers import ip_hash
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


@dataclass(frozen=True, slots=True)
class CookiePolicy:
    """A session keeps its endpoint; adding endpoints moves no session."""

    kind: ClassVar[str] = "cookie"
    affinity: ClassVar[bool] = True

    name: bytes
    path: bytes
    """Path of the cookies that are ours alone: the context root."""
    fallback: Policy
    """Chooses for clients without a cookie."""

    @property
    def companion(self) -> bytes:
        """Name of the cookie that carries the pin when the app sets ``name`` itself."""
        return self.name + b"_lb"

    def build(self, members: Members, previous: Balancer | None) -> CookieBalancer:
        """Takes over slot table and fallback of ``previous``, if that was sticky too."""
        if isinstance(previous, CookieBalancer):
            table = previous.table.updated(members.accepting)
            fallback = self.fallback.build(members, previous.fallback)
        else:
            table = SlotTable(members.accepting)
            fallback = self.fallback.build(members, previous)
        return CookieBalancer(self, members, table, fallback)

    def describe(self) -> str:
        return f"cookie {self.name.decode()}, else {self.fallback.describe()}"

    def options(self) -> Mapping[str, OptionValue]:
        return {"sticky_session_cookie": self.name.decode(), **self.fallback.options()}


def _make(options: Mapping[str, Any]) -> CookiePolicy | None:
    name = options.get("sticky_session_cookie")
    if name is None:
        return None
    return CookiePolicy(
        name=name.encode(),
        path=options["context_root"].encode(),
        # Where the cookie is absent, the address decides if asked to.
        fallback=ip_hash.KIND.make(options) or RoundRobinPolicy(),
    )


KIND = PolicyKind(
    make=_make,
    options={"sticky_session_cookie": Option(str, token, beside=frozenset({"ip_hash"}))},
    rank=1,
)


class CompanionState(Enum):
    """What the client sent under the companion's name."""

    NOTHING = "nothing"
    STALE = "stale"
    VALID = "valid"


class CookieBalancer:
    """Pins of draining endpoints resolve; they get nothing new. Pins of those that are leaving do
    not resolve."""

    def __init__(
        self,
        policy: CookiePolicy,
        members: Members,
        table: SlotTable[Endpoint],
        fallback: Balancer,
    ) -> None:
        name, companion = policy.name, policy.companion
        self.table = table
        self.fallback = fallback
        self.strips = frozenset((name, companion))
        self._policy = policy
        self._name = name
        self._companion = companion
        self._by_pin = {e.pin: e for e in members.usable + members.draining}
        self._leaving = {e.pin: e.id for e in members.leaving}
        self._down = {e.pin: e.id for e in members.down}
        self._pinned_by_companion = _Picks(policy, Affinity.PINNED, CompanionState.VALID, None)
        self._pinned_by_name = _Picks(policy, Affinity.PINNED, CompanionState.NOTHING, None)
        self._hashed = _Picks(policy, Affinity.HASHED, CompanionState.NOTHING, companion)
        self._new = _Picks(policy, Affinity.NEW, CompanionState.NOTHING, name)

    def pick(self, request: Request, tried: Collection[Endpoint]) -> Pick | None:
        """The endpoint that the client is pinned to, else a new choice and its pin; None if there
        is no endpoint outside ``tried``."""
        companions = request.cookies(self._companion)
        endpoint = self._first_that_resolves(companions, tried)
        if endpoint is not None:
            return self._pinned_by_companion[endpoint]
        named = request.cookies(self._name)
        endpoint = self._first_that_resolves(named, tried)
        if endpoint is None:
            return self._choose(request, companions, named, tried)
        if not companions:
            return self._pinned_by_name[endpoint]
        issue = PinIssue(self._policy, endpoint.pin, CompanionState.STALE, self._companion)
        return Pick(endpoint, Affinity.PINNED, issue)

    def _first_that_resolves(
        self, values: Sequence[bytes], tried: Collection[Endpoint]
    ) -> Endpoint | None:
        for value in values:
            endpoint = self._by_pin.get(value.strip(b'"'))  # some clients send all values quoted
            if endpoint is not None and endpoint not in tried:
                return endpoint
        return None

    def _choose(
        self,
        request: Request,
        companions: Sequence[bytes],
        named: Sequence[bytes],
        tried: Collection[Endpoint],
    ) -> Pick | None:
        stale = list(companions)
        app_value = None
        for value in named:
            if looks_like_pin(value):
                stale.append(value)
            elif app_value is None and value.strip(b'"'):  # an empty one identifies no client
                app_value = value

        if app_value is not None:
            endpoint = self.table.owner(app_value, tried)
        else:
            chosen = self.fallback.pick(request, tried)
            endpoint = None if chosen is None else chosen.endpoint
        if endpoint is None:
            return None
        if not stale:
            return self._new[endpoint] if app_value is None else self._hashed[endpoint]

        name_is_free = not companions and app_value is None
        issue = PinIssue(
            self._policy,
            endpoint.pin,
            companion_state=CompanionState.STALE if companions else CompanionState.NOTHING,
            owed=self._name if name_is_free else self._companion,
        )
        why, left = self._why_repinned(stale, tried)
        return Pick(endpoint, why, issue, left)

    def _why_repinned(
        self, stale: Sequence[bytes], tried: Collection[Endpoint]
    ) -> tuple[Affinity, str]:
        """And the id of the endpoint that the session was at; empty: it is not known."""
        pins = [value.strip(b'"') for value in stale]
        for why, known in (
            (Affinity.REPINNED_FAILED, {each.pin: each.id for each in tried}),
            (Affinity.REPINNED_DRAINING, self._leaving),
            (Affinity.REPINNED_DOWN, self._down),
        ):
            for pin in pins:
                if pin in known:
                    return why, known[pin]
        return Affinity.REPINNED_GONE, ""

    def evidence(self, request: Request) -> Sequence[Evidence]:
        """See ``endpoint.ReadsRequests``. In the order of the table above: pins before keys."""
        sent = [(name, v) for name in (self._companion, self._name) for v in request.cookies(name)]
        found = [self._meaning(name, value) for name, value in sent]
        for decisive in (Meaning.PIN, Meaning.KEY):
            for at, each in enumerate(found):
                if each.meaning is decisive:
                    found[at] = replace(each, decides=True)
                    return found
        if isinstance(self.fallback, ReadsRequests):
            found += self.fallback.evidence(request)
        return found

    def _meaning(self, name: bytes, value: bytes) -> Evidence:
        source, bare = f"cookie {name.decode()}", value.strip(b'"')
        endpoint = self._by_pin.get(bare)
        if endpoint is not None:
            return Evidence(source, value, Meaning.PIN, endpoint=endpoint)
        if looks_like_pin(value):
            leaving, down = bare in self._leaving, bare in self._down
            gone = Meaning.PIN_DOWN if down else Meaning.PIN_UNKNOWN
            return Evidence(source, value, Meaning.PIN_LEAVING if leaving else gone)
        if name == self._companion or not bare:
            return Evidence(source, value, Meaning.NOTHING)
        owner, slot = self.table.owner(value), self.table.slot(value)
        return Evidence(source, value, Meaning.KEY, endpoint=owner, slot=slot)

    def __repr__(self) -> str:
        return f"<CookieBalancer {self._name.decode()}, {len(self._by_pin)} pins>"


@dataclass(frozen=True, slots=True)
class PinIssue:
    """When the pin goes out, and under which name. Implements ``endpoint.CookieIssue``."""

    policy: CookiePolicy
    pin: bytes
    companion_state: CompanionState
    """The companion that came with the request."""
    owed: bytes | None
    """The name to issue the pin under if the app does not set its own cookie."""

    @property
    def due(self) -> bool:
        return self.owed is not None

    def values(self, answered: Sequence[bytes], secure: bool) -> Sequence[bytes]:
        """One cookie or none. If the response sets NAME, the name is the app's: the companion
        then lives and dies with the app's cookie."""
        policy = self.policy
        app_cookies = _last_of_each_scope(policy.name, answered)
        if not app_cookies:
            if self.owed is None:
                return ()
            return (cookies.pin_cookie(self.owed, self.pin, policy.path, secure),)
        now = time.time()
        kept = [value for value in app_cookies if not cookies.expires_now(value, now)]
        if not kept:
            if self.companion_state is CompanionState.NOTHING:
                return ()
            return (cookies.companion_deletion(policy.companion, app_cookies[-1]),)
        if self.companion_state is CompanionState.VALID and not cookies.has_lifetime(kept[-1]):
            return ()
        return (cookies.companion_cookie(policy.companion, self.pin, kept[-1]),)


def _last_of_each_scope(name: bytes, answered: Sequence[bytes]) -> list[bytes]:
    """The Set-Cookie values for ``name`` that the user agent keeps: a later one replaces an
    earlier one of the same domain and path (RFC 6265 section 5.3)."""
    by_scope: dict[object, bytes] = {}
    for value in answered:
        if cookies.set_cookie_name(value) == name:
            by_scope.pop(cookies.scope(value), None)
            by_scope[cookies.scope(value)] = value
    return list(by_scope.values())


class _Picks(dict[Endpoint, Pick]):
    """The picks of one kind, by endpoint: each is made when first needed, and kept."""

    def __init__(
        self,
        policy: CookiePolicy,
        affinity: Affinity,
        companion_state: CompanionState,
        owed: bytes | None,
    ) -> None:
        super().__init__()
        self._policy = policy
        self._affinity = affinity
        self._companion_state = companion_state
        self._owed = owed

    def __missing__(self, endpoint: Endpoint) -> Pick:
        issue = PinIssue(self._policy, endpoint.pin, self._companion_state, self._owed)
        pick = self[endpoint] = Pick(endpoint, self._affinity, issue)
        return pick
