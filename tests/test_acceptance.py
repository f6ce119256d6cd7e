"""What the product promises, on the real program and real sockets.

One class for each promise. The proxy runs as ``python -m stickyproxy serve`` (or ``demo``) in a
process of its own; where ten thousand clients ask, the endpoints are small ones in this process.
"""

from __future__ import annotations

import asyncio
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.cookiejar import CookieJar
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self, cast
from urllib.request import Request

import pytest

from stickyproxy.demo.app import DemoOptions, DemoReplica
from tests.cli.test_main import READY, Program, StartProgram, document, instance, programs, service
from tests.scripted import RawClient, Response, get

TIMEOUT = 30.0
"""Seconds that the slowest step may take; far more than it needs."""


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


# --- those who ask -------------------------------------------------------------------------------


class Browser:
    """Asks with a cookie jar, each time on a new connection, as ``curl -c jar -b jar`` does."""

    def __init__(self, host: str = "demo.local") -> None:
        self.host = host
        self._jar = CookieJar()

    async def ask(self, port: int, path: str = "/ping", **headers: str) -> Response:
        """GET; headers are sent as they are."""
        request = Request(f"http://{self.host}:{port}{path}")
        self._jar.add_cookie_header(request)
        if (cookie := request.get_header("Cookie")) is not None:
            headers["Cookie"] = cookie
        async with await RawClient.connect(port) as connection:
            await connection.send(get(path, self.host, **headers))
            response = await connection.response()
        self._jar.extract_cookies(_Headers(response), request)  # type: ignore[arg-type]
        return response


class _Headers:
    """As much of a response as a cookie jar looks at."""

    def __init__(self, response: Response) -> None:
        self._message = Message()
        for name, value in response.headers:
            self._message.add_header(name.decode(), value.decode())

    def info(self) -> Message:
        return self._message


def address(response: Response) -> str:
    """The one endpoint that answered, at the first attempt."""
    assert response.status == 200, response
    found = (response.header("x-upstream-addr") or b"").decode()
    assert re.fullmatch(r"127\.0\.0\.1:\d+", found), response.head
    return found


@dataclass(slots=True)
class Answer:
    """What is looked at when there are many."""

    status: int
    address: str
    """Of the endpoint that answered; the last one if several were tried."""
    cookies: dict[str, str]
    """Those that it sets."""


class Connection:
    """A keep-alive connection that asks one thing after the other, cheaply."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes) -> Answer:
        """Send the request, and read its answer."""
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"(?i)\r\ncontent-length: (\d+)\r\n", head)
        assert length is not None, head
        await self._reader.readexactly(int(length[1]))
        upstream = re.search(r"\r\nx-upstream-addr: (?:\S+, )*(\S+)\r\n", head)
        cookies = re.findall(r"(?i)\r\nset-cookie: ([^=]+)=([^;\r]*)", head)
        return Answer(int(head[9:12]), upstream[1] if upstream else "", dict(cookies))

    async def close(self) -> None:
        """Disconnect."""
        self._writer.close()
        await self._writer.wait_closed()


@asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[Connection]]:
    """That many connections."""
    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(count):
            connections.append(await Connection.open(port))
            stack.push_async_callback(connections[-1].close)
        yield connections


async def ask_all(connections: Sequence[Connection], requests: Sequence[bytes]) -> list[Answer]:
    """The answers to all these requests, in their order."""
    answers: dict[int, Answer] = {}
    waiting = iter(enumerate(requests))

    async def work(connection: Connection) -> None:
        for number, request in waiting:
            answers[number] = await connection.ask(request)

    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*map(work, connections))
    return [answers[number] for number in range(len(requests))]


@dataclass(slots=True)
class Session:
    """One client's cookies; all are for the whole site and none is deleted."""

    cookies: dict[str, str] = field(default_factory=dict)

    def request(self) -> bytes:
        """A GET with them."""
        if not self.cookies:
            return get("/ping")
        return get("/ping", Cookie="; ".join(map("=".join, self.cookies.items())))


async def visit(connections: Sequence[Connection], sessions: Sequence[Session]) -> list[Answer]:
    """Each session asks once and keeps the cookies it gets; everybody is answered."""
    answers = await ask_all(connections, [session.request() for session in sessions])
    for session, answer in zip(sessions, answers, strict=True):
        assert answer.status == 200
        session.cookies |= answer.cookies
    return answers


def addresses(answers: Sequence[Answer]) -> list[str]:
    """Who answered."""
    return [answer.address for answer in answers]


# --- those who answer ----------------------------------------------------------------------------


class SmallApp:
    """Answers as the demo app does, at a tenth of its price: it starts a session for who has none,
    and sends back the session of who has one. Or it has no sessions at all."""

    def __init__(self, *, sets_cookie: bool) -> None:
        self.address = ""
        self._sets_cookie = sets_cookie
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Transport] = set()

    async def start(self) -> None:
        """Listen; a second time on the same port."""
        port = int(self.address.rpartition(":")[2] or 0)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _SmallConnection(self), "127.0.0.1", port)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Refuse connections, and close those there are."""
        if self._server is not None:
            self._server.close()
            for connection in tuple(self._connections):
                connection.abort()
            await self._server.wait_closed()
            self._server = None

    def answer(self, head: bytes) -> bytes:
        """The response to a request with this head."""
        fields = b""
        if self._sets_cookie:
            found = re.search(rb"\r\nCookie:(?:.*;)? session=([^;\r]*)", head)
            if found is None:
                session = b"%d; Path=/; Max-Age=86400" % random.getrandbits(60)
            else:
                session = found[1]
            fields = b"Set-Cookie: session=" + session + b"\r\n"
        return b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 2\r\n\r\nok"


class _SmallConnection(asyncio.Protocol):
    def __init__(self, app: SmallApp) -> None:
        self._app = app
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._app._connections.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._app._connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        *heads, self._received = (self._received + data).split(b"\r\n\r\n")
        for head in heads:
            self._transport.write(self._app.answer(head))


@asynccontextmanager
async def small_apps(count: int, *, sets_cookie: bool) -> AsyncIterator[list[SmallApp]]:
    """That many, listening."""
    apps = [SmallApp(sets_cookie=sets_cookie) for _ in range(count)]
    try:
        for app in apps:
            await app.start()
        yield apps
    finally:
        for app in apps:
            await app.stop()


@asynccontextmanager
async def demo_replicas(count: int, *, sets_cookie: bool = True) -> AsyncIterator[list[str]]:
    """The addresses of that many replicas of the demo app."""
    async with AsyncExitStack() as stack:
        replicas = []
        for number in range(count):
            options = DemoOptions(instance=f"demo-{number}", sets_cookie=sets_cookie)
            replicas.append(await DemoReplica.start(options))
            stack.push_async_callback(replicas[-1].stop)
        yield [replica.address for replica in replicas]


class Proxy:
    """``stickyproxy serve`` for one service, whose endpoints may change."""

    def __init__(self, config: Path, *keys: str, proxy: Sequence[str] = ()) -> None:
        """``keys``: lines for the service's table. ``proxy``: for the table of that name."""
        self.port = 0
        self._config = config
        self._keys = keys
        self._proxy = proxy
        self._program: Program | None = None

    async def start(self, start: StartProgram, apps: Sequence[SmallApp]) -> None:
        """In front of these."""
        self._write(apps)
        self._program = await start("serve", "--config", self._config)
        self.port = await self._program.listening()

    async def change(self, apps: Sequence[SmallApp]) -> None:
        """In front of these from now on."""
        assert self._program is not None
        self._write(apps)
        self._program.signal(signal.SIGHUP)
        await self._program.err.says("configuration reloaded: 1 services")

    def _write(self, apps: Sequence[SmallApp]) -> None:
        text = document(
            service("demo", [app.address for app in apps], *self._keys), proxy=self._proxy
        )
        written = self._config.with_suffix(".new")
        written.write_text(text)
        written.replace(self._config)


# --- the promises --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--no-cookie"]], ids=["its own cookie", "no cookie"])
class TestFirstAnswerPins:
    """1. With a cookie jar twenty requests have one ``x-upstream-addr``, the first one included;
    without a jar all five replicas take turns."""

    async def test_of_the_demo(self, start: StartProgram, options: list[str]) -> None:
        program = await start("demo", "--port", "0", *options)
        port = int((await program.out.says(READY))[1])
        for _ in range(3):
            browser = Browser()
            answers = [await browser.ask(port) for _ in range(20)]
            assert len({address(answer) for answer in answers}) == 1
            assert len({instance(answer) for answer in answers}) == 1
        strangers = [await Browser().ask(port) for _ in range(10)]
        assert Counter(map(instance, strangers)) == {f"demo-{n}": 2 for n in range(1, 6)}
        assert len({address(answer) for answer in strangers}) == 5
        await program.stop()


class TestProxiesAgree:
    """2. Every process with the same configuration sends a session to the same endpoint, before
    and after any of them restarts."""

    async def test_before_and_after_restarts(self, start: StartProgram, tmp_path: Path) -> None:
        config = tmp_path / "config.toml"
        async with (
            demo_replicas(5) as with_cookie,
            demo_replicas(5, sets_cookie=False) as without,
        ):
            sticky = 'sticky_session_cookie = "session"'
            config.write_text(
                document(service("with", with_cookie, sticky), service("without", without, sticky))
            )
            browsers = [Browser(host) for host in ("with.local", "without.local") * 10]
            running = [await start("serve", "--config", config) for _ in range(2)]
            ports = [await program.listening() for program in running]
            # Ten sessions of each app, half of them begun at either proxy.
            pinned = [
                address(await browser.ask(ports[number // 2 % 2]))
                for number, browser in enumerate(browsers)
            ]
            assert len(set(pinned)) > 5  # each worker has a turn of its own

            async def everywhere() -> None:
                for port in ports:
                    assert [address(await browser.ask(port)) for browser in browsers] == pinned

            await everywhere()
            for number, program in enumerate(running):
                await program.stop()
                again = await start("serve", "--config", config)
                ports[number] = await again.listening()
                await everywhere()


SESSIONS = 10_000


class TestSessionsStay:
    """3. Scaling up moves no session. An endpoint that goes moves only its own, and each of them
    is answered and pinned anew in that same response. When it comes back nobody moves again."""

    @pytest.mark.parametrize(
        ("sets_cookie", "leaves", "count"),
        [
            pytest.param(True, "the configuration", SESSIONS, id="its own cookie-removed"),
            pytest.param(False, "the configuration", SESSIONS, id="no cookie-removed"),
            pytest.param(True, "the network", 1000, id="its own cookie-refusing"),
            pytest.param(False, "the network", 1000, id="no cookie-refusing"),
        ],
    )
    async def test_scaling(
        self, start: StartProgram, tmp_path: Path, sets_cookie: bool, leaves: str, count: int
    ) -> None:
        proxy = Proxy(tmp_path / "config.toml", 'sticky_session_cookie = "session"')
        async with small_apps(10, sets_cookie=sets_cookie) as apps:
            await proxy.start(start, apps[:5])
            async with connected(proxy.port, 16) as connections:
                sessions = [Session() for _ in range(count)]
                first = addresses(await visit(connections, sessions))
                assert Counter(first) == {app.address: count // 5 for app in apps[:5]}

                await proxy.change(apps)
                assert addresses(await visit(connections, sessions)) == first

                gone = apps[2]
                if leaves == "the configuration":
                    await proxy.change([app for app in apps if app is not gone])
                else:
                    await gone.stop()
                answers = await visit(connections, sessions)
                for before, answer in zip(first, answers, strict=True):
                    if before == gone.address:
                        assert answer.address != gone.address
                        pin = "session_lb" if sets_cookie else "session"
                        assert pin in answer.cookies
                    else:
                        assert answer.address == before
                        assert set(answer.cookies) <= {"session"}  # the app's own

                if leaves == "the configuration":
                    await proxy.change(apps)
                else:
                    await gone.start()
                assert addresses(await visit(connections, sessions)) == addresses(answers)


class TestAddressesStay:
    """4. With ip_hash, 5 to 6 endpoints moves at most a fifth of the addresses, and 6 to 5 only
    those of the one that left."""

    async def test_scaling(self, start: StartProgram, tmp_path: Path) -> None:
        numbers = random.Random(4).sample(range(1 << 24, 224 << 24), SESSIONS)
        requests = [get(X_Forwarded_For=str(IPv4Address(number))) for number in numbers]
        proxy = Proxy(
            tmp_path / "config.toml", "ip_hash = true", proxy=['trusted_proxies = ["127.0.0.1"]']
        )
        async with small_apps(6, sets_cookie=False) as apps:
            await proxy.start(start, apps[:5])
            async with connected(proxy.port, 16) as connections:
                five = addresses(await ask_all(connections, requests))
                await proxy.change(apps)
                six = addresses(await ask_all(connections, requests))
                left = apps[1].address
                await proxy.change([app for app in apps if app.address != left])
                five_again = addresses(await ask_all(connections, requests))
        assert set(five) == {app.address for app in apps[:5]}
        moved = [new for old, new in zip(five, six, strict=True) if new != old]
        assert 0 < len(moved) <= SESSIONS // 5
        assert set(moved) == {apps[5].address}, "the newcomer gets them, and nobody else any"
        for old, new in zip(six, five_again, strict=True):
            assert new != left
            assert old in (new, left)


GENERATED = r'session="[0-9a-f]{16}"; Max-Age=60; HttpOnly'


class TestConsistentHash:
    """5. A generated cookie is exact, comes once and pins from the first request on; a header, a
    query parameter and the source address do as well."""

    async def test_of_everything(self, start: StartProgram, tmp_path: Path) -> None:
        config = tmp_path / "config.toml"
        ttl = 'hash_cookie_ttl = "60s"'
        async with (
            demo_replicas(5) as with_cookie,
            demo_replicas(5, sets_cookie=False) as without,
        ):
            config.write_text(
                document(
                    service("shared", with_cookie, 'hash_cookie = "session"', ttl),
                    service("ours", without, 'hash_cookie = "session"', ttl),
                    service(
                        "path", without, 'hash_cookie = "session"', ttl, 'hash_cookie_path = "/pi"'
                    ),
                    service("header", without, 'hash_header = "X-User"'),
                    service("query", without, 'hash_query = "user"'),
                    service("source", without, "hash_source_ip = true"),
                )
            )
            program = await start("serve", "--config", config)
            port = await program.listening()
            await self.cookie(port, "ours.local", GENERATED)
            await self.cookie(port, "path.local", GENERATED.replace("; Http", "; Path=/pi; Http"))
            await self.cookie_of_an_app_with_its_own(port)
            await self.key(lambda n: asked(port, get("/ping", "header.local", X_User=f"user-{n}")))
            await self.key(lambda n: asked(port, get(f"/ping?a=b&user={n}", "query.local")))
            await self.key(lambda n: asked(port, get("/ping", "source.local"), f"127.0.1.{n + 1}"))
            await program.stop()

    async def cookie(self, port: int, host: str, expected: str) -> None:
        """It is the only one, and is not sent again."""
        seen = set()
        for _ in range(8):
            # Where its Path is not the request's, a jar would keep it for later.
            browser = Browser(host)
            first = await browser.ask(port)
            [cookie] = first.values("set-cookie")
            assert re.fullmatch(expected, cookie.decode())
            pair = cookie.decode().partition(";")[0]
            for _ in range(19):
                again = await asked(port, get("/ping", host, Cookie=pair))
                assert address(again) == address(first)
                assert not again.values("set-cookie")
            if "Path" not in expected:
                for _ in range(19):
                    again = await browser.ask(port)
                    assert address(again) == address(first)
                    assert not again.values("set-cookie")
            seen.add(address(first))
        assert len(seen) > 1

    async def cookie_of_an_app_with_its_own(self, port: int) -> None:
        """Ours comes last: it is the one that the jar keeps and the app gets to see."""
        browser = Browser("shared.local")
        first = await browser.ask(port)
        theirs, ours = (value.decode() for value in first.values("set-cookie"))
        assert re.fullmatch(r"session=\d+; Path=/; Max-Age=86400", theirs)
        assert re.fullmatch(GENERATED, ours)
        for _ in range(19):
            again = await browser.ask(port)
            assert address(again) == address(first)
            assert again.values("set-cookie") == [ours.partition(";")[0].encode()]

    async def key(self, ask: Callable[[int], Awaitable[Response]]) -> None:
        """Twenty requests with each of 20 keys: one endpoint a key, and not one for all."""
        by_key = [{address(await ask(key)) for _ in range(20)} for key in range(20)]
        assert all(len(reached) == 1 for reached in by_key)
        assert len(set.union(*by_key)) > 1


async def asked(port: int, request: bytes, local: str | None = None) -> Response:
    """The answer on a connection of its own, from that local address."""
    async with await RawClient.connect(port, local=local) as connection:
        await connection.send(request)
        return await connection.response()


class Load:
    """Users who ask and ask, each on a connection of its own; every other one keeps cookies."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self.connections = connections
        self.answers = 0
        self._sessions = [Session() for _ in connections]
        self._news = asyncio.Event()

    async def run(self, times: int) -> set[str]:
        """Everybody asks so many times and is answered; returns by whom."""
        async with asyncio.timeout(TIMEOUT):
            reached = await asyncio.gather(
                *(self._use(number, times) for number in range(len(self.connections)))
            )
        return set().union(*reached)

    async def reach(self, answers: int) -> None:
        """Wait until there have been so many."""
        async with asyncio.timeout(TIMEOUT):
            while self.answers < answers:
                self._news.clear()
                await self._news.wait()

    async def _use(self, number: int, times: int) -> set[str]:
        connection, session = self.connections[number], self._sessions[number]
        reached = set()
        for _ in range(times):
            answer = await connection.ask(session.request())
            assert answer.status == 200, f"{answer} after {self.answers} good ones"
            reached.add(answer.address)
            if number % 2:
                session.cookies |= answer.cookies
            self.answers += 1
            self._news.set()
        return reached


class TestNothingIsLost:
    """6. Endpoints are stopped and started one at a time, five times, while 64 connections ask:
    every GET is answered 200."""

    async def test_restarts_under_load(self, start: StartProgram, tmp_path: Path) -> None:
        async def replica(listen: str = "127.0.0.1:0") -> tuple[Program, str]:
            program = await start("demo-app", "--listen", listen)
            ready = await program.out.says(r"is ready on http://(127\.0\.0\.1:\d+)$")
            return program, ready[1]

        replicas = await asyncio.gather(*(replica() for _ in range(5)))
        endpoints = [listens for _, listens in replicas]
        config = tmp_path / "config.toml"
        config.write_text(document(service("demo", endpoints, 'sticky_session_cookie = "session"')))
        proxy = await start("serve", "--config", config)
        async with connected(await proxy.listening(), 64) as connections:
            load = Load(connections)
            assert await load.run(4) == set(endpoints)
            ends = (signal.SIGKILL, signal.SIGTERM) * 3
            for (program, listens), how in zip(replicas, ends, strict=False):
                asking = asyncio.create_task(load.run(16))
                await load.reach(load.answers + 200)
                program.signal(how)
                await program.ended()
                await asking
                again = asyncio.create_task(replica(listens))
                while not again.done():
                    await load.run(1)
                    # A pace that leaves the replica the processor it needs to start.
                    await asyncio.wait((again,), timeout=0.05)
                await again
                async with asyncio.timeout(60):  # a probe finds it, and it has its turn again
                    while listens not in await load.run(4):
                        pass
        await proxy.stop()
