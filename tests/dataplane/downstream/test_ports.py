"""dataplane/downstream/ports.py: a second protocol needs that and nothing else.

The toy speaks lines, many requests at a time on one connection, each with a number:

    > 1 GET demo.local /path 0        number, method, host, target, bytes of the body (-1: unknown)
    > 1 body 68656c6c6f               a piece of the body, in hexadecimal digits
    > 1 end                           of a body of unknown length
    < 1 head 200 OK 5                 status, reason, bytes of the body
    < 1 field Content-Length: 5
    < 1 data 68656c6c6f
    < 1 end                           or: 1 reset
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import cast

import pytest

from stickyproxy.base.errors import BadRequest
from stickyproxy.dataplane.downstream.ports import ClientTunnel, StreamHandler
from stickyproxy.dataplane.exchange import Exchange, Proxy
from stickyproxy.dataplane.outcome import Outcome
from stickyproxy.semantics.forwarded import TrustedProxies
from stickyproxy.semantics.request import UNKNOWN, Peer
from tests.conftest import MakeEndpoint, service
from tests.running import InProcessProxy
from tests.scripted import TIMEOUT, EndpointConnection, Script, ScriptedEndpoint, chunk, ok, respond

# --- the protocol --------------------------------------------------------------------------------


class LineStream:
    """Implements ``ports.ClientStream``."""

    http11, wants_upgrade, version = True, False, "LINES"
    client_is_slow = False

    def __init__(self, connection: LineConnection, number: str, words: Sequence[str]) -> None:
        self.method, host, target, length = words
        self.target = target.encode()
        self.fields: Sequence[tuple[bytes, bytes]] = ((b"Host", host.encode()),)
        self.body_length = int(length)
        self.peer, self.loop = connection.peer, connection.loop
        self._connection, self._number = connection, number
        self._left, self._waiting = self.body_length, list[bytes]()
        self._started = self._paused = False

    def header(self, name: str) -> bytes | None:
        return self.fields[0][1] if name.lower() == "host" else None

    def take(self, piece: bytes) -> None:
        """A piece of the body; empty: it ends here."""
        self._waiting.append(piece)
        self._left -= len(piece)
        if not (self._left or self.body_length == UNKNOWN):
            self._waiting.append(b"")
        self._pass_on()

    def body_at_hand(self) -> bytes | None:
        return None if not self._waiting or self._waiting[-1] else b"".join(self._waiting)

    def start_body(self) -> None:
        self._started = True
        self._pass_on()

    def resume_body(self) -> None:
        self._paused = False
        self._pass_on()

    def keep_body(self) -> None:
        self._started = False

    def pause_body(self) -> None:
        self._paused = True
        self._connection.held.set()

    def _pass_on(self) -> None:
        handler = self._connection.handlers.get(self._number)
        while handler and self._started and not self._paused and self._waiting:
            piece = self._waiting.pop(0)
            handler.body(piece) if piece else handler.body_ended()

    def say(self, *words: object) -> None:
        self._connection.say(self._number, *words)

    def send_interim(self, status: int, reason: bytes, fields: list[bytes]) -> None:
        self.say("interim", status, reason.decode())

    def send_head(
        self, status: int, reason: bytes, fields: list[bytes], length: int, *, last: bool = False
    ) -> None:
        self.say("head", status, reason.decode(), length)
        for line in b"\r\n".join(fields).split(b"\r\n"):
            self.say("field", line.decode("latin-1"))

    def send_data(self, data: bytes) -> None:
        self.say("data", data.hex())

    def flush(self) -> None:
        """All is passed on at once."""

    def end(self) -> None:
        self.say("end")
        del self._connection.handlers[self._number]

    def reset(self) -> None:
        self.say("reset")
        del self._connection.handlers[self._number]

    def switch(self, tunnel: ClientTunnel) -> None:
        raise NotImplementedError  # nobody wants an upgrade

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    pause_client = resume_client = close = flush


class LineConnection(asyncio.Protocol):
    """A client's connection, with as many streams at a time as it likes."""

    def __init__(self, proxy: Proxy) -> None:
        self.loop = asyncio.get_running_loop()
        self.handlers: dict[str, StreamHandler] = {}
        self.streams: dict[str, LineStream] = {}
        self._proxy, self._rest = proxy, b""
        self.slow, self.ready, self.held = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        nobody = TrustedProxies((), unix=False)
        self.peer = Peer("192.0.2.7", "127.0.0.1", 80, secure=True, trusted_proxies=nobody)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            number, word, *words = line.decode().split(" ")
            if word in {"body", "end"}:
                self.streams[number].take(bytes.fromhex("".join(words)))
            elif len(words) == 3:
                stream = self.streams[number] = LineStream(self, number, [word, *words])
                handler = self.handlers[number] = Exchange(self._proxy, stream)
                handler.begin()
            else:
                stream = LineStream(self, number, ["", "", "", "0"])
                self.handlers[number] = Exchange(self._proxy, stream)
                self._proxy.refuse(stream, BadRequest(400, "four words make a request"))

    def say(self, *words: object) -> None:
        self.transport.write(" ".join(map(str, words)).encode("latin-1") + b"\n")

    def pause_writing(self) -> None:
        self.slow.set()
        for handler in [*self.handlers.values()]:
            handler.client_slow()

    def resume_writing(self) -> None:
        self.ready.set()
        for handler in [*self.handlers.values()]:
            handler.client_ready()

    def connection_lost(self, exc: Exception | None) -> None:
        for handler in self.handlers.values():
            handler.client_lost()


# --- its client ----------------------------------------------------------------------------------


class Answer:
    """What came for one request."""

    def __init__(self) -> None:
        self.status = 0
        self.length = 0
        self.fields: list[str] = []
        self.interims: list[int] = []
        self.body = b""
        self.ended = ""


class Client:
    """Sends lines, and sorts what comes by the number of the request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self.answers: dict[str, Answer] = {}
        self.order: list[str] = []
        """Numbers of the answers that are whole, in the order of their ends."""

    def say(self, *words: object) -> None:
        self.writer.write(" ".join(map(str, words)).encode() + b"\n")

    async def line(self) -> Answer:
        """Read a line."""
        async with asyncio.timeout(TIMEOUT):
            raw = await self._reader.readline()
        assert raw.endswith(b"\n"), raw
        number, word, *words = raw[:-1].decode("latin-1").split(" ")
        answer = self.answers.setdefault(number, Answer())
        match word:
            case "interim":
                answer.interims.append(int(words[0]))
            case "head":
                assert not answer.status
                answer.status, answer.length = int(words[0]), int(words[-1])
            case "field":
                answer.fields.append(" ".join(words))
            case "data":
                assert answer.status
                answer.body += bytes.fromhex(words[0])
            case "end" | "reset":
                answer.ended = word
                self.order.append(number)
            case _:
                raise AssertionError(raw)
        return answer

    async def answer(self, number: int | str) -> Answer:
        """Read until that answer has ended."""
        while not (answer := self.answers.setdefault(str(number), Answer())).ended:
            await self.line()
        return answer


class Toy:
    """A proxy that speaks lines."""

    def __init__(self, proxy: InProcessProxy, endpoint: ScriptedEndpoint) -> None:
        self.proxy = proxy
        self.endpoint = endpoint
        self.port = 0
        self.slow, self.ready = asyncio.Event(), asyncio.Event()
        """A client does not keep up; it does again."""
        self.held = asyncio.Event()
        """A body has to wait for its endpoint."""
        self.finished: list[Exchange] = []
        self._news = asyncio.Event()
        self.clients: list[Client] = []
        proxy.app.proxy.on_finish = self._note

    def _note(self, exchange: Exchange) -> None:
        self.finished.append(exchange)
        self._news.set()

    async def outcomes(self, count: int) -> list[Outcome | None]:
        """How requests ended, once so many have."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.finished) < count:
                self._news.clear()
                await self._news.wait()
        return [exchange.outcome for exchange in self.finished]

    def __call__(self) -> LineConnection:
        connection = LineConnection(self.proxy.app.proxy)
        connection.slow, connection.ready, connection.held = self.slow, self.ready, self.held
        return connection

    async def client(self) -> Client:
        """A new client."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        self.clients.append(Client(reader, writer))
        return self.clients[-1]


StartToy = Callable[[Script], Awaitable[Toy]]


@pytest.fixture
async def toy(endpoint: MakeEndpoint) -> AsyncIterator[StartToy]:
    """Puts an endpoint behind a proxy that speaks lines."""
    closing: list[tuple[InProcessProxy, asyncio.Server, Toy]] = []

    async def start(script: Script) -> Toy:
        peer = await endpoint(script)
        proxy = InProcessProxy([service(peer)])
        await proxy.start()
        made = Toy(proxy, peer)
        server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
        made.port = server.sockets[0].getsockname()[1]
        closing.append((proxy, server, made))
        return made

    yield start
    for proxy, server, made in closing:
        for client in made.clients:
            client.writer.close()
        server.close()
        await proxy.stop()


# --- what it must do -----------------------------------------------------------------------------


async def echo(conn: EndpointConnection) -> None:
    """Answer with the target and the body that came."""
    while (request := await conn.request()) is not None:
        await conn.send(ok(request.target + b" " + request.body))


async def test_a_request(toy: StartToy) -> None:
    scene = await toy(echo)
    client = await scene.client()
    for number in range(3):
        client.say(number, "GET", "demo.local", f"/{number}", 0)
        answer = await client.answer(number)
        assert (answer.status, answer.body, answer.ended) == (200, b"/%d " % number, "end")
        assert answer.length == len(answer.body)
        assert f"Content-Length: {answer.length}" in answer.fields
        assert any(field.startswith("x-request-id: ") for field in answer.fields)
    assert await scene.outcomes(3) == [Outcome.COMPLETE] * 3


async def test_nothing_of_http1_in_it(toy: StartToy) -> None:
    """Chunks, Connection and the status line are the other protocol's."""

    async def script(conn: EndpointConnection) -> None:
        await conn.request()
        await conn.send(respond("103 Early Hints", ("Link", "</a>")))
        chunked = ("Transfer-Encoding", "chunked")
        await conn.send(respond("200 OK", chunked, ("Connection", "close")))
        await conn.send(chunk(b"one") + chunk(b"two") + b"0\r\n\r\n")

    client = await (await toy(script)).client()
    client.say(1, "GET", "demo.local", "/", 0)
    answer = await client.answer(1)
    assert (answer.status, answer.length, answer.body) == (200, UNKNOWN, b"onetwo")
    assert answer.interims == [103]
    names = {field.partition(":")[0].lower() for field in answer.fields}
    assert not names & {"transfer-encoding", "connection", "content-length"}


@pytest.mark.parametrize("size", [1, 5, 300_000])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_body(toy: StartToy, size: int, announced: bool) -> None:
    client = await (await toy(echo)).client()
    body = bytes(range(256)) * (size // 256 + 1)
    client.say(1, "POST", "demo.local", "/", size if announced else UNKNOWN)
    for at in range(0, size, 50_000):
        client.say(1, "body", body[at : min(size, at + 50_000)].hex())
    if not announced:
        client.say(1, "end")
    assert (await client.answer(1)).body == b"/ " + body[:size]


async def test_a_body_that_goes_out_with_its_head(toy: StartToy) -> None:
    """It comes while the connection is made, and goes out once."""

    async def script(conn: EndpointConnection) -> None:
        while (request := await conn.request()) is not None:
            await conn.send(ok(b"%d" % len(request.body)))

    scene = await toy(script)
    client = await scene.client()
    size = 50_000
    client.writer.write(b"1 POST demo.local / %d\n1 body %b\n" % (size, b"78" * size))
    assert (await client.answer(1)).body == b"%d" % size
    client.say(2, "GET", "demo.local", "/", 0)
    assert (await client.answer(2)).body == b"0"
    assert [len(request.body) for request in scene.endpoint.requests] == [size, 0]


async def test_an_endpoint_that_takes_a_body_slowly(toy: StartToy) -> None:
    """The stream is told to wait, and to go on."""

    async def script(conn: EndpointConnection) -> None:
        await conn.head()
        async with asyncio.timeout(TIMEOUT):
            await scene.held.wait()
        total = 0
        while piece := await conn.body_some():
            total += len(piece)
        await conn.send(ok(b"%d" % total))

    scene = await toy(script)
    client = await scene.client()
    size = 8_000_000
    client.say(1, "POST", "demo.local", "/", size)
    for _ in range(16):
        client.say(1, "body", (b"x" * (size // 16)).hex())
    assert (await client.answer(1)).body == b"%d" % size


async def test_replies_of_our_own(toy: StartToy) -> None:
    scene = await toy(echo)
    client = await scene.client()
    client.say(1, "GET", "other.local", "/", 0)
    client.say(2, "CONNECT", "demo.local", "/", 0)
    client.say(3, "nonsense")
    client.say(4, "HEAD", "other.local", "/", 0)
    assert (await client.answer(1)).status == 404
    assert b"no service is published" in (await client.answer(1)).body
    assert (await client.answer(2)).status == 405
    assert (await client.answer(3)).body == b"four words make a request\n"
    assert ((await client.answer(4)).status, client.answers["4"].body) == (404, b"")
    refused = [Outcome.BAD_REQUEST] * 2
    assert await scene.outcomes(4) == [Outcome.NO_ROUTE, *refused, Outcome.NO_ROUTE]
    client.say(5, "GET", "demo.local", "/still", 0)
    assert (await client.answer(5)).body == b"/still "


async def test_two_streams_at_once(toy: StartToy) -> None:
    """The second answer comes before the first, and while that is on its way."""
    go_on = asyncio.Event()

    async def script(conn: EndpointConnection) -> None:
        while (request := await conn.request()) is not None:
            if request.target == b"/slow":
                await conn.send(respond("200 OK", ("Content-Length", "10"), body=b"first"))
                await go_on.wait()
                await conn.send(b"later")
            else:
                await conn.send(ok(request.target))

    scene = await toy(script)
    client = await scene.client()
    client.say(1, "GET", "demo.local", "/slow", 0)
    while not (await client.line()).body:
        pass
    for number in range(2, 6):
        client.say(number, "GET", "demo.local", f"/{number}", 0)
    for number in range(2, 6):
        assert (await client.answer(number)).body == b"/%d" % number
    assert client.answers["1"].body == b"first"
    go_on.set()
    assert (await client.answer(1)).body == b"firstlater"
    assert client.order[-1] == "1"


async def test_a_reset_in_mid_response_is_of_one_stream(toy: StartToy) -> None:
    async def script(conn: EndpointConnection) -> None:
        while (request := await conn.request()) is not None:
            if request.target == b"/cut":
                await conn.send(respond("200 OK", ("Content-Length", "10"), body=b"half"))
                return
            await conn.send(ok(request.target))

    scene = await toy(script)
    client = await scene.client()
    client.say(1, "GET", "demo.local", "/cut", 0)
    answer = await client.answer(1)
    assert (answer.status, answer.body, answer.ended) == (200, b"half", "reset")
    client.say(2, "GET", "demo.local", "/whole", 0)
    assert (await client.answer(2)).body == b"/whole"
    assert await scene.outcomes(2) == [Outcome.UPSTREAM_CLOSED, Outcome.COMPLETE]


async def test_a_slow_client_holds_the_endpoint_back(toy: StartToy) -> None:
    """Until it reads again; then it gets all of it. The line buffer of the client is small, and
    nothing is read until the endpoint cannot send on."""
    size = 24_000_000

    async def script(conn: EndpointConnection) -> None:
        await conn.request()
        await conn.send(respond("200 OK", ("Content-Length", str(size))))
        await conn.send(b"x" * size)
        conn.tell("all is sent")

    scene = await toy(script)
    client = await scene.client()
    client.say(1, "GET", "demo.local", "/", 0)
    async with asyncio.timeout(TIMEOUT):
        await scene.slow.wait()
    assert not scene.ready.is_set()
    assert len((await client.answer(1)).body) == size
    assert scene.ready.is_set()
    assert await scene.endpoint.told() == "all is sent"


async def test_the_client_is_lost(toy: StartToy) -> None:
    """Each of its streams ends, and their endpoint connections are closed."""

    async def script(conn: EndpointConnection) -> None:
        await conn.request()
        conn.tell("asked")
        assert await conn.eof() in {"eof", "reset"}
        conn.tell("left alone")

    scene = await toy(script)
    client = await scene.client()
    for number in range(3):
        client.say(number, "GET", "demo.local", "/", 0)
    peer = scene.endpoint
    assert [await peer.told() for _ in range(3)] == ["asked"] * 3
    client.writer.close()
    assert await scene.outcomes(3) == [Outcome.CLIENT_GONE] * 3
    assert [await peer.told() for _ in range(3)] == ["left alone"] * 3
