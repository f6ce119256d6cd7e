"""providers/engine/labels.py: what each label means, what is said of a wrong one, and that
nothing else escapes."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stickyproxy.model.snapshot import Problem
from stickyproxy.model.tls import ClientAuth, UpstreamTls
from stickyproxy.providers.engine.labels import (
    KNOWN,
    PREFIX,
    Declaration,
    LabelOptions,
    lookalikes,
    on_containers,
    parse_service,
)
from tests.certificates import make_ca
from tests.specs import service_spec


def declared(**labels: str) -> Declaration:
    """What a service on demo.local, port 80, with these labels declares."""
    values = {"hosts": "demo.local", "port": "80"} | labels
    found = parse_service("shop", {PREFIX + key: values[key] for key in values})
    assert found is not None
    return found


def reasons(**labels: str) -> dict[str, str]:
    """{label without prefix: reason} of the problems."""
    found = declared(**labels).problems
    return {problem.label.removeprefix(PREFIX): problem.reason for problem in found}


def options(**labels: str) -> LabelOptions:
    """The options of a service whose labels can be used."""
    found = declared(**labels).options
    assert found is not None
    return found


class TestWhatIsAccepted:
    def test_the_seeds(self) -> None:
        seed = declared(port="8080", sticky_session_cookie="session")
        assert seed.problems == ()
        assert seed.options is not None
        assert seed.options.port == 8080
        assert seed.options.spec("demo", ()) == service_spec(
            "demo", ("demo.local",), sticky_session_cookie="session"
        )

    @pytest.mark.parametrize(
        ("label", "text", "value"),
        [
            ("hosts", "a.example, B.example", ("a.example", "b.example")),
            ("network", "front", "front"),
            ("context_root", "/shop/", "/shop"),
            ("context_root_rewrite", "true", True),
            ("ip_hash", "1", True),
            ("websocket_endpoints", "/ws,/live", ("/ws", "/live")),
            ("redirects", "a.example,http://b.example", (("a.example", "http://b.example"),)),
            ("default_backend", "t", True),
            ("backend_mode", " VIP ", "vip"),
            ("backend_mode", "task", "task"),
            ("service_cluster", "eu", "eu"),
            ("ssl_cert", "demo.local.cert", "demo.local.cert"),
            ("ssl_backend", "true", True),
            ("ssl_backend_tls_verify", "false", False),
            ("hash_cookie", "user", "user"),
            ("hash_header", "X-User", "X-User"),
            ("hash_query", "user", "user"),
            ("hash_source_ip", "true", True),
        ],
    )
    def test_each_label(self, label: str, text: str, value: object) -> None:
        assert getattr(options(**{label: text}), label) == value

    def test_a_service_without_labels_of_ours_is_none_of_ours(self) -> None:
        assert parse_service("shop", {"com.docker.stack.namespace": "shop"}) is None
        assert parse_service("shop", {}) is None


class TestPort:
    @pytest.mark.parametrize("ports", [(8080,), (8080, 8080)])
    def test_is_inferred_from_the_only_one(self, ports: tuple[int, ...]) -> None:
        found = parse_service("shop", {PREFIX + "hosts": "demo.local"}, ports)
        assert found is not None
        assert found.options is not None
        assert found.options.port == 8080

    @pytest.mark.parametrize(("ports", "word"), [((), "listens on"), ((80, 81), "one of 80, 81")])
    def test_is_required_otherwise(self, ports: tuple[int, ...], word: str) -> None:
        found = parse_service("shop", {PREFIX + "hosts": "demo.local"}, ports)
        assert found is not None
        [problem] = found.problems
        assert found.options is None
        assert problem.fatal
        assert problem.label == PREFIX + "port"
        assert word in problem.reason
        assert problem.remedy.startswith("docker service update --label-add com.docker.lb.port=")

    def test_what_is_written_counts(self) -> None:
        assert options(port="81").port == 81


class TestProblems:
    def test_all_are_found_at_once(self) -> None:
        found = declared(port="80a", ip_hash="yes", stiky_session_cookie="x", ssl_key="k")
        assert found.options is None
        assert {p.label.removeprefix(PREFIX) for p in found.problems} == {
            "port",
            "ip_hash",
            "stiky_session_cookie",
            "ssl_key",
        }
        assert all(problem.service == "shop" and problem.fatal for problem in found.problems)

    @pytest.mark.parametrize(
        ("bad", "change"),
        [
            ({"hosts": "a b"}, "--label-add com.docker.lb.hosts=shop.example.com"),
            ({"ip_hash": "x"}, "--label-rm com.docker.lb.ip_hash"),
        ],
    )
    def test_what_to_try_can_be_typed(self, bad: dict[str, str], change: str) -> None:
        [problem] = declared(**bad).problems
        assert problem.remedy == f"docker service update {change} shop"

    def test_a_slip_of_the_finger_is_said_once(self) -> None:
        """Not also that the label is missing which it stands for."""
        found = parse_service("shop", {PREFIX + "host": "demo.local", PREFIX + "prot": "80"})
        assert found is not None
        assert [p.label.removeprefix(PREFIX) for p in found.problems] == ["host", "prot"]

    def test_bad_value(self) -> None:
        [problem] = declared(port="80a").problems
        assert problem == Problem(
            "shop",
            '"80a" is not a port: write a number from 1 to 65535',
            "com.docker.lb.port",
            '"80a"',
            "docker service update --label-add com.docker.lb.port=8080 shop",
            fatal=True,
        )
        assert str(problem).startswith('service shop: com.docker.lb.port: "80a" is not a port')

    def test_typo(self) -> None:
        [problem] = declared(stiky_session_cookie="session").problems
        assert "did you mean com.docker.lb.sticky_session_cookie?" in problem.reason
        assert problem.remedy == (
            "docker service update --label-rm com.docker.lb.stiky_session_cookie "
            "--label-add com.docker.lb.sticky_session_cookie=session shop"
        )

    def test_unknown_label_like_none(self) -> None:
        [reason] = reasons(zzz="1").values()
        assert reason.startswith("is not a known label (known: ")

    def test_no_host(self) -> None:
        assert "name at least one host" in reasons(hosts="")["hosts"]

    @pytest.mark.parametrize("label", ["network", "ssl_cert", "service_cluster"])
    @pytest.mark.parametrize("value", ["", "a b", "é"])
    def test_names(self, label: str, value: str) -> None:
        assert label in reasons(**{label: value})

    def test_backend_mode(self) -> None:
        assert 'write "task" or "vip"' in reasons(backend_mode="dns")["backend_mode"]

    def test_no_secret_of_the_terminal(self) -> None:
        found = parse_service("shop", {PREFIX + "\x1b[2J": "\x1b]0;x\x07"})
        assert found is not None
        text = "".join(f"{problem} {problem.value}" for problem in found.problems)
        assert text.isprintable()


class TestTlsToEndpoints:
    def test_is_served(self) -> None:
        found = declared(ssl_backend="true", ssl_backend_tls_verify="true")
        assert found.problems == ()
        assert found.encrypted
        assert found.options is not None
        assert found.options.spec("shop", ()).tls == UpstreamTls(
            verify=True, server_name=found.options.hosts[0]
        )

    def test_what_only_the_configuration_file_has_is_no_label(self) -> None:
        assert "tls" not in KNOWN

    def test_what_may_have_been_meant_is_not_dropped(self) -> None:
        """The service would be spoken to in the clear."""
        found = declared(ssl_backend="ture")
        assert found.options is None
        assert found.encrypted
        assert [problem.remedy for problem in found.problems] == [""]


class TestTlsFromClients:
    def test_only_over_tls(self) -> None:
        found = declared(ssl_only="true", hsts="true")
        assert found.problems == ()
        assert found.encrypted
        assert found.options is not None
        spec = found.options.spec("shop", ())
        assert (spec.ssl_only, spec.hsts) == (True, "max-age=63072000")

    def test_client_certificates(self) -> None:
        ca = make_ca().pem
        found = declared(client_ca=ca, client_certificates="Optional")
        assert found.problems == ()
        assert found.options is not None
        auth = found.options.spec("shop", ()).client_auth
        assert auth == ClientAuth(ca.strip(), required=False)

    @pytest.mark.parametrize("text", ["/etc/ca.pem", "-----BEGIN CERTIFICATE-----", ""])
    def test_a_label_names_no_file(self, text: str) -> None:
        """Nor is the service published to anybody, as it was meant for some."""
        found = declared(client_ca=text)
        assert found.options is None
        assert found.encrypted
        [problem] = found.problems
        assert "write the text itself" in problem.reason
        assert problem.remedy == ""

    def test_certificates_are_served(self) -> None:
        found = declared(ssl_cert="cert", ssl_key="key")
        assert found.options is not None
        assert (found.options.ssl_cert, found.options.ssl_key) == ("cert", "key")
        assert found.problems == ()

    def test_what_is_off_is_not_reported(self) -> None:
        assert declared(ssl_only="false", ssl_passthrough="0").problems == ()


class TestPassthrough:
    def test_is_published(self) -> None:
        found = declared(ssl_passthrough="true")
        assert found.problems == ()
        assert found.encrypted
        assert found.options is not None
        assert found.options.spec("shop", ()).ssl_passthrough

    @pytest.mark.parametrize(
        ("label", "value"),
        [("ssl_cert", "cert"), ("sticky_session_cookie", "session"), ("context_root", "/a")],
    )
    def test_what_takes_a_request_is_removed(self, label: str, value: str) -> None:
        found = declared(ssl_passthrough="true", **{label: value})
        assert found.options is None
        [problem] = found.problems
        assert problem.label == PREFIX + label
        assert "cannot be combined with ssl_passthrough" in problem.reason
        assert problem.remedy == f"docker service update --label-rm {PREFIX}{label} shop"


class TestTraps:
    @pytest.mark.parametrize("affinity", ["sticky_session_cookie", "hash_cookie", "hash_header"])
    def test_vip_with_affinity(self, affinity: str) -> None:
        found = declared(backend_mode="vip", **{affinity: "x"})
        assert found.options is not None
        [problem] = found.problems
        assert "no session sticks" in problem.reason

    def test_vip_alone_is_fine(self) -> None:
        assert declared(backend_mode="vip").problems == ()

    @pytest.mark.parametrize(
        "label", ["com.docker.lb_hosts", "com.docker.ld.hosts", "Com.Docker.LB.port"]
    )
    def test_lookalikes(self, label: str) -> None:
        [problem] = lookalikes("shop", {label: "x"})
        assert problem.label == label
        assert not problem.fatal

    @pytest.mark.parametrize(
        "label",
        ["com.docker.stack.namespace", "com.docker.stack.image", "com.docker.compose.project"],
    )
    def test_labels_of_others(self, label: str) -> None:
        assert list(lookalikes("shop", {label: "x"})) == []

    def test_own_labels_are_no_lookalikes(self) -> None:
        assert list(lookalikes("shop", {PREFIX + key: "x" for key in KNOWN})) == []

    def test_labels_of_containers(self) -> None:
        problem = on_containers("shop", {PREFIX + "port": "80", PREFIX + "hosts": "a.example"})
        assert problem is not None
        assert problem.label == PREFIX + "hosts"
        assert "deploy" in problem.reason
        assert on_containers("shop", {"other": "x"}) is None


KEYS = st.one_of(st.sampled_from(KNOWN), st.text(max_size=30))


class TestAnyText:
    @given(
        labels=st.dictionaries(KEYS, st.text(max_size=60), max_size=6),
        ports=st.lists(st.integers(1, 65535), max_size=3),
    )
    def test_becomes_options_or_problems(self, labels: dict[str, str], ports: list[int]) -> None:
        found = parse_service("shop", {PREFIX + key: labels[key] for key in labels}, ports)
        if not labels:
            assert found is None
            return
        assert found is not None
        assert (found.options is None) == any(problem.fatal for problem in found.problems)
        for problem in found.problems:
            assert str(problem).isprintable()
            assert problem.value.isprintable()
        if found.options is not None:
            assert found.options.port is not None

    @given(labels=st.dictionaries(st.text(max_size=40), st.text(max_size=20), max_size=4))
    def test_of_others_is_harmless(self, labels: dict[str, str]) -> None:
        for problem in lookalikes("shop", labels):
            assert str(problem).isprintable()


# --- hints ---------------------------------------------------------------------------------------


def applied(command: str, labels: dict[str, str]) -> dict[str, str]:
    """The labels after ``docker service update``."""
    words = iter(shlex.split(command))
    assert [next(words) for _ in range(3)] == ["docker", "service", "update"]
    after = dict(labels)
    for word in words:
        if word == "--label-rm":
            del after[next(words)]
        elif word == "--label-add":
            key, _, value = next(words).partition("=")
            after[key] = value
        else:
            assert word == "shop"
    return after


def hinted(labels: dict[str, str], ports: Iterable[int] = ()) -> list[str]:
    found = parse_service("shop", labels, ports)
    return [problem.remedy for problem in found.problems if problem.remedy] if found else []


def count(labels: dict[str, str], ports: Iterable[int] = ()) -> int:
    found = parse_service("shop", labels, ports)
    return len(found.problems) if found else 0


class TestHints:
    @pytest.mark.parametrize(
        ("bad", "change"),
        [
            ({"hots": "true"}, "--label-rm com.docker.lb.hots"),
            ({"context_root": "app"}, "--label-add com.docker.lb.context_root=/app"),
            ({"ip_hash": "yes"}, "--label-add com.docker.lb.ip_hash=true"),
            ({"ip_hash": "Off"}, "--label-add com.docker.lb.ip_hash=false"),
            ({"hosts": "http://Shop.example:81/"}, "--label-add com.docker.lb.hosts=shop.example"),
            ({"hosts": "a.b, b c, d.e"}, "--label-add com.docker.lb.hosts=a.b,d.e"),
            (
                {"hash_cookie": "u", "hash_cookie_ttl": "60"},
                "--label-add com.docker.lb.hash_cookie_ttl=60s",
            ),
            (
                {"websocket_endpoints": "/a,b"},
                "--label-add com.docker.lb.websocket_endpoints=/a,/b",
            ),
            ({"port": "8081/tcp"}, "--label-add com.docker.lb.port=8081"),
            (
                {"ip_hsh": "yes"},
                "--label-rm com.docker.lb.ip_hsh --label-add com.docker.lb.ip_hash=true",
            ),
            (
                {"context_rot": "app"},
                "--label-rm com.docker.lb.context_rot --label-add com.docker.lb.context_root=/app",
            ),
            ({"zzz": "1"}, "--label-rm com.docker.lb.zzz"),
            ({"backend_mode": "vpi"}, "--label-add com.docker.lb.backend_mode=vip"),
            ({"drain": "stiky"}, "--label-add com.docker.lb.drain=sticky"),
            ({"response_timeout": "60"}, "--label-add com.docker.lb.response_timeout=60s"),
        ],
    )
    def test_a_correction_is_better_than_removal(self, bad: dict[str, str], change: str) -> None:
        [problem] = declared(**bad).problems
        assert problem.remedy == f"docker service update {change} shop"

    def test_a_host_is_not_made_of_yes_or_no(self) -> None:
        assert hinted({PREFIX + "hots": "true", PREFIX + "port": "80"}) == []

    @pytest.mark.parametrize("label", ["ssl_only", "ssl_onyl"])
    def test_nobody_is_told_to_do_without_encryption(self, label: str) -> None:
        [problem] = declared(**{label: "yes, please"}).problems
        assert problem.remedy == ""

    def test_of_containers_names_the_values(self) -> None:
        lost = {PREFIX + "hosts": "a.example", PREFIX + "port": "80"}
        problem = on_containers("shop", lost)
        assert problem is not None
        after = applied(problem.remedy, {})
        assert after == lost

    @settings(deadline=None)
    @given(
        st.dictionaries(
            st.one_of(
                st.sampled_from(KNOWN),
                st.sampled_from(("hsts", "hots", "host", "prot", "ip_hsh", "context", "ssl_onyl")),
                st.text(max_size=12),
            ),
            st.one_of(
                st.sampled_from(
                    (
                        "true",
                        "yes",
                        "no",
                        "app",
                        "/app",
                        "80",
                        "80a",
                        "60",
                        "1.5s",
                        "vip",
                        "session",
                    )
                ),
                st.sampled_from(("a.example", "http://a.example/", "a.example,b c", "*.b.*", "*")),
                st.text(max_size=20),
            ),
            max_size=6,
        ),
        st.lists(st.integers(1, 65535), max_size=2),
    )
    def test_all_of_them_help(self, values: dict[str, str], ports: list[int]) -> None:
        """None makes things worse or changes a host that is there, alone or after the others."""
        before = {PREFIX + key: value for key, value in values.items()}
        found = parse_service("shop", before, ports)
        together = dict(before)
        for hint in hinted(before, ports):
            alone = applied(hint, before)
            assert count(alone, ports) < count(before, ports)
            worse = count(together, ports)
            together = applied(hint, together)
            assert count(together, ports) < worse
            for after in (alone, together):
                now = parse_service("shop", after, ports)
                assert (
                    now is None
                    or found is None
                    or (found.hosts or frozenset()) <= (now.hosts or frozenset())
                )
                for key in set(KNOWN) - {"hosts"}:
                    label = PREFIX + key
                    bad = {p.label for p in found.problems} if found else set()
                    if label in before and label not in bad:
                        assert after[label] == before[label]
