"""control/report.py: what services ask of TLS that they cannot have."""

from __future__ import annotations

import pytest

from stickyproxy.control.report import client_auths, without_tls
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.tls import ClientAuth

STAFF, GUESTS = ClientAuth("staff"), ClientAuth("guests")


@pytest.mark.parametrize(
    ("service", "labels"),
    [
        (ServiceSpec("shop", ("a.example",)), []),
        (ServiceSpec("shop", ("a.example",), ssl_only=True), ["ssl_only"]),
        (ServiceSpec("shop", ("a.example",), client_auth=STAFF), ["client_ca"]),
        (ServiceSpec("shop", ("a.example",), client_auth=ClientAuth("x", required=False)), []),
        (ServiceSpec("shop", ("a.example",), acme=True), [""]),
    ],
)
def test_nobody_speaks_tls(service: ServiceSpec, labels: list[str]) -> None:
    assert [problem.label for problem in without_tls([service])] == labels


def test_one_host_asks_in_one_way() -> None:
    """The longest context root has it its way."""
    shop = ServiceSpec("shop", ("a.example", "b.example"), client_auth=STAFF)
    admin = ServiceSpec("z", ("a.example",), context_root="/admin", client_auth=GUESTS)
    free = ServiceSpec("free", ("a.example",), context_root="/free")
    [problem] = client_auths([shop, admin, free])
    assert problem.service == "shop"
    assert "a.example" in problem.reason
    assert list(client_auths([shop, free])) == []
