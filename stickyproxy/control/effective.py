"""The configuration in force, as the admin API tells it: with every default, and without secrets.

What a dataclass keeps out of its ``repr`` is a secret here too, and so are all bytes; of pairs,
such as users and the hashes of their passwords, only what comes second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from stickyproxy.base.addresses import Address
from stickyproxy.config.settings import Config
from stickyproxy.control.report import Json
from stickyproxy.model.service import ServiceSpec

MASK = "***"

_USER_INFO = re.compile(r"//[^/@\s]*@")
_TABLES = {
    "swarm": "providers.swarm",
    "docker": "providers.docker",
    "follow": "providers.controller",
}
"""Tables whose names in the file differ from those of the fields."""


def in_force(started: Config, now: Config) -> Config:
    """The configuration that the program started with, and what has been reloaded since: ``now`` is
    what the file says, of which the rest takes a restart."""
    return replace(started, services=now.services, certificates=now.certificates, files=now.files)


def pieces(config: Config) -> Iterator[str]:
    """JSON, in pieces of a service each: a table for each table of the file, by its name; null:
    there is none."""
    tables: Json = {}
    for each in fields(config):
        if each.name not in ("services", "files", "admin", "operator"):
            tables[_TABLES.get(each.name, each.name)] = _shown(getattr(config, each.name))
    admin = config.admin
    tables["admin"] = None if admin is None else _shown(config.operator) | {"address": str(admin)}
    yield json.dumps(tables)[:-1] + ', "services": ['
    for count, service in enumerate(config.services):
        yield ", " * bool(count) + json.dumps(_service(service))
    yield "]}"


def _service(service: ServiceSpec) -> Json:
    row: Json = _shown(service)
    row["policy"] = dict(service.policy.options()) if service.policy else {}
    row["endpoints"] = [spec.address for spec in service.endpoints]
    return row


def _shown(value: object) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return _text(value)
        case tuple() | list():
            return [_shown(each) for each in value]
        case Address() | IPv4Network() | IPv6Network():
            return str(value)
        case _ if is_dataclass(value):
            return {each.name: _field(each, getattr(value, each.name)) for each in fields(value)}
    return MASK


def _field(field: Field[Any], value: object) -> Any:
    if field.repr:
        return _shown(value)
    match value:
        case tuple():
            return [[first, MASK] for first, _ in value]
    return MASK if value else None


def _text(text: str) -> str:
    if "PRIVATE KEY-----" in text:
        return MASK
    if text.startswith("-----BEGIN"):
        return f"(PEM, {len(text)} characters)"
    return _USER_INFO.sub(f"//{MASK}@", text)
