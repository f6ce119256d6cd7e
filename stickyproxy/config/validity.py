"""For whom and when a certificate is valid, and how near its end is.

Pure, and apart from ``config.certificates``: whoever only looks at certificates, a worker above
all, need not load what it takes to read them.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from stickyproxy.model.tls import Certificate

SELF_MADE = "stickyproxy default certificate"
"""The name and the subject of the certificate that stickyproxy makes for want of another."""

_DAY = 24 * 3600.0
_NOTICE = 21 * _DAY
"""How long before its end a certificate ought to have been renewed, if a third of its lifetime is
not less."""


def covers(hosts: Collection[str], name: str) -> bool:
    """True if a certificate for ``hosts`` is one for the host ``name`` (RFC 6125 section 6.4.3): a
    wildcard stands for one label. ``*.example.com`` as a name means all names of one label."""
    return name in hosts or "*." + name.partition(".")[2] in hosts


def is_valid(certificate: Certificate, now: float) -> bool:
    """True if clients whose clock says ``now`` (Unix time in seconds) accept its dates."""
    return certificate.begins <= now and (not certificate.expires or now < certificate.expires)


def needs_renewal(certificate: Certificate, now: float) -> bool:
    """True if it expires in 21 days or less, or in a third of its lifetime if that is shorter; so
    too if it has expired."""
    if not certificate.expires:
        return False
    notice = min(_NOTICE, (certificate.expires - certificate.begins) / 3)
    return now >= certificate.expires - notice


def dates(certificate: Certificate, now: float) -> str:
    """What is wrong with its dates, as a sentence; empty: nothing."""
    if now < certificate.begins:
        return (
            f"is not valid before {_written(certificate.begins)}, and clients refuse it until "
            "then: check the clock of this machine, or wait"
        )
    if not needs_renewal(certificate, now):
        return ""
    if now < certificate.expires:
        return f"expires at {_written(certificate.expires)}: renew it"
    return f"expired at {_written(certificate.expires)}, and clients refuse it: renew it"


def _written(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")
