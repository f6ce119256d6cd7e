"""Addresses as people write them: where to listen or connect."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from stickyproxy.base.text import shown

_DNS_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"  # underscores: Docker's service names have them
_DNS_NAME = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_SOCKET_PATH_MAX = 107  # bytes of sun_path, without the final NUL


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
            return cls(path=socket_path(text))
        if "://" in text:
            scheme = text[: text.index("://") + 3]
            raise ValueError(f"{shown(text)} is a URL, not an address: remove {shown(scheme)}")
        host, port = split_host_port(text)
        return cls(canonical_host(host).strip("[]") if host else None, port)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return join_host_port(self.host or "", self.port or 0)


def split_host_port(text: str) -> tuple[str, int]:
    """Host as written, brackets included and perhaps empty, and port of ``host:port``,
    ``[v6]:port`` or ``:port``. Raises ValueError with the value and the remedy."""
    host, colon, port = text.rpartition(":")
    if re.fullmatch("[0-9]{1,5}", text):
        raise ValueError(
            f"{shown(text)} is a port without a host: write {shown('127.0.0.1:' + text)} or "
            f"{shown(':' + text)}"
        )
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
    return host, int(port)


def join_host_port(host: str, port: int) -> str:
    """``host:port``; an IPv6 address gets its brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def socket_path(text: str) -> str:
    """The path in ``unix:/path`` or ``unix:///path``. Raises ValueError."""
    path = re.sub("^//+", "/", text.removeprefix("unix:"))
    if not text.startswith("unix:"):
        raise ValueError(f"{shown(text)} lacks its scheme: write {shown('unix:' + path)}")
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


def canonical_host(text: str, *, as_written: str = "") -> str:
    """``host_name`` without wildcards: one host, which may be connected to. Raises ValueError.
    ``as_written``: what messages show, if the text is a part of that."""
    whole = as_written or text
    if not text.isascii():
        raise ValueError(f"{shown(whole)} is not ASCII: write it in punycode (xn--...)")
    if text.startswith("[") and text.endswith("]") and is_ipv6(text[1:-1]):
        return f"[{IPv6Address(text[1:-1]).compressed}]"
    host = text.lower().removesuffix(".")
    if len(host) > 253 or not _DNS_NAME.fullmatch(host):
        raise bad_host(whole)
    if host.rpartition(".")[2].isdigit() and not _is_ipv4(host):  # as browsers tell them apart
        raise ValueError(f"{shown(whole)} is not an IPv4 address: write four numbers from 0 to 255")
    return host


def bad_host(text: str) -> ValueError:
    return ValueError(
        f"{shown(text)} is not a host name: use letters, digits, hyphens and dots, "
        'or an address such as "192.0.2.1" or "[2001:db8::1]"'
    )


def is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return "%" not in text  # a zone means something on one machine only; no Host header has one


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True
