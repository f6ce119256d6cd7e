"""Which services may have a host together: pure.

    same stack, or one of them in none   they share, and ``control/report.py`` warns of it
    different stacks                     only if both have com.docker.lb.share=true; else who was
                                         created first keeps the place, and the other one is not
                                         published there

A place is a host and a context root; where TLS is passed through, it is the whole host. All proxies
decide alike: by what the Swarm says, not by what they saw first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from stickyproxy.base.text import shown
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Problem
from stickyproxy.providers.engine import labels


@dataclass(frozen=True, slots=True)
class Claim:
    """A service that asks for places."""

    spec: ServiceSpec
    stack: str
    """Empty: it is in none."""
    created: str
    """When; later is greater."""

    def overlaps(self, other: Claim) -> bool:
        """Whether both ask for one place on a host that both name."""
        whole = self.spec.ssl_passthrough or other.spec.ssl_passthrough
        return whole or self.spec.context_root == other.spec.context_root

    def may_join(self, other: Claim) -> bool:
        """Whether both may have one place."""
        apart = self.stack and other.stack and self.stack != other.stack
        return not apart or (self.spec.share and other.spec.share)


def settle(claims: Iterable[Claim]) -> tuple[dict[str, ServiceSpec], list[Problem]]:
    """(services by name, each with the places that it gets; why some get fewer than they asked
    for)."""
    holders: dict[str, list[Claim]] = {}
    settled: dict[str, ServiceSpec] = {}
    problems: list[Problem] = []
    for claim in sorted(claims, key=lambda claim: (claim.created, claim.spec.name)):
        granted = set()
        for host in _hosts(claim.spec):
            there = holders.setdefault(host, [])
            refusing = [
                other for other in there if claim.overlaps(other) and not claim.may_join(other)
            ]
            if refusing:
                problems.append(_refused(claim, host, refusing))
            else:
                there.append(claim)
                granted.add(host)
        settled[claim.spec.name] = replace(
            claim.spec,
            hosts=tuple(host for host in claim.spec.hosts if host in granted),
            default_backend="" in granted,
        )
    return settled, problems


def _hosts(spec: ServiceSpec) -> Iterator[str]:
    """Empty: any other host."""
    yield from spec.hosts
    if spec.default_backend:
        yield ""


def _refused(claim: Claim, host: str, refusing: list[Claim]) -> Problem:
    holder, name = refusing[0], claim.spec.name
    root = claim.spec.context_root
    place = (host or "any other host") + ("" if root == "/" else root)
    lacking = [each.spec.name for each in (*refusing, claim) if not each.spec.share]
    remedy = " && ".join(
        f"docker service update --label-add {labels.PREFIX}share=true {each}" for each in lacking
    )
    reason = (
        f"asks for {place}, which service {holder.spec.name} of stack {holder.stack} had before: "
        f"it is not published there. Name another host, or set {labels.PREFIX}share=true on both "
        "if they are to share it"
    )
    label = labels.PREFIX + ("hosts" if host else "default_backend")
    return Problem(name, reason, label, shown(host or "true"), remedy, fatal=True, partial=True)
