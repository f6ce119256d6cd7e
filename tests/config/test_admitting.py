"""Which requests a service takes, as it is configured, and on its way to proxies."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from stickyproxy.base.passwords import PasswordHash
from stickyproxy.config import admitting, codec
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.model.terms import InFlight, Rate, Terms
from tests.config.test_options import problems, spec

ANNE = f"anne:{PasswordHash.make(b'sesame', log_n=10)}"
BOB = f"bob:{PasswordHash.make(b'sesame', log_n=11)}"
TERMS = Terms(
    allow_from=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")),
    deny_from=(ip_network("10.6.6.6/32"),),
    max_body=10**7,
    rate=Rate(requests=50, seconds=60, burst=5),
    in_flight=InFlight(most=5, queue=10, patience=1.5),
    users=(("anne", ANNE[5:]), ("bob", BOB[4:])),
)
WRITTEN = {
    "allow_from": ["10.0.0.0/8", "2001:db8::/32"],
    "deny_from": ["10.6.6.6"],
    "max_body": "10MB",
    "rate_limit": "50/m",
    "rate_limit_burst": 5,
    "basic_auth": [ANNE, BOB],
    "max_in_flight": 5,
    "max_queue": 10,
    "queue_timeout": "1500ms",
}
LABELS = {
    "allow_from": "10.0.0.0/8, 2001:db8::/32",
    "deny_from": "10.6.6.6,",
    "max_body": "10 MB",
    "rate_limit": "50 / m",
    "rate_limit_burst": "5",
    "basic_auth": f"{ANNE}\n{BOB}\n",
    "max_in_flight": "5",
    "max_queue": "10",
    "queue_timeout": "1s500ms",
}


def test_tables_and_labels_mean_the_same() -> None:
    assert spec(**WRITTEN).terms == spec(**LABELS).terms == TERMS
    assert spec().terms is None


def test_it_arrives_as_it_was_sent() -> None:
    snapshot = Snapshot("swarm", (ServiceSpec("shop", ("shop.local",), terms=TERMS),))
    assert codec.decode(codec.encode(snapshot)) == snapshot


@pytest.mark.parametrize(
    ("written", "size"),
    [("0B", 0), ("7B", 7), ("2kB", 2000), ("2KiB", 2048), ("3MB", 3 * 10**6), ("1GiB", 2**30)],
)
def test_sizes(written: str, size: int) -> None:
    assert admitting.size(written) == size


@pytest.mark.parametrize("written", ["", "-1B", "1.5MB", "1TB", "B", True, [], "1_0B"])
def test_what_is_no_size(written: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        admitting.size(written)


def test_a_burst_is_what_the_rate_says() -> None:
    terms = spec(rate_limit="600/h").terms
    assert terms is not None
    assert terms.rate == Rate(requests=600, seconds=3600, burst=600)


@pytest.mark.parametrize("key", ["allow_from", "deny_from", "max_body", "rate_limit"])
def test_nothing_of_requests_where_tls_is_passed_through(key: str) -> None:
    found = problems(ssl_passthrough=True, **{key: WRITTEN[key]})
    assert found.keys() == {key}
    assert found[key].startswith("cannot be combined with ssl_passthrough")
