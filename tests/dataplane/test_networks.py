"""Endpoints on a network that takes a connector: connecting through one, and what it costs if it is
missing, frozen, killed or on its way out. Connectors are real processes."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from stickyproxy.base.addresses import Address
from stickyproxy.base.pem import load_chain
from stickyproxy.connector import wire
from stickyproxy.dataplane.downstream.listeners import Listeners
from stickyproxy.dataplane.outcome import Outcome
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.settings import AccessLogSettings, ProxySettings
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.model.timeouts import Timeouts
from stickyproxy.model.tls import ListenerTls, UpstreamTls
from stickyproxy.runtime.data_plane import DataPlane, PlaneSettings
from tests.certificates import make_ca, make_certificate
from tests.conftest import MakeClient, MakeEndpoint
from tests.connector.running import NETWORK, RunningConnector
from tests.connector.test_client import ScriptedConnector
from tests.passing import ALERT, HELLO, serving
from tests.scripted import EndpointConnection, Response, ScriptedEndpoint, get, ok
from tests.specs import service_spec

Start = Callable[..., Awaitable["Plane"]]


class Plane:
    """A data plane on a free port of 127.0.0.1."""

    def __init__(self, directory: Path, connect_timeout: float) -> None:
        settings = replace(ProxySettings(), connect_timeout=connect_timeout)
        log = AccessLogSettings(format="off")
        self.health_changed: asyncio.Queue[None] = asyncio.Queue()
        self.plane = DataPlane(
            PlaneSettings(settings, log, b"x-info: 1", connectors=str(directory)),
            tries_newcomers=False,  # connections are counted
            health_changed=lambda: self.health_changed.put_nowait(None),
        )
        self.port = 0

    async def start(self, *services: ServiceSpec, tls: ListenerTls | None = None) -> None:
        """Listen, and serve these services."""
        spec = ListenerSpec(Address("127.0.0.1", 0), tls=tls)
        self.listeners = await Listeners.open([spec])
        self.plane.start()
        self.serve(*services)
        self.plane.accept_on(self.listeners.shares[0])
        self.port = self.listeners.shares[0][0].sock.getsockname()[1]

    def serve(self, *services: ServiceSpec) -> None:
        """Serve these services and no others."""
        self.plane.registry.publish(Snapshot("static", services))

    async def stop(self) -> None:
        """End it."""
        await self.plane.drain(0)
        await self.plane.stop()
        self.listeners.close()


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Makes data planes; at the end stops them."""
    async with AsyncExitStack() as stack:

        async def make(
            *services: ServiceSpec, connect_timeout: float = 20.0, tls: ListenerTls | None = None
        ) -> Plane:
            plane = Plane(tmp_path, connect_timeout)
            await plane.start(*services, tls=tls)
            stack.push_async_callback(plane.stop)
            return plane

        yield make


def on_network(
    *endpoints: ScriptedEndpoint, name: str = "demo", network: str = NETWORK
) -> ServiceSpec:
    """The service of that name, on the host ``NAME.local``."""
    specs = tuple(EndpointSpec(each.address, each.address, network=network) for each in endpoints)
    return service_spec(name, (f"{name}.local",), specs)


async def asked(client: MakeClient, plane: Plane, host: str = "demo.local") -> Response:
    """The response to a request on a connection of its own."""
    user = await client(plane.port)
    await user.send(get(host=host))
    return await user.response()


def is_no_way(response: Response) -> bool:
    """Whether it is the 503 that tells of the network."""
    return (
        response.status == 503
        and response.header("retry-after") == b"1"
        and b"service demo: there is no way into its network back" in response.body
    )


class TestThroughAConnector:
    async def test_a_request(
        self, tmp_path: Path, start: Start, client: MakeClient, endpoint: MakeEndpoint
    ) -> None:
        peer = await endpoint()
        with RunningConnector(tmp_path) as connector:
            plane = await start(on_network(peer))
            for _ in range(3):
                response = await asked(client, plane)
                assert response.status == 200
                assert response.header("x-upstream-addr") == peer.address.encode()
            assert peer.connections == 1, "it is kept like any other"
            connector.end(signal.SIGKILL)
            await peer.wait_open(0)  # who made it is gone, and so it is

    async def test_tls_that_is_passed_through(self, tmp_path: Path, start: Start) -> None:
        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"%d" % len(await reader.read(-1)))

        async with serving(count) as port:
            spec = EndpointSpec("one", f"127.0.0.1:{port}", network=NETWORK)
            service = replace(service_spec("demo", ("demo.local",), (spec,)), ssl_passthrough=True)
            with RunningConnector(tmp_path):
                plane = await start(service, tls=ListenerTls())
                reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
                writer.write(HELLO + b"!")
                writer.write_eof()
                assert await reader.read(-1) == b"%d" % (len(HELLO) + 1)
                writer.close()
            # Who would make another one has ended.
            plane.serve(replace(service, timeouts=Timeouts(connect=0.5)))
            reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
            writer.write(HELLO)
            assert await reader.read(-1) == ALERT
            writer.close()

    async def test_over_tls(
        self, tmp_path: Path, start: Start, client: MakeClient, endpoint: MakeEndpoint
    ) -> None:
        """The handshake is done here, with what the connector hands over."""
        ca = make_ca()
        certificate = make_certificate(["127.0.0.1"], ca)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_chain(context, certificate.chain, certificate.key)
        peer = await endpoint(tls=context)
        with RunningConnector(tmp_path):
            tls = UpstreamTls(verify=True, ca=ca.pem)
            plane = await start(replace(on_network(peer), tls=tls))
            assert (await asked(client, plane)).status == 200
            plane.serve(replace(on_network(peer), tls=replace(tls, server_name="shop.internal")))
            response = await asked(client, plane)
            assert response.status == 502
            assert response.header("x-upstream-addr") == peer.address.encode()

    async def test_a_handshake_through_it_is_limited_too(
        self, tmp_path: Path, start: Start, client: MakeClient, endpoint: MakeEndpoint
    ) -> None:
        async def silent(conn: EndpointConnection) -> None:
            await conn.eof()

        peer = await endpoint(silent)
        with RunningConnector(tmp_path):
            service = replace(on_network(peer), tls=UpstreamTls())
            plane = await start(service, connect_timeout=0.3)
            assert (await asked(client, plane)).status == 502
            await peer.wait_open(0)

    async def test_an_endpoint_that_refuses_is_the_endpoints_fault(
        self, tmp_path: Path, start: Start, client: MakeClient, endpoint: MakeEndpoint
    ) -> None:
        """Another one is asked, it is ejected, and probed through the connector."""
        dead, alive = await endpoint(listening=False), await endpoint()
        with RunningConnector(tmp_path):
            plane = await start(on_network(dead, alive))
            while not plane.plane.outages:
                assert (await asked(client, plane)).status == 200
            assert plane.plane.outages.keys() == {("demo", dead.address)}
            await dead.start()
            async with asyncio.timeout(20):
                while plane.plane.outages:
                    await plane.health_changed.get()
            await dead.wait_connections(1)

    async def test_idle_connections_make_room_for_new_ones(
        self, tmp_path: Path, start: Start, client: MakeClient, endpoint: MakeEndpoint
    ) -> None:
        peer, other = await endpoint(), await endpoint()
        with ScriptedConnector(tmp_path) as scripted:
            plane = await start(on_network(peer), on_network(other, name="other", network=""))
            assert (await asked(client, plane, "other.local")).status == 200
            waiting = asyncio.create_task(asked(client, plane))
            await scripted.accept()
            scripted.answer(wire.FAILED, errno.EMFILE, await scripted.request())
            again = await scripted.request()
            await other.wait_open(0)
            with socket.create_connection((peer.host, peer.port)) as made:
                scripted.answer(wire.CONNECTED, 0, again, made)
            assert (await waiting).status == 200

    async def test_no_way_any_more(
        self, tmp_path: Path, start: Start, client: MakeClient, endpoint: MakeEndpoint
    ) -> None:
        """The proxy itself has joined the network: connections are new and its own."""
        peer = await endpoint()
        with RunningConnector(tmp_path):
            plane = await start(on_network(peer))
            assert (await asked(client, plane)).status == 200
            plane.serve(on_network(peer, network=""))
            assert (await asked(client, plane)).status == 200
            await peer.wait_open(1)
        assert (await asked(client, plane)).status == 200
        assert peer.connections == 2


class TestAConnectorIsWanting:
    """It costs connections to its network alone, and no endpoint is taken for down."""

    async def test_missing(
        self,
        tmp_path: Path,
        start: Start,
        client: MakeClient,
        endpoint: MakeEndpoint,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        one, two, other = [await endpoint() for _ in range(3)]
        services = on_network(one, two), on_network(other, name="other", network="")
        plane = await start(*services, connect_timeout=0.5)
        outcomes: list[Outcome | None] = []
        plane.plane.proxy.on_finish = lambda exchange: outcomes.append(exchange.outcome)
        for _ in range(4):
            assert is_no_way(await asked(client, plane))
            assert (await asked(client, plane, "other.local")).status == 200
        assert "service demo: no connector for network back is on this node (yet)" in caplog.text
        assert outcomes == 4 * [Outcome.NO_NETWORK, Outcome.COMPLETE]
        assert not plane.plane.outages

    async def test_starting(
        self, tmp_path: Path, start: Start, client: MakeClient, endpoint: MakeEndpoint
    ) -> None:
        """Who has come too early waits for it."""
        plane = await start(on_network(await endpoint()))
        waiting = asyncio.create_task(asked(client, plane))
        with RunningConnector(tmp_path):
            assert (await waiting).status == 200

    async def test_frozen(
        self, tmp_path: Path, start: Start, client: MakeClient, endpoint: MakeEndpoint
    ) -> None:
        """Connections that are there serve on."""
        one, two = await endpoint(), await endpoint()
        with RunningConnector(tmp_path) as connector:
            plane = await start(on_network(one, two), connect_timeout=1.0)
            assert (await asked(client, plane)).status == 200
            connector.signal(signal.SIGSTOP)
            assert is_no_way(await asked(client, plane))  # it is the turn of the other one
            assert (await asked(client, plane)).status == 200
            assert is_no_way(await asked(client, plane))
            assert not plane.plane.outages
            connector.signal(signal.SIGCONT)
            async with asyncio.timeout(20):
                while not (one.connections and two.connections):
                    await asked(client, plane)

    async def test_killed_in_the_middle_of_a_request(
        self, tmp_path: Path, start: Start, client: MakeClient, endpoint: MakeEndpoint
    ) -> None:
        """It is sent again, on a connection of the next one."""

        async def script(conn: EndpointConnection) -> None:
            while await conn.request() is not None:
                if len(peer.requests) != 2:
                    await conn.send(ok(b"here"))

        peer = await endpoint(script)
        with RunningConnector(tmp_path) as killed:
            plane = await start(on_network(peer))
            assert (await asked(client, plane)).status == 200
            waiting = asyncio.create_task(asked(client, plane))
            await peer.wait_requests(2)
            killed.end(signal.SIGKILL)
        with RunningConnector(tmp_path):
            response = await waiting
        assert (response.status, response.body) == (200, b"here")
        assert peer.connections == 2


class TestAConnectorLeaves:
    async def test_idle_connections_are_closed_and_busy_ones_not(
        self, tmp_path: Path, start: Start, client: MakeClient, endpoint: MakeEndpoint
    ) -> None:
        """So that it can end, and nothing is cut."""
        go_on = asyncio.Event()

        async def patient(conn: EndpointConnection) -> None:
            while (request := await conn.request()) is not None:
                if request.target == b"/slow":
                    await go_on.wait()
                await conn.send(ok(request.target))

        peer = await endpoint(patient)
        with RunningConnector(tmp_path, grace=600) as old:
            plane = await start(on_network(peer))
            slow = await client(plane.port)
            await slow.send(get("/slow"))
            await peer.wait_requests(1)
            assert (await asked(client, plane)).status == 200
            with RunningConnector(tmp_path):
                old.signal(signal.SIGTERM)
                await peer.wait_open(1)
                go_on.set()
                assert (await slow.response()).body == b"/slow"
                await peer.wait_open(0)
                assert (await asked(client, plane)).status == 200
                assert peer.connections == 3
