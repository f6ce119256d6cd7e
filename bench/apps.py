"""The endpoints of the affinity lab: applications with sessions in memory, as many have them."""

from __future__ import annotations

import asyncio
import secrets
from typing import Literal

from bench.browser import sessions
from bench.templates import Target

Kind = Literal["sessions", "repeats", "none"]
"""What an application does with cookies. ``sessions``: a client without a session that is in its
memory is given a new one. ``repeats``: a client without one is given one, and what it sends is
set again, as the demo application of Docker does. ``none``: nothing."""


class App:
    """One replica. Its response says which it is, what it received and what it did with it.

    Its sessions are in a cookie called ``session``, the very name that the proxies use.
    """

    def __init__(self, target: Target, kind: Kind, *, path: str) -> None:
        self.target = target
        self._kind = kind
        self._path = path
        self._known: set[str] = set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen on the target's address."""
        self._server = await asyncio.start_server(
            self._serve, self.target.host, self.target.port, reuse_address=True
        )

    async def stop(self) -> None:
        """Die: the socket and all connections are gone at once."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                writer.write(self.answer(head))
                await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def answer(self, head: str) -> bytes:
        """The whole response to a request head."""
        got = sessions(head)
        known = [value for value in got if value in self._known]
        lines = ["HTTP/1.1 200 OK", "Content-Length: 0", f"X-Endpoint: {self.target.id}"]
        lines += [f"X-Got: {','.join(got)}"]
        lines += ["X-Knows: yes"] if known else []
        is_probe = head.split(" ", 2)[1].endswith("/healthz")
        if self._kind == "repeats" and got:
            lines += [f"X-Issued: {got[0]}", f"Set-Cookie: session={got[0]}"]
        elif self._kind != "none" and not known and not is_probe:
            session = secrets.token_hex(8)
            self._known.add(session)
            lines += [f"X-Issued: {session}", f"Set-Cookie: session={session}; Path={self._path}"]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")
