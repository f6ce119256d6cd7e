"""The configuration file: ``load`` gives a ``Config``, or a ``ConfigError`` with every problem.

    values     single values
    tables     the tables of the file (pydantic); ``options`` has what ``[[services]]`` shares with
               labels
    settings   what comes out: plain frozen dataclasses

Keys, meanings, defaults and units for users: ``config.example.toml``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stickyproxy.base.errors import ConfigError, ConfigProblem
from stickyproxy.base.text import shown
from stickyproxy.base.values import port_number
from stickyproxy.config.options import Location, explain
from stickyproxy.config.settings import Config
from stickyproxy.config.tables import TABLES, Document
from stickyproxy.config.values import (
    SERVICE_NAME,
    endpoint_address,
    listener_address,
    pem_file,
    service_name,
)


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
        tables = Document.model_validate(document)
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
    return f" ({name})" if isinstance(name, str) and SERVICE_NAME.fullmatch(name) else ""


def _known_keys(location: Location) -> Sequence[str]:
    table = ".".join(step for step in location if isinstance(step, str))
    return list(TABLES[table].model_fields)


# --- checks across tables -------------------------------------------------------------------


def _repetitions(document: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    """What may be given only once. Reads the document itself, so that these problems are reported
    together with all others; values that are wrong in themselves are skipped."""
    addresses = [_valid(listener_address, t.get("address")) for t in _list(document, "listeners")]
    for index, first in _repeated(addresses):
        reason = f'"{addresses[index]}" is the address of listeners[{first}] too: remove one'
        yield ("listeners", index, "address"), reason

    certificates = _list(document, "certificates")
    files = [_valid(pem_file, table.get("cert")) for table in certificates]
    for index, first in _repeated(files):
        reason = f'"{files[index]}" is the file of certificates[{first}] too: remove one'
        yield ("certificates", index, "cert"), reason
    defaults = [index for index, t in enumerate(certificates) if t.get("default") is True]
    for index in defaults[1:]:
        reason = f"certificates[{defaults[0]}] is the default too: remove one of the two"
        yield ("certificates", index, "default"), reason

    proxy = document.get("proxy")
    if not (isinstance(proxy, dict) and proxy.get("trusted_proxies")):
        for index, table in enumerate(_list(document, "listeners")):
            if table.get("proxy_protocol") is True:
                reason = (
                    "has no effect as long as nobody is trusted: name the proxies that send it in "
                    "trusted_proxies of [proxy]"
                )
                yield ("listeners", index, "proxy_protocol"), reason

    services = _list(document, "services")
    names = [_valid(service_name, service.get("name")) for service in services]
    for index, first in _repeated(names):
        reason = f'"{names[index]}" is the name of services[{first}] too: rename one'
        yield ("services", index, "name"), reason

    for number, service in enumerate(services):
        endpoints = _valid_endpoints(service)
        for index, first in _repeated(endpoints):
            reason = f'"{endpoints[index]}" is the same as endpoints[{first}]: remove one'
            yield ("services", number, "endpoints", index), reason
        ids = [_id_of(item) for item in _items(service)]
        for index, first in _repeated(ids):
            reason = f'"{ids[index]}" is the id of endpoints[{first}] too: write another one'
            yield ("services", number, "endpoints", index), reason


def _list(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The tables under ``key``; an empty one for anything that is not a table."""
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
    known_port = _valid(port_number, service.get("port"))
    port = int(known_port) if known_port else None
    addresses = (
        item.get("address") if isinstance(item, dict) else item for item in _items(service)
    )
    return [_valid(lambda value: endpoint_address(value, port), each) for each in addresses]


def _items(service: dict[str, Any]) -> list[Any]:
    endpoints = service.get("endpoints")
    return endpoints if isinstance(endpoints, list) else []


def _id_of(item: object) -> str | None:
    found = item.get("id") if isinstance(item, dict) else None
    return found if isinstance(found, str) and found else None


def _repeated(values: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    """(index, index of the first) of every value that was there before; None never counts."""
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        if value is not None and first.setdefault(value, index) != index:
            yield index, first[value]
