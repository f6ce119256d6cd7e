"""Certificates for tests: authorities, certificates that they issue, and contexts of clients that
trust them."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stickyproxy.model.tls import Certificate

_DAY = timedelta(days=1)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Authority:
    """A CA."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> str:
        """What those trust who trust it."""
        return pem_of(self.certificate)


def make_key(*, rsa_bits: int = 0) -> Key:
    """A key on the curve P-256, which is quick to make; or of RSA with so many bits."""
    if rsa_bits:
        return rsa.generate_private_key(65537, rsa_bits)
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(certificate: x509.Certificate) -> str:
    """A certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def pem_of_key(key: Key, *, password: str = "") -> str:
    """A key as text, encrypted if there is a password."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password.encode())
        if password
        else serialization.NoEncryption(),
    ).decode()


def make_ca(name: str = "test CA", *, issuer: Authority | None = None) -> Authority:
    """An authority, by itself or an intermediate one of ``issuer``."""
    key = make_key()
    certificate = (
        _builder(name, key, issuer, datetime.now(UTC) + 3650 * _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    return Authority(certificate, key)


def make_certificate(
    hosts: Sequence[str],
    ca: Authority | None = None,
    *,
    name: str = "test",
    common_name: str | None = None,
    expires: datetime | None = None,
    key: Key | None = None,
    client: bool = False,
    default: bool = False,
    challenge: bool = False,
    extensions: Sequence[x509.ExtensionType] = (),
) -> Certificate:
    """A certificate for these names or IP addresses, issued by ``ca`` or by itself, with the chain
    that a client needs that trusts the root. It expires in 90 days, if nothing else is said.
    ``client``: it is one that clients show. ``default``: it is for those whom no other one is for.
    ``challenge``: see ``Certificate``."""
    key = key or make_key()
    until = (expires or datetime.now(UTC) + 90 * _DAY).replace(microsecond=0)
    usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    builder = _builder(common_name or (hosts[0] if hosts else name), key, ca, until).add_extension(
        x509.ExtendedKeyUsage([usage]), critical=False
    )
    if hosts:
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    issued = builder.sign(ca.key if ca else key, hashes.SHA256())
    chain = pem_of(issued)
    if ca is not None and ca.certificate.issuer != ca.certificate.subject:
        chain += ca.pem
    return Certificate(
        name=name,
        hosts=() if default else tuple(hosts),
        chain=chain,
        key=pem_of_key(key),
        expires=until.timestamp(),
        challenge=challenge,
    )


def client_context(
    *authorities: Authority, shows: Certificate | None = None, folder: Path | None = None
) -> ssl.SSLContext:
    """A context of clients that trust these authorities; none: anybody. ``shows``: the certificate
    that they have, which takes a ``folder`` to put it in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities:
        context.load_verify_locations(cadata="".join(each.pem for each in authorities))
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if shows is not None:
        assert folder is not None
        context.load_cert_chain(write_pem(shows, folder))
    return context


def write_pem(certificate: Certificate, folder: Path) -> Path:
    """One file with the chain and the key; returns its path."""
    path = folder / f"{certificate.name}.pem"
    path.write_text(certificate.chain + certificate.key)
    return path


def _builder(
    name: str, key: Key, issuer: Authority | None, until: datetime
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer.key if issuer else key
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(datetime.now(UTC), until) - 30 * _DAY)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
