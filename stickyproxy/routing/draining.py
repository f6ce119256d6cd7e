"""What endpoints get that are being stopped: the option ``drain`` of their service.

    none     nothing, as long as there is another: sessions are re-pinned
    safe     the same for requests that must not be repeated; others of its sessions it keeps
    sticky   all requests of its sessions

A balancer knows who keeps sessions and who does not. So ``safe`` is two balancers, and a third one
has those that were spared, for when all others have been tried: tasks of a rolling update count as
running before they listen. They are built with the table, and only while somebody drains.

Those that an operator drains keep all their sessions, whatever the option says, and get no new ones
even if there is no other endpoint: who drains a whole service wants it to be empty, and 503 is then
what new clients are told.

Endpoints that are down get nothing as long as there is another. If there is none, all of them are
tried, with the sessions that they have: a request that may fail is better than one that must.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from time import monotonic

from stickyproxy.base.hashing import looks_like_pin
from stickyproxy.routing.endpoint import (
    Awaits,
    Balancer,
    CookieIssue,
    Endpoint,
    EndpointState,
    Evidence,
    HandsOver,
    Members,
    Pick,
    ReadsRequests,
    Request,
)
from stickyproxy.routing.policy import Policy


def build(
    policy: Policy,
    endpoints: Sequence[Endpoint],
    previous: Balancer | None,
    coming: frozenset[bytes] = frozenset(),
) -> Balancer:
    """A balancer over these endpoints in their present states. ``previous``: the one it replaces,
    see ``Policy.build``. ``coming``: see ``Members``."""
    if isinstance(previous, CountingBalancer):
        previous = previous.inner
    built = _build(policy, endpoints, previous, coming)
    counted = [endpoint for endpoint in endpoints if endpoint.facts.asked_to_drain]
    return CountingBalancer(built, counted) if counted else built


def _build(
    policy: Policy,
    endpoints: Sequence[Endpoint],
    previous: Balancer | None,
    coming: frozenset[bytes],
) -> Balancer:
    previous_for_idempotent: Balancer | None = None
    if isinstance(previous, SparingBalancer):
        previous_for_idempotent = previous.for_idempotent
        previous = previous.sparing
    usable = _those(EndpointState.USABLE, endpoints)
    draining = _those(EndpointState.DRAINING, endpoints)
    down = _those(EndpointState.DOWN, endpoints)
    if not Members(usable, draining).accepting:  # all may be well but for what is known of them
        tried = [e for e in down if not e.facts.in_maintenance]
        usable = tuple([e for e in tried if not e.facts.asked_to_drain])
        draining += tuple([e for e in tried if e.facts.asked_to_drain])
        down = tuple([e for e in down if e.facts.in_maintenance])
    sticky = tuple([e for e in draining if e.keeps == "sticky"])
    if len(sticky) == len(draining) or not (usable or sticky):
        return policy.build(Members(usable, draining, (), down, coming), previous)

    def keeping(kept: tuple[Endpoint, ...], previous: Balancer | None = None) -> Balancer:
        leaving = tuple([e for e in draining if e not in kept])
        return policy.build(Members(usable, kept, leaving, down, coming), previous)

    safe = tuple([e for e in draining if e.keeps != "none"])
    sparing = keeping(sticky, previous)
    return SparingBalancer(
        sparing,
        for_idempotent=sparing if safe == sticky else keeping(safe, previous_for_idempotent),
        last=policy.build(Members(draining=draining), None),
    )


def _those(state: EndpointState, endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    return tuple([endpoint for endpoint in endpoints if endpoint.state is state])


class SparingBalancer:
    """While endpoints drain: asks the balancer that spares them, and the others in their cases."""

    def __init__(self, sparing: Balancer, *, for_idempotent: Balancer, last: Balancer) -> None:
        """``last`` has the draining endpoints alone."""
        self.sparing = sparing
        self.strips = sparing.strips
        self.for_idempotent = for_idempotent
        self._last = last

    def pick(self, request: Request, tried: Collection[Endpoint]) -> Pick | None:
        """See ``endpoint.Balancer``."""
        balancer = self.for_idempotent if request.idempotent else self.sparing
        return balancer.pick(request, tried) or self._last.pick(request, tried)

    def evidence(self, request: Request) -> Sequence[Evidence]:
        """See ``endpoint.ReadsRequests``."""
        balancer = self.for_idempotent if request.idempotent else self.sparing
        return balancer.evidence(request) if isinstance(balancer, ReadsRequests) else ()

    def worth_waiting(self, request: Request, tried: Collection[Endpoint]) -> float:
        """See ``endpoint.Awaits``."""
        sparing = self.sparing
        return sparing.worth_waiting(request, tried) if isinstance(sparing, Awaits) else 0.0

    def hand_over(self, request: Request, pick: Pick, to: bytes) -> CookieIssue | None:
        """See ``endpoint.HandsOver``."""
        sparing = self.sparing
        return sparing.hand_over(request, pick, to) if isinstance(sparing, HandsOver) else None

    def __repr__(self) -> str:
        return f"<SparingBalancer, {self.sparing!r}>"


class CountingBalancer:
    """While an operator empties endpoints: notes who is still sent there."""

    def __init__(self, inner: Balancer, counted: Iterable[Endpoint]) -> None:
        self.inner = inner
        self.strips = inner.strips
        self._names = sorted(inner.strips)
        self._counted = {each: each.sessions for each in counted if each.sessions is not None}

    def pick(self, request: Request, tried: Collection[Endpoint]) -> Pick | None:
        """See ``endpoint.Balancer``."""
        pick = self.inner.pick(request, tried)
        if pick is not None and (sessions := self._counted.get(pick.endpoint)) is not None:
            sessions.see(session_key(request, self._names), monotonic())
        return pick

    def evidence(self, request: Request) -> Sequence[Evidence]:
        """See ``endpoint.ReadsRequests``."""
        inner = self.inner
        return inner.evidence(request) if isinstance(inner, ReadsRequests) else ()

    def worth_waiting(self, request: Request, tried: Collection[Endpoint]) -> float:
        """See ``endpoint.Awaits``."""
        inner = self.inner
        return inner.worth_waiting(request, tried) if isinstance(inner, Awaits) else 0.0

    def hand_over(self, request: Request, pick: Pick, to: bytes) -> CookieIssue | None:
        """See ``endpoint.HandsOver``."""
        inner = self.inner
        return inner.hand_over(request, pick, to) if isinstance(inner, HandsOver) else None

    def __repr__(self) -> str:
        return f"<CountingBalancer, {self.inner!r}>"


def session_key(request: Request, names: Iterable[bytes]) -> bytes:
    """By what one client is told from another. ``names``: of the cookies that may carry a pin."""
    for name in names:
        for value in request.cookies(name):
            if value.strip(b'"') and not looks_like_pin(value):
                return value
    return request.client_address.encode() + b" " + (request.header("user-agent") or b"")
