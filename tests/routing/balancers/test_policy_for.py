from __future__ import annotations

from dataclasses import replace

import pytest

from stickyproxy.model.service import ServiceSpec
from stickyproxy.routing.balancers import policy_for
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

PLAIN = ServiceSpec("shop", ("shop.local",), context_root="/shop")


def hashed(key: Key) -> ConsistentHashPolicy:
    return ConsistentHashPolicy(key, RoundRobinPolicy())


def test_nothing_asked_for() -> None:
    assert policy_for(PLAIN) == RoundRobinPolicy()


def test_sticky_session_cookie() -> None:
    policy = policy_for(replace(PLAIN, sticky_session_cookie="session"))
    assert policy == CookiePolicy(b"session", b"/shop", RoundRobinPolicy())
    assert policy.describe() == "cookie session, else round robin"


def test_ip_hash() -> None:
    assert policy_for(replace(PLAIN, ip_hash=True)) == IpHashPolicy()


def test_cookie_wins_over_ip_hash_which_serves_where_it_is_absent() -> None:
    policy = policy_for(replace(PLAIN, sticky_session_cookie="session", ip_hash=True))
    assert policy == CookiePolicy(b"session", b"/shop", IpHashPolicy())
    assert policy.describe() == "cookie session, else ip hash"


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        (replace(PLAIN, hash_header="x-user"), hashed(HeaderKey("x-user"))),
        (replace(PLAIN, hash_cookie="user"), hashed(CookieKey(b"user"))),
        (
            replace(PLAIN, hash_cookie="user", hash_cookie_ttl=60.0, hash_cookie_path="/a"),
            hashed(CookieKey(b"user", 60.0, b"/a")),
        ),
        (replace(PLAIN, hash_query="user"), hashed(QueryKey(b"user"))),
        (replace(PLAIN, hash_source_ip=True), hashed(SourceKey())),
    ],
)
def test_consistent_hash(spec: ServiceSpec, policy: ConsistentHashPolicy) -> None:
    assert policy_for(spec) == policy
