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
import errno
import itertools
import json
import os
import select
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
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from bench.environment import environment
from bench.processes import Child, StartError, _all_stats, free_port, tree
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
    CUT = "cut"
    """It ended in the middle of the answer."""
    SILENT = "silent"
    """No answer in time, or no connection."""

    @property
    def good(self) -> bool:
        """Nothing is lost, or any request may be sent again without asking."""
        return self in (Outcome.SERVED, Outcome.REFUSED)


class Probe:
    """One connection and the latest request on it."""

    def __init__(self, port: int, ids: Iterator[int]) -> None:
        self._ids = ids
        self.path = ""
        self._error: Outcome | None = None
        self.socket = socket.socket()
        self.socket.settimeout(1.0)
        try:
            self.socket.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            self._error = Outcome.REFUSED
        except ConnectionResetError:
            self._error = Outcome.RESET
        except OSError:
            self._error = Outcome.SILENT

    def send(self, method: str = "POST") -> Probe:
        """Send a request, in one piece."""
        self.path = f"/{next(self._ids)}"
        body = b"a=1" if method == "POST" else b""
        head = f"{method} {self.path} HTTP/1.1\r\nHost: lab\r\nContent-Length: {len(body)}\r\n\r\n"
        if self._error is None:
            try:
                self.socket.sendall(head.encode() + body)
            except BrokenPipeError:  # it had been reset before
                self._error = Outcome.CROSSED
            except ConnectionResetError:
                self._error = Outcome.RESET
        return self

    @property
    def refused(self) -> bool:
        """Whether nobody listened."""
        return self._error is Outcome.REFUSED

    @property
    def ended(self) -> bool:
        """Whether the server has closed the idle connection."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def outcome(self) -> Outcome:
        """Wait for the answer."""
        if self._error is not None:
            return self._error
        got = b""
        self.socket.settimeout(PATIENCE)
        try:
            while not _is_whole(got):
                data = self.socket.recv(65536)
                if not data:
                    return Outcome.CUT if got else self._why_closed()
                got += data
        except TimeoutError:
            return Outcome.SILENT
        except OSError:
            return Outcome.CUT if got else Outcome.RESET
        return Outcome.SERVED if got.startswith(b"HTTP/1.1 200") else Outcome.STATUS

    def _why_closed(self) -> Outcome:
        """After a FIN: was the request acknowledged before, or answered with a RST?"""
        poll = select.poll()
        poll.register(self.socket, 0)
        for _ in range(10):
            if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE:
                return Outcome.CROSSED
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            if not struct.unpack_from("I", info, _UNACKED)[0]:
                break
            poll.poll(20)  # neither acknowledged nor reset yet
        if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return Outcome.CROSSED
        return Outcome.CLOSED

    def close(self) -> None:
        self.socket.close()


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

    def lost(self, situation: str) -> int:
        return sum(
            count for name, count in self.counts[situation].items() if name[-1] == "!"
        )


class Round:
    """One server, started, stopped and asked."""

    def __init__(self, server: Server, directory: Path, findings: Findings) -> None:
        self.port = free_port()
        self._server = server
        self._directory = directory
        self._findings = findings
        self._ids = itertools.count(1)
        self._probes: list[tuple[str, Probe]] = []

    def run(self, *, frozen: bool) -> None:
        """Raises StartError."""
        (self._directory / "carried").write_bytes(b"")
        with self._server.start(self.port, self._directory) as child:
            kept = self._keep_alive(2 * len(AFTER) + WAITING)
            if frozen:
                self._frozen(child, kept)
            else:
                self._running(child, kept)
                self._await_end(child)
            self._count()

    def _keep_alive(self, count: int) -> list[Probe]:
        """Connections that had a request each; none if the server keeps none alive."""
        probes = [Probe(self.port, self._ids).send("GET") for _ in range(count)]
        for probe in probes:
            if probe.outcome() is not Outcome.SERVED:
                raise StartError(f"{self._server.name} does not answer before it is stopped")
        time.sleep(0.05)
        if any(probe.ended for probe in probes):
            self._findings.keeps_alive = False
            return []
        return probes

    def _note(self, situation: str, probe: Probe) -> None:
        self._probes.append((situation, probe))

    def _frozen(self, child: Child, kept: list[Probe]) -> None:
        os.killpg(child.pid, signal.SIGSTOP)
        for _ in range(WAITING):
            self._note("backlog", Probe(self.port, self._ids).send())
            if kept:
                self._note("buffered", kept.pop().send())
        self._signal(child)
        os.killpg(child.pid, signal.SIGCONT)

    def _running(self, child: Child, kept: list[Probe]) -> None:
        for _ in range(WAITING):
            self._note("progress", Probe(self.port, self._ids).send())
        time.sleep(0.03)
        idle = kept.pop() if kept else None
        later = list(AFTER)
        self._signal(child)
        began = time.monotonic()
        refused = 0
        while (now := time.monotonic() - began) < GRACE and child.running and refused < REFUSALS:
            if idle is not None and idle.ended:
                self._findings.idle_closed.append(now)
                idle = None
            while kept and later and now >= later[0]:
                self._note(f"kept+{1000 * later.pop(0):.0f}", kept.pop().send())
            probe = Probe(self.port, self._ids).send()
            self._note("new", probe)
            if probe.refused:
                refused += 1
                if refused == 1:
                    self._findings.refusing.append(now)
            time.sleep(TICK)

    def _signal(self, child: Child) -> None:
        pid = child.pid
        if self._server.first_child:
            pid = tree(child.pid, _all_stats())[1].pid
        os.kill(pid, getattr(signal, self._server.signal))
        self._signalled = time.monotonic()

    def _await_end(self, child: Child) -> None:
        while child.running:
            if time.monotonic() - self._signalled > GRACE:
                self._findings.killed += 1
                os.killpg(child.pid, signal.SIGKILL)
                child.stop()
                return
            time.sleep(0.005)
        self._findings.ended.append(time.monotonic() - self._signalled)

    def _count(self) -> None:
        outcomes = [(situation, probe, probe.outcome()) for situation, probe in self._probes]
        carried = set((self._directory / "carried").read_text().split())
        for situation, probe, outcome in outcomes:
            unanswered = outcome not in (Outcome.SERVED, Outcome.STATUS)
            mark = "!" if unanswered and probe.path in carried else ""
            self._findings.counts[situation][outcome.value + mark] += 1
            probe.close()


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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.stopping")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="servers whose names have it")
    parser.add_argument("--at-once", type=int, default=3, help="servers examined at the same time")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    command = " ".join(["python -m bench.stopping", *sys.argv[1:]])
    chosen = [
        server
        for server in SERVERS
        if not arguments.only or any(text in server.name for text in arguments.only)
    ]
    skipped = {server.name: f"no {server.missing}" for server in chosen if server.missing}
    found: dict[str, Findings] = {}
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
    document = {name: {"counts": f.counts, "ended": f.ended, "refusing": f.refusing,
                       "idle_closed": f.idle_closed, "killed": f.killed} for name, f in found.items()}
    (arguments.results / "stopping.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
