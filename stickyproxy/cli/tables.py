"""What the commands print on a terminal: tables, drawn with rich. Elsewhere, and for programs, they
print plain text or JSON.

Whatever a proxy says is text and never markup, and what could do something to a terminal is
escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from stickyproxy.base.text import printable
from stickyproxy.control.questions import endpoint_name, explained

Json = Mapping[str, Any]

_STYLES = {
    "usable": "green",
    "published": "green",
    "fulfilled": "green",
    "forwarded": "green",
    "draining": "yellow",
    "maintenance": "yellow",
    "drain": "yellow",
    "refused": "bold red",
    "down": "bold red",
    "no endpoint": "bold red",
    "no route": "bold red",
    "not published": "bold red",
    "not reachable": "bold red",
    "out of touch": "bold red",
}
MOST = 20
"""Rows of a table that may be long."""


def show(drawn: RenderableType) -> None:
    """Print it."""
    Console(file=sys.stdout, highlight=False).print(drawn)


def services(rows: Iterable[Json]) -> RenderableType:
    """What ``stickyproxy services`` prints."""
    rows = list(rows)
    table = _table("service", "state", "hosts", "policy", "endpoints")
    for row in rows:
        root = row.get("context_root", "/")
        hosts = [host if root == "/" else host + root for host in row.get("hosts", ())]
        table.add_row(
            _text(row["service"]),
            _state(row["state"]),
            _text("\n".join(hosts)),
            _text(row.get("policy", "")),
            _endpoints(row.get("endpoints", ())),
        )
    if not rows:
        table.add_row(_text("(no services)"))
    return Group(table, *_problems(rows))


def _endpoints(endpoints: Sequence[Json]) -> Text:
    usable = sum(each["state"] == "usable" for each in endpoints)
    found = _text(f"{usable}/{len(endpoints)} usable")
    for each in endpoints[:MOST]:
        found.append("\n").append_text(_text(each["address"])).append(" ")
        found.append_text(_state(each["state"]))
        if why := each.get("reason"):
            found.append_text(_text(f": {why}"))
    if len(endpoints) > MOST:
        found.append(f"\nand {len(endpoints) - MOST} more")
    return found


def _problems(rows: Iterable[Json]) -> Iterator[RenderableType]:
    """Below the table, each with what mends it, which can be copied from there."""
    for row in rows:
        for problem in row["problems"]:
            about = " ".join(part for part in (problem["label"], problem["reason"]) if part)
            word, style = ("error", "bold red") if problem["fatal"] else ("warning", "yellow")
            yield Text.assemble((word, style), f" {printable(row['service'])}: {printable(about)}")
            if problem["remedy"]:
                yield Text.assemble(("  try ", "bright_black"), printable(problem["remedy"]))


def explanation(said: Json) -> RenderableType:
    """What ``stickyproxy explain`` prints."""
    head, *rest = explained(said)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bright_black", no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in rest:
        table.add_row(_text(name.removesuffix(":")), _text(words))
    style = _STYLES.get(str(said["fate"]), "yellow")
    return Group(Text(printable(head[1]), style=f"{style} bold"), table)


def simulation(said: Json) -> RenderableType:
    """What ``stickyproxy simulate`` prints."""
    drawn: list[RenderableType] = []
    for row in said["services"]:
        drawn += _simulated(row, said["sessions"])
    return Group(*drawn) if drawn else _text("nothing changes")


def _simulated(row: Json, sessions: int) -> Iterator[RenderableType]:
    what = f"no sessions that could move, {sessions} requests"
    if row["affinity"]:
        what = f"{row['moved']} of {sessions} sessions move ({row['moved'] / sessions:.1%})"
    yield Text(printable(f"{row['service']}: {what}"), style="bold")
    yield Text(printable(row["policy"]), style="bright_black")
    table = _table("endpoint", "before", "after", "new ones", "change", right=(1, 2, 3))
    for each in row["endpoints"]:
        table.add_row(
            _text(endpoint_name(each)),
            str(each["before"]),
            str(each["after"]),
            str(each.get("new", "")),
            _text(each["change"] or ""),
        )
    yield table
    if not row["moves"]:
        return
    moves = _table("sessions", "move from", "to", right=(0,))
    for move in row["moves"][:MOST]:
        to = "nobody: no endpoint is left" if move["to"] is None else endpoint_name(move["to"])
        moves.add_row(str(move["sessions"]), _text(endpoint_name(move["from"])), _text(to))
    if len(row["moves"]) > MOST:
        moves.add_row("", _text(f"and between {len(row['moves']) - MOST} more pairs (--json)"))
    yield moves


def upkeep(document: Json) -> RenderableType:
    """What ``stickyproxy drain`` prints."""
    table = _table(
        *("endpoint", "address", "node", "wanted", "sessions", "under way", "quiet", ""),
        right=(4, 5, 6),
    )
    for each in document["endpoints"]:
        quiet = each["quiet"]
        table.add_row(
            _text(f"{each['service']}/{each['id']}"),
            _text("" if each["address"] == each["id"] else each["address"]),
            _text(each["node"]),
            _state(each["admin_state"]),
            *("" if each[name] is None else str(each[name]) for name in ("sessions", "busy")),
            "" if quiet is None else f"{quiet:.0f} s",
            Text("empty", style="green") if each["empty"] else "",
        )
    return table


def _table(*columns: str, right: Sequence[int] = ()) -> Table:
    table = Table(box=None, header_style="bright_black", padding=(0, 2, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place in right else "left", overflow="fold")
    return table


def _text(words: object) -> Text:
    """As it is, but for what could do something to a terminal."""
    return Text("\n".join(printable(line) for line in str(words).split("\n")))


def _state(words: object) -> Text:
    text = _text(words)
    text.stylize(next((_STYLES[key] for key in _STYLES if str(words).startswith(key)), ""))
    return text
