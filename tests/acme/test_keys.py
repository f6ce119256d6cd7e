"""providers/acme/keys.py: what is computed about certificates."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from stickyproxy.providers.acme.authority import new_account_key, thumbprint
from stickyproxy.providers.acme.keys import challenge_certificate, renewal_id, validity
from tests.certificates import make_ca, make_certificate, pem_of


def test_the_answer_to_a_challenge_of_tls_alpn_01() -> None:
    """RFC 8737 section 3: the name, and the hash of the key authorization in a critical
    extension."""
    chain, key = challenge_certificate("shop.example.com", "token.thumbprint")
    found = x509.load_pem_x509_certificate(chain.encode())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["shop.example.com"]
    oid = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
    extension = found.extensions.get_extension_for_oid(oid)
    assert extension.critical
    assert isinstance(extension.value, x509.UnrecognizedExtension)
    digest = hashlib.sha256(b"token.thumbprint").digest()
    assert extension.value.value == bytes((0x04, 0x20)) + digest
    assert "PRIVATE KEY" in key


# The example of RFC 9773 section 4.1, as the parts that its name is made of.
AKI = bytes.fromhex("69885b6b87464041e1b37b847bf0ae2cde01c8d4")


@pytest.mark.parametrize(
    ("serial", "name"),
    [(0x8765432100, "AIdlQyEA"), (0x0765432100, "B2VDIQA"), (0x87, "AIc"), (0x7F, "fw")],
)
def test_what_a_certificate_is_called_when_it_is_renewed(serial: int, name: str) -> None:
    ca = make_ca()
    issuer = x509.AuthorityKeyIdentifier(AKI, None, None)
    made = (
        x509.CertificateBuilder()
        .subject_name(ca.certificate.subject)
        .issuer_name(ca.certificate.subject)
        .public_key(ca.key.public_key())
        .serial_number(serial)
        .not_valid_before(ca.certificate.not_valid_before_utc)
        .not_valid_after(ca.certificate.not_valid_after_utc)
        .add_extension(issuer, critical=False)
        .sign(ca.key, hashes.SHA256())
    )
    assert renewal_id(pem_of(made)) == f"aYhba4dGQEHhs3uEe_CuLN4ByNQ.{name}"


def test_a_certificate_without_its_issuers_key_has_no_such_name() -> None:
    chain, _ = challenge_certificate("shop.example.com", "token.thumbprint")
    assert renewal_id(chain) == ""


def test_validity() -> None:
    made = make_certificate(("a.example",))
    assert validity(made.chain).ends == made.expires
    with pytest.raises(ValueError, match="PEM"):
        validity("nothing")


def test_a_thumbprint_is_that_of_the_key() -> None:
    key = new_account_key()
    assert thumbprint(key) == thumbprint(key)
    assert len(thumbprint(key)) == 43
    assert thumbprint(new_account_key()) != thumbprint(key)
