"""Certificates as they are written, PEM, to those that clients are shown.

Pure, and the one place where a certificate is judged, wherever it comes from: files, secrets, ACME.
What OpenSSL or every client would refuse raises ValueError with a sentence that says what is wrong
and what to do; what only some clients refuse becomes the certificate's ``caveat``. Dates are no
reason to refuse one, and are judged in ``config.validity``: an expired certificate tells clients
and monitoring more than a self-made one does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from stickyproxy.base.addresses import canonical_host
from stickyproxy.base.text import shown
from stickyproxy.config.validity import SELF_MADE
from stickyproxy.model.tls import Certificate

LARGEST = 1 << 18
"""Bytes of a PEM file; more is a wrong file."""

_LIFETIME = 397
"""Days for which a self-made certificate is valid: the most that browsers accept of any."""
_RSA_BITS = 2048
"""Of keys that OpenSSL accepts at its security level 2 (SSL_CTX_set_security_level(3))."""
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
"""Those that TLS 1.3 has (RFC 8446 section 4.2.3)."""
_BROKEN_HASHES = (hashes.MD5, hashes.SHA1)
_MALFORMED = (
    *(ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion),
    *(x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
"""What the library raises when it cannot understand a certificate or key."""


class _Refused(ValueError):
    """With a sentence of ours; what else is raised is the library's, about bytes."""


# --- read -----------------------------------------------------------------------------------


def make_certificate(
    name: str, chain: str, key: str, *, challenge: bool = False, needs_hosts: bool = True
) -> Certificate:
    """The certificate in ``chain`` that ``key`` belongs to, with those that lead from it to its
    authority in this order, whatever order they are written in; both are PEM. ``name`` says in
    messages where it comes from. ``needs_hosts``: refuse one that names no host, because no client
    would ever be shown it. Raises ValueError, whose sentence is about the certificate or its key
    and does not repeat ``name``."""
    given = _certificates(chain)
    private = _private_key(key)
    _check_key(private)
    try:
        leaf = _certificate_of(private, given)
        path = _path(leaf, given)
        _check_signatures(path)
        _check_purpose(leaf)
        hosts = _hosts(leaf)
        caveat = "; and ".join(_caveats(path, hosts))
        begins, expires = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    except _Refused:
        raise
    except _MALFORMED as error:
        raise _unreadable("the certificate", error) from None
    if needs_hosts and not hosts:
        raise _Refused(
            "the certificate names no host: have it issued with a subjectAltName (openssl req: "
            "-addext subjectAltName=DNS:shop.example.com), or, if it is for an address, say "
            "default = true"
        )
    return Certificate(
        name,
        hosts,
        "".join(_pem(each) for each in path),
        _key_pem(private),
        begins=begins.timestamp(),
        expires=expires.timestamp(),
        caveat=caveat,
        challenge=challenge,
    )


# --- the self-made one ----------------------------------------------------------------------


def self_made(now: float) -> Certificate:
    """A new certificate that no client trusts, for those whom no other one is for: with it a
    listener can answer at all. ``now``: Unix time in seconds."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SELF_MADE)])
    begins = datetime.fromtimestamp(now, UTC) - timedelta(hours=1)  # clocks differ
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=_LIFETIME))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        # Some clients cannot read a certificate without names; nobody is called that (RFC 2606).
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("stickyproxy.invalid")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return replace(make_certificate(SELF_MADE, _pem(certificate), _key_pem(key)), hosts=())


# --- PEM ------------------------------------------------------------------------------------

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]+-----")


def _blocks(text: str, what: str) -> list[tuple[str, bytes]]:
    """(label, PEM) of all that is in the text, which may say other things between (RFC 7468 section
    5.2). Raises ValueError."""
    found = [(block[1], block[0]) for block in _BLOCK.finditer(text)]
    if len(found) != len(_BEGIN.findall(text)):
        raise _Refused(f"{what} breaks off in the middle: write the whole of it")
    return [(label, block.encode("utf-8", "surrogateescape")) for label, block in found]


def _certificates(text: str) -> list[x509.Certificate]:
    blocks = _blocks(text, "the certificate")
    found = [block for label, block in blocks if label in ("CERTIFICATE", "X509 CERTIFICATE")]
    if not found:
        raise _Refused(_no_certificate([label for label, _ in blocks]))
    try:
        return [x509.load_pem_x509_certificate(block) for block in found]
    except _MALFORMED as error:
        raise _unreadable("the certificate", error) from None


def _no_certificate(labels: Sequence[str]) -> str:
    if "CERTIFICATE REQUEST" in labels or "NEW CERTIFICATE REQUEST" in labels:
        return (
            "the certificate is a request for one: give what the authority issued upon this request"
        )
    if any(label.endswith("PRIVATE KEY") for label in labels):
        return "the certificate is a private key: give the certificate here, and the key as key"
    return (
        "the certificate is not PEM: it has no line -----BEGIN CERTIFICATE-----; convert it with "
        "openssl x509 -inform DER -outform PEM"
    )


def _private_key(text: str) -> PrivateKeyTypes:
    blocks = _blocks(text, "the key")
    found = [(label, block) for label, block in blocks if label.endswith("PRIVATE KEY")]
    if not found:
        raise _Refused(
            "the key is not PEM: it has no line -----BEGIN PRIVATE KEY-----; give the private key "
            "that the certificate was requested with"
        )
    label, block = found[0]
    if label == "ENCRYPTED PRIVATE KEY" or b"ENCRYPTED" in block:
        raise _Refused(
            "the key is encrypted, and there is nobody to ask for its password: decrypt it with "
            "openssl pkey"
        )
    if label == "OPENSSH PRIVATE KEY":
        raise _Refused(
            "the key is one of OpenSSH: give the one that the certificate was requested with"
        )
    try:
        # The library would see whether p and q are primes, which takes 40 ms with 2048 bits, and
        # 300 with 4096. If they are not, nobody is harmed but who visits this host.
        key = serialization.load_pem_private_key(
            block, password=None, unsafe_skip_rsa_key_validation=True
        )
        if isinstance(key, rsa.RSAPrivateKey) and not _fit_together(key.private_numbers()):
            raise ValueError("its numbers do not fit together")
    except _MALFORMED as error:
        raise _unreadable("the key", error) from None
    return key


def _fit_together(key: rsa.RSAPrivateNumbers) -> bool:
    """True if signing with the key is arithmetic that comes to an end, and to a signature if p and
    q are primes (RFC 8017 section 3.2)."""
    p, q, d, e = key.p, key.q, key.d, key.public_numbers.e
    if not all(number > 2 and number % 2 for number in (p, q, d, e)):
        return False
    return (
        p * q == key.public_numbers.n
        and key.dmp1 == d % (p - 1)
        and key.dmq1 == d % (q - 1)
        and e * d % (p - 1) == 1
        and e * d % (q - 1) == 1
        and key.iqmp * q % p == 1
    )


def _unreadable(what: str, error: Exception) -> _Refused:
    reason = str(error).partition("\n")[0].rstrip(".")
    return _Refused(f"{what} cannot be read ({shown(reason)}): give it as it was issued")


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: PrivateKeyTypes) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


# --- which is which -------------------------------------------------------------------------


def _certificate_of(key: PrivateKeyTypes, given: Sequence[x509.Certificate]) -> x509.Certificate:
    """The one that the key belongs to. Raises ValueError."""
    wanted = _public_bytes(key.public_key())
    for each in given:
        try:
            if _public_bytes(each.public_key()) == wanted:
                return each
        except _MALFORMED:  # of an authority: not ours to judge
            continue
    raise _Refused(
        "the key does not fit the certificate: give the one that this certificate was requested "
        "with (openssl x509 -noout -pubkey and openssl pkey -pubout print the same if they fit)"
    )


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _path(leaf: x509.Certificate, given: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """From the certificate towards its authority, as far as it is given; what does not belong to
    it is left out."""
    path = [leaf]
    rest = [each for each in given if each != leaf]
    while path[-1].subject != path[-1].issuer:
        issuer = next((each for each in rest if _issued(each, path[-1])), None)
        if issuer is None:
            break
        rest.remove(issuer)
        path.append(issuer)
    return path


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    if issuer.subject != certificate.issuer:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_MALFORMED):
        return False
    return True


# --- what some refuse, and what all do ------------------------------------------------------


def _caveats(path: Sequence[x509.Certificate], hosts: Sequence[str]) -> Iterator[str]:
    leaf = path[0]
    if hosts and not _alternative_names(leaf):
        yield (
            f"names {hosts[0]} as its common name alone, which browsers ignore (RFC 9525 section "
            "2): have it issued with a subjectAltName (openssl req: -addext "
            f"subjectAltName=DNS:{hosts[0]})"
        )
    # Where that can be fetched from is said by authorities of the public, none of which issues
    # certificates of servers with its root.
    access = _extension(leaf, x509.AuthorityInformationAccess) or ()
    public = any(each.access_method == AuthorityInformationAccessOID.CA_ISSUERS for each in access)
    if public and len(path) == 1 and leaf.subject != leaf.issuer:
        yield (
            "comes without the certificate that it was issued with, which few clients fetch by "
            "themselves: put that behind it, as it is in the fullchain.pem of certbot"
        )


def _check_key(key: PrivateKeyTypes) -> None:
    """Raises ValueError if OpenSSL or TLS 1.3 would not take it."""
    match key:
        case rsa.RSAPrivateKey():
            if key.key_size < _RSA_BITS:
                raise _Refused(
                    f"the key is too weak: RSA of {key.key_size} bits; make a new one of "
                    f"{_RSA_BITS} or more, or for ECDSA, and have the certificate issued anew"
                )
        case ec.EllipticCurvePrivateKey():
            if not isinstance(key.curve, _CURVES):
                raise _Refused(
                    f"the key is on the curve {key.curve.name}, which clients do not know: make a "
                    "new one on P-256 (prime256v1), and have the certificate issued anew"
                )
        case ed25519.Ed25519PrivateKey() | ed448.Ed448PrivateKey():
            pass
        case _:
            raise _Refused(
                "the key is of a kind that TLS does not use: make a new one, RSA or ECDSA, and "
                "have the certificate issued anew"
            )


def _check_signatures(path: Sequence[x509.Certificate]) -> None:
    """Raises ValueError if one is made with a hash that anybody can forge. Nobody looks at those
    that authorities made for themselves."""
    for each in path:
        try:
            algorithm = each.signature_hash_algorithm
        except UnsupportedAlgorithm:
            continue
        if isinstance(algorithm, _BROKEN_HASHES) and each.subject != each.issuer:
            raise _Refused(
                f"{_called(each)} is signed by way of {algorithm.name.upper()}, which clients "
                "refuse: have it issued anew, with SHA-256"
            )


def _called(certificate: x509.Certificate) -> str:
    try:
        return f"the certificate of {shown(certificate.subject.rfc4514_string())}"
    except ValueError:
        return "the certificate"


def _check_purpose(leaf: x509.Certificate) -> None:
    """Raises ValueError if clients would not take it for a server's (RFC 5280 section 4.2.1)."""
    usage = _extension(leaf, x509.ExtendedKeyUsage)
    purposes = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if usage is not None and purposes.isdisjoint(usage):
        raise _Refused(
            "the certificate is not one for servers (its extendedKeyUsage lacks serverAuth): have "
            "it issued anew with that"
        )


def _hosts(leaf: x509.Certificate) -> tuple[str, ...]:
    """The names that it is for. Addresses are left out: no client sends one as the server's name
    (RFC 6066 section 3)."""
    return _canonical(_alternative_names(leaf) or _common_names(leaf))


def _alternative_names(leaf: x509.Certificate) -> list[str]:
    names = _extension(leaf, x509.SubjectAlternativeName)
    return [] if names is None else names.get_values_for_type(x509.DNSName)


def _common_names(leaf: x509.Certificate) -> list[str]:
    return [str(each.value) for each in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def _canonical(names: Iterable[str]) -> tuple[str, ...]:
    """Those that are host names, each once; an address in their place is none."""
    found: dict[str, None] = {}
    for name in names:
        if _is_address(name):
            continue
        wildcard = "*." if name.startswith("*.") else ""
        with suppress(ValueError):
            found[wildcard + canonical_host(name.removeprefix(wildcard))] = None
    return tuple(found)


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


Extension = TypeVar("Extension", bound=x509.ExtensionType)


def _extension(of: x509.Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return of.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
