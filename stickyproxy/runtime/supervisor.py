"""A proxy of several processes: the main one, which supervises, and workers, which forward.

    Supervisor   has configuration, providers, admin page and listeners; tells all workers the same
    WorkerSlot   (``slot``) one of N places for a worker

The supervisor carries no traffic. Providers run in it alone, and whole snapshots go down to the
workers, so all of them agree on pins and hashes; what need not agree, such as whose turn it is in a
round robin, starts at random in each. Listeners are opened here and inherited, so that connections
waiting to be accepted outlive a worker. While a slot is empty, the other workers accept for it,
until its next worker takes over. Workers are new interpreters, not forks of this one, which has
threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from stickyproxy.admin.fleet import report_of
from stickyproxy.admin.view import ProxyView, Workers
from stickyproxy.base import signals
from stickyproxy.base.commons import Commons
from stickyproxy.base.errors import StickyproxyError
from stickyproxy.config.settings import Config
from stickyproxy.control import effective, report
from stickyproxy.control.checks import Checker
from stickyproxy.control.health import facts_of_checks
from stickyproxy.control.questions import Questions
from stickyproxy.control.registry import NoConnections, Registry
from stickyproxy.control.reload import ConfigFile
from stickyproxy.dataplane.counters import Memory, Move, Moves, counts_of
from stickyproxy.dataplane.descriptors import Descriptors
from stickyproxy.dataplane.downstream.listeners import Listeners
from stickyproxy.dataplane.turns import Turns
from stickyproxy.dataplane.upstream.asking import Asker
from stickyproxy.model.health import Outage
from stickyproxy.model.metrics import Counts
from stickyproxy.model.service import EndpointKey, EndpointSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.routing.endpoint import EndpointState
from stickyproxy.routing.sessions import Remains, merged
from stickyproxy.routing.table import RoutingTable
from stickyproxy.runtime.app import App, admin_server, explainer, figures, plane_settings
from stickyproxy.runtime.channel import (
    Accept,
    AddUp,
    Begin,
    InheritedListener,
    Publish,
    ReopenLog,
    Unhealthy,
    encoded,
)
from stickyproxy.runtime.data_plane import make_upstreams, open_access_log
from stickyproxy.runtime.slot import WorkerSlot
from stickyproxy.runtime.sources import Sources, waiting_for
from stickyproxy.runtime.succession import Succession, delivered, first_of
from stickyproxy.runtime.telling import OfWorkers, Telling

log = logging.getLogger("stickyproxy")

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


COUNT_SECONDS = 1.0
"""How long a worker may take to add up what it has counted."""


class _ShownTable:
    """The routing table that the admin page shows; each worker has one like it."""

    def __init__(self) -> None:
        self.table = RoutingTable({})


class Supervisor:
    """A proxy in several processes, with the same interface as ``App``."""

    def __init__(self, settings: Config, file: ConfigFile | None, workers: int) -> None:
        """Raises ListenError if the access log cannot be opened."""
        log_file = open_access_log(
            settings.access_log
        )  # an error is reported once, not by every worker
        if log_file is not None:
            log_file.close()
        self._grace_period = settings.proxy.grace_period
        shown = self._shown = _ShownTable()
        plane = plane_settings(settings)
        self._commons = Commons(workers, number=0)
        """What is limited in all of them together."""
        self.registry = Registry(
            shown,
            NoConnections(),
            settings.proxy.pin_secret,
            awaits=plane.providers,
            has_tls=plane.has_tls,
            clear_only=plane.clear_only,
            rebuilt=self._on_new_table,
            commons=self._commons,
        )
        self._upstreams = make_upstreams(plane, Turns(), Descriptors())
        self._checker = Checker(partial(Asker, self._upstreams), self._on_checks)
        self._sources = Sources(
            settings,
            file,
            self._publish,
            self._in_step,
            review=self.registry.review,
            report=self._report,
        )
        counting = settings.admin is not None
        self._memories = [Memory() for _ in range(workers)] if counting else []
        """One for each slot, which all its workers go on with; none: nobody asks."""
        counts = self._counts if counting else None
        view = self._view = ProxyView(
            registry=self.registry,
            proxy=shown,
            troubles=self._sources.troubles,
            confirmed=self._sources.confirmed,
            unready=self._unready,
            questions=Questions(self._table_of_workers, explainer(settings)),
            workers=self._count_workers,
            state_of=self._state_of,
            outage_of=self._outage_of,
            remains_of=self._remains_of,
            checks=self._checker.problems,
            config=lambda: effective.pieces(effective.in_force(settings, self.config)),
            figures=figures(settings, counts),
        )
        self._moves: Counter[Move] = Counter()
        """Sessions that have moved, of which nobody was told yet."""
        self._events = Telling(view.stream.put, self._take_moves)
        self._of_workers = OfWorkers(view.stream.put)
        self._admin = admin_server(settings, view, self._sources.orders, counts)
        self.admin_address = ""
        """Of the admin listener, once it listens."""
        self._listeners = Listeners()
        self._succession = Succession(settings)
        self._workers = workers
        self._slots: list[WorkerSlot] = []
        self._filling: list[asyncio.Task[None]] = []
        self._orders: dict[str, bytes] = {"checks": encoded(Unhealthy(frozenset()))}
        """What all workers need to know."""
        self._log_opened = 0
        self._counts_asked = 0
        self._all_accept = asyncio.Event()
        self._stop = asyncio.Event()

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._sources.config

    async def start(self) -> list[str]:
        """Publish the services, open the listeners and start the workers; returns the addresses.
        Raises ListenError."""
        self._upstreams.start()
        self._events.start()
        self._sources.start()
        try:
            await self._succession.begin(self._workers)
            if self.config.admin is not None:
                sockets = await self._succession.admin_sockets()
                self.admin_address = await self._admin.start(self.config.admin, sockets)
            self._succession.check(ready=await self._sources.ready())
            self._listeners = await self._succession.open()
        except StickyproxyError:
            await self.stop(grace=0)
            raise
        self._start_workers()
        self._sources.watch()
        names = self._listeners.names
        await first_of(self._all_accept, self._stop)
        if self._all_accept.is_set():
            self._succession.accepting(self._listeners)
        return names

    async def stop(self, grace: float | None = None) -> None:
        """Stop accepting, let requests under way finish for ``grace`` seconds (the configured
        grace period by default), then end."""
        if grace is None:
            grace = self._grace_period
        ports = await self._succession.end(self._listeners)
        if self._succession.succeeded:
            await self._admin.stop()  # it is our successor who is asked now
        began = time.monotonic()
        for slot in self._slots:
            slot.drain(grace, self._succession.patience)
        if self._filling:
            _, stragglers = await asyncio.wait(self._filling, timeout=grace + STRAGGLER_SECONDS)
            if stragglers:
                log.error("%d workers did not end in time and are killed", len(stragglers))
            for slot in self._slots:
                slot.kill()
            await asyncio.gather(*self._filling)
        await delivered(ports, grace - (time.monotonic() - began))
        await self._sources.stop()
        await self._checker.stop()
        await self._events.stop()
        self._upstreams.close()
        await self._admin.stop()
        while self._memories:
            self._memories.pop().close()
        self._commons.close()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT end ``run_until_signalled``, a second one the processes; SIGHUP
        reloads."""
        signals.on_stop(self._stop, self._end_at_once)
        signals.on_hangup(self._on_hangup)

    async def run_until_signalled(self) -> None:
        """Serve until a signal, or until another process has taken over, then stop gracefully.
        Raises ListenError if the listeners are lost."""
        await self._succession.until_over(self._stop)
        log.info("stopping: requests under way get %g s", self._grace_period)
        await self.stop()

    def _start_workers(self) -> None:
        plane = plane_settings(self.config)
        shares = tuple(
            tuple(InheritedListener(each.spec, each.sock.fileno()) for each in share)
            for share in self._listeners.shares
        )
        level = log.getEffectiveLevel()
        for number in range(1, self._workers + 1):
            begin = Begin(
                number,
                level,
                plane.proxy,
                plane.access_log,
                plane.info,
                plane.providers,
                shares,
                self._memories[number - 1].descriptors if self._memories else None,
                self.config.log.format,
                self._commons.descriptor,
                self._workers,
            )
            slot = WorkerSlot(
                begin,
                self._share_out,
                self._of_workers.told,
                self._moves.update,
                self._on_worker_gone,
            )
            self._slots.append(slot)
            for key, order in self._orders.items():
                slot.tell(key, order)
        self._share_out()
        for slot in self._slots:
            task = asyncio.create_task(slot.keep_filled(), name=f"worker {slot.number}")
            self._filling.append(task)

    def _on_worker_gone(self, number: int) -> None:
        self._of_workers.gone(number)
        self._commons.worker_ended(number)

    def _share_out(self) -> None:
        """Let each worker accept on its own shares of the listeners, and those that are running
        also on the shares of those that are not. A worker has one share, or several if more sockets
        were taken over than there are workers."""
        shares = range(len(self._listeners.shares))
        working = [slot for slot in self._slots if slot.accepting]
        vacant = [share for share in shares if not self._slots[share % self._workers].accepting]
        for number, slot in enumerate(self._slots):
            extra = vacant[working.index(slot) :: len(working)] if slot.accepting else []
            slot.tell("accept", encoded(Accept((*shares[number :: self._workers], *extra))))
        if not vacant:
            self._all_accept.set()

    def _publish(self, snapshot: Snapshot) -> None:
        self.registry.publish(snapshot)
        self._tell(f"publish {snapshot.provider}", encoded(Publish(snapshot)))

    def _on_new_table(self) -> None:
        self._checker.use(self.registry.services())
        self._show_checks(frozenset(self._checker.outages))

    def _show_checks(self, unhealthy: frozenset[EndpointKey]) -> None:
        table = self._shown.table
        table.note_all(facts_of_checks(table, unhealthy))

    def _on_checks(self) -> None:
        unhealthy = frozenset(self._checker.outages)
        self._show_checks(unhealthy)
        self._tell("checks", encoded(Unhealthy(unhealthy)))

    def _tell(self, key: str, order: bytes) -> None:
        self._orders[key] = order
        for slot in self._slots:
            slot.tell(key, order)

    def _unready(self) -> str:
        """Why clients had better go elsewhere; empty: they are welcome."""
        if self._stop.is_set():
            return "it is stopping"
        if reason := waiting_for(self.registry.awaited, self._sources.troubles()):
            return reason
        return (
            "" if any(slot.accepting for slot in self._slots) else "no worker accepts connections"
        )

    def _state_of(self, service: str, endpoint: EndpointSpec) -> str:
        """The state of an endpoint as the workers see it."""
        if endpoint.admin_state == "maintenance":
            return report.declared_state(service, endpoint)
        if (service, endpoint.id) in self._checker.outages:
            return EndpointState.DOWN.value
        working = [slot for slot in self._slots if slot.accepting]
        down = sum((service, endpoint.id) in slot.down for slot in working)
        if not down:
            if any((service, endpoint.id) in slot.silent for slot in working):
                return report.NOT_REACHABLE
            return report.declared_state(service, endpoint)
        if down == len(working):
            return EndpointState.DOWN.value
        return f"{EndpointState.DOWN.value} in {down} of {len(working)} workers"

    def _table_of_workers(self) -> RoutingTable:
        """The table as all workers have it. What only some of them have ejected counts as
        usable."""
        table = self._shown.table
        working = [slot for slot in self._slots if slot.accepting]
        facts = {}
        for cluster in table.clusters():
            for endpoint in cluster.endpoints:
                key = endpoint.service, endpoint.id
                ejected = bool(working) and all(key in slot.down for slot in working)
                facts[endpoint] = replace(endpoint.facts, ejected=ejected)
        table.note_all(facts)
        return table

    def _outage_of(self, key: EndpointKey) -> Outage | None:
        """What its checks say, else why the first worker has ejected it that has."""
        if outage := self._checker.outages.get(key):
            return outage
        return next((slot.down[key] for slot in self._slots if key in slot.down), None)

    async def _counts(self) -> Counts:
        """What all workers have counted up to now. One that is too busy to respond within a second
        is taken at its word of a moment ago."""
        self._counts_asked += 1
        order = encoded(AddUp(self._counts_asked))
        for slot in self._slots:
            slot.tell("count", order)
        with suppress(TimeoutError):
            async with asyncio.timeout(COUNT_SECONDS):
                await asyncio.gather(*(slot.in_step() for slot in self._slots))
        return counts_of(self._memories)

    def _count_workers(self) -> Workers:
        return Workers(
            wanted=self._workers,
            accepting=sum(slot.accepting for slot in self._slots),
            lost=sum(slot.lost for slot in self._slots),
        )

    def _remains_of(self, key: EndpointKey) -> Remains | None:
        """As all workers see it that accept connections; None: not all of them have told yet."""
        found = [slot.left.get(key) for slot in self._slots if slot.accepting]
        told = [each for each in found if each is not None]
        return merged(told) if told and len(told) == len(found) else None

    def _take_moves(self) -> Moves:
        found = dict(self._moves)
        self._moves.clear()
        return found

    async def _report(self, *, services: bool) -> bytes:
        await self._in_step()  # or what is left under an earlier order would be told
        return await report_of(self._view, services=services)

    async def _in_step(self) -> None:
        """Wait until all workers have done what they were told; at the start, until they accept
        connections too: an authority that checks a host by ACME must not come too early."""
        await self._all_accept.wait()
        try:
            async with asyncio.timeout(STRAGGLER_SECONDS):
                for slot in self._slots:
                    await slot.in_step()
        except TimeoutError:
            log.warning("some workers have not applied the change yet")

    def _on_hangup(self) -> None:
        self._log_opened += 1
        self._tell("log", encoded(ReopenLog(self._log_opened)))
        self._sources.reload_soon()

    def _end_at_once(self, status: int) -> None:
        for slot in self._slots:
            slot.kill()
        os._exit(status)
