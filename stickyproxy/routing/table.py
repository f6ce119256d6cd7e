"""The routing table: immutable, and replaced as a whole.

    RoutingTable   host -> routes, longest context root first
    Route          host + context root -> cluster (or a redirect)
    Admit          what has to be fulfilled before a request takes a route
    Cluster        the live side of the services on a route: endpoints and balancer
    ServerNames    server name (SNI) -> cluster, where TLS is passed through

``builder.build`` makes it from service specs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from stickyproxy.base.errors import InvalidHost
from stickyproxy.model.edits import NO_EDITS
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.tls import ClientAuth
from stickyproxy.routing.admit import Admit
from stickyproxy.routing.cluster import Cluster
from stickyproxy.routing.endpoint import Endpoint, EndpointState, Facts
from stickyproxy.routing.servernames import ServerNames
from stickyproxy.semantics.edits import Edit
from stickyproxy.semantics.headers import normalise_host

ACME_PATH = b"/.well-known/acme-challenge/"
"""Where challenges of http-01 are asked for (RFC 8555 section 8.3)."""

_TOKEN = re.compile(rb"[A-Za-z0-9_-]{1,256}")
"""A token: base64url (RFC 8555 section 8.1), of a length that no CA exceeds."""


def challenge_token(target: bytes) -> bytes | None:
    """The token of the challenge of http-01 whose answer this target asks for (RFC 8555 section
    8.3); None: it is for something else, such as what dots and slashes lead to from there."""
    if not target.startswith(ACME_PATH):
        return None
    token = target[len(ACME_PATH) :]
    return token if _TOKEN.fullmatch(token) else None


class Route:
    """One context root of one host. ``cluster`` is None for a redirect, and where TLS is passed
    through, which is nothing for requests."""

    __slots__ = (
        "admit",
        "cluster",
        "compression",
        "error_page",
        "host",
        "redirect",
        "request_edit",
        "response_edit",
        "rewrite",
        "root",
        "secure_response_edit",
        "websocket_paths",
    )

    def __init__(self, host: str, services: Sequence[ServiceSpec], cluster: Cluster) -> None:
        """``services``: those that share it; where they differ, the first one counts."""
        service = services[0]
        self.host = host
        self.admit = Admit.of(services, cluster.limiters)
        """None: there is nothing to fulfil."""
        hsts = next((each.hsts for each in services if each.hsts), "")
        edits = service.edits or NO_EDITS
        self.request_edit = Edit.of(edits.request_set, edits.request_remove)
        """What is done with the fields of requests; this and the next two: None: nothing."""
        self.response_edit = Edit.of(edits.response_set, edits.response_remove)
        """And with those of responses in the clear."""
        strict = (("Strict-Transport-Security", hsts),) if hsts else ()
        self.secure_response_edit = Edit.of((*edits.response_set, *strict), edits.response_remove)
        """And with those of responses over TLS. What the service's options say of TLS counts, and
        not what its endpoints say: two fields would be one too many (RFC 6797 section 6.1)."""
        self.cluster: Cluster | None = cluster
        self.error_page = service.error_page
        """Empty: there is none."""
        self.compression = service.compression
        """The content codings that responses may get; empty: none."""
        self.redirect: bytes | None = None
        self.root = service.context_root.encode()
        self.rewrite = service.context_root_rewrite and self.root != b"/"
        self.websocket_paths = (
            None
            if service.websocket_endpoints is None
            else tuple(path.encode() for path in service.websocket_endpoints)
        )

    @classmethod
    def redirecting(cls, host: str, destination: str) -> Route:
        """A route that answers 302 to ``destination`` + request target."""
        route = cls.__new__(cls)
        route.host, route.cluster, route.redirect = host, None, destination.encode()
        route.root, route.rewrite, route.websocket_paths = b"/", False, None
        route.admit, route.error_page, route.compression = None, "", ()
        route.request_edit = route.response_edit = route.secure_response_edit = None
        return route

    @classmethod
    def passed_through(cls, host: str) -> Route:
        """The route of requests for a host whose TLS is passed through: there is nobody here to
        forward them to."""
        route = cls.redirecting(host, "")
        route.redirect = None
        return route

    def covers(self, target: bytes) -> bool:
        """True if the target lies under the context root, on a segment boundary."""
        root = self.root
        if root == b"/":
            return True
        return target.startswith(root) and target[len(root) : len(root) + 1] in b"/?"

    def rewritten(self, target: bytes) -> bytes:
        """The target without the context root."""
        rest = target[len(self.root) :]
        return rest if rest.startswith(b"/") else b"/" + rest

    def may_upgrade(self, target: bytes) -> bool:
        """True if the target's path may switch protocols."""
        if self.websocket_paths is None:
            return True
        return target.partition(b"?")[0] in self.websocket_paths

    def __repr__(self) -> str:
        if self.redirect is not None:
            return f"<Route {self.host} redirects to {self.redirect.decode()}>"
        if self.cluster is None:
            return f"<Route {self.host} passed through>"
        return f"<Route {self.host}{self.root.decode()} -> {self.cluster!r}>"


def guard(routes: Sequence[Route]) -> None:
    """Have routes of one host, longest context root first, ask clients for a certificate as the
    first one does that asks: the question is one for the host (``RoutingTable.client_auth``), and
    nobody gets around it by another server name."""
    admits = [route.admit for route in routes if route.admit is not None]
    auth = next((each.client_auth for each in admits if each.client_auth is not None), None)
    for route in routes if auth is not None else ():
        if route.admit is None:
            route.admit = Admit((), {})
        if route.admit.client_auth is None:
            route.admit.client_auth = auth


class AcmeAnswers:
    """Answers to challenges of http-01 (RFC 8555 section 8.3), for the hosts that certificates are
    ordered for. The key authorization is made of the token, which the request brings along, and the
    thumbprint of the account: so any proxy can answer without having been told of an order."""

    __slots__ = ("_thumbprints",)

    def __init__(self, thumbprints: Mapping[bytes, bytes]) -> None:
        """``thumbprints``: of the account that orders for a host, by host."""
        self._thumbprints = thumbprints

    def answer(self, host: bytes, target: bytes) -> bytes | None:
        """The key authorization that is asked for; None: the request is the application's."""
        token = challenge_token(target)
        if token is None:
            return None
        thumbprint = self._thumbprints.get(normalise_host(host) or b"")
        if thumbprint is None:
            return None
        return b"%b.%b" % (token, thumbprint)


class RoutingTable:
    """Which route serves a host and a target."""

    def __init__(
        self,
        hosts: dict[bytes, tuple[Route, ...]],
        default: tuple[Route, ...] = (),
        awaited: tuple[str, ...] = (),
        acme: AcmeAnswers | None = None,
        passthrough: ServerNames | None = None,
    ) -> None:
        self.passthrough = passthrough
        """What is passed through without being read; None: nothing is."""
        self.awaited = awaited
        """The providers that have not said yet what they know: where there is no route now, there
        may be one soon."""
        self.acme = acme
        """None: there are no challenges to answer."""
        self._hosts = {host: hosts[host] for host in hosts if not host.startswith(b"*.")}
        self._wildcards = {host[2:]: hosts[host] for host in hosts if host.startswith(b"*.")}
        """By the part after ``*.``."""
        self._default = default
        self._asks_clients = any(
            route.admit is not None and route.admit.client_auth is not None
            for route in self.routes()
        )

    def match(self, host: bytes, target: bytes) -> Route | None:
        """The route for a Host field value as received and an origin-form target.

        Raises InvalidHost if ``host`` cannot be a host name.
        """
        routes = self._hosts.get(host)
        if routes is None:
            routes = self._find(host)
        for route in routes:
            if route.covers(target):
                return route
        return None

    def client_auth(self, host: bytes) -> ClientAuth | None:
        """How clients of this host are asked for a certificate: as the services there say, with
        the longest context root first. The handshake is over before there is a path."""
        if not self._asks_clients:
            return None
        try:
            routes = self._hosts.get(host) or self._find(host)
        except InvalidHost:
            return None
        admits = [route.admit for route in routes if route.admit is not None]
        return next((each.client_auth for each in admits if each.client_auth is not None), None)

    def _find(self, host: bytes) -> tuple[Route, ...]:
        normal = normalise_host(host)
        if normal is None:
            raise InvalidHost(host)
        routes = self._hosts.get(normal)
        if routes is None and self._wildcards:
            routes = self._find_wildcard(normal)
        return self._default if routes is None else routes

    def _find_wildcard(self, host: bytes) -> tuple[Route, ...] | None:
        _, dot, parent = host.partition(b".")
        while dot:
            routes = self._wildcards.get(parent)
            if routes is not None:
                return routes
            _, dot, parent = parent.partition(b".")
        return None

    def routes(self) -> Iterator[Route]:
        """All routes, by host and then by context root, longest first; defaults last."""
        hosts = self._hosts | {
            b"*." + parent: self._wildcards[parent] for parent in self._wildcards
        }
        for host in sorted(hosts):
            yield from hosts[host]
        yield from self._default

    def clusters(self) -> Iterator[Cluster]:
        """Each cluster once."""
        seen: dict[int, Cluster] = {}
        for route in self.routes():
            if route.cluster is not None:
                seen.setdefault(id(route.cluster), route.cluster)
        if self.passthrough is not None:
            for _, cluster in self.passthrough.clusters():
                seen.setdefault(id(cluster), cluster)
        yield from seen.values()

    def clusters_of(self, endpoint: Endpoint) -> list[Cluster]:
        """The clusters that an endpoint belongs to; none if it has left the table."""
        return [cluster for cluster in self.clusters() if endpoint in cluster.endpoints]

    def note(self, endpoint: Endpoint, facts: Facts) -> None:
        """Note facts about an endpoint. If that changes what it may be used for, the
        balancers of its clusters are rebuilt."""
        self.note_all({endpoint: facts})

    def note_all(self, facts: Mapping[Endpoint, Facts]) -> None:
        """Note facts about several endpoints; no balancer is rebuilt more than once."""
        changed = {endpoint for endpoint in facts if endpoint.note(facts[endpoint])}
        if changed:
            for cluster in self.clusters():
                if not changed.isdisjoint(cluster.endpoints):
                    cluster.rebuild()

    def dump(self) -> str:
        """The table as a tree, for reading."""
        lines: list[str] = []
        host = None
        for route in self.routes():
            if route.host != host:
                host = route.host
                lines.append(host)
            lines.extend(_dump_route(route))
        if self.passthrough is not None:
            for name, cluster in self.passthrough.clusters():
                lines.append(f"{name}, passed through")
                lines.append(f"  -> {cluster.name}, {cluster.policy.describe()}")
                lines.extend(_dump_endpoints(cluster))
        return "\n".join(lines) or "(no services)"


def _dump_route(route: Route) -> Iterator[str]:
    if route.cluster is None and route.redirect is None:
        yield "  TLS is passed through"
        return
    if route.cluster is None:
        yield f"  {route.root.decode()} -> 302 {(route.redirect or b'').decode()}"
        return
    rewrite = " (stripped)" if route.rewrite else ""
    cluster = route.cluster
    yield f"  {route.root.decode()}{rewrite} -> {cluster.name}, {cluster.policy.describe()}"
    yield from _dump_endpoints(cluster)


def _dump_endpoints(cluster: Cluster) -> Iterator[str]:
    for endpoint in cluster.endpoints:
        state = "" if endpoint.state is EndpointState.USABLE else f" {endpoint.state.value}"
        tls = " (TLS)" if endpoint.target.tls else ""
        yield f"    {endpoint.address}{tls}{state}"
    if not cluster.endpoints:
        yield "    (no endpoints)"
