"""Answers of a hostile endpoint: where the body ends, and what comes before or after its time."""

from __future__ import annotations

from tests.hostile.case import AnswerCase, Got, any_of, ask, bad_gateway, got, only_502, reply

HEAD = ask("HEAD /asked")
OLD = ask("GET /asked", version="HTTP/1.0")
POISON = reply("200 OK", "Content-Length: 6", body="poison")
CUT = (Got(None),)
HELLO = "5\r\nhello\r\n0\r\n\r\n"


def length(value: str, body: str = "hello") -> bytes:
    return reply("200 OK", f"Content-Length: {value}", body=body)


def chunks(body: str) -> bytes:
    return reply("200 OK", "Transfer-Encoding: chunked", body=body)


LENGTHS = [
    AnswerCase("length-plain", "RFC 9112 6.2", length("5"), got(200, "hello")),
    AnswerCase("length-in-pieces", "RFC 9112 6.2", (length("5", ""), b"he", b"l", b"lo"), got(200, "hello")),
    AnswerCase("length-zeros", "RFC 9110 8.6", length("0005"), any_of(got(200, "hello"), only_502())),
    AnswerCase("length-blanks", "RFC 9110 5.5", length("  5\t "), any_of(got(200, "hello"), only_502())),
    AnswerCase("length-negative", "RFC 9110 8.6", length("-1"), only_502()),
    AnswerCase("length-plus", "RFC 9110 8.6", length("+5"), only_502()),
    AnswerCase("length-hex", "RFC 9110 8.6", length("0x5"), only_502()),
    AnswerCase("length-underscore", "RFC 9110 8.6", length("1_0", "0123456789"), only_502()),
    AnswerCase("length-word", "RFC 9110 8.6", length("five"), only_502()),
    AnswerCase("length-empty", "RFC 9112 6.3 (5)", length(""), only_502()),
    AnswerCase("length-superscript", "RFC 9110 8.6", length("\xb2"), only_502()),
    AnswerCase("length-list-same", "RFC 9110 8.6", length("5, 5"), any_of(got(200, "hello"), only_502())),
    AnswerCase("length-list-different", "RFC 9112 6.3 (5)", length("5, 6", "hello!"), only_502()),
    AnswerCase("length-twice-same", "RFC 9110 8.6", reply("200 OK", "Content-Length: 5", "Content-Length: 5", body="hello"), any_of(got(200, "hello"), only_502())),
    AnswerCase("length-twice-different", "RFC 9112 6.3 (5)", reply("200 OK", "Content-Length: 5", "Content-Length: 6", body="hello!"), only_502()),
    AnswerCase("length-2^64-1", "RFC 9110 8.6", length("18446744073709551615", ""), any_of(only_502(), CUT), end="close"),
    AnswerCase("length-2^64", "RFC 9110 8.6", length("18446744073709551616", ""), only_502(), end="close"),
    AnswerCase("length-2^63", "RFC 9110 8.6", length("9223372036854775808", ""), any_of(only_502(), CUT), end="close"),
    AnswerCase("length-5000-digits", "CVE-2020-10735", length("9" * 5000, ""), only_502(), end="close"),
    AnswerCase("length-too-long-closed", "RFC 9112 8", length("6"), any_of(CUT, only_502()), end="close"),
    AnswerCase("length-too-long-reset", "RFC 9112 8", length("6"), any_of(CUT, only_502()), end="reset"),
    AnswerCase("length-too-short", "RFC 9112 9.2", length("4"), any_of(got(200, "hell"), bad_gateway())),
    AnswerCase("length-zero-with-body", "RFC 9112 9.2", length("0"), any_of(got(200), bad_gateway())),
    AnswerCase("length-underscored", "RFC 9110 5.1", reply("200 OK", "Content_Length: 1", "Content-Length: 5", body="hello"), got(200, "hello")),
    AnswerCase("length-missing-closed", "RFC 9112 6.3 (8)", reply("200 OK", body="hello"), got(200, "hello"), end="close"),
    AnswerCase("length-missing-closed-to-1.0", "RFC 9112 6.3 (8)", reply("200 OK", body="hello"), got(200, "hello", closed=True), end="close", asked=OLD),
    AnswerCase("length-missing-reset", "RFC 9112 8", reply("200 OK", body="hello"), any_of(CUT, only_502()), end="reset"),
    AnswerCase("length-missing-with-close", "RFC 9112 9.6", reply("200 OK", "Connection: close", body="hello"), got(200, "hello"), end="close"),
    AnswerCase("length-1-mb", "no limit", length("1000000", "a" * 1_000_000), got(200, "a" * 1_000_000)),
]  # fmt: skip

CODINGS = [
    AnswerCase("coding-chunked", "RFC 9112 7.1", chunks(HELLO), got(200, "hello")),
    AnswerCase("coding-upper", "RFC 9112 7", reply("200 OK", "Transfer-Encoding: CHUNKED", body=HELLO), got(200, "hello")),
    AnswerCase("coding-beside-length", "RFC 9112 6.3 (3)", reply("200 OK", "Content-Length: 5", "Transfer-Encoding: chunked", body=HELLO), any_of(got(200, "hello", lacks=["Content-Length"]), only_502())),
    AnswerCase("coding-before-length", "RFC 9112 6.3 (3)", reply("200 OK", "Transfer-Encoding: chunked", "Content-Length: 5", body=HELLO), any_of(got(200, "hello", lacks=["Content-Length"]), only_502())),
    AnswerCase("coding-gzip-chunked", "RFC 9112 6.1", reply("200 OK", "Transfer-Encoding: gzip, chunked", body=HELLO), only_502()),
    AnswerCase("coding-chunked-gzip", "RFC 9112 6.3 (4)", reply("200 OK", "Transfer-Encoding: chunked, gzip", body=HELLO), only_502(), end="close"),
    AnswerCase("coding-gzip", "RFC 9112 6.3 (4)", reply("200 OK", "Transfer-Encoding: gzip", body="hello"), only_502(), end="close"),
    AnswerCase("coding-identity", "RFC 9112 7", reply("200 OK", "Transfer-Encoding: identity", "Content-Length: 5", body="hello"), any_of(only_502(), got(200, "hello"))),
    AnswerCase("coding-twice", "RFC 9112 6.1", reply("200 OK", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=HELLO), any_of(only_502(), got(200, "hello"))),
    AnswerCase("coding-xchunked", "RFC 9112 6.1", reply("200 OK", "Transfer-Encoding: xchunked", body=HELLO), only_502(), end="close"),
    AnswerCase("coding-vertical-tab", "RFC 9110 5.5", reply("200 OK", "Transfer-Encoding: \x0bchunked", body=HELLO), only_502(), end="close"),
    AnswerCase("coding-empty", "RFC 9112 6.1", reply("200 OK", "Transfer-Encoding:", "Content-Length: 5", body="hello"), any_of(only_502(), got(200, "hello"))),
    AnswerCase("coding-http-1.0", "RFC 9112 6.1", reply("200 OK", "Transfer-Encoding: chunked", body=HELLO).replace(b"HTTP/1.1", b"HTTP/1.0"), any_of(got(200, "hello"), only_502()), end="close"),
    AnswerCase("coding-to-http-1.0", "RFC 9112 6.1", chunks(HELLO), got(200, "hello", lacks=["Transfer-Encoding"], closed=True), asked=OLD),
    AnswerCase("coding-underscored", "RFC 9110 5.1", reply("200 OK", "Transfer_Encoding: chunked", "Content-Length: 5", body="hello"), got(200, "hello")),
]  # fmt: skip

CHUNKS = [
    AnswerCase("chunk-none", "RFC 9112 7.1", chunks("0\r\n\r\n"), got(200)),
    AnswerCase("chunk-single-bytes", "RFC 9112 7.1", (chunks(""), *[bytes([c]) for c in HELLO.encode()]), got(200, "hello")),
    AnswerCase("chunk-extension", "RFC 9112 7.1.1", chunks("5;a=b\r\nhello\r\n0\r\n\r\n"), got(200, "hello")),
    AnswerCase("chunk-1000-of-one", "issue 7 row 5", chunks("1\r\na\r\n" * 1000 + "0\r\n\r\n"), got(200, "a" * 1000)),
    AnswerCase("chunk-looks-like-answer", "RFC 9112 11.1", chunks(f"{len(POISON):x}\r\n{POISON.decode()}\r\n0\r\n\r\n"), got(200, POISON)),
    AnswerCase("chunk-trailer", "RFC 9112 7.1.2", chunks("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"), got(200, "hello")),
    AnswerCase("chunk-trailer-length", "RFC 9110 6.5.1", chunks("0\r\nContent-Length: 6\r\n\r\n"), any_of(got(200, lacks=["Content-Length"]), bad_gateway())),
    AnswerCase("chunk-trailer-identity", "RFC 9110 6.5.1, llhttp keeps it for the next answer", chunks("5\r\nhello\r\n0\r\nTransfer-Encoding: identity\r\n\r\n"), any_of(got(200, "hello"), bad_gateway())),
    AnswerCase("chunk-trailer-chunked", "RFC 9110 6.5.1", chunks("5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"), any_of(got(200, "hello"), bad_gateway())),
    AnswerCase("chunk-trailer-length-9", "RFC 9110 6.5.1", chunks("5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n"), any_of(got(200, "hello"), bad_gateway())),
    AnswerCase("chunk-trailer-connection-close", "RFC 9110 6.5.1", chunks("5\r\nhello\r\n0\r\nConnection: close\r\n\r\n"), any_of(got(200, "hello"), bad_gateway())),
    AnswerCase("chunk-trailer-upgrade", "RFC 9110 6.5.1", chunks("5\r\nhello\r\n0\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n"), any_of(got(200, "hello"), bad_gateway())),
    AnswerCase("chunk-trailer-cookie", "RFC 9110 6.5.1", chunks("0\r\nSet-Cookie: a=b\r\n\r\n"), any_of(got(200, lacks=["Set-Cookie"]), bad_gateway())),
    AnswerCase("chunk-trailer-rubbish", "RFC 9112 5", chunks("0\r\nno colon\r\n\r\n"), bad_gateway()),
    AnswerCase("chunk-trailer-endless", "limits", chunks("0\r\n" + "X: y\r\n" * 100_000), any_of(bad_gateway(), got(200)), end="close"),
    *[
        AnswerCase(f"chunk-bad {name}", "RFC 9112 7.1", chunks(body), bad_gateway())
        for name, body in {
            "letters": "x\r\nhello\r\n0\r\n\r\n",
            "negative": "-5\r\nhello\r\n0\r\n\r\n",
            "plus": "+5\r\nhello\r\n0\r\n\r\n",
            "0x": "0x5\r\nhello\r\n0\r\n\r\n",
            "underscore": "1_0\r\n" + "h" * 16 + "\r\n0\r\n\r\n",
            "empty": "\r\nhello\r\n0\r\n\r\n",
            "lf": "5\nhello\r\n0\r\n\r\n",
            "too-short": "4\r\nhello\r\n0\r\n\r\n",
            "no-crlf": "5\r\nhello0\r\n\r\n",
            "ends-in-lf": "5\r\nhello\n0\r\n\r\n",
            "ext-lf": "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "ext-nul": "5;a\0b\r\nhello\r\n0\r\n\r\n",
            "2^64": "10000000000000000\r\nhello\r\n0\r\n\r\n",
            "2^64+5": "10000000000000005\r\nhello\r\n0\r\n\r\n",
            "fault-behind-good-ones": "5\r\nhello\r\nx\r\n",
        }.items()
    ],
    AnswerCase("chunk-too-long-closed", "RFC 9112 8", chunks("9\r\nhello"), bad_gateway(), end="close"),
    AnswerCase("chunk-last-missing", "RFC 9112 8", chunks("5\r\nhello\r\n"), bad_gateway(), end="close"),
    AnswerCase("chunk-last-crlf-missing", "RFC 9112 8", chunks("5\r\nhello\r\n0\r\n"), bad_gateway(), end="close"),
    AnswerCase("chunk-last-missing-reset", "RFC 9112 8", chunks("5\r\nhello\r\n"), bad_gateway(), end="reset"),
    AnswerCase("chunk-last-missing-to-1.0", "RFC 9112 8", chunks("5\r\nhello\r\n"), CUT, end="reset", asked=OLD),
    AnswerCase("chunk-bad-to-1.0", "RFC 9112 8", chunks("5\r\nhello\r\nx\r\n"), any_of(CUT, only_502()), asked=OLD),
]  # fmt: skip

BODILESS = [
    AnswerCase("204-plain", "RFC 9112 6.3 (1)", reply("204 No Content"), got(204)),
    AnswerCase("204-with-length", "RFC 9110 8.6", reply("204 No Content", "Content-Length: 0"), got(204, lacks=["Content-Length"])),
    AnswerCase("204-with-length-5", "RFC 9110 8.6", reply("204 No Content", "Content-Length: 5"), any_of(got(204, lacks=["Content-Length"]), only_502())),
    AnswerCase("204-with-body", "RFC 9112 6.3 (1)", reply("204 No Content", "Content-Length: 5", body="hello"), any_of(got(204, lacks=["Content-Length"]), only_502())),
    AnswerCase("204-chunked", "RFC 9112 6.1", reply("204 No Content", "Transfer-Encoding: chunked", body="0\r\n\r\n"), any_of(got(204, lacks=["Transfer-Encoding"]), only_502())),
    AnswerCase("204-body-is-an-answer", "RFC 9112 9.2", reply("204 No Content") + POISON, any_of(got(204), bad_gateway())),
    AnswerCase("304-plain", "RFC 9112 6.3 (1)", reply("304 Not Modified"), got(304)),
    AnswerCase("304-with-length", "RFC 9110 15.4.5", reply("304 Not Modified", "Content-Length: 5"), got(304)),
    AnswerCase("304-with-body", "RFC 9112 6.3 (1)", reply("304 Not Modified", "Content-Length: 5", body="hello"), any_of(got(304), only_502())),
    AnswerCase("304-chunked", "RFC 9112 6.1", reply("304 Not Modified", "Transfer-Encoding: chunked"), any_of(got(304), only_502())),
    AnswerCase("304-body-is-an-answer", "RFC 9112 9.2", reply("304 Not Modified", f"Content-Length: {len(POISON)}") + POISON, any_of(got(304), bad_gateway())),
    AnswerCase("head-plain", "RFC 9110 9.3.2", length("5", ""), got(200), asked=HEAD),
    AnswerCase("head-chunked", "RFC 9112 6.3 (1)", chunks(""), got(200), asked=HEAD),
    AnswerCase("head-no-length", "RFC 9112 6.3 (1)", reply("200 OK"), got(200), asked=HEAD),
    AnswerCase("head-with-body", "RFC 9112 6.3 (1)", length("5"), any_of(got(200), only_502()), asked=HEAD),
    AnswerCase("head-with-chunked-body", "RFC 9112 6.3 (1)", chunks(HELLO), any_of(got(200), only_502()), asked=HEAD),
    AnswerCase("head-body-is-an-answer", "RFC 9112 9.2", reply("200 OK", f"Content-Length: {len(POISON)}") + POISON, any_of(got(200), only_502()), asked=HEAD),
    AnswerCase("205-with-body", "RFC 9110 15.3.6", reply("205 Reset Content", "Content-Length: 5", body="hello"), any_of(got(205, "hello"), got(205), only_502())),
]  # fmt: skip

POST = ask("POST /asked", "Content-Length: 1000", body="a" * 100)
WRONG_TIME = [
    AnswerCase("extra-bytes", "RFC 9112 9.2", length("2", "ok") + b"garbage", any_of(got(200, "ok"), bad_gateway())),
    AnswerCase("extra-crlf", "RFC 9112 9.2", length("2", "ok") + b"\r\n", any_of(got(200, "ok"), bad_gateway())),
    AnswerCase("extra-answer", "RFC 9112 9.2, desync", length("2", "ok") + POISON, any_of(got(200, "ok"), bad_gateway())),
    AnswerCase("extra-answer-later", "RFC 9112 9.2, desync", (length("2", "ok"), POISON), any_of(got(200, "ok"), bad_gateway())),
    AnswerCase("extra-answer-in-halves", "RFC 9112 9.2, desync", length("2", "ok") + POISON[:20], any_of(got(200, "ok"), bad_gateway())),
    AnswerCase("extra-behind-chunked", "RFC 9112 9.2, desync", chunks(HELLO) + POISON, any_of(got(200, "hello"), bad_gateway())),
    AnswerCase("extra-behind-chunked-lf", "RFC 9112 9.2", chunks(HELLO) + b"\n", any_of(got(200, "hello"), bad_gateway())),
    AnswerCase("extra-interim", "RFC 9112 9.2, desync", length("2", "ok") + reply("100 Continue"), any_of(got(200, "ok"), bad_gateway())),
    AnswerCase("extra-408", "RFC 9110 15.5.9", length("2", "ok") + reply("408 Request Timeout", "Connection: close", "Content-Length: 0"), any_of(got(200, "ok"), bad_gateway()), end="close"),
    AnswerCase("close-said-not-done", "RFC 9112 9.6", reply("200 OK", "Connection: close", "Content-Length: 2", body="ok"), got(200, "ok")),
    AnswerCase("close-done-not-said", "RFC 9112 9.6", length("2", "ok"), got(200, "ok"), end="close"),
    AnswerCase("reset-behind-answer", "RFC 9112 9.6", length("2", "ok"), any_of(got(200, "ok"), bad_gateway()), end="reset"),
    AnswerCase("early-413", "RFC 9110 15.5.14", reply("413 Content Too Large", "Content-Length: 0"), got(413), asked=POST, at_head=True),
    AnswerCase("early-413-close", "RFC 9110 15.5.14", reply("413 Content Too Large", "Connection: close", "Content-Length: 0"), got(413), end="close", asked=POST, at_head=True),
    AnswerCase("early-200", "RFC 9112 9.3", length("2", "ok"), got(200, "ok"), asked=POST, at_head=True),
    AnswerCase("early-200-extra-answer", "RFC 9112 9.2, desync", length("2", "ok") + POISON, any_of(got(200, "ok"), bad_gateway()), asked=POST, at_head=True),
    AnswerCase("early-reset", "RFC 9112 8", b"", only_502(), end="reset", asked=POST, at_head=True),
    AnswerCase("early-rubbish", "RFC 9112 4", b"rubbish\r\n\r\n", only_502(), asked=POST, at_head=True),
    AnswerCase("early-100", "RFC 9110 15.2.1", reply("100 Continue") + length("2", "ok"), any_of(got(200, "ok", interim=[100]), got(200, "ok")), asked=POST, at_head=True),
    AnswerCase("early-417", "RFC 9110 15.5.18", reply("417 Expectation Failed", "Content-Length: 0"), got(417), asked=ask("POST /asked", "Expect: 100-continue", "Content-Length: 5"), at_head=True),
]  # fmt: skip

CASES = [*LENGTHS, *CODINGS, *CHUNKS, *BODILESS, *WRONG_TIME]
