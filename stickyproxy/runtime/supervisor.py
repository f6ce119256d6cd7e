"""A proxy of several processes: the main one, which supervises, and workers, which forward.

    Supervisor   has configuration, providers, admin page and listeners; tells all workers the same
    Seat         one of N places for a worker: its share of the listeners, and who sits there now

The supervisor carries no traffic. Providers run in it alone, and whole snapshots go down to the
workers, so all of them agree on pins and hashes; what need not agree, as whose turn it is in a
round robin, starts at random in each. Listeners are opened here and inherited: a worker's
connections that wait to be accepted outlive it. While nobody sits on a seat, the others accept
for it; a successor of whoever died takes over. Workers are new interpreters, not forks of this
one, which has threads.
"""

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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stickyproxy.admin import pages as admin
from stickyproxy.base.errors import StickyproxyError
from stickyproxy.config.load import Config
from stickyproxy.control import report
from stickyproxy.control.registry import Registry
from stickyproxy.control.reload import ConfigFile, Sources
from stickyproxy.control.server import SideServer
from stickyproxy.dataplane.downstream.listeners import Listeners
from stickyproxy.model.service import EndpointKey, EndpointSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.routing.endpoint import EndpointState
from stickyproxy.routing.table import RoutingTable
from stickyproxy.runtime.app import App, on_stop_signals, plane_settings
from stickyproxy.runtime.channel import (
    BEATS,
    Accept,
    Accepting,
    Applied,
    Begin,
    Channel,
    Down,
    Drain,
    Leaving,
    Publish,
    ReopenLog,
    encoded,
)
from stickyproxy.runtime.data_plane import open_access_log

log = logging.getLogger("stickyproxy")

STEADY_SECONDS = 10.0
"""A worker that lived longer than this was well: its successor starts at once."""
BACKOFF = (0.5, 10.0)
"""Seconds before the successor of one that died at once, like the one before it: the first time,
and at most."""
STRAGGLER_SECONDS = 5.0
"""How long a worker may take to do as it is told, beyond any grace period."""


def from_file(path: Path) -> App | Supervisor:
    """The proxy that a configuration file asks for; one worker needs no supervisor. Raises
    ConfigError, ListenError."""
    file = ConfigFile(path)
    settings = file.load()
    workers = settings.proxy.workers or usable_cores()
    return App(settings, file) if workers == 1 else Supervisor(settings, file, workers)


def usable_cores() -> int:
    """Cores that this process may run on, by its CPU mask and the limit of its container."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file outside of containers; no limit: "max"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


# --- one worker -----------------------------------------------------------------------------


class Seat:
    """Keeps a worker in its place until there is something to drain."""

    def __init__(self, begin: Begin, changed: Callable[[], None]) -> None:
        """``changed`` is called when ``accepting`` changes."""
        self.number = begin.number
        self.accepting = False
        """True while a worker sits here that accepts connections."""
        self.down: frozenset[EndpointKey] = frozenset()
        """The endpoints that this worker cannot connect to."""
        self._begin = begin
        self._changed = changed
        self._process: Process | None = None
        self._orders: dict[str, bytes] = {}
        """What a worker has to know, in this order; a later order of the same key replaces it."""
        self._news = asyncio.Event()
        self._unconfirmed = 0
        self._in_step = asyncio.Event()
        self._draining = asyncio.Event()
        self._early_deaths = 0
        self._missed = -math.inf
        """Heartbeats that were left out; none counts before the first sign of life."""

    def __repr__(self) -> str:
        who = "nobody" if self._process is None else f"process {self._process.pid}"
        return f"<Seat {self.number} {who}{', accepting' if self.accepting else ''}>"

    def tell(self, key: str, order: bytes) -> None:
        """Let every worker that sits here know."""
        if self._orders.get(key) != order:
            self._orders[key] = order
            self._in_step.clear()
            self._news.set()

    def drain(self, grace: float) -> None:
        """Let requests under way finish for so long, and seat nobody any more."""
        self._draining.set()
        self.tell("drain", encoded(Drain(grace)))

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
        """Seat worker after worker; returns when drained."""
        while not self._draining.is_set():
            seated = time.monotonic()
            try:
                how = await self._seat_one()
            except OSError as error:
                how = f"cannot be started: {error.strerror or error}"
            except Exception:
                log.exception("worker %d is lost: this is a bug in stickyproxy", self.number)
                how = "is lost"
            await self._mourn(how, time.monotonic() - seated)

    async def _mourn(self, how: str, lived: float) -> None:
        """Tell of a death; pause if it is one of many."""
        if self._draining.is_set():
            if how != _WELL:
                log.error("worker %d %s while it drained", self.number, how)
            return
        self._early_deaths = self._early_deaths + 1 if lived < STEADY_SECONDS else 0
        if self._early_deaths < 2:
            log.error("worker %d %s; another takes its place", self.number, how)
            return
        first, most = BACKOFF
        pause = min(most, first * 2 ** min(self._early_deaths - 2, 16))
        log.error("worker %d %s; another takes its place in %g s", self.number, how, pause)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._draining.wait()

    async def _seat_one(self) -> str:
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
            self.kill()  # it has ended, unless something is wrong with us
            for task in conversation:
                task.cancel()
            await asyncio.gather(*conversation, return_exceptions=True)
            channel.close()
            self._process = None
            self.down = frozenset()
            self._in_step.set()
            self._set_accepting(False)

    async def _start(self) -> tuple[Process, Channel]:
        """A new process and the channel to it. Raises OSError."""
        ours, theirs = socket.socketpair()
        inherited = {fd for share in self._begin.shares for fd in share} | {theirs.fileno()}
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "stickyproxy.runtime.worker", str(theirs.fileno())),
                stdin=DEVNULL,
                # Modules from where we have them, and not from the folder we were started in.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                pass_fds=tuple(inherited),
                start_new_session=True,  # Ctrl-C is for us; we tell the workers
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
                case Down(endpoints):
                    self.down = endpoints

    async def _watch(self) -> None:
        """Kill the worker when it is frozen: connections to it would wait for ever."""
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
                log.info("worker %d is ready: process %d", self.number, self._process.pid)
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


# --- all of them ----------------------------------------------------------------------------


class _NoConnections:
    """Endpoints of a table that forwards nothing."""

    def pool(self, _address: str) -> _NoConnections:
        """It makes none."""
        return self

    def close(self) -> None:
        """It has none."""


class _ShownTable:
    """The routing table that the admin page shows; the workers' own ones are like it."""

    def __init__(self) -> None:
        self.table = RoutingTable({})


class Supervisor:
    """A proxy in several processes. Used like ``App``."""

    def __init__(self, settings: Config, file: ConfigFile | None, workers: int) -> None:
        """Raises ListenError if the access log cannot be opened."""
        log_file = open_access_log(settings.access_log)  # better said once than by every worker
        if log_file is not None:
            log_file.close()
        self._grace_period = settings.proxy.grace_period
        shown = _ShownTable()
        self.registry = Registry(shown, _NoConnections(), settings.proxy.pin_secret)
        self._sources = Sources(settings, file, self._publish, self._in_step)
        self._admin = SideServer(
            admin.make_app(self.registry, shown, self._sources.troubles, self._state_of)
        )
        self._listeners = Listeners()
        self._workers = workers
        self._seats: list[Seat] = []
        self._filling: list[asyncio.Task[None]] = []
        self._orders: dict[str, bytes] = {}
        """What all workers have to know."""
        self._log_opened = 0
        self._all_accept = asyncio.Event()
        self._stop = asyncio.Event()

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._sources.config

    async def start(self) -> list[str]:
        """Publish the services, open the listeners and start the workers; returns the addresses.
        Raises ListenError."""
        self._sources.start()
        try:
            if self.config.admin is not None:
                await self._admin.start(self.config.admin)
            await self._sources.ready()
            self._listeners = await Listeners.open(
                (each.address for each in self.config.listeners), self._workers
            )
        except StickyproxyError:
            await self.stop(grace=0)
            raise
        self._start_workers()
        self._sources.watch()
        await _first_of(self._all_accept, self._stop)
        return self._listeners.names

    async def stop(self, grace: float | None = None) -> None:
        """Stop accepting, let requests under way finish for ``grace`` seconds (the configured
        grace period by default), then end."""
        if grace is None:
            grace = self._grace_period
        self._listeners.close()
        for seat in self._seats:
            seat.drain(grace)
        if self._filling:
            _, stragglers = await asyncio.wait(self._filling, timeout=grace + STRAGGLER_SECONDS)
            if stragglers:
                log.error("%d workers do not end and are killed", len(stragglers))
            for seat in self._seats:
                seat.kill()
            await asyncio.gather(*self._filling)
        await self._sources.stop()
        await self._admin.stop()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT end ``run_until_signalled``, a second one the processes; SIGHUP
        reloads."""
        on_stop_signals(self._stop, self._end_at_once)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup)

    async def run_until_signalled(self) -> None:
        """Serve until a signal, then stop gracefully."""
        await self._stop.wait()
        log.info("stopping: requests under way get %g s", self._grace_period)
        await self.stop()

    def _start_workers(self) -> None:
        plane = plane_settings(self.config)
        shares = tuple(tuple(s.fileno() for s in share) for share in self._listeners.shares)
        level = log.getEffectiveLevel()
        for number in range(1, self._workers + 1):
            begin = Begin(number, level, plane.proxy, plane.access_log, plane.info, shares)
            seat = Seat(begin, self._share_out)
            self._seats.append(seat)
            for key, order in self._orders.items():
                seat.tell(key, order)
        self._share_out()
        for seat in self._seats:
            task = asyncio.create_task(seat.keep_filled(), name=f"worker {seat.number}")
            self._filling.append(task)

    def _share_out(self) -> None:
        """Let everybody accept on its own share of the listeners, and those who work also on the
        shares of those who do not."""
        working = [seat for seat in self._seats if seat.accepting]
        vacant = [share for share, seat in enumerate(self._seats) if not seat.accepting]
        for share, seat in enumerate(self._seats):
            extra = vacant[working.index(seat) :: len(working)] if seat.accepting else []
            seat.tell("accept", encoded(Accept((share, *extra))))
        if not vacant:
            self._all_accept.set()

    def _publish(self, snapshot: Snapshot) -> None:
        self.registry.publish(snapshot)
        self._tell(f"publish {snapshot.provider}", encoded(Publish(snapshot)))

    def _tell(self, key: str, order: bytes) -> None:
        self._orders[key] = order
        for seat in self._seats:
            seat.tell(key, order)

    def _state_of(self, service: str, endpoint: EndpointSpec) -> str:
        """The state of an endpoint as the workers see it."""
        working = [seat for seat in self._seats if seat.accepting]
        down = sum((service, endpoint.id) in seat.down for seat in working)
        if not down:
            return report.declared_state(service, endpoint)
        if down == len(working):
            return EndpointState.DOWN.value
        return f"{EndpointState.DOWN.value} in {down} of {len(working)} workers"

    async def _in_step(self) -> None:
        """Wait until all workers have done what they were told."""
        try:
            async with asyncio.timeout(STRAGGLER_SECONDS):
                for seat in self._seats:
                    await seat.in_step()
        except TimeoutError:
            log.warning("some workers are slow to follow")

    def _on_hangup(self) -> None:
        self._log_opened += 1
        self._tell("log", encoded(ReopenLog(self._log_opened)))
        self._sources.reload_soon()

    def _end_at_once(self, status: int) -> None:
        for seat in self._seats:
            seat.kill()
        os._exit(status)


async def _first_of(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
