"""Keys, and what certificates say: all that takes the cryptography library."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import NameOID

from stickyproxy.config.settings import KeyType

_ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""The extension of RFC 8737 section 6.1."""


def new_key(kind: KeyType) -> str:
    """A new private key, in PEM."""
    key: CertificateIssuerPrivateKeyTypes
    match kind:
        case "ec256":
            key = ec.generate_private_key(ec.SECP256R1())
        case "ec384":
            key = ec.generate_private_key(ec.SECP384R1())
        case "rsa2048":
            key = rsa.generate_private_key(65537, 2048)
        case "rsa4096":
            key = rsa.generate_private_key(65537, 4096)
    return _pem(key)


def _pem(key: CertificateIssuerPrivateKeyTypes) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


@dataclass(frozen=True, slots=True)
class Validity:
    """When a certificate holds, in Unix time."""

    begins: float
    ends: float


@lru_cache(maxsize=4096)
def validity(chain: str) -> Validity:
    """Of the first certificate of a chain in PEM. Raises ValueError."""
    found = x509.load_pem_x509_certificate(chain.encode())
    begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
    return Validity(begins.timestamp(), ends.timestamp())


@lru_cache(maxsize=4096)
def renewal_id(chain: str) -> str:
    """What names a certificate to its authority (RFC 9773 section 4.1); empty: it lacks the
    extension that this is made of."""
    found = x509.load_pem_x509_certificate(chain.encode())
    try:
        extension = found.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return ""
    serial = found.serial_number
    # DER has a sign bit: a serial number whose highest bit is set begins with a zero octet.
    octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return f"{_base64url(extension.value.key_identifier or b'')}.{_base64url(octets)}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def challenge_certificate(host: str, key_authorization: str) -> tuple[str, str]:
    """(certificate, key) in PEM that answer a challenge of tls-alpn-01 (RFC 8737 section 3)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "acme challenge")])
    digest = hashlib.sha256(key_authorization.encode()).digest()
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(  # an OCTET STRING (RFC 8737 section 3) of 32 octets
            x509.UnrecognizedExtension(_ACME_IDENTIFIER, b"\x04\x20" + digest), critical=True
        )
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), _pem(key)
