from __future__ import annotations

from stickyproxy.routing.balancers.ip_hash import IpHashBalancer, IpHashPolicy
from stickyproxy.routing.balancers.round_robin import RoundRobinPolicy
from stickyproxy.routing.endpoint import Affinity, Endpoint, Members
from tests.routing.balancers import FakeRequest, chosen, endpoint, endpoints, issued, usable

TEN = endpoints(10)
CLIENTS = [f"10.{number >> 8}.{number & 255}.7" for number in range(5000)]


def build(members: Members, previous: IpHashBalancer | None = None) -> IpHashBalancer:
    return IpHashPolicy().build(members, previous)


def placed(balancer: IpHashBalancer) -> dict[str, Endpoint]:
    return {client: reached(balancer, client) for client in CLIENTS}


def reached(balancer: IpHashBalancer, client: str, *tried: Endpoint) -> Endpoint:
    return chosen(balancer.pick(FakeRequest(client_address=client), tried))


class TestAddress:
    balancer = build(usable(*TEN))

    def test_ipv4_counts_whole(self) -> None:
        assert len({reached(self.balancer, f"192.0.2.{last}") for last in range(256)}) == 10

    def test_ipv6_counts_by_its_64(self) -> None:
        assert len({reached(self.balancer, f"2001:db8::{last:x}") for last in range(256)}) == 1
        assert len({reached(self.balancer, f"2001:db8:0:{n:x}::1") for n in range(256)}) == 10

    def test_ipv4_mapped_is_ipv4(self) -> None:
        for last in range(100):
            v4 = f"192.0.2.{last}"
            assert reached(self.balancer, "::ffff:" + v4) is reached(self.balancer, v4)

    def test_a_unix_socket_has_no_address(self) -> None:
        assert reached(self.balancer, "") in TEN


class TestDisruption:
    def test_a_replica_more_among_n_moves_one_in_n_plus_one(self) -> None:
        before = build(usable(*TEN[:9]))
        places = placed(before)
        after = placed(build(usable(*TEN), before))
        moved = [client for client in CLIENTS if after[client] is not places[client]]
        assert {after[client] for client in moved} == {TEN[9]}
        assert 0.08 < len(moved) / len(CLIENTS) < 0.12

    def test_one_less_moves_only_its_own(self) -> None:
        before = build(usable(*TEN))
        places = placed(before)
        after = placed(build(usable(*TEN[:9]), before))
        moved = {places[client] for client in CLIENTS if after[client] is not places[client]}
        assert moved == {TEN[9]}

    def test_every_proxy_agrees_whatever_it_went_through(self) -> None:
        one = build(usable(*TEN))
        two = build(usable(*reversed(TEN[3:])))
        placed(two)
        two = build(usable(*TEN), two)
        assert placed(one) == placed(two)

    def test_every_proxy_agrees_on_the_second_choice(self) -> None:
        one, two = build(usable(*TEN)), build(usable(*reversed(TEN)))
        for client in CLIENTS[:100]:
            first = reached(one, client)
            second = reached(one, client, first)
            assert second is not first
            assert second is reached(two, client, first)
            assert second is reached(build(usable(*(e for e in TEN if e is not first))), client)


def test_affinity_and_no_cookie() -> None:
    pick = build(usable(*TEN)).pick(FakeRequest(), ())
    assert pick is not None
    assert pick.affinity is Affinity.HASHED
    assert issued(pick, b"session=abc") == []
    assert build(usable(*TEN)).strips == frozenset()


def test_draining_endpoints_only_serve_when_nobody_else_can() -> None:
    leaving, down = endpoint("leaving"), endpoint("down")
    balancer = build(Members(usable=TEN, draining=(leaving,), down=(down,)))
    assert set(placed(balancer).values()) == set(TEN)
    balancer = build(Members(draining=(leaving,), down=(down,)), balancer)
    assert set(placed(balancer).values()) == {leaving}
    assert build(Members(down=(down,)), balancer).pick(FakeRequest(), ()) is None


def test_nobody_left_to_try() -> None:
    assert build(usable(*TEN)).pick(FakeRequest(), TEN) is None


def test_after_another_policy() -> None:
    other = RoundRobinPolicy().build(usable(*TEN), None)
    balancer = IpHashPolicy().build(usable(*TEN), other)
    assert placed(balancer) == placed(build(usable(*TEN)))


def test_description() -> None:
    assert IpHashPolicy().describe() == "ip hash"
    assert repr(build(usable(*TEN))) == "<IpHashBalancer over 10>"
