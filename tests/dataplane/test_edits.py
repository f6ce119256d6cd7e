"""Header fields that a service sets and removes."""

from __future__ import annotations

import pytest

from stickyproxy.model.edits import Edits
from tests.conftest import Behind, MakeClient
from tests.scripted import Message, answering, get, ok, post

SET = (("X-Env", "production"), ("X-Empty", ""), ("X-Two", "a"), ("X-Two", "b"))


def check(changed: Message) -> None:
    assert changed.header("x-env") == b"production"
    assert changed.header("x-empty") == b""
    assert changed.values("x-two") == [b"a", b"b"]
    assert changed.header("x-debug") is None
    assert changed.header("x-debugger") == b"stays"


async def test_of_requests(behind: Behind, client: MakeClient) -> None:
    edits = Edits(request_set=SET, request_remove=("X-DEBUG",))
    proxy, peer = await behind(edits=edits, sticky_session_cookie="session")
    connection = await client(proxy.port)
    fields = {"x_env": "test", "x_two": "z", "x_debug": "1", "X_Debugger": "stays"}
    for _ in range(2):
        await connection.send(get(**fields, Cookie="session=sp1.stale; a=b"))
        assert (await connection.response()).header("x-env") is None
    for seen in peer.requests:
        check(seen)
        assert seen.header("cookie") == b"a=b"
        assert seen.header("host") == b"demo.local"


async def test_of_responses(behind: Behind, client: MakeClient) -> None:
    edits = Edits(response_set=SET, response_remove=("X-DEBUG",))
    fields = {"x_env": "test", "x_two": "z", "x_debug": "1", "X_Debugger": "stays"}
    proxy, peer = await behind(answering(ok(b"body", **fields)), edits=edits)
    connection = await client(proxy.port)
    await connection.send(post(b"body"))
    response = await connection.response()
    check(response)
    assert response.body == b"body"
    assert response.header("x-request-id")
    assert peer.requests[0].header("x-env") is None


@pytest.mark.parametrize("edits", [Edits(), None])
async def test_of_nothing(behind: Behind, client: MakeClient, edits: Edits | None) -> None:
    proxy, peer = await behind(edits=edits)
    connection = await client(proxy.port)
    await connection.send(get(x_debug="1"))
    assert (await connection.response()).status == 200
    assert peer.requests[0].header("x-debug") == b"1"
