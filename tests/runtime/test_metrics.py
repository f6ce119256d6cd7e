"""``/metrics``: the real program with four workers, read by Prometheus' own parser."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.test_main import (
    TIMEOUT,
    StartProgram,
    document,
    over_unix,
    programs,
    service,
)
from tests.conftest import MakeEndpoint
from tests.runtime.test_supervisor import IS_READY, TAKES_PLACE, Gate, Proxy, open_files
from tests.scripted import EndpointConnection, RawClient, get, ok, post, respond

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

COUNTERS = "stickyproxy counters"
"""The name of the memory."""

Labels = frozenset[tuple[str, str]]


class Scrape:
    """What ``/metrics`` said."""

    def __init__(self, text: str) -> None:
        self.samples: dict[tuple[str, Labels], float] = {}
        for family in text_string_to_metric_families(text):
            assert family.documentation, family.name
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.samples, f"twice: {key}"
                self.samples[key] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples with that name and these labels."""
        asked = frozenset(labels.items())
        return sum(
            value
            for (found, of), value in self.samples.items()
            if found == f"stickyproxy_{name}" and asked <= of
        )


async def scrape(path: Path) -> Scrape:
    """Ask for it."""
    return Scrape((await over_unix(path, "/metrics")).decode())


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


async def by_path(conn: EndpointConnection) -> None:
    """Responds with the status that the path names."""
    while (request := await conn.request()) is not None:
        if request.target == b"/500":
            await conn.send(respond("500 Oops", ("Content-Length", "4"), body=b"oops"))
        else:
            await conn.send(ok(b"hello"))


async def use(port: int, sent: Counter[str], rounds: int) -> None:
    """Requests of each kind, on a connection of their own; notes what was sent."""
    async with await RawClient.connect(port) as user:
        sent["connections"] += 1
        for _ in range(rounds):
            for kind, data in (
                ("2xx", get("/", Cookie="a=b")),
                ("5xx", get("/500")),
                ("4xx", get("/", host="nobody.local")),
                ("2xx", post(b"0123456789")),
            ):
                await user.send(data)
                response = await user.response()
                assert f"{response.status // 100}xx" == kind
                sent[kind] += 1
                sent["received"] += 10 * data.startswith(b"POST")
                sent["sent"] += len(response.body)


async def test_they_equal_what_was_sent(
    start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
) -> None:
    """Exactly, over four workers, and when each of them has been killed in between."""
    peers = [await endpoint(by_path) for _ in range(3)]
    listed = service("demo", [peer.address for peer in peers], 'sticky_session_cookie = "session"')
    admin = tmp_path / "admin.sock"
    config = tmp_path / "config.toml"
    config.write_text(document(listed, f'[admin]\naddress = "unix:{admin}"', workers=4))
    program = await start("serve", "--config", config)
    proxy = Proxy(program, await program.listening())
    assert any(COUNTERS in file for file in open_files(proxy.pids[1]))
    before = await scrape(admin)
    assert before("requests_total") == 0
    assert before("workers_accepting") == 4
    sent: Counter[str] = Counter()

    async def load() -> None:
        async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(use(proxy.port, sent, 5))

    async def check() -> Scrape:
        found = await scrape(admin)
        for code in ("2xx", "5xx"):
            assert found("requests_total", service="demo", code=code) == sent[code]
        assert found("requests_total", service="", code="4xx") == sent["4xx"]
        total = sent["2xx"] + sent["4xx"] + sent["5xx"]
        assert found("requests_total") == total
        assert found("request_outcomes_total") == total
        assert found("request_outcomes_total", outcome="no-route") == sent["4xx"]
        assert found("request_duration_seconds_count") == total
        assert found("request_duration_seconds_bucket", le="+Inf") == total
        assert found("affinity_outcomes_total", affinity="new") == total - sent["4xx"]
        assert found("upstream_duration_seconds_count") == total - sent["4xx"]
        assert found("upstream_connections_total", service="demo") == total - sent["4xx"]
        made = sum(peer.connections for peer in peers)
        assert found("upstream_connections_total", kind="new") == made
        for peer in peers:
            served = found("endpoint_requests_total", service="demo", endpoint=peer.address)
            assert served == len(peer.requests) > 0
        assert found("endpoint_requests_total", service="demo") == total - sent["4xx"]
        assert found("endpoint_failures_total", service="demo") == sent["5xx"]
        assert found("endpoint_requests_in_flight") == 0
        assert found("client_connections_accepted_total") == sent["connections"]
        assert found("request_body_bytes_total", service="demo") == sent["received"]
        assert found("response_body_bytes_total") == sent["sent"]
        return found

    await load()
    found = await check()
    assert found("workers_lost_total") == 0
    for number in (1, 2, 3, 4):
        os.kill(proxy.pids[number], signal.SIGKILL)
        await program.err.says(TAKES_PLACE)
        await check()  # nothing that it counted is lost
        await program.err.says(IS_READY)
    await load()
    found = await check()
    assert found("workers_lost_total") == 4
    assert found("endpoints", service="demo", state="usable") == 3
    assert found("provider_up", provider="static") == 1
    assert found("table_swaps_total") >= 1
    await program.stop()


async def test_failures_and_what_follows(
    start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
) -> None:
    """An endpoint that refuses connections: each refusal, its retries and ejections."""
    good, bad = await endpoint(), await endpoint(listening=False)
    admin = tmp_path / "admin.sock"
    config = tmp_path / "config.toml"
    config.write_text(
        document(
            service("demo", [good.address, bad.address]),
            f'[admin]\naddress = "unix:{admin}"',
        )
    )
    program = await start("serve", "--config", config)
    port = await program.listening()
    async with await RawClient.connect(port) as user:
        for _ in range(20):
            await user.send(get())
            assert (await user.response()).status == 200
    found = await scrape(admin)
    assert found("requests_total", service="demo", code="2xx") == 20
    assert found("upstream_failures_total", service="demo", reason="connect") == 2
    assert found("retries_total", service="demo") == 2
    assert found("ejections_total", service="demo") == 1
    assert found("endpoints", service="demo", state="down") == 1
    assert found("endpoints", service="demo", state="usable") == 1
    await program.stop()


async def test_nobody_counts_without_an_admin_page(
    start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
) -> None:
    """And nobody keeps memory for it."""
    peer = await endpoint()
    config = tmp_path / "config.toml"
    config.write_text(document(service("demo", [peer.address]), workers=2))
    program = await start("serve", "--config", config)
    proxy = Proxy(program, await program.listening())
    pids = (program.process.pid, *proxy.pids.values())
    assert not any(COUNTERS in file for pid in pids for file in open_files(pid))
    await program.stop()


async def test_tls(start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path) -> None:
    """Connections that come to nothing, and when certificates expire."""
    peer = await endpoint()
    admin = tmp_path / "admin.sock"
    config = tmp_path / "config.toml"
    listed = service("demo", [peer.address])
    text = document(listed, f'[admin]\naddress = "unix:{admin}"', workers=4)
    config.write_text(text.replace("[proxy]", "tls = true\n[proxy]", 1))
    program = await start("serve", "--config", config)
    port = await program.listening()
    for _ in range(12):
        async with await RawClient.connect(port) as user:
            await user.send(get())
            assert (await user.response()).status == 400
    found = await scrape(admin)
    assert found("client_connection_failures_total", reason="in-the-clear") == 12
    assert found("requests_total", service="", code="4xx") == 12
    assert found("certificate_expires_timestamp_seconds") > time.time()
    await program.stop()


async def test_open_connections(
    start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
) -> None:
    """Those of a worker that was killed are gone with it."""
    gate = Gate()
    peer = await endpoint(gate)
    admin = tmp_path / "admin.sock"
    config = tmp_path / "config.toml"
    listed = service("demo", [peer.address])
    config.write_text(document(listed, f'[admin]\naddress = "unix:{admin}"', workers=2))
    program = await start("serve", "--config", config)
    proxy = Proxy(program, await program.listening())
    users = await proxy.users()
    for [user, *_] in users.values():
        await user.send(get("/held"))

    async def shows(clients: int, busy: int) -> None:
        async with asyncio.timeout(TIMEOUT):
            while (
                found("client_connections"),
                found("upstream_open_connections", service="demo", state="busy"),
            ) != (clients, busy):
                found.samples = (await scrape(admin)).samples

    found = await scrape(admin)
    await shows(sum(map(len, users.values())), 2)
    os.kill(proxy.pids[1], signal.SIGKILL)
    await program.err.says(TAKES_PLACE)
    await program.err.says(IS_READY)
    await shows(len(users[proxy.pids[2]]), 1)
    gate.opened.set()
    await shows(len(users[proxy.pids[2]]), 0)
    await proxy.close()
    await shows(0, 0)
    await program.stop()


async def test_in_flight_and_sessions_of_endpoints(
    start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
) -> None:
    """Exactly, over all workers; an endpoint that is gone is shown no more, and counted for as long
    as it has requests. Those of a worker that was killed are gone with it."""
    gate = Gate()
    stays, goes = await endpoint(gate), await endpoint(gate)
    admin, config = tmp_path / "admin.sock", tmp_path / "config.toml"

    def write(*addresses: str) -> None:
        config.write_text(
            document(
                service("demo", addresses, 'sticky_session_cookie = "session"'),
                f'[admin]\naddress = "unix:{admin}"',
                proxy=('trusted_proxies = ["127.0.0.1"]',),
                workers=4,
            )
        )

    write(stays.address, goes.address)
    program = await start("serve", "--config", config)
    proxy = Proxy(program, await program.listening())
    for number in range(150):
        async with await RawClient.connect(proxy.port) as user:
            client = {"X-Forwarded-For": f"10.0.0.{number % 50}", "User-Agent": f"{number // 50}"}
            await user.send(get("/", **client))
            cookie = ((await user.response()).header("Set-Cookie") or b"").partition(b";")[0]
            for _ in range(2):  # whichever worker sees it, it is one
                await user.send(get("/", Cookie=cookie.decode(), **client))
                await user.response()
    found = await scrape(admin)
    assert found("endpoint_sessions", service="demo") == pytest.approx(150, abs=6)
    for each in (stays, goes):
        pinned = found("endpoint_requests_total", endpoint=each.address) / 3
        assert found("endpoint_sessions", endpoint=each.address) == pytest.approx(pinned, abs=5)
    assert found("endpoint_requests_total", service="demo") == 450
    users = await proxy.users(2)
    held = 0
    for several in users.values():
        for user in several[:2]:
            await user.send(get("/held"))
            held += 1
    async with asyncio.timeout(TIMEOUT):
        while (found := await scrape(admin))("endpoint_requests_in_flight") != held:
            pass
    assert held == 8
    lines = [found("endpoint_requests_in_flight", endpoint=each.address) for each in (stays, goes)]
    assert sum(lines) == held
    assert all(lines)
    write(stays.address)
    await program.err.says("configuration reloaded")
    found = await scrape(admin)
    assert found("endpoint_requests_in_flight") == lines[0]
    write(stays.address, goes.address)
    await program.err.says("configuration reloaded")
    assert (await scrape(admin))("endpoint_requests_in_flight") == held
    killed = proxy.pids[2]
    lost = 2
    os.kill(killed, signal.SIGKILL)
    await program.err.says(TAKES_PLACE)
    await program.err.says(IS_READY)
    assert (await scrape(admin))("endpoint_requests_in_flight") == held - lost
    gate.opened.set()
    for pid, several in users.items():
        for user in several[:2] if pid != killed else ():
            await user.response()
    found = await scrape(admin)
    assert found("endpoint_requests_in_flight") == 0
    served = 450 + sum(map(len, users.values())) + held - lost
    assert found("endpoint_requests_total", service="demo") == served
    await proxy.close()
    await program.stop()
