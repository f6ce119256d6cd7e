"""Certificates are judged where they are read: what comes out can be shown to clients."""

from __future__ import annotations

import base64
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.config import certificates
from stickyproxy.config.certificates import make_certificate, self_made
from stickyproxy.config.validity import SELF_MADE, covers, dates, is_valid, needs_renewal
from stickyproxy.model.tls import Certificate
from tests.certificates import make_ca, make_key, pem_of_key
from tests.certificates import make_certificate as issue

NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
DAY = 24 * 3600.0

ROOT = make_ca("root")
MIDDLE = make_ca("middle", issuer=ROOT)
SHOP = issue(["shop.example"], MIDDLE)
DER = ssl.PEM_cert_to_DER_cert(SHOP.chain[: SHOP.chain.index("-----END") + 26])
OTHER = issue(["other.example"], ROOT)


def read(chain: str = SHOP.chain, key: str = SHOP.key) -> Certificate:
    return make_certificate("shop", chain, key)


def refusal(chain: str = SHOP.chain, key: str = SHOP.key) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the sentence is what is tested
        make_certificate("shop", chain, key)
    return str(caught.value)


def openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


# --- what comes out -------------------------------------------------------------------------


def test_a_certificate_with_chain_and_key() -> None:
    made = read()
    assert made.name == "shop"
    assert made.hosts == ("shop.example",)
    assert made.expires == SHOP.expires
    assert made.begins < made.expires
    assert made.caveat == ""
    assert (made.chain, made.key) == (SHOP.chain, SHOP.key)


def test_the_key_is_not_in_its_repr() -> None:
    assert "PRIVATE KEY" not in repr(read())


def test_the_chain_is_put_in_order() -> None:
    """Leaf first, each followed by its issuer (RFC 5246 section 7.4.2); what leads nowhere is left
    out."""
    backwards = ROOT.pem + MIDDLE.pem + OTHER.chain + SHOP.chain
    assert read(backwards).chain == SHOP.chain + ROOT.pem


def test_text_around_the_blocks_is_passed_over() -> None:
    """As ``openssl x509 -text`` writes it."""
    assert read("Certificate:\n  Version: 3\n" + SHOP.chain + "\nthe end\n").chain == SHOP.chain


def test_certificate_and_key_in_one_text() -> None:
    both = SHOP.key + SHOP.chain
    assert read(both, both) == read()


def test_all_names_are_in_canonical_form() -> None:
    made = issue(["Shop.Example", "*.shop.example", "shop.example", "192.0.2.1"], ROOT)
    assert read(made.chain, made.key).hosts == ("shop.example", "*.shop.example")


def test_a_common_name_counts_where_there_is_no_other_and_browsers_do_not_like_it() -> None:
    made = issue([], ROOT, common_name="demo.local")
    found = read(made.chain, made.key)
    assert found.hosts == ("demo.local",)
    assert "names demo.local as its common name alone" in found.caveat
    assert "subjectAltName=DNS:demo.local" in found.caveat


def test_a_certificate_without_the_one_that_it_was_issued_with() -> None:
    """Which curl does not fetch, though browsers do: the usual mistake."""
    url = x509.UniformResourceIdentifier("http://ca.example/middle.cer")
    issuers = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, url)
    access = x509.AuthorityInformationAccess([issuers])
    made = issue(["shop.example"], MIDDLE, extensions=[access])
    alone = made.chain.removesuffix(MIDDLE.pem)
    assert read(made.chain, made.key).caveat == ""
    assert read(alone, made.key).caveat.startswith(
        "comes without the certificate that it was issued with"
    )


def test_what_openssl_req_makes(tmp_path: Path) -> None:
    """Interlock's own instructions."""
    openssl(
        *("req", "-new", "-newkey", "rsa:2048", "-days", "3650", "-nodes", "-x509"),
        *("-subj", "/C=US/ST=SomeState/L=SomeCity/O=Interlock/CN=demo.local"),
        *("-keyout", "demo.local.key", "-out", "demo.local.cert"),
        folder=tmp_path,
    )
    cert, key = (tmp_path / f"demo.local.{kind}" for kind in ("cert", "key"))
    assert read(cert.read_text(), key.read_text()).hosts == ("demo.local",)


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_keys_in_the_older_form(kind: str) -> None:
    """SEC 1 and PKCS #1, with the parameters that ``openssl ecparam`` puts in front."""
    key = make_key(rsa_bits=2048 if kind == "rsa" else 0)
    made = issue(["shop.example"], ROOT, key=key)
    traditional = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()
    front = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    assert read(made.chain, front + traditional).key == made.key


def test_openssl_takes_what_comes_out(tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    made = read(ROOT.pem + SHOP.chain)
    both.write_text(made.chain + made.key)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(both)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_an_address_is_no_name(address: str) -> None:
    """Not as the common name either: no client asks for one (RFC 6066 section 3)."""
    made = issue([address], ROOT, common_name=address)
    assert "default = true" in refusal(made.chain, made.key)


def test_any_host_may_be_missing_if_it_is_said() -> None:
    made = issue(["192.0.2.1"], ROOT, common_name="192.0.2.x y")
    assert make_certificate("x", made.chain, made.key, needs_hosts=False).hosts == ()


# --- what is refused ------------------------------------------------------------------------


def test_a_key_of_another_certificate() -> None:
    assert refusal(key=OTHER.key).startswith("the key does not fit the certificate: ")


def test_an_encrypted_key() -> None:
    key = make_key()
    made = issue(["shop.example"], ROOT, key=key)
    assert "is encrypted" in refusal(made.chain, pem_of_key(key, password="secret"))
    traditional = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"secret"),
    ).decode()
    assert "decrypt it with openssl pkey" in refusal(made.chain, traditional)


def test_a_weak_key() -> None:
    made = issue(["shop.example"], ROOT, key=make_key(rsa_bits=1024))
    assert "too weak: RSA of 1024 bits" in refusal(made.chain, made.key)


def test_an_rsa_key_whose_numbers_do_not_fit_together() -> None:
    """The public half is as it should be, so that only signing would show it."""
    key = make_key(rsa_bits=2048)
    assert isinstance(key, rsa.RSAPrivateKey)
    made = issue(["shop.example"], ROOT, key=key)
    assert read(made.chain, made.key).key == made.key
    der = base64.b64decode("".join(made.key.splitlines()[1:-1]))
    for name in ("p", "q", "d", "dmp1", "dmq1", "iqmp"):
        number: int = getattr(key.private_numbers(), name)
        size = (number.bit_length() + 7) // 8
        before, after = (each.to_bytes(size, "big") for each in (number, number ^ 2))
        changed = base64.encodebytes(der.replace(before, after)).decode()
        pem = f"-----BEGIN PRIVATE KEY-----\n{changed}-----END PRIVATE KEY-----\n"
        assert refusal(made.chain, pem).startswith("the key cannot be read ("), name


def test_a_curve_that_clients_do_not_know() -> None:
    made = issue(["shop.example"], ROOT, key=ec.generate_private_key(ec.SECP256K1()))
    assert "on the curve secp256k1" in refusal(made.chain, made.key)


def test_a_key_that_tls_does_not_use() -> None:
    key = dsa.generate_private_key(2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    assert "of a kind that TLS does not use" in refusal(key=pem)


def test_a_certificate_that_is_signed_by_way_of_sha1(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_text(ROOT.pem)
    (tmp_path / "root.key").write_text(pem_of_key(ROOT.key))
    (tmp_path / "shop.key").write_text(SHOP.key)
    request = ("req", "-new", "-key", "shop.key", "-subj", "/CN=shop.example", "-out", "shop.csr")
    openssl(*request, folder=tmp_path)
    openssl(
        *("x509", "-req", "-sha1", "-in", "shop.csr", "-CA", "root.pem", "-CAkey", "root.key"),
        *("-out", "shop.pem"),
        folder=tmp_path,
    )
    assert "signed by way of SHA1" in refusal((tmp_path / "shop.pem").read_text())
    request_text = (tmp_path / "shop.csr").read_text()
    assert refusal(request_text).startswith("the certificate is a request for one: ")


def test_a_certificate_of_a_client() -> None:
    made = issue(["shop.example"], ROOT, client=True)
    assert "not one for servers" in refusal(made.chain, made.key)


def test_a_certificate_without_a_name() -> None:
    made = issue(["192.0.2.1"], ROOT, common_name="no host")
    assert refusal(made.chain, made.key).startswith("the certificate names no host: ")


@pytest.mark.parametrize(
    ("chain", "key", "said"),
    [
        ("", SHOP.key, "the certificate is not PEM"),
        (SHOP.key, SHOP.key, "the certificate is a private key"),
        (SHOP.chain, "", "the key is not PEM"),
        (SHOP.chain, SHOP.chain, "the key is not PEM"),
        (SHOP.chain[:-40], SHOP.key, "the certificate breaks off"),
        (SHOP.chain, SHOP.key[:-40], "the key breaks off"),
        (SHOP.chain.replace("M", "\udcff", 1), SHOP.key, "the certificate cannot be read ("),
        (SHOP.chain, SHOP.key.replace("M", "A", 1), "the key cannot be read ("),
    ],
)
def test_what_is_not_there(chain: str, key: str, said: str) -> None:
    assert refusal(chain, key).startswith(said)


# Negative serial numbers, names of countries that are too long and the like, which cryptography
# warns of, are what mutation makes.
_MUTANTS = (
    pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Attribute's length must be:UserWarning"),
)


@_MUTANTS[0]
@_MUTANTS[1]
@given(st.lists(st.tuples(st.integers(0, len(DER) - 1), st.integers(0, 255)), min_size=1))
def test_whatever_the_bytes_of_a_certificate_are(changes: list[tuple[int, int]]) -> None:
    """They raise nothing but a sentence of ours."""
    der = bytearray(DER)
    for place, byte in changes[:4]:
        der[place] = byte
    assert_made_or_refused(ssl.DER_cert_to_PEM_cert(bytes(der)), SHOP.key)


@_MUTANTS[0]
@_MUTANTS[1]
@given(st.booleans(), st.integers(0), st.integers(0, 40), st.text(max_size=5))
def test_whatever_is_written(in_key: bool, place: int, length: int, instead: str) -> None:
    def changed(text: str) -> str:
        start = place % len(text)
        return text[:start] + instead + text[start + length :]

    if in_key:
        assert_made_or_refused(SHOP.chain, changed(SHOP.key))
    else:
        assert_made_or_refused(changed(SHOP.chain), SHOP.key)


def assert_made_or_refused(chain: str, key: str) -> None:
    try:
        make_certificate("shop", chain, key)
    except ValueError as error:
        sentence = str(error)
    else:
        return
    assert sentence.startswith(("the certificate", "the key"))
    assert "\n" not in sentence


# --- hosts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hosts", "name", "expected"),
    [
        (["shop.example"], "shop.example", True),
        (["shop.example"], "www.shop.example", False),
        (["*.example"], "shop.example", True),
        (["*.shop.example"], "shop.example", False),
        (["*.example"], "www.shop.example", False),
        (["*.example"], "*.example", True),
        (["shop.example"], "*.example", False),
        ([], "shop.example", False),
    ],
)
def test_covers(hosts: list[str], name: str, expected: bool) -> None:
    assert covers(hosts, name) is expected


# --- dates ----------------------------------------------------------------------------------


def lasting(days: float, left: float) -> Certificate:
    expires = NOW + left * DAY
    return Certificate("x", ("shop.example",), "", "", expires - days * DAY, expires)


@pytest.mark.parametrize(
    ("certificate", "valid", "renew", "said"),
    [
        (lasting(90, 22), True, False, ""),
        (lasting(90, 21), True, True, "expires at 2026-06-22 00:00 UTC: renew it"),
        (lasting(6, 2.1), True, False, ""),
        (lasting(6, 1.9), True, True, "expires at "),
        (lasting(90, 0), False, True, "expired at 2026-06-01 00:00 UTC, and clients refuse it"),
        (lasting(90, 91), False, False, "is not valid before 2026-06-02 00:00 UTC"),
        (Certificate("x", (), "", ""), True, False, ""),
    ],
)
def test_dates(certificate: Certificate, valid: bool, renew: bool, said: str) -> None:
    assert is_valid(certificate, NOW) is valid
    assert needs_renewal(certificate, NOW) is renew
    assert dates(certificate, NOW).startswith(said)
    assert bool(dates(certificate, NOW)) is bool(said)


# --- the self-made one ----------------------------------------------------------------------


def test_the_self_made_one_says_what_it_is_and_is_for_everybody() -> None:
    made = self_made(NOW)
    assert (made.name, made.hosts) == (SELF_MADE, ())
    parsed = x509.load_pem_x509_certificate(made.chain.encode())
    assert parsed.subject.rfc4514_string() == "CN=stickyproxy default certificate"
    usage = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert is_valid(made, NOW)
    assert parsed.not_valid_after_utc - parsed.not_valid_before_utc < timedelta(days=398)
    assert self_made(NOW).key != made.key


def test_ed25519_is_accepted() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    subject = x509.Name([])
    parsed = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1)
        .not_valid_before(datetime.fromtimestamp(NOW, UTC))
        .not_valid_after(datetime.fromtimestamp(NOW + DAY, UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("shop.example")]), critical=True)
        .sign(key, None)
    )
    assert read(certificates._pem(parsed), certificates._key_pem(key)).hosts == ("shop.example",)
