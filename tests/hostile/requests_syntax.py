"""The shape of a request head: line ends, white space, the request line, names and values."""

from __future__ import annotations

from tests.hostile.case import RequestCase, ask, either, passed, refused, then

NEXT = ask("GET /next")
LINE = "GET / HTTP/1.1\r\n"
HOST = "Host: hostile.test\r\n"


def raw(text: str) -> bytes:
    return text.encode("latin-1")


def field(line: str) -> bytes:
    return ask("GET /", line)


LINE_ENDS = [
    RequestCase("lf-after-request-line", "RFC 9112 2.2", raw(f"GET / HTTP/1.1\n{HOST}\r\n"), refused()),
    RequestCase("lf-after-field", "RFC 9112 2.2", raw(f"{LINE}Host: hostile.test\n\r\n"), refused()),
    RequestCase("lf-everywhere", "RFC 9112 2.2", raw("GET / HTTP/1.1\nHost: hostile.test\n\n"), refused()),
    RequestCase("lf-ends-the-head", "RFC 9112 2.2", raw(f"{LINE}{HOST}\n") + NEXT, refused()),
    RequestCase("lf-lf-in-value", "RFC 9112 2.2", raw(f"{LINE}{HOST}X: a\n\nGET /inner HTTP/1.1\r\n\r\n"), refused()),
    RequestCase("cr-only", "RFC 9112 2.2", raw("GET / HTTP/1.1\rHost: hostile.test\r\r"), refused()),
    RequestCase("cr-in-request-line", "RFC 9112 2.2", raw(f"GET /\r HTTP/1.1\r\n{HOST}\r\n"), refused()),
    RequestCase("cr-in-value", "RFC 9112 2.2", field("X: a\rb"), refused()),
    RequestCase("cr-before-crlf", "RFC 9112 2.2", field("X: a\r"), refused()),
    RequestCase("cr-ends-value", "RFC 9112 2.2", raw(f"{LINE}{HOST}X: a\r\r\n\r\n"), refused()),
    RequestCase("cr-before-name", "RFC 9112 2.2", field("\rX: a"), refused()),
    RequestCase("cr-in-name", "RFC 9112 2.2", field("X\rY: a"), refused()),
    RequestCase("cr-cr-lf-ends-head", "RFC 9112 2.2", raw(f"{LINE}{HOST}\r\r\n") + NEXT, refused()),
    RequestCase("lf-cr", "RFC 9112 2.2", raw(f"{LINE}Host: hostile.test\n\rX: y\r\n\r\n"), refused()),
    RequestCase("lf-in-value", "RFC 9112 2.2", field("X: a\nb"), refused()),
    RequestCase("lf-in-value-makes-field", "RFC 9112 11.1", field("X: a\nY: b"), refused()),
    RequestCase("lf-in-name", "RFC 9112 2.2", field("X\nY: b"), refused()),
    RequestCase("crlf-before-request", "RFC 9112 2.2", raw("\r\n") + ask("GET /"), passed("GET /")),
    RequestCase("crlf-twice-before-request", "RFC 9112 2.2", raw("\r\n\r\n") + ask("GET /"), either(passed("GET /"), refused())),
    RequestCase("crlf-1000-before-request", "RFC 9112 2.2", raw("\r\n" * 1000) + ask("GET /"), either(passed("GET /"), refused(400, 414, 431))),
    RequestCase("lf-before-request", "RFC 9112 2.2", raw("\n") + ask("GET /"), either(passed("GET /"), refused())),
    RequestCase("cr-before-request", "RFC 9112 2.2", raw("\r") + ask("GET /"), either(passed("GET /"), refused())),
    RequestCase("crlf-between-requests", "RFC 9112 2.2", ask("GET /") + raw("\r\n") + NEXT, then(passed("GET /"), passed("GET /next"))),
    RequestCase("unicode-line-separator", "RFC 9112 2.2", ask("GET /").replace(b"\r\n\r\n", b"\r\nX: a\xe2\x80\xa8Y: b\r\n\r\n"), passed("GET /", lacks=["Y"])),
    RequestCase("next-line-in-value", "RFC 9112 2.2", field("X: a\x85Y: b"), passed("GET /", lacks=["Y"])),
    RequestCase("overlong-crlf-in-value", "response splitting by truncation to 8 bits", ask("GET /").replace(b"\r\n\r\n", b"\r\nX: a\xc4\x8d\xc4\x8aY: b\r\n\r\n"), passed("GET /", lacks=["Y"])),
]  # fmt: skip

FOLDS = [
    RequestCase("fold-blank", "RFC 9112 5.2", field("X: a\r\n folded"), refused()),
    RequestCase("fold-tab", "RFC 9112 5.2", field("X: a\r\n\tfolded"), refused()),
    RequestCase("fold-empty", "RFC 9112 5.2", field("X: a\r\n "), refused()),
    RequestCase("fold-makes-field", "RFC 9112 5.2", field("X: a\r\n Y: b"), refused()),
    RequestCase("fold-host", "RFC 9112 5.2", raw(f"{LINE}Host: hostile.test\r\n .other\r\n\r\n"), refused()),
    RequestCase("fold-host-value-below", "RFC 9112 5.2", raw(f"{LINE}Host:\r\n hostile.test\r\n\r\n"), refused()),
    RequestCase("fold-cookie", "RFC 9112 5.2", field("Cookie: a=b;\r\n c=d"), refused()),
    RequestCase("fold-first-line", "RFC 9112 2.2", raw(f"{LINE} {HOST}\r\n"), refused()),
    RequestCase("fold-first-line-is-no-host", "RFC 9112 2.2", raw(f"{LINE} X: a\r\n{HOST}\r\n"), refused()),
    RequestCase("fold-request-line", "RFC 9112 3", raw(f"GET /\r\n HTTP/1.1\r\n{HOST}\r\n"), refused()),
    RequestCase("fold-end-of-head", "RFC 9112 5.2", raw(f"{LINE}{HOST} \r\n\r\n"), refused()),
    RequestCase("blank-line-of-blanks", "RFC 9112 2.2", raw(f"{LINE}{HOST}  \r\n") + NEXT, refused()),
]  # fmt: skip

REQUEST_LINE = [
    RequestCase("line-rubbish", "RFC 9112 3", raw("rubbish\r\n\r\n"), refused()),
    RequestCase("line-tls-hello", "RFC 9112 3", raw("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"), refused()),
    RequestCase("line-socks5", "RFC 9112 3", raw("\x05\x01\x00\r\n\r\n"), refused()),
    RequestCase("line-proxy-protocol", "HAProxy PROXY v1, not configured", raw("PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n") + ask("GET /"), refused()),
    RequestCase("line-http-0.9", "RFC 9112 2.3", raw("GET /\r\n\r\n"), refused(400, 505)),
    RequestCase("line-http-0.9-said", "RFC 9110 2.5", ask("GET /", version="HTTP/0.9"), refused(400, 505)),
    RequestCase("line-no-target", "RFC 9112 3", ask("GET"), refused()),
    RequestCase("line-empty-method", "RFC 9112 3", raw(f" / HTTP/1.1\r\n{HOST}\r\n"), refused()),
    RequestCase("line-leading-blank", "RFC 9112 3", raw(" ") + ask("GET /"), refused()),
    RequestCase("line-leading-tab", "RFC 9112 3", raw("\t") + ask("GET /"), refused()),
    RequestCase("line-two-blanks-1", "RFC 9112 3", ask("GET  /"), either(passed("GET /"), refused())),
    RequestCase("line-two-blanks-2", "RFC 9112 3", ask("GET / "), either(passed("GET /"), refused())),
    RequestCase("line-tab-1", "RFC 9112 3", ask("GET\t/"), either(passed("GET /"), refused())),
    RequestCase("line-tab-2", "RFC 9112 3", raw(f"GET /\tHTTP/1.1\r\n{HOST}\r\n"), either(passed("GET /"), refused())),
    RequestCase("line-vt", "RFC 9112 3", ask("GET\x0b/"), refused()),
    RequestCase("line-trailing-blank", "RFC 9112 3", ask("GET /", version="HTTP/1.1 "), either(passed("GET /"), refused())),
    RequestCase("line-trailing-word", "RFC 9112 3", ask("GET /", version="HTTP/1.1 x"), refused()),
    RequestCase("line-version-glued", "RFC 9112 2.3", ask("GET /", version="HTTP/1.1x"), refused()),
    RequestCase("line-version-lower", "RFC 9112 2.3", ask("GET /", version="http/1.1"), refused()),
    RequestCase("line-version-mixed", "RFC 9112 2.3", ask("GET /", version="HtTP/1.1"), refused()),
    RequestCase("line-version-11", "RFC 9112 2.3", ask("GET /", version="HTTP/11"), refused()),
    RequestCase("line-version-1", "RFC 9112 2.3", ask("GET /", version="HTTP/1"), refused(400, 505)),
    RequestCase("line-version-1.", "RFC 9112 2.3", ask("GET /", version="HTTP/1."), refused(400, 505)),
    RequestCase("line-version-1.10", "RFC 9112 2.3", ask("GET /", version="HTTP/1.10"), refused(400, 505)),
    RequestCase("line-version-01.1", "RFC 9112 2.3", ask("GET /", version="HTTP/01.1"), refused(400, 505)),
    RequestCase("line-version-1-1", "RFC 9112 2.3", ask("GET /", version="HTTP/1,1"), refused()),
    RequestCase("line-version-plus", "CVE-2024-23829 (aiohttp)", ask("GET /", version="HTTP/1.+1"), refused(400, 505)),
    RequestCase("line-version-no-point", "CVE-2024-23829 (aiohttp)", ask("GET /", version="HTTP/1\xf61"), refused(400, 505)),
    RequestCase("line-version-other-digit", "CVE-2024-23829 (aiohttp)", ask("GET /", version="HTTP/1.\xb9"), refused(400, 505)),
    RequestCase("line-version-1.2", "RFC 9110 2.5", ask("GET /", version="HTTP/1.2"), either(passed("GET /"), refused(400, 505))),
    RequestCase("line-version-1.9", "RFC 9110 2.5", ask("GET /", version="HTTP/1.9"), either(passed("GET /"), refused(400, 505))),
    RequestCase("line-version-2.0", "RFC 9110 15.6.6", ask("GET /", version="HTTP/2.0"), refused(400, 505)),
    RequestCase("line-version-2", "RFC 9110 15.6.6", ask("GET /", version="HTTP/2"), refused(400, 505)),
    RequestCase("line-version-3.0", "RFC 9110 15.6.6", ask("GET /", version="HTTP/3.0"), refused(400, 505)),
    RequestCase("line-version-9.9", "RFC 9110 15.6.6", ask("GET /", version="HTTP/9.9"), refused(400, 505)),
    RequestCase("line-version-other-protocol", "RFC 9112 2.3", ask("GET /", version="ICY/1.1"), refused()),
    RequestCase("line-rtsp", "RFC 9112 2.3", ask("OPTIONS *", version="RTSP/1.0"), refused(400, 505)),
    RequestCase("line-rtsp-describe", "RFC 9112 2.3", ask("DESCRIBE /", version="RTSP/1.0"), refused(400, 501, 505)),
    RequestCase("line-rtsp-1.1", "RFC 9112 2.3", ask("OPTIONS /", version="RTSP/1.1"), refused(400, 505)),
    RequestCase("line-ice", "RFC 9112 2.3", ask("SOURCE /", version="ICE/1.0"), refused(400, 501, 505)),
    RequestCase("line-http-2-preface", "RFC 9113 3.4", raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), refused(400, 505)),
    RequestCase("line-method-at", "RFC 9110 9.1", ask("G@T /"), refused()),
    RequestCase("line-method-colon", "RFC 9110 9.1", ask("GET: /"), refused()),
    RequestCase("line-method-latin-1", "RFC 9110 9.1", ask("G\xcbT /"), refused()),
    RequestCase("line-method-nul", "RFC 9110 9.1", ask("G\0T /"), refused()),
    RequestCase("line-method-lower", "RFC 9110 9.1", ask("get /"), either(passed("get /"), refused(400, 405, 501))),
    RequestCase("line-method-unknown", "RFC 9110 9.1", ask("BREW /"), either(passed("BREW /"), refused(400, 405, 501))),
    RequestCase("line-method-punctuation", "RFC 9110 9.1", ask("M-SEARCH /"), either(passed("M-SEARCH /"), refused(400, 405, 501))),
    RequestCase("line-method-all-tchar", "RFC 9110 5.6.2", ask("!#$%&'*+-.^_`|~0aZ /"), either(passed("!#$%&'*+-.^_`|~0aZ /"), refused(400, 405, 501))),
    RequestCase("line-method-of-1000", "RFC 9112 3", ask("A" * 1000 + " /"), either(passed("A" * 1000 + " /"), refused(400, 405, 414, 431, 501))),
    RequestCase("line-target-blank", "RFC 9112 3.2", ask("GET /a b"), refused()),
    RequestCase("line-target-tab", "RFC 9112 3.2", ask("GET /a\tb"), refused()),
    RequestCase("line-two-versions", "RFC 9112 11.2", ask("GET / HTTP/1.1"), refused()),
    RequestCase("line-request-in-target", "RFC 9112 11.2", ask("GET /a%20HTTP/1.1%0d%0aX:%20y"), passed("GET /a%20HTTP/1.1%0d%0aX:%20y", lacks=["X"])),
]  # fmt: skip

NAMES = [
    RequestCase("name-empty", "RFC 9112 5", field(": a"), refused()),
    RequestCase("name-only", "RFC 9112 5", field("X"), refused()),
    RequestCase("name-no-colon", "RFC 9112 5", field("no colon"), refused()),
    RequestCase("name-blank-before-colon", "RFC 9112 5.1", field("X : a"), refused()),
    RequestCase("name-tab-before-colon", "RFC 9112 5.1", field("X\t: a"), refused()),
    RequestCase("name-inner-blank", "RFC 9110 5.1", field("X Y: a"), refused()),
    RequestCase("name-latin-1", "RFC 9110 5.1", field("X\xe9: a"), refused()),
    RequestCase("name-nbsp", "RFC 9110 5.1", field("\xa0X: a"), refused()),
    RequestCase("name-bom", "RFC 9110 5.1", ask("GET /").replace(b"Host", b"X: a\r\n\xef\xbb\xbfHost"), refused()),
    RequestCase("name-all-tchar", "RFC 9110 5.6.2", field("!#$%&'*+-.^_`|~0aZ: a"), either(passed("GET /"), refused())),
    RequestCase("name-of-7000", "RFC 9110 5.4", field("X" * 7000 + ": a"), either(passed("GET /"), refused(400, 431))),
    RequestCase("name-case-kept", "RFC 9110 5.1", field("x-LoUd: a"), passed("GET /", has=["X-Loud: a"])),
    *[
        RequestCase(f"name-delimiter-{ord(c):02x}", "RFC 9110 5.6.2", field(f"X{c}Y: a"), refused())
        for c in '"(),/;<=>?@[\\]{}'
    ],
    *[
        RequestCase(f"name-control-{c:02x}", "RFC 9110 5.1", field(f"X{chr(c)}Y: a"), refused())
        for c in [*range(9), *range(11, 13), *range(14, 32), 127]
    ],
]  # fmt: skip

VALUES = [
    RequestCase("value-empty", "RFC 9110 5.5", field("X:"), passed("GET /", has=["X: "])),
    RequestCase("value-no-blank", "RFC 9112 5", field("X:a"), passed("GET /", has=["X: a"])),
    RequestCase("value-outer-blanks", "RFC 9110 5.5", field("X: \t a \t "), passed("GET /", has=["X: a"])),
    RequestCase("value-inner-tab", "RFC 9110 5.5", field("X: a\tb"), passed("GET /", has=["X: a\tb"])),
    RequestCase("value-latin-1", "RFC 9110 5.5", field("X: \xe9\xff"), passed("GET /", has=["X: \xe9\xff"])),
    RequestCase("value-invalid-utf-8", "RFC 9110 5.5", field("X: \xc3\x28"), passed("GET /", has=["X: \xc3\x28"])),
    RequestCase("value-surrogate", "RFC 9110 5.5", field("X: \xed\xa0\x80"), passed("GET /", has=["X: \xed\xa0\x80"])),
    RequestCase("value-colons", "RFC 9110 5.5", field("X: a: b:c"), passed("GET /", has=["X: a: b:c"])),
    RequestCase("value-is-a-request", "RFC 9112 11.2", field("X: GET /inner HTTP/1.1"), passed("GET /", has=["X: GET /inner HTTP/1.1"])),
    RequestCase("value-of-8000", "RFC 9110 5.4", field("X: " + "a" * 8000), passed("GET /", has=["X: " + "a" * 8000])),
    RequestCase("value-twice", "RFC 9110 5.3", ask("GET /", "X: a", "X: b"), passed("GET /", has=["X: a", "X: b"])),
    *[
        RequestCase(f"value-control-{c:02x}", "RFC 9110 5.5", field(f"X: a{chr(c)}b"), refused())
        for c in [*range(9), *range(11, 13), *range(14, 32), 127]
    ],
]  # fmt: skip

CASES = [*LINE_ENDS, *FOLDS, *REQUEST_LINE, *NAMES, *VALUES]
