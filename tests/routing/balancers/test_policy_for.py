from __future__ import annotations

import pickle
from typing import Any

import pytest

from stickyproxy.model.service import ServiceSpec
from stickyproxy.routing.balancers import KINDS, OPTIONS, make_policy, policy_for
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
from tests.specs import service_spec

PLAIN = ServiceSpec("shop", ("shop.local",), context_root="/shop")


def asking(**options: Any) -> ServiceSpec:
    return service_spec("shop", ("shop.local",), context_root="/shop", **options)


def hashed(key: Key) -> ConsistentHashPolicy:
    return ConsistentHashPolicy(key, RoundRobinPolicy())


def test_nothing_asked_for() -> None:
    assert policy_for(PLAIN) == RoundRobinPolicy()


def test_sticky_session_cookie() -> None:
    policy = policy_for(asking(sticky_session_cookie="session"))
    assert policy == CookiePolicy(b"session", b"/shop", RoundRobinPolicy())
    assert policy.describe() == "cookie session, else round robin"


def test_ip_hash() -> None:
    assert policy_for(asking(ip_hash=True)) == IpHashPolicy()


def test_cookie_wins_over_ip_hash_which_serves_where_it_is_absent() -> None:
    policy = policy_for(asking(sticky_session_cookie="session", ip_hash=True))
    assert policy == CookiePolicy(b"session", b"/shop", IpHashPolicy())
    assert policy.describe() == "cookie session, else ip hash"


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        (asking(hash_header="x-user"), hashed(HeaderKey("x-user"))),
        (asking(hash_cookie="user"), hashed(CookieKey(b"user"))),
        (
            asking(hash_cookie="user", hash_cookie_ttl=60.0, hash_cookie_path="/a"),
            hashed(CookieKey(b"user", 60.0, b"/a")),
        ),
        (asking(hash_query="user"), hashed(QueryKey(b"user"))),
        (asking(hash_source_ip=True), hashed(SourceKey())),
    ],
)
def test_consistent_hash(spec: ServiceSpec, policy: ConsistentHashPolicy) -> None:
    assert policy_for(spec) == policy


@pytest.mark.parametrize(
    "options",
    [
        {"sticky_session_cookie": "session"},
        {"sticky_session_cookie": "session", "ip_hash": True},
        {"ip_hash": True},
        {"hash_header": "x-user"},
        {"hash_cookie": "user", "hash_cookie_ttl": 60.0, "hash_cookie_path": "/a"},
        {"hash_query": "user"},
        {"hash_source_ip": True},
    ],
)
def test_a_policy_knows_the_options_that_ask_for_it(options: dict[str, Any]) -> None:
    policy = policy_for(asking(**options))
    assert policy.options() == options
    assert make_policy({"context_root": "/shop", **policy.options()}) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_no_option_belongs_to_two_policies() -> None:
    assert sum(len(kind.options) for kind in KINDS) == len(OPTIONS)
    for option in OPTIONS.values():
        assert {option.adjusts, *option.beside} - {""} <= set(OPTIONS)
