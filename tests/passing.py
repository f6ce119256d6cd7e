"""TLS passed through, driven by real sockets: endpoints and clients that speak TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from tests.hellos import hello_of

HELLO = hello_of(ssl.create_default_context(), "demo.local")
"""For connections whose two ends say what they like after it."""

ALERT = b"\x15\x03\x03\x00\x02\x02\x50"
"""A record of TLS: the fatal alert internal_error."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


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
