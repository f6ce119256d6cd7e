"""Services that ask for a name and a password (RFC 7617)."""

from __future__ import annotations

from base64 import b64encode

import pytest

from stickyproxy.base.passwords import PasswordHash
from stickyproxy.model.terms import Rate, Terms
from stickyproxy.routing.basic_auth import BasicAuth, basic_auth
from tests.conftest import Behind, MakeClient
from tests.scripted import get, post

ANNE = ("anne", str(PasswordHash.make(b"sesame", log_n=10)))
BOB = ("bob", str(PasswordHash.make("grüße:1".encode(), log_n=10)))
TERMS = Terms(users=(ANNE, BOB))


def basic(name: str, password: str) -> str:
    return "Basic " + b64encode(f"{name}:{password}".encode()).decode()


RIGHT = [basic("anne", "sesame"), basic("bob", "grüße:1"), "bAsIc " + basic("anne", "sesame")[6:]]
WRONG = [
    basic("anne", "sesam"),
    basic("anne", "grüße:1"),
    basic("eve", "sesame"),
    basic("", ""),
    "Basic",
    "Basic ####",
    "Basic YW5uZQ==",
    "Bearer " + basic("anne", "sesame")[6:],
    "Basic " + "A" * 2000,
]


@pytest.mark.parametrize("credentials", RIGHT)
async def test_who_is_right_comes_in(behind: Behind, client: MakeClient, credentials: str) -> None:
    """And is known from then on."""
    proxy, peer = await behind(terms=TERMS)
    connection = await client(proxy.port)
    for _ in range(3):
        await connection.send(post(b"body", authorization=credentials))
        assert (await connection.response()).status == 200
    assert [each.body for each in peer.requests] == [b"body"] * 3
    assert basic_auth(TERMS.users).knows(credentials.encode())


@pytest.mark.parametrize("credentials", WRONG)
async def test_who_is_not_is_asked_again(
    behind: Behind, client: MakeClient, credentials: str
) -> None:
    proxy, peer = await behind(terms=TERMS)
    connection = await client(proxy.port)
    for _ in range(2):
        await connection.send(post(b"body", authorization=credentials))
        response = await connection.response()
        assert response.status == 401
        challenge = b'Basic realm="demo", charset="UTF-8"'
        assert response.header("www-authenticate") == challenge
    assert not peer.requests
    assert not basic_auth(TERMS.users).knows(credentials.encode())


async def test_who_says_nothing_is_asked(behind: Behind, client: MakeClient) -> None:
    proxy, peer = await behind(terms=TERMS)
    connection = await client(proxy.port)
    await connection.send(get())
    assert (await connection.response()).status == 401
    await connection.send(get(authorization=RIGHT[0]))
    assert (await connection.response()).status == 200
    assert len(peer.requests) == 1


async def test_a_request_counts_once(behind: Behind, client: MakeClient) -> None:
    """However long it takes to find out whose it is; and guesses count too."""
    rate = Rate(requests=2, seconds=3600, burst=2)
    carol = ("carol", str(PasswordHash.make(b"new", log_n=10)))
    proxy, _ = await behind(terms=Terms(users=(carol,), rate=rate))
    connection = await client(proxy.port)
    statuses = []
    for password in ("new", "old", "older"):
        await connection.send(get(authorization=basic("carol", password)))
        statuses.append((await connection.response()).status)
    assert statuses == [200, 401, 429]


async def test_a_client_that_leaves_meanwhile(behind: Behind, client: MakeClient) -> None:
    proxy, peer = await behind(terms=TERMS)
    leaving = await client(proxy.port)
    await leaving.send(get(authorization=basic("anne", "unknown")))
    leaving.abort()
    connection = await client(proxy.port)
    await connection.send(get(authorization=RIGHT[0]))
    assert (await connection.response()).status == 200
    assert len(peer.requests) == 1


def test_only_so_many_are_remembered() -> None:
    auth = BasicAuth((ANNE,))
    for number in range(1025):
        auth.remember(b"%d" % number)
    assert not auth.knows(b"0")
    assert auth.knows(b"1")
    assert auth.knows(b"1024")
