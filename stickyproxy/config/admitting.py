"""Which requests a service takes, as it is configured. Each function takes a TOML value or the text
of a label, and raises ValueError with a sentence that names value and remedy."""

from __future__ import annotations

import re
from ipaddress import ip_interface

from stickyproxy.base.passwords import PasswordHash
from stickyproxy.base.text import Misspelt, shown
from stickyproxy.base.values import text
from stickyproxy.model.terms import Network, Rate

_SIZE = re.compile(r"([0-9]{1,12}) *(B|[kK]i?B|[MG]i?B)")
_UNITS = {"B": 0, "kB": 3, "KB": 3, "MB": 6, "GB": 9}
"""Powers of ten."""
_BINARY = {"KiB": 10, "kiB": 10, "MiB": 20, "GiB": 30}
"""Powers of two."""
_RATE = re.compile(r"([0-9]{1,7}) */ *(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def network(value: object) -> Network:
    """A network, or a single address. Raises ValueError."""
    written = text(value).strip()
    try:
        interface = ip_interface(written)
    except ValueError:
        raise ValueError(
            f"{shown(written)} is neither an address nor a network: write it like "
            '"10.0.0.0/8" or "2001:db8::1"'
        ) from None
    if interface.ip != interface.network.network_address:
        raise Misspelt(
            f'{shown(written)} has bits set beyond its prefix: write "{interface.network}"',
            str(interface.network),
        )
    return interface.network


def size(value: object) -> int:
    """Bytes of ``"512KiB"``, ``"10MB"``. A bare number is refused: its unit would be a guess.
    Raises ValueError."""
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        number, unit = int(found[1]), found[2]
        return number << _BINARY[unit] if unit in _BINARY else number * 10 ** _UNITS[unit]
    written = value.strip() if isinstance(value, str) else shown(value)
    if re.fullmatch("[0-9]{1,12}", written):
        raise Misspelt(f'{shown(value)} has no unit: write "{written}B"', f"{written}B")
    raise ValueError(f'{shown(value)} is not a size: write it like "512KiB" or "10MB"')


def user(value: object) -> tuple[str, str]:
    """(name, hash of the password) of ``"name:$scrypt$..."``. Raises ValueError, which shows no
    hash."""
    name, colon, written = text(value).strip().partition(":")
    if not (name and colon and name.isprintable()):
        raise ValueError('is no user: write "name:hash", as stickyproxy hash-password prints it')
    PasswordHash.parse(written)
    return name, written


def rate(value: object) -> str:
    """A rate, as ``rate_of`` reads it. Raises ValueError."""
    found = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or not int(found[1]):
        raise ValueError(f'{shown(value)} is not a rate: write it like "10/s", "600/m" or "1000/h"')
    return f"{int(found[1])}/{found[2]}"


def rate_of(written: str, burst: int | None) -> Rate:
    """``burst``: None: as many as are written."""
    count, _, unit = written.partition("/")
    return Rate(int(count), _SECONDS[unit], int(count) if burst is None else burst)
