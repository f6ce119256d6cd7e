"""TLS with several workers, and from one proxy to the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.certificates import client_context, make_ca, make_certificate
from tests.cli.test_main import StartProgram, document, programs, service
from tests.conftest import MakeClient, MakeEndpoint
from tests.hellos import hello_of
from tests.scripted import get
from tests.tls import TlsClient

CA = make_ca()
SHOP = make_certificate(["shop.local"], CA, name="shop")


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


async def test_every_worker_shows_the_certificate(
    endpoint: MakeEndpoint, client: MakeClient, start: StartProgram, tmp_path: Path
) -> None:
    for name, text in (("cert.pem", SHOP.chain), ("key.pem", SHOP.key)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    replica = await endpoint()
    config = tmp_path / "config.toml"
    certificate = f"[[certificates]]\ncert = '{tmp_path}/cert.pem'\nkey = '{tmp_path}/key.pem'"
    text = document(certificate, service("shop", [replica.address]), workers=3)
    config.write_text(text.replace("[proxy]", "tls = true\n[proxy]"))
    program = await start("serve", "--config", config)
    port = await program.listening()

    async def ask() -> bytes:
        connection = await TlsClient.over(await client(port), client_context(CA), "shop.local")
        await connection.send(get(host="shop.local"))
        return (await connection.response()).body

    assert set(await asyncio.gather(*[ask() for _ in range(30)])) == {b"hello"}
    await program.stop()


async def test_nobody_notices_a_successor(
    endpoint: MakeEndpoint, client: MakeClient, start: StartProgram, tmp_path: Path
) -> None:
    """Neither who is idle nor who is about to shake hands."""
    replica = await endpoint()
    config = tmp_path / "config.toml"
    handover = f"handover = '{tmp_path}/handover.sock'"
    text = document(service("shop", [replica.address]), proxy=[handover])
    config.write_text(text.replace("[proxy]", "tls = true\n[proxy]"))
    first = await start("serve", "--config", config)
    port = await first.listening()
    idle = await TlsClient.over(await client(port), client_context(), "shop.local")
    await idle.send(get(host="shop.local"))
    assert (await idle.response()).header("connection") is None
    beginning = await client(port)
    await beginning.send(hello_of(client_context(), "shop.local")[:50])
    second = await start("serve", "--config", config)
    await second.listening()
    await first.err.says("another process has taken over")
    await idle.send(get(host="shop.local"))
    response = await idle.response()
    assert (response.status, response.header("connection")) == (200, b"close")
    assert await idle.closed() == "eof"
    new = await TlsClient.over(await client(port), client_context(), "shop.local")
    await new.send(get(host="shop.local"))
    assert (await new.response()).body == b"hello"
    beginning.close()
    await second.stop()
