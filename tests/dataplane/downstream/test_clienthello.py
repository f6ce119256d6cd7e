"""The first message of a TLS connection, as real clients send it and as nobody should."""

from __future__ import annotations

import random
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from OpenSSL import SSL

from stickyproxy.base.errors import NotTls
from stickyproxy.dataplane.downstream.clienthello import (
    MAX_HELLO,
    ClientHello,
    client_hello,
    missing_bytes,
)
from tests.certificates import client_context, make_ca, make_certificate, write_pem
from tests.hellos import (
    hello_of,
    message_of,
    records,
    resumed_hello_of,
    vector,
)
from tests.hostile.parsers import client_hello as holds


def default(**values: object) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for name, value in values.items():
        setattr(context, name, value)
    return context


class TestRealHellos:
    def test_name_and_protocols(self) -> None:
        context = default()
        context.set_alpn_protocols(["h2", "http/1.1"])
        read = client_hello(hello_of(context, "Shop.Example"))
        assert read is not None
        assert (read.server_name, read.alpn) == ("shop.example", (b"h2", b"http/1.1"))

    def test_without_either(self) -> None:
        read = client_hello(hello_of(default(check_hostname=False), None))
        assert read is not None
        assert (read.server_name, read.alpn) == (None, ())

    def test_an_address_is_no_server_name(self) -> None:
        read = client_hello(hello_of(default(), "127.0.0.1"))
        assert read is not None
        assert read.server_name is None

    def test_tls_1_2_begins_without_a_session(self) -> None:
        old = hello_of(default(maximum_version=ssl.TLSVersion.TLSv1_2), "a.test")
        assert client_hello(old) == ClientHello("a.test", (), b"")

    def test_tls_1_3_makes_a_session_id_up(self) -> None:
        # RFC 8446 appendix D.4
        read = client_hello(hello_of(default(), "a.test"))
        assert read is not None
        assert len(read.session_id) == 32

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    @pytest.mark.parametrize("tickets", [True, False])
    def test_resumed(self, tmp_path: Path, version: ssl.TLSVersion, tickets: bool) -> None:
        authority = make_ca()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(write_pem(make_certificate(["a.test"], authority), tmp_path))
        client = client_context(authority)
        client.maximum_version = version
        if not tickets:
            client.options |= ssl.OP_NO_TICKET
        sent = resumed_hello_of(client, server, "a.test")
        if version is ssl.TLSVersion.TLSv1_3:
            assert b"\x00\x29" in sent, "it offers a pre-shared key"
        read = client_hello(sent)
        assert read is not None
        assert (read.server_name, len(read.session_id)) == ("a.test", 32)

    def test_post_quantum_key_share(self) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        connection = SSL.Connection(context, None)
        connection.set_tlsext_host_name(b"a.test")
        connection.set_connect_state()
        with pytest.raises(SSL.WantReadError):
            connection.do_handshake()
        sent = connection.bio_read(1 << 16)
        assert b"\x11\xec" in sent, "it offers X25519MLKEM768"
        assert len(sent) > 1216, "and sends a key share of it"
        read = client_hello(sent)
        assert read is not None
        assert read.server_name == "a.test"


class TestAnyWayItComes:
    @pytest.fixture
    def hello(self) -> bytes:
        return hello_of(default(), "a.test")

    def test_every_prefix_waits_for_more(self, hello: bytes) -> None:
        for size in range(len(hello)):
            assert client_hello(hello[:size]) is None, size
            assert 0 < missing_bytes(hello[:size]) <= len(hello) - size, size
        assert client_hello(hello) is not None
        assert missing_bytes(hello) == 0

    def test_what_follows_is_not_looked_at(self, hello: bytes) -> None:
        assert client_hello(hello + b"\x17\x03\x03\x00\x01x") == client_hello(hello)

    @pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100])
    def test_records_split_it_anywhere(self, hello: bytes, size: int) -> None:
        split = records(hello[5:], size)
        assert client_hello(split) == client_hello(hello)
        for end in range(len(split)):
            assert client_hello(split[:end]) is None, end

    def test_looking_again_only_when_it_can_be_there(self, hello: bytes) -> None:
        """However it is split, a few looks are enough."""
        split = records(hello[5:], 1)
        size = looks = 0
        while missing := missing_bytes(split[:size]):
            size += missing
            looks += 1
        assert size == len(split)
        assert looks < 60

    def test_a_message_may_end_within_a_record(self, hello: bytes) -> None:
        more = b"\x01\x00\x00\x00"
        joined = records(hello[5:] + more, 1 << 14)
        assert client_hello(joined) == client_hello(hello)
        assert client_hello(joined[: len(hello)]) == client_hello(hello)


class TestSizes:
    @staticmethod
    def padded(size: int) -> bytes:
        """A hello of so many bytes on the wire, in one record."""
        empty = records(message_of(extensions=[(21, b"")]), 1 << 14)
        return records(message_of(extensions=[(21, bytes(size - len(empty)))]), 1 << 14)

    def test_as_long_as_it_may_be(self) -> None:
        assert client_hello(self.padded(MAX_HELLO)) == ClientHello(None, (), b"")

    @pytest.mark.parametrize("size", [MAX_HELLO + 1, MAX_HELLO + 5])
    def test_longer(self, size: int) -> None:
        with pytest.raises(NotTls, match="longer than 16384 bytes"):
            client_hello(self.padded(size))

    def test_what_will_be_longer_is_refused_at_once(self) -> None:
        with pytest.raises(NotTls, match="longer than 16384 bytes"):
            client_hello(b"\x16\x03\x01\x40\x00\x01\x00\x40\x00")

    def test_headers_count(self) -> None:
        with pytest.raises(NotTls, match="longer than 16384 bytes"):
            client_hello(records(self.padded(MAX_HELLO)[5:], 1))


class TestNotTls:
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"GET / HTTP/1.1\r\n", "does not begin with a TLS handshake"),
            (b"G", "does not begin with a TLS handshake"),
            (b"\r", "does not begin with a TLS handshake"),
            # SSLv2: RFC 6101 appendix E
            (b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", "does not begin with"),
            (b"\x80\x67\x01\x03\x01", "does not begin with"),
            (b"\x17\x03\x03\x00\x01\x00", "does not begin with"),
            (b"\x16\x02", "of a version that is not TLS"),
            (b"\x16\x03\x01\x00\x00", "is empty or too long"),
            (b"\x16\x03\x01\x40\x01", "is empty or too long"),
            (b"\x16\x03\x01\x00\x05\x02", "no ClientHello"),
        ],
    )
    def test_another_protocol(self, data: bytes, reason: str) -> None:
        for parse in (client_hello, missing_bytes):
            with pytest.raises(NotTls, match=reason):
                parse(data)

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (message_of(session_id=bytes(33)), "session id is too long"),
            (message_of(extensions=[(16, b""), (16, b"")]), "one of its extensions occurs twice"),
            (message_of(extensions=[(0, b""), (0, b"")]), "one of its extensions occurs twice"),
            (message_of(rest=b"x"), "something after its extensions"),
            (message_of(rest=None, cut=1), "lengths is too large"),
            (b"\x01\x00\x00\x00", "lengths is too large"),
            (message_of(extensions=[(0, b"")]), "lengths is too large"),
            (message_of(extensions=[(0, vector(2, b"\0" + vector(2, b"")))]), "no host name"),
            (message_of(extensions=[(0, vector(2, b"\0" + vector(2, b".")))]), "no host name"),
            (message_of(extensions=[(0, vector(2, b"\0" + vector(2, b"a\0b")))]), "no host name"),
            (message_of(extensions=[(0, vector(2, b"\0" + vector(2, b"a b")))]), "no host name"),
            (message_of(extensions=[(0, vector(2, b"\0" + vector(2, b"\xe4")))]), "no host name"),
            (message_of(extensions=[(0, vector(2, 2 * (b"\0" + vector(2, b"a"))))]), "malformed"),
            (message_of(extensions=[(0, vector(2, b"\0" + vector(2, b"a")) + b"x")]), "malformed"),
            (message_of(extensions=[(16, vector(2, vector(1, b"")))]), "malformed"),
            (message_of(extensions=[(16, vector(2, vector(1, b"h2")) + b"x")]), "malformed"),
            (message_of(extensions=[(16, vector(2, b"\x09h2"))]), "lengths is too large"),
        ],
    )
    def test_malformed(self, message: bytes, reason: str) -> None:
        with pytest.raises(NotTls, match=reason):
            client_hello(records(message, 1 << 14))

    def test_reasons_are_few(self) -> None:
        """Each is counted and logged by itself: a client must not be able to make new ones."""
        twice = [message_of(extensions=[(kind, b""), (kind, b"")]) for kind in (9, 4711)]
        hellos = [records(message, 1 << 14) for message in twice]
        hellos += [b"\x16" + bytes([version]) for version in (2, 4, 99)]
        hellos += [b"\x16\x03\x01" + size.to_bytes(2, "big") for size in (0, 30_000, 65_535)]
        reasons = set()
        for hello in hellos:
            with pytest.raises(NotTls) as refused:
                client_hello(hello)
            reasons.add(str(refused.value))
        assert len(reasons) == 3

    def test_names_of_other_types_are_skipped(self) -> None:
        names = b"\x07" + vector(2, b"x") + b"\0" + vector(2, b"A.test.")
        message = message_of(extensions=[(0, vector(2, names))])
        read = client_hello(records(message, 1 << 14))
        assert read == ClientHello("a.test", (), b"")
        alone = message_of(extensions=[(0, vector(2, b"\x07" + vector(2, b"x")))])
        assert client_hello(records(alone, 1 << 14)) == ClientHello(None, (), b"")

    def test_no_extensions_at_all(self) -> None:
        plain = message_of(rest=None)
        assert client_hello(records(plain, 1 << 14)) == ClientHello(None, (), b"")


def mutations(seeds: list[bytes], count: int) -> Iterator[bytes]:
    """Seeds with a few bytes changed, cut out, doubled or put in."""
    random_ = random.Random(10)
    for _ in range(count):
        data = bytearray(random_.choice(seeds))
        for _ in range(random_.randint(1, 4)):
            at = random_.randrange(len(data) or 1)
            match random_.randrange(4):
                case 0:
                    data[at : at + 1] = bytes([random_.randrange(256)])
                case 1:
                    del data[at : at + random_.randint(1, 20)]
                case 2:
                    data[at:at] = random_.randbytes(random_.randint(1, 20))
                case 3:
                    data[at:at] = data[at : at + random_.randint(1, 50)]
        yield bytes(data)


def test_mutations_are_read_or_refused() -> None:
    protocols = default()
    protocols.set_alpn_protocols(["h2", "http/1.1"])
    real = [hello_of(protocols, "shop.example"), hello_of(default(check_hostname=False), None)]
    small = records(message_of(extensions=[(0, vector(2, b"\0" + vector(2, b"a.test")))]), 7)
    for data in mutations([*real, small], 3000):
        holds(data)
