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

A pin resolves if its endpoint is used. If not, but it names a slot, the slot decides:

    the slot                                    it goes to               owed to it
    ------------------------------------------  -----------------------  --------------------
    is held by another endpoint                 that one                 its pin, in place of
                                                                         the one that came
    is about to be filled                       first it may wait; then
                                                who stays, for a visit
    anything else                               as if there were no pin  likewise
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ClassVar, Final

from stickyproxy.base.hashing import SlotTable, looks_like_pin, slot_of_pin
from stickyproxy.base.values import duration, token
from stickyproxy.model.service import OptionValue
from stickyproxy.routing.balancers import ip_hash
from stickyproxy.routing.balancers.round_robin import RoundRobinPolicy
from stickyproxy.routing.draining import session_key
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

WAIT: Final = 10.0
"""Seconds that a request waits for a successor, if nothing else is said."""
ANYBODY: Final = b"any"
"""In place of a slot, where an endpoint gives a session away."""
LONGEST_VISIT: Final = 300.0
"""Seconds after which a session is re-pinned whose slot has not been filled."""

monotonic = time.monotonic


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
    wait: float = WAIT
    """Seconds that a request waits for the successor of its endpoint; 0: it does not."""

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
        vacant = previous.vacant if isinstance(previous, CookieBalancer) else {}
        return CookieBalancer(self, members, table, fallback, vacant)

    def describe(self) -> str:
        return f"cookie {self.name.decode()}, else {self.fallback.describe()}"

    def options(self) -> Mapping[str, OptionValue]:
        own = {} if self.wait == WAIT else {"sticky_wait": self.wait}
        return {"sticky_session_cookie": self.name.decode(), **own, **self.fallback.options()}


def _make(options: Mapping[str, Any]) -> CookiePolicy | None:
    name = options.get("sticky_session_cookie")
    if name is None:
        return None
    return CookiePolicy(
        name=name.encode(),
        path=options["context_root"].encode(),
        # Where the cookie is absent, the address decides if asked to.
        fallback=ip_hash.KIND.make(options) or RoundRobinPolicy(),
        wait=options.get("sticky_wait", WAIT),
    )


KIND = PolicyKind(
    make=_make,
    options={
        "sticky_session_cookie": Option(str, token, beside=frozenset({"ip_hash"})),
        "sticky_wait": Option(float, duration, adjusts="sticky_session_cookie"),
    },
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
        vacant: Mapping[bytes, float],
    ) -> None:
        """``vacant``: that of the balancer before."""
        name, companion = policy.name, policy.companion
        self.table = table
        self.fallback = fallback
        self.strips = frozenset((name, companion))
        self._policy = policy
        self._name = name
        self._companion = companion
        self._usable = members.usable
        self._by_pin = _by_pin(members.usable + members.draining)
        self._leaving = _by_pin(members.leaving)
        self._down = _by_pin(members.down)
        self._holders = _holders(members.usable)
        """Who has a slot, by its pin."""
        self._coming = members.coming | _starting(members.down)
        """Slots that are about to be filled, likewise."""
        self.vacant = {slot: vacant[slot] for slot in vacant if slot in self._coming}
        """When such a slot was first asked for in vain."""
        self._staying: SlotTable[Endpoint] | None = None
        """Those that will not be replaced soon; None: nobody has asked yet."""
        self._pinned_by_companion = _Picks(policy, Affinity.PINNED, CompanionState.VALID, None)
        self._pinned_by_name = _Picks(policy, Affinity.PINNED, CompanionState.NOTHING, None)
        self._hashed = _Picks(policy, Affinity.HASHED, CompanionState.NOTHING, companion)
        self._new = _Picks(policy, Affinity.NEW, CompanionState.NOTHING, name)
        successor, nothing = Affinity.SUCCESSOR, CompanionState.NOTHING
        self._succeeding_name = _Picks(policy, successor, nothing, name)
        self._succeeding_app = _Picks(policy, successor, nothing, companion)
        self._succeeding = _Picks(policy, successor, CompanionState.STALE, companion)

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

        if companions:
            succeeding = self._succeeding
        else:
            succeeding = self._succeeding_name if app_value is None else self._succeeding_app
        if stale and (pick := self._by_slot(request, stale, tried, succeeding)) is not None:
            return pick

        if app_value is not None:
            endpoint = self.table.owner(app_value, tried)
        else:
            chosen = self.fallback.pick(request, tried)
            endpoint = None if chosen is None else chosen.endpoint
        if endpoint is None:
            return None
        if not stale:
            return self._new[endpoint] if app_value is None else self._hashed[endpoint]
        issue = PinIssue(self._policy, endpoint.pin, *succeeding.owing)
        why, left = self._why_repinned(stale, tried)
        return Pick(endpoint, why, issue, left)

    def _why_repinned(
        self, stale: Sequence[bytes], tried: Collection[Endpoint]
    ) -> tuple[Affinity, str]:
        """And the id of the endpoint that the session was at; empty: it is not known."""
        pins = [value.strip(b'"') for value in stale]
        for why, known in (
            (Affinity.REPINNED_FAILED, _by_pin(tried)),
            (Affinity.REPINNED_DRAINING, self._leaving),
            (Affinity.REPINNED_DOWN, self._down),
        ):
            for pin in pins:
                if pin in known:
                    return why, known[pin].id
        return Affinity.REPINNED_GONE, ""

    # --- pins whose endpoint is not used, by their slots ---

    def _by_slot(
        self,
        request: Request,
        stale: Sequence[bytes],
        tried: Collection[Endpoint],
        succeeding: _Picks,
    ) -> Pick | None:
        """Who has the slot of one of these pins, or, while it is empty, somebody for a visit. None:
        their slots say nothing. ``succeeding``: the picks of the former kind."""
        pins = [value.strip(b'"') for value in stale]
        for pin in pins:
            holder = self._holders.get(slot_of_pin(pin) or self._slot_of(pin))
            if holder is not None and holder not in tried:
                pick = succeeding[holder]
                former = self._leaving.get(pin) or self._down.get(pin)
                return pick if former is None else replace(pick, left=former.id)
        for pin in pins:
            if self._is_coming(slot := self._slot_of(pin), tried):
                return self._visit(request, pin, slot, tried, succeeding.owing[0])
        return None

    def _slot_of(self, pin: bytes) -> bytes:
        """Empty: it names none."""
        if slot := slot_of_pin(pin):
            return slot
        endpoint = self._by_pin.get(pin) or self._leaving.get(pin) or self._down.get(pin)
        return b"" if endpoint is None else endpoint.slot_pin

    def _is_coming(self, slot: bytes, tried: Collection[Endpoint]) -> bool:
        """Also if whoever has it refuses connections, and is about to be replaced or has only just
        begun."""
        if slot in self._coming:
            return True
        holder = self._holders.get(slot)
        return holder in tried and holder is not None and _is_passing(holder)

    def _visit(
        self,
        request: Request,
        pin: bytes,
        slot: bytes,
        tried: Collection[Endpoint],
        companion: CompanionState,
    ) -> Pick | None:
        """Somebody else until the slot is filled: all requests of the session, on all proxies, the
        same. None if there is nobody, or it has taken too long."""
        left = self._left(slot)
        if left < -LONGEST_VISIT:
            return None
        endpoint = self._guest_at(request, tried)
        if endpoint is None:
            return None
        wait = max(0.0, left)
        valid = CompanionState.VALID if companion is CompanionState.STALE else companion
        kept = PinIssue(self._policy, pin, valid, None)
        if endpoint.outdated:
            return Pick(endpoint, Affinity.VISIT, kept, wait=wait)
        known = frozenset(request.cookies(self._name))
        moved = PinIssue(self._policy, endpoint.pin, companion, None)
        return Pick(endpoint, Affinity.VISIT, VisitIssue(kept, moved, known), wait=wait)

    def _left(self, slot: bytes) -> float:
        """Seconds for which requests still wait until it is filled: it was first asked for in vain
        that long ago. Less than zero: since then they do not any more."""
        now = monotonic()
        since = self.vacant.setdefault(slot, now) if slot in self._coming else now
        return since + self._policy.wait - now

    def worth_waiting(self, request: Request, tried: Collection[Endpoint]) -> float:
        """See ``endpoint.Awaits``."""
        sent = (*request.cookies(self._companion), *request.cookies(self._name))
        for value in sent:
            slot = self._slot_of(value.strip(b'"'))
            if self._is_coming(slot, tried):
                return max(0.0, self._left(slot))
        return 0.0

    def _guest_at(self, request: Request, tried: Collection[Endpoint]) -> Endpoint | None:
        """Somebody else, rather of those that stay; the same for all requests of a session."""
        if self._staying is None:
            self._staying = SlotTable(e for e in self._usable if not e.outdated)
        key = session_key(request, (self._name, self._companion))
        return self._staying.owner(key, tried) or self.table.owner(key, tried)

    def hand_over(self, request: Request, pick: Pick, to: bytes) -> PinIssue | None:
        """See ``endpoint.HandsOver``."""
        giver = pick.endpoint
        other: Endpoint | None
        if to == ANYBODY:
            other = self._guest_at(request, (giver,))
        else:
            wanted = giver.service, to.decode("latin-1")
            holders = self._holders.values()
            other = next((e for e in holders if (e.service, e.slot) == wanted), None)
        if other is None or other is giver:
            return None
        has_companion = bool(request.cookies(self._companion))
        if has_companion or _app_value(request.cookies(self._name)) is not None:
            owed = self._companion
        else:
            owed = self._name
        state = CompanionState.STALE if has_companion else CompanionState.NOTHING
        return PinIssue(self._policy, other.pin, state, owed)

    def evidence(self, request: Request) -> Sequence[Evidence]:
        """See ``endpoint.ReadsRequests``. In the order of the table above: pins before keys."""
        sent = [(name, v) for name in (self._companion, self._name) for v in request.cookies(name)]
        found = [self._meaning(name, value) for name, value in sent]
        for decisive in (Meaning.PIN, Meaning.PIN_SUCCEEDED, Meaning.PIN_AWAITED, Meaning.KEY):
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
        slot = self._slot_of(bare)
        if (holder := self._holders.get(slot)) is not None:
            return Evidence(source, value, Meaning.PIN_SUCCEEDED, endpoint=holder)
        if slot in self._coming:
            return Evidence(source, value, Meaning.PIN_AWAITED)
        if looks_like_pin(value):
            leaving, down = bare in self._leaving, bare in self._down
            gone = Meaning.PIN_DOWN if down else Meaning.PIN_UNKNOWN
            return Evidence(source, value, Meaning.PIN_LEAVING if leaving else gone)
        if name == self._companion or not bare:
            return Evidence(source, value, Meaning.NOTHING)
        owner, hashed = self.table.owner(value), self.table.slot(value)
        return Evidence(source, value, Meaning.KEY, endpoint=owner, slot=hashed)

    def __repr__(self) -> str:
        pins = {endpoint.pin for endpoint in self._by_pin.values()}
        return f"<CookieBalancer {self._name.decode()}, {len(pins)} pins>"


def _app_value(named: Sequence[bytes]) -> bytes | None:
    """The application's among the values of NAME; an empty one identifies no client."""
    return next((v for v in named if v.strip(b'"') and not looks_like_pin(v)), None)


def _by_pin(endpoints: Collection[Endpoint]) -> dict[bytes, Endpoint]:
    """By all pins that name them."""
    found = {endpoint.pin: endpoint for endpoint in endpoints}
    found.update((e.former_pin, e) for e in endpoints if e.former_pin)
    return found


def _holders(usable: Iterable[Endpoint]) -> dict[bytes, Endpoint]:
    """Who has each slot. While it is handed over there are two: the one that stays, has it."""
    found: dict[bytes, Endpoint] = {}
    for endpoint in usable:
        slot = endpoint.slot_pin
        if slot and ((other := found.get(slot)) is None or other.outdated):
            found[slot] = endpoint
    return found


def _starting(down: Iterable[Endpoint]) -> frozenset[bytes]:
    """The slots of those that are down for the moment, but not because somebody wants that."""
    return frozenset(
        endpoint.slot_pin
        for endpoint in down
        if endpoint.slot_pin and not endpoint.facts.in_maintenance and _is_passing(endpoint)
    )


def _is_passing(endpoint: Endpoint) -> bool:
    """Whether one that cannot be reached will soon be, or is replaced soon."""
    return endpoint.outdated or not endpoint.has_connected


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


@dataclass(frozen=True, slots=True)
class VisitIssue:
    """What is owed to a session that is a guest at an endpoint that stays. If the application
    begins a new session for it there, that is where it is from then on: with the way back it would
    be lost a second time. Implements ``endpoint.CookieIssue``."""

    kept: PinIssue
    moved: PinIssue
    known: frozenset[bytes]
    """Values of NAME that came with the request: an application that sets one of them again knows
    the session, or does not care."""
    due: bool = False

    def values(self, answered: Sequence[bytes], secure: bool) -> Sequence[bytes]:
        """See ``PinIssue.values``."""
        app_cookies = _last_of_each_scope(self.kept.policy.name, answered)
        is_new = any(cookies.set_cookie_value(each) not in self.known for each in app_cookies)
        return (self.moved if is_new else self.kept).values(answered, secure)


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
        self.owing = companion_state, owed

    def __missing__(self, endpoint: Endpoint) -> Pick:
        issue = PinIssue(self._policy, endpoint.pin, *self.owing)
        left = "" if self._affinity is Affinity.SUCCESSOR else None
        pick = self[endpoint] = Pick(endpoint, self._affinity, issue, left)
        return pick
