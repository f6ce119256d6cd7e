"""Host names that stand for several addresses: what they resolve to, and what becomes of an address
that is no longer among them.

``look_up`` asks the system's resolver, so that ``/etc/hosts`` and Docker's own DNS count; it tells
no TTL. All else is pure.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ProviderError


def look_up(host: str) -> tuple[str, ...]:
    """The IP addresses of a host, IPv4 first, sorted; only of families that this machine has an
    address of. Blocks; raises ProviderError."""
    try:
        flags = socket.AI_ADDRCONFIG
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=flags)
    except OSError as error:
        raise ProviderError(error.strerror or str(error)) from error
    except UnicodeError as error:  # no DNS name, though a host name as far as we are concerned
        raise ProviderError(str(error)) from error
    # One with a zone is valid on one link only, and getaddrinfo names that by a number.
    texts = {str(sockaddr[0]) for *_, sockaddr in found}
    addresses = [ip_address(text) for text in texts if "%" not in text]
    if not addresses:
        raise ProviderError("it has link-local addresses only")
    ordered = sorted(addresses, key=lambda address: (address.version, address.packed))
    return tuple(map(str, ordered))


def name_in(address: str) -> str:
    """The host name in the address of an endpoint that may stand for several addresses; empty if
    there is none: IP addresses, sockets and localhost are what they are."""
    host = Address.parse(address).host or ""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 6.3: always loopback
        return ""
    try:
        ip_address(host)
    except ValueError:
        return host
    return ""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a name resolves to, as far as is known."""

    addresses: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    """Those that the last answer was the first not to have: they drain until the next
    answer confirms that they are gone. A name with many addresses may give some at a time."""
    trouble: str = "the resolver has not answered yet"
    """Why the last attempt failed; empty: it did not."""

    def after(self, answer: Sequence[str]) -> Resolution:
        """With a new answer."""
        leaving = tuple(each for each in self.addresses if each not in answer)
        return Resolution(tuple(answer), leaving, "")

    def after_failure(self, trouble: str) -> Resolution:
        """Without one: what was known holds."""
        return Resolution(self.addresses, self.leaving, trouble)
