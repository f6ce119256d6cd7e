"""The end of a proxy that hands its listeners over to its successor."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

from stickyproxy.base.listening import Group
from stickyproxy.handover import wire

log = logging.getLogger("stickyproxy")

REQUEST_SECONDS = 3.0
"""How long a taker may take to say what it wants."""
START_SECONDS = 60.0
"""How long it may take from then on until it accepts."""


class Giver:
    """Waits for a successor. There is one at a time: a second one is refused."""

    def __init__(
        self, path: str, groups: Mapping[str, list[Group]], succeeded: Callable[[], None]
    ) -> None:
        """``succeeded`` is called when a successor accepts connections on these listeners: this
        proxy is to leave."""
        self._path = path
        self._groups = groups
        self._succeeded = succeeded
        self._door: wire.Door | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._giving: set[asyncio.Task[None]] = set()
        self._busy = False

    def start(self) -> None:
        """Wait from now on. If that cannot be, it is logged: this proxy serves nevertheless."""
        try:
            self._door = wire.Door(self._path)
        except OSError as error:
            log.error("nobody can take over: cannot listen on %s: %s", self._path, error.strerror)
            return
        self._door.sock.setblocking(False)
        self._waiting = asyncio.create_task(self._wait(self._door.sock), name="handover")

    async def stop(self) -> None:
        """Wait no more."""
        tasks = [*self._giving, *([self._waiting] if self._waiting is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._shut()

    def _shut(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None

    async def _wait(self, door: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(door)
            task = asyncio.create_task(self._give(sock), name="handover to a successor")
            self._giving.add(task)
            task.add_done_callback(self._giving.discard)

    async def _give(self, sock: socket.socket) -> None:
        """Whatever goes wrong with a successor, this proxy goes on serving."""
        with sock:
            try:
                sock.setblocking(False)
                if await self._is_taken_over(sock):
                    self._succeeded()
            except TimeoutError:
                log.warning("a process that was to take over took too long; serving goes on")
            except (OSError, ValueError) as error:
                log.warning("listeners were not handed over: %s; serving goes on", error)

    async def _is_taken_over(self, sock: socket.socket) -> bool:
        loop = asyncio.get_running_loop()
        user = wire.user_of(sock)
        if user != os.geteuid():
            raise PermissionError(f"user {user} asked for them, who is not ours")
        async with asyncio.timeout(REQUEST_SECONDS):
            wanted, _ = wire.asked_for(wire.decoded(await loop.sock_recv(sock, wire.MAX_MESSAGE)))
        if self._busy:
            sock.send(wire.encoded({"refused": "another process is taking over at this moment"}))
            return False
        self._busy = True
        try:
            for address in wanted:
                wire.give(sock, address, self._groups.get(address, []))
            sock.send(wire.encoded({"given": "proxy", "version": wire.VERSION}))
            log.info("another process is about to take over")
            async with asyncio.timeout(START_SECONDS):
                packet = await loop.sock_recv(sock, wire.MAX_MESSAGE)
            if not (packet and wire.decoded(packet).get("accepting")):
                raise ConnectionError("the process that was to take over has ended")
            with suppress(OSError):
                sock.send(wire.encoded({"leaving": True}))
            return True
        finally:
            self._busy = False
