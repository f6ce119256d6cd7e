"""A small HTTP server beside the proxy, for the admin page and the controller: aiohttp's usual
``web.Application``, because there convenience matters and speed does not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from aiohttp import web

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ListenError


class ControlServer:
    """One application on one address."""

    def __init__(self, app: web.Application) -> None:
        # A long poll in progress must not delay the shutdown.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def start(self, address: Address, sockets: Iterable[socket.socket] = ()) -> str:
        """Listen there, or on these ``sockets``, which listen there already; returns the address
        as bound. Raises ListenError."""
        await self._runner.setup()
        sites: list[web.BaseSite] = [web.SockSite(self._runner, sock) for sock in sockets]
        if not sites and address.path is not None:
            sites = [web.UnixSite(self._runner, address.path)]
        elif not sites:
            sites = [web.TCPSite(self._runner, address.host, address.port)]
        try:
            for site in sites:
                await site.start()
        except OSError as error:
            await self._runner.cleanup()
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ListenError(f"cannot listen on {address}: {reason}") from error
        bound = self._runner.addresses[0]
        return str(bound) if isinstance(bound, str) else str(Address(bound[0], bound[1]))

    async def stop(self) -> None:
        """Close the listener and cut whatever is in progress."""
        await self._runner.cleanup()
