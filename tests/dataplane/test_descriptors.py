"""dataplane/descriptors.py: when descriptors run out, idle connections make room."""

from __future__ import annotations

import errno
import logging
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from stickyproxy.dataplane.descriptors import Descriptors
from tests.certificates import client_context
from tests.cli.test_main import StartProgram, document, programs, service
from tests.conftest import MakeEndpoint
from tests.scripted import EndpointConnection, RawClient, get, ok
from tests.tls import TlsClient

DESCRIPTORS = 80
CLIENTS = 200

EMFILE = OSError(errno.EMFILE, "Too many open files")


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


class TestDescriptors:
    def test_what_is_idle_is_closed(self, caplog: pytest.LogCaptureFixture) -> None:
        descriptors = Descriptors()
        descriptors.may_shed(lambda: 2)
        descriptors.may_shed(lambda: 3)
        with caplog.at_level(logging.WARNING):
            assert descriptors.make_room(EMFILE)
        [record] = caplog.records
        assert "closed 5 idle connections" in record.getMessage()

    def test_told_once_and_not_for_each(self, caplog: pytest.LogCaptureFixture) -> None:
        descriptors = Descriptors()
        descriptors.may_shed(lambda: 1)
        with caplog.at_level(logging.WARNING):
            assert all(descriptors.make_room(EMFILE) for _ in range(1000))
        assert len(caplog.records) < 1000

    def test_nothing_is_idle(self, caplog: pytest.LogCaptureFixture) -> None:
        descriptors = Descriptors()
        descriptors.may_shed(lambda: 0)
        assert not descriptors.make_room(EMFILE)
        assert not caplog.records

    @pytest.mark.parametrize("number", [errno.ENFILE, errno.EMFILE])
    def test_of_the_process_and_of_the_machine(self, number: int) -> None:
        descriptors = Descriptors()
        descriptors.may_shed(lambda: 1)
        assert descriptors.make_room(OSError(number, "no more"))

    @pytest.mark.parametrize("number", [errno.ENOMEM, errno.ECONNREFUSED, errno.EADDRNOTAVAIL])
    def test_of_anything_else_there_will_be_no_more(self, number: int) -> None:
        descriptors = Descriptors()
        descriptors.may_shed(lambda: pytest.fail("nothing is to be closed"))
        assert not descriptors.make_room(OSError(number, "no"))


def limit_descriptors(pid: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))


class TestOutOfDescriptors:
    """Issue 7 row 12."""

    async def test_idle_clients_make_room_for_new_ones(
        self, endpoint: MakeEndpoint, start: StartProgram, tmp_path: Path
    ) -> None:
        replica = await endpoint()
        config = tmp_path / "config.toml"
        config.write_text(document(service("shop", [replica.address])))
        program = await start("serve", "--config", config)
        port = await program.listening()
        limit_descriptors(program.process.pid)
        async with AsyncExitStack() as stack:
            for _ in range(CLIENTS):
                user = await stack.enter_async_context(await RawClient.connect(port))
                await user.send(get(host="shop.local"))
                assert (await user.response()).status == 200
            await program.err.says(r"Too many open files: closed \d+ idle connections")
        await program.stop()
        assert "cannot accept" not in program.err.text

    async def test_idle_clients_over_tls_make_room(
        self, endpoint: MakeEndpoint, start: StartProgram, tmp_path: Path
    ) -> None:
        """At once: not when they have taken leave, too."""
        replica = await endpoint()
        config = tmp_path / "config.toml"
        text = document(service("shop", [replica.address]))
        config.write_text(text.replace("[proxy]", "tls = true\n[proxy]"))
        program = await start("serve", "--config", config)
        port = await program.listening()
        limit_descriptors(program.process.pid)
        context = client_context()
        async with AsyncExitStack() as stack:
            for _ in range(CLIENTS):
                raw = await stack.enter_async_context(await RawClient.connect(port))
                user = await TlsClient.over(raw, context, "shop.local")
                await user.send(get(host="shop.local"))
                assert (await user.response()).status == 200
            await program.err.says(r"Too many open files: closed \d+ idle connections")
        await program.stop()
        assert "cannot accept" not in program.err.text

    async def test_stalled_handshakes_make_room(
        self, endpoint: MakeEndpoint, start: StartProgram, tmp_path: Path
    ) -> None:
        replica = await endpoint()
        config = tmp_path / "config.toml"
        text = document(service("shop", [replica.address]))
        config.write_text(text.replace("[proxy]", "tls = true\n[proxy]"))
        program = await start("serve", "--config", config)
        port = await program.listening()
        limit_descriptors(program.process.pid)
        async with AsyncExitStack() as stack:
            for _ in range(CLIENTS):
                await stack.enter_async_context(await RawClient.connect(port))
            raw = await stack.enter_async_context(await RawClient.connect(port))
            user = await TlsClient.over(raw, client_context(), "shop.local")
            await user.send(get(host="shop.local"))
            assert (await user.response()).status == 200
        await program.stop()
        assert "cannot accept" not in program.err.text

    async def test_idle_clients_make_room_for_connections_to_endpoints(
        self, endpoint: MakeEndpoint, start: StartProgram, tmp_path: Path
    ) -> None:
        """A request for which there is a client connection and no other any more."""

        async def close(conn: EndpointConnection) -> None:
            if await conn.request() is not None:
                await conn.send(ok(b"hello", Connection="close"))

        replica = await endpoint(close)
        config = tmp_path / "config.toml"
        config.write_text(document(service("shop", [replica.address])))
        program = await start("serve", "--config", config)
        port = await program.listening()
        limit_descriptors(program.process.pid)
        async with AsyncExitStack() as stack:
            for _ in range(CLIENTS):
                user = await stack.enter_async_context(await RawClient.connect(port))
                await user.send(get(host="shop.local"))
                assert (await user.response()).status == 200
        await program.stop()
