"""The proxy, running in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stickyproxy.base.addresses import Address
from stickyproxy.config.settings import Config
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.settings import AccessLogSettings, ProxySettings
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.model.tls import Certificate
from stickyproxy.runtime.app import App


class InProcessProxy:
    """An ``App`` on free ports of 127.0.0.1."""

    host = "127.0.0.1"

    def __init__(
        self,
        services: Sequence[ServiceSpec],
        *,
        listeners: Sequence[ListenerSpec] = (),
        certificates: Sequence[Certificate] = (),
        **settings: Any,
    ) -> None:
        """``listeners``: by default one in the clear. ``certificates``: instead of those in files
        and of the self-made one."""
        self._certificates = tuple(certificates)
        listeners = tuple(listeners) or (ListenerSpec(Address(self.host, 0)),)
        access_log = settings.pop("access_log", AccessLogSettings(format="off"))
        self.app = App(
            Config(
                listeners=listeners,
                proxy=replace(
                    ProxySettings(grace_period=5.0, probe_new_endpoints=False), **settings
                ),
                access_log=access_log,
                services=tuple(services),
            )
        )
        self.port = 0
        """Of the first listener."""
        self.ports: list[int] = []
        """Of all, in their order."""
        self._stopped = False

    async def start(self) -> None:
        """Listen; ``port`` is known then."""
        addresses = await self.app.start()
        self.ports = [int(address.rpartition(":")[2]) for address in addresses]
        self.port = self.ports[0]
        if self._certificates:
            self.app.registry.publish(Snapshot("certificates", (), certificates=self._certificates))

    def set_services(self, services: Sequence[ServiceSpec]) -> None:
        """Swap the routing table for one of these services."""
        self.app.registry.publish(Snapshot("static", tuple(services)))

    async def stop(self) -> None:
        """Drain and stop."""
        if not self._stopped:
            self._stopped = True
            await self.app.stop()
