"""control/slow_start.py: who comes back gets more and more new sessions, and keeps those it has."""

from __future__ import annotations

from collections import Counter

from stickyproxy.model.health import Checks
from stickyproxy.model.service import ServiceSpec
from stickyproxy.routing.balancers.round_robin import RoundRobinBalancer
from stickyproxy.routing.endpoint import ALL_TENTHS, Endpoint
from tests.conftest import MakeClient, MakeEndpoint, RunningProxy, StartProxy, service
from tests.control.test_checks import BUSY, QUICK, Patient
from tests.control.test_health import dump, eventually
from tests.routing.balancers import NOTHING, chosen, endpoints, usable
from tests.running import InProcessProxy
from tests.scripted import RawClient, ScriptedEndpoint, answering, get, ok


def live(proxy: RunningProxy, peer: ScriptedEndpoint) -> Endpoint:
    assert isinstance(proxy, InProcessProxy)
    [cluster] = proxy.app.proxy.table.clusters()
    [found] = [each for each in cluster.endpoints if each.address == peer.address]
    return found


async def bodies(user: RawClient, count: int, request: bytes = b"") -> Counter[bytes]:
    seen = []
    for _ in range(count):
        await user.send(request or get())
        seen.append((await user.response()).body)
    return Counter(seen)


class TestComingBack:
    @staticmethod
    async def left_and_returned(
        declared: ServiceSpec, patient: Patient, start_proxy: StartProxy
    ) -> RunningProxy:
        proxy = await start_proxy([declared])
        await eventually(lambda: patient.checked > 0)
        patient.response = BUSY
        await eventually(lambda: " down" in dump(proxy))
        patient.response = ok(b"back")
        await eventually(lambda: " down" not in dump(proxy))
        return proxy

    async def test_a_tenth_at_first(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        patient = Patient()
        well, ill = await endpoint(answering(ok(b"well"))), await endpoint(patient)
        declared = service(well, ill, checks=QUICK, slow_start=3600.0)
        proxy = await self.left_and_returned(declared, patient, start_proxy)
        assert live(proxy, ill).tenths == 1
        assert await bodies(await client(proxy.port), 22) == {b"well": 20, b"back": 2}

    async def test_all_of_it_in_the_end(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        patient = Patient()
        well, ill = await endpoint(answering(ok(b"well"))), await endpoint(patient)
        declared = service(well, ill, checks=QUICK, slow_start=0.1)
        proxy = await self.left_and_returned(declared, patient, start_proxy)
        await eventually(lambda: live(proxy, ill).tenths == ALL_TENTHS)
        assert await bodies(await client(proxy.port), 10) == {b"well": 5, b"back": 5}

    async def test_off_by_default(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        patient = Patient()
        well, ill = await endpoint(answering(ok(b"well"))), await endpoint(patient)
        proxy = await self.left_and_returned(service(well, ill, checks=QUICK), patient, start_proxy)
        assert await bodies(await client(proxy.port), 10) == {b"well": 5, b"back": 5}

    async def test_its_sessions_are_its_own(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
    ) -> None:
        patient = Patient()
        well, ill = await endpoint(answering(ok(b"well"))), await endpoint(patient)
        declared = service(
            well, ill, checks=QUICK, slow_start=3600.0, sticky_session_cookie="session"
        )
        proxy = await self.left_and_returned(declared, patient, start_proxy)
        user = await client(proxy.port)
        pinned = get(Cookie=f"session={live(proxy, ill).pin.decode()}")
        assert await bodies(user, 10, pinned) == {b"back": 10}
        assert await bodies(user, 11) == {b"well": 10, b"back": 1}

    async def test_one_that_goes_down_again_begins_anew(
        self, endpoint: MakeEndpoint, start_proxy: StartProxy
    ) -> None:
        patient = Patient()
        well, ill = await endpoint(), await endpoint(patient)
        declared = service(well, ill, checks=Checks("/up", interval=0.05, fall=1), slow_start=8.0)
        proxy = await self.left_and_returned(declared, patient, start_proxy)
        await eventually(lambda: live(proxy, ill).tenths > 1)
        patient.response = BUSY
        await eventually(lambda: live(proxy, ill).tenths == ALL_TENTHS)
        patient.response = ok(b"back")
        await eventually(lambda: live(proxy, ill).tenths == 1)


def test_turns_are_spread_evenly() -> None:
    one, two, three = everybody = endpoints(3)
    one.tenths = 5
    balancer = RoundRobinBalancer(usable(*everybody), cursor=0)
    picked = [chosen(balancer.pick(NOTHING, ())) for _ in range(50)]
    assert Counter(picked) == {one: 10, two: 20, three: 20}
    assert one not in picked[:2] or one not in picked[2:4]
    assert all(one in picked[start : start + 6] for start in range(44))
