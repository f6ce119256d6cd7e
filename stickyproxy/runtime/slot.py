"""A place for a worker process: keeps a worker running there, tells it what it has to know, and
notes what it reports."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from stickyproxy.base.backoff import Backoff
from stickyproxy.dataplane.counters import Moves
from stickyproxy.model.events import Event, EventKind, tell
from stickyproxy.model.health import Outage
from stickyproxy.model.service import EndpointKey
from stickyproxy.routing.sessions import Remains
from stickyproxy.runtime.channel import (
    BEATS,
    Accepting,
    Applied,
    Begin,
    Channel,
    Down,
    Drain,
    Happened,
    Leaving,
    Left,
    Moved,
    encoded,
)

log = logging.getLogger("stickyproxy")

STEADY_SECONDS = 10.0
"""A worker that lived at least this long was well: its successor starts at once."""
BACKOFF = (0.5, 10.0)
"""Seconds before the successor of one that died early, like the one before it: the first time, and
at most."""


class WorkerSlot:
    """Keeps a worker running until it is to drain."""

    def __init__(
        self,
        begin: Begin,
        changed: Callable[[], None],
        told: Callable[[int, Sequence[Event]], None] = lambda *_: None,
        moved: Callable[[Moves], None] = lambda _: None,
        gone: Callable[[int], None] = lambda _: None,
    ) -> None:
        """``changed`` is called when ``accepting`` changes; ``told`` and ``moved`` with what its
        workers tell of events and sessions, ``gone`` when one has ended."""
        self._told, self._moved, self._gone = told, moved, gone
        self.number = begin.number
        self.accepting = False
        """True while a worker runs here that accepts connections."""
        self.down: Mapping[EndpointKey, Outage] = {}
        """The endpoints that this worker has ejected, and why."""
        self.silent: frozenset[EndpointKey] = frozenset()
        """Those that it has never reached, if it is the one that tries."""
        self.lost = 0
        """Workers that ended here before they were to."""
        self.left: Mapping[EndpointKey, Remains] = {}
        """What endpoints that are to become empty still have here."""
        self._begin = begin
        self._changed = changed
        self._process: Process | None = None
        self._orders: dict[str, bytes] = {}
        """What a worker has to know, in this order; a later order of the same key replaces it."""
        self._news = asyncio.Event()
        self._unconfirmed = 0
        self._in_step = asyncio.Event()
        self._draining = asyncio.Event()
        self._died_early = False
        self._backoff = Backoff(*BACKOFF)
        self._missed = -math.inf
        """Heartbeats that were left out; none counts before the first sign of life."""

    def __repr__(self) -> str:
        who = "no process" if self._process is None else f"process {self._process.pid}"
        return f"<WorkerSlot {self.number} {who}{', accepting' if self.accepting else ''}>"

    def tell(self, key: str, order: bytes) -> None:
        """Let every worker that runs here know."""
        if self._orders.get(key) != order:
            self._orders[key] = order
            self._in_step.clear()
            self._news.set()

    def drain(self, grace: float, patience: float = 0.0) -> None:
        """Let requests under way finish for up to ``grace`` seconds, and start no other worker.
        ``patience``: see ``Drain``."""
        self._draining.set()
        self.tell("drain", encoded(Drain(grace, patience)))

    def kill(self) -> None:
        """End its worker at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def in_step(self) -> None:
        """Wait until a worker that accepts connections has done all it was told."""
        if self.accepting:
            await self._in_step.wait()

    async def keep_filled(self) -> None:
        """Run one worker after another; returns when drained."""
        while not self._draining.is_set():
            started = time.monotonic()
            try:
                how = await self._run_one()
            except OSError as error:
                how = f"cannot be started: {error.strerror or error}"
            except Exception:
                log.exception("worker %d is lost: this is a bug in stickyproxy", self.number)
                how = "is lost"
            if not self._draining.is_set():
                self.lost += 1
                await self._pause(self._report_exit(how, time.monotonic() - started))
            elif how != _WELL:
                log.error("worker %d %s while it drained", self.number, how)

    def _report_exit(self, how: str, lived: float) -> float:
        """Log that a worker ended after that many seconds; returns how many to wait before the next
        one starts, which is none unless it is one of several that died early."""
        again = self._died_early
        self._died_early = lived < STEADY_SECONDS
        if not (again and self._died_early):
            self._backoff.reset()
            self._tell_loss(how, "another takes its place")
            return 0.0
        pause = self._backoff.next()
        self._tell_loss(how, f"another takes its place in {pause:g} s")
        return pause

    def _tell_loss(self, how: str, then: str) -> None:
        text = f"worker {self.number} {how}; {then}"
        tell(EventKind.WORKER_LOST, text, worker=self.number, reason=how)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless there is something to drain."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._draining.wait()

    async def _run_one(self) -> str:
        """Start a worker and work with it; returns how it ended."""
        process, channel = await self._start()
        self._process = process
        conversation = [
            asyncio.create_task(self._talk(channel), name=f"to worker {self.number}"),
            asyncio.create_task(self._listen(channel), name=f"from worker {self.number}"),
            asyncio.create_task(self._watch(), name=f"watch on worker {self.number}"),
        ]
        try:
            return _ending(await process.wait())
        finally:
            self.kill()  # it has exited, unless something went wrong here
            for task in conversation:
                task.cancel()
            await asyncio.gather(*conversation, return_exceptions=True)
            channel.close()
            self._process = None
            self.down, self.silent, self.left = {}, frozenset(), {}
            self._gone(self.number)
            self._in_step.set()
            self._set_accepting(False)

    async def _start(self) -> tuple[Process, Channel]:
        """A new process and the channel to it. Raises OSError."""
        ours, theirs = socket.socketpair()
        inherited = {each.descriptor for share in self._begin.shares for each in share}
        inherited.update(self._begin.memory or ())
        if self._begin.commons is not None:
            inherited.add(self._begin.commons)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "stickyproxy.runtime.worker", str(theirs.fileno())),
                stdin=DEVNULL,
                # Modules from where we have them, and not from the folder we were started in.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                pass_fds=(*inherited, theirs.fileno()),
                start_new_session=True,  # Ctrl-C is for us; workers are told by us
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return process, await Channel.over(ours)

    async def _talk(self, channel: Channel) -> None:
        """Tell it what it does not know yet."""
        channel.send(self._begin)
        self._unconfirmed = 0
        told: dict[str, bytes] = {}
        while True:
            self._news.clear()
            for key, order in self._orders.items():
                if told.get(key) != order:
                    told[key] = order
                    channel.write(order)
                    self._unconfirmed += 1
            self._note_step()
            await channel.flush()
            await self._news.wait()

    async def _listen(self, channel: Channel) -> None:
        """Take note of what it says."""
        while (message := await channel.receive()) is not None:
            self._missed = 0
            match message:
                case Applied():
                    self._unconfirmed -= 1
                    self._note_step()
                case Accepting():
                    self._set_accepting(True)
                case Leaving():
                    self._set_accepting(False)
                case Down(endpoints, silent):
                    self.down, self.silent = endpoints, silent
                case Left(endpoints):
                    self.left = endpoints
                case Moved(moves):
                    self._moved(moves)
                case Happened(events):
                    self._told(self.number, events)

    async def _watch(self) -> None:
        """Kill the worker when it is frozen: its connections would wait for ever."""
        self._missed = -math.inf
        timeout = self._begin.proxy.worker_timeout
        while self._missed < BEATS:
            await asyncio.sleep(timeout / BEATS)  # counted: this process may have slept too
            self._missed += 1
        log.error("worker %d has shown no sign of life for %g s: killed", self.number, timeout)
        self.kill()

    def _note_step(self) -> None:
        if self._unconfirmed == 0 and not self._news.is_set():
            self._in_step.set()

    def _set_accepting(self, accepting: bool) -> None:
        if self.accepting != accepting:
            self.accepting = accepting
            if accepting and self._process is not None:
                tell(
                    EventKind.WORKER_READY,
                    f"worker {self.number} is ready: process {self._process.pid}",
                    worker=self.number,
                )
            self._changed()


_WELL = "ended"


def _ending(status: int) -> str:
    if status == 0:
        return _WELL
    if status > 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
