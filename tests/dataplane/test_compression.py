"""Responses that are compressed on their way: with the clients that people have, and endpoints
that do what they like."""

from __future__ import annotations

import asyncio
import random
import shutil
import zlib
from asyncio.subprocess import PIPE
from collections.abc import Callable

import aiohttp
import brotli
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from stickyproxy.dataplane.compression import _ENCODERS, MOST, SLICE, Encoder, Encoders
from stickyproxy.model.edits import Edits
from stickyproxy.model.service import CODINGS
from tests.conftest import Behind, MakeClient, MakeEndpoint, StartProxy, service
from tests.scripted import (
    EndpointConnection,
    Message,
    Script,
    Truncated,
    answering,
    chunk,
    chunked,
    get,
    request,
    respond,
)

TEXT = b"".join(b"line %d of a text that gets shorter\n" % number for number in range(4000))
LENGTH = ("Content-Length", str(len(TEXT)))
HTML = ("Content-Type", "text/html")
CHUNKED = ("Transfer-Encoding", "chunked")


def decoder_of(coding: str) -> Callable[[bytes], bytes]:
    """Reads what is there so far."""
    if coding == "gzip":
        return zlib.decompressobj(31).decompress
    if coding == "zstd":
        return zstd.ZstdDecompressor().decompress
    process: Callable[[bytes], bytes] = brotli.Decompressor().process
    return process


def decoded(message: Message) -> bytes:
    """The body; every byte of it must be of the coding."""
    coding = (message.header("content-encoding") or b"").decode()
    match coding:
        case "gzip":
            decoder = zlib.decompressobj(31)
            data = decoder.decompress(message.body)
            assert decoder.eof
            assert not decoder.unused_data
            return data
        case "br":
            plain: bytes = brotli.decompress(message.body)
            return plain
        case "zstd":
            whole = zstd.ZstdDecompressor()
            data = whole.decompress(message.body)
            assert whole.eof
            return data
        case _:
            return message.body


def page(*fields: tuple[str, str], body: bytes = TEXT, status: str = "200 OK") -> Script:
    length = ("Content-Length", str(len(body)))
    return answering(respond(status, length, HTML, *fields, body=body))


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_round_trip(behind: Behind, client: MakeClient, coding: str, framing: str) -> None:
    async def script(conn: EndpointConnection) -> None:
        while await conn.request():
            if framing == "length":
                await conn.send(respond("200 OK", HTML, LENGTH, body=TEXT))
            elif framing == "chunked":
                body = chunked(*(TEXT[at : at + 7000] for at in range(0, len(TEXT), 7000)))
                await conn.send(respond("200 OK", HTML, CHUNKED, body=body))
            else:
                await conn.send(respond("200 OK", HTML, ("Connection", "close"), body=TEXT))
                return

    proxy, _ = await behind(script, compression=CODINGS)
    connection = await client(proxy.port)
    for _ in range(2):
        await connection.send(get(Accept_Encoding=coding))
        response = await connection.response()
        assert response.header("content-encoding") == coding.encode()
        assert response.header("content-length") is None
        assert response.values("vary") == [b"Accept-Encoding"]
        assert decoded(response) == TEXT
        assert len(response.body) < len(TEXT) / 4


async def test_off_by_default(behind: Behind, client: MakeClient) -> None:
    proxy, _ = await behind(page())
    connection = await client(proxy.port)
    await connection.send(get(Accept_Encoding="gzip, br, zstd"))
    response = await connection.response()
    assert response.body == TEXT
    assert (response.header("content-encoding"), response.header("vary")) == (None, None)


@pytest.mark.parametrize("accepted", ["", "identity", "deflate", "gzip;q=0", "br;q=0, *;q=0"])
async def test_who_takes_none(behind: Behind, client: MakeClient, accepted: str) -> None:
    """A cache must know that others may."""
    proxy, _ = await behind(page(("ETag", '"a"')), compression=CODINGS)
    connection = await client(proxy.port)
    await connection.send(get(Accept_Encoding=accepted) if accepted else get())
    response = await connection.response()
    assert response.body == TEXT
    assert response.header("content-length") == str(len(TEXT)).encode()
    assert response.header("vary") == b"Accept-Encoding"
    assert response.header("etag") == b'"a"'


@pytest.mark.parametrize(
    "script",
    [
        page(("Content-Encoding", "br")),
        page(("Cache-Control", "private, no-transform")),
        page(("Content-Range", "bytes 0-9/10"), status="206 Partial Content"),
        page(body=b"short"),
        page(body=b""),
        answering(respond("200 OK", LENGTH, ("Content-Type", "image/png"), body=TEXT)),
        answering(respond("200 OK", LENGTH, body=TEXT)),
        answering(
            respond(
                "200 OK", CHUNKED, ("Content-Type", "text/event-stream"), body=chunked(b"data: 1")
            )
        ),
    ],
    ids=["encoded", "no-transform", "range", "short", "empty", "png", "untyped", "events"],
)
async def test_what_stays_as_it_is(behind: Behind, client: MakeClient, script: Script) -> None:
    proxy, _ = await behind(script, compression=CODINGS)
    plain, _ = await behind(script)
    said = []
    for port in (proxy.port, plain.port):
        connection = await client(port)
        await connection.send(get(Accept_Encoding="gzip, br, zstd"))
        response = await connection.response()
        names = ("content-encoding", "content-length", "vary", "etag")
        said.append((response.body, [response.header(name) for name in names]))
    assert said[0] == said[1]


async def test_the_client_may_forbid_it(behind: Behind, client: MakeClient) -> None:
    """RFC 9111, 5.2.1.6."""
    proxy, _ = await behind(page(), compression=CODINGS)
    connection = await client(proxy.port)
    await connection.send(get(Accept_Encoding="gzip", Cache_Control="no-transform"))
    assert (await connection.response()).body == TEXT


async def test_http_1_0_has_no_chunks(behind: Behind, client: MakeClient) -> None:
    proxy, _ = await behind(page(), compression=CODINGS)
    connection = await client(proxy.port)
    fields = (("Host", "demo.local"), ("Accept-Encoding", "gzip"))
    await connection.send(request("GET", "/", *fields, version="HTTP/1.0"))
    assert (await connection.response()).body == TEXT


async def test_head_says_what_get_does(behind: Behind, client: MakeClient) -> None:
    async def script(conn: EndpointConnection) -> None:
        while received := await conn.request():
            body = b"" if received.method == b"HEAD" else TEXT
            await conn.send(respond("200 OK", HTML, LENGTH, ("ETag", '"a"'), body=body))

    proxy, _ = await behind(script, compression=CODINGS)
    connection = await client(proxy.port)
    fields = (("Host", "demo.local"), ("Accept-Encoding", "br"))
    names = ("content-encoding", "content-length", "vary", "etag", "content-type")
    said = []
    for method in ("HEAD", "GET"):
        await connection.send(request(method, "/", *fields))
        response = await connection.response(method)
        said.append([response.header(name) for name in names])
    assert said[0] == said[1] == [b"br", None, b"Accept-Encoding", b'W/"a"', b"text/html"]


@pytest.mark.parametrize(("asked", "tag"), [('W/"a"', b'W/"a"'), ('"a"', b'"a"')])
async def test_what_is_still_good(
    behind: Behind, client: MakeClient, asked: str, tag: bytes
) -> None:
    script = answering(respond("304 Not Modified", ("ETag", '"a"')))
    proxy, _ = await behind(script, compression=CODINGS)
    connection = await client(proxy.port)
    await connection.send(get(Accept_Encoding="gzip", If_None_Match=asked))
    response = await connection.response()
    assert (response.status, response.header("etag")) == (304, tag)


async def test_what_the_service_sets_counts(behind: Behind, client: MakeClient) -> None:
    edits = Edits(response_set=(("Cache-Control", "no-transform"), ("X-Set", "yes")))
    proxy, _ = await behind(page(), compression=CODINGS, edits=edits)
    connection = await client(proxy.port)
    await connection.send(get(Accept_Encoding="gzip"))
    response = await connection.response()
    assert (response.body, response.header("x-set")) == (TEXT, b"yes")


class TestStreams:
    @pytest.mark.parametrize("coding", CODINGS)
    @pytest.mark.parametrize("framing", ["chunked", "close"])
    async def test_nothing_is_held_back(
        self, behind: Behind, client: MakeClient, coding: str, framing: str
    ) -> None:
        """The endpoint sends the next piece only after the client has the one before."""
        pieces = [b"piece %d" % number for number in range(20)]
        confirmed = asyncio.Queue[bytes]()

        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            how = CHUNKED if framing == "chunked" else ("Connection", "close")
            await conn.send(respond("200 OK", HTML, how))
            for piece in pieces:
                await conn.send(chunk(piece) if framing == "chunked" else piece)
                assert await confirmed.get() == piece
            if framing == "chunked":
                await conn.send(b"0\r\n\r\n")

        proxy, _ = await behind(script, compression=CODINGS)
        user = await client(proxy.port)
        await user.send(get(Accept_Encoding=coding))
        await user.response_head()
        decoder = decoder_of(coding)
        for piece in pieces:
            seen = b""
            while len(seen) < len(piece):
                data = await user.body_some()
                assert data
                seen += decoder(data)
            assert seen == piece
            confirmed.put_nowait(piece)
        while await user.body_some():
            pass

    @pytest.mark.parametrize("framing", ["length", "chunked"])
    async def test_a_part_never_looks_whole(
        self, behind: Behind, client: MakeClient, framing: str
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            await conn.request()
            how = LENGTH if framing == "length" else CHUNKED
            part = TEXT[:-1] if framing == "length" else chunk(TEXT)
            await conn.send(respond("200 OK", HTML, how, body=part))

        proxy, _ = await behind(script, compression=CODINGS)
        user = await client(proxy.port)
        await user.send(get(Accept_Encoding="gzip"))
        with pytest.raises(Truncated):
            await user.response()

    async def test_a_large_one_is_whole_and_the_connection_goes_on(
        self, behind: Behind, client: MakeClient
    ) -> None:
        """More than is compressed at once, and than is read at once."""
        large = TEXT * 40
        assert len(large) > 100 * SLICE

        proxy, peer = await behind(page(body=large), compression=CODINGS)
        user = await client(proxy.port)
        for coding in (*CODINGS, *CODINGS):
            await user.send(get(Accept_Encoding=coding))
            assert decoded(await user.response()) == large
        assert peer.connections == 1

    async def test_a_client_that_leaves(self, behind: Behind, client: MakeClient) -> None:
        proxy, _ = await behind(page(body=TEXT * 40), compression=CODINGS)
        for _ in range(20):
            user = await client(proxy.port)
            await user.send(get(Accept_Encoding="br"))
            await user.response_head()
            user.close()
        user = await client(proxy.port)
        await user.send(get(Accept_Encoding="br"))
        assert decoded(await user.response()) == TEXT * 40

    async def test_a_client_that_reads_slowly_costs_no_memory(
        self, behind: Behind, client: MakeClient
    ) -> None:
        """What does not get shorter, so that the client's slowness is felt."""
        noise = random.Random(0).randbytes(1 << 16)
        sent = 0

        async def script(conn: EndpointConnection) -> None:
            nonlocal sent
            await conn.request()
            await conn.send(respond("200 OK", HTML, ("Content-Length", str(len(noise) * 1000))))
            for _ in range(1000):
                await conn.send(noise)
                sent += len(noise)

        proxy, _ = await behind(script, compression=CODINGS)
        user = await client(proxy.port)
        await user.send(get(Accept_Encoding="gzip"))
        await user.response_head()
        before = -1
        while sent != before:  # it comes to a standstill
            before = sent
            for _ in range(50):
                await asyncio.sleep(0.01)
        assert sent < len(noise) * 900
        decoder, seen = decoder_of("gzip"), 0
        while data := await user.body_some():
            seen += len(decoder(data))
        assert seen == len(noise) * 1000


# --- clients that people have --------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_curl(behind: Behind) -> None:
    proxy, peer = await behind(page(body=TEXT * 10), compression=CODINGS)
    arguments = ("--silent", "--fail", "--compressed", "-H", "Host: demo.local", "--max-time", "20")
    process = await asyncio.create_subprocess_exec(
        "curl", *arguments, f"http://127.0.0.1:{proxy.port}/", stdout=PIPE
    )
    body, _ = await process.communicate()
    assert process.returncode == 0
    assert body == TEXT * 10
    assert b"gzip" in (peer.requests[0].header("accept-encoding") or b"")


@pytest.mark.parametrize("accepted", [*CODINGS, "gzip, deflate, br, zstd"])
async def test_aiohttp(behind: Behind, accepted: str) -> None:
    proxy, _ = await behind(page(), compression=CODINGS)
    fields = {"Host": "demo.local", "Accept-Encoding": accepted}
    async with aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.get(f"http://127.0.0.1:{proxy.port}/", headers=fields) as response:
                assert response.headers["Content-Encoding"] in CODINGS
                assert await response.read() == TEXT


async def test_endpoints_of_all_kinds(
    endpoint: MakeEndpoint, start_proxy: StartProxy, client: MakeClient
) -> None:
    """Whatever they send, in whatever pieces: what was sent is what is read."""
    turns = random.Random(1)
    bodies = {
        b"/%d" % number: turns.randbytes(turns.randrange(60)) * turns.choice((1, 99, 9999))
        for number in range(60)
    }
    codings = ["gzip", "br", "zstd", "gzip;q=0.5, br;q=0.7", "identity", "*"]

    async def script(conn: EndpointConnection) -> None:
        while received := await conn.request():
            body = bodies[received.target]
            kind = ("Content-Type", turns.choice(("text/plain", "image/png", "application/json")))
            if turns.random() < 0.5:
                await conn.send(respond("200 OK", kind, ("Content-Length", str(len(body)))))
                data = body
            else:
                await conn.send(respond("200 OK", kind, CHUNKED))
                data = chunked(*_pieces(body, turns))
            for piece in _pieces(data, turns):
                await conn.send(piece)

    peer = await endpoint(script)
    proxy = await start_proxy([service(peer, compression=CODINGS)])
    user = await client(proxy.port)
    for target, body in bodies.items():
        await user.send(get(target, Accept_Encoding=turns.choice(codings)))
        response = await user.response()
        assert decoded(response) == body
        if response.header("content-encoding"):
            assert response.header("vary") == b"Accept-Encoding"


def _pieces(data: bytes, turns: random.Random) -> list[bytes]:
    if not data:
        return []
    ends = sorted({*(turns.randrange(len(data)) for _ in range(5)), len(data)} - {0})
    return [data[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


# --- encoders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
@settings(max_examples=50)
@given(pieces=st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=20))
def test_what_was_flushed_can_be_read(coding: str, pieces: list[tuple[bytes, bool]]) -> None:
    encoder, decoder = _ENCODERS[coding](), decoder_of(coding)
    fed = read = b""
    for data, flush in pieces:
        fed += data
        read += decoder(encoder.feed(memoryview(data)))
        if flush:
            read += decoder(encoder.flush())
            assert read == fed
    read += decoder(encoder.finish())
    assert read == fed


async def test_no_more_than_a_slice_is_compressed_at_once(
    behind: Behind, client: MakeClient
) -> None:
    sizes: list[int] = []

    class Counting(Encoders):
        def begin(self, coding: str) -> Encoder | None:
            encoder = super().begin(coding)
            assert encoder is not None
            feed = encoder.feed

            def counted(data: bytes | memoryview) -> bytes:
                sizes.append(len(data))
                return feed(data)

            encoder.feed = counted  # type: ignore[method-assign]
            return encoder

    proxy, _ = await behind(page(body=TEXT * 40), compression=CODINGS)
    proxy.app._plane.proxy.encoders = Counting()  # type: ignore[attr-defined]
    connection = await client(proxy.port)
    await connection.send(get(Accept_Encoding="gzip"))
    assert decoded(await connection.response()) == TEXT * 40
    assert sum(sizes) == len(TEXT) * 40
    assert max(sizes) <= SLICE


def test_no_more_than_there_is_memory_for() -> None:
    encoders = Encoders()
    assert all(encoders.begin("gzip") for _ in range(MOST))
    assert encoders.begin("gzip") is None
    encoders.end()
    assert encoders.begin("gzip")


async def test_what_is_beyond_goes_out_as_it_is(behind: Behind, client: MakeClient) -> None:
    proxy, _ = await behind(page(), compression=CODINGS)
    encoders = proxy.app._plane.proxy.encoders  # type: ignore[attr-defined]
    encoders.at_work = MOST
    connection = await client(proxy.port)
    await connection.send(get(Accept_Encoding="gzip"))
    assert (await connection.response()).body == TEXT
    encoders.at_work = 0
    await connection.send(get(Accept_Encoding="gzip"))
    assert decoded(await connection.response()) == TEXT
    assert encoders.at_work == 0
