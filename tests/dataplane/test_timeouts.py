"""Timeouts that a service has of its own, and silence that is none."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from stickyproxy.model.timeouts import Timeouts
from tests.conftest import MakeClient, MakeEndpoint, RunningProxy, StartProxy, service
from tests.scripted import (
    EndpointConnection,
    RawClient,
    Script,
    ScriptedEndpoint,
    Truncated,
    chunk,
    get,
    ok,
    post,
    respond,
)

SHORT = 0.1
"""Seconds."""
LONGER = 0.5
"""Seconds in which an endpoint that answers at once has answered."""
EVENTS = ("Content-Type", "text/event-stream; charset=utf-8")
UPGRADE = (("Connection", "Upgrade"), ("Upgrade", "websocket"))


async def silent(conn: EndpointConnection) -> None:
    """Take a request, answer nothing, and tell how the connection ends."""
    await conn.request()
    conn.tell(await conn.eof())


class Running:
    """A proxy with the service ``demo``, and one whose timeouts are short to tell the time by."""

    def __init__(self, proxy: RunningProxy, peer: ScriptedEndpoint, client: MakeClient) -> None:
        self.proxy = proxy
        self.peer = peer
        self._client = client

    async def ask(self, data: bytes = get()) -> RawClient:
        user = await self._client(self.proxy.port)
        await user.send(data)
        return user

    async def wait(self) -> None:
        """Until ``LONGER`` is over."""
        for _ in range(8):
            user = await self.ask(get(host="short.local"))
            assert (await user.response()).status == 504


class Start:
    """What the fixture ``start`` is."""

    def __init__(self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient) -> None:
        self._endpoint = endpoint
        self._start_proxy = start_proxy
        self._client = client

    async def __call__(self, script: Script, own: Timeouts | None, **settings: Any) -> Running:
        """``own``: the timeouts of ``demo``; ``settings``: fields of ``ProxySettings``."""
        peer = await self._endpoint(script)
        short = service(
            await self._endpoint(silent),
            name="short",
            hosts=("short.local",),
            timeouts=Timeouts(response=SHORT),
        )
        services = [service(peer, timeouts=own), short]
        return Running(await self._start_proxy(services, **settings), peer, self._client)


@pytest.fixture
def start(endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient) -> Start:
    return Start(endpoint, start_proxy, client)


class TestResponse:
    """Until the head of the response."""

    async def test_shorter_than_the_proxys(self, start: Start) -> None:
        running = await start(silent, Timeouts(response=SHORT))
        user = await running.ask()
        assert (await user.response()).status == 504
        assert await running.peer.told() in ("eof", "reset")

    async def test_longer_than_the_proxys(self, start: Start) -> None:
        """A long poll."""

        async def poll(conn: EndpointConnection) -> None:
            await conn.request()
            await running.wait()
            await conn.send(ok(b"news"))

        running = await start(poll, Timeouts(response=60), response_timeout=SHORT)
        user = await running.ask()
        assert (await user.response()).body == b"news"

    async def test_may_change_while_the_endpoint_stays(self, start: Start) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(ok())
            await silent(conn)

        running = await start(script, None)
        user = await running.ask()
        assert (await user.response()).status == 200
        running.proxy.set_services([service(running.peer, timeouts=Timeouts(response=SHORT))])
        user = await running.ask()
        assert (await user.response()).status == 504
        assert running.peer.connections == 1

    @pytest.mark.parametrize("own", [None, Timeouts(response_idle=60)])
    async def test_alone_is_for_the_head_and_the_rest(
        self, start: Start, own: Timeouts | None
    ) -> None:
        async def half(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(ok(b"hello")[:-1])
            assert await conn.eof()

        running = await start(half, own, response_timeout=LONGER)
        user = await running.ask()
        if own is None:
            with pytest.raises(Truncated):
                await user.response()
        else:
            assert (await user.response_head()).status == 200
            assert await user.read(4) == b"hell"
            await running.wait()
            assert running.peer.open


class TestResponseIdle:
    """Between two reads of a body."""

    async def test_of_a_service(self, start: Start) -> None:
        async def half(conn: EndpointConnection) -> None:
            await conn.request()
            await running.wait()  # the head may take longer
            await conn.send(ok(b"hello")[:-1])
            conn.tell(await conn.eof())

        running = await start(half, Timeouts(response_idle=SHORT))
        user = await running.ask()
        with pytest.raises(Truncated) as cut:
            await user.response()
        assert cut.value.body == b"hell"
        assert await running.peer.told() in ("eof", "reset")


class TestServerSentEvents:
    """They come when something happens."""

    @pytest.mark.parametrize("framing", ["chunked", "close"])
    @pytest.mark.parametrize("kind", [EVENTS, ("content-type", "Text/Event-Stream")])
    async def test_may_be_silent(self, start: Start, framing: str, kind: tuple[str, str]) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            chunked = framing == "chunked"
            field = ("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")
            await conn.send(respond("200 OK", kind, field))
            for event in (b"data: 1", b"data: 2"):
                await running.wait()
                await conn.send(chunk(event) if chunked else event)
            await conn.send(b"0\r\n\r\n" if chunked else b"")

        running = await start(script, None, response_timeout=LONGER)
        user = await running.ask()
        assert (await user.response()).body == b"data: 1data: 2"

    @pytest.mark.parametrize(
        ("kind", "own"),
        [
            (("Content-Type", "text/event-streams"), Timeouts(response=LONGER)),
            (("X-Type", "text/event-stream"), Timeouts(response=LONGER)),
            (EVENTS, Timeouts(response_idle=SHORT)),
        ],
    )
    async def test_others_may_not_nor_when_told_so(
        self, start: Start, kind: tuple[str, str], own: Timeouts
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("200 OK", kind, ("Transfer-Encoding", "chunked")))
            await conn.eof()

        running = await start(script, own)
        user = await running.ask()
        with pytest.raises(Truncated):
            await user.response()

    async def test_the_next_response_on_the_connection_is_no_event(self, start: Start) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(
                respond("200 OK", EVENTS, ("Transfer-Encoding", "chunked")) + b"0\r\n\r\n"
            )
            await conn.request()
            await conn.send(ok(b"hello")[:-1])
            await conn.eof()

        running = await start(script, Timeouts(response=LONGER))
        assert (await (await running.ask()).response()).body == b""
        user = await running.ask()
        with pytest.raises(Truncated):
            await user.response()
        assert running.peer.connections == 1


class TestClient:
    async def test_that_sends_no_more(self, start: Start) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.head()
            assert await conn.eof()

        running = await start(script, Timeouts(client=SHORT))
        user = await running.ask(post(b"12345")[:-1])
        assert (await user.response()).status == 408

    async def test_that_may_take_its_time(self, start: Start) -> None:
        async def script(conn: EndpointConnection) -> None:
            received = await conn.request()
            assert received is not None
            await conn.send(ok(received.body))

        running = await start(script, Timeouts(client=60), client_timeout=SHORT)
        user = await running.ask(post(b"12345")[:-1])
        await running.wait()
        await user.send(b"5")
        assert (await user.response()).body == b"12345"


class TestConnect:
    async def test_of_a_service(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """Nobody accepts, and the kernel's queue is full."""
        peer = await endpoint()
        await peer.stop()
        peer._listener.listen(0)
        fillers = [socket.socket() for _ in range(2)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex((peer.host, peer.port))
            own = Timeouts(connect=0.25)
            proxy = await start_proxy([service(peer, timeouts=own)], connect_timeout=3600.0)
            user = await client(proxy.port)
            await user.send(get())
            assert (await user.response()).status == 502
        finally:
            for filler in fillers:
                filler.close()


class TestUpgrade:
    async def switch(self, conn: EndpointConnection) -> None:
        await conn.request()
        await conn.send(respond("101 Switching Protocols", *UPGRADE))
        if data := await conn.read_until_eof():
            conn.tell(data)
        conn.tell("over")

    async def test_silence_of_both_ends_it(self, start: Start) -> None:
        running = await start(self.switch, Timeouts(upgrade_idle=SHORT))
        user = await running.ask(get(Connection="Upgrade", Upgrade="websocket"))
        assert (await user.response_head()).status == 101
        assert await user.closed() == "eof"
        assert await running.peer.told() == "over"

    async def test_of_the_proxy(self, start: Start) -> None:
        running = await start(self.switch, None, upgrade_idle_timeout=SHORT)
        user = await running.ask(get(Connection="Upgrade", Upgrade="websocket"))
        assert (await user.response_head()).status == 101
        assert await user.closed() == "eof"

    async def test_no_limit_by_default(self, start: Start) -> None:
        running = await start(self.switch, Timeouts(response=LONGER, response_idle=SHORT))
        user = await running.ask(get(Connection="Upgrade", Upgrade="websocket"))
        assert (await user.response_head()).status == 101
        await running.wait()
        await user.send(b"hello")
        user.finish()
        assert await running.peer.told() == b"hello"


def test_a_service_overrides_single_ones() -> None:
    proxys = Timeouts(connect=3, response=60, response_idle=None, client=60, upgrade_idle=3600)
    assert Timeouts().over(proxys) == proxys
    assert Timeouts(response=5, upgrade_idle=7).over(proxys) == Timeouts(3, 5, None, 60, 7)
