"""CONTROL: what was counted, and how things are, in the text format of Prometheus.

``Metrics.now`` takes everything at one moment, and is quick; ``as_text`` turns it to text, which
takes its time with many services, and needs nothing else: it may run in a thread. There
are lines for services that are published now, and for requests that asked for none of them, whose
label is empty. What clients send is in no label.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from stickyproxy import __version__
from stickyproxy.admin.view import ProxyView, Workers
from stickyproxy.base import build_info, visitors
from stickyproxy.base.ledger import OTHERS
from stickyproxy.control import certificates, report
from stickyproxy.model.metrics import MICROSECONDS, Counts, Family, Layout

CONTENT_TYPE = CONTENT_TYPE_LATEST

Layouts = tuple[Layout, Layout]
"""Of the rows of services, and of those of endpoints."""


@dataclass(frozen=True, slots=True)
class Moment:
    """All that is shown, as it was at one moment."""

    counts: Counts
    """Of what is published now."""
    page: int
    """For ``visitors``."""
    endpoints: Mapping[tuple[str, str], int]
    """How many there are, by service and state."""
    certificates: tuple[tuple[str, str, float], ...]
    """(name, provider, when it expires in Unix time)"""
    providers: Mapping[str, bool]
    """Whether each of them is in touch with its source."""
    published: Mapping[str, float]
    ages: Mapping[str, float]
    """Seconds since the sources of providers responded last."""
    problems: Mapping[bool, int]
    """How many there are, by whether they are fatal."""
    swaps: int
    workers: Workers


class Metrics:
    """The metrics of one proxy."""

    def __init__(
        self,
        layouts: Layouts,
        counts: Callable[[], Awaitable[Counts]],
        view: ProxyView,
        *,
        window: float,
    ) -> None:
        """``counts``: what was counted, by these layouts. ``window``: seconds within which clients
        are counted."""
        self._layouts = layouts
        self._counts = counts
        self._view = view
        self._window = window

    async def text(self) -> bytes:
        """The metrics as they are now."""
        return await asyncio.to_thread(as_text, self._layouts, self.now(await self._counts()))

    def now(self, counts: Counts) -> Moment:
        """Everything as it is now, with what was counted."""
        view, registry, table = self._view, self._view.registry, self._view.proxy.table
        snapshots, troubles = registry.snapshots(), view.troubles()
        services = [service for snapshot in snapshots for service in snapshot.services]
        state_of = view.state_of or report.states_in(table)
        known = {"", OTHERS, *(service.name for service in services)}
        known.update(cluster.name for cluster in table.clusters())
        there = {(service.name, each.id) for service in services for each in service.endpoints}
        there.add(("", OTHERS))
        return Moment(
            counts=Counts(
                {name: row for name, row in counts.services.items() if name in known},
                {key: row for key, row in counts.endpoints.items() if key in there},
                {key: seen for key, seen in counts.clients.items() if key in there},
            ),
            page=visitors.page_at(time.monotonic(), self._window),
            endpoints=Counter(
                (service.name, _word(state_of(service.name, endpoint)))
                for service in services
                for endpoint in service.endpoints
            ),
            certificates=tuple(
                (row["certificate"], row["provider"], row["expires"])
                for row in certificates.rows(snapshots, 0.0)
                if row["expires"]
            ),
            providers={
                name: name not in troubles
                for name in sorted({*(each.provider for each in snapshots), *troubles})
            },
            published=dict(registry.published),
            ages={name: max(0.0, time.time() - when) for name, when in view.confirmed().items()},
            problems=Counter(each.fatal for each in view.problems()),
            swaps=registry.swaps,
            workers=view.workers(),
        )


def _word(state: str) -> str:
    """A state as a label: in how many workers an endpoint is down is no part of it."""
    return "down in part" if state.startswith("down in ") else state


def as_text(layouts: Layouts, facts: Moment) -> bytes:
    """The text that is asked for."""
    registry = CollectorRegistry(auto_describe=False)
    of_services, of_endpoints = layouts
    counts = facts.counts
    services = (((name,), row) for name, row in counts.services.items())
    registry.register(
        _Collected(
            [
                *_counted(of_services, ("service",), services),
                *_counted(of_endpoints, ("service", "endpoint"), counts.endpoints.items()),
                *_clients(facts),
                *_states(facts),
            ]
        )
    )
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


# --- what was counted ----------------------------------------------------------------------------


Key = tuple[str, ...]


def _counted(
    layout: Layout, names: Key, rows_by_name: Iterable[tuple[Key, Sequence[int]]]
) -> Iterator[Metric]:
    """``names``: of the labels that rows differ by."""
    by_key = dict(rows_by_name)
    for family in layout.families:
        start = layout.start(family)
        ours = ("",) * len(names)
        keys = sorted(by_key) if family.per_service else by_key.keys() & {ours}
        rows = ((key, by_key[key][start : start + family.cells]) for key in keys)
        yield (_histogram if family.kind == "histogram" else _values)(family, names, rows)


def _histogram(family: Family, names: Key, rows: Iterable[tuple[Key, Sequence[int]]]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=names)
    for key, cells in rows:
        *counts, total = cells
        buckets = list(zip(family.values, map(float, accumulate(counts)), strict=True))
        metric.add_metric(key, buckets, total / MICROSECONDS)
    return metric


def _values(family: Family, names: Key, rows: Iterable[tuple[Key, Sequence[int]]]) -> Metric:
    labels = [*(names if family.per_service else ()), *([family.label] if family.label else ())]
    made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = made(family.name, family.help, labels=labels)
    for key, cells in rows:
        for value, count in zip(family.values, cells, strict=True):
            if count or not family.sparse:
                words = [*(key if family.per_service else ()), *([value] if family.label else ())]
                metric.add_metric(words, count)
    return metric


def _clients(facts: Moment) -> Iterator[Metric]:
    several = facts.counts.clients
    yield _gauge(
        "endpoint_sessions",
        "Clients that an endpoint has had a request of within the session window: an estimate.",
        ["service", "endpoint"],
        ((key, visitors.estimate(several[key], facts.page)) for key in sorted(several)),
    )


# --- how things are ------------------------------------------------------------------------------


def _states(facts: Moment) -> Iterator[Metric]:
    yield _gauge(
        "endpoints",
        "Endpoints by what they may be used for.",
        ["service", "state"],
        facts.endpoints.items(),
    )
    yield _gauge(
        "certificate_expires_timestamp_seconds",
        "When a certificate expires, in Unix time.",
        ["certificate", "provider"],
        (((name, provider), expires) for name, provider, expires in facts.certificates),
    )
    yield _gauge(
        "provider_up",
        "Whether a provider is in touch with its source.",
        ["provider"],
        (((name,), up) for name, up in facts.providers.items()),
    )
    yield _gauge(
        "provider_published_timestamp_seconds",
        "When a provider published a snapshot last, in Unix time; while nothing changes it need "
        "not.",
        ["provider"],
        (((name,), when) for name, when in facts.published.items()),
    )
    yield _gauge(
        "provider_snapshot_age_seconds",
        "Time since the source of a provider confirmed what is published, of those whose source "
        "has to be asked.",
        ["provider"],
        (((name,), age) for name, age in facts.ages.items()),
    )
    yield _gauge(
        "problems",
        "Problems that /services lists, by whether something is not served as declared.",
        ["fatal"],
        (((str(fatal).lower(),), facts.problems.get(fatal, 0)) for fatal in (False, True)),
    )
    swaps = CounterMetricFamily("stickyproxy_table_swaps", "How often there was a new table.")
    swaps.add_metric([], facts.swaps)
    yield swaps
    workers = facts.workers
    yield _gauge("workers_wanted", "Processes that are to forward.", [], [((), workers.wanted)])
    yield _gauge("workers_accepting", "Of those, how many do.", [], [((), workers.accepting)])
    lost = CounterMetricFamily("stickyproxy_workers_lost", "Those that ended before their time.")
    lost.add_metric([], workers.lost)
    yield lost
    build = __version__, build_info.commit()
    yield _gauge("build_info", "What runs; always 1.", ["version", "commit"], [(build, 1)])


def _gauge(
    name: str,
    text: str,
    labels: Sequence[str],
    values: Iterable[tuple[tuple[str, ...], float]],
) -> Metric:
    metric = GaugeMetricFamily(f"stickyproxy_{name}", text, labels=labels)
    for words, value in values:
        metric.add_metric(words, value)
    return metric
