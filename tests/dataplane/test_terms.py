"""What a service does not take: clients from elsewhere, long bodies, too many requests."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.terms import Rate, Terms
from tests.conftest import Behind, MakeClient, MakeEndpoint, StartProxy, service
from tests.scripted import EndpointConnection, Response, chunk, chunked, get, post, request

HOME = (ip_network("127.0.0.0/8"),)
ELSEWHERE = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))
ONE = Rate(requests=1, seconds=3600, burst=1)


def sent_in_chunks(*pieces: bytes) -> bytes:
    fields = (("Host", "demo.local"), ("Transfer-Encoding", "chunked"))
    return request("POST", "/", *fields, body=chunked(*pieces))


async def ask(client: MakeClient, port: int, data: bytes) -> Response:
    connection = await client(port)
    await connection.send(data)
    return await connection.response()


class TestAddresses:
    @pytest.mark.parametrize(
        ("terms", "status"),
        [
            (Terms(allow_from=HOME), 200),
            (Terms(allow_from=ELSEWHERE), 403),
            (Terms(deny_from=HOME), 403),
            (Terms(deny_from=ELSEWHERE), 200),
            (Terms(allow_from=HOME, deny_from=HOME), 403),
        ],
    )
    async def test_who_may_ask(
        self, behind: Behind, client: MakeClient, terms: Terms, status: int
    ) -> None:
        proxy, peer = await behind(terms=terms)
        assert (await ask(client, proxy.port, get())).status == status
        assert len(peer.requests) == (status == 200)

    @pytest.mark.parametrize(
        ("forwarded", "status"),
        [("192.0.2.7", 200), ("::ffff:192.0.2.7", 200), ("2001:db8::1", 200), ("192.0.3.7", 403)],
    )
    async def test_the_client_is_whom_a_trusted_proxy_names(
        self, behind: Behind, client: MakeClient, forwarded: str, status: int
    ) -> None:
        proxy, _ = await behind(terms=Terms(allow_from=ELSEWHERE), trusted_proxies=HOME)
        asked = get(x_forwarded_for=forwarded)
        assert (await ask(client, proxy.port, asked)).status == status

    async def test_nobody_else_may_name_one(self, behind: Behind, client: MakeClient) -> None:
        proxy, _ = await behind(terms=Terms(allow_from=ELSEWHERE))
        asked = get(x_forwarded_for="192.0.2.7")
        assert (await ask(client, proxy.port, asked)).status == 403

    async def test_the_connection_is_kept(self, behind: Behind, client: MakeClient) -> None:
        proxy, _ = await behind(terms=Terms(deny_from=HOME))
        connection = await client(proxy.port)
        for _ in range(2):
            await connection.send(get())
            response = await connection.response()
            assert response.body == b"clients from this address are not allowed here\n"

    async def test_what_one_service_refuses_the_route_refuses(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        peer = await endpoint()
        strict = service(peer, name="a", terms=Terms(deny_from=HOME), share=True)
        proxy = await start_proxy([strict, service(peer, name="b", share=True)])
        assert (await ask(client, proxy.port, get())).status == 403


class TestBodies:
    @pytest.mark.parametrize(("length", "status"), [(0, 200), (10, 200), (11, 413), (10**6, 413)])
    async def test_of_an_announced_length(
        self, behind: Behind, client: MakeClient, length: int, status: int
    ) -> None:
        proxy, peer = await behind(terms=Terms(max_body=10))
        response = await ask(client, proxy.port, post(bytes(length)))
        assert response.status == status
        assert len(peer.requests) == (status == 200)
        if status == 413:
            assert response.body == b"the request body is longer than 10 bytes\n"
            assert response.closes

    async def test_is_refused_before_it_is_sent(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(terms=Terms(max_body=10))
        connection = await client(proxy.port)
        announced = ("Content-Length", "11"), ("Expect", "100-continue")
        await connection.send(request("POST", "/", ("Host", "demo.local"), *announced))
        assert (await connection.response()).status == 413
        assert not peer.requests

    @pytest.mark.parametrize(
        ("pieces", "status"), [((b"12345", b"67890"), 200), ((b"1" * 11,), 413)]
    )
    async def test_in_chunks_that_are_all_there(
        self, behind: Behind, client: MakeClient, pieces: tuple[bytes, ...], status: int
    ) -> None:
        proxy, peer = await behind(terms=Terms(max_body=10))
        assert (await ask(client, proxy.port, sent_in_chunks(*pieces))).status == status
        assert len(peer.requests) == (status == 200)

    async def test_in_chunks_that_come_later(self, behind: Behind, client: MakeClient) -> None:
        """The endpoint never sees the end of such a request."""

        async def script(conn: EndpointConnection) -> None:
            await conn.head()
            conn.tell(await conn.read_until_eof())

        proxy, peer = await behind(script, terms=Terms(max_body=10))
        connection = await client(proxy.port)
        fields = (("Host", "demo.local"), ("Transfer-Encoding", "chunked"))
        await connection.send(request("POST", "/", *fields, body=chunk(b"1234567890")))
        await connection.send(chunk(b"1"))
        response = await connection.response()
        assert (response.status, response.closes) == (413, True)
        assert await peer.told() in (b"", chunk(b"1234567890"))


class TestRates:
    async def test_what_is_too_much(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(terms=Terms(rate=Rate(requests=2, seconds=7200, burst=2)))
        connection = await client(proxy.port)
        statuses = []
        for _ in range(3):
            await connection.send(get())
            response = await connection.response()
            statuses.append(response.status)
        assert statuses == [200, 200, 429]
        assert response.body == b"too many requests from this address\n"
        assert 0 < int(response.header("retry-after") or 0) <= 3600
        assert len(peer.requests) == 2

    async def test_each_client_has_its_own(self, behind: Behind, client: MakeClient) -> None:
        """Whoever has an IPv6 network has all its addresses."""
        proxy, _ = await behind(terms=Terms(rate=ONE), trusted_proxies=HOME)
        connection = await client(proxy.port)
        statuses = []
        for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "192.0.2.1"):
            await connection.send(get(x_forwarded_for=address))
            statuses.append((await connection.response()).status)
        assert statuses == [200, 200, 200, 429, 429]

    async def test_who_may_not_ask_uses_up_nothing(
        self, behind: Behind, client: MakeClient
    ) -> None:
        proxy, _ = await behind(terms=Terms(deny_from=HOME, rate=ONE))
        for _ in range(2):
            assert (await ask(client, proxy.port, get())).status == 403

    async def test_a_request_counts_once_however_often_it_is_sent(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        gone, peer = await endpoint(), await endpoint()
        await gone.stop()
        rate = Rate(requests=4, seconds=3600, burst=4)
        proxy = await start_proxy([service(gone, peer, terms=Terms(rate=rate))])
        statuses = [(await ask(client, proxy.port, get())).status for _ in range(5)]
        assert statuses == [200, 200, 200, 200, 429]

    async def test_it_is_not_forgotten_when_the_service_changes(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        peer, other = await endpoint(), await endpoint()
        terms = Terms(rate=ONE)
        proxy = await start_proxy([service(peer, terms=terms)])
        assert (await ask(client, proxy.port, get())).status == 200
        proxy.set_services([service(peer, other, terms=terms)])
        assert (await ask(client, proxy.port, get())).status == 429
        proxy.set_services([service(peer)])
        assert (await ask(client, proxy.port, get())).status == 200


def test_what_is_off_is_not_there() -> None:
    assert ServiceSpec("demo", ("demo.local",)).terms is None
