"""One policy per file. A new one is a file here and a row in ``_POLICIES``."""

from __future__ import annotations

from collections.abc import Callable

from stickyproxy.model.service import ServiceSpec
from stickyproxy.routing.balancers.consistent_hash import (
    ConsistentHashPolicy,
    CookieKey,
    HeaderKey,
    Key,
    QueryKey,
    SourceKey,
)
from stickyproxy.routing.balancers.cookie import CookiePolicy
from stickyproxy.routing.balancers.ip_hash import IpHashPolicy
from stickyproxy.routing.balancers.round_robin import RoundRobinPolicy
from stickyproxy.routing.endpoint import Policy


def policy_for(spec: ServiceSpec) -> Policy:
    """The policy that a service asks for; round robin if it asks for none."""
    return next(policy for make in _POLICIES if (policy := make(spec)) is not None)


def _cookie(spec: ServiceSpec) -> Policy | None:
    name = spec.sticky_session_cookie
    if name is None:
        return None
    return CookiePolicy(
        name=name.encode(),
        path=spec.context_root.encode(),
        # Where the cookie is absent, the address decides if asked to.
        fallback=_ip_hash(spec) or RoundRobinPolicy(),
    )


def _ip_hash(spec: ServiceSpec) -> Policy | None:
    return IpHashPolicy() if spec.ip_hash else None


def _consistent_hash(spec: ServiceSpec) -> Policy | None:
    key = _hash_key(spec)
    return None if key is None else ConsistentHashPolicy(key, fallback=RoundRobinPolicy())


def _hash_key(spec: ServiceSpec) -> Key | None:
    if spec.hash_header is not None:
        return HeaderKey(spec.hash_header)
    if spec.hash_cookie is not None:
        path = spec.hash_cookie_path
        return CookieKey(
            name=spec.hash_cookie.encode(),
            ttl=spec.hash_cookie_ttl,
            path=None if path is None else path.encode(),
        )
    if spec.hash_query is not None:
        return QueryKey(spec.hash_query.encode())
    return SourceKey() if spec.hash_source_ip else None


def _round_robin(spec: ServiceSpec) -> Policy | None:
    return RoundRobinPolicy()


# In order of precedence: the first that makes a policy of the spec counts.
_POLICIES: tuple[Callable[[ServiceSpec], Policy | None], ...] = (
    _cookie,
    _ip_hash,
    _consistent_hash,
    _round_robin,
)
