"""DATA PLANE: an endpoint's response on its way to the client.

``Relay`` receives one response from an upstream connection and hands it to the client's stream as
it arrives: head rewritten once, body in the pieces in which it was read, everything from one read
in one write.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from stickyproxy.base.errors import UpstreamProtocolError
from stickyproxy.dataplane.attempt import Attempt, upstream_lines
from stickyproxy.dataplane.downstream.ports import ClientStream
from stickyproxy.routing.endpoint import CookieIssue, Pick
from stickyproxy.semantics.edits import Edit
from stickyproxy.semantics.headers import RESPONSE_LINES, seconds
from stickyproxy.semantics.request import UNKNOWN, ClientRequest
from stickyproxy.semantics.response import ResponseHead

monotonic = time.monotonic


class AwaitsResponse(Protocol):
    """The side that sent the request."""

    stream: ClientStream

    def wait_for_turn(self, turn: Callable[[], None]) -> None:
        """Call it when others had their turn, and do not read the endpoint until ``read_on``."""

    def read_on(self) -> None:
        """Read the endpoint again, if the client keeps up."""

    def switched(self) -> None:
        """The head of a 101 has been sent: the rest is a tunnel. Nothing else is called after."""

    def responded(self) -> None:
        """The response is whole. Called once, or ``failed`` is."""

    def failed(self, error: Exception) -> None:
        """The response will never be whole."""

    def handed_over(self, to: bytes) -> CookieIssue | None:
        """What is owed to the client instead, as the endpoint gives its session away: to the one
        that holds this slot, or to ``any``. None: nothing else than before."""


class Relay:
    """Takes one response from an endpoint to the client. Implements ``upstream.Receiver``."""

    __slots__ = (
        "_attempts",
        "_exchange",
        "_info",
        "_pick",
        "_request",
        "_stream",
        "bodiless",
        "head_seconds",
        "sent",
        "started",
        "status",
    )

    def __init__(
        self,
        exchange: AwaitsResponse,
        request: ClientRequest,
        pick: Pick,
        info: bytes | None,
        attempts: Sequence[Attempt] = (),
    ) -> None:
        """``info``: the fields that are the same in all responses; None: no info fields.
        ``attempts``: endpoints that were contacted before and failed."""
        self._exchange: AwaitsResponse | None = exchange
        self._stream = exchange.stream
        self._attempts = attempts
        self._request = request
        self._pick = pick
        self._info = info
        self.started = monotonic()
        self.bodiless = request.method == "HEAD"
        self.status = 0
        """Status of the final response; 0 until its head is here: then the client has it too."""
        self.head_seconds = 0.0
        """Time from contacting the endpoint until the head of its response."""
        self.sent = 0

    # --- upstream.Receiver ---

    def interim(self, head: ResponseHead) -> None:
        """Forward 100 Continue, 103 Early Hints..."""
        fields = [line for line in head.lines if not RESPONSE_LINES[line]]
        self._stream.send_interim(head.status, head.reason, fields)

    def head(self, head: ResponseHead) -> None:
        """Pass the head on."""
        self.head_seconds = monotonic() - self.started
        status = head.status
        fields = head.lines
        length = head.length
        if status == 200 and length >= 0:
            pass  # most of them
        elif status == 101:
            self._check_switch(head)
            fields = [*_without_length(fields), *head.upgrade]
            length = 0
        elif status == 204:  # no body, no length (RFC 9110 section 8.6)
            fields = _without_length(fields)
            length = 0
        elif length < 0:
            length = 0 if self.bodiless or status == 304 else UNKNOWN
        pick = self._pick
        if self._info is None:
            fields += head.info
        else:
            contacted = (
                self._all_contacted()
                if self._attempts
                else pick.endpoint.address_lines + seconds(self.head_seconds)
            )
            fields += (b"x-request-id: " + self._request.id, self._info, contacted)
        issue = pick.cookies
        if head.handover and (exchange := self._exchange) is not None:
            issue = exchange.handed_over(head.handover) or issue
        if issue is not None and (head.set_cookies or issue.due):
            values = issue.values(head.set_cookies, self._request.secure)
            fields += [b"Set-Cookie: " + value for value in values]
        self._stream.send_head(status, head.reason, fields, length)
        self.status = status
        if (watch := pick.endpoint.watch) is not None:
            watch.responded(status)
        if status == 101 and (exchange := self._exchange) is not None:
            self._exchange = None
            exchange.switched()

    def data(self, data: bytes) -> None:
        """A piece of the body."""
        self.sent += len(data)
        self._stream.send_data(data)

    def end(self) -> None:
        """The response is whole."""
        if (exchange := self._exchange) is not None:
            self._exchange = None  # break the reference cycle
            exchange.responded()

    def flush(self) -> None:
        """Write what has accumulated."""
        if self._exchange is not None:  # else the client has gone
            self._stream.flush()

    def writable(self) -> None:
        """The endpoint accepts more of the request's body."""
        if self._exchange is not None:
            self._stream.resume_body()

    def failed(self, error: Exception) -> None:
        """There will be no more."""
        if (exchange := self._exchange) is not None:
            self._exchange = None
            exchange.failed(error)

    # ---

    def let_go(self) -> None:
        """Nobody waits for the response any more."""
        self._exchange = None

    @property
    def is_behind(self) -> bool:
        """It has enough of the response for now, and the endpoint is not to be read."""
        return False

    def _check_switch(self, head: ResponseHead) -> None:
        if self._request.upgrade is None:
            raise UpstreamProtocolError("it switched protocols unasked")
        if not (head.switches and head.upgrade):
            raise UpstreamProtocolError("its 101 does not say what it switches to")

    def _all_contacted(self) -> bytes:
        last = Attempt(self._pick.endpoint.address, self.head_seconds)
        return upstream_lines((*self._attempts, last))


class EditingRelay(Relay):
    """Sets and removes fields as the service says."""

    __slots__ = ("_edit",)

    def __init__(
        self,
        exchange: AwaitsResponse,
        request: ClientRequest,
        pick: Pick,
        info: bytes | None,
        attempts: Sequence[Attempt],
        *,
        edit: Edit,
    ) -> None:
        super().__init__(exchange, request, pick, info, attempts)
        self._edit = edit

    def head(self, head: ResponseHead) -> None:
        """Pass the head on."""
        head.lines = self._edit.apply(head.lines)
        super().head(head)


def _without_length(fields: list[bytes]) -> list[bytes]:
    return [line for line in fields if not line.startswith(b"Content-Length: ")]
