"""DATA PLANE: requests as parts of traces (W3C Trace Context): ``traceparent`` is passed on, and a
trace begun where there is none.

A request that is recorded becomes a span, whose id the endpoint gets as its parent. The others pass
with the parent that they have, or with one that nobody records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stickyproxy.semantics.request import ClientRequest
from stickyproxy.semantics.trace_context import RANDOM, SAMPLED, Parent, is_chosen, parent_of


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a request is in its trace."""

    trace_id: bytes
    span_id: bytes
    """Its own, if it is recorded."""
    parent: Parent | None
    """None: the trace begins here."""
    recorded: bool


class Tracing:
    """How the requests of one process are traced."""

    def __init__(self, sample: float, new_id: Callable[[], bytes], *, records: bool) -> None:
        """``sample``: the share of traces that is recorded, from 0 to 1; where a trusted proxy has
        decided, that counts. ``new_id``: gives 32 random hex digits. ``records``: there is somebody
        who does."""
        self._sample = sample
        self._new_id = new_id
        self._records = records

    def begin(self, request: ClientRequest, *, trusted: bool) -> Trace:
        """Have the endpoint know. ``trusted``: the request comes from a trusted proxy."""
        parent = parent_of(request.take_field(b"traceparent"))
        trace_id = self._new_id() if parent is None else parent.trace_id
        if parent is not None and trusted:
            sampled = bool(parent.flags & SAMPLED)
        else:
            sampled = is_chosen(trace_id, self._sample)
        recorded = sampled and self._records
        if parent is None:
            request.take_field(b"tracestate")
        span_id = self._new_id()[:16] if parent is None or recorded else parent.span_id
        random = parent is None or bool(parent.flags & RANDOM)
        flags = (SAMPLED if sampled else 0) | (RANDOM if random else 0)
        request.add_field(b"traceparent: 00-%b-%b-%02x" % (trace_id, span_id, flags))
        return Trace(trace_id, span_id, parent, recorded)
