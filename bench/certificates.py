"""Certificates for the labs: ECDSA P-256, self-signed, the same files for every contender."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """One certificate in the ways that servers want it."""

    certificate: Path
    key: Path
    both: Path
    """The two in one file (HAProxy)."""

    def values(self) -> dict[str, str]:
        """What a template may say of it."""
        return {"cert": str(self.certificate), "key": str(self.key), "pem": str(self.both)}


def write_certificate(directory: Path, hosts: Sequence[str]) -> CertificateFiles:
    """A new certificate for these hosts, in files that are named after the first of them."""
    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    files = CertificateFiles(*(directory / f"{hosts[0]}.{kind}" for kind in ("crt", "key", "pem")))
    files.certificate.write_bytes(public)
    files.key.write_bytes(private)
    files.both.write_bytes(public + private)
    return files
