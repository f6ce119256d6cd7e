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
from dataclasses import dataclass
from enum import Enum

from stickyproxy import cookies
from stickyproxy.hashing import SlotTable, looks_like_pin
from stickyproxy.model import Affinity, Balancer, Endpoint, Members, Pick, Policy, Request


@dataclass(frozen=True, slots=True)
class CookiePolicy:
    """A session keeps its endpoint; adding endpoints moves nobody."""

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


class Held(Enum):
    """What the client holds under the companion's name."""

    NOTHING = "nothing"
    STALE = "stale"
    VALID = "valid"


class CookieBalancer:
    """Pins of draining endpoints resolve; they get nothing new."""

    def __init__(
        self,
        policy: CookiePolicy,
        members: Members,
        table: SlotTable[Endpoint],
        fallback: Balancer,
    ) -> None:
        self.table = table
        self.fallback = fallback
        self.strips: Collection[bytes] = frozenset((policy.name, policy.companion))
        self._policy = policy
        self._name = policy.name
        self._companion = policy.companion
        # Sessions under way, which is nearly every request, get a Pick that is ready.
        self._by_companion = self._prebuilt(members, Held.VALID)
        self._by_name = self._prebuilt(members, Held.NOTHING)
        self._down = frozenset(endpoint.pin for endpoint in members.down)

    def _prebuilt(self, members: Members, held: Held) -> dict[bytes, Pick]:
        policy = self._policy
        return {
            e.pin: Pick(e, Affinity.PINNED, PinIssue(policy, e.pin, held))
            for e in members.usable + members.draining
        }

    def pick(self, request: Request, tried: Collection[Endpoint]) -> Pick | None:
        """The endpoint that the client is pinned to, else a new choice and its pin; None if there
        is no endpoint outside ``tried``."""
        companions = request.cookies(self._companion)
        pick = _first_that_resolves(companions, self._by_companion, tried)
        if pick is not None:
            return pick
        named = request.cookies(self._name)
        pick = _first_that_resolves(named, self._by_name, tried)
        if pick is None:
            return self._choose(request, companions, named, tried)
        if companions:
            return self._owing(pick.endpoint, Affinity.PINNED, Held.STALE, self._companion)
        return pick

    def _choose(
        self,
        request: Request,
        companions: Sequence[bytes],
        named: Sequence[bytes],
        tried: Collection[Endpoint],
    ) -> Pick | None:
        stale = [*companions, *filter(looks_like_pin, named)]
        app_value = next((value for value in named if not looks_like_pin(value)), None)
        if app_value is not None:
            endpoint = self.table.owner(app_value, tried)
            affinity = Affinity.HASHED
        else:
            chosen = self.fallback.pick(request, tried)
            endpoint = chosen.endpoint if chosen is not None else None
            affinity = Affinity.NEW
        if endpoint is None:
            return None
        if stale:
            affinity = self._why_repinned(stale, tried)
        held = Held.STALE if companions else Held.NOTHING
        use_companion = companions or app_value is not None
        return self._owing(
            endpoint, affinity, held, self._companion if use_companion else self._name
        )

    def _why_repinned(self, stale: Sequence[bytes], tried: Collection[Endpoint]) -> Affinity:
        pins = {value.strip(b'"') for value in stale}
        if any(endpoint.pin in pins for endpoint in tried):
            return Affinity.REPINNED_FAILED
        return Affinity.REPINNED_GONE if pins.isdisjoint(self._down) else Affinity.REPINNED_DOWN

    def _owing(self, endpoint: Endpoint, affinity: Affinity, held: Held, owed: bytes) -> Pick:
        return Pick(endpoint, affinity, PinIssue(self._policy, endpoint.pin, held, owed))

    def __repr__(self) -> str:
        return f"<CookieBalancer {self._name.decode()}, {len(self._by_name)} pins>"


def _first_that_resolves(
    values: Sequence[bytes], picks: Mapping[bytes, Pick], tried: Collection[Endpoint]
) -> Pick | None:
    for value in values:
        pick = picks.get(value.strip(b'"'))  # some clients send all values quoted
        if pick is not None and pick.endpoint not in tried:
            return pick
    return None


@dataclass(frozen=True, slots=True)
class PinIssue:
    """When the pin goes out, and under which name. Implements ``model.CookieIssue``."""

    policy: CookiePolicy
    pin: bytes
    held: Held
    """The companion that came with the request."""
    owed: bytes | None = None
    """The name to issue the pin under if the app does not set its own cookie."""

    @property
    def due(self) -> bool:
        return self.owed is not None

    def values(self, answered: Sequence[bytes], secure: bool) -> Sequence[bytes]:
        """One cookie or none. If the response sets NAME, the name is the app's: the companion
        then lives and dies with the app's cookie."""
        policy = self.policy
        app_cookie = _last_that_sets(policy.name, answered)
        if app_cookie is None:
            if self.owed is None:
                return ()
            return (cookies.pin_cookie(self.owed, self.pin, policy.path, secure),)
        if cookies.expires_now(app_cookie, time.time()):
            if self.held is Held.NOTHING:
                return ()
            return (cookies.companion_deletion(policy.companion, app_cookie),)
        if self.held is Held.VALID and not cookies.has_lifetime(app_cookie):
            return ()
        return (cookies.companion_cookie(policy.companion, self.pin, app_cookie),)


def _last_that_sets(name: bytes, answered: Sequence[bytes]) -> bytes | None:
    """The last one, because that is the one the user agent keeps (RFC 6265 section 5.3)."""
    for value in reversed(answered):
        if cookies.set_cookie_name(value) == name:
            return value
    return None
