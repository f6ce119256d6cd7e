"""What the tests of all policies share: endpoints, members, requests and a browser."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stickyproxy.base.hashing import pin, pin_key
from stickyproxy.model.service import EndpointSpec
from stickyproxy.model.timeouts import Timeouts
from stickyproxy.routing.endpoint import Balancer, Endpoint, Members, Pick
from stickyproxy.semantics.cookies import expires_now, set_cookie_name

KEY = pin_key(b"a secret")


class NoPool:
    """Connections of an endpoint that nobody connects to."""

    def limit(self, timeouts: Timeouts | None) -> None:
        pass

    def keep_idle(self, keep: bool) -> None:
        pass

    def close(self) -> None:
        pass


def endpoint(name: str, service: str = "shop") -> Endpoint:
    return Endpoint(service, EndpointSpec(name, "10.0.0.1:80"), pin(KEY, service, name), NoPool())


def endpoints(count: int) -> tuple[Endpoint, ...]:
    """``task-00``, ``task-01`` and so on."""
    return tuple(endpoint(f"task-{number:02}") for number in range(count))


def usable(*who: Endpoint) -> Members:
    return Members(usable=who)


@dataclass
class FakeRequest:
    """``endpoint.Request`` from what is written here."""

    sent: Mapping[bytes, Sequence[bytes]] = field(default_factory=dict)
    """Cookies: name -> values."""
    headers: Mapping[str, bytes] = field(default_factory=dict)
    parameters: Mapping[bytes, bytes] = field(default_factory=dict)
    client_address: str = "192.0.2.1"
    idempotent: bool = True

    def cookies(self, name: bytes) -> Sequence[bytes]:
        return self.sent.get(name, ())

    def header(self, name: str) -> bytes | None:
        return self.headers.get(name.lower())

    def query(self, name: bytes) -> bytes | None:
        return self.parameters.get(name)


NOTHING = FakeRequest()


def chosen(pick: Pick | None) -> Endpoint:
    """The endpoint of a pick that must have been made."""
    assert pick is not None
    return pick.endpoint


def issued(pick: Pick | None, *answered: bytes, secure: bool = False) -> list[bytes]:
    """The Set-Cookie values that the proxy appends to a response whose own are ``answered``."""
    assert pick is not None
    if pick.cookies is None or not (answered or pick.cookies.due):
        return []
    return list(pick.cookies.values(answered, secure))


class Browser:
    """A client that keeps its cookies, of one path and domain."""

    def __init__(self) -> None:
        self.jar: dict[bytes, bytes] = {}

    @property
    def request(self) -> FakeRequest:
        return FakeRequest({name: [value] for name, value in self.jar.items()})

    def visit(
        self, balancer: Balancer, *answered: bytes, tried: Sequence[Endpoint] = ()
    ) -> Endpoint:
        """One request, answered with the Set-Cookie values ``answered``: who answered it."""
        pick = balancer.pick(self.request, tried)
        self.store(answered)
        self.store(issued(pick, *answered))
        return chosen(pick)

    def store(self, set_cookies: Iterable[bytes]) -> None:
        for value in set_cookies:
            name = set_cookie_name(value)
            if expires_now(value, time.time()):
                self.jar.pop(name, None)
            else:
                self.jar[name] = value.partition(b";")[0].partition(b"=")[2]
