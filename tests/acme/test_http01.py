"""Challenges of http-01 (RFC 8555 section 8.3), answered from the routing table: by any proxy, with
nothing but the thumbprint of the account."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stickyproxy.model.snapshot import Snapshot
from tests.conftest import MakeClient, MakeEndpoint, RunningProxy, StartProxy, service
from tests.running import InProcessProxy
from tests.scripted import get, request

TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
PATH = f"/.well-known/acme-challenge/{TOKEN}"
THUMBPRINT = "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"


def account(running: RunningProxy, thumbprint: str = THUMBPRINT) -> None:
    """An account becomes known."""
    assert isinstance(running, InProcessProxy)
    running.app.registry.publish(Snapshot("acme", (), acme_thumbprints=(thumbprint,)))


@pytest.fixture
async def running(endpoint: MakeEndpoint, start_proxy: StartProxy) -> RunningProxy:
    """A proxy with two services, of which one has its certificate by ACME."""
    peer = await endpoint()
    ours = service(peer, acme=True)
    other = service(peer, name="other", hosts=("other.local",))
    proxy = await start_proxy([ours, other])
    account(proxy)
    return proxy


async def test_is_answered(running: RunningProxy, client: MakeClient) -> None:
    user = await client(running.port)
    await user.send(get(PATH))
    response = await user.response()
    assert (response.status, response.body) == (200, f"{TOKEN}.{THUMBPRINT}".encode())
    assert response.values("content-type") == [b"text/plain; charset=utf-8"]
    await user.send(get("/"))
    assert (await user.response()).body == b"hello", "the connection goes on"


@pytest.mark.parametrize("host", ["DEMO.local", "demo.local:80", "demo.local."])
async def test_the_host_is_compared_as_a_host(
    running: RunningProxy, client: MakeClient, host: str
) -> None:
    user = await client(running.port)
    await user.send(get(PATH, host=host))
    assert (await user.response()).body.endswith(THUMBPRINT.encode())


@pytest.mark.parametrize(
    ("path", "host"),
    [
        (PATH, "other.local"),  # it answers challenges itself, or not at all
        (PATH + "/more", "demo.local"),
        (PATH + "?query", "demo.local"),
        ("/.well-known/acme-challenge/", "demo.local"),
        ("/.well-known/acme-challenge/a.b", "demo.local"),
        ("/.well-known/acme-challenge/%41", "demo.local"),
        ("/.well-known/acme-challenge/" + "a" * 257, "demo.local"),
        ("/.well-known/acme-challengeX" + TOKEN, "demo.local"),
    ],
)
async def test_anything_else_is_the_applications(
    running: RunningProxy, client: MakeClient, path: str, host: str
) -> None:
    user = await client(running.port)
    await user.send(get(path, host=host))
    assert (await user.response()).body == b"hello"


async def test_a_head_request_gets_the_head(running: RunningProxy, client: MakeClient) -> None:
    user = await client(running.port)
    await user.send(request("HEAD", PATH, ("Host", "demo.local")))
    response = await user.response(to="HEAD")
    assert response.status == 200
    assert response.values("content-length") == [b"%d" % (len(TOKEN) + 1 + len(THUMBPRINT))]


async def test_follows_the_account_and_the_service(
    running: RunningProxy, client: MakeClient, endpoint: MakeEndpoint
) -> None:
    user = await client(running.port)
    account(running, "another")
    await user.send(get(PATH))
    assert (await user.response()).body == f"{TOKEN}.another".encode()
    running.set_services([service(await endpoint())])  # without acme
    await user.send(get(PATH))
    assert (await user.response()).body == b"hello"


async def test_a_controller_answers_for_its_own_services(
    running: RunningProxy, client: MakeClient
) -> None:
    """Its account orders for them, and ours for what is ours."""
    assert isinstance(running, InProcessProxy)
    theirs = replace(service(acme=True), name="theirs", hosts=("theirs.local",))
    snapshot = Snapshot("controller", (theirs,), acme_thumbprints=("of-the-controller",))
    running.app.registry.publish(snapshot)
    user = await client(running.port)
    await user.send(get(PATH, host="theirs.local"))
    assert (await user.response()).body == f"{TOKEN}.of-the-controller".encode()
    await user.send(get(PATH))
    assert (await user.response()).body == f"{TOKEN}.{THUMBPRINT}".encode()
