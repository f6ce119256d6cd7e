"""Checks in a proxy of several processes: one of them makes them, and all know what came of it.

Real processes, told by real sockets.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_main import TIMEOUT, StartProgram, over_unix, programs, service
from tests.conftest import MakeEndpoint
from tests.control.test_checks import BUSY, Patient
from tests.runtime.test_supervisor import IS_READY, TAKES_PLACE, Proxies, Proxy, body
from tests.scripted import EndpointConnection, RawClient, get, ok

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

CHECKS = ('healthcheck_path = "/up"', 'healthcheck_interval = "1h"')


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


@pytest.fixture
async def proxies(start: StartProgram, tmp_path: Path) -> AsyncIterator[Proxies]:
    """Starts proxies with two workers."""
    made = Proxies(start, tmp_path)
    async with made.stack:
        yield made


class Ward:
    """A proxy before an endpoint that is well and one that fails its checks, and their shows."""

    def __init__(self, proxy: Proxy, admin: Path, ill: str) -> None:
        self.proxy = proxy
        self._admin = admin
        self._ill = ill

    async def shown(self) -> dict[str, Any]:
        """What the admin page says of the one that is ill."""
        page = await over_unix(self._admin, "/services?format=json")
        [row] = json.loads(page)["services"]
        [found] = [each for each in row["endpoints"] if each["address"] == self._ill]
        return dict(found)

    async def is_down(self) -> dict[str, Any]:
        """Wait until it is; returns what the page says then."""
        async with asyncio.timeout(TIMEOUT):
            while (shown := await self.shown())["state"] != "down":
                pass
        return shown


@pytest.fixture
async def ward(
    proxies: Proxies, endpoint: MakeEndpoint, tmp_path: Path
) -> AsyncIterator[tuple[Ward, Patient]]:
    """The well one's script too: it counts its checks."""

    async def fails_checks(conn: EndpointConnection) -> None:
        while request := await conn.request():
            await conn.send(BUSY if request.target == b"/up" else ok(b"ill"))

    patient = Patient()
    patient.response = ok(b"well")
    well, ill = await endpoint(patient), await endpoint(fails_checks)
    admin = tmp_path / "admin.sock"
    table = service("demo", [well.address, ill.address], *CHECKS)
    proxy = await proxies(table, admin=f'address = "unix:{admin}"')
    yield Ward(proxy, admin, ill.address), patient
    await proxy.close()
    await proxy.program.stop()


async def serves_only(user: RawClient, wanted: bytes) -> None:
    """Wait until the worker at the other end knows."""
    async with asyncio.timeout(TIMEOUT):
        while {await body(user, get()) for _ in range(4)} != {wanted}:
            pass


async def test_one_process_asks_and_all_know(ward: tuple[Ward, Patient]) -> None:
    found, patient = ward
    shown = await found.is_down()
    assert shown["reason"] == "GET /up: 503, not 200-399"
    assert shown["since"].endswith("Z")
    for [user, *_] in (await found.proxy.users()).values():
        await serves_only(user, b"well")
    assert patient.checked == 1, "there are two workers"


async def test_a_successor_is_told(ward: tuple[Ward, Patient]) -> None:
    found, patient = ward
    await found.is_down()
    os.kill(found.proxy.pids[1], signal.SIGKILL)
    await found.proxy.program.err.says(TAKES_PLACE)
    await found.proxy.program.err.says(IS_READY)
    for [user, *_] in (await found.proxy.users()).values():
        await serves_only(user, b"well")
    assert (await found.shown())["state"] == "down"
    assert patient.checked == 1, "nothing has begun anew"
