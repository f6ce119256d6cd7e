"""CONTROL: how much goes on right now, of what is counted: for the Admin API and the page.

Counters are looked at once a second, and rates are those of the last ten seconds. Nobody looks at
them while nobody asks: that ends a minute after the last question and begins with the next one,
whose answer is empty; ``Figures.ready`` waits for there to be one.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from operator import sub
from time import monotonic
from typing import TypeVar

from stickyproxy.base import visitors
from stickyproxy.model.metrics import Counts, Layout
from stickyproxy.model.service import EndpointKey

LOOK_SECONDS = 1.0
"""Between two looks at the counters."""
SPAN_SECONDS = 10.0
"""What rates and quantiles are of."""
AT_A_STRETCH = 50
"""Estimates that are made before others have their turn."""
PATIENCE_SECONDS = 60.0
"""If nobody has asked for so long, nobody looks."""

SESSIONS_SECONDS = 5.0
"""How long an estimate of sessions is good for."""

Layouts = tuple[Layout, Layout]
"""Of the rows of services, and of those of endpoints."""


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """What goes on at a service."""

    requests_per_second: float
    """That have ended."""
    errors_per_second: float
    """Of those, that were answered with a 5xx, or whose response was cut by its endpoint."""
    in_flight: int
    """Requests that an endpoint has now, upgraded connections included."""
    p50: float | None
    """Seconds that half of the requests took at most; None: there were none."""
    p99: float | None
    """The same for 99 of 100."""
    sessions: int | None
    """How many clients have sent something within the session window: an estimate; None: it is not
    known."""
    affinity: Mapping[str, float]
    """Requests per second by how affinity was decided, those that there were."""
    bytes_in_per_second: float
    """Of bodies of requests."""
    bytes_out_per_second: float
    """Of bodies of responses."""


@dataclass(frozen=True, slots=True)
class EndpointFigures:
    """What goes on at an endpoint."""

    requests_per_second: float
    """That it was given and that have ended."""
    errors_per_second: float
    """Of those, that it failed."""
    in_flight: int
    """Requests that it has now, upgraded connections included."""
    sessions: int | None
    """As for a service."""


@dataclass(frozen=True, slots=True)
class _Look:
    """The counters at one moment."""

    when: float
    """By the monotonic clock."""
    counts: Counts


class Figures:
    """Of one proxy. To be used in the thread of the event loop."""

    def __init__(
        self,
        layouts: Layouts,
        counts: Callable[[], Awaitable[Counts]],
        *,
        window: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``counts``: what was counted, by these layouts. ``window``: seconds within which clients
        are counted. ``clock``: in seconds, monotonic."""
        self._layout, self._endpoint_layout = layouts
        self._counts = counts
        self._window = window
        self._clock = clock
        self._looks: deque[_Look] = deque(maxlen=round(SPAN_SECONDS / LOOK_SECONDS) + 1)
        self._asked = 0.0
        """When somebody asked last."""
        self._started = False
        self._looking: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._sessions_at = -inf
        self._sessions: dict[EndpointKey, int] = {}
        """Clients as they were estimated then; by service alone the id is empty."""

    def start(self) -> None:
        """From now on counters are looked at if somebody asks. Inside a running event loop."""
        self._started = True

    def stop(self) -> None:
        """Look no more."""
        self._started = False
        if self._looking is not None:
            self._looking.cancel()
        self._forget()

    async def ready(self) -> None:
        """Wait until there is something to tell, for about a second if nobody asked lately."""
        self._ask()
        if self._started:
            await self._ready.wait()

    def services(self) -> Mapping[str, ServiceFigures]:
        """By service; none if nobody asked lately, and none of services that never had a request.
        The empty name is that of requests that asked for no service."""
        self._ask()
        if len(self._looks) < 2:
            return {}
        first, last = self._looks[0], self._looks[-1]
        self._estimate(last)
        seconds = last.when - first.when or LOOK_SECONDS
        in_flight: Counter[str] = Counter()
        cell = self._endpoint_layout.cells_of("stickyproxy_endpoint_requests_in_flight")[0]
        for (service, _), cells in last.counts.endpoints.items():
            in_flight[service] += cells[cell]
        services, before = last.counts.services, first.counts.services
        return _Asked(
            services,
            lambda name: self._service(
                name, before.get(name), services[name], seconds, in_flight[name]
            ),
        )

    def endpoints(self) -> Mapping[EndpointKey, EndpointFigures]:
        """By service and id; none where ``services`` has none. Those that there was no row left for
        are together, under a key without a service."""
        self._ask()
        if len(self._looks) < 2:
            return {}
        first, last = self._looks[0], self._looks[-1]
        self._estimate(last)
        seconds = last.when - first.when or LOOK_SECONDS
        endpoints, before = last.counts.endpoints, first.counts.endpoints
        return _Asked(
            endpoints,
            lambda key: self._endpoint(key, before.get(key), endpoints[key], seconds),
        )

    def look(self, counts: Counts) -> None:
        """Take note of what was counted up to now."""
        self._looks.append(_Look(self._clock(), counts))
        if len(self._looks) > 1:
            self._ready.set()

    def _ask(self) -> None:
        """Somebody has asked."""
        self._asked = self._clock()
        if self._started and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._keep_looking(), name="figures")

    async def _keep_looking(self) -> None:
        """Until nobody has asked for a while."""
        self._forget()
        while self._clock() - self._asked <= PATIENCE_SECONDS:
            counts = await self._counts()
            for count, _ in enumerate(self._estimates(_Look(self._clock(), counts))):
                if count % AT_A_STRETCH == 0:
                    await asyncio.sleep(0)
            self.look(counts)
            await asyncio.sleep(LOOK_SECONDS)
        self._forget()

    def _forget(self) -> None:
        self._looks.clear()
        self._ready.clear()

    def _estimate(self, look: _Look) -> None:
        """How many clients there are."""
        for _ in self._estimates(look):
            pass

    def _estimates(self, look: _Look) -> Iterator[None]:
        """The same step by step, if that was not found out just now: it takes longer than all the
        rest."""
        if look.when - self._sessions_at < SESSIONS_SECONDS:
            return
        page = visitors.page_at(look.when, self._window)
        of_services: dict[str, list[bytes]] = {}
        sessions: dict[EndpointKey, int] = {}
        for key, several in look.counts.clients.items():
            sessions[key] = visitors.estimate(several, page)
            of_services.setdefault(key[0], []).extend(several)
            yield
        for service, several in of_services.items():
            sessions[service, ""] = visitors.estimate(several, page)
            yield
        self._sessions_at, self._sessions = look.when, sessions

    def _endpoint(
        self, key: EndpointKey, before: Sequence[int] | None, now: Sequence[int], seconds: float
    ) -> EndpointFigures:
        """Of one endpoint: its cells then and now. If its row was another's in between, it is as if
        it had begun with nothing."""
        layout = self._endpoint_layout

        def cell(family: str, cells: Sequence[int]) -> int:
            return cells[layout.cells_of(f"stickyproxy_endpoint_{family}")[0]]

        def per_second(family: str) -> float:
            was = 0 if before is None else cell(family, before)
            return max(0, cell(family, now) - was) / seconds

        return EndpointFigures(
            requests_per_second=per_second("requests"),
            errors_per_second=per_second("failures"),
            in_flight=cell("requests_in_flight", now),
            sessions=self._sessions.get(key),
        )

    def _service(
        self,
        name: str,
        before: Sequence[int] | None,
        now: Sequence[int],
        seconds: float,
        in_flight: int,
    ) -> ServiceFigures:
        """Of one service: its cells then and now."""
        layout = self._layout
        new = list(now if before is None else map(sub, now, before))

        def some(family: str, *values: str) -> int:
            return sum(new[cell] for cell in layout.cells_of(f"stickyproxy_{family}", values))

        affinity = layout.family("stickyproxy_affinity_outcomes").values
        decided = ((word, some("affinity_outcomes", word)) for word in affinity)
        durations = layout.family("stickyproxy_request_duration_seconds")
        start = layout.start(durations)
        counts = new[start : start + len(durations.values)]
        bounds = tuple(map(float, durations.values))
        return ServiceFigures(
            requests_per_second=some("requests") / seconds,
            errors_per_second=(some("requests", "5xx") + some("cut_responses")) / seconds,
            in_flight=in_flight,
            p50=quantile(0.5, bounds, counts),
            p99=quantile(0.99, bounds, counts),
            sessions=self._sessions.get((name, "")),
            affinity={word: count / seconds for word, count in decided if count},
            bytes_in_per_second=some("request_body_bytes") / seconds,
            bytes_out_per_second=some("response_body_bytes") / seconds,
        )


K = TypeVar("K")
V = TypeVar("V")


class _Asked(Mapping[K, V]):
    """Values that are made when they are asked for: there may be thousands of them, and between two
    of them others have their turn."""

    def __init__(self, keys: Mapping[K, object], make: Callable[[K], V]) -> None:
        self._keys = keys
        self._make = make

    def __getitem__(self, key: K) -> V:
        if key not in self._keys:
            raise KeyError(key)
        return self._make(key)

    def __iter__(self) -> Iterator[K]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """The value that this share of all is at most, as Prometheus estimates it: evenly spread within
    a bucket, and no more than the last bound but one, since the last is infinite. None: there are
    none. ``counts``: in each bucket by itself."""
    total = sum(counts)
    if not total:
        return None
    rank = share * total
    lower = 0.0
    for bound, count, upto in zip(bounds, counts, accumulate(counts), strict=True):
        if upto >= rank and count:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (rank - (upto - count)) / count
        lower = bound
    raise AssertionError("the buckets have no end")
