"""What a provider publishes: the whole state of its services, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass

from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.tls import Certificate


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about a service or a certificate that its owner should know. All text is safe to
    print."""

    service: str
    reason: str
    """A sentence that names the value and how to fix it."""
    label: str = ""
    """The label it is about; empty if it is about none."""
    value: str = ""
    """The value of that label, quoted; empty if there is none."""
    remedy: str = ""
    """A command that fixes it; empty if there is none."""
    fatal: bool = False
    """True if because of it the service is not published as declared."""
    partial: bool = False
    """True if because of it one of its hosts is missing, and nothing else."""
    certificate: str = ""
    """The name of the certificate that it is about, if it is about none of the services, whose name
    is empty then."""

    def __str__(self) -> str:
        whom = f"certificate {self.certificate}" if self.certificate else f"service {self.service}"
        about = f"{whom}: {self.label}".removesuffix(": ")
        end = f" (try: {self.remedy})" if self.remedy else ""
        return f"{about}: {self.reason}{end}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole state of one provider at one moment."""

    provider: str
    services: tuple[ServiceSpec, ...]
    problems: tuple[Problem, ...] = ()
    realm: str = ""
    """What all proxies that see these services have in common, e.g. the Swarm's id: pins are
    made from it where no secret is configured."""
    certificates: tuple[Certificate, ...] = ()
    """Those that clients are shown."""
    acme_thumbprints: tuple[str, ...] = ()
    """Thumbprints (RFC 7638) of ACME accounts: all that it takes to answer http-01."""
