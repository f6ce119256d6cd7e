"""TLS passed through, driven by real sockets: endpoints and clients that speak TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from stickyproxy.base.errors import NotTls
from stickyproxy.dataplane.downstream.clienthello import MAX_HELLO, client_hello, missing_bytes
from stickyproxy.dataplane.passthrough import Passthrough
from tests.hellos import hello_of, self_signed

HELLO = hello_of(ssl.create_default_context(), "demo.local")
"""For connections whose two ends say what they like after it."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Authority:
    """A certificate for some names, and contexts for both ends."""

    def __init__(self, directory: Path, *names: str) -> None:
        self.chain, key = self_signed(*names)
        self.file = directory / f"{names[0]}.pem"
        self.file.write_text(key + self.chain)

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file)
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.chain)


@asynccontextmanager
async def serving(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """An endpoint on 127.0.0.1; its port. What fails in ``serve`` fails here, but
    for connections that are cut."""
    errors: list[Exception] = []

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except ConnectionError:
            pass  # the client has been cut
        except Exception as error:
            errors.append(error)
        finally:
            writer.close()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
    for error in errors:
        raise error


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class PassingListener:
    """Reads the hellos of those that connect, and has them passed through."""

    def __init__(self, passthrough: Passthrough) -> None:
        self._passthrough = passthrough
        self._sock = socket.create_server(("127.0.0.1", 0))
        self._sock.setblocking(False)
        self.port: int = self._sock.getsockname()[1]
        self._peeking: set[socket.socket] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock, self._accept)

    def close(self) -> None:
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for sock in self._peeking:
            self._loop.remove_reader(sock)
            sock.close()

    def _accept(self) -> None:
        for _ in range(128):
            try:
                sock, (address, _) = self._sock.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            self._peeking.add(sock)
            self._loop.add_reader(sock, self._peek, sock, address)

    def _peek(self, sock: socket.socket, address: str) -> None:
        try:
            data = sock.recv(MAX_HELLO, socket.MSG_PEEK)
            hello = client_hello(data)
        except BlockingIOError:
            return
        except (OSError, NotTls):
            data, hello = b"", None
        if data and hello is None:
            wanted = len(data) + missing_bytes(data)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
            return
        self._loop.remove_reader(sock)
        self._peeking.discard(sock)
        if hello is None or hello.server_name is None:
            sock.close()
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            self._passthrough.take(sock, hello.server_name, address)
