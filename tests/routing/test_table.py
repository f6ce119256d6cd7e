"""routing/table.py and routing/builder.py: which route answers, and what a new table takes over
from the one before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stickyproxy.base.errors import InvalidHost
from stickyproxy.model.service import AdminState, Drain, EndpointSpec, ServiceSpec
from stickyproxy.model.timeouts import Timeouts
from stickyproxy.model.tls import UpstreamTls
from stickyproxy.routing.builder import build
from stickyproxy.routing.cluster import Cluster
from stickyproxy.routing.endpoint import Endpoint, EndpointState, Facts, state_of
from stickyproxy.routing.table import RoutingTable
from tests.specs import service_spec

ONE, TWO = EndpointSpec("one", "10.0.0.1:80"), EndpointSpec("two", "10.0.0.2:80")
SHOP = ServiceSpec("shop", ("shop.local",), (ONE, TWO))


class CountingPool:
    """Says how often it was closed, and whether it keeps idle connections."""

    def __init__(self) -> None:
        self.closed = 0
        self.keeps_idle = True

    def limit(self, timeouts: Timeouts | None) -> None:
        pass

    def keep_idle(self, keep: bool) -> None:
        self.keeps_idle = keep

    def close(self) -> None:
        self.closed += 1


def make(service: ServiceSpec, spec: EndpointSpec) -> Endpoint:
    return Endpoint(service.name, spec, b"", CountingPool(), service.tls)


def table(*services: ServiceSpec, previous: RoutingTable | None = None) -> RoutingTable:
    return build(services, make, previous)


def answering(table: RoutingTable, host: bytes, target: bytes = b"/") -> str | None:
    """The name of the cluster; None if there is no route."""
    route = table.match(host, target)
    if route is None:
        return None
    assert route.cluster is not None
    return route.cluster.name


def cluster(table: RoutingTable) -> Cluster:
    [only] = table.clusters()
    return only


def closed(endpoint: Endpoint) -> int:
    assert isinstance(endpoint.pool, CountingPool)
    return endpoint.pool.closed


class TestMatch:
    @pytest.mark.parametrize("host", [b"shop.local", b"SHOP.local:8080", b"shop.local."])
    def test_a_host_in_any_spelling(self, host: bytes) -> None:
        assert answering(table(SHOP), host) == "shop"

    def test_nobody_claims_the_host(self) -> None:
        assert answering(table(SHOP), b"other.local") is None

    def test_default_backend(self) -> None:
        anything = replace(SHOP, name="any", hosts=(), default_backend=True)
        assert answering(table(SHOP, anything), b"other.local") == "any"
        assert answering(table(SHOP, anything), b"shop.local") == "shop"

    @pytest.mark.parametrize("host", [b"*.shop.local", b"a b", b"shop.local:port"])
    def test_no_host_at_all(self, host: bytes) -> None:
        with pytest.raises(InvalidHost):
            table(SHOP).match(host, b"/")

    def test_nearest_wildcard_and_exact_names_first(self) -> None:
        found = table(
            replace(SHOP, name="wide", hosts=("*.local",)),
            replace(SHOP, name="near", hosts=("*.shop.local",)),
            replace(SHOP, name="exact", hosts=("a.shop.local",)),
        )
        assert answering(found, b"a.shop.local") == "exact"
        assert answering(found, b"b.a.shop.local") == "near"
        assert answering(found, b"shop.local") == "wide"
        assert answering(found, b"local") is None

    @pytest.mark.parametrize(
        ("target", "name"),
        [
            (b"/", "shop"),
            (b"/api", "api"),
            (b"/api?q", "api"),
            (b"/api/", "api"),
            (b"/apis", "shop"),
            (b"/api/v2/x", "v2"),
        ],
    )
    def test_longest_context_root_on_a_segment_boundary(self, target: bytes, name: str) -> None:
        api = replace(SHOP, name="api", context_root="/api")
        v2 = replace(SHOP, name="v2", context_root="/api/v2")
        assert answering(table(SHOP, v2, api), b"shop.local", target) == name

    def test_services_that_share_a_route_are_one_cluster(self) -> None:
        other = replace(SHOP, name="blue", endpoints=(ONE,))
        found = cluster(table(SHOP, other))
        assert found.name == "blue+shop"
        assert [(each.service, each.id) for each in found.endpoints] == [
            ("blue", "one"),
            ("shop", "one"),
            ("shop", "two"),
        ]

    def test_a_redirect(self) -> None:
        found = table(replace(SHOP, redirects=(("old.local", "https://new.example"),)))
        route = found.match(b"old.local", b"/x")
        assert route is not None
        assert (route.cluster, route.redirect) == (None, b"https://new.example")

    def test_a_service_goes_before_a_redirect_of_its_host(self) -> None:
        found = table(replace(SHOP, redirects=(("shop.local", "https://new.example"),)))
        assert answering(found, b"shop.local") == "shop"


class TestRoute:
    @pytest.mark.parametrize(
        ("target", "seen"), [(b"/api", b"/"), (b"/api/x", b"/x"), (b"/api?q", b"/?q")]
    )
    def test_rewriting(self, target: bytes, seen: bytes) -> None:
        found = table(replace(SHOP, context_root="/api", context_root_rewrite=True))
        route = found.match(b"shop.local", target)
        assert route is not None
        assert route.rewrite
        assert route.rewritten(target) == seen

    def test_who_may_upgrade(self) -> None:
        found = table(replace(SHOP, websocket_endpoints=("/ws",)))
        route = found.match(b"shop.local", b"/ws")
        assert route is not None
        assert route.may_upgrade(b"/ws?x=1")
        assert not route.may_upgrade(b"/ws/x")


class TestTakingOver:
    def test_an_equal_service_keeps_its_cluster(self) -> None:
        before = table(SHOP)
        after = table(replace(SHOP), previous=before)
        assert cluster(after) is cluster(before)
        assert [closed(each) for each in cluster(after).endpoints] == [0, 0]

    def test_a_changed_service_keeps_the_endpoints_that_stay(self) -> None:
        before = cluster(first := table(SHOP))
        after = cluster(table(replace(SHOP, endpoints=(TWO,)), previous=first))
        assert after is not before
        assert after.endpoints == (before.endpoints[1],)
        assert [closed(each) for each in before.endpoints] == [1, 0]

    def test_another_address_is_another_endpoint(self) -> None:
        before = cluster(first := table(SHOP))
        moved = replace(SHOP, endpoints=(replace(ONE, address="10.0.0.9:80"), TWO))
        after = cluster(table(moved, previous=first))
        assert after.endpoints[0] is not before.endpoints[0]
        assert [closed(each) for each in before.endpoints] == [1, 0]

    def test_draining_and_back(self) -> None:
        first = table(SHOP)
        draining = replace(SHOP, endpoints=(replace(ONE, draining=True), TWO))
        second = table(draining, previous=first)
        assert cluster(second).endpoints[0].state is EndpointState.DRAINING
        third = table(SHOP, previous=second)
        assert cluster(third).endpoints[0].state is EndpointState.USABLE
        assert cluster(third).endpoints[0] is cluster(first).endpoints[0]

    def test_what_is_known_of_an_endpoint_goes_with_it(self) -> None:
        first = table(SHOP)
        ejected = cluster(first).endpoints[0]
        first.note(ejected, Facts(ejected=True))
        draining = replace(SHOP, endpoints=(replace(ONE, draining=True), TWO))
        second = table(draining, previous=first)
        assert cluster(second).endpoints[0] is ejected
        assert ejected.facts == Facts(draining=True, ejected=True)
        assert state_of(ejected.facts) is EndpointState.DOWN, "it does not accept connections yet"
        third = table(SHOP, previous=second)
        assert ejected.facts == Facts(ejected=True)
        assert cluster(third).endpoints[0].state is EndpointState.DOWN
        fourth = table(replace(SHOP, endpoints=(TWO,)), previous=third)
        again = cluster(table(SHOP, previous=fourth)).endpoints[0]
        assert again is not ejected
        assert again.state is EndpointState.USABLE

    def test_a_service_that_is_gone(self) -> None:
        before = cluster(first := table(SHOP))
        assert list(table(previous=first).clusters()) == []
        assert [closed(each) for each in before.endpoints] == [1, 1]


class TestIdleConnections:
    """An endpoint that gets nothing more keeps none; one that has its sessions keeps them too."""

    def keeps(self, found: RoutingTable) -> list[bool]:
        pools = [each.pool for each in cluster(found).endpoints]
        return [pool.keeps_idle for pool in pools if isinstance(pool, CountingPool)]

    @pytest.mark.parametrize(
        ("drain", "keeps"), [("none", False), ("safe", True), ("sticky", True)]
    )
    def test_as_declared(self, drain: Drain, keeps: bool) -> None:
        shop = replace(SHOP, drain=drain)
        first = table(shop)
        assert self.keeps(first) == [True, True]
        draining = replace(shop, endpoints=(replace(ONE, draining=True), TWO))
        assert self.keeps(second := table(draining, previous=first)) == [keeps, True]
        assert self.keeps(table(draining)) == [keeps, True]
        assert self.keeps(table(shop, previous=second)) == [True, True]

    def test_another_way_of_draining(self) -> None:
        draining = replace(SHOP, endpoints=(replace(ONE, draining=True), TWO))
        first = table(draining)
        second = table(replace(draining, drain="sticky"), previous=first)
        assert cluster(second).endpoints[0] is cluster(first).endpoints[0]
        assert self.keeps(second) == [True, True]

    def test_whatever_else_is_known(self) -> None:
        found = table(SHOP)
        one = cluster(found).endpoints[0]
        found.note(one, Facts(draining=True, asked_to_drain=True))
        assert self.keeps(found) == [False, True]
        found.note(one, Facts(draining=True, asked_to_drain=True, ejected=True))
        assert self.keeps(found) == [False, True]
        found.note(one, Facts(ejected=True))
        assert self.keeps(found) == [True, True]

    def test_by_the_operator(self) -> None:
        first = table(SHOP)
        drained = replace(SHOP, admin_state="drain")
        second = table(drained, previous=first)
        assert self.keeps(second) == [True, True]
        one = replace(ONE, admin_state="maintenance")
        third = table(replace(SHOP, endpoints=(one, TWO)), previous=second)
        assert self.keeps(third) == [False, True]
        assert self.keeps(table(SHOP, previous=third)) == [True, True]

    @pytest.mark.parametrize("of_service", ["ready", "drain", "maintenance"])
    @pytest.mark.parametrize("of_endpoint", ["ready", "drain", "maintenance"])
    def test_the_stricter_one_counts(self, of_service: AdminState, of_endpoint: AdminState) -> None:
        one = replace(ONE, admin_state=of_endpoint)
        found = table(replace(SHOP, admin_state=of_service, endpoints=(one, TWO)))
        facts = cluster(found).endpoints[0].facts
        wanted = {of_service, of_endpoint}
        assert facts.in_maintenance is ("maintenance" in wanted)
        assert facts.asked_to_drain is ("drain" in wanted and not facts.in_maintenance)

    def test_services_on_one_host_each_have_their_own_way(self) -> None:
        other = ServiceSpec("other", SHOP.hosts, (replace(TWO, draining=True),), drain="sticky")
        found = table(replace(SHOP, endpoints=(replace(ONE, draining=True),)), other)
        assert cluster(found).name == "other+shop"
        assert self.keeps(found) == [True, False]


class TestNoting:
    """Balancers are built again when the state of an endpoint changes, and only then."""

    def test_a_change_takes_effect_in_all_clusters_of_the_endpoint(self) -> None:
        shared = replace(SHOP, hosts=("shop.local", "mixed.local"))
        found = table(shared, replace(SHOP, name="a", hosts=("mixed.local",)))
        mixed, alone = found.clusters()
        assert (mixed.name, alone.name) == ("a+shop", "shop")
        one = alone.endpoints[0]
        assert found.clusters_of(one) == [mixed, alone]
        before = [mixed.balancer, alone.balancer]
        found.note(one, Facts(in_maintenance=True))
        assert mixed.balancer is not before[0]
        assert alone.balancer is not before[1]
        assert repr(alone) == "<Cluster shop 1/2 usable, round robin>"

    def test_the_same_state_for_another_reason(self) -> None:
        found = table(SHOP)
        [only] = found.clusters()
        one = only.endpoints[0]
        found.note(one, Facts(ejected=True))
        balancer = only.balancer
        found.note(one, Facts(ejected=True))
        found.note(one, Facts(ejected=True, unhealthy=True))
        found.note(one, Facts(unhealthy=True, asked_to_drain=True))
        assert only.balancer is balancer
        found.note(one, Facts(asked_to_drain=True))
        assert only.balancer is not balancer
        assert one.state is EndpointState.DRAINING

    def test_an_endpoint_that_has_left(self) -> None:
        first = table(SHOP)
        gone = cluster(first).endpoints[0]
        second = table(replace(SHOP, endpoints=(TWO,)), previous=first)
        balancer = cluster(second).balancer
        assert second.clusters_of(gone) == []
        second.note(gone, Facts(ejected=True))
        assert cluster(second).balancer is balancer


def test_dump() -> None:
    found = table(
        replace(SHOP, endpoints=(ONE, replace(TWO, draining=True))),
        service_spec(
            "api",
            ("shop.local",),
            context_root="/api",
            context_root_rewrite=True,
            ip_hash=True,
            redirects=(("old.local", "https://new.example"),),
        ),
    )
    assert found.dump().splitlines() == [
        "old.local",
        "  / -> 302 https://new.example",
        "shop.local",
        "  /api (stripped) -> api, ip hash",
        "    (no endpoints)",
        "  / -> shop, round robin",
        "    10.0.0.1:80",
        "    10.0.0.2:80 draining",
    ]
    assert table().dump() == "(no services)"
    [*_, last] = table(replace(SHOP, endpoints=(ONE,), tls=UpstreamTls())).dump().splitlines()
    assert last == "    10.0.0.1:80 (TLS)"


def test_changed_tls_makes_new_endpoints() -> None:
    before = table(replace(SHOP, tls=UpstreamTls()))
    same = table(replace(SHOP, tls=UpstreamTls(), drain="safe"), previous=before)
    other = table(replace(SHOP, tls=UpstreamTls(verify=True)), previous=same)
    endpoints = [cluster(each).endpoints for each in (before, same, other)]
    assert endpoints[0] == endpoints[1]
    assert all(each not in endpoints[1] for each in endpoints[2])
    assert [closed(each) for each in endpoints[1]] == [1, 1]


class TestPassthrough:
    @staticmethod
    def passed(name: str, *hosts: str, **fields: object) -> ServiceSpec:
        spec = service_spec(name, hosts, (EndpointSpec(f"{name}1", "10.0.0.1:443"),))
        return replace(spec, ssl_passthrough=True, **fields)  # type: ignore[arg-type]

    @staticmethod
    def to(table: RoutingTable, name: str) -> str | None:
        assert table.passthrough is not None
        found = table.passthrough.cluster(name)
        return None if found is None else found.name

    def test_nobody_asks_for_it(self) -> None:
        assert table(service_spec("shop", ("a.test",))).passthrough is None

    def test_exact_then_wildcard(self) -> None:
        made = table(self.passed("one", "a.test"), self.passed("all", "*.test", "*.b.test"))
        assert self.to(made, "a.test") == "one"
        assert self.to(made, "c.test") == "all"
        assert self.to(made, "c.b.test") == "all"
        assert self.to(made, "test") is None
        assert self.to(made, "a.example") is None

    def test_the_most_specific_name_decides(self) -> None:
        """Also between one that is passed through and one that ends here."""
        here = service_spec("here", ("a.test", "*.b.test"))
        made = table(self.passed("all", "*.test", "c.b.test"), here)
        assert self.to(made, "a.test") is None
        assert self.to(made, "d.b.test") is None
        assert self.to(made, "c.b.test") == "all"
        assert self.to(made, "d.test") == "all"

    def test_it_wins_over_the_same_host(self) -> None:
        made = table(self.passed("one", "a.test"), service_spec("here", ("a.test",)))
        assert self.to(made, "a.test") == "one"
        assert answering(made, b"a.test") == "here"

    def test_services_on_one_host_share_it(self) -> None:
        made = table(self.passed("one", "a.test"), self.passed("two", "a.test"))
        assert self.to(made, "a.test") == "one+two"

    def test_policy_and_endpoints_are_live(self) -> None:
        first = table(self.passed("one", "a.test"))
        [found] = first.clusters()
        assert found.policy.describe() == "ip hash"
        [endpoint] = found.endpoints
        first.note(endpoint, Facts(in_maintenance=True))
        assert repr(found.balancer) == "<IpHashBalancer over 0>"
        again = table(self.passed("one", "a.test"), previous=first)
        assert list(again.clusters()) == [found]
        table(previous=again)
        assert closed(endpoint) == 1

    def test_dump(self) -> None:
        assert table(self.passed("one", "a.test")).dump() == (
            "a.test\n  TLS is passed through\n"
            "a.test, passed through\n  -> one, ip hash\n    10.0.0.1:443"
        )
