"""A small HTTP server beside the proxy, for the admin page and the controller: aiohttp's usual
``web.Application``, because convenience counts there and speed does not."""

from __future__ import annotations

import os

from aiohttp import web

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ListenError


class SideServer:
    """One application on one address."""

    def __init__(self, app: web.Application) -> None:
        # A long poll under way must not hold up the end.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def start(self, address: Address) -> str:
        """Listen; returns the address as bound. Raises ListenError."""
        await self._runner.setup()
        site: web.BaseSite
        if address.path is not None:
            site = web.UnixSite(self._runner, address.path)
        else:
            site = web.TCPSite(self._runner, address.host, address.port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ListenError(f"cannot listen on {address}: {reason}") from error
        bound = self._runner.addresses[0]
        return str(bound) if isinstance(bound, str) else str(Address(bound[0], bound[1]))

    async def stop(self) -> None:
        """Close the listener and cut what is under way."""
        await self._runner.cleanup()
