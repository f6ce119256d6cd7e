"""The configuration file: ``load`` gives a ``Config``, or a ``ConfigError`` with every problem.

pydantic reads the tables of the TOML file and ``options`` validates what ``[[services]]`` shares
with labels; what leaves this file are plain frozen dataclasses, comparable and picklable. Keys,
meanings, defaults and units for users: ``config.example.toml``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from stickyproxy.base.addresses import Address, socket_path
from stickyproxy.base.errors import ConfigError, ConfigProblem
from stickyproxy.base.text import shown
from stickyproxy.config.options import Location, ServiceOptions, Timeout, explain, port_number
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.settings import AccessLogSettings, LogFormat, Network, ProxySettings

__all__ = [
    "ADMIN_ADDRESS",
    "TABLES",
    "Config",
    "ControllerSettings",
    "FollowSettings",
    "Listener",
    "SwarmSettings",
    "load",
    "parse",
]

# --- what the rest of the program sees ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket clients connect to."""

    address: Address
    """Port 0 means any free one."""


JoinBy = Literal["connector", "service"]


@dataclass(frozen=True, slots=True)
class SwarmSettings:
    """The Swarm whose labelled services are published; times are in seconds."""

    endpoint: str = "unix:///var/run/docker.sock"
    """``unix:///path`` or ``tcp://host:port`` of a manager's engine."""
    poll_interval: float = 3.0
    """How often the engine is asked when it reports nothing by itself."""
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    """Files; by ``tls_ca`` the engine is verified, by the other two it verifies us."""
    service_cluster: str | None = None
    """Publish only services of this cluster, or of none; None: all."""
    attach_networks: bool = True
    """Join the networks that published services are on."""
    join_by: JoinBy = "service"
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
    """Where a controller answers the proxies that follow it."""

    address: Address
    token: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, valid configuration."""

    listeners: tuple[Listener, ...] = (Listener(Address("0.0.0.0", 80)),)  # noqa: S104
    proxy: ProxySettings = ProxySettings()  # noqa: RUF009  # frozen
    access_log: AccessLogSettings = AccessLogSettings()  # noqa: RUF009
    services: tuple[ServiceSpec, ...] = ()
    admin: Address | None = None
    """Where the admin page listens; None: nowhere."""
    swarm: SwarmSettings | None = None
    follow: FollowSettings | None = None
    controller: ControllerSettings | None = None


ADMIN_ADDRESS = Address("127.0.0.1", 8081)
"""Where the admin page listens, and is looked for, if nothing else is said."""


def load(path: str | os.PathLike[str]) -> Config:
    """Read a configuration file. Raises ConfigError if it cannot be read or used."""
    source = os.fspath(path)
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise _cannot_read(source, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise _cannot_read(source, f"byte {error.start} is not UTF-8") from error
    except ValueError as error:  # a NUL in the path
        raise _cannot_read(source, str(error)) from error
    return parse(text, source)


def parse(text: str, source: str = "config") -> Config:
    """Read a configuration from text; ``source`` names it in messages. The file ``secret_file``
    names is read too. Raises ConfigError with every problem found."""
    document = _read_toml(text, source)
    problems = list(_repetitions(document))
    try:
        tables = _Document.model_validate(document)
    except ValidationError as error:
        problems = [*explain(error, _known_keys), *problems]
    if problems:
        raise ConfigError(
            source,
            [ConfigProblem(_place(where, document), reason) for where, reason in problems],
        )
    return tables.config()


# --- TOML -----------------------------------------------------------------------------------


def _cannot_read(source: str, reason: str) -> ConfigError:
    return ConfigError(source, [ConfigProblem("", f"cannot be read: {reason}")])


def _read_toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        reason, place = "lists or tables nested too deeply", ""
        cause: Exception = error
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        reason, _, place = str(error).partition(" (at ")
        cause = error
    raise ConfigError(
        source, [ConfigProblem(place.removesuffix(")"), f"is not valid TOML: {reason}")]
    ) from cause


def _place(location: Location, document: dict[str, Any]) -> str:
    """``services[1] (shop).hosts[0]`` for ("services", 1, "hosts", 0)."""
    place = ""
    for step in location:
        if isinstance(step, int):
            place += f"[{step}]"
        else:
            place += f".{_bare_or_quoted(step)}" if place else _bare_or_quoted(step)
        if place == f"services[{step}]":
            place += _named(document["services"][step])
    return place


def _bare_or_quoted(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else shown(key)


def _named(service: object) -> str:
    name = service.get("name") if isinstance(service, dict) else None
    return f" ({name})" if isinstance(name, str) and _NAME.fullmatch(name) else ""


# --- values ---------------------------------------------------------------------------------

_NAME = re.compile("[A-Za-z0-9._-]+")
_SECRET_MAX = 4096  # bytes; more is a wrong file


def _text(value: object, example: str) -> str:
    """Text that is not empty and holds nothing invisible. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f'{shown(value)} is not text: write it in quotes, like "{example}"')
    if not value:
        raise ValueError(f'is empty: write e.g. "{example}"')
    if not value.isprintable():
        raise ValueError(f"{shown(value)} holds a control character: remove it")
    return value


def _listener_address(value: object) -> Address:
    return Address.parse(_text(value, "0.0.0.0:80"))


def _endpoint_address(value: object, port: int | None) -> Address:
    """The address of a static endpoint; ``port`` completes one without. Raises ValueError."""
    text = _text(value, "10.0.0.5:8080")
    has_port = text.startswith(("unix:", "/")) or ":" in text.rpartition("]")[2]
    if not has_port and port is None:
        raise ValueError(
            f"{shown(text)} has no port: write {shown(text + ':8080')}, or set port for the service"
        )
    address = Address.parse(text if has_port else f"{text}:{port}")
    if address.path is None and not (address.host and address.port):
        raise ValueError(f'{shown(text)} cannot be connected to: write it like "10.0.0.5:8080"')
    return address


def _endpoint(value: object, info: ValidationInfo) -> EndpointSpec:
    # A port that failed is missing in info.data: then any will do, its own message is enough.
    address = str(_endpoint_address(value, info.data.get("port", 1)))
    return EndpointSpec(id=address, address=address)


def _trusted_proxy(value: object) -> Network | Literal["unix:"]:
    """A network, or ``unix:`` for peers on unix sockets. Raises ValueError."""
    text = _text(value, "10.0.0.0/8")
    if text.startswith("unix:"):
        if text == "unix:":
            return "unix:"
        raise ValueError(f'{shown(text)} names one socket: write "unix:" for peers on all of them')
    try:
        interface = ip_interface(text)
    except ValueError:
        raise ValueError(
            f'{shown(text)} is not a network: write it like "10.0.0.0/8" or "2001:db8::/32"'
        ) from None
    if interface.ip != interface.network.network_address:
        raise ValueError(
            f'{shown(text)} has bits set beyond its prefix: write "{interface.network}"'
        )
    return interface.network


def _service_name(value: object) -> str:
    name = _text(value, "shop")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{shown(name)} is not a service name: use letters, digits, dots, hyphens and "
            "underscores"
        )
    return name


def _log_path(value: object) -> str:
    return _text(value, "/var/log/stickyproxy.log")


def _secret(value: object) -> bytes:
    return _text(value, "some long random text").encode()


def _secret_from_file(value: object) -> bytes:
    """The content of a file, without white space around it. Raises ValueError."""
    path = _text(value, "/run/secrets/stickyproxy")
    try:
        with open(path, "rb") as file:
            content = file.read(_SECRET_MAX + 1).strip()
    except OSError as error:
        raise ValueError(
            f"{shown(path)} cannot be read ({error.strerror}): name a readable file"
        ) from None
    if not content:
        raise ValueError(f"{shown(path)} is empty: write some long random text into it")
    if len(content) > _SECRET_MAX:
        raise ValueError(f"{shown(path)} is too large: use at most {_SECRET_MAX} bytes")
    return content


def _engine_endpoint(value: object) -> str:
    """The engine's address as Docker writes it. Raises ValueError."""
    text = _text(value, "unix:///var/run/docker.sock")
    kind, separator, rest = text.partition("://")
    if kind == "unix" and separator and rest.startswith("/"):
        return f"unix://{socket_path('unix:' + rest)}"
    if kind in ("tcp", "https") and separator:
        address = Address.parse(rest)
        if address.host and address.port:
            return f"tcp://{address}"
    raise ValueError(
        f'{shown(text)} is not an engine: write it like "unix:///var/run/docker.sock" or '
        '"tcp://manager.example:2376"'
    )


def _file(value: object) -> str:
    path = _text(value, "/run/secrets/ca.pem")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{shown(path)} cannot be read: name a readable file")
    return path


def _cache_file(value: object) -> str:
    return _text(value, "/var/lib/stickyproxy/snapshot.json")


def _network_pattern(value: object) -> str:
    return _text(value, "shop_*")


def _controller_url(value: object) -> str:
    text = _text(value, "http://controller:8082")
    if text.startswith("http://"):
        address = Address.parse(text.removeprefix("http://").removesuffix("/"))
        if address.host and address.port:
            return f"http://{address}"
    raise ValueError(f'{shown(text)} is no controller: write it like "http://controller:8082"')


# --- tables ---------------------------------------------------------------------------------

_PROXY = ProxySettings()
_ACCESS_LOG = AccessLogSettings()
_SWARM = SwarmSettings()


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _ListenerTable(_Table):
    address: Annotated[Address, PlainValidator(_listener_address)]


class _ProxyTable(_Table):
    workers: Annotated[StrictInt, Field(ge=0, le=256)] = _PROXY.workers
    trusted_proxies: tuple[
        Annotated[Network | Literal["unix:"], PlainValidator(_trusted_proxy)], ...
    ] = ()
    hide_info_headers: StrictBool = _PROXY.hide_info_headers
    secret: Annotated[bytes, PlainValidator(_secret)] | None = None
    secret_file: Annotated[bytes, PlainValidator(_secret_from_file)] | None = None
    connect_timeout: Timeout = _PROXY.connect_timeout
    response_timeout: Timeout = _PROXY.response_timeout
    client_timeout: Timeout = _PROXY.client_timeout
    keepalive_timeout: Timeout = _PROXY.keepalive_timeout
    head_timeout: Timeout = _PROXY.head_timeout
    upstream_idle_timeout: Timeout = _PROXY.upstream_idle_timeout
    grace_period: Timeout = _PROXY.grace_period
    worker_timeout: Timeout = _PROXY.worker_timeout
    max_head_line: Annotated[StrictInt, Field(ge=1024, le=65536)] = _PROXY.max_head_line
    max_headers: Annotated[StrictInt, Field(ge=16, le=4096)] = _PROXY.max_headers

    @field_validator("secret_file")
    @classmethod
    def _one_secret(cls, value: bytes, info: ValidationInfo) -> bytes:
        if info.data.get("secret"):
            raise ValueError("cannot be combined with secret: remove one of the two")
        return value

    def settings(self) -> ProxySettings:
        return ProxySettings(
            workers=self.workers,
            trusted_proxies=tuple(p for p in self.trusted_proxies if not isinstance(p, str)),
            trust_unix="unix:" in self.trusted_proxies,
            hide_info_headers=self.hide_info_headers,
            pin_secret=self.secret or self.secret_file,
            connect_timeout=self.connect_timeout,
            response_timeout=self.response_timeout,
            client_timeout=self.client_timeout,
            keepalive_timeout=self.keepalive_timeout,
            head_timeout=self.head_timeout,
            upstream_idle_timeout=self.upstream_idle_timeout,
            grace_period=self.grace_period,
            worker_timeout=self.worker_timeout,
            max_head_line=self.max_head_line,
            max_headers=self.max_headers,
        )


class _AccessLogTable(_Table):
    format: LogFormat = _ACCESS_LOG.format
    path: Annotated[str, PlainValidator(_log_path)] = _ACCESS_LOG.path


class _ServiceTable(ServiceOptions):
    # Inherited keys are validated first: endpoints may look at port.
    name: Annotated[str, PlainValidator(_service_name)]
    endpoints: tuple[Annotated[EndpointSpec, PlainValidator(_endpoint)], ...] = ()


class _AdminTable(_Table):
    address: Annotated[Address, PlainValidator(_listener_address)] = ADMIN_ADDRESS


class _TokenTable(_Table):
    token: Annotated[bytes, PlainValidator(_secret)] | None = None
    token_file: Annotated[bytes, PlainValidator(_secret_from_file)] | None = Field(
        None, validate_default=True
    )

    @field_validator("token_file")
    @classmethod
    def _one_token(cls, value: bytes | None, info: ValidationInfo) -> bytes | None:
        if "token" in info.data and (value is None) == (info.data["token"] is None):
            raise ValueError(
                "is required: name the file that holds the token that controller and proxies share"
                if value is None
                else "cannot be combined with token: remove one of the two"
            )
        return value

    def secret(self) -> bytes:
        return self.token or self.token_file or b""


class _ControllerTable(_TokenTable):
    address: Annotated[Address, PlainValidator(_listener_address)]

    def settings(self) -> ControllerSettings:
        return ControllerSettings(self.address, self.secret())


class _SwarmTable(_Table):
    endpoint: Annotated[str, PlainValidator(_engine_endpoint)] = _SWARM.endpoint
    poll_interval: Timeout = _SWARM.poll_interval
    tls_ca: Annotated[str, PlainValidator(_file)] | None = None
    tls_cert: Annotated[str, PlainValidator(_file)] | None = None
    tls_key: Annotated[str, PlainValidator(_file)] | None = Field(None, validate_default=True)
    service_cluster: Annotated[str, PlainValidator(_service_name)] | None = None
    attach_networks: StrictBool = _SWARM.attach_networks
    join_by: JoinBy = _SWARM.join_by
    networks: tuple[Annotated[str, PlainValidator(_network_pattern)], ...] = ()
    release_networks_after: Timeout = _SWARM.release_networks_after
    proxy_service: Annotated[str, PlainValidator(_service_name)] | None = None

    @field_validator("tls_cert")
    @classmethod
    def _needs_tls_ca(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("tls_ca", "invalid") is None:
            raise ValueError(
                "needs tls_ca too, or whoever answers would be taken for the engine: name the CA "
                "that its certificate is verified with"
            )
        return value

    @field_validator("tls_key")
    @classmethod
    def _belongs_to_tls_cert(cls, value: str | None, info: ValidationInfo) -> str | None:
        certificate = info.data.get("tls_cert", "invalid")
        if value is None and certificate not in (None, "invalid"):
            raise ValueError("is required with tls_cert: name the file that holds its key")
        if value is not None and certificate is None:
            raise ValueError("has no meaning without tls_cert: set that too, or remove this key")
        return value

    def settings(self) -> SwarmSettings:
        return SwarmSettings(**{key: getattr(self, key) for key in type(self).model_fields})


class _FollowTable(_TokenTable):
    url: Annotated[str, PlainValidator(_controller_url)]
    cache_file: Annotated[str, PlainValidator(_cache_file)] | None = None

    def settings(self) -> FollowSettings:
        return FollowSettings(self.url, self.secret(), self.cache_file)


class _ProvidersTable(_Table):
    swarm: _SwarmTable | None = None
    controller: _FollowTable | None = None


class _Document(_Table):
    listeners: tuple[_ListenerTable, ...] = ()
    proxy: _ProxyTable = _ProxyTable()
    access_log: _AccessLogTable = _AccessLogTable()
    services: tuple[_ServiceTable, ...] = ()
    admin: _AdminTable | None = None
    providers: _ProvidersTable = _ProvidersTable()
    controller: _ControllerTable | None = None

    def config(self) -> Config:
        listeners = tuple(Listener(table.address) for table in self.listeners)
        swarm, follow = self.providers.swarm, self.providers.controller
        controller = self.controller
        return Config(
            listeners=listeners or Config().listeners,
            proxy=self.proxy.settings(),
            access_log=AccessLogSettings(self.access_log.format, self.access_log.path),
            services=tuple(table.spec(table.name, table.endpoints) for table in self.services),
            admin=None if self.admin is None else self.admin.address,
            swarm=None if swarm is None else swarm.settings(),
            follow=None if follow is None else follow.settings(),
            controller=None if controller is None else controller.settings(),
        )


TABLES: dict[str, type[BaseModel]] = {
    "": _Document,
    "listeners": _ListenerTable,
    "proxy": _ProxyTable,
    "access_log": _AccessLogTable,
    "services": _ServiceTable,
    "admin": _AdminTable,
    "providers": _ProvidersTable,
    "providers.swarm": _SwarmTable,
    "providers.controller": _FollowTable,
    "controller": _ControllerTable,
}
"""The model of each table by its name."""


def _known_keys(location: Location) -> Sequence[str]:
    table = ".".join(step for step in location if isinstance(step, str))
    return list(TABLES[table].model_fields)


# --- checks across tables -------------------------------------------------------------------


def _repetitions(document: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    """What may stand only once. Reads the document itself, so that these problems are reported
    together with all others; values wrong in themselves are passed over."""
    addresses = [_valid(_listener_address, t.get("address")) for t in _list(document, "listeners")]
    for index, first in _repeated(addresses):
        reason = f'"{addresses[index]}" is the address of listeners[{first}] too: remove one'
        yield ("listeners", index, "address"), reason

    services = _list(document, "services")
    names = [_valid(_service_name, service.get("name")) for service in services]
    for index, first in _repeated(names):
        reason = f'"{names[index]}" is the name of services[{first}] too: rename one'
        yield ("services", index, "name"), reason

    for number, service in enumerate(services):
        endpoints = _valid_endpoints(service)
        for index, first in _repeated(endpoints):
            reason = f'"{endpoints[index]}" is the same as endpoints[{first}]: remove one'
            yield ("services", number, "endpoints", index), reason


def _list(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The tables under ``key``; an empty one for whatever is none."""
    tables = document.get(key)
    if not isinstance(tables, list):
        return []
    return [table if isinstance(table, dict) else {} for table in tables]


def _valid(parse_value: Callable[[object], object], value: object) -> str | None:
    try:
        return str(parse_value(value))
    except ValueError:
        return None


def _valid_endpoints(service: dict[str, Any]) -> list[str | None]:
    endpoints = service.get("endpoints")
    if not isinstance(endpoints, list):
        return []
    known_port = _valid(port_number, service.get("port"))
    port = int(known_port) if known_port else None
    return [_valid(lambda value: _endpoint_address(value, port), item) for item in endpoints]


def _repeated(values: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    """(index, index of the first) of every value that was there before; None never counts."""
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        if value is not None and first.setdefault(value, index) != index:
            yield index, first[value]
