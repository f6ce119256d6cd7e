"""DATA PLANE: one connection to an endpoint.

It sends a request, hands what comes back to a ``Receiver``, and returns to its pool only when the
response is whole, the request was sent whole and both sides agreed to go on; after any doubt about
its state it is closed. Nothing here decides about retries or knows what a client is.

Timeouts are counted in sweeps instead of timers: activity sets ``idle_sweeps`` to zero, every
sweep adds one, and a connection that reaches its limit has been silent for at least the timeout and
at most a sweep longer.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Protocol, cast

from stickyproxy.base import sockets
from stickyproxy.base.errors import (
    ClientStalled,
    UpstreamClosed,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from stickyproxy.dataplane.turns import MUCH, Turns
from stickyproxy.dataplane.upstream.http1 import Expect, Receiver, ResponseReader

_HEAD, _NOTHING = Expect.HEAD, Expect.NOTHING


class State(Enum):
    """What a connection is doing."""

    IDLE = "idle"  # in its pool, or about to serve the first request
    BUSY = "busy"  # a request was sent, and its response is not whole
    TUNNEL = "tunnel"
    CLOSED = "closed"  # of no use any more; the socket may live a moment longer


class Half(Enum):
    """Which side of a tunnel sends no more, while the other one may."""

    NONE = "none"
    CLIENT = "client"
    ENDPOINT = "endpoint"


# Looking up a member of an Enum takes longer than most of what is done here.
_IDLE, _BUSY, _TUNNEL, _CLOSED = State


class UpstreamTunnel(Protocol):
    """Takes a connection over, from 101 Switching Protocols or from its first byte on."""

    def from_upstream(self, data: bytes) -> None:
        """Bytes for the client."""

    def upstream_ended(self) -> bool:
        """The endpoint sends no more. True: it still gets what the client sends; False: the
        connection is closed."""

    def upstream_lost(self) -> None:
        """The endpoint closed its side."""

    def failed(self, error: Exception) -> None:
        """The connection has been given up."""

    def pause_client(self) -> None:
        """The endpoint cannot keep up."""

    def resume_client(self) -> None:
        """It can again."""


class Home(Protocol):
    """The pool that a connection belongs to."""

    turns: Turns
    """The queue for work beyond a turn's worth."""

    @property
    def address(self) -> str:
        """The endpoint's, for messages."""

    def put(self, connection: UpstreamConnection) -> None:
        """Take back a connection that is fit for another request."""

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is lost."""


class SweepLimits:
    """How many sweeps a connection may be silent for; infinity: there is no limit."""

    __slots__ = ("client", "events", "idle", "response", "response_idle", "tunnel")

    def __init__(
        self,
        *,
        idle: float,
        response: float,
        response_idle: float,
        events: float,
        client: float,
        tunnel: float,
    ) -> None:
        """``events``: inside a response of server-sent events; ``response_idle``: inside others."""
        self.idle = idle
        self.response = response
        self.response_idle = response_idle
        self.events = events
        self.client = client
        self.tunnel = tunnel


class UpstreamConnection(asyncio.Protocol):
    """One connection to an endpoint; ``send_head`` starts an exchange on an idle one."""

    __slots__ = (
        "_client_slow",
        "_half",
        "_home",
        "_patience",
        "_reader",
        "_request_sent",
        "_silence_limited",
        "_tunnel",
        "_turn_comes",
        "idle_sweeps",
        "receiver",
        "responded",
        "state",
        "transport",
        "writing_paused",
    )

    transport: asyncio.Transport

    def __init__(self, home: Home) -> None:
        self._home = home
        self.state = _IDLE
        self.receiver: Receiver | None = None
        """Gets the response, while busy."""
        self._tunnel: UpstreamTunnel | None = None
        self._reader = ResponseReader()
        self.idle_sweeps = 0
        """Sweeps since the last sign of life."""
        self.responded = False
        """True once a byte of the present response has arrived."""
        self.writing_paused = False
        """The endpoint does not keep up with what is sent."""
        self._client_slow = False
        """The client does not keep up with the response."""
        self._turn_comes = False
        """``_go_on`` will be called when it is our turn."""
        self._request_sent = True
        self._half = Half.NONE
        """Which side of a tunnel has sent its end."""
        self._patience = 0.0
        """Seconds after which the kernel gives a silent peer up, while that is limited."""
        self._silence_limited = False

    def __repr__(self) -> str:
        return (
            f"<UpstreamConnection {self._home.address} {self.state.value} "
            f"idle_sweeps={self.idle_sweeps}>"
        )

    # --- sending a request ---

    def expect_signs_of_life(self, seconds: float) -> None:
        """Give up the peer when its kernel acknowledges nothing for that long: a request sent to
        a node that has died would wait for ``response_timeout``."""
        if sockets.keep_alive(self.transport, seconds):
            self._patience = seconds
            self._limit_silence(True)

    def _limit_silence(self, limited: bool) -> None:
        """Not for request bodies and tunnels: endpoints may be slow to take them."""
        self._silence_limited = limited
        sockets.limit_silence(self.transport, self._patience if limited else 0)

    def send_head(self, head: bytes, receiver: Receiver, *, body_follows: bool) -> None:
        """Start an exchange."""
        if self._patience and self._silence_limited == body_follows:
            self._limit_silence(not body_follows)
        self.state = _BUSY
        self.receiver = receiver
        self.idle_sweeps = 0
        self.responded = False
        self._request_sent = not body_follows
        self._reader.expect = _HEAD
        self.transport.write(head)

    def send_body(self, data: bytes) -> None:
        """A piece of the request's body, transfer coding applied."""
        self.idle_sweeps = 0
        self.transport.write(data)

    def end_body(self) -> None:
        """The request is sent whole."""
        self.idle_sweeps = 0
        self._request_sent = True

    def abandon(self) -> None:
        """Give the exchange up: the connection is closed at once and its receiver not told."""
        self.state = _CLOSED
        self.receiver = None
        self._tunnel = None
        self.transport.abort()

    # --- the response's way to the client ---

    def pause_reading(self) -> None:
        """The client does not keep up."""
        self._client_slow = True
        self.idle_sweeps = 0
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """It does again."""
        if not self._client_slow:
            return
        self._client_slow = False
        self.idle_sweeps = 0
        if self._reader.pending:
            self._wait_for_turn()
        elif not (self._turn_comes or self.transport.is_closing()):
            self.transport.resume_reading()

    # --- a tunnel ---

    def switch(self, tunnel: UpstreamTunnel) -> None:
        """Hand the connection over to a tunnel: from now on bytes pass as they are."""
        self.state = _TUNNEL
        self.receiver = None
        self._tunnel = tunnel
        if self._silence_limited:
            self._limit_silence(False)

    def end_sending(self) -> None:
        """The client of a tunnel sends no more; it is still to get what the endpoint does."""
        self._half = Half.CLIENT
        self.idle_sweeps = 0
        if not self.transport.is_closing():
            self.transport.write_eof()

    def close(self) -> None:
        """End a tunnel, once what was sent is out."""
        self.transport.close()

    # --- in the pool ---

    def retire(self) -> None:
        """Close it while it is idle."""
        self.state = _CLOSED
        self.transport.close()

    # --- asyncio's callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.idle_sweeps = 0
        receiver = self.receiver
        if receiver is None:
            self._take_unasked(data)
            return
        self.responded = True
        reader = self._reader
        try:
            rest = reader.take(data, receiver)
        except UpstreamProtocolError as error:
            self._fail_malformed(error)
            return
        if self.receiver is not receiver:  # it has given us up, or a tunnel has begun
            if rest and self._tunnel is not None:
                self._tunnel.from_upstream(rest)
        elif reader.expect is _NOTHING:
            self._release()
            receiver.end()
        else:
            receiver.flush()
            if reader.pending:
                self.transport.pause_reading()
                self._wait_for_turn()

    def eof_received(self) -> bool:
        tunnel = self._tunnel
        if tunnel is None:
            return False
        self._half = Half.ENDPOINT
        self.idle_sweeps = 0
        return tunnel.upstream_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = _CLOSED
        self._home.forget(self)
        if self._tunnel is not None:
            self._tunnel.upstream_lost()
        if (receiver := self.receiver) is not None:
            self.receiver = None
            if exc is None and self._reader.expect is Expect.CLOSE:
                receiver.end()
            elif isinstance(exc, UpstreamClosed):  # TLS knows more
                receiver.failed(exc)
            else:
                receiver.failed(UpstreamClosed(f"{self._home.address} closed the connection"))

    def pause_writing(self) -> None:
        self.writing_paused = True
        if self._tunnel is not None:
            self._tunnel.pause_client()

    def resume_writing(self) -> None:
        self.writing_paused = False
        self.idle_sweeps = 0
        if self._tunnel is not None:
            self._tunnel.resume_client()
        elif self.receiver is not None:
            self.receiver.writable()

    # --- taking a response ---

    def _take_unasked(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.from_upstream(data)
            if len(data) > MUCH and not self.transport.is_closing():
                self.transport.pause_reading()
                self._wait_for_turn()
        else:
            # RFC 9112 section 9.2: an unsolicited response. Whatever it is, the next request
            # on this connection must not get it.
            self.state = _CLOSED
            self.transport.abort()

    def _wait_for_turn(self) -> None:
        """Go on with what was read when it is our turn: others come first."""
        if not self._turn_comes:
            self._turn_comes = True
            self._home.turns.wait(self._go_on)

    def _go_on(self) -> None:
        """The next turn's worth of a body in chunks; reading is paused. The response may have
        failed meanwhile."""
        self._turn_comes = False
        receiver, reader = self.receiver, self._reader
        if self._client_slow:
            return
        if receiver is None:
            if self._tunnel is not None and not self.transport.is_closing():
                self.transport.resume_reading()
            return
        try:
            reader.resume(receiver)
        except UpstreamProtocolError as error:
            self._fail_malformed(error)
            return
        if reader.pending:
            self._wait_for_turn()
        elif not (self._client_slow or self.transport.is_closing()):
            self.transport.resume_reading()
        if reader.expect is _NOTHING:
            self._release()
            receiver.end()
        else:
            receiver.flush()

    def _fail_malformed(self, error: UpstreamProtocolError) -> None:
        self._fail(UpstreamProtocolError(f"{self._home.address} broke HTTP/1.1: {error}"))

    def _fail(self, error: Exception) -> None:
        self.state = _CLOSED
        self.transport.abort()
        if (receiver := self.receiver) is not None:
            self.receiver = None
            receiver.failed(error)

    def _fail_tunnel(self, error: Exception) -> None:
        self.state = _CLOSED
        tunnel, self._tunnel = self._tunnel, None
        self.transport.abort()
        if tunnel is not None:
            tunnel.failed(error)

    def _release(self) -> None:
        """After a whole response: back into the pool, if there is no doubt about the connection."""
        self.receiver = None
        if not self._request_sent or self.writing_paused:
            self.state = _CLOSED
            sockets.reset(self.transport)  # close() would wait for the endpoint to take the rest
        elif not self._reader.keep_alive:
            self.retire()
        else:
            if self._client_slow:  # what came last was much
                self.resume_reading()
            self.state = _IDLE
            self._home.put(self)

    # --- the sweep ---

    def sweep(self, limits: SweepLimits) -> None:
        """Count one sweep, and close the connection if it has reached its limit."""
        self.idle_sweeps += 1
        match self.state:
            case State.BUSY:
                if self._waits_for_client():
                    if self.idle_sweeps > limits.client:
                        self._fail(ClientStalled("the client stalled"))
                elif self.idle_sweeps > self._silence(limits):
                    self._fail(UpstreamTimeout(f"{self._home.address} stayed silent too long"))
            case State.IDLE:
                if self.idle_sweeps > limits.idle:
                    self.retire()
            case State.TUNNEL:
                waits = self._client_slow or self._half is Half.ENDPOINT
                if waits and self.idle_sweeps > limits.client:
                    self._fail_tunnel(ClientStalled("the client stalled"))
                elif self.idle_sweeps > (limits.response if self._is_awaited() else limits.tunnel):
                    self._fail_tunnel(UpstreamTimeout("the tunnel stayed silent too long"))
            case State.CLOSED:  # it had a sweep's time to take the rest
                sockets.reset(self.transport)

    def _is_awaited(self) -> bool:
        """A tunnel's endpoint does not take what it was sent, or does not end after the client."""
        closing = self.transport.is_closing()
        return self.writing_paused or closing or self._half is Half.CLIENT

    def _silence(self, limits: SweepLimits) -> float:
        """How long the endpoint may be silent where its response is now."""
        reader = self._reader
        if reader.expect is _HEAD:
            return limits.response
        return limits.events if reader.may_be_silent else limits.response_idle

    def _waits_for_client(self) -> bool:
        """The silence is the client's: it does not take the response, or sends no more of its
        request, of which the endpoint has taken all there was."""
        return self._client_slow or not (self._request_sent or self.writing_paused)
