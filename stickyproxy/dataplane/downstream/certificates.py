"""DATA PLANE: which certificate a client is shown, and how TLS is spoken with it.

The settings are those that Mozilla calls "intermediate", version 6.0
(https://ssl-config.mozilla.org/guidelines/6.0.json): TLS 1.2 and 1.3; with 1.2 only ciphers with
forward secrecy and authenticated encryption. There is neither compression nor renegotiation. Curves
are OpenSSL's own choice, which contains those that Mozilla lists: Python can name no more than one.
One thing differs: with Mozilla the client chooses the cipher, so that one whose hardware has no AES
gets ChaCha20, and testssl.sh calls that a fault. So the order is ours, but ChaCha20 is taken where
it is what the client likes best.

Sessions are resumed by tickets. Their keys are made with a context and never leave its process,
because Python (3.11 to 3.13) has no call to set them: a ticket is good for the worker that issued
it, until its certificate changes. Elsewhere the client gets a full handshake, which costs a
signature, and with TLS 1.2 a round trip. In return no ticket outlives a worker, and none that was
issued without a client certificate is worth anything where one is required.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

from stickyproxy.base.errors import HandshakeRefused
from stickyproxy.base.pem import load_chain
from stickyproxy.dataplane.turns import Turns
from stickyproxy.model.tls import Certificate, ClientAuth

log = logging.getLogger("stickyproxy")

INTERMEDIATE = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
"""Ciphers of TLS 1.2. Those of 1.3 cannot be chosen; OpenSSL's three are Mozilla's."""

_PRIORITIZE_CHACHA = ssl.Options(1 << 21)
"""SSL_OP_PRIORITIZE_CHACHA, which Python has no name for."""

_HTTP = ("http/1.1", "http/1.0")
_SPOKEN = frozenset(name.encode() for name in _HTTP)
_CHALLENGE = "acme-tls/1"
_CHALLENGES = (_CHALLENGE.encode(),)

PER_TURN = 64
"""Records taken in a turn of the loop. Whole ones are fewer in what is read at once."""
_MAX_ALLOWANCE = 1 << 16
"""Bytes from a client that may come in a row without data. A record that has come in part, which is
at most 16 KiB, counts as such until it is whole."""
_MAX_OVERHEAD = 32
"""Bytes from a client for each byte of data. With 1 byte in each record there are 23."""

_WAYS = 16
"""Ways of asking clients for certificates that one certificate of ours is kept ready for: those of
the past are not told from those of the present."""

_UNRECOGNIZED_NAME = 112
_NO_APPLICATION_PROTOCOL = 120
_INTERNAL_ERROR = 80

send_alert: ContextVar[Callable[[bytes], object]] = ContextVar("send_alert")
"""Sends bytes on the connection whose handshake begins in this context. asyncio and uvloop close a
connection whose handshake fails before they send the alert that tells the client why."""


class Certificates:
    """All certificates of a process, by the names that clients ask for."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Shown] = {}
        self._wildcards: dict[str, _Shown] = {}
        """By the part after ``*.``."""
        self._default: _Shown | None = None
        self._challenges: dict[str, _Shown] = {}

    def use(self, certificates: Iterable[Certificate]) -> None:
        """Show these from now on, and no others; of several for one name the first counts.
        Connections keep what they have; what stays the same keeps its sessions."""
        before = {shown.content: shown for shown in self._all()}
        self._hosts, self._wildcards, self._challenges = {}, {}, {}
        self._default = None
        for certificate in certificates:
            content = _content(certificate)
            shown = before.setdefault(content, _Shown(content, certificate.name))
            if not (certificate.hosts or self._default or certificate.challenge):
                self._default = shown
            for host in certificate.hosts:
                if certificate.challenge:
                    self._challenges.setdefault(host, shown)
                elif host.startswith("*."):
                    self._wildcards.setdefault(host[2:], shown)
                else:
                    self._hosts.setdefault(host, shown)

    def context(
        self,
        server_name: str | None,
        alpn: tuple[bytes, ...] = (),
        client_auth: ClientAuth | None = None,
    ) -> ssl.SSLContext:
        """How to answer a ClientHello that asks for this name and offers these protocols. Raises
        HandshakeRefused."""
        if alpn == _CHALLENGES:  # RFC 8737 section 3: it is the only one
            shown = self._challenges.get(server_name or "")
            if shown is None:
                raise HandshakeRefused(
                    _NO_APPLICATION_PROTOCOL, "there is no challenge of tls-alpn-01 for this name"
                )
            return shown.context(None)
        if alpn and _SPOKEN.isdisjoint(alpn):
            raise HandshakeRefused(
                _NO_APPLICATION_PROTOCOL, "the client speaks none of the protocols known here"
            )
        shown = self._find(server_name)
        if shown is None:
            raise HandshakeRefused(
                _UNRECOGNIZED_NAME, "there is no certificate for the name that was asked for"
            )
        return shown.context(client_auth)

    def _find(self, server_name: str | None) -> _Shown | None:
        if server_name is None:
            return self._default
        shown = self._hosts.get(server_name)
        if shown is None and self._wildcards:
            shown = self._wildcards.get(server_name.partition(".")[2])
        return self._default if shown is None else shown

    def _all(self) -> Iterator[_Shown]:
        yield from self._hosts.values()
        yield from self._wildcards.values()
        yield from self._challenges.values()
        if self._default is not None:
            yield self._default


Content = tuple[str, str, bool]
"""Chain, key, and whether it answers a challenge."""


def _content(certificate: Certificate) -> Content:
    return certificate.chain, certificate.key, certificate.challenge


def answers_challenge(context: ssl.SSLContext) -> bool:
    """Whether connections with this context answer a challenge of ACME, and serve nothing."""
    return isinstance(context, _ServerContext) and context.challenge


class _Shown:
    """A certificate and its contexts, which are made when they are first asked for: loading one
    takes a millisecond."""

    __slots__ = ("_contexts", "_name", "_unusable", "content")

    def __init__(self, content: Content, name: str) -> None:
        self.content = content
        self._name = name
        self._contexts: dict[ClientAuth | None, _ServerContext] = {}
        self._unusable = False

    def context(self, client_auth: ClientAuth | None) -> _ServerContext:
        """Raises HandshakeRefused."""
        context = self._contexts.get(client_auth)
        if context is None:
            if len(self._contexts) >= _WAYS:
                self._contexts.clear()
            context = self._contexts[client_auth] = self._load(client_auth)
        return context

    def _load(self, client_auth: ClientAuth | None) -> _ServerContext:
        chain, key, challenge = self.content
        try:
            return _make_context(chain, key, client_auth, challenge=challenge)
        except (ssl.SSLError, ValueError, OSError) as error:
            if not self._unusable:
                self._unusable = True
                log.error("the certificate %s cannot be used: %s", self._name, error)
            raise HandshakeRefused(
                _INTERNAL_ERROR, f"the certificate {self._name} cannot be used"
            ) from None


class _ServerContext(ssl.SSLContext):
    """One whose failed handshakes end with an alert, and whose clients have to say something."""

    challenge: bool

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        wrapped = cast(
            "_Alerting",
            super().wrap_bio(incoming, outgoing, server_side, server_hostname, session),
        )
        wrapped.incoming, wrapped.outgoing = incoming, outgoing
        wrapped.allowance = _MAX_ALLOWANCE
        wrapped.records_left = PER_TURN
        wrapped.share_used = None
        wrapped.send = send_alert.get(None)
        return wrapped


class _Alerting(ssl.SSLObject):
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    allowance: int
    """Bytes that may come without any data in them."""
    send: Callable[[bytes], object] | None
    records_left: int
    """How many may be taken in this turn of the loop."""
    share_used: Callable[[], object] | None
    """Called when it has taken its share; whoever sets it sees that it reads on. None: there are no
    shares."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            send, self.send = self.send, None
            if send is not None and (alert := self.outgoing.read()):
                send(alert)
            raise
        self.send = None

    def read(  # type: ignore[override]  # it calls the first one "len"
        self, size: int = 1024, buffer: bytearray | None = None
    ) -> Any:
        """uvloop reads on as long as more comes, 8 MiB in a turn of the loop, which a client can
        fill with the smallest of records. So there is no more than a share of them at a time. And
        OpenSSL takes what is no data without telling anybody: each KeyUpdate makes new keys and an
        answer."""
        if not self.records_left:
            raise ssl.SSLWantReadError
        before = self.incoming.pending
        data: Any
        try:
            data = super().read(size, buffer)
        except ssl.SSLWantReadError:
            self.records_left = PER_TURN
            if taken := before - self.incoming.pending:
                self._spend(taken, 0)
            raise
        self._spend(before - self.incoming.pending, len(data) if buffer is None else data)
        if self.share_used is not None:
            self.records_left -= 1
            if not self.records_left:
                self.share_used()
        return data

    def _spend(self, taken: int, found: int) -> None:
        """``found`` bytes of data were in ``taken``. Raises SSLError if that was little for too
        long."""
        allowance = self.allowance - taken + _MAX_OVERHEAD * found
        if allowance < 0:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the client sends records without data")
        self.allowance = min(allowance, _MAX_ALLOWANCE)


def share_turns(connection: _Alerting, transport: asyncio.Transport, turns: Turns) -> None:
    """Have a connection take its turns, which reads more records than its share."""

    def go_on() -> None:
        connection.records_left = PER_TURN
        if transport.is_reading() and not transport.is_closing():
            transport.pause_reading()
            transport.resume_reading()  # which makes uvloop see what has come

    connection.share_used = partial(turns.wait, go_on)


def _make_context(
    chain: str, key: str, client_auth: ClientAuth | None, *, challenge: bool
) -> _ServerContext:
    """Raises SSLError, ValueError or OSError."""
    context = _ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Alerting
    context.challenge = challenge
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(INTERMEDIATE)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | _PRIORITIZE_CHACHA
    context.set_alpn_protocols([_CHALLENGE] if challenge else list(_HTTP))
    load_chain(context, chain, key)
    if client_auth is not None:
        context.load_verify_locations(cadata=client_auth.ca)
        context.verify_mode = ssl.CERT_REQUIRED if client_auth.required else ssl.CERT_OPTIONAL
    return context
