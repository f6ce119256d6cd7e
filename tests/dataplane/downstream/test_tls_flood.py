"""TLS clients that send much and say nothing: what is no data takes time all the same."""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import socket
import ssl

import pytest

from stickyproxy.base.addresses import Address
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.tls import ListenerTls
from tests.certificates import client_context, make_ca, make_certificate
from tests.conftest import MakeClient, MakeEndpoint, StartProxy, service
from tests.scripted import get, post
from tests.tls import TlsClient

CA = make_ca()
DEMO = make_certificate(["demo.local"], CA)
TLS = ListenerSpec(Address("127.0.0.1", 0), tls=ListenerTls())
KEY_UPDATES = 100_000
"""2.7 MB of them, which is far more than a connection's buffers hold unread."""


def flood(port: int) -> int:
    """Send messages of KeyUpdate (RFC 8446 section 4.6.3) until the connection ends; returns how
    many. Python has no call for that, but OpenSSL does."""
    openssl = ctypes.CDLL(_ssl.__file__)
    for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
        getattr(openssl, name).restype = ctypes.c_void_p
    context = ctypes.c_void_p(openssl.SSL_CTX_new(ctypes.c_void_p(openssl.TLS_client_method())))
    connection = ctypes.c_void_p(openssl.SSL_new(context))
    sent = 0
    try:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            openssl.SSL_set_fd(connection, sock.fileno())
            assert openssl.SSL_connect(connection) == 1
            while sent < KEY_UPDATES:
                openssl.SSL_key_update(connection, 1)
                if openssl.SSL_do_handshake(connection) != 1:
                    break
                sent += 1
    finally:
        openssl.SSL_free(connection)
        openssl.SSL_CTX_free(context)
    return sent


def _one_byte_each(connection: TlsClient, data: bytes) -> bytes:
    """The records, encrypted."""
    records = []
    for at in range(len(data)):
        connection.tls.write(data[at : at + 1])
        records.append(connection._outgoing.read())
    return b"".join(records)


async def test_key_updates_without_end(start_proxy: StartProxy) -> None:
    default = make_certificate([], CA, name="default", default=True)
    proxy = await start_proxy([], listeners=[TLS], certificates=[default])
    assert await asyncio.to_thread(flood, proxy.port) < KEY_UPDATES


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_byte_in_each_record_is_data(
    version: ssl.TLSVersion, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    peer = await endpoint()
    proxy = await start_proxy([service(peer)], listeners=[TLS], certificates=[DEMO])
    context = client_context(CA)
    context.minimum_version = context.maximum_version = version
    connection = await TlsClient.over(await client(proxy.port), context)
    body = b"x" * 20_000  # with their records half a megabyte
    await connection.send_raw(_one_byte_each(connection, post(body)))
    assert (await connection.response()).status == 200
    assert peer.requests[0].body == body


async def test_others_do_not_wait_for_many_small_records(
    endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    peer = await endpoint()
    proxy = await start_proxy([service(peer)], listeners=[TLS], certificates=[DEMO])
    other = await TlsClient.over(await client(proxy.port), client_context(CA))
    busy = await TlsClient.over(await client(proxy.port), client_context(CA))
    body = b"x" * 10_000
    records = _one_byte_each(busy, post(body))
    await busy.send_raw(records)
    await other.send(get("/other"))
    assert (await other.response()).body == b"hello"
    assert [request.target for request in peer.requests] == [b"/other"]
    assert (await busy.response()).status == 200
    assert peer.requests[1].body == body
