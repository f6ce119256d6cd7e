"""DATA PLANE: when a request is sent a second time.

- No connection could be made: always. The endpoint has seen nothing of it.
- The connection ended before a byte of the response, the method is idempotent (RFC 9110 section
  9.2.2) and no part of the body was taken from the client: yes. If the connection had been kept
  alive the endpoint most likely closed it while idle, so the same endpoint is asked again on a
  new connection, which keeps the session where it is. If it was new the endpoint is ending, and
  another one is asked, but only once: a request that kills its endpoint must not kill them all.
- To another endpoint only as long as the service's retries are no more than a fifth of its requests
  (``routing.budget``): those that are left must not be asked for everything several times. To the
  same one it is sent whatever they are, since it has not begun with the request.
- Anything else (a POST on a connection that died, a timeout, half a response): never. It may have
  been carried out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from stickyproxy.base.errors import ConnectError, UpstreamClosed
from stickyproxy.dataplane.attempt import Attempt
from stickyproxy.routing.endpoint import Endpoint

MAX_DEATHS = 1
"""New connections that may end without a response before the request is taken for the cause."""


class Verdict(Enum):
    """What happens to a request after a failed attempt."""

    SAME_ENDPOINT = "same endpoint"  # on a new connection
    OTHER_ENDPOINT = "other endpoint"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class Attempted:
    """One attempt that failed, and those before it."""

    error: Exception
    connected: bool
    """There was a connection, new or reused."""
    reused: bool
    """It had been kept alive."""
    replayable: bool
    """The method is idempotent, and nothing of the body was taken from the client."""
    responded: bool
    """A byte of a response has arrived."""
    deaths: int
    """New connections that ended under this request, this one included."""
    in_time: bool
    """The request is young enough to be tried again."""


def decide(attempt: Attempted) -> Verdict:
    """What happens to the request; the top of this file says why."""
    if not attempt.in_time or attempt.deaths > MAX_DEATHS:
        return Verdict.GIVE_UP
    if not attempt.connected:
        retried = isinstance(attempt.error, ConnectError)
        return Verdict.OTHER_ENDPOINT if retried else Verdict.GIVE_UP
    ended = isinstance(attempt.error, UpstreamClosed) and not attempt.responded
    if not (ended and attempt.replayable):
        return Verdict.GIVE_UP
    return Verdict.SAME_ENDPOINT if attempt.reused else Verdict.OTHER_ENDPOINT


class Failures:
    """The attempts of a request that failed."""

    __slots__ = ("ask_anew", "attempts", "deaths", "error", "tried", "unpaid")

    def __init__(self) -> None:
        self.attempts: tuple[Attempt, ...] = ()
        """Endpoints that were contacted and failed."""
        self.tried: tuple[Endpoint, ...] = ()
        """Those that are not to be picked again."""
        self.unpaid = False
        """The budget for retries has yet to be asked for the next attempt."""
        self.deaths = 0
        """New connections that ended under this request."""
        self.ask_anew = False
        """The next attempt needs a new connection."""
        self.error: Exception = RuntimeError("no attempt has failed")
        """What the latest one failed with."""

    def note(self, error: Exception, attempt: Attempt, *, died: bool) -> None:
        """Another attempt has failed. ``died``: a new connection ended under it."""
        self.error = error
        self.attempts = (*self.attempts, attempt)
        self.deaths += died
