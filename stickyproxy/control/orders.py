"""CONTROL: what an operator wants of endpoints: that they drain, or are in maintenance.

An order concerns a service, one of its endpoints, or all endpoints on a node. It is written into
the snapshots on their way to whoever uses them: so workers, and the proxies of a controller, learn
of it as they learn of everything else. Orders are kept in a file, if there is one, and hold until
they are withdrawn; of several that concern an endpoint the strictest counts.

A target as people write it:

    demo          a service: those of its endpoints that there will be, too
    demo/3        the endpoint of the service in slot 3; if it has no slots, the third one
    demo/ID       the endpoint with this id or address; the beginning of an id is enough
    node:NAME     all endpoints on this node
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from stickyproxy.base.errors import StickyproxyError
from stickyproxy.base.files import write_whole
from stickyproxy.base.text import shown
from stickyproxy.model.events import EventKind, tell
from stickyproxy.model.service import ADMIN_STATES, AdminState, EndpointSpec, ServiceSpec, strictest
from stickyproxy.model.snapshot import Snapshot

log = logging.getLogger("stickyproxy")

MANY = 1000
"""So many orders are kept: more are a mistake."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What an order concerns: all endpoints of a service, one of them, or all on a node."""

    service: str = ""
    endpoint: str = ""
    """The id of one; empty: all."""
    node: str = ""
    """If it is this that is concerned, the other two are empty."""

    def covers(self, service: str, endpoint: EndpointSpec) -> bool:
        """Whether it concerns this endpoint."""
        if self.node:
            return endpoint.machine == self.node
        return self.service == service and self.endpoint in ("", endpoint.id)

    def __str__(self) -> str:
        """As a target is written."""
        if self.node:
            return f"node:{self.node}"
        return f"{self.service}/{self.endpoint}" if self.endpoint else self.service


Held = Mapping[Scope, AdminState]
"""The orders that hold; none is ``ready``."""


class Orders:
    """Keeps orders, and writes them into the snapshots that pass."""

    def __init__(
        self,
        publish: Callable[[Snapshot], None],
        file: Path | None = None,
        settled: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``file``: where orders are kept; None: nowhere, and a restart forgets them. ``settled``
        waits until what was published is in force; None: it is at once."""
        self._publish = publish
        self._settled = settled
        self._file = file
        self._snapshots: dict[str, Snapshot] = {}
        self._changing = asyncio.Lock()
        self.held: Held = {} if file is None else _read(file)

    @property
    def lasting(self) -> bool:
        """True if a restart forgets none."""
        return self._file is not None

    def publish(self, snapshot: Snapshot) -> None:
        """Pass a provider's state on, with the orders that hold."""
        self._snapshots[snapshot.provider] = snapshot
        self._publish(applied(snapshot, self.held))

    def find(self, target: str) -> Scope:
        """What somebody means. Raises StickyproxyError if there is no such thing."""
        for scope in self.held:  # what it is about may be gone
            if str(scope) == target:
                return scope
        kind, colon, node = target.partition(":")
        if kind == "node" and colon:
            specs = [spec for _, spec in self._endpoints()]
            if node and any(node == spec.machine for spec in specs):
                return Scope(node=node)
            named = {spec.node for spec in specs} - {""}
            nodes = named or {spec.machine for spec in specs} - {""}
            known = f"there are {', '.join(sorted(nodes))}" if nodes else "no node is known"
            raise StickyproxyError(f"there is no endpoint on a node {shown(node)}: {known}")
        name, slash, which = target.partition("/")
        service = self._service(name)
        if not slash:
            return Scope(name)
        return Scope(name, _endpoint_among(service, which))

    def covered(self, scope: Scope) -> Iterator[tuple[str, EndpointSpec]]:
        """The endpoints that are concerned, with the names of their services, and all that is
        wanted of them."""
        for service, spec in self._endpoints():
            if scope.covers(service.name, spec):
                alone = _ordered(replace(service, endpoints=(spec,)), self.held)
                yield service.name, alone.settled(alone.endpoints[0])

    def concerned(self, scope: Scope) -> Iterator[tuple[str, ServiceSpec]]:
        """The services whose endpoints are concerned, with the names of their providers."""
        for provider, snapshot in self._snapshots.items():
            for service in snapshot.services:
                if any(scope.covers(service.name, spec) for spec in service.endpoints):
                    yield provider, service

    async def change(self, scope: Scope, state: AdminState) -> None:
        """From now on this is wanted; ``ready`` withdraws what was. It is kept before it is in
        force, and in force on return. Raises StickyproxyError if it cannot be kept."""
        async with self._changing:
            held = {key: wanted for key, wanted in self.held.items() if key != scope}
            if state != "ready":
                held[scope] = state
            if len(held) > MANY:
                held = {key: held[key] for key in held if not self._is_gone(key)}
            if len(held) > MANY:
                raise StickyproxyError(
                    f"there are {MANY} orders already: withdraw some with stickyproxy undrain"
                )
            if held == self.held:
                return
            if self._file is not None:
                try:
                    await asyncio.to_thread(write_whole, self._file, _written(held))
                except OSError as error:
                    raise StickyproxyError(
                        f"{self._file} cannot be written ({error.strerror}), so nothing is changed"
                    ) from error
            self.held = held
            tell(
                EventKind.ORDER_GIVEN,
                f"{scope}: the operator wants {state}",
                target=str(scope),
                admin_state=state,
            )
            for snapshot in self._snapshots.values():
                self._publish(applied(snapshot, held))
        if self._settled is not None:
            await self._settled()

    def _is_gone(self, scope: Scope) -> bool:
        """Whether it is about a single endpoint, and its service is there without it."""
        ids = [
            {endpoint.id for endpoint in service.endpoints}
            for service in self._services()
            if service.name == scope.service
        ]
        return bool(scope.endpoint and ids) and not any(scope.endpoint in each for each in ids)

    def _endpoints(self) -> Iterator[tuple[ServiceSpec, EndpointSpec]]:
        for service in self._services():
            for endpoint in service.endpoints:
                yield service, endpoint

    def _services(self) -> Iterator[ServiceSpec]:
        for provider in sorted(self._snapshots):
            yield from self._snapshots[provider].services

    def _service(self, name: str) -> ServiceSpec:
        known = {service.name: service for service in self._services()}
        if name not in known:
            names = ", ".join(sorted(known)[:20]) or "none"
            raise StickyproxyError(f"there is no service {shown(name)}: there are {names}")
        return known[name]


def applied(snapshot: Snapshot, orders: Held) -> Snapshot:
    """A snapshot whose services and endpoints are as ordered; the very same if none is
    concerned."""
    if not orders:
        return snapshot
    services = tuple(_ordered(service, orders) for service in snapshot.services)
    if all(one is other for one, other in zip(services, snapshot.services, strict=True)):
        return snapshot
    return replace(snapshot, services=services)


def _ordered(service: ServiceSpec, orders: Held) -> ServiceSpec:
    wanted = strictest(service.admin_state, orders.get(Scope(service.name), "ready"))
    endpoints = tuple(_wanted(service.name, spec, orders) for spec in service.endpoints)
    if wanted == service.admin_state and endpoints == service.endpoints:
        return service
    return replace(service, admin_state=wanted, endpoints=endpoints)


def _wanted(service: str, spec: EndpointSpec, orders: Held) -> EndpointSpec:
    scopes = [Scope(service, spec.id)] + ([Scope(node=spec.machine)] if spec.machine else [])
    state = strictest(spec.admin_state, *(orders.get(scope, "ready") for scope in scopes))
    return spec if state == spec.admin_state else replace(spec, admin_state=state)


def _endpoint_among(service: ServiceSpec, which: str) -> str:
    """The id of the one that is meant. Raises StickyproxyError."""
    endpoints = service.endpoints
    if exact := [each.id for each in endpoints if which in (each.id, each.address)]:
        return exact[0]
    if numbered := _numbered(service, which):
        return numbered
    begun = [each.id for each in endpoints if which and each.id.startswith(which)]
    if len(begun) == 1:
        return begun[0]
    if begun:
        raise StickyproxyError(
            f"{shown(which)} is the beginning of {len(begun)} endpoints of service "
            f"{service.name}: write more of it"
        )
    raise StickyproxyError(
        f"service {service.name} has no endpoint {shown(which)}: write its number, "
        f"{_some(service.numbers())}, its address or its id, as stickyproxy services --json "
        "lists them"
        if endpoints
        else f"service {service.name} has no endpoint"
    )


def _numbered(service: ServiceSpec, which: str) -> str:
    """The id of the one that has this number; empty: none has. Who takes the place of another is
    meant, and not that one. Raises StickyproxyError."""
    if not (which.isascii() and which.isdecimal()):
        return ""
    numbers = zip(service.numbers(), service.endpoints, strict=True)
    found = [each for number, each in numbers if number == int(which)]
    staying = [each for each in found if not each.draining] or found
    if len(staying) > 1:
        ids = " and ".join(each.id for each in staying)
        raise StickyproxyError(f"{service.name}/{which} is {ids} at present: write one of these")
    return staying[0].id if staying else ""


def _some(numbers: Sequence[int]) -> str:
    """In words."""
    listed = sorted(set(numbers))
    if listed == [*range(listed[0], listed[0] + len(listed))]:
        return f"from {listed[0]} to {listed[-1]}"
    return f"one of {', '.join(map(str, listed[:10]))}{' ...' if len(listed) > 10 else ''}"


# --- the file -------------------------------------------------------------------------------


def _written(held: Held) -> bytes:
    orders = [asdict(scope) | {"admin_state": state} for scope, state in held.items()]
    return json.dumps({"orders": orders}, indent=2).encode() + b"\n"


def _read(file: Path) -> Held:
    """The orders in the file; none if there is no such file. One that cannot be read is logged: a
    proxy that serves everybody is better than none."""
    try:
        orders = json.loads(file.read_bytes())["orders"]
        return {
            Scope(each["service"], each["endpoint"], each["node"]): _state(each["admin_state"])
            for each in orders[:MANY]
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.error("%s: the orders of operators are lost: %r; give them again", file, error)
        return {}


def _state(word: object) -> AdminState:
    """Raises ValueError."""
    return ADMIN_STATES[ADMIN_STATES.index(word)]
