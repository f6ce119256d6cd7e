"""DATA PLANE: requests that are recorded, as spans for a collector (OTLP over HTTP).

The loop does no more than to append what has ended to a queue that is bounded. A thread makes spans
of it with OpenTelemetry and sends them, a second later or so. If one of them cannot keep up,
spans are lost, and the log says how many.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stickyproxy.dataplane.exchange import Exchange
from stickyproxy.dataplane.outcome import Outcome
from stickyproxy.semantics.headers import normalise_host, printable
from stickyproxy.semantics.trace_context import SAMPLED

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger("stickyproxy")

QUEUE = 4096
"""Spans that wait to be sent; what is more is lost."""
AT_ONCE = 512
"""Spans in a message."""
PERIOD = 1.0
"""Seconds between two looks at the queue."""
LAST_SECONDS = 3.0
"""How long the end waits for what is left to be sent."""
TIMEOUT = 5.0
"""Seconds that the collector may take."""
LOG_SECONDS = 60.0
"""Between two lines about spans that were lost."""

_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY")
)


class Spans:
    """What one process records."""

    def __init__(self, endpoint: str, service_name: str, instance: str) -> None:
        """``endpoint``: URL of the collector. ``instance``: tells processes apart."""
        self._endpoint = endpoint
        self._resource = {"service.name": service_name, "service.instance.id": instance}
        self._ended: deque[tuple[Exchange, float]] = deque()
        self._lost = 0
        self._under_way = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is left, if that is possible in ``LAST_SECONDS``."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(LAST_SECONDS)
        if self._thread.is_alive():
            self._lost += len(self._ended) + self._under_way
            self._tell("it did not take them before the end")

    def _tell(self, problem: str) -> None:
        lost, self._lost = self._lost, 0
        log.warning("%d spans were lost on their way to %s: %s", lost, self._endpoint, problem)

    def finished(self, exchange: Exchange) -> None:
        """A request has ended."""
        trace = exchange.trace
        if trace is None or not trace.recorded:
            return
        if len(self._ended) >= QUEUE:
            self._lost += 1
        else:
            self._ended.append((exchange, time.monotonic()))

    # --- the thread ---

    def _run(self) -> None:
        sender = _Sender(self._endpoint, self._resource)
        told, over = -LOG_SECONDS, False
        while not over:
            over = self._over.wait(PERIOD)
            problem = self._send(sender)
            if self._lost and (over or time.monotonic() - told >= LOG_SECONDS):
                told = time.monotonic()
                self._tell(problem)
        sender.close()

    def _send(self, sender: _Sender) -> str:
        """All that is there; returns why some of it is lost, if it is."""
        problem = "there were more than could be sent"
        while self._ended:
            self._under_way = min(AT_ONCE, len(self._ended))
            batch = [self._ended.popleft() for _ in range(self._under_way)]
            try:
                sender.send(batch)
            except Exception as error:
                self._lost += len(batch)
                problem = f"{type(error).__name__}: {error}"
            self._under_way = 0
        return problem


class _Sender:
    """Makes spans and sends them: OpenTelemetry, which takes a while to load."""

    def __init__(self, endpoint: str, resource: Mapping[str, str]) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415

        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # we say it, now and then
        self._resource = Resource.create(dict(resource))
        self._exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=TIMEOUT)

    def send(self, ended: Sequence[tuple[Exchange, float]]) -> None:
        """Raises what goes wrong."""
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415

        since_1970 = time.time() - time.monotonic()
        spans = [self._span(exchange, at, since_1970) for exchange, at in ended]
        if self._exporter.export(spans) is not SpanExportResult.SUCCESS:
            raise ConnectionError("the collector did not take them")

    def close(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _span(self, exchange: Exchange, ended: float, since_1970: float) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415
        from opentelemetry.trace import (  # noqa: PLC0415
            SpanContext,
            SpanKind,
            Status,
            StatusCode,
            TraceFlags,
            TraceState,
        )

        trace = exchange.trace
        assert trace is not None
        trace_id, flags = int(trace.trace_id, 16), TraceFlags(SAMPLED)
        state = TraceState()

        def context(span_id: bytes, *, remote: bool) -> SpanContext:
            return SpanContext(trace_id, int(span_id, 16), remote, flags, state)

        attributes = _attributes(exchange)
        failed = exchange.outcome is not Outcome.COMPLETE and _status(exchange) >= 500
        method = attributes["http.request.method"]
        return ReadableSpan(
            name=f"{'HTTP' if method == '_OTHER' else method} {exchange.service}",
            context=context(trace.span_id, remote=False),
            parent=None if trace.parent is None else context(trace.parent.span_id, remote=True),
            resource=self._resource,
            attributes=attributes,
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=int((exchange.started + since_1970) * 1e9),
            end_time=int((ended + since_1970) * 1e9),
        )


def _status(exchange: Exchange) -> int:
    if exchange.reply is not None:
        return exchange.reply.status
    return 0 if exchange.relay is None else exchange.relay.status


def _attributes(exchange: Exchange) -> dict[str, str | int]:
    """By the semantic conventions for HTTP, and our own words. No query: it may hold secrets."""
    request, pick, outcome = exchange.request, exchange.pick, exchange.outcome
    assert request is not None
    assert outcome is not None
    method = request.method
    said: dict[str, str | int] = {
        "http.request.method": method if method in _METHODS else "_OTHER",
        "url.path": printable(request.target.partition(b"?")[0], 1000),
        "url.scheme": "https" if request.secure else "http",
        "server.address": (normalise_host(request.host) or b"").decode(),
        "client.address": request.client_address,
        "stickyproxy.service": exchange.service,
        "stickyproxy.outcome": outcome.value,
        "stickyproxy.request_id": request.id.decode(),
    }
    if status := _status(exchange):
        said["http.response.status_code"] = status
    if pick is not None:
        said["stickyproxy.endpoint"] = pick.endpoint.address
        said["stickyproxy.affinity"] = pick.affinity.value
    if exchange.failures is not None:
        said["http.request.resend_count"] = len(exchange.failures.attempts)
    return said
