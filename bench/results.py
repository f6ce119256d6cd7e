"""What the speed lab found: samples, ratios, and the tables and the chart made of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

from bench.load import Load


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one contender."""

    load: Load
    cpu_seconds: float
    """User and system time of all processes of the proxy."""

    @property
    def cpu(self) -> float:
        """Microseconds of CPU for each request."""
        return self.cpu_seconds / self.load.requests * 1e6 if self.load.requests else 0.0


@dataclass(slots=True)
class Row:
    """A contender under one workload."""

    name: str
    samples: list[Sample] = field(default_factory=list)
    peak_kib: int = 0
    idle_clients: int = 0
    idle_failures: int = 0
    idle_kib: float = 0.0
    """Memory for each idle client."""
    absent: str = ""
    """Why there is nothing else to say."""

    def median(self, value: Callable[[Sample], float]) -> float:
        return statistics.median(value(sample) for sample in self.samples)

    @property
    def failures(self) -> int:
        return self.idle_failures + sum(sample.load.failures for sample in self.samples)


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, median and largest of several."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(min(values), statistics.median(values), max(values))

    def __str__(self) -> str:
        return f"{self.low:.2f} / **{self.middle:.2f}** / {self.high:.2f}"


@dataclass(slots=True)
class Table:
    """All contenders under one workload; the first row is what the others are compared with."""

    key: str
    title: str
    why: str
    variants: bool = False
    """The rows are variants of stickyproxy, each to be divided by the first one; else they are
    proxies, and the first one, which is ours, is divided by each."""
    rows: list[Row] = field(default_factory=list)

    def ratio(self, row: Row, value: Callable[[Sample], float]) -> Spread | None:
        """Round by round, so that what disturbed the machine disturbed both."""
        first = self.rows[0]
        above, below = (row, first) if self.variants else (first, row)
        pairs = [
            (value(one), value(other))
            for one, other in zip(above.samples, below.samples, strict=False)
        ]
        ratios = [one / other for one, other in pairs if one and other]
        return Spread.of(ratios) if ratios and row is not first else None


def cpu(sample: Sample) -> float:
    return sample.cpu


def p99(sample: Sample) -> float:
    return sample.load.p99


# --- Markdown -------------------------------------------------------------------------------


def markdown(
    title: str, tables: Sequence[Table], about: Sequence[str], summary: Sequence[str]
) -> str:
    """The whole report."""
    lines = [f"# {title}", "", *about, "", *_READING, "", *overview(tables), "", *summary]
    for table in tables:
        lines += ["", f"## {table.title}", "", f"Why: {table.why}.", ""]
        idle = any(row.idle_clients for row in table.rows)
        lines += _idle_table(table) if idle else _load_table(table)
    return "\n".join(lines) + "\n"


def overview(tables: Sequence[Table]) -> list[str]:
    """One line for each workload that all proxies get: CPU of stickyproxy to that of each."""
    compared = [table for table in tables if not table.variants and table.rows[0].samples]
    if not compared:
        return []
    peers = [row.name for row in compared[0].rows[1:]]
    lines = [
        "## CPU per request: stickyproxy to each peer",
        "",
        f"| | {' | '.join(peers)} |",
        "|---|" + "--:|" * len(peers),
    ]
    for table in compared:
        spreads = [table.ratio(row, cpu) for row in table.rows[1:]]
        cells = [f"{spread.middle:.2f}" if spread else "-" for spread in spreads]
        lines.append(f"| {table.title} | {' | '.join(cells)} |")
    return lines


_READING = [
    "Every proxy runs on core 0 with one worker thread, the load generator and the endpoints on",
    "core 1. CPU is user and system time of all processes of the proxy. Runs are interleaved and",
    "repeated; figures are medians, ratios are smallest / **median** / largest over the rounds.",
    "The load is closed: where the load generator is the bottleneck, requests/s say little, and",
    "CPU per request is what counts.",
]


def _load_table(table: Table) -> list[str]:
    versus = "to the first" if table.variants else "of stickyproxy to it"
    lines = [
        "| | CPU us/request | requests/s | p50 ms | p99 ms | p99.9 ms | slowest ms | failures "
        f"| peak MiB | CPU {versus} | p99 {versus} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in table.rows:
        if not row.samples:
            lines.append(f"| {row.name} | {row.absent} |" + " |" * 9)
            continue
        loads = [sample.load for sample in row.samples]
        cells = [
            f"{row.median(cpu):.1f}",
            f"{row.median(lambda sample: sample.load.rate):,.0f}",
            f"{row.median(lambda sample: sample.load.p50):.2f}",
            f"{row.median(p99):.2f}",
            f"{row.median(lambda sample: sample.load.p999):.2f}",
            f"{max(load.slowest for load in loads):.0f}",
            f"{row.failures}",
            f"{row.peak_kib / 1024:.0f}",
            str(table.ratio(row, cpu) or ""),
            str(table.ratio(row, p99) or ""),
        ]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return lines


def _idle_table(table: Table) -> list[str]:
    lines = ["| | clients | KiB each | failures | peak MiB |", "|---|--:|--:|--:|--:|"]
    for row in table.rows:
        if row.absent:
            lines.append(f"| {row.name} | {row.absent} | | | |")
            continue
        lines.append(
            f"| {row.name} | {row.idle_clients:,} | {row.idle_kib:.1f} | {row.failures} "
            f"| {row.peak_kib / 1024:.0f} |"
        )
    return lines


# --- JSON -----------------------------------------------------------------------------------


def as_json(table: Table) -> dict[str, object]:
    """All samples, for those who want to compute something else."""
    return {
        "workload": table.key,
        "title": table.title,
        "rows": [
            {
                "name": row.name,
                "absent": row.absent or None,
                "cpu_us": [round(sample.cpu, 2) for sample in row.samples],
                "requests_per_second": [round(sample.load.rate, 1) for sample in row.samples],
                "p50_ms": [sample.load.p50 for sample in row.samples],
                "p99_ms": [sample.load.p99 for sample in row.samples],
                "p999_ms": [sample.load.p999 for sample in row.samples],
                "slowest_ms": [sample.load.slowest for sample in row.samples],
                "failures": row.failures,
                "peak_kib": row.peak_kib,
                "idle_clients": row.idle_clients,
                "idle_kib_each": round(row.idle_kib, 2),
            }
            for row in table.rows
        ],
    }


# --- the chart ------------------------------------------------------------------------------

CHARTED = ("cookie", "10k", "1m", "upload-64k")
_WIDTH, _LEFT, _RIGHT, _BAR, _GAP = 760, 130, 90, 17, 5


def chart(tables: Sequence[Table]) -> str:
    """Bars of CPU per request, one panel for each of the charted workloads."""
    panels = [table for table in tables if table.key in CHARTED]
    parts: list[str] = []
    top = 46
    for table in panels:
        parts += _panel(table, top)
        top += 40 + len(_measured(table)) * (_BAR + _GAP)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" '
            f'font-family="system-ui, sans-serif" font-size="13" role="img" '
            'aria-label="CPU microseconds per request of each proxy">',
            '<rect width="100%" height="100%" rx="6" fill="#ffffff"/>',
            '<text x="16" y="27" font-size="16" font-weight="600" fill="#1f2328">'
            "CPU per request, microseconds (shorter is better)</text>",
            *parts,
            "</svg>",
            "",
        ]
    )


def _measured(table: Table) -> list[Row]:
    return sorted((row for row in table.rows if row.samples), key=lambda row: row.median(cpu))


def _panel(table: Table, top: int) -> list[str]:
    rows = _measured(table)
    if not rows:
        return []
    longest = max(row.median(cpu) for row in rows)
    parts = [
        f'<text x="16" y="{top + 14}" font-weight="600" fill="#1f2328">{escape(table.title)}</text>'
    ]
    for number, row in enumerate(rows):
        y = top + 24 + number * (_BAR + _GAP)
        value = row.median(cpu)
        width = max(1, round(value / longest * (_WIDTH - _LEFT - _RIGHT)))
        ours = row is table.rows[0]
        label = (
            f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end" fill="#1f2328" '
            f'font-weight="{600 if ours else 400}">{escape(row.name)}</text>'
        )
        bar = (
            f'<rect x="{_LEFT}" y="{y}" width="{width}" height="{_BAR}" rx="2" '
            f'fill="{"#0969da" if ours else "#afb8c1"}"/>'
        )
        figure = (
            f'<text x="{_LEFT + width + 6}" y="{y + 13}" fill="#57606a">'
            f"{value:.{1 if value < 100 else 0}f}</text>"
        )
        parts += [label, bar, figure]
    return parts
