"""control/controller.py and providers/controller.py: what is published on one side arrives
on the other, whatever happens between them, and keys only where nobody can read along. Real
sockets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.base.addresses import Address
from stickyproxy.base.token_tls import client_context, server_context
from stickyproxy.config import codec
from stickyproxy.config.settings import FollowSettings
from stickyproxy.control.controller import Controller
from stickyproxy.control.server import ControlServer
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.model.timeouts import Timeouts
from stickyproxy.model.tls import Certificate, UpstreamTls
from stickyproxy.providers.controller import ControllerProvider
from stickyproxy.routing.balancers import OPTIONS
from tests.specs import service_spec

TOKEN = b"s3cret"
GOLDEN = "2f0c479fb2a076fad566ff7d0668632ce368f5e6d68b6a6fecbc237a40d434bc"
"""SHA-256 of the certificate that follows from it."""


def snapshot(*names: str) -> Snapshot:
    """A snapshot of services with these names."""
    services = tuple(
        service_spec(
            name,
            (f"{name}.local",),
            (EndpointSpec("t1", "10.0.0.1:80", draining=True),),
            redirects=(("a.example", "http://b.example"),),
            hash_cookie="user",
            hash_cookie_ttl=60.0,
            drain="safe",
            timeouts=Timeouts(response=300.0, upgrade_idle=3600.0),
        )
        for name in names
    )
    return Snapshot("swarm", services, (Problem("x", "is odd", fatal=True),), "realm-1")


CERTIFICATE = Certificate(
    "secret web.crt", ("a.local",), "the chain", "the private key", expires=2e9
)


def secretive(name: str = "a") -> Snapshot:
    """A snapshot that holds two keys."""
    service = service_spec(name, ("a.local",), tls=UpstreamTls(certificate="c", key="client key"))
    return Snapshot("swarm", (service,), certificates=(CERTIFICATE,))


class Plane:
    """A controller on a free port, and proxies that follow it."""

    def __init__(self) -> None:
        self.controller = Controller(TOKEN)
        self.server = ControlServer(self.controller.make_app(), server_context(TOKEN))
        self.port = 0

    async def start(self) -> None:
        """Listen; on the same port as before, if there was one."""
        bound = await self.server.start(Address("127.0.0.1", self.port))
        self.port = int(bound.rpartition(":")[2])

    async def restart(self) -> None:
        """Another controller in the place of this one."""
        await self.server.stop()
        self.controller = Controller(TOKEN)
        self.server = ControlServer(self.controller.make_app(), server_context(TOKEN))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def safe_url(self) -> str:
        """The same over TLS."""
        return f"https://127.0.0.1:{self.port}"


class Follower:
    """A provider that runs, and what it published."""

    def __init__(self, url: str, refuses: str = "", **settings: Any) -> None:
        """``refuses``: a snapshot with this service cannot be published."""
        self.published: asyncio.Queue[Snapshot] = asyncio.Queue()

        def publish(found: Snapshot) -> None:
            assert refuses not in names(found)
            self.published.put_nowait(found)

        self.provider = ControllerProvider(
            FollowSettings(**{"url": url, "token": TOKEN} | settings), publish
        )
        self._task = asyncio.create_task(self.provider.run())

    async def next(self) -> Snapshot:
        """What is published next."""
        async with asyncio.timeout(20):
            return await self.published.get()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    plane = Plane()
    await plane.start()
    yield plane
    await plane.server.stop()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def follow(stack: AsyncExitStack, url: str, **settings: Any) -> Follower:
    follower = Follower(url, **settings)
    stack.push_async_callback(follower.stop)
    return follower


def names(found: Snapshot) -> list[str]:
    return [service.name for service in found.services]


class TestFollowing:
    async def test_the_whole_state_arrives(self, plane: Plane, stack: AsyncExitStack) -> None:
        plane.controller.publish(snapshot("shop"))
        found = await follow(stack, plane.url).next()
        assert found.provider == "controller"
        assert found.services == snapshot("shop").services
        assert found.problems == snapshot("shop").problems
        assert found.realm == "realm-1", "so that all proxies make the same pins"

    async def test_changes_arrive(self, plane: Plane, stack: AsyncExitStack) -> None:
        plane.controller.publish(snapshot("a"))
        followers = [follow(stack, plane.url) for _ in range(3)]
        for follower in followers:
            assert names(await follower.next()) == ["a"]
        plane.controller.publish(snapshot("a", "b"))
        for follower in followers:
            assert names(await follower.next()) == ["a", "b"]

    async def test_the_first_state_may_come_late(self, plane: Plane, stack: AsyncExitStack) -> None:
        follower = follow(stack, plane.url)
        async with asyncio.timeout(5), aiohttp.ClientSession() as session:
            assert (await ask(session, plane))[0] == 503
        plane.controller.publish(snapshot())
        assert names(await follower.next()) == []

    async def test_a_controller_that_is_killed_and_comes_back_is_not_noticed(
        self, plane: Plane, stack: AsyncExitStack
    ) -> None:
        plane.controller.publish(snapshot("a"))
        follower = follow(stack, plane.url)
        await follower.next()
        await plane.restart()
        plane.controller.publish(snapshot("a"))
        await plane.start()
        plane.controller.publish(snapshot("b"))
        assert names(await follower.next()) == ["b"], "the same state again is no change"

    async def test_refusals_are_retried_and_publish_nothing(self, stack: AsyncExitStack) -> None:
        asked: asyncio.Queue[str] = asyncio.Queue()

        async def refuse(request: web.Request) -> web.Response:
            asked.put_nowait(request.headers["Authorization"])
            return web.Response(status=401, text="no")

        app = web.Application()
        app.router.add_get("/v1/snapshot", refuse)
        server = ControlServer(app)
        stack.push_async_callback(server.stop)
        follower = follow(stack, f"http://{await server.start(Address('127.0.0.1', 0))}")
        async with asyncio.timeout(10):
            assert [await asked.get() for _ in range(2)] == ["Bearer s3cret"] * 2
        assert follower.published.empty()
        assert not follower.provider.ready.is_set()

    async def test_what_keeps_it_out_of_touch_is_told_whenever_it_changes(
        self, plane: Plane, stack: AsyncExitStack
    ) -> None:
        said = Said()
        logger = logging.getLogger("stickyproxy")
        logger.addHandler(said)
        stack.callback(logger.removeHandler, said)
        await plane.server.stop()
        follower = follow(stack, plane.url, token=b"wrong")
        async with asyncio.timeout(20):
            assert "cannot connect" in await said.messages.get()
            assert "cannot connect" in follower.provider.trouble
            await plane.restart()
            await plane.start()
            assert " 401 " in await said.messages.get()
            assert " 401 " in follower.provider.trouble


class TestTls:
    """base/token_tls.py, and both kinds of clients on one port."""

    async def test_keys_arrive(self, plane: Plane, stack: AsyncExitStack) -> None:
        plane.controller.publish(secretive())
        found = await follow(stack, plane.safe_url).next()
        assert found.services == secretive().services
        assert found.certificates == (CERTIFICATE,)
        assert found.problems == ()

    async def test_in_the_clear_everything_else_does(
        self, plane: Plane, stack: AsyncExitStack
    ) -> None:
        """A proxy that is not told of https yet goes on, and says what it lacks."""
        plane.controller.publish(secretive())
        found = await follow(stack, plane.url).next()
        assert [service.hosts for service in found.services] == [("a.local",)]
        assert found.certificates == ()
        assert {each.fatal for each in found.problems} == {True}
        assert [str(each) for each in found.problems] == [
            f"{what} is not handed out by the controller over http, where its key could be read on "
            "the way: write https:// instead of http:// in url of [providers.controller]"
            for what in ("service a: its client certificate", "certificate secret web.crt:")
        ]
        async with aiohttp.ClientSession() as session:
            _, version, body = await ask(session, plane)
        assert b"private key" not in body
        assert b"client key" not in body
        assert b"the chain" not in body
        assert version == codec.version(body), "each edition has a version of its own"

    async def test_without_keys_there_is_one_edition(self, plane: Plane) -> None:
        plane.controller.publish(snapshot("a"))
        async with aiohttp.ClientSession() as session:
            assert (await ask(session, plane))[2] == codec.encode(snapshot("a"))

    async def test_changes_arrive_over_both(self, plane: Plane, stack: AsyncExitStack) -> None:
        plane.controller.publish(secretive("a"))
        followers = [follow(stack, url) for url in (plane.url, plane.safe_url)]
        for follower in followers:
            assert names(await follower.next()) == ["a"]
        plane.controller.publish(secretive("b"))
        for follower in followers:
            assert names(await follower.next()) == ["b"]

    async def test_a_controller_with_another_token_is_not_one(
        self, plane: Plane, stack: AsyncExitStack
    ) -> None:
        """The token is not even sent to it."""
        plane.controller.publish(secretive())
        follower = follow(stack, plane.safe_url, token=b"another")
        said = Said()
        logging.getLogger("stickyproxy").addHandler(said)
        stack.callback(logging.getLogger("stickyproxy").removeHandler, said)
        async with asyncio.timeout(20):
            while not (message := await said.messages.get()).startswith("controller: "):
                pass
        assert "it has another token: give both the same" in message
        assert follower.published.empty()

    async def test_a_controller_that_speaks_no_tls(self, stack: AsyncExitStack) -> None:
        """An older one."""
        server = ControlServer(Controller(TOKEN).make_app())
        stack.push_async_callback(server.stop)
        url = f"https://{await server.start(Address('127.0.0.1', 0))}"
        said = Said()
        logging.getLogger("stickyproxy").addHandler(said)
        stack.callback(logging.getLogger("stickyproxy").removeHandler, said)
        follow(stack, url)
        async with asyncio.timeout(20):
            assert "does not speak TLS: update the controller" in await said.messages.get()

    async def test_nothing_older_than_tls_1_3(self, plane: Plane) -> None:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname = False
        old.verify_mode = ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", plane.port, ssl=old)

    async def test_who_sends_nothing_or_nonsense_is_in_nobodys_way(
        self, plane: Plane, stack: AsyncExitStack
    ) -> None:
        plane.controller.publish(secretive())
        writers = []
        for sent in (b"", b"", b"\x16", b"\x16\x03\x01\x00\x05hello", b"\x00\xff"):
            _, writer = await asyncio.open_connection("127.0.0.1", plane.port)
            writer.write(sent)
            writers.append(writer)
        found = await follow(stack, plane.safe_url).next()
        assert found.certificates == (CERTIFICATE,)
        for writer in writers:
            writer.close()

    async def test_it_ends_while_somebody_has_said_nothing(self, plane: Plane) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", plane.port)
        await plane.server.stop()
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()

    def test_both_ends_compute_the_same(self) -> None:
        """And so does another version of the program: this is an interface."""
        [authority] = client_context(TOKEN).get_ca_certs(binary_form=True)
        assert hashlib.sha256(authority).hexdigest() == GOLDEN


class Said(logging.Handler):
    """What is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a message."""
        self.messages.put_nowait(record.getMessage())


class TestCache:
    async def test_a_proxy_starts_from_it(
        self, plane: Plane, stack: AsyncExitStack, tmp_path: Path
    ) -> None:
        cache = str(tmp_path / "snapshot.json")
        plane.controller.publish(snapshot("a"))
        first = follow(stack, plane.url, cache_file=cache)
        before = await first.next()
        await written(tmp_path / "snapshot.json", codec.encode(snapshot("a")))
        await first.stop()
        await plane.server.stop()

        second = follow(stack, plane.url, cache_file=cache)
        assert await second.next() == before
        assert second.provider.ready.is_set()
        assert os.listdir(tmp_path) == ["snapshot.json"]

    async def test_it_is_for_its_owner_alone(
        self, plane: Plane, stack: AsyncExitStack, tmp_path: Path
    ) -> None:
        """It holds keys."""
        cache = tmp_path / "snapshot.json"
        cache.touch(mode=0o644)
        plane.controller.publish(secretive())
        await follow(stack, plane.safe_url, cache_file=str(cache)).next()
        await written(cache, codec.encode(secretive()))
        assert b"the private key" in cache.read_bytes()
        assert stat.S_IMODE(cache.stat().st_mode) == 0o600

    async def test_the_controller_knows_better(
        self, plane: Plane, stack: AsyncExitStack, tmp_path: Path
    ) -> None:
        cache = tmp_path / "snapshot.json"
        cache.write_bytes(codec.encode(snapshot("old")))
        plane.controller.publish(snapshot("new"))
        follower = follow(stack, plane.url, cache_file=str(cache))
        assert names(await follower.next()) == ["old"]
        assert names(await follower.next()) == ["new"]

    @pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"provider": 1}'])
    async def test_a_broken_one_is_passed_over(
        self, plane: Plane, stack: AsyncExitStack, tmp_path: Path, content: bytes
    ) -> None:
        cache = tmp_path / "snapshot.json"
        cache.write_bytes(content)
        plane.controller.publish(snapshot("a"))
        assert names(await follow(stack, plane.url, cache_file=str(cache)).next()) == ["a"]

    async def test_one_that_cannot_be_written_stops_nothing(
        self, plane: Plane, stack: AsyncExitStack, tmp_path: Path
    ) -> None:
        plane.controller.publish(snapshot("a"))
        follower = follow(stack, plane.url, cache_file=str(tmp_path / "none" / "x.json"))
        assert names(await follower.next()) == ["a"]
        plane.controller.publish(snapshot("b"))
        assert names(await follower.next()) == ["b"]

    async def test_one_that_cannot_be_published_stops_nothing(
        self, plane: Plane, stack: AsyncExitStack, tmp_path: Path
    ) -> None:
        cache = tmp_path / "snapshot.json"
        cache.write_bytes(codec.encode(snapshot("old")))
        follower = Follower(plane.url, cache_file=str(cache), refuses="old")
        stack.push_async_callback(follower.stop)
        plane.controller.publish(snapshot("new"))
        assert names(await follower.next()) == ["new"]
        await written(cache, codec.encode(snapshot("new")))

    async def test_what_writes_have_left_behind_is_removed(
        self, plane: Plane, stack: AsyncExitStack, tmp_path: Path
    ) -> None:
        cache = tmp_path / "snapshot.json"
        old, new = tmp_path / ".snapshot.json.old", tmp_path / ".snapshot.json.new"
        for file in (old, new):
            file.touch()
        os.utime(old, (1, 1))
        plane.controller.publish(snapshot("a"))
        await follow(stack, plane.url, cache_file=str(cache)).next()
        assert new.exists(), "another proxy may be writing it"
        assert not old.exists()


async def written(path: Path, content: bytes) -> None:
    """Wait until that is in the file."""

    def is_there() -> bool:
        return path.exists() and path.read_bytes() == content

    async with asyncio.timeout(20):
        while not is_there():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)


async def ask(
    session: aiohttp.ClientSession, plane: Plane, token: bytes = TOKEN, **query: str
) -> tuple[int, str, bytes]:
    """(status, version, body) of one request."""
    headers = {"Authorization": f"Bearer {token.decode()}"}
    async with session.get(f"{plane.url}/v1/snapshot", params=query, headers=headers) as answer:
        return answer.status, answer.headers.get("Snapshot-Version", ""), await answer.read()


class TestProtocol:
    async def test_versions(self, plane: Plane) -> None:
        plane.controller.publish(snapshot("a"))
        async with aiohttp.ClientSession() as session:
            status, version, body = await ask(session, plane, after="unknown", wait="5")
            assert (status, codec.decode(body)) == (200, snapshot("a"))
            assert (await ask(session, plane, after=version))[0] == 304
            assert (await ask(session, plane, after=version, wait="0.01"))[0] == 304
            assert (await ask(session, plane))[1] == version

    async def test_refusals(self, plane: Plane) -> None:
        async with aiohttp.ClientSession() as session:
            assert (await ask(session, plane, token=b""))[0] == 401
            assert (await ask(session, plane, token=b"s3cre"))[0] == 401
            assert (await ask(session, plane, wait="soon"))[0] == 400
            assert (await ask(session, plane, wait="nan"))[0] == 503
            async with session.get(f"{plane.url}/healthz") as answer:
                assert answer.status == 200


class TestCodec:
    def test_the_same_state_is_the_same_version(self) -> None:
        data = codec.encode(snapshot("a"))
        assert codec.decode(data) == snapshot("a")
        assert codec.version(data) == codec.version(codec.encode(codec.decode(data)))
        assert codec.version(data) != codec.version(codec.encode(snapshot("b")))

    def test_other_versions_of_the_program(self) -> None:
        old = b'{"provider": "swarm", "services": [{"name": "a", "hosts": ["a.local"], "new": 1}]}'
        assert codec.decode(old) == Snapshot("swarm", (ServiceSpec("a", ("a.local",)),))

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"sticky_session_cookie": "session"},
            {"sticky_session_cookie": "session", "ip_hash": True},
            {"ip_hash": True},
            {"hash_cookie": "user"},
            {"hash_cookie": "user", "hash_cookie_ttl": 0.0, "hash_cookie_path": "/a"},
            {"hash_header": "X-User"},
            {"hash_query": "user"},
            {"hash_source_ip": True},
        ],
    )
    def test_policies_are_the_options_that_ask_for_them(self, options: dict[str, Any]) -> None:
        """Versions that knew of no other way read and wrote them like that."""
        spec = service_spec("a", ("a.local",), context_root="/shop", **options)
        data = codec.encode(Snapshot("swarm", (spec,)))
        assert codec.decode(data) == Snapshot("swarm", (spec,))
        [written] = json.loads(data)["services"]
        asked = {key: written[key] for key in OPTIONS}
        assert {key: asked[key] for key in asked if asked[key] is not OPTIONS[key].off} == options
        assert written.pop("policy") == (spec.policy.kind if spec.policy else "")
        old = json.dumps({"provider": "swarm", "services": [written]}).encode()
        assert codec.decode(old) == Snapshot("swarm", (spec,))

    def test_a_policy_that_this_version_does_not_know(self) -> None:
        new = (
            b'{"provider": "swarm", "services": [{"name": "a", "hosts": ["a.local"],'
            b' "policy": "fastest", "fastest": true, "ip_hash": true}]}'
        )
        found = codec.decode(new)
        assert found.services == (service_spec("a", ("a.local",), ip_hash=True),)
        [problem] = found.problems
        assert (problem.service, problem.fatal) == ("a", False)
        assert 'the policy "fastest", which stickyproxy' in problem.reason
        assert problem.reason.endswith("until this proxy is updated, its policy is ip hash")

    def test_certificates_and_what_is_wrong_with_them(self) -> None:
        made = Certificate("a", ("a.local",), "chain", "key", 1.0, 2.5, "is odd", challenge=True)
        problem = Problem("", "is odd", certificate="a")
        state = Snapshot("swarm", (), (problem,), certificates=(made,))
        assert codec.decode(codec.encode(state)) == state

    def test_a_key_is_in_no_message(self) -> None:
        data = b'{"provider": "x", "services": [], "certificates": [{"key": ["the key"]}]}'
        with pytest.raises(ValueError, match="not a snapshot: certificates") as caught:
            codec.decode(data)
        assert "the key" not in str(caught.value)

    def test_options_of_the_wrong_type(self) -> None:
        data = b'{"provider": "x", "services": [{"name": "a", "hosts": [], "ip_hash": "a"}]}'
        with pytest.raises(ValueError, match=r"not a snapshot: services\.0\.ip_hash: "):
            codec.decode(data)

    @given(data=st.binary(max_size=50))
    def test_anything_else_is_refused(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="not a snapshot"):
            codec.decode(data)


class TestSeveralProviders:
    async def test_are_one_snapshot_when_all_have_spoken(self) -> None:
        """What one of them has not said yet must not look like emptiness."""
        controller = Controller(TOKEN, awaits=("swarm", "acme"))
        plane = Plane()
        plane.controller = controller
        plane.server = ControlServer(controller.make_app(), server_context(TOKEN))
        await plane.start()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(plane.server.stop)
            follower = follow(stack, plane.safe_url)
            controller.publish(snapshot("a"))
            issued = Snapshot("acme", (), certificates=(CERTIFICATE,), acme_thumbprints=("thumb",))
            controller.publish(issued)
            found = await follower.next()
            assert names(found) == ["a"]
            assert found.realm == "realm-1"
            assert found.certificates == (CERTIFICATE,)
            assert found.acme_thumbprints == ("thumb",)
            controller.publish(snapshot("a", "b"))
            found = await follower.next()
            assert (names(found), found.certificates) == (["a", "b"], (CERTIFICATE,))


class TestDelivery:
    async def test_is_complete_when_every_proxy_has_asked_for_what_comes_after(
        self, plane: Plane, stack: AsyncExitStack
    ) -> None:
        plane.controller.publish(snapshot("a"))
        followers = [follow(stack, plane.safe_url) for _ in range(3)]
        for follower in followers:
            await follower.next()
        plane.controller.publish(snapshot("a", "b"))
        await plane.controller.delivered(20)
        assert [names(each.published.get_nowait()) for each in followers] == [["a", "b"]] * 3

    async def test_is_not_waited_for_if_nobody_follows(self, plane: Plane) -> None:
        plane.controller.publish(snapshot("a"))
        await plane.controller.delivered(1e6)

    async def test_is_not_waited_for_without_end(self, plane: Plane) -> None:
        plane.controller.publish(snapshot("a"))
        url = f"{plane.url}/v1/snapshot?proxy=deaf"
        headers = {"Authorization": f"Bearer {TOKEN.decode()}"}
        async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as response:
            assert response.status == 200
        await plane.controller.delivered(0.1)
