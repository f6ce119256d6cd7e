"""Which address is the client's when there are other proxies in front of this one."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network


class TrustedProxies:
    """The peers whose X-Forwarded-* fields are believed."""

    def __init__(self, networks: Iterable[Network] = (), *, unix: bool = False) -> None:
        self._networks = tuple(networks)
        self._unix = unix

    def trusts(self, address: str) -> bool:
        """True for an address inside the networks; the empty address is a unix socket."""
        if not address:
            return self._unix
        ip = _parse_ip(address)
        return ip is not None and any(ip in network for network in self._networks)

    def client_of(self, forwarded_for: str, peer: str) -> str:
        """The client's address: the rightmost of ``forwarded_for`` + peer that is not a trusted
        proxy. Anything further left was written by the client itself."""
        client = peer
        for hop in reversed(forwarded_for.split(",")):
            address = _address_of_hop(hop)
            if address is None:
                break
            client = address
            if not self.trusts(address):
                break
        return client


def _address_of_hop(hop: str) -> str | None:
    """An X-Forwarded-For element as a plain IP address; some proxies append a port. A zone means
    nothing here, and may be any text."""
    hop = hop.strip()
    for candidate in (hop, hop.partition("]")[0].lstrip("["), hop.rpartition(":")[0]):
        if _parse_ip(candidate) is not None:
            return candidate.partition("%")[0]
    return None


def _parse_ip(address: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip
