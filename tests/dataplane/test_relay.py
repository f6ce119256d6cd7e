"""dataplane/relay.py: what becomes of a response's head and its pieces, without sockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from stickyproxy.base.errors import UpstreamClosed, UpstreamProtocolError
from stickyproxy.control.registry import NoConnections
from stickyproxy.dataplane.attempt import Attempt, upstream_lines
from stickyproxy.dataplane.downstream.ports import ClientStream
from stickyproxy.dataplane.relay import Relay
from stickyproxy.model.service import EndpointSpec
from stickyproxy.routing.endpoint import Affinity, CookieIssue, Endpoint, Pick
from stickyproxy.semantics.request import UNKNOWN, ClientRequest
from stickyproxy.semantics.response import ResponseHead
from tests.dataplane.test_replies import Head

INFO = b"x-proxy-id: p1\r\nx-server-info: s"


class Issue:
    """Owes a cookie."""

    def __init__(self, *, due: bool) -> None:
        self.due = due
        self.asked: list[tuple[Sequence[bytes], bool]] = []

    def values(self, answered: Sequence[bytes], secure: bool) -> Sequence[bytes]:
        self.asked.append((tuple(answered), secure))
        return (b"session=sp1.0", b"session_lb=sp1.0")


class Stream:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def send_interim(self, status: int, reason: bytes, fields: list[bytes]) -> None:
        self.told.append(("interim", status, reason, fields))

    def send_head(
        self, status: int, reason: bytes, fields: list[bytes], length: int, *, last: bool = False
    ) -> None:
        assert not last
        self.told.append(("head", status, reason, fields, length))

    def send_data(self, data: bytes) -> None:
        self.told.append(("data", data))

    def flush(self) -> None:
        self.told.append(("flush",))

    def resume_body(self) -> None:
        self.told.append(("resume_body",))


class Scene:
    """A relay between an endpoint and a stream. Implements ``relay.AwaitsResponse``."""

    def __init__(
        self,
        *,
        method: str = "GET",
        upgrade: bytes | None = None,
        info: bytes | None = None,
        cookies: CookieIssue | None = None,
        attempts: Sequence[Attempt] = (),
    ) -> None:
        self.taken = Stream()
        self.stream = cast("ClientStream", self.taken)
        self.ended: list[object] = []
        request = ClientRequest(Head(b"shop.local", b"/", method), b"1" * 32)
        request.upgrade = upgrade
        endpoint = Endpoint("shop", EndpointSpec("t1", "10.0.0.1:80"), b"", NoConnections())
        self.relay = Relay(self, request, Pick(endpoint, Affinity.NONE, cookies), info, attempts)

    def wait_for_turn(self, turn: Callable[[], None]) -> None:
        turn()

    def read_on(self) -> None:
        pass

    def switched(self) -> None:
        self.ended.append("switched")

    def responded(self) -> None:
        self.ended.append("responded")

    def failed(self, error: Exception) -> None:
        self.ended.append(error)

    def handed_over(self, to: bytes) -> CookieIssue | None:
        raise AssertionError("no endpoint gives a session away here")

    def head(self, *lines: bytes) -> tuple[list[bytes], int]:
        """Fields and length of what the client is sent for this head."""
        self.relay.head(ResponseHead(b"\r\n".join(lines)))
        [(_, _, _, fields, length)] = self.taken.told
        return fields, length


class TestHead:
    @pytest.mark.parametrize(
        ("lines", "fields", "length"),
        [
            ((b"200 OK", b"Content-Length: 5"), [b"Content-Length: 5"], 5),
            ((b"200 OK", b"Content-Length: 0"), [b"Content-Length: 0"], 0),
            ((b"200 OK", b"Content-Length: 007"), [b"Content-Length: 7"], 7),
            ((b"200 OK",), [], UNKNOWN),
            ((b"200 OK", b"Transfer-Encoding: chunked"), [], UNKNOWN),
            ((b"200 OK", b"Connection: close, X-A", b"X-A: 1", b"X-B: 2"), [b"X-B: 2"], UNKNOWN),
            # RFC 9110 section 8.6: none of these has a body, and a 204 no Content-Length either
            ((b"204 No Content", b"Content-Length: 5", b"X: y"), [b"X: y"], 0),
            ((b"204 No Content", b"Transfer-Encoding: chunked"), [], 0),
            ((b"304 Not Modified", b"Content-Length: 5"), [b"Content-Length: 5"], 5),
            ((b"304 Not Modified",), [], 0),
            ((b"304 Not Modified", b"Transfer-Encoding: chunked"), [], 0),
        ],
    )
    def test_framing(self, lines: tuple[bytes, ...], fields: list[bytes], length: int) -> None:
        first, *others = lines
        scene = Scene()
        assert scene.head(b"HTTP/1.1 " + first, *others) == (fields, length)
        assert scene.relay.status == int(first[:3])

    @pytest.mark.parametrize("coding", [(), (b"Transfer-Encoding: chunked",)])
    def test_of_a_head_request(self, coding: tuple[bytes, ...]) -> None:
        scene = Scene(method="HEAD")
        assert scene.relay.bodiless
        assert scene.head(b"HTTP/1.1 200 OK", *coding) == ([], 0)

    def test_status_and_reason_pass(self) -> None:
        scene = Scene()
        scene.head(b"HTTP/1.1 299 Whatever it says")
        assert scene.taken.told[0][:3] == ("head", 299, b"Whatever it says")


class TestOwnFields:
    def test_ours_replace_the_endpoints(self) -> None:
        scene = Scene(info=INFO)
        scene.relay.started -= 2
        fields, _ = scene.head(b"HTTP/1.1 200 OK", b"X-Request-Id: theirs", b"X-Proxy-Id: theirs")
        assert fields[:2] == [b"x-request-id: " + b"1" * 32, INFO]
        address, seconds = fields[2].split(b"\r\n")
        assert address == b"x-upstream-addr: 10.0.0.1:80"
        assert seconds.startswith(b"x-upstream-response-time: ")
        assert float(seconds.rpartition(b" ")[2]) >= 2

    def test_the_endpoints_pass_when_we_have_none(self) -> None:
        fields, _ = Scene().head(b"HTTP/1.1 200 OK", b"X-Request-Id: theirs", b"X-A: b")
        assert fields == [b"X-A: b", b"X-Request-Id: theirs"]

    def test_all_that_were_contacted(self) -> None:
        scene = Scene(info=INFO, attempts=[Attempt("10.0.0.9:80", 1.25)])
        fields, _ = scene.head(b"HTTP/1.1 200 OK")
        address, seconds = fields[2].split(b"\r\n")
        assert address == b"x-upstream-addr: 10.0.0.9:80, 10.0.0.1:80"
        assert seconds.startswith(b"x-upstream-response-time: 1.250, ")

    def test_of_those_in_vain(self) -> None:
        assert upstream_lines([Attempt("a:1", 0.004), Attempt("b:2", 2.5)]) == (
            b"x-upstream-addr: a:1, b:2\r\nx-upstream-response-time: 0.004, 2.500"
        )


class TestCookies:
    def test_that_are_due(self) -> None:
        issue = Issue(due=True)
        fields, _ = Scene(cookies=issue).head(b"HTTP/1.1 200 OK")
        assert fields == [b"Set-Cookie: session=sp1.0", b"Set-Cookie: session_lb=sp1.0"]
        assert issue.asked == [((), False)]

    def test_that_depend_on_those_of_the_response(self) -> None:
        issue = Issue(due=False)
        fields, _ = Scene(cookies=issue).head(b"HTTP/1.1 200 OK", b"Set-Cookie: session=app")
        assert fields[0] == b"Set-Cookie: session=app"
        assert issue.asked == [((b"session=app",), False)]

    def test_that_are_not_asked_for(self) -> None:
        issue = Issue(due=False)
        assert Scene(cookies=issue).head(b"HTTP/1.1 200 OK")[0] == []
        assert issue.asked == []


class TestInterim:
    def test_passes_without_what_is_of_the_connection(self) -> None:
        scene = Scene()
        lines = (b"HTTP/1.1 103 Early Hints", b"Link: </a.css>", b"Content-Length: 3")
        scene.relay.interim(ResponseHead(b"\r\n".join(lines)))
        assert scene.taken.told == [("interim", 103, b"Early Hints", [b"Link: </a.css>"])]
        assert scene.relay.status == 0


class TestSwitch:
    def test_to_what_was_asked_for(self) -> None:
        scene = Scene(upgrade=b"websocket")
        lines = (b"Upgrade: websocket", b"Connection: Upgrade", b"Content-Length: 4", b"X: y")
        fields, length = scene.head(b"HTTP/1.1 101 Switching Protocols", *lines)
        assert (fields, length) == ([b"X: y", b"Upgrade: websocket"], 0)
        assert scene.ended == ["switched"]

    def test_nothing_is_called_after(self) -> None:
        scene = Scene(upgrade=b"websocket")
        scene.head(b"HTTP/1.1 101 Switching", b"Upgrade: websocket", b"Connection: Upgrade")
        scene.relay.end()
        scene.relay.failed(UpstreamClosed("gone"))
        assert scene.ended == ["switched"]

    @pytest.mark.parametrize(
        ("upgrade", "lines"),
        [
            (None, (b"Upgrade: websocket", b"Connection: Upgrade")),
            (b"websocket", (b"Upgrade: websocket",)),
            (b"websocket", (b"Connection: Upgrade",)),
            (b"websocket", ()),
        ],
    )
    def test_that_is_none(self, upgrade: bytes | None, lines: tuple[bytes, ...]) -> None:
        scene = Scene(upgrade=upgrade)
        with pytest.raises(UpstreamProtocolError):
            scene.head(b"HTTP/1.1 101 Switching Protocols", *lines)
        assert scene.taken.told == []
        assert scene.relay.status == 0


class TestBody:
    def test_is_counted_and_passed_on(self) -> None:
        scene = Scene()
        scene.relay.data(b"one")
        scene.relay.data(b"three")
        scene.relay.flush()
        assert scene.taken.told == [("data", b"one"), ("data", b"three"), ("flush",)]
        assert scene.relay.sent == 8

    def test_the_endpoint_takes_more(self) -> None:
        scene = Scene()
        scene.relay.writable()
        assert scene.taken.told == [("resume_body",)]

    def test_ends_once(self) -> None:
        scene = Scene()
        scene.relay.end()
        scene.relay.end()
        scene.relay.failed(UpstreamClosed("gone"))
        assert scene.ended == ["responded"]

    def test_fails_once(self) -> None:
        scene, error = Scene(), UpstreamClosed("gone")
        scene.relay.failed(error)
        scene.relay.failed(error)
        scene.relay.end()
        assert scene.ended == [error]

    def test_nobody_is_told_after_the_end(self) -> None:
        scene = Scene()
        scene.relay.end()
        scene.relay.flush()
        scene.relay.writable()
        assert scene.taken.told == []
