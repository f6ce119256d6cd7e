"""Which context answers whom, and for how long it lasts."""

from __future__ import annotations

import ssl

import pytest

from stickyproxy.base.errors import HandshakeRefused
from stickyproxy.dataplane.downstream.certificates import (
    INTERMEDIATE,
    Certificates,
    answers_challenge,
)
from stickyproxy.model.tls import Certificate, ClientAuth
from tests.certificates import make_ca, make_certificate

CA = make_ca()
ONE, TWO = make_certificate(["one.example"], CA), make_certificate(["two.example"], CA)


def shown(*certificates: Certificate) -> Certificates:
    made = Certificates()
    made.use(certificates)
    return made


class TestSettings:
    """Mozilla's intermediate configuration, version 6.0, but for the order of ciphers."""

    def test_of_a_context(self) -> None:
        context = shown(ONE).context("one.example")
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        ciphers = [each["name"] for each in context.get_ciphers()]
        assert [name for name in ciphers if not name.startswith("TLS_")] == INTERMEDIATE.split(":")
        assert sorted(name for name in ciphers if name.startswith("TLS_")) == [
            "TLS_AES_128_GCM_SHA256",
            "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
        ]
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION
        assert not context.options & ssl.OP_NO_TICKET
        assert context.verify_mode is ssl.CERT_NONE

    @pytest.mark.parametrize(
        ("required", "mode"), [(True, ssl.CERT_REQUIRED), (False, ssl.CERT_OPTIONAL)]
    )
    def test_client_certificates(self, required: bool, mode: ssl.VerifyMode) -> None:
        certificates = shown(ONE)
        auth = ClientAuth(CA.pem, required)
        context = certificates.context("one.example", (), auth)
        assert context.verify_mode is mode
        assert certificates.context("one.example", (), ClientAuth(CA.pem, required)) is context
        assert certificates.context("one.example") is not context  # whose tickets it cannot read


class TestContexts:
    def test_are_made_once(self) -> None:
        certificates = shown(ONE, TWO)
        one = certificates.context("one.example")
        assert certificates.context("one.example") is one
        assert certificates.context("two.example") is not one

    def test_outlast_what_changes_beside_them(self) -> None:
        certificates = shown(ONE)
        context = certificates.context("one.example")
        again = Certificate("elsewhere", ONE.hosts, ONE.chain, ONE.key)
        certificates.use([TWO, again])
        assert certificates.context("one.example") is context
        certificates.use([TWO])
        with pytest.raises(HandshakeRefused):
            certificates.context("one.example")

    def test_of_several_for_one_name_the_first_counts(self) -> None:
        other = make_certificate(["one.example"], CA)
        assert shown(ONE, other).context("one.example") is not None
        certificates = shown(ONE)
        context = certificates.context("one.example")
        certificates.use([other, ONE])
        assert certificates.context("one.example") is not context
        certificates.use([ONE, other])
        # ONE was not for anybody meanwhile, so its context is a new one.
        assert certificates.context("one.example") is certificates.context("one.example")

    def test_challenges(self) -> None:
        challenge = make_certificate(["one.example"], challenge=True)
        certificates = shown(ONE, challenge)
        assert answers_challenge(certificates.context("one.example", (b"acme-tls/1",)))
        assert not answers_challenge(certificates.context("one.example", (b"http/1.1",)))
        mixed = (b"http/1.1", b"acme-tls/1")
        assert not answers_challenge(certificates.context("one.example", mixed))
        with pytest.raises(HandshakeRefused):
            certificates.context("two.example", (b"acme-tls/1",))
        with pytest.raises(HandshakeRefused):
            certificates.context(None, (b"acme-tls/1",))
