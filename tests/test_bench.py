"""The parts of the labs that decide what a figure is: no peer and no load is needed here."""

from __future__ import annotations

import json
import os
import ssl
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cryptography import x509

from bench import affinity, failing, goals, handshakes, results
from bench.affinity import Findings, Share
from bench.apps import App
from bench.browser import Browser, parse_answer, sessions
from bench.certificates import write_certificate
from bench.load import Load, LoadError, parse_wrk, request
from bench.processes import cpu_seconds, memory_kib, parse_stat, tree
from bench.proxies import PEERS, PROXIES, Proxy
from bench.results import Row, Sample, Table
from bench.templates import Target, render
from bench.workloads import WORKLOADS

TWO = (Target("e1", 9001), Target("e2", 9002))


def sample(cpu_us: float, p99: float = 1.0, failures: int = 0) -> Sample:
    load = Load(1000, 2.0, p50=0.5, p99=p99, p999=2.0, slowest=3.0, failures=failures)
    return Sample(load, cpu_us * 1000 / 1e6)


def table(*rows: tuple[str, Sequence[float]], variants: bool = False) -> Table:
    found = Table("cookie", "116 B", "because", variants)
    for name, cpus in rows:
        found.rows.append(Row(name, [sample(cpu) for cpu in cpus], peak_kib=2048))
    return found


class TestTemplates:
    def test_values_conditions_and_repetition(self) -> None:
        text = (
            "listen {{port}};\n"
            "  @if cookie other: sticky {{port}};\n"
            "  @if !cookie: plain;\n"
            "  @each endpoints:   server {{id}} {{host}}:{{port}};\n"
        )
        assert render(text, ["cookie"], {"port": "80"}, {"endpoints": TWO}) == (
            "listen 80;\n  sticky 80;\n"
            "    server e1 127.0.0.1:9001;\n    server e2 127.0.0.1:9002;\n"
        )

    def test_a_missing_value_is_an_error(self) -> None:
        with pytest.raises(KeyError):
            render("{{nobody}}", (), {}, {})

    @pytest.mark.parametrize("proxy", PROXIES, ids=lambda proxy: proxy.name)
    def test_every_template_renders(self, proxy: Proxy) -> None:
        values = {"listen": "80", "admin": "81", "dir": "/d", "user": "u"}
        values |= {"cert": "/c", "key": "/k", "pem": "/p"}
        for asked in (
            ["cookie"],
            ["cookie", "affinity", "two"],
            ["ip_hash"],
            ["round_robin", "tls"],
        ):
            for name in proxy.files.values():
                text = render((PEERS / name).read_text(), asked, values, {"endpoints": TWO})
                assert "@if" not in text
                assert "@each" not in text
                assert "{{" not in text

    def test_what_runner_reads_is_toml(self) -> None:
        text = (PEERS / "stickyproxy-tasks.toml").read_text()
        targets = {"endpoints": TWO, "second": TWO}
        document = tomllib.loads(render(text, ["cookie", "two"], {"listen": "80"}, targets))
        assert document["services"]["second"]["endpoints"]["e2"] == "127.0.0.1:9002"


class TestWrk:
    def test_a_result_among_other_lines(self) -> None:
        output = (
            "Running 1s test\nwhatever\n"
            'RESULT {"requests":500,"microseconds":2000000,"p50":100,"p99":2500,"p999":3000,'
            '"max":9000,"connect":1,"read":2,"write":0,"status":4,"timeout":0}\n'
        )
        found = parse_wrk(output)
        assert (found.rate, found.p99, found.slowest, found.failures) == (250.0, 2.5, 9.0, 7)

    def test_no_result(self) -> None:
        with pytest.raises(LoadError, match="unable to connect"):
            parse_wrk("unable to connect to 127.0.0.1:1")

    def test_requests_are_whole(self) -> None:
        assert request("/x", cookie="a=b", upload=3, close=True) == (
            b"POST /x HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: stickyproxy-bench\r\n"
            b"Accept: */*\r\nCookie: a=b\r\nConnection: close\r\n"
            b"Content-Type: application/octet-stream\r\nContent-Length: 3\r\n\r\nxxx"
        )


class TestHandshakes:
    def test_the_name_in_the_hello_is_that_of_the_request(self) -> None:
        assert handshakes.server_name(request("/", host="service-7.test")) == "service-7.test"

    def test_a_result_reads_as_one_of_wrk(self) -> None:
        some = [
            handshakes.Found([0.001, 0.003], failed=1, not_resumed=2),
            handshakes.Found([0.002]),
        ]
        found = parse_wrk("RESULT " + json.dumps(handshakes.result(some, 1.5)))
        assert (found.rate, found.p50, found.slowest, found.failures) == (2.0, 2.0, 3.0, 3)

    def test_clients_that_met_nobody(self) -> None:
        found = parse_wrk("RESULT " + json.dumps(handshakes.result([], 1.0)))
        assert (found.requests, found.p99) == (0, 0.0)

    def test_a_certificate_and_its_key_in_one_file(self, tmp_path: Path) -> None:
        files = write_certificate(tmp_path, ["a.test", "b.test"])
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(files.both)
        shown = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["a.test", "b.test"]
        assert set(files.values()) == {"cert", "key", "pem"}


class TestProcesses:
    def test_a_name_may_hold_anything(self) -> None:
        fields = "S 7 0 0 0 0 0 0 0 0 0 10 5 2 1 20 0"
        stat = parse_stat(f"42 (a) b (c)) {fields}")
        assert (stat.pid, stat.parent, stat.ticks) == (42, 7, 18)

    def test_a_tree_holds_grandchildren_and_nobody_else(self) -> None:
        rest = "0 0 0 0 0 0 0 0 0 1 0 0 0 20 0"
        stats = [parse_stat(f"{pid} (x) S {parent} {rest}") for pid, parent in PARENTS.items()]
        assert sorted(stat.pid for stat in tree(10, stats)) == [10, 11, 12, 13]

    def test_this_process_used_time_and_memory(self) -> None:
        before = cpu_seconds(os.getpid())
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        assert cpu_seconds(os.getpid()) > before
        now = memory_kib(os.getpid(), "VmRSS")  # first, because it may grow in between
        assert memory_kib(os.getpid()) >= now > 1000


PARENTS = {1: 0, 10: 1, 11: 10, 12: 10, 13: 12, 20: 1}


class TestRatios:
    def test_ours_to_a_peer_round_by_round(self) -> None:
        found = table(("stickyproxy", [20, 30, 20]), ("peer", [10, 10, 20]))
        assert str(found.ratio(found.rows[1], results.cpu)) == "1.00 / **2.00** / 3.00"
        assert found.ratio(found.rows[0], results.cpu) is None

    def test_a_variant_to_the_first(self) -> None:
        found = table(("off", [20, 20]), ("on", [22, 26]), variants=True)
        spread = found.ratio(found.rows[1], results.cpu)
        assert spread is not None
        assert spread.middle == pytest.approx(1.2)

    def test_nothing_to_compare(self) -> None:
        found = table(("stickyproxy", [20]), ("absent", []))
        assert found.ratio(found.rows[1], results.cpu) is None


class TestSpeedReport:
    def test_markdown(self) -> None:
        found = table(("stickyproxy", [20, 20]), ("peer", [10, 10]))
        found.rows.append(Row("nobody", absent="absent: not installed"))
        text = results.markdown("Speed", [found], ["- Machine: m"], [])
        assert "| stickyproxy | 20.0 | 500 | 0.50 | 1.00 | 2.00 | 3 | 0 | 2 |  |  |" in text
        assert "2.00 / **2.00** / 2.00" in text
        assert "| nobody | absent: not installed |" in text
        _, overview, details = text.split("\n## ")
        assert f"| {found.title} | 2.00 | - |" in overview
        for part in (overview, details):
            widths = {line.count("|") for line in part.splitlines() if line.startswith("|")}
            assert len(widths) == 1

    def test_idle_clients_have_a_table_of_their_own(self) -> None:
        found = Table("idle", "idle", "memory")
        found.rows.append(Row("stickyproxy", idle_clients=10_000, idle_kib=12.34, peak_kib=1024))
        assert "| stickyproxy | 10,000 | 12.3 | 0 | 1 |" in results.markdown(
            "Speed", [found], [], []
        )

    def test_json_holds_all_samples(self) -> None:
        document = results.as_json(table(("stickyproxy", [20, 30])))
        assert json.loads(json.dumps(document))["rows"][0]["cpu_us"] == [20, 30]

    def test_the_chart_is_well_formed_and_shows_the_shortest_first(self) -> None:
        svg = results.chart([table(("stickyproxy", [20]), ("a < b", [10]), ("none", []))])
        texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
        assert texts.index("a < b") < texts.index("stickyproxy")
        assert "none" not in texts

    def test_keys_are_unique(self) -> None:
        keys = [workload.key for workload in WORKLOADS]
        assert len(keys) == len(set(keys))
        assert set(results.CHARTED) <= set(keys)


class TestGoals:
    def test_met_missed_and_not_measured(self) -> None:
        found = table(("stickyproxy", [20]), ("nginx (Debian)", [10]), ("Envoy", [40]))
        lines = goals.markdown([found])
        assert "| 116 B: CPU to nginx | 1.8 | 2 | **missed** |" in lines
        assert "| 116 B: CPU to Envoy | 1 | 0.5 | met |" in lines
        assert not any("Traefik" in line for line in lines)

    def test_they_are_about_rows_that_there_are(self) -> None:
        names = {proxy.name for proxy in PROXIES}
        for goal in goals.GOALS:
            [workload] = [one for one in WORKLOADS if one.key == goal.workload]
            assert goal.row in names | {variant.name for variant in workload.variants}


class TestBrowser:
    def test_a_cookie_replaces_one_of_its_name_and_path_only(self) -> None:
        browser = Browser()
        browser.keep("session=1; Path=/", "/")
        browser.keep("session=2; Path=/b/", "/")
        browser.keep("session=3; path=/; HttpOnly", "/")
        assert browser.cookies_for("/b/x") == "session=2; session=3"
        assert browser.cookies_for("/bar") == "session=3"

    def test_a_path_without_slash_ends_on_a_segment(self) -> None:
        browser = Browser()
        browser.keep("session=1; Path=/b", "/")
        assert browser.cookies_for("/b/x") == "session=1"
        assert browser.cookies_for("/bar") == ""

    def test_expired_cookies_are_forgotten(self) -> None:
        browser = Browser()
        browser.keep("session=1; Path=/", "/")
        browser.keep("session=; Path=/; Max-Age=0", "/")
        assert browser.jar == {}

    def test_sessions_in_a_head(self) -> None:
        head = "GET / HTTP/1.1\r\nCookie: a=1; session=x=y\r\ncookie: session=z\r\n\r\n"
        assert sessions(head) == ["x=y", "z"]


class TestApps:
    def test_a_session_that_it_has_is_kept_and_another_replaced(self) -> None:
        app = App(TWO[0], "sessions", path="/")
        first = parse_answer(app.answer("GET / HTTP/1.1\r\n\r\n"))
        known = f"GET / HTTP/1.1\r\nCookie: session={first.issued}\r\n\r\n"
        second = parse_answer(app.answer(known))
        assert (first.endpoint, first.knows, second.knows) == ("e1", False, True)
        assert (second.issued, second.got) == ("", (first.issued,))
        assert parse_answer(App(TWO[1], "sessions", path="/").answer(known)).issued

    def test_what_is_sent_is_repeated(self) -> None:
        app = App(TWO[0], "repeats", path="/")
        answer = parse_answer(app.answer("GET / HTTP/1.1\r\nCookie: session=abc\r\n\r\n"))
        assert answer.set_cookies == ("session=abc",)
        assert not answer.proxy_set_cookie

    def test_probes_start_no_session(self) -> None:
        app = App(TWO[0], "sessions", path="/")
        assert not parse_answer(app.answer("GET /healthz HTTP/1.1\r\n\r\n")).set_cookies


class TestAffinityReport:
    def test_shares(self) -> None:
        assert [str(Share(*pair)) for pair in ((0, 9), (1, 300), (1, 3), (0, 0))] == [
            "0",
            "<1",
            "33",
            "?",
        ]

    def test_one_column_for_each_proxy(self) -> None:
        found = [
            Findings("stickyproxy", "", "1", {"none": {"grow": Share(0, 9)}}),
            Findings("peer", "by luck", "2", {"none": {"grow": Share(3, 9)}}),
            Findings("nobody", "", None),
        ]
        text = affinity.markdown(found, [], 9)
        assert f"| {affinity.COLUMNS['grow']} | 0 | 33 |" in text
        assert "- nobody: absent: not installed" in text


class TestFailingReplica:
    @staticmethod
    def requests(*parts: tuple[float, float, str]) -> list[failing.Request]:
        """One each second: (from, until, who responds)."""
        return [
            failing.Request(float(second), body)
            for start, end, body in parts
            for second in range(int(start), int(end))
        ]

    def test_leaves_and_returns(self) -> None:
        end = failing.FAILS
        found = failing.found(
            self.requests((-3, 0, "e4"), (0, 6, ""), (6, end + 4, "e1"), (end + 4, end + 20, "e4")),
            "e4",
        )
        assert found == failing.Finding(requests=50, failed=6, left=5.0, back=4.0)
        assert failing.cell(found) == "6 / 5.0 s / 4.0 s"

    def test_neither(self) -> None:
        end = failing.FAILS
        found = failing.found(self.requests((0, end, ""), (end, end + 20, "e1")), "e4")
        assert failing.cell(found) == "30 / not in 30 s / not in 60 s"
