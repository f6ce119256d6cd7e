"""Connections whose TLS is the endpoint's: bytes pass as they are, and so do ends and resets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from stickyproxy.base.addresses import Address
from stickyproxy.dataplane.outcome import Outcome
from stickyproxy.dataplane.passthrough import Passage
from stickyproxy.dataplane.turns import MUCH
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.settings import AccessLogSettings
from stickyproxy.model.tls import ListenerTls
from tests.certificates import client_context, make_ca, make_certificate, write_pem
from tests.hellos import hello_of, records
from tests.passing import ALERT, HELLO, Serve, reset, serving
from tests.running import InProcessProxy
from tests.specs import service_spec

CLEAR_HOST = "127.0.0.2"
"""Where there is no TLS."""


def passed(*ports: int, **fields: Any) -> ServiceSpec:
    """The service ``demo``, passed through to these ports of 127.0.0.1."""
    endpoints = tuple(EndpointSpec(str(port), f"127.0.0.1:{port}") for port in ports)
    declared: dict[str, Any] = {"name": "demo", "hosts": ("demo.local",), "ssl_passthrough": True}
    return service_spec(**declared | {"endpoints": endpoints} | fields)


class Passing:
    """A proxy that passes through, and how each connection ended."""

    def __init__(self, proxy: InProcessProxy) -> None:
        self.proxy = proxy
        self.port, self.clear_port = proxy.ports
        self.passthrough = proxy.app.passthrough
        self.ended: asyncio.Queue[Passage] = asyncio.Queue()
        self.logged = self.passthrough.finished
        self.passthrough.finished = self.ended.put_nowait

    async def connect(
        self, context: ssl.SSLContext | None = None, local: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client's connection; with ``context`` it speaks TLS with the endpoint."""
        name = "demo.local" if context else None
        source = (local, 0) if local else None
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context, server_hostname=name, local_addr=source
        )

    async def outcome(self) -> Outcome | None:
        """How the next connection to end did."""
        async with asyncio.timeout(20):
            return (await self.ended.get()).outcome


class Start:
    """What the fixture ``passing`` is."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def endpoint(self, serve: Serve, context: ssl.SSLContext | None = None) -> int:
        """The port of an endpoint."""
        return await self._stack.enter_async_context(serving(serve, context))

    def closed_port(self) -> int:
        """A port that is taken, but nobody listens on it."""
        sock = self._stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port

    async def proxy(
        self, *services: ServiceSpec, proxy_protocol: bool = False, **settings: Any
    ) -> Passing:
        """A proxy for these services."""
        listeners = (
            ListenerSpec(Address("127.0.0.1", 0), tls=ListenerTls(), proxy_protocol=proxy_protocol),
            ListenerSpec(Address(CLEAR_HOST, 0)),
        )
        proxy = InProcessProxy(services, listeners=listeners, **settings)
        await proxy.start()
        self._stack.push_async_callback(proxy.stop)
        return Passing(proxy)


class Authority:
    """A CA, the certificate that it has issued, and contexts for both ends."""

    def __init__(self, directory: Path) -> None:
        ca = make_ca()
        self.certificate = make_certificate(["demo.local"], ca)
        self.default = make_certificate(["any.local"], ca, default=True)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(write_pem(self.certificate, directory))
        self.client = client_context(ca)
        self.file = directory / "ca.pem"
        self.file.write_text(ca.pem)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:
        yield Start(stack)


ASK = b"your turn"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


def saying(word: bytes) -> Serve:
    """When it is asked to."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(ASK)
            writer.write(word)
            await writer.drain()

    return say


async def whole(reader: asyncio.StreamReader) -> bytes:
    return await reader.read(-1)


class TestTls:
    async def test_the_certificate_is_the_endpoints(
        self, start: Start, authority: Authority
    ) -> None:
        port = await start.endpoint(saying(b"hello\n"), authority.server)
        passing = await start.proxy(passed(port))
        reader, writer = await passing.connect(authority.client)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert ssl.DER_cert_to_PEM_cert(shown).strip() == authority.certificate.chain.strip()
        writer.write(ASK)
        assert await reader.readline() == b"hello\n"
        writer.close()
        assert await passing.outcome() is Outcome.PASSED

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_much_both_ways(
        self, start: Start, authority: Authority, version: ssl.TLSVersion
    ) -> None:
        port = await start.endpoint(echo, authority.server)
        passing = await start.proxy(passed(port))
        context = authority.client
        context.maximum_version = version
        reader, writer = await passing.connect(context)
        sent = os.urandom(1 << 23)

        async def send() -> None:
            for at in range(0, len(sent), 1 << 16):
                writer.write(sent[at : at + (1 << 16)])
                await writer.drain()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            received = await reader.readexactly(len(sent))
        assert received == sent
        writer.close()
        assert await passing.outcome() is Outcome.PASSED

    async def test_a_session_of_tls_1_2_is_resumed(
        self, start: Start, authority: Authority, tmp_path: Path
    ) -> None:
        """Each endpoint knows only its own sessions: a client comes back to the same one."""
        others = [Authority(tmp_path) for _ in range(3)]
        ports = [await start.endpoint(echo, each.server) for each in others]
        passing = await start.proxy(passed(*ports))
        context = client_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_TICKET

        def resumed(local: str) -> bool:
            session = None
            for _ in range(2):
                sock = socket.create_connection(("127.0.0.1", passing.port), 20, (local, 0))
                connection = context.wrap_socket(
                    sock, server_hostname="demo.local", session=session
                )
                session, reused = connection.session, connection.session_reused
                connection.unwrap().close()  # otherwise the session is not kept
            return bool(reused)

        assert all([await asyncio.to_thread(resumed, f"127.0.0.{n}") for n in range(2, 12)])

    async def test_curl(self, start: Start, authority: Authority) -> None:
        async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
            await writer.drain()

        port = await start.endpoint(http, authority.server)
        passing = await start.proxy(passed(port))
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--cacert", authority.file),
            *("--resolve", f"demo.local:{passing.port}:127.0.0.1"),
            f"https://demo.local:{passing.port}/",
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await curl.communicate()
        assert (curl.returncode, out) == (0, b"hi")


class TestEnds:
    async def test_the_client_has_said_all(self, start: Start) -> None:
        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"%d" % len(await whole(reader)))

        passing = await start.proxy(passed(await start.endpoint(count)))
        reader, writer = await passing.connect()
        writer.write(HELLO + bytes(1 << 20))
        writer.write_eof()
        assert await whole(reader) == b"%d" % (len(HELLO) + (1 << 20))
        writer.close()
        assert await passing.outcome() is Outcome.PASSED

    async def test_the_endpoint_has_said_all(self, start: Start) -> None:
        received: asyncio.Queue[bytes] = asyncio.Queue()

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(len(HELLO))
            writer.write(b"bye")
            writer.write_eof()
            received.put_nowait(await whole(reader))

        passing = await start.proxy(passed(await start.endpoint(greet)))
        reader, writer = await passing.connect()
        writer.write(HELLO)
        assert await whole(reader) == b"bye"
        writer.write(b"wait")
        writer.write_eof()
        assert await received.get() == b"wait"
        writer.close()
        assert await passing.outcome() is Outcome.PASSED

    async def test_an_endpoint_that_dies_resets_the_client(self, start: Start) -> None:
        async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(len(HELLO))
            writer.write(b"half of ")
            await writer.drain()
            await reader.readexactly(1)
            reset(writer)

        passing = await start.proxy(passed(await start.endpoint(die)))
        reader, writer = await passing.connect()
        writer.write(HELLO)
        assert await reader.readexactly(8) == b"half of "
        writer.write(b"!")
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        assert await passing.outcome() is Outcome.UPSTREAM_CLOSED

    async def test_a_client_that_dies_resets_the_endpoint(self, start: Start) -> None:
        seen: asyncio.Queue[type[BaseException] | None] = asyncio.Queue()

        async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(len(HELLO))
            writer.write(b"!")
            try:
                await reader.read(1)
            except ConnectionResetError as error:
                seen.put_nowait(type(error))
            else:
                seen.put_nowait(None)

        passing = await start.proxy(passed(await start.endpoint(watch)))
        reader, writer = await passing.connect()
        writer.write(HELLO)
        await reader.readexactly(1)
        reset(writer)
        assert await seen.get() is ConnectionResetError
        assert await passing.outcome() is Outcome.CLIENT_GONE

    async def test_what_is_left_arrives_although_the_endpoint_is_gone(self, start: Start) -> None:
        """It has said all, and is gone when a client that is slow to read says something more: the
        answer to that is a reset."""
        ended = asyncio.Event()

        async def say_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(len(HELLO))
            writer.write(bytes(60_000))
            writer.close()
            await writer.wait_closed()
            ended.set()

        echoing = passed(await start.endpoint(echo), name="echo", hosts=("other.local",))
        passing = await start.proxy(passed(await start.endpoint(say_all)), echoing)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", passing.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(HELLO)
        await ended.wait()
        # What came before this has been taken by the proxy, too.
        other = await passing.connect()
        hello = hello_of(ssl.create_default_context(), "other.local")
        other[1].write(hello)
        assert await other[0].readexactly(len(hello)) == hello
        writer.write(b"one more thing")
        other[1].write(b"!")
        assert await other[0].readexactly(1) == b"!"
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await whole(reader) == bytes(60_000)
        writer.close()
        assert await passing.outcome() is Outcome.PASSED
        other[1].close()


class TestSilence:
    @pytest.mark.parametrize(
        ("settings", "outcome"),
        [
            ({"upgrade_idle_timeout": 0.1}, Outcome.IDLE_TIMEOUT),
            ({"upgrade_idle_timeout": None}, None),
        ],
    )
    async def test_of_both(
        self, start: Start, settings: dict[str, Any], outcome: Outcome | None
    ) -> None:
        passing = await start.proxy(passed(await start.endpoint(echo)), **settings)
        reader, writer = await passing.connect()
        writer.write(HELLO)
        await reader.readexactly(len(HELLO))
        if outcome is None:
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
            writer.close()
        else:
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            assert await passing.outcome() is outcome

    async def test_of_a_client_after_its_endpoint_has_ended(self, start: Start) -> None:
        passing = await start.proxy(
            passed(await start.endpoint(saying(b"bye"))), client_timeout=0.1
        )
        reader, writer = await passing.connect()
        writer.write(HELLO + ASK)
        assert await reader.readexactly(3) == b"bye"
        assert await passing.outcome() is Outcome.CLIENT_STALLED
        writer.close()

    async def test_of_an_endpoint_after_its_client_has_ended(self, start: Start) -> None:
        async def dumb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await whole(reader)
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                return

        tasks: set[asyncio.Task[None]] = set()

        async def remembered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(dumb(reader, writer))
            tasks.add(task)
            await task

        passing = await start.proxy(passed(await start.endpoint(remembered)), response_timeout=0.1)
        reader, writer = await passing.connect()
        writer.write(HELLO)
        writer.write_eof()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        assert await passing.outcome() is Outcome.IDLE_TIMEOUT
        for task in tasks:
            task.cancel()

    async def test_of_a_client_that_takes_nothing(self, start: Start) -> None:
        async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(len(HELLO))
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()

        passing = await start.proxy(passed(await start.endpoint(flood)), client_timeout=0.2)
        _, writer = await passing.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(HELLO)
        assert await passing.outcome() is Outcome.CLIENT_STALLED
        writer.close()


class TestWhereTo:
    async def test_a_client_keeps_its_endpoint_on_every_proxy(self, start: Start) -> None:
        ports = [await start.endpoint(saying(b"%d" % number)) for number in range(5)]
        first, second = [await start.proxy(passed(*ports)) for _ in range(2)]

        async def reached(passing: Passing, local: str) -> bytes:
            reader, writer = await passing.connect(local=local)
            writer.write(HELLO + ASK)
            word = await whole(reader)
            writer.close()
            return word

        clients = [f"127.0.0.{number}" for number in range(2, 22)]
        by_first = [await reached(first, local) for local in clients]
        assert by_first == [await reached(second, local) for local in clients]
        assert by_first == [await reached(first, local) for local in clients]
        assert len(set(by_first)) > 1

    async def test_the_client_is_who_a_trusted_proxy_says(self, start: Start) -> None:
        ports = [await start.endpoint(saying(b"%d" % number)) for number in range(5)]
        trusted = (ip_network("127.0.0.0/8"),)
        passing = await start.proxy(passed(*ports), trusted_proxies=trusted, proxy_protocol=True)

        async def reached(address: str) -> bytes:
            reader, writer = await passing.connect()
            header = f"PROXY TCP4 {address} 192.0.2.1 50000 443\r\n".encode()
            writer.write(header + HELLO + ASK)
            word = await whole(reader)
            writer.close()
            assert (await passing.ended.get()).client_address == address
            return word

        clients = [f"198.51.100.{number}" for number in range(20)]
        words = [await reached(address) for address in clients]
        assert words == [await reached(address) for address in clients]
        assert len(set(words)) > 1

    async def test_another_endpoint_if_one_takes_no_connections(self, start: Start) -> None:
        port = await start.endpoint(saying(b"here"))
        passing = await start.proxy(passed(port, *[start.closed_port() for _ in range(3)]))
        for number in range(2, 12):
            reader, writer = await passing.connect(local=f"127.0.0.{number}")
            writer.write(HELLO + ASK)
            assert await whole(reader) == b"here"
            writer.close()
            await passing.outcome()

    @pytest.mark.parametrize(
        ("count", "outcome"), [(0, Outcome.NO_ENDPOINT), (2, Outcome.RETRIES_SPENT)]
    )
    async def test_nobody_there(
        self, start: Start, count: int, outcome: Outcome, caplog: pytest.LogCaptureFixture
    ) -> None:
        passing = await start.proxy(passed(*[start.closed_port() for _ in range(count)]))
        for _ in range(3):
            reader, writer = await passing.connect()
            writer.write(HELLO)
            assert await whole(reader) == ALERT
            writer.close()
            assert await passing.outcome() is outcome
        assert 1 <= len([each for each in caplog.records if "service demo" in each.message]) < 3

    async def test_a_client_of_openssl_sees_the_alert(self, start: Start) -> None:
        passing = await start.proxy(passed())
        with pytest.raises(ssl.SSLError, match="INTERNAL_ERROR"):
            await passing.connect(ssl.create_default_context())

    async def test_a_change_of_services_leaves_connections_alone(self, start: Start) -> None:
        passing = await start.proxy(passed(await start.endpoint(echo)))
        reader, writer = await passing.connect()
        writer.write(HELLO)
        await reader.readexactly(len(HELLO))
        passing.proxy.set_services([])
        writer.write(b"still")
        assert await reader.readexactly(5) == b"still"
        writer.close()
        assert await passing.outcome() is Outcome.PASSED


class TestStopping:
    async def test_waits_for_connections(self, start: Start) -> None:
        passing = await start.proxy(passed(await start.endpoint(echo)), grace_period=30.0)
        reader, writer = await passing.connect()
        writer.write(HELLO)
        await reader.readexactly(len(HELLO))
        stopping = asyncio.create_task(passing.proxy.stop())
        writer.write(b"last words")
        writer.write_eof()
        assert await whole(reader) == b"last words"
        writer.close()
        await stopping
        assert await passing.outcome() is Outcome.PASSED

    async def test_cuts_them_after_the_grace_period(self, start: Start) -> None:
        passing = await start.proxy(passed(await start.endpoint(echo)), grace_period=0.1)
        reader, writer = await passing.connect()
        writer.write(HELLO)
        await reader.readexactly(len(HELLO))
        await passing.proxy.stop()
        assert len(passing.passthrough) == 0
        with pytest.raises(ConnectionResetError):
            await reader.read(1)

    async def test_sheds_only_what_its_endpoint_has_left(self, start: Start) -> None:
        def service(name: str, port: int) -> ServiceSpec:
            return passed(port, name=name, hosts=(f"{name}.local",))

        passing = await start.proxy(passed(await start.endpoint(saying(b"bye"))))
        reader, writer = await passing.connect()
        writer.write(HELLO)
        busy = await passing.connect()
        busy[1].write(HELLO + ASK)
        assert await busy[0].readexactly(3) == b"bye"
        assert await whole(busy[0]) == b""
        assert passing.passthrough.shed() == 1
        assert await passing.outcome() is Outcome.PASSED
        writer.write(ASK)
        assert await reader.readexactly(3) == b"bye"
        writer.close()
        busy[1].close()


def descriptors() -> int:
    """How many are open."""
    return len(os.listdir("/proc/self/fd"))


async def test_a_client_takes_a_share_of_a_turn(start: Start) -> None:
    """Who has much to say would be read on and on, and others would wait."""
    passing = await start.proxy(passed(await start.endpoint(echo)))
    reader, writer = await passing.connect()
    writer.write(HELLO)
    await reader.readexactly(len(HELLO))
    [passage] = passing.passthrough._passages
    transport = passage._transport
    assert transport is not None
    passage.data_received(bytes(MUCH + 1))
    assert not transport.is_reading()
    passage.pause_client()  # the endpoint is slow, too
    passage.resume_client()
    assert not transport.is_reading()
    await reader.readexactly(MUCH + 1)
    assert transport.is_reading()
    writer.close()


class TestLeavingNothing:
    async def leave(self, passing: Passing, stage: int) -> None:
        """A client that is gone at a stage: without having waited; without having read; with much
        under way to both sides; with its own side ended."""
        reader, writer = await passing.connect()
        writer.write(HELLO)
        if stage >= 1:
            await reader.readexactly(1)
        if stage >= 2:
            writer.write(bytes(300_000))
        if stage >= 3:
            writer.write_eof()
        reset(writer)

    @pytest.mark.parametrize("stage", range(4))
    async def test_clients_that_are_gone(self, start: Start, stage: int) -> None:
        passing = await start.proxy(passed(await start.endpoint(echo)), handshake_timeout=5.0)
        before = descriptors()
        tasks = asyncio.all_tasks()
        for _ in range(20):
            await self.leave(passing, stage)
        arrived = await passing.connect()  # whoever came before has been accepted, too
        arrived[1].write(HELLO)
        await arrived[0].readexactly(len(HELLO))
        arrived[1].close()
        async with asyncio.timeout(30):
            while len(passing.passthrough):
                await passing.ended.get()
            while descriptors() > before or asyncio.all_tasks() - tasks:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def test_a_hello_byte_by_byte(self, start: Start) -> None:
        """In records of one byte each, too."""
        passing = await start.proxy(passed(await start.endpoint(echo)))
        reader, writer = await passing.connect()
        hello = records(HELLO[5:], 1)
        for byte in hello:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert await reader.readexactly(len(hello)) == hello
        writer.close()
        assert await passing.outcome() is Outcome.PASSED


class TestRequests:
    """What comes to the host of a service that is passed through, but is not passed through."""

    @staticmethod
    async def asked(passing: Passing, *, tls: bool, host: str = "demo.local") -> bytes:
        """The response to a request, on a connection that begins with another server name."""
        if tls:
            context = client_context()
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", passing.port, ssl=context, server_hostname="other.local"
            )
        else:
            reader, writer = await asyncio.open_connection(CLEAR_HOST, passing.clear_port)
        writer.write(b"GET /a?b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host.encode())
        response = await whole(reader)
        writer.close()
        return response

    async def test_in_the_clear_clients_are_sent_to_tls(self, start: Start) -> None:
        passing = await start.proxy(passed(hosts=("demo.local", "*.demo.local")))
        for host in ("demo.local", "a.demo.local"):
            response = await self.asked(passing, tls=False, host=host)
            assert response.startswith(b"HTTP/1.1 308 ")
            location = f"Location: https://{host}:{passing.port}/a?b"
            assert location.encode() in response

    async def test_another_service_on_the_host_is_served_in_the_clear(self, start: Start) -> None:
        async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            await whole(reader)

        clear = passed(await start.endpoint(http), name="clear", ssl_passthrough=False)
        passing = await start.proxy(passed(), clear)
        assert (await self.asked(passing, tls=False)).endswith(b"hi")

    async def test_by_another_server_name(self, start: Start, authority: Authority) -> None:
        passing = await start.proxy(passed(), certificates=[authority.default])
        response = await self.asked(passing, tls=True)
        assert response.startswith(b"HTTP/1.1 421 ")
        assert b"passed through" in response

    async def test_other_server_names_end_here(self, start: Start, authority: Authority) -> None:
        passing = await start.proxy(passed(), certificates=[authority.default])
        response = await self.asked(passing, tls=True, host="other.local")
        assert response.startswith(b"HTTP/1.1 404 ")


class TestAccessLog:
    @pytest.mark.parametrize("log_format", ["text", "json"])
    async def test_line(self, start: Start, tmp_path: Path, log_format: str) -> None:
        path = tmp_path / "access.log"
        port = await start.endpoint(saying(b"hello"))
        log: Any = AccessLogSettings(log_format, str(path))  # type: ignore[arg-type]
        passing = await start.proxy(passed(port), access_log=log)
        passing.passthrough.finished = passing.logged
        reader, writer = await passing.connect()
        writer.write(HELLO + ASK)
        assert await whole(reader) == b"hello"
        writer.close()
        await passing.proxy.stop()
        line = path.read_text()
        if log_format == "json":
            found = json.loads(line)
            kept = {key: found[key] for key in found if key not in ("time", "seconds")}
            assert kept.pop("upstream_seconds")
            assert kept == {
                "affinity": "hashed",
                "bytes": 5,
                "client": "127.0.0.1",
                "host": "demo.local",
                "method": "",
                "outcome": "passed",
                "referer": "",
                "request_id": "-",
                "service": "demo",
                "status": 200,
                "target": "",
                "upstream_addr": f"127.0.0.1:{port}",
                "user_agent": "",
                "version": "",
            }
        else:
            assert '"-" 200 5 "-" "-" demo' in line
            assert f'"127.0.0.1:{port}"' in line
            assert line.endswith(" passed\n")
