"""control/orders.py: what an operator wants of endpoints, and how it is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stickyproxy.base.errors import StickyproxyError
from stickyproxy.control.orders import MANY, Orders, Scope, applied
from stickyproxy.model.service import AdminState, EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Snapshot

SHOP = ServiceSpec(
    "shop",
    ("shop.local",),
    (
        EndpointSpec("task1", "10.0.0.1:80", node="alpha"),
        EndpointSpec("task2", "10.0.0.2:80", node="beta"),
        EndpointSpec("job3", "10.0.0.3:80"),
    ),
)
OTHER = ServiceSpec("other", ("other.local",), (EndpointSpec("x", "10.0.1.1:80", node="alpha"),))
SWARM = Snapshot("swarm", (OTHER, SHOP))
States = dict[tuple[str, str], AdminState]


def wanted(snapshot: Snapshot) -> States:
    """By endpoint, of those that are not ready."""
    return {
        (service.name, spec.id): settled.admin_state
        for service in snapshot.services
        for spec in service.endpoints
        if (settled := service.settled(spec)).admin_state != "ready"
    }


class Published(list[Snapshot]):
    @property
    def wanted(self) -> States:
        return wanted(self[-1])


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "orders.json"


@pytest.fixture
def orders(published: Published, file: Path) -> Orders:
    orders = Orders(published.append, file)
    orders.publish(SWARM)
    return orders


class TestApplied:
    @pytest.mark.parametrize(
        ("held", "states"),
        [
            (
                {Scope("shop"): "drain"},
                {("shop", each): "drain" for each in ("task1", "task2", "job3")},
            ),
            ({Scope("shop", "task1"): "drain"}, {("shop", "task1"): "drain"}),
            ({Scope(node="alpha"): "drain"}, {("shop", "task1"): "drain", ("other", "x"): "drain"}),
            (
                {Scope(node="alpha"): "drain", Scope("shop", "task1"): "maintenance"},
                {("shop", "task1"): "maintenance", ("other", "x"): "drain"},
            ),
            ({Scope("none"): "drain", Scope("shop", "none"): "drain"}, {}),
        ],
    )
    def test_to_whom(self, held: dict[Scope, AdminState], states: States) -> None:
        assert wanted(applied(SWARM, held)) == states
        assert (applied(SWARM, held) is SWARM) is (not states)

    def test_none_on_an_unknown_node(self) -> None:
        assert applied(SWARM, {Scope(): "drain"}) is SWARM


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "scope"),
        [
            ("shop", Scope("shop")),
            ("shop/3", Scope("shop", "job3")),
            ("shop/task2", Scope("shop", "task2")),
            ("shop/10.0.0.2:80", Scope("shop", "task2")),
            ("shop/j", Scope("shop", "job3")),
            ("node:beta", Scope(node="beta")),
        ],
    )
    def test_found(self, orders: Orders, target: str, scope: Scope) -> None:
        assert orders.find(target) == scope

    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            ("shup", 'there is no service "shup": there are other, shop'),
            ("", 'there is no service "": there are other, shop'),
            ("shop/4", 'service shop has no endpoint "4": write its number, from 1 to 3, its'),
            ("shop/0", 'service shop has no endpoint "0"'),
            ("shop/", 'service shop has no endpoint ""'),
            ("shop/task", '"task" is the beginning of 2 endpoints of service shop: write more'),
            ("node:gamma", 'there is no endpoint on a node "gamma": there are alpha, beta'),
            ("node:", 'there is no endpoint on a node ""'),
        ],
    )
    def test_not_found(self, orders: Orders, target: str, reason: str) -> None:
        with pytest.raises(StickyproxyError) as caught:
            orders.find(target)
        assert str(caught.value).startswith(reason)

    @pytest.mark.parametrize(
        ("slots", "target", "endpoint"),
        [
            (("3", "1", "7"), "shop/7", "job3"),
            (("3", "1", "7"), "shop/3", "task1"),
            (("a", "b", "c"), "shop/3", "job3"),
            (("1", "1", "2"), "shop/1", "task2"),
        ],
    )
    def test_by_slot(
        self, published: Published, slots: tuple[str, ...], target: str, endpoint: str
    ) -> None:
        """The first one is being stopped: who takes its place is meant."""
        pairs = zip(SHOP.endpoints, slots, strict=True)
        specs = tuple(
            replace(each, slot=slot, draining=each.id == "task1" and slots[1] == "1" == slot)
            for each, slot in pairs
        )
        orders = Orders(published.append)
        orders.publish(Snapshot("swarm", (replace(SHOP, endpoints=specs),)))
        assert orders.find(target) == Scope("shop", endpoint)

    @pytest.mark.parametrize(
        ("slots", "target", "reason"),
        [
            (
                ("3", "1", "7"),
                "shop/2",
                'service shop has no endpoint "2": write its number, one of',
            ),
            (("1", "1", "2"), "shop/1", "shop/1 is task1 and task2 at present: write one of these"),
        ],
    )
    def test_not_by_slot(
        self, published: Published, slots: tuple[str, ...], target: str, reason: str
    ) -> None:
        pairs = zip(SHOP.endpoints, slots, strict=True)
        specs = tuple(replace(each, slot=slot) for each, slot in pairs)
        orders = Orders(published.append)
        orders.publish(Snapshot("swarm", (replace(SHOP, endpoints=specs),)))
        with pytest.raises(StickyproxyError) as caught:
            orders.find(target)
        assert str(caught.value).startswith(reason)

    @pytest.mark.parametrize(
        ("address", "target"),
        [("10.0.0.3:80", "node:10.0.0.3"), ("[2001:db8::3]:80", "node:2001:db8::3")],
    )
    def test_machines_without_a_name_go_by_their_address(
        self, published: Published, address: str, target: str
    ) -> None:
        job = replace(SHOP.endpoints[2], address=address)
        orders = Orders(published.append)
        orders.publish(Snapshot("static", (replace(SHOP, endpoints=(job,)),)))
        scope = orders.find(target)
        assert [spec.id for _, spec in orders.covered(scope)] == ["job3"]

    def test_nothing_is_known_yet(self, published: Published) -> None:
        with pytest.raises(StickyproxyError, match="there are none"):
            Orders(published.append).find("shop")

    @pytest.mark.parametrize("target", ["shop", "shop/task1", "node:alpha"])
    def test_as_it_is_written(self, orders: Orders, target: str) -> None:
        assert str(orders.find(target)) == target

    def test_covered(self, orders: Orders) -> None:
        found = [(name, spec.id) for name, spec in orders.covered(Scope(node="alpha"))]
        assert found == [("other", "x"), ("shop", "task1")]


class TestChanges:
    async def test_in_force_at_once_and_later(self, orders: Orders, published: Published) -> None:
        await orders.change(Scope("shop", "task1"), "drain")
        assert published.wanted == {("shop", "task1"): "drain"}
        orders.publish(Snapshot("swarm", (SHOP,)))
        assert published.wanted == {("shop", "task1"): "drain"}
        await orders.change(Scope("shop", "task1"), "ready")
        assert published[-1] == Snapshot("swarm", (SHOP,))

    async def test_the_same_again_changes_nothing(
        self, orders: Orders, published: Published
    ) -> None:
        await orders.change(Scope("shop"), "drain")
        count = len(published)
        await orders.change(Scope("shop"), "drain")
        assert len(published) == count

    async def test_a_restart_forgets_none(self, orders: Orders, file: Path) -> None:
        await orders.change(Scope("shop", "task1"), "drain")
        await orders.change(Scope(node="alpha"), "maintenance")
        after = Published()
        Orders(after.append, file).publish(SWARM)
        assert after.wanted == {("shop", "task1"): "maintenance", ("other", "x"): "maintenance"}

    async def test_what_cannot_be_kept_is_not_in_force(
        self, tmp_path: Path, published: Published
    ) -> None:
        orders = Orders(published.append, tmp_path / "none" / "orders.json")
        orders.publish(SWARM)
        with pytest.raises(StickyproxyError, match="so nothing is changed"):
            await orders.change(Scope("shop"), "drain")
        assert orders.held == {}
        assert published == [SWARM]

    @pytest.mark.parametrize(
        "text", ["", "{}", "[]", '{"orders": [{}]}', '{"orders": [{"service": "a"}]}', "\xff"]
    )
    def test_a_file_that_cannot_be_read(
        self, file: Path, published: Published, text: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        file.write_text(text, encoding="latin-1")
        assert Orders(published.append, file).held == {}
        assert "the orders of operators are lost" in caplog.text

    async def test_so_many_are_a_mistake(self, orders: Orders) -> None:
        orders.held = {Scope(str(number)): "drain" for number in range(MANY)}
        with pytest.raises(StickyproxyError, match="withdraw some"):
            await orders.change(Scope("shop"), "drain")

    async def test_those_about_endpoints_that_are_gone_make_room(self, orders: Orders) -> None:
        held: dict[Scope, AdminState] = {
            Scope("shop", "task1"): "drain",
            Scope("gone", "x"): "drain",
        }
        orders.held = held | {Scope("shop", f"old{n}"): "drain" for n in range(MANY)}
        await orders.change(Scope("shop"), "maintenance")
        assert orders.held == {**held, Scope("shop"): "maintenance"}

    async def test_without_a_file(self, published: Published) -> None:
        orders = Orders(published.append)
        orders.publish(SWARM)
        await orders.change(Scope("shop", "x"), "drain")
        assert not orders.lasting
