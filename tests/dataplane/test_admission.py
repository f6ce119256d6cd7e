"""Requests that are not served just so: redirects to https, client certificates, HSTS, and whose
connection it is by the PROXY protocol."""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from stickyproxy.base.addresses import Address
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.tls import ClientAuth, ListenerTls
from tests.certificates import client_context, make_ca, make_certificate
from tests.conftest import MakeClient, MakeEndpoint, RunningProxy, StartProxy, service
from tests.scripted import RawClient, Response, answering, get, ok, post
from tests.tls import TlsClient

CA = make_ca()
STAFF, GUESTS = make_ca("staff"), make_ca("guests")
DEMO = make_certificate(["demo.local", "other.local"], CA, name="demo")
JANE = make_certificate([], STAFF, name="jane", common_name="jane, of staff", client=True)
LOCAL = Address("127.0.0.1", 0)
CLEAR = ListenerSpec(Address("0.0.0.0", 0))  # of two listeners each has an address of its own
TLS = ListenerSpec(LOCAL, tls=ListenerTls())
LOOPBACK = (ip_network("127.0.0.0/8"),)
OF_STAFF = ClientAuth(STAFF.pem)
CERT_FIELDS = (
    *("client-cert", "client-cert-chain"),
    *("x-client-cert-subject", "x-client-cert-fingerprint"),
)


async def over_tls(
    client: MakeClient, port: int, data: bytes, name: str = "demo.local", **options: Any
) -> Response:
    connection = await TlsClient.over(await client(port), client_context(CA, **options), name)
    await connection.send(data)
    return await connection.response()


async def in_the_clear(client: MakeClient, port: int, data: bytes) -> Response:
    connection = await client(port)
    await connection.send(data)
    return await connection.response()


async def asked(
    client: RawClient, context: ssl.SSLContext, *, session: ssl.SSLSession | None = None
) -> Response:
    """With TLS 1.3 a client is told only after its handshake that it may not come."""
    connection = await TlsClient.over(client, context, session=session)
    await connection.send(get())
    return await connection.response()


class TestRedirects:
    @pytest.mark.parametrize(
        ("port", "location"),
        [(443, b"https://demo.local/a?b=c"), (8443, b"https://demo.local:8443/a?b=c")],
    )
    async def test_of_a_listener(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        port: int,
        location: bytes,
    ) -> None:
        listener = ListenerSpec(LOCAL, redirect_to_https=port)
        proxy = await start_proxy([service(await endpoint())], listeners=[listener])
        response = await in_the_clear(
            client, proxy.port, post(b"body", "/a?b=c", host="demo.local:80")
        )
        assert response.status == 308
        assert response.header("location") == location

    async def test_of_a_service(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """To the port of the listener that speaks TLS. Only its own requests."""
        peer = await endpoint()
        services = [
            service(peer, ssl_only=True),
            service(peer, name="open", context_root="/open"),
        ]
        proxy = await start_proxy(services, listeners=[CLEAR, TLS], certificates=[DEMO])
        clear, tls = proxy.ports
        redirected = await in_the_clear(client, clear, get("/x?y"))
        assert redirected.status == 308
        assert redirected.header("location") == b"https://demo.local:%d/x?y" % tls
        assert (await in_the_clear(client, clear, get("/open"))).status == 200
        assert (await over_tls(client, tls, get("/x?y"))).status == 200

    @pytest.mark.parametrize("by", ["listener", "service"])
    async def test_challenges_of_acme_are_served_in_the_clear(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient, by: str
    ) -> None:
        listener = ListenerSpec(LOCAL, redirect_to_https=443) if by == "listener" else CLEAR
        spec = service(await endpoint(), ssl_only=by == "service")
        proxy = await start_proxy([spec], listeners=[listener])
        path = "/.well-known/acme-challenge/token"
        assert (await in_the_clear(client, proxy.port, get(path))).body == b"hello"
        for other in (
            "/.well-known/x",
            f"{path}/../../../account",
            f"{path}%2f..%2f..",
            f"{path}?x",
        ):
            assert (await in_the_clear(client, proxy.port, get(other))).status == 308

    @pytest.mark.parametrize("by", ["listener", "service"])
    async def test_a_trusted_proxy_may_have_spoken_tls(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient, by: str
    ) -> None:
        listener = ListenerSpec(LOCAL, redirect_to_https=443) if by == "listener" else CLEAR
        spec = service(await endpoint(), ssl_only=by == "service")
        trusting = await start_proxy([spec], listeners=[listener], trusted_proxies=LOOPBACK)
        said = get(X_Forwarded_Proto="https")
        assert (await in_the_clear(client, trusting.port, said)).status == 200
        other = await start_proxy([spec], listeners=[listener])
        assert (await in_the_clear(client, other.port, said)).status == 308

    async def test_a_host_that_is_none(self, start_proxy: StartProxy, client: MakeClient) -> None:
        listener = ListenerSpec(LOCAL, redirect_to_https=443)
        proxy = await start_proxy([], listeners=[listener])
        for host in ("", "a/b", "evil.example\\"):
            assert (await in_the_clear(client, proxy.port, get(host=host))).status == 400


class TestSessions:
    async def test_go_on_from_http_to_https(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        peers = [await endpoint() for _ in range(5)]
        proxy = await start_proxy(
            [service(*peers, sticky_session_cookie="session")],
            listeners=[CLEAR, TLS],
            certificates=[DEMO],
        )
        clear, tls = proxy.ports
        first = await in_the_clear(client, clear, get())
        cookie = first.header("set-cookie") or b""
        assert b"; Secure" not in cookie
        pin = cookie.partition(b";")[0].decode()
        for _ in range(3):
            again = await over_tls(client, tls, get(Cookie=pin))
            assert again.header("x-upstream-addr") == first.header("x-upstream-addr")
        fresh = await over_tls(client, tls, get())
        assert (fresh.header("set-cookie") or b"").endswith(b"; Secure")

    async def test_pins_are_secure_behind_a_proxy_that_speaks_tls(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        spec = service(await endpoint(), sticky_session_cookie="session")
        proxy = await start_proxy([spec], trusted_proxies=LOOPBACK)
        said = await in_the_clear(client, proxy.port, get(X_Forwarded_Proto="https"))
        assert (said.header("set-cookie") or b"").endswith(b"; Secure")


class TestHsts:
    async def test_over_tls_only_and_in_place_of_the_application_s(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        script = answering(ok(b"hello", **{"strict-transport-security": "max-age=1"}))
        spec = service(await endpoint(script), hsts="max-age=63072000")
        proxy = await start_proxy([spec], listeners=[CLEAR, TLS], certificates=[DEMO])
        clear, tls = proxy.ports
        secure = await over_tls(client, tls, get())
        assert secure.values("strict-transport-security") == [b"max-age=63072000"]
        assert secure.body == b"hello"
        open_ = await in_the_clear(client, clear, get())
        assert open_.values("strict-transport-security") == [b"max-age=1"]


class TestClientCertificates:
    async def start(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, **fields: Any
    ) -> tuple[RunningProxy, Any]:
        peer = await endpoint()
        services = [
            service(peer, **{"client_auth": OF_STAFF} | fields),
            service(peer, name="other", hosts=("other.local",)),
        ]
        proxy = await start_proxy(services, listeners=[TLS, CLEAR], certificates=[DEMO])
        return proxy, peer

    async def test_the_application_is_told(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient, tmp_path: Path
    ) -> None:
        proxy, peer = await self.start(endpoint, start_proxy)
        forged = get(**dict.fromkeys(CERT_FIELDS, "forged"), X_Client_Cert_Subject="forged")
        response = await over_tls(client, proxy.port, forged, shows=JANE, folder=tmp_path)
        assert response.status == 200
        [told] = peer.requests
        der = ssl.PEM_cert_to_DER_cert(JANE.chain)
        leaf = x509.load_der_x509_certificate(der)
        assert told.values("x-client-cert-fingerprint") == [
            hashlib.sha256(der).hexdigest().encode()
        ]
        assert told.values("x-client-cert-subject") == [leaf.subject.rfc4514_string().encode()]
        [value] = told.values("client-cert")
        assert value.startswith(b":MI")
        assert value.endswith(b":")
        assert told.values("client-cert-chain") == []
        assert told.values("x_client_cert_subject") == []

    @pytest.mark.parametrize("shows", [None, "guest"])
    async def test_required(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        tmp_path: Path,
        shows: str | None,
    ) -> None:
        proxy, peer = await self.start(endpoint, start_proxy)
        guest = make_certificate([], GUESTS, name="guest", client=True)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = client_context(CA, shows=guest if shows else None, folder=tmp_path)
            context.maximum_version = version
            with pytest.raises(ssl.SSLError, match=r"(?i)alert|unknown.ca|certificate.required"):
                await asked(await client(proxy.port), context)
        assert not peer.requests

    async def test_optional(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient, tmp_path: Path
    ) -> None:
        optional = ClientAuth(STAFF.pem, required=False)
        proxy, peer = await self.start(endpoint, start_proxy, client_auth=optional)
        assert (await over_tls(client, proxy.port, get())).status == 200
        assert [peer.requests[-1].values(name) for name in CERT_FIELDS] == [[]] * 4
        await over_tls(client, proxy.port, get(), shows=JANE, folder=tmp_path)
        assert peer.requests[-1].header("client-cert")

    async def test_another_host_s_connection_is_misdirected(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient, tmp_path: Path
    ) -> None:
        proxy, peer = await self.start(endpoint, start_proxy)
        tls, clear = proxy.ports
        bare = await over_tls(client, tls, get(), name="other.local")
        assert bare.status == 421
        plain = await in_the_clear(client, clear, get())
        assert plain.status == 421
        shown = await over_tls(client, tls, get(host="other.local"), shows=JANE, folder=tmp_path)
        assert shown.status == 421
        assert not peer.requests
        assert (
            await over_tls(client, tls, get(host="other.local"), name="other.local")
        ).status == 200

    async def test_it_holds_for_all_services_of_a_host(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient, tmp_path: Path
    ) -> None:
        """Also for one that does not ask, whatever name a connection was made for."""
        peer = await endpoint()
        services = [
            service(peer, client_auth=OF_STAFF),
            service(peer, name="api", context_root="/api", ssl_only=True),
            service(peer, name="other", hosts=("other.local",)),
        ]
        proxy = await start_proxy(services, listeners=[TLS, CLEAR], certificates=[DEMO])
        tls, clear = proxy.ports
        sneaking = await over_tls(client, tls, get("/api"), name="other.local")
        assert sneaking.status == 421
        assert (await in_the_clear(client, clear, get("/api"))).status == 308
        assert not peer.requests
        shown = await over_tls(client, tls, get("/api"), shows=JANE, folder=tmp_path)
        assert shown.status == 200

    async def test_of_a_listener(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient, tmp_path: Path
    ) -> None:
        """For all hosts but those that have their own way."""
        peer = await endpoint()
        guests = ClientAuth(GUESTS.pem, required=False)
        services = [
            service(peer),
            service(peer, name="other", hosts=("other.local",), client_auth=guests),
        ]
        listener = ListenerSpec(LOCAL, tls=ListenerTls(OF_STAFF))
        proxy = await start_proxy(services, listeners=[listener], certificates=[DEMO])
        with pytest.raises(ssl.SSLError):
            await over_tls(client, proxy.port, get())
        shown = await over_tls(client, proxy.port, get(), shows=JANE, folder=tmp_path)
        assert shown.status == 200
        bare = get(host="other.local")
        assert (await over_tls(client, proxy.port, bare, name="other.local")).status == 200
        sneaking = await over_tls(client, proxy.port, get(), name="other.local")
        assert sneaking.status == 421

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    async def test_a_session_of_another_host_does_not_do_instead(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        version: ssl.TLSVersion,
    ) -> None:
        """Both hosts have the same certificate. A ticket would be as good as a certificate."""
        proxy, peer = await self.start(endpoint, start_proxy)
        context = client_context(CA)
        context.maximum_version = version
        other = await TlsClient.over(await client(proxy.port), context, "other.local")
        await other.send(get(host="other.local"))
        assert (await other.response()).status == 200
        again = await TlsClient.over(
            await client(proxy.port), context, "other.local", session=other.tls.session
        )
        assert again.tls.session_reused
        served = len(peer.requests)
        with pytest.raises(ssl.SSLError, match=r"(?i)alert|certificate.required"):
            await asked(await client(proxy.port), context, session=other.tls.session)
        assert len(peer.requests) == served

    async def test_nobody_else_says_so(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        """Neither in the clear nor over TLS, nor a trusted proxy."""
        peer = await endpoint()
        proxy = await start_proxy(
            [service(peer)], listeners=[CLEAR, TLS], certificates=[DEMO], trusted_proxies=LOOPBACK
        )
        forged = get(**dict.fromkeys(CERT_FIELDS, "forged"), X_Forwarded_For="192.0.2.1")
        await in_the_clear(client, proxy.ports[0], forged)
        await over_tls(client, proxy.ports[1], forged)
        for told in peer.requests:
            assert [told.values(name) for name in CERT_FIELDS] == [[]] * 4


V2 = b"\r\n\r\n\0\r\nQUIT\n"
TCP4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + struct.pack("!HH", 1, 443)
TCP6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + struct.pack("!HH", 1, 443)
)
TLV = b"\x04\x00\x05extra"


class TestProxyProtocol:
    @pytest.mark.parametrize("secure", [False, True])
    @pytest.mark.parametrize(
        "case",
        [
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 443\r\n", b"192.0.2.7", b"443"),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 1 443\r\n", b"2001:db8::7", b"443"),
            (b"PROXY UNKNOWN\r\n", b"127.0.0.1", None),
            (V2 + b"\x21\x11" + struct.pack("!H", 12) + TCP4, b"192.0.2.7", b"443"),
            (V2 + b"\x21\x11" + struct.pack("!H", 20) + TCP4 + TLV, b"192.0.2.7", b"443"),
            (V2 + b"\x21\x21" + struct.pack("!H", 36) + TCP6, b"2001:db8::7", b"443"),
            (V2 + b"\x20\x00\x00\x00", b"127.0.0.1", None),
            (V2 + b"\x21\x31" + struct.pack("!H", 216) + bytes(216), b"127.0.0.1", None),
        ],
    )
    async def test_the_client_is_whom_it_names(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        case: tuple[bytes, bytes, bytes | None],
        secure: bool,
    ) -> None:
        header, address, port = case
        peer = await endpoint()
        listener = ListenerSpec(LOCAL, tls=ListenerTls() if secure else None, proxy_protocol=True)
        proxy = await start_proxy(
            [service(peer)], listeners=[listener], certificates=[DEMO], trusted_proxies=LOOPBACK
        )
        for pieces in (1, 1000):
            connection: RawClient = await client(proxy.port)
            for at in range(0, len(header), pieces):
                await connection.send(header[at : at + pieces])
            if secure:
                connection = await TlsClient.over(connection, client_context(CA))
            await connection.send(get(X_Forwarded_For="203.0.113.9"))
            assert (await connection.response()).body == b"hello"
            told = peer.requests[-1]
            if port is None:  # it is still the trusted proxy who speaks
                assert told.header("x-forwarded-for") == b"203.0.113.9, " + address
            else:
                assert told.header("x-forwarded-for") == address
                assert told.header("x-real-ip") == address
                assert told.header("x-forwarded-port") == port

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
            b"PROXY TCP4 192.0.2.777 198.51.100.1 1 443\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 1 443\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n",
            b"PROXY TCP6 fe80::7%a\nX-Evil:\tb 2001:db8::1 1 443\r\n",
            b"PROXY " + b"x" * 200,
            V2 + b"\x31\x11" + struct.pack("!H", 12) + TCP4,
            V2 + b"\x21\x11" + struct.pack("!H", 4) + TCP4,
            V2 + b"\x21\x11\xff\xff" + TCP4,
        ],
    )
    async def test_a_trusted_proxy_must_send_it(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient, header: bytes
    ) -> None:
        peer = await endpoint()
        listener = ListenerSpec(LOCAL, proxy_protocol=True)
        proxy = await start_proxy([service(peer)], listeners=[listener], trusted_proxies=LOOPBACK)
        connection = await client(proxy.port)
        await connection.send(header + get())
        await connection.closed()
        assert not peer.connections

    async def test_from_anybody_else_it_is_a_bad_request(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        peer = await endpoint()
        clear = ListenerSpec(CLEAR.address, proxy_protocol=True)
        secure = ListenerSpec(LOCAL, tls=ListenerTls(), proxy_protocol=True)
        proxy = await start_proxy(
            [service(peer)],
            listeners=[clear, secure],
            certificates=[DEMO],
            trusted_proxies=(ip_network("192.0.2.0/24"),),
        )
        header = b"PROXY TCP4 192.0.2.7 198.51.100.1 1 443\r\n"
        for port in proxy.ports:
            assert (await in_the_clear(client, port, header + get())).status == 400
        assert (await in_the_clear(client, proxy.ports[0], get())).status == 200
        assert (await over_tls(client, proxy.ports[1], get())).status == 200
        assert {each.header("x-real-ip") for each in peer.requests} == {b"127.0.0.1"}

    async def test_it_has_to_come_in_time(
        self, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        listener = ListenerSpec(LOCAL, proxy_protocol=True)
        proxy = await start_proxy(
            [], listeners=[listener], trusted_proxies=LOOPBACK, handshake_timeout=0.2
        )
        connection = await client(proxy.port)
        await connection.send(b"PROXY TCP4 ")
        await connection.closed()
