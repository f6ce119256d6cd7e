"""CONTROL: the certificates of all snapshots, side by side: which one counts, and what is wrong.

Pure. What is wrong with a single one is found where it is read (``config.certificates``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import Any

from stickyproxy.config.validity import SELF_MADE, covers, dates, is_valid, needs_renewal
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.model.tls import Certificate

_SERVICES, _FILES, _ACME = "static", "certificates", "acme"
"""Names of providers."""


def preferred(snapshots: Iterable[Snapshot], now: float) -> list[Certificate]:
    """All certificates, that which is preferred first: those that are valid ``now`` (Unix time in
    seconds); of these all but the self-made one; then those in files of this proxy; then those of
    labels before those of ACME; of these the one that is valid for longest, and then the first by
    name. So what was asked for by name comes before what comes by itself, unless it has expired."""
    found = [(snapshot.provider, each) for snapshot in snapshots for each in snapshot.certificates]

    def rank(item: tuple[str, Certificate]) -> tuple[object, ...]:
        provider, certificate = item
        return (
            not is_valid(certificate, now),
            certificate.name == SELF_MADE,
            provider != _FILES,
            provider == _ACME,
            -(certificate.expires or inf),
            certificate.name,
        )

    return [certificate for _, certificate in sorted(found, key=rank)]


def problems(snapshots: Iterable[Snapshot], now: float) -> Iterator[Problem]:
    """Of the certificates by themselves: dates, and what some clients will not like."""
    by_name = {each.name: each for _, each in _shown(snapshots)}
    for name, certificate in sorted(by_name.items()):
        if reason := dates(certificate, now):
            yield Problem("", reason, certificate=name, fatal=not is_valid(certificate, now))
        if certificate.caveat:
            yield Problem("", certificate.caveat, certificate=name)


def expiring(snapshots: Iterable[Snapshot], now: float) -> dict[tuple[str, str], float]:
    """When certificates expire of which ``problems`` says that they do, by their name and what it
    says."""
    return {
        (each.name, dates(each, now)): each.expires
        for _, each in _shown(snapshots)
        if needs_renewal(each, now)
    }


def mismatches(snapshots: Sequence[Snapshot]) -> Iterator[Problem]:
    """Hosts without a certificate, and certificates in files without a host. Neither is an error:
    not every host has to be served over TLS. Nothing is missing before the file has been read."""
    if not {_SERVICES, _FILES} <= {snapshot.provider for snapshot in snapshots}:
        return
    services = [service for snapshot in snapshots for service in snapshot.services]
    shown = list(_shown(snapshots))
    certified = {host for _, certificate in shown for host in certificate.hosts}
    for service in services:
        if service.ssl_passthrough or service.acme:
            continue  # its endpoints have certificates; ACME says why it has none
        bare = [host for host in _hosts([service]) if not covers(certified, host)]
        if bare:
            yield Problem(
                service.name,
                f"no certificate is for {_listed(bare)}: clients that use https are shown the "
                "default one, and warned",
            )
    if any(service.default_backend for service in services):
        return  # any host is published
    hosts = _Hosts(services)
    for_everybody = {certificate.name for _, certificate in shown if not certificate.hosts}
    for provider, certificate in shown:
        if provider != _FILES or certificate.name in for_everybody:
            continue
        if not any(hosts.have(name) for name in certificate.hosts):
            yield Problem(
                "",
                f"is for {_listed(certificate.hosts)}, where no service is published: correct the "
                "hosts of the service that it is meant for, or remove it",
                certificate=certificate.name,
            )


def _shown(snapshots: Iterable[Snapshot]) -> Iterator[tuple[str, Certificate]]:
    """(provider, certificate) of those that are not there for a challenge."""
    for snapshot in snapshots:
        for certificate in snapshot.certificates:
            if not certificate.challenge:
                yield snapshot.provider, certificate


class _Hosts:
    """The hosts of services, as certificates see them."""

    def __init__(self, services: Iterable[ServiceSpec]) -> None:
        self._names = set(_hosts(services))
        self._parents = {name.partition(".")[2] for name in self._names}

    def have(self, name: str) -> bool:
        """True if one of them is the name in a certificate, or what its wildcard stands for, or the
        other way round; wildcards of services stand for any number of labels."""
        if name in self._names or (name.startswith("*.") and name[2:] in self._parents):
            return True
        parent = name.removeprefix("*.").partition(".")[2]
        while parent:
            if f"*.{parent}" in self._names:
                return True
            parent = parent.partition(".")[2]
        return False


def _hosts(services: Iterable[ServiceSpec]) -> list[str]:
    """Those of services and of the redirects to them."""
    return [
        host
        for service in services
        for host in (*service.hosts, *(source for source, _ in service.redirects))
    ]


def _listed(hosts: Sequence[str]) -> str:
    more = f" and {len(hosts) - 5} more" if len(hosts) > 5 else ""
    return ", ".join(hosts[:5]) + more


def rows(snapshots: Iterable[Snapshot], now: float) -> list[dict[str, Any]]:
    """One row for each certificate that clients may be shown, by name; ready for JSON. Times are in
    seconds."""
    found = [
        {
            "certificate": certificate.name,
            "provider": provider,
            "hosts": list(certificate.hosts) or ["(any)"],
            "begins": certificate.begins,
            "expires": certificate.expires,
            "valid": is_valid(certificate, now),
        }
        for provider, certificate in _shown(snapshots)
    ]
    return sorted(found, key=lambda row: (str(row["certificate"]), row["hosts"]))
