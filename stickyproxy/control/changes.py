"""CONTROL: what differs between two snapshots of a provider, as events."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from stickyproxy.model.events import EventKind, tell
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.model.tls import Certificate

MANY = 10
"""More endpoints of a service that come or go at once are told together."""


def tell_changes(before: Snapshot, after: Snapshot) -> None:
    """Tell what has joined, left, or begins to drain, and which certificates are new."""
    old = {service.name: service for service in before.services}
    new = {service.name: service for service in after.services}
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            _tell_endpoints(name, _endpoints(old.get(name)), _endpoints(new.get(name)))
    if before.certificates != after.certificates:
        _tell_certificates(before.certificates, after.certificates)


def tell_problem(problem: Problem, expires: float | None) -> None:
    """There is a problem that was not there before. ``expires``: it is about a certificate that
    soon does, or did, then; None: it is not."""
    level = logging.ERROR if problem.fatal else logging.WARNING
    text, about = str(problem), _about(problem)
    if expires is None:
        tell(EventKind.PROBLEM_FOUND, text, level=level, **about, remedy=problem.remedy)
    else:
        tell(EventKind.CERTIFICATE_EXPIRING, text, level=level, **about, expires=expires)


def tell_resolved(problem: Problem) -> None:
    """There no longer is."""
    tell(EventKind.PROBLEM_RESOLVED, f"resolved: {problem}", **_about(problem))


def _about(problem: Problem) -> dict[str, Any]:
    return {
        "service": problem.service or None,
        "certificate": problem.certificate or None,
        "reason": problem.reason,
    }


def _endpoints(service: ServiceSpec | None) -> Mapping[str, EndpointSpec]:
    if service is None:
        return {}
    return {spec.id: service.settled(spec) for spec in service.endpoints}


def _tell_endpoints(
    service: str, old: Mapping[str, EndpointSpec], new: Mapping[str, EndpointSpec]
) -> None:
    left = [spec for id_, spec in old.items() if id_ not in new]
    joined = [spec for id_, spec in new.items() if id_ not in old]
    stayed = [(old[id_], spec) for id_, spec in new.items() if id_ in old]
    draining = [spec for before, spec in stayed if _drains(spec) and not _drains(before)]
    back = [spec for before, spec in stayed if _drains(before) and not _drains(spec)]
    _tell_of(EventKind.ENDPOINT_LEFT, "leaves", service, left)
    _tell_of(EventKind.ENDPOINT_JOINED, "joins", service, joined)
    _tell_of(EventKind.ENDPOINT_DRAINING, "drains", service, draining)
    _tell_of(EventKind.ENDPOINT_BACK, "is back", service, back)


def _drains(spec: EndpointSpec) -> bool:
    return spec.draining or spec.admin_state != "ready"


def _tell_of(kind: EventKind, verb: str, service: str, specs: Sequence[EndpointSpec]) -> None:
    if len(specs) > MANY:
        verb = "are back" if verb == "is back" else verb.removesuffix("s")
        text = f"service {service}: {len(specs)} endpoints {verb}"
        tell(kind, text, service=service, count=len(specs))
        return
    for spec in specs:
        text = f"service {service}: endpoint {spec.address} {verb}"
        tell(kind, text, service=service, endpoint=spec.id, address=spec.address)


def _tell_certificates(old: Iterable[Certificate], new: Iterable[Certificate]) -> None:
    """Of those of one name, whose end is another."""
    ends = {each.name: each.expires for each in old if not each.challenge}
    shown = [each for each in new if each.expires and not each.challenge]
    for each in shown:
        if ends.get(each.name, each.expires) != each.expires:
            until = datetime.fromtimestamp(each.expires, UTC).strftime("%Y-%m-%d")
            text = f"certificate {each.name}: a new one is shown, valid until {until}"
            tell(EventKind.CERTIFICATE_RENEWED, text, certificate=each.name, expires=each.expires)
