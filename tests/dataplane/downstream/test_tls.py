"""TLS on listeners: who is shown which certificate, and what those get who come otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from dataclasses import replace

import pytest
from cryptography import x509

from stickyproxy.base.addresses import Address
from stickyproxy.dataplane.downstream.failures import ConnectionFailures
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.model.tls import ListenerTls
from tests.certificates import client_context, make_ca, make_certificate
from tests.conftest import MakeClient, MakeEndpoint, StartProxy, service
from tests.hellos import hello_of
from tests.running import InProcessProxy
from tests.scripted import RawClient, get
from tests.tls import TlsClient

CA = make_ca()
DEMO = make_certificate(["demo.local"], CA, name="demo")
TLS = ListenerSpec(Address("127.0.0.1", 0), tls=ListenerTls())
CLEAR = ListenerSpec(Address("127.0.0.1", 0))

UNRECOGNIZED_NAME = bytes((21, 3, 3, 0, 2, 2, 112))
NO_APPLICATION_PROTOCOL = bytes((21, 3, 3, 0, 2, 2, 120))
UNEXPECTED_MESSAGE = bytes((21, 3, 3, 0, 2, 2, 10))


def common_name(connection: TlsClient) -> str:
    """Of the certificate that the server has shown."""
    shown = connection.tls.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).subject.rfc4514_string()


async def refused(client: RawClient, hello: bytes) -> bytes:
    """What somebody gets who sends this, until the connection is closed."""
    await client.send(hello)
    return await client.read_until_eof()


class TestCertificates:
    async def test_requests(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        peer = await endpoint()
        proxy = await start_proxy([service(peer)], listeners=[TLS], certificates=[DEMO])
        connection = await TlsClient.over(await client(proxy.port), client_context(CA))
        for _ in range(3):
            await connection.send(get())
            assert (await connection.response()).body == b"hello"
        assert connection.tls.version() == "TLSv1.3"
        assert peer.requests[0].header("x-forwarded-proto") == b"https"
        assert peer.requests[0].header("x-forwarded-port") == b"%d" % proxy.port

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("demo.local", "CN=demo.local"),
            ("a.wild.local", "CN=*.wild.local"),
            ("b.a.wild.local", "CN=default"),  # a wildcard is one label
            ("wild.local", "CN=default"),
            ("exact.wild.local", "CN=exact.wild.local"),
            ("other.local", "CN=default"),
            (None, "CN=default"),
        ],
    )
    async def test_by_name(
        self, start_proxy: StartProxy, client: MakeClient, name: str | None, shown: str
    ) -> None:
        certificates = [
            DEMO,
            make_certificate(["*.wild.local"], CA),
            make_certificate(["exact.wild.local"], CA),
            make_certificate(["default"], CA, default=True),
        ]
        proxy = await start_proxy([], listeners=[TLS], certificates=certificates)
        connection = await TlsClient.over(await client(proxy.port), client_context(), name)
        assert common_name(connection) == shown

    @pytest.mark.parametrize("name", ["other.local", None])
    async def test_unknown_name_without_a_default(
        self, start_proxy: StartProxy, client: MakeClient, name: str | None
    ) -> None:
        proxy = await start_proxy(
            [], listeners=[TLS], certificates=[DEMO], default_certificate=False
        )
        hello = hello_of(client_context(), name)
        assert await refused(await client(proxy.port), hello) == UNRECOGNIZED_NAME

    async def test_another_certificate_touches_no_connection(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        peer = await endpoint()
        proxy = await start_proxy([service(peer)], listeners=[TLS], certificates=[DEMO])
        assert isinstance(proxy, InProcessProxy)
        before = await TlsClient.over(await client(proxy.port), client_context(CA))
        other = make_certificate(["demo.local"], CA, common_name="renewed")
        proxy.app.registry.publish(Snapshot("certificates", (), certificates=(other,)))
        after = await TlsClient.over(await client(proxy.port), client_context(CA))
        assert (common_name(before), common_name(after)) == ("CN=demo.local", "CN=renewed")
        for connection in (before, after):
            await connection.send(get())
            assert (await connection.response()).body == b"hello"

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_sessions_are_resumed(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        version: ssl.TLSVersion,
    ) -> None:
        peer = await endpoint()
        proxy = await start_proxy([service(peer)], listeners=[TLS], certificates=[DEMO])
        assert isinstance(proxy, InProcessProxy)
        context = client_context(CA)
        context.maximum_version = version
        first = await TlsClient.over(await client(proxy.port), context)
        await first.send(get())
        await first.response()  # with TLS 1.3 the ticket comes after the handshake
        # Another certificate for another name: this one's sessions stay good.
        more = make_certificate(["other.local"], CA)
        proxy.app.registry.publish(Snapshot("certificates", (), certificates=(DEMO, more)))
        second = await TlsClient.over(await client(proxy.port), context, session=first.tls.session)
        assert second.tls.session_reused

    async def test_one_that_cannot_be_used_is_refused_and_logged_once(
        self, start_proxy: StartProxy, client: MakeClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        bad = replace(DEMO, key=make_certificate(["x"], CA).key)
        proxy = await start_proxy([], listeners=[TLS], certificates=[bad])
        for _ in range(2):
            hello = hello_of(client_context(), "demo.local")
            alert = await refused(await client(proxy.port), hello)
            assert alert == bytes((21, 3, 3, 0, 2, 2, 80))
        errors = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert [each.getMessage()[:35] for each in errors] == [
            "the certificate demo cannot be used"
        ]


class TestProtocols:
    async def test_alpn(self, start_proxy: StartProxy, client: MakeClient) -> None:
        proxy = await start_proxy([], listeners=[TLS], certificates=[DEMO])
        context = client_context(CA)
        context.set_alpn_protocols(["h2", "http/1.1"])
        connection = await TlsClient.over(await client(proxy.port), context)
        assert connection.tls.selected_alpn_protocol() == "http/1.1"

    @pytest.mark.parametrize("protocol", ["h2", "acme-tls/1"])
    async def test_none_that_is_spoken(
        self, start_proxy: StartProxy, client: MakeClient, protocol: str
    ) -> None:
        proxy = await start_proxy([], listeners=[TLS], certificates=[DEMO])
        context = client_context()
        context.set_alpn_protocols([protocol])
        hello = hello_of(context, "demo.local")
        assert await refused(await client(proxy.port), hello) == NO_APPLICATION_PROTOCOL

    async def test_a_challenge_of_acme_is_answered_and_nothing_else(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        challenge = make_certificate(["demo.local"], common_name="proof", challenge=True)
        peer = await endpoint()
        proxy = await start_proxy([service(peer)], listeners=[TLS], certificates=[challenge, DEMO])
        plain = await TlsClient.over(await client(proxy.port), client_context(CA))
        assert common_name(plain) == "CN=demo.local"
        context = client_context()
        context.set_alpn_protocols(["acme-tls/1"])
        asking = await TlsClient.over(await client(proxy.port), context)
        assert common_name(asking) == "CN=proof"
        assert asking.tls.selected_alpn_protocol() == "acme-tls/1"
        with contextlib.suppress(ConnectionError):
            await asking.send(get())
        await asking.closed()
        assert not peer.requests
        mixed = client_context(CA)
        mixed.set_alpn_protocols(["http/1.1", "acme-tls/1"])
        both = await TlsClient.over(await client(proxy.port), mixed)
        assert common_name(both) == "CN=demo.local"


class TestBadInput:
    @pytest.mark.parametrize(
        ("version", "alert"),
        [
            (ssl.TLSVersion.SSLv3, 40),  # handshake_failure: it knows no other
            (ssl.TLSVersion.TLSv1, 70),  # protocol_version
            (ssl.TLSVersion.TLSv1_1, 70),
        ],
    )
    async def test_old_versions_get_an_alert(
        self, start_proxy: StartProxy, client: MakeClient, version: ssl.TLSVersion, alert: int
    ) -> None:
        proxy = await start_proxy([], listeners=[TLS], certificates=[DEMO])
        hello = bytearray(hello_of(client_context(), "demo.local"))
        # Its legacy_version, and no supported_versions (43) to overrule it.
        hello[9:11] = version.to_bytes(2, "big")
        at = hello.index(bytes((0, 43)))
        hello[at : at + 2] = bytes((250, 250))
        got = await refused(await client(proxy.port), bytes(hello))
        assert (got[0], got[-2:]) == (21, bytes((2, alert)))

    async def test_no_common_cipher_gets_an_alert(
        self, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        proxy = await start_proxy([], listeners=[TLS], certificates=[DEMO])
        context = client_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("AES128-SHA")
        hello = hello_of(context, "demo.local")
        alert = await refused(await client(proxy.port), hello)
        assert (alert[0], alert[-2:]) == (21, bytes((2, 40)))  # handshake_failure

    @pytest.mark.parametrize(
        "nonsense", [b"\0" * 50, b"\x80\x2e\x01\x00\x02" + b"\0" * 45, b"\x16\x03\x01\x00\x00"]
    )
    async def test_nonsense_gets_an_alert(
        self, start_proxy: StartProxy, client: MakeClient, nonsense: bytes
    ) -> None:
        proxy = await start_proxy([], listeners=[TLS], certificates=[DEMO])
        assert await refused(await client(proxy.port), nonsense) == UNEXPECTED_MESSAGE

    @pytest.mark.parametrize(
        "head",
        [
            get(),
            b"POST / HTTP/1.1\r\nHost: demo.local\r\n"
            b"Content-Length: 100000\r\n\r\n" + b"x" * 100000,
        ],
    )
    async def test_http_in_the_clear(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient, head: bytes
    ) -> None:
        peer = await endpoint()
        proxy = await start_proxy([service(peer)], listeners=[TLS], certificates=[DEMO])
        plain = await client(proxy.port)
        await plain.send(head)
        response = await plain.response()
        assert response.status == 400
        assert b"https://" in response.body
        assert await plain.eof() == "eof"
        assert not peer.connections

    @pytest.mark.parametrize("sent", [0, 1, 5, 100])
    async def test_stalled(self, start_proxy: StartProxy, client: MakeClient, sent: int) -> None:
        proxy = await start_proxy([], listeners=[TLS], certificates=[DEMO], handshake_timeout=0.2)
        stalled = await client(proxy.port)
        await stalled.send(hello_of(client_context(), "demo.local")[:sent])
        await stalled.closed()

    async def test_stalled_after_the_hello(
        self, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        proxy = await start_proxy([], listeners=[TLS], certificates=[DEMO], handshake_timeout=0.2)
        stalled = await client(proxy.port)
        await stalled.send(hello_of(client_context(), "demo.local"))
        await stalled.eof()

    async def test_a_hello_in_pieces(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        peer = await endpoint()
        proxy = await start_proxy([service(peer)], listeners=[TLS], certificates=[DEMO])
        raw = await client(proxy.port)
        connection = await TlsClient.over(raw, client_context(CA), pieces=1)
        await connection.send(get())
        assert (await connection.response()).body == b"hello"

    @pytest.mark.parametrize("sent", [0, 3, 100])
    async def test_those_that_leave(
        self,
        start_proxy: StartProxy,
        client: MakeClient,
        sent: int,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Reset or closed: neither task nor descriptor is left, and all of it is one line."""
        caplog.set_level(logging.INFO)
        proxy = await start_proxy(
            [], listeners=[TLS], certificates=[DEMO], default_certificate=False
        )
        assert isinstance(proxy, InProcessProxy)
        hello = hello_of(client_context(), "demo.local")[:sent]
        for number in range(10):
            gone = await client(proxy.port)
            await gone.send(hello)
            if number % 2:
                gone.abort()
            else:
                gone.finish()
                await gone.eof()
        # Whoever comes after them is answered: they are done with.
        late = await client(proxy.port)
        await refused(late, hello_of(client_context(), "other.local"))
        await proxy.stop()
        said = [each.getMessage() for each in caplog.records if "was gone" in each.getMessage()]
        assert len(said) == 2
        assert said[1].startswith("9 more connections")

    @pytest.mark.parametrize(
        ("more", "said"),
        [(1, "1 more connection was closed"), (2, "2 more connections were closed")],
    )
    async def test_the_rest_is_counted(
        self, more: int, said: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        failures = ConnectionFailures()
        for _ in range(1 + more):
            failures.note("the client has no certificate", "192.0.2.1")
        failures.stop()
        assert caplog.messages[1:] == [f"{said}: the client has no certificate"]

    async def test_stalled_ones_stop_nobody(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """They cost no task."""
        peer = await endpoint()
        proxy = await start_proxy([service(peer)], listeners=[TLS], certificates=[DEMO])
        tasks = len(asyncio.all_tasks())
        hello = hello_of(client_context(), "demo.local")
        for number in range(300):
            stalled = await client(proxy.port)
            await stalled.send(hello[: number % 50])
        connection = await TlsClient.over(await client(proxy.port), client_context(CA))
        await connection.send(get())
        assert (await connection.response()).body == b"hello"
        assert len(asyncio.all_tasks()) <= tasks + 2  # the endpoint's own
