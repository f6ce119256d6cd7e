"""routing/admit.py: what is remembered of clients."""

from __future__ import annotations

from dataclasses import dataclass, field

from stickyproxy.model.terms import Rate, Terms
from stickyproxy.model.tls import ClientAuth
from stickyproxy.routing import admit
from stickyproxy.routing.admit import Admit, Denial, RateLimit
from stickyproxy.routing.cluster import Cluster
from stickyproxy.routing.table import Route, guard
from tests.specs import service_spec


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Asking:
    """A request, of which only the client matters."""

    client_address: str = "192.0.2.1"
    idempotent: bool = True
    sent: dict[str, bytes] = field(default_factory=dict)

    def cookies(self, name: bytes) -> tuple[bytes, ...]:
        return ()

    def header(self, name: str) -> bytes | None:
        return self.sent.get(name)

    def query(self, name: bytes) -> bytes | None:
        return None


class TestRateLimit:
    def test_a_bucket_fills_again(self) -> None:
        clock = Clock()
        limit = RateLimit(Rate(requests=2, seconds=10, burst=3), clock)
        taken = [limit(Asking()) for _ in range(4)]
        assert taken == [None] * 3 + [Denial(429, "too many requests from this address", 5)]
        clock.now += 5
        assert limit(Asking()) is None
        assert limit(Asking()) is not None
        clock.now += 1000
        assert [limit(Asking()) is None for _ in range(4)] == [True, True, True, False]

    def test_who_is_refused_waits_no_longer_for_it(self) -> None:
        clock = Clock()
        limit = RateLimit(Rate(requests=1, seconds=10, burst=1), clock)
        assert limit(Asking()) is None
        for _ in range(9):
            clock.now += 1
            assert limit(Asking()) is not None
        clock.now += 1
        assert limit(Asking()) is None

    def test_memory_is_bounded(self) -> None:
        limit = RateLimit(Rate(requests=1, seconds=10, burst=1), Clock(), most_clients=3)
        addresses = [f"192.0.2.{number}" for number in range(5)]
        assert [limit(Asking(each)) for each in addresses] == [None] * 5
        assert len(limit) == 3
        assert limit(Asking("192.0.2.4")) is not None
        assert limit(Asking("192.0.2.0")) is None


def test_what_is_off_is_not_there() -> None:
    assert Admit.of([service_spec("shop", ("shop.local",))], {}) is None


def test_the_shorter_of_two_bodies() -> None:
    shops = [
        service_spec("a", ("shop.local",), terms=Terms(max_body=7)),
        service_spec("b", ("shop.local",), terms=Terms(max_body=5)),
        service_spec("c", ("shop.local",)),
    ]
    made = Admit.of(shops, admit.limiters(shops, {}))
    assert made is not None
    assert made.max_body == 5


def test_what_is_asked_of_a_whole_host_comes_on_top() -> None:
    auth = ClientAuth("pem")
    staff = service_spec("a", ("shop.local",), context_root="/staff", client_auth=auth)
    small = service_spec("b", ("shop.local",), terms=Terms(max_body=5), ssl_only=True)
    free = service_spec("c", ("shop.local",), context_root="/free")
    routes = [Route("shop.local", [each], Cluster((each,), ())) for each in (staff, free, small)]
    guard(routes)
    admits = [route.admit for route in routes if route.admit is not None]
    assert [each.client_auth for each in admits] == [auth] * 3
    assert [(each.max_body, each.https_only) for each in admits] == [
        (None, False),
        (None, False),
        (5, True),
    ]
