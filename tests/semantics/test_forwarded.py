"""semantics/forwarded.py: whom to believe, and who the client then is."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from stickyproxy.semantics.forwarded import TrustedProxies

NETWORKS = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("2001:db8::1%eth0", True),
        ("192.0.2.1", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_who_is_trusted(address: str, trusted: bool) -> None:
    assert TrustedProxies(NETWORKS).trusts(address) is trusted


def test_unix_sockets_are_a_choice_of_their_own() -> None:
    assert TrustedProxies(unix=True).trusts("")
    assert not TrustedProxies(unix=True).trusts("10.1.2.3")


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("198.51.100.9, 192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, 10.0.0.2", "192.0.2.1"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("192.0.2.1:1234", "192.0.2.1"),
        ("[2001:db9::1]:1234", "2001:db9::1"),
        ("unknown", "10.0.0.1"),
        ("192.0.2.1, unknown, 10.0.0.2", "10.0.0.2"),
    ],
)
def test_the_client_is_the_rightmost_that_is_not_trusted(chain: str, client: str) -> None:
    assert TrustedProxies(NETWORKS).client_of(chain, "10.0.0.1") == client
