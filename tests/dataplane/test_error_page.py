"""A service's own page for error responses of the proxy."""

from __future__ import annotations

import pytest

from stickyproxy.model.terms import Terms
from tests.conftest import Behind, MakeClient, StartProxy, service
from tests.scripted import answering, get, post, request, respond

PAGE = "<h1>{status} {reason}</h1><p>{message} {other} {status.__class__} ü</p>"


async def test_where_there_is_no_endpoint(start_proxy: StartProxy, client: MakeClient) -> None:
    proxy = await start_proxy([service(error_page=PAGE)])
    connection = await client(proxy.port)
    await connection.send(get())
    response = await connection.response()
    assert response.status == 503
    assert response.header("content-type") == b"text/html; charset=utf-8"
    assert response.header("retry-after") == b"1"
    message = "service demo has no usable endpoint"
    said = f"<h1>503 Service Unavailable</h1><p>{message} {{other}} {{status.__class__}} ü</p>"
    assert response.body.decode() == said
    await connection.send(request("HEAD", "/", ("Host", "demo.local")))
    assert (await connection.response("HEAD")).header("content-length") == b"%d" % len(
        response.body
    )


async def test_where_the_service_refuses(behind: Behind, client: MakeClient) -> None:
    proxy, _ = await behind(error_page=PAGE, terms=Terms(max_body=1))
    connection = await client(proxy.port)
    await connection.send(post(b"12"))
    assert (await connection.response()).body.startswith(b"<h1>413 Content Too Large</h1>")


@pytest.mark.parametrize("host", ["other.local", "demo.local"])
async def test_of_no_other(behind: Behind, client: MakeClient, host: str) -> None:
    """What an endpoint responds is its own, and so is what is of no service."""
    script = answering(respond("500 Oh", ("Content-Length", "4"), body=b"oops"))
    proxy, _ = await behind(script, error_page=PAGE)
    connection = await client(proxy.port)
    await connection.send(get(host=host))
    assert b"<h1>" not in (await connection.response()).body


async def test_what_a_client_wrote_is_escaped(behind: Behind, client: MakeClient) -> None:
    proxy, _ = await behind(error_page=PAGE)
    connection = await client(proxy.port)
    await connection.send(get("/<b>{message}", host="other.local"))
    assert b"<h1>" not in (await connection.response()).body
