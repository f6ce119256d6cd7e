"""DATA PLANE: what all client connections of a process have in common."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from aiohttp.http_parser import HttpRequestParser
from aiohttp.web_protocol import RequestHandler

from stickyproxy.dataplane.downstream.body import ENOUGH
from stickyproxy.dataplane.downstream.heads import TARGET_LIMIT_IS_LOWER_BY, Limits
from stickyproxy.dataplane.downstream.ports import Refuse, Serve
from stickyproxy.dataplane.turns import Turns
from stickyproxy.semantics.forwarded import TrustedProxies

LINGER_SECONDS = 2.0
"""How long a closing connection goes on reading what its client had already sent: closing a
socket with unread bytes resets it, and the client would lose our last response."""


class Context:
    """What all connections of a process have in common."""

    __slots__ = (
        "client_sweeps",
        "draining",
        "first_sweeps",
        "head_sweeps",
        "interval",
        "keepalive_sweeps",
        "limits",
        "linger_sweeps",
        "loop",
        "parser_options",
        "patient",
        "refuse",
        "serve",
        "trusted_proxies",
        "turns",
    )

    def __init__(
        self,
        serve: Serve,
        refuse: Refuse,
        limits: Limits,
        trusted_proxies: TrustedProxies,
        turns: Turns,
    ) -> None:
        self.serve = serve
        self.refuse = refuse
        self.limits = limits
        self.trusted_proxies = trusted_proxies
        self.turns = turns
        self.loop = asyncio.get_running_loop()
        self.draining = False
        """Connections close as soon as they can."""
        self.patient = False
        """While draining, an idle connection is left to its next request."""
        self.parser_options: dict[str, Any] = {
            "auto_decompress": False,
            "max_line_size": limits.max_head_line - TARGET_LIMIT_IS_LOWER_BY,
            "max_field_size": limits.max_head_line,
            "max_headers": limits.max_headers,
        }
        shortest = min(limits.head_timeout, limits.keepalive_timeout, limits.client_timeout)
        self.interval = max(0.02, min(1.0, shortest / 4))
        """Seconds between two sweeps."""
        self.head_sweeps = self._sweeps(limits.head_timeout)
        self.client_sweeps = self._sweeps(limits.client_timeout)
        self.keepalive_sweeps = self._sweeps(limits.keepalive_timeout)
        self.linger_sweeps = self._sweeps(LINGER_SECONDS)
        self.first_sweeps = self._sweeps(min(2 * limits.head_timeout, limits.keepalive_timeout))
        """Until the first byte of the first request. A head that was begun in time gets a
        408 when its own time is up, which must come first."""

    def _sweeps(self, seconds: float) -> int:
        return math.ceil(seconds / self.interval)

    def parser(self, connection: RequestHandler) -> HttpRequestParser:
        """A parser that has seen nothing yet."""
        return HttpRequestParser(connection, self.loop, ENOUGH, **self.parser_options)
