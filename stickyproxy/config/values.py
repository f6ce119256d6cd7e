"""Single values of the configuration file, read and checked: each function raises ValueError that
says what is wrong and how to fix it."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from ipaddress import ip_interface
from typing import Literal

from pydantic import ValidationInfo

from stickyproxy.base.addresses import Address, socket_path
from stickyproxy.base.text import shown
from stickyproxy.base.values import duration, port_number
from stickyproxy.model.service import EndpointSpec
from stickyproxy.model.settings import Network

SERVICE_NAME = re.compile("[A-Za-z0-9._-]+")
_SECRET_MAX = 4096  # bytes; more is a wrong file


def visible_text(value: object, example: str) -> str:
    """Text that is not empty and contains only printable characters. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f'{shown(value)} is not text: write it in quotes, like "{example}"')
    if not value:
        raise ValueError(f'is empty: write e.g. "{example}"')
    if "-----BEGIN " in value:  # perhaps a key, which no log may have
        raise ValueError(f'is PEM, which belongs into a file: write e.g. "{example}"')
    if not value.isprintable():
        raise ValueError(f"{shown(value)} holds a control character: remove it")
    return value


def listener_address(value: object) -> Address:
    return Address.parse(visible_text(value, "0.0.0.0:80"))


def https_port(value: object) -> bool | int:
    """Whether requests are redirected to https, or the port there. Raises ValueError."""
    if isinstance(value, bool):
        return value
    try:
        return port_number(value)
    except ValueError:
        raise ValueError(
            f"{shown(value)} is neither true nor a port: write true, or the port that clients "
            "reach over https"
        ) from None


def endpoint_address(value: object, port: int | None) -> Address:
    """The address of a static endpoint; ``port`` completes one without. Raises ValueError."""
    text = visible_text(value, "10.0.0.5:8080")
    has_port = text.startswith(("unix:", "/")) or ":" in text.rpartition("]")[2]
    if not has_port and port is None:
        raise ValueError(
            f"{shown(text)} has no port: write {shown(text + ':8080')}, or set port for the service"
        )
    address = Address.parse(text if has_port else f"{text}:{port}")
    if address.path is None and not (address.host and address.port):
        raise ValueError(f'{shown(text)} cannot be connected to: write it like "10.0.0.5:8080"')
    return address


_WITH_ID = {"address", "id"}


def endpoint(value: object, info: ValidationInfo) -> EndpointSpec:
    """An address, or a table of an address and the ``id`` of who is there. Raises ValueError."""
    slot = ""
    if isinstance(value, dict):
        if value.keys() != _WITH_ID:
            raise ValueError(
                "a table of an endpoint has two keys: write it like "
                '{ id = "blue", address = "10.0.0.5:8080" }'
            )
        slot, value = visible_text(value["id"], "blue"), value["address"]
    # A port that failed is missing in info.data: then any will do, its own message is enough.
    address = str(endpoint_address(value, info.data.get("port", 1)))
    return EndpointSpec(id=address, address=address, slot=slot)


def trusted_proxy(value: object) -> Network | Literal["unix:"]:
    """A network, or ``unix:`` for peers on unix sockets. Raises ValueError."""
    text = visible_text(value, "10.0.0.0/8")
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


def service_name(value: object) -> str:
    name = visible_text(value, "shop")
    if not SERVICE_NAME.fullmatch(name):
        raise ValueError(
            f"{shown(name)} is not a service name: use letters, digits, dots, hyphens and "
            "underscores"
        )
    return name


def log_path(value: object) -> str:
    return visible_text(value, "/var/log/stickyproxy.log")


def secret(value: object) -> bytes:
    return visible_text(value, "some long random text").encode()


def secret_from_file(value: object) -> bytes:
    """The content of a file, without white space around it. Raises ValueError."""
    path = visible_text(value, "/run/secrets/stickyproxy")
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


def engine_endpoint(value: object) -> str:
    """The engine's address as Docker writes it. Raises ValueError."""
    text = visible_text(value, "unix:///var/run/docker.sock")
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


def file(value: object) -> str:
    path = visible_text(value, "/run/secrets/ca.pem")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{shown(path)} cannot be read: name a readable file")
    return path


def pem_file(value: object) -> str:
    return visible_text(value, "/etc/ssl/shop.example.pem")


def cache_file(value: object) -> str:
    return visible_text(value, "/var/lib/stickyproxy/snapshot.json")


def orders_file(value: object) -> str:
    return visible_text(value, "/var/lib/stickyproxy/orders.json")


def handover_socket(value: object) -> str:
    """The path of a unix socket, with or without its kind."""
    text = visible_text(value, "/run/stickyproxy/handover.sock")
    return socket_path(text if text.startswith("unix:") else f"unix:{text}")


def network_pattern(value: object) -> str:
    return visible_text(value, "shop_*")


def controller_url(value: object) -> str:
    """Without user information, which would be a secret in every message that names the controller.
    Raises ValueError, which does not show it either."""
    text = visible_text(value, "https://controller:8082")
    if "@" in text:
        raise ValueError(
            "a controller is not asked by name and password: remove what is before the @, and "
            "share a token (token_file)"
        )
    scheme, separator, rest = text.partition("://")
    if separator and scheme in ("http", "https"):
        address = Address.parse(rest.removesuffix("/"))
        if address.host and address.port:
            return f"{scheme}://{address}"
    raise ValueError(f'{shown(text)} is not a controller: write it like "https://controller:8082"')


def collector(value: object) -> str:
    """The URL of a collector for traces (OTLP over HTTP). Raises ValueError."""
    text = visible_text(value, "http://127.0.0.1:4318")
    scheme, separator, rest = text.partition("://")
    host = rest.partition("/")[0]
    if not separator or scheme not in ("http", "https") or not host or "@" in host:
        raise ValueError(f'{shown(text)} is not a collector: write it like "http://127.0.0.1:4318"')
    if find_spec("opentelemetry") is None:
        raise ValueError(
            "takes OpenTelemetry, which is not installed: pip install 'stickyproxy[tracing]', or "
            "remove this key"
        )
    return text.rstrip("/").removesuffix("/v1/traces")


def session_window(value: object) -> float:
    """Seconds: at least a minute. Raises ValueError."""
    seconds = duration(value)
    if seconds < 60:
        raise ValueError(f'{shown(value)} is too short: write at least "1m"')
    return seconds


def fraction(value: object) -> float:
    """From 0 to 1. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{shown(value)} is not a share: write a number from 0 to 1, such as 0.1")
    return float(value)


def acme_directory(value: object) -> str:
    """The URL that an authority publishes. Raises ValueError."""
    text = visible_text(value, "https://acme-v02.api.letsencrypt.org/directory")
    host, slash, _ = text.removeprefix("https://").partition("/")
    if text.startswith("https://") and host and slash and "@" not in host:
        Address.parse(host if ":" in host.rpartition("]")[2] else f"{host}:443")
        return text
    raise ValueError(
        f"{shown(text)} is not the directory of a certificate authority: write its URL, like "
        '"https://acme-v02.api.letsencrypt.org/directory"'
    )


def acme_storage(value: object) -> str:
    """An absolute path, or ``swarm``. Raises ValueError."""
    text = visible_text(value, "/var/lib/stickyproxy/acme")
    if text == "swarm" or text.startswith("/"):
        return text
    raise ValueError(
        f'{shown(text)} is neither "swarm" nor the path of a directory: write e.g. '
        '"/var/lib/stickyproxy/acme"'
    )


def email(value: object) -> str:
    text = visible_text(value, "admin@example.com")
    if not re.fullmatch(r"[^\s@,]+@[^\s@,]+", text):
        raise ValueError(f'{shown(text)} is no address: write one like "admin@example.com"')
    return text


def eab_key_id(value: object) -> str:
    return visible_text(value, "kid-1")


def eab_key(value: object) -> str:
    """A key in base64url. Raises ValueError, which does not show it."""
    text = visible_text(value, "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W")
    if not re.fullmatch("[A-Za-z0-9_-]+=*", text):
        raise ValueError("is not base64url: copy the key as the authority shows it")
    return text


def eab_key_from_file(value: object) -> str:
    """The same, from a file. Raises ValueError."""
    return eab_key(secret_from_file(value).decode("ascii", "replace"))
