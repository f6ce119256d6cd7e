"""TLS between two programs that share a token and nothing else.

The server's key and certificate follow from the token, so both ends can compute them: the client
trusts that one certificate and no other, and nothing has to be configured, renewed or stored. Only
who knows the token can be the server; who may be the client is asked in the protocol above. TLS 1.3
(RFC 8446) alone: both ends are ours, so nothing older is needed.

Whoever connects sees the public key, and could try tokens until one leads to it. So the key is
derived slowly (scrypt, RFC 7914); for a random token of 16 bytes or more that does not matter.
"""

from __future__ import annotations

import datetime
import hashlib
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stickyproxy.base.pem import load_chain

_SALT = b"stickyproxy: key of the controller, version 1"
"""Another text, another key: both ends have to have the same."""

_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stickyproxy controller")])

_FROM = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_UNTIL = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""It does not expire (RFC 5280 section 4.1.2.5): it lives for as long as the token."""


def server_context(token: bytes) -> ssl.SSLContext:
    """What the server accepts connections with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    key = _key(token)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    load_chain(context, _certificate(key), pem.decode())
    return context


def client_context(token: bytes) -> ssl.SSLContext:
    """What the client connects with. A server that does not know the token fails the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # it is who it is by its key, wherever it runs
    context.load_verify_locations(cadata=_certificate(_key(token)))
    return context


def _key(token: bytes) -> Ed25519PrivateKey:
    seed = hashlib.scrypt(token, salt=_SALT, n=1 << 14, r=8, p=1, dklen=32)
    return Ed25519PrivateKey.from_private_bytes(seed)


def _certificate(key: Ed25519PrivateKey) -> str:
    """PEM. The same key always gives the same one: Ed25519 signs without randomness (RFC 8032)."""
    made = (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, None)
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()
