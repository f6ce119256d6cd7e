"""Coverage-guided fuzzing of what reads bytes or text from outside, with atheris.

    python -m tests.hostile.parsers cookies --seconds 600
    make fuzz-parsers SECONDS=600               all targets, one after the other

A target takes bytes and raises if a property does not hold. Inputs that raised are written to
``finds/parsers/``, one folder a target, and ``test_parsers.py`` replays them without atheris, which
is installed by hand (``pip install atheris``): it has wheels for few Pythons.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

with contextlib.suppress(ImportError):
    import atheris

    if __name__ == "__main__":
        # What is imported here is what coverage is looked for in.
        with atheris.instrument_imports(include=["stickyproxy"]):
            import stickyproxy.config.load
            import stickyproxy.dataplane.downstream.clienthello
            import stickyproxy.dataplane.downstream.heads
            import stickyproxy.dataplane.upstream.http1
            import stickyproxy.providers.engine.labels
            import stickyproxy.semantics.request  # noqa: F401

import httptools
from aiohttp import http_parser
from aiohttp.base_protocol import BaseProtocol

from stickyproxy.base.errors import BadRequest, ConfigError, NotTls, UpstreamProtocolError
from stickyproxy.base.hashing import address_key, looks_like_pin, pin, pin_key
from stickyproxy.config import load as config
from stickyproxy.dataplane.chunked import ChunkedDecoder, ChunkError
from stickyproxy.dataplane.downstream import clienthello
from stickyproxy.dataplane.downstream.heads import HeadReader, Limits
from stickyproxy.dataplane.downstream.stream import Carrier, Http1Stream
from stickyproxy.dataplane.upstream.http1 import Expect, ResponseReader
from stickyproxy.providers.engine import labels as swarm_labels
from stickyproxy.semantics import cookies, headers
from stickyproxy.semantics.forwarded import TrustedProxies
from stickyproxy.semantics.request import UNKNOWN, ClientRequest, Peer
from stickyproxy.semantics.response import ResponseHead
from tests.hellos import message_of, records, vector
from tests.scripted import Request

FINDS = Path(__file__).parent / "finds" / "parsers"
STICKY = frozenset((b"session", b"session_lb"))


# --- cookies and pins ---------------------------------------------------------------------------


def cookie_header(data: bytes) -> None:
    """A pin is taken out of a Cookie field and nothing else is: read naively, pair by pair."""
    pairs = [pair.partition(b"=") for pair in data.split(b";")]
    stripped = [(name.strip(b" \t"), equals, value.strip(b" \t")) for name, equals, value in pairs]
    for wanted in (b"session", b"a"):
        naive = tuple(value for name, equals, value in stripped if equals and name == wanted)
        found = cookies.values(data, wanted)
        assert found == naive, f"{wanted!r} in {data!r}: {found!r}, not {naive!r}"
    left = cookies.without_pins(data, STICKY)
    kept = [
        (name, equals, value)
        for name, equals, value in stripped
        if not (equals and name in STICKY and looks_like_pin(value))
    ]
    rest = [] if left is None else [pair.partition(b"=") for pair in left.split(b";")]
    found_rest = [(name.strip(b" \t"), equals, value.strip(b" \t")) for name, equals, value in rest]
    if len(kept) == len(stripped):
        assert left == data, f"nothing to take out of {data!r}: {left!r}"
    # Empty pairs at the ends may go together with a pin.
    assert _without_empty(found_rest) == _without_empty(kept), f"{data!r} became {left!r}"


def _without_empty(pairs: list[tuple[bytes, bytes, bytes]]) -> list[tuple[bytes, bytes, bytes]]:
    return [pair for pair in pairs if any(pair)]


def set_cookie(data: bytes) -> None:
    """Nothing raises, whatever an endpoint sets, and a companion is one field line."""
    name = cookies.set_cookie_name(data)
    assert name == name.strip(b" \t")
    cookies.attributes(data)
    cookies.expires_now(data, 1_800_000_000.0)
    cookies.has_lifetime(data)
    cookies.scope(data)
    if not any(byte in data for byte in b"\r\n\0"):
        for line in (
            cookies.companion_cookie(b"a_lb", b"sp1.x", data),
            cookies.companion_deletion(b"a_lb", data),
        ):
            assert not any(byte in line for byte in b"\r\n\0"), f"{data!r} made {line!r}"


def pins(data: bytes) -> None:
    """A pin is one cookie value, the same for the same names, and another for other names."""
    secret, _, rest = data.partition(b"\0")
    service, _, endpoint = rest.decode("utf-8", "replace").partition("\0")
    key = pin_key(secret or None, service)
    made = pin(key, service, endpoint)
    assert looks_like_pin(made)
    assert len(made) == 28
    assert made == pin(key, service, endpoint)
    assert cookies.values(b"a=" + made, b"a") == (made,)
    if endpoint:
        assert made != pin(key, service + endpoint[0], endpoint[1:]), "names run together"
    looks_like_pin(data)
    address_key(data.decode("latin-1"))


# --- fields -------------------------------------------------------------------------------------

TRUSTED = TrustedProxies()


def fields(data: bytes) -> None:
    """Hosts, targets, Connection options, forwarded chains."""
    host = headers.normalise_host(data)
    if host is not None:
        assert host == host.lower()
        assert not any(byte in host for byte in b" \t\r\n\0/?#@,\\"), f"{data!r} is host {host!r}"
        assert headers.normalise_host(host) in (host, host.removesuffix(b".")), data
    absolute = headers.split_absolute(data)
    if absolute is not None:
        authority, target = absolute
        assert target.startswith(b"/")
        assert b"@" not in authority
        assert b"/" not in authority
    named = headers.connection_options(data).named
    assert all(name == name.lower().strip(b" \t") for name in named)
    assert headers.printable(data).isascii()
    assert headers.printable(data).isprintable()
    TRUSTED.client_of(data.decode("latin-1"), "127.0.0.1")


# --- labels and configuration -------------------------------------------------------------------


def labels(data: bytes) -> None:
    """Each line a label: nothing raises, and what is wrong is a problem that names one of them."""
    given = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        key, _, value = line.partition("=")
        given["com.docker.lb." + key] = value
    declaration = swarm_labels.parse_service("fuzzed", given, (80,))
    if declaration is not None:
        for problem in declaration.problems:
            assert str(problem)


def configuration(data: bytes) -> None:
    """A configuration file is taken, or all that is wrong with it is a ConfigError."""
    problem: ConfigError | None = None
    try:
        config.parse(data.decode("utf-8", "replace"))
    except ConfigError as error:
        problem = error
    if problem is not None:
        assert problem.problems, data
        assert str(problem)


# --- the edges of the parsers -------------------------------------------------------------------

_LOOP = asyncio.new_event_loop()
_PEER = Peer("127.0.0.1", "127.0.0.1", 80, secure=False, trusted_proxies=TRUSTED)


_LIMITS = Limits(
    max_head=32_768,
    max_head_line=8190,
    max_headers=128,
    head_timeout=1.0,
    keepalive_timeout=1.0,
    client_timeout=1.0,
)


class _Carrier:
    """What a stream asks of its connection before there is anything to send."""

    peer = _PEER
    loop = _LOOP
    draining = False


def _parser() -> http_parser.HttpRequestParser:
    return http_parser.HttpRequestParser(
        BaseProtocol(_LOOP), _LOOP, 1 << 16, max_line_size=8189, auto_decompress=False
    )


def _made(pieces: list[bytes]) -> tuple[bytes, ClientRequest] | None:
    """What is forwarded of the first request in these pieces; None if there is none."""
    heads = HeadReader(_parser(), _parser, _LIMITS)
    try:
        for piece in pieces:
            head = heads.read(piece, 0)
            if head is not None:
                message, has_body, _ = head
                carrier = cast("Carrier", _Carrier())
                stream = Http1Stream(carrier, message, has_body=has_body)
                stream.check_version()
                made = ClientRequest(stream, b"0" * 32)
                return made.upstream_head(made.target, STICKY), made
    except BadRequest:
        return None
    return None


def request(data: bytes) -> None:
    """What is taken and forwarded is strictly well-formed, has one meaning, and is the same
    whether it comes at once or byte by byte."""
    if not data:
        return
    whole = _made([data])
    pieces = _made([bytes([byte]) for byte in data])
    assert (whole and whole[0]) == (pieces and pieces[0]), data
    if whole is None:
        return
    head, made = whole
    if headers.normalise_host(made.host) is None:
        return  # refused where routes are looked up
    read = Request.parse(head)
    assert read.target == made.target
    assert read.method == made.method.encode()
    assert read.framing() == ("chunked" if made.length == UNKNOWN else made.length), head


class _Taker:
    """Takes a response; what it got is compared between two ways of cutting the same bytes."""

    bodiless = False

    def __init__(self) -> None:
        self.heads: list[tuple[int, list[bytes]]] = []
        self.body = b""

    def interim(self, head: ResponseHead) -> None:
        self.heads.append((head.status, head.lines))

    def head(self, head: ResponseHead) -> None:
        self.heads.append((head.status, head.lines))

    def data(self, data: bytes) -> None:
        self.body += data

    def end(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def writable(self) -> None:
        pass

    def failed(self, error: Exception) -> None:
        pass


def answer(data: bytes) -> None:
    """A response is read alike whether it comes at once or byte by byte."""
    whole, whole_end = _fed([data])
    pieces, pieces_end = _fed([bytes([byte]) for byte in data])
    assert whole_end == pieces_end, data
    if whole_end is not None:
        assert (whole.heads, whole.body) == (pieces.heads, pieces.body), data


def _fed(pieces: list[bytes]) -> tuple[_Taker, Expect | None]:
    """What was taken, and what is expected next; None: it is malformed."""
    reader, taker = ResponseReader(), _Taker()
    reader.expect = Expect.HEAD
    try:
        for piece in pieces:
            if not piece or reader.expect is Expect.NOTHING:
                break
            reader.take(piece, taker)
            while reader.pending:
                reader.resume(taker)
    except UpstreamProtocolError:
        return taker, None
    return taker, reader.expect


class _Body:
    """What httptools calls."""

    def __init__(self) -> None:
        self.body = b""
        self.messages = 0

    def on_body(self, data: bytes) -> None:
        if not self.messages:
            self.body += data

    def on_message_complete(self) -> None:
        self.messages += 1


def chunks(data: bytes) -> None:
    """A body in chunks that is taken is the one that llhttp reads, however it is cut."""
    decoder = ChunkedDecoder()
    ours, fed, done = b"", 0, False
    try:
        for piece in (data[:7], data[7:]):
            if piece and not decoder.done:
                decoder.feed(piece)
                fed += len(piece)
                ours += decoder.decode()
                while decoder.pending:
                    ours += decoder.decode()
        done = decoder.done
    except ChunkError:
        return
    if not done:
        return
    theirs = _Body()
    parser = httptools.HttpRequestParser(theirs)
    parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        parser.feed_data(data[: fed - len(decoder.surplus)])
    except httptools.HttpParserError as error:
        raise AssertionError(f"taken by us, refused by llhttp: {data!r}: {error}") from error
    assert (theirs.body, theirs.messages) == (ours, 1), data


# --- TLS ----------------------------------------------------------------------------------------


def client_hello(data: bytes) -> None:
    """A hello is read, refused or waited for, and what has come of it by then says the same in
    the end."""
    whole, refused = _hello(data)
    if whole is not None and whole.server_name is not None:
        assert whole.server_name.isprintable()
        assert whole.server_name == whole.server_name.lower()
    size = 0
    while size < len(data):
        read, early = _hello(data[:size])
        assert read is None or read == whole, data
        assert not early or refused, data
        if read is not None or early:
            return
        missing = clienthello.missing_bytes(data[:size])
        assert missing > 0, data
        if size + missing > len(data):
            break
        size += missing
    else:
        return
    assert whole is None, data


def _hello(data: bytes) -> tuple[clienthello.ClientHello | None, bool]:
    """What was read, and whether it was refused."""
    try:
        return clienthello.client_hello(data), False
    except NotTls:
        return None, True


Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {
    "cookies": cookie_header,
    "set-cookie": set_cookie,
    "pins": pins,
    "fields": fields,
    "labels": labels,
    "config": configuration,
    "request": request,
    "answer": answer,
    "chunks": chunks,
    "client-hello": client_hello,
}

STALE = b"sp1.000000000000000000000000"
SEEDS: dict[str, tuple[bytes, ...]] = {
    "cookies": (
        b"a=b; session=" + STALE + b"; c=d",
        b'session="' + STALE + b'"',
        b"session = x;;a=;=b;session_lb=" + STALE,
    ),
    "set-cookie": (
        b"session=x; Path=/; Domain=.a.test; Max-Age=0; HttpOnly; SameSite=Lax; Secure",
        b"a=b; Expires=Wed, 21 Oct 2015 07:28:00 GMT",
        b"a=; expires=Thu, 01-Jan-70 00:00:01 GMT; max-age=-1",
    ),
    "pins": (b"secret\0shop\0task1", b"\0\0", STALE),
    "fields": (
        b"Shop.Example:8080",
        b"[2001:db8::1]:80",
        b"http://shop.example:80/a?b",
        b"close, X-Mine ,upgrade",
        b"203.0.113.9, [2001:db8::1]:80, 10.0.0.1:81",
    ),
    "labels": (
        b"hosts=a.test,b.test\nport=80\nsticky_session_cookie=session",
        b"hosts=*.a.test\ncontext_root=/a\ncontext_root_rewrite=true\nredirects=a,http://b;c,d",
        b"hots=a\nport=x\nhash_cookie=a\nhash_cookie_ttl=1h\nwebsocket_endpoints=/a,/b",
    ),
    "config": (
        (Path(__file__).parents[2] / "config.example.toml").read_bytes(),
        b'[[services]]\nname="a"\nhosts=["a.test"]\nendpoints=["127.0.0.1:1"]\nip_hash=true\n',
        b'[proxy]\nworkers=1\nhead_timeout="15s"\ntrusted_proxies=["10.0.0.0/8","unix:"]\n',
    ),
    "request": (
        b"GET /a?b HTTP/1.1\r\nHost: a.test\r\nCookie: a=b; session=" + STALE + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"GET http://a.test/b HTTP/1.0\r\nConnection: keep-alive, X\r\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c, foo\r\n\r\n",
    ),
    "chunks": (
        b"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1",
        b"5;a=b\r\nhello\r\n00a;x\r\n0123456789\r\n000\r\nX: y\r\n\r\n",
    ),
    "client-hello": (
        records(message_of(extensions=[(0, vector(2, b"\0" + vector(2, b"a.test")))]), 1 << 14),
        records(message_of(extensions=[(16, vector(2, vector(1, b"h2")))]), 9),
        records(message_of(session_id=bytes(32), rest=None), 1 << 14),
        b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
    ),
    "answer": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nX: \xe9\r\n\r\nuntil the end",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    ),
}


def finds() -> Iterator[tuple[str, Path]]:
    """Target and file of everything that was found."""
    for name in TARGETS:
        for path in sorted((FINDS / name).glob("*")):
            yield name, path


def _fuzz(name: str, seconds: int, corpus: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    folder = FINDS / name
    folder.mkdir(parents=True, exist_ok=True)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-artifact_prefix={folder}/",
        "-max_len=8192",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup(arguments, TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--corpus", type=Path, help="where to keep inputs; default: nowhere")
    arguments = parser.parse_args()
    if "atheris" not in sys.modules:
        print(f"atheris is not installed: {sys.executable} -m pip install atheris")
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        corpus: Path = (arguments.corpus or Path(temporary)).resolve()
        if arguments.target != "all":
            _fuzz(arguments.target, arguments.seconds, corpus / arguments.target)
        failed = 0
        for name in TARGETS:
            command = [sys.executable, "-m", "tests.hostile.parsers", name]
            command += ["--seconds", str(arguments.seconds), "--corpus", str(corpus)]
            print(f"--- {name}", flush=True)
            failed += subprocess.run(command, check=False).returncode != 0
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
