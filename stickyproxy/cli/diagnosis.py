"""Where ``stickyproxy services`` gets its rows from: a running proxy, or a Docker engine."""

from __future__ import annotations

import http.client
import json
import socket

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import StickyproxyError
from stickyproxy.config.load import SwarmSettings
from stickyproxy.control import report

TIMEOUT = 5.0
"""Seconds an answer of the proxy may take."""


def found_by_proxy(admin: Address) -> list[report.Json]:
    """The rows of a running proxy's admin page. Raises StickyproxyError."""
    connection = http.client.HTTPConnection(admin.host or "127.0.0.1", admin.port, timeout=TIMEOUT)
    try:
        if admin.path is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(TIMEOUT)
            connection.sock.connect(admin.path)
        connection.request("GET", "/services?format=json")
        answer = connection.getresponse()
        found = json.loads(answer.read())["services"]
    except OSError as error:
        raise StickyproxyError(
            f"no proxy answers on {admin} ({error.strerror or error}): give a running one its "
            '[admin] table and say here where it listens (--admin ADDR), or ask "--engine"'
        ) from error
    except (http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise StickyproxyError(f"what answers on {admin} is no admin page") from error
    finally:
        connection.close()
    return list(found)


def found_by_engine(settings: SwarmSettings) -> list[report.Json]:
    """The rows for what an engine lists. Raises ProviderError."""
    # the docker SDK takes its time
    from stickyproxy.providers.swarm.provider import list_once  # noqa: PLC0415

    snapshot = list_once(settings)
    problems = (*snapshot.problems, *report.conflicts(snapshot.services))
    return report.rows([snapshot], problems)
