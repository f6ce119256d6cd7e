"""CONTROL: how much goes on right now, of what is counted: for the Admin API and the page.

Counters are looked at once a second, and rates are those of the last ten seconds. Nobody looks at
them while nobody asks: that ends a minute after the last question and begins with the next one,
whose answer is empty; ``Figures.ready`` waits for there to be one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import sub
from time import monotonic

from stickyproxy.model.metrics import Layout
from stickyproxy.model.service import EndpointKey

LOOK_SECONDS = 1.0
"""Between two looks at the counters."""
SPAN_SECONDS = 10.0
"""What rates and quantiles are of."""
PATIENCE_SECONDS = 60.0
"""If nobody has asked for so long, nobody looks."""

Totals = Mapping[str, Sequence[int]]
"""What was counted by all processes, by service."""


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
    totals: Totals


class Figures:
    """Of one proxy. To be used in the thread of the event loop."""

    def __init__(
        self,
        layout: Layout,
        totals: Callable[[], Totals],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``totals``: what was counted, by ``layout``. ``clock``: in seconds."""
        self._layout = layout
        self._totals = totals
        self._clock = clock
        self._looks: deque[_Look] = deque(maxlen=round(SPAN_SECONDS / LOOK_SECONDS) + 1)
        self._asked = 0.0
        """When somebody asked last."""
        self._started = False
        self._timer: asyncio.TimerHandle | None = None
        self._ready = asyncio.Event()

    def start(self) -> None:
        """From now on counters are looked at if somebody asks. Inside a running event loop."""
        self._started = True

    def stop(self) -> None:
        """Look no more."""
        self._started = False
        self._sleep()

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
        seconds = last.when - first.when or LOOK_SECONDS
        return {
            name: self._service(first.totals.get(name), cells, seconds)
            for name, cells in last.totals.items()
        }

    def endpoints(self) -> Mapping[EndpointKey, EndpointFigures]:
        """By service and id; none where ``services`` has none."""
        self._ask()
        return {}

    def look(self) -> None:
        """Look at the counters."""
        self._looks.append(_Look(self._clock(), self._totals()))
        if len(self._looks) > 1:
            self._ready.set()

    def _ask(self) -> None:
        """Somebody has asked."""
        self._asked = self._clock()
        if self._started and self._timer is None:
            self._look_again()

    def _look_again(self) -> None:
        if self._clock() - self._asked > PATIENCE_SECONDS:
            self._sleep()
            return
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_again)
        self.look()

    def _sleep(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._looks.clear()
        self._ready.clear()

    def _service(
        self, before: Sequence[int] | None, now: Sequence[int], seconds: float
    ) -> ServiceFigures:
        """Of one service: its cells then and now."""
        layout = self._layout
        new = list(now if before is None else map(sub, now, before))

        def some(family: str, *values: str) -> int:
            return sum(new[cell] for cell in layout.cells_of(family, values))

        affinity = layout.family("stickyproxy_affinity_outcomes").values
        decided = ((word, some("stickyproxy_affinity_outcomes", word)) for word in affinity)
        durations = layout.family("stickyproxy_request_duration_seconds")
        start = layout.start(durations)
        counts = new[start : start + len(durations.values)]
        bounds = tuple(map(float, durations.values))
        (busy,) = layout.cells_of("stickyproxy_upstream_open_connections", ("busy",))
        return ServiceFigures(
            requests_per_second=some("stickyproxy_requests") / seconds,
            errors_per_second=some("stickyproxy_requests", "5xx") / seconds,
            in_flight=now[busy],
            p50=quantile(0.5, bounds, counts),
            p99=quantile(0.99, bounds, counts),
            sessions=None,
            affinity={word: count / seconds for word, count in decided if count},
            bytes_in_per_second=some("stickyproxy_request_body_bytes") / seconds,
            bytes_out_per_second=some("stickyproxy_response_body_bytes") / seconds,
        )


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
