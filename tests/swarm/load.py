"""Sessions that ask steadily, each on its own keep-alive connections with its own cookie jar.

Run as a program, in the namespace where clients are: it writes one JSON line at the end of each
round, one for each failure and for each move of a session to another instance, and a summary when
its standard input ends. A round is over when every session has asked, and been answered or not,
since it began. The program ends by itself after ``LONGEST`` seconds.

``Load`` is the same seen from a test: a context manager that starts it and reads what it writes.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.swarm.engine import Swarm, eventually

LONGEST = 900.0
"""For one that nobody ends: longer than any test waits."""
ANSWER_WITHIN = 20.0
"""Longer than the proxy's own patience with an endpoint that does not answer."""


@dataclass(frozen=True)
class Failure:
    """A request without a good answer."""

    at: float
    session: int
    target: str
    status: int
    """0: no answer at all."""
    reason: str


@dataclass(frozen=True)
class Move:
    """A session that was answered by another instance than the time before."""

    at: float
    session: int
    came_from: str
    went_to: str
    repinned: bool = True
    """It was given another pin than it had; if not, it was a guest there, or is back."""


@dataclass(frozen=True)
class Round:
    """Every session has asked once."""

    began: float
    failed: int
    """How many of the requests that were sent in it failed."""


@dataclass
class Report:
    """What a load has seen."""

    requests: int = 0
    failures: list[Failure] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    instances: dict[str, int] = field(default_factory=dict)
    """Instance -> sessions that are on it at the end."""
    first_instances: dict[str, int] = field(default_factory=dict)
    """Instance -> sessions that began on it."""
    longest: float = 0.0
    """Seconds until the slowest good answer."""
    addresses: dict[str, str] = field(default_factory=dict)
    """Instance -> its address, as x-upstream-addr had it."""
    versions: dict[int, list[str]] = field(default_factory=dict)
    """Session -> the versions of the application that answered it."""

    @property
    def repinned(self) -> Counter[int]:
        """Session -> how often it was given another pin."""
        return Counter(move.session for move in self.moves if move.repinned)

    def __str__(self) -> str:
        kinds = Counter((failure.status, failure.reason) for failure in self.failures)
        shown = ", ".join(f"{n} x {status} {why}" for (status, why), n in kinds.most_common(8))
        return (
            f"{self.requests} requests, {len(self.failures)} failed ({shown or 'none'}), "
            f"{len(self.moves)} moves, {len(self.instances)} instances at the end"
        )


class Load:
    """A load that is under way: ``with Load(swarm, [...]) as load: ...``, then ``load.report``."""

    def __init__(
        self,
        swarm: Swarm,
        targets: list[str],
        *,
        host: str = "demo.local",
        sessions: int = 200,
        period: float = 0.5,
        authority: Path | None = None,
    ) -> None:
        """``period``: seconds between two requests of one session. With several targets each
        session takes them in turn. ``authority``: a file with the certificates that they trust;
        then they use https."""
        self._swarm = swarm
        settings = {"targets": targets, "host": host, "sessions": sessions, "period": period}
        settings["authority"] = "" if authority is None else str(authority)
        self._settings = json.dumps(settings)
        self._path = swarm.directory / "load.json"
        self.report = Report()

    def __enter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        with self._path.open("wb") as output:
            self._process = subprocess.Popen(
                self._swarm.as_client(sys.executable, "-m", "tests.swarm.load", self._settings),
                cwd=Path(__file__).parent.parent.parent,
                stdin=subprocess.PIPE,
                stdout=output,
            )
        try:
            eventually("every session has asked", self.rounds, within=60)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def rounds(self) -> list[Round]:
        """The rounds that are over."""
        lines = self._path.read_text().split("\n")[:-1]  # the last one may be half a line
        records = (json.loads(line) for line in lines if line.startswith(_ROUND))
        return [Round(record["began"], record["failed"]) for record in records]

    def watch(self, rounds: int = 1) -> list[Round]:
        """Wait until every session has asked that often from now on; returns these rounds."""
        # The round that is under way has begun before now.
        over = len(self.rounds()) + 1
        return eventually(
            f"every session asked {rounds} more times",
            lambda: self.rounds()[over:][:rounds] if len(self.rounds()) >= over + rounds else [],
        )

    def _end(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(ANSWER_WITHIN + 10)
        for line in self._path.read_text().splitlines():
            self._take(json.loads(line))

    def _take(self, record: dict[str, Any]) -> None:
        kind = record.pop("kind")
        if kind == "failure":
            self.report.failures.append(Failure(**record))
        elif kind == "move":
            self.report.moves.append(Move(**record))
        elif kind == "summary":
            self.report.requests = record["requests"]
            self.report.instances = record["instances"]
            self.report.first_instances = record["first_instances"]
            self.report.longest = record["longest"]
            self.report.addresses = record["addresses"]
            self.report.versions = {int(key): value for key, value in record["versions"].items()}


_ROUND = '{"kind": "round"'

# --- the program --------------------------------------------------------------------------------


class Refused(Exception):
    """An answer that is not the wanted one."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class _Answer:
    instance: str
    version: str
    address: str
    repinned: bool


class _Session:
    """One client with a cookie jar. It never sends a request twice: a request that gets no answer
    has failed, whatever the reason."""

    def __init__(self, number: int, host: str, tls: ssl.SSLContext | None) -> None:
        self.number = number
        self._host = host
        self._tls = tls
        self._cookies: dict[str, str] = {}
        self._connections: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def ask(self, target: str) -> _Answer:
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                return await self._ask(target)
        except BaseException:
            self._forget(target)
            raise

    async def _ask(self, target: str) -> _Answer:
        reader, writer = await self._connected(target)
        before = self._pins
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        head = f"GET /ping HTTP/1.1\r\nHost: {self._host}\r\n"
        writer.write(f"{head}{f'Cookie: {cookies}' if cookies else 'X-No: 1'}\r\n\r\n".encode())
        status_line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        status = int(status_line.split()[1])
        headers: dict[str, str] = {}
        for line in fields:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
            if name.lower() == "set-cookie":
                self._keep(value.strip())
        body = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection", "").lower() == "close":
            self._forget(target)
        if status != 200:
            raise Refused(status, body.decode(errors="replace")[:80].strip())
        said = json.loads(body)
        who, version = said["instance"], said["version"]
        return _Answer(who, version, headers.get("x-upstream-addr", ""), self._pins != before)

    @property
    def _pins(self) -> list[str]:
        """Those that it has."""
        return [value for value in self._cookies.values() if value.startswith("sp1.")]

    async def _connected(self, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        known = self._connections.get(target)
        # A server may close a connection nothing is under way on: that is no failure.
        if known is not None and not known[0].at_eof() and not known[1].is_closing():
            return known
        self._forget(target)
        if self._tls is None:
            opened = await asyncio.open_connection(target, 80)
        else:
            opened = await asyncio.open_connection(
                target, 443, ssl=self._tls, server_hostname=self._host
            )
        self._connections[target] = opened
        return opened

    def _keep(self, cookie: str) -> None:
        pair, *attributes = [part.strip() for part in cookie.split(";")]
        name, _, value = pair.partition("=")
        if any(attribute.lower() == "max-age=0" for attribute in attributes):
            self._cookies.pop(name, None)
        else:
            self._cookies[name] = value

    def _forget(self, target: str) -> None:
        if known := self._connections.pop(target, None):
            known[1].close()

    def close(self) -> None:
        for target in list(self._connections):
            self._forget(target)


class _Run:
    """All sessions, and what they have seen."""

    def __init__(
        self, targets: list[str], host: str, sessions: int, period: float, authority: str
    ) -> None:
        self._targets = targets
        self._period = period
        tls = None
        if authority:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            tls.load_verify_locations(authority)
        self._sessions = [_Session(number, host, tls) for number in range(sessions)]
        self._on: dict[int, _Answer] = {}
        self._began_on: dict[int, str] = {}
        self._longest = 0.0
        self._addresses: dict[str, str] = {}
        self._versions: dict[int, list[str]] = {}
        self._requests = 0
        self._round = 0
        self._begin_round()

    def _begin_round(self) -> None:
        self._round += 1
        self._round_began = time.time()
        self._round_failed = 0
        self._missing = {session.number for session in self._sessions}

    async def until_told(self) -> None:
        """Ask until standard input ends."""
        told = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        tasks = [asyncio.create_task(self._go_on(session)) for session in self._sessions]
        with suppress(TimeoutError):
            await asyncio.wait_for(told, LONGEST)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for session in self._sessions:
            session.close()
        _say(
            "summary",
            requests=self._requests,
            instances=Counter(answer.instance for answer in self._on.values()),
            first_instances=Counter(self._began_on.values()),
            longest=self._longest,
            addresses=self._addresses,
            versions=self._versions,
        )

    async def _go_on(self, session: _Session) -> None:
        await asyncio.sleep(random.random() * self._period)  # or all would ask at once
        turn = session.number
        while True:
            sent_in = self._round
            good = await self._once(session, self._targets[turn % len(self._targets)])
            if sent_in == self._round:
                self._count(session, good)
            turn += 1
            await asyncio.sleep(self._period)

    def _count(self, session: _Session, good: bool) -> None:
        """A session has asked in this round; say so when the last one has."""
        self._round_failed += not good
        self._missing.discard(session.number)
        if not self._missing:
            _say("round", began=self._round_began, failed=self._round_failed)
            self._begin_round()

    async def _once(self, session: _Session, target: str) -> bool:
        """Ask; returns whether the answer was good."""
        before = self._on.get(session.number)
        sent = time.time()
        try:
            answer = await session.ask(target)
        except Refused as refused:
            self._fail(session, target, sent, refused.status, str(refused))
        except (OSError, EOFError, TimeoutError, ValueError, KeyError) as error:
            self._fail(session, target, sent, 0, f"{type(error).__name__} {error}")
        else:
            self._requests += 1
            self._longest = max(self._longest, time.time() - sent)
            self._on[session.number] = answer
            self._began_on.setdefault(session.number, answer.instance)
            self._addresses[answer.instance] = answer.address.split(", ")[-1]
            versions = self._versions.setdefault(session.number, [])
            if answer.version not in versions:
                versions.append(answer.version)
            if before is not None and before.instance != answer.instance:
                went = before.instance, answer.instance
                move = Move(sent, session.number, *went, answer.repinned)
                _say("move", **asdict(move))
            return True
        return False

    def _fail(self, session: _Session, target: str, at: float, status: int, why: str) -> None:
        self._requests += 1
        _say("failure", **asdict(Failure(at, session.number, target, status, why)))


def _say(kind: str, **what: object) -> None:
    print(json.dumps({"kind": kind, **what}), flush=True)


if __name__ == "__main__":
    asyncio.run(_Run(**json.loads(sys.argv[1])).until_told())
