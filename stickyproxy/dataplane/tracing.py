"""DATA PLANE: requests as parts of traces (W3C Trace Context): ``traceparent`` is passed on, and a
trace begun where there is none.

A request that is recorded becomes a span, whose id the endpoint gets as its parent. The others pass
with the parent that they have, or with one that nobody records.
"""

from __future__ import annotations

from collections.abc import Callable

from stickyproxy.semantics.request import ClientRequest
from stickyproxy.semantics.trace_context import RANDOM, SAMPLED, Parent, is_chosen, parent_of


class Trace:
    """Where a request is in its trace."""

    __slots__ = ("parent", "recorded", "span_id", "trace_id")

    def __init__(
        self, trace_id: bytes, span_id: bytes, parent: Parent | None, *, recorded: bool
    ) -> None:
        """``parent``: None: the trace begins here."""
        self.trace_id = trace_id
        self.span_id = span_id
        """Its own, if it is recorded."""
        self.parent = parent
        self.recorded = recorded


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
        parent = None
        if request.header("traceparent") is not None:
            parent = parent_of(request.take_field(b"traceparent"))
        if parent is None:
            return self._begin(request)
        sampled = bool(parent.flags & SAMPLED) if trusted else self._chooses(parent.trace_id)
        recorded = sampled and self._records
        span_id = self._new_id()[:16] if recorded else parent.span_id
        flags = (parent.flags & RANDOM) | (SAMPLED if sampled else 0)
        request.add_field(b"traceparent: 00-%b-%b-%02x" % (parent.trace_id, span_id, flags))
        return Trace(parent.trace_id, span_id, parent, recorded=recorded)

    def _begin(self, request: ClientRequest) -> Trace:
        if request.header("tracestate") is not None:
            request.take_field(b"tracestate")
        trace_id, span_id = self._new_id(), self._new_id()[:16]
        sampled = self._chooses(trace_id)
        flags = b"-03" if sampled else b"-02"
        request.add_field(b"traceparent: 00-" + trace_id + b"-" + span_id + flags)
        return Trace(trace_id, span_id, None, recorded=sampled and self._records)

    def _chooses(self, trace_id: bytes) -> bool:
        return is_chosen(trace_id, self._sample)
