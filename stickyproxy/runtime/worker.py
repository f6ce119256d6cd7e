"""A worker process: a data plane that does what its supervisor says.

It is started as ``python -m stickyproxy.runtime.worker FD`` with its end of a channel as a file
descriptor. It ends when told to, on SIGTERM or SIGINT, and when its supervisor is gone, in
each case after the requests in progress; a second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys

import uvloop

from stickyproxy.base import signals, standard_error
from stickyproxy.base.commons import Commons
from stickyproxy.base.errors import StickyproxyError
from stickyproxy.dataplane.counters import Memory
from stickyproxy.dataplane.downstream.listeners import Listener
from stickyproxy.model.events import Event
from stickyproxy.runtime import logs
from stickyproxy.runtime.channel import (
    BEATS,
    Accept,
    Accepting,
    AddUp,
    Alive,
    Applied,
    Begin,
    Channel,
    Down,
    Drain,
    Happened,
    Leaving,
    Left,
    Message,
    Moved,
    Publish,
    ReopenLog,
    Unhealthy,
)
from stickyproxy.runtime.data_plane import DataPlane, PlaneSettings
from stickyproxy.runtime.telling import Telling

log = logging.getLogger("stickyproxy")

TELL_SECONDS = 0.1
"""How long changes of health are collected before the supervisor is told."""


LEFT_SECONDS = 1.0
"""How often the supervisor is told what is left on endpoints that are to become empty."""


class Worker:
    """Follows the supervisor at the other end of the channel."""

    def __init__(self, channel: Channel, begin: Begin) -> None:
        """Raises ListenError if the access log cannot be opened."""
        settings = PlaneSettings(begin.proxy, begin.access_log, begin.info, begin.providers)
        self._plane = DataPlane(
            settings,
            tells_problems=False,  # the supervisor does
            tries_newcomers=begin.number == 1,
            health_changed=self._on_health_changed,
            memory=None if begin.memory is None else Memory(begin.memory),
            commons=(
                None
                if begin.commons is None
                else Commons(begin.workers, begin.commons, begin.number)
            ),
        )
        inherited = {each.descriptor for share in begin.shares for each in share}
        self._sockets = {fd: socket.socket(fileno=fd) for fd in inherited}
        self._shares = [
            [Listener(each.spec, self._sockets[each.descriptor]) for each in share]
            for share in begin.shares
        ]
        self._channel = channel
        self._grace = begin.proxy.grace_period
        self._patience = 0.0
        self._heartbeat = begin.proxy.worker_timeout / BEATS
        self._stop = asyncio.Event()
        self._status = 0
        self._telling: asyncio.TimerHandle | None = None
        self._happened: list[Event] = []
        """What the supervisor has not been told yet."""
        self._passing_on: asyncio.TimerHandle | None = None
        self._events = Telling(
            None if begin.memory is None else self._on_event,
            self._plane.take_moves,
            lambda moves: channel.send(Moved(moves)),
        )
        self._told_left = False
        """The supervisor was told of endpoints that are to become empty."""

    async def run(self) -> int:
        """Work until stopped; returns the exit status."""
        signals.on_stop(self._stop)
        signals.ignore_hangup()  # it is meant for the supervisor
        self._plane.start()
        self._events.start()
        following = asyncio.create_task(self._follow(), name="supervisor")
        beating = asyncio.create_task(self._beat(), name="heartbeat")
        counting = asyncio.create_task(self._keep_telling_what_is_left(), name="what is left")
        await self._stop.wait()
        self._plane.accept_on(())
        for sock in self._sockets.values():
            sock.close()
        self._channel.send(Leaving())
        await self._plane.drain(self._grace, self._patience)
        following.cancel()
        beating.cancel()
        counting.cancel()
        await asyncio.gather(following, beating, counting, return_exceptions=True)
        await self._events.stop()
        await self._plane.stop()
        return self._status

    async def _follow(self) -> None:
        """Do what the supervisor says, also while draining, so that routes stay up to date."""
        try:
            while (message := await self._channel.receive()) is not None:
                self._obey(message)
                self._channel.send(Applied())
            log.warning("the supervisor is gone; requests under way get %g s", self._grace)
        except Exception:
            log.exception("what the supervisor said cannot be done: this is a bug in stickyproxy")
            self._status = 1
        finally:
            self._stop.set()

    async def _beat(self) -> None:
        """Let the supervisor know that the event loop is running."""
        while True:
            self._channel.send(Alive())
            await asyncio.sleep(self._heartbeat)

    async def _keep_telling_what_is_left(self) -> None:
        """While there are endpoints that are to become empty."""
        while True:
            self._tell_what_is_left()
            await asyncio.sleep(LEFT_SECONDS)

    def _tell_what_is_left(self) -> None:
        if (left := self._plane.remains()) or self._told_left:
            self._channel.send(Left(left))
            self._told_left = bool(left)

    def _obey(self, message: Message) -> None:
        match message:
            case Publish(snapshot):
                self._plane.registry.publish(snapshot)
                self._tell_what_is_left()  # or what was left under an earlier order would count
            case Unhealthy(endpoints):
                self._plane.use_checks(endpoints)
            case Accept(shares) if not self._stop.is_set():
                self._plane.accept_on(each for share in shares for each in self._shares[share])
                self._channel.send(Accepting())
            case ReopenLog():
                self._reopen_log()
            case AddUp():
                self._plane.add_up()
            case Drain(grace, patience):
                self._grace, self._patience = grace, patience
                self._stop.set()

    def _on_health_changed(self) -> None:
        if self._telling is None:
            loop = asyncio.get_running_loop()
            self._telling = loop.call_later(TELL_SECONDS, self._tell_health)

    def _tell_health(self) -> None:
        self._telling = None
        self._channel.send(Down(self._plane.outages, self._plane.silent))

    def _on_event(self, event: Event) -> None:
        self._happened.append(event)
        if self._passing_on is None:
            loop = asyncio.get_running_loop()
            self._passing_on = loop.call_later(TELL_SECONDS, self._pass_events_on)

    def _pass_events_on(self) -> None:
        self._passing_on = None
        self._channel.send(Happened(tuple(self._happened)))
        self._happened.clear()

    def _reopen_log(self) -> None:
        try:
            self._plane.reopen_log()
        except StickyproxyError as error:
            log.error("%s", error)


async def _work(sock: socket.socket) -> int:
    channel = await Channel.over(sock)
    begin = await channel.receive()
    gc.freeze()  # as in ``cli.serve``
    if not isinstance(begin, Begin):
        return 0  # the supervisor ended before it said anything
    logging.basicConfig(level=begin.log_level, stream=sys.stderr)
    logs.use(begin.log_format, begin.number)
    try:
        return await Worker(channel, begin).run()
    finally:
        channel.close()


def main() -> int:
    """Work; returns the exit status, 0 after a graceful end."""
    standard_error.never_wait()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_work(socket.socket(fileno=int(sys.argv[1]))))
    except StickyproxyError as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
