"""What a request is for: the forms of its target, and the Host field."""

from __future__ import annotations

from tests.hostile.case import RequestCase, ask, declined, either, passed, refused, told

REDIRECTED = told(302)


def same(target: str) -> RequestCase:
    """A target that is forwarded byte by byte: what it means is the endpoint's affair."""
    return RequestCase(
        f"path-as-is {target}", "RFC 9112 3.2.1", ask(f"GET {target}"), passed(f"GET {target}")
    )


ORIGIN_FORM = [
    *[
        same(target)
        for target in (
            "//",
            "//other.test/a",
            "/./a",
            "/../../etc/passwd",
            "/%2e%2e/a",
            "/a/..;/b",
            "/a%2fb",
            "/%00",
            "/%",
            "/%zz",
            "/a%0d%0aX:%20y",
            "/a%20b",
            "/?",
            "/??a=b?",
            "/?a=b&c=%26",
            "/a:b@c",
            "/http://other.test/",
            "/;jsessionid=1?x#".rstrip("#"),
            "/~!$&'()*+,=",
        )
    ],
    RequestCase("path-backslash", "WHATWG URL 4.4", ask("GET /\\other.test"), either(passed("GET /\\other.test"), refused())),
    RequestCase("path-quotes", "RFC 3986 2", ask('GET /"<>^`{|}'), either(passed('GET /"<>^`{|}'), refused())),
    RequestCase("path-latin-1", "RFC 3986 2", ask("GET /\xe9"), either(passed("GET /\xe9"), refused())),
    RequestCase("path-utf-8", "RFC 3986 2", ask("GET /").replace(b"/ ", b"/\xc3\xa9 "), either(passed("GET /\xc3\xa9"), refused())),
    RequestCase("path-invalid-utf-8", "RFC 3986 2", ask("GET /\xff\xfe"), either(passed("GET /\xff\xfe"), refused())),
    RequestCase("path-overlong-crlf", "truncation to 8 bits", ask("GET /").replace(b"/ ", b"/\xc4\x8d\xc4\x8aX: "), refused()),
    RequestCase("path-fragment", "issue 7 row 12, RFC 9112 3.2.1", ask("GET /a#frag"), either(passed("GET /a"), refused())),
    RequestCase("path-fragment-empty", "issue 7 row 12", ask("GET /a#"), either(passed("GET /a"), refused())),
    RequestCase("path-fragment-behind-query", "issue 7 row 12", ask("GET /a?b#c"), either(passed("GET /a?b"), refused())),
    RequestCase("path-fragment-with-query-in-it", "issue 7 row 12", ask("GET /a#b?c"), either(passed("GET /a"), refused())),
    RequestCase("path-fragment-with-traversal", "issue 7 row 12", ask("GET /a#/../b"), either(passed("GET /a"), refused())),
    RequestCase("path-relative", "RFC 9112 3.2", ask("GET path"), declined(400)),
    RequestCase("path-relative-dot", "RFC 9112 3.2", ask("GET ./a"), declined(400)),
    RequestCase("path-query-only", "RFC 9112 3.2", ask("GET ?query"), declined(400)),
    RequestCase("path-fragment-only", "RFC 9112 3.2", ask("GET #a"), declined(400)),
    RequestCase("path-backslash-first", "RFC 9112 3.2", ask("GET \\a"), declined(400)),
    RequestCase("path-encoded-slash-first", "RFC 9112 3.2", ask("GET %2fa"), declined(400)),
    *[
        RequestCase(f"path-control-{c:02x}", "RFC 9112 3.2", ask(f"GET /a{chr(c)}b"), refused())
        for c in [*range(9), *range(11, 13), *range(14, 32), 127]
    ],
    RequestCase("root-outside", "routing", ask("GET /other", host="rooted.test"), declined(404)),
    RequestCase("root-rewritten", "routing", ask("GET /app/a", host="rooted.test"), passed("GET /a")),
    RequestCase("root-alone", "routing", ask("GET /app", host="rooted.test"), passed("GET /")),
    RequestCase("root-query", "routing", ask("GET /app?q", host="rooted.test"), passed("GET /?q")),
    RequestCase("root-prefix-of-segment", "routing", ask("GET /application", host="rooted.test"), declined(404)),
    RequestCase("root-other-case", "routing", ask("GET /App", host="rooted.test"), declined(404)),
    RequestCase("root-double-slash", "routing", ask("GET //app/a", host="rooted.test"), declined(404)),
    RequestCase("root-traversal-out", "routing", ask("GET /app/../other", host="rooted.test"), either(passed("GET /../other"), declined(400, 404))),
    RequestCase("root-then-authority", "routing", ask("GET /app//other.test/a", host="rooted.test"), passed("GET //other.test/a")),
    RequestCase("root-fragment", "issue 7 row 12", ask("GET /app#/a", host="rooted.test"), either(passed("GET /"), declined(400, 404))),
]  # fmt: skip

ABSOLUTE_FORM = [
    RequestCase("absolute-plain", "RFC 9112 3.2.2", ask("GET http://hostile.test/a?b"), passed("GET /a?b", host="hostile.test")),
    RequestCase("absolute-host-differs", "RFC 9112 3.2.2", ask("GET http://hostile.test/a", host="other.test"), passed("GET /a", host="hostile.test")),
    RequestCase("absolute-host-empty", "RFC 9112 3.2.2", ask("GET http://hostile.test/a", host=""), either(passed("GET /a", host="hostile.test"), declined(400))),
    RequestCase("absolute-host-missing", "RFC 9112 3.2", ask("GET http://hostile.test/a", host=None), declined(400)),
    RequestCase("absolute-host-twice", "RFC 9112 3.2", ask("GET http://hostile.test/a", "Host: hostile.test"), declined(400)),
    RequestCase("absolute-host-invalid", "RFC 9112 3.2", ask("GET http://hostile.test/a", host="a b"), either(declined(400), passed("GET /a", host="hostile.test"))),
    RequestCase("absolute-upper-scheme", "RFC 3986 3.1", ask("GET HTTP://hostile.test/a"), passed("GET /a", host="hostile.test")),
    RequestCase("absolute-upper-host", "RFC 3986 3.2.2", ask("GET http://HOSTILE.test/a"), passed("GET /a")),
    RequestCase("absolute-no-path", "RFC 9112 3.2.2", ask("GET http://hostile.test"), passed("GET /")),
    RequestCase("absolute-only-query", "RFC 9112 3.2.2", ask("GET http://hostile.test?a"), passed("GET /?a")),
    RequestCase("absolute-port", "RFC 9112 3.2.2", ask("GET http://hostile.test:80/a"), passed("GET /a", host="hostile.test:80")),
    RequestCase("absolute-port-empty", "RFC 3986 3.2.3", ask("GET http://hostile.test:/a"), either(passed("GET /a"), declined(400))),
    RequestCase("absolute-port-letters", "RFC 3986 3.2.3", ask("GET http://hostile.test:x/"), declined(400)),
    RequestCase("absolute-port-twice", "RFC 3986 3.2.3", ask("GET http://hostile.test:80:80/"), declined(400)),
    RequestCase("absolute-fragment", "issue 7 row 12", ask("GET http://hostile.test/a#b"), either(passed("GET /a"), declined(400))),
    RequestCase("absolute-fragment-for-path", "issue 7 row 12", ask("GET http://hostile.test#/a"), either(passed("GET /"), declined(400))),
    RequestCase("absolute-fragment-with-user", "issue 7 row 12", ask("GET http://hostile.test#@other.test/"), either(passed("GET /", host="hostile.test"), declined(400))),
    RequestCase("absolute-user", "RFC 9110 4.2.4", ask("GET http://user@hostile.test/"), declined(400)),
    RequestCase("absolute-user-password", "RFC 9110 4.2.4", ask("GET http://user:secret@hostile.test/"), declined(400)),
    RequestCase("absolute-user-empty", "RFC 9110 4.2.4", ask("GET http://@hostile.test/"), declined(400)),
    RequestCase("absolute-two-ats", "RFC 9110 4.2.4", ask("GET http://a@b@hostile.test/"), declined(400)),
    RequestCase("absolute-backslash", "WHATWG URL 4.4", ask("GET http://other.test\\@hostile.test/"), declined(400)),
    RequestCase("absolute-backslash-path", "WHATWG URL 4.4", ask("GET http://hostile.test\\a"), declined(400)),
    RequestCase("absolute-empty-authority", "RFC 9110 4.2.1", ask("GET http:///path"), declined(400)),
    RequestCase("absolute-nothing", "RFC 9110 4.2.1", ask("GET http://"), declined(400)),
    RequestCase("absolute-one-slash", "RFC 9112 3.2", ask("GET http:/hostile.test/"), declined(400)),
    RequestCase("absolute-no-slash", "RFC 9112 3.2", ask("GET http:hostile.test/"), declined(400)),
    RequestCase("absolute-three-slashes", "RFC 9110 4.2.1", ask("GET http:///hostile.test/"), declined(400)),
    RequestCase("absolute-ftp", "RFC 9112 3.2", ask("GET ftp://hostile.test/"), declined(400, 421)),
    RequestCase("absolute-file", "RFC 9112 3.2", ask("GET file:///etc/passwd"), declined(400, 421)),
    RequestCase("absolute-javascript", "RFC 9112 3.2", ask("GET javascript:alert(1)"), declined(400, 421)),
    RequestCase("absolute-ws", "RFC 9112 3.2", ask("GET ws://hostile.test/"), declined(400, 421)),
    RequestCase("absolute-https", "RFC 9110 7.4", ask("GET https://hostile.test/a"), either(passed("GET /a", host="hostile.test"), declined(400, 421))),
    RequestCase("absolute-ipv6", "RFC 3986 3.2.2", ask("GET http://[::1]/a"), passed("GET /a", host="[::1]")),
    RequestCase("absolute-ipv6-unclosed", "RFC 3986 3.2.2", ask("GET http://[::1/a"), declined(400)),
    RequestCase("absolute-latin-1-host", "RFC 3986 3.2.2", ask("GET http://host\xe9.test/"), declined(400)),
    RequestCase("absolute-percent-host", "RFC 3986 3.2.2", ask("GET http://hostile%2etest/"), declined(400)),
    RequestCase("absolute-nul-host", "RFC 9112 3.2", ask("GET http://hostile.test\0.other/"), refused()),
    RequestCase("absolute-comma-host", "RFC 9112 3.2", ask("GET http://hostile.test,other.test/"), declined(400)),
    RequestCase("absolute-double-path", "RFC 9112 3.2.2", ask("GET http://hostile.test//other.test/"), passed("GET //other.test/")),
    RequestCase("absolute-url-in-path", "RFC 9112 3.2.2", ask("GET http://hostile.test/http://other.test/"), passed("GET /http://other.test/")),
    RequestCase("absolute-other-service", "RFC 9112 3.2.2", ask("GET http://rooted.test/app/a", host="hostile.test"), passed("GET /a", host="rooted.test")),
    RequestCase("absolute-no-service-there", "RFC 9112 3.2.2", ask("GET http://empty.test/", host="hostile.test"), declined(503)),
    RequestCase("absolute-options-no-path", "RFC 9112 3.2.4", ask("OPTIONS http://hostile.test"), either(passed("OPTIONS *"), passed("OPTIONS /"))),
    RequestCase("absolute-forwarded-host", "RFC 9112 3.2.2", ask("GET http://hostile.test/", host="other.test"), passed("GET /", has=["X-Forwarded-Host: hostile.test"])),
    RequestCase("absolute-http-1.0", "RFC 9112 3.2.2", ask("GET http://hostile.test/a", host=None, version="HTTP/1.0"), passed("GET /a", host="hostile.test", closed=True)),
]  # fmt: skip

OTHER_FORMS = [
    RequestCase("asterisk-options", "RFC 9112 3.2.4", ask("OPTIONS *"), passed("OPTIONS *")),
    RequestCase("asterisk-get", "RFC 9112 3.2.4", ask("GET *"), declined(400)),
    RequestCase("asterisk-path", "RFC 9112 3.2.4", ask("OPTIONS *a"), declined(400)),
    RequestCase("asterisk-two", "RFC 9112 3.2.4", ask("OPTIONS **"), declined(400)),
    RequestCase("asterisk-query", "RFC 9112 3.2.4", ask("OPTIONS *?a"), declined(400)),
    RequestCase("asterisk-redirected", "tests/regress 04", ask("OPTIONS *", host="old.test"), REDIRECTED),
    RequestCase("authority-get", "RFC 9112 3.2.3", ask("GET hostile.test:80"), declined(400)),
    RequestCase("authority-no-port", "RFC 9112 3.2.3", ask("GET hostile.test"), declined(400)),
    RequestCase("connect", "RFC 9110 9.3.6", ask("CONNECT hostile.test:80"), refused(400, 405, 501)),
    RequestCase("connect-path", "tests/regress 02", ask("CONNECT /a"), refused(400, 405, 501)),
    RequestCase("connect-absolute", "RFC 9112 3.2.3", ask("CONNECT http://hostile.test/"), refused(400, 405, 501)),
    RequestCase("connect-no-host", "RFC 9112 3.2", ask("CONNECT hostile.test:80", host=None), refused(400, 405, 501)),
    RequestCase("connect-ipv6", "RFC 9112 3.2.3", ask("CONNECT [::1]:22"), refused(400, 405, 501)),
    RequestCase("connect-metadata", "SSRF", ask("CONNECT 169.254.169.254:80"), refused(400, 405, 501)),
    RequestCase("connect-then-bytes", "RFC 9110 9.3.6", ask("CONNECT hostile.test:80", body="GET /inner HTTP/1.1\r\nHost: hostile.test\r\n\r\n"), refused(400, 405, 501)),
    RequestCase("connect-with-length", "RFC 9110 9.3.6", ask("CONNECT hostile.test:80", "Content-Length: 5", body="hello"), refused(400, 405, 501)),
    RequestCase("connect-lower", "RFC 9110 9.1", ask("connect hostile.test:80"), declined(400, 405, 501)),
    RequestCase("connect-http-1.0", "RFC 9110 9.3.6", ask("CONNECT hostile.test:80", version="HTTP/1.0"), refused(400, 405, 501)),
]  # fmt: skip


def bad_host(name: str, value: str) -> RequestCase:
    """RFC 9112 3.2: an invalid Host value is answered 400."""
    return RequestCase(f"host-{name}", "RFC 9112 3.2", ask("GET /", host=value), declined(400))


HOSTS = [
    RequestCase("host-missing", "RFC 9112 3.2", ask("GET /", host=None), declined(400)),
    RequestCase("host-twice", "CVE-2026-34525 (aiohttp), RFC 9112 3.2", ask("GET /", "Host: hostile.test"), declined(400)),
    RequestCase("host-twice-different", "RFC 9112 3.2", ask("GET /", "Host: other.test"), declined(400)),
    RequestCase("host-twice-other-case", "RFC 9112 3.2", ask("GET /", "hOST: other.test"), declined(400)),
    RequestCase("host-twice-one-empty", "RFC 9112 3.2", ask("GET /", "Host:"), declined(400)),
    RequestCase("host-twice-far-apart", "RFC 9112 3.2", ask("GET /", *["X: y"] * 60, "Host: other.test"), declined(400)),
    RequestCase("host-blank-before-colon", "RFC 9112 5.1", ask("GET /", "Host : hostile.test", host=None), refused()),
    RequestCase("host-second-with-blank", "RFC 9112 5.1", ask("GET /", "Host : other.test"), refused()),
    RequestCase("host-empty", "RFC 9110 7.2", ask("GET /", host=""), either(passed("GET /"), declined(400))),
    RequestCase("host-upper", "RFC 9110 4.2.3", ask("GET /", host="HOSTILE.TEST"), passed("GET /")),
    RequestCase("host-trailing-dot", "RFC 3986 3.2.2", ask("GET /", host="hostile.test."), either(passed("GET /"), declined(400))),
    RequestCase("host-port", "RFC 9110 7.2", ask("GET /", host="hostile.test:8080"), passed("GET /", host="hostile.test:8080")),
    RequestCase("host-port-empty", "RFC 3986 3.2.3", ask("GET /", host="hostile.test:"), either(passed("GET /"), declined(400))),
    RequestCase("host-port-of-six", "RFC 3986 3.2.3", ask("GET /", host="hostile.test:808080"), declined(400)),
    RequestCase("host-outer-blanks", "RFC 9110 5.5", ask("GET /", host="\t hostile.test \t"), passed("GET /", host="hostile.test")),
    RequestCase("host-named-in-connection", "CVE-2022-31813 (Apache)", ask("GET /", "Connection: Host"), either(passed("GET /", host="hostile.test"), declined(400))),
    RequestCase("host-wildcard", "tests/regress 03", ask("GET /", host="*.wild.test"), declined(400)),
    RequestCase("host-below-wildcard", "routing", ask("GET /", host="a.wild.test"), passed("GET /")),
    RequestCase("host-ipv6", "RFC 3986 3.2.2", ask("GET /", host="[::1]:80"), passed("GET /")),
    RequestCase("host-underscore", "RFC 9110 7.2", ask("GET /", host="a_b.test"), passed("GET /")),
    RequestCase("host-of-300", "RFC 1035 2.3.4", ask("GET /", host="a" * 300), either(passed("GET /"), declined(400))),
    RequestCase("host-without-endpoints", "RFC 9110 15.6.4", ask("GET /", host="empty.test"), declined(503)),
    RequestCase("host-x-forwarded-host", "RFC 9110 7.2", ask("GET /", "X-Forwarded-Host: other.test", "X-Host: other.test"), passed("GET /", host="hostile.test", has=["X-Forwarded-Host: hostile.test"])),
    bad_host("list", "hostile.test, other.test"),
    bad_host("inner-blank", "hostile test"),
    bad_host("inner-tab", "hostile\ttest"),
    bad_host("slash", "hostile.test/"),
    bad_host("path", "hostile.test/a"),
    bad_host("query", "hostile.test?"),
    bad_host("fragment", "hostile.test#"),
    bad_host("user", "user@hostile.test"),
    bad_host("url", "http://hostile.test"),
    bad_host("port-letters", "hostile.test:x"),
    bad_host("port-twice", "hostile.test:80:80"),
    bad_host("port-negative", "hostile.test:-1"),
    bad_host("port-at", "hostile.test:80@other.test"),
    bad_host("ipv6-unclosed", "[::1"),
    bad_host("ipv6-bare", "::1"),
    bad_host("ipv6-tail", "[::1]other.test"),
    bad_host("ipv6-zone", "[fe80::1%25eth0]"),
    bad_host("latin-1", "host\xe9.test"),
    bad_host("percent", "hostile%2etest"),
    bad_host("percent-nul", "hostile.test%00"),
    bad_host("backslash", "hostile.test\\"),
    bad_host("quote", 'hostile.test"'),
    bad_host("apostrophe-sql", "x' or '1'='1"),
    bad_host("script", "<script>alert(1)</script>"),
    bad_host("semicolon", "hostile.test;other.test"),
    bad_host("asterisk", "*"),
    bad_host("template", "${jndi:ldap://a}"),
]  # fmt: skip

CASES = [*ORIGIN_FORM, *ABSOLUTE_FORM, *OTHER_FORMS, *HOSTS]
