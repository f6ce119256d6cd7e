"""admin/metrics.py: the text, as Prometheus' own parser reads it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stickyproxy.admin.metrics import Metrics
from stickyproxy.admin.view import ProxyView, Workers
from stickyproxy.base import visitors
from stickyproxy.base.ledger import OTHERS
from stickyproxy.config.settings import Config
from stickyproxy.control.questions import Questions
from stickyproxy.control.registry import NoConnections, Registry
from stickyproxy.dataplane.counters import (
    BOUNDS,
    CLIENT_FAILURES,
    DURATION,
    ENDPOINT_LAYOUT,
    LAYOUT,
    OUTCOMES,
)
from stickyproxy.dataplane.downstream.failures import KINDS, kind_of
from stickyproxy.model.metrics import Counts, Family, Layout
from stickyproxy.model.service import EndpointSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.routing.table import RoutingTable
from stickyproxy.runtime.app import explainer
from tests.specs import service_spec

REFERENCE = Path(__file__).parents[2] / "docs/reference/metrics.md"

SHOP = service_spec(
    "shop",
    ("shop.local",),
    (EndpointSpec("t1", "10.0.0.1:80"), EndpointSpec("t2", "10.0.0.2:80", draining=True)),
)
HITS = Family("hits", 'Those that "hit".\nOr not.', label="how", values=("well", "badly"))
RARE = Family("rare", "Seldom.", label="how", values=("a", "b"), sparse=True)
TIMES = Family("times_seconds", "How long.", kind="histogram", values=("0.1", "1.0", "+Inf"))
HERE = Family("here", "Of the process.", label="why", values=("x", "y"), per_service=False)
WINDOW = 600.0
SMALL = Layout((HITS, RARE, TIMES, HERE))


class Shown:
    """What has the table."""

    def __init__(self) -> None:
        self.table = RoutingTable({})


async def metrics_text(
    totals: dict[str, list[int]], layout: Layout = SMALL, **troubles: str
) -> bytes:
    """Of a proxy with one service."""
    seen = bytearray(visitors.CELLS)
    for number in range(20):
        seen[visitors.cell_of(b"%d" % number)] = visitors.page_at(time.monotonic(), WINDOW)
    ends = {("shop", "t1"): [7, 2, 1], ("", OTHERS): [3, 0, 0], ("shop", "gone"): [5, 5, 5]}

    async def counts() -> Counts:
        return Counts(totals, ends, {("shop", "t1"): [bytes(seen), bytes(visitors.CELLS)]})

    shown = Shown()
    registry = Registry(shown, NoConnections(), None, tells_problems=False)
    registry.publish(Snapshot("static", (SHOP,)))
    view = ProxyView(
        registry=registry,
        proxy=shown,
        troubles=lambda: troubles,
        confirmed=lambda: {"swarm": time.time() - 77},
        unready=str,
        questions=Questions(lambda: shown.table, explainer(Config())),
        workers=lambda: Workers(wanted=4, accepting=3, lost=2),
        checks=lambda: [Problem("shop", "is checked in vain", fatal=True)],
    )
    return await Metrics((layout, ENDPOINT_LAYOUT), counts, view, window=WINDOW).text()


def parsed(text: bytes) -> dict[str, float]:
    """Samples as they are written in the text."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def test_what_was_counted() -> None:
    row = [3, 0, 0, 7, 4, 2, 1, 2_500_000, 0, 0]
    none = [1, 0, 0, 0, 0, 0, 0, 0, 0, 9]
    found = parsed(await metrics_text({"shop": row, "": none, "gone": row}))
    assert found["hits_total[('how', 'well'), ('service', 'shop')]"] == 3
    assert found["hits_total[('how', 'badly'), ('service', 'shop')]"] == 0
    assert found["hits_total[('how', 'well'), ('service', '')]"] == 1
    assert found["rare_total[('how', 'b'), ('service', 'shop')]"] == 7
    assert "rare_total[('how', 'a'), ('service', 'shop')]" not in found
    buckets = [
        found[f"times_seconds_bucket[('le', '{le}'), ('service', 'shop')]"]
        for le in ("0.1", "1.0", "+Inf")
    ]
    assert buckets == [4, 6, 7]
    assert found["times_seconds_count[('service', 'shop')]"] == 7
    assert found["times_seconds_sum[('service', 'shop')]"] == 2.5
    assert found["here_total[('why', 'y')]"] == 9
    assert not [key for key in found if "gone" in key], "it is not published any more"


async def test_how_things_are() -> None:
    found = parsed(await metrics_text({}, swarm="no route to host"))
    assert found["stickyproxy_endpoints[('service', 'shop'), ('state', 'usable')]"] == 1
    assert found["stickyproxy_endpoints[('service', 'shop'), ('state', 'draining')]"] == 1
    assert found["stickyproxy_provider_up[('provider', 'static')]"] == 1
    assert found["stickyproxy_provider_up[('provider', 'swarm')]"] == 0
    assert 77 <= found["stickyproxy_provider_snapshot_age_seconds[('provider', 'swarm')]"] < 600
    assert found["stickyproxy_problems[('fatal', 'true')]"] == 1
    assert found["stickyproxy_problems[('fatal', 'false')]"] == 0
    assert found["stickyproxy_workers_wanted[]"] == 4
    assert found["stickyproxy_workers_accepting[]"] == 3
    assert found["stickyproxy_workers_lost_total[]"] == 2
    assert found["stickyproxy_table_swaps_total[]"] == 1


async def test_endpoints() -> None:
    found = parsed(await metrics_text({}))
    labels = "[('endpoint', 't1'), ('service', 'shop')]"
    assert found[f"stickyproxy_endpoint_requests_total{labels}"] == 7
    assert found[f"stickyproxy_endpoint_failures_total{labels}"] == 2
    assert found[f"stickyproxy_endpoint_requests_in_flight{labels}"] == 1
    assert found[f"stickyproxy_endpoint_sessions{labels}"] == 20
    others = f"[('endpoint', '{OTHERS}'), ('service', '')]"
    assert found[f"stickyproxy_endpoint_requests_total{others}"] == 3
    assert not [key for key in found if "gone" in key]


async def test_names_are_as_prometheus_wants_them() -> None:
    text = (await metrics_text({"shop": [1] * LAYOUT.width}, LAYOUT)).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(re.fullmatch("stickyproxy_[a-z0-9_]+", name) for name in families)
    assert all(family.documentation.endswith((".", "1.")) for family in families.values())
    assert len(LAYOUT.families) < len(families)


async def test_each_is_in_the_reference_and_no_other() -> None:
    text = await metrics_text({"shop": [1] * LAYOUT.width}, LAYOUT)
    shown = {
        family.name + "_total" * (family.type == "counter"): family.type
        for family in text_string_to_metric_families(text.decode())
    }
    told = re.findall(r"^\| `(stickyproxy_\w+)` \| (\w+) \|", REFERENCE.read_text(), re.MULTILINE)
    assert dict(told) == shown


def test_no_cell_is_two_things() -> None:
    cells = [
        cell
        for family in LAYOUT.families
        for cell in range(LAYOUT.start(family), LAYOUT.start(family) + family.cells)
    ]
    assert cells == list(range(LAYOUT.width))
    assert DURATION.cells == len(BOUNDS) + 2
    assert LAYOUT.cell(OUTCOMES, OUTCOMES.values[1]) == LAYOUT.start(OUTCOMES) + 1


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("the handshake was not over in time", "late"),
        ("it speaks in the clear where TLS is spoken", "in-the-clear"),
        ("the client refuses (unknown ca)", "refused-by-client"),
        ("the handshake failed (bad record mac)", "handshake"),
        ("its records are of version 77, which is not TLS", "other"),
        ("extension 4711 occurs twice", "other"),
    ],
)
def test_what_clients_choose_is_in_no_label(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind
    assert kind in KINDS
    assert CLIENT_FAILURES.values == KINDS
