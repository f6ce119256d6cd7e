"""Where ``stickyproxy services`` gets its rows from: a running proxy, or a Docker engine."""

from __future__ import annotations

import http.client
import json
import socket

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import StickyproxyError
from stickyproxy.config.settings import DockerSettings, SwarmSettings
from stickyproxy.control import report

TIMEOUT = 5.0
"""Seconds the proxy may take to respond."""


def found_by_proxy(admin: Address) -> list[report.Json]:
    """The rows of a running proxy's admin page. Raises StickyproxyError."""
    _, found = asked(admin, "GET", "/services?format=json", "or use --engine")
    try:
        return list(found["services"])
    except (KeyError, TypeError) as error:
        raise _is_no_page(admin) from error


def asked(
    admin: Address,
    method: str,
    path: str,
    otherwise: str = "",
    *,
    body: report.Json | None = None,
    token: str = "",
) -> tuple[int, report.Json]:
    """Status and document of an admin page's response. ``otherwise``: what else may be done if
    there is no page. Raises StickyproxyError."""
    connection = http.client.HTTPConnection(admin.host or "127.0.0.1", admin.port, timeout=TIMEOUT)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        if admin.path is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(TIMEOUT)
            connection.sock.connect(admin.path)
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        document = json.loads(response.read())
    except OSError as error:
        remedy = ", ".join(filter(None, ("name its address here (--admin ADDR)", otherwise)))
        raise StickyproxyError(
            f"no proxy answers on {admin} ({error.strerror or error}): enable the [admin] "
            f"table of a running one and {remedy}"
        ) from error
    except (http.client.HTTPException, ValueError) as error:
        raise _is_no_page(admin) from error
    finally:
        connection.close()
    if not isinstance(document, dict):
        raise _is_no_page(admin)
    return response.status, document


def _is_no_page(admin: Address) -> StickyproxyError:
    return StickyproxyError(f"what listens on {admin} is not an admin page")


def found_by_engine(
    swarm: SwarmSettings | None, docker: DockerSettings | None
) -> list[report.Json]:
    """The rows for what engines list: services of a Swarm, containers, or both. Raises
    ProviderError."""
    # the docker SDK takes its time
    from stickyproxy.providers.docker.engine import list_containers  # noqa: PLC0415
    from stickyproxy.providers.swarm.engine import list_once  # noqa: PLC0415

    snapshots = []
    if swarm is not None:
        snapshots.append(list_once(swarm))
    if docker is not None:
        snapshots.append(list_containers(docker))
    services = [service for snapshot in snapshots for service in snapshot.services]
    found = [problem for snapshot in snapshots for problem in snapshot.problems]
    return report.rows(snapshots, [*found, *report.conflicts(services)])
