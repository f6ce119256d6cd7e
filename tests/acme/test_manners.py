"""How the authority is treated that says no: a scripted one, which counts what it is asked."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stickyproxy.config.settings import AcmeSettings
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers.acme.authority import Issued
from stickyproxy.providers.acme.holdings import Holding, Pause, decoded, encoded
from stickyproxy.providers.acme.keys import renewal_id
from stickyproxy.providers.acme.provider import ORDERS, AcmeProvider
from stickyproxy.providers.acme.storage import DirectoryStore
from tests.acme.authorities import TIMEOUT, Identity
from tests.acme.test_orders import until
from tests.certificates import make_ca, make_certificate


def services(*names: str) -> Snapshot:
    found = tuple(ServiceSpec(name, (f"{name}.example",), acme=True) for name in names)
    return Snapshot("static", found)


@dataclass(frozen=True)
class Said:
    """A response of the authority."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


class Refusing:
    """An authority that issues nothing. It has threads of its own, as its clients have."""

    def __init__(self, folder: Path) -> None:
        self.identity = Identity(folder)
        self.asked: list[str] = []
        self.ordered: list[dict[str, Any]] = []
        self.answer: Callable[[str], Said] = lambda _: Said(503)
        """To an order."""
        self.window: dict[str, str] | None = None
        """When certificates are to be renewed (RFC 9773)."""
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                said = authority.says(self.path, body)
                text = json.dumps(said.body).encode()
                self.send_response(said.status)
                self.send_header("Replay-Nonce", "bm9uY2U")
                self.send_header("Content-Type", "application/json")
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            do_GET = do_HEAD = do_POST = respond  # noqa: N815  # as http.server wants it

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        tls = self.identity.server_context()
        self._server.socket = tls.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def settings(self, folder: Path) -> AcmeSettings:
        """What leads to it."""
        return AcmeSettings(
            f"{self.url}/directory",
            str(folder / "store"),
            terms_agreed=True,
            ca_file=str(self.identity.certificate),
        )

    def says(self, path: str, body: bytes) -> Said:
        """The response to a request."""
        self.asked.append(path)
        match path.split("/")[1]:
            case "directory":
                names = ["newNonce", "newAccount", "newOrder"]
                names += ["renewalInfo"] if self.window is not None else []
                return Said(200, {name: f"{self.url}/{name}" for name in names})
            case "renewalInfo":
                said = {"suggestedWindow": self.window, "explanationURL": "https://why.example"}
                return Said(200, said, {"Retry-After": "3600"})
            case "newAccount":
                return Said(201, {"status": "valid"}, {"Location": f"{self.url}/account"})
            case "newOrder":
                payload = json.loads(body)["payload"]
                self.ordered.append(json.loads(base64.urlsafe_b64decode(payload + "==")))
                return self.answer(self.ordered[-1]["identifiers"][0]["value"])
        return Said(200)


def problem(kind: str, detail: str, status: int = 429, retry_after: int = 0) -> Said:
    """An error of ACME."""
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    said = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail}
    return Said(status, said, headers)


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Refusing]:
    """One that runs."""
    made = Refusing(tmp_path)
    yield made
    made.stop()


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
    authority.answer = lambda _: problem("", "we are closed", 503, retry_after=3600)
    first = process()
    first.provider.see(services(*MANY))
    await first.says(*(f"service {name}:" for name in MANY), "refuses: we are closed")

    def is_over() -> bool:
        """Orders that were under way have failed, too."""
        kept = [path.read_bytes() for path in (tmp_path / "store").glob("names-*.json")]
        return not any(decoded(Holding, each).ordered_by for each in kept)

    await until(is_over, "the end of all orders")
    await first.end()
    assert 1 <= len(authority.ordered) <= ORDERS
    [path] = (tmp_path / "store").glob("pause-*.json")
    assert decoded(Pause, path.read_bytes()).retry_at > time.time() + 3500
    count = len(authority.asked)
    second = process()
    second.provider.see(services(*MANY))
    await second.says("service s29:", "refuses: we are closed")
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
