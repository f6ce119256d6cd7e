"""One proxy for all cases."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from stickyproxy.base.pem import load_chain
from tests.certificates import make_certificate
from tests.hostile.stage import Stage, set_up


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The proxy under attack, and whoever attacks it."""
    with set_up(tmp_path_factory.mktemp("hostile")) as made:
        yield made


@pytest.fixture(scope="session")
def tls_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The same with TLS to the endpoint."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = make_certificate(["hostile.test"])
    load_chain(context, certificate.chain, certificate.key)
    directory = tmp_path_factory.mktemp("hostile-tls")
    with set_up(directory, peers=False, tls=context) as made:
        yield made
