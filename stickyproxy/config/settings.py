"""What a configuration comes to: plain frozen dataclasses, comparable and picklable.

They do not need the pydantic that reads them. What goes to worker processes is in
``model.settings``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stickyproxy.base.addresses import Address
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.settings import AccessLogSettings, ProcessLogFormat, ProxySettings

JoinBy = Literal["connector", "service"]
Challenge = Literal["http-01", "tls-alpn-01"]
KeyType = Literal["ec256", "ec384", "rsa2048", "rsa4096"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """A Docker engine, and how it is asked; times are in seconds."""

    endpoint: str = "unix:///var/run/docker.sock"
    """``unix:///path`` or ``tcp://host:port``."""
    poll_interval: float = 3.0
    """How often the engine is asked when it reports nothing by itself."""
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    """Files; by ``tls_ca`` the engine is verified, by the other two it verifies us."""


@dataclass(frozen=True, slots=True)
class DockerSettings(EngineSettings):
    """The engine whose labelled containers are published."""

    service_cluster: str | None = None
    """Publish only containers of this cluster, or of none; None: all."""


@dataclass(frozen=True, slots=True)
class SwarmSettings(EngineSettings):
    """The Swarm whose labelled services are published: by the engine of a manager."""

    service_cluster: str | None = None
    """Publish only services of this cluster, or of none; None: all."""
    attach_networks: bool = True
    """Join the networks that published services are on."""
    join_by: JoinBy = "connector"
    """How those are joined that cannot be attached to a running container: by a connector, or by
    updating the proxies' service, which replaces its tasks."""
    networks: tuple[str, ...] = ()
    """Names or patterns (``shop_*``) of networks that may be joined; empty: all."""
    release_networks_after: float = 300.0
    """How long a joined network is kept when no published service is on it any more."""
    proxy_service: str | None = None
    """The Swarm service that the proxies are tasks of; None: the one this process is a task of."""


@dataclass(frozen=True, slots=True)
class FollowSettings:
    """The controller that a proxy follows."""

    url: str
    token: bytes = field(repr=False)
    cache_file: str | None = None
    """Where the last state is kept for the next start."""


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """Where a controller serves the proxies that follow it."""

    address: Address
    token: bytes = field(repr=False)
    state_file: str | None = None
    """Where orders of operators are kept; None: nowhere."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """The files of a certificate, in PEM."""

    cert: str
    """The certificate, with those that lead to its authority."""
    key: str
    """Its key; may be in the same file."""
    default: bool = False
    """Shown also to those whom no certificate is for."""


@dataclass(frozen=True, slots=True)
class AcmeSettings:
    """The certificate authority that is asked by ACME (RFC 8555), and where it all is kept."""

    directory: str
    """URL."""
    storage: str
    """The path of a directory, or ``swarm``: the Swarm's configs, encrypted by ``secret``."""
    email: str = ""
    """Whom the authority may write to; empty: nobody."""
    terms_agreed: bool = False
    eab_key_id: str = ""
    """Of the external account (RFC 8555 section 7.3.4) that ours belongs to; empty: to none."""
    eab_key: str = field(default="", repr=False)
    """In base64url, as authorities give it."""
    ca_file: str | None = None
    """Who issued the authority's own HTTPS certificate; None: one that the system knows."""
    challenge: Challenge = "http-01"
    key_type: KeyType = "ec256"
    """Of certificates."""
    secret: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """What operators may change while the proxy runs, and how."""

    state_file: str | None = None
    """Where their orders are kept; None: nowhere."""
    change_token: bytes = field(default=b"", repr=False)
    """What they have to show; empty: nothing, on an admin listener for this machine alone."""
    read_token: bytes = field(default=b"", repr=False)
    """What whoever reads has to show; empty: likewise."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How the processes' own log is written."""

    format: ProcessLogFormat = "text"


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, valid configuration."""

    listeners: tuple[ListenerSpec, ...] = (ListenerSpec(Address("0.0.0.0", 80)),)  # noqa: S104
    proxy: ProxySettings = ProxySettings()  # noqa: RUF009  # frozen
    access_log: AccessLogSettings = AccessLogSettings()  # noqa: RUF009
    log: LogSettings = LogSettings()
    services: tuple[ServiceSpec, ...] = ()
    certificates: tuple[CertificateFiles, ...] = ()
    files: tuple[str, ...] = ()
    """What else was read for the services."""
    admin: Address | None = None
    """Where the admin page listens; None: nowhere."""
    operator: OperatorSettings = OperatorSettings()
    swarm: SwarmSettings | None = None
    docker: DockerSettings | None = None
    follow: FollowSettings | None = None
    controller: ControllerSettings | None = None
    acme: AcmeSettings | None = None


ADMIN_ADDRESS = Address("127.0.0.1", 8081)
"""Where the admin page listens, and is looked for, if nothing else is said."""
