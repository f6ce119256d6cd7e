"""What was found, for people and programs: services, how they are published, and what is wrong.

Pure: from snapshots to rows, from rows to text.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from stickyproxy.model.health import Outage
from stickyproxy.model.service import EndpointKey, EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.routing.balancers import OPTIONS, policy_for
from stickyproxy.routing.builder import DEFAULT_HOST
from stickyproxy.routing.endpoint import Endpoint, EndpointState, declared_facts, state_of
from stickyproxy.routing.sessions import Remains
from stickyproxy.routing.table import RoutingTable

Json = dict[str, Any]
StateOf = Callable[[str, EndpointSpec], str]
"""The state of an endpoint of a service, in a few words."""
OutageOf = Callable[[EndpointKey], Outage | None]
"""Why an endpoint is out; None: it is not, as far as is known here."""
RemainsOf = Callable[[EndpointKey], Remains | None]
"""What an endpoint still has that an operator wants to be empty; None: that is not known yet."""


NOT_REACHABLE = "not reachable"
"""The state of an endpoint that may be used, but has never taken a connection."""


MAINTENANCE = "maintenance"
"""The state of an endpoint that is down because an operator wants it to be."""


def declared_state(_service: str, endpoint: EndpointSpec) -> str:
    """The state of an endpoint as its provider and the operator see it."""
    facts = declared_facts(endpoint)
    return MAINTENANCE if facts.in_maintenance else state_of(facts).value


def states_in(table: RoutingTable) -> StateOf:
    """The states of endpoints as a table has them."""
    live = {
        (endpoint.service, endpoint.id): _live_state(endpoint)
        for cluster in table.clusters()
        for endpoint in cluster.endpoints
    }

    def live_state(service: str, spec: EndpointSpec) -> str:
        return live.get((service, spec.id)) or declared_state(service, spec)

    return live_state


def _live_state(endpoint: Endpoint) -> str:
    if endpoint.facts.in_maintenance:
        return MAINTENANCE
    if endpoint.unreached and endpoint.state is EndpointState.USABLE:
        return NOT_REACHABLE
    return endpoint.state.value


def rows(
    snapshots: Iterable[Snapshot],
    problems: Iterable[Problem],
    state_of: StateOf = declared_state,
    outage_of: OutageOf = lambda _: None,
) -> list[Json]:
    """One row for each service that is published or has a problem, and for each certificate that
    has one, by name; ready for JSON."""
    problems_of: dict[str, list[Problem]] = {}
    of_certificates: dict[str, list[Problem]] = {}
    for problem in problems:
        if problem.certificate:
            of_certificates.setdefault(problem.certificate, []).append(problem)
        else:
            problems_of.setdefault(problem.service, []).append(problem)
    found = [_certificate_row(*each) for each in of_certificates.items()]
    for snapshot in snapshots:
        for service in snapshot.services:
            about = problems_of.pop(service.name, [])
            found.append(
                _row(snapshot.provider, service, about, _endpoints(service, state_of, outage_of))
            )
    for name, about in problems_of.items():
        state = "not published" if concerns_services(about) else "the proxies' own"
        found.append({"service": name, "state": state, "problems": problem_rows(about)})
    return sorted(found, key=lambda row: str(row["service"]))


def concerns_services(problems: Iterable[Problem]) -> bool:
    """Whether they are about a service that somebody wants to be published: those about the
    proxies' own service concern no label, and are never fatal."""
    return any(problem.label or problem.fatal for problem in problems)


def _certificate_row(name: str, problems: Sequence[Problem]) -> Json:
    state = "refused" if any(problem.fatal for problem in problems) else "usable"
    return {
        "service": f"(certificate {name})",
        "state": state,
        "problems": problem_rows(problems),
    }


def out_of_touch(provider: str, trouble: str) -> Json:
    """A row for a provider that has lost contact with its source."""
    problem = Problem("", trouble, fatal=True)
    return {
        "service": f"({provider})",
        "state": "out of touch",
        "problems": problem_rows([problem]),
    }


def _row(
    provider: str,
    service: ServiceSpec,
    problems: Sequence[Problem],
    endpoints: Sequence[Json],
) -> Json:
    return {
        "service": service.name,
        "provider": provider,
        "hosts": hosts_of(service),
        "context_root": service.context_root,
        "policy": policy_for(service).describe(),
        "tls": service.tls.describe() if service.tls else "",
        "state": service_state(endpoints, problems),
        "endpoints": endpoints,
        "problems": problem_rows(problems),
    }


def _endpoints(service: ServiceSpec, state_of: StateOf, outage_of: OutageOf) -> list[Json]:
    rows: list[Json] = []
    for spec in map(service.settled, service.endpoints):
        row = {"id": spec.id, "address": spec.address, "state": state_of(service.name, spec)}
        if outage := outage_of((service.name, spec.id)):
            row["reason"] = outage.reason
            row["since"] = _time(outage.since)
            if outage.until is not None:
                row["until"] = _time(outage.until)
        rows.append(row)
    return rows


def upkeep_row(
    service: str, spec: EndpointSpec, remains_of: RemainsOf, idle: float, now: float
) -> Json:
    """What is wanted of an endpoint and what it still has; a session is over that had no request
    for ``idle`` seconds. ``now``: by the monotonic clock."""
    row: Json = {
        "service": service,
        "id": spec.id,
        "address": spec.address,
        "node": spec.node,
        "admin_state": spec.admin_state,
        "sessions": None,
        "busy": None,
        "quiet": None,
        "empty": False,
    }
    remains = None if spec.admin_state == "ready" else remains_of((service, spec.id))
    if remains is not None:
        quiet = remains.sessions.quiet(now)
        row["sessions"] = remains.sessions.count(idle, now)
        row["busy"] = remains.busy
        row["quiet"] = round(quiet, 3)
        over = spec.admin_state == "maintenance" or quiet >= idle
        row["empty"] = over and not remains.busy
    return row


def _time(seconds: float) -> str:
    """A Unix time as RFC 3339 has it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def hosts_of(service: ServiceSpec) -> list[str]:
    """Where it is published, as people write it."""
    return [*service.hosts, *([DEFAULT_HOST] if service.default_backend else [])]


def service_state(endpoints: Sequence[object], problems: Sequence[Problem]) -> str:
    """The state of a service in a few words."""
    broken = [problem for problem in problems if problem.fatal]
    whole = [problem for problem in broken if not problem.partial]
    if not endpoints:
        return "not reachable" if whole else "no endpoint"
    if broken and not whole:
        return "published in part"
    if broken:
        return "published by its last good labels"
    return "published"


def problem_rows(problems: Iterable[Problem]) -> list[Json]:
    """Ready for JSON."""
    return [
        {
            "label": problem.label,
            "value": problem.value,
            "reason": problem.reason,
            "remedy": problem.remedy,
            "fatal": problem.fatal,
        }
        for problem in problems
    ]


def has_errors(found: Iterable[Mapping[str, Any]]) -> bool:
    """True if a provider is out of touch, a service is not published as
    declared, or a certificate is refused, by us or by clients."""
    return any(problem["fatal"] for row in found for problem in row["problems"])


def as_text(found: Iterable[Mapping[str, Any]]) -> str:
    """The rows for a terminal."""
    return "\n".join(line for row in found for line in _lines(row)) or "(no services)"


def _lines(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{row['service']}: {row['state']}"
    if "hosts" in row:
        root = row["context_root"]
        places = ", ".join(host if root == "/" else host + root for host in row["hosts"])
        yield f"  hosts      {places or '(none)'}"
        yield f"  policy     {row['policy']}"
        if tls := row.get("tls"):  # a controller of another version may not tell
            yield f"  tls        to endpoints, {tls}"
        yield f"  endpoints  {_counted(row['endpoints'])}"
        yield from _outages(row["endpoints"])
    for problem in row["problems"]:
        about = " ".join(part for part in (problem["label"], problem["reason"]) if part)
        yield f"  {'error' if problem['fatal'] else 'warning':9}  {about}"
        if problem["remedy"]:
            yield f"  try        {problem['remedy']}"


def _outages(endpoints: Sequence[Mapping[str, str]]) -> Iterator[str]:
    out = [endpoint for endpoint in endpoints if "reason" in endpoint]
    for each in out[:20]:
        until = f" until {each['until']}" if "until" in each else ""
        yield f"  out        {each['address']} since {each['since']}{until}: {each['reason']}"
    if len(out) > 20:
        yield f"  out        and {len(out) - 20} more"


def _counted(endpoints: Sequence[Mapping[str, str]]) -> str:
    usable = sum(endpoint["state"] == "usable" for endpoint in endpoints)
    shown = [
        endpoint["address"] + ("" if endpoint["state"] == "usable" else f" ({endpoint['state']})")
        for endpoint in endpoints[:20]
    ]
    more = [f"and {len(endpoints) - 20} more"] if len(endpoints) > 20 else []
    return f"{usable}/{len(endpoints)} usable" + (": " if shown else "") + ", ".join(shown + more)


# --- what only shows when services come together --------------------------------------------


def without_tls(services: Iterable[ServiceSpec]) -> Iterator[Problem]:
    """Services that clients are to reach over TLS, which nobody speaks."""
    for service in services:
        if service.ssl_only:
            label, reason = "ssl_only", "redirects clients to https"
        elif service.ssl_passthrough:
            label, reason = "ssl_passthrough", "leaves TLS to its endpoints"
        elif service.client_auth is not None and service.client_auth.required:
            label, reason = "client_ca", "asks clients for certificates"
        elif service.acme:
            label, reason = "", "has certificates ordered by ACME"
        else:
            continue
        reason += ", but no listener speaks TLS: give one of [[listeners]] tls = true"
        yield Problem(service.name, reason, label=label)


def client_auths(services: Iterable[ServiceSpec]) -> Iterator[Problem]:
    """Services that ask clients of one host for certificates in different ways. Clients are asked
    before they say which path they want: as the one with the longest context root has it."""
    asking: dict[str, ServiceSpec] = {}
    ordered = sorted(services, key=lambda each: (-len(each.context_root), each.context_root))
    for service in ordered:
        for host in service.hosts if service.client_auth is not None else ():
            first = asking.setdefault(host, service)
            if first.client_auth != service.client_auth:
                reason = (
                    f"asks for client certificates in another way than {first.name} does, which "
                    f"has {host} too: its requests are answered with 421; give both the same "
                    "client_ca and client_certificates"
                )
                yield Problem(service.name, reason, label="client_ca")


def not_ordered(services: Iterable[ServiceSpec], accounts: Container[str]) -> Iterator[Problem]:
    """Services whose certificates nobody orders. ``accounts``: the hosts for which somebody
    does."""
    for service in services:
        if service.acme and service.hosts and not any(host in accounts for host in service.hosts):
            yield Problem(
                service.name,
                "asks for a certificate by ACME, and nobody orders one: write [acme] into the "
                "configuration of the proxy, or of the controller if there is one",
                fatal=True,
                partial=True,
            )


def conflicts(services: Iterable[ServiceSpec]) -> Iterator[Problem]:
    """Services that share a place without having said so, or that ask for different things there:
    their endpoints are merged, and what holds is what the first by name says. Where TLS is passed
    through to one and not to another, it is."""
    by_place: dict[tuple[str, str, bool], list[ServiceSpec]] = {}
    ordered = sorted(services, key=lambda service: service.name)
    for service in ordered:
        for host in hosts_of(service):
            place = host, service.context_root, service.ssl_passthrough
            by_place.setdefault(place, []).append(service)
    reported: set[tuple[str, str]] = set()
    for (host, root, _), (first, *others) in by_place.items():
        where = host if root == "/" else host + root
        for other in others:
            overruled = _overruled(first, other)
            meant = first.share and other.share
            if (overruled or not meant) and (first.name, other.name) not in reported:
                reported.add((first.name, other.name))
                reason = f"shares {where} with service {first.name}"
                if overruled:
                    reason += f", whose {overruled}: give both the same"
                else:
                    reason += ": requests go to the endpoints of both"
                if not meant:
                    reason += "; if that is meant, set share to true on both"
                yield Problem(other.name, reason)
    yield from _passed_through(ordered)
    taken = {host for host, _, _ in by_place}
    for service in ordered:
        for source, _ in service.redirects:
            if source in taken:
                reason = f"redirects {source}, where a service is published: it has no effect"
                yield Problem(service.name, reason)


def _passed_through(services: Sequence[ServiceSpec]) -> Iterator[Problem]:
    """Services on a host whose TLS another one has."""
    holders = {
        host: service
        for service in reversed(services)
        if service.ssl_passthrough
        for host in service.hosts
    }
    for service in services:
        lost = [host for host in service.hosts if host in holders]
        if lost and not service.ssl_passthrough:
            holder = holders[lost[0]].name
            reason = (
                f"is published on {', '.join(lost)}, whose TLS is passed through to service "
                f"{holder}: it is served in the clear alone, and TLS goes to {holder}. Give one of "
                "the two another host"
            )
            yield Problem(service.name, reason)


def _overruled(first: ServiceSpec, other: ServiceSpec) -> str:
    """What of ``first`` holds where ``other`` says something else; empty: they agree."""
    policies = policy_for(first), policy_for(other)
    holds, own = (policy.describe() for policy in policies)
    if holds != own:
        return f"policy ({holds}) holds for both, not its own ({own})"
    differing = []
    if first.context_root != "/" and first.context_root_rewrite != other.context_root_rewrite:
        differing.append("context_root_rewrite")
    asked, other_asked = (policy.options() for policy in policies)
    differing += [name for name in OPTIONS if asked.get(name) != other_asked.get(name)]
    if _as_set(first.websocket_endpoints) != _as_set(other.websocket_endpoints):
        differing.append("websocket_endpoints")
    verb = "holds" if len(differing) == 1 else "hold"
    return f"{' and '.join(differing)} {verb} for both, not its own" if differing else ""


def _as_set(paths: Sequence[str] | None) -> frozenset[str] | None:
    return None if paths is None else frozenset(paths)
