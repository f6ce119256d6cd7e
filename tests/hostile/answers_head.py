"""Answers of a hostile endpoint: status lines, fields, interim answers, upgrades."""

from __future__ import annotations

from tests.hostile.case import AnswerCase, any_of, ask, bad_gateway, got, only_502, reply

OK = reply("200 OK", "Content-Length: 2", body="ok")
POISON = reply("200 OK", "Content-Length: 6", body="poison")
TOLD = got(200, "ok")
RETRIED = any_of(got(200, "echo GET /asked"), only_502())
MENDED = any_of(TOLD, only_502())


def raw(text: str) -> bytes:
    return text.encode("latin-1")


def line(text: str) -> bytes:
    return raw(f"{text}\r\nContent-Length: 2\r\n\r\nok")


def field(text: str) -> bytes:
    return reply("200 OK", text, "Content-Length: 2", body="ok")


STATUS_LINES = [
    AnswerCase("status-plain", "RFC 9112 4", OK, TOLD),
    AnswerCase("status-byte-by-byte", "RFC 9112 4", tuple(bytes([c]) for c in OK), TOLD),
    AnswerCase("status-http-1.0", "RFC 9110 6.2", line("HTTP/1.0 200 OK"), TOLD, end="close"),
    AnswerCase("status-no-reason", "RFC 9112 4", line("HTTP/1.1 200 "), TOLD),
    AnswerCase("status-no-blank", "RFC 9112 4", line("HTTP/1.1 200"), MENDED),
    AnswerCase("status-reason-latin-1", "RFC 9112 4", line("HTTP/1.1 200 \xe9t\xe9"), TOLD),
    AnswerCase("status-reason-of-5000", "RFC 9112 4", line("HTTP/1.1 200 " + "a" * 5000), any_of(TOLD, only_502())),
    AnswerCase("status-reason-control", "RFC 9112 4", line("HTTP/1.1 200 O\x01K"), MENDED),
    AnswerCase("status-reason-nul", "RFC 9112 4", line("HTTP/1.1 200 O\0K"), MENDED),
    AnswerCase("status-reason-escape", "terminal escapes in logs", line("HTTP/1.1 200 \x1b[31m"), MENDED),
    AnswerCase("status-two-blanks", "RFC 9112 4", line("HTTP/1.1  200 OK"), only_502()),
    AnswerCase("status-tab", "RFC 9112 4", line("HTTP/1.1\t200 OK"), only_502()),
    AnswerCase("status-599", "RFC 9110 15", line("HTTP/1.1 599 Odd"), got(599, "ok")),
    AnswerCase("status-299", "RFC 9110 15", line("HTTP/1.1 299 Odd"), got(299, "ok")),
    AnswerCase("status-600", "RFC 9110 15", line("HTTP/1.1 600 Odd"), any_of(got(600, "ok"), only_502())),
    AnswerCase("status-999", "RFC 9110 15", line("HTTP/1.1 999 Odd"), any_of(got(999, "ok"), only_502())),
    AnswerCase("status-099", "issue 7 row 4, RFC 9110 15", line("HTTP/1.1 099 Odd"), only_502()),
    AnswerCase("status-000", "issue 7 row 4, RFC 9110 15", line("HTTP/1.1 000 Odd"), only_502()),
    AnswerCase("status-001", "issue 7 row 4, RFC 9110 15", line("HTTP/1.1 001 Odd"), only_502()),
    AnswerCase("status-099-then-another", "issue 7 row 4", reply("099 Odd", "Content-Length: 5", body="hello") + OK, only_502()),
    AnswerCase("status-20", "RFC 9112 4", line("HTTP/1.1 20 OK"), only_502()),
    AnswerCase("status-2000", "RFC 9112 4", line("HTTP/1.1 2000 OK"), only_502()),
    AnswerCase("status-letters", "RFC 9112 4", line("HTTP/1.1 abc OK"), only_502()),
    AnswerCase("status-negative", "RFC 9112 4", line("HTTP/1.1 -20 OK"), only_502()),
    AnswerCase("status-hex", "RFC 9112 4", line("HTTP/1.1 0xC OK"), only_502()),
    AnswerCase("status-point", "RFC 9112 4", line("HTTP/1.1 200.1 OK"), only_502()),
    AnswerCase("status-superscript", "RFC 9112 4", line("HTTP/1.1 20\xb2 OK"), only_502()),
    AnswerCase("status-http-2", "RFC 9112 2.3", line("HTTP/2 200 OK"), only_502()),
    AnswerCase("status-http-2.0", "RFC 9112 2.3", line("HTTP/2.0 200 OK"), only_502()),
    AnswerCase("status-http-0.9", "RFC 9112 2.3", line("HTTP/0.9 200 OK"), only_502()),
    AnswerCase("status-http-1.2", "RFC 9110 2.5", line("HTTP/1.2 200 OK"), any_of(TOLD, only_502())),
    AnswerCase("status-lower-http", "RFC 9112 2.3", line("http/1.1 200 OK"), only_502()),
    AnswerCase("status-icy", "RFC 9112 2.3", line("ICY 200 OK"), only_502(), end="close"),
    AnswerCase("status-rtsp", "RFC 9112 2.3", line("RTSP/1.0 200 OK"), only_502()),
    AnswerCase("status-rubbish", "RFC 9112 4", raw("rubbish\r\n\r\n"), only_502()),
    AnswerCase("status-ssh", "RFC 9112 4", raw("SSH-2.0-OpenSSH_9.2\r\n"), only_502(), end="close"),
    AnswerCase("status-tls-alert", "RFC 9112 4", raw("\x15\x03\x01\x00\x02\x02\x46"), only_502()),
    AnswerCase("status-http-2-settings", "RFC 9113 3.4", b"\0\0\0\x04\0\0\0\0\0", only_502()),
    AnswerCase("status-http-0.9-body", "RFC 9112 2.3", raw("<html>hello</html>"), only_502(), end="close"),
    AnswerCase("status-leading-crlf", "RFC 9112 2.2", b"\r\n" + OK, any_of(TOLD, only_502())),
    AnswerCase("status-leading-blank", "RFC 9112 4", b" " + OK, only_502()),
    AnswerCase("status-nothing", "RFC 9112 8", b"", RETRIED, end="close"),
    AnswerCase("status-nothing-reset", "RFC 9112 8", b"", RETRIED, end="reset"),
    AnswerCase("status-half", "RFC 9112 8", b"HTTP/1.1 20", only_502(), end="close"),
    AnswerCase("status-half-head", "RFC 9112 8", b"HTTP/1.1 200 OK\r\nContent-Le", only_502(), end="close"),
    AnswerCase("status-half-head-reset", "RFC 9112 8", b"HTTP/1.1 200 OK\r\nContent-Le", only_502(), end="reset"),
    AnswerCase("status-never-ends", "limits", b"HTTP/1.1 200 " + b"a" * 300_000, only_502()),
]  # fmt: skip

FIELDS = [
    AnswerCase("field-lf-everywhere", "RFC 9112 2.2", raw("HTTP/1.1 200 OK\nContent-Length: 2\n\nok"), MENDED),
    AnswerCase("field-lf-after-one", "RFC 9112 2.2", field("X: a\nY: b"), MENDED),
    AnswerCase("field-cr-in-value", "RFC 9112 2.2", field("X: a\rb"), only_502()),
    AnswerCase("field-cr-makes-field", "RFC 9112 11.1", field("X: a\rSet-Cookie: b=c"), only_502()),
    AnswerCase("field-nul", "RFC 9110 5.5", field("X: a\0b"), only_502()),
    AnswerCase("field-control", "RFC 9110 5.5", field("X: a\x01b"), MENDED),
    AnswerCase("field-latin-1", "RFC 9110 5.5", field("X: \xe9\xff"), got(200, "ok", has=["X: \xe9\xff"])),
    AnswerCase("field-folded", "RFC 9112 5.2", field("X: a\r\n b"), MENDED),
    AnswerCase("field-folded-first", "RFC 9112 5.2", raw("HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\nok"), MENDED),
    AnswerCase("field-folded-length", "RFC 9112 5.2", raw("HTTP/1.1 200 OK\r\nContent-Length:\r\n 2\r\n\r\nok"), MENDED),
    AnswerCase("field-no-colon", "RFC 9112 5", field("no colon"), only_502()),
    AnswerCase("field-empty-name", "RFC 9112 5", field(": a"), only_502()),
    AnswerCase("field-blank-before-colon", "RFC 9112 5.1", field("X : a"), any_of(got(200, "ok", has=["X: a"]), only_502())),
    AnswerCase("field-latin-1-name", "RFC 9110 5.1", field("X\xe9: a"), MENDED),
    AnswerCase("field-parens-name", "RFC 9110 5.1", field("X(Y): a"), MENDED),
    AnswerCase("field-of-50000", "limits", field("X: " + "a" * 50_000), any_of(TOLD, only_502())),
    AnswerCase("field-of-300000", "limits", field("X: " + "a" * 300_000), only_502()),
    AnswerCase("field-never-ends", "limits", b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000, only_502()),
    AnswerCase("field-300-of-1000", "limits", reply("200 OK", *["X: " + "a" * 1000] * 300, "Content-Length: 0"), only_502()),
    AnswerCase("field-100-cookies", "RFC 6265 3", reply("200 OK", *["Set-Cookie: a=b"] * 100, "Content-Length: 2", body="ok"), TOLD),
    AnswerCase("field-connection-named", "RFC 9110 7.6.1", reply("200 OK", "Connection: X-Mine", "X-Mine: 1", "Content-Length: 2", body="ok"), got(200, "ok", lacks=["X-Mine"])),
    AnswerCase("field-connection-names-length", "RFC 9110 7.6.1", reply("200 OK", "Connection: Content-Length", "Content-Length: 2", body="ok"), MENDED),
    AnswerCase("field-connection-names-cookie", "RFC 9110 7.6.1", reply("200 OK", "Connection: Set-Cookie", "Set-Cookie: a=b", "Content-Length: 2", body="ok"), TOLD),
    AnswerCase("field-keep-alive", "RFC 9110 7.6.1", reply("200 OK", "Keep-Alive: timeout=5", "Proxy-Connection: x", "Content-Length: 2", body="ok"), got(200, "ok", lacks=["Keep-Alive", "Proxy-Connection"])),
    AnswerCase("field-upgrade-without-101", "RFC 9110 7.8", reply("200 OK", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 2", body="ok"), got(200, "ok", lacks=["Upgrade"])),
    AnswerCase("field-ours-forged", "docs: response headers", reply("200 OK", "X-Upstream-Addr: 6.6.6.6:1", "X-Request-Id: forged", "Content-Length: 2", body="ok"), TOLD),
]  # fmt: skip


def interim(status: str, *lines: str, body: str = "") -> bytes:
    return reply(status, *lines, body=body) + OK


UPGRADE = ask("GET /asked", "Connection: Upgrade", "Upgrade: foo")
OLD = ask("GET /asked", version="HTTP/1.0")
INTERIMS = [
    AnswerCase("interim-100", "RFC 9110 15.2.1", interim("100 Continue"), any_of(got(200, "ok", interim=[100]), got(200, "ok"))),
    AnswerCase("interim-102", "RFC 2518 10.1", interim("102 Processing"), got(200, "ok", interim=[102])),
    AnswerCase("interim-103", "RFC 8297 2", interim("103 Early Hints", "Link: </a>; rel=preload"), got(200, "ok", interim=[103])),
    AnswerCase("interim-103-three", "RFC 8297 2", reply("103 Early Hints") * 2 + interim("103 Early Hints"), got(200, "ok", interim=[103, 103, 103])),
    AnswerCase("interim-103-in-pieces", "RFC 8297 2", tuple(bytes([c]) for c in interim("103 Early Hints", "Link: a")), got(200, "ok", interim=[103])),
    AnswerCase("interim-103-to-http-1.0", "RFC 9110 15.2", interim("103 Early Hints"), got(200, "ok"), asked=OLD),
    AnswerCase("interim-103-with-length", "issue 7 row 4, RFC 9112 6.3", interim("103 Early Hints", "Content-Length: 5"), any_of(got(200, "ok", interim=[103]), only_502())),
    AnswerCase("interim-103-with-length-and-body", "issue 7 row 4, RFC 9112 6.3", interim("103 Early Hints", "Content-Length: 5", body="hello"), bad_gateway()),
    AnswerCase("interim-103-body-is-an-answer", "issue 7 row 4, RFC 9112 6.3", reply("103 Early Hints", f"Content-Length: {len(OK)}") + OK, any_of(got(200, "ok", interim=[103]), only_502())),
    AnswerCase("interim-100-with-length", "issue 7 row 4, RFC 9112 6.3", interim("100 Continue", "Content-Length: 5"), any_of(got(200, "ok", interim=[100]), got(200, "ok"), only_502())),
    AnswerCase("interim-103-chunked", "issue 7 row 4, RFC 9112 6.3", interim("103 Early Hints", "Transfer-Encoding: chunked"), any_of(got(200, "ok", interim=[103]), only_502())),
    AnswerCase("interim-103-chunked-body", "issue 7 row 4, RFC 9112 6.3", reply("103 Early Hints", "Transfer-Encoding: chunked", body="5\r\nhello\r\n0\r\n\r\n") + OK, bad_gateway()),
    AnswerCase("interim-104", "issue 7 row 4, RFC 9110 15.2", interim("104 Odd"), any_of(got(200, "ok", interim=[104]), got(200, "ok"), only_502())),
    AnswerCase("interim-199", "issue 7 row 4, RFC 9110 15.2", interim("199 Odd"), any_of(got(200, "ok", interim=[199]), got(200, "ok"), only_502())),
    AnswerCase("interim-199-with-length", "issue 7 row 4, RFC 9112 6.3", interim("199 Odd", "Content-Length: 5"), any_of(got(200, "ok", interim=[199]), got(200, "ok"), only_502())),
    AnswerCase("interim-150-body-is-an-answer", "issue 7 row 4, RFC 9112 6.3", reply("150 Odd", f"Content-Length: {len(OK)}") + OK, any_of(got(200, "ok", interim=[150]), got(200, "ok"), only_502())),
    AnswerCase("interim-150-body-is-poison", "issue 7 row 4, RFC 9112 6.3", reply("150 Odd", f"Content-Length: {len(POISON)}") + POISON + OK, any_of(got(200, "poison", interim=[150]), got(200, "poison"), bad_gateway())),
    AnswerCase("interim-only-then-close", "RFC 9110 15.2", reply("103 Early Hints"), bad_gateway(), end="close"),
    AnswerCase("interim-own-fields", "docs: response headers", interim("103 Early Hints", "Connection: X", "X: 1", "Keep-Alive: a"), got(200, "ok", interim=[103])),
    AnswerCase("interim-set-cookie", "RFC 8297 3", interim("103 Early Hints", "Set-Cookie: a=b"), got(200, "ok", interim=[103])),
    AnswerCase("interim-bad-field", "RFC 9112 5", interim("103 Early Hints", "no colon"), bad_gateway()),
    AnswerCase("interim-1000", "issue 7 row 5", reply("103 Early Hints") * 1000 + OK, any_of(got(200, "ok", interim=[103] * 1000), bad_gateway())),
    AnswerCase("interim-of-2-mb", "issue 7 row 5", reply("103 Early Hints", "Link: " + "a" * 30_000) * 70, bad_gateway()),
    AnswerCase("interim-then-half-head", "RFC 9112 8", reply("103 Early Hints") + b"HTTP/1.1 200 OK\r\nCo", bad_gateway(), end="close"),
    AnswerCase("interim-to-head", "RFC 9110 9.3.2", reply("103 Early Hints") + reply("200 OK", "Content-Length: 2"), got(200, "", interim=[103]), asked=ask("HEAD /asked")),
]  # fmt: skip

UPGRADES = [
    AnswerCase("101-unasked", "RFC 9110 7.8", reply("101 Switching Protocols", "Connection: Upgrade", "Upgrade: foo"), only_502()),
    AnswerCase("101-unasked-then-answer", "RFC 9110 7.8", reply("101 Switching Protocols", "Connection: Upgrade", "Upgrade: foo") + OK, only_502()),
    AnswerCase("101-asked", "RFC 9110 7.8", reply("101 Switching Protocols", "Connection: Upgrade", "Upgrade: foo"), any_of(got(101), only_502()), asked=UPGRADE),
    AnswerCase("101-no-upgrade-field", "RFC 9110 15.2.2", reply("101 Switching Protocols", "Connection: Upgrade"), only_502(), asked=UPGRADE),
    AnswerCase("101-no-connection-field", "RFC 9110 7.8", reply("101 Switching Protocols", "Upgrade: foo"), only_502(), asked=UPGRADE),
    AnswerCase("101-no-fields", "RFC 9110 15.2.2", reply("101 Switching Protocols"), only_502(), asked=UPGRADE),
    AnswerCase("101-with-length", "RFC 9110 8.6", reply("101 Switching Protocols", "Connection: Upgrade", "Upgrade: foo", "Content-Length: 5"), any_of(got(101, lacks=["Content-Length"]), only_502()), asked=UPGRADE),
    AnswerCase("101-chunked", "RFC 9112 6.1", reply("101 Switching Protocols", "Connection: Upgrade", "Upgrade: foo", "Transfer-Encoding: chunked"), any_of(got(101, lacks=["Transfer-Encoding"]), only_502()), asked=UPGRADE),
    AnswerCase("101-to-http-1.0", "RFC 9110 15.2", reply("101 Switching Protocols", "Connection: Upgrade", "Upgrade: foo"), only_502(), asked=ask("GET /asked", "Connection: Upgrade", "Upgrade: foo", version="HTTP/1.0")),
    AnswerCase("upgrade-declined-200", "RFC 9110 7.8", OK, TOLD, asked=UPGRADE),
    AnswerCase("upgrade-declined-426", "RFC 9110 15.5.22", reply("426 Upgrade Required", "Upgrade: bar", "Connection: Upgrade", "Content-Length: 0"), got(426), asked=UPGRADE),
    AnswerCase("upgrade-103-then-101", "RFC 9110 15.2.2", reply("103 Early Hints") + reply("101 Switching Protocols", "Connection: Upgrade", "Upgrade: foo"), any_of(got(101, interim=[103]), only_502()), asked=UPGRADE),
]  # fmt: skip

CASES = [*STATUS_LINES, *FIELDS, *INTERIMS, *UPGRADES]
