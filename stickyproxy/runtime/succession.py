"""One proxy after another, with the same listeners: where they come from, and to whom they go.

proxy.handover   from the proxy that serves now, if there is one; to the one that comes next
proxy.keeper     from a keeper, which has them before us and after us
neither          opened here, closed here
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ListenError
from stickyproxy.base.listening import Group, close_all, open_groups
from stickyproxy.config.settings import Config
from stickyproxy.dataplane.downstream.delivery import undelivered
from stickyproxy.dataplane.downstream.listeners import Listeners
from stickyproxy.handover import taking, wire
from stickyproxy.handover.giving import Giver

log = logging.getLogger("stickyproxy")

PATIENCE = 5.0
"""Seconds for which a proxy that has a successor leaves idle connections to their next request."""
KEEPER_SECONDS = 20.0
"""How long a proxy waits for its keeper when it starts."""
AGAIN_SECONDS = 5.0
"""How long it waits for the next keeper when the one it had has ended."""
LOOK_SECONDS = 0.2
"""Pause between two looks at what the kernel has not delivered yet."""


class Succession:
    """A proxy's place between the one before it and the one after it."""

    def __init__(self, settings: Config) -> None:
        self._specs = settings.listeners
        self._handover = settings.proxy.handover
        self._keeper = settings.proxy.keeper
        admin = settings.admin
        # A unix socket of the admin page simply takes the path.
        self._admin = admin if self._handover and admin is not None and not admin.path else None
        self._shares = 1
        self._taken: taking.Taken | None = None
        self._exclusive = True
        self._admin_groups: list[Group] = []
        self._giver: Giver | None = None
        self._over = asyncio.Event()
        self._lost = ""
        self._watching: asyncio.Task[None] | None = None
        self.succeeded = False
        """Another process accepts in our place."""

    @property
    def others_have_them(self) -> bool:
        """Somebody else has our listeners too: they, and those who wait there, outlive us."""
        return self.succeeded or self._keeper is not None

    @property
    def patience(self) -> float:
        """How long idle connections are left alone when we stop, in seconds."""
        return PATIENCE if self.others_have_them else 0.0

    # --- the beginning ---

    async def begin(self, shares: int) -> None:
        """Ask who has the listeners, if anybody has. Raises ListenError."""
        self._shares = shares
        addresses = [str(spec.address) for spec in self._specs]
        if self._keeper is not None:
            self._taken = await asyncio.to_thread(
                taking.take_from_keeper, self._keeper, addresses, shares, KEEPER_SECONDS
            )
        elif self._handover is not None:
            addresses += [] if self._admin is None else [_of_admin(self._admin)]
            try:
                self._taken = await asyncio.to_thread(
                    taking.take, self._handover, addresses, shares
                )
                log.info("taking over from the proxy that serves now")
            except taking.NobodyGives:
                pass
            except taking.Frozen as error:
                log.error(
                    "the proxy that serves now is frozen (%s): listening beside it, and it goes on "
                    "getting its part of the connections: end it",
                    error,
                )
                self._exclusive = False

    def check(self, *, ready: bool) -> None:
        """Raises ListenError if we know no routes yet, and somebody serves who does."""
        taken = self._taken
        if taken is not None and not ready and (self._keeper is None or taken.others):
            raise ListenError(
                "not taking over from the proxy that serves now: there is no first snapshot of "
                "every provider yet; what stands in the way is logged above"
            )

    async def admin_sockets(self) -> Group:
        """What the admin page is to listen on; empty: it opens its own. Raises ListenError."""
        if self._admin is None:
            return []
        if self._taken is not None:
            self._admin_groups = self._taken.groups.get(_of_admin(self._admin), [])
        self._admin_groups = self._admin_groups or await asyncio.to_thread(
            open_groups, self._admin, shareable=True, exclusive=self._exclusive
        )
        # The server closes what it is given; ours stay open for who comes next.
        return [sock.dup() for group in self._admin_groups for sock in group]

    async def open(self) -> Listeners:
        """Open the listeners, or go on with those that were taken over. Raises ListenError."""
        return await Listeners.open(
            self._specs,
            self._shares,
            None if self._taken is None else self._taken.groups,
            shareable=self._handover is not None,
            exclusive=self._exclusive,
        )

    def accepting(self, listeners: Listeners) -> None:
        """We accept connections: who did before us may leave, and who comes after us may come."""
        taken = self._taken
        if taken is not None:
            taken.accepting()
        if self._keeper is not None:
            self._watching = asyncio.create_task(self._watch(listeners), name="keeper")
        elif self._handover is not None:
            if taken is not None:
                taken.close()
            groups = dict(listeners.groups)
            if self._admin is not None:
                groups[_of_admin(self._admin)] = self._admin_groups
            self._giver = Giver(self._handover, groups, self._on_succeeded)
            self._giver.start()

    # --- the end ---

    async def until_over(self, stop: asyncio.Event) -> None:
        """Wait until we are told to stop, or have a successor. Raises ListenError if the listeners
        are lost."""
        await first_of(stop, self._over)
        if self._lost:
            raise ListenError(self._lost)

    async def end(self, listeners: Listeners) -> Collection[int]:
        """Let go of the listeners; returns the TCP ports on which the kernel may still have
        something to deliver that ends with our container."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._giver is not None:
            await self._giver.stop()
        ports = set() if self.others_have_them else _ports(listeners)
        if self.others_have_them:
            listeners.leave()
        else:
            listeners.close()
        close_all(self._admin_groups)
        if self._taken is not None:
            self._taken.close()
        return ports

    def _on_succeeded(self) -> None:
        log.info("another process has taken over")
        self.succeeded = True
        self._over.set()

    async def _watch(self, listeners: Listeners) -> None:
        """Notice the end of the keeper, and go on if there is another one that has our sockets."""
        ours = _identities(listeners.groups)
        while self._taken is not None and self._keeper is not None:
            await _end_of(self._taken.sock)
            self._taken.close()
            try:
                self._taken = await asyncio.to_thread(
                    taking.take_from_keeper,
                    *(self._keeper, list(listeners.groups), self._shares, AGAIN_SECONDS),
                )
            except ListenError as error:
                self._lost = f"the keeper has ended, and the listeners with it: {error}"
                break
            theirs = _identities(self._taken.groups)
            for groups in self._taken.groups.values():
                close_all(groups)
            if not ours <= theirs:
                self._lost = "the keeper has ended, and the listeners with it"
                break
            log.info("another keeper has taken over")
        self._over.set()


async def delivered(ports: Collection[int], seconds: float) -> None:
    """Wait for up to so many seconds until clients have received what was sent to them before
    their connections were closed.

    What a closed connection has yet to send is in the hands of the kernel, and survives us. But
    the network of a container ends with its first process.
    """
    if not ports or not _ends_a_container():
        return
    waiting = undelivered(ports)
    if waiting:
        log.info("the last bytes of %d connections are on their way", waiting)
    until = time.monotonic() + seconds
    while waiting and time.monotonic() < until:
        await asyncio.sleep(LOOK_SECONDS)
        waiting = undelivered(ports)
    if waiting:
        log.warning("%d connections did not take the last bytes in time", waiting)


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


async def _end_of(sock: socket.socket) -> None:
    """Wait until the other end is closed."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    with suppress(OSError):
        while await loop.sock_recv(sock, wire.MAX_MESSAGE):
            pass


def _ends_a_container() -> bool:
    """Whether we are its first process, or the one that an init process waits for."""
    return os.getpid() == 1 or (os.getppid() == 1 and Path("/.dockerenv").exists())


def _of_admin(address: Address) -> str:
    """The name under which the admin page's listener is handed over."""
    return f"admin {address}"


def _ports(listeners: Listeners) -> set[int]:
    names = (each.sock.getsockname() for share in listeners.shares for each in share)
    return {name[1] for name in names if isinstance(name, tuple)}


def _identities(groups: Mapping[str, list[Group]]) -> set[int]:
    """What tells sockets apart, whoever holds them."""
    every = (sock for each in groups.values() for group in each for sock in group)
    return {os.fstat(sock.fileno()).st_ino for sock in every}
