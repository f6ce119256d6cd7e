"""Bugs that were: requests that reached an endpoint other than they should have, or at all."""

from __future__ import annotations

import pytest

from tests.conftest import Behind, MakeClient
from tests.scripted import get

PIN = b"sp1.000000000000000000000000"


@pytest.mark.parametrize("behind_cookie", [b"", b"Authorization: Bearer secret\r\n"])
async def test_01_a_field_named_in_connection_before_a_cookie_with_a_pin(
    behind: Behind, client: MakeClient, behind_cookie: bytes
) -> None:
    """The pin was stripped from the wrong line, whose field was lost."""
    proxy, peer = await behind(sticky_session_cookie="session")
    user = await client(proxy.port)
    await user.send(
        b"GET / HTTP/1.1\r\nHost: demo.local\r\nConnection: X-Foo\r\nX-Foo: 1\r\n"
        b"Cookie: session=" + PIN + b"; a=b\r\n" + behind_cookie + b"\r\n"
    )
    assert (await user.response()).status == 200
    [received] = peer.requests
    assert [value for name, value in received.headers if name == b"Cookie"] == [b"a=b"]
    assert received.header("X-Foo") is None
    assert received.header("Authorization") == (b"Bearer secret" if behind_cookie else None)


async def test_02_connect_with_a_path(behind: Behind, client: MakeClient) -> None:
    """It was forwarded, and its connection reused."""
    proxy, peer = await behind()
    user = await client(proxy.port)
    await user.send(b"CONNECT /x HTTP/1.1\r\nHost: demo.local\r\n\r\n")
    assert (await user.response()).status == 405
    assert await user.closed() == "eof"
    assert peer.requests == []


async def test_03_a_wildcard_as_host(behind: Behind, client: MakeClient) -> None:
    """The name of a wildcard route is no host name."""
    proxy, peer = await behind(hosts=("*.demo.local",))
    user = await client(proxy.port)
    await user.send(get(host="a.demo.local"))
    assert (await user.response()).status == 200
    await user.send(get(host="*.demo.local"))
    assert (await user.response()).status == 400
    assert len(peer.requests) == 1


async def test_04_asterisk_on_a_redirect(behind: Behind, client: MakeClient) -> None:
    """The asterisk became a part of the host name redirected to."""
    proxy, _ = await behind(redirects=(("old.local", "https://new.example"),))
    user = await client(proxy.port)
    await user.send(b"OPTIONS * HTTP/1.1\r\nHost: old.local\r\n\r\n")
    response = await user.response()
    assert response.status == 302
    assert response.header("Location") == b"https://new.example/"


async def test_05_forwarded_of_an_untrusted_client(behind: Behind, client: MakeClient) -> None:
    """RFC 7239's field passed where X-Forwarded-For did not."""
    proxy, peer = await behind()
    user = await client(proxy.port)
    await user.send(get(Forwarded="for=203.0.113.9"))
    assert (await user.response()).status == 200
    assert peer.requests[0].header("Forwarded") is None
