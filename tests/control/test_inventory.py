"""control/inventory.py: services, endpoints and routes as the admin API tells them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from stickyproxy.control import report
from stickyproxy.control.inventory import Inventory, routes
from stickyproxy.control.registry import NoConnections, Registry
from stickyproxy.model.health import Outage
from stickyproxy.model.service import EndpointKey, EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.routing.table import RoutingTable
from tests.specs import service_spec

SHOP = service_spec(
    "shop",
    ("shop.local",),
    (EndpointSpec("t1", "10.0.0.1:80", node="alpha"), EndpointSpec("t2", "10.0.0.2:80")),
    context_root="/app",
    sticky_session_cookie="session",
)
BARE = ServiceSpec("bare", ("bare.local",), default_backend=True)
BAD = Problem("bad", '"80a" is no port', "com.docker.lb.port", '"80a"', "docker ...", fatal=True)
OURS = Problem("lb", "joining a network failed: it is full")
OLD = Problem("", "expires soon", certificate="/etc/a.pem")


def figures_of(name: str) -> report.Json | None:
    return {"in_flight": 7} if name == "shop" else None


def figures_at(key: EndpointKey) -> report.Json | None:
    return {"in_flight": 3} if key == ("shop", "t2") else None


def inventory(*problems: Problem, services: Sequence[ServiceSpec] = (SHOP, BARE)) -> Inventory:
    return Inventory(
        [Snapshot("static", tuple(services))],
        problems,
        report.declared_state,
        {("shop", "t1"): Outage("it is slow", 1_800_000_000.0)}.get,
        figures_of,
        figures_at,
    )


def read(pieces: Iterator[str] | None) -> Any:
    assert pieces is not None
    return json.loads("".join(pieces))


class TestServices:
    def test_a_service(self) -> None:
        [_, _, shop] = read(inventory(BAD).services())["services"]
        assert shop == {
            "name": "shop",
            "hosts": ["shop.local"],
            "context_root": "/app",
            "policy": "cookie session, else round robin",
            "state": "published",
            "problems": [],
            "figures": {"in_flight": 7},
            "endpoints": [
                {
                    "id": "t1",
                    "number": 1,
                    "address": "10.0.0.1:80",
                    "node": "alpha",
                    "state": "usable",
                    "why": "it is slow",
                    "admin_state": "ready",
                    "figures": None,
                },
                {
                    "id": "t2",
                    "number": 2,
                    "address": "10.0.0.2:80",
                    "node": "",
                    "state": "usable",
                    "why": "",
                    "admin_state": "ready",
                    "figures": {"in_flight": 3},
                },
            ],
        }

    def test_one_that_is_not_published(self) -> None:
        """Those that are about nobody's service are among the problems alone."""
        found = inventory(BAD, OURS, OLD)
        assert [row["name"] for row in read(found.services())["services"]] == [
            "bad",
            "bare",
            "shop",
        ]
        assert read(found.service("bad")) == {
            "name": "bad",
            "hosts": [],
            "context_root": None,
            "policy": None,
            "state": "not published",
            "problems": [
                {
                    "label": "com.docker.lb.port",
                    "value": '"80a"',
                    "reason": '"80a" is no port',
                    "remedy": "docker ...",
                    "fatal": True,
                }
            ],
            "figures": None,
            "endpoints": [],
        }

    def test_one_alone(self) -> None:
        found = inventory(Problem("shop", "is odd"))
        [bare, shop] = read(found.services())["services"]
        assert read(found.service("shop")) == shop
        assert [each["reason"] for each in shop["problems"]] == ["is odd"]
        assert read(found.service("bare")) == bare
        assert (bare["hosts"], bare["state"]) == (["bare.local", "(any other host)"], "no endpoint")
        assert found.service("none") is None
        assert inventory(OURS).service("lb") is None

    def test_none(self) -> None:
        nothing = inventory(services=())
        assert read(nothing.services()) == {"services": []}
        assert read(nothing.endpoints()) == {"endpoints": []}

    def test_endpoints(self) -> None:
        rows = read(inventory().endpoints())["endpoints"]
        [*_, shop] = read(inventory().services())["services"]
        assert rows == [{"service": "shop"} | each for each in shop["endpoints"]]

    def test_no_piece_has_more_than_an_endpoint(self) -> None:
        """However many there are, whoever makes them can pause."""
        many = tuple(EndpointSpec(f"t{n}", f"10.0.{n // 250}.{n % 250}:80") for n in range(2000))
        found = inventory(services=[ServiceSpec("many", ("many.local",), many)])
        assert max(map(len, found.services())) < 300
        assert len(list(found.endpoints())) >= 2000


class Shown:
    """What has the table."""

    def __init__(self) -> None:
        self.table = RoutingTable({})


def test_routes() -> None:
    shown = Shown()
    registry = Registry(shown, NoConnections(), None, tells_problems=False)
    other = ServiceSpec(
        "other",
        ("shop.local",),
        redirects=(("old.local", "https://shop.local"),),
        context_root="/app",
        share=True,
    )
    passed = ServiceSpec("passed", ("tls.local",), ssl_passthrough=True)
    registry.publish(Snapshot("static", (SHOP, other, passed, BARE)))
    rows = {row["host"]: row for row in read(routes(shown.table))["routes"]}
    assert rows["shop.local"] == {
        "host": "shop.local",
        "kind": "services",
        "context_root": "/app",
        "rewrite": False,
        "services": ["other", "shop"],
        "policy": "round robin",
        "location": None,
    }
    assert (rows["old.local"]["kind"], rows["old.local"]["location"]) == (
        "redirect",
        "https://shop.local",
    )
    assert rows["(any other host)"]["services"] == ["bare"]
    found = [row for row in read(routes(shown.table))["routes"] if row["host"] == "tls.local"]
    assert [(row["kind"], row["services"]) for row in found] == [
        ("tls-only", []),
        ("passthrough", ["passed"]),
    ]
