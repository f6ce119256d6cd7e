"""dataplane/upstream/tls.py: endpoints that speak TLS, through a running proxy."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stickyproxy.base.pem import load_chain
from stickyproxy.model.tls import Certificate, UpstreamTls
from tests.certificates import make_ca, make_certificate
from tests.conftest import MakeClient, MakeEndpoint, RunningProxy, StartProxy, hello, service
from tests.scripted import (
    EndpointConnection,
    Response,
    Script,
    ScriptedEndpoint,
    get,
    ok,
    post,
)

CA = make_ca()
OTHER_CA = make_ca("another CA")
HERE = make_certificate(["127.0.0.1"], CA)
NAMED = make_certificate(["shop.internal", "*.wild.internal"], CA)
MINE = make_certificate(["the proxy"], OTHER_CA, client=True)

UNVERIFIED = UpstreamTls()
VERIFIED = UpstreamTls(verify=True, ca=CA.pem)


def context(certificate: Certificate = HERE, **attributes: Any) -> ssl.SSLContext:
    """Of a server that shows this certificate."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_chain(made, certificate.chain, certificate.key)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


Secured = Callable[..., Awaitable[tuple[RunningProxy, ScriptedEndpoint]]]


@pytest.fixture
def secured(endpoint: MakeEndpoint, start_proxy: StartProxy) -> Secured:
    """Puts one endpoint that speaks TLS behind a proxy."""

    async def make(
        script: Script = hello,
        tls: UpstreamTls = VERIFIED,
        at: ssl.SSLContext | None = None,
        **settings: Any,
    ) -> tuple[RunningProxy, ScriptedEndpoint]:
        peer = await endpoint(script, tls=at or context())
        return await start_proxy([service(peer, tls=tls)], **settings), peer

    return make


@pytest.fixture
def answer(secured: Secured, client: MakeClient) -> Callable[..., Awaitable[Response]]:
    """What the proxy makes of a request for such an endpoint."""

    async def ask(
        tls: UpstreamTls = VERIFIED, at: ssl.SSLContext | None = None, **settings: Any
    ) -> Response:
        proxy, _ = await secured(tls=tls, at=at, **settings)
        asking = await client(proxy.port)
        await asking.send(get())
        return await asking.response()

    return ask


Answer = Callable[..., Awaitable[Response]]


class TestHandshake:
    async def test_request_and_response(self, secured: Secured, client: MakeClient) -> None:
        proxy, peer = await secured()
        asking = await client(proxy.port)
        for _ in range(3):
            await asking.send(post(b"body"))
            response = await asking.response()
            assert (response.status, response.body) == (200, b"hello")
            assert response.header("x-upstream-addr") == peer.address.encode()
        assert peer.connections == 1
        assert [each.body for each in peer.requests] == [b"body"] * 3
        assert peer.requests[0].header("x-forwarded-proto") == b"http"  # the client's

    @pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
    async def test_versions(self, answer: Answer, version: str) -> None:
        only = ssl.TLSVersion[version]
        at = context(minimum_version=only, maximum_version=only)
        assert (await answer(at=at)).body == b"hello"

    async def test_application_protocol(self, secured: Secured, client: MakeClient) -> None:
        async def tells(conn: EndpointConnection) -> None:
            assert conn.tls is not None
            await conn.request()
            await conn.send(ok((conn.tls.selected_alpn_protocol() or "none").encode()))

        at = context()
        at.set_alpn_protocols(["h2", "http/1.1"])
        proxy, _ = await secured(tells, at=at)
        asking = await client(proxy.port)
        await asking.send(get())
        assert (await asking.response()).body == b"http/1.1"
