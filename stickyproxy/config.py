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
from ipaddress import IPv4Network, IPv6Network, ip_interface
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

from stickyproxy.errors import ConfigError, ConfigProblem
from stickyproxy.model import EndpointSpec, ServiceSpec
from stickyproxy.options import (
    Location,
    ServiceOptions,
    Timeout,
    canonical_host,
    explain,
    port_number,
    shown,
)

Network = IPv4Network | IPv6Network
LogFormat = Literal["off", "text", "json"]

# --- what the rest of the program sees ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or connect: ``host`` and ``port``, or the ``path`` of a unix socket.

    ``str()`` gives the canonical text, which ``parse`` reads back."""

    host: str | None = None
    """IP address (IPv6 without brackets) or host name; None: all interfaces."""
    port: int | None = None
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port``, ``[v6]:port``, ``:port`` or ``unix:/path``. Raises ValueError with
        the value and the remedy."""
        if text.startswith(("unix:", "/")):
            return cls(path=_socket_path(text))
        if "://" in text:
            scheme = text[: text.index("://") + 3]
            raise ValueError(f"{shown(text)} is a URL, not an address: remove {shown(scheme)}")
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):
            raise ValueError(f"{shown(text)} has no port: write {shown(text + ':8080')}")
        if ":" in host and not host.startswith("["):
            raise ValueError(
                f'{shown(text)} is ambiguous: write IPv6 in brackets, like "[2001:db8::1]:8080"'
            )
        if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError(
                f"{shown(text)} has no valid port: write a number from 1 to 65535 after the colon"
            )
        return cls(canonical_host(host).strip("[]") if host else None, int(port))

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket clients connect to."""

    address: Address
    """Port 0 means any free one."""


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """How requests are proxied; all times are in seconds."""

    trusted_proxies: tuple[Network, ...] = ()
    """Peers whose X-Forwarded-* are believed and extended."""
    trust_unix: bool = False
    """Believe those of peers on unix socket listeners too."""
    hide_info_headers: bool = False
    pin_secret: bytes | None = field(default=None, repr=False)
    """The key of the pins, from ``secret`` or the file ``secret_file``; None: the default key."""
    connect_timeout: float = 3.0
    response_timeout: float = 60.0
    """Silence of the endpoint until its response head, and between two reads of a body."""
    client_timeout: float = 60.0
    """How long a client may neither send nor take a byte of a body."""
    keepalive_timeout: float = 75.0
    """How long an idle client connection is kept."""
    head_timeout: float = 15.0
    """How long a client may take to send the head of a request."""
    upstream_idle_timeout: float = 4.0
    """How long an idle connection to an endpoint is kept for reuse."""
    grace_period: float = 30.0
    """How long requests under way may last after SIGTERM."""
    max_head_line: int = 8190
    """Bytes of a request line and of one header field."""
    max_headers: int = 128


@dataclass(frozen=True, slots=True)
class AccessLogSettings:
    """What is logged of each request, and where."""

    format: LogFormat = "text"
    path: str = "-"
    """A file; ``-`` is standard output."""


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, valid configuration."""

    listeners: tuple[Listener, ...] = (Listener(Address("0.0.0.0", 80)),)  # noqa: S104
    proxy: ProxySettings = ProxySettings()
    access_log: AccessLogSettings = AccessLogSettings()
    services: tuple[ServiceSpec, ...] = ()


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
_SOCKET_PATH_MAX = 107  # bytes of sun_path, without the final NUL
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


def _socket_path(text: str) -> str:
    """The path in ``unix:/path`` or ``unix:///path``. Raises ValueError."""
    path = re.sub("^//+", "/", text.removeprefix("unix:"))
    if not text.startswith("unix:"):
        raise ValueError(f"{shown(text)} lacks its kind: write {shown('unix:' + path)}")
    if not re.fullmatch(r"/[!-~]*[!-.0-~]", path):
        raise ValueError(
            f'{shown(text)} is not a socket: write it like "unix:/run/app.sock", '
            "absolute and in ASCII without spaces"
        )
    if len(path) > _SOCKET_PATH_MAX:
        raise ValueError(
            f"{shown(text)} is too long for a socket: use at most {_SOCKET_PATH_MAX} bytes"
        )
    return path


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


# --- tables ---------------------------------------------------------------------------------

_PROXY = ProxySettings()
_ACCESS_LOG = AccessLogSettings()


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _ListenerTable(_Table):
    address: Annotated[Address, PlainValidator(_listener_address)]


class _ProxyTable(_Table):
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


class _Document(_Table):
    listeners: tuple[_ListenerTable, ...] = ()
    proxy: _ProxyTable = _ProxyTable()
    access_log: _AccessLogTable = _AccessLogTable()
    services: tuple[_ServiceTable, ...] = ()

    def config(self) -> Config:
        listeners = tuple(Listener(table.address) for table in self.listeners)
        return Config(
            listeners=listeners or Config().listeners,
            proxy=self.proxy.settings(),
            access_log=AccessLogSettings(self.access_log.format, self.access_log.path),
            services=tuple(table.spec(table.name, table.endpoints) for table in self.services),
        )


TABLES: dict[str, type[BaseModel]] = {
    "": _Document,
    "listeners": _ListenerTable,
    "proxy": _ProxyTable,
    "access_log": _AccessLogTable,
    "services": _ServiceTable,
}
"""The model of each table by its name."""


def _known_keys(location: Location) -> Sequence[str]:
    table = str(location[0]) if location else ""
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
