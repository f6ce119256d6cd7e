"""What a pick and a rebuild cost: ``python -m bench.pick``.

Per policy and number of endpoints, the best of several runs (the machine may be shared):

    pick      ns, warm: what nearly every request pays
    cold      us, the first pick of a slot: a race over all endpoints
    build     ms, a balancer from scratch
    joining   ms, a balancer with one endpoint added, from one whose slots are decided
    leaving   ms, likewise with one removed
    catch up  us, the first pick of a slot after one has joined
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

from stickyproxy.base.hashing import pin, pin_key
from stickyproxy.model.service import EndpointSpec
from stickyproxy.model.timeouts import Timeouts
from stickyproxy.routing.balancers.consistent_hash import ConsistentHashPolicy, HeaderKey
from stickyproxy.routing.balancers.cookie import CookiePolicy
from stickyproxy.routing.balancers.ip_hash import IpHashPolicy
from stickyproxy.routing.balancers.round_robin import RoundRobinPolicy
from stickyproxy.routing.endpoint import Endpoint, Members
from stickyproxy.routing.policy import Policy
from stickyproxy.semantics.cookies import values

RUNS = 9
REQUESTS = 20_000
SLOT_FILLING = 300_000  # so many random keys decide 99 % of the 65,536 slots
FEW = 2_000

KEY = pin_key(None)


class NoPool:
    def limit(self, timeouts: Timeouts | None) -> None:
        pass

    def keep_idle(self, keep: bool) -> None:
        pass

    def close(self) -> None:
        pass


class BenchRequest:
    """The least that ``endpoint.Request`` can be; cookies are read off the wire format."""

    idempotent = True

    def __init__(self, number: int, cookie: bytes = b"") -> None:
        self.client_address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        self._cookie = cookie
        self._header = b"user-%d" % number

    def cookies(self, name: bytes) -> Sequence[bytes]:
        return values(self._cookie, name)

    def header(self, name: str) -> bytes | None:
        return self._header

    def query(self, name: bytes) -> bytes | None:
        return None


def endpoint(number: int) -> Endpoint:
    """It holds the slot of the same number."""
    name, slot = f"task-{number}", str(number)
    spec = EndpointSpec(name, "10.0.0.1:80", slot=slot)
    return Endpoint("shop", spec, pin(KEY, "shop", name, slot), NoPool())


def predecessor(of: Endpoint) -> bytes:
    """The pin of the task that had the slot before."""
    return pin(KEY, "shop", f"before-{of.id}", of.slot)


COOKIE = CookiePolicy(b"session", b"/", RoundRobinPolicy())

MakeRequest = Callable[[int, Endpoint], BenchRequest]

# name, policy, a request of client number n whose session is at an endpoint, has cold slots
CASES: list[tuple[str, Policy, MakeRequest, bool]] = [
    ("round robin", RoundRobinPolicy(), lambda n, e: BenchRequest(n), False),
    (
        "cookie: pinned by NAME",
        COOKIE,
        lambda n, e: BenchRequest(n, b"theme=dark; session=" + e.pin),
        False,
    ),
    (
        "cookie: pinned by companion",
        COOKIE,
        lambda n, e: BenchRequest(n, b"session=%032x; session_lb=%b" % (n, e.pin)),
        False,
    ),
    (
        "cookie: pinned to a predecessor",
        COOKIE,
        lambda n, e: BenchRequest(n, b"theme=dark; session=" + predecessor(e)),
        False,
    ),
    ("cookie: none, a new pin", COOKIE, lambda n, e: BenchRequest(n), False),
    ("cookie: the app's value", COOKIE, lambda n, e: BenchRequest(n, b"session=%032x" % n), True),
    ("ip hash", IpHashPolicy(), lambda n, e: BenchRequest(n), True),
    (
        "hash of header",
        ConsistentHashPolicy(HeaderKey("x-user"), RoundRobinPolicy()),
        lambda n, e: BenchRequest(n),
        True,
    ),
]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def best(work: Callable[[], object]) -> float:
    return min(seconds(work) for _ in range(RUNS))


def measure(policy: Policy, make: MakeRequest, count: int, hashes: bool) -> list[str]:
    endpoints = [endpoint(number) for number in range(count)]
    all_members, fewer = Members(tuple(endpoints)), Members(tuple(endpoints[1:]))
    more = Members((*endpoints, endpoint(count)))
    requests = [make(n, e) for n, e in zip(range(REQUESTS), itertools.cycle(endpoints))]
    few = requests[:FEW]

    build = best(lambda: policy.build(all_members, None))
    cold = min(_picking(policy.build(all_members, None).pick, few) for _ in range(RUNS))

    balancer = policy.build(all_members, None)
    if hashes:
        for number in range(SLOT_FILLING):
            balancer.pick(make(number, endpoints[0]), ())
    warm = min(_picking(balancer.pick, requests) for _ in range(RUNS))
    joining = best(lambda: policy.build(more, balancer))
    leaving = best(lambda: policy.build(fewer, balancer))
    catch_up = min(_picking(policy.build(more, balancer).pick, few) for _ in range(RUNS))
    return [
        f"{warm * 1e9:.0f}",
        f"{cold * 1e6:.1f}" if hashes else "",
        f"{build * 1e3:.2f}",
        f"{joining * 1e3:.2f}",
        f"{leaving * 1e3:.2f}",
        f"{catch_up * 1e6:.1f}" if hashes else "",
    ]


def _picking(
    pick: Callable[[BenchRequest, tuple[Endpoint, ...]], object], requests: list[BenchRequest]
) -> float:
    """Seconds per pick, less the loop itself."""

    def loop() -> None:
        for request in requests:
            pick(request, ())

    def empty_loop() -> None:
        for request in requests:
            _nothing(request, ())

    return (seconds(loop) - best(empty_loop)) / len(requests)


def _nothing(request: BenchRequest, tried: tuple[Endpoint, ...]) -> None:
    pass


def main() -> None:
    row = "{:<31} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}"
    print(row.format("policy", "endpoints", "pick", "cold", "build", "joining", "leaving", "catch"))
    print(row.format("", "", "ns", "us", "ms", "ms", "ms", "up us"))
    for name, policy, make, hashes in CASES:
        for count in (10, 100, 1000):
            print(row.format(name, count, *measure(policy, make, count, hashes)), flush=True)


if __name__ == "__main__":
    main()
