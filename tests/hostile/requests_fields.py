"""Fields that mean something to a proxy: hop-by-hop, forwarded, underscored, cookies and pins."""

from __future__ import annotations

from tests.hostile.case import HOST, RequestCase, ask, either, passed, refused
from tests.hostile.proxy import TRUSTED

STICKY = "sticky.test"
STALE = "sp1.000000000000000000000000"
US = "127.0.0.1"


def field(*lines: str) -> bytes:
    return ask("GET /", *lines)


def keeps(name: str, source: str, *lines: str, has: list[str]) -> RequestCase:
    return RequestCase(name, source, field(*lines), passed("GET /", host=HOST, has=has))


def drops(name: str, source: str, *lines: str, lacks: list[str]) -> RequestCase:
    return RequestCase(name, source, field(*lines), passed("GET /", host=HOST, lacks=lacks))


HOP_BY_HOP = [
    drops("hop-keep-alive", "RFC 9110 7.6.1", "Keep-Alive: timeout=5", lacks=["Keep-Alive"]),
    drops("hop-proxy-connection", "RFC 9110 7.6.1", "Proxy-Connection: keep-alive", lacks=["Proxy-Connection"]),
    drops("hop-te", "RFC 9110 10.1.4", "TE: trailers", lacks=["TE"]),
    drops("hop-connection", "RFC 9110 7.6.1", "Connection: keep-alive", lacks=["Connection"]),
    drops("hop-named", "RFC 9110 7.6.1", "Connection: X-Mine", "X-Mine: 1", lacks=["X-Mine", "Connection"]),
    drops("hop-named-before", "RFC 9110 7.6.1", "X-Mine: 1", "Connection: x-mine", lacks=["X-Mine"]),
    drops("hop-named-many", "RFC 9110 7.6.1", "Connection: a, ,b ,\tc", "A: 1", "B: 2", "C: 3", lacks=["A", "B", "C"]),
    drops("hop-named-two-lines", "RFC 9110 7.6.1", "Connection: a", "Connection: b", "A: 1", "B: 2", lacks=["A", "B"]),
    drops("hop-named-twice-sent", "RFC 9110 7.6.1", "Connection: a", "A: 1", "A: 2", lacks=["A"]),
    keeps("hop-named-x-forwarded-for", "CVE-2022-31813 (Apache)", "Connection: X-Forwarded-For", has=[f"X-Forwarded-For: {US}"]),
    keeps("hop-named-x-real-ip", "CVE-2022-31813 (Apache)", "Connection: X-Real-IP, X-Forwarded-Proto", has=[f"X-Real-IP: {US}", "X-Forwarded-Proto: http"]),
    keeps("hop-named-x-forwarded-host", "CVE-2022-31813 (Apache)", "Connection: X-Forwarded-Host", has=[f"X-Forwarded-Host: {HOST}"]),
    RequestCase("hop-named-cookie", "RFC 9110 7.6.1", field("Connection: Cookie", "Cookie: a=b"), either(passed("GET /", has=["Cookie: a=b"]), passed("GET /", lacks=["Cookie"]))),
    RequestCase("hop-named-authorization", "RFC 9110 7.6.1", field("Connection: Authorization", "Authorization: x"), either(passed("GET /", has=["Authorization: x"]), passed("GET /", lacks=["Authorization"]))),
    RequestCase("hop-connection-empty", "RFC 9110 5.6.1", field("Connection:"), passed("GET /", lacks=["Connection"])),
    RequestCase("hop-connection-commas", "RFC 9110 5.6.1", field("Connection: ,,,"), passed("GET /", lacks=["Connection"])),
    RequestCase("hop-connection-rubbish", "RFC 9110 7.6.1", field("Connection: @/()"), passed("GET /", lacks=["Connection"])),
    RequestCase("hop-connection-close-and-keep", "RFC 9112 9.3", field("Connection: close, keep-alive"), passed("GET /", closed=True)),
    RequestCase("hop-connection-close-upper", "RFC 9112 9.6", field("Connection: CLOSE"), passed("GET /", closed=True)),
    RequestCase("hop-connection-5000-tokens", "RFC 9110 7.6.1", field("Connection: " + "a," * 4000), either(passed("GET /"), refused(400, 431))),
    drops("hop-http2-settings", "RFC 7540 3.2.1", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA", lacks=["HTTP2-Settings"]),
    drops("proxy-field", "CVE-2016-5385 (httpoxy)", "Proxy: http://evil.test/", lacks=["Proxy"]),
    drops("proxy-field-upper", "CVE-2016-5385 (httpoxy)", "PROXY: http://evil.test/", lacks=["Proxy"]),
]  # fmt: skip


def underscored(name: str, source: str, line: str) -> RequestCase:
    """Gateways take ``_`` for ``-``: such a name must not carry what the real one may not."""
    field_name = line.partition(":")[0]
    return RequestCase(
        f"underscore-{name}",
        source,
        field(line),
        either(passed("GET /", lacks=[field_name]), refused()),
    )


UNDERSCORES = [
    underscored("content-length", "issue 7 row 12", "Content_Length: 5"),
    underscored("content-length-lower", "issue 7 row 12", "content_length: 5"),
    underscored("transfer-encoding", "issue 7 row 12", "Transfer_Encoding: chunked"),
    underscored("transfer-encoding-upper", "issue 7 row 12", "TRANSFER_ENCODING: chunked"),
    underscored("x-forwarded-for", "CVE-2015-0219 (Django)", "X_Forwarded_For: 1.2.3.4"),
    underscored("x-forwarded-for-mixed", "CVE-2015-0219 (Django)", "X-Forwarded_For: 1.2.3.4"),
    underscored("x-forwarded-proto", "CVE-2015-0219 (Django)", "X_Forwarded_Proto: https"),
    underscored("x-forwarded-host", "CVE-2015-0219 (Django)", "X_Forwarded_Host: evil.test"),
    underscored("x-real-ip", "CVE-2015-0219 (Django)", "X_Real_IP: 1.2.3.4"),
    RequestCase("underscore-content-length-and-real", "issue 7 row 12", ask("POST /a", "Content-Length: 5", "Content_Length: 0", body="hello"), either(passed("POST /a", "hello", lacks=["Content_Length"]), refused())),
    RequestCase("underscore-transfer-encoding-and-length", "issue 7 row 12", ask("POST /a", "Content-Length: 5", "Transfer_Encoding: chunked", body="hello"), either(passed("POST /a", "hello", lacks=["Transfer_Encoding"]), refused())),
    RequestCase("underscore-ordinary", "RFC 9110 5.1", field("X_Ordinary: 1"), either(passed("GET /"), refused())),
]  # fmt: skip

FORWARDED = [
    keeps("xff-replaced", "docs: trusted_proxies", "X-Forwarded-For: 1.2.3.4", has=[f"X-Forwarded-For: {US}"]),
    keeps("xff-two-lines", "docs: trusted_proxies", "X-Forwarded-For: 1.2.3.4", "x-forwarded-for: 5.6.7.8", has=[f"X-Forwarded-For: {US}"]),
    keeps("x-real-ip-replaced", "docs: trusted_proxies", "X-Real-IP: 1.2.3.4", has=[f"X-Real-IP: {US}"]),
    keeps("x-forwarded-proto-replaced", "docs: trusted_proxies", "X-Forwarded-Proto: https", has=["X-Forwarded-Proto: http"]),
    keeps("x-forwarded-host-replaced", "docs: trusted_proxies", "X-Forwarded-Host: evil.test", has=[f"X-Forwarded-Host: {HOST}"]),
    drops("forwarded-dropped", "RFC 7239 8.1", "Forwarded: for=1.2.3.4", lacks=["Forwarded"]),
    RequestCase("xff-with-crlf-encoded", "RFC 9110 5.5", field("X-Forwarded-For: 1.2.3.4%0d%0aX: y"), passed("GET /", has=[f"X-Forwarded-For: {US}"], lacks=["X"])),
    RequestCase("xff-trusted", "docs: trusted_proxies", field("X-Forwarded-For: 203.0.113.9"), passed("GET /", has=[f"X-Forwarded-For: 203.0.113.9, {TRUSTED}", "X-Real-IP: 203.0.113.9"]), local=TRUSTED),
    RequestCase("xff-trusted-spoofed-left", "docs: trusted_proxies", field("X-Forwarded-For: 6.6.6.6, 203.0.113.9"), passed("GET /", has=["X-Real-IP: 203.0.113.9"]), local=TRUSTED),
    RequestCase("xff-trusted-two-lines", "RFC 9110 5.3", field("X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 203.0.113.9"), passed("GET /", has=[f"X-Forwarded-For: 6.6.6.6, 203.0.113.9, {TRUSTED}", "X-Real-IP: 203.0.113.9"]), local=TRUSTED),
    RequestCase("xff-trusted-rubbish", "docs: trusted_proxies", field("X-Forwarded-For: <script>, ;;"), passed("GET /", has=[f"X-Real-IP: {TRUSTED}"]), local=TRUSTED),
    RequestCase("xff-trusted-empty", "docs: trusted_proxies", field("X-Forwarded-For:"), passed("GET /", has=[f"X-Real-IP: {TRUSTED}"]), local=TRUSTED),
    RequestCase("xff-trusted-commas", "docs: trusted_proxies", field("X-Forwarded-For: ,,,"), passed("GET /", has=[f"X-Real-IP: {TRUSTED}"]), local=TRUSTED),
    RequestCase("xff-trusted-port", "docs: trusted_proxies", field("X-Forwarded-For: 203.0.113.9:80"), passed("GET /", has=["X-Real-IP: 203.0.113.9"]), local=TRUSTED),
    RequestCase("xff-trusted-ipv6-port", "docs: trusted_proxies", field("X-Forwarded-For: [2001:db8::1]:80"), passed("GET /", has=["X-Real-IP: 2001:db8::1"]), local=TRUSTED),
    RequestCase("xff-trusted-zone", "RFC 4007 11", field("X-Forwarded-For: fe80::1%\x22evil"), passed("GET /", has=["X-Real-IP: fe80::1"]), local=TRUSTED),
    RequestCase("xff-trusted-3000-hops", "docs: trusted_proxies", field("X-Forwarded-For: " + "127.0.0.9," * 700 + "127.0.0.9"), passed("GET /"), local=TRUSTED),
    RequestCase("x-forwarded-proto-trusted", "docs: trusted_proxies", field("X-Forwarded-Proto: https"), passed("GET /", has=["X-Forwarded-Proto: https"]), local=TRUSTED),
    RequestCase("x-request-id-trusted", "docs: trusted_proxies", field("X-Request-Id: " + "a" * 32), passed("GET /", has=["X-Request-Id: " + "a" * 32]), local=TRUSTED),
    RequestCase("x-request-id-trusted-rubbish", "docs: trusted_proxies", field("X-Request-Id: <x>"), passed("GET /"), local=TRUSTED),
    RequestCase("hop-named-xff-trusted", "CVE-2022-31813 (Apache)", field("Connection: X-Forwarded-For", "X-Forwarded-For: 203.0.113.9"), either(passed("GET /", has=[f"X-Forwarded-For: 203.0.113.9, {TRUSTED}"]), passed("GET /", has=[f"X-Forwarded-For: {TRUSTED}"])), local=TRUSTED),
]  # fmt: skip


def cookie(
    name: str, *lines: str, has: list[str] | None = None, source: str = "RFC 6265 5.4"
) -> RequestCase:
    """Behind a sticky service: what is left of the cookies when pins are taken out."""
    return RequestCase(
        f"cookie-{name}",
        source,
        ask("GET /", *[f"Cookie: {line}" for line in lines], host=STICKY),
        passed("GET /", has=has or (), lacks=() if has else ["Cookie"]),
    )


COOKIES = [
    cookie("plain", "a=b", has=["Cookie: a=b"]),
    cookie("stale-pin", f"session={STALE}"),
    cookie("stale-pin-and-others", f"a=b; session={STALE}; c=d", has=["Cookie: a=b; c=d"]),
    cookie("stale-pin-twice", f"session={STALE}; session={STALE}"),
    cookie("stale-companion", f"session_lb={STALE}"),
    cookie("pin-two-lines", f"session={STALE}", "a=b", has=["Cookie: a=b"]),
    cookie("value-of-the-application", "session=theirs", has=["Cookie: session=theirs"]),
    cookie("pin-too-short", "session=sp1.00", source="docs: pins"),
    cookie("pin-other-version", "session=sp2.000000000000000000000000", has=["Cookie: session=sp2.000000000000000000000000"], source="docs: pins"),
    cookie("other-name-with-pin", f"other={STALE}", has=[f"Cookie: other={STALE}"], source="docs: pins"),
    cookie("name-other-case", f"Session={STALE}", has=[f"Cookie: Session={STALE}"]),
    cookie("no-equals", "session", has=["Cookie: session"]),
    cookie("no-name", "=a", has=["Cookie: =a"]),
    cookie("latin-1", "a=\xe9; session=\xff", has=["Cookie: a=\xe9; session=\xff"]),
    cookie("json", 'a={"b":"c,d"}', has=['Cookie: a={"b":"c,d"}']),
    *[
        RequestCase(f"cookie-{name}", "RFC 6265 5.4", ask("GET /", f"Cookie: {line}", host=STICKY), passed("GET /"))
        for name, line in {
            "empty": "",
            "blank": "   ",
            "semicolons": ";;;;",
            "quoted-pin": f'session="{STALE}"',
            "pin-in-quotes-of-other": f'a="x; session={STALE}; y"',
            "no-blank-between": f"a=b;session={STALE};c=d",
            "blanks-around-equals": f"session = {STALE}",
            "tabs": f"\ta=b;\tsession={STALE}\t",
            "pin-with-tail": f"session={STALE}x",
            "pin-upper": "session=" + STALE.upper(),
            "comma-separated": f"a=b, session={STALE}",
            "version-1": f'$Version="1"; session={STALE}; $Path="/"',
            "name-in-value": f"a=session={STALE}",
            "1000-pairs": "; ".join(f"a{n}=b" for n in range(1000)),
            "200-pins": "; ".join([f"session={STALE}"] * 200),
            "5000-semicolons": ";" * 5000,
            "5000-equals": "=" * 5000,
            "control-free-punctuation": "a=!#$%&'()*+-./:<>?@[]^_`{|}~",
        }.items()
    ],
    RequestCase("cookie-nul", "RFC 9110 5.5", ask("GET /", f"Cookie: session={STALE}\0", host=STICKY), refused()),
    RequestCase("cookie-40-lines", "RFC 9113 8.2.3", ask("GET /", *[f"Cookie: a{n}=b" for n in range(40)], host=STICKY), passed("GET /")),
    RequestCase("cookie-named-in-connection-with-pin", "tests/regress 01", ask("GET /", "Connection: X-Foo", "X-Foo: 1", f"Cookie: session={STALE}; a=b", "Authorization: x", host=STICKY), passed("GET /", has=["Cookie: a=b", "Authorization: x"], lacks=["X-Foo"])),
    RequestCase("cookie-field-empty-name", "RFC 6265 5.4", ask("GET /", "Cookie:", "Cookie: a=b", host=STICKY), passed("GET /")),
]  # fmt: skip

CASES = [*HOP_BY_HOP, *UNDERSCORES, *FORWARDED, *COOKIES]
