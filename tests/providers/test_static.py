"""providers/static.py and providers/names.py: names that stand for several addresses. With Docker's
own DNS: tests/swarm/test_docker.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from stickyproxy.base.errors import ProviderError
from stickyproxy.control.registry import NoConnections, Registry
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.model.tls import UpstreamTls
from stickyproxy.providers.names import Resolution, look_up, name_in
from stickyproxy.providers.static import StaticProvider, snapshot
from stickyproxy.routing.table import RoutingTable

ONE, TWO, THREE, SIX = "10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::6"


def service(*endpoints: str, name: str = "capp") -> ServiceSpec:
    return ServiceSpec(name, ("c.example",), tuple(EndpointSpec(each, each) for each in endpoints))


class Names:
    """What names resolve to."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self.answers: dict[str, Sequence[str]] = dict(answers)
        self.asked: list[str] = []

    def look_up(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise ProviderError("Name or service not known")
        return self.answers[host]


class Published:
    """What a provider publishes."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self._news = asyncio.Event()

    def __call__(self, published: Snapshot) -> None:
        self.snapshots.append(published)
        self._news.set()

    @property
    def last(self) -> Snapshot:
        return self.snapshots[-1]

    @property
    def addresses(self) -> list[str]:
        return [each.address for service in self.last.services for each in service.endpoints]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not self.snapshots or not holds():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def running(
    names: Names, published: Published, *services: ServiceSpec, interval: float = 0.01
) -> AsyncIterator[StaticProvider]:
    provider = StaticProvider(services, published, names.look_up, interval=interval)
    task = asyncio.create_task(provider.run())
    async with asyncio.timeout(20):
        await provider.ready.wait()
    try:
        yield provider
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class TestWhatIsLookedUp:
    @pytest.mark.parametrize(
        ("address", "name"),
        [
            ("capp:8080", "capp"),
            ("tasks.capp.example:80", "tasks.capp.example"),
            ("10.0.0.5:8080", ""),
            ("[2001:db8::1]:8080", ""),
            ("localhost:8080", ""),
            ("app.localhost:8080", ""),
            ("unix:/run/app.sock", ""),
        ],
    )
    def test_names_only(self, address: str, name: str) -> None:
        assert name_in(address) == name

    def test_by_the_system(self) -> None:
        assert "127.0.0.1" in look_up("localhost")

    def test_what_the_system_does_not_know(self) -> None:
        with pytest.raises(ProviderError):  # too long for a label: it is not even asked for
            look_up("x" * 64)


class TestNameForTls:
    def test_is_told_with_each_address_where_tls_is_spoken(self) -> None:
        service = ServiceSpec("demo", ("demo.local",), (EndpointSpec("capp:80", "capp:80"),))
        known = {"capp": Resolution().after([ONE])}
        [clear] = snapshot([service], known).services
        [secured] = snapshot([replace(service, tls=UpstreamTls())], known).services
        assert [each.server_name for each in clear.endpoints] == [""]
        assert [each.server_name for each in secured.endpoints] == ["capp"]


class TestResolution:
    def test_an_address_that_goes_drains_until_that_is_confirmed(self) -> None:
        both = Resolution().after([ONE, TWO])
        fewer = both.after([TWO])
        assert (fewer.addresses, fewer.leaving) == ((TWO,), (ONE,))
        assert fewer.after([TWO]) == Resolution((TWO,), (), "")

    def test_one_that_comes_back_was_never_gone(self) -> None:
        flapping = Resolution().after([ONE, TWO]).after([TWO]).after([ONE, TWO])
        assert flapping == Resolution((ONE, TWO), (), "")

    def test_a_failure_changes_no_address(self) -> None:
        known = Resolution().after([ONE, TWO]).after([TWO])
        assert known.after_failure("away") == Resolution((TWO,), (ONE,), "away")


class TestSnapshot:
    def test_an_endpoint_for_each_address(self) -> None:
        known = {"capp": Resolution().after([ONE, SIX])}
        [spec] = snapshot([service("capp:8080")], known).services
        assert spec.endpoints == (
            EndpointSpec("capp:8080/10.0.0.1:8080", "10.0.0.1:8080"),
            EndpointSpec("capp:8080/[2001:db8::6]:8080", "[2001:db8::6]:8080"),
        )

    def test_what_is_no_name_stays_as_it_is(self) -> None:
        plain = service("10.0.0.5:80", "localhost:80", "unix:/run/app.sock")
        assert snapshot([plain], {}) == Snapshot("static", (plain,))

    def test_leaving_ones_drain(self) -> None:
        known = {"capp": Resolution().after([ONE, TWO]).after([TWO])}
        [spec] = snapshot([service("capp:80")], known).services
        assert [(each.address, each.draining) for each in spec.endpoints] == [
            ("10.0.0.2:80", False),
            ("10.0.0.1:80", True),
        ]

    def test_a_name_that_never_resolved(self) -> None:
        found = snapshot([service("capp:80")], {"capp": Resolution().after_failure("not known")})
        [problem] = found.problems
        assert found.services[0].endpoints == ()
        assert problem.fatal
        assert "capp does not resolve (not known): correct the name" in problem.reason
        assert problem.remedy == "getent ahosts capp"

    def test_one_that_still_has_other_endpoints_is_published(self) -> None:
        found = snapshot([service("capp:80", "10.0.0.9:80")], {})
        [problem] = found.problems
        assert not problem.fatal

    def test_one_that_no_longer_resolves(self) -> None:
        known = {"capp": Resolution().after([ONE]).after_failure("no answer")}
        found = snapshot([service("capp:80")], known)
        [problem] = found.problems
        assert [each.address for each in found.services[0].endpoints] == ["10.0.0.1:80"]
        assert "no longer resolves (no answer): its last addresses are kept" in problem.reason
        assert not problem.fatal


class TestProvider:
    async def test_services_without_names_are_published_at_once(self) -> None:
        published = Published()
        async with running(Names(), published, service("10.0.0.5:80")):
            assert published.addresses == ["10.0.0.5:80"]
            assert len(published.snapshots) == 1

    async def test_all_addresses_of_a_name(self) -> None:
        published = Published()
        async with running(Names(capp=[ONE, TWO]), published, service("capp:80")):
            assert published.addresses == ["10.0.0.1:80", "10.0.0.2:80"]
            assert len(published.snapshots) == 1, "not before the first answer"

    async def test_followed_as_it_changes(self) -> None:
        names, published = Names(capp=[ONE, TWO]), Published()
        async with running(names, published, service("capp:80")):
            names.answers["capp"] = [TWO, THREE]
            await published.until(lambda: published.addresses == ["10.0.0.2:80", "10.0.0.3:80"])
        states = [
            [(each.address, each.draining) for each in said.services[0].endpoints]
            for said in published.snapshots
        ]
        two, three = ("10.0.0.2:80", False), ("10.0.0.3:80", False)
        assert states[1:] == [[two, three, ("10.0.0.1:80", True)], [two, three]]

    async def test_a_pin_outlives_what_becomes_of_other_addresses(self) -> None:
        class Proxy:
            table = RoutingTable({})

        names, published = Names(capp=[ONE, TWO]), Published()
        registry = Registry(Proxy(), NoConnections(), None)

        def pins() -> dict[str, bytes]:
            registry.publish(published.last)
            [cluster] = registry._proxy.table.clusters()
            return {endpoint.address: endpoint.pin for endpoint in cluster.endpoints}

        async with running(names, published, service("capp:80")):
            before = pins()
            names.answers["capp"] = [TWO, THREE]
            await published.until(lambda: published.addresses == ["10.0.0.2:80", "10.0.0.3:80"])
            after = pins()
        assert before["10.0.0.2:80"] == after["10.0.0.2:80"]
        assert len({*before.values(), *after.values()}) == 3

    async def test_a_failure_keeps_what_there_was(self) -> None:
        names, published = Names(capp=[ONE]), Published()
        async with running(names, published, service("capp:80")):
            del names.answers["capp"]
            await published.until(lambda: bool(published.last.problems))
            assert published.addresses == ["10.0.0.1:80"]
            names.answers["capp"] = [ONE]
            await published.until(lambda: not published.last.problems)
            assert published.addresses == ["10.0.0.1:80"]

    async def test_one_that_does_not_resolve_holds_up_no_other(self) -> None:
        names, published = Names(good=[ONE]), Published()
        services = service("bad:80", name="bad"), service("good:80", name="good")
        async with running(names, published, *services):
            assert published.addresses == ["10.0.0.1:80"]
            [problem] = published.last.problems
            assert problem.service == "bad"
            names.answers["bad"] = [TWO]
            await published.until(lambda: published.addresses == ["10.0.0.2:80", "10.0.0.1:80"])

    async def test_a_resolver_that_hangs_holds_up_no_other(self) -> None:
        release = threading.Event()
        published = Published()

        def hang(host: str) -> Sequence[str]:
            if host == "slow":
                release.wait(20)
            return [ONE]

        services = service("slow:80", name="slow"), service("fast:80", name="fast")
        provider = StaticProvider(services, published, hang, first_answers=0.01)
        task = asyncio.create_task(provider.run())
        await published.until(lambda: published.addresses == ["10.0.0.1:80"])
        [problem] = published.last.problems
        assert "the resolver has not answered yet" in problem.reason
        release.set()
        await published.until(lambda: published.addresses == ["10.0.0.1:80"] * 2)
        assert published.last.problems == ()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def test_each_name_is_asked_for_once(self) -> None:
        names = Names(capp=[ONE])
        services = service("capp:80", "capp:81"), service("capp:82", name="other")
        async with running(names, Published(), *services, interval=3600):
            assert names.asked == ["capp"]


class TestReload:
    async def test_a_new_name_is_looked_up_before_anything_changes(self) -> None:
        names, published = Names(capp=[ONE]), Published()
        async with running(names, published, service("10.0.0.5:80"), interval=3600) as provider:
            await provider.use([service("capp:80")])
            assert [len(said.services[0].endpoints) for said in published.snapshots] == [1, 1]
            assert published.addresses == ["10.0.0.1:80"]

    async def test_a_name_that_stays_keeps_its_addresses(self) -> None:
        names, published = Names(capp=[ONE]), Published()
        async with running(names, published, service("capp:80"), interval=3600) as provider:
            del names.answers["capp"]
            await provider.use([service("capp:81")])
            assert published.addresses == ["10.0.0.1:81"]
            assert names.asked == ["capp"]

    async def test_a_name_that_goes_is_forgotten(self) -> None:
        names, published = Names(capp=[ONE]), Published()
        async with running(names, published, service("capp:80"), interval=3600) as provider:
            await provider.use([])
            assert published.last.services == ()
            await provider.use([service("capp:80")])
            assert names.asked == ["capp", "capp"]
