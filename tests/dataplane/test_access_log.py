"""The access log: one line per request, whatever becomes of the request."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path
from time import time as now
from typing import Any, Protocol

import pytest

from stickyproxy.base.errors import ListenError
from stickyproxy.config.settings import Config
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.settings import AccessLogSettings
from stickyproxy.routing.endpoint import Facts
from stickyproxy.runtime.app import App
from tests.cli.test_main import StartProgram, document, programs
from tests.cli.test_main import service as service_table
from tests.conftest import MakeClient, MakeEndpoint, StartProxy, service
from tests.running import InProcessProxy
from tests.scripted import (
    EndpointConnection,
    RawClient,
    Response,
    chunked,
    get,
    ok,
    post,
    request,
    respond,
)

TEXT = re.compile(
    r"(?P<client>\S+) - - "
    r"\[(?P<time>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000)\] "
    r'"(?P<request>(?:[^"\\]|\\.)*)" (?P<status>\d{3}|-) (?P<bytes>\d+) '
    r'"(?P<referer>(?:[^"\\]|\\.)*)" "(?P<user_agent>(?:[^"\\]|\\.)*)" '
    r'(?P<service>\S+) "(?P<upstream_addr>[^"]*)" "(?P<upstream_seconds>[^"]*)" '
    r"(?P<seconds>\d+\.\d{3}) (?P<affinity>[a-z-]+) (?P<request_id>[0-9a-f]{32}) "
    r"(?P<ended>\d{10}\.\d{3}) (?P<outcome>[a-z-]+)"
)
"""A line as its documentation has it: nothing a client sends may make it read otherwise."""


class Logging:
    """A proxy with an access log."""

    def __init__(self, proxy: InProcessProxy, path: Path) -> None:
        self.proxy = proxy
        self.port = proxy.port
        self._path = path

    async def lines(self) -> list[str]:
        """All that was logged; the proxy ends."""
        await self.proxy.stop()
        text = self._path.read_text("ascii")
        assert text.endswith("\n") or not text
        return text.split("\n")[:-1]

    async def text(self) -> list[dict[str, str]]:
        """The lines of a text log by the names of their fields."""
        lines = await self.lines()
        matches = [TEXT.fullmatch(line) for line in lines]
        assert None not in matches, lines
        return [match.groupdict() for match in matches if match is not None]

    async def json(self) -> list[dict[str, Any]]:
        """The records of a JSON log."""
        return [json.loads(line) for line in await self.lines()]


class StartLogging(Protocol):
    """What the fixture ``logging`` is."""

    async def __call__(
        self, services: Sequence[ServiceSpec], *, as_json: bool = False, **settings: Any
    ) -> Logging:
        """A proxy for these services; ``settings`` are fields of ``ProxySettings``."""


@pytest.fixture
def logging(start_proxy: StartProxy, tmp_path: Path) -> StartLogging:
    """Makes proxies with access logs."""

    async def start(
        services: Sequence[ServiceSpec], *, as_json: bool = False, **settings: Any
    ) -> Logging:
        path = tmp_path / ("access.json" if as_json else "access.log")
        access_log = AccessLogSettings("json" if as_json else "text", str(path))
        proxy = await start_proxy(services, access_log=access_log, **settings)
        assert isinstance(proxy, InProcessProxy)
        return Logging(proxy, path)

    return start


@pytest.fixture
async def start() -> AsyncIterator[StartProgram]:
    """Starts programs."""
    async with programs() as start:
        yield start


async def asked(client: MakeClient, log: Logging, data: bytes) -> Response:
    """The answer to this request on a connection of its own."""
    async with await client(log.port) as user:
        await user.send(data)
        return await user.response()


def parsed_as_combined(time: str) -> float:
    """Seconds since 1970, as parsers of the combined format read them: without any fraction."""
    return datetime.strptime(time, "%d/%b/%Y:%H:%M:%S %z").timestamp()


class TestFields:
    async def test_text(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        peer = await endpoint()
        log = await logging([service(peer)])
        data = get("/a?b=c", Referer="http://x.example/", User_Agent="curl/8.1 (x)")
        response = await asked(client, log, data)
        [line] = await log.text()
        time, seconds = line.pop("time"), float(line.pop("seconds"))
        assert parsed_as_combined(time) == int(float(line.pop("ended")))
        assert seconds < 10
        assert line == {
            "client": "127.0.0.1",
            "request": "GET /a?b=c HTTP/1.1",
            "status": "200",
            "bytes": "5",
            "referer": "http://x.example/",
            "user_agent": "curl/8.1 (x)",
            "service": "demo",
            "upstream_addr": peer.address,
            "upstream_seconds": (response.header("x-upstream-response-time") or b"").decode(),
            "affinity": "none",
            "outcome": "complete",
            "request_id": (response.header("x-request-id") or b"").decode(),
        }

    async def test_json(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        peer = await endpoint()
        log = await logging([service(peer)], as_json=True)
        data = request(
            "GET", "/a?b=c", ("Host", "Demo.Local:80"), ("User-Agent", "x"), version="HTTP/1.0"
        )
        before = now()
        response = await asked(client, log, data)
        [record] = await log.json()
        time = record.pop("time")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
        assert before <= datetime.fromisoformat(time).timestamp() + 0.001
        assert datetime.fromisoformat(time).timestamp() <= now()
        assert 0 <= record.pop("seconds") < 10
        assert record == {
            "client": "127.0.0.1",
            "method": "GET",
            "target": "/a?b=c",
            "version": "HTTP/1.0",
            "host": "Demo.Local:80",
            "status": 200,
            "bytes": 5,
            "referer": "",
            "user_agent": "x",
            "service": "demo",
            "upstream_addr": peer.address,
            "upstream_seconds": (response.header("x-upstream-response-time") or b"").decode(),
            "affinity": "none",
            "outcome": "complete",
            "request_id": (response.header("x-request-id") or b"").decode(),
        }

    async def test_client_behind_a_trusted_proxy(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        peer = await endpoint()
        trusted = (ip_network("127.0.0.0/8"),)
        log = await logging([service(peer)], trusted_proxies=trusted)
        await asked(client, log, get(X_Forwarded_For="192.0.2.7, 127.0.0.9", X_Request_Id="a" * 32))
        [line] = await log.text()
        assert line["client"] == "192.0.2.7"
        assert line["request_id"] == "a" * 32

    async def test_bytes_are_those_of_the_body(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            while (received := await conn.request()) is not None:
                if received.target == b"/chunked":
                    in_chunks = ("Transfer-Encoding", "chunked")
                    body = chunked(b"12345", b"67890")
                    await conn.send(respond("200 OK", in_chunks, body=body))
                elif received.method == b"HEAD":
                    await conn.send(respond("200 OK", ("Content-Length", "7")))
                else:
                    await conn.send(ok(received.body))

        log = await logging([service(await endpoint(script))])
        user = await client(log.port)
        for data in (get("/chunked"), post(b"abc")):
            await user.send(data)
            await user.response()
        await user.send(request("HEAD", "/", ("Host", "demo.local")))
        await user.response("HEAD")
        assert [line["bytes"] for line in await log.text()] == ["10", "3", "0"]

    async def test_one_line_each_and_in_order(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        log = await logging([service(await endpoint())])
        user = await client(log.port)
        await user.send(b"".join(get(f"/{n}") for n in range(20)))
        for _ in range(20):
            await user.response()
        requests = [line["request"] for line in await log.text()]
        assert requests == [f"GET /{n} HTTP/1.1" for n in range(20)]

    async def test_off(
        self, start_proxy: StartProxy, endpoint: MakeEndpoint, client: MakeClient, tmp_path: Path
    ) -> None:
        path = tmp_path / "access.log"
        settings = AccessLogSettings("off", str(path))
        proxy = await start_proxy([service(await endpoint())], access_log=settings)
        user = await client(proxy.port)
        await user.send(get())
        await user.response()
        await proxy.stop()
        assert not path.exists()


class TestEscaping:
    """No client can end a line, or a field, or send a terminal an escape sequence."""

    @pytest.mark.parametrize(
        ("sent", "text", "decoded"),
        [
            ('a"b', r"a\"b", 'a"b'),
            ('" 200 0 "-" "-', r"\" 200 0 \"-\" \"-", '" 200 0 "-" "-'),
            ("a\\", r"a\\", "a\\"),
            ("a\tb", r"a\x09b", "a\tb"),
            ("\x85\xa0\xff", r"\x85\xa0\xff", "\x85\xa0\xff"),
            ("\xc3\xa9", r"\xc3\xa9", "\xc3\xa9"),  # UTF-8 stays bytes
        ],
    )
    async def test_fields(
        self, logging: StartLogging, client: MakeClient, sent: str, text: str, decoded: str
    ) -> None:
        data = get(User_Agent=sent, Referer=sent)
        log = await logging([])
        assert (await asked(client, log, data)).status == 404
        [line] = await log.text()
        assert (line["user_agent"], line["referer"]) == (text, text)
        log = await logging([], as_json=True)
        assert (await asked(client, log, data)).status == 404
        [record] = await log.json()
        assert (record["user_agent"], record["referer"]) == (decoded, decoded)

    @pytest.mark.parametrize("as_json", [False, True])
    async def test_any_byte_in_a_target(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient, as_json: bool
    ) -> None:
        """Whether it is refused or forwarded."""
        log = await logging([service(await endpoint())], as_json=as_json)
        for byte in range(256):
            await asked(client, log, get(b"/" + bytes((byte,)) + b"x"))
        lines = await (log.json() if as_json else log.text())
        assert len(lines) == 256
        if not as_json:
            by_request = [line["request"] for line in await log.text()]
            assert r"GET /\"x HTTP/1.1" in by_request
            assert r"GET /\\x HTTP/1.1" in by_request

    @pytest.mark.parametrize(
        "hop",
        ['fe80::1%x" 200 - - "', "fe80::1%\xff", "fe80::1%a b", '192.0.2.1%"', "[::1%x y]:80"],
    )
    async def test_client_address_of_a_trusted_proxy(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient, hop: str
    ) -> None:
        """What it says may have come from anywhere."""
        peer = await endpoint()
        log = await logging([service(peer)], trusted_proxies=(ip_network("127.0.0.0/8"),))
        assert (await asked(client, log, get(X_Forwarded_For=hop))).status == 200
        [line] = await log.text()
        address = re.compile(r"[0-9a-f:.]+(%[0-9A-Za-z._-]+)?")
        assert address.fullmatch(line["client"])
        assert address.fullmatch((peer.requests[0].header("x-real-ip") or b"").decode())

    async def test_host_in_json(self, logging: StartLogging, client: MakeClient) -> None:
        log = await logging([], as_json=True)
        assert (await asked(client, log, get(host='"},{"\xff'))).status == 400
        [record] = await log.json()
        assert record["host"] in ('"},{"\xff', "")


class TestAffinity:
    """One word says how the endpoint was chosen."""

    async def test_cookie(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        one, two = await endpoint(), await endpoint()
        sticky: dict[str, Any] = {"sticky_session_cookie": "session"}
        log = await logging([service(one, two, **sticky)])
        user = await client(log.port)

        async def ask(cookie: bytes = b"") -> bytes:
            """The pin that is given out; empty if none is."""
            await user.send(get(Cookie=cookie.decode()) if cookie else get())
            set_cookies = (await user.response()).values("set-cookie")
            return set_cookies[0].partition(b";")[0] if set_cookies else b""

        first = await ask()
        at_one = bool(one.requests)
        assert await ask(first) == b""
        assert (await ask(b"session=of-the-app")).startswith(b"session_lb=")

        gone, left = (one, two) if at_one else (two, one)
        await gone.stop()
        second = await ask(first)
        assert second.startswith(b"session=")
        assert second != first

        log.proxy.set_services([service(left, **sticky)])
        assert await ask(first) == second

        await gone.start()
        log.proxy.set_services([service(one, two, **sticky)])
        table = log.proxy.app.proxy.table
        [cluster] = table.clusters()
        [down] = [each for each in cluster.endpoints if each.address == gone.address]
        table.note(down, Facts(ejected=True))
        assert await ask(first) == second

        lines = await log.text()
        assert [line["affinity"] for line in lines] == [
            "new",
            "pinned",
            "hashed",
            "repinned-failed",
            "repinned-gone",
            "repinned-down",
        ]
        assert lines[3]["upstream_addr"] == f"{gone.address}, {left.address}"
        assert re.fullmatch(r"\d+\.\d{3}, \d+\.\d{3}", lines[3]["upstream_seconds"])

    @pytest.mark.parametrize(
        ("policy", "word"),
        [
            ({}, "none"),
            ({"ip_hash": True}, "hashed"),
            ({"hash_header": "X-User"}, "none"),
            ({"hash_source_ip": True}, "hashed"),
            ({"hash_cookie": "user", "hash_cookie_ttl": 60.0}, "new"),
        ],
    )
    async def test_others(
        self,
        logging: StartLogging,
        endpoint: MakeEndpoint,
        client: MakeClient,
        policy: dict[str, Any],
        word: str,
    ) -> None:
        log = await logging([service(await endpoint(), **policy)])
        await asked(client, log, get())
        [line] = await log.text()
        assert line["affinity"] == word

    async def test_no_endpoint(self, logging: StartLogging, client: MakeClient) -> None:
        log = await logging([service(sticky_session_cookie="session")])
        assert (await asked(client, log, get())).status == 503
        [line] = await log.text()
        assert (line["status"], line["affinity"], line["upstream_addr"]) == ("503", "none", "-")
        assert line["outcome"] == "no-endpoint"


class TestOwnAnswers:
    """Requests that no endpoint answered."""

    async def test_unknown_host(self, logging: StartLogging, client: MakeClient) -> None:
        log = await logging([])
        response = await asked(client, log, get("/x", host="other.local"))
        [line] = await log.text()
        assert line["request"] == "GET /x HTTP/1.1"
        assert line["status"] == "404"
        assert line["outcome"] == "no-route"
        assert line["bytes"] == str(len(response.body))
        assert line["service"] == line["upstream_addr"] == line["upstream_seconds"] == "-"
        assert line["request_id"].encode() == response.header("x-request-id")

    async def test_redirect(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        redirects = (("old.local", "http://demo.local"),)
        log = await logging([service(await endpoint(), redirects=redirects)])
        assert (await asked(client, log, get("/x", host="old.local"))).status == 302
        [line] = await log.text()
        assert (line["status"], line["service"], line["upstream_addr"]) == ("302", "-", "-")
        assert line["outcome"] == "redirected"

    async def test_nobody_accepts(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        peers = [await endpoint(listening=False) for _ in range(2)]
        log = await logging([service(*peers)])
        response = await asked(client, log, get())
        assert response.status == 502
        [line] = await log.text()
        assert line["status"] == "502"
        assert line["outcome"] == "retries-spent"
        assert line["service"] == "demo"
        assert set(line["upstream_addr"].split(", ")) == {peer.address for peer in peers}
        assert line["upstream_addr"].encode() == response.header("x-upstream-addr")
        assert line["upstream_seconds"].encode() == response.header("x-upstream-response-time")

    async def test_rubbish(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        async def rubbish(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            await conn.send(b"SSH-2.0-OpenSSH_9.9\r\n")

        peer = await endpoint(rubbish)
        log = await logging([service(peer)])
        assert (await asked(client, log, get())).status == 502
        [line] = await log.text()
        assert (line["status"], line["upstream_addr"]) == ("502", peer.address)
        assert line["outcome"] == "upstream-malformed"

    @pytest.mark.parametrize("as_json", [False, True])
    async def test_refused(self, logging: StartLogging, client: MakeClient, as_json: bool) -> None:
        """What could not even be parsed has no request; it has an id and a client."""
        log = await logging([], as_json=as_json)
        response = await asked(client, log, b"rubbish\r\n\r\n")
        assert response.status == 400
        if as_json:
            [record] = await log.json()
            assert (record["status"], record["bytes"]) == (400, len(response.body))
            assert record["outcome"] == "bad-request"
            assert record["method"] == record["target"] == record["version"] == ""
            assert record["client"] == "127.0.0.1"
            assert record["request_id"].encode() == response.header("x-request-id")
        else:
            [line] = await log.text()
            assert (line["request"], line["status"]) == ("-", "400")
            assert line["outcome"] == "bad-request"
            assert line["bytes"] == str(len(response.body))
            assert line["client"] == "127.0.0.1"
            assert line["request_id"].encode() == response.header("x-request-id")


class TestGone:
    """Clients that leave, and endpoints."""

    async def test_client_before_the_answer(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        """499, as nginx has it: nobody got an answer. Who was asked is said."""

        async def silent(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            await conn.eof()

        peer = await endpoint(silent)
        log = await logging([service(peer)])
        user = await client(log.port)
        await user.send(get("/gone"))
        await peer.wait_requests(1)
        user.close()
        await peer.wait_open(0)
        [line] = await log.text()
        assert line["request"] == "GET /gone HTTP/1.1"
        assert (line["status"], line["bytes"]) == ("499", "0")
        assert line["outcome"] == "client-gone"
        assert (line["service"], line["upstream_addr"]) == ("demo", peer.address)

    async def test_client_on_connections_that_were_used_before(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        async def script(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            await conn.send(ok())
            assert await conn.request() is not None
            await conn.eof()

        peer = await endpoint(script)
        log = await logging([service(peer)])
        user = await client(log.port)
        await user.send(get("/warm"))
        await user.response()
        await user.send(get("/gone"))
        await peer.wait_requests(2)
        user.close()
        await peer.wait_open(0)
        _, line = await log.text()
        assert line["request"] == "GET /gone HTTP/1.1"
        assert (line["status"], line["bytes"]) == ("499", "0")
        assert (line["service"], line["upstream_addr"]) == ("demo", peer.address)

    async def test_client_inside_the_answer(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        async def half(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            await conn.send(respond("200 OK", ("Content-Length", "10"), body=b"12345"))
            await conn.eof()

        peer = await endpoint(half)
        log = await logging([service(peer)])
        user = await client(log.port)
        await user.send(get())
        assert (await user.response_head()).status == 200
        assert await user.read(5) == b"12345"
        user.close()
        await peer.wait_open(0)
        [line] = await log.text()
        assert (line["status"], line["bytes"], line["upstream_addr"]) == ("200", "5", peer.address)
        assert line["outcome"] == "client-gone"

    async def test_endpoint_inside_the_answer(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        async def half(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            await conn.send(respond("200 OK", ("Content-Length", "10"), body=b"12345"))

        log = await logging([service(await endpoint(half))])
        user = await client(log.port)
        await user.send(get())
        await user.eof()
        [line] = await log.text()
        assert (line["status"], line["bytes"]) == ("200", "5")
        assert line["outcome"] == "upstream-reset"

    async def test_tunnel(
        self, logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
    ) -> None:
        """Logged when it ends, with the bytes that went down."""

        async def switch(conn: EndpointConnection) -> None:
            assert await conn.request() is not None
            fields = (("Connection", "Upgrade"), ("Upgrade", "websocket"))
            await conn.send(respond("101 Switching Protocols", *fields, body=b"hello"))
            assert await conn.read(3) == b"bye"

        peer = await endpoint(switch)
        log = await logging([service(peer)])
        user = await client(log.port)
        await user.send(get("/ws", Connection="Upgrade", Upgrade="websocket"))
        assert (await user.response_head()).status == 101
        assert await user.read(5) == b"hello"
        await user.send(b"bye")
        assert await user.closed() == "eof"
        [line] = await log.text()
        assert (line["request"], line["status"]) == ("GET /ws HTTP/1.1", "101")
        assert (line["bytes"], line["upstream_addr"]) == ("5", peer.address)
        assert line["outcome"] == "switched"


class TestFile:
    async def test_cannot_be_opened(self, tmp_path: Path) -> None:
        path = tmp_path / "missing" / "access.log"
        with pytest.raises(ListenError) as refused:
            App(Config(access_log=AccessLogSettings("text", str(path))))
        assert str(refused.value) == (
            f"access log {path} cannot be opened: No such file or directory"
        )

    async def test_cannot_be_opened_by_the_program(
        self, start: StartProgram, tmp_path: Path
    ) -> None:
        config = tmp_path / "config.toml"
        config.write_text(document(access_log=[f'path = "{tmp_path}"']))
        program = await start("serve", "--config", config)
        assert await program.ended() == 1
        assert program.err.text == f"access log {tmp_path} cannot be opened: Is a directory\n"

    async def test_is_appended_to_and_not_for_everybody(
        self, logging: StartLogging, client: MakeClient, tmp_path: Path
    ) -> None:
        path = tmp_path / "access.log"
        for expected in (1, 2):
            log = await logging([])
            await asked(client, log, get())
            assert len(await log.lines()) == expected
        assert path.stat().st_mode & 0o007 == 0

    async def test_rotation(
        self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        """Rename it, send SIGHUP: the old file has what came before, a new one what comes after.
        If it cannot be opened anew, the log goes on where it was."""
        directory, config = tmp_path / "logs", tmp_path / "config.toml"
        directory.mkdir()
        path, rotated = directory / "access.log", directory / "access.log.1"
        peer = await endpoint()
        config.write_text(
            document(service_table("demo", [peer.address]), access_log=[f'path = "{path}"'])
        )
        program = await start("serve", "--config", config)
        async with await RawClient.connect(await program.listening()) as user:

            async def ask(target: str) -> None:
                await user.send(get(target))
                assert (await user.response()).status == 200

            await ask("/1")
            path.rename(rotated)
            await ask("/2")
            program.signal(signal.SIGHUP)
            await program.err.says("configuration reloaded")
            await ask("/3")

            away = directory.rename(tmp_path / "away")
            program.signal(signal.SIGHUP)
            await program.err.says(f"access log {path} cannot be opened: No such file")
            await ask("/4")
        await program.stop()
        requests = [
            re.findall(r'"GET (\S+) HTTP/1.1"', (away / name).read_text())
            for name in ("access.log.1", "access.log")
        ]
        assert requests == [["/1", "/2"], ["/3", "/4"]]

    async def test_standard_output(
        self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        """Lines come as requests are answered, not when a buffer is full."""
        peer = await endpoint()
        config = tmp_path / "config.toml"
        config.write_text(document(service_table("demo", [peer.address]), access_log=()))
        program = await start("serve", "--config", config)
        async with await RawClient.connect(await program.listening()) as user:
            for target in ("/1", "/2"):
                await user.send(get(target))
                await user.response()
                line = await program.out.says(r"^.*$\n")
                match = TEXT.fullmatch(line[0].rstrip("\n"))
                assert match is not None
                assert match["request"] == f"GET {target} HTTP/1.1"
        await program.stop()

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk here")
    async def test_a_full_disk(
        self, start: StartProgram, endpoint: MakeEndpoint, tmp_path: Path
    ) -> None:
        """It is reported once, and stops nothing."""
        peer = await endpoint()
        config = tmp_path / "config.toml"
        config.write_text(
            document(service_table("demo", [peer.address]), access_log=['path = "/dev/full"'])
        )
        program = await start("serve", "--config", config)
        async with await RawClient.connect(await program.listening()) as user:
            for _ in range(3):
                await user.send(get())
                assert (await user.response()).status == 200
        await program.stop()
        error = "access log /dev/full cannot be written: No space left on device"
        assert program.err.text.count(error) == 1


async def test_lines_of_many_at_once(
    logging: StartLogging, endpoint: MakeEndpoint, client: MakeClient
) -> None:
    """Lines are whole, whoever else writes one."""
    log = await logging([service(await endpoint())])
    users = [await client(log.port) for _ in range(20)]

    async def ask(user: RawClient, number: int) -> None:
        for turn in range(10):
            await user.send(get(f"/{number}/{turn}"))
            await user.response()

    await asyncio.gather(*(ask(user, number) for number, user in enumerate(users)))
    requests = {line["request"] for line in await log.text()}
    assert requests == {f"GET /{n}/{turn} HTTP/1.1" for n in range(20) for turn in range(10)}
