"""Snapshots as JSON: between controller and proxies, and in their cache files.

Fields that are missing take their defaults and unknown ones are passed over, so that controller
and proxies may be of different versions while a cluster is updated.

A policy is written as the options that ask for it, beside the other fields of its service and under
the names that they have in the configuration; ``policy`` names its kind. Who does not know the kind
goes by the options that it knows, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, field, fields, make_dataclass
from hashlib import blake2b
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

import stickyproxy
from stickyproxy.base.text import shown
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Problem, Snapshot
from stickyproxy.routing.balancers import OPTIONS, make_policy, policy_for

# --- what is written ------------------------------------------------------------------------


def _fields(of: type[Any]) -> dict[str, tuple[Any, Any]]:
    """(type, default) of the fields of a dataclass."""
    hints = get_type_hints(of)
    return {each.name: (hints[each.name], each.default) for each in fields(of)}


def _dataclass(name: str, declared: Mapping[str, tuple[Any, Any]]) -> Any:
    typed = [(key, type_, field(default=default)) for key, (type_, default) in declared.items()]
    return make_dataclass(name, typed, slots=True, kw_only=True)


_OF_SERVICE = _fields(ServiceSpec)
del _OF_SERVICE["policy"]
_OF_POLICY = {name: (option.type | None, option.off) for name, option in OPTIONS.items()}

_Service = _dataclass("_Service", _OF_SERVICE | _OF_POLICY | {"policy": (str, "")})
_Services = tuple[_Service, ...]  # type: ignore[valid-type]  # made just now
_Snapshot = _dataclass("_Snapshot", _fields(Snapshot) | {"services": (_Services, MISSING)})
_SNAPSHOT: TypeAdapter[Any] = TypeAdapter(_Snapshot)


# --- both ways ------------------------------------------------------------------------------


def encode(snapshot: Snapshot) -> bytes:
    """The same snapshot always gives the same bytes."""
    values = {each.name: getattr(snapshot, each.name) for each in fields(snapshot)}
    values["services"] = tuple([_written(service) for service in snapshot.services])
    return _SNAPSHOT.dump_json(_Snapshot(**values))


def decode(data: bytes) -> Snapshot:
    """The inverse. A policy that this version does not know is a problem of its service. Raises
    ValueError."""
    try:
        written = _SNAPSHOT.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"not a snapshot: {place}: {first['msg']}") from None
    values = {each.name: getattr(written, each.name) for each in fields(Snapshot)}
    values["services"] = tuple([_read(service) for service in written.services])
    values["problems"] += tuple(
        _unknown_policy(service, said.policy)
        for service, said in zip(values["services"], written.services, strict=True)
        if said.policy and said.policy != _kind(service)
    )
    return Snapshot(**values)


def _written(service: ServiceSpec) -> Any:
    values: dict[str, Any] = {name: getattr(service, name) for name in _OF_SERVICE}
    if service.policy is not None:
        values |= service.policy.options()
    return _Service(**values, policy=_kind(service))


def _read(written: Any) -> ServiceSpec:
    values = {name: getattr(written, name) for name in _OF_SERVICE}
    asked = {
        name: value
        for name, option in OPTIONS.items()
        if (value := getattr(written, name)) is not None and value is not option.off
    }
    return ServiceSpec(**values, policy=make_policy(asked | {"context_root": written.context_root}))


def _kind(service: ServiceSpec) -> str:
    return "" if service.policy is None else service.policy.kind


def _unknown_policy(service: ServiceSpec, kind: str) -> Problem:
    reason = (
        f"asks for the policy {shown(kind)}, which stickyproxy {stickyproxy.__version__} does not "
        f"know: until this proxy is updated, its policy is {policy_for(service).describe()}"
    )
    return Problem(service.name, reason)


def version(data: bytes) -> str:
    """Names an encoded snapshot by its content: a controller that was restarted, or another one,
    gives the same state the same version."""
    return blake2b(data, digest_size=12).hexdigest()
