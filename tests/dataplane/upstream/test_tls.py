"""dataplane/upstream/tls.py: endpoints that speak TLS, through a running proxy."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stickyproxy.base.errors import ConnectError, HandshakeError
from stickyproxy.base.pem import load_chain
from stickyproxy.dataplane.descriptors import Descriptors
from stickyproxy.dataplane.turns import Turns
from stickyproxy.dataplane.upstream.pool import Upstreams
from stickyproxy.dataplane.upstream.tls import PER_TURN, RECORD, Contexts, TlsLayer
from stickyproxy.model.service import EndpointSpec
from stickyproxy.model.target import Target
from stickyproxy.model.tls import Certificate, UpstreamTls
from tests.certificates import make_ca, make_certificate
from tests.conftest import MakeClient, MakeEndpoint, RunningProxy, StartProxy, hello, service
from tests.scripted import (
    EndpointConnection,
    Response,
    Script,
    ScriptedEndpoint,
    Truncated,
    chunked,
    get,
    ok,
    post,
    request,
    respond,
)

CA = make_ca()
OTHER_CA = make_ca("another CA")
HERE = make_certificate(["127.0.0.1"], CA)
NAMED = make_certificate(["shop.internal", "*.wild.internal"], CA)
SELF_MADE = make_certificate(["127.0.0.1"])
CLIENTS = make_ca("authority of proxies")
MINE = make_certificate(["the proxy"], CLIENTS, client=True)

UNVERIFIED = UpstreamTls()
VERIFIED = UpstreamTls(verify=True, ca=CA.pem)


def context(certificate: Certificate = HERE, **attributes: Any) -> ssl.SSLContext:
    """Of a server that shows this certificate."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_chain(made, certificate.chain, certificate.key)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def for_clients_of(authority: str) -> ssl.SSLContext:
    """Of a server that demands certificates by this authority."""
    made = context()
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=authority)
    return made


Secured = Callable[..., Awaitable[tuple[RunningProxy, ScriptedEndpoint]]]
Ask = Callable[..., Awaitable[Response]]


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
def ask(secured: Secured, client: MakeClient) -> Ask:
    """What the proxy makes of a request for such an endpoint."""

    async def made(
        tls: UpstreamTls = VERIFIED,
        at: ssl.SSLContext | None = None,
        script: Script = hello,
        **settings: Any,
    ) -> Response:
        proxy, _ = await secured(script, tls, at, **settings)
        asking = await client(proxy.port)
        await asking.send(get())
        return await asking.response()

    return made


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
    async def test_versions(self, ask: Ask, version: str) -> None:
        only = ssl.TLSVersion[version]
        at = context(minimum_version=only, maximum_version=only)
        assert (await ask(at=at)).body == b"hello"

    async def test_application_protocol(self, ask: Ask) -> None:
        async def tells(conn: EndpointConnection) -> None:
            assert conn.tls is not None
            await conn.request()
            await conn.send(ok((conn.tls.selected_alpn_protocol() or "none").encode()))

        at = context()
        at.set_alpn_protocols(["h2", "http/1.1"])
        assert (await ask(at=at, script=tells)).body == b"http/1.1"

    @pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
    async def test_sessions_are_resumed(
        self, secured: Secured, client: MakeClient, version: str
    ) -> None:
        async def once(conn: EndpointConnection) -> None:
            assert conn.tls is not None
            await conn.request()
            await conn.send(ok(str(conn.tls.session_reused).encode(), Connection="close"))
            await conn.end_tls()

        only = ssl.TLSVersion[version]
        at = context(minimum_version=only, maximum_version=only)
        proxy, _ = await secured(once, at=at)
        asking = await client(proxy.port)
        reused = []
        for _ in range(3):
            await asking.send(get())
            reused.append((await asking.response()).body)
        assert reused == [b"False", b"True", b"True"]

    async def test_a_unix_socket(
        self, start_proxy: StartProxy, client: MakeClient, tmp_path: Path
    ) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ok(b"hello", Connection="close"))
            writer.close()

        path = f"{tmp_path}/app.sock"
        server = await asyncio.start_unix_server(serve, path, ssl=context(NAMED))
        tls = replace(VERIFIED, server_name="shop.internal")
        spec = EndpointSpec("app", f"unix:{path}")
        proxy = await start_proxy([service(endpoints=(spec,), tls=tls)])
        asking = await client(proxy.port)
        await asking.send(get())
        assert (await asking.response()).body == b"hello"
        server.close()
        await server.wait_closed()

    async def test_changed_tls_takes_new_connections(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        peer = await endpoint(tls=context())
        proxy = await start_proxy([service(peer, tls=VERIFIED)])
        asking = await client(proxy.port)
        for tls, status, connections in (
            (VERIFIED, 200, 1),
            (replace(VERIFIED), 200, 1),  # the same, made anew
            (UNVERIFIED, 200, 2),
            (replace(VERIFIED, ca=OTHER_CA.pem), 502, 3),
            (VERIFIED, 200, 4),
        ):
            proxy.set_services([service(peer, tls=tls)])
            await asking.send(get())
            assert (await asking.response()).status == status
            assert peer.connections == connections


class TestServerName:
    """SNI (RFC 6066 section 3), and what is verified (RFC 9525)."""

    @pytest.fixture
    def seen(self) -> list[str | None]:
        return []

    def noting(self, seen: list[str | None], certificate: Certificate = HERE) -> ssl.SSLContext:
        made = context(certificate)
        made.sni_callback = lambda _tls, name, _context: seen.append(name)
        return made

    async def test_an_address_is_verified_but_not_sent(
        self, ask: Ask, seen: list[str | None]
    ) -> None:
        assert (await ask(VERIFIED, self.noting(seen))).status == 200
        assert seen == [None]

    async def test_a_name(self, ask: Ask, seen: list[str | None]) -> None:
        tls = replace(VERIFIED, server_name="shop.internal")
        assert (await ask(tls, self.noting(seen, NAMED))).status == 200
        assert seen == ["shop.internal"]

    async def test_a_name_that_only_a_wildcard_covers(self, ask: Ask) -> None:
        tls = replace(VERIFIED, server_name="a.wild.internal")
        assert (await ask(tls, context(NAMED))).status == 200

    async def test_another_address_in_place_of_a_name(
        self, ask: Ask, seen: list[str | None]
    ) -> None:
        certificate = make_certificate(["192.0.2.7"], CA)
        tls = replace(VERIFIED, server_name="192.0.2.7")
        assert (await ask(tls, self.noting(seen, certificate))).status == 200
        assert seen == [None]

    async def test_is_sent_to_those_who_are_not_verified(
        self, ask: Ask, seen: list[str | None]
    ) -> None:
        tls = replace(UNVERIFIED, server_name="shop_1.internal")
        assert (await ask(tls, self.noting(seen, SELF_MADE))).status == 200
        assert seen == ["shop_1.internal"]

    async def test_of_an_endpoint_that_was_declared_by_name(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        peer = await endpoint(tls=context(NAMED))
        spec = EndpointSpec("shop", peer.address, server_name="shop.internal")
        proxy = await start_proxy([service(endpoints=(spec,), tls=VERIFIED)])
        asking = await client(proxy.port)
        await asking.send(get())
        assert (await asking.response()).status == 200

    async def test_of_the_service_comes_first(self) -> None:
        spec = EndpointSpec("shop", "10.0.0.1:8443", server_name="shop.internal")
        named = replace(VERIFIED, server_name="other.internal")
        assert spec.target(VERIFIED).tls == replace(VERIFIED, server_name="shop.internal")
        assert spec.target(named).tls == named
        assert spec.target(None).tls is None


NO_TLS = "no TLS: "
EXPIRED = make_certificate(["127.0.0.1"], CA, expires=datetime.now(UTC) - timedelta(days=1))
"""A day ago."""


class TestVerification:
    @pytest.mark.parametrize(
        "case",
        [
            (
                replace(VERIFIED, ca=OTHER_CA.pem),
                HERE,
                "its certificate is not accepted: unable to get local issuer certificate",
            ),
            (
                VERIFIED,
                SELF_MADE,
                "its certificate is not accepted: self-signed certificate",
            ),
            (VERIFIED, EXPIRED, "its certificate is not accepted: certificate has expired"),
            (
                VERIFIED,
                NAMED,
                "its certificate is not accepted: IP address mismatch, certificate is not valid "
                "for '127.0.0.1'",
            ),
            (
                replace(VERIFIED, server_name="a.b.wild.internal"),
                NAMED,
                "its certificate is not accepted: Hostname mismatch, certificate is not valid for "
                "'a.b.wild.internal'",
            ),
            (VERIFIED, MINE, "its certificate is not accepted: unsuitable certificate purpose"),
        ],
        ids=["authority", "self-made", "expired", "address", "name", "purpose"],
    )
    async def test_a_certificate_that_is_not_accepted(
        self,
        secured: Secured,
        client: MakeClient,
        caplog: pytest.LogCaptureFixture,
        case: tuple[UpstreamTls, Certificate, str],
    ) -> None:
        tls, certificate, reason = case
        if certificate is MINE:
            tls = replace(tls, ca=CLIENTS.pem, server_name="the.proxy")
        proxy, peer = await secured(tls=tls, at=context(certificate))
        asking = await client(proxy.port)
        await asking.send(get())
        response = await asking.response()
        assert response.status == 502
        assert response.header("x-upstream-addr") == peer.address.encode()
        assert f"service demo: {peer.address}: {NO_TLS}{reason}" in caplog.messages
        await peer.wait_open(0)
        assert peer.heads == []

    @pytest.mark.parametrize("certificate", [SELF_MADE, EXPIRED, NAMED])
    async def test_without_it_anybody_will_do(self, ask: Ask, certificate: Certificate) -> None:
        assert (await ask(UNVERIFIED, context(certificate))).status == 200

    async def test_the_very_certificate_may_be_trusted(self, ask: Ask) -> None:
        for trusted in (SELF_MADE, HERE):
            tls = replace(VERIFIED, ca=trusted.chain)
            assert (await ask(tls, context(trusted))).status == 200

    async def test_a_chain(self, ask: Ask) -> None:
        between = make_ca("an intermediate CA", issuer=CA)
        assert (await ask(at=context(make_certificate(["127.0.0.1"], between)))).status == 200

    async def test_the_authorities_of_the_proxy(self, ask: Ask) -> None:
        tls = UpstreamTls(verify=True)
        assert (await ask(tls, upstream_ca=CA.pem)).status == 200
        assert (await ask(replace(tls, ca=OTHER_CA.pem), upstream_ca=CA.pem)).status == 502

    async def test_those_that_the_system_knows(self, ask: Ask) -> None:
        assert (await ask(UpstreamTls(verify=True))).status == 502

    async def test_one_that_is_not_accepted_is_left_out(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """Requests are served by the other one, and it is asked no more."""
        good, bad = await endpoint(tls=context()), await endpoint(tls=context(EXPIRED))
        proxy = await start_proxy([service(good, bad, tls=VERIFIED)])
        asking = await client(proxy.port)
        for _ in range(8):
            await asking.send(get())
            assert (await asking.response()).body == b"hello"
        assert bad.heads == []

    async def test_it_is_back_when_its_certificate_is_good(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO)
        good, bad = await endpoint(tls=context()), await endpoint(tls=context(EXPIRED))
        proxy = await start_proxy([service(good, bad, tls=VERIFIED)])
        asking = await client(proxy.port)
        for _ in range(4):
            await asking.send(get())
            await asking.response()
        down = f"service demo: endpoint {bad.address} is down: {NO_TLS}its certificate is not"
        assert any(message.startswith(down) for message in caplog.messages)
        bad.tls = context()
        served = 0
        while not bad.requests:
            await asking.send(get())
            assert (await asking.response()).body == b"hello"
            served += 1
            await asyncio.sleep(0)
        assert served


class TestClientCertificate:
    async def test_is_shown(self, ask: Ask) -> None:
        tls = replace(VERIFIED, certificate=MINE.chain, key=MINE.key)
        assert (await ask(tls, for_clients_of(CLIENTS.pem))).status == 200

    @pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
    async def test_none_where_one_is_demanded(
        self, secured: Secured, client: MakeClient, version: str
    ) -> None:
        at = for_clients_of(CLIENTS.pem)
        at.minimum_version = at.maximum_version = ssl.TLSVersion[version]
        proxy, peer = await secured(at=at)
        asking = await client(proxy.port)
        await asking.send(post(b"x"))
        assert (await asking.response()).status == 502
        assert peer.heads == []
        assert peer.refusals[0].reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"

    async def test_one_of_another_authority(
        self, secured: Secured, client: MakeClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        tls = replace(VERIFIED, certificate=MINE.chain, key=MINE.key)
        proxy, peer = await secured(tls=tls, at=for_clients_of(OTHER_CA.pem))
        asking = await client(proxy.port)
        await asking.send(post(b"x"))
        assert (await asking.response()).status == 502
        assert (
            f"service demo: {peer.address}: TLS failed: it refuses: unknown ca" in caplog.messages
        )


class TestFailedHandshakes:
    """What a peer does that is no good TLS server."""

    async def failure(
        self, endpoint: MakeEndpoint, script: Script, tls: ssl.SSLContext | None = None
    ) -> str:
        """What connecting to it fails with."""
        peer = await endpoint(script, tls=tls)
        upstreams = Upstreams(
            connect_timeout=0.3,
            response_timeout=60,
            client_timeout=60,
            idle_timeout=60,
            turns=Turns(),
            descriptors=Descriptors(),
            connectors="/nowhere",
            ca="",
        )
        with pytest.raises(ConnectError) as caught:
            await upstreams.pool(Target(peer.address, tls=VERIFIED)).connect()
        upstreams.close()
        assert isinstance(caught.value, HandshakeError)
        assert str(caught.value) == f"{peer.address}: {NO_TLS}{caught.value.trouble}"
        await peer.wait_open(0)
        return caught.value.trouble

    async def test_http_in_the_clear(self, endpoint: MakeEndpoint) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.send(respond("400 Bad Request", ("Content-Length", "0")))
            await conn.eof()

        assert await self.failure(endpoint, script) == "it speaks HTTP in the clear"

    async def test_another_protocol(self, endpoint: MakeEndpoint) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.send(b"220 mail.example ESMTP\r\n")
            await conn.eof()

        assert await self.failure(endpoint, script) == "what it sent is not TLS"

    async def test_silence(self, endpoint: MakeEndpoint) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.eof()

        assert await self.failure(endpoint, script) == (
            "it accepted the connection, but the handshake took longer than 0.3 s"
        )

    async def test_a_byte_at_a_time(self, endpoint: MakeEndpoint) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.send(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
            while True:
                await conn.send(b"\0")
                await asyncio.sleep(0.01)

        assert "took longer than 0.3 s" in await self.failure(endpoint, script)

    @pytest.mark.parametrize("how", ["close", "abort"])
    async def test_the_end(self, endpoint: MakeEndpoint, how: str) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.read(5)
            getattr(conn, how)()

        assert await self.failure(endpoint, script) == "it closed the connection in the handshake"

    async def test_an_alert(self, endpoint: MakeEndpoint) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.send(b"\x15\x03\x03\x00\x02\x02\x70")
            await conn.eof()

        assert await self.failure(endpoint, script) == "it refuses: unrecognized name"

    async def test_a_record_that_is_too_long(self, endpoint: MakeEndpoint) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.send(b"\x16\x03\x03\xff\xff" + bytes(65535))
            await conn.eof()

        assert await self.failure(endpoint, script) in (
            "data length too long",
            "packet length too long",
        )

    async def test_tls_1_1(self, endpoint: MakeEndpoint) -> None:
        async def script(conn: EndpointConnection) -> None:
            hello = b"\x03\x02" + bytes(32) + b"\0" + b"\xc0\x13" + b"\0"
            message = b"\x02" + len(hello).to_bytes(3) + hello
            await conn.send(b"\x16\x03\x02" + len(message).to_bytes(2) + message)
            await conn.eof()

        assert await self.failure(endpoint, script) == "it speaks none newer than TLS 1.1"

    async def test_a_certificate_of_200_kb(self, endpoint: MakeEndpoint) -> None:
        big = make_certificate(["127.0.0.1", *(f"{n:050}.example" for n in range(3500))], CA)
        trouble = await self.failure(endpoint, hello, context(big))
        assert trouble == "excessive message size"

    async def test_a_pem_that_is_none(self, ask: Ask) -> None:
        """It does not come from our configuration, then; it is no bug either."""
        assert (await ask(replace(VERIFIED, ca="nonsense"))).status == 502
        assert (await ask(replace(VERIFIED, certificate="nonsense", key="nonsense"))).status == 502

    async def test_the_time_of_a_connection_counts(
        self, secured: Secured, client: MakeClient
    ) -> None:
        """A client that leaves during a handshake takes it along."""

        async def silent(conn: EndpointConnection) -> None:
            await conn.eof()

        proxy, peer = await secured(silent)
        peer.tls = None  # it accepts, and that is all
        asking = await client(proxy.port)
        await asking.send(get())
        await peer.wait_connections(1)
        asking.close()
        await peer.wait_open(0)


class TestEnd:
    """RFC 9112 section 9.8: a response that ends with its connection is whole only if TLS has ended
    properly."""

    BODY = b"x" * 100_000
    UNTIL_CLOSE = respond("200 OK", body=BODY)

    @pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
    async def test_announced(self, ask: Ask, version: str) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(self.UNTIL_CLOSE)
            await conn.end_tls()

        only = ssl.TLSVersion[version]
        at = context(minimum_version=only, maximum_version=only)
        assert (await ask(at=at, script=script)).body == self.BODY

    @pytest.mark.parametrize("how", ["close", "finish", "abort"])
    async def test_not_announced(self, ask: Ask, how: str) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(self.UNTIL_CLOSE)
            getattr(conn, how)()

        with pytest.raises(Truncated) as cut:
            await ask(script=script)
        assert cut.value.how == "reset"

    async def test_a_fatal_alert_is_no_end(self, ask: Ask) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(self.UNTIL_CLOSE)
            await conn.send_raw(b"\x15\x03\x03\x00\x13" + bytes(19))  # not encrypted right
            await conn.eof()

        with pytest.raises(Truncated) as cut:
            await ask(script=script)
        assert cut.value.how == "reset"

    @pytest.mark.parametrize("how", ["close", "abort"])
    @pytest.mark.parametrize(
        "framed",
        [ok(BODY), respond("200 OK", ("Transfer-Encoding", "chunked"), body=chunked(BODY))],
    )
    async def test_what_has_a_length_needs_none(
        self, secured: Secured, client: MakeClient, how: str, framed: bytes
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(framed)
            assert await conn.endpoint.told() == "arrived"
            getattr(conn, how)()

        proxy, peer = await secured(script)
        asking = await client(proxy.port)
        await asking.send(get())
        assert (await asking.response()).body == self.BODY
        peer._tell("arrived")
        await peer.wait_open(0)

    async def test_in_the_middle_of_a_body(self, ask: Ask) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(ok(self.BODY)[:-1])
            await conn.end_tls()
            await conn.eof()

        with pytest.raises(Truncated) as cut:
            await ask(script=script)
        assert (cut.value.how, len(cut.value.body)) == ("reset", len(self.BODY) - 1)

    async def test_what_comes_after_it_is_nothing(
        self, secured: Secured, client: MakeClient
    ) -> None:
        """Another record, and garbage."""

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(self.UNTIL_CLOSE)
            await conn.end_tls()
            await conn.send_raw(b"\x17\x03\x03\x00\x20" + bytes(32) + b"HTTP/1.1 200 OK\r\n\r\n")
            await conn.eof()

        proxy, _ = await secured(script)
        for _ in range(2):
            asking = await client(proxy.port)
            await asking.send(get())
            assert (await asking.response()).body == self.BODY

    async def test_before_the_response_another_connection_is_made(
        self, secured: Secured, client: MakeClient
    ) -> None:
        """As in the clear: the endpoint closed a connection that had been kept alive."""

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(ok(b"hello"))
            if conn.number == 1:
                await conn.request()
            await conn.end_tls()

        proxy, peer = await secured(script)
        asking = await client(proxy.port)
        for _ in range(2):
            await asking.send(get())
            assert (await asking.response()).body == b"hello"
        assert peer.connections == 2

    async def test_a_slow_client_gets_all_of_it(self, secured: Secured, client: MakeClient) -> None:
        """The endpoint has closed long before the client takes the last of it."""
        body = bytes(range(256)) * 65536
        sent = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("200 OK", body=body))
            await conn.end_tls()
            sent.set()

        proxy, _ = await secured(script)
        asking = await client(proxy.port)
        await asking.send(get())
        head = await asking.response_head()
        assert head.status == 200
        received = bytearray()
        while piece := await asking.body_some():
            received += piece
            await asyncio.sleep(0)
        assert received == body
        assert sent.is_set()

    async def test_chunks_that_wait_for_their_turn(self, ask: Ask) -> None:
        """They are decoded over many turns of the loop, and the end came with the first."""

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            body = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
            await conn.send(respond("200 OK", ("Transfer-Encoding", "chunked"), body=body))
            await conn.end_tls()

        assert (await ask(script=script)).body == b"x" * 20_000


class TestData:
    async def test_large_bodies_both_ways(self, secured: Secured, client: MakeClient) -> None:
        size = 32 << 20

        async def script(conn: EndpointConnection) -> None:
            await conn.head()
            seen = hashlib.sha256()
            while piece := await conn.body_some():
                seen.update(piece)
            await conn.send(respond("200 OK", ("Content-Length", str(size))))
            block = seen.digest() * 2048
            for _ in range(size // len(block)):
                await conn.send(block)

        proxy, _ = await secured(script)
        asking = await client(proxy.port)
        block = bytes(range(256)) * 4096
        await asking.send(
            request("POST", "/", ("Host", "demo.local"), ("Content-Length", str(size)))
        )
        for _ in range(size // len(block)):
            await asking.send(block)
        sent = hashlib.sha256(block * (size // len(block)))
        await asking.response_head("POST")
        received = hashlib.sha256()
        while piece := await asking.body_some():
            received.update(piece)
        assert received.digest() == hashlib.sha256(sent.digest() * (size // 32)).digest()

    async def test_an_endpoint_that_does_not_read_holds_its_client_up(
        self, secured: Secured, client: MakeClient
    ) -> None:
        """What it does not take is not collected in the proxy."""

        async def script(conn: EndpointConnection) -> None:
            await conn.head()
            await conn.endpoint.told()

        proxy, _ = await secured(script, response_timeout=0.3)
        asking = await client(proxy.port)
        size = 64 << 20
        length = ("Content-Length", str(size))
        await asking.send(request("POST", "/", ("Host", "demo.local"), length))
        loop = asyncio.get_running_loop()
        sending = loop.create_task(loop.sock_sendall(asking.sock, bytes(size)))
        assert (await asking.response("POST")).status == 504
        assert not sending.done()
        sending.cancel()
        await asyncio.wait([sending])

    async def test_small_records_wait_for_their_turn(self, endpoint: MakeEndpoint) -> None:
        """However many come in one read, no turn of the loop takes more than its share."""
        count = 5000
        sent = asyncio.Event()

        async def script(conn: EndpointConnection) -> None:
            await conn.read(1)
            for _ in range(count):
                await conn.send(b"x")
            sent.set()
            await conn.eof()

        peer = await endpoint(script, tls=context())
        upstreams = Upstreams(
            connect_timeout=10,
            response_timeout=60,
            client_timeout=60,
            idle_timeout=60,
            turns=Turns(),
            descriptors=Descriptors(),
            connectors="/nowhere",
            ca="",
        )
        sizes: list[int] = []
        whole = asyncio.Event()

        class Upper(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                sizes.append(len(data))
                if sum(sizes) == count:
                    whole.set()

        identity = upstreams.identity(Target(peer.address, tls=VERIFIED))
        assert identity is not None
        layer = TlsLayer(Upper(), identity)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: layer, peer.host, peer.port)
        await layer.handshake()
        layer.pause_reading()
        layer.write(b"x")
        await sent.wait()
        layer.resume_reading()
        await whole.wait()
        assert max(sizes) <= PER_TURN
        layer.abort()
        upstreams.close()

    async def test_a_tunnel(self, secured: Secured, client: MakeClient) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(
                respond(
                    "101 Switching Protocols",
                    ("Connection", "Upgrade"),
                    ("Upgrade", "echo"),
                    body=b"hi",
                )
            )
            while (data := await conn.read(4)) != b"stop":
                await conn.send(data * RECORD)
            await conn.end_tls()

        proxy, _ = await secured(script)
        asking = await client(proxy.port)
        await asking.send(get(Connection="Upgrade", Upgrade="echo"))
        assert (await asking.response()).status == 101
        assert await asking.read(2) == b"hi"
        for word in (b"ping", b"pong"):
            await asking.send(word)
            assert await asking.read(4 * RECORD) == word * RECORD
        await asking.send(b"stop")
        assert await asking.eof() == "eof"

    async def test_the_client_ends_a_tunnel(self, secured: Secured, client: MakeClient) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(
                respond("101 Switching Protocols", ("Connection", "Upgrade"), ("Upgrade", "echo"))
            )
            conn.tell(await conn.read(4))
            conn.tell(await conn.eof())

        proxy, peer = await secured(script)
        asking = await client(proxy.port)
        await asking.send(get(Connection="Upgrade", Upgrade="echo"))
        assert (await asking.response()).status == 101
        await asking.send(b"last")
        asking.close()
        assert await peer.told() == b"last"
        assert await peer.told() == "eof"  # with a close_notify

    async def test_a_client_that_leaves(self, secured: Secured, client: MakeClient) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(respond("200 OK", ("Content-Length", "1000000")) + bytes(1000))
            conn.tell(await conn.eof())

        proxy, peer = await secured(script)
        asking = await client(proxy.port)
        await asking.send(get())
        await asking.response_head()
        asking.abort()
        assert await peer.told() == "reset"

    async def test_what_nobody_asked_for_ends_the_connection(
        self, secured: Secured, client: MakeClient
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(ok(b"hello"))
            if conn.number == 1:
                assert await conn.endpoint.told() == "answered"
                await conn.send(ok(b"poison"))
                conn.tell(await conn.eof())
            else:
                await conn.eof()

        proxy, peer = await secured(script)
        asking = await client(proxy.port)
        await asking.send(get())
        assert (await asking.response()).body == b"hello"
        peer._tell("answered")
        await peer.wait_open(0)
        await asking.send(get())
        assert (await asking.response()).body == b"hello"

    async def test_garbage_in_place_of_a_record(self, secured: Secured, client: MakeClient) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            await conn.eof()

        proxy, _ = await secured(script)
        asking = await client(proxy.port)
        await asking.send(post(b"x"))
        assert (await asking.response()).status == 502


class TestContexts:
    def test_one_for_all_names(self) -> None:
        contexts = Contexts()
        first = contexts.of(replace(VERIFIED, server_name="a.internal"))
        assert contexts.of(replace(VERIFIED, server_name="b.internal")) is first
        assert contexts.of(UNVERIFIED) is not first

    def test_goes_with_its_last_user(self) -> None:
        contexts = Contexts()
        made = contexts.of(VERIFIED)
        assert len(contexts._made) == 1
        del made
        assert len(contexts._made) == 0

    @pytest.mark.parametrize("tls", [UNVERIFIED, VERIFIED])
    def test_what_is_never_spoken(self, tls: UpstreamTls) -> None:
        made = Contexts().of(tls)
        assert made.minimum_version is ssl.TLSVersion.TLSv1_2
        assert made.options & ssl.OP_NO_RENEGOTIATION
