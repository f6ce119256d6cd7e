"""CONTROL: what the admin listener may ask of its proxy, whether that is one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from stickyproxy.control import report
from stickyproxy.control.inventory import Figures, Inventory, NoFigures
from stickyproxy.control.questions import Questions
from stickyproxy.control.registry import HoldsTable
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
    checks: Callable[[], Iterable[Problem]] = lambda: ()
    """What is odd about the checks of endpoints."""
    figures: Figures = field(default_factory=NoFigures)

    def problems(self) -> list[Problem]:
        """All that there are."""
        return [*self.registry.problems, *self.checks()]

    def inventory(self) -> Inventory:
        """What there is now."""
        return Inventory(
            self.registry.snapshots(),
            self.problems(),
            self.state_of or report.states_in(self.proxy.table),
            self.outage_of,
            self.figures,
        )
