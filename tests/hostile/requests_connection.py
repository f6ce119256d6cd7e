"""The life of a connection: HTTP/1.0, upgrades, Expect, pipelining, and how much is too much."""

from __future__ import annotations

from tests.hostile.arena import early, switching
from tests.hostile.case import (
    Outcomes,
    RequestCase,
    ask,
    declined,
    either,
    passed,
    refused,
    switched,
    then,
    then_refused,
    told,
    unfinished,
)

NEXT = ask("GET /next")
INNER = ask("GET /inner")
V10 = "HTTP/1.0"


def old(line: str, *lines: str, body: str = "", host: str | None = "hostile.test") -> bytes:
    return ask(line, *lines, body=body, host=host, version=V10)


HTTP_1_0 = [
    RequestCase("1.0-plain", "RFC 9112 9.3", old("GET /"), passed("GET /", closed=True)),
    RequestCase("1.0-then-request", "RFC 9112 9.3", old("GET /") + NEXT, either(passed("GET /", closed=True), refused())),
    RequestCase("1.0-keep-alive", "RFC 9112 9.3", old("GET /", "Connection: keep-alive") + NEXT, either(then(passed("GET /"), passed("GET /next")), passed("GET /", closed=True))),
    RequestCase("1.0-keep-alive-upper", "RFC 9112 9.3", old("GET /", "Connection: Keep-Alive") + NEXT, either(then(passed("GET /"), passed("GET /next")), passed("GET /", closed=True))),
    RequestCase("1.0-keep-alive-and-close", "RFC 9112 9.3", old("GET /", "Connection: keep-alive, close") + NEXT, passed("GET /", closed=True)),
    RequestCase("1.0-proxy-connection", "RFC 9112 C.2.2", old("GET /", "Proxy-Connection: keep-alive") + NEXT, either(passed("GET /", lacks=["Proxy-Connection"], closed=True), then(passed("GET /", lacks=["Proxy-Connection"]), passed("GET /next")))),
    RequestCase("1.0-no-host", "issue 7 row 10, RFC 9112 3.2", old("GET /", host=None), either(passed("GET /"), declined(400, 404))),
    RequestCase("1.0-no-host-keep-alive", "issue 7 row 10, RFC 9112 3.2", old("GET /", "Connection: keep-alive", host=None), either(passed("GET /"), declined(400, 404))),
    RequestCase("1.0-no-host-post", "issue 7 row 10, RFC 9112 3.2", old("POST /a", "Content-Length: 5", body="hello", host=None), either(passed("POST /a", "hello"), declined(400, 404))),
    RequestCase("1.0-empty-host", "issue 7 row 10, RFC 9112 3.2", old("GET /", host=""), either(passed("GET /"), declined(400, 404))),
    RequestCase("1.0-two-hosts", "RFC 9112 3.2", old("GET /", "Host: other.test"), declined(400)),
    RequestCase("1.0-bad-host", "RFC 9112 3.2", old("GET /", host="a b"), declined(400)),
    RequestCase("1.0-post", "RFC 9112 6.3", old("POST /a", "Content-Length: 5", body="hello"), passed("POST /a", "hello", closed=True)),
    RequestCase("1.0-post-no-length", "RFC 1945 7.2.2", old("POST /a", body="GET /inner HTTP/1.1\r\nHost: hostile.test\r\n\r\n"), either(passed("POST /a", closed=True), refused(400, 411))),
    RequestCase("1.0-two-lengths", "RFC 9112 6.3", old("POST /a", "Content-Length: 5", "Content-Length: 6", body="hello"), refused()),
    RequestCase("1.0-upgrade", "issue 7 row 11, RFC 9110 7.8", old("GET /", "Connection: Upgrade", "Upgrade: websocket"), passed("GET /", lacks=["Upgrade", "Connection"]), switching),
    RequestCase("1.0-upgrade-keep-alive", "issue 7 row 11, RFC 9110 7.8", old("GET /", "Connection: keep-alive, Upgrade", "Upgrade: foo"), passed("GET /", lacks=["Upgrade", "Connection"]), switching),
    RequestCase("1.0-upgrade-then-bytes", "issue 7 row 11, RFC 9110 7.8", old("GET /", "Connection: Upgrade", "Upgrade: foo", body="bytes"), passed("GET /", lacks=["Upgrade"], closed=True), switching),
    RequestCase("1.0-h2c", "RFC 9110 7.8", old("GET /", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"), passed("GET /", lacks=["Upgrade", "HTTP2-Settings"])),
    RequestCase("1.0-expect", "RFC 9110 10.1.1", old("POST /a", "Expect: 100-continue", "Content-Length: 5", body="hello"), either(passed("POST /a", "hello"), declined(400, 417))),
    RequestCase("1.0-head", "RFC 9110 9.3.2", old("HEAD /"), passed("HEAD /", closed=True)),
    RequestCase("1.0-connection-names-host", "RFC 9110 7.6.1", old("GET /", "Connection: Host"), either(passed("GET /"), declined(400, 404))),
]  # fmt: skip


def upgrade(to: str, *lines: str, body: str = "", **more: str) -> bytes:
    return ask("GET /", "Connection: Upgrade", f"Upgrade: {to}", *lines, body=body, **more)


def ignored(body: str = "") -> Outcomes:
    return passed("GET /", body, lacks=["Upgrade", "Connection", "HTTP2-Settings"])


WS = ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
UPGRADES = [
    RequestCase("upgrade-websocket", "RFC 6455 4.1", upgrade("websocket", *WS), switched("GET /", b"", has=["Upgrade: websocket"]), switching),
    RequestCase("upgrade-other", "RFC 9110 7.8", upgrade("foo"), either(switched("GET /", b""), ignored()), switching),
    RequestCase("upgrade-bytes-before-101", "issue 7 row 9, RFC 9110 7.8", upgrade("foo", body="early bytes"), either(switched("GET /", b"early bytes"), then(ignored(), refused())), switching),
    RequestCase("upgrade-websocket-bytes-before-101", "issue 7 row 9, RFC 6455 4.1", upgrade("websocket", *WS, body="\x81\x85\0\0\0\0hello"), either(switched("GET /", b"\x81\x85\0\0\0\0hello"), then(ignored(), refused())), switching),
    RequestCase("upgrade-bytes-in-next-write", "issue 7 row 9, RFC 9110 7.8", (upgrade("foo"), b"early ", b"bytes"), either(switched("GET /", b"early bytes"), then(ignored(), refused())), switching),
    RequestCase("upgrade-request-before-101", "issue 7 row 9", upgrade("foo", body=INNER.decode()), either(switched("GET /", INNER), then(ignored(), passed("GET /inner"))), switching),
    RequestCase("upgrade-declined", "RFC 9110 7.8", upgrade("foo"), passed("GET /")),
    RequestCase("upgrade-declined-then-request", "RFC 9110 7.8", upgrade("foo") + INNER, either(then(passed("GET /"), passed("GET /inner")), passed("GET /", closed=True))),
    RequestCase("upgrade-declined-then-rubbish", "RFC 9110 7.8", upgrade("foo", body="rubbish\r\n\r\n"), either(then(passed("GET /"), refused()), passed("GET /", closed=True))),
    RequestCase("upgrade-h2c", "h2c smuggling (Bishop Fox 2020)", ask("GET /", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"), ignored(), switching),
    RequestCase("upgrade-h2c-upper", "h2c smuggling", upgrade("H2C"), ignored(), switching),
    RequestCase("upgrade-h2c-settings-unnamed", "h2c smuggling", upgrade("h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"), ignored(), switching),
    RequestCase("upgrade-h2c-blanks", "h2c smuggling", upgrade("\th2c "), ignored(), switching),
    RequestCase("upgrade-h2c-and-other", "h2c smuggling", upgrade("h2c, foo"), either(switched("GET /", b"", has=["Upgrade: foo"]), ignored()), switching),
    RequestCase("upgrade-h2c-two-lines", "h2c smuggling", upgrade("foo", "Upgrade: h2c"), either(switched("GET /", b"", has=["Upgrade: foo"]), ignored(), refused()), switching),
    RequestCase("upgrade-h2c-versioned", "h2c smuggling", upgrade("h2c/1"), either(ignored(), refused(), switched("GET /", b"")), switching),
    RequestCase("upgrade-h2c-14", "h2c smuggling: drafts", upgrade("h2c-14"), either(ignored(), refused(), switched("GET /", b"")), switching),
    RequestCase("upgrade-http-2.0", "h2c smuggling", upgrade("HTTP/2.0"), either(ignored(), refused(), switched("GET /", b"")), switching),
    RequestCase("upgrade-h2c-then-preface", "h2c smuggling", upgrade("h2c", body="PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), either(then_refused(ignored(), 400, 505), passed("GET /", lacks=["Upgrade"], closed=True)), switching),
    RequestCase("upgrade-h2c-hides-request", "RFC 9112 11.2", ask("POST /a", "Connection: Upgrade", "Upgrade: h2c", f"Content-Length: {len(INNER)}", body=INNER), either(passed("POST /a", INNER, lacks=["Upgrade"]), refused())),
    RequestCase("upgrade-without-connection", "RFC 9110 7.8", ask("GET /", "Upgrade: websocket"), ignored(), switching),
    RequestCase("upgrade-connection-only", "RFC 9110 7.8", ask("GET /", "Connection: Upgrade"), passed("GET /", lacks=["Upgrade"]), switching),
    RequestCase("upgrade-empty", "RFC 9110 7.8", upgrade(""), ignored(), switching),
    RequestCase("upgrade-commas", "RFC 9110 7.8", upgrade(",,"), ignored(), switching),
    RequestCase("upgrade-not-allowed-here", "docs: websocket_endpoints", ask("GET /", "Connection: Upgrade", "Upgrade: websocket", *WS, host="plain.test"), ignored(), switching),
    RequestCase("upgrade-not-allowed-then-request", "docs: websocket_endpoints", ask("GET /", "Connection: Upgrade", "Upgrade: websocket", host="plain.test") + NEXT, either(then(ignored(), passed("GET /next")), (*passed("GET /", lacks=["Upgrade"], closed=True),)), switching),
    RequestCase("upgrade-tls", "RFC 2817 3", upgrade("TLS/1.2"), either(switched("GET /", b""), ignored()), switching),
    RequestCase("upgrade-with-length", "httptools issue 124: it drops the body", ask("POST /a", "Connection: Upgrade", "Upgrade: foo", "Content-Length: 5", body="hello"), either(passed("POST /a", "hello"), refused())),
    RequestCase("upgrade-with-chunks", "httptools issue 124, uvicorn issue 2722", ask("POST /a", "Connection: Upgrade", "Upgrade: foo", "Transfer-Encoding: chunked", body="5\r\nhello\r\n0\r\n\r\n"), either(passed("POST /a", "hello"), refused())),
    RequestCase("upgrade-with-length-hides-request", "RFC 9112 11.2", ask("GET /", "Connection: Upgrade", "Upgrade: foo", f"Content-Length: {len(INNER)}", body=INNER), either(passed("GET /", INNER), refused())),
    RequestCase("upgrade-with-length-then-request", "RFC 9112 11.2", ask("POST /a", "Connection: Upgrade", "Upgrade: foo", "Content-Length: 5", body="hello") + NEXT, either(then(passed("POST /a", "hello"), passed("GET /next")), passed("POST /a", "hello", closed=True), refused())),
    RequestCase("upgrade-with-2^64-1", "issue 7 row 1", upgrade("foo", "Content-Length: 18446744073709551615"), refused()),
    RequestCase("upgrade-head", "RFC 9110 7.8", ask("HEAD /", "Connection: Upgrade", "Upgrade: foo"), passed("HEAD /")),
    RequestCase("upgrade-options-asterisk", "RFC 9110 7.8", ask("OPTIONS *", "Connection: Upgrade", "Upgrade: foo"), either(passed("OPTIONS *"), refused())),
    RequestCase("upgrade-nobody-there", "RFC 9110 15.6.4", ask("GET /", "Connection: Upgrade", "Upgrade: websocket", host="empty.test"), declined(503), switching),
    RequestCase("upgrade-nobody-there-then-bytes", "RFC 9110 7.8", ask("GET /", "Connection: Upgrade", "Upgrade: websocket", host="empty.test") + INNER, either(declined(503), then(told(503), passed("GET /inner"))), switching),
    RequestCase("upgrade-close", "RFC 9112 9.6", ask("GET /", "Connection: Upgrade, close", "Upgrade: foo"), passed("GET /", closed=True)),
]  # fmt: skip

EXPECT = [
    RequestCase("expect-with-body", "RFC 9110 10.1.1", ask("POST /a", "Expect: 100-continue", "Content-Length: 5", body="hello"), passed("POST /a", "hello")),
    RequestCase("expect-chunked", "RFC 9110 10.1.1", ask("POST /a", "Expect: 100-continue", "Transfer-Encoding: chunked", body="5\r\nhello\r\n0\r\n\r\n"), passed("POST /a", "hello")),
    RequestCase("expect-upper", "RFC 9110 10.1.1", ask("POST /a", "Expect: 100-CONTINUE", "Content-Length: 5", body="hello"), either(passed("POST /a", "hello"), declined(417))),
    RequestCase("expect-no-body", "RFC 9110 10.1.1", ask("GET /", "Expect: 100-continue"), passed("GET /")),
    RequestCase("expect-zero", "RFC 9110 10.1.1", ask("POST /a", "Expect: 100-continue", "Content-Length: 0"), passed("POST /a")),
    RequestCase("expect-zero-then-request", "RFC 9110 10.1.1", ask("POST /a", "Expect: 100-continue", "Content-Length: 0") + NEXT, then(passed("POST /a"), passed("GET /next"))),
    RequestCase("expect-other", "RFC 9110 10.1.1", ask("GET /", "Expect: the-spanish-inquisition"), either(passed("GET /"), declined(400, 417))),
    RequestCase("expect-empty", "RFC 9110 10.1.1", ask("GET /", "Expect:"), either(passed("GET /"), declined(400, 417))),
    RequestCase("expect-list", "RFC 9110 10.1.1", ask("POST /a", "Expect: x, 100-continue", "Content-Length: 5", body="hello"), either(passed("POST /a", "hello"), declined(400, 417))),
    RequestCase("expect-obfuscated", "Kettle 2025: Expect: y 100-continue", ask("POST /a", "Expect: y 100-continue", "Content-Length: 5", body="hello"), either(passed("POST /a", "hello"), declined(400, 417))),
    RequestCase("expect-answered-early", "Kettle 2025: 0.CL by Expect", ask("POST /a", "Expect: 100-continue", f"Content-Length: {len(INNER)}", body=INNER), passed("POST /a", INNER), early),
    RequestCase("expect-on-get-answered-early", "Kettle 2025", ask("GET /a", "Expect: 100-continue", f"Content-Length: {len(INNER)}", body=INNER), either(passed("GET /a", INNER), refused(400, 413, 417)), early),
    RequestCase("expect-body-missing", "RFC 9110 10.1.1", ask("POST /a", "Expect: 100-continue", "Content-Length: 5"), unfinished()),
    RequestCase("expect-nobody-there", "RFC 9110 10.1.1", ask("POST /a", "Expect: 100-continue", "Content-Length: 5", body="hello", host="empty.test"), declined(503)),
]  # fmt: skip

PIPELINES = [
    RequestCase("pipe-two", "RFC 9112 9.3.2", ask("GET /1") + ask("GET /2"), then(passed("GET /1"), passed("GET /2"))),
    RequestCase("pipe-twenty", "RFC 9112 9.3.2", b"".join(ask(f"GET /{n}") for n in range(20)), then(*[passed(f"GET /{n}") for n in range(20)])),
    RequestCase("pipe-split-anywhere", "RFC 9112 9.3.2", ((ask("GET /1") + NEXT)[:50], (ask("GET /1") + NEXT)[50:]), then(passed("GET /1"), passed("GET /next"))),
    RequestCase("pipe-byte-by-byte", "RFC 9112 9.3.2", tuple(bytes([c]) for c in ask("GET /1") + NEXT), then(passed("GET /1"), passed("GET /next"))),
    RequestCase("pipe-bodies", "RFC 9112 9.3.2", (ask("POST /a", "Content-Length: 5", body="hello") + NEXT) * 2, then(passed("POST /a", "hello"), passed("GET /next"), passed("POST /a", "hello"), passed("GET /next"))),
    RequestCase("pipe-behind-close", "RFC 9112 9.6", ask("GET /", "Connection: close") + INNER, either(passed("GET /", closed=True), refused())),
    RequestCase("pipe-behind-rubbish", "RFC 9112 9.3.2", ask("GET /1") + b"rubbish\r\n\r\n" + INNER, then_refused(passed("GET /1"))),
    RequestCase("pipe-behind-bad-host", "RFC 9112 3.2", ask("GET /1") + ask("GET /2", host="a b"), then(passed("GET /1"), declined(400))),
    RequestCase("pipe-behind-two-lengths", "RFC 9112 6.3", ask("GET /1") + ask("POST /2", "Content-Length: 1", "Content-Length: 2", body="ab") + INNER, then_refused(passed("GET /1"))),
    RequestCase("pipe-behind-2^64-1", "issue 7 row 1", ask("POST /2", "Content-Length: 18446744073709551615") + INNER, refused()),
    RequestCase("pipe-heads", "RFC 9110 9.3.2", ask("HEAD /1") + ask("HEAD /2") + NEXT, then(passed("HEAD /1"), passed("HEAD /2"), passed("GET /next"))),
    RequestCase("pipe-404s", "RFC 9112 9.3.2", ask("GET /x", host="rooted.test") * 10, told(*[404] * 10)),
    RequestCase("pipe-302s", "RFC 9112 9.3.2", ask("GET /x", host="old.test") * 10, told(*[302] * 10)),
    RequestCase("pipe-503s", "RFC 9112 9.3.2", ask("GET /x", host="empty.test") * 10, told(*[503] * 10)),
    RequestCase("pipe-404s-between", "RFC 9112 9.3.2", ask("GET /1") + ask("GET /x", host="rooted.test") + ask("GET /2"), then(passed("GET /1"), told(404), passed("GET /2"))),
    RequestCase("pipe-404-with-body", "RFC 9112 9.3", ask("POST /x", f"Content-Length: {len(INNER)}", body=INNER, host="rooted.test") + NEXT, either(then(told(404), passed("GET /next")), declined(404))),
    RequestCase("pipe-404-with-bad-chunks", "RFC 9112 9.3", ask("POST /x", "Transfer-Encoding: chunked", body="x\r\n", host="rooted.test") + INNER, either(declined(404), refused(), then(told(404), refused()))),
    RequestCase("pipe-302-head", "RFC 9110 9.3.2", ask("HEAD /x", host="old.test"), told(302)),
    RequestCase("pipe-answered-early", "RFC 9112 9.3.2", ask("POST /1", "Content-Length: 5", body="hello") + NEXT, then(passed("POST /1", "hello"), passed("GET /next")), early),
    RequestCase("pipe-unfinished-last", "RFC 9112 8", ask("GET /1") + ask("GET /2")[:-2], passed("GET /1")),
    RequestCase("pipe-hosts", "RFC 9110 7.4", ask("GET /1") + ask("GET /app/2", host="rooted.test") + ask("GET /3", host="sticky.test"), then(passed("GET /1"), passed("GET /2", host="rooted.test"), passed("GET /3", host="sticky.test"))),
]  # fmt: skip

LIMITS = [
    RequestCase("limit-target-7000", "RFC 9112 3", ask("GET /" + "a" * 7000), passed("GET /" + "a" * 7000)),
    RequestCase("limit-target-9000", "RFC 9110 15.5.15", ask("GET /" + "a" * 9000), refused(414)),
    RequestCase("limit-target-70000", "RFC 9110 15.5.15", ask("GET /" + "a" * 70000), refused(414)),
    RequestCase("limit-target-never-ends", "RFC 9110 15.5.15", b"GET /" + b"a" * 70000, refused(414)),
    RequestCase("limit-method-never-ends", "RFC 9112 3", b"A" * 70000, refused(400, 414, 431, 501)),
    RequestCase("limit-field-9000", "RFC 6585 5", ask("GET /", "X: " + "a" * 9000), refused(431)),
    RequestCase("limit-field-70000", "RFC 6585 5", ask("GET /", "X: " + "a" * 70000), refused(431)),
    RequestCase("limit-field-never-ends", "RFC 6585 5", ask("GET /")[:-2] + b"X: " + b"a" * 70000, refused(431)),
    RequestCase("limit-name-9000", "RFC 6585 5", ask("GET /", "X" * 9000 + ": a"), refused(431)),
    RequestCase("limit-name-never-ends", "RFC 6585 5", ask("GET /")[:-2] + b"X" * 70000, refused(400, 431)),
    RequestCase("limit-100-fields", "RFC 6585 5", ask("GET /", *["X: a"] * 100), passed("GET /")),
    RequestCase("limit-200-fields", "RFC 6585 5", ask("GET /", *["X: a"] * 200), refused(431)),
    RequestCase("limit-3000-fields", "RFC 6585 5", ask("GET /", *["X: a"] * 3000), refused(431)),
    RequestCase("limit-30-kib-head", "issue 7 row 3", ask("GET /", *["X: " + "a" * 5000] * 6), passed("GET /")),
    RequestCase("limit-40-kib-head", "issue 7 row 3", ask("GET /", *["X: " + "a" * 4990] * 8), refused(431)),
    RequestCase("limit-960-kb-head", "issue 7 row 3", ask("GET /", *["X: " + "a" * 7990] * 120), refused(431)),
    RequestCase("limit-960-kb-head-unfinished", "issue 7 row 3", ask("GET /", *["X: " + "a" * 7990] * 120)[:-2], refused(431)),
    RequestCase("limit-head-in-small-writes", "issue 7 row 3", (ask("GET /")[:-2], *[b"X: " + b"a" * 1000 + b"\r\n"] * 60), refused(431)),
    RequestCase("limit-second-head", "issue 7 row 3", ask("GET /1") + ask("GET /2", *["X: " + "a" * 7990] * 120), then_refused(passed("GET /1"), 431)),
    RequestCase("limit-body-1-mb", "no limit", ask("POST /a", "Content-Length: 1000000", body="a" * 1_000_000), passed("POST /a", "a" * 1_000_000)),
    RequestCase("limit-body-of-small-chunks", "issue 7 row 6", ask("POST /a", "Transfer-Encoding: chunked", body="1\r\na\r\n" * 20000 + "0\r\n\r\n"), passed("POST /a", "a" * 20000)),
]  # fmt: skip

CASES = [*HTTP_1_0, *UPGRADES, *EXPECT, *PIPELINES, *LIMITS]
