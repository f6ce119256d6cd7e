"""The demo app over real sockets: what the seeds show, and what a proxy may throw at it."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientSession, DummyCookieJar, WSCloseCode, WSMsgType

from stickyproxy.base.errors import ListenError
from stickyproxy.demo.app import DemoOptions, DemoReplica

OPTIONS = DemoOptions(instance="9c67a943ffce", metadata="demo-sticky", title="Shop")
SOON = 3.0


@pytest.fixture
async def replica() -> AsyncIterator[DemoReplica]:
    replica = await DemoReplica.start(OPTIONS)
    yield replica
    await replica.stop()


@pytest.fixture
async def client(replica: DemoReplica) -> AsyncIterator[ClientSession]:
    async with ClientSession(f"http://{replica.address}/", cookie_jar=DummyCookieJar()) as client:
        yield client


async def raw_exchange(address: str, request: bytes) -> bytes:
    """Everything the replica sends for these bytes, the last request saying Connection: close."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), SOON)
    writer.close()
    await writer.wait_closed()
    return answer


async def set_cookies_for(replica: DemoReplica, *cookie_headers: bytes) -> list[bytes]:
    """The Set-Cookie values that /ping answers to these raw Cookie headers."""
    cookies = b"".join(b"Cookie: %b\r\n" % header for header in cookie_headers)
    answer = await raw_exchange(
        replica.address, b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%b\r\n" % cookies
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    return re.findall(rb"(?i)\r\nset-cookie: ([^\r]*)", answer)


def is_new_session(set_cookie: bytes) -> bool:
    return re.fullmatch(rb"session=\d{19}; Path=/; Max-Age=86400", set_cookie) is not None


class TestPing:
    async def test_answers_byte_for_byte_as_in_the_seeds(self, client: ClientSession) -> None:
        request_id = "3014728b429320f786728401a83246b8"
        async with client.get("ping", headers={"X-Request-Id": request_id}) as response:
            body = await response.read()
        assert body == (
            b'{"instance":"9c67a943ffce","version":"0.1","metadata":"demo-sticky",'
            b'"request_id":"3014728b429320f786728401a83246b8"}\n'
        )
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.headers["Content-Length"] == "117"

    async def test_leaves_out_what_is_empty(self) -> None:
        replica = await DemoReplica.start(DemoOptions(instance="a", version="v1"))
        async with ClientSession() as client, client.get(f"http://{replica.address}/ping") as ping:
            assert await ping.text() == '{"instance":"a","version":"v1"}\n'
        await replica.stop()

    async def test_shows_bytes_that_are_no_utf8_as_escapes(self, replica: DemoReplica) -> None:
        answer = await raw_exchange(
            replica.address,
            b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"X-Request-Id: \xc3\xa9\xff\r\n\r\n",
        )
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["request_id"] == "é\udcff"

    @pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS"])
    async def test_answers_every_method_and_drains_the_body(
        self, replica: DemoReplica, method: bytes
    ) -> None:
        body = b"x" * (2 << 20)  # more than aiohttp would read into memory
        post = b"%b /ping HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
            method,
            len(body),
            body,
        )
        get = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await raw_exchange(replica.address, post + get)
        assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert answer.count(b'{"instance":"9c67a943ffce",') == 2


class TestSessionCookie:
    async def test_a_new_session_is_the_time_in_nanoseconds(self, client: ClientSession) -> None:
        before = time.time_ns()
        async with client.get("ping") as response:
            (cookie,) = response.headers.getall("Set-Cookie")
        assert is_new_session(cookie.encode())
        assert before <= int(re.findall(r"\d+", cookie)[0]) <= time.time_ns()

    @pytest.mark.parametrize(
        "value",
        [
            b"1510171444496686286",
            b'"d7227d32eeb0524b"',
            b"",
            b"a=b==",
            b"a b,c",
            b'half"quoted',
            b"back\\slash",
            b"<script>",
            "café".encode(),
            b"x" * 4000,
        ],
    )
    async def test_an_existing_session_comes_back_as_it_came(
        self, replica: DemoReplica, value: bytes
    ) -> None:
        assert await set_cookies_for(replica, b"session=" + value) == [b"session=" + value]

    @pytest.mark.parametrize(
        "header",
        [
            b"a=1; session=me; b=2",
            b"a=1;session=me;b=2",
            b" ;; session = me ;",
            b"session; session=me",
            b'"; =x; []{}=@?; session=me',
            b"session=\t\xff; session=me; session=other",
            b"Session=no; xsession=no; session_lb=no; session=me",
        ],
    )
    async def test_is_found_in_any_odd_header(self, replica: DemoReplica, header: bytes) -> None:
        assert await set_cookies_for(replica, header) == [b"session=me"]

    async def test_is_found_in_the_second_header(self, replica: DemoReplica) -> None:
        assert await set_cookies_for(replica, b"a=1", b"session=me") == [b"session=me"]

    @pytest.mark.parametrize(
        "value",
        [b"a\tb", b"\xff", "\x85".encode(), "\u2028".encode()],
        ids=["tab", "no utf-8", "C1 control", "line separator"],
    )
    async def test_what_cannot_be_sent_back_counts_as_none(
        self, replica: DemoReplica, value: bytes
    ) -> None:
        (cookie,) = await set_cookies_for(replica, b"session=" + value)
        assert is_new_session(cookie)

    async def test_an_app_without_sessions_sets_none_and_echoes_none(self) -> None:
        replica = await DemoReplica.start(replace(OPTIONS, sets_cookie=False))
        assert await set_cookies_for(replica, b"a=1") == []
        assert await set_cookies_for(replica, b"session=me") == []
        await replica.stop()


class TestPage:
    async def test_is_html_that_fetches_nothing_from_elsewhere(self, client: ClientSession) -> None:
        async with client.get("/") as response:
            page = await response.text()
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "<title>Shop</title>" in page
        assert re.search(r'https?://|(src|href)=(?!"data:)|url\(|@import', page) is None

    async def test_says_when_the_browser_keeps_no_cookies(self, client: ClientSession) -> None:
        """Or else every question is a new visitor's, and the proxy looks as if it did not work."""
        async with client.get("/") as response:
            page = await response.text()
        assert '<p id="blocked" role="alert" hidden>' in page
        assert 'byId("blocked").hidden = navigator.cookieEnabled;' in page

    async def test_escapes_the_title(self) -> None:
        title = "</title><script>\"'&{{title}}\udcff"
        replica = await DemoReplica.start(replace(OPTIONS, title=title))
        async with ClientSession() as client, client.get(f"http://{replica.address}/") as response:
            page = await response.text()
        await replica.stop()
        escaped = "&lt;/title&gt;&lt;script&gt;&quot;&#x27;&amp;{{title}}?"
        assert page.count(escaped) == 2
        assert f"<title>{escaped}</title>" in page
        assert title not in page


class TestInfo:
    async def test_shows_who_answers_and_the_headers_as_they_came(
        self, replica: DemoReplica
    ) -> None:
        answer = await raw_exchange(
            replica.address,
            b"GET /info HTTP/1.1\r\nHost: demo.local\r\nX-ONE: 1\r\nConnection: close\r\n"
            b"x-one: 2\r\nX-Raw: \xff\r\n\r\n",
        )
        info = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert re.fullmatch(r"127\.0\.0\.1:\d+", info.pop("client"))
        assert info == {
            "instance": "9c67a943ffce",
            "version": "0.1",
            "metadata": "demo-sticky",
            "title": "Shop",
            "requests": 1,
            "headers": [
                ["Host", "demo.local"],
                ["X-ONE", "1"],
                ["Connection", "close"],
                ["x-one", "2"],
                ["X-Raw", "\udcff"],
            ],
        }

    async def test_counts_every_request(self, client: ClientSession) -> None:
        for path in ("ping", "nowhere", "/"):
            async with client.get(path) as response:
                await response.read()
        async with client.get("info") as response:
            assert (await response.json())["requests"] == 4


class TestStream:
    async def test_ends_after_the_events_asked_for(self, client: ClientSession) -> None:
        async with client.get("stream?n=2") as response:
            events = await response.text()
        assert response.headers["Content-Type"] == "text/event-stream"
        assert events == (
            'id: 1\ndata: {"instance":"9c67a943ffce","event":1}\n\n'
            'id: 2\ndata: {"instance":"9c67a943ffce","event":2}\n\n'
        )

    @pytest.mark.parametrize("n", ["0", "-7"])
    async def test_sends_one_event_at_least(self, client: ClientSession, n: str) -> None:
        async with client.get("stream", params={"n": n}) as response:
            assert (await response.text()).count("data:") == 1

    @pytest.mark.parametrize("n", ["", "many", "1.5", "9" * 5000])
    async def test_refuses_what_is_no_number(self, client: ClientSession, n: str) -> None:
        async with client.get("stream", params={"n": n}) as response:
            assert response.status == 400
            assert await response.text() == "400: n is the number of events, 1 to 3600\n"

    async def test_ends_cleanly_when_the_replica_stops(
        self, replica: DemoReplica, client: ClientSession
    ) -> None:
        async with client.get("stream?n=99999") as response:
            first = await response.content.readuntil(b"\n\n")
            await asyncio.wait_for(replica.stop(), SOON)
            assert first.startswith(b"id: 1\n")
            assert await response.content.read() == b""


class TestWebsocket:
    async def test_echoes_text_and_bytes(self, client: ClientSession) -> None:
        async with client.ws_connect("ws") as websocket:
            await websocket.send_str("héllo")
            assert await websocket.receive_str(timeout=SOON) == "héllo"
            await websocket.send_bytes(b"\x00\xff")
            assert await websocket.receive_bytes(timeout=SOON) == b"\x00\xff"

    async def test_says_goodbye_when_the_replica_stops(
        self, replica: DemoReplica, client: ClientSession
    ) -> None:
        async with client.ws_connect("ws") as websocket:
            stopped = asyncio.create_task(replica.stop())
            message = await websocket.receive(timeout=SOON)
            assert message.type is WSMsgType.CLOSE
            assert message.data == WSCloseCode.GOING_AWAY
            await asyncio.wait_for(stopped, SOON)

    async def test_refuses_a_plain_request(self, client: ClientSession) -> None:
        async with client.get("ws") as response:
            assert response.status == 400


class TestOtherRequests:
    async def test_an_unknown_path_is_a_plain_404(self, client: ClientSession) -> None:
        async with client.get("nowhere") as response:
            assert response.status == 404
            assert response.content_type == "text/plain"

    @pytest.mark.parametrize("path", ["/", "/ping", "/info", "/stream"])
    async def test_head_is_the_answer_without_its_body(
        self, replica: DemoReplica, path: str
    ) -> None:
        head = b"HEAD %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()
        last = head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        answer = await raw_exchange(replica.address, head + last)
        *heads, rest = answer.split(b"\r\n\r\n")
        assert rest == b""
        assert [head.startswith(b"HTTP/1.1 200 OK\r\n") for head in heads] == [True, True]


class TestListening:
    async def test_names_the_port_it_was_given_and_itself(self, replica: DemoReplica) -> None:
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d*", replica.address)
        assert repr(replica) == f"<DemoReplica 9c67a943ffce at {replica.address}>"

    async def test_every_replica_has_its_own_name_and_count(self) -> None:
        replicas = [await DemoReplica.start(DemoOptions(f"demo-{n}")) for n in range(3)]
        async with ClientSession() as client:
            assert [await info_of(client, replica.address) for replica in replicas] == [
                ("demo-0", 1),
                ("demo-1", 1),
                ("demo-2", 1),
            ]
        for replica in replicas:
            await replica.stop()

    async def test_an_address_without_host_is_every_interface(self) -> None:
        replica = await DemoReplica.start(OPTIONS, ":0")
        port = replica.address.rpartition(":")[2]
        assert b" 200 OK" in await raw_exchange(
            replica.address, b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        assert int(port) > 0
        await replica.stop()

    @pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
    async def test_ipv6_is_written_in_brackets(self) -> None:
        replica = await DemoReplica.start(OPTIONS, "[::1]:0")
        assert re.fullmatch(r"\[::1\]:\d+", replica.address)
        async with ClientSession() as client, client.get(f"http://{replica.address}/info") as info:
            assert (await info.json())["client"].startswith("[::1]:")
        await replica.stop()

    async def test_stop_closes_the_port_and_may_be_called_twice(self, replica: DemoReplica) -> None:
        host, _, port = replica.address.partition(":")
        await replica.stop()
        await replica.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))

    async def test_a_taken_port_is_an_error_with_a_remedy(self, replica: DemoReplica) -> None:
        with pytest.raises(ListenError) as caught:
            await DemoReplica.start(OPTIONS, replica.address)
        assert str(caught.value) == (
            f"cannot listen on {replica.address}: address already in use; "
            "choose another port, or stop what listens there"
        )

    @pytest.mark.parametrize(
        ("address", "reason"),
        [
            ("203.0.113.1:0", "choose an address of this machine"),
            ("[fe80::1%no-such-interface]:0", "unknown host; choose an address of this machine"),
            (f"{'x' * 64}.invalid:0", "unknown host"),
            ("9001", "write it like 127.0.0.1:9001"),
            ("", "write it like"),
            ("localhost", "write it like"),
            ("localhost:", "write it like"),
            ("localhost:http", "write it like"),
            ("localhost:65536", "write it like"),
            ("localhost:-1", "write it like"),
            ("localhost:¹", "write it like"),
            ("::1:9001", "write it like"),
        ],
    )
    async def test_an_unusable_address_is_an_error_that_names_it(
        self, address: str, reason: str
    ) -> None:
        with pytest.raises(ListenError) as caught:
            await DemoReplica.start(OPTIONS, address)
        assert address in str(caught.value)
        assert reason in str(caught.value)


class TestOptions:
    def test_read_the_environment(self) -> None:
        environ = {"VERSION": "2", "METADATA": "m", "TITLE": "T", "OTHER": "x"}
        assert DemoOptions.from_environ(environ, instance="a", sets_cookie=False) == DemoOptions(
            instance="a", version="2", metadata="m", title="T", sets_cookie=False
        )

    @pytest.mark.parametrize("environ", [{}, {"VERSION": "", "METADATA": "", "TITLE": ""}])
    def test_have_defaults_for_what_is_unset_or_empty(self, environ: dict[str, str]) -> None:
        assert DemoOptions.from_environ(environ) == DemoOptions(
            instance=socket.gethostname(), version="0.1", metadata="", title="stickyproxy demo"
        )


async def info_of(client: ClientSession, address: str) -> tuple[Any, Any]:
    async with client.get(f"http://{address}/info") as response:
        info = await response.json()
    return info["instance"], info["requests"]
