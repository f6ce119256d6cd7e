"""Endpoints whose responses speak against them are taken out for a time, but never too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from time import monotonic

import pytest

from stickyproxy.control import health
from stickyproxy.control.health import Health
from stickyproxy.control.registry import Registry
from stickyproxy.dataplane.descriptors import Descriptors
from stickyproxy.dataplane.turns import Turns
from stickyproxy.dataplane.upstream.pool import Upstreams
from stickyproxy.model.health import Ejection
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.routing.budget import PER_SECOND, QUIET, SHARE
from stickyproxy.routing.endpoint import Endpoint, EndpointState
from stickyproxy.routing.table import RoutingTable
from tests.conftest import MakeClient, MakeEndpoint, RunningProxy, StartProxy, service
from tests.control.test_health import dump, eventually
from tests.running import InProcessProxy
from tests.scripted import (
    EndpointConnection,
    RawClient,
    ScriptedEndpoint,
    answering,
    get,
    ok,
    post,
    respond,
)

BUSY = respond("503 Service Unavailable", ("Content-Length", "4"), body=b"busy")
UNKNOWN_METHOD = respond("501 Not Implemented", ("Content-Length", "0"))


async def resets(conn: EndpointConnection) -> None:
    """Takes a request, and is gone."""
    await conn.head()
    conn.abort()


async def keeps_silent(conn: EndpointConnection) -> None:
    """Takes a request, and says nothing."""
    await conn.head()
    await conn.closed()


async def begins_and_closes(conn: EndpointConnection) -> None:
    """Says how it would respond if it did."""
    await conn.request()
    await conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    conn.close()


def outages(proxy: RunningProxy) -> dict[str, str]:
    """{address: why} of all that are ejected."""
    assert isinstance(proxy, InProcessProxy)
    found = proxy.app.outages
    return {address: found[name, address].reason for name, address in found}


async def statuses(user: RawClient, count: int, request: bytes = b"") -> Counter[int]:
    """What comes back for that many requests, one after the other."""
    seen = []
    for _ in range(count):
        await user.send(request or get())
        seen.append((await user.response()).status)
    return Counter(seen)


class TestWhatSpeaksAgainstAnEndpoint:
    async def test_resets_before_a_head(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        well, ill = await endpoint(), await endpoint(resets)
        proxy = await start_proxy([service(well, ill)])
        user = await client(proxy.port)
        assert await statuses(user, 2 * health.BREAKS, post(b"once")) == {200: 3, 502: 3}
        assert f"{ill.address} down" in dump(proxy)
        assert outages(proxy) == {
            ill.address: "3 requests in a row got no response: it closed the connection"
        }
        assert await statuses(user, 10, post(b"once")) == {200: 10}
        assert len(ill.heads) == health.BREAKS

    async def test_a_request_that_is_sent_again_elsewhere_counts_too(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        well, ill = await endpoint(), await endpoint(resets)
        proxy = await start_proxy([service(well, ill)])
        user = await client(proxy.port)
        assert await statuses(user, 3 * health.BREAKS) == {200: 3 * health.BREAKS}
        assert len(ill.heads) == health.BREAKS

    async def test_head_timeouts(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        well, ill = await endpoint(), await endpoint(keeps_silent)
        proxy = await start_proxy([service(well, ill)], response_timeout=0.1)
        user = await client(proxy.port)
        assert await statuses(user, 2 * health.BREAKS) == {200: 3, 504: 3}
        [reason] = outages(proxy).values()
        assert reason == "3 requests in a row got no response: it stayed silent"
        assert await statuses(user, 10) == {200: 10}

    async def test_a_response_in_between_makes_them_no_row(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        async def every_other(conn: EndpointConnection) -> None:
            await conn.request()
            if len(ill.heads) % 2:
                conn.abort()
            else:
                await conn.send(ok(b"well", Connection="close"))
                conn.close()

        well, ill = await endpoint(), await endpoint(every_other)
        proxy = await start_proxy([service(well, ill)])
        user = await client(proxy.port)
        assert await statuses(user, 20, post(b"once")) == {200: 15, 502: 5}
        assert outages(proxy) == {}

    async def test_what_ends_within_a_response_counts_not(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        well, ill = await endpoint(), await endpoint(begins_and_closes)
        proxy = await start_proxy([service(well, ill)])
        for _ in range(4 * health.BREAKS):
            user = await client(proxy.port)
            await user.send(get())
            await user.response_head()
        assert outages(proxy) == {}

    async def test_a_kept_alive_connection_that_closes_is_nothing(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        async def once(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(ok(b"well"))
            await conn.head()
            conn.close()

        well, ill = await endpoint(), await endpoint(once)
        proxy = await start_proxy([service(well, ill)])
        user = await client(proxy.port)
        assert await statuses(user, 4 * health.BREAKS) == {200: 4 * health.BREAKS}
        assert outages(proxy) == {}

    async def test_5xx_in_a_row_if_asked_for(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        well, ill = await endpoint(), await endpoint(answering(BUSY))
        declared = service(well, ill, ejection=Ejection(after_5xx=4))
        proxy = await start_proxy([declared])
        user = await client(proxy.port)
        assert await statuses(user, 20) == {200: 16, 503: 4}
        assert outages(proxy) == {ill.address: "4 responses in a row were 5xx, the last one 503"}

    @pytest.mark.parametrize(
        ("response", "ejection"),
        [(BUSY, None), (BUSY, Ejection()), (UNKNOWN_METHOD, Ejection(after_5xx=1))],
        ids=["by default", "not asked for", "the request's fault"],
    )
    async def test_else_they_are_the_applications_own_business(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        response: bytes,
        ejection: Ejection | None,
    ) -> None:
        well, ill = await endpoint(), await endpoint(answering(response))
        proxy = await start_proxy([service(well, ill, ejection=ejection)])
        assert (await statuses(await client(proxy.port), 20))[200] == 10
        assert outages(proxy) == {}

    async def test_one_success_ends_a_row_of_5xx(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        async def busy_now_and_then(conn: EndpointConnection) -> None:
            while await conn.request():
                await conn.send(ok() if len(ill.requests) % 3 == 0 else BUSY)

        well, ill = await endpoint(), await endpoint(busy_now_and_then)
        proxy = await start_proxy([service(well, ill, ejection=Ejection(after_5xx=3))])
        assert await statuses(await client(proxy.port), 24) == {200: 16, 503: 8}
        assert outages(proxy) == {}

    async def test_it_may_be_turned_on_while_the_proxy_runs(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        well, ill = await endpoint(), await endpoint(answering(BUSY))
        proxy = await start_proxy([service(well, ill)])
        user = await client(proxy.port)
        await statuses(user, 6)
        proxy.set_services([service(well, ill, ejection=Ejection(after_5xx=1))])
        await statuses(user, 2)
        assert outages(proxy).keys() == {ill.address}


class TestNotTooMany:
    @pytest.mark.parametrize(
        "case",
        [(0, 1, 1.0, 0), (1, 2, 0.5, 1), (1, 3, 0.5, 2), (1, 3, 0.75, 3), (1, 3, 0.0, 0)],
        ids="{0[0]} well, {0[1]} ill, share {0[2]}: {0[3]} out".format,
    )
    async def test_no_more_than_their_share(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        case: tuple[int, int, float, int],
    ) -> None:
        well, ill, share, out = case
        peers = [await endpoint() for _ in range(well)]
        peers += [await endpoint(answering(BUSY)) for _ in range(ill)]
        proxy = await start_proxy([service(*peers, ejection=Ejection(after_5xx=2, share=share))])
        await statuses(await client(proxy.port), 30)
        assert len(outages(proxy)) == out

    @pytest.mark.parametrize("percent", [29, 50, 57, 58])
    async def test_a_share_is_not_less_for_how_numbers_are_written(
        self, site: Site, percent: int
    ) -> None:
        peers = tuple(EndpointSpec(f"{n}", f"10.0.0.1:{8000 + n}") for n in range(100))
        declared = ServiceSpec("demo", ("demo.local",), peers)
        site.publish(replace(declared, ejection=Ejection(share=percent / 100)))
        [cluster] = site.holder.table.clusters()
        for endpoint in cluster.endpoints:
            site.health.responses_failed(endpoint, "it was asked to fail")
        assert len(site.health.outages) == percent

    async def test_those_that_take_no_connections_count_and_are_not_spared(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """A half that is gone anyway leaves no half to eject for what it answers."""
        well, ill = await endpoint(), await endpoint(answering(BUSY))
        gone = [await endpoint(listening=False) for _ in range(2)]
        proxy = await start_proxy([service(well, ill, *gone, ejection=Ejection(after_5xx=5))])
        await statuses(await client(proxy.port), 30)
        assert outages(proxy).keys() == {each.address for each in gone}

    async def test_the_last_usable_one_stays(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        peers = [await endpoint(answering(BUSY)) for _ in range(3)]
        proxy = await start_proxy([service(*peers, ejection=Ejection(after_5xx=1, share=1.0))])
        assert await statuses(await client(proxy.port), 20) == {503: 20}
        assert len(outages(proxy)) == 2


class TestSessions:
    async def test_they_move_once_and_stay_where_they_went(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """Rule 5: a pin of an endpoint that is down is replaced. No other session moves."""
        well, ill = await endpoint(answering(ok(b"well"))), await endpoint(answering(BUSY))
        declared = service(
            well, ill, sticky_session_cookie="session", ejection=Ejection(after_5xx=2)
        )
        proxy = await start_proxy([declared])
        user = await client(proxy.port)
        jars = []
        for _ in range(4):
            await user.send(get())
            answer = await user.response()
            [cookie] = answer.values("set-cookie")
            jars.append(cookie.partition(b";")[0].decode())
        assert outages(proxy).keys() == {ill.address}
        moved = 0
        for jar in jars:
            await user.send(get(Cookie=jar))
            answer = await user.response()
            assert answer.body == b"well"
            moved += bool(answer.values("set-cookie"))
        assert moved == 2, "those two were at the one that is out"


class Holder:
    """Holds a table as the proxy does."""

    def __init__(self) -> None:
        self.table = RoutingTable({})


class Site:
    """A table over real connections, and the health of its endpoints."""

    FIRST, LONGEST = 0.02, 0.1

    def __init__(self) -> None:
        self.holder = Holder()
        self.upstreams = Upstreams(
            connect_timeout=1,
            response_timeout=1,
            client_timeout=1,
            idle_timeout=1,
            turns=Turns(),
            connectors="/nowhere",
            descriptors=Descriptors(),
            ca="",
        )
        self.health = Health(self.holder, ejected=(self.FIRST, self.LONGEST))
        self._registry = Registry(self.holder, self.upstreams, None, rebuilt=self.health.look)

    def publish(self, *services: ServiceSpec) -> None:
        self._registry.publish(Snapshot("static", services))

    def find(self, peer: ScriptedEndpoint) -> Endpoint:
        [cluster] = self.holder.table.clusters()
        [found] = [each for each in cluster.endpoints if each.address == peer.address]
        return found

    def eject(self, endpoint: Endpoint) -> float:
        """Seconds that it is ejected for."""
        self.health.responses_failed(endpoint, "it was asked to fail")
        outage = self.health.outages[endpoint.service, endpoint.id]
        assert outage.until is not None
        return outage.until - outage.since

    async def close(self) -> None:
        await self.health.stop()
        self.upstreams.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    yield made
    await made.close()


class TestForHowLong:
    async def test_longer_each_time_and_bounded(self, site: Site, endpoint: MakeEndpoint) -> None:
        well, ill = await endpoint(), await endpoint()
        site.publish(service(well, ill))
        one = site.find(ill)
        terms = []
        for _ in range(6):
            terms.append(site.eject(one))
            await eventually(lambda: one.state is EndpointState.USABLE and not site.health.outages)
        assert 0.75 * site.FIRST - 1e-3 <= terms[0] <= site.FIRST + 1e-3
        assert all(shorter < longer for shorter, longer in pairwise(terms[:3]))
        assert max(terms) <= site.LONGEST + 1e-3

    async def test_at_the_end_a_probe_has_to_connect(
        self, site: Site, endpoint: MakeEndpoint
    ) -> None:
        well, ill = await endpoint(), await endpoint()
        site.publish(service(well, ill))
        one = site.find(ill)
        site.eject(one)
        await eventually(lambda: one.state is EndpointState.USABLE)
        assert one.has_connected
        await ill.wait_connections(1)
        assert not well.connections

    async def test_what_leaves_the_table_is_forgotten_at_once(
        self, site: Site, endpoint: MakeEndpoint
    ) -> None:
        well, ill = await endpoint(), await endpoint()
        site.publish(service(well, ill))
        site.eject(site.find(ill))
        site.publish(service(well))
        await eventually(lambda: not site.health.outages)
        site.publish(service(well, ill))
        assert site.find(ill).state is EndpointState.USABLE


class TestRetryBudget:
    async def test_requests_are_not_sent_again_without_end(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """Three of four reset everything, and nobody is ejected: 100 requests would make 75
        retries, and more of those that meet two of them."""
        well = await endpoint()
        ill = [await endpoint(resets) for _ in range(3)]
        proxy = await start_proxy([service(well, *ill, ejection=Ejection(share=0.0))])
        began = monotonic()
        seen = await statuses(await client(proxy.port), 100)
        asked = sum(len(each.heads) for each in (well, *ill))
        assert asked <= 100 + QUIET + 100 * SHARE + PER_SECOND * (monotonic() - began + 1)
        assert seen[502] > 0

    async def test_a_new_table_brings_no_new_budget(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        well, ill = await endpoint(), await endpoint(resets)
        declared = service(well, ill, ejection=Ejection(share=0.0))
        proxy = await start_proxy([declared])
        assert isinstance(proxy, InProcessProxy)
        user = await client(proxy.port)
        await statuses(user, 10)
        [before] = proxy.app.proxy.table.clusters()
        proxy.set_services([replace(declared, slow_start=1.0)])
        [after] = proxy.app.proxy.table.clusters()
        assert after is not before
        assert after.budget is before.budget
        assert after.budget.requests == 10
