"""CONTROL: what the proxies of a controller say of themselves, added up.

Each proxy reports over the channel on which it follows the controller (``Controller``, POST
/v1/report), so nobody has to be able to reach it. A report is a JSON object:

    name       the host name of the proxy
    now        its monotonic clock, in seconds
    emptying   whether operators want endpoints to be empty
    remains    what those still have, as far as it is known, as ``written`` has it
    services   the rows of GET /v1/services; only if they are wanted

The answer says when the next one is expected (``again``, seconds) and whether services are wanted:
they are while somebody asks the controller, and a minute longer.

Figures are sums over proxies: a client that meets several is a session at each. The quantiles of
all requests lie between those of the proxies, of which the highest is told.
"""

from __future__ import annotations

import math
import sys
import zlib
from array import array
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from stickyproxy.control import report
from stickyproxy.control.report import Json
from stickyproxy.model.service import EndpointKey, EndpointSpec
from stickyproxy.routing.sessions import CELLS, Remains, Sessions, merged

IDLE_SECONDS = 10.0
"""Between two reports while nobody asks."""
ASKED_SECONDS = 2.0
"""While somebody does."""
EMPTYING_SECONDS = 1.0
"""And while endpoints are to become empty."""
PATIENCE_SECONDS = 60.0
"""If nobody has asked for so long, nobody does."""
FRESH_SECONDS = 15.0
"""What a proxy said longer ago is not told any more."""

_WIDTH = 8  # bytes of a cell
_HIGHEST = frozenset(("p50", "p99"))


@dataclass(frozen=True, slots=True)
class _Told:
    """What a proxy said last."""

    when: float
    name: str
    version: str
    """Of the snapshot that it had in force."""
    emptying: bool
    remains: Mapping[EndpointKey, Remains]
    services: Mapping[str, Json]
    endpoints: Mapping[EndpointKey, Json]


class Fleet:
    """The proxies of one controller."""

    def __init__(
        self,
        proxies: Callable[[], Collection[str]],
        version: Callable[[], str],
        clock: Callable[[], float] = monotonic,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """``proxies``: the ids of those that follow. ``version``: of the latest snapshot.
        ``clock``: in seconds. ``wake`` is called when somebody asks again after a while."""
        self._wake = wake
        self._proxies = proxies
        self._version = version
        self._clock = clock
        self._reports: dict[str, _Told] = {}
        self._asked = -math.inf

    def take(self, proxy: str, version: str, said: object) -> Json:
        """A report, and what is answered to it. Raises ValueError for what is none."""
        now = self._clock()
        try:
            found = self._reports[proxy] = _parsed(said, version, now)
        except (KeyError, TypeError, AttributeError, OverflowError, zlib.error) as error:
            raise ValueError(f"this is not a report: {error!r}") from error
        following = self._proxies()
        self._reports = {key: self._reports[key] for key in self._reports if key in following}
        wanted = self.wanted
        again = EMPTYING_SECONDS if found.emptying else ASKED_SECONDS if wanted else IDLE_SECONDS
        return {"again": again, "services": wanted}

    @property
    def wanted(self) -> bool:
        """Whether reports are to have services."""
        return self._clock() - self._asked < PATIENCE_SECONDS

    def ask(self) -> None:
        """Somebody wants to know."""
        slept = not self.wanted
        self._asked = self._clock()
        if slept:
            self._wake()

    def forget_remains(self) -> None:
        """Orders have changed: what was left under earlier ones says nothing."""
        for proxy, said in self._reports.items():
            self._reports[proxy] = replace(said, remains={})

    def remains_of(self, key: EndpointKey) -> Remains | None:
        """As all proxies see it; None: not all of them have told yet."""
        version, following = self._version(), self._proxies()
        told = []
        for proxy in following:
            said = self._fresh(proxy)
            if said is None or said.version != version or key not in said.remains:
                return None
            told.append(said.remains[key])
        return merged(told) if told else None

    def state_of(self, service: str, spec: EndpointSpec) -> str:
        """The state of an endpoint as the proxies see it; as it is declared, if none has told."""
        states = Counter(str(row["state"]) for row in self._rows_of((service, spec.id)))
        if len(states) == 1:
            return next(iter(states))
        odd = {state: count for state, count in states.items() if state != "usable"}
        if not odd:
            return report.declared_state(service, spec)
        worst = max(odd, key=lambda state: (odd[state], state))
        return f"{worst} in {odd[worst]} of {states.total()} proxies"

    def figures_of(self, name: str) -> Json | None:
        """What goes on at a service at all proxies; None: nobody has told."""
        rows = (said.services.get(name) for said in self._all_fresh())
        return added(row["figures"] for row in rows if row is not None)

    def figures_at(self, key: EndpointKey) -> Json | None:
        """The same of an endpoint."""
        return added(row["figures"] for row in self._rows_of(key))

    def rows(self) -> list[Json]:
        """The proxies that follow, ready for JSON."""
        now, latest = self._clock(), self._version()
        rows = []
        for proxy in sorted(self._proxies()):
            said = self._reports.get(proxy)
            rows.append(
                {
                    "id": proxy,
                    "name": None if said is None else said.name,
                    "told": None if said is None else round(now - said.when, 3),
                    "in_step": said is not None and said.version == latest,
                }
            )
        return rows

    def _fresh(self, proxy: str) -> _Told | None:
        said = self._reports.get(proxy)
        return said if said is not None and self._clock() - said.when < FRESH_SECONDS else None

    def _all_fresh(self) -> list[_Told]:
        return [said for each in self._proxies() if (said := self._fresh(each)) is not None]

    def _rows_of(self, key: EndpointKey) -> list[Json]:
        return [said.endpoints[key] for said in self._all_fresh() if key in said.endpoints]


def added(figures: Iterable[Json | None]) -> Json | None:
    """Figures of several proxies as one; None: none of them knows."""
    known = [each for each in figures if each is not None]
    if not known:
        return None
    names = dict.fromkeys(name for each in known for name in each)
    return {name: _together(name, [each.get(name) for each in known]) for name in names}


def _together(name: str, values: Sequence[Any]) -> Any:
    there = [each for each in values if each is not None]
    if not there:
        return None
    if isinstance(there[0], Mapping):
        total: Counter[str] = Counter()
        for each in there:
            total.update(each)
        return dict(total)
    return max(there) if name in _HIGHEST else sum(there)


# --- reports ----------------------------------------------------------------------------------


def written(key: EndpointKey, remains: Remains) -> Json:
    """What an endpoint still has, as reports have it."""
    service, identity = key
    cells = array("q", remains.sessions.cells)
    if sys.byteorder == "big":
        cells.byteswap()
    return {
        "service": service,
        "id": identity,
        "began": remains.sessions.began,
        "cells": b64encode(zlib.compress(cells.tobytes(), 1)).decode(),
        "busy": remains.busy,
    }


def _read(row: Json, ahead: float) -> tuple[EndpointKey, Remains]:
    """``ahead``: seconds that our clock is ahead of the sender's."""
    packed = zlib.decompressobj().decompress(b64decode(row["cells"]), _WIDTH * CELLS + 1)
    cells = array("q", packed)
    if len(cells) != CELLS:
        raise ValueError("this is not a report: it has another number of cells")
    if sys.byteorder == "big":
        cells.byteswap()
    shift = math.ceil(ahead)  # rather too late than too early
    sessions = Sessions(float(row["began"]) + ahead)
    sessions.cells = array("q", [seen + shift if seen else 0 for seen in cells])
    return (str(row["service"]), str(row["id"])), Remains(sessions, int(row["busy"]))


def _parsed(said: Any, version: str, now: float) -> _Told:
    ahead = now - float(said["now"])
    services = {str(row["name"]): row for row in said.get("services") or ()}
    return _Told(
        now,
        str(said["name"]),
        version,
        bool(said["emptying"]),
        dict(_read(row, ahead) for row in said["remains"]),
        services,
        {
            (name, str(endpoint["id"])): endpoint
            for name, row in services.items()
            for endpoint in row["endpoints"]
        },
    )
