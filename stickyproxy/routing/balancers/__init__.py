"""One policy per file. A new one is a file here; ``routing/policy.py`` says what it has to have."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, cast

from stickyproxy.model.service import ServiceSpec
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
    """The policy of a service; round robin if it declares none."""
    # What build returns is live, which the model knows nothing of.
    return RoundRobinPolicy() if spec.policy is None else cast("Policy", spec.policy)
