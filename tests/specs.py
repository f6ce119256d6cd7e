"""Services as they are declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stickyproxy.model.service import EndpointSpec, OptionValue, ServiceSpec
from stickyproxy.routing.balancers import OPTIONS, make_policy


def service_spec(
    name: str, hosts: tuple[str, ...], endpoints: tuple[EndpointSpec, ...] = (), **fields: Any
) -> ServiceSpec:
    """The spec of a service. ``fields`` are those of ``ServiceSpec`` and the options that ask for a
    policy, by the names that they have in the configuration."""
    asked = {key: value for key, value in fields.items() if key in OPTIONS}
    rest = {key: value for key, value in fields.items() if key not in OPTIONS}
    policy = make_policy({"context_root": fields.get("context_root", "/"), **asked})
    return ServiceSpec(name, hosts, endpoints, policy=policy, **rest)


def asked(spec: ServiceSpec) -> Mapping[str, OptionValue]:
    """The options that ask for its policy."""
    return {} if spec.policy is None else spec.policy.options()
