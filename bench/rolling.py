"""The rolling lab: ``python -m bench.rolling``, or ``make bench-rolling``.

Replicas of a server are replaced one after the other behind stickyproxy, as a Swarm does it (stop
first), while clients with cookies send POST and GET by turns. Counted is what fails.

    0 s       SIGTERM to the replica
    0.3 s     the proxy learns that the task is being stopped (what was measured on a Swarm)
    end       the process has ended, or is killed after 10 s as Docker does
    + 0.3 s   the proxy learns that the task is gone, and its successor is started

Each way of treating a stopping replica (``draining.py``) is tried with the server as it is, and
``+delay`` with an entrypoint that hands SIGTERM on only after a second (``servers/stop-later.sh``).
``+kill``: the stop signal is one that servers do not notice (SIGCONT), and after 2 s comes SIGKILL.

Writes ``bench/results/rolling.md`` and ``.json``. Everything listens on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.environment import environment
from bench.processes import Child, StartError, free_port
from bench.servers import REPOSITORY, SERVERS, Server
from bench.stopping import GRACE, RESULTS

REPLICAS = 4
CLIENTS = 12
PAUSE = 0.02
"""Longest pause of a client between two requests, in seconds."""
LEARNS = 0.3
"""Seconds until the proxy knows what happened to a task."""
DELAY = 1.0
"""Seconds for which ``stop-later.sh`` keeps the signal."""
KILL_AFTER = 2.0
"""Seconds until a replica is killed that was not told to stop."""
PATIENCE = 15.0


@dataclass(frozen=True, slots=True)
class Way:
    """How a stopping replica is treated."""

    drain: str
    resend: bool = False
    delay: bool = False
    leaving: bool = False
    kill: bool = False

    def __str__(self) -> str:
        resend = "+leaving" if self.leaving else "+resend" * self.resend
        return self.drain + resend + "+delay" * self.delay + "+kill" * self.kill


WAYS = (
    Way("sticky"),
    Way("safe"),
    Way("none"),
    Way("sticky", resend=True),
    Way("none", resend=True),
    Way("none", resend=True, leaving=True),
    Way("sticky", delay=True),
    Way("safe", delay=True),
    Way("none", delay=True),
    Way("none", kill=True),
)


@dataclass(slots=True)
class Count:
    """What came of the requests of one method."""

    sent: int = 0
    failed: int = 0
    carried: int = 0
    """Failed, and carried out all the same."""
    twice: int = 0
    """Carried out more than once."""
    slowest: float = 0.0
    """Seconds until the latest of the answers that were right."""
    answers: dict[str, int] = field(default_factory=dict)
    """What the failed ones got: a status, or what happened to the connection."""


Counts = dict[str, Count]


class Stage:
    """Replicas, the proxy in front of them, and clients."""

    def __init__(self, server: Server, way: Way, directory: Path) -> None:
        self._server = server
        self._way = way
        self._directory = directory
        self._listen = free_port()
        self._file = directory / "draining.toml"
        self._proxy: Child | None = None
        self._replicas: dict[str, tuple[int, Child]] = {}
        self._gone: set[str] = set()
        self._draining: set[str] = set()
        self._names = (f"task{number}" for number in itertools.count(1))
        self._ids = itertools.count(1)
        self._stopping = False
        self._outcomes: list[tuple[str, str, str, float]] = []
        """(method, path, what came of it, seconds); it is empty if all went well."""

    async def run(self) -> Counts:
        """Raises StartError."""
        try:
            await asyncio.gather(*(self._start_replica() for _ in range(REPLICAS)))
            self._write()
            await self._start_proxy()
            clients = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]
            try:
                await asyncio.sleep(0.5)
                for name in list(self._replicas):
                    await self._replace(name)
                await asyncio.sleep(0.5)
            finally:
                self._stopping = True
                await asyncio.gather(*clients)
        finally:
            children = [child for _, child in self._replicas.values()]
            for child in [*children, *([self._proxy] if self._proxy else [])]:
                await asyncio.to_thread(child.stop)
        return self._count()

    async def _start_proxy(self) -> None:
        self._proxy = Child(
            [sys.executable, "-m", "bench.draining", str(self._file)],
            self._directory / "proxy.log",
            environment={"PYTHONPATH": str(REPOSITORY)},
        )
        await asyncio.to_thread(self._proxy.wait_for, self._listen)

    async def _start_replica(self) -> None:
        name = next(self._names)
        port = free_port()
        child = await asyncio.to_thread(
            self._server.start,
            port,
            self._directory,
            delay=DELAY if self._way.delay else None,
        )
        self._replicas[name] = (port, child)

    async def _replace(self, name: str) -> None:
        """Stop one replica and start its successor."""
        _, child = self._replicas[name]
        loop = asyncio.get_running_loop()
        if self._way.kill:
            os.kill(child.pid, signal.SIGCONT)
            killed_at = loop.time() + KILL_AFTER
        elif self._way.delay:
            os.kill(child.pid, signal.SIGTERM)  # the entrypoint is process 1
            killed_at = loop.time() + GRACE
        else:
            os.kill(self._server.receiver(child), getattr(signal, self._server.signal))
            killed_at = loop.time() + GRACE
        await asyncio.sleep(LEARNS)
        self._draining.add(name)
        self._publish()
        if not await asyncio.to_thread(child.wait, killed_at - loop.time()):
            os.killpg(child.pid, signal.SIGKILL)
        await asyncio.to_thread(child.stop)
        await asyncio.sleep(LEARNS)
        self._gone.add(name)
        self._publish()
        del self._replicas[name]
        await self._start_replica()
        self._publish()
        await asyncio.sleep(LEARNS)

    def _write(self) -> None:
        lines = [
            f"listen = {self._listen}",
            f'drain = "{self._way.drain}"',
            f"resend = {str(self._way.resend).lower()}",
            f"leaving = {str(self._way.leaving).lower()}",
            f"draining = {json.dumps(sorted(self._draining - self._gone))}",
            "[endpoints]",
        ]
        for name, (port, _) in self._replicas.items():
            if name not in self._gone:
                lines.append(f'{name} = "127.0.0.1:{port}"')
        # Replaced whole: the proxy must not read half of it.
        self._file.with_suffix(".new").write_text("\n".join(lines) + "\n")
        self._file.with_suffix(".new").replace(self._file)

    def _publish(self) -> None:
        self._write()
        assert self._proxy is not None
        os.kill(self._proxy.pid, signal.SIGHUP)

    # --- clients ---

    async def _client(self) -> None:
        cookie = ""
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for method in itertools.cycle(("POST", "GET")):
            if self._stopping:
                break
            path = f"/{next(self._ids)}"
            began = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE):
                    if connection is None:
                        connection = await asyncio.open_connection("127.0.0.1", self._listen)
                    connection[1].write(_request(method, path, cookie))
                    head = (await connection[0].readuntil(b"\r\n\r\n")).decode("latin-1")
                    await connection[0].readexactly(_length(head))
            except (OSError, EOFError, TimeoutError) as error:
                self._outcomes.append((method, path, type(error).__name__, 0.0))
                if connection is not None:
                    connection[1].close()
                connection = None
                continue
            status = head.split(" ", 2)[1]
            took = time.monotonic() - began
            self._outcomes.append((method, path, "" if status == "200" else status, took))
            cookie = _cookie(head) or cookie
            if "connection: close" in head.lower():
                connection[1].close()
                connection = None
            await asyncio.sleep(random.uniform(0, PAUSE))
        if connection is not None:
            connection[1].close()

    def _count(self) -> Counts:
        carried = Counter((self._directory / "carried").read_text().split())
        counts = {"POST": Count(), "GET": Count()}
        for method, path, failure, seconds in self._outcomes:
            count = counts[method]
            if not failure:
                count.slowest = max(count.slowest, seconds)
            count.sent += 1
            count.twice += carried[path] > 1
            if failure:
                count.failed += 1
                count.carried += carried[path] > 0
                count.answers[failure] = count.answers.get(failure, 0) + 1
        return counts


def _request(method: str, path: str, cookie: str) -> bytes:
    body = "a=1" if method == "POST" else ""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench.test"]
    lines += [f"Cookie: {cookie}"] if cookie else []
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", body]).encode()


def _field(head: str, name: str) -> Iterator[str]:
    for line in head.split("\r\n"):
        field_name, _, value = line.partition(":")
        if field_name.lower() == name:
            yield value.strip()


def _length(head: str) -> int:
    return int(next(_field(head, "content-length"), "0"))


def _cookie(head: str) -> str:
    return next((value.partition(";")[0] for value in _field(head, "set-cookie")), "")


def examine(server: Server, way: Way) -> Counts:
    """One rolling restart. Raises StartError."""
    with tempfile.TemporaryDirectory(prefix="rolling-") as name:
        server.prepare(Path(name))
        return asyncio.run(Stage(server, way, Path(name)).run())


# --- tables ---------------------------------------------------------------------------------


def cell(counts: Counts) -> str:
    """Failed POSTs and GETs; in parentheses how many of the POSTs were carried out."""
    post, get = counts["POST"], counts["GET"]
    if not post.failed + get.failed + post.twice:
        return "**0**"
    carried = f" ({post.carried})" if post.carried else ""
    twice = f", {post.twice} twice" if post.twice else ""
    return f"{post.failed}{carried} + {get.failed}{twice}"


Found = dict[str, dict[str, Counts]]


def render(found: Found, skipped: dict[str, str], command: str) -> str:
    """The report."""
    ways = [str(way) for way in WAYS]
    lines = ["# Rolling restarts behind stickyproxy", "", *environment(command).lines(), ""]
    lines += [f"- Skipped: {name} ({why})" for name, why in skipped.items()]
    lines += [
        "",
        "Failed POSTs (in parentheses: of these carried out) + failed GETs of all requests.",
        "",
        "| server | requests per cell | " + " | ".join(ways) + " |",
        "|---|--:|" + "--:|" * len(ways),
    ]
    for name, by_way in found.items():
        sent = [sum(count.sent for count in counts.values()) for counts in by_way.values()]
        cells = [cell(by_way[way]) if way in by_way else "-" for way in ways]
        lines.append(f"| {name} | {min(sent)} to {max(sent)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def read(results: Path) -> Found:
    """What an earlier run found."""
    document = json.loads((results / "rolling.json").read_text())
    return {
        name: {
            way: {method: Count(**count) for method, count in counts.items()}
            for way, counts in by_way.items()
        }
        for name, by_way in document.items()
    }


def merge(one: Counts | None, other: Counts) -> Counts:
    """The sum of two runs."""
    if one is None:
        return other
    for method, count in other.items():
        total = one[method]
        total.sent += count.sent
        total.failed += count.failed
        total.carried += count.carried
        total.twice += count.twice
        total.slowest = max(total.slowest, count.slowest)
        total.answers = dict(Counter(total.answers) + Counter(count.answers))
    return one


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rolling")
    parser.add_argument("--rounds", type=int, default=2, help="rolling restarts per cell")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="servers whose names have it")
    parser.add_argument("--ways", nargs="+", metavar="WAY", help="of " + " ".join(map(str, WAYS)))
    parser.add_argument("--at-once", type=int, default=3, help="restarts at the same time")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--add", action="store_true", help="to the results that are there")
    arguments = parser.parse_args()
    command = " ".join(["python -m bench.rolling", *sys.argv[1:]])
    chosen = [
        server
        for server in SERVERS
        if not arguments.only or any(text in server.name for text in arguments.only)
    ]
    skipped = {server.name: f"no {server.missing}" for server in chosen if server.missing}
    ways = [way for way in WAYS if not arguments.ways or str(way) in arguments.ways]
    found = read(arguments.results) if arguments.add else {}
    with ThreadPoolExecutor(arguments.at_once) as pool:
        futures = [
            (server.name, str(way), pool.submit(examine, server, way))
            for server in chosen
            if not server.missing
            for way in ways
            for _ in range(arguments.rounds)
        ]
        for name, way, future in futures:
            try:
                counts = future.result()
            except StartError as error:
                skipped[name] = "did not start"
                print(f"{name}: {error}", file=sys.stderr)
                continue
            by_way = found.setdefault(name, {})
            by_way[way] = merge(by_way.get(way), counts)
            slowest = max(count.slowest for count in counts.values())
            print(
                f"{name}, {way}: {cell(by_way[way])}, slowest {slowest:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    report = render(found, skipped, command)
    print(report)
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "rolling.md").write_text(report)
    document = {
        name: {way: {m: asdict(c) for m, c in counts.items()} for way, counts in by_way.items()}
        for name, by_way in found.items()
    }
    (arguments.results / "rolling.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
