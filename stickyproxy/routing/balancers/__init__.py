"""One policy per file. A new one is a file here; ``routing/policy.py`` says what it must define."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, cast

from stickyproxy.model.service import ServiceSpec
from stickyproxy.routing.balancers.ip_hash import IpHashPolicy
from stickyproxy.routing.balancers.round_robin import RoundRobinPolicy
from stickyproxy.routing.policy import Option, Policy, PolicyKind


def _kinds() -> Iterator[PolicyKind]:
    for module in pkgutil.iter_modules(__path__):
        yield import_module(f"{__name__}.{module.name}").KIND


KINDS = tuple(sorted(_kinds(), key=lambda kind: kind.rank))
"""In order of precedence."""

OPTIONS: Mapping[str, Option] = {
    name: option for kind in KINDS for name, option in kind.options.items()
}
"""The options of all of them, by name."""


def make_policy(options: Mapping[str, Any]) -> Policy | None:
    """The policy that these valid options of a service ask for; None if they ask for none. Those
    that are off are missing; ``context_root`` is always there."""
    made = (kind.make(options) for kind in KINDS)
    return next((policy for policy in made if policy is not None), None)


def policy_for(spec: ServiceSpec) -> Policy:
    """The policy of a service. If it declares none: round robin, and ip hash where TLS is passed
    through: a client's connections would go to endpoints that do not know its session."""
    if spec.policy is None:
        return IpHashPolicy() if spec.ssl_passthrough else RoundRobinPolicy()
    # What build returns is live, which the model knows nothing of.
    return cast("Policy", spec.policy)
