"""What ``stickyproxy top`` shows, drawn with rich: from what was seen to a screen. Pure.

Whatever a proxy says is text and never markup, and what could do something to a terminal is
escaped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stickyproxy.base.text import printable
from stickyproxy.cli.keys import Wish
from stickyproxy.cli.watch import Glance, Seen, total
from stickyproxy.control.report import Json

_FIGURES = {
    "requests": "requests_per_second",
    "errors": "errors_per_second",
    "latency": "p99",
    "sessions": "sessions",
}
GOOD, WARN, BAD, CALM, DIM = "green", "yellow", "bold red", "cyan", "bright_black"
_STYLES = {
    "endpoint-ejected": BAD,
    "provider-lost": BAD,
    "config-refused": BAD,
    "worker-lost": BAD,
    "endpoint-joined": GOOD,
    "endpoint-back": GOOD,
    "provider-back": GOOD,
    "config-reloaded": GOOD,
    "certificate-renewed": GOOD,
    "problem-resolved": GOOD,
    "worker-ready": GOOD,
    "endpoint-draining": CALM,
    "order-given": CALM,
}
"""Of events, by their words: docs/reference/events.md."""
MOST_PROBLEMS, MOST_EVENTS = 3, 6
"""Rows that are kept for them, at most."""
BAR = 16
"""Cells of the widest bar."""


def screen(seen: Seen, wish: Wish, width: int, height: int) -> tuple[RenderableType, Wish]:
    """The screen, and the wish as far as it can be fulfilled."""
    look = seen.look
    if look is None:
        text = printable(seen.lost) if seen.lost else "asking the proxy ..."
        return Group(_header({}, seen), Text(), Text(text, style=BAD if seen.lost else DIM)), wish
    head = [_header(look.status, seen), *_summary(look, seen, width), Text()]
    foot = _foot(look, seen, height)
    rows = list(_rows(look, wish))
    room = max(1, height - len(head) - len(foot) - 3)  # the table's own head, and two lines of keys
    wish = replace(wish, top=max(0, min(wish.top, len(rows) - room)))
    shown = rows[wish.top : wish.top + room]
    below = len(rows) - wish.top - len(shown)
    keys = _keys(wish, below)
    return Group(*head, _table(shown, width), *foot, Text(), keys), wish


def whole(look: Glance, width: int) -> RenderableType:
    """All of it, for paper rather than a screen."""
    seen = Seen(look=look)
    seen.trend.append(total(look.services, "requests_per_second"))
    problems = list(_problems(look.problems, most=len(look.problems)))
    rows = list(_rows(look, Wish()))
    head = [_header(look.status, seen), *_summary(look, seen, width), Text()]
    return Group(*head, _table(rows, width), *([Text(), *problems] if problems else []))


# --- head and foot -------------------------------------------------------------------------------


def _header(status: Json, seen: Seen) -> Text:
    text = Text("stickyproxy", style="bold", no_wrap=True, overflow="ellipsis")
    if status:
        workers = status.get("workers") or {}
        wanted, accepting = workers.get("wanted", 1), workers.get("accepting", 1)
        some = f"{accepting} of {wanted}" if wanted != accepting else str(wanted)
        plural = "" if wanted == 1 else "s"
        version, uptime = status.get("version", ""), span(status.get("uptime", 0))
        about = f"  {version}, up {uptime}, {some} worker{plural}"
        text.append(printable(about), style=DIM)
        for each in status.get("providers") or ():
            if not each["up"]:
                text.append(printable(f"  {each['name']} is out of touch"), style=BAD)
    if seen.lost and seen.look is not None:
        text.append(printable(f"  no answer: {seen.lost}"), style=BAD)
    return text


def _summary(look: Glance, seen: Seen, width: int) -> tuple[Text, Text]:
    endpoints = [each for row in look.services for each in row["endpoints"]]
    usable = sum(each["state"] == "usable" for each in endpoints)
    errors = total(look.services, "errors_per_second")
    text = Text(no_wrap=True, overflow="ellipsis")
    for value, word, style in (
        (number(total(look.services, "requests_per_second")), "req/s", "bold"),
        (number(errors), "err/s", BAD if errors else "bold"),
        (number(total(look.services, "in_flight")), "in flight", "bold"),
        (number(total(look.services, "sessions")), "sessions", "bold"),
        (f"{usable}/{len(endpoints)}", "endpoints", "bold" if usable == len(endpoints) else WARN),
        (str(len(look.problems)), "problems", BAD if look.problems else "bold"),
    ):
        text.append(f"{value} ", style=style)
        text.append(f"{word}   ", style=DIM)
    if width >= 100:
        text.append(sparkline(seen.trend), style=GOOD)
    affinity: dict[str, float] = {}
    for row in look.services:
        for outcome, rate in ((row["figures"] or {}).get("affinity") or {}).items():
            affinity[outcome] = affinity.get(outcome, 0.0) + rate
    below = Text(no_wrap=True, overflow="ellipsis")
    for outcome, rate in sorted(affinity.items(), key=lambda each: -each[1]):
        style = WARN if outcome.startswith("repinned") and rate else DIM
        below.append(f"{printable(outcome)} {number(rate)}   ", style=style)
    return text, below


def _foot(look: Glance, seen: Seen, height: int) -> list[Text]:
    """Problems and events, as many as leave most of the screen to the list."""
    spare = max(0, height - 14) // 2
    problems = list(_problems(look.problems, min(MOST_PROBLEMS, spare // 3)))
    events = list(_events(seen.events, min(MOST_EVENTS, spare - len(problems) - 2)))
    return [*([Text(), *problems] if problems else []), *([Text(), *events] if events else [])]


def _problems(problems: Sequence[Json], most: int) -> Iterator[Text]:
    for each in problems[:most]:
        about = each.get("service") or each.get("certificate") or each.get("provider") or ""
        label = f" {each['label']}" if each.get("label") else ""
        said = f"{about}{label}: {each['reason']}" if about or label else each["reason"]
        style = BAD if each.get("fatal") else WARN
        yield _line(said, style)
        if each.get("remedy"):
            yield Text(f"  {printable(each['remedy'])}", overflow="ellipsis", no_wrap=True)
    if len(problems) > most > 0:
        yield _line(f"and {len(problems) - most} more problems: stickyproxy services", DIM)


def _events(events: Iterable[Json], most: int) -> Iterator[Text]:
    told = [event for event in events if event.get("level") != "debug"]
    for event in told[-most:] if most > 0 else []:
        word = str(event.get("event", ""))
        text = _line(str(event.get("text", word)), _style_of_event(word, event))
        yield Text.assemble((_clock(event.get("time")), DIM), " ", text, no_wrap=True)


def _line(said: str, style: str) -> Text:
    return Text(printable(said), style=style, no_wrap=True, overflow="ellipsis")


def _style_of_event(word: str, event: Json) -> str:
    levels = {"error": BAD, "warning": WARN}
    return _STYLES.get(word) or levels.get(str(event.get("level")), "")


def _clock(when: object) -> str:
    """By the clock of this terminal, as the zone is its user's."""
    moment = time.time()
    if isinstance(when, int | float):
        moment = when
    elif isinstance(when, str):
        try:
            moment = datetime.fromisoformat(when).timestamp()
        except ValueError:
            return "--:--:--"
    return time.strftime("%H:%M:%S", time.localtime(moment))


def _keys(wish: Wish, below: int) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    if wish.typing:
        text.append("search: ", style="bold")
        text.append(printable(wish.search) + "_")
        text.append("   Enter keeps it, Esc ends it", style=DIM)
        return text
    if wish.search:
        text.append(f"only {printable(wish.search)!r}   ", style=CALM)
    if wish.trouble:
        text.append("only in trouble   ", style=CALM)
    for key, does in (
        ("q", "quit"),
        ("/", "search"),
        ("s", f"by {wish.order}"),
        ("e", "endpoints"),
        ("t", "trouble"),
        ("up down", f"{below} more below" if below else "scroll"),
    ):
        text.append(key, style="bold")
        text.append(f" {does}   ", style=DIM)
    return text


# --- the list ------------------------------------------------------------------------------------

Cells = list[Text]


def _rows(look: Glance, wish: Wish) -> Iterator[Cells]:
    words = wish.search.lower().split()
    services = [row for row in look.services if not words or _matches(row, words)]
    if wish.trouble:
        services = [row for row in services if in_trouble(row)]
    figure = _FIGURES.get(wish.order)
    if figure is not None:
        services.sort(key=lambda row: -((row["figures"] or {}).get(figure) or 0))
    for row in services:
        yield _service(row)
        if not wish.folded:
            most = max((_sessions(each) or 0 for each in row["endpoints"]), default=0)
            for each in row["endpoints"]:
                yield _endpoint(each, most)


def _matches(row: Json, words: Iterable[str]) -> bool:
    endpoints = row["endpoints"]
    parts = [row["name"], row["state"], row["policy"] or "", *row["hosts"]]
    parts += [
        str(each[key])
        for each in endpoints
        for key in ("id", "address", "node", "state", "admin_state")
    ]
    text = "\n".join(parts).lower()
    return all(word in text for word in words)


def in_trouble(row: Json) -> bool:
    """Whether somebody had better look after this service."""
    out = any(e["state"] != "usable" and e["admin_state"] == "ready" for e in row["endpoints"])
    errors = (row["figures"] or {}).get("errors_per_second")
    return bool(out or row["problems"] or row["state"] != "published" or errors)


def _service(row: Json) -> Cells:
    figures = row["figures"] or {}
    endpoints = row["endpoints"]
    usable = sum(each["state"] == "usable" for each in endpoints)
    if row["state"] != "published":
        state, style = row["state"], WARN if row["state"].startswith("published") else BAD
    else:
        state = f"{usable} of {len(endpoints)} in use"
        style = GOOD if usable == len(endpoints) else WARN if usable else BAD
    name = Text(printable(row["name"]), style="bold")
    root = row["context_root"] if row["context_root"] not in (None, "/") else ""
    name.append(printable(f"  {', '.join(host + root for host in row['hosts'])}"), style=DIM)
    errors = figures.get("errors_per_second")
    return [
        name,
        Text(printable(state), style=style),
        Text(number(figures.get("requests_per_second"))),
        Text(number(errors), style=BAD if errors else ""),
        Text(number(figures.get("in_flight"))),
        Text(duration(figures.get("p50"))),
        Text(duration(figures.get("p99"))),
        Text(number(figures.get("sessions"))),
        Text(),
    ]


def _endpoint(each: Json, most: float) -> Cells:
    figures = each["figures"] or {}
    tone = style_of(each["state"])
    who = Text(f"  /{each['number']} ", style=DIM)
    who.append(printable(each["address"]), style="")
    if each["node"]:
        who.append(printable(f" on {each['node']}"), style=DIM)
    if each["why"]:
        who.append(printable(f"  {each['why']}"), style=BAD)
    errors, sessions = figures.get("errors_per_second"), _sessions(each)
    return [
        who,
        Text(printable(each["state"]), style=tone),
        Text(number(figures.get("requests_per_second"))),
        Text(number(errors), style=BAD if errors else ""),
        Text(number(figures.get("in_flight"))),
        Text(),
        Text(),
        Text(number(sessions)),
        Text(bar((sessions or 0) / most if most else 0.0), style=tone),
    ]


def _sessions(endpoint: Json) -> float | None:
    return (endpoint["figures"] or {}).get("sessions")


def style_of(state: str) -> str:
    """How the state of an endpoint is coloured."""
    if state == "usable":
        return GOOD
    if state in ("draining", "drain", "maintenance"):
        return CALM
    return WARN if state.startswith("down in ") else BAD


def _table(rows: Iterable[Cells], width: int) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, header_style=DIM)
    wide = width >= 110
    table.add_column("SERVICE", ratio=1, no_wrap=True, overflow="ellipsis", min_width=14)
    most = 26 if wide else 14
    table.add_column("STATE", no_wrap=True, overflow="ellipsis", min_width=8, max_width=most)
    right = ("REQ/S", "ERR/S", "BUSY", "P50", "P99", "SESSIONS")
    narrow = {"BUSY", "P50"} if width < 90 else set()
    for name in right:
        if name not in narrow:
            table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("", width=BAR)
    for cells in rows:
        who, state, *numbers, last = cells
        kept = [cell for name, cell in zip(right, numbers, strict=True) if name not in narrow]
        table.add_row(who, state, *kept, *([last] if wide else []))
    return table


# --- numbers -------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """A figure as a person reads it."""
    if value is None:
        return "-"
    if value >= 1e6:
        return f"{value / 1e6:.1f}M"
    if value >= 1e4:
        return f"{value / 1e3:.1f}k" if value < 1e5 else f"{value / 1e3:.0f}k"
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.05 else "<0.1"


def duration(seconds: float | None) -> str:
    """A short one, with its unit."""
    if seconds is None:
        return "-"
    ms = seconds * 1000
    if ms >= 995:
        return f"{seconds:.1f} s"
    return f"{ms:.0f} ms" if ms >= 9.95 else f"{ms:.1f} ms"


def span(seconds: float) -> str:
    """A long one, in its largest unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def bar(part: float) -> str:
    """A bar for a part from 0 to 1, in eighths of a cell."""
    eighths = round(max(0.0, min(part, 1.0)) * BAR * 8)
    whole_cells, rest = divmod(eighths, 8)
    return "█" * whole_cells + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def sparkline(values: Sequence[float] | Iterable[float]) -> str:
    """A small chart."""
    values = list(values)
    most = max(values, default=0.0)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * value / most) if most else 0] for value in values[-30:])
