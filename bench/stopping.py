"""The stopping lab: ``python -m bench.stopping``, or ``make bench-stopping``.

What does a server do with its connections when it is told to stop? Each one runs an application
that takes 50 ms a request and notes which requests it carried out. In a round of the first kind
(*waiting*) the server is frozen while requests come, on new connections and on kept-alive ones,
and finds them together with the signal. In one of the second kind (*running*) requests come before
and after the signal, and new connections all the time until nobody listens.

A request that got no answer is looked at more closely, because it matters whether it was carried
out. TCP tells more than "closed": see ``Outcome``.

Writes ``bench/results/stopping.md`` and ``.json``. Everything listens on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import selectors
import signal
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path

from bench.environment import environment
from bench.processes import Child, StartError, free_port
from bench.servers import SERVERS, Server

RESULTS = Path(__file__).parent / "results"
TICK = 0.01
"""Seconds between two new connections to a stopping server."""
GRACE = 10.0
"""Seconds until a server that does not end is killed: Docker's default."""
PATIENCE = 5.0
"""Seconds to wait for an answer."""
WAITING = 3
"""Connections of each kind that a frozen server finds together with the signal."""
AFTER = (0.0, 0.02, 0.1, 0.3)
"""Seconds after the signal at which requests come on connections that were kept alive."""
REFUSALS = 50
"""New connections that are refused until no more are tried."""
_UNACKED = 24
"""Where tcpi_unacked stands in Linux's struct tcp_info."""


class Outcome(Enum):
    """What became of a request."""

    SERVED = "served"
    STATUS = "other status"
    REFUSED = "refused"
    """Nobody listens: nothing was sent."""
    RESET = "reset"
    """The connection was reset before a byte of the answer: by Linux's rules because it was never
    accepted, or because bytes of the request had not been read when it was closed."""
    CROSSED = "crossed"
    """The server had closed the connection before the request came: a FIN, and then a RST for what
    came after it. The request was not read."""
    CLOSED = "closed"
    """All of the request was read, and the connection closed without an answer."""
    GONE = "gone"
    """The kept-alive connection had been seen closed: nothing was sent."""
    CUT = "cut"
    """It ended in the middle of the answer."""
    SILENT = "silent"
    """No answer in time, or no connection."""


class Probe:
    """One connection and the latest request on it. Like a proxy's, it is read as soon as there is
    something, and closed as soon as the server has closed it."""

    def __init__(self, port: int, ids: Iterator[int], selector: selectors.BaseSelector) -> None:
        self._ids = ids
        self._selector = selector
        self._got = b""
        self.path = ""
        self.outcome: Outcome | None = None
        """None while an answer is awaited."""
        self._unmade: Outcome | None = None
        """Why there is no connection."""
        self.ended = False
        """Whether the server has closed the connection, as far as we have seen."""
        self._socket = socket.socket()
        self._socket.settimeout(1.0)
        try:
            self._socket.connect(("127.0.0.1", port))
        except OSError as error:
            self.ended = True
            if isinstance(error, ConnectionRefusedError):
                self.outcome = Outcome.REFUSED
            elif isinstance(error, ConnectionResetError):
                self.outcome = Outcome.RESET
            else:
                self.outcome = Outcome.SILENT
            self._unmade = self.outcome
            self._socket.close()
        else:
            self._socket.setblocking(False)
            selector.register(self._socket, selectors.EVENT_READ, self)

    def send(self, method: str = "POST", body: bytes = b"a=1") -> Probe:
        """Send a request, in one piece. ``body``: of a POST."""
        self.path = f"/{next(self._ids)}"
        if self.ended:
            self.outcome = self._unmade or Outcome.GONE
            return self
        self._got, self.outcome = b"", None
        body = body if method == "POST" else b""
        head = f"{method} {self.path} HTTP/1.1\r\nHost: lab\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            self._socket.sendall(head.encode() + body)
        except OSError as error:
            crossed = isinstance(error, BrokenPipeError)
            self._end(Outcome.CROSSED if crossed else Outcome.RESET)
        return self

    def readable(self) -> None:
        """Take what has come."""
        try:
            data = self._socket.recv(65536)
        except OSError:
            self._end(Outcome.CUT if self._got else Outcome.RESET)
            return
        if not data:
            self._end(Outcome.CUT if self._got else self._why_closed())
            return
        self._got += data
        if self.outcome is None and _is_whole(self._got):
            good = self._got.startswith(b"HTTP/1.1 200")
            self.outcome = Outcome.SERVED if good else Outcome.STATUS

    def give_up(self) -> None:
        """No answer has come in time, or none is awaited."""
        if not self.ended:
            self._end(Outcome.SILENT)

    def _end(self, outcome: Outcome) -> None:
        self.ended = True
        if self.outcome is None:
            self.outcome = outcome
        self._selector.unregister(self._socket)
        self._socket.close()

    def _why_closed(self) -> Outcome:
        """After a FIN: was the request acknowledged before, or answered with a RST?"""
        if self.outcome is not None:
            return self.outcome  # no request is under way
        for _ in range(5):
            if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return Outcome.CROSSED
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            if not struct.unpack_from("I", info, _UNACKED)[0]:
                break
            time.sleep(0.002)  # neither acknowledged nor reset yet
        return Outcome.CLOSED


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
    return head.lower().find(b"chunked") > 0 and body.endswith(b"0\r\n\r\n")


SITUATIONS = {
    "backlog": "POST on a connection that was not accepted yet when the signal came",
    "buffered": "POST on a kept-alive connection that was not read yet when the signal came",
    "progress": "POST in progress when the signal came",
    **{
        f"kept+{1000 * after:.0f}": f"POST on a kept-alive connection {1000 * after:.0f} ms after"
        for after in AFTER
    },
    "new": "POST on a new connection, every 10 ms, from the signal until the process has ended",
}


@dataclass(slots=True)
class Findings:
    """What was counted for one server."""

    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {situation: Counter() for situation in SITUATIONS}
    )
    """By situation: outcomes; those whose request was carried out without an answer end in "!"."""
    keeps_alive: bool = True
    idle_closed: list[float] = field(default_factory=list)
    """Seconds from the signal until an idle connection was closed."""
    refusing: list[float] = field(default_factory=list)
    """Seconds from the signal until the first refused connect."""
    ended: list[float] = field(default_factory=list)
    """Seconds from the signal until the process had ended."""
    killed: int = 0
    """Rounds in which it had to be killed."""


class Round:
    """One server, started, stopped and asked."""

    def __init__(self, server: Server, directory: Path, findings: Findings) -> None:
        self.port = free_port()
        self._server = server
        self._directory = directory
        self._findings = findings
        self._ids = itertools.count(1)
        self._selector = selectors.DefaultSelector()
        self._probes: list[tuple[str, Probe]] = []
        self._signalled = 0.0

    def run(self, *, frozen: bool) -> None:
        """Raises StartError."""
        (self._directory / "carried").write_bytes(b"")
        with self._server.start(self.port, self._directory) as child:
            kept = self._keep_alive(len(AFTER) + 1 + WAITING)
            if frozen:
                self._frozen(child, kept)
                self._pump_until_answered()
            else:
                self._running(child, kept)
                self._await_end(child)
                self._pump_until_answered()
        self._count()
        for key in list(self._selector.get_map().values()):
            key.data.give_up()
        self._selector.close()

    def _connect(self) -> Probe:
        return Probe(self.port, self._ids, self._selector)

    def _pump(self, seconds: float) -> None:
        """Read whatever comes in that time."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                key.data.readable()

    def _pump_until_answered(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if all(probe.outcome is not None for _, probe in self._probes):
                return
            self._pump(TICK)
        for _, probe in self._probes:
            if probe.outcome is None:
                probe.give_up()

    def _keep_alive(self, count: int) -> list[Probe]:
        """Connections that had a request each; none if the server keeps none alive."""
        probes = [self._connect().send("GET") for _ in range(count)]
        until = time.monotonic() + PATIENCE
        while any(probe.outcome is None for probe in probes) and time.monotonic() < until:
            self._pump(TICK)
        if any(probe.outcome is not Outcome.SERVED for probe in probes):
            raise StartError(f"{self._server.name} does not answer before it is stopped")
        self._pump(0.05)
        if any(probe.ended for probe in probes):
            self._findings.keeps_alive = False
            return []
        return probes

    def _post(self, situation: str, probe: Probe) -> Probe:
        self._probes.append((situation, probe.send()))
        return probe

    def _frozen(self, child: Child, kept: list[Probe]) -> None:
        os.killpg(child.pid, signal.SIGSTOP)
        for _ in range(WAITING):
            self._post("backlog", self._connect())
            if kept:
                self._post("buffered", kept.pop())
        self._signal(child)
        os.killpg(child.pid, signal.SIGCONT)

    def _running(self, child: Child, kept: list[Probe]) -> None:
        for _ in range(WAITING):
            self._post("progress", self._connect())
        self._pump(0.03)
        idle = kept.pop() if kept else None
        later = list(AFTER)
        self._signal(child)
        refused = 0
        while (now := self._since_signal()) < GRACE and child.running and refused < REFUSALS:
            if idle is not None and idle.ended:
                self._findings.idle_closed.append(now)
                idle = None
            while kept and later and now >= later[0]:
                self._post(f"kept+{1000 * later.pop(0):.0f}", kept.pop())
            probe = self._post("new", self._connect())
            if probe.outcome is Outcome.REFUSED:
                refused += 1
                if refused == 1:
                    self._findings.refusing.append(now)
            self._pump(TICK)

    def _since_signal(self) -> float:
        return time.monotonic() - self._signalled

    def _signal(self, child: Child) -> None:
        os.kill(self._server.receiver(child), getattr(signal, self._server.signal))
        self._signalled = time.monotonic()

    def _await_end(self, child: Child) -> None:
        while child.running:
            if self._since_signal() > GRACE:
                self._findings.killed += 1
                os.killpg(child.pid, signal.SIGKILL)
                child.stop()
                return
            self._pump(0.005)
        self._findings.ended.append(self._since_signal())

    def _count(self) -> None:
        carried = set((self._directory / "carried").read_text().split())
        for situation, probe in self._probes:
            assert probe.outcome is not None
            unanswered = probe.outcome not in (Outcome.SERVED, Outcome.STATUS)
            mark = "!" if unanswered and probe.path in carried else ""
            self._findings.counts[situation][probe.outcome.value + mark] += 1


def examine(server: Server, rounds: int) -> Findings:
    """All rounds of one server. Raises StartError."""
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="stopping-") as name:
        directory = Path(name)
        server.prepare(directory)
        for _ in range(rounds):
            Round(server, directory, findings).run(frozen=True)
            Round(server, directory, findings).run(frozen=False)
    return findings


# --- tables ---------------------------------------------------------------------------------


def cell(counter: Counter[str]) -> str:
    """Outcomes with their counts, the most frequent first."""
    return ", ".join(f"{count} {name}" for name, count in counter.most_common()) or "-"


def _seconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({max(values):.2f})" if values else "-"


def render(found: dict[str, Findings], skipped: dict[str, str], command: str) -> str:
    """The report."""
    lines = ["# What a stopping server does", "", *environment(command).lines(), ""]
    lines += [f"- Skipped: {name} ({why})" for name, why in skipped.items()]
    lines += ["", "`!`: carried out all the same. Seconds: median (longest).", ""]
    lines += ["| server | idle closed after, s | refuses after, s | ended after, s | killed |"]
    lines += ["|---|---|---|---|--:|"]
    for name, findings in found.items():
        idle = _seconds(findings.idle_closed) if findings.keeps_alive else "keeps none"
        lines.append(
            f"| {name} | {idle} | {_seconds(findings.refusing)} | {_seconds(findings.ended)} |"
            f" {findings.killed} |"
        )
    for situation, meaning in SITUATIONS.items():
        lines += ["", f"## {meaning}", "", "| server | outcomes |", "|---|---|"]
        lines += [f"| {name} | {cell(f.counts[situation])} |" for name, f in found.items()]
    return "\n".join(lines) + "\n"


def read(results: Path) -> dict[str, Findings]:
    """What an earlier run found."""
    document = json.loads((results / "stopping.json").read_text())
    found = {name: Findings(**fields) for name, fields in document.items()}
    for findings in found.values():
        findings.counts = {key: Counter(counts) for key, counts in findings.counts.items()}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.stopping")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="servers whose names have it")
    parser.add_argument("--at-once", type=int, default=3, help="servers examined at the same time")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--add", action="store_true", help="to the results that are there")
    arguments = parser.parse_args()
    command = " ".join(["python -m bench.stopping", *sys.argv[1:]])
    chosen = [
        server
        for server in SERVERS
        if not arguments.only or any(text in server.name for text in arguments.only)
    ]
    skipped = {server.name: f"no {server.missing}" for server in chosen if server.missing}
    found = read(arguments.results) if arguments.add else {}
    with ThreadPoolExecutor(arguments.at_once) as pool:
        futures = {
            server.name: pool.submit(examine, server, arguments.rounds)
            for server in chosen
            if not server.missing
        }
        for name, future in futures.items():
            try:
                found[name] = future.result()
                print(f"{name}: done", file=sys.stderr)
            except StartError as error:
                skipped[name] = "did not start"
                print(f"{name}: {error}", file=sys.stderr)
    report = render(found, skipped, command)
    print(report)
    with contextlib.suppress(FileExistsError):
        arguments.results.mkdir(parents=True)
    (arguments.results / "stopping.md").write_text(report)
    document = {
        name: {**asdict(replace(findings, counts={})), "counts": findings.counts}
        for name, findings in found.items()
    }
    (arguments.results / "stopping.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
