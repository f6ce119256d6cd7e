"""testssl.sh (https://testssl.sh) against a TLS listener in its default configuration."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from stickyproxy.base.addresses import Address
from stickyproxy.model.listener import ListenerSpec
from stickyproxy.model.tls import ListenerTls
from tests.certificates import client_context, make_ca, make_certificate
from tests.conftest import MakeClient, MakeEndpoint, StartProxy, service
from tests.tls import TlsClient

SECTIONS = (
    "--protocols",
    "--standard",  # which categories of ciphers are offered
    "--pfs",
    "--server-defaults",
    "--server-preference",
    "--vulnerable",
)
"""What is left out: headers, which are the application's, and simulated clients, which only say
what each would get."""
FAULTS = {"MEDIUM", "HIGH", "CRITICAL", "FATAL"}
FOUND_IN_EACH = ("TLS1_3", "cipherlist_NULL", "PFS", "cert_chain_of_trust", "cipher_order", "ROBOT")
"""A finding of each section: they say that it was run."""
LIMIT_SECONDS = 300.0
"""It takes half a minute of an idle machine."""


@pytest.fixture(scope="module")
def testssl() -> str:
    """The program. Skips where there is none; in CI that is a failure."""
    program = shutil.which("testssl") or shutil.which("testssl.sh")
    if program is None:
        message = "testssl.sh is not installed: apt-get install testssl.sh"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return program


async def test_nothing_above_low(
    testssl: str, endpoint: MakeEndpoint, start_proxy: StartProxy, tmp_path: Path
) -> None:
    ca = make_ca()
    certificate = make_certificate(["demo.local"], ca, extensions=[_revocation_list()])
    (tmp_path / "ca.pem").write_text(ca.pem)
    proxy = await start_proxy(
        [service(await endpoint())],
        listeners=[ListenerSpec(Address("127.0.0.1", 0), tls=ListenerTls())],
        # some of its clients name no server
        certificates=[certificate, make_certificate([], name="default", default=True)],
    )
    findings = await _run(testssl, proxy.port, tmp_path)
    faults = [
        f"{finding['severity']} {finding['id']}: {finding['finding']}"
        for finding in findings
        if finding["severity"] in FAULTS
    ]
    assert faults == []
    # WARN: something could not be tested; GOST is never spoken here
    untested = {finding["id"] for finding in findings if finding["severity"] == "WARN"}
    assert untested <= {"engine_problem"}
    assert {finding["id"] for finding in findings} >= set(FOUND_IN_EACH)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256", "AES128-GCM-SHA256"),
        ("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305", "AES256-GCM-SHA384"),
        ("ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256", "CHACHA20-POLY1305"),
    ],
    ids=["the order is ours", "whoever can do AES", "ChaCha20 for those who like it best"],
)
async def test_cipher_order(
    offered: str, chosen: str, start_proxy: StartProxy, client: MakeClient
) -> None:
    ca = make_ca()
    proxy = await start_proxy(
        [],
        listeners=[ListenerSpec(Address("127.0.0.1", 0), tls=ListenerTls())],
        certificates=[make_certificate(["demo.local"], ca)],
    )
    context = client_context(ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(offered)
    connection = await TlsClient.over(await client(proxy.port), context)
    agreed = connection.tls.cipher()
    assert agreed is not None
    assert agreed[0] == f"ECDHE-ECDSA-{chosen}"


def _revocation_list() -> x509.CRLDistributionPoints:
    """Where certificates of the test's CA would be revoked: one that says nothing of it is marked
    down. Nobody goes there."""
    place = x509.UniformResourceIdentifier("http://ca.test/revoked.crl")
    return x509.CRLDistributionPoints([x509.DistributionPoint([place], None, None, None)])


async def _run(program: str, port: int, folder: Path) -> list[dict[str, str]]:
    """What it finds."""
    report = folder / "findings.json"
    process = await asyncio.create_subprocess_exec(
        program,
        *("--quiet", "--color", "0", "--warnings", "off"),
        *("--nodns", "none", "--ip", "127.0.0.1", "--add-ca", str(folder / "ca.pem")),
        *("--jsonfile", str(report), *SECTIONS),
        f"https://demo.local:{port}",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
    )
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert report.exists(), said.decode(errors="replace")[-2000:]
    findings: list[dict[str, str]] = json.loads(report.read_text())
    return findings
