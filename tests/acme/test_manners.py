"""How the authority is treated that says no: a scripted one, which counts what it is asked."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from stickyproxy.config.settings import AcmeSettings
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers.acme.authority import Issued
from stickyproxy.providers.acme.holdings import Holding, Pause, decoded, encoded
from stickyproxy.providers.acme.keys import renewal_id
from stickyproxy.providers.acme.provider import ORDERS, AcmeProvider
from stickyproxy.providers.acme.storage import DirectoryStore
from tests.acme.authorities import TIMEOUT, Identity, free_port
from tests.certificates import make_ca, make_certificate


def services(*names: str) -> Snapshot:
    found = tuple(ServiceSpec(name, (f"{name}.example",), acme=True) for name in names)
    return Snapshot("static", found)


class Refusing:
    """An authority that issues nothing."""

    def __init__(self, folder: Path) -> None:
        self.identity = Identity(folder)
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.asked: list[str] = []
        self.ordered: list[dict[str, Any]] = []
        self.answer: Callable[[str], web.Response] = lambda _: web.Response(status=503)
        """To an order."""
        self.window: dict[str, str] | None = None
        """When certificates are to be renewed (RFC 9773)."""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path}", self._serve)
        app.router.add_route("*", "/{path}/{more}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        tls = self.identity.server_context()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=tls).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def settings(self, folder: Path) -> AcmeSettings:
        return AcmeSettings(
            f"{self.url}/directory",
            str(folder / "store"),
            terms_agreed=True,
            ca_file=str(self.identity.certificate),
        )

    async def _serve(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        self.asked.append(request.path)
        match path:
            case "directory":
                names = ("newNonce", "newAccount", "newOrder")
                found = {name: f"{self.url}/{name}" for name in names}
                if self.window is not None:
                    found["renewalInfo"] = f"{self.url}/renewalInfo"
                return web.json_response(found)
            case "renewalInfo":
                said = {"suggestedWindow": self.window, "explanationURL": "https://why.example"}
                return web.json_response(said, headers={"Retry-After": "3600"})
            case "newAccount":
                said = {"status": "valid"}
                headers = {"Location": f"{self.url}/account", "Replay-Nonce": "bm9uY2U"}
                return web.json_response(said, status=201, headers=headers)
            case "newOrder":
                payload = (await request.json())["payload"]
                self.ordered.append(json.loads(base64.urlsafe_b64decode(payload + "==")))
                return self.answer(self.ordered[-1]["identifiers"][0]["value"])
        return web.Response(headers={"Replay-Nonce": "bm9uY2U"})


def problem(kind: str, detail: str, status: int = 429, retry_after: int = 0) -> web.Response:
    """An error of ACME."""
    headers = {"Replay-Nonce": "bm9uY2U"}
    if retry_after:
        headers["Retry-After"] = str(retry_after)
    said = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail}
    return web.json_response(said, status=status, headers=headers)


@pytest.fixture
async def authority(tmp_path: Path) -> AsyncIterator[Refusing]:
    made = Refusing(tmp_path)
    await made.start()
    yield made
    await made.stop()


class Process:
    """A provider that runs, and what it published."""

    def __init__(self, settings: AcmeSettings) -> None:
        self._news = asyncio.Event()
        self.last = Snapshot("acme", ())
        self.provider = AcmeProvider(
            settings, self._publish, DirectoryStore(settings.storage), self._settled
        )
        self.task = asyncio.create_task(self.provider.run(), name="provider acme")

    def _publish(self, snapshot: Snapshot) -> None:
        self.last = snapshot
        self._news.set()

    async def _settled(self) -> None:
        """There is nobody to wait for."""

    async def says(self, *texts: str) -> None:
        """Wait for problems with these texts."""
        async with asyncio.timeout(TIMEOUT):
            while not all(text in self.problems for text in texts):
                self._news.clear()
                await self._news.wait()

    @property
    def problems(self) -> str:
        return "\n".join(map(str, self.last.problems))

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def process(authority: Refusing, tmp_path: Path) -> AsyncIterator[Callable[[], Process]]:
    """Starts processes."""
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(authority.settings(tmp_path)))
        return started[-1]

    yield start
    for each in started:
        await each.end()


MANY = tuple(f"s{number:02}" for number in range(30))


async def test_one_that_is_out_of_order_is_left_alone(
    authority: Refusing, process: Callable[[], Process], tmp_path: Path
) -> None:
    """Not asked once for each service, nor by the next process."""
    authority.answer = lambda _: web.Response(status=503, headers={"Retry-After": "3600"})
    first = process()
    first.provider.see(services(*MANY))
    await first.says(*(f"service {name}:" for name in MANY), "answers 503 Service Unavailable")
    await first.end()
    assert 1 <= len(authority.ordered) <= ORDERS
    [path] = (tmp_path / "store").glob("pause-*.json")
    assert decoded(Pause, path.read_bytes()).retry_at > time.time() + 3500
    count = len(authority.asked)
    second = process()
    second.provider.see(services(*MANY))
    await second.says("service s29:", "answers 503 Service Unavailable")
    second.provider.see(services(*MANY, "one-more"))
    await second.says("service one-more:")
    assert len(authority.asked) == count


async def test_a_limit_for_a_name_is_respected_and_others_go_on(
    authority: Refusing, process: Callable[[], Process], tmp_path: Path
) -> None:
    authority.answer = lambda _: problem(
        "rateLimited", "too many certificates already issued", retry_after=7200
    )
    first = process()
    first.provider.see(services("shop"))
    await first.says("too many certificates already issued (rateLimited)")
    await first.end()
    store = tmp_path / "store"
    [names], [pause] = store.glob("names-*.json"), store.glob("pause-*.json")
    assert decoded(Holding, names.read_bytes()).retry_at > time.time() + 7100
    assert decoded(Pause, pause.read_bytes()).retry_at < time.time() + 61
    assert len(authority.ordered) == 1


async def test_a_name_that_is_refused_does_not_hold_up_others(
    authority: Refusing, process: Callable[[], Process], tmp_path: Path
) -> None:
    authority.answer = lambda name: problem("rejectedIdentifier", f"not {name}", status=400)
    first = process()
    first.provider.see(services(*MANY))
    await first.says(*(f"refuses: not {name}.example (rejectedIdentifier)" for name in MANY))
    assert len(authority.ordered) == len(MANY), "each once"
    count = len(authority.asked)
    await first.end()
    second = process()
    second.provider.see(services(*MANY))
    await second.says("not s00.example", "not s29.example")
    assert len(authority.asked) == count
    assert not [*(tmp_path / "store").glob("pause-*.json")]


async def test_when_to_renew_is_up_to_the_authority(
    authority: Refusing, process: Callable[[], Process], tmp_path: Path
) -> None:
    """A certificate of 90 days that it wants to be renewed at once; the order says which it
    replaces (RFC 9773 section 5)."""
    authority.window = {"start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z"}
    authority.answer = lambda _: problem("rejectedIdentifier", "not today", status=400)
    first = process()
    await asyncio.wait_for(first.provider.ready.wait(), TIMEOUT)
    chain = issued_for("shop.example")
    [path] = (tmp_path / "store").glob("account-*.json")
    await first.end()
    name = first.provider.record_of(("shop.example",))
    held = Holding(("shop.example",)).issued(Issued(*chain))
    assert DirectoryStore(str(path.parent)).write(name, encoded(held), "")
    second = process()
    second.provider.see(services("shop"))
    await second.says("not today (rejectedIdentifier); its certificate stays in use until")
    [order] = authority.ordered
    assert order["replaces"] == renewal_id(chain[0])
    assert f"/renewalInfo/{order['replaces']}" in authority.asked
    [shown] = second.last.certificates
    assert shown.hosts == ("shop.example",)
    assert not any(each.fatal for each in second.last.problems)


def issued_for(host: str) -> tuple[str, str]:
    """(chain, key), valid for 90 days."""
    made = make_certificate((host,), make_ca())
    return made.chain, made.key
