"""routing/explain.py: what services ask of requests. It says what a live proxy then does, and to
ask uses nothing up."""

from __future__ import annotations

import asyncio
import random
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

import pytest

from stickyproxy.base.passwords import PasswordHash
from stickyproxy.model.edits import Edits
from stickyproxy.model.service import AdminState, EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.model.terms import InFlight, Rate, Terms
from stickyproxy.routing.explain import Fate, Question
from tests.conftest import MakeClient, MakeEndpoint
from tests.running import InProcessProxy
from tests.runtime.test_explain import POLICIES, TRUSTED, Live, added, ask, without_value
from tests.scripted import EndpointConnection, RawClient, Response, get, ok, request
from tests.specs import service_spec

REQUESTS = 120
"""Of each policy: 1,080 in all."""
USERS = (("anne", str(PasswordHash.make(b"sesame", log_n=10))),)
THUMBPRINT = "t" * 43
EDITS = Edits(
    request_set=(("X-Environment", "production"),),
    request_remove=("X-Debug",),
    response_set=(("X-Frame-Options", "DENY"),),
    response_remove=("X-Powered-By",),
)


def credentials(words: str) -> bytes:
    return b"Basic " + b64encode(words.encode())


TERMS = {
    "all.local": Terms(),
    "from.local": Terms(
        allow_from=(ip_network("192.0.2.0/24"),), deny_from=(ip_network("192.0.2.8/29"),)
    ),
    "rate.local": Terms(rate=Rate(requests=2, seconds=3600, burst=3)),
    "body.local": Terms(max_body=10),
    "user.local": Terms(users=USERS),
    "many.local": Terms(in_flight=InFlight(most=1, queue=0, patience=1.0)),
    "each.local": Terms(
        deny_from=(ip_network("192.0.2.8/29"),),
        rate=Rate(requests=9, seconds=3600, burst=9),
        max_body=20,
        users=USERS,
    ),
}
STATES: tuple[AdminState, ...] = ("ready", "ready", "drain", "maintenance")


def declared(addresses: list[str], policy: str) -> Iterator[ServiceSpec]:
    """A service for each of the terms, two of them for https alone; of four endpoints one drains
    and one is in maintenance."""
    endpoints = tuple(
        EndpointSpec(f"t{number}", address, admin_state=state)
        for number, (address, state) in enumerate(zip(addresses, STATES, strict=True))
    )
    for host, terms in TERMS.items():
        yield service_spec(
            host.partition(".")[0],
            (host,),
            endpoints,
            terms=terms,
            edits=EDITS,
            ssl_only=host in ("body.local", "each.local"),
            acme=host == "all.local",
            **POLICIES[policy],
        )


def questions(seed: str, pins: list[bytes]) -> Iterator[Question]:
    chance = random.Random(seed)
    values = [*pins, b"sp1.unknown", b"abc", b""]
    for _ in range(REQUESTS):
        fields = [(b"X-Forwarded-For", b"192.0.2.%d" % chance.randrange(4, 10)), (b"X-Debug", b"1")]
        if chance.random() < 0.7:
            fields.append((b"X-Forwarded-Proto", b"https"))
        if chance.random() < 0.6:
            fields.append((b"Cookie", b"session=" + chance.choice(values)))
        if chance.random() < 0.6:
            who = chance.choice(["anne:sesame", "anne:sesame", "anne:x", "eve:sesame"])
            fields.append((b"Authorization", credentials(who)))
        if chance.random() < 0.5:
            fields.append((b"X-User", chance.choice(values)))
        length = chance.choice([0, 0, 10, 11, 20, 21])
        path = chance.choice(["/x", "/.well-known/acme-challenge/token"])
        yield Question(
            chance.choice([*TERMS]).encode(),
            path.encode(),
            chance.choice(["GET", "POST"]) if length == 0 else "POST",
            tuple(fields),
            body=length,
        )


async def send(user: RawClient, question: Question) -> Response:
    """Send what a question is about."""
    fields = [(name.decode(), value.decode()) for name, value in question.fields]
    if question.body:
        fields.append(("Content-Length", str(question.body)))
    first = ("Host", question.host.decode())
    body = b"x" * question.body
    target = question.target.decode()
    await user.send(request(question.method, target, first, *fields, body=body))
    return await user.response()


async def respond(conn: EndpointConnection) -> None:
    """Say whose work it is."""
    while await conn.request() is not None:
        await conn.send(ok(b"hello", x_powered_by="scripts"))


@pytest.mark.parametrize("policy", POLICIES)
async def test_it_says_what_the_proxy_does(
    endpoint: MakeEndpoint, client: MakeClient, policy: str
) -> None:
    peers = [await endpoint(respond) for _ in STATES]
    services = tuple(declared([peer.address for peer in peers], policy))
    proxy = InProcessProxy(services, trusted_proxies=TRUSTED)
    await proxy.start()
    proxy.app.registry.publish(Snapshot("acme", (), acme_thumbprints=(THUMBPRINT,)))
    fates: Counter[Fate] = Counter()
    statuses: Counter[int] = Counter()
    try:
        live = Live(proxy)
        pins = [each.pin for each in live.endpoints()]
        for question in questions(policy, pins):
            asked = [live.explain(question).checked() for _ in range(3)]
            said = asked[0]
            assert [each.conditions for each in asked] == [said.conditions] * 3, "nothing is used"
            response = await send(await client(proxy.port), question)
            fates[said.fate] += 1
            statuses[response.status] += 1
            assert (said.status or 200) == response.status
            unmet = [each for each in said.conditions if each.status]
            if said.fate is not Fate.FORWARDED:
                assert [each.status for each in unmet] in ([], [response.status])
                continue
            assert not unmet
            exchange = live.last
            assert exchange is not None
            assert exchange.pick is not None
            assert said.choice is not None
            picked = exchange.pick.endpoint
            assert picked in said.choice.endpoints
            assert exchange.pick.affinity is said.choice.pick.affinity
            if said.choice.certain:
                assert list(said.cookies) == added(response)
            assert [*map(without_value, said.cookies)] == [*map(without_value, added(response))]
            assert not picked.facts.in_maintenance
            if picked.facts.asked_to_drain:
                assert exchange.pick.affinity.value == "pinned"
            assert response.header("x-frame-options") == b"DENY"
            assert response.header("x-powered-by") is None
            [peer] = [each for each in peers if each.address == picked.address]
            assert peer.requests[-1].header("x-environment") == b"production"
            assert peer.requests[-1].header("x-debug") is None
    finally:
        await proxy.stop()
    assert set(statuses) >= {200, 308, 401, 403, 413, 429}
    assert set(fates) >= {Fate.FORWARDED, Fate.REDIRECTED, Fate.REFUSED, Fate.ACME}


class Held:
    """Responds when it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, conn: EndpointConnection) -> None:
        while await conn.request() is not None:
            await self.go.wait()
            await conn.send(ok(b"done"))


async def test_requests_in_flight(endpoint: MakeEndpoint, client: MakeClient) -> None:
    held = Held()
    peer = await endpoint(held)
    terms = Terms(in_flight=InFlight(most=1, queue=0, patience=60.0))
    at = (EndpointSpec("t", peer.address),)
    proxy = InProcessProxy([service_spec("a", ("a.local",), at, terms=terms)])
    await proxy.start()
    try:
        live, question = Live(proxy), Question(b"a.local")

        def said() -> tuple[int, str]:
            answer = live.explain(question)
            return answer.status, answer.conditions[-1].said

        assert said() == (0, "0 of 1 at a time, 0 of 0 wait")
        first, second = await client(proxy.port), await client(proxy.port)
        await first.send(get(host="a.local"))
        await peer.wait_requests(1)
        assert said() == (503, "1 of 1 at a time, 0 of 0 wait")
        assert (await ask(second, question)).status == 503
        held.go.set()
        assert (await first.response()).status == 200
        assert said() == (0, "0 of 1 at a time, 0 of 0 wait")
    finally:
        held.go.set()
        await proxy.stop()


async def test_a_listener_that_redirects(endpoint: MakeEndpoint) -> None:
    peer = await endpoint()
    proxy = InProcessProxy([service_spec("a", ("a.local",), (EndpointSpec("t", peer.address),))])
    await proxy.start()
    try:
        live = Live(proxy)
        clear = Question(b"a.local")
        both = clear, replace(clear, secure=True)
        found = [live.explain(each, moves_clear=True) for each in both]
        assert [(each.fate, each.status) for each in found] == [
            (Fate.REDIRECTED, 308),
            (Fate.FORWARDED, 0),
        ]
        assert live.explain(Question(b"?"), moves_clear=True).status == 400
    finally:
        await proxy.stop()
