"""What requests must fulfil before they are forwarded, compiled of what services ask for.

    Admit       all of it, for one route; None where there is nothing
    AddressCheck, RateLimit, SharedRateLimit
                one condition each: a check is asked once for every request, and may be asked
                what it would say
    Denial     what a check says to a request that does not fulfil it

What has to be remembered from one request to the next belongs to the cluster (``limiters``) and
outlives the tables that it is in, as long as it is declared in the same way.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from stickyproxy.base.commons import Buckets
from stickyproxy.base.hashing import address_key
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.terms import Rate, Terms
from stickyproxy.model.tls import ClientAuth
from stickyproxy.routing.basic_auth import BasicAuth, basic_auth
from stickyproxy.routing.endpoint import Request
from stickyproxy.semantics.forwarded import TrustedProxies

MOST_CLIENTS = 1 << 16
"""How many a rate limit remembers; if there are more, those that have asked for nothing for the
longest time count as new."""


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a request does not pass."""

    status: int
    text: str
    retry_after: int | None = None
    """Seconds until it may."""


class Check(Protocol):
    """One condition."""

    option: str
    """By which a service asks for it."""

    def __call__(self, request: Request) -> Denial | None:
        """None: the request fulfils it."""

    def foresee(self, request: Request) -> Denial | None:
        """What it would say. Nothing comes of that: no request is counted."""

    def describe(self) -> str:
        """What it takes, in a few words."""


_key_of = lru_cache(4096)(address_key)


class AddressCheck:
    """Which client addresses may ask."""

    def __init__(self, terms: Terms) -> None:
        self.option = "allow_from" if terms.allow_from else "deny_from"
        self._allowed = TrustedProxies(terms.allow_from) if terms.allow_from else None
        self._denied = TrustedProxies(terms.deny_from)
        self._admits = lru_cache(maxsize=4096)(self._look_up)

    def __call__(self, request: Request) -> Denial | None:
        if self._admits(request.client_address):
            return None
        return Denial(403, "clients from this address are not allowed here")

    foresee = __call__

    def describe(self) -> str:
        """See ``Check``."""
        return "clients from this address are allowed here"

    def _look_up(self, address: str) -> bool:
        """A unix socket has no address: it is in no network."""
        if self._denied.trusts(address):
            return False
        return self._allowed is None or self._allowed.trusts(address)


class RateLimit:
    """A token bucket for each client address (IPv6: each /64), in one process.

    A bucket is kept as the moment at which it will be full (the generic cell rate algorithm): one
    that is full says nothing, and is forgotten when room is needed.
    """

    def __init__(
        self,
        rate: Rate,
        clock: Callable[[], float] = time.monotonic,
        most_clients: int = MOST_CLIENTS,
    ) -> None:
        """``clock``: in seconds."""
        self.option = "rate_limit"
        self._rate = rate
        self._most_clients = most_clients
        self._clock = clock
        self._interval = rate.seconds / rate.requests
        self._tolerance = self._interval * (rate.burst - 1)
        self._full_at: OrderedDict[bytes, float] = OrderedDict()

    def __call__(self, request: Request) -> Denial | None:
        client, now = _key_of(request.client_address), self._clock()
        full_at = max(self._full_at.get(client, now), now)
        if full_at - now > self._tolerance + 1e-9:
            return self._denial(full_at - now)
        self._full_at[client] = full_at + self._interval
        self._full_at.move_to_end(client)
        if len(self._full_at) > self._most_clients:
            self._full_at.popitem(last=False)
        return None

    def foresee(self, request: Request) -> Denial | None:
        """See ``Check``."""
        now = self._clock()
        until_full = self._full_at.get(_key_of(request.client_address), now) - now
        return self._denial(until_full) if until_full > self._tolerance + 1e-9 else None

    def describe(self) -> str:
        """See ``Check``."""
        return _describe(self._rate)

    def _denial(self, until_full: float) -> Denial:
        """``until_full``: seconds until the bucket is."""
        return _too_many(until_full - self._tolerance)

    def __len__(self) -> int:
        return len(self._full_at)


class SharedRateLimit:
    """The same in all workers of a proxy, with moments in memory that they share."""

    def __init__(
        self,
        service: str,
        rate: Rate,
        buckets: Buckets,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock``: in seconds, the same in all of them."""
        self.option = "rate_limit"
        self._rate = rate
        self._who = f"{service} {rate.requests}/{rate.seconds} ".encode()
        self._buckets = buckets
        self._clock = clock
        self._interval = max(1, 1_000_000 * rate.seconds // rate.requests)
        self._tolerance = self._interval * (rate.burst - 1)

    def __call__(self, request: Request) -> Denial | None:
        who, now = self._who + _key_of(request.client_address), int(self._clock() * 1e6)
        place, full_at = self._buckets.get(who)
        full_at = max(full_at, now)
        if (wait := full_at - now - self._tolerance) > 0:
            return _too_many(wait / 1e6)
        self._buckets.put(place, who, full_at + self._interval)
        return None

    def foresee(self, request: Request) -> Denial | None:
        """See ``Check``."""
        now = int(self._clock() * 1e6)
        _, full_at = self._buckets.get(self._who + _key_of(request.client_address))
        wait = full_at - now - self._tolerance
        return _too_many(wait / 1e6) if wait > 0 else None

    def describe(self) -> str:
        """See ``Check``."""
        return _describe(self._rate)


def _too_many(wait: float) -> Denial:
    """``wait``: seconds until there is room."""
    return Denial(429, "too many requests from this address", math.ceil(wait))


def _describe(rate: Rate) -> str:
    return f"{rate.requests} in {rate.seconds} s from an address, {rate.burst} at once"


Limiters = Mapping[tuple[str, Rate], RateLimit | SharedRateLimit]
"""Those of a cluster, by service and rate."""


def limiters(
    services: Sequence[ServiceSpec], previous: Limiters, buckets: Buckets | None = None
) -> Limiters:
    """``previous``: of the cluster that is replaced. ``buckets``: what the workers of this proxy
    share; None: it is one process."""
    keys = [
        (service.name, service.terms.rate)
        for service in services
        if service.terms is not None and service.terms.rate is not None
    ]
    if buckets is None:
        return {key: previous.get(key) or RateLimit(key[1]) for key in keys}
    return {key: SharedRateLimit(*key, buckets) for key in keys}


class Admit:
    """What requests for a route must fulfil. What one of the services that share it asks for holds
    for all of them."""

    __slots__ = ("checks", "client_auth", "https_only", "max_body", "users")

    def __init__(self, services: Sequence[ServiceSpec], limiters: Limiters) -> None:
        self.https_only = any(service.ssl_only for service in services)
        """In the clear they are redirected."""
        self.client_auth: ClientAuth | None = next(
            (each.client_auth for each in services if each.client_auth is not None), None
        )
        """Their client must have been asked for a certificate in this way."""
        self.checks: tuple[Check, ...] = (*_address_checks(services), *limiters.values())
        """In this order: who may not ask at all does not use up anything."""
        self.users: BasicAuth | None = next(
            (basic_auth(each.terms.users) for each in services if each.terms and each.terms.users),
            None,
        )
        """Who may ask; None: anybody."""
        sizes = [
            service.terms.max_body
            for service in services
            if service.terms is not None and service.terms.max_body is not None
        ]
        self.max_body = min(sizes, default=None)
        """Bytes of their bodies; None: as many as they like."""

    @classmethod
    def of(cls, services: Sequence[ServiceSpec], limiters: Limiters) -> Admit | None:
        """None: there is nothing to fulfil."""
        admit = cls(services, limiters)
        own = (admit.max_body, admit.client_auth, admit.users)
        asks = admit.https_only or admit.checks or any(each is not None for each in own)
        return admit if asks else None

    def accepts(self, asked: ClientAuth | None) -> bool:
        """Whether a client may pass who was ``asked`` for a certificate in this way; None: not at
        all, which does where none is required."""
        own = self.client_auth
        return own is None or own == asked or (asked is None and not own.required)

    def refuses(self, request: Request) -> Denial | None:
        """Ask every check; None: the request may pass."""
        for check in self.checks:
            refusal = check(request)
            if refusal is not None:
                return refusal
        return None


def _address_checks(services: Sequence[ServiceSpec]) -> Iterator[Check]:
    for service in services:
        terms = service.terms
        if terms is not None and (terms.allow_from or terms.deny_from):
            yield AddressCheck(terms)
