"""The goals of the forward path, and whether a run of the lab meets them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.results import Row, Table, cpu, p99

Measure = Callable[[Table, Row], float | None]


def cpu_ratio(table: Table, row: Row) -> float | None:
    """The median ratio of CPU per request."""
    spread = table.ratio(row, cpu)
    return spread.middle if spread else None


def p99_ratio(table: Table, row: Row) -> float | None:
    """The median ratio of p99."""
    spread = table.ratio(row, p99)
    return spread.middle if spread else None


def slowest(_: Table, row: Row) -> float | None:
    """Milliseconds that the slowest request took."""
    return max((sample.load.slowest for sample in row.samples), default=None)


def failures(_: Table, row: Row) -> float | None:
    """Requests that failed."""
    return row.failures if row.samples else None


def idle_kib(_: Table, row: Row) -> float | None:
    """Memory for each idle client."""
    return row.idle_kib or None


@dataclass(frozen=True, slots=True)
class Goal:
    """At most ``limit``."""

    text: str
    workload: str
    row: str
    measure: Measure
    limit: float


# nginx is Debian's: it is the leaner build of the two.
_NGINX = "nginx (Debian)"
GOALS = (
    Goal("116 B: CPU to nginx", "cookie", _NGINX, cpu_ratio, 1.8),
    Goal("116 B: CPU to Envoy", "cookie", "Envoy", cpu_ratio, 1.0),
    Goal("116 B: CPU to Traefik", "cookie", "Traefik", cpu_ratio, 1.0),
    Goal("116 B: CPU to Caddy", "cookie", "Caddy", cpu_ratio, 1.0),
    Goal("10 kB: CPU to nginx", "10k", _NGINX, cpu_ratio, 1.5),
    Goal("10 kB: CPU to Envoy", "10k", "Envoy", cpu_ratio, 1.0),
    Goal("10 kB: CPU to Traefik", "10k", "Traefik", cpu_ratio, 1.0),
    Goal("10 kB: CPU to Caddy", "10k", "Caddy", cpu_ratio, 1.0),
    Goal("1 MiB responses: CPU to nginx", "1m", _NGINX, cpu_ratio, 1.0),
    Goal("10 MiB uploads: CPU to nginx", "upload-10m", _NGINX, cpu_ratio, 1.0),
    Goal("256 connections: p99 to nginx", "256-connections", _NGINX, p99_ratio, 2.0),
    Goal("2,000 connections: slowest, ms", "2000-connections", "stickyproxy", slowest, 1000),
    Goal("2,000 connections: failures", "2000-connections", "stickyproxy", failures, 0),
    Goal("idle client, KiB", "idle", "stickyproxy", idle_kib, 20),
    Goal("1,000 services: CPU to 1", "services", "1,000 services", cpu_ratio, 1.03),
    Goal("1,000 certificates: CPU to 1", "tls-certificates", "1,000 certificates", cpu_ratio, 1.1),
    Goal("table churn: p99 to quiet", "churn", "100 services, 20 swaps/s", p99_ratio, 1.3),
    Goal("access log, text: CPU to off", "access-log", "text log", cpu_ratio, 1.2),
    Goal("access log, JSON: CPU to off", "access-log", "JSON log", cpu_ratio, 1.2),
)


def markdown(tables: Sequence[Table]) -> list[str]:
    """A table of the goals that this run measured."""
    lines = list(_lines(tables))
    if not lines:
        return []
    return ["## Goals", "", "| goal | at most | is | |", "|---|--:|--:|---|", *lines]


def _lines(tables: Sequence[Table]) -> Iterator[str]:
    for goal in GOALS:
        for table in tables:
            for row in table.rows:
                if (table.key, row.name) == (goal.workload, goal.row):
                    found = goal.measure(table, row)
                    if found is not None:
                        met = "met" if found <= goal.limit else "**missed**"
                        yield f"| {goal.text} | {goal.limit:g} | {found:.4g} | {met} |"
