"""control/checks.py: endpoints are asked, and those that do not respond as they should are out."""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from stickyproxy.control.checks import Checker, CheckRecord
from stickyproxy.dataplane.descriptors import Descriptors
from stickyproxy.dataplane.turns import Turns
from stickyproxy.dataplane.upstream.asking import Asker
from stickyproxy.dataplane.upstream.pool import Upstreams
from stickyproxy.model.health import Checks
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.tls import UpstreamTls
from tests.conftest import MakeClient, MakeEndpoint, RunningProxy, StartProxy, service
from tests.connector.running import RunningConnector
from tests.control.test_health import dump, eventually
from tests.dataplane.upstream.test_tls import OTHER_CA, VERIFIED, context
from tests.running import InProcessProxy
from tests.scripted import EndpointConnection, answering, get, ok, respond

QUICK = Checks("/up", interval=0.05, timeout=0.2)
RARE = Checks("/up", interval=3600.0)
BUSY = respond("503 Service Unavailable", ("Content-Length", "0"))


class Patient:
    """An endpoint's script: does what it is set to do, for checks and for others."""

    def __init__(self) -> None:
        self.response = ok(b"up")
        self.checked = 0
        """Checks so far."""

    async def __call__(self, conn: EndpointConnection) -> None:
        while request := await conn.request():
            self.checked += request.target == b"/up"
            if not self.response:
                await conn.closed()
                return
            await conn.send(self.response)


def outages(proxy: RunningProxy) -> dict[str, str]:
    """{address: why} of all that are out."""
    assert isinstance(proxy, InProcessProxy)
    return {address: why.reason for (_, address), why in proxy.app.outages.items()}


class TestLeavingAndReturning:
    @pytest.mark.parametrize(
        ("response", "reason"),
        [
            (BUSY, "GET /up: 503, not 200-399"),
            (b"", "GET /up: no response within 0.2 s"),
            (b"nonsense\r\n\r\n", "broke HTTP/1.1: its status line is not HTTP/1.x"),
        ],
        ids=["answers 503", "is frozen", "speaks in tongues"],
    )
    async def test_one_that_is_ill(
        self,
        endpoint: MakeEndpoint,
        start_proxy: StartProxy,
        client: MakeClient,
        response: bytes,
        reason: str,
    ) -> None:
        patient = Patient()
        well, ill = await endpoint(answering(ok(b"well"))), await endpoint(patient)
        proxy = await start_proxy([service(well, ill, checks=QUICK)])
        await eventually(lambda: patient.checked > 0)
        assert " down" not in dump(proxy)

        patient.response = response
        await eventually(lambda: f"{ill.address} down" in dump(proxy))
        assert reason in outages(proxy)[ill.address]
        user = await client(proxy.port)
        for _ in range(6):
            await user.send(get())
            assert (await user.response()).body == b"well"

        patient.response = ok(b"up")
        await eventually(lambda: " down" not in dump(proxy))
        assert outages(proxy) == {}

    async def test_one_that_refuses_and_one_that_comes_back(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy
    ) -> None:
        well, ill = await endpoint(), await endpoint()
        proxy = await start_proxy([service(well, ill, checks=QUICK)])
        await eventually(lambda: len(ill.requests) > 0)
        await ill.stop()
        await eventually(lambda: f"{ill.address} down" in dump(proxy))
        await ill.start()
        await eventually(lambda: " down" not in dump(proxy))

    async def test_sessions_move_as_with_any_endpoint_that_is_down(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        patient = Patient()
        well, ill = await endpoint(answering(ok(b"well"))), await endpoint(patient)
        declared = service(well, ill, checks=QUICK, sticky_session_cookie="session")
        proxy = await start_proxy([declared])
        user = await client(proxy.port)
        jars = []
        for _ in range(2):
            await user.send(get())
            [cookie] = (await user.response()).values("set-cookie")
            jars.append(cookie.partition(b";")[0].decode())
        patient.response = BUSY
        await eventually(lambda: f"{ill.address} down" in dump(proxy))
        moved = []
        for jar in jars:
            await user.send(get(Cookie=jar))
            answer = await user.response()
            assert answer.body == b"well"
            moved.append(len(answer.values("set-cookie")))
        assert sorted(moved) == [0, 1]


class TestNewcomers:
    async def test_it_is_used_until_its_first_check_fails(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy
    ) -> None:
        """One failure is enough, and then one success."""

        async def thinks(conn: EndpointConnection) -> None:
            while await conn.request():
                await decided.wait()
                await conn.send(response)

        decided, response = asyncio.Event(), BUSY
        well, new = await endpoint(), await endpoint(thinks)
        checks = replace(QUICK, timeout=60.0, fall=1000, rise=1000)
        proxy = await start_proxy([service(well, new, checks=checks)])
        await new.wait_requests(1)
        assert " down" not in dump(proxy)
        decided.set()
        await eventually(lambda: f"{new.address} down" in dump(proxy))
        response = ok()
        await eventually(lambda: " down" not in dump(proxy))

    async def test_other_checks_begin_anew(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy
    ) -> None:
        patient = Patient()
        patient.response = BUSY
        well, ill = await endpoint(), await endpoint(patient)
        proxy = await start_proxy([service(well, ill, checks=RARE)])
        await eventually(lambda: f"{ill.address} down" in dump(proxy))
        proxy.set_services([service(well, ill, checks=replace(RARE, status=((503, 503),)))])
        assert " down" not in dump(proxy)
        await eventually(lambda: f"{well.address} down" in dump(proxy))

    async def test_without_checks_all_is_forgotten(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy
    ) -> None:
        well, ill = await endpoint(), await endpoint(answering(BUSY))
        proxy = await start_proxy([service(well, ill, checks=QUICK)])
        await eventually(lambda: f"{ill.address} down" in dump(proxy))
        proxy.set_services([service(well, ill)])
        assert " down" not in dump(proxy)
        await eventually(
            lambda: not any(task.get_name().startswith("checks") for task in asyncio.all_tasks())
        )

    async def test_an_unchanged_service_is_checked_on(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy
    ) -> None:
        one, other = await endpoint(), await endpoint()
        proxy = await start_proxy([service(one, checks=RARE)])
        await one.wait_requests(1)
        more = service(other, name="more", hosts=("more.local",), checks=RARE)
        proxy.set_services([service(one, checks=RARE), more])
        await other.wait_requests(1)
        assert len(one.requests) == 1


class TestAllFail:
    async def test_all_are_used(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        peers = [await endpoint(answering(ok(b"%d" % n))) for n in range(3)]
        checks = replace(QUICK, status=((204, 204),))
        proxy = await start_proxy([service(*peers, checks=checks)])
        await eventually(lambda: dump(proxy).count(" down") == 3)
        user = await client(proxy.port)
        seen = set()
        for _ in range(6):
            await user.send(get())
            seen.add((await user.response()).body)
        assert seen == {b"0", b"1", b"2"}

    async def test_it_is_said_what_to_look_at(self, endpoint: MakeEndpoint) -> None:
        peer = await endpoint()
        checks = replace(QUICK, status=((204, 204), (301, 308)), host="shop.example")
        checker = Checker(partial(Asker, upstreams("/nowhere")), lambda: None)
        declared = service(peer, checks=checks)
        checker.use([declared])
        await eventually(lambda: bool(checker.outages))
        [problem] = checker.problems()
        assert "every endpoint fails its check" in problem.reason
        assert "GET /up: 200, not 204,301-308" in problem.reason
        assert shlex.split(problem.remedy) == [
            *("curl", "-i", "-H", "Host: shop.example"),
            f"http://{peer.address}/up",
        ]
        await checker.stop()

    async def test_a_unix_socket_is_asked_in_its_way(self) -> None:
        checker = Checker(partial(Asker, upstreams("/nowhere")), lambda: None)
        spec = EndpointSpec("one", "unix:/nowhere/app.sock")
        checker.use([ServiceSpec("demo", ("demo.local",), (spec,), checks=QUICK)])
        await eventually(lambda: bool(checker.outages))
        [problem] = checker.problems()
        assert shlex.split(problem.remedy) == [
            *("curl", "-i", "--unix-socket", "/nowhere/app.sock"),
            *("-H", "Host: localhost", "http://localhost/up"),
        ]
        await checker.stop()


class TestTheRequest:
    @pytest.mark.parametrize(("host", "sent"), [("shop.example", "shop.example"), ("", "")])
    async def test_what_endpoints_see(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, host: str, sent: str
    ) -> None:
        """By default the address is the host, as it is for whoever asks by hand."""
        peer = await endpoint()
        await start_proxy([service(peer, checks=replace(RARE, path="/up?deep=1", host=host))])
        await peer.wait_requests(1)
        [seen] = peer.requests
        assert (seen.method, seen.target) == (b"GET", b"/up?deep=1")
        assert seen.values("host") == [(sent or peer.address).encode()]
        assert seen.values("connection") == [b"close"]

    async def test_no_checks_no_requests(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy
    ) -> None:
        peer, checked = await endpoint(), await endpoint()
        other = service(checked, name="checked", hosts=("b.local",), checks=RARE)
        await start_proxy([service(peer), other])
        await checked.wait_requests(1)
        assert not peer.connections

    async def test_a_long_body_is_not_read_to_its_end(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy
    ) -> None:
        async def endless(conn: EndpointConnection) -> None:
            await conn.request()
            await conn.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70_000)
            await conn.closed()
            ends.set()

        ends = asyncio.Event()
        well, ill = await endpoint(), await endpoint(endless)
        proxy = await start_proxy([service(well, ill, checks=replace(RARE, timeout=60.0))])
        await asyncio.wait_for(ends.wait(), 5)
        assert outages(proxy) == {}

    async def test_through_a_connector(self, endpoint: MakeEndpoint, tmp_path: Path) -> None:
        """While there is none, that says nothing of the endpoint."""
        peer = await endpoint()
        checker = Checker(partial(Asker, upstreams(str(tmp_path))), lambda: None)
        spec = EndpointSpec("one", peer.address, network="back")
        quick = replace(QUICK, timeout=5.0)
        checker.use([ServiceSpec("demo", ("demo.local",), (spec,), checks=quick)])
        with RunningConnector(tmp_path):
            await peer.wait_requests(2)
        assert checker.outages == {}
        await checker.stop()

    async def test_over_tls(self, endpoint: MakeEndpoint) -> None:
        """As requests are: a certificate that does not pass is a check that fails."""
        peer = await endpoint(tls=context())
        checker = Checker(partial(Asker, upstreams("/nowhere")), lambda: None)
        declared = service(peer, tls=VERIFIED, checks=QUICK)
        checker.use([declared])
        await peer.wait_requests(2)
        assert checker.outages == {}
        checker.use([replace(declared, tls=UpstreamTls(verify=True, ca=OTHER_CA.pem))])
        await eventually(lambda: bool(checker.outages))
        [problem] = checker.problems()
        assert "certificate" in problem.reason
        assert f"https://{peer.address}/up" in problem.remedy
        await checker.stop()


class TestRecord:
    """A dot is a check that was passed, an x one that failed; plus and minus: whether it is well
    then."""

    @pytest.mark.parametrize(
        ("checks", "states"), [(".xx.xxx..", "++++++--+"), (".xxxx.x..", "+++-----+")]
    )
    def test_rise_and_fall(self, checks: str, states: str) -> None:
        assert self.after(checks, Checks("/", rise=2, fall=3)) == states

    @pytest.mark.parametrize(
        ("checks", "states"), [(".", "+"), ("x", "-"), ("x.", "-+"), ("xxx.x", "---++")]
    )
    def test_until_the_first_success_one_check_decides(self, checks: str, states: str) -> None:
        assert self.after(checks, Checks("/", rise=5, fall=5)) == states

    @staticmethod
    def after(checks: str, how: Checks) -> str:
        record, states = CheckRecord(how), ""
        for check in checks:
            before = record.well
            assert record.note("" if check == "." else "it failed") is (record.well is not before)
            states += "+" if record.well else "-"
        return states


def upstreams(connectors: str) -> Upstreams:
    return Upstreams(
        connect_timeout=1,
        response_timeout=1,
        client_timeout=1,
        idle_timeout=1,
        turns=Turns(),
        connectors=connectors,
        descriptors=Descriptors(),
        ca="",
    )
