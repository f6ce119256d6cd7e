"""routing/endpoint.py: what an endpoint may be used for follows from what is known of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from stickyproxy.model.service import EndpointSpec
from stickyproxy.routing.endpoint import Endpoint, EndpointState, Facts, state_of
from tests.routing.balancers import NoPool, endpoint

USABLE, DRAINING, DOWN = EndpointState

# (draining, asked to drain), (in maintenance, ejected, unhealthy)
DRAINS = tuple(product((False, True), repeat=2))
STOPS = tuple(product((False, True), repeat=3))
CASES = {
    Facts(): USABLE,
    **{Facts(*drains): DRAINING for drains in DRAINS[1:]},
    **{Facts(*drains, *stops): DOWN for drains, stops in product(DRAINS, STOPS[1:])},
}


def test_all_combinations_are_there() -> None:
    assert len(CASES) == 2 ** len(Facts.__dataclass_fields__)


@pytest.mark.parametrize(("facts", "state"), list(CASES.items()), ids=str)
def test_state(facts: Facts, state: EndpointState) -> None:
    assert state_of(facts) is state


@pytest.mark.parametrize("before", CASES, ids=str)
def test_only_a_change_of_state_is_told(before: Facts) -> None:
    one = endpoint("one")
    for after, state in CASES.items():
        one.note(before)
        assert one.note(after) == (state is not CASES[before])
        assert one.state is state


def test_a_fact_that_is_taken_back_leaves_the_others() -> None:
    one = endpoint("one")
    one.note(Facts(draining=True, ejected=True))
    one.note(replace(one.facts, ejected=False))
    assert one.facts == Facts(draining=True)
    assert one.state is DRAINING


@pytest.mark.parametrize(("draining", "state"), [(False, USABLE), (True, DRAINING)])
def test_as_declared(draining: bool, state: EndpointState) -> None:
    spec = EndpointSpec("one", "10.0.0.1:80", draining=draining)
    assert Endpoint("shop", spec, b"", NoPool()).state is state
