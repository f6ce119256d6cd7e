"""DATA PLANE: TLS to endpoints (RFC 8446, RFC 5246).

Contexts    what is the same for all endpoints that are spoken to in one way
Identity    one endpoint: whom it has to be, and the session that it gave us last
TlsLayer    between a connection and its socket

A layer is a protocol to the socket's transport and a transport to the connection, which notices
nothing of it. The event loop's own TLS would not do: while a client does not keep up it goes on
reading, and drops what it holds when the endpoint closes; and it resumes no sessions.

A response that ends with its connection is whole only if the endpoint says so (close_notify), since
anybody on the way can end a connection. Any other end is told as a failure.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast
from weakref import WeakValueDictionary

from stickyproxy.base.addresses import split_host_port
from stickyproxy.base.errors import HandshakeError, UpstreamClosed
from stickyproxy.base.pem import load_chain
from stickyproxy.dataplane.turns import Turns
from stickyproxy.model.target import Target
from stickyproxy.model.tls import UpstreamTls

RECORD = 16 * 1024
"""The most bytes of plain text in a record (RFC 8446 section 5.1)."""
PER_TURN = 64
"""Records taken in a turn of the loop. Whole ones are fewer than that in what is read at once;
those of a single byte each would be ten thousand."""

_CLEAR_HTTP = b"HTTP/"
"""How a server answers that speaks HTTP in the clear; TLS never begins like that."""


class Contexts:
    """One ``SSLContext`` for each way to speak TLS, for as long as an endpoint is spoken to so."""

    def __init__(self, ca: str = "") -> None:
        """``ca``: PEM; who issues the certificates of endpoints whose service does not say it;
        empty: those that the system knows."""
        self._ca = ca
        self._made: WeakValueDictionary[UpstreamTls, ssl.SSLContext] = WeakValueDictionary()

    def of(self, tls: UpstreamTls) -> ssl.SSLContext:
        """The same one for all server names. Raises ssl.SSLError and ValueError, if a PEM text is
        not what it should be, and OSError for lack of descriptors."""
        tls = replace(tls, server_name="")
        context = self._made.get(tls)
        if context is None:
            context = self._made[tls] = self._make(tls)
        return context

    def _make(self, tls: UpstreamTls) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif ca := tls.ca or self._ca:
            # What is in the file is trusted, be it an authority or the very certificate.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(cadata=ca)
        else:
            context.load_default_certs()
        if tls.certificate:
            load_chain(context, tls.certificate, tls.key)
        return context


class Identity:
    """Whom a target's endpoint has to be, and what it takes to resume its last session."""

    __slots__ = ("_context", "_contexts", "_name", "_session", "_tls", "address", "turns")

    def __init__(self, contexts: Contexts, target: Target, turns: Turns) -> None:
        assert target.tls is not None
        self.address = target.address
        self.turns = turns
        self._contexts = contexts
        self._tls = target.tls
        self._name = target.tls.server_name or _host(target.address)
        """A host, which is sent as SNI too, or an IP address, which is not (RFC 6066 section 3)."""
        self._context: ssl.SSLContext | None = None
        self._session: ssl.SSLSession | None = None

    def begin(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """Our end of a connection. Raises OSError, ssl.SSLError, ValueError."""
        if self._context is None:
            self._context = self._contexts.of(self._tls)
        return self._context.wrap_bio(
            incoming, outgoing, server_hostname=self._name or None, session=self._session
        )

    def keep_session(self, tls: ssl.SSLObject) -> None:
        """The next connection may resume the session of this one (RFC 8446 section 2.2)."""
        session = tls.session
        if session is not None and session.has_ticket:
            self._session = session


class TlsLayer(asyncio.Transport, asyncio.Protocol):
    """One connection: a protocol below, a transport above."""

    __slots__ = (
        "_end",
        "_identity",
        "_incoming",
        "_is_new",
        "_is_up",
        "_outgoing",
        "_paused",
        "_raw",
        "_shaken",
        "_tls",
        "_turn_comes",
        "_upper",
    )

    _raw: asyncio.Transport
    _tls: ssl.SSLObject

    def __init__(self, upper: asyncio.Protocol, identity: Identity) -> None:
        """``upper`` uses the connection once the handshake is done."""
        self._upper: asyncio.Protocol | None = upper
        """None when the connection is gone, or has been given up."""
        self._identity = identity
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._shaken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why the handshake failed; empty: it did not."""
        self._is_up = False
        """The handshake is done."""
        self._is_new = True
        """Nothing has come since."""
        self._paused = False
        """The upper side wants nothing handed over."""
        self._turn_comes = False
        """``_go_on`` will be called when it is our turn."""
        self._end: str | None = None
        """How the endpoint has ended TLS: what was wrong; empty: as it should."""

    def __repr__(self) -> str:
        state = "is gone" if self._upper is None else "is up" if self._is_up else "shakes hands"
        return f"<TlsLayer {self._identity.address} {state}>"

    async def handshake(self) -> None:
        """Wait for its end. Raises HandshakeError."""
        try:
            trouble = await self._shaken
        except asyncio.CancelledError:
            self._upper = None
            self.abort()
            raise
        if trouble:
            raise HandshakeError(self._identity.address, trouble)

    # --- for the upper side: a transport ---

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._raw.is_closing() or self._end is not None:
            return
        write = self._tls.write
        sent = write(data)
        while sent < len(data):  # a record's worth at a time
            data = memoryview(data)[sent:]
            sent = write(data)
        self._raw.write(self._outgoing.read())

    def pause_reading(self) -> None:
        self._paused = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        if self._incoming.pending or self._end is not None:
            self._wait_for_turn()
        else:
            self._raw.resume_reading()

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def close(self) -> None:
        """Say so, and close when all is sent. What the endpoint says to it is not waited for
        (RFC 8446 section 6.1)."""
        if not self._raw.is_closing():
            with suppress(ssl.SSLError):
                self._tls.unwrap()
            self._send()
            self._raw.close()

    def abort(self) -> None:
        self._raw.abort()

    def get_extra_info(self, name: str, default: object = None) -> Any:
        return self._tls if name == "ssl_object" else self._raw.get_extra_info(name, default)

    # --- for the socket: a protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast("asyncio.Transport", transport)
        try:
            self._tls = self._identity.begin(self._incoming, self._outgoing)
        except (OSError, ValueError) as error:  # OpenSSL's are OSErrors
            self._give_up(str(error))
        else:
            self._shake_hands()

    def data_received(self, data: bytes) -> None:
        if self._upper is None:
            return
        self._incoming.write(data)
        if self._is_up:
            self._read()
        elif data.startswith(_CLEAR_HTTP):
            self._give_up("it speaks HTTP in the clear")
        else:
            self._shake_hands()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_up:
            self._give_up("it closed the connection in the handshake")
        upper, self._upper = self._upper, None
        if upper is None:
            return
        if self._end == "":
            upper.connection_lost(None)
        else:
            how = f": TLS failed: {self._end}" if self._end else " closed the connection"
            upper.connection_lost(UpstreamClosed(f"{self._identity.address}{how}"))

    def pause_writing(self) -> None:
        if self._upper is not None and self._is_up:
            self._upper.pause_writing()

    def resume_writing(self) -> None:
        if self._upper is not None and self._is_up:
            self._upper.resume_writing()

    # --- the handshake ---

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return
        except ssl.SSLError as error:
            self._send()  # the alert that says why
            self._give_up(_trouble(error))
            return
        self._send()
        self._is_up = True
        assert self._upper is not None
        self._upper.connection_made(self)
        if not self._shaken.done():
            self._shaken.set_result("")
        if self._incoming.pending:  # whoever waits for the handshake comes first
            asyncio.get_running_loop().call_soon(self._read)

    def _give_up(self, trouble: str) -> None:
        self._upper = None
        if not self._shaken.done():
            self._shaken.set_result(trouble)
        self._raw.close()

    # --- after it ---

    def _read(self) -> None:
        """Hand over what was read, at most a turn's worth of it."""
        upper, incoming = self._upper, self._incoming
        if upper is None or self._paused or self._turn_comes:
            return
        pieces: list[bytes] = []
        try:
            read = self._tls.read
            while incoming.pending and len(pieces) < PER_TURN:
                piece = read(RECORD)
                if not piece:
                    self._end = ""
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except ssl.SSLError as error:
            self._end = _trouble(error)
        if self._outgoing.pending:
            self._send()
        if pieces:
            if self._is_new:
                self._is_new = False
                self._identity.keep_session(self._tls)
            upper.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        self._see_to_the_rest()

    def _see_to_the_rest(self) -> None:
        """Of what was read, if there is more than a turn's worth; unless it is not wanted now."""
        if self._paused:
            return
        if self._end is not None:
            self.close()
        elif self._incoming.pending:
            self._raw.pause_reading()
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        if not self._turn_comes:
            self._turn_comes = True
            self._identity.turns.wait(self._go_on)

    def _go_on(self) -> None:
        self._turn_comes = False
        if self._upper is None or self._paused:
            return
        if self._end is not None:
            self.close()
        else:
            self._raw.resume_reading()  # unless there is more than another turn's worth
            self._read()

    def _send(self) -> None:
        if data := self._outgoing.read():
            self._raw.write(data)


def _host(address: str) -> str:
    """Empty for a unix socket, which has none."""
    return "" if address.startswith("unix:") else split_host_port(address)[0].strip("[]")


_ALERT = re.compile("(?:TLSV1|TLSV13|SSLV3)_(?:ALERT_)?")
_OPENSSL = {
    "WRONG_VERSION_NUMBER": "what it sent is not TLS",
    "RECORD_LAYER_FAILURE": "what it sent is not TLS",  # OpenSSL 3.2
    "UNSUPPORTED_PROTOCOL": "it speaks none newer than TLS 1.1",
}


def _trouble(error: ssl.SSLError) -> str:
    """What OpenSSL says, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message.removesuffix('.')}"
    reason = error.reason or str(error)
    if _ALERT.match(reason):
        return f"it refuses: {_ALERT.sub('', reason).replace('_', ' ').lower()}"
    return _OPENSSL.get(reason) or reason.replace("_", " ").lower()
