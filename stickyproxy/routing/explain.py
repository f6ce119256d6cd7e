"""What would come of a request, and why: asked of a routing table, and of the very balancers that
pick, without any effect on either.

The steps are those of ``Exchange._next`` in the data plane, in their order. Balancers are asked as
copies, so that nobody's turn is taken.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from stickyproxy.base.errors import BadRequest, InvalidHost
from stickyproxy.routing import draining
from stickyproxy.routing.admit import Admit
from stickyproxy.routing.basic_auth import BasicAuth
from stickyproxy.routing.cluster import Cluster
from stickyproxy.routing.endpoint import (
    Balancer,
    Endpoint,
    Evidence,
    Pick,
    ReadsRequests,
    Request,
)
from stickyproxy.routing.table import Route, RoutingTable, challenge_token
from stickyproxy.semantics.forwarded import TrustedProxies
from stickyproxy.semantics.headers import normalise_host
from stickyproxy.semantics.request import ClientRequest, Peer

SAME = 64
"""So many picks that agree are taken for all: of random ones, 64 agree once in 2**63 times."""
MOST = 20_000
"""Picks that are made at most to see who has a turn."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(rb"[\x21-\x7e\x80-\xff]+")


@dataclass(frozen=True, slots=True)
class Question:
    """A request that somebody asks about."""

    host: bytes
    target: bytes = b"/"
    """Path and query."""
    method: str = "GET"
    fields: tuple[tuple[bytes, bytes], ...] = ()
    """Header fields besides Host."""
    client: str = "127.0.0.1"
    """The IP address that it comes from; empty: a unix socket."""
    secure: bool = False
    """It comes over TLS."""
    body: int = 0
    """Bytes of its body, as announced."""

    def __post_init__(self) -> None:
        """Raises ValueError for what is no request that a client could send."""
        if not _TOKEN.fullmatch(self.method.encode()):
            raise ValueError(f"{self.method!a} is not a method")
        if not _TARGET.fullmatch(self.target):
            raise ValueError(f"{ascii(self.target)[1:]} is not a path")
        for name, value in (*self.fields, (b"Host", self.host)):
            if not (_TOKEN.fullmatch(name) and _VALUE.fullmatch(value)):
                raise ValueError(f"{ascii(name + b': ' + value)[1:]} is not a header field")


class _AskedHead:
    """A question as a request would be parsed. Implements ``semantics.request.RequestHead``."""

    version = "HTTP/1.1"
    http11 = True
    wants_upgrade = False

    def __init__(self, question: Question, peer: Peer) -> None:
        self.peer = peer
        self.method = question.method
        self.target = question.target
        self.body_length = question.body
        framing = (b"content-length", b"transfer-encoding")
        fields = [each for each in question.fields if each[0].lower() not in framing]
        self.fields: Sequence[tuple[bytes, bytes]] = [(b"Host", question.host), *fields]

    def header(self, name: str) -> bytes | None:
        """First value of the field, whatever its case; None if absent."""
        wanted = name.lower().encode()
        return next((value for key, value in self.fields if key.lower() == wanted), None)


class Fate(Enum):
    """What comes of a request."""

    FORWARDED = "forwarded"
    REDIRECTED = "redirected"
    REFUSED = "refused"
    NO_ROUTE = "no route"
    NO_ENDPOINT = "no endpoint"
    ACME = "ACME challenge"
    PASSED_THROUGH = "passed through"


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that a service asks of requests, and whether this one fulfils it."""

    option: str
    """By which it is configured."""
    said: str
    status: int = 0
    """Of the response to a request that does not fulfil it; 0: it does."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a balancer would choose."""

    pick: Pick
    endpoints: tuple[Endpoint, ...]
    """Those that it may be: the one that it is, or those that take turns. The first is the next by
    the table that was asked; each worker has turns of its own."""

    @property
    def certain(self) -> bool:
        """The request alone decides, and nobody's turn."""
        return len(self.endpoints) == 1


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would come of a request, and why."""

    question: Question
    fate: Fate
    why: str
    status: int = 0
    """Of a response of our own; 0: an endpoint responds."""
    client: str = ""
    """The client's address, as trusted proxies report it."""
    route: Route | None = None
    cluster: Cluster | None = None
    target: bytes = b""
    """What the endpoint is asked for."""
    evidence: tuple[Evidence, ...] = ()
    """What the policy looks at."""
    owners: dict[bytes, Endpoint] = field(default_factory=dict)
    """Of the pins among it, also of those that do not count here."""
    choice: Choice | None = None
    cookies: tuple[bytes, ...] = ()
    """The Set-Cookie values that the proxy adds, if the application sets no cookie itself."""
    if_it_dies: Choice | None = None
    """What is chosen instead if the endpoint refuses connections; None: there is no other."""
    conditions: tuple[Condition, ...] = ()
    """What the service asks of requests, in the order in which it is asked, up to what this one
    does not fulfil."""
    unchecked: tuple[BasicAuth, bytes] | None = None
    """Credentials that are not known: what is said holds if they are right."""

    def checked(self) -> Explanation:
        """The same with the credentials looked at, which takes a twentieth of a second; may be
        called in any thread."""
        if self.unchecked is None:
            return self
        users, credentials = self.unchecked
        if users.check(credentials):
            return replace(self, unchecked=None)
        *before, of_user = (each for each in self.conditions if each.option != _IN_FLIGHT)
        wrong = replace(of_user, said=f"{_ASKS_FOR_NAME}, and these are wrong", status=401)
        known = self.question, Fate.REFUSED, wrong.said, 401, self.client, self.route, self.cluster
        return Explanation(*known, conditions=(*before, wrong))


_IN_FLIGHT = "max_in_flight"
_ASKS_FOR_NAME = "the service asks for a name and a password"


def explain(
    table: RoutingTable,
    question: Question,
    trusted_proxies: TrustedProxies,
    *,
    moves_clear: bool = False,
) -> Explanation:
    """What would come of this request by this table. ``moves_clear``: every listener in the clear
    redirects to https."""
    peer = Peer(question.client, "", 0, secure=question.secure, trusted_proxies=trusted_proxies)
    if (passed := _passed_through(table, question)) is not None:
        return passed
    try:
        request = ClientRequest(_AskedHead(question, peer), b"0" * 32)
        if moves_clear and not (request.secure or challenge_token(request.target)):
            why = "the listeners redirect to https (redirect_to_https)"
            return _to_https(question, request, why)
        return _explain(table, question, request)
    except BadRequest as error:
        return Explanation(question, Fate.REFUSED, error.message, error.status)


@dataclass(frozen=True, slots=True)
class _Unread:
    """A TLS connection that is passed through. Implements ``routing.endpoint.Request``."""

    client_address: str
    idempotent: bool = False

    def cookies(self, name: bytes) -> tuple[bytes, ...]:
        """Nobody reads them."""
        return ()

    def header(self, name: str) -> None:
        """Likewise."""

    def query(self, name: bytes) -> None:
        """Likewise."""


def _passed_through(table: RoutingTable, question: Question) -> Explanation | None:
    """What comes of a TLS connection for the host; None: TLS ends here."""
    host = normalise_host(question.host)
    names = table.passthrough if question.secure and host else None
    cluster = None if names is None or host is None else names.cluster(host.decode("latin-1"))
    if cluster is None:
        return None
    balancer, request = _copy(cluster), _Unread(question.client)
    choice = _choice(cluster, balancer, request)
    evidence = tuple(balancer.evidence(request)) if isinstance(balancer, ReadsRequests) else ()
    owners: dict[bytes, Endpoint] = {}
    known = (question.client, None, cluster, b"", evidence, owners)
    if choice is None:
        why = f"service {cluster.name} has no usable endpoint"
        return Explanation(question, Fate.NO_ENDPOINT, why, 0, *known)
    why = f"TLS for {question.host.decode('latin-1')} is passed through, so nothing of it is read"
    instead = _choice(cluster, _copy(cluster), request, choice.endpoints[:1])
    return Explanation(question, Fate.PASSED_THROUGH, why, 0, *known, choice, (), instead)


def _explain(table: RoutingTable, question: Question, request: ClientRequest) -> Explanation:
    """Raises BadRequest."""
    client = request.client_address
    if table.acme is not None and table.acme.answer(request.host, request.target):
        why = "the host's certificate is ordered by ACME, and this is a challenge"
        return Explanation(question, Fate.ACME, why, 200, client)
    route = table.match(request.host, request.target)
    if route is None:
        return _without_route(table, question, client)
    cluster = route.cluster
    if cluster is None:
        return _elsewhere(route, question, request)
    conditions: list[Condition] = []
    unchecked: tuple[BasicAuth, bytes] | None = None
    if route.admit is not None:
        credentials = request.header("authorization")
        for condition in _conditions(table, route.admit, question, request):
            conditions.append(condition)
            if condition.status:
                return _stopped(question, request, route, tuple(conditions))
        users = route.admit.users
        if users is not None and credentials is not None and not users.knows(credentials):
            unchecked = users, credentials
    said = _forwarded(table, question, request, route, cluster)
    if said.choice is not None and (slots := said.choice.pick.endpoint.slots) is not None:
        full = slots.is_full and slots.is_crowded
        conditions.append(Condition(_IN_FLIGHT, slots.describe(), 503 if full else 0))
        if full:
            why = f"{slots.describe()} at {said.choice.pick.endpoint.address}"
            said = replace(said, fate=Fate.REFUSED, status=503, why=why, cookies=())
    return replace(said, conditions=tuple(conditions), unchecked=unchecked)


def _forwarded(
    table: RoutingTable,
    question: Question,
    request: ClientRequest,
    route: Route,
    cluster: Cluster,
) -> Explanation:
    """What comes of one that the service takes."""
    balancer = _copy(cluster)
    choice = _choice(cluster, balancer, request)
    target = route.rewritten(request.target) if route.rewrite else request.target
    evidence = tuple(balancer.evidence(request)) if isinstance(balancer, ReadsRequests) else ()
    owners = _owners(table, evidence)
    known = (request.client_address, route, cluster, target, evidence, owners)
    if choice is None:
        why = f"service {cluster.name} has no usable endpoint"
        return Explanation(question, Fate.NO_ENDPOINT, why, 503, *known)
    issue = choice.pick.cookies
    cookies = issue.values((), request.secure) if issue is not None and issue.due else ()
    instead = _choice(cluster, _copy(cluster), request, choice.endpoints[:1])
    why = _why_here(route, question)
    return Explanation(question, Fate.FORWARDED, why, 0, *known, choice, tuple(cookies), instead)


def _without_route(table: RoutingTable, question: Question, client: str) -> Explanation:
    if table.awaited:
        why = f"not all services are known yet; waiting for {' and '.join(table.awaited)}"
        return Explanation(question, Fate.NO_ROUTE, why, 503, client)
    why = "no service is published for this host and path"
    return Explanation(question, Fate.NO_ROUTE, why, 404, client)


def _elsewhere(route: Route, question: Question, request: ClientRequest) -> Explanation:
    client = request.client_address
    if route.redirect is not None:
        why = f"a service redirects {route.host} to {route.redirect.decode()}"
        return Explanation(question, Fate.REDIRECTED, why, 302, client, route)
    why = f"TLS for {route.host} is passed through to its endpoints"
    if request.secure:
        return Explanation(question, Fate.REFUSED, f"{why}, unread", 421, client, route)
    return _to_https(question, request, why, route)


def _to_https(
    question: Question, request: ClientRequest, why: str, route: Route | None = None
) -> Explanation:
    """Raises InvalidHost."""
    if not normalise_host(request.host):
        raise InvalidHost(request.host)
    cluster = None if route is None else route.cluster
    return Explanation(question, Fate.REDIRECTED, why, 308, request.client_address, route, cluster)


def _stopped(
    question: Question, request: ClientRequest, route: Route, conditions: tuple[Condition, ...]
) -> Explanation:
    """``conditions``: the last one is not fulfilled. Raises InvalidHost."""
    last = conditions[-1]
    if last.status == 308:
        return replace(_to_https(question, request, last.said, route), conditions=conditions)
    known = request.client_address, route, route.cluster
    return Explanation(
        question, Fate.REFUSED, last.said, last.status, *known, conditions=conditions
    )


def _conditions(
    table: RoutingTable, admit: Admit, question: Question, request: ClientRequest
) -> Iterator[Condition]:
    """In the order in which the proxy asks. Nothing is counted."""
    if admit.https_only:
        passes = request.secure or challenge_token(request.target)
        yield Condition("ssl_only", "the service is for https only", 0 if passes else 308)
    if (wanted := admit.client_auth) is not None:
        # TLS is taken to have begun with the name in Host, and the client to have a certificate.
        accepted = admit.accepts(table.client_auth(request.host) if question.secure else None)
        how = "which takes https" if wanted.required else "if it comes over https"
        said = f"the service asks clients for a certificate, {how}"
        yield Condition("client_ca", said, 0 if accepted else 421)
    for check in admit.checks:
        denial = check.foresee(request)
        if denial is not None:
            yield Condition(check.option, denial.text, denial.status)
        yield Condition(check.option, check.describe())
    if admit.max_body is not None:
        long = question.body > admit.max_body
        said = f"the body has {question.body} bytes, of {admit.max_body} at most"
        yield Condition("max_body", said, 413 if long else 0)
    if admit.users is not None:
        given = request.header("authorization") is not None
        said = f"{_ASKS_FOR_NAME}, and {'these are right' if given else 'there is none'}"
        yield Condition("basic_auth", said, 0 if given else 401)


def _copy(cluster: Cluster) -> Balancer:
    """A balancer that picks as the cluster's would, whose turns are its own, and which takes nobody
    for a session that is still there."""
    built = cluster.built_again()
    return built.inner if isinstance(built, draining.CountingBalancer) else built


def _choice(
    cluster: Cluster,
    balancer: Balancer,
    request: Request,
    tried: Collection[Endpoint] = (),
) -> Choice | None:
    """Picks until it is clear who has a turn."""
    first = balancer.pick(request, tried)
    if first is None:
        return None
    found = dict.fromkeys((first.endpoint,))
    # Turns are ten rounds while somebody warms up.
    turns = min(MOST, 10 * len(cluster.endpoints))
    for count in range(max(SAME, turns)):
        if count == SAME and len(found) == 1:
            break
        pick = balancer.pick(request, tried)
        if pick is not None:
            found[pick.endpoint] = None
    return Choice(first, tuple(found))


def _owners(table: RoutingTable, evidence: Sequence[Evidence]) -> dict[bytes, Endpoint]:
    """Whose pins are in it, by pin, of all endpoints that are known."""
    pins = {each.value.strip(b'"') for each in evidence}
    return {
        pin: endpoint
        for cluster in table.clusters()
        for endpoint in cluster.endpoints
        for pin in (endpoint.pin, endpoint.former_pin)
        if pin in pins
    }


def _why_here(route: Route, question: Question) -> str:
    """Why it is this route."""
    host = question.host.decode("latin-1")
    of_host = route.host.startswith(("*.", "("))
    where = f"{host} is covered by {route.host}" if of_host else f"the host is {route.host}"
    root = route.root.decode()
    return where if root == "/" else f"{where}, and the path is under {root}"
