"""The accept loop: from open listeners to client connections, and the graceful end."""

from __future__ import annotations

import asyncio
import logging
import socket
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from stickyproxy.base import sockets
from stickyproxy.base.errors import HandshakeRefused
from stickyproxy.dataplane.descriptors import Descriptors
from stickyproxy.dataplane.downstream.arrivals import Arrival, Arrivals
from stickyproxy.dataplane.downstream.certificates import (
    Certificates,
    answers_challenge,
    send_alert,
)
from stickyproxy.dataplane.downstream.clienthello import ClientHello
from stickyproxy.dataplane.downstream.failures import (
    IN_THE_CLEAR,
    ConnectionFailures,
    reason_of,
)
from stickyproxy.dataplane.downstream.limits import ConnectionLimits, turn_away
from stickyproxy.dataplane.downstream.listeners import Listener
from stickyproxy.dataplane.downstream.ports import Serve
from stickyproxy.dataplane.downstream.proxy_protocol import Ends
from stickyproxy.dataplane.downstream.server import ClientServer
from stickyproxy.dataplane.turns import Turns
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.tls import ClientAuth
from stickyproxy.semantics.forwarded import TrustedProxies

log = logging.getLogger("stickyproxy")

ACCEPTS_PER_TURN = 128
"""Connections accepted before requests get their turn again, per listener."""

_REST_SECONDS = 1.0
"""How long nothing is accepted if that fails and idle connections cannot make room."""
_ROOM_SECONDS = 0.02
"""How long if they can."""
_SHUTDOWN_SECONDS = 3600.0
"""How long uvloop would wait for a client to take the rest of a response and to end TLS itself.
The sweeps of ``ClientConnection`` know better, but not less than this."""
_UNEXPECTED_MESSAGE = 10

Passthrough = Callable[[socket.socket, ClientHello, Ends], bool]
"""Takes over a connection that somebody else answers, by its ClientHello, which is still in the
socket; False: it is for us."""


class Admits(Protocol):
    """Who serves the requests of a connection, by what is known of it."""

    def serve(self, spec: ListenerSpec) -> Serve:
        """Those of this listener's connections."""

    def serve_guarded(self, spec: ListenerSpec, client_auth: ClientAuth) -> Serve:
        """Those of connections whose client was asked for a certificate in this way."""

    def refuse_clear(self) -> Serve:
        """Those in the clear that came where TLS is spoken."""

    def client_auth(self, spec: ListenerSpec, server_name: str | None) -> ClientAuth | None:
        """How a client is asked for a certificate that wants this server; None: it is not."""


class Server:
    """Accepts connections for one ``ClientServer``.

    Connections are accepted here and not by the loop's ``create_server``: uvloop accepts one per
    turn of the loop, and in a turn it may serve hundreds of requests of those already connected.
    The thousandth of a thousand clients that came at once would wait for many seconds.
    """

    def __init__(
        self,
        clients: ClientServer,
        descriptors: Descriptors,
        turns: Turns,
        *,
        admission: Admits,
        certificates: Certificates,
        trusted_proxies: TrustedProxies,
        handshake_timeout: float,
        limits: ConnectionLimits | None = None,
    ) -> None:
        """``limits``: None: there may be as many connections as come."""
        self._limits = limits
        self._clients = clients
        self._descriptors = descriptors
        self._turns = turns
        self._admission = admission
        self._certificates = certificates
        self._trusted_proxies = trusted_proxies
        self.passthrough: Passthrough | None = None
        """None: nobody else answers TLS."""
        self.failures = ConnectionFailures()
        self.accepted = 0
        """Connections so far."""
        self._arrivals = Arrivals(
            handshake_timeout, trusted_proxies, known=self._known, lost=self._lost
        )
        descriptors.may_shed(self._arrivals.shed)
        self._listeners: frozenset[Listener] = frozenset()
        """Those we accept on."""
        self._connecting: set[asyncio.Task[Any]] = set()

    def accept_on(self, listeners: Iterable[Listener]) -> None:
        """Accept connections on these listeners and no others from now on. Their sockets stay
        open."""
        before, self._listeners = self._listeners, frozenset(listeners)
        loop = asyncio.get_running_loop()
        for listener in before - self._listeners:
            loop.remove_reader(listener.sock.fileno())
        for listener in self._listeners - before:
            loop.add_reader(listener.sock.fileno(), self._accept, listener)

    async def drain(self, grace: float, patience: float = 0.0) -> int:
        """Stop accepting and let requests under way finish for up to ``grace`` seconds. Returns
        how many connections had to be cut. ``patience``: see ``ClientServer.drain``."""
        self.accept_on(())
        try:
            async with asyncio.timeout(grace):
                await asyncio.gather(
                    self._until_connected(patience), self._clients.drain(min(patience, grace / 2))
                )
                await self._clients.drain()
        except TimeoutError:
            self._arrivals.close()
            for connecting in self._connecting:
                connecting.cancel()
            await asyncio.gather(*self._connecting, return_exceptions=True)
            cut = len(self._clients.connections)
            self._clients.abort()
            await self._clients.drain()
            return cut
        finally:
            self.failures.stop()
        return 0

    async def _until_connected(self, patience: float) -> None:
        """Returns when no connection is being made. Clients that have not begun their handshake
        have ``patience`` seconds for that. Connections that have come of it all are drained too:
        their first request, if it follows at once, is read before."""
        if patience <= 0:
            self._arrivals.dismiss()
        loop = asyncio.get_running_loop()
        patient_until = loop.time() + patience
        while self._connecting or len(self._arrivals):
            if self._connecting:
                await asyncio.wait(self._connecting, timeout=_ROOM_SECONDS)
            await asyncio.sleep(_ROOM_SECONDS)
            self._clients.start_draining()
            if loop.time() >= patient_until:
                self._arrivals.dismiss()

    # --- accepting ---

    def _accept(self, listener: Listener) -> None:
        spec = listener.spec
        looks = spec.tls is not None or spec.proxy_protocol
        limits = self._limits
        make_connection = self._clients.maker(self._admission.serve(spec))
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = listener.sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(listener, error)
                return
            self.accepted += 1
            if limits is not None and self._refuses(limits, sock, address, spec):
                continue
            if looks:
                self._arrivals.add(sock, address[0] if isinstance(address, tuple) else "", spec)
            else:
                self._connect(sock, make_connection)

    def _refuses(
        self, limits: ConnectionLimits, sock: socket.socket, address: object, spec: ListenerSpec
    ) -> bool:
        """Whether there are too many connections for this one."""
        client = address[0] if isinstance(address, tuple) else ""
        headed = spec.proxy_protocol and self._trusted_proxies.trusts(client)
        reason = limits.refuses(sock, client, headed=headed)
        if reason:
            self._turn_away(sock, spec, reason, client)
        return bool(reason)

    def _turn_away(self, sock: socket.socket, spec: ListenerSpec, reason: str, client: str) -> None:
        self.failures.note(reason, client)
        turn_away(sock, tls=spec.tls is not None)

    def _known(self, arrival: Arrival) -> None:
        """All is known of it that has to be."""
        sock, spec, hello = arrival.sock, arrival.spec, arrival.hello
        if self._limits is not None and spec.proxy_protocol:
            client = arrival.ends.client
            if reason := self._limits.names(sock, client):
                self._turn_away(sock, spec, reason, client)
                return
        if hello is not None:
            if self.passthrough is None or not self.passthrough(sock, hello, arrival.ends):
                self._begin(self._handshake(arrival, hello))
        elif spec.tls is None:
            serve = self._admission.serve(spec)
            self._connect(sock, self._clients_of(arrival, serve))
        elif arrival.speaks_http:
            self.failures.note(IN_THE_CLEAR, arrival.ends.client)
            serve = self._admission.refuse_clear()
            self._connect(sock, self._clients_of(arrival, serve))
        else:
            sockets.close_with_alert(sock, _UNEXPECTED_MESSAGE)
            self._lost(arrival, arrival.refusal)

    def _lost(self, arrival: Arrival, reason: str) -> None:
        self.failures.note(reason, arrival.ends.client)

    def _clients_of(
        self, arrival: Arrival, serve: Serve, client_auth: ClientAuth | None = None
    ) -> Callable[[], asyncio.BaseProtocol]:
        return self._clients.maker(serve, arrival.ends, client_auth)

    # --- the tasks: they last until the connection is there ---

    def _connect(
        self, sock: socket.socket, make_connection: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        """In the clear. The loop's coroutine is the task's: another one around it would be felt in
        what a new connection costs."""
        self._begin(asyncio.get_running_loop().connect_accepted_socket(make_connection, sock))

    def _begin(self, connecting: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(connecting, name="accepted")
        self._connecting.add(task)
        task.add_done_callback(self._begun)

    def _begun(self, connecting: asyncio.Task[Any]) -> None:
        self._connecting.discard(connecting)
        error = None if connecting.cancelled() else connecting.exception()
        if isinstance(error, OSError):
            log.debug("a client was gone before it was served: %s", error)
        elif error is not None:
            log.error("a connection could not be served", exc_info=error)

    async def _handshake(self, arrival: Arrival, hello: ClientHello) -> None:
        """Each takes a signature, which is why no more than a few begin in a turn of the loop."""
        loop = asyncio.get_running_loop()
        sock, spec = arrival.sock, arrival.spec
        turn = asyncio.Event()
        self._turns.wait(turn.set)
        try:
            await turn.wait()
            client_auth = self._admission.client_auth(spec, hello.server_name)
            context = self._certificates.context(hello.server_name, hello.alpn, client_auth)
            if answers_challenge(context):
                make_connection: Callable[[], asyncio.BaseProtocol] = _Challenged
            elif client_auth is None:
                make_connection = self._clients_of(arrival, self._admission.serve(spec))
            else:
                serve = self._admission.serve_guarded(spec, client_auth)
                make_connection = self._clients_of(arrival, serve, client_auth)
            send_alert.set(_sender(sock))
            await loop.connect_accepted_socket(
                make_connection,
                sock,
                ssl=context,
                ssl_handshake_timeout=max(0.01, arrival.deadline - loop.time()),
                ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
            )
        except HandshakeRefused as refused:
            sockets.close_with_alert(sock, refused.alert)
            self._lost(arrival, str(refused))
        except OSError as error:  # an SSLError is one, too
            sock.close()
            self._lost(arrival, reason_of(error))
        except asyncio.CancelledError:
            sock.close()
            raise

    # --- no room ---

    def _rest(self, listener: Listener, error: OSError) -> None:
        """Out of file descriptors or memory: trying again at once would only burn the CPU time that
        could free some."""
        pause = _ROOM_SECONDS
        if not self._descriptors.make_room(error):
            pause = _REST_SECONDS
            log.error("cannot accept connections: %s; trying again in a second", error.strerror)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.sock.fileno())
        loop.call_later(pause, self._wake, listener)

    def _wake(self, listener: Listener) -> None:
        if listener in self._listeners:
            loop = asyncio.get_running_loop()
            loop.add_reader(listener.sock.fileno(), self._accept, listener)


def _sender(sock: socket.socket) -> Callable[[bytes], object]:
    """Sends to a connection while that exists, and does not keep it: contexts outlive it."""
    alive = weakref.ref(sock)

    def send(data: bytes) -> object:
        sock = alive()
        return None if sock is None else sock.send(data)

    return send


class _Challenged(asyncio.Protocol):
    """With the handshake a challenge of ACME is answered (RFC 8737 section 3)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
