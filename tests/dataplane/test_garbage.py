"""What ended requests leave to the garbage collector."""

from __future__ import annotations

import asyncio
import gc

import pytest

from stickyproxy.dataplane.exchange import Exchange
from stickyproxy.dataplane.relay import Relay
from tests.conftest import Behind, MakeClient
from tests.scripted import EndpointConnection, get, post


def alive() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, Exchange | Relay)]


@pytest.mark.parametrize(
    "asked",
    [
        get(),
        post(bytes(10))[:-5],
        post(b"")[:-2].replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        + b"\r\noops\r\n",
    ],
    ids=["client leaves", "client leaves in its body", "malformed body"],
)
async def test_a_request_that_is_given_up_is_no_cycle(
    behind: Behind, client: MakeClient, asked: bytes
) -> None:
    """A client could leave them as fast as it can connect."""
    left = asyncio.Event()

    async def silent(conn: EndpointConnection) -> None:
        await conn.head()
        await conn.eof()
        left.set()

    proxy, _ = await behind(silent)
    gc.collect()
    gc.disable()
    try:
        user = await client(proxy.port)
        at = asked.find(b"\r\n\r\n") + 4
        await user.send(asked[:at])
        other = await client(proxy.port)
        await other.send(get(host="unknown.local"))
        await other.response()
        await user.send(asked[at:])
        if b"oops" not in asked:
            user.close()
        async with asyncio.timeout(10):
            await left.wait()
        await other.send(get(host="unknown.local"))
        await other.response()
        assert not alive()
    finally:
        gc.enable()
