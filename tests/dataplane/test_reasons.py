"""Clients that may know are told why they reached the endpoint that they did."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from stickyproxy.model.edits import Edits
from tests.conftest import Behind, MakeClient, MakeEndpoint, StartProxy, service
from tests.scripted import answering, get, ok

HOME = (ip_network("127.0.0.1/32"),)
STICKY: dict[str, Any] = {"sticky_session_cookie": "session"}


@pytest.mark.parametrize("edits", [None, Edits(response_set=(("X-Set", "yes"),))])
@pytest.mark.parametrize("compression", [(), ("gzip",)])
async def test_who_may_know(
    behind: Behind, client: MakeClient, edits: Edits | None, compression: tuple[str, ...]
) -> None:
    script = answering(ok(b"hello", X_Sticky_Reason="mine"))
    fields: dict[str, Any] = {"edits": edits, "compression": compression, "reason_for": HOME}
    proxy, peer = await behind(script, **STICKY, **fields)
    user = await client(proxy.port)
    await user.send(get())
    first = await user.response()
    told = f'endpoint="{peer.address}"; state="usable"'.encode()
    assert first.values("x-sticky-reason") == [b"new; " + told]
    pin = (first.header("set-cookie") or b"").partition(b";")[0].decode()
    await user.send(get(Cookie=pin))
    response = await user.response()
    assert response.values("x-sticky-reason") == [b"pinned; " + told]
    assert response.header("x-set") == (b"yes" if edits else None)


async def test_who_may_not(behind: Behind, client: MakeClient) -> None:
    proxy, _ = await behind(**STICKY, reason_for=HOME)
    user = await client(proxy.port, local="127.0.0.2")
    await user.send(get())
    assert (await user.response()).header("x-sticky-reason") is None


async def test_the_client_is_whom_a_trusted_proxy_names(behind: Behind, client: MakeClient) -> None:
    proxy, _ = await behind(**STICKY, reason_for=HOME, trusted_proxies=HOME)
    user = await client(proxy.port)
    for client_address, is_told in (("192.0.2.1", False), ("127.0.0.1", True)):
        await user.send(get(X_Forwarded_For=client_address))
        response = await user.response()
        assert (response.header("x-sticky-reason") is not None) is is_told


async def test_why_nobody_responded(
    endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    gone = await endpoint(listening=False)
    proxy = await start_proxy([service(gone)], reason_for=HOME, hide_info_headers=True)
    user = await client(proxy.port)
    await user.send(get())
    response = await user.response()
    assert response.status == 502
    assert (response.header("x-sticky-reason") or b"").startswith(b"none; ")
