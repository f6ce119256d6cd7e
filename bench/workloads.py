"""What is measured: one entry each. ``lab.py`` runs them, in this order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run stickyproxy that is compared with another."""

    name: str
    asked: tuple[str, ...] = ()
    """Words for its template: see ``peers/stickyproxy.toml``."""
    services: int = 1
    loaded: int = 1
    """How many of the services get requests."""
    certificates: int = 1
    """How many of the services have a certificate of their own: the first is in every table."""
    rotates: float = 0
    """Seconds after which the files of another certificate are replaced; 0: none ever is."""
    swaps: float = 0
    """How often in a second the routing table is replaced."""


PLAIN = Variant("plain")


@dataclass(frozen=True, slots=True)
class Workload:
    """A load that every proxy gets, or with ``variants`` every variant of stickyproxy."""

    key: str
    title: str
    why: str
    path: str = "/116"
    connections: int = 64
    policy: str = "cookie"
    upload: int = 0
    fresh: bool = False
    """A new connection for each request."""
    tls: bool = False
    """Clients speak TLS, and its table is in the report of all that do."""
    resumed: bool = False
    """New connections resume the session of those before."""
    idle: int = 0
    """Instead of a load: this many clients that get one response and then stay connected."""
    variants: tuple[Variant, ...] = ()
    quick: bool = False
    """Part of the quick run too."""
    least_seconds: int = 1
    """Minimum duration: shorter runs would show little but the start."""


WORKLOADS = (
    Workload(
        "cookie",
        "116 B, 64 connections, sticky cookie",
        "the tutorial's `/ping`",
        quick=True,
    ),
    Workload("ip-hash", "116 B, by client address", "each policy", policy="ip_hash"),
    Workload(
        "consistent-hash",
        "116 B, consistent hash of a header",
        "each policy",
        policy="consistent_hash",
    ),
    Workload("round-robin", "116 B, round robin", "each policy", policy="round_robin"),
    Workload("10k", "10 kB responses", "pages", path="/10k", quick=True),
    Workload("1m", "1 MiB responses", "files", path="/1m", connections=16, quick=True),
    Workload(
        "upload-64k",
        "64 kB uploads",
        "the other direction",
        path="/upload",
        upload=64_000,
        connections=16,
    ),
    Workload(
        "upload-10m",
        "10 MiB uploads",
        "the other direction",
        path="/upload",
        upload=10 << 20,
        connections=4,
    ),
    Workload("1-connection", "116 B, 1 connection", "latency alone", connections=1),
    Workload("256-connections", "116 B, 256 connections", "fairness", connections=256),
    Workload(
        "2000-connections",
        "116 B, 2,000 connections",
        "crowds",
        connections=2000,
        quick=True,
        least_seconds=3,
    ),
    Workload(
        "new-connections",
        "116 B, a new connection for each request",
        "no keep-alive",
        fresh=True,
        quick=True,
    ),
    Workload("idle", "idle keep-alive clients", "memory per connection", idle=10_000, quick=True),
    Workload(
        "services",
        "116 B, 1,000 services of 10 endpoints in the table",
        "the cost per request must not grow",
        variants=(
            PLAIN,
            Variant("1,000 services", services=1000),
            Variant("1,000 services, load on 20", services=1000, loaded=20),
        ),
        quick=True,
    ),
    Workload(
        "churn",
        "116 B, the table replaced 20 times a second",
        "p99 must not notice",
        variants=(
            Variant("100 services", services=100),
            Variant("100 services, 20 swaps/s", services=100, swaps=20),
        ),
        quick=True,
    ),
    Workload(
        "workers",
        "116 B, two worker processes on the core of one",
        "CPU per request must not grow",
        variants=(PLAIN, Variant("2 workers", asked=("two_workers",))),
    ),
    Workload(
        "access-log",
        "116 B, access log to a file",
        "what production runs",
        variants=(
            PLAIN,
            Variant("text log", asked=("log_text",)),
            Variant("JSON log", asked=("log_json",)),
        ),
        quick=True,
    ),
    Workload("tls", "116 B over TLS, 64 connections", "what port 443 serves", tls=True, quick=True),
    Workload("tls-1m", "1 MiB responses over TLS", "files", path="/1m", connections=16, tls=True),
    Workload(
        "tls-new",
        "116 B, a full TLS handshake for each request",
        "clients that come for the first time",
        connections=16,
        policy="round_robin",
        fresh=True,
        tls=True,
        quick=True,
    ),
    Workload(
        "tls-resumed",
        "116 B, a resumed TLS session for each request",
        "clients that come again",
        connections=16,
        policy="round_robin",
        fresh=True,
        tls=True,
        resumed=True,
    ),
    Workload("tls-idle", "idle TLS connections", "memory per client", idle=2000, tls=True),
    Workload(
        "tls-certificates",
        "116 B, a full TLS handshake for each request, with 1,000 certificates",
        "the cost of a handshake must not grow",
        connections=16,
        policy="round_robin",
        fresh=True,
        tls=True,
        variants=(
            Variant("1 certificate", services=1000),
            Variant("1,000 certificates", services=1000, certificates=1000),
            Variant(
                "1,000 certificates, load on all", services=1000, certificates=1000, loaded=1000
            ),
        ),
    ),
    Workload(
        "tls-rotation",
        "116 B over TLS, one of 1,000 certificates replaced every 3 s",
        "connections must not notice",
        tls=True,
        variants=(
            Variant("1,000 certificates", services=1000, certificates=1000),
            Variant("1,000, one replaced", services=1000, certificates=1000, rotates=3.0),
        ),
        least_seconds=7,
    ),
)
