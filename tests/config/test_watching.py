"""How endpoints are watched, on its way from a controller to its proxies."""

from __future__ import annotations

import json

from stickyproxy.config import codec
from stickyproxy.model.health import Checks, Ejection
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Snapshot

CHECKS = Checks("/up?deep=1", "shop.example", 1.5, 0.5, 1, 4, ((200, 200), (301, 308)))
SHOP = ServiceSpec(
    "shop",
    ("shop.local",),
    ejection=Ejection(after_5xx=3, share=0.25),
    checks=CHECKS,
    slow_start=30.0,
)


def test_it_arrives_as_it_was_sent() -> None:
    snapshot = Snapshot("swarm", (SHOP,))
    assert codec.decode(codec.encode(snapshot)) == snapshot


def test_what_another_version_sends() -> None:
    """What is missing is as by default, and what is unknown is passed over."""
    written = json.loads(codec.encode(Snapshot("swarm", (SHOP,))))
    [service] = written["services"]
    service["checks"] = {"path": "/up", "body_contains": "ok"}
    del service["ejection"], service["slow_start"]
    [read] = codec.decode(json.dumps(written).encode()).services
    assert read == ServiceSpec("shop", ("shop.local",), checks=Checks("/up"))


def test_what_is_wanted_reads_as_it_was_written() -> None:
    assert CHECKS.wanted == "200,301-308"
    assert Checks("/").wanted == "200-399"
