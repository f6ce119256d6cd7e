"""routing/explain.py: it says what a live proxy then does."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from stickyproxy.dataplane.exchange import Exchange
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.tls import ClientAuth
from stickyproxy.routing.balancers import KINDS, policy_for
from stickyproxy.routing.endpoint import Endpoint, EndpointState, Facts, Meaning
from stickyproxy.routing.explain import Explanation, Fate, Question, explain
from stickyproxy.routing.table import RoutingTable
from stickyproxy.semantics.forwarded import TrustedProxies
from tests.conftest import MakeClient, MakeEndpoint
from tests.routing.balancers import FakeRequest
from tests.running import InProcessProxy
from tests.scripted import RawClient, Response, request
from tests.specs import service_spec

TRUSTED = (ip_network("127.0.0.0/8"),)
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "round robin": {},
    "cookie": {"sticky_session_cookie": "session"},
    "cookie, else address": {"sticky_session_cookie": "session", "ip_hash": True},
    "ip hash": {"ip_hash": True},
    "header": {"hash_header": "X-User"},
    "query": {"hash_query": "user"},
    "their cookie": {"hash_cookie": "session"},
    "our cookie": {"hash_cookie": "session", "hash_cookie_ttl": 60.0},
    "source": {"hash_source_ip": True},
}
REQUESTS = 40
"""Of each policy, and of each way to drain: 1,080 in all."""


class Live:
    """A proxy in front of four endpoints, of which one drains and one is in maintenance."""

    def __init__(self, proxy: InProcessProxy) -> None:
        self.proxy = proxy
        self.last: Exchange | None = None
        proxy.app.proxy.on_finish = self._note

    def _note(self, exchange: Exchange) -> None:
        self.last = exchange

    @property
    def table(self) -> RoutingTable:
        """The one in force."""
        return self.proxy.app.proxy.table

    def endpoints(self) -> list[Endpoint]:
        """Those of all services."""
        return [each for cluster in self.table.clusters() for each in cluster.endpoints]

    def explain(self, question: Question, *, moves_clear: bool = False) -> Explanation:
        """As the proxy would serve it."""
        trusted = TrustedProxies(TRUSTED)
        return explain(self.table, question, trusted, moves_clear=moves_clear)


async def ask(user: RawClient, question: Question) -> Response:
    """The response to what the question is about."""
    fields = [(name.decode(), value.decode()) for name, value in question.fields]
    target = question.target.decode()
    await user.send(request("GET", target, ("Host", question.host.decode()), *fields))
    return await user.response()


def questions(seed: str, pins: list[bytes]) -> Iterator[Question]:
    """Requests of all kinds: pins of anybody, values of applications, keys, addresses."""
    chance = random.Random(seed)
    values = [*pins, b"sp1.unknown", b'"' + pins[0] + b'"', b"abc", b"def", b"", b'""']
    for _ in range(REQUESTS):
        jar = [
            name + b"=" + chance.choice(values)
            for name in (b"session", b"session_lb", b"session", b"other")
            if chance.random() < 0.4
        ]
        fields = [(b"X-Forwarded-For", b"192.0.2.%d" % chance.randrange(100))]
        if jar:
            fields.append((b"Cookie", b"; ".join(jar)))
        if chance.random() < 0.7:
            fields.append((b"X-User", chance.choice(values)))
        target = chance.choice([b"/app", b"/app/x?user=%d" % chance.randrange(9), b"/app?user="])
        yield Question(b"demo.local", target, fields=tuple(fields))


def added(response: Response) -> list[bytes]:
    """The cookies that it sets."""
    return [value for name, value in response.headers if name.lower() == b"set-cookie"]


def without_value(cookie: bytes) -> tuple[bytes, bytes]:
    """Its name, and its attributes."""
    return cookie.partition(b"=")[0], cookie.partition(b";")[2]


async def four_endpoints(endpoint: MakeEndpoint, **options: Any) -> list[ServiceSpec]:
    peers = [await endpoint() for _ in range(5)]
    specs = [EndpointSpec(f"t{number}", peers[number].address) for number in range(5)]
    specs[1] = replace(specs[1], draining=True)
    declared = {"context_root": "/app", "context_root_rewrite": True, **options}
    demo = service_spec("demo", ("demo.local",), tuple(specs[:4]), **declared)
    return [demo, service_spec("other", ("other.local",), (specs[4],))]


def test_these_are_all_policies() -> None:
    kinds = {policy_for(service_spec("a", (), **POLICIES[name])).kind for name in POLICIES}
    assert len(kinds) == len(KINDS)


@pytest.mark.parametrize("drain", ["none", "safe", "sticky"])
@pytest.mark.parametrize("policy", POLICIES)
async def test_it_says_what_the_proxy_does(
    endpoint: MakeEndpoint, client: MakeClient, policy: str, drain: str
) -> None:
    services = await four_endpoints(endpoint, drain=drain, **POLICIES[policy])
    proxy = InProcessProxy(services, trusted_proxies=TRUSTED)
    await proxy.start()
    try:
        live = Live(proxy)
        [down] = [each for each in live.endpoints() if each.id == "t2"]
        live.table.note(down, Facts(in_maintenance=True))
        user = await client(proxy.port)
        pins = [each.pin for each in live.endpoints()]
        for question in questions(policy + drain, pins):
            said = live.explain(question)
            response = await ask(user, question)
            exchange = live.last
            assert exchange is not None
            assert exchange.pick is not None
            assert said.choice is not None
            assert said.fate is Fate.FORWARDED
            assert exchange.pick.endpoint in said.choice.endpoints
            assert said.choice.pick.affinity is exchange.pick.affinity
            if policy != "our cookie":  # whose value is drawn at random
                assert exchange.pick.endpoint is said.choice.endpoints[0]
            assert said.cluster is not None
            assert exchange.service == said.cluster.name
            if said.choice.certain:
                assert list(said.cookies) == added(response)
                assert said.if_it_dies is not None
                assert exchange.pick.endpoint not in said.if_it_dies.endpoints
            assert [*map(without_value, said.cookies)] == [*map(without_value, added(response))]
            decisive = [each.endpoint for each in said.evidence if each.decides]
            assert decisive in ([], [exchange.pick.endpoint])
    finally:
        await proxy.stop()


async def test_turns_are_not_taken(endpoint: MakeEndpoint, client: MakeClient) -> None:
    services = await four_endpoints(endpoint)
    proxy = InProcessProxy(services)
    await proxy.start()
    try:
        live = Live(proxy)
        user = await client(proxy.port)
        question = Question(b"demo.local", b"/app")
        for _ in range(7):
            said = [live.explain(question).choice for _ in range(5)]
            await ask(user, question)
            assert live.last is not None
            assert live.last.pick is not None
            assert {each and each.endpoints[0] for each in said} == {live.last.pick.endpoint}
            assert {len(each.endpoints) for each in said if each} == {3}
    finally:
        await proxy.stop()


async def test_if_it_dies_that_is_what_happens(endpoint: MakeEndpoint, client: MakeClient) -> None:
    peers = [await endpoint(listening=number > 0) for number in range(4)]
    specs = tuple(EndpointSpec(f"t{n}", peer.address) for n, peer in enumerate(peers))
    for name in ("cookie", "ip hash", "header"):
        spec = service_spec("demo", ("demo.local",), specs, **POLICIES[name])
        proxy = InProcessProxy([spec], trusted_proxies=TRUSTED)
        await proxy.start()
        try:
            live = Live(proxy)
            dead = next(each for each in live.endpoints() if each.id == "t0")
            question = next(
                each
                for each in questions("dies", [dead.pin])
                for choice in [live.explain(replace(each, target=b"/")).choice]
                if choice and choice.endpoints == (dead,)
            )
            said = live.explain(replace(question, target=b"/"))
            response = await ask(await client(proxy.port), replace(question, target=b"/"))
            assert response.status == 200
            assert live.last is not None
            assert live.last.pick is not None
            assert said.if_it_dies is not None
            assert live.last.pick.endpoint in said.if_it_dies.endpoints
            assert live.last.pick.affinity is said.if_it_dies.pick.affinity
        finally:
            await proxy.stop()


class TestOtherFates:
    """What is not forwarded."""

    async def test_statuses(self, endpoint: MakeEndpoint, client: MakeClient) -> None:
        peer = await endpoint()
        at = (EndpointSpec("t", peer.address),)
        services = [
            service_spec("a", ("a.local", "*.a.local"), at, redirects=(("old.local", "http://a"),)),
            service_spec("b", ("b.local",), at, ssl_only=True),
            service_spec("c", ("c.local",), at, ssl_passthrough=True),
            service_spec("d", ("d.local",)),
            service_spec("g", ("g.local",), at, client_auth=ClientAuth("PEM", required=True)),
        ]
        proxy = InProcessProxy(services)
        await proxy.start()
        try:
            live = Live(proxy)
            hosts = (
                "a.local",
                "x.a.local",
                "old.local",
                "b.local",
                "c.local",
                "d.local",
                "e",
                "?",
                "g.local",
            )
            found = {}
            for host in hosts:
                question = Question(host.encode())
                response = await ask(await client(proxy.port), question)
                said = live.explain(question)
                found[host] = said.fate
                assert (said.status or 200) == response.status
        finally:
            await proxy.stop()
        assert list(found.values()) == [
            *(Fate.FORWARDED, Fate.FORWARDED, Fate.REDIRECTED, Fate.REDIRECTED, Fate.REDIRECTED),
            *(Fate.NO_ENDPOINT, Fate.NO_ROUTE, Fate.REFUSED, Fate.REFUSED),
        ]

    @pytest.mark.parametrize(
        "wrong",
        [
            {"method": "G T"},
            {"target": b"/a b"},
            {"fields": ((b"a b", b"c"),)},
            {"fields": ((b"a", b"b\r\nHost: c"),)},
        ],
    )
    def test_no_request(self, wrong: Mapping[str, Any]) -> None:
        with pytest.raises(ValueError, match="is not a "):
            Question(b"a.local", **wrong)


@pytest.mark.parametrize("client", ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"])
async def test_what_is_passed_through(endpoint: MakeEndpoint, client: str) -> None:
    """As the balancer picks that such connections are given by."""
    peers = [await endpoint() for _ in range(3)]
    specs = tuple(EndpointSpec(f"t{n}", peer.address) for n, peer in enumerate(peers))
    proxy = InProcessProxy([service_spec("c", ("*.c.local",), specs, ssl_passthrough=True)])
    await proxy.start()
    try:
        live = Live(proxy)
        cookie = ((b"Cookie", b"session=abc"),)
        said = live.explain(Question(b"A.c.local:443", b"/", "GET", cookie, client, secure=True))
        assert live.table.passthrough is not None
        cluster = live.table.passthrough.cluster("a.c.local")
        assert cluster is not None
        picked = cluster.balancer.pick(FakeRequest(client_address=client), ())
    finally:
        await proxy.stop()
    assert said.fate is Fate.PASSED_THROUGH
    assert said.choice is not None
    assert picked is not None
    assert said.choice.endpoints == (picked.endpoint,)
    assert [each.source for each in said.evidence] == ["client address"]
    assert said.if_it_dies is not None


async def test_whose_pin_it_is(endpoint: MakeEndpoint) -> None:
    """Also of an endpoint that belongs to another service."""
    services = await four_endpoints(endpoint, **POLICIES["cookie"])
    proxy = InProcessProxy(services)
    await proxy.start()
    try:
        live = Live(proxy)
        [other] = [each for each in live.endpoints() if each.service == "other"]
        [leaving] = [each for each in live.endpoints() if each.state is EndpointState.DRAINING]
        sent = b"session=" + other.pin + b"; session=abc; session_lb=" + leaving.pin
        said = live.explain(Question(b"demo.local", b"/app", fields=((b"Cookie", sent),)))
    finally:
        await proxy.stop()
    assert said.owners == {other.pin: other, leaving.pin: leaving}
    meanings = [(each.source, each.meaning, each.decides) for each in said.evidence]
    assert meanings == [
        ("cookie session_lb", Meaning.PIN_LEAVING, False),
        ("cookie session", Meaning.PIN_UNKNOWN, False),
        ("cookie session", Meaning.KEY, True),
    ]
