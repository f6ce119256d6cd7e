"""Hellos, real and made by hand."""

from __future__ import annotations

import ssl
from collections.abc import Sequence


def hello_of(context: ssl.SSLContext, name: str | None) -> bytes:
    """What a client with this context sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("nobody has answered")


def resumed_hello_of(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> bytes:
    """What a client sends first that has been connected to this server before."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (here, there, here, there):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    there.write(b"x")  # after the tickets of TLS 1.3
    here.read()
    outgoing = ssl.MemoryBIO()
    again = client.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name, session=here.session)
    try:
        again.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("nobody has answered")


def vector(size: int, content: bytes) -> bytes:
    """``content`` after its length in ``size`` bytes (RFC 8446 section 3.4)."""
    return len(content).to_bytes(size, "big") + content


def message_of(
    *,
    session_id: bytes = b"",
    extensions: Sequence[tuple[int, bytes]] = (),
    rest: bytes | None = b"",
    cut: int = 0,
) -> bytes:
    """A ClientHello as handshake message. ``rest`` follows the extensions; None: it has none, not
    even an empty list. ``cut``: so many bytes are missing at its end."""
    body = b"\x03\x03" + bytes(32) + vector(1, session_id) + vector(2, b"\x13\x01")
    body += vector(1, b"\0")
    if rest is not None:
        listed = b"".join(kind.to_bytes(2, "big") + vector(2, data) for kind, data in extensions)
        body += vector(2, listed) + rest
    return b"\x01" + vector(3, body[: len(body) - cut])


def records(message: bytes, size: int) -> bytes:
    """A handshake message in records of up to ``size`` bytes."""
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + vector(2, piece) for piece in pieces)
