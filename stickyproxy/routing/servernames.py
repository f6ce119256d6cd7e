"""Which TLS connections are passed through unread, by their server name (SNI)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from stickyproxy.routing.cluster import Cluster


class ServerNames:
    """The clusters whose endpoints speak TLS with clients themselves. The most specific name
    decides: a host that is served here is not passed through by a wildcard above it."""

    def __init__(self, passed: Mapping[str, Cluster], served: Iterable[str]) -> None:
        """``passed``: by host, ``*.example.com`` being a wildcard. ``served``: hosts whose TLS ends
        here; of one that is in both it ends at the endpoint."""
        self._passed = passed
        owners: dict[str, Cluster | None] = {**dict.fromkeys(served), **passed}
        self._hosts = {host: owners[host] for host in owners if not host.startswith("*.")}
        self._wildcards = {host[2:]: owners[host] for host in owners if host.startswith("*.")}
        """By the part after ``*.``."""

    def cluster(self, name: str) -> Cluster | None:
        """Whose endpoints a connection for ``name`` (lower case, no trailing dot) belongs to; None
        if its TLS ends here."""
        if name in self._hosts:
            return self._hosts[name]
        _, dot, parent = name.partition(".")
        while dot:
            if parent in self._wildcards:
                return self._wildcards[parent]
            _, dot, parent = parent.partition(".")
        return None

    def clusters(self) -> Iterator[tuple[str, Cluster]]:
        """Hosts and their clusters, by host."""
        for host in sorted(self._passed):
            yield host, self._passed[host]

    def __repr__(self) -> str:
        return f"<ServerNames {' '.join(sorted(self._passed))}>"
