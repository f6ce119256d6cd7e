"""Traces: what endpoints are told, and what a collector gets that reads OTLP over HTTP."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from ipaddress import ip_network
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from stickyproxy.model.settings import TracingSettings
from tests.conftest import Behind, MakeClient, MakeEndpoint, StartProxy, service
from tests.scripted import EndpointConnection, ScriptedEndpoint, get, respond

HOME = (ip_network("127.0.0.0/8"),)
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
GIVEN = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-0([0-3])")


class Collector:
    """Takes spans."""

    def __init__(self) -> None:
        self.spans: asyncio.Queue[Span] = asyncio.Queue()
        self.resource: dict[str, str] = {}

    async def __call__(self, conn: EndpointConnection) -> None:
        while (received := await conn.request()) is not None:
            assert received.target == b"/v1/traces"
            assert received.header("content-type") == b"application/x-protobuf"
            message = ExportTraceServiceRequest.FromString(received.body)
            for resource in message.resource_spans:
                self.resource = attributes(resource.resource)
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        self.spans.put_nowait(span)
            await conn.send(respond("200 OK", ("Content-Length", "0")))

    async def next(self) -> Span:
        return await asyncio.wait_for(self.spans.get(), 20)


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in of.attributes}


def given(peer: ScriptedEndpoint) -> tuple[str, str, int]:
    """(trace, span, flags) that the endpoint was told last."""
    [value] = peer.requests[-1].values("traceparent")
    match = GIVEN.fullmatch(value)
    assert match, value
    return match[1].decode(), match[2].decode(), int(match[3])


class TestPassing:
    async def test_off_by_default(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind()
        user = await client(proxy.port)
        for fields in ({}, {"Traceparent": "whatever"}):
            await user.send(get(**fields))
            await user.response()
        assert [each.header("traceparent") for each in peer.requests] == [None, b"whatever"]

    async def test_it_begins_here(self, behind: Behind, client: MakeClient) -> None:
        proxy, peer = await behind(tracing=TracingSettings())
        user = await client(proxy.port)
        seen = set()
        for _ in range(3):
            await user.send(get(Cookie="a=b"))
            await user.response()
            trace, span, flags = given(peer)
            seen |= {trace, span}
            assert flags == 3
        assert len(seen) == 6

    async def test_what_the_client_says_is_kept(self, behind: Behind, client: MakeClient) -> None:
        """Nobody records this proxy's span, so the parent is still the client's."""
        proxy, peer = await behind(tracing=TracingSettings(), sticky_session_cookie="session")
        user = await client(proxy.port)
        cookie = "session=sp1.stale; a=b"
        fields = {"traceParent": PARENT, "TraceState": "a=1,b=2", "Cookie": cookie, "X-Last": "1"}
        await user.send(get(**fields))
        await user.response()
        assert given(peer) == (TRACE, SPAN, 1)
        seen = peer.requests[-1]
        assert [seen.header(name) for name in ("tracestate", "cookie", "x-last")] == [
            *(b"a=1,b=2", b"a=b", b"1")
        ]

    @pytest.mark.parametrize("parent", ["garbage", "", PARENT.upper(), f"{PARENT}-x"])
    async def test_what_makes_no_sense_begins_anew(
        self, behind: Behind, client: MakeClient, parent: str
    ) -> None:
        proxy, peer = await behind(tracing=TracingSettings())
        user = await client(proxy.port)
        await user.send(get(Traceparent=parent, Tracestate="a=1"))
        await user.response()
        trace, _, flags = given(peer)
        assert (trace != TRACE, flags) == (True, 3)
        assert peer.requests[-1].header("tracestate") is None

    @pytest.mark.parametrize(("trusted", "flags"), [((), 0), (HOME, 1)])
    async def test_whether_it_is_recorded_is_up_to_trusted_proxies(
        self, behind: Behind, client: MakeClient, trusted: Any, flags: int
    ) -> None:
        tracing = TracingSettings(sample=0.0)
        proxy, peer = await behind(tracing=tracing, trusted_proxies=trusted)
        user = await client(proxy.port)
        await user.send(get(Traceparent=PARENT))
        await user.response()
        assert given(peer) == (TRACE, SPAN, flags)

    async def test_a_request_that_is_sent_again_stays_in_its_trace(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        async def dies(conn: EndpointConnection) -> None:
            await conn.request()  # and closes

        bad, good = await endpoint(dies), await endpoint()
        proxy = await start_proxy([service(bad, good)], tracing=TracingSettings())
        user = await client(proxy.port)
        while not bad.requests:
            await user.send(get())
            await user.response()
        assert given(bad) == given(good)


class TestSpans:
    async def test_what_a_collector_gets(
        self, endpoint: MakeEndpoint, behind: Behind, client: MakeClient
    ) -> None:
        collector = Collector()
        there = await endpoint(collector)
        tracing = TracingSettings(f"http://{there.address}", service_name="edge")
        proxy, peer = await behind(tracing=tracing, sticky_session_cookie="session")
        user = await client(proxy.port)
        await user.send(get("/a/b?secret=1", Traceparent=PARENT))
        await user.response()
        span = await collector.next()
        trace, own, _ = given(peer)
        assert (trace, span.trace_id.hex()) == (TRACE, TRACE)
        assert span.span_id.hex() == own
        assert span.parent_span_id.hex() == SPAN
        assert span.name == "GET demo"
        assert span.kind == Span.SPAN_KIND_SERVER
        assert 0 <= span.end_time_unix_nano - span.start_time_unix_nano < 60e9
        said = attributes(span)
        assert said.pop("stickyproxy.request_id")
        assert said == {
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "url.path": "/a/b",
            "url.scheme": "http",
            "server.address": "demo.local",
            "client.address": "127.0.0.1",
            "stickyproxy.service": "demo",
            "stickyproxy.outcome": "complete",
            "stickyproxy.endpoint": peer.address,
            "stickyproxy.affinity": "new",
        }
        assert collector.resource["service.name"] == "edge"

    async def test_what_failed(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        async def dies(conn: EndpointConnection) -> None:
            await conn.request()  # and closes

        collector = Collector()
        there = await endpoint(collector)
        tracing = TracingSettings(f"http://{there.address}")
        proxy = await start_proxy([service(await endpoint(dies))], tracing=tracing)
        user = await client(proxy.port)
        await user.send(b"PROPFIND / HTTP/1.1\r\nHost: demo.local\r\n\r\n")
        assert (await user.response()).status == 502
        span = await collector.next()
        assert (span.name, span.status.code) == ("HTTP demo", Status.STATUS_CODE_ERROR)
        assert span.parent_span_id == b""
        assert attributes(span)["http.request.method"] == "_OTHER"

    async def test_what_is_not_recorded(
        self, endpoint: MakeEndpoint, behind: Behind, client: MakeClient
    ) -> None:
        collector = Collector()
        there = await endpoint(collector)
        tracing = TracingSettings(f"http://{there.address}", sample=0.0)
        proxy, _ = await behind(tracing=tracing)
        user = await client(proxy.port)
        for _ in range(5):
            await user.send(get())
            await user.response()
        await proxy.stop()
        assert collector.spans.empty()

    async def test_what_is_left_at_the_end_is_sent(
        self, endpoint: MakeEndpoint, behind: Behind, client: MakeClient
    ) -> None:
        collector = Collector()
        there = await endpoint(collector)
        proxy, _ = await behind(tracing=TracingSettings(f"http://{there.address}"))
        user = await client(proxy.port)
        for _ in range(700):  # more than in a message
            await user.send(get())
            await user.response()
        await proxy.stop()
        assert collector.spans.qsize() == 700

    async def test_a_collector_that_is_gone_costs_spans_and_nothing_else(
        self,
        endpoint: MakeEndpoint,
        behind: Behind,
        client: MakeClient,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.WARNING, "stickyproxy")
        there = await endpoint(listening=False)
        proxy, _ = await behind(tracing=TracingSettings(f"http://{there.address}"))
        user = await client(proxy.port)
        for _ in range(100):
            await user.send(get())
            assert (await user.response()).status == 200
        await proxy.stop()
        said = " ".join(record.getMessage() for record in caplog.records)
        assert f"spans were lost on their way to http://{there.address}" in said


def test_what_is_off_is_not_loaded() -> None:
    """OpenTelemetry, by the data plane of a worker."""
    code = "import sys, stickyproxy.runtime.worker; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
