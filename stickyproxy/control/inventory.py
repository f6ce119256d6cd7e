"""Services, endpoints and routes as the admin API tells them, in pieces.

A proxy of one process forwards requests between the pieces: so each of them, a row with as much
as belongs to one endpoint, is made in some microseconds. Pieces joined are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from stickyproxy.control.report import (
    Json,
    OutageOf,
    StateOf,
    concerns_services,
    hosts_of,
    problem_rows,
    service_state,
)
from stickyproxy.model.service import EndpointKey, EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.routing.balancers import policy_for
from stickyproxy.routing.table import Route, RoutingTable

Pieces = Iterator[str]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What there is at one moment."""

    snapshots: Sequence[Snapshot]
    problems: Sequence[Problem]
    state_of: StateOf
    outage_of: OutageOf
    figures_of: Callable[[str], Json | None] = lambda _: None
    """What a service does right now; None: it is not known."""
    figures_at: Callable[[EndpointKey], Json | None] = lambda _: None
    """The same of an endpoint."""

    def services(self) -> Pieces:
        """``{"services": [...]}``, by name: those that are published, and those that are not
        because of a problem."""
        about = self._problems_of()
        named = [(each.name, each) for snapshot in self.snapshots for each in snapshot.services]
        known = {name for name, _ in named}
        rows: list[tuple[str, ServiceSpec | None]] = [
            *named,
            *(
                (name, None)
                for name, found in about.items()
                if name not in known and concerns_services(found)
            ),
        ]
        rows.sort(key=lambda row: row[0])
        return _list("services", (self._row(*row, about.get(row[0], ())) for row in rows))

    def service(self, name: str) -> Pieces | None:
        """One of these rows; None: there is no such service."""
        about = self._problems_of().get(name, [])
        for snapshot in self.snapshots:
            for service in snapshot.services:
                if service.name == name:
                    return self._row(name, service, about)
        return self._row(name, None, about) if concerns_services(about) else None

    def endpoints(self) -> Pieces:
        """``{"endpoints": [...]}``: the rows of services, each with its ``service``."""
        return _list(
            "endpoints",
            (
                iter([_text({"service": service.name} | self._endpoint(service, number, spec))])
                for snapshot in self.snapshots
                for service in snapshot.services
                for number, spec in zip(service.numbers(), service.endpoints, strict=True)
            ),
        )

    def _problems_of(self) -> Mapping[str, list[Problem]]:
        found: dict[str, list[Problem]] = {}
        for problem in self.problems:
            if not problem.certificate:
                found.setdefault(problem.service, []).append(problem)
        return found

    def _row(self, name: str, service: ServiceSpec | None, problems: Sequence[Problem]) -> Pieces:
        row: Json = {
            "name": name,
            "hosts": [],
            "context_root": None,
            "policy": None,
            "state": "not published",
            "problems": problem_rows(problems),
            "figures": None,
        }
        specs: Sequence[EndpointSpec] = ()
        if service is not None:
            specs = service.endpoints
            row["hosts"] = hosts_of(service)
            row["context_root"] = service.context_root
            row["policy"] = policy_for(service).describe()
            row["state"] = service_state(specs, problems)
            row["figures"] = self.figures_of(name)
        yield _text(row)[:-1]
        yield ', "endpoints": ['
        numbers = () if service is None else service.numbers()
        for place, (number, spec) in enumerate(zip(numbers, specs, strict=True)):
            assert service is not None
            yield ", " * (place > 0) + _text(self._endpoint(service, number, spec))
        yield "]}"

    def _endpoint(self, service: ServiceSpec, number: int, spec: EndpointSpec) -> Json:
        spec = service.settled(spec)
        key = service.name, spec.id
        outage = self.outage_of(key)
        return {
            "id": spec.id,
            "number": number,
            "address": spec.address,
            "node": spec.node,
            "state": self.state_of(service.name, spec),
            "why": "" if outage is None else outage.reason,
            "admin_state": spec.admin_state,
            "figures": self.figures_at(key),
        }


def problems(found: Iterable[Problem], troubles: Mapping[str, str]) -> Pieces:
    """``{"problems": [...]}``: those of services, of certificates, and of providers that have lost
    contact with their sources. ``troubles``: why, by the name of the provider."""
    about = [
        *((Problem("", why, fatal=True), provider) for provider, why in troubles.items()),
        *((problem, "") for problem in found),
    ]
    return _list("problems", (iter([_text(_problem(*each))]) for each in about))


def _problem(problem: Problem, provider: str) -> Json:
    about = {
        "service": problem.service,
        "certificate": problem.certificate,
        "provider": provider,
    }
    return about | problem_rows([problem])[0]


def routes(table: RoutingTable) -> Pieces:
    """``{"routes": [...]}``, in the order in which they are asked."""
    passed = [] if table.passthrough is None else list(table.passthrough.clusters())
    return _list(
        "routes",
        (
            iter([_text(row)])
            for rows in (
                (_route(route) for route in table.routes()),
                (
                    _route_row(name, "passthrough", policy=cluster.policy.describe())
                    | {"services": [service.name for service in cluster.services]}
                    for name, cluster in passed
                ),
            )
            for row in rows
        ),
    )


def _route(route: Route) -> Json:
    cluster = route.cluster
    if cluster is not None:
        return _route_row(
            route.host,
            "services",
            context_root=route.root.decode(),
            rewrite=route.rewrite,
            services=[service.name for service in cluster.services],
            policy=cluster.policy.describe(),
        )
    if route.redirect is not None:
        return _route_row(route.host, "redirect", location=route.redirect.decode())
    return _route_row(route.host, "tls-only")


def _route_row(host: str, kind: str, **more: object) -> Json:
    """``tls-only``: the host's TLS is passed through, and requests in the clear get no answer."""
    row: Json = {
        "host": host,
        "kind": kind,
        "context_root": "/",
        "rewrite": False,
        "services": [],
        "policy": None,
        "location": None,
    }
    return row | more


def _list(name: str, rows: Iterable[Pieces]) -> Pieces:
    yield f'{{"{name}": ['
    for count, row in enumerate(rows):
        if count:
            yield ", "
        yield from row
    yield "]}"


def _text(row: Json) -> str:
    return json.dumps(row)
