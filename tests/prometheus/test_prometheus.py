"""deploy/grafana, deploy/prometheus: what is asked of a real Prometheus has an answer."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.acme.authorities import free_port
from tests.cli.test_main import TIMEOUT, StartProgram, document, over_unix, programs, service
from tests.conftest import MakeEndpoint
from tests.runtime.test_metrics import by_path
from tests.scripted import RawClient, Response, get, post

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy/grafana/stickyproxy.json"
RULES = ROOT / "deploy/prometheus/stickyproxy.rules.yml"
SETTINGS = ROOT / "deploy/prometheus/prometheus.yml"
REFERENCE = ROOT / "docs/reference/metrics.md"

SCRAPES = """\
global:
  scrape_interval: 200ms
  scrape_timeout: 200ms
  evaluation_interval: 200ms
rule_files: ["{rules}"]
scrape_configs:
  - job_name: stickyproxy
    static_configs:
      - targets: ["127.0.0.1:{admin}"]
"""

NOBODY_TO_ASK = "stickyproxy_provider_snapshot_age_seconds"
"""There is none without an engine or a controller."""


@pytest.fixture
def prometheus() -> Path:
    """The program. Skips where there is none; in CI that is a failure."""
    found = shutil.which("prometheus")
    if found is None or shutil.which("promtool") is None:
        message = "there is no prometheus: apt-get install prometheus"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(found)


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


def queries(panels: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """What each panel asks, and its title."""
    for panel in panels:
        yield from queries(panel.get("panels", []))
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def filled_in(query: str) -> str:
    """As Grafana would ask with everything selected."""
    for name in ("job", "instance", "service"):
        query = query.replace(f"${name}", ".*")
    return query.replace("$__rate_interval", "10s")


class Prometheus:
    """One that runs."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def ready(self) -> bool:
        """Whether it answers queries: until it has read its data it says 503."""
        try:
            return (await self._asked_for("/-/ready")).status == 200
        except OSError:
            return False  # it does not listen yet

    async def _asked_for(self, target: str) -> Response:
        async with await RawClient.connect(self.port) as user:
            await user.send(get(target, host="127.0.0.1"))
            return await user.response()

    async def get(self, target: str) -> Any:
        """What its API says."""
        said = json.loads((await self._asked_for(target)).body)
        assert said["status"] == "success", (target, said)
        return said["data"]

    async def asked(self, query: str) -> list[Any]:
        """The answer to a query."""
        found: list[Any] = (await self.get(f"/api/v1/query?query={quote(query)}"))["result"]
        return found


def promtool(*arguments: str | Path, standard_input: bytes = b"") -> str:
    """What it says; it has to be content."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)],
        input=standard_input,
        capture_output=True,
        timeout=60,
        check=False,
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def test_dashboard_asks_for_what_there_is() -> None:
    board = json.loads(DASHBOARD.read_text())
    told = set(re.findall(r"^\| `(stickyproxy_\w+)`", REFERENCE.read_text(), re.MULTILINE))
    asked = [query for _, query in queries(board["panels"])]
    assert len(asked) > 30
    used = set(re.findall(r"stickyproxy_\w+", " ".join(asked)))
    bare = {re.sub("_(bucket|sum|count)$", "", name) for name in used}
    assert bare <= told
    assert told <= bare, f"nobody shows {told - bare}"
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    variables = {each["name"] for each in board["templating"]["list"]}
    assert {name for each in asked for name in re.findall(r"\$(\w+)", each)} <= {
        *variables,
        "__rate_interval",
    }


@pytest.mark.usefixtures("prometheus")
def test_alerts_fire_when_they_should_and_not_else() -> None:
    promtool("check", "rules", RULES)
    promtool("check", "config", "--syntax-only", SETTINGS)
    promtool("test", "rules", Path(__file__).with_name("rules_test.yml"))


@pytest.mark.usefixtures("prometheus")
def test_each_alert_is_tested_both_ways() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    tested = Path(__file__).with_name("rules_test.yml").read_text()
    for alert in alerts:
        assert len(re.findall(rf"alertname: {alert}\b", tested)) == 2, alert


async def test_every_query_has_an_answer(
    start: StartProgram, endpoint: MakeEndpoint, prometheus: Path, tmp_path: Path
) -> None:
    """With four workers under load, one endpoint that refuses connections and a listener with TLS
    to which clients speak in the clear."""
    good, bad = await endpoint(by_path), await endpoint(listening=False)
    admin, port = free_port(), free_port()
    config = tmp_path / "config.toml"
    listed = service("demo", [good.address, bad.address], 'sticky_session_cookie = "session"')
    text = document(listed, f'[admin]\naddress = "127.0.0.1:{admin}"', workers=4)
    tls = free_port()
    config.write_text(f'[[listeners]]\naddress = "127.0.0.1:{tls}"\ntls = true\n' + text)
    program = await start("serve", "--config", config)
    found = await program.err.says(rf"serves on 127.0.0.1:{tls}, 127.0.0.1:(\d+)$")
    clear = int(found[1])
    scrapes = tmp_path / "prometheus.yml"
    scrapes.write_text(SCRAPES.format(rules=RULES, admin=admin))
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            prometheus,
            f"--config.file={scrapes}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stderr=log,
        )
    loading = asyncio.create_task(load(clear, tls))
    try:
        await answers_are_there(Prometheus(port), process)
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        process.terminate()
        await process.wait()
    await program.stop()


async def load(clear: int, tls: int) -> None:
    """Until cancelled."""
    while True:
        async with await RawClient.connect(clear) as user:
            for data in (get("/"), get("/500"), get("/", host="nobody.local"), post(b"0123456789")):
                await user.send(data)
                await user.response()
        async with await RawClient.connect(tls) as user:
            await user.send(get("/"))
            await user.response()


async def answers_are_there(asked: Prometheus, process: asyncio.subprocess.Process) -> None:
    """Every query of the dashboard gets one, and every rule can be evaluated."""
    board = json.loads(DASHBOARD.read_text())
    waiting = {
        filled_in(query): title
        for title, query in queries(board["panels"])
        if NOBODY_TO_ASK not in query
    }
    async with asyncio.timeout(4 * TIMEOUT):
        while not await asked.ready():
            assert process.returncode is None
            await asyncio.sleep(0.1)
        while waiting:
            await asyncio.sleep(0.1)
            for query in list(waiting):
                if await asked.asked(query):
                    del waiting[query]
        for variable in board["templating"]["list"][1:]:
            name = re.search(r", (\w+)\)$", variable["definition"])
            assert name is not None
            assert await asked.get(f"/api/v1/label/{name[1]}/values"), variable["name"]
        await asked.asked(NOBODY_TO_ASK)
        while True:
            groups = (await asked.get("/api/v1/rules"))["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            if all(rule["health"] == "ok" for rule in rules):
                break
            assert not any(rule["health"] == "err" for rule in rules), rules
            await asyncio.sleep(0.1)
    assert len(rules) == len(re.findall("- alert:", RULES.read_text()))


@pytest.mark.usefixtures("prometheus")
async def test_promtool_is_content_with_the_metrics(
    start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
) -> None:
    peer = await endpoint()
    admin, config = tmp_path / "admin.sock", tmp_path / "config.toml"
    config.write_text(
        document(service("demo", [peer.address]), f'[admin]\naddress = "unix:{admin}"')
    )
    program = await start("serve", "--config", config)
    async with await RawClient.connect(await program.listening()) as user:
        await user.send(get())
        await user.response()
    assert promtool("check", "metrics", standard_input=await over_unix(admin, "/metrics")) == ""
    await program.stop()
