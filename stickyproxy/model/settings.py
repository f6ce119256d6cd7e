"""What the data plane is given: the part of the configuration that goes to worker processes.

Separate from ``config`` because that needs pydantic, which a worker does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

Network = IPv4Network | IPv6Network
LogFormat = Literal["off", "text", "json"]
ProcessLogFormat = Literal["text", "json"]
"""Of the process's own log."""


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """How requests are traced."""

    endpoint: str = ""
    """URL of a collector that takes OTLP over HTTP; empty: nothing is recorded."""
    sample: float = 1.0
    """The share of traces that is recorded."""
    service_name: str = "stickyproxy"


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """How requests are proxied; all times are in seconds."""

    handover: str | None = None
    """Path of the unix socket over which a successor takes the listeners over."""
    keeper: str | None = None
    """Path of the unix socket of the keeper that opens the listeners."""
    workers: int = 0
    """Processes that forward requests; 0: one per core."""
    worker_timeout: float = 30.0
    """A worker that shows no sign of life for that long is killed."""
    trusted_proxies: tuple[Network, ...] = ()
    """Peers whose X-Forwarded-* are believed and extended."""
    trust_unix: bool = False
    """Believe those of peers on unix socket listeners too."""
    hide_info_headers: bool = False
    default_certificate: bool = True
    """Make one for clients that no certificate is for; else they are refused."""
    pin_secret: bytes | None = field(default=None, repr=False)
    """The key of the pins, from ``secret`` or the file ``secret_file``; None: the default key."""
    connect_timeout: float = 3.0
    response_timeout: float = 60.0
    """Silence of the endpoint until its response head."""
    response_idle_timeout: float | None = None
    """Its silence between two reads of a body; None: ``response_timeout``, and no limit for
    server-sent events."""
    client_timeout: float = 60.0
    """How long a client may neither send nor take a byte of a body."""
    upgrade_idle_timeout: float | None = None
    """Silence of both sides after an upgrade; None: no limit."""
    keepalive_timeout: float = 75.0
    """How long an idle client connection is kept."""
    head_timeout: float = 15.0
    """How long a client may take to send the head of a request."""
    handshake_timeout: float = 10.0
    """How long a client may take from connecting to the end of its TLS handshake."""
    upstream_idle_timeout: float = 4.0
    """How long an idle connection to an endpoint is kept for reuse."""
    upstream_ca: str = ""
    """PEM: who issues the certificates of endpoints, if their service does not say it; empty: those
    that the system knows."""
    probe_new_endpoints: bool = True
    """Connect once to each endpoint that is new, before a request does."""
    grace_period: float = 30.0
    """How long requests under way may last after SIGTERM."""
    session_window: float = 1800.0
    """How long a client counts as one that is there after its last request."""
    max_head: int = 32768
    """Bytes of a whole request head."""
    max_head_line: int = 8190
    """Bytes of a request line and of one header field."""
    max_headers: int = 128
    max_connections: int | None = None
    """Of clients, in all workers together; None: as many as come."""
    max_connections_per_client: int | None = None
    """Of each client address."""
    reason_for: tuple[Network, ...] = ()
    """Clients that are told why they reached the endpoint that they did."""
    tracing: TracingSettings | None = None
    """None: requests are not traced."""


@dataclass(frozen=True, slots=True)
class AccessLogSettings:
    """What is logged about each request, and where."""

    format: LogFormat = "text"
    path: str = "-"
    """A file; ``-`` is standard output."""
