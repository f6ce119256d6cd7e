"""A byte stream read strictly (RFC 9112), message by message, as it comes.

``RequestReader`` is what the recording endpoint goes by, ``read_answers`` what the client goes by.
Both take the strict parsers of ``tests.scripted``: what is not well-formed is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tests.scripted import Field, Message, Method, Request, Response

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)\r\n")
_LONGEST_LINE = 65536

Framing = int | Literal["chunked", "close"]


class Unfinished(Exception):
    """More bytes are needed."""


def _line(data: bytes, at: int) -> bytes:
    end = data.find(b"\n", at)
    if end < 0:
        assert len(data) - at < _LONGEST_LINE, f"endless line: {data[at : at + 100]!r}"
        raise Unfinished
    return data[at : end + 1]


def take_body(data: bytes, at: int, framing: Framing, *, ended: bool) -> tuple[bytes, int]:
    """The body that begins at ``at``, and where it ends. Raises Unfinished, AssertionError."""
    if framing == "close":
        if not ended:
            raise Unfinished
        return data[at:], len(data)
    if isinstance(framing, int):
        if len(data) - at < framing:
            raise Unfinished
        return data[at : at + framing], at + framing
    body = b""
    while True:
        line = _line(data, at)
        match = _CHUNK_LINE.fullmatch(line)
        assert match, f"not a chunk size: {line!r}"
        at += len(line)
        size = int(match[1], 16)
        if size == 0:
            break
        if len(data) < at + size + 2:
            raise Unfinished
        assert data[at + size : at + size + 2] == b"\r\n", f"after a chunk: {data[at:][:99]!r}"
        body += data[at : at + size]
        at += size + 2
    while (line := _line(data, at)) != b"\r\n":
        assert _FIELD_LINE.fullmatch(line), f"not a trailer field: {line!r}"
        at += len(line)
    return body, at + 2


class RequestReader:
    """What an endpoint received on one connection."""

    def __init__(self) -> None:
        self.heads: list[Request] = []
        """Every head that came, in order; its body may be missing."""
        self.requests: list[Request] = []
        """Every request that came whole."""
        self.fault: str | None = None
        """What was not well-formed; nothing is read any more."""
        self.switched = False
        """Bytes are bytes: the endpoint has answered 101."""
        self.rest = b""
        """What has not become a whole request."""
        self.whole = 0
        """Bytes of the whole requests."""
        self._head_bytes = 0

    @property
    def idle(self) -> bool:
        """Between two requests."""
        return not (self.rest or self.fault or len(self.heads) > len(self.requests))

    def feed(self, data: bytes) -> None:
        """Take more."""
        self.rest += data
        if self.switched or self.fault:
            return
        try:
            while self.rest:
                self._step()
        except Unfinished:
            pass
        except AssertionError as error:
            self.fault = str(error)

    def _step(self) -> None:
        if len(self.heads) == len(self.requests):
            end = self.rest.find(b"\r\n\r\n")
            if end < 0:
                raise Unfinished
            head, self.rest = self.rest[: end + 4], self.rest[end + 4 :]
            self._head_bytes = len(head)
            self.heads.append(Request.parse(head))
        request = self.heads[-1]
        request.body, end = take_body(self.rest, 0, _framing(request), ended=False)
        self.rest = self.rest[end:]
        self.whole += self._head_bytes + end
        self.requests.append(request)


def _framing(request: Request) -> Framing:
    """As strict as ``Request.framing``, but lengths may go up to what a signed 64-bit number holds:
    an endpoint that keeps them so reads everything beyond as something else."""
    lengths = request.values("content-length")
    if len(lengths) == 1 and re.fullmatch(rb"[0-9]{19}", lengths[0]):
        assert int(lengths[0]) < 1 << 63, f"an endpoint may read it as negative: {request.head!r}"
        return int(lengths[0])
    return request.framing()


@dataclass(frozen=True, slots=True)
class Answers:
    """What a client received on one connection, as far as it is whole."""

    final: tuple[Response, ...]
    interim: tuple[Response, ...]
    rest: bytes
    """What has not become a whole answer; after a 101 all that follows it."""
    fault: str | None = None

    @property
    def statuses(self) -> tuple[int, ...]:
        """Of the final answers."""
        return tuple(response.status for response in self.final)


def read_answers(data: bytes, methods: Sequence[Method], *, ended: bool) -> Answers:
    """Read answers to requests of these methods; the last one goes for all that follow."""
    final: list[Response] = []
    interim: list[Response] = []
    at = 0
    try:
        while at < len(data):
            end = data.find(b"\r\n\r\n", at)
            if end < 0:
                break
            response = Response.parse(data[at : end + 4])
            to = methods[min(len(final), len(methods) - 1)]
            response.body, at = take_body(data, end + 4, response.framing(to), ended=ended)
            if response.status < 200 and response.status != 101:
                interim.append(response)
                continue
            final.append(response)
            if response.status == 101:
                break
    except Unfinished:
        pass
    except AssertionError as error:
        return Answers(tuple(final), tuple(interim), data[at:], str(error))
    return Answers(tuple(final), tuple(interim), data[at:])


def fields(message: Message) -> list[Field]:
    """Header fields with lower-case names."""
    return [(name.lower(), value) for name, value in message.headers]
