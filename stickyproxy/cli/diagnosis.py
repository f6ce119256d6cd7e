"""Whom ``stickyproxy services`` and ``stickyproxy explain`` ask: a running proxy, a Docker engine,
or a configuration file."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from stickyproxy.base.addresses import Address
from stickyproxy.base.errors import ProviderError, StickyproxyError
from stickyproxy.cli.common import address
from stickyproxy.config.settings import ADMIN_ADDRESS, Config, DockerSettings, SwarmSettings
from stickyproxy.control import report
from stickyproxy.control.registry import NoConnections, Registry
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.providers.names import Resolution, look_up, name_in
from stickyproxy.providers.static import snapshot
from stickyproxy.routing.table import RoutingTable

TIMEOUT = 5.0
"""Seconds the proxy may take to respond."""
SIMULATION_TIMEOUT = 60.0
"""The same for an answer that takes work."""


def token_of(options: argparse.Namespace, settings: Config, *, changes: bool = False) -> str:
    """What is shown to who is asked: as ``--token-file`` holds it, else as the configuration does;
    empty: nothing. ``changes``: it is to change something. Raises StickyproxyError."""
    if options.token_file is None:
        operator = settings.operator
        if settings.controller is not None:
            held = settings.controller.token
        else:
            held = operator.change_token if changes else operator.read_token
            held = held or operator.change_token
        return held.decode("utf-8", "surrogateescape")
    try:
        text: str = options.token_file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StickyproxyError(f"{options.token_file} cannot be read: {error}") from error
    return text.strip()


def add_admin(parser: argparse.ArgumentParser, tokens: str, *, controllers: bool = False) -> None:
    """The options that say whom to ask, and with which token. ``tokens``: those that will do.
    ``controllers``: they may be asked too."""
    named, too = "the configuration that names [admin] address", ""
    if controllers:
        named = "the configuration of the proxy or controller: names its address and its token"
        too = ", or token of [controller]"
    parser.add_argument("--config", metavar="FILE", type=Path, help=named)
    parser.add_argument(
        "--admin",
        metavar="ADDR",
        type=address,
        help=f"where the proxy's admin page listens (default: {ADMIN_ADDRESS})",
    )
    parser.add_argument("--token-file", metavar="FILE", type=Path, help=f"holds {tokens}{too}")


def admin_of(
    options: argparse.Namespace, settings: Config, *, controllers: bool = False
) -> Address:
    """Whom these options of ``add_admin`` name."""
    controller = settings.controller if controllers else None
    configured = settings.admin if controller is None else controller.address
    named: Address | None = options.admin
    return named or configured or ADMIN_ADDRESS


def found_by_proxy(admin: Address, token: str = "") -> list[report.Json]:
    """The rows of a running proxy's admin page. Raises StickyproxyError."""
    status, found = asked(admin, "GET", "/services?format=json", "or use --engine", token=token)
    if status != 200 and "error" in found:
        raise refused(status, str(found["error"]))
    if not isinstance(found.get("services"), list):
        raise _is_no_page(admin)
    return list(found["services"])


def answered_by_proxy(
    admin: Address, question: str, asking: report.Json, token: str = ""
) -> report.Json:
    """What a running proxy answers to a question, one of ``explain``. Raises StickyproxyError."""
    status, found = asked(
        admin,
        "POST",
        f"/v1/{question}",
        "or use --engine",
        body=asking,
        token=token,
        timeout=SIMULATION_TIMEOUT,
    )
    if status != 200:
        said = str(found.get("error") or f"the proxy on {admin} says {status}")
        raise refused(status, said)
    return found


def asked(
    admin: Address,
    method: str,
    path: str,
    otherwise: str = "",
    *,
    body: report.Json | None = None,
    token: str = "",
    tls: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT,
) -> tuple[int, report.Json]:
    """Status and document of an admin page's response. ``otherwise``: what else may be done if
    there is no page. ``tls``: None: in the clear. ``timeout``: seconds. Raises StickyproxyError."""
    host = admin.host or "127.0.0.1"
    connection: http.client.HTTPConnection
    if tls is not None:
        connection = http.client.HTTPSConnection(host, admin.port, timeout=timeout, context=tls)
    else:
        connection = http.client.HTTPConnection(host, admin.port, timeout=timeout)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        if admin.path is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(timeout)
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


def tls_of(admin: Address, token: str) -> ssl.SSLContext | None:
    """How a controller is spoken to that has this token; None: no controller with it is there, but
    perhaps an admin listener, which speaks in the clear."""
    if admin.path is not None or not token:
        return None
    # It takes its time, which only they need who ask a controller.
    from stickyproxy.base.token_tls import client_context  # noqa: PLC0415

    context = client_context(token.encode("utf-8", "surrogateescape"))
    try:
        address = admin.host or "127.0.0.1", admin.port
        with (
            socket.create_connection(address, TIMEOUT) as sock,
            context.wrap_socket(sock, server_hostname=address[0]),
        ):
            return context
    except OSError:  # an ssl.SSLError is one, too
        return None


def refused(status: int, said: str) -> StickyproxyError:
    """What to raise for an answer that is an error."""
    remedy = " (--token-file FILE, or --config FILE)" if status == 401 else ""
    return StickyproxyError(said + remedy)


def _is_no_page(admin: Address) -> StickyproxyError:
    return StickyproxyError(
        f"what listens on {admin} is not an admin page that knows this question"
    )


def found_by_engine(
    swarm: SwarmSettings | None, docker: DockerSettings | None
) -> list[report.Json]:
    """The rows for what engines list: services of a Swarm, containers, or both. Raises
    ProviderError."""
    snapshots = listed(swarm, docker)
    services = [service for snapshot in snapshots for service in snapshot.services]
    found = [problem for snapshot in snapshots for problem in snapshot.problems]
    return report.rows(snapshots, [*found, *report.conflicts(services)])


def listed(swarm: SwarmSettings | None, docker: DockerSettings | None) -> list[Snapshot]:
    """What engines list. Raises ProviderError."""
    # the docker SDK takes its time
    from stickyproxy.providers.docker.engine import list_containers  # noqa: PLC0415
    from stickyproxy.providers.swarm.engine import list_once  # noqa: PLC0415

    snapshots = []
    if swarm is not None:
        snapshots.append(list_once(swarm))
    if docker is not None:
        snapshots.append(list_containers(docker))
    return snapshots


def engines(settings: Config, endpoint: str) -> tuple[SwarmSettings | None, DockerSettings | None]:
    """The engines of a configuration; a Swarm if it has none. ``endpoint`` replaces theirs unless
    it is empty."""
    swarm, docker = settings.swarm, settings.docker
    if swarm is None and docker is None:
        swarm = SwarmSettings()
        endpoint = endpoint or os.environ.get("DOCKER_HOST", "")
    if endpoint:
        swarm = None if swarm is None else replace(swarm, endpoint=endpoint)
        docker = None if docker is None else replace(docker, endpoint=endpoint)
    return swarm, docker


def in_file(services: Iterable[ServiceSpec]) -> Snapshot:
    """The services of a file, with the addresses that names in them resolve to now."""
    services = tuple(services)
    hosts = {name_in(each.address) for service in services for each in service.endpoints} - {""}
    known = {}
    for host in hosts:
        try:
            known[host] = Resolution().after(look_up(host))
        except ProviderError as error:
            known[host] = Resolution().after_failure(str(error))
    return snapshot(services, known)


class TableOf:
    """The table of snapshots; nothing is forwarded by it."""

    def __init__(self, snapshots: Iterable[Snapshot], pin_secret: bytes | None) -> None:
        self.table = RoutingTable({})
        registry = Registry(self, NoConnections(), pin_secret, tells_problems=False)
        for each in snapshots:
            registry.publish(each)
