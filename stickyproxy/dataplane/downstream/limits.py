"""DATA PLANE: how many connections there may be, in all and of each client.

A connection counts as long as its socket object exists, which is held by whatever becomes of it:
the wait for a ClientHello, a handshake, requests, a tunnel, or TLS that is passed through.
"""

from __future__ import annotations

import socket
import weakref
from collections import Counter
from contextlib import suppress

from stickyproxy.base.commons import Headcount
from stickyproxy.base.hashing import address_key
from stickyproxy.semantics.forwarded import TrustedProxies

TOO_MANY = "there are as many connections as max_connections allows"
TOO_MANY_OF_CLIENT = "its client has as many connections as max_connections_per_client allows"

_TEXT = b"too many connections\n"
_RESPONSE = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\n"
    b"Retry-After: 1\r\n"
    b"Connection: close\r\n\r\n%b" % (len(_TEXT), _TEXT)
)

_ALERT = bytes((21, 3, 3, 0, 2, 2, 80))
"""A fatal alert of TLS, internal_error (RFC 8446 section 6), in the clear."""

Held = weakref.ReferenceType[socket.socket]


class ConnectionLimits:
    """Those of one process."""

    def __init__(
        self,
        trusted_proxies: TrustedProxies,
        *,
        in_all: int | None,
        per_client: int | None,
        headcount: Headcount | None = None,
    ) -> None:
        """``in_all``, ``per_client``: None: there is no such limit. A trusted proxy may have more,
        as they are of many clients. ``headcount``: of all workers of this proxy; None: it is one
        process."""
        self._trusted_proxies = trusted_proxies
        self._in_all = in_all
        self._per_client = per_client
        self._tally = headcount
        self._held: dict[Held, bytes] = {}
        """Client by connection; empty: it is not known, or counts in all only."""
        self._of_client: Counter[bytes] = Counter()
        if headcount is not None:
            headcount.begin()

    def __len__(self) -> int:
        return len(self._held)

    def refuses(self, sock: socket.socket, address: str, *, headed: bool = False) -> str:
        """Why a connection that was accepted cannot be had; empty: it counts from now on.
        ``address``: the client's; empty: it has none. ``headed``: somebody will say who the client
        is."""
        elsewhere = 0 if self._tally is None else self._tally.elsewhere()
        if self._in_all is not None and len(self._held) + elsewhere >= self._in_all:
            return TOO_MANY
        client = b"" if headed else self._client(address)
        if client and self._is_full(client):
            return TOO_MANY_OF_CLIENT
        self._held[weakref.ref(sock, self._gone)] = client
        self._count(client, 1)
        return ""

    def names(self, sock: socket.socket, address: str) -> str:
        """The same for one that counts already, and that is of this client, as is known now."""
        client = self._client(address)
        if not client or self._held.get(weakref.ref(sock), b""):
            return ""
        if self._is_full(client):
            return TOO_MANY_OF_CLIENT
        self._held[weakref.ref(sock)] = client
        self._count(client, 1)
        return ""

    def _client(self, address: str) -> bytes:
        """Empty: it is not counted."""
        if self._per_client is None or not address or self._trusted_proxies.trusts(address):
            return b""
        return address_key(address)

    def _is_full(self, client: bytes) -> bool:
        assert self._per_client is not None
        elsewhere = 0 if self._tally is None else self._tally.elsewhere_of(client)
        return self._of_client[client] + elsewhere >= self._per_client

    def _gone(self, held: Held) -> None:
        self._count(self._held.pop(held), -1)

    def _count(self, client: bytes, change: int) -> None:
        headcount = self._tally
        if headcount is not None:
            headcount.note(len(self._held))
        if not client:
            return
        count = self._of_client[client] = self._of_client[client] + change
        if not count:
            del self._of_client[client]
        if headcount is not None:
            headcount.note_of(client, count)


def turn_away(sock: socket.socket, *, tls: bool) -> None:
    """Close a connection that was accepted, and say why. What has come is read: closing with bytes
    unread would take the message with it."""
    with suppress(OSError):
        sock.setblocking(False)
        sock.send(_ALERT if tls else _RESPONSE)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1 << 16)
    sock.close()
