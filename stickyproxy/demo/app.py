"""The demo app: responds as the docker-demo image does, so that stickiness can be seen.

    /ping     which instance answers, as JSON; starts or echoes the cookie ``session``
    /         a page that polls /ping and shows which instance responds
    /info     what reached this instance: the headers a proxy added, dropped or changed
    /stream   server-sent events, one a second (``?n=``, 10 by default)
    /ws       a websocket that echoes

It is an application like any other: it knows nothing of the proxy in front of it.
"""

from __future__ import annotations

import asyncio
import errno
import html
import json
import os
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from typing import Self

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.typedefs import Handler

from stickyproxy.base.addresses import join_host_port, split_host_port
from stickyproxy.base.errors import ListenError

SESSION_COOKIE = "session"
SESSION_MAX_AGE = 86400

DEFAULT_VERSION = "0.1"
DEFAULT_TITLE = "stickyproxy demo"

STREAM_PERIOD = 1.0
DEFAULT_EVENTS = 10
MAX_EVENTS = 3600

# How long a replica that is stopped waits for a client to take its last response or to say goodbye.
STOP_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What one replica says about itself."""

    instance: str
    """Shown as ``instance``: the name by which replicas are told apart."""
    version: str = DEFAULT_VERSION
    metadata: str = ""
    title: str = DEFAULT_TITLE
    sets_cookie: bool = True
    """False makes it an app without sessions of its own."""

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str], *, instance: str | None = None, sets_cookie: bool = True
    ) -> DemoOptions:
        """Read VERSION, METADATA and TITLE as docker-demo does; an empty one counts as unset."""
        return cls(
            instance=socket.gethostname() if instance is None else instance,
            version=environ.get("VERSION") or DEFAULT_VERSION,
            metadata=environ.get("METADATA", ""),
            title=environ.get("TITLE") or DEFAULT_TITLE,
            sets_cookie=sets_cookie,
        )


def make_app(options: DemoOptions) -> web.Application:
    """The application of one replica, for a runner of the caller's choice."""
    demo = _Demo(options)
    app = web.Application(middlewares=[demo.count])
    app.router.add_get("/", demo.page)
    app.router.add_route("*", "/ping", demo.ping)
    app.router.add_get("/info", demo.info)
    app.router.add_get("/stream", demo.stream)
    app.router.add_get("/ws", demo.echo)
    app.on_shutdown.append(demo.end_long_responses)
    return app


class DemoReplica:
    """One running replica: ``await DemoReplica.start(options)``, then ``await replica.stop()``."""

    def __init__(self, options: DemoOptions, runner: web.AppRunner, address: str) -> None:
        self.options = options
        self.address = address
        """Where it really listens, ``127.0.0.1:port`` even when port 0 was asked for."""
        self._runner = runner

    def __repr__(self) -> str:
        return f"<DemoReplica {self.options.instance} at {self.address}>"

    @classmethod
    async def start(
        cls,
        options: DemoOptions,
        address: str = "127.0.0.1:0",
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        """Listen on ``host:port``, ``[v6]:port`` or ``:port`` (every interface). ``tls``: that is
        what clients are spoken to in; None: in the clear.

        Raises ListenError when that cannot be done.
        """
        host, port = _split_address(address)
        runner = web.AppRunner(make_app(options), access_log=None, shutdown_timeout=STOP_TIMEOUT)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
        except (OSError, UnicodeError) as error:
            await runner.cleanup()
            raise ListenError(_cannot_listen(address, error)) from error
        return cls(options, runner, join_host_port(*runner.addresses[0][:2]))

    async def stop(self) -> None:
        """Close the port, end streams and websockets, let responses in progress finish."""
        await self._runner.cleanup()


class _Demo:
    """The handlers of one replica and the little they remember."""

    def __init__(self, options: DemoOptions) -> None:
        self._options = options
        self._page = _render_page(options.title)
        self._requests = 0
        self._stopping = asyncio.Event()
        self._websockets: set[web.WebSocketResponse] = set()

    @web.middleware
    async def count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count every request, those for unknown paths too."""
        self._requests += 1
        return await handler(request)

    async def page(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._page, content_type="text/html", charset="utf-8")

    async def ping(self, request: web.Request) -> web.Response:
        await _drain(request)
        # docker-demo sends its JSON as text/plain.
        response = web.Response(
            body=_json_line(self._introduction(request)), content_type="text/plain", charset="utf-8"
        )
        if self._options.sets_cookie:
            session = _session_of(request.headers.getall("Cookie", ()))
            response.headers.add("Set-Cookie", _session_cookie(session))
        return response

    def _introduction(self, request: web.Request) -> dict[str, str]:
        """Which instance responds, in docker-demo's order; what is empty is left out as there."""
        introduction = {"instance": self._options.instance, "version": self._options.version}
        if self._options.metadata:
            introduction["metadata"] = self._options.metadata
        if request_id := request.headers.get("X-Request-Id"):
            introduction["request_id"] = request_id
        return introduction

    async def info(self, request: web.Request) -> web.Response:
        seen = {
            "instance": self._options.instance,
            "version": self._options.version,
            "metadata": self._options.metadata,
            "title": self._options.title,
            "client": _client_address(request),
            # This request is one of them.
            "requests": self._requests,
            # The raw headers keep order, case and duplicates.
            "headers": [[_text(name), _text(value)] for name, value in request.raw_headers],
        }
        return web.Response(body=_json_line(seen), content_type="application/json")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        events = _events_asked_for(request)
        response = web.StreamResponse(headers={"Cache-Control": "no-store"})
        response.content_type = "text/event-stream"
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        for number in range(1, events + 1):
            if number > 1 and await self._is_stopped_within(STREAM_PERIOD):
                break
            event = _json_line({"instance": self._options.instance, "event": number})
            await response.write(b"id: %d\ndata: %b\n" % (number, event))
        return response

    async def _is_stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    async def echo(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(timeout=STOP_TIMEOUT)
        await websocket.prepare(request)
        self._websockets.add(websocket)
        try:
            async for message in websocket:
                if message.type is WSMsgType.TEXT:
                    await websocket.send_str(message.data)
                elif message.type is WSMsgType.BINARY:
                    await websocket.send_bytes(message.data)
        finally:
            self._websockets.discard(websocket)
        return websocket

    async def end_long_responses(self, _app: web.Application) -> None:
        """Tell streams and websockets that the replica stops; they would outlast its patience."""
        self._stopping.set()
        goodbyes = (ws.close(code=WSCloseCode.GOING_AWAY) for ws in self._websockets)
        await asyncio.gather(*goodbyes)


# --- requests -------------------------------------------------------------------------------


async def _drain(request: web.Request) -> None:
    """Read the body to its end, whatever its size, so that the connection can be used again."""
    async for _ in request.content.iter_any():
        pass


def _session_of(cookie_headers: Iterable[str]) -> str | None:
    """The first session that can be sent back, exactly as it came, quotes included.

    Split by hand: http.cookies unquotes, and drops a whole header for one odd cookie in it.
    """
    for header in cookie_headers:
        for pair in header.split(";"):
            name, equals, value = pair.partition("=")
            value = value.strip(" \t")
            if equals and name.strip(" \t") == SESSION_COOKIE and value.isprintable():
                return value
    return None


def _session_cookie(session: str | None) -> str:
    """The Set-Cookie value: a new session, or the one that came, without attributes."""
    if session is None:
        return f"{SESSION_COOKIE}={time.time_ns()}; Path=/; Max-Age={SESSION_MAX_AGE}"
    return f"{SESSION_COOKIE}={session}"


def _events_asked_for(request: web.Request) -> int:
    asked = request.query.get("n", str(DEFAULT_EVENTS))
    try:
        return max(1, min(int(asked), MAX_EVENTS))
    except ValueError:
        raise web.HTTPBadRequest(
            text=f"400: n is the number of events, 1 to {MAX_EVENTS}\n"
        ) from None


def _client_address(request: web.Request) -> str:
    peer = request.transport and request.transport.get_extra_info("peername")
    return join_host_port(*peer[:2]) if peer else ""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


# --- responses ------------------------------------------------------------------------------


def _json_line(value: object) -> bytes:
    """Compact JSON and a newline, as docker-demo writes it.

    A byte that is no UTF-8, in a header or the environment, shows as an escape like ``\\udcff``.
    """
    line = json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"
    return line.encode("utf-8", "backslashreplace")


def _render_page(title: str) -> bytes:
    page = resources.files("stickyproxy.demo").joinpath("page.html").read_text("utf-8")
    return page.replace("{{title}}", html.escape(title)).encode("utf-8", "replace")


# --- addresses ------------------------------------------------------------------------------


def _split_address(address: str) -> tuple[str | None, int]:
    """Host (None: every interface) and port of ``host:port``, ``[v6]:port`` or ``:port``. An IPv6
    address may name its zone."""
    try:
        host, port = split_host_port(address)
    except ValueError as error:
        raise ListenError(
            f"cannot listen on {address!r}: this is no address; "
            "write it like 127.0.0.1:9001, [::1]:9001 or :9001"
        ) from error
    return host.removeprefix("[").removesuffix("]") or None, port


_REMEDIES = {
    errno.EADDRINUSE: "choose another port, or stop what listens there",
    errno.EACCES: "choose a port above 1023, or allow this process to use low ports",
}


def _cannot_listen(address: str, error: OSError | UnicodeError) -> str:
    remedy = "choose an address of this machine"
    if isinstance(error, socket.gaierror | UnicodeError):
        why = "unknown host"
    else:
        # asyncio's own texts repeat the address; without a number they are all there is.
        why = os.strerror(error.errno).lower() if error.errno else str(error)
        remedy = _REMEDIES.get(error.errno or 0, remedy)
    return f"cannot listen on {address}: {why}; {remedy}"
