"""Several worker processes: they agree, they are replaced, and what holds for one proxy process
holds for all of them together. All tests run the real program with two workers.

Nothing in an answer tells which worker gave it. Here it is the kernel that tells, by the sockets
that a process has open.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from stickyproxy.control import health
from stickyproxy.runtime.supervisor import usable_cores
from tests.cli.test_main import (
    TIMEOUT,
    Program,
    StartProgram,
    asked,
    document,
    over_unix,
    programs,
    refused,
    service,
)
from tests.conftest import MakeEndpoint
from tests.scripted import EndpointConnection, RawClient, ScriptedEndpoint, Truncated, get, ok

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

TAKES_PLACE = r"worker (\d) was killed by SIGKILL; another takes its place(?: in ([\d.]+) s)?$"
IS_READY = r"worker (\d) is ready: process (\d+)$"

# --- who is who ----------------------------------------------------------------------------------


def process_of(user: RawClient, port: int, pids: Iterable[int]) -> int:
    """The process that has the other end of this connection, on which it answered before."""
    ours = int(user.address.rpartition(":")[2])
    ends = f"0100007F:{port:04X} 0100007F:{ours:04X} 01 "  # 01: established
    listed = Path("/proc/net/tcp").read_text().splitlines()
    [name] = {f"socket:[{line.split()[9]}]" for line in listed if ends in line}
    [process] = [pid for pid in pids if name in open_files(pid)]
    return process


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def open_files(pid: int) -> set[str]:
    """What the file descriptors of a process stand for."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(link))
        except FileNotFoundError:
            continue
    return found


class Proxy:
    """A ``stickyproxy serve`` with two workers."""

    def __init__(self, program: Program, port: int) -> None:
        self.program = program
        self.port = port
        self._stack = AsyncExitStack()

    @property
    def pids(self) -> dict[int, int]:
        """Process by number of the worker, as the log tells."""
        return {int(n): int(pid) for n, pid in re.findall(IS_READY, self.program.err.text, re.M)}

    async def users(self, each: int = 1) -> dict[int, list[RawClient]]:
        """At least so many connections to each worker, by its process; each has been used."""
        pids = set(self.pids.values())
        found: defaultdict[int, list[RawClient]] = defaultdict(list)
        async with asyncio.timeout(TIMEOUT):
            while min(len(found[pid]) for pid in pids) < each:
                user = await self._stack.enter_async_context(await RawClient.connect(self.port))
                await user.send(get("/hello"))
                assert (await user.response()).status == 200
                found[process_of(user, self.port, pids)].append(user)
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self._stack.aclose()


class Proxies:
    """Starts them."""

    def __init__(self, start: StartProgram, folder: Path) -> None:
        self.start = start
        self.config = folder / "config.toml"
        self.stack = AsyncExitStack()

    async def __call__(self, *services: str, proxy: Iterable[str] = (), **tables: str) -> Proxy:
        """One for these services; ``proxy`` as in ``document``; ``tables`` by name."""
        self.write(*services, proxy=proxy, **tables)
        program = await self.start("serve", "--config", self.config)
        made = Proxy(program, await program.listening())
        self.stack.push_async_callback(made.close)
        assert set(made.pids) == {1, 2}, "it is ready when its workers are"
        return made

    def write(self, *services: str, proxy: Iterable[str] = (), **tables: str) -> None:
        """Its configuration file."""
        listed = [f"[{name}]\n{tables[name]}" for name in tables]
        self.config.write_text(document(*services, *listed, proxy=proxy, workers=2))


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


@pytest.fixture
async def proxies(start: StartProgram, tmp_path: Path) -> AsyncIterator[Proxies]:
    """Starts proxies with two workers."""
    made = Proxies(start, tmp_path)
    async with made.stack:
        yield made


class Gate:
    """An endpoint's script: a GET of /held is answered when the gate is opened."""

    def __init__(self, body: bytes = b"hello") -> None:
        self.opened = asyncio.Event()
        self._body = body

    async def __call__(self, conn: EndpointConnection) -> None:
        while (request := await conn.request()) is not None:
            if request.target == b"/held":
                await self.opened.wait()
            await conn.send(ok(self._body))


async def five(endpoint: MakeEndpoint) -> list[ScriptedEndpoint]:
    """Endpoints that answer with their names."""
    return [await endpoint(Gate(b"endpoint %d" % number)) for number in range(5)]


async def body(user: RawClient, data: bytes) -> bytes:
    """The body of the answer to a request on this connection."""
    await user.send(data)
    response = await user.response()
    assert response.status == 200
    return response.body


# --- what they agree on --------------------------------------------------------------------------


class TestAgreement:
    async def test_pins(self, proxies: Proxies, endpoint: MakeEndpoint) -> None:
        """A cookie from either worker is resolved by both, and not set again."""
        addresses = [each.address for each in await five(endpoint)]
        proxy = await proxies(service("demo", addresses, 'sticky_session_cookie = "session"'))
        users = await proxy.users(each=1)
        sessions: dict[str, bytes] = {}
        for [user, *_] in users.values():
            for _ in range(10):
                await user.send(get())
                response = await user.response()
                pin = (response.header("set-cookie") or b"").partition(b";")[0]
                sessions[pin.decode()] = response.body
        assert set(sessions.values()) == {b"endpoint %d" % number for number in range(5)}
        for cookie, pinned in sessions.items():
            for [user, *_] in users.values():
                await user.send(get(Cookie=cookie))
                response = await user.response()
                assert response.body == pinned
                assert response.header("set-cookie") is None

    @pytest.mark.parametrize(
        ("policy", "header"),
        [
            ('sticky_session_cookie = "session"', "Cookie"),
            ('hash_header = "X-User"', "X-User"),
            ("ip_hash = true", "X-Forwarded-For"),
        ],
    )
    async def test_hashes(
        self, proxies: Proxies, endpoint: MakeEndpoint, policy: str, header: str
    ) -> None:
        """Of what the application set, of a header field, of an address."""
        addresses = [each.address for each in await five(endpoint)]
        proxy = await proxies(
            service("demo", addresses, policy), proxy=['trusted_proxies = ["127.0.0.1"]']
        )
        users = await proxy.users()
        chosen = Counter[bytes]()
        for number in range(50):
            value = f"session={number}" if header == "Cookie" else f"10.1.2.{number}"
            request = get(**{header: value})
            [one, other] = [await body(user, request) for [user, *_] in users.values()]
            assert one == other
            chosen[one] += 1
        assert len(chosen) > 1


# --- when one dies -------------------------------------------------------------------------------


class TestDeath:
    async def test_costs_what_it_carried(self, proxies: Proxies, endpoint: MakeEndpoint) -> None:
        gate = Gate()
        peer = await endpoint(gate)
        proxy = await proxies(service("demo", [peer.address]))
        users = await proxy.users(each=3)
        victim, survivor = users
        for user in users[victim] + users[survivor]:
            await user.send(get("/held"))
        await peer.wait_requests(2 * sum(map(len, users.values())))

        os.kill(victim, signal.SIGKILL)
        for user in users[victim]:
            await user.closed()
        gate.opened.set()
        for user in users[survivor]:
            assert (await user.response()).status == 200
        await proxy.program.err.says(TAKES_PLACE)
        await proxy.program.err.says(IS_READY)
        assert victim not in proxy.pids.values()
        assert survivor in proxy.pids.values()
        assert len(await proxy.users()) == 2, "both accept"
        await proxy.close()
        await proxy.program.stop()

    async def test_of_a_frozen_one(self, proxies: Proxies, endpoint: MakeEndpoint) -> None:
        peer = await endpoint()
        proxy = await proxies(service("demo", [peer.address]), proxy=('worker_timeout = "2s"',))
        users = await proxy.users()
        victim, survivor = users
        os.kill(victim, signal.SIGSTOP)
        await proxy.program.err.says(r"worker \d has shown no sign of life for 2 s: killed$")
        await proxy.program.err.says(TAKES_PLACE)
        await users[victim][0].closed()
        await proxy.program.err.says(IS_READY)
        assert survivor in proxy.pids.values()
        assert len(await proxy.users()) == 2, "both accept"
        await proxy.close()
        await proxy.program.stop()

    async def test_under_load(self, proxies: Proxies, endpoint: MakeEndpoint) -> None:
        """Clients that connect anew for every request: none loses more than the one request that
        was under way, and none is refused, not even before there is a successor."""
        peer = await endpoint()
        proxy = await proxies(service("demo", [peer.address]))
        enough = asyncio.Event()

        async def load() -> int:
            lost = 0
            while not enough.is_set():
                try:
                    assert (await asked(proxy.port, get())).status == 200
                except (Truncated, ConnectionResetError):
                    lost += 1
            return lost

        async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
            clients = [group.create_task(load()) for _ in range(8)]
            for number in (1, 2):
                await proxy.users()
                os.kill(proxy.pids[number], signal.SIGKILL)
                await proxy.program.err.says(TAKES_PLACE)
                await proxy.program.err.says(IS_READY)
            await proxy.users()
            enough.set()
        assert all(client.result() <= 2 for client in clients), "one for each death"
        await proxy.close()
        await proxy.program.stop()

    async def test_again_and_again(self, proxies: Proxies, endpoint: MakeEndpoint) -> None:
        """Successors are started at longer and longer intervals; the other worker serves on."""
        peer = await endpoint()
        proxy = await proxies(service("demo", [peer.address]))
        pauses = []
        for _ in range(3):
            os.kill(proxy.pids[1], signal.SIGKILL)
            death = await proxy.program.err.says(TAKES_PLACE)
            assert death[1] == "1"
            pauses.append(death[2])
            for _ in range(10):
                assert (await asked(proxy.port, get())).status == 200
            await proxy.program.err.says(IS_READY)
        assert pauses == [None, "0.5", "1"]
        await proxy.program.stop()

    async def test_of_one_that_was_told_to_end(
        self, proxies: Proxies, endpoint: MakeEndpoint
    ) -> None:
        """It finishes what it has, while others accept in its place."""
        gate = Gate()
        peer = await endpoint(gate)
        proxy = await proxies(service("demo", [peer.address]))
        users = await proxy.users()
        leaving = proxy.pids[1]
        idle, held = (await proxy.users(each=2))[leaving][:2]
        await held.send(get("/held"))
        await peer.wait_requests(sum(map(len, users.values())) + 1)
        os.kill(leaving, signal.SIGTERM)
        assert await idle.closed() == "eof"
        for _ in range(10):
            assert (await asked(proxy.port, get())).status == 200
        gate.opened.set()
        assert (await held.response()).status == 200
        await proxy.program.err.says("worker 1 ended; another takes its place$")
        await proxy.program.err.says(IS_READY)
        assert len(await proxy.users()) == 2
        await proxy.close()
        await proxy.program.stop()

    async def test_of_the_supervisor(self, proxies: Proxies, endpoint: MakeEndpoint) -> None:
        """Workers finish what they have and end: somebody else may listen there."""
        gate = Gate()
        peer = await endpoint(gate)
        proxy = await proxies(service("demo", [peer.address]))
        users = await proxy.users()
        for [user, *_] in users.values():
            await user.send(get("/held"))
        await peer.wait_requests(sum(map(len, users.values())) + 2)
        proxy.program.signal(signal.SIGKILL)
        for _ in users:
            await proxy.program.err.says(r"worker \d: the supervisor is gone")
        await refused(proxy.port)
        gate.opened.set()
        for [user, *_] in users.values():
            assert (await user.response()).status == 200
        await proxy.close()
        assert await proxy.program.ended() == -signal.SIGKILL  # workers have closed stderr, too


# --- signals -------------------------------------------------------------------------------------


class TestSignals:
    async def test_reload_reaches_all(self, proxies: Proxies, endpoint: MakeEndpoint) -> None:
        old, new = await endpoint(Gate(b"old")), await endpoint(Gate(b"new"))
        proxy = await proxies(service("demo", [old.address]))
        users = await proxy.users(each=2)
        proxies.write(service("demo", [new.address]), service("added", [new.address]))
        proxy.program.signal(signal.SIGHUP)
        await proxy.program.err.says("configuration reloaded: 2 services")
        for user in (user for those in users.values() for user in those):
            assert await body(user, get()) == b"new"
            assert await body(user, get(host="added.local")) == b"new"

        proxies.config.write_text("nonsense")
        proxy.program.signal(signal.SIGHUP)
        await proxy.program.err.says("the configuration was not reloaded")
        for [user, *_] in users.values():
            assert await body(user, get()) == b"new"
        os.kill(proxy.pids[1], signal.SIGKILL)
        await proxy.program.err.says(IS_READY)
        for [user, *_] in (await proxy.users()).values():  # a successor knows what the others know
            assert await body(user, get(host="added.local")) == b"new"
        await proxy.close()
        await proxy.program.stop()

    async def test_the_access_log_is_one(
        self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        """Whole lines from all workers; all of them reopen it when it was rotated away."""
        peer = await endpoint()
        path, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
        config = tmp_path / "config.toml"
        lines = ('format = "json"', f'path = "{path}"')
        config.write_text(document(service("demo", [peer.address]), access_log=lines, workers=2))
        program = await start("serve", "--config", config)
        proxy = Proxy(program, await program.listening())
        users = await proxy.users(each=4)
        count = sum(map(len, users.values()))

        async def ask(target: str) -> None:
            for _ in range(50):
                for user in (user for those in users.values() for user in those):
                    await user.send(get(target))
                for user in (user for those in users.values() for user in those):
                    assert (await user.response()).status == 200

        await ask("/before")
        path.rename(rotated)
        program.signal(signal.SIGHUP)
        await program.err.says("configuration reloaded")
        await ask("/after")
        await proxy.close()
        await program.stop()
        before = [json.loads(line)["target"] for line in rotated.read_text().splitlines()]
        after = [json.loads(line)["target"] for line in path.read_text().splitlines()]
        assert Counter(before) == {"/hello": count, "/before": 50 * count}
        assert Counter(after) == {"/after": 50 * count}

    async def test_requests_under_way_are_finished(
        self, proxies: Proxies, endpoint: MakeEndpoint
    ) -> None:
        gate = Gate()
        peer = await endpoint(gate)
        proxy = await proxies(service("demo", [peer.address]))
        users = await proxy.users(each=2)
        for [user, *_] in users.values():
            await user.send(get("/held"))
        await peer.wait_requests(sum(map(len, users.values())) + 2)
        proxy.program.signal(signal.SIGTERM)
        await refused(proxy.port)
        for [_, *idle] in users.values():
            for user in idle:
                assert await user.closed() == "eof"
        gate.opened.set()
        for [user, *_] in users.values():
            response = await user.response()
            assert (response.status, response.body) == (200, b"hello")
            assert response.closes
        assert await proxy.program.ended() == 0, proxy.program.err.text
        assert "takes its place" not in proxy.program.err.text

    async def test_a_second_signal_ends_at_once(
        self, proxies: Proxies, endpoint: MakeEndpoint
    ) -> None:
        peer = await endpoint(Gate())
        proxy = await proxies(service("demo", [peer.address]), proxy=['grace_period = "1h"'])
        users = await proxy.users()
        for [user, *_] in users.values():
            await user.send(get("/held"))
        await peer.wait_requests(sum(map(len, users.values())) + 2)
        proxy.program.signal(signal.SIGINT)
        await proxy.program.err.says("stopping: requests under way get 3600 s")
        proxy.program.signal(signal.SIGINT)
        assert await proxy.program.ended() == 1
        for [user, *_] in users.values():
            await user.closed()
        await proxy.close()

    async def test_the_grace_period_ends(self, proxies: Proxies, endpoint: MakeEndpoint) -> None:
        peer = await endpoint(Gate())
        proxy = await proxies(service("demo", [peer.address]), proxy=['grace_period = "100ms"'])
        users = await proxy.users()
        for [user, *_] in users.values():
            await user.send(get("/held"))
        await peer.wait_requests(sum(map(len, users.values())) + 2)
        proxy.program.signal(signal.SIGTERM)
        assert await proxy.program.ended() == 0
        told = re.findall("worker (.): 1 connections did not finish", proxy.program.err.text)
        assert sorted(told) == ["1", "2"]
        for [user, *_] in users.values():
            await user.closed()
        await proxy.close()


# --- listeners and the rest ----------------------------------------------------------------------


class TestListeners:
    async def test_a_taken_port_is_said_once(self, start: StartProgram, tmp_path: Path) -> None:
        config = tmp_path / "config.toml"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            config.write_text(document(listener=address, workers=2))
            program = await start("serve", "--config", config)
            assert await program.ended() == 1
        assert program.err.text == (
            f"cannot listen on {address}: "
            "another program listens there; stop it, or choose another port\n"
        )

    async def test_two_proxies_notice_each_other(
        self, proxies: Proxies, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        """SO_REUSEPORT would let a second one take half of the connections."""
        peer = await endpoint()
        proxy = await proxies(service("demo", [peer.address]))
        config = tmp_path / "second.toml"
        config.write_text(document(listener=f"127.0.0.1:{proxy.port}", workers=2))
        second = await start("serve", "--config", config)
        assert await second.ended() == 1
        assert "another program listens there" in second.err.text
        assert len(await proxy.users()) == 2

    async def test_unix_socket(
        self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        peer = await endpoint()
        path, config = tmp_path / "proxy.sock", tmp_path / "config.toml"
        config.write_text(
            document(service("demo", [peer.address]), listener=f"unix:{path}", workers=2)
        )
        program = await start("serve", "--config", config)
        await program.err.says(f" on unix:{path}$")
        for number in (1, 2):
            [(_, pid)] = re.findall(rf"worker ({number}) is ready: process (\d+)", program.err.text)
            assert await over_unix(path) == b"hello"
            os.kill(int(pid), signal.SIGKILL)
            await program.err.says(TAKES_PLACE)
            assert await over_unix(path) == b"hello"
            await program.err.says(IS_READY)
        await program.stop()
        assert not path.exists()


class TestTheRest:
    async def test_a_log_that_cannot_be_opened_is_said_once(
        self, start: StartProgram, tmp_path: Path
    ) -> None:
        config = tmp_path / "config.toml"
        config.write_text(document(access_log=[f'path = "{tmp_path}"'], workers=2))
        program = await start("serve", "--config", config)
        assert await program.ended() == 1
        assert program.err.text == f"access log {tmp_path} cannot be opened: Is a directory\n"

    async def test_the_admin_page(
        self, proxies: Proxies, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        peer = await endpoint()
        path = f"unix:{tmp_path}/admin.sock"
        proxy = await proxies(service("demo", [peer.address]), admin=f'address = "{path}"')
        services = await start("services", "--admin", path)
        assert await services.ended() == 0, services.err.text
        assert "demo: published" in services.out.text
        assert f"1/1 usable: {peer.address}" in services.out.text
        await proxy.program.stop()

    async def test_the_admin_page_tells_what_workers_find_down(
        self, proxies: Proxies, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        good, bad = await endpoint(), await endpoint(listening=False)
        path = tmp_path / "admin.sock"
        proxy = await proxies(
            service("demo", [good.address]),
            service("shaky", [good.address, bad.address]),
            admin=f'address = "unix:{path}"',
        )

        async def shown(state: str) -> None:
            """Wait until the page says so of the bad one."""
            text = ""
            async with asyncio.timeout(TIMEOUT):
                while f"{bad.address}{state}\n" not in text:
                    text = (await over_unix(path, "/services")).decode()

        await shown("")
        for [user, *_], state in zip(
            (await proxy.users()).values(), (" (down in 1 of 2 workers)", " (down)"), strict=True
        ):
            for _ in range(2 * health.FAILURES):
                assert await body(user, get(host="shaky.local")) == b"hello"
            await shown(state)
        await bad.start()
        await shown("")
        await proxy.close()
        await proxy.program.stop()

    async def test_questions_are_answered_as_by_workers(
        self, proxies: Proxies, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        good, bad = await endpoint(), await endpoint(listening=False)
        admin = f"unix:{tmp_path}/admin.sock"
        proxy = await proxies(
            service("demo", [good.address]),
            service("shaky", [good.address, bad.address]),
            admin=f'address = "{admin}"',
        )

        async def said() -> str:
            explain = await start("explain", "shaky.local", "--admin", admin)
            assert await explain.ended() == 0, explain.err.text
            return explain.out.text

        assert "one of 2 by turns" in await said()
        for user, *_ in (await proxy.users()).values():
            for _ in range(2 * health.FAILURES):
                assert await body(user, get(host="shaky.local")) == b"hello"
        async with asyncio.timeout(TIMEOUT):
            while f"shaky/{good.address}: it has no session" not in await said():
                pass
        await proxy.close()
        await proxy.program.stop()

    async def test_one_worker_is_one_process(
        self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        peer = await endpoint()
        config = tmp_path / "config.toml"
        config.write_text(document(service("demo", [peer.address]), workers=1))
        program = await start("serve", "--config", config)
        assert (await asked(await program.listening(), get())).status == 200
        assert not children(program.process.pid)
        await program.stop()

    def test_usable_cores(self) -> None:
        assert 1 <= usable_cores() <= (os.cpu_count() or 1)
