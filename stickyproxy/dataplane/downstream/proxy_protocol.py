"""DATA PLANE: the header of the PROXY protocol, versions 1 and 2, with which a proxy in front of us
begins a connection to say whose it is (https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt).
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from stickyproxy.base.errors import BadProxyHeader

MAX_HEADER = 4096
"""Bytes that a header may have. Version 1 has at most 107; version 2 is as long as what it carries
beside the addresses, which nobody reads here."""

_V1 = b"PROXY "
_MAX_V1 = 107
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = 16
_LOCAL, _PROXY = 0, 1
_ADDRESSES = {0x1: (socket.AF_INET, 4), 0x2: (socket.AF_INET6, 16)}
_STREAM = 1


class Ends(NamedTuple):
    """Between whom a connection is."""

    client: str
    """IP address; empty on a unix socket."""
    local: str
    """The address that the client connected to; empty on a unix socket."""
    port: int
    """The port there; 0 on a unix socket."""


class ProxyHeader(NamedTuple):
    """A header, whole."""

    size: int
    """Its length in bytes: what follows is the client's."""
    ends: Ends | None
    """None: it does not say, and those of the connection itself count."""


def proxy_header(data: bytes) -> ProxyHeader | None:
    """The header that ``data`` begins with; None if more of it has to come. Raises BadProxyHeader
    if there is none."""
    if data[:12] == _V2[: len(data)]:
        return _version_2(data)
    if data[:6] == _V1[: len(data)]:
        return _version_1(data)
    raise BadProxyHeader("the connection does not begin with a header of the PROXY protocol")


_PORT = re.compile("0|[1-9][0-9]{0,4}")


def _version_1(data: bytes) -> ProxyHeader | None:
    """Section 2.1."""
    end = data.find(b"\r\n", 0, _MAX_V1)
    if end < 0:
        if len(data) >= _MAX_V1:
            raise BadProxyHeader("the line of its PROXY header is too long")
        return None
    try:
        words = data[:end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        words = []
    match words:
        case ["PROXY", "UNKNOWN", *_]:
            return ProxyHeader(end + 2, None)
        case ["PROXY", "TCP4" | "TCP6" as family, source, destination, from_port, port] if all(
            _PORT.fullmatch(each) and int(each) <= 65535 for each in (from_port, port)
        ):
            kind = IPv4Address if family == "TCP4" else IPv6Address
            try:
                ends = Ends(str(kind(source)), str(kind(destination)), int(port))
            except ValueError:
                pass
            else:
                if "%" not in ends.client + ends.local:  # a zone may be anything, line feeds too
                    return ProxyHeader(end + 2, ends)
    raise BadProxyHeader("its PROXY header is malformed")


def _version_2(data: bytes) -> ProxyHeader | None:
    """Section 2.2."""
    if len(data) < _V2_FIXED:
        return None
    version, command = data[12] >> 4, data[12] & 0xF
    family, transport = data[13] >> 4, data[13] & 0xF
    size = _V2_FIXED + int.from_bytes(data[14:16], "big")
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise BadProxyHeader("its PROXY header is of a version that is not known here")
    if size > MAX_HEADER:
        raise BadProxyHeader(f"its PROXY header is longer than {MAX_HEADER} bytes")
    if len(data) < size:
        return None
    if command == _LOCAL or family not in _ADDRESSES or transport != _STREAM:
        return ProxyHeader(size, None)
    kind, length = _ADDRESSES[family]
    if size < _V2_FIXED + 2 * length + 4:
        raise BadProxyHeader("its PROXY header is too short for its addresses")
    at = _V2_FIXED + length
    source, destination = data[_V2_FIXED:at], data[at : at + length]
    port = int.from_bytes(data[at + length + 2 : at + length + 4], "big")
    ends = Ends(socket.inet_ntop(kind, source), socket.inet_ntop(kind, destination), port)
    return ProxyHeader(size, ends)
