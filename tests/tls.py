"""A client that speaks TLS, over a connection whose every byte it decides on."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Self

from tests.scripted import RawClient


class TlsClient(RawClient):
    """A client on one connection, inside TLS. ``ended`` is "eof" only after a close_notify: without
    one, the end of the connection says nothing (RFC 8446 section 6.1), and is taken for a reset."""

    tls: ssl.SSLObject
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO

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
    ) -> Self:
        """Shake hands on a connection that is there, after ``first`` in the clear. The hello is
        sent in ``pieces`` of so many bytes; 0: at once. Raises SSLError if an alert comes instead,
        ConnectionError if nothing does."""
        made = cls(client.sock, "TLS client")
        made._incoming, made._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        made.tls = context.wrap_bio(
            made._incoming, made._outgoing, server_hostname=server_name, session=session
        )
        if first:
            await RawClient.send(made, first)
        async with made._bounded("the handshake"):
            while True:
                try:
                    made.tls.do_handshake()
                except ssl.SSLWantReadError:
                    await made._flush(pieces)
                    pieces = 0
                    await made._receive_ciphertext()
                    if made.ended:
                        raise ConnectionError(made.ended) from None
                else:
                    break
        await made._flush()
        return made

    async def send(self, data: bytes) -> None:
        """Send ``data`` inside TLS."""
        self.tls.write(data)
        await self._flush()

    async def notify_close(self) -> None:
        """Send a close_notify."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self._flush()

    async def _flush(self, pieces: int = 0) -> None:
        while self._outgoing.pending:
            await RawClient.send(self, self._outgoing.read(pieces or -1))

    async def _receive_ciphertext(self) -> None:
        try:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        except ConnectionError:
            data = b""
        if data:
            self._incoming.write(data)
        else:
            self.ended = "reset"

    async def _receive(self) -> bool:
        while not self.ended:
            try:
                data = self.tls.read(65536)
            except ssl.SSLWantReadError:
                await self._receive_ciphertext()
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                self.ended = "eof"
                break
            self._buffer += data
            self._log += data
            del self._log[:-4096]
            return True
        return False
