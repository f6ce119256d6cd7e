"""dataplane/replies.py: what we say ourselves, and what becomes of an odd request in it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from stickyproxy.base.errors import (
    BadRequest,
    ClientStalled,
    ConnectError,
    InvalidHost,
    OutOfResources,
    UpstreamClosed,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from stickyproxy.dataplane import replies
from stickyproxy.dataplane.outcome import Outcome
from stickyproxy.dataplane.replies import REASONS, Reply
from stickyproxy.semantics.forwarded import TrustedProxies
from stickyproxy.semantics.request import ClientRequest, Peer

SOON = (b"Retry-After: 1",)
PEER = Peer(
    "192.0.2.7", "192.0.2.1", 80, secure=False, trusted_proxies=TrustedProxies((), unix=False)
)


class Head:
    """A request as a protocol has parsed it."""

    peer = PEER
    http11 = True
    body_length = 0
    wants_upgrade = False
    version = "HTTP/1.1"

    def __init__(self, host: bytes, target: bytes, method: str) -> None:
        self.method = method
        self.target = target
        self.fields: Sequence[tuple[bytes, bytes]] = ((b"Host", host),)

    def header(self, name: str) -> bytes | None:
        raise NotImplementedError


def request(
    target: bytes = b"/cart?item=1", host: bytes = b"shop.local", method: str = "GET"
) -> ClientRequest:
    return ClientRequest(Head(host, target, method), b"0" * 32)


NOT_FOUND = 'no service is published for host "shop.local" and path "/cart"'
SHOP = "service shop"
FAILED: dict[Exception, tuple[int, str, str]] = {
    ConnectError("refused"): (502, f"{SHOP}: no endpoint accepts connections", "retries-spent"),
    UpstreamClosed("gone"): (
        502,
        f"{SHOP}: the endpoint gave no usable response",
        "upstream-reset",
    ),
    UpstreamProtocolError("odd"): (
        502,
        f"{SHOP}: the endpoint gave no usable response",
        "upstream-malformed",
    ),
    UpstreamTimeout("slow"): (504, f"{SHOP}: the endpoint did not respond in time", "timeout-head"),
    OutOfResources("none"): (503, "this proxy is out of resources", "no-resources"),
    ClientStalled("stuck"): (408, "the request body did not come", "timeout-client"),
    BadRequest(400, "a bare LF"): (400, "a bare LF", "bad-request"),
}

REPLIES = [
    (replies.refusal(BadRequest(431, "too much")), 431, "too much", Outcome.BAD_REQUEST, (), True),
    (replies.refusal(BadRequest(408, "slow")), 408, "slow", Outcome.CLIENT_STALLED, (), True),
    (replies.unknown(request()), 404, NOT_FOUND, Outcome.NO_ROUTE, (), False),
    (
        replies.redirect(request(), b"https://shop.example"),
        302,
        "moved to https://shop.example/cart?item=1",
        Outcome.REDIRECTED,
        (b"Location: https://shop.example/cart?item=1",),
        False,
    ),
    (
        replies.redirect(request(b"*", method="OPTIONS"), b"https://shop.example"),
        302,
        "moved to https://shop.example/",
        Outcome.REDIRECTED,
        (b"Location: https://shop.example/",),
        False,
    ),
    (
        replies.no_endpoint("shop"),
        503,
        "service shop has no usable endpoint",
        Outcome.NO_ENDPOINT,
        SOON,
        False,
    ),
    (
        replies.bug(),
        500,
        "stickyproxy failed to handle this request",
        Outcome.BUG,
        (),
        True,
    ),
]


@pytest.mark.parametrize("row", REPLIES, ids=lambda row: str(row[0].status))
def test_replies(row: tuple[Reply, int, str, Outcome, tuple[bytes, ...], bool]) -> None:
    reply, status, text, outcome, fields, last = row
    assert (reply.status, reply.text, reply.outcome) == (status, text, outcome)
    assert (reply.fields, reply.last) == (fields, last)
    assert reply.body() == text.encode() + b"\n"


def test_a_challenge_is_answered_to_the_byte() -> None:
    reply = replies.acme_challenge(b"token.thumbprint")
    assert (reply.status, reply.outcome, reply.last) == (200, Outcome.ACME, False)
    assert reply.body() == b"token.thumbprint"


@pytest.mark.parametrize("error", FAILED, ids=lambda error: type(error).__name__)
def test_failures(error: Exception) -> None:
    """What the client learns is not what the error says: that names endpoints, for the log."""
    reply = replies.failure("shop", error)
    assert (reply.status, reply.text, reply.outcome.value) == FAILED[error]
    assert reply.fields == (SOON if reply.status == 503 else ())
    assert reply.last == isinstance(error, BadRequest | ClientStalled)


def test_each_status_has_its_reason() -> None:
    statuses = {reply.status for reply, *_ in REPLIES} | {status for status, *_ in FAILED.values()}
    assert statuses <= REASONS.keys()


@pytest.mark.parametrize(
    "odd", [b"\x1b[31m", b'"<script>', b"\xff\xfe", b"\x00", b"\r\nX: y", "ä".encode()]
)
def test_what_a_client_sent_is_printable(odd: bytes) -> None:
    for reply in (
        replies.unknown(request(b"/" + odd, odd)),
        replies.redirect(request(b"/" + odd), b"https://shop.example"),
        replies.refusal(InvalidHost(odd)),
    ):
        body = reply.body()
        assert body.endswith(b"\n")
        assert body[:-1].decode("ascii").isprintable()


def test_a_long_path_is_cut() -> None:
    assert len(replies.unknown(request(b"/" + b"a" * 8000)).body()) < 400


def test_a_message_that_is_not_ascii_is_escaped() -> None:
    assert replies.refusal(BadRequest(400, "naïve")).body() == b"na\\xefve\n"
