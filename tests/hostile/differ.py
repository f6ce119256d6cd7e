"""The same bytes read by several parsers: what reached an endpoint must mean one thing to all.

Each reader takes a byte stream as a server or as a client would and says which messages it found. A
reader may refuse what others take, for some are stricter than RFC 9112 asks for; but up to there it
has to find the same messages, with the same bodies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import h11
import httptools
from aiohttp import http_parser
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD

from tests.hostile.arena import Fault
from tests.hostile.reading import RequestReader, fields, read_answers
from tests.scripted import Field, Message, Method

HUGE = 1 << 26


@dataclass(frozen=True, slots=True)
class Read:
    """One message: method and target, or status; the fields that matter to framing and routing."""

    start: tuple[bytes, ...]
    fields: tuple[Field, ...]
    body: bytes

    def __repr__(self) -> str:
        return f"<{b' '.join(self.start)!r} {len(self.fields)} fields, body {self.body[:80]!r}>"


@dataclass(slots=True)
class Reading:
    """What a reader made of a stream."""

    messages: list[Read] = field(default_factory=list)
    refused: str | None = None
    """Why it reads no further."""


Reader = Callable[[bytes, Sequence[Method]], Reading]


def _read(start: Sequence[bytes], headers: Sequence[Field], body: bytes) -> Read:
    named = [(name.lower(), value.strip(b" \t")) for name, value in headers]
    return Read(tuple(start), tuple(named), body)


# --- ours, strict -------------------------------------------------------------------------------


def _of(message: Message, start: Sequence[bytes]) -> Read:
    return _read(start, fields(message), message.body)


def strict_requests(data: bytes, _: Sequence[Method]) -> Reading:
    reader = RequestReader()
    reader.feed(data)
    found = [_of(request, (request.method, request.target)) for request in reader.requests]
    return Reading(found, reader.fault)


def strict_answers(data: bytes, methods: Sequence[Method]) -> Reading:
    answers = read_answers(data, methods, ended=False)
    found = [_of(final, (b"%d" % final.status,)) for final in answers.final]
    return Reading(found, answers.fault)


# --- h11 ----------------------------------------------------------------------------------------


def h11_requests(data: bytes, _: Sequence[Method]) -> Reading:
    reading = Reading()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HUGE)
    connection.receive_data(data)
    request: h11.Request | None = None
    body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                headers = [(bytes(name), bytes(value)) for name, value in request.headers]
                reading.messages.append(_read((request.method, request.target), headers, body))
                answer = h11.Response(status_code=200, headers=[(b"content-length", b"0")])
                connection.send(answer)
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return reading
                connection.start_next_cycle()
            else:
                return reading
    except h11.RemoteProtocolError as error:
        reading.refused = str(error)
        return reading


def h11_answers(data: bytes, methods: Sequence[Method]) -> Reading:
    reading = Reading()
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HUGE)
    connection.receive_data(data)
    response: h11.Response | None = None
    body = b""
    try:
        _ask_h11(connection, methods, 0)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                response, body = event, b""
            elif isinstance(event, h11.InformationalResponse):
                continue
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and response is not None:
                headers = [(bytes(name), bytes(value)) for name, value in response.headers]
                start = (b"%d" % response.status_code,)
                reading.messages.append(_read(start, headers, body))
                if connection.their_state is not h11.DONE:
                    return reading
                connection.start_next_cycle()
                _ask_h11(connection, methods, len(reading.messages))
            else:
                return reading
    except h11.RemoteProtocolError as error:
        reading.refused = str(error)
        return reading


def _ask_h11(connection: h11.Connection, methods: Sequence[Method], number: int) -> None:
    method = methods[min(number, len(methods) - 1)]
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())


# --- httptools (llhttp) -------------------------------------------------------------------------


class _Callbacks:
    """Collects what httptools calls back; ``message`` makes a ``Read`` of it."""

    def __init__(self) -> None:
        self.messages: list[Read] = []
        self.parser: Any = None
        self.on_message_begin()

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers: list[Field] = []
        self.body = b""
        self._begun_headers = True

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._begun_headers:  # those of a trailer come later, and are not looked at
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._begun_headers = False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        start: tuple[bytes, ...]
        if isinstance(self.parser, httptools.HttpRequestParser):
            start = (self.parser.get_method(), self.url)
        else:
            status = self.parser.get_status_code()
            if status < 200 and status != 101:
                return
            start = (b"%d" % status,)
        self.messages.append(_read(start, self.headers, self.body))


def httptools_requests(data: bytes, _: Sequence[Method]) -> Reading:
    callbacks = _Callbacks()
    reading = Reading(callbacks.messages)
    while data:
        callbacks.parser = httptools.HttpRequestParser(callbacks)
        try:
            callbacks.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            data = data[upgrade.args[0] :]  # it is not taken up: what follows are requests
            continue
        except httptools.HttpParserError as error:
            reading.refused = str(error)
        break
    return reading


def httptools_answers(data: bytes, methods: Sequence[Method]) -> Reading:
    callbacks = _Callbacks()
    reading = Reading(callbacks.messages)
    if "HEAD" in methods:
        reading.refused = "it cannot be told that a HEAD was answered"
        return reading
    callbacks.parser = httptools.HttpResponseParser(callbacks)
    try:
        callbacks.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        reading.refused = str(error)
    return reading


# --- aiohttp ------------------------------------------------------------------------------------


class Aiohttp:
    """aiohttp's parsers, in C or in Python, with the event loop that they want to hold."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        """Close the loop."""
        self._loop.close()

    def requests(self, parser: type[Any]) -> Reader:
        """Reads requests with a parser class."""

        def read(data: bytes, _: Sequence[Method]) -> Reading:
            reading = Reading()
            while data:
                made = self._make(parser)
                try:
                    messages, upgraded, data = made.feed_data(data)
                except HttpProcessingError as error:
                    reading.refused = str(error)
                    break
                for message, payload in messages:
                    if payload.is_eof() or payload is EMPTY_PAYLOAD:
                        start = (
                            message.method.encode(),
                            message.path.encode("utf-8", "surrogateescape"),
                        )
                        body = b"".join(payload._buffer) if hasattr(payload, "_buffer") else b""
                        reading.messages.append(_read(start, message.raw_headers, body))
                if messages and messages[-1][0].upgrade and not upgraded:
                    reading.refused = "it drops what comes behind a request to upgrade"
                if not upgraded:
                    break
            return reading

        return read

    def _make(self, parser: type[Any]) -> Any:
        return parser(
            BaseProtocol(self._loop),
            self._loop,
            HUGE,
            max_line_size=HUGE,
            max_field_size=HUGE,
            max_headers=100_000,
            auto_decompress=False,
        )


# --- two readings -------------------------------------------------------------------------------


class Differ:
    """All readers."""

    def __init__(self) -> None:
        self._aiohttp = Aiohttp()
        pure = http_parser.HttpRequestParserPy
        compiled = getattr(http_parser, "HttpRequestParserC", None)
        self.request_readers: dict[str, Reader] = {
            "strict": strict_requests,
            "h11": h11_requests,
            "httptools": httptools_requests,
            "aiohttp (Python)": self._aiohttp.requests(pure),
            **({} if compiled is None else {"aiohttp (C)": self._aiohttp.requests(compiled)}),
        }
        self.answer_readers: dict[str, Reader] = {
            "strict": strict_answers,
            "h11": h11_answers,
            "httptools": httptools_answers,
        }

    def close(self) -> None:
        """Free what the readers hold."""
        self._aiohttp.close()

    def requests(self, stream: bytes) -> list[Read]:
        """What everybody makes of a stream of requests. Raises Fault."""
        return _agree(self.request_readers, stream, ("GET",))

    def answers(self, stream: bytes, methods: Sequence[Method]) -> list[Read]:
        """What everybody makes of a stream of answers. Raises Fault."""
        return _agree(self.answer_readers, stream, methods)


def _agree(readers: dict[str, Reader], stream: bytes, methods: Sequence[Method]) -> list[Read]:
    readings = {name: reader(stream, methods) for name, reader in readers.items()}
    ours = readings["strict"]
    if ours.refused:
        raise Fault(f"not well-formed: {ours.refused}")
    for name, reading in readings.items():
        found = reading.messages
        expected = ours.messages[: len(found)] if reading.refused else ours.messages
        if found != expected:
            raise Fault(f"two readings of {stream!r}: strict {ours.messages!r}, {name} {found!r}")
    return ours.messages
