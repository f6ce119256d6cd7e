"""Clients of a Docker engine: the SDK, set up as we need it, and what its failures mean.

The docker SDK blocks: whatever has to do with it runs in a thread of its own.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.tls import TLSConfig
from requests.adapters import HTTPAdapter
from requests.exceptions import JSONDecodeError, RequestException

from stickyproxy.config.settings import EngineSettings

ENGINE_TIMEOUT = 10.0
"""Seconds the engine may take to respond."""

BACKOFF = (0.5, 10.0)
"""Seconds before the engine is asked again after a failure: the first time, and at most."""

ERRORS = (DockerException, RequestException, OSError, ValueError)
"""What a request to the engine may raise."""


def connect(settings: EngineSettings) -> APIClient:
    """A client that speaks the engine's own version of the API."""
    if settings.endpoint.startswith("unix://"):
        # Try the socket first: the SDK leaves one open if it cannot connect.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(ENGINE_TIMEOUT)
            probe.connect(settings.endpoint.removeprefix("unix://"))
    client = _client(settings, "1.30")
    try:
        version = _version_of(client)
    finally:
        client.close()
    return _client(settings, str(version))


class NoEngine(ValueError):
    """What answers is something else."""


def _version_of(client: APIClient) -> object:
    """The version of the API that an engine speaks. Raises NoEngine."""
    try:
        return client.version(api_version=False)["ApiVersion"]
    except (NotFound, JSONDecodeError, KeyError, TypeError) as error:
        raise NoEngine from error


def _client(settings: EngineSettings, version: str) -> APIClient:
    """With a fixed version, creating a client sends no request yet, so that it can be set up first:
    CA_BUNDLE variables of the environment would replace ``tls_ca``, and proxy variables would put
    a proxy between us and the engine."""
    tls: TLSConfig | bool = False
    if settings.tls_ca:
        pair = (settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        tls = TLSConfig(client_cert=pair, ca_cert=settings.tls_ca, verify=True)
    client = APIClient(
        base_url=settings.endpoint, version=version, timeout=ENGINE_TIMEOUT, tls=tls, num_pools=2
    )
    client.trust_env = False
    if settings.endpoint.startswith("tcp://"):
        for scheme in ("http://", "https://"):
            client.mount(scheme, _KeepaliveAdapter(settings))
    return client


class ConfigsOfSwarm:
    """The configs of a Swarm, by a client of their own. All methods block, and raise ERRORS."""

    def __init__(self, settings: EngineSettings) -> None:
        self._client = connect(settings)

    def list(self, label: Mapping[str, str]) -> list[dict[str, Any]]:
        """Those with this label, data included."""
        [(key, value)] = label.items()
        found: list[dict[str, Any]] = self._client.configs({"label": f"{key}={value}"})
        return found

    def create(self, name: str, data: bytes, labels: Mapping[str, str]) -> bool:
        """Make one; False if there is one of that name."""
        try:
            self._client.create_config(name, data, labels=dict(labels))
        except APIError as error:
            if error.response is not None and error.response.status_code == 409:
                return False
            raise
        return True

    def remove(self, config: str) -> None:
        """Remove one by its id; it may be gone already."""
        with suppress(NotFound):
            self._client.remove_config(config)

    def close(self) -> None:
        """Close the connections."""
        with suppress(*ERRORS):
            self._client.close()


class _KeepaliveAdapter(HTTPAdapter):
    """Connections that end when the machine at the other end disappears: the stream of events may
    be silent for hours, and would wait for ever."""

    def __init__(self, settings: EngineSettings) -> None:
        self._options: dict[str, Any] = {"socket_options": _KEEPALIVE}
        if settings.tls_ca:
            self._options["ssl_context"] = _tls_context(settings)
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pool that connections come from."""
        super().init_poolmanager(*args, **(options | self._options))


def _tls_context(settings: EngineSettings) -> ssl.SSLContext:
    """As the SDK's own, without the strictness of Python 3.13 and urllib3, which refuses a CA made
    as Docker's guide says (docs.docker.com/engine/security/protect-access): it has no keyUsage."""
    context = ssl.create_default_context(cafile=settings.tls_ca)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if settings.tls_cert:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    return context


_KEEPALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    # After 15 seconds of silence, a probe every 5 seconds; three without a reply are the end.
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]

_CONTAINER = re.compile(r"/containers/([0-9a-f]{64})/hostname /etc/hostname ")


def own_container() -> str:
    """Id of the container this process runs in, by the file Docker mounts into each; empty: in
    none."""
    try:
        found = _CONTAINER.search(Path("/proc/self/mountinfo").read_text())
    except OSError:
        return ""
    return found[1] if found else ""


def explained(endpoint: str, error: Exception, *, contained: bool = False) -> str:
    """What went wrong and how to fix it, in one line. ``contained``: this process runs in a
    container, where users and groups are those that it was given."""
    text = " ".join(str(error).split())
    path = endpoint.removeprefix("unix://")
    if isinstance(error, NoEngine):
        return f"what answers at {endpoint} is no Docker engine: set endpoint to the address of one"
    if "not a swarm manager" in text or "not part of a swarm" in text:
        return (
            f"the engine at {endpoint} is not a Swarm manager: run the proxy on one, or let it "
            "follow a controller ([providers.controller]); without a Swarm, [providers.docker] "
            "publishes containers"
        )
    if isinstance(error, FileNotFoundError) or "FileNotFoundError" in text:
        return (
            f"there is no engine at {endpoint}: start it, or mount its socket "
            f"(--mount type=bind,source={path},target={path})"
        )
    if isinstance(error, PermissionError):
        remedy = "add it to group docker"
        if contained:
            remedy = (
                "give the container a user or group that may, by number: that of the socket's "
                f"group on the node is what stat -c %g {path} says there (--user 65532:NUMBER)"
            )
        return f"this user may not use the engine at {endpoint}: {remedy}"
    if "HTTP request to an HTTPS server" in text:
        return f"the engine at {endpoint} requires TLS: set tls_ca, tls_cert and tls_key"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        found = re.search(r"certificate verify failed: ([^(]*)", text)
        why = f": {found[1].strip()}" if found else ""
        return f"the engine at {endpoint} has a certificate that tls_ca does not verify{why}"
    if "RemoteDisconnected" in text or "CERTIFICATE_REQUIRED" in text.upper():
        return (
            f"the engine at {endpoint} closes the connection: it may require a certificate "
            "(tls_cert, tls_key)"
        )
    if "Connection refused" in text:
        return f"the engine at {endpoint} does not answer: connection refused"
    return f"the engine at {endpoint}: {text[:300]}"
