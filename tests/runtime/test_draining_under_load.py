"""An endpoint is drained while its clients go on: no request of theirs fails, and no session moves
until it has ended itself; new ones go elsewhere, and then it is empty. Real processes, real
sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.test_main import StartProgram, asked, document, programs, service
from tests.conftest import MakeEndpoint
from tests.scripted import EndpointConnection, Script, ok, request

CLIENTS = 18
"""That ask one after the other, each on a new connection every time: so they meet all workers."""
REQUESTS = 20
"""Of each session that is there when its endpoint begins to drain, from then on."""
NAMES = (b"one", b"two", b"three")
POLICIES = {
    "cookie": 'sticky_session_cookie = "session"',
    "cookie, else address": 'sticky_session_cookie = "session"\nip_hash = true',
    "cookie, safe": 'sticky_session_cookie = "session"\ndrain = "safe"',
}


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


def says(name: bytes, *, own_session: bool) -> Script:
    """Says who responds. ``own_session``: as an application does that has sessions of its own, in a
    cookie of the same name."""

    async def script(conn: EndpointConnection) -> None:
        while (asking := await conn.request()) is not None:
            sent = asking.header("cookie") or b""
            begins = own_session and b"session=app-" not in sent
            more = {"set_cookie": f"session=app-{id(asking)}; Path=/"} if begins else {}
            await conn.send(ok(name, **more))

    return script


class Visitor:
    """A client with a jar for cookies."""

    def __init__(self, *ports: int) -> None:
        """``ports``: of proxies, which it asks in turn."""
        self._ports = ports
        self._jar: dict[bytes, bytes] = {}
        self._count = 0
        self.seen: list[bytes] = []
        """Who has responded."""

    async def ask(self) -> bytes:
        """Ask once more; returns who responded. Every third request must not be repeated."""
        self._count += 1
        pairs = b"; ".join(name + b"=" + value for name, value in self._jar.items())
        fields = [("Cookie", pairs.decode())] if pairs else []
        method = "GET" if self._count % 3 else "POST"
        body = b"" if method == "GET" else b"x" * 20
        length = [("Content-Length", "20")] if body else []
        sent = request(method, "/", ("Host", "shop.local"), *fields, *length, body=body)
        response = await asked(self._ports[self._count % len(self._ports)], sent)
        assert response.status == 200, response
        for name, value in response.headers:
            if name.lower() == b"set-cookie":
                key, _, given = value.partition(b";")[0].partition(b"=")
                self._jar[key] = given
        self.seen.append(response.body)
        return response.body


@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
async def test_nobody_notices(
    start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path, policy: str, own_session: bool
) -> None:
    peers = [await endpoint(says(name, own_session=own_session)) for name in NAMES]
    admin = f"[admin]\naddress = 'unix:{tmp_path}/admin.sock'\n"
    addresses = tuple(peer.address for peer in peers)
    config = tmp_path / "config.toml"
    config.write_text(document(admin, service("shop", addresses, POLICIES[policy]), workers=3))
    program = await start("serve", "--config", config)
    port = await program.listening()

    begun, drains, over = asyncio.Event(), asyncio.Event(), asyncio.Event()
    ready: Counter[bytes] = Counter()
    went_to: Counter[bytes] = Counter()
    moved: list[list[bytes]] = []

    async def client() -> None:
        visitor = Visitor(port)
        home = await visitor.ask()
        ready[home] += 1
        if ready.total() == CLIENTS:
            begun.set()
        while not drains.is_set():
            await visitor.ask()
        for _ in range(REQUESTS):
            await visitor.ask()
        if set(visitor.seen) != {home}:
            moved.append(visitor.seen)
        while not over.is_set():  # its session has ended: others begin
            visitor = Visitor(port)
            found = await visitor.ask()
            went_to[found] += 1
            if [await visitor.ask() for _ in range(3)] != [found] * 3:
                moved.append(visitor.seen)

    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(client())
        await begun.wait()
        home = ready.most_common(1)[0][0]  # sessions by address are all at one
        first = peers[NAMES.index(home)]
        target = f"shop/{first.address}"
        drained = await start("drain", target, "--config", config)
        assert await drained.ended() == 0, drained.err.text
        drains.set()
        waiting = await start("drain", target, "--wait", "--idle=1s", "--config", config)
        assert await waiting.ended() == 0, waiting.err.text
        assert waiting.out.text.splitlines()[-1].endswith("drain, 1 endpoint, empty")
        had = len(first.requests)
        await first.stop()
        over.set()
    assert not moved
    assert set(went_to) <= set(NAMES) - {home}
    assert len(first.requests) == had >= ready[home] * REQUESTS
    assert len(ready) == (1 if "address" in policy else 3)
    await program.stop()
