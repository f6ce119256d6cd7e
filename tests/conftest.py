"""Fixtures: scripted peers that are closed after the test, and the event loop tests run on."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from stickyproxy.model import events
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.routing.balancers import OPTIONS
from tests.running import InProcessProxy
from tests.scripted import RawClient, Script, ScriptedEndpoint, answering, ok
from tests.specs import service_spec

# Without a clock: on a machine that is busy, an example takes as long as it takes.
settings.register_profile(
    "without a clock", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("without a clock")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Async tests run on the loop that the proxy runs on (pytest-asyncio's own hook)."""
    return {"uvloop": uvloop.new_event_loop}


def _has_its_names(event: events.Event) -> None:
    assert event.details.keys() <= {*event.kind.details}, f"{event.kind}: {event.details}"


@pytest.fixture(autouse=True)
def _each_test_has_its_own_events() -> None:
    """What one test tells is not too much for the next one; and no event has names that its kind
    does not."""
    events.start_over()
    events.listen(_has_its_names)


hello = answering(ok(b"hello"))
"""What endpoints do when a test does not say."""


class MakeEndpoint(Protocol):
    """What the fixture ``endpoint`` is."""

    async def __call__(
        self, script: Script = ..., *, listening: bool = True, tls: ssl.SSLContext | None = None
    ) -> ScriptedEndpoint:
        """A listening endpoint, or one that refuses connections until it is started."""


class MakeClient(Protocol):
    """What the fixture ``client`` is."""

    async def __call__(self, port: int, *, local: str | None = None) -> RawClient:
        """A client connected to that port of 127.0.0.1, from the local address if given."""


@pytest.fixture
async def endpoint() -> AsyncIterator[MakeEndpoint]:
    """Makes endpoints; at the end closes them and raises what failed in their scripts."""
    async with AsyncExitStack() as stack:

        async def make(
            script: Script = hello, *, listening: bool = True, tls: ssl.SSLContext | None = None
        ) -> ScriptedEndpoint:
            made = ScriptedEndpoint(script, tls=tls)
            stack.push_async_callback(made.close)
            if listening:
                await made.start()
            return made

        yield make


@pytest.fixture
async def client() -> AsyncIterator[MakeClient]:
    """Makes clients; at the end closes them."""
    async with AsyncExitStack() as stack:

        async def make(port: int, *, local: str | None = None) -> RawClient:
            return await stack.enter_async_context(await RawClient.connect(port, local=local))

        yield make


# --- the proxy between them ----------------------------------------------------------------------


class RunningProxy(Protocol):
    """A proxy that listens in this process."""

    host: str
    port: int
    ports: list[int]

    def set_services(self, services: Sequence[ServiceSpec]) -> None:
        """Swap the routing table for one of these services."""

    async def stop(self) -> None:
        """Drain and stop; the fixture does so too."""


class StartProxy(Protocol):
    """What the fixture ``start_proxy`` is."""

    async def __call__(self, services: Sequence[ServiceSpec], **settings: Any) -> RunningProxy:
        """A proxy for these services; ``settings`` are fields of ``ProxySettings``, and what
        ``InProcessProxy`` takes."""


class Behind(Protocol):
    """What the fixture ``behind`` is."""

    async def __call__(
        self, script: Script = ..., **fields: Any
    ) -> tuple[RunningProxy, ScriptedEndpoint]:
        """A proxy and the only endpoint behind it. ``fields`` are those of ``service_spec`` and of
        ``ProxySettings``."""


def service(*endpoints: ScriptedEndpoint, **fields: Any) -> ServiceSpec:
    """The service ``demo`` on the host ``demo.local`` with these endpoints."""
    specs = tuple(EndpointSpec(each.address, each.address) for each in endpoints)
    return service_spec(**{"name": "demo", "hosts": ("demo.local",), "endpoints": specs} | fields)


@pytest.fixture
def behind(endpoint: MakeEndpoint, start_proxy: StartProxy) -> Behind:
    """Puts one scripted endpoint behind a proxy."""
    of_service = {*ServiceSpec.__dataclass_fields__, *OPTIONS}

    async def make(script: Script = hello, **fields: Any) -> tuple[RunningProxy, ScriptedEndpoint]:
        peer = await endpoint(script)
        declared = service(peer, **{key: fields[key] for key in fields if key in of_service})
        settings = {key: fields[key] for key in fields if key not in of_service}
        return await start_proxy([declared], **settings), peer

    return make


@pytest.fixture
async def start_proxy() -> AsyncIterator[StartProxy]:
    """Makes proxies; at the end stops them."""
    async with AsyncExitStack() as stack:

        async def start(services: Sequence[ServiceSpec], **settings: Any) -> RunningProxy:
            proxy = InProcessProxy(services, **settings)
            await proxy.start()
            stack.push_async_callback(proxy.stop)
            return proxy

        yield start
