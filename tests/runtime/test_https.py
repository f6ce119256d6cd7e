"""Certificates on their way from files to clients, in one process and through workers."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from stickyproxy.base.addresses import Address
from stickyproxy.config.settings import CertificateFiles, Config
from stickyproxy.config.validity import SELF_MADE
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.settings import AccessLogSettings, ProxySettings
from stickyproxy.model.tls import Certificate, ListenerTls
from stickyproxy.runtime.app import App
from stickyproxy.runtime.supervisor import Supervisor
from tests.certificates import client_context, make_ca, make_certificate
from tests.cli.test_main import programs
from tests.conftest import MakeClient, MakeEndpoint, service
from tests.scripted import get
from tests.tls import TlsClient

CA = make_ca()
HOST = "demo.local"

Start = Callable[[Sequence[ServiceSpec], Sequence[CertificateFiles]], Awaitable[int]]
"""Starts a proxy with these services and certificates; returns the port of its TLS listener."""


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
async def start(request: pytest.FixtureRequest) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def make(
            services: Sequence[ServiceSpec], certificates: Sequence[CertificateFiles]
        ) -> int:
            config = Config(
                listeners=(ListenerSpec(Address("127.0.0.1", 0), tls=ListenerTls()),),
                proxy=ProxySettings(probe_new_endpoints=False),
                access_log=AccessLogSettings(format="off"),
                services=tuple(services),
                certificates=tuple(certificates),
            )
            proxy = App(config) if request.param == 1 else Supervisor(config, None, request.param)
            [address] = await proxy.start()
            stack.push_async_callback(proxy.stop, 0)
            return int(address.rpartition(":")[2])

        yield make


def write(folder: Path, certificate: Certificate, name: str = "shop") -> CertificateFiles:
    files = CertificateFiles(f"{folder}/{name}.pem", f"{folder}/{name}.key")
    for path, text in ((files.cert, certificate.chain), (files.key, certificate.key)):
        Path(path).write_text(text)
        Path(path).chmod(0o600)
    return files


def shown_to(connection: TlsClient) -> x509.Certificate:
    """The certificate that the server has shown."""
    assert connection.tls is not None
    shown = connection.tls.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


async def test_a_renewed_certificate_disturbs_nobody(
    start: Start, endpoint: MakeEndpoint, client: MakeClient, tmp_path: Path
) -> None:
    """Its files are swapped while clients come and go."""
    old, new = (make_certificate([HOST], CA, common_name=name) for name in ("old", "new"))
    peer = await endpoint()
    port = await start([service(peer)], [write(tmp_path, old)])
    trusting = client_context(CA)

    async def connect() -> TlsClient:
        return await TlsClient.over(await client(port), trusting, HOST)

    async def ask(connection: TlsClient) -> bytes:
        await connection.send(get())
        return (await connection.response()).body

    kept = await connect()
    assert await ask(kept) == b"hello"
    write(tmp_path, new)
    async with asyncio.timeout(20):
        names = {"CN=old"}
        while "CN=new" not in names:
            latest = await connect()
            assert await ask(latest) == b"hello"
            names.add(shown_to(latest).subject.rfc4514_string())
            latest.abort()
    assert names == {"CN=old", "CN=new"}
    assert await ask(kept) == b"hello", "this connection has seen nothing of it"


async def test_the_self_made_one_is_the_same_in_all_workers(
    start: Start, client: MakeClient
) -> None:
    port = await start([], [])
    trusting = client_context()
    shown = set()
    for name in ("a.example", None) * 10:
        connection = await TlsClient.over(await client(port), trusting, name)
        shown.add(shown_to(connection))
    [certificate] = shown
    assert certificate.subject.rfc4514_string() == f"CN={SELF_MADE}"


async def test_one_that_is_refused_leaves_the_port_open(
    start: Start, endpoint: MakeEndpoint, client: MakeClient, tmp_path: Path
) -> None:
    """The default one is shown, and clients that verify it say what they think of it."""
    files = write(tmp_path, make_certificate([HOST], CA))
    files_of_another = CertificateFiles(files.cert, f"{tmp_path}/none.key")
    port = await start([service(await endpoint())], [files_of_another])
    with pytest.raises(ssl.SSLCertVerificationError):
        await TlsClient.over(await client(port), client_context(CA), HOST)
    connection = await TlsClient.over(await client(port), client_context(), HOST)
    assert shown_to(connection).subject.rfc4514_string() == f"CN={SELF_MADE}"


def configuration(folder: Path, *names: str) -> str:
    """Two hosts, and the certificates of these names."""
    tables = [
        f'[[certificates]]\ncert = "{folder}/{x}.pem"\nkey = "{folder}/{x}.key"' for x in names
    ]
    return "\n".join(
        [
            '[[listeners]]\naddress = "127.0.0.1:0"\ntls = true',
            "[proxy]\nworkers = 2",
            f'[admin]\naddress = "unix:{folder}/admin.sock"',
            '[access_log]\nformat = "off"',
            '[[services]]\nname = "s"\nhosts = ["a.example", "b.example"]',
            *tables,
        ]
    )


async def test_what_an_administrator_sees(client: MakeClient, tmp_path: Path) -> None:
    """A certificate is added by a reload; then a renewal goes wrong, and is put right."""
    first, second = (make_certificate([f"{name}.example"], CA) for name in "ab")
    write(tmp_path, first, "a")
    files = write(tmp_path, second, "b")
    config = tmp_path / "config.toml"
    config.write_text(configuration(tmp_path, "a"))
    async with programs() as run:

        async def services() -> tuple[int, str]:
            asked = await run("services", "--admin", f"unix:{tmp_path}/admin.sock")
            return await asked.ended(), asked.out.text

        async def shown() -> str:
            connection = await TlsClient.over(await client(port), client_context(), "b.example")
            return shown_to(connection).subject.rfc4514_string()

        proxy = await run("serve", "--config", config)
        port = await proxy.listening()
        assert await shown() == f"CN={SELF_MADE}"
        status, text = await services()
        assert (status, "warning    no certificate is for b.example: " in text) == (0, True)

        config.write_text(configuration(tmp_path, "a", "b"))
        await proxy.err.says("configuration reloaded")
        assert await shown() == "CN=b.example"
        status, text = await services()
        assert (status, "warning" in text) == (0, False)

        write(tmp_path, replace(second, key=first.key), "b")
        await proxy.err.says(f"ERROR certificate {files.cert}: the key does not fit")
        assert await shown() == "CN=b.example"
        status, text = await services()
        assert status == 3
        assert f"(certificate {files.cert}): refused\n  error      the key does not fit" in text

        write(tmp_path, second, "b")
        await proxy.err.says(f"resolved: certificate {files.cert}: the key does not fit")
        assert (await services())[0] == 0
        await proxy.stop()
    assert "KEY" not in proxy.err.text + proxy.out.text


def test_workers_do_not_load_what_certificates_are_read_with() -> None:
    """They start sooner, and are smaller."""
    program = (
        "import sys, stickyproxy.runtime.worker; "
        "print(*sorted({'cryptography', 'pydantic', 'docker'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert found.stdout.split() == []


def test_nor_does_a_proxy_that_has_none() -> None:
    program = "import sys, stickyproxy.runtime.app; print('cryptography' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert found.stdout.split() == [b"False"]
