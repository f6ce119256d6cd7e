"""admin/pages.py and control/report.py: what is shown, and ``stickyproxy services``
against a running proxy."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stickyproxy.base.addresses import Address
from stickyproxy.config.settings import Config, SwarmSettings
from stickyproxy.control import report
from stickyproxy.model.health import Outage
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.settings import AccessLogSettings
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.model.tls import UpstreamTls
from stickyproxy.runtime.app import App
from tests.certificates import make_certificate
from tests.specs import service_spec

SHOP = service_spec(
    "shop",
    ("shop.local",),
    (EndpointSpec("t1", "10.0.0.1:80"), EndpointSpec("t2", "10.0.0.2:80", draining=True)),
    context_root="/app",
    sticky_session_cookie="session",
)
BAD = Problem(
    "bad", '"80a" is not a port', "com.docker.lb.port", '"80a"', "docker service ...", fatal=True
)


class TestReport:
    @pytest.mark.parametrize(
        ("tls", "words"),
        [
            (UpstreamTls(server_name="a.b"), "not verified"),
            (UpstreamTls(verify=True), "verified"),
            (UpstreamTls(verify=True, server_name="a.b", key="secret"), "verified as a.b"),
        ],
    )
    def test_tls_to_endpoints(self, tls: UpstreamTls, words: str) -> None:
        clear = ServiceSpec("shop", ("shop.local",))
        [row] = report.rows([Snapshot("static", (clear,))], [])
        assert row["tls"] == ""
        assert "tls" not in report.as_text([row])
        [row] = report.rows([Snapshot("static", (replace(clear, tls=tls),))], [])
        assert row["tls"] == words
        assert f"  tls        to endpoints, {words}" in report.as_text([row]).splitlines()

    def test_as_text(self) -> None:
        found = report.rows([Snapshot("swarm", (SHOP,), (BAD,))], [BAD])
        assert report.as_text(found).splitlines() == [
            "bad: not published",
            '  error      com.docker.lb.port "80a" is not a port',
            "  try        docker service ...",
            "shop: published",
            "  hosts      shop.local/app",
            "  policy     cookie session, else round robin",
            "  endpoints  1/2 usable: 10.0.0.1:80, 10.0.0.2:80 (draining)",
        ]

    @pytest.mark.parametrize(
        ("endpoints", "fatal", "state"),
        [
            (SHOP.endpoints, False, "published"),
            (SHOP.endpoints, True, "published by its last good labels"),
            ((), True, "not reachable"),
            (SHOP.endpoints, None, "published in part"),
            ((), None, "no endpoint"),
            ((), False, "no endpoint"),
        ],
    )
    def test_states(
        self, endpoints: tuple[EndpointSpec, ...], fatal: bool | None, state: str
    ) -> None:
        """``fatal`` None: only one of its hosts is concerned."""
        service = ServiceSpec("shop", ("shop.local",), endpoints)
        problem = Problem("shop", "is odd", fatal=fatal is not False, partial=fatal is None)
        [row] = report.rows([Snapshot("swarm", (service,))], [problem])
        assert row["state"] == state

    def test_what_is_about_the_proxies_themselves(self) -> None:
        """Nobody wants their service to be published."""
        found = report.rows([], [Problem("lb", "joining a network failed: it is full")])
        assert report.as_text(found).splitlines() == [
            "lb: the proxies' own",
            "  warning    joining a network failed: it is full",
        ]

    def test_what_is_about_a_certificate(self) -> None:
        over = Problem("", "expired", certificate="/etc/b.pem", fatal=True)
        soon = Problem("", "expires soon", certificate="/etc/a.pem")
        found = report.rows([Snapshot("swarm", (SHOP,))], [over, soon])
        assert report.as_text(found).splitlines()[:4] == [
            "(certificate /etc/a.pem): usable",
            "  warning    expires soon",
            "(certificate /etc/b.pem): refused",
            "  error      expired",
        ]
        assert report.has_errors(found)
        assert not report.has_errors(report.rows([], [soon]))

    def test_why_an_endpoint_is_out(self) -> None:
        why = {
            ("shop", "t1"): Outage("it is slow", 1_800_000_000.0, 1_800_000_010.6),
            ("shop", "t2"): Outage("it accepts no connections", 1_800_000_001.0),
        }
        snapshots = [Snapshot("swarm", (SHOP,))]
        found = report.rows(snapshots, [], lambda *_: "down", why.get)
        [row] = json.loads(json.dumps(found))
        assert row["endpoints"] == [
            {
                "id": "t1",
                "address": "10.0.0.1:80",
                "state": "down",
                "reason": "it is slow",
                "since": "2027-01-15T08:00:00Z",
                "until": "2027-01-15T08:00:10Z",
            },
            {
                "id": "t2",
                "address": "10.0.0.2:80",
                "state": "down",
                "reason": "it accepts no connections",
                "since": "2027-01-15T08:00:01Z",
            },
        ]
        assert report.as_text(found).splitlines()[3:] == [
            "  endpoints  0/2 usable: 10.0.0.1:80 (down), 10.0.0.2:80 (down)",
            "  out        10.0.0.1:80 since 2027-01-15T08:00:00Z until 2027-01-15T08:00:10Z: "
            "it is slow",
            "  out        10.0.0.2:80 since 2027-01-15T08:00:01Z: it accepts no connections",
        ]

    def test_live_states_count(self) -> None:
        [row] = report.rows([Snapshot("swarm", (SHOP,))], [], lambda *_: "down")
        assert {endpoint["state"] for endpoint in row["endpoints"]} == {"down"}

    def test_nothing(self) -> None:
        assert report.as_text(report.rows([], [])) == "(no services)"

    def test_many_endpoints(self) -> None:
        many = tuple(EndpointSpec(f"t{n}", f"10.0.0.{n}:80") for n in range(30))
        found = report.rows([Snapshot("swarm", (ServiceSpec("a", ("a.b",), many),))], [])
        assert report.as_text(found).endswith("10.0.0.19:80, and 10 more")


class TestConflicts:
    def test_one_host_with_two_policies(self) -> None:
        other = ServiceSpec("canary", ("shop.local",), context_root="/app")
        [problem] = report.conflicts([SHOP, other])
        assert problem.service == "shop"
        assert "shares shop.local/app with service canary" in problem.reason

    @pytest.mark.parametrize(
        "other",
        [
            ServiceSpec("b", ("shop.local",)),
            ServiceSpec("b", ("b.local",), context_root="/app"),
            replace(SHOP, name="b", share=True),
        ],
    )
    def test_sharing_in_peace(self, other: ServiceSpec) -> None:
        assert list(report.conflicts([replace(SHOP, share=True), other])) == []

    @pytest.mark.parametrize(("one", "other"), [(False, False), (True, False), (False, True)])
    def test_whoever_shares_a_host_is_named(self, one: bool, other: bool) -> None:
        services = [replace(SHOP, share=one), replace(SHOP, name="zoo", share=other)]
        [problem] = report.conflicts(services)
        assert problem.service == "zoo"
        assert not problem.fatal
        assert problem.reason == (
            "shares shop.local/app with service shop: requests go to the endpoints of both; "
            "if that is meant, set share to true on both"
        )

    @pytest.mark.parametrize(
        ("one", "other", "overruled"),
        [
            ({"context_root_rewrite": True}, {}, "context_root_rewrite holds"),
            ({"websocket_endpoints": ("/ws",)}, {}, "websocket_endpoints holds"),
            ({"hash_cookie_ttl": 60.0}, {"hash_cookie_ttl": 5.0}, "hash_cookie_ttl holds"),
            ({"hash_cookie_path": "/"}, {}, "hash_cookie_path holds"),
            (
                {"context_root_rewrite": True, "websocket_endpoints": ()},
                {},
                "context_root_rewrite and websocket_endpoints hold",
            ),
            ({"websocket_endpoints": ("/a", "/b")}, {"websocket_endpoints": ("/b", "/a")}, ""),
        ],
    )
    def test_one_policy_with_differing_options(
        self, one: dict[str, Any], other: dict[str, Any], overruled: str
    ) -> None:
        common: dict[str, Any] = {
            "hosts": ("shop.local",),
            "context_root": "/app",
            "hash_cookie": "user",
            "share": True,
        }
        services = [service_spec("a", **common | one), service_spec("b", **common | other)]
        found = [problem.reason for problem in report.conflicts(services)]
        assert len(found) == bool(overruled)
        assert all(f"with service a, whose {overruled} for both" in reason for reason in found)

    def test_two_default_services(self) -> None:
        services = [
            ServiceSpec("a", (), default_backend=True),
            service_spec("b", (), default_backend=True, ip_hash=True),
        ]
        [problem] = report.conflicts(services)
        assert "shares (any other host) with service a" in problem.reason

    def test_a_host_whose_tls_another_service_has(self) -> None:
        passed = ServiceSpec("tls", ("shop.local", "b.local"), ssl_passthrough=True)
        [problem] = report.conflicts([SHOP, passed])
        assert problem.service == "shop"
        assert problem.reason == (
            "is published on shop.local, whose TLS is passed through to service tls: it is served "
            "in the clear alone, and TLS goes to tls. Give one of the two another host"
        )
        other = ServiceSpec("other", ("*.local",), ssl_passthrough=True)
        assert list(report.conflicts([SHOP, other])) == [], "the more specific name decides"

    def test_nothing_to_pass_through(self) -> None:
        passed = ServiceSpec("tls", ("b.local",), ssl_passthrough=True)
        [problem] = report.without_tls([SHOP, passed])
        assert (problem.service, problem.label) == ("tls", "ssl_passthrough")
        assert problem.reason == (
            "leaves TLS to its endpoints, but no listener speaks TLS: give one of [[listeners]] "
            "tls = true"
        )

    def test_two_that_are_passed_through(self) -> None:
        services = [ServiceSpec(name, ("a.local",), ssl_passthrough=True) for name in "ab"]
        [problem] = report.conflicts(services)
        assert "shares a.local with service a: requests go to the endpoints of both" in str(problem)

    def test_a_void_redirect(self) -> None:
        other = ServiceSpec("b", ("b.local",), redirects=(("shop.local", "http://b.local"),))
        [problem] = report.conflicts([SHOP, other])
        assert problem.service == "b"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[tuple[App, str]]:
    """A proxy with SHOP and BAD, and the text of its admin address."""
    address = f"unix:{tmp_path}/admin.sock"
    app = App(
        Config(
            listeners=(ListenerSpec(Address("127.0.0.1", 0)),),
            access_log=AccessLogSettings(format="off"),
            admin=Address.parse(address),
        )
    )
    await app.start()
    app.registry.publish(Snapshot("swarm", (SHOP,), (BAD,), "realm"))
    yield app, address
    await app.stop(grace=0)


async def get(address: str, path: str, **headers: str) -> tuple[str, str]:
    """(content type, body)."""
    connector = aiohttp.UnixConnector(address.removeprefix("unix:"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://admin{path}", headers=headers) as answer,
    ):
        assert answer.status == 200
        return answer.content_type, await answer.text()


class TestAdmin:
    async def test_services(self, running: tuple[App, str]) -> None:
        kind, text = await get(running[1], "/services")
        assert kind == "text/plain"
        assert "shop: published" in text
        assert "bad: not published" in text
        for path, accept in (("/services?format=json", "*/*"), ("/services", "application/json")):
            kind, text = await get(running[1], path, Accept=accept)
            assert kind == "application/json"
            assert [row["service"] for row in json.loads(text)["services"]] == ["bad", "shop"]

    async def test_a_provider_that_is_out_of_touch(self, tmp_path: Path) -> None:
        address = f"unix:{tmp_path}/admin.sock"
        app = App(
            Config(
                listeners=(ListenerSpec(Address("127.0.0.1", 0)),),
                access_log=AccessLogSettings(format="off"),
                admin=Address.parse(address),
                swarm=SwarmSettings(f"unix://{tmp_path}/none.sock"),
            )
        )
        await app.start()
        text = (await get(address, "/services"))[1]
        await app.stop(grace=0)
        assert text.startswith("(swarm): out of touch\n  error      there is no engine at unix://")

    async def test_certificates_without_their_keys(self, running: tuple[App, str]) -> None:
        made = make_certificate(["shop.local"], name="secret shop")
        running[0].registry.publish(Snapshot("docker", (), certificates=(made,)))
        kind, text = await get(running[1], "/certificates")
        assert kind == "application/json"
        [row] = json.loads(text)["certificates"]
        assert (row["certificate"], row["hosts"]) == ("secret shop", ["shop.local"])
        assert (row["expires"], row["valid"]) == (made.expires, True)
        for path in ("/certificates", "/services", "/services?format=json", "/table"):
            assert "KEY" not in (await get(running[1], path))[1]

    async def test_table(self, running: tuple[App, str]) -> None:
        assert (await get(running[1], "/table"))[1].startswith("shop.local\n  /app -> shop, cookie")

    async def test_healthz(self, running: tuple[App, str]) -> None:
        assert (await get(running[1], "/healthz"))[1] == "ok\n"

    async def test_the_command(self, running: tuple[App, str]) -> None:
        status, text = await services("--admin", running[1])
        assert status == 3, "one of them is not published"
        assert text == (await get(running[1], "/services"))[1]
        status, text = await services("--admin", running[1], "--json")
        assert [row["service"] for row in json.loads(text)] == ["bad", "shop"]

    async def test_the_command_without_a_proxy(self, tmp_path: Path) -> None:
        status, text = await services("--admin", f"unix:{tmp_path}/none.sock")
        assert status == 1
        assert "no proxy answers" in text

    async def test_the_command_without_an_engine(self, tmp_path: Path) -> None:
        status, text = await services("--engine", f"unix://{tmp_path}/none.sock")
        assert status == 1
        assert "there is no engine at" in text

    async def test_the_command_asks_the_engine_that_docker_would(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/other.sock")
        status, text = await services("--engine")
        assert status == 1
        assert f"there is no engine at unix://{tmp_path}/other.sock" in text


async def services(*arguments: str) -> tuple[int, str]:
    """(exit status, output) of ``stickyproxy services``."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stickyproxy", "services", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()
