"""control/simulation.py: it says which sessions a change moves in a live proxy, and where to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from stickyproxy.control.simulation import PlannedChange, Visitor, scaled, simulation, visitors
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.routing.balancers import policy_for
from stickyproxy.semantics.cookies import set_cookie_name
from tests.conftest import MakeClient, MakeEndpoint
from tests.running import InProcessProxy
from tests.runtime.test_explain import POLICIES, TRUSTED, Live
from tests.scripted import RawClient, request
from tests.specs import service_spec

SESSIONS = 60
CHANGES = {
    "up": PlannedChange(scale={"demo": 5}),
    "down": PlannedChange(scale={"demo": 2}),
    "none": PlannedChange(scale={"demo": 0}),
}


async def visit(live: Live, user: RawClient, visitor: Visitor) -> str:
    """Send a visitor's request to the proxy; returns the id of the endpoint, empty if none."""
    fields = [("X-Forwarded-For", visitor.client_address), ("X-User", visitor.value.decode())]
    if visitor.jar:
        jar = "; ".join(f"{name.decode()}={visitor.jar[name].decode()}" for name in visitor.jar)
        fields.append(("Cookie", jar))
    target = f"/?user={visitor.value.decode()}"
    await user.send(request("GET", target, ("Host", "demo.local"), *fields))
    response = await user.response()
    for name, value in response.headers:
        if name.lower() == b"set-cookie":
            visitor.jar[set_cookie_name(value)] = value.partition(b";")[0].partition(b"=")[2]
    exchange = live.last
    assert exchange is not None
    return "" if exchange.pick is None else exchange.pick.endpoint.id


async def declared(
    endpoint: MakeEndpoint, policy: str, change: PlannedChange
) -> tuple[ServiceSpec, ServiceSpec]:
    """A service before the change and after it, and somebody at all of its addresses."""
    peers = [await endpoint() for _ in range(6)]
    specs = tuple(EndpointSpec(f"t{n}", peer.address) for n, peer in enumerate(peers[:3]))
    before = service_spec("demo", ("demo.local",), specs, **POLICIES[policy])
    after = scaled(before, change.scale["demo"])
    addresses = iter(peer.address for peer in peers[3:])
    there = tuple(
        replace(each, address=next(addresses)) if each.id.startswith("new") else each
        for each in after.endpoints
    )
    return before, replace(after, endpoints=there)


@pytest.mark.parametrize("tenths", [1, 5])
@pytest.mark.parametrize("policy", [each for each in POLICIES if each != "our cookie"])
async def test_it_says_where_new_sessions_go(
    endpoint: MakeEndpoint, client: MakeClient, policy: str, tenths: int
) -> None:
    """When one of the endpoints gets less than the others. (What we generate is drawn at
    random.)"""
    before, _ = await declared(endpoint, policy, CHANGES["up"])
    proxy = InProcessProxy([before], trusted_proxies=TRUSTED)
    await proxy.start()
    try:
        live = Live(proxy)
        user = await client(proxy.port)
        clients = visitors(policy_for(before), SESSIONS)
        others = [replace(each, jar=dict(each.jar)) for each in clients]
        was = [await visit(live, user, each) for each in clients]
        [cluster] = live.table.clusters()
        simulated = [replace(each, jar=dict(each.jar)) for each in others]
        said = simulation(cluster, [before], {("demo", "t1"): tenths}).run(simulated)
        [light] = [each for each in cluster.endpoints if each.id == "t1"]
        light.tenths = tenths  # as while it warms up
        cluster.rebuild()
        again = [await visit(live, user, each) for each in clients]
        new = [await visit(live, user, each) for each in others]
    finally:
        await proxy.stop()
    if policy != "round robin":
        assert again == was
        assert not said.moves
    assert {each.id: said.load_new[each] for each in said.load_new} == Counter(new)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("policy", [each for each in POLICIES if each != "round robin"])
async def test_it_says_who_moves(
    endpoint: MakeEndpoint, client: MakeClient, policy: str, change: str
) -> None:
    before, after = await declared(endpoint, policy, CHANGES[change])
    proxy = InProcessProxy([before], trusted_proxies=TRUSTED)
    await proxy.start()
    try:
        live = Live(proxy)
        user = await client(proxy.port)
        clients = visitors(policy_for(before), SESSIONS)
        was = [await visit(live, user, each) for each in clients]
        [cluster] = live.table.clusters()
        simulated = [replace(each, jar=dict(each.jar)) for each in clients]
        said = simulation(cluster, [after]).run(simulated)
        proxy.set_services([after])
        now = [await visit(live, user, each) for each in clients]
    finally:
        await proxy.stop()
    expected = Counter(pair for pair in zip(was, now, strict=True) if pair[0] != pair[1])
    moves = {(a.id, b.id if b else ""): said.moves[a, b] for a, b in said.moves}
    assert moves == expected
    assert {each.id: said.load_before[each] for each in said.load_before} == Counter(was)
    assert {each.id: said.load_after[each] for each in said.load_after} == Counter(
        filter(None, now)
    )
    if change == "up" and policy.startswith("cookie"):
        assert not moves, "scaling up moves no pinned session"
