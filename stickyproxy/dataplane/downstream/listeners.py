"""Listeners: open their sockets or take them over, and close them. ``accept`` does what comes
between."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from stickyproxy.base.addresses import join_host_port
from stickyproxy.base.errors import ListenError
from stickyproxy.base.listening import Group, open_groups, widen
from stickyproxy.model.listener import ListenerSpec


class Listener(NamedTuple):
    """An open listener."""

    spec: ListenerSpec
    sock: socket.socket


class Listeners:
    """The open sockets of all listeners, in shares for the processes that accept: one for each
    process, or more if more sockets were taken over than there are processes now.

    Each share has a TCP socket of its own (SO_REUSEPORT), so that the kernel deals connections
    out to the processes; a unix socket is the same one in all shares. One process keeps
    them open: connections that wait to be accepted outlive the process that was to accept them.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        """The addresses as bound."""
        self.shares: list[list[Listener]] = []
        self.groups: dict[str, list[Group]] = {}
        """By address as configured: the sockets of each socket address that it stands for."""
        self._files: dict[str, int] = {}
        """Unix sockets that we made or took over, and their inodes."""

    @classmethod
    async def open(
        cls,
        specs: Iterable[ListenerSpec],
        shares: int = 1,
        taken: Mapping[str, list[Group]] | None = None,
        *,
        shareable: bool = False,
        exclusive: bool = True,
    ) -> Listeners:
        """Listen, on what was ``taken`` over as far as that goes; for the rest ``shareable`` and
        ``exclusive`` are as for ``open_groups``. Raises ListenError, with nothing left open of
        what was not taken over."""
        listeners = cls()
        given = taken or {}
        specs = tuple(specs)
        try:
            for spec in specs:
                name = str(spec.address)
                groups = given.get(name)
                if groups:
                    for group in groups:
                        widen(group, shares)
                else:
                    groups = await asyncio.to_thread(
                        open_groups,
                        *(spec.address, shares),
                        shareable=shareable,
                        exclusive=exclusive,
                    )
                listeners._add(spec, groups)
        except ListenError:
            listeners.close()
            raise
        listeners._deal(specs, shares)
        return listeners

    def _add(self, spec: ListenerSpec, groups: list[Group]) -> None:
        self.groups[str(spec.address)] = groups
        self.names += [_name(group[0].getsockname()) for group in groups]
        if (path := spec.address.path) is not None:
            self._files[path] = os.stat(path).st_ino

    def _deal(self, specs: Iterable[ListenerSpec], shares: int) -> None:
        """Every socket is in a share, and every share has a socket of every group."""
        every = [group for groups in self.groups.values() for group in groups]
        shares = max(shares, *(len(group) for group in every)) if every else shares
        self.shares = [
            [
                Listener(spec, group[number % len(group)])
                for spec in specs
                for group in self.groups[str(spec.address)]
            ]
            for number in range(shares)
        ]

    def leave(self) -> None:
        """Close what this process has of them: others have them too."""
        for groups in self.groups.values():
            for group in groups:
                for sock in group:
                    sock.close()
        self.groups.clear()
        self.shares = [[] for _ in self.shares]
        self._files.clear()

    def close(self) -> None:
        """Close what this process has of them, and remove the files of unix sockets."""
        files = dict(self._files)
        self.leave()
        for path, inode in files.items():
            with contextlib.suppress(OSError):  # another process was faster
                if os.stat(path).st_ino == inode:
                    os.unlink(path)


def _name(sockname: object) -> str:
    if isinstance(sockname, tuple):
        host, port = sockname[:2]
        return join_host_port(host, port)
    return f"unix:{sockname.decode() if isinstance(sockname, bytes) else sockname}"
