"""providers/contact.py: what is said when a source is lost and found."""

from __future__ import annotations

import logging
import time

import pytest

from stickyproxy.base.backoff import Backoff
from stickyproxy.base.errors import ProviderError
from stickyproxy.providers.contact import Contact

AWAY = ProviderError("the engine is away")


@pytest.fixture
def contact(caplog: pytest.LogCaptureFixture) -> Contact:
    caplog.set_level(logging.INFO)
    return Contact("swarm", "the engine", Backoff(0.5, 10.0))


def test_a_new_one_is_well(contact: Contact, caplog: pytest.LogCaptureFixture) -> None:
    contact.restored()
    assert not contact.is_lost
    assert contact.trouble == ""
    assert caplog.messages == []


def test_the_same_trouble_is_said_once(contact: Contact, caplog: pytest.LogCaptureFixture) -> None:
    assert [contact.lost(AWAY, has_routes=True) for _ in range(3)] == [0.5, 1.0, 2.0]
    assert contact.is_lost
    assert contact.trouble == "the engine is away; routes are kept, trying again"
    assert caplog.messages == [f"swarm: {contact.trouble}"]


def test_another_trouble_is_said_too(contact: Contact, caplog: pytest.LogCaptureFixture) -> None:
    contact.lost(AWAY, has_routes=False)
    contact.lost(ProviderError("no permission"), has_routes=False)
    assert caplog.messages == [
        "swarm: the engine is away; no route is known yet, trying again",
        "swarm: no permission; no route is known yet, trying again",
    ]


def test_when_it_is_back_all_is_well_again(
    contact: Contact, caplog: pytest.LogCaptureFixture
) -> None:
    contact.lost(AWAY, has_routes=True)
    contact.lost(AWAY, has_routes=True)
    contact.restored()
    assert not contact.is_lost
    assert contact.trouble == ""
    assert caplog.messages[-1] == "swarm: the engine answers again"
    assert contact.lost(AWAY, has_routes=True) == 0.5, "pauses start again"


def test_when_the_source_responded_last_is_known(contact: Contact) -> None:
    began = time.time()
    assert contact.confirmed is None
    contact.lost(AWAY, has_routes=False)
    assert contact.confirmed is None
    contact.restored()
    confirmed = contact.confirmed
    contact.lost(AWAY, has_routes=True)
    assert contact.confirmed == confirmed
    assert began <= (confirmed or 0) <= time.time()
