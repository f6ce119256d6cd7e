"""An endpoint gives a session away in a response: ``x-sticky-handover``."""

from __future__ import annotations

from typing import Any

import pytest

from stickyproxy.model.service import EndpointSpec
from tests.conftest import MakeClient, MakeEndpoint, RunningProxy, StartProxy, service
from tests.scripted import (
    EndpointConnection,
    RawClient,
    Request,
    Response,
    ScriptedEndpoint,
    get,
    ok,
)

FIELDS = {"away": "any", "to-2": "2", "to-9": "9", "to-1": "1", "to-2-as-typed": " 2 "}


class Replica:
    """Says who it is, and gives sessions away as the target of the request says."""

    def __init__(self, name: bytes, *, sets: str = "") -> None:
        self._name = name
        self._sets = sets

    async def __call__(self, conn: EndpointConnection) -> None:
        while (received := await conn.request()) is not None:
            fields = {"x-sticky-handover": FIELDS[word]} if (word := _word(received)) else {}
            cookie = {"set-cookie": self._sets} if self._sets else {}
            await conn.send(ok(self._name, **fields, **cookie))


def _word(received: Request) -> str:
    return received.target.decode().strip("/")


async def two(
    endpoint: MakeEndpoint, start_proxy: StartProxy, *, sets: str = "", **fields: Any
) -> tuple[RunningProxy, ScriptedEndpoint, ScriptedEndpoint]:
    one, other = await endpoint(Replica(b"one", sets=sets)), await endpoint(Replica(b"two"))
    specs = tuple(
        EndpointSpec(peer.address, peer.address, slot=slot)
        for slot, peer in (("1", one), ("2", other))
    )
    asked = {"sticky_session_cookie": "session"} | fields
    return await start_proxy([service(endpoints=specs, **asked)]), one, other


async def asked(user: RawClient, cookie: str = "theme=dark", path: str = "/") -> Response:
    await user.send(get(path, cookie=cookie))
    return await user.response()


def pin(response: Response) -> str:
    """The cookie that it sets; empty: none."""
    return (response.values("set-cookie") or [b""])[-1].decode().partition(";")[0]


async def session_at(user: RawClient, name: bytes) -> str:
    for _ in range(4):
        response = await asked(user)
        if response.body == name:
            return pin(response)
    raise AssertionError("new sessions are not dealt by turns")


@pytest.mark.parametrize("path", ["/away", "/to-2", "/to-2-as-typed"])
async def test_a_session_is_given_away(
    endpoint: MakeEndpoint, client: MakeClient, start_proxy: StartProxy, path: str
) -> None:
    proxy, _, _ = await two(endpoint, start_proxy)
    user = await client(proxy.port)
    cookie = await session_at(user, b"one")
    response = await asked(user, cookie, path)
    assert response.body == b"one"
    assert response.header("x-sticky-handover") is None
    assert pin(response) != cookie
    response = await asked(user, pin(response))
    assert (response.body, pin(response)) == (b"two", "")


@pytest.mark.parametrize("path", ["/to-9", "/to-1", "/"])
async def test_or_stays(
    endpoint: MakeEndpoint, client: MakeClient, start_proxy: StartProxy, path: str
) -> None:
    """Nobody has that slot, or the one that gives it away has it."""
    proxy, _, _ = await two(endpoint, start_proxy)
    user = await client(proxy.port)
    cookie = await session_at(user, b"one")
    response = await asked(user, cookie, path)
    assert (response.body, pin(response)) == (b"one", "")
    assert response.header("x-sticky-handover") is None


async def test_a_new_one_begins_where_it_was_given_to(
    endpoint: MakeEndpoint, client: MakeClient, start_proxy: StartProxy
) -> None:
    proxy, _, _ = await two(endpoint, start_proxy)
    user = await client(proxy.port)
    for _ in range(2):
        response = await asked(user, path="/away")
        giver = response.body
        assert (await asked(user, pin(response))).body != giver


async def test_with_the_companion(
    endpoint: MakeEndpoint, client: MakeClient, start_proxy: StartProxy
) -> None:
    """Where the application has a cookie of that name, and whether or not it sets it again."""
    proxy, _, _ = await two(endpoint, start_proxy, sets="session=abc; Path=/")
    user = await client(proxy.port)
    companion = await session_at(user, b"one")
    assert companion.startswith("session_lb=")
    response = await asked(user, f"session=abc; {companion}", "/to-2")
    assert response.values("set-cookie")[0] == b"session=abc; Path=/"
    moved = pin(response)
    assert moved.startswith("session_lb=")
    assert moved != companion
    response = await asked(user, f"session=abc; {moved}")
    assert (response.body, pin(response)) == (b"two", "")
    response = await asked(user, f"session=abc; {moved}", "/to-1")
    back = pin(response)
    assert back.startswith("session_lb=")
    assert (await asked(user, f"session=abc; {back}")).body == b"one"


async def test_without_sessions_it_is_only_removed(
    endpoint: MakeEndpoint, client: MakeClient, start_proxy: StartProxy
) -> None:
    proxy, _, _ = await two(endpoint, start_proxy, sticky_session_cookie=None, ip_hash=True)
    response = await asked(await client(proxy.port), path="/away")
    assert response.status == 200
    assert response.header("x-sticky-handover") is None
    assert pin(response) in ("", "session=abc")
