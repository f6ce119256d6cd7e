"""What is counted: families of numbers, each with a name and a line of help, and where their cells
are in a row.

A row belongs to a service, and has the same cells whoever counts or reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stickyproxy.model.service import EndpointKey

Kind = Literal["counter", "gauge", "histogram"]

MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Family:
    """Numbers of one kind, as Prometheus has them."""

    name: str
    """Without the suffix of its kind."""
    help: str
    kind: Kind = "counter"
    label: str = ""
    """What its values differ by, besides the service; empty: it has one value."""
    values: tuple[str, ...] = ("",)
    """Of the label; of a histogram the upper bounds of its buckets, ``+Inf`` at last."""
    per_service: bool = True
    """False: of the process, in the row without a service."""
    sparse: bool = False
    """Values that are zero are not shown."""

    @property
    def cells(self) -> int:
        """How many it takes. A histogram has one for each bucket, which are not cumulative here,
        and one for the sum in microseconds."""
        return len(self.values) + (self.kind == "histogram")


@dataclass(frozen=True, slots=True)
class Counts:
    """What all processes have counted, added up."""

    services: Mapping[str, Sequence[int]]
    """Rows by service."""
    endpoints: Mapping[EndpointKey, Sequence[int]]
    """Rows by service and id; the one without a service has all that there was no row left for."""
    clients: Mapping[EndpointKey, Sequence[bytes]]
    """Those that have shown up there, as each process has seen them: see ``base.visitors``."""


class Layout:
    """Where the cells of families are in a row."""

    def __init__(self, families: Iterable[Family]) -> None:
        self.families = tuple(families)
        self.width = 0
        """Cells of a row."""
        self._starts: dict[str, int] = {}
        for family in self.families:
            self._starts[family.name] = self.width
            self.width += family.cells

    def start(self, family: Family) -> int:
        """The first cell of a family."""
        return self._starts[family.name]

    def family(self, name: str) -> Family:
        """The family of that name."""
        return next(family for family in self.families if family.name == name)

    def cells_of(self, name: str, values: Iterable[str] = ()) -> tuple[int, ...]:
        """The cells of a family for these values of its label; none given: for all of them."""
        family = self.family(name)
        return tuple(self.cell(family, value) for value in tuple(values) or family.values)

    def cell(self, family: Family, value: str = "") -> int:
        """The cell for this value of the label."""
        return self.start(family) + family.values.index(value)
