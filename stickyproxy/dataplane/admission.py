"""DATA PLANE: requests that are not served just so, by the connection that they came on.

Admission          the handlers for the requests of a connection
MovedToHttps       redirects all of them
ClearOnTls         came in the clear to a listener that speaks TLS
GuardedExchange    whose client was asked for a certificate
"""

from __future__ import annotations

from functools import partial

from stickyproxy.base.errors import BadRequest
from stickyproxy.dataplane import replies
from stickyproxy.dataplane.downstream.ports import ClientStream, Serve
from stickyproxy.dataplane.exchange import Exchange, Proxy, Step
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.tls import ClientAuth


class Admission:
    """Implements ``downstream.accept.Admits``."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._serve: Serve = partial(Exchange, proxy)
        self._clear: Serve = partial(ClearOnTls, proxy)

    def serve(self, spec: ListenerSpec) -> Serve:
        if spec.redirect_to_https is None:
            return self._serve
        return partial(MovedToHttps, self._proxy, spec.redirect_to_https)

    def serve_guarded(self, spec: ListenerSpec, client_auth: ClientAuth) -> Serve:
        of_listener = spec.tls.client_auth if spec.tls else None
        return partial(GuardedExchange, self._proxy, of_listener)

    def refuse_clear(self) -> Serve:
        return self._clear

    def client_auth(self, spec: ListenerSpec, server_name: str | None) -> ClientAuth | None:
        of_listener = spec.tls.client_auth if spec.tls else None
        if server_name is None:
            return of_listener
        return self._proxy.table.client_auth(server_name.encode()) or of_listener


class MovedToHttps(Exchange):
    """On a listener that redirects to https."""

    __slots__ = ("_port",)

    def __init__(self, proxy: Proxy, port: int, stream: ClientStream) -> None:
        super().__init__(proxy, stream)
        self._port = port

    def _next(self) -> Step:
        """Also here a trusted proxy's word counts, or clients of one that speaks TLS for us would
        be redirected for ever."""
        request = self.request
        assert request is not None
        if request.secure or replies.is_challenge(request):
            return super()._next()
        return replies.to_https(request, self._port)


class ClearOnTls(Exchange):
    """In the clear where TLS is spoken."""

    __slots__ = ()

    def begin(self) -> None:
        self.refuse(BadRequest(400, "this port speaks TLS: use https:// instead of http://"))


class GuardedExchange(Exchange):
    """On a connection whose client was asked for a certificate, which says something to the host
    that asked for it, and to no other one."""

    __slots__ = ("_of_listener",)

    def __init__(self, proxy: Proxy, of_listener: ClientAuth | None, stream: ClientStream) -> None:
        super().__init__(proxy, stream)
        self._of_listener = of_listener

    def _next(self) -> Step:
        request, table = self.request, self._proxy.table
        assert request is not None
        route = table.match(request.host, request.target)
        if route is not None and route.cluster is not None:
            own = route.admit.client_auth if route.admit is not None else None
            asked = own or table.client_auth(request.host) or self._of_listener
            if asked != self.stream.peer.client_auth:
                raise replies.misdirected(request)
        return super()._next()
