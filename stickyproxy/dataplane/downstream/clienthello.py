"""DATA PLANE: what the first message of a TLS connection says before anything is answered (RFC 8446
section 4.1.2, RFC 6066 section 3): for whom it is.

It is read while it still waits in the socket (MSG_PEEK), so that whoever answers the connection
finds it untouched: the server name chooses the certificate, or the endpoint that has it.
"""

from __future__ import annotations

from typing import NamedTuple

from stickyproxy.base.errors import NotTls

MAX_HELLO = 16384
"""Bytes that a hello may have, with the headers of its records. Those of today have 200 to 600,
2,000 with a post-quantum key share, and with the ticket of a session that began with a client
certificate several thousand."""

_RECORD_HEADER = 5
_MAX_RECORD = 16384
_HANDSHAKE_HEADER = 4
_CLIENT_HELLO = 1
_HANDSHAKE = 22
_SERVER_NAME, _ALPN = 0, 16
_HOST_NAME = 0
_MAX_SESSION_ID = 32
_FIXED = _HANDSHAKE_HEADER + 2 + 32  # and legacy_version and random, which tell nothing


class ClientHello(NamedTuple):
    """For whom a connection is."""

    server_name: str | None
    """In lower case, without trailing dot; None if the client sent none. It is printable ASCII,
    and may be anything else than a host name all the same."""
    alpn: tuple[bytes, ...]
    """The protocols that the client offers, by preference (RFC 7301)."""
    session_id: bytes
    """Empty, or a session of TLS 1.2 that is to be resumed, or made up: with TLS 1.3 (RFC 8446
    appendix D.4) and with a session ticket (RFC 5077 section 3.4) it tells nothing."""


def client_hello(data: bytes) -> ClientHello | None:
    """What the hello says that ``data`` begins with; None if more of it has to come. What follows
    the hello is not looked at.

    Raises NotTls with the reason if this is not the beginning of a TLS connection, however it
    goes on: another protocol, SSLv2, malformed, or longer than ``MAX_HELLO``.
    """
    message, missing = _message(data)
    if missing:
        return None
    at = _FIXED
    session_id, at = _vector(message, at, 1)
    if len(session_id) > _MAX_SESSION_ID:
        raise NotTls("its session id is too long")
    _, at = _vector(message, at, 2)  # cipher suites
    _, at = _vector(message, at, 1)  # compression methods
    if at == len(message):
        return ClientHello(None, (), session_id)  # TLS 1.2 knows hellos without extensions
    extensions, at = _vector(message, at, 2)
    if at != len(message):
        raise NotTls("there is something after its extensions")
    found = _extensions(extensions)
    name, protocols = found.get(_SERVER_NAME), found.get(_ALPN)
    return ClientHello(
        None if name is None else _server_name(name),
        () if protocols is None else _protocols(protocols),
        session_id,
    )


def missing_bytes(data: bytes) -> int:
    """How many bytes at least have to follow ``data`` before it is a whole hello; 0: it is one,
    or none. There is no point in looking again before: clients may send byte by byte.

    Raises NotTls as ``client_hello`` does, if that can be seen by now.
    """
    return _message(data)[1]


def _message(data: bytes) -> tuple[bytes, int]:
    """The handshake message so far, which records may split anywhere (RFC 8446 section 5.1), and
    how many bytes are missing at least."""
    message, size = b"", _HANDSHAKE_HEADER
    at = header = 0
    while len(message) < size and at <= len(data):
        header = _record_header(data, at)
        if header < _RECORD_HEADER:
            break
        start = at + _RECORD_HEADER
        at = start + int.from_bytes(data[start - 2 : start], "big")
        message += data[start:at]
        if message and message[0] != _CLIENT_HELLO:
            raise NotTls("its first message is no ClientHello")
        if len(message) >= _HANDSHAKE_HEADER:
            size = _HANDSHAKE_HEADER + int.from_bytes(message[1:_HANDSHAKE_HEADER], "big")
    missing = size - len(message)
    if min(at, len(data)) + missing > MAX_HELLO:
        raise NotTls(f"its hello is longer than {MAX_HELLO} bytes")
    return message[:size], max(0, missing + (_RECORD_HEADER - header))


def _record_header(data: bytes, at: int) -> int:
    """How much there is of the header of a record; raises NotTls unless it may be one of the
    handshake."""
    header = data[at : at + _RECORD_HEADER]
    if header and header[0] != _HANDSHAKE:
        raise NotTls("it does not begin with a TLS handshake")
    if len(header) > 1 and header[1] != 3:
        raise NotTls("its records are of a version that is not TLS")
    if len(header) == _RECORD_HEADER:
        size = int.from_bytes(header[3:], "big")
        if not 0 < size <= _MAX_RECORD:
            raise NotTls("a record of its handshake is empty or too long")
    return len(header)


def _extensions(data: bytes) -> dict[int, bytes]:
    """By type. No type may occur twice (RFC 8446 section 4.2): whoever reads the other one would
    be somebody else's server."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        kind = int.from_bytes(data[at : at + 2], "big")
        content, at = _vector(data, at + 2, 2)
        if kind in found:
            raise NotTls("one of its extensions occurs twice")
        found[kind] = content
    return found


def _server_name(data: bytes) -> str | None:
    """Of the names in a server_name extension the host name: there may be one (RFC 6066 section
    3)."""
    names, end = _vector(data, 0, 2)
    hosts: list[bytes] = []
    at = 0
    while at < len(names):
        kind = names[at]
        name, at = _vector(names, at + 1, 2)
        if kind == _HOST_NAME:
            hosts.append(name)
    if end != len(data) or len(hosts) > 1:
        raise NotTls("its server_name extension is malformed")
    if not hosts:
        return None
    host = hosts[0].decode("latin-1").lower().removesuffix(".")
    if not (host and host.isascii() and host.isprintable() and " " not in host):
        raise NotTls("its server name is no host name")
    return host


def _protocols(data: bytes) -> tuple[bytes, ...]:
    """The names in an ALPN extension (RFC 7301 section 3.1)."""
    listed, end = _vector(data, 0, 2)
    names: list[bytes] = []
    at = 0
    while at < len(listed):
        name, at = _vector(listed, at, 1)
        names.append(name)
    if end != len(data) or not all(names):
        raise NotTls("its ALPN extension is malformed")
    return tuple(names)


def _vector(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    """The vector (RFC 8446 section 3.4) at ``at``, whose length takes ``size`` bytes, and where
    it ends."""
    start = at + size
    end = start + int.from_bytes(data[at:start], "big")
    if start > len(data) or end > len(data):
        raise NotTls("one of its lengths is too large")
    return data[start:end], end
