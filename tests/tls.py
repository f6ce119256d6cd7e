"""Clients that speak TLS."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Self

from tests.scripted import RawClient


class TlsClient(RawClient):
    """A client on one connection, inside TLS. The connection has ended with "eof" only after a
    close_notify: without one that says nothing (RFC 8446 section 6.1), and counts as "reset"."""

    tls: ssl.SSLObject

    @classmethod
    async def over(
        cls,
        client: RawClient,
        context: ssl.SSLContext,
        server_name: str | None = "demo.local",
        *,
        first: bytes = b"",
        pieces: int = 0,
        session: ssl.SSLSession | None = None,
        before_the_last: Callable[[], Awaitable[object]] | None = None,
    ) -> Self:
        """Shake hands on a connection that is there, after ``first`` in the clear. The hello is
        sent in ``pieces`` of so many bytes; 0: at once. ``before_the_last``: waited for before the
        last message, of TLS 1.3, is sent. Raises SSLError if an alert comes instead,
        ConnectionError if nothing does."""
        made = cls(client.sock, "TLS client")
        tls = context.wrap_bio(
            made._incoming, made._outgoing, server_hostname=server_name, session=session
        )
        async with made._bounded("the handshake"):
            await made.send_raw(first)
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    while made._outgoing.pending:
                        await made.send_raw(made._outgoing.read(pieces or -1))
                    pieces = 0
                    await made._receive_raw()
            if before_the_last is not None:
                await before_the_last()
            await made.send_raw(made._outgoing.read())
        made.tls = tls
        return made
