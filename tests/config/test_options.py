"""config/options.py: what each option accepts, what it says to all else, and what never gets in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from itertools import combinations, product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from stickyproxy.base.text import shown
from stickyproxy.base.values import boolean, duration, duration_text, port_number, timeout
from stickyproxy.config.options import (
    ServiceOptions,
    explain,
    hashes_addresses,
    host_name,
    nearest,
)
from stickyproxy.model.health import Checks, Ejection
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.timeouts import Timeouts
from stickyproxy.model.tls import UpstreamTls
from stickyproxy.routing.balancers import OPTIONS, policy_for
from tests.certificates import make_ca
from tests.specs import asked, service_spec

KEYS = list(ServiceOptions.model_fields)
KEYED = ("hash_cookie", "hash_header", "hash_query", "hash_source_ip")


def problems(**options: object) -> dict[str, str]:
    """{key or key[index]: reason} for a service on demo.local with these options."""
    try:
        ServiceOptions.model_validate({"hosts": ["demo.local"], **options})
    except ValidationError as error:
        return {
            "".join(f"[{step}]" if isinstance(step, int) else step for step in location): reason
            for location, reason in explain(error, lambda _: KEYS)
        }
    return {}


def spec(**options: object) -> ServiceSpec:
    return ServiceOptions.model_validate({"hosts": ["demo.local"], **options}).spec("demo", ())


class TestWhatIsAccepted:
    @pytest.mark.parametrize(
        ("key", "native", "label"),
        [
            ("hosts", ["a.example", "b.example"], "a.example, b.example"),
            ("context_root", "/shop", "/shop"),
            ("context_root_rewrite", True, "true"),
            ("sticky_session_cookie", "session", "session"),
            ("ip_hash", True, "true"),
            ("hash_cookie", "user", "user"),
            ("hash_header", "X-User", "X-User"),
            ("hash_query", "user", "user"),
            ("hash_source_ip", True, "true"),
            ("websocket_endpoints", ["/ws", "/live"], "/ws,/live"),
            ("redirects", [["a.example", "http://b.example"]], "a.example,http://b.example"),
            ("default_backend", True, "true"),
            ("ssl_passthrough", True, "true"),
        ],
    )
    def test_toml_and_label_text_mean_the_same(self, key: str, native: object, label: str) -> None:
        assert spec(**{key: native}) == spec(**{key: label})
        if key in OPTIONS:
            assert asked(spec(**{key: native})) == {key: native}
        else:
            assert getattr(spec(**{key: native}), key) != getattr(ServiceSpec("demo", ()), key)

    def test_labels_as_the_seeds_write_them(self) -> None:
        labels = {"hosts": "demo.local", "port": "8080", "ip_hash": "true"}
        options = ServiceOptions.model_validate(labels)
        assert options.port == 8080
        assert options.spec("demo", ()) == service_spec("demo", ("demo.local",), ip_hash=True)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("default_backend", True),
            ("context_root", "/a"),
            ("context_root_rewrite", True),
            ("websocket_endpoints", ["/ws"]),
            ("redirects", ["old.local,https://demo.local"]),
            ("sticky_session_cookie", "session"),
            ("hash_cookie", "user"),
            ("hash_header", "X-User"),
            ("hash_query", "user"),
            ("acme", True),
        ],
    )
    def test_nothing_of_requests_where_tls_is_passed_through(self, key: str, value: object) -> None:
        found = problems(ssl_passthrough=True, **{key: value})
        assert list(found) == [key]
        assert found[key].startswith("cannot be combined with ssl_passthrough")
        assert problems(ssl_passthrough=False, **{key: value}) == {}

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("context_root", "/"),
            ("context_root_rewrite", False),
            ("redirects", []),
            ("ip_hash", True),
            ("hash_source_ip", True),
            ("share", True),
            ("client_timeout", "1s"),
        ],
    )
    def test_what_is_known_of_tls_that_is_passed_through(self, key: str, value: object) -> None:
        assert problems(ssl_passthrough=True, **{key: value}) == {}

    def test_tls_is_passed_through_by_address(self) -> None:
        assert hashes_addresses(spec(ssl_passthrough=True)) == ["ssl_passthrough"]
        assert hashes_addresses(spec(ssl_passthrough=True, ip_hash=True)) == ["ip_hash"]
        assert policy_for(spec(ssl_passthrough=True)).describe() == "ip hash"

    def test_generated_hash_cookie(self) -> None:
        demo = asked(spec(hash_cookie="user", hash_cookie_ttl="60s", hash_cookie_path="/shop/"))
        assert (demo["hash_cookie_ttl"], demo["hash_cookie_path"]) == (60.0, "/shop/")
        until_closed = asked(spec(hash_cookie="user", hash_cookie_ttl="0s"))
        assert until_closed["hash_cookie_ttl"] == 0.0
        assert asked(spec(hash_cookie="user")) == {"hash_cookie": "user"}

    @pytest.mark.parametrize(("written", "seconds"), [("0s", 0.0), ("1m30s", 90.0)])
    def test_how_long_sessions_wait(self, written: str, seconds: float) -> None:
        demo = spec(sticky_session_cookie="session", sticky_wait=written)
        assert asked(demo) == {"sticky_session_cookie": "session", "sticky_wait": seconds}
        as_if_not_said = spec(sticky_session_cookie="session", sticky_wait="10s")
        assert as_if_not_said == spec(sticky_session_cookie="session")

    def test_how_long_what_has_no_sessions_waits(self) -> None:
        assert problems(sticky_wait="3s") == {
            "sticky_wait": "has no meaning without sticky_session_cookie: set that too, or remove "
            "this key"
        }
        found = problems(sticky_session_cookie="session", sticky_wait="3")
        assert found == {"sticky_wait": '"3" has no unit: write "3s"'}

    def test_sticky_cookie_and_ip_hash_go_together(self) -> None:
        demo = spec(sticky_session_cookie="session", ip_hash=True)
        assert asked(demo) == {"sticky_session_cookie": "session", "ip_hash": True}

    def test_keys_that_are_off_exclude_nothing(self) -> None:
        assert asked(spec(hash_source_ip="false", ip_hash=True)) == {"ip_hash": True}
        assert asked(spec(hash_source_ip=True, ip_hash="false")) == {"hash_source_ip": True}

    def test_default_backend_needs_no_host(self) -> None:
        assert ServiceOptions.model_validate({"default_backend": "true"}).hosts == ()

    def test_a_host_named_twice_counts_once(self) -> None:
        assert spec(hosts="Demo.local,demo.local.").hosts == ("demo.local",)

    def test_no_websocket_endpoint_is_not_all(self) -> None:
        assert spec().websocket_endpoints is None
        assert spec(websocket_endpoints=[]).websocket_endpoints == ()

    @pytest.mark.parametrize(
        ("written", "canonical"),
        [("/", "/"), ("/shop/", "/shop"), ("/a//", "/a"), ("//", "/"), ("/%7Ea", "/%7Ea")],
    )
    def test_context_root(self, written: str, canonical: str) -> None:
        assert spec(context_root=written).context_root == canonical

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            # The first two are from Interlock's own documents.
            ("http://old.local,http://new.local", [("old.local", "http://new.local")]),
            ("http://old.local, http://new.local;", [("old.local", "http://new.local")]),
            ("Old.local,https://New.local:8443/a/", [("old.local", "https://New.local:8443/a")]),
            ("a.b,http://c.d/x,y", [("a.b", "http://c.d/x,y")]),
            ("a.b,http://c.d; e.f,http://[::1]/", [("a.b", "http://c.d"), ("e.f", "http://[::1]")]),
            (["a.b,http://c.d"], [("a.b", "http://c.d")]),
            ([["a.b", "http://c.d"]], [("a.b", "http://c.d")]),
        ],
    )
    def test_redirects(self, written: object, read: list[tuple[str, str]]) -> None:
        assert spec(redirects=written).redirects == tuple(read)

    def test_spec_takes_over_name_and_endpoints(self) -> None:
        endpoint = EndpointSpec("task1", "10.0.0.5:8080")
        options = ServiceOptions.model_validate({"hosts": "demo.local"})
        assert options.spec("shop", iter([endpoint])).endpoints == (endpoint,)
        assert options.spec("shop", ()).name == "shop"

    def test_options_and_spec_have_the_same_keys(self) -> None:
        nested = {
            "policy",
            "timeouts",
            "ejection",
            "checks",
            "client_auth",
            "terms",
            "edits",
            "tls",
        }
        published = {item.name for item in fields(ServiceSpec)} - {
            "name",
            "endpoints",
            "coming",
            *nested,
        }
        published |= {f"{item.name}_timeout" for item in fields(Timeouts)}
        published |= {f"healthcheck_{item.name}" for item in fields(Checks)}
        published |= {"eject_after_5xx", "max_ejected"}
        published |= {"allow_from", "deny_from", "max_body", "rate_limit", "rate_limit_burst"}
        for of in ("request", "response"):
            published |= {f"{of}_headers_set", f"{of}_headers_remove"}
        published |= {"basic_auth", "max_in_flight", "max_queue", "queue_timeout"}
        published |= {"client_ca", "client_certificates"}
        published |= {"ssl_backend", "ssl_backend_server_name", "ssl_backend_tls_verify"}
        published |= {"ssl_backend_ca"}
        assert published | set(OPTIONS) == set(KEYS) - {"port"}
        assert published.isdisjoint(OPTIONS)

    @pytest.mark.parametrize(
        ("options", "tls"),
        [
            ({}, None),
            ({"ssl_backend": "false", "ssl_backend_tls_verify": "false"}, None),
            ({"ssl_backend": "true"}, UpstreamTls(server_name="demo.local")),
            (
                {"ssl_backend": True, "ssl_backend_tls_verify": True},
                UpstreamTls(verify=True, server_name="demo.local"),
            ),
            (
                {"ssl_backend": True, "hosts": "*.demo.local, b.demo.local, a.demo.local"},
                UpstreamTls(server_name="b.demo.local"),
            ),
            ({"ssl_backend": True, "hosts": ["*.demo.local"]}, UpstreamTls()),
            ({"ssl_backend": True, "hosts": ["[::1]"]}, UpstreamTls(server_name="::1")),
            (
                {"ssl_backend": True, "ssl_backend_server_name": "Shop.internal."},
                UpstreamTls(server_name="shop.internal"),
            ),
            (
                {"ssl_backend": True, "ssl_backend_server_name": "[2001:DB8::1]"},
                UpstreamTls(server_name="2001:db8::1"),
            ),
        ],
    )
    def test_tls_to_endpoints(self, options: dict[str, object], tls: UpstreamTls | None) -> None:
        assert spec(**options).tls == tls

    def test_the_authority_of_endpoints_as_text(self) -> None:
        """As a label has it."""
        text = make_ca().pem
        asked = {"ssl_backend": "true", "ssl_backend_tls_verify": "true"}
        tls = spec(**asked, ssl_backend_ca=f"  comment\n{text}  ").tls
        assert tls == UpstreamTls(verify=True, ca=text.strip(), server_name="demo.local")

    @pytest.mark.parametrize(
        ("options", "key", "reason"),
        [
            ({"ssl_backend_tls_verify": True}, "ssl_backend_tls_verify", "without ssl_backend"),
            (
                {"ssl_backend_server_name": "a.b", "ssl_backend": "false"},
                "ssl_backend_server_name",
                "without ssl_backend",
            ),
            (
                {"hosts": "*.a.b", "ssl_backend": True, "ssl_backend_tls_verify": True},
                "ssl_backend_tls_verify",
                "set ssl_backend_server_name",
            ),
            (
                {"ssl_backend": True, "ssl_backend_server_name": "*.a.b"},
                "ssl_backend_server_name",
                "is a wildcard",
            ),
            (
                {"ssl_backend": True, "ssl_backend_server_name": "a.b:8443"},
                "ssl_backend_server_name",
                'remove ":8443"',
            ),
            (
                {"ssl_backend": True, "ssl_backend_server_name": ["a.b"]},
                "ssl_backend_server_name",
                "is not text",
            ),
            ({"ssl_backend": "yess"}, "ssl_backend", "neither true nor false"),
            (
                {"ssl_backend": True, "ssl_backend_ca": make_ca().pem},
                "ssl_backend_ca",
                "without ssl_backend_tls_verify",
            ),
            (
                {"ssl_backend": True, "ssl_backend_tls_verify": True, "ssl_backend_ca": "/ca.pem"},
                "ssl_backend_ca",
                "write the text itself",
            ),
        ],
    )
    def test_tls_to_endpoints_that_cannot_be(
        self, options: dict[str, object], key: str, reason: str
    ) -> None:
        assert reason in problems(**options)[key]

    @pytest.mark.parametrize(
        ("written", "read"),
        [("none", "none"), ("safe", "safe"), (" Sticky ", "sticky")],
    )
    def test_drain(self, written: str, read: str) -> None:
        assert spec(drain=written).drain == read
        assert spec().drain == "none"

    def test_checks(self) -> None:
        assert spec().checks is None
        least = spec(hosts="*.b.example,a.example", healthcheck_path="/up?deep=1").checks
        assert least == Checks("/up?deep=1", "a.example")
        assert least.interval == 5
        assert (least.rise, least.fall) == (2, 3)
        assert spec(hosts="*.b.example", healthcheck_path="/").checks == Checks("/")
        assert spec(
            healthcheck_path="/up",
            healthcheck_host="Shop.example",
            healthcheck_interval="30s",
            healthcheck_timeout="500ms",
            healthcheck_rise="1",
            healthcheck_fall=5,
            healthcheck_status="200, 204 ,301-308",
        ).checks == Checks(
            *("/up", "shop.example", 30, 0.5, 1, 5), ((200, 200), (204, 204), (301, 308))
        )
        assert spec(healthcheck_path="/", healthcheck_status=200).checks == Checks(
            "/", "demo.local", status=((200, 200),)
        )

    def test_ejection(self) -> None:
        assert spec().ejection is None
        assert spec(max_ejected="50%", eject_after_5xx=0).ejection is None
        assert spec(eject_after_5xx="5").ejection == Ejection(after_5xx=5)
        assert spec(max_ejected=" 100 %").ejection == Ejection(share=1.0)

    def test_slow_start(self) -> None:
        assert spec().slow_start == 0
        assert spec(slow_start="30s").slow_start == 30

    @pytest.mark.parametrize(
        ("key", "value", "reason"),
        [
            ("healthcheck_path", "up", '"up" does not start with "/": write "/up"'),
            ("healthcheck_path", "/a#b", "which the path of a request cannot"),
            ("healthcheck_interval", "10ms", '"10ms" is too often: write at least "100ms"'),
            ("healthcheck_interval", 5, '5 has no unit: write "5s"'),
            ("healthcheck_timeout", "0s", '"0s" would time out at once'),
            ("healthcheck_rise", 0, "0 is not possible: write a whole number from 1 to 100"),
            ("healthcheck_fall", "three", '"three" is not possible: write a whole number'),
            ("healthcheck_fall", True, "write a whole number"),
            ("healthcheck_status", "", 'is empty: write statuses, like "200-399" or "200,204"'),
            ("healthcheck_status", "2xx", '"2xx" is not a status: write it like "200"'),
            ("healthcheck_status", "100-200", "write from 200 to 599"),
            ("healthcheck_status", "300-200", "the lower one first"),
            ("healthcheck_host", "*.a.example", '"*.a.example" is no single host'),
            ("healthcheck_host", "a.example:80", "is more than a host name"),
            ("eject_after_5xx", -1, "-1 is not possible: write a whole number from 0 to 1000"),
            ("max_ejected", 50, '50 has no unit: write "50%"'),
            ("max_ejected", "101%", '"101%" is not a percentage: write it like "50%"'),
            ("max_ejected", 0.5, '0.5 is not a percentage: write it like "50%"'),
            ("slow_start", "30", '"30" has no unit: write "30s"'),
        ],
    )
    def test_what_is_no_way_to_watch(self, key: str, value: object, reason: str) -> None:
        found = problems(**{"healthcheck_path": "/", key: value})
        assert found.keys() == {key}
        assert reason in found[key]

    def test_checks_need_a_path(self) -> None:
        found = problems(healthcheck_interval="5s", healthcheck_host="a.example")
        missing = "has no meaning without healthcheck_path: set that too, or remove this key"
        assert found == {"healthcheck_interval": missing, "healthcheck_host": missing}

    def test_timeouts(self) -> None:
        assert spec().timeouts is None
        assert spec(response_timeout="5m").timeouts == Timeouts(response=300)
        assert spec(
            connect_timeout="1s",
            response_timeout="2s",
            response_idle_timeout="3s",
            client_timeout="4s",
            upgrade_idle_timeout="1h",
        ).timeouts == Timeouts(1, 2, 3, 4, 3600)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("key", "value", "reason"),
        [
            ("hosts", [], "is required: name at least one host, or set default_backend"),
            ("hosts", " , ", "is required: name at least one host"),
            ("hosts", ["a.b", 5], "5 is not text: write it in quotes"),
            ("hosts", 5, "5 is not a list: write it in [brackets]"),
            ("hosts", "a.b,a b", '"a b" is not a host name'),
            ("port", 0, "0 is not a port: write a number from 1 to 65535"),
            ("port", "http", '"http" is not a port'),
            ("ip_hash", "yes", '"yes" is neither true nor false'),
            ("ip_hash", 1, "1 is neither true nor false"),
            ("drain", "yes", '"yes" is not known: write "none", "safe" or "sticky"'),
            (
                "admin_state",
                "drian",
                '"drian" is not known: write "ready", "drain" or "maintenance"',
            ),
            ("drain", True, "true is not text: write it in quotes"),
            ("response_timeout", "5", '"5" has no unit: write "5s"'),
            ("upgrade_idle_timeout", "0s", "would time out at once: write more than zero"),
            ("context_root", 5, "5 is not text"),
            ("context_root", "", '"" does not start with "/": write "/"'),
            ("context_root", "shop", '"shop" does not start with "/": write "/shop"'),
            ("context_root", "/a?b", '"/a?b" holds "?", which a path cannot: remove it'),
            ("context_root", "/a?b", 'or write it as "%3F"'),
            ("context_root", "/a#b", 'write it as "%23"'),
            ("context_root", "/a b", 'write it as "%20"'),
            ("context_root", "/a\nb", '"/a\\nb" holds "\\n"'),
            ("context_root", "/ü", 'write it as "%C3%BC"'),
            ("context_root", "/a;b", 'holds ";", which a cookie\'s path cannot'),
            ("websocket_endpoints", "/ws,live", '"live" does not start with "/"'),
            ("sticky_session_cookie", "", "is empty: write a name, or remove the key"),
            ("sticky_session_cookie", "a=b", '"a=b" is not a name HTTP allows'),
            ("sticky_session_cookie", "a\r\nX: y", '"a\\r\\nX: y" is not a name HTTP allows'),
            ("hash_cookie", "a;b", '"a;b" is not a name HTTP allows'),
            ("hash_header", "X User", '"X User" is not a name HTTP allows'),
            ("hash_header", "X-User:", '"X-User:" is not a name HTTP allows'),
            ("hash_query", "", "is empty: write a parameter's name"),
            ("hash_query", "a&b", 'remove it or write it as "%26"'),
            ("redirects", "a.b", '"a.b" is not a redirect: write it like "old.example,https'),
            ("redirects", [["a.b"]], "a list is not a redirect"),
            ("redirects", "a.b,c.d", '"c.d" is not a URL to redirect to'),
            ("redirects", "a.b,ftp://c.d", '"ftp://c.d" is not a URL to redirect to'),
            ("redirects", "a.b,http://", '"" is not a host name'),
            ("redirects", "a.b,http://c.d:0", '"0" is not a port'),
            ("redirects", "a.b,http://u@c.d", '"u@c.d" is not a host name'),
            ("redirects", "a.b,http://c.d/?x", 'holds "?", which a destination'),
            ("redirects", "a.b,http://c.d/\r\nX: y", 'holds "\\r"'),
            ("redirects", "a.b/x,http://c.d", 'remove "/x"'),
        ],
    )
    def test_with_value_and_remedy(self, key: str, value: object, reason: str) -> None:
        [(place, found)] = problems(**{key: value}).items()
        assert place.partition("[")[0] == key
        assert reason in found

    @pytest.mark.parametrize(
        ("key", "value", "reason"),
        [
            ("hash_cookie_ttl", 60, '60 has no unit: write "60s"'),
            ("hash_cookie_ttl", "1500ms", '"1500ms" is not in whole seconds: write e.g. "2s"'),
            ("hash_cookie_ttl", "-1s", '"-1s" is not a duration'),
            ("hash_cookie_path", "a", '"a" does not start with "/": write "/a"'),
            ("hash_cookie_path", "/;Domain=x", 'holds ";", which a cookie\'s path cannot'),
            ("hash_cookie_path", "/\n", 'holds "\\n"'),
        ],
    )
    def test_of_the_hash_cookie(self, key: str, value: object, reason: str) -> None:
        [(place, found)] = problems(hash_cookie="user", **{key: value}).items()
        assert place == key
        assert reason in found

    @pytest.mark.parametrize(
        ("key", "value"), [("hash_cookie_ttl", "60s"), ("hash_cookie_path", "/")]
    )
    def test_without_a_hash_cookie(self, key: str, value: str) -> None:
        assert problems(**{key: value}) == {
            key: "has no meaning without hash_cookie: set that too, or remove this key"
        }

    @pytest.mark.parametrize(
        ("other", "key"),
        [
            *product(("sticky_session_cookie", "ip_hash"), KEYED),
            *combinations(KEYED, 2),
        ],
    )
    def test_together(self, other: str, key: str) -> None:
        assert problems(**{key: "true", other: "true"}) == {
            key: f"cannot be combined with {other}: remove one of the two"
        }

    def test_place_names_the_item(self) -> None:
        assert list(problems(hosts=["a.b", "c d", "e.f", "g:1"])) == ["hosts[1]", "hosts[3]"]

    def test_all_at_once(self) -> None:
        found = problems(
            hosts=["a b", "c:80"], port="x", hash_header="a b", hash_cookie_ttl="1s", sticky="x"
        )
        places = "hosts[0] hosts[1] port hash_cookie_ttl hash_header sticky"
        assert " ".join(found) == places

    def test_nothing_is_said_twice(self) -> None:
        """A key that fails is not also missed by those that look at it."""
        assert list(problems(hosts=[], default_backend="x")) == ["default_backend"]
        assert list(problems(hash_cookie="", hash_cookie_ttl="1s")) == ["hash_cookie"]


class TestUnknownKeys:
    def test_names_the_nearest(self) -> None:
        assert problems(sticky_sesion_cookie="x") == {
            "sticky_sesion_cookie": 'unknown key "sticky_sesion_cookie" '
            '(did you mean "sticky_session_cookie"?)'
        }

    def test_lists_all_if_none_is_near(self) -> None:
        assert problems(zzz=1)["zzz"].startswith('unknown key "zzz" (known: ssl_passthrough, ')

    @pytest.mark.parametrize(
        ("word", "expected"),
        [("host", "hosts"), ("HOSTS", "hosts"), ("ip-hash", "ip_hash"), ("zzz", None), ("", None)],
    )
    def test_nearest(self, word: str, expected: str | None) -> None:
        assert nearest(word, KEYS) == expected


class TestHostNames:
    @pytest.mark.parametrize(
        ("written", "canonical"),
        [
            ("Demo.Local", "demo.local"),
            ("demo.local.", "demo.local"),
            ("*.Example.com", "*.example.com"),
            ("my_app", "my_app"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("[2001:DB8:0::1]", "[2001:db8::1]"),
            ("2001:db8::1", "[2001:db8::1]"),
            ("1.example", "1.example"),
        ],
    )
    def test_canonical(self, written: str, canonical: str) -> None:
        assert host_name(written) == canonical
        assert host_name(canonical) == canonical

    @pytest.mark.parametrize(
        ("written", "reason"),
        [
            ("", "is empty: write a host name"),
            ("*", '"*" is not a host name: set default_backend'),
            ("demo.local:8080", '"demo.local:8080" is more than a host name: remove ":8080"'),
            ("http://demo.local", 'remove "http://"'),
            ("demo.local/shop", 'remove "/shop"'),
            ("https://demo.local:1/a?b", 'remove "https://" and ":1" and "/a?b"'),
            ("[::1]:80", 'remove ":80"'),
            ("bücher.example", '"bücher.example" is not ASCII: write it in punycode (xn--...)'),
            ("10.0.0.300", '"10.0.0.300" is not an IPv4 address'),
            ("10.0.1", '"10.0.1" is not an IPv4 address'),
            ("[::1", '"[::1" is not a host name'),
            ("[::g]", '"[::g]" is not a host name'),
            ("[fe80::1%eth0]", '"[fe80::1%eth0]" is not a host name'),
            ("a..b", '"a..b" is not a host name'),
            ("-a.b", '"-a.b" is not a host name'),
            ("a.*.b", '"a.*.b" is not a host name'),
            ("*.*.b", '"*.*.b" is not a host name'),
            ("*.b.*", '"*.b.*" is not a host name'),
            ("a\x00b", '"a\\u0000b" is not a host name'),
            ("a\n", '"a\\n" is not a host name'),
            ("a" * 64, "is not a host name"),
            ("a." * 127 + "a", "is not a host name"),
        ],
    )
    def test_refused(self, written: str, reason: str) -> None:
        with pytest.raises(ValueError, match=re.escape(reason)):
            host_name(written)

    @given(st.ip_addresses())
    def test_every_address_is_a_host(self, address: object) -> None:
        host = host_name(str(address))
        assert host.strip("[]") == str(address)
        assert host_name(host) == host


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("250ms", 0.25),
            ("3s", 3.0),
            ("5m", 300.0),
            ("2h", 7200.0),
            ("1m30s", 90.0),
            ("1h2m3s4ms", 3723.004),
            ("1.5s", 1.5),
            ("0s", 0.0),
        ],
    )
    def test_read(self, text: str, seconds: float) -> None:
        assert duration(text) == seconds

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (3, '3 has no unit: write "3s"'),
            (0.5, '0.5 has no unit: write "0.5s"'),
            ("3", '"3" has no unit: write "3s"'),
            (-3, "-3 is not a duration"),
            (True, "true is not a duration"),
            (float("nan"), "nan is not a duration"),
            (2**64, "a number of this size is not a duration"),
            ("", '"" is not a duration: write it like "250ms", "3s", "1m30s" or "2h"'),
            ("-3s", '"-3s" is not a duration'),
            ("3 s", '"3 s" is not a duration'),
            ("30s1m", '"30s1m" is not a duration'),
            ("3d", '"3d" is not a duration'),
            ("3s\n", '"3s\\n" is not a duration'),
            ("٣s", '"٣s" is not a duration'),
            ("99999h", '"99999h" is more than ten years'),
            (["3s"], "a list is not a duration"),
        ],
    )
    def test_refused(self, value: object, reason: str) -> None:
        with pytest.raises(ValueError, match=re.escape(reason)):
            duration(value)

    def test_a_timeout_is_more_than_zero(self) -> None:
        assert timeout("1ms") == 0.001
        with pytest.raises(ValueError, match='"0s" would time out at once'):
            timeout("0s")

    @pytest.mark.parametrize(
        ("seconds", "text"), [(0, "0s"), (0.25, "250ms"), (90, "1m30s"), (7200, "2h")]
    )
    def test_written(self, seconds: float, text: str) -> None:
        assert duration_text(seconds) == text

    @given(st.integers(0, 10 * 365 * 24 * 3_600_000))
    def test_round_trip(self, milliseconds: int) -> None:
        seconds = milliseconds / 1000
        assert duration(duration_text(seconds)) == seconds


class TestScalars:
    @pytest.mark.parametrize("value", [True, "true", "True", "TRUE", "t", "1", " true "])
    def test_true(self, value: object) -> None:
        assert boolean(value) is True

    @pytest.mark.parametrize("value", [False, "false", "False", "f", "0"])
    def test_false(self, value: object) -> None:
        assert boolean(value) is False

    @pytest.mark.parametrize("value", ["", "yes", "on", 1, 0, None, [True]])
    def test_neither(self, value: object) -> None:
        with pytest.raises(ValueError, match="neither true nor false"):
            boolean(value)

    @pytest.mark.parametrize(("value", "port"), [(1, 1), (65535, 65535), ("8080", 8080)])
    def test_port(self, value: object, port: int) -> None:
        assert port_number(value) == port

    @pytest.mark.parametrize("value", [0, -1, 65536, True, 80.0, "", "0", "+80", "8_0", "٨٠", None])
    def test_no_port(self, value: object) -> None:
        with pytest.raises(ValueError, match="is not a port: write a number from 1 to 65535"):
            port_number(value)


@given(st.text() | st.integers() | st.floats() | st.booleans())
def test_shown_is_one_short_printable_line(value: object) -> None:
    text = shown(value)
    assert text.isprintable()
    assert len(text) < 1000


# --- nothing else comes out, nothing harmful gets in ----------------------------------------

# Letters that mean something here, among any others; lone surrogates too, which JSON can carry.
TEXT = st.text(st.sampled_from("a1.-_*/:;,=?#% \r\n\0[]") | st.characters(), max_size=12)
VALUES = st.recursive(
    TEXT | st.integers() | st.floats() | st.booleans() | st.none() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=5,
)


def texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case tuple():
            for item in value:
                yield from texts(item)


@given(st.dictionaries(st.sampled_from(KEYS) | TEXT, VALUES, max_size=4))
def test_whatever_comes_is_accepted_or_explained(options: dict[str, object]) -> None:
    for reason in problems(**options).values():
        assert reason.isprintable(), "one line, without escapes"
        assert "Input should" not in reason, "pydantic's words"


FREE = ("error_page", "request_headers_set", "response_headers_set")
"""What is no header field, and what is a whole one: ``test_editing`` has that."""
FOR_HEADERS = [key for key in KEYS if key not in FREE]


@given(
    st.sampled_from(FOR_HEADERS),
    TEXT | TEXT.map("/".__add__) | TEXT.map("a.b,http://c.d/".__add__),
)
@example("hsts", "0")
def test_what_is_accepted_can_stand_in_a_header(key: str, text: str) -> None:
    options = {"hosts": "demo.local", "hash_cookie": "user"} | {key: text}
    if key.startswith(("ip_hash", "sticky", "hash_header", "hash_query", "hash_source")):
        del options["hash_cookie"]
    try:
        accepted = ServiceOptions.model_validate(options)
    except ValidationError:
        return
    for value in texts(getattr(accepted, key)):
        assert value
        assert all("!" <= character <= "~" for character in value)
        assert ";" not in value or key in ("websocket_endpoints", "hash_query", "redirects")
