"""CONTROL: what the admin listener may ask of its proxy, whether that is one process or several."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Protocol

from stickyproxy import __version__
from stickyproxy.admin.figures import EndpointFigures, Figures, ServiceFigures
from stickyproxy.base import build_info
from stickyproxy.control import report
from stickyproxy.control.inventory import Inventory
from stickyproxy.control.questions import Questions
from stickyproxy.control.registry import HoldsTable
from stickyproxy.control.stream import Stream
from stickyproxy.model.snapshot import Problem, Snapshot


class PublishedView(Protocol):
    """What is asked of the registry."""

    problems: tuple[Problem, ...]
    published: dict[str, float]
    """When each provider published last, in Unix time."""
    swaps: int
    """How often there was a new table."""

    def snapshots(self) -> list[Snapshot]:
        """The state of each provider."""


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes that forward requests."""

    wanted: int
    accepting: int
    """Of those, how many accept connections."""
    lost: int = 0
    """How many have ended that should not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyView:
    """One proxy."""

    registry: PublishedView
    proxy: HoldsTable
    troubles: Callable[[], Mapping[str, str]]
    """Why sources cannot be reached, by name of the provider."""
    unready: Callable[[], str]
    """Why clients had better go elsewhere; empty: they are welcome."""
    questions: Questions
    """Answers those about the table."""
    workers: Callable[[], Workers]
    state_of: report.StateOf | None = None
    """The states of endpoints; None: those in the table."""
    outage_of: report.OutageOf = lambda _: None
    remains_of: report.RemainsOf | None = None
    """None: no requests are forwarded, so that nobody knows."""
    confirmed: Callable[[], Mapping[str, float]] = dict
    """When the sources of providers responded last, in Unix time."""
    checks: Callable[[], Iterable[Problem]] = lambda: ()
    """What is odd about the checks of endpoints."""
    stream: Stream = field(default_factory=Stream)
    """What happens."""
    figures: Figures | None = None
    """None: nothing is counted."""

    config: Callable[[], Iterator[str]] = lambda: iter(("{}",))
    """The configuration in force without its secrets, as JSON in pieces."""
    began: float = field(default_factory=time.time)
    """Unix time in seconds."""

    def status(self) -> report.Json:
        """How the proxy as a whole is."""
        registry, troubles, now = self.registry, self.troubles(), time.time()
        confirmed = {**registry.published, **self.confirmed()}
        snapshots = registry.snapshots()
        problems = self.problems()
        workers = self.workers()
        unready = self.unready()
        services = [service for snapshot in snapshots for service in snapshot.services]
        return {
            "version": __version__,
            "commit": build_info.commit(),
            "began": self.began,
            "uptime": now - self.began,
            "ready": not unready,
            "why": unready,
            "workers": {
                "wanted": workers.wanted,
                "accepting": workers.accepting,
                "lost": workers.lost,
            },
            "providers": [
                {
                    "name": name,
                    "up": name not in troubles,
                    "why": troubles.get(name, ""),
                    "published": (published := registry.published.get(name)),
                    "age": None if published is None else max(0.0, now - confirmed[name]),
                }
                for name in sorted({*(each.provider for each in snapshots), *troubles})
            ],
            "services": len(services),
            "endpoints": sum(len(service.endpoints) for service in services),
            "problems": {
                "errors": sum(problem.fatal for problem in problems) + len(troubles),
                "warnings": sum(not problem.fatal for problem in problems),
            },
            "table_swaps": registry.swaps,
        }

    def problems(self) -> list[Problem]:
        """All that there are."""
        return [*self.registry.problems, *self.checks()]

    def states(self) -> report.StateOf:
        """What endpoints may be used for."""
        return self.state_of or report.states_in(self.proxy.table)

    def inventory(self) -> Inventory:
        """What there is now."""
        services = self.figures.services() if self.figures else {}
        endpoints = self.figures.endpoints() if self.figures else {}
        return Inventory(
            self.registry.snapshots(),
            self.problems(),
            self.states(),
            self.outage_of,
            lambda name: _row(services.get(name)),
            lambda key: _row(endpoints.get(key)),
        )


def _row(figures: ServiceFigures | EndpointFigures | None) -> report.Json | None:
    """Ready for JSON."""
    if figures is None:
        return None
    return {each.name: getattr(figures, each.name) for each in fields(figures)}
