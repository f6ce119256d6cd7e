"""What is held for each set of names, and when something has to be done about it: pure.

    Holding    a certificate, or the attempts to get one; kept as one record
    Account    ours at the authority
    Pause      failures that concern all orders alike

There is one holding for each set of names that a service has, whatever the service is called: so
several services with the same hosts share one, and one that comes back finds its certificate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from stickyproxy.base.errors import OrderFailed
from stickyproxy.model.service import ServiceSpec
from stickyproxy.providers.acme.authority import ChallengeAnswer, Issued
from stickyproxy.providers.acme.keys import validity

DAY = 86400.0
MAX_NAMES = 100
"""Names in one certificate: the limit of Let's Encrypt."""
KEPT = 7 * DAY
"""Seconds that a certificate is kept which no service needs any more."""
ORDER_LEASE = 180.0
"""Seconds after which an order counts as abandoned by the process that placed it."""
SPREAD = 0.05
"""Part of their lifetime over which renewals are spread."""

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pace:
    """How soon an order that failed is tried again, in seconds."""

    first: float = 60.0
    factor: float = 3.0
    """With these two, five attempts are made within an hour, which is how many failed checks of a
    name Let's Encrypt forgives in that time."""
    longest: float = DAY

    def pause(self, failures: int, retry_after: float, fraction: float) -> float:
        """After so many failures in a row. At least as long as the authority asked for.
        ``fraction`` of it, from 0 to 1, says how much earlier, up to a tenth: so that those who
        failed together do not try together again."""
        pause = min(self.longest, self.first * self.factor ** min(failures - 1, 32))
        return max(retry_after, pause * (1 - 0.1 * fraction))


@dataclass(frozen=True, slots=True)
class Holding:
    """What there is for one set of names. Times are Unix time."""

    names: Names
    chain: str = ""
    """PEM; empty: no certificate has been issued yet."""
    key: str = ""
    failures: int = 0
    """In a row."""
    retry_at: float = 0.0
    """Not before then is it ordered again."""
    error: str = ""
    """Why the last order failed; empty: it did not."""
    unused_since: float = 0.0
    """0: a service needs it."""
    ordered_by: str = ""
    """The process that is at it; empty: none is."""
    ordered_until: float = 0.0
    """Then it has given up."""
    answers: tuple[ChallengeAnswer, ...] = ()
    """To challenges of tls-alpn-01."""

    def ordered(self, process: str, now: float) -> Holding:
        """A process is at it."""
        return replace(
            self, ordered_by=process, ordered_until=now + ORDER_LEASE, unused_since=0.0, answers=()
        )

    def let_go(self) -> Holding:
        """No process is at it."""
        return replace(self, ordered_by="", ordered_until=0.0, answers=())

    def issued(self, issued: Issued) -> Holding:
        """With the certificate that has been ordered, and nothing else."""
        return Holding(self.names, issued.chain, issued.key)

    def failed(self, error: OrderFailed, now: float, pace: Pace) -> Holding:
        """After an order that failed; what there is stays."""
        failures = self.failures + 1
        pause = pace.pause(failures, error.retry_after, fraction(self.names))
        return Holding(
            names=self.names,
            chain=self.chain,
            key=self.key,
            failures=failures,
            retry_at=now + pause,
            error=str(error),
        )

    def holds(self, now: float) -> bool:
        """Whether there is a certificate that has not expired."""
        return bool(self.chain) and now < validity(self.chain).ends

    def renew_at(self) -> float:
        """When a third of the lifetime is left, or a little earlier; 0 without a certificate."""
        if not self.chain:
            return 0.0
        valid = validity(self.chain)
        life = valid.ends - valid.begins
        return valid.ends - life * (1 / 3 + SPREAD * fraction((self.chain,)))

    def is_ordered(self, now: float) -> bool:
        """Whether some process is at it."""
        return bool(self.ordered_by) and now < self.ordered_until


@dataclass(frozen=True, slots=True)
class Account:
    """Ours at an authority."""

    key: str
    """PEM."""
    url: str = ""
    """Empty: it has not been registered yet."""


@dataclass(frozen=True, slots=True)
class Pause:
    """The authority cannot be asked, or refuses whatever it is asked for."""

    failures: int = 0
    retry_at: float = 0.0
    error: str = ""

    def failed(self, error: OrderFailed, now: float, pace: Pace) -> Pause:
        """After one more; several at a time count as one."""
        if now < self.retry_at:
            return self
        failures = self.failures + 1
        pause = pace.pause(failures, error.all_after or 0.0, fraction((str(now),)))
        return Pause(failures, now + pause, str(error))


# --- records --------------------------------------------------------------------------------------

T = TypeVar("T", Holding, Account, Pause)


def encoded(kept: Holding | Account | Pause) -> bytes:
    """As it is written."""
    return json.dumps(asdict(kept), separators=(",", ":")).encode()


def decoded(kind: type[T], data: bytes) -> T:
    """The inverse; what another version wrote besides is passed over. Raises ValueError."""
    try:
        found = json.loads(data)
        values: dict[str, Any] = {
            each.name: found[each.name] for each in fields(kind) if each.name in found
        }
        if kind is Holding:
            values["names"] = tuple(map(str, values["names"]))
            values["answers"] = tuple(ChallengeAnswer(**each) for each in values.get("answers", ()))
            if values.get("chain"):
                validity(values["chain"])
        return kind(**values)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a record: {error!r}") from error


def fraction(parts: Iterable[str]) -> float:
    """From 0 to 1, the same in all processes for the same text: jitter that needs no store."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


# --- what services need ---------------------------------------------------------------------------


def wanted(services: Iterable[ServiceSpec]) -> dict[Names, list[str]]:
    """The sets of names that certificates are needed for, and the names of the services."""
    found: dict[Names, list[str]] = {}
    for service in services:
        if service.acme and not unfit(service):
            found.setdefault(tuple(sorted(service.hosts)), []).append(service.name)
    return found


def unfit(service: ServiceSpec) -> str:
    """Why no certificate can be ordered for a service; empty: one can."""
    wild = [host for host in service.hosts if host.startswith("*.")]
    numeric = [
        host for host in service.hosts if host.startswith("[") or host.replace(".", "").isdigit()
    ]
    if not service.hosts:
        return (
            "has no host that a certificate could be for: name its hosts, since default_backend "
            "stands for any"
        )
    if wild:
        return (
            f"no certificate is ordered for {wild[0]}, nor for its other hosts: for a wildcard "
            "authorities ask for a record in the DNS (dns-01), which stickyproxy cannot set; "
            "name the hosts one by one, or use a certificate of your own"
        )
    if numeric:
        return f"no certificate is ordered for {numeric[0]}: it is an address, not a name"
    if len(service.hosts) > MAX_NAMES:
        return (
            f"has {len(service.hosts)} hosts, and one certificate takes {MAX_NAMES} at most: "
            "split it into several services"
        )
    return ""


# --- what to do -----------------------------------------------------------------------------------


def shown(
    needed: Iterable[Names], holdings: Mapping[Names, Holding], now: float
) -> Iterator[tuple[Holding, Names]]:
    """Which certificates are shown for which hosts: for the hosts of a service the one that is for
    just these; until there is one, an older one that has some of them."""
    needed = sorted(needed)
    missing = dict.fromkeys(host for names in needed for host in names)
    for names in needed:
        holding = holdings.get(names)
        if holding is not None and holding.chain:
            yield holding, names
            for host in names:
                missing.pop(host, None)
    others = [
        holdings[names] for names in holdings.keys() - {*needed} if holdings[names].holds(now)
    ]
    for other in sorted(others, key=lambda each: (-validity(each.chain).ends, each.names)):
        if hosts := tuple(host for host in other.names if host in missing):
            yield other, hosts
            for host in hosts:
                del missing[host]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is due."""

    order: tuple[Names, ...]
    wake_at: float
    """When something will be."""
    moving: bool
    """Whether something is under way, here or in another process: whoever shares the store should
    look at it often."""


def plan(
    needed: Iterable[Names],
    holdings: Mapping[Names, Holding],
    pause: Pause,
    advised: Mapping[Names, float],
    now: float,
) -> Plan:
    """What to do now. ``advised``: when the authority wants certificates to be renewed. While it
    cannot be asked, or refuses everything, one order at a time finds out whether that is over."""
    due: list[Names] = []
    wake_at, moving = now + DAY, False
    for names in sorted(needed):
        holding = holdings.get(names) or Holding(names)
        if holding.is_ordered(now):
            moving = True
            wake_at = min(wake_at, holding.ordered_until)
            continue
        begins = min(holding.renew_at(), advised.get(names, holding.renew_at()))
        begins = max(begins, holding.retry_at, pause.retry_at)
        if begins <= now:
            due.append(names)
        else:
            wake_at = min(wake_at, begins)
    if pause.failures:
        due = [] if moving else due[:1]
    return Plan(tuple(due), wake_at, moving or bool(due))
