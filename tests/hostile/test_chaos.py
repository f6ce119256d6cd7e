"""Peers that do anything in any order: what must hold whatever they do.

Every request ends once, nothing is logged as a bug, no client sees what is another's, and when all
are gone nothing of them is left. The order is that of a seed. By hand, for longer:

    python -m tests.hostile.test_chaos [SEED [REQUESTS]]
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import socket
import struct
import sys
from collections import Counter
from random import Random

import pytest
import uvloop

from stickyproxy.dataplane.downstream.http1 import ClientConnection
from stickyproxy.dataplane.downstream.stream import Http1Stream
from stickyproxy.dataplane.exchange import Exchange
from stickyproxy.dataplane.relay import Relay
from stickyproxy.dataplane.upstream.connection import UpstreamConnection
from stickyproxy.model.service import EndpointSpec
from tests.running import InProcessProxy
from tests.specs import service_spec

OURS = (Exchange, Relay, Http1Stream, ClientConnection, UpstreamConnection)
CLIENTS = 24
PATIENCE = 0.4
"""Seconds that a client waits for more before it does the next thing; a hung one is no failure
here, since half of them ask for what never comes."""
_MARK = re.compile(rb"<([0-9a-f]+)>")


class Chaos:
    """One run."""

    def __init__(self, seed: int, requests: int) -> None:
        self.random = Random(seed)
        self.left = requests
        self.begun: Counter[bytes] = Counter()
        self.ended: Counter[str] = Counter()
        self.faults: list[str] = []
        self.seen: set[bytes] = set()
        self.number = 0
        self.serving: list[asyncio.Task[None]] = []

    # --- what a run consists of ---

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.faults.append(repr(context)))
        handler = _Collector(self.faults)
        for name in ("stickyproxy", "asyncio"):
            logging.getLogger(name).addHandler(handler)
        servers = [await asyncio.start_server(self.accepted, "127.0.0.1", 0) for _ in range(3)]
        ports = [server.sockets[0].getsockname()[1] for server in servers]
        dead = socket.socket()
        dead.bind(("127.0.0.1", 0))
        ports.append(dead.getsockname()[1])
        specs = tuple(EndpointSpec(str(port), f"127.0.0.1:{port}") for port in ports)
        proxy = InProcessProxy(
            [
                service_spec("demo", ("demo.local",), specs),
                service_spec("sticky", ("sticky.local",), specs, sticky_session_cookie="session"),
            ],
            response_timeout=1.0,
            client_timeout=1.0,
            head_timeout=1.0,
            grace_period=2.0,
        )
        plane = proxy.app._plane
        plane.proxy.on_finish = self.finished
        await proxy.start()
        try:
            await asyncio.gather(*(self.client(proxy.port) for _ in range(CLIENTS)))
        finally:
            await proxy.stop()
            for server in servers:
                server.close()
            dead.close()
            for task in self.serving:
                task.cancel()
            await asyncio.gather(*self.serving, return_exceptions=True)
            for name in ("stickyproxy", "asyncio"):
                logging.getLogger(name).removeHandler(handler)

    def finished(self, exchange: Exchange) -> None:
        if exchange.id in self.seen:
            self.faults.append(f"{exchange.id!r} ended twice: {exchange.outcome}")
        self.seen.add(exchange.id)
        assert exchange.outcome is not None
        self.ended[exchange.outcome.value] += 1

    # --- clients ---

    async def client(self, port: int) -> None:
        random = self.random
        while self.left > 0:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
            try:
                await self.use(reader, writer)
            except (OSError, RuntimeError, asyncio.IncompleteReadError):
                pass
            finally:
                if random.random() < 0.3:
                    reset(writer)
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def use(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        random = self.random
        mine: set[bytes] = set()
        for _ in range(random.randrange(1, 6)):
            if writer.transport.is_closing():
                raise ConnectionResetError
            burst = []
            for _ in range(random.choice((1, 1, 1, 2, 8))):
                self.left -= 1
                self.number += 1
                mark = b"%x" % self.number
                mine.add(mark)
                burst.append(self.request(mark))
            data = b"".join(burst)
            cut = random.random() < 0.2
            if cut:
                data = data[: random.randrange(len(data) + 1)]
            await self.trickle(writer, data)
            what = random.random()
            if what < 0.1:
                return
            if writer.transport.is_closing():
                raise ConnectionResetError
            if what < 0.15:
                writer.write_eof()
            if what < 0.2:
                await asyncio.sleep(random.choice((0, 0.01, 0.05)))
            received = await self.take(reader)
            for mark in _MARK.findall(received):
                if mark not in mine:
                    self.faults.append(f"a client that sent {mine} got {mark!r}")
            if cut or reader.at_eof():
                return

    async def trickle(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        random = self.random
        for _ in range(random.choice((0, 0, 1, 3))):
            cut = random.randrange(len(data) + 1)
            writer.write(data[:cut])
            data = data[cut:]
            await asyncio.sleep(random.choice((0, 0, 0.002, 0.02)))
            if writer.transport.is_closing():
                raise ConnectionResetError
        writer.write(data)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(writer.drain(), PATIENCE)

    async def take(self, reader: asyncio.StreamReader) -> bytes:
        received = b""
        with contextlib.suppress(TimeoutError):
            while piece := await asyncio.wait_for(
                reader.read(65536), PATIENCE if not received else 0.03
            ):
                received += piece
                if self.random.random() < 0.02:
                    break
        return received

    def request(self, mark: bytes) -> bytes:
        random = self.random
        method = random.choice((b"GET", b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"DELETE"))
        host = random.choice((b"demo.local",) * 4 + (b"sticky.local",) * 4 + (b"unknown.local",))
        version = b"1.0" if random.random() < 0.1 else b"1.1"
        fields = [b"Host: " + host, b"X-Mark: " + mark]
        body = b""
        if method in (b"POST", b"PUT") or random.random() < 0.05:
            body = b"<" + mark + b">" + bytes(random.choice((0, 10, 5000, 100_000, 900_000)))
            if random.random() < 0.5:
                fields.append(b"Transfer-Encoding: chunked")
                body = chunks(random, body)
                if random.random() < 0.05:
                    body = body[:-3] + b"!" + body[-3:]
            else:
                fields.append(b"Content-Length: %d" % len(body))
            if random.random() < 0.2:
                fields.append(b"Expect: 100-continue")
        elif random.random() < 0.1:
            fields += [b"Connection: Upgrade", b"Upgrade: foo"]
        if random.random() < 0.1:
            fields.append(b"Connection: close")
        line = method + b" /" + mark + b" HTTP/" + version
        return b"\r\n".join((line, *fields, b"", b"")) + body

    # --- endpoints ---

    def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.append(asyncio.get_running_loop().create_task(self.endpoint(reader, writer)))

    async def endpoint(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        random = self.random
        try:
            if random.random() < 0.05:
                return
            while await self.answer(reader, writer):
                pass
        except (OSError, RuntimeError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            if random.random() < 0.3:
                reset(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; returns whether to go on."""
        random = self.random
        head = await reader.readuntil(b"\r\n\r\n")
        if not re.match(rb"[A-Z]+ /[0-9a-f]+ HTTP/1\.1\r\n", head):
            self.faults.append(f"an endpoint was sent {head[:200]!r}")
            return False
        mark = head.partition(b" /")[2].partition(b" ")[0]
        self.begun[mark] += 1
        if (own := re.search(rb"\r\nX-Mark: ([0-9a-f]+)", head)) is None or own[1] != mark:
            self.faults.append(f"a head made of two: {head!r}")
        bodiless = head.startswith(b"HEAD")
        when = random.random()
        if when < 0.05:
            return False
        if b"Upgrade: foo" in head and random.random() < 0.7:
            await self.switch(mark, reader, writer)
            return False
        early = when < 0.25
        if writer.transport.is_closing():
            raise ConnectionResetError
        if random.random() < 0.2:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * random.choice((1, 1, 3, 200)))
            if random.random() < 0.1:
                return False
        if not early:
            await self.body(mark, head, reader)
        if writer.transport.is_closing():
            raise ConnectionResetError
        alive = await self.respond(mark, writer, bodiless=bodiless)
        if early:
            if random.random() < 0.3:
                return False
            await self.body(mark, head, reader)
        return alive

    async def body(self, mark: bytes, head: bytes, reader: asyncio.StreamReader) -> None:
        """Read it: it has to be this request's."""
        body = b""
        if (length := re.search(rb"\r\nContent-Length: (\d+)", head)) is not None:
            body = await reader.readexactly(int(length[1]))
        elif b"\r\nTransfer-Encoding: chunked" in head:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            return
        if not body.startswith(b"<" + mark + b">"):
            self.faults.append(f"the body of {mark!r} is {body[:50]!r}")

    async def respond(self, mark: bytes, writer: asyncio.StreamWriter, *, bodiless: bool) -> bool:
        random = self.random
        status = random.choice((b"200 OK",) * 6 + (b"404 No", b"204 No", b"304 No", b"500 No"))
        body = b"<" + mark + b">" + bytes(random.choice((0, 0, 10, 3000, 70_000, 700_000)))
        alive, kind = True, random.random()
        fields = []
        if random.random() < 0.2:
            fields.append(b"Set-Cookie: session=%b" % mark)
        if kind < 0.5:
            fields.append(b"Content-Length: %d" % len(body))
            if kind < 0.03:
                body += b"surplus"
        elif kind < 0.9:
            fields.append(b"Transfer-Encoding: chunked")
            body = chunks(random, body)
            if kind < 0.53:
                body = body.replace(b"\r\n", b"\n")
        else:
            alive = False
        if random.random() < 0.1:
            fields.append(b"Connection: close")
            alive = False
        if bodiless or status[:3] in (b"204", b"304"):
            body = b"" if random.random() < 0.9 else body
        data = b"\r\n".join((b"HTTP/1.1 " + status, *fields, b"", b"")) + body
        if random.random() < 0.1:
            data = data[: random.randrange(len(data))]
            alive = False
        await self.trickle(writer, data)
        return alive

    async def switch(
        self, mark: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        random = self.random
        writer.write(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n")
        if random.random() < 0.5:
            writer.write(b"<" + mark + b">" + bytes(random.choice((0, 100, 500_000))))
        for _ in range(random.randrange(3)):
            with contextlib.suppress(TimeoutError):
                piece = await asyncio.wait_for(reader.read(1000), 0.05)
                if not piece:
                    return
                if writer.transport.is_closing():
                    return
                writer.write(bytes(100))


class _Collector(logging.Handler):
    """Keeps what is no news of the peers' faults."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__()
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info or record.levelno >= logging.ERROR or record.name == "asyncio":
            self._faults.append(self.format(record))


def chunks(random: Random, body: bytes) -> bytes:
    size = random.choice((1, 7, 1000, 100_000))
    size = max(size, len(body) // 2000)
    parts = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def left_over() -> Counter[str]:
    """Our objects that are alive."""
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, OURS))


def play(seed: int, requests: int) -> Chaos:
    """Raises AssertionError."""
    gc.collect()
    before = left_over()
    chaos = Chaos(seed, requests)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(chaos.run())
    assert not chaos.faults, f"seed {seed}: {len(chaos.faults)} faults: {chaos.faults[:5]}"
    gc.collect()
    left = left_over() - before
    assert not left, f"seed {seed}: {dict(left)} are left"
    return chaos


@pytest.mark.parametrize("seed", range(3))
def test_chaos(seed: int) -> None:
    assert play(seed, 400).ended


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    requests = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    while True:
        chaos = play(seed, requests)
        print(seed, dict(chaos.ended), flush=True)
        seed += 1


if __name__ == "__main__":
    main()
