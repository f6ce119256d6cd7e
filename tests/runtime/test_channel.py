"""runtime/channel.py: what goes in at one end comes out at the other."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_network

import pytest

from stickyproxy.base.addresses import Address
from stickyproxy.model.health import Outage
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import EndpointSpec
from stickyproxy.model.settings import AccessLogSettings, ProxySettings
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.model.timeouts import Timeouts
from stickyproxy.runtime.channel import (
    Accept,
    Accepting,
    Applied,
    Begin,
    Channel,
    Down,
    Drain,
    InheritedListener,
    Leaving,
    Message,
    Publish,
    ReopenLog,
    encoded,
)
from tests.specs import service_spec

SHOP = service_spec(
    "shop",
    ("shop.local",),
    (EndpointSpec("task", "10.0.0.1:80"), EndpointSpec("old", "10.0.0.2:80", draining=True)),
    sticky_session_cookie="session",
    drain="sticky",
    timeouts=Timeouts(connect=1.0),
)

SETTINGS = ProxySettings(trusted_proxies=(ip_network("10.0.0.0/8"),), pin_secret=b"secret")

WEB = ListenerSpec(Address("127.0.0.1", 80))
LOCAL = ListenerSpec(Address(path="/run/proxy.sock"))
SHARES = (
    (InheritedListener(WEB, 7), InheritedListener(LOCAL, 8)),
    (InheritedListener(WEB, 9), InheritedListener(LOCAL, 8)),
)

MESSAGES = (
    Begin(1, 20, SETTINGS, AccessLogSettings("json", "/log"), b"x-proxy-id: a", ("swarm",), SHARES),
    Publish(Snapshot("swarm", (SHOP,), (Problem("shop", "is wrong", fatal=True),), "realm")),
    Publish(Snapshot("static", (SHOP,) * 10_000)),
    Accept((0, 2)),
    ReopenLog(3),
    Drain(30.0),
    Applied(),
    Accepting(),
    Leaving(),
    Down({("shop", "task"): Outage("it accepts no connections", 1.5e9)}),
)


async def pair() -> tuple[Channel, Channel]:
    """Both ends."""
    one, other = socket.socketpair()
    return await Channel.over(one), await Channel.over(other)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
async def test_what_is_sent_arrives(message: Message) -> None:
    here, there = await pair()
    here.send(message)
    here.write(encoded(Applied()))
    assert await there.receive() == message
    assert await there.receive() == Applied()
    here.close()
    assert await there.receive() is None
    there.close()


async def test_to_an_end_that_is_gone() -> None:
    """What is sent is lost, and that is all."""
    here, there = await pair()
    there.close()
    async with asyncio.timeout(20):
        assert await here.receive() is None
        for _ in range(3):
            here.send(Leaving())
            await here.flush()
    here.close()
