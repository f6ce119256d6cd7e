"""What happens in one process, or in several, on its way to the stream of events.

Sessions that move are counted by whoever picks endpoints, and told here once a second at most: so
clients may move as often as they like.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from stickyproxy.dataplane.counters import Moves
from stickyproxy.model.events import Event, EventKind, Listener, listen, tell, tell_what_was_kept
from stickyproxy.routing.endpoint import Affinity

SECONDS = 1.0

_WHY: Mapping[str, str] = {
    Affinity.REPINNED_GONE.value: "it is gone, or never was",
    Affinity.REPINNED_DOWN.value: "it is down",
    Affinity.REPINNED_DRAINING.value: "it is being stopped",
    Affinity.REPINNED_FAILED.value: "it refused the connection",
}


def tell_moves(moves: Moves) -> None:
    """So many sessions have moved."""
    for (service, why, left), count in moves.items():
        sessions = "1 session moves" if count == 1 else f"{count} sessions move"
        place = f"from {left}" if left else "from an endpoint that is not known"
        tell(
            EventKind.SESSIONS_MOVED,
            f"service {service}: {sessions} {place}: {_WHY[why]}",
            service=service,
            reason=why,
            from_=left,
            sessions=count,
        )


class Telling:
    """Passes on what happens in this process."""

    def __init__(
        self,
        listener: Listener | None,
        take_moves: Callable[[], Moves],
        moved: Callable[[Moves], None] = tell_moves,
    ) -> None:
        """``listener`` is told at once; None: nobody listens. ``moved`` is told of what
        ``take_moves`` returns."""
        self._listener = listener
        self._take_moves = take_moves
        self._moved = moved
        self._end: Callable[[], None] = lambda: None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, inside a running event loop."""
        if self._listener is not None:
            self._end = listen(self._listener)
        self._task = asyncio.create_task(self._keep_telling(), name="telling")

    async def stop(self) -> None:
        """End."""
        self._end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_telling(self) -> None:
        while True:
            await asyncio.sleep(SECONDS)
            tell_what_was_kept()
            if moves := self._take_moves():
                self._moved(moves)


class OfWorkers:
    """Events of several workers as one: an endpoint is ejected when the first one does so, and back
    when the last one has it back."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._out: dict[object, dict[int, Event]] = {}
        """By endpoint, and by worker."""

    def told(self, worker: int, events: Iterable[Event]) -> None:
        """These have happened in a worker."""
        for event in events:
            self._take(worker, event)

    def gone(self, worker: int) -> None:
        """The worker has ended, and nothing is ejected there any more."""
        for about in [each for each in self._out if worker in self._out[each]]:
            event = self._out[about][worker]
            details = {
                name: value
                for name, value in event.details.items()
                if name in EventKind.ENDPOINT_BACK.details
            }
            text = f"service {details['service']}: endpoint {details['address']} is back"
            self._take(worker, Event(EventKind.ENDPOINT_BACK, text, details))

    def _take(self, worker: int, event: Event) -> None:
        if event.kind is EventKind.ENDPOINT_EJECTED:
            out = self._out.setdefault(event.about, {})
            is_first = not out
            out[worker] = event
            if not is_first:
                return
        elif event.kind is EventKind.ENDPOINT_BACK:
            out = self._out.get(event.about, {})
            out.pop(worker, None)
            if out:
                return
            self._out.pop(event.about, None)
        self._listener(event)
