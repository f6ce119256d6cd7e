"""CONTROL: snapshots of providers in, routing tables out."""

from __future__ import annotations

import logging
from typing import Protocol

from stickyproxy import hashing, table
from stickyproxy.model import Endpoint, EndpointSpec, Snapshot
from stickyproxy.table import RoutingTable
from stickyproxy.upstream import Upstreams

log = logging.getLogger("stickyproxy")


class HoldsTable(Protocol):
    """Who serves from the table: the proxy."""

    table: RoutingTable


class Registry:
    """Merges the snapshots of all providers into one table and hands it over in one assignment.

    A provider that says nothing keeps what it published last.
    """

    def __init__(self, proxy: HoldsTable, upstreams: Upstreams, pin_secret: bytes | None) -> None:
        self._proxy = proxy
        self._upstreams = upstreams
        self._pin_key = hashing.pin_key(pin_secret)
        self._snapshots: dict[str, Snapshot] = {}

    def publish(self, snapshot: Snapshot) -> None:
        """Take a provider's whole state. What did not change keeps its cluster: connections,
        cursors and slot tables survive."""
        if self._snapshots.get(snapshot.provider) == snapshot:
            return
        self._snapshots[snapshot.provider] = snapshot
        services = [
            service
            for provider in sorted(self._snapshots)
            for service in self._snapshots[provider].services
        ]
        self._proxy.table = table.build(services, self._make_endpoint, self._proxy.table)
        log.debug("routing table:\n%s", self._proxy.table.dump())

    def _make_endpoint(self, service: str, spec: EndpointSpec) -> Endpoint:
        pin = hashing.pin(self._pin_key, service, spec.id)
        return Endpoint(service, spec, pin, self._upstreams.pool(spec.address))
