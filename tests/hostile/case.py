"""What a row of the tables is, and what may come of it.

A request row is the bytes a client sends and the outcomes that are allowed; an answer row is the
bytes an endpoint answers with and what its client may get to see. ``source`` says who demands it:
a section of an RFC, an advisory, or the issue whose table has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from tests.hostile.arena import Behaviour, Fault, Record, in_time
from tests.hostile.reading import fields
from tests.scripted import Method, Request

HOST = "hostile.test"
T = TypeVar("T", "RequestCase", "AnswerCase")


def ask(
    line: str,
    *header_lines: str,
    body: str | bytes = b"",
    host: str | None = HOST,
    version: str = "HTTP/1.1",
) -> bytes:
    """A request: ``line`` without its version, field lines as given, the Host field first."""
    lines = [f"{line} {version}", *([] if host is None else [f"Host: {host}"]), *header_lines]
    head = "".join(f"{each}\r\n" for each in lines).encode("latin-1")
    return head + b"\r\n" + (body.encode("latin-1") if isinstance(body, str) else body)


def reply(status: str, *header_lines: str, body: str | bytes = b"") -> bytes:
    """An answer of exactly these field lines."""
    lines = [f"HTTP/1.1 {status}", *header_lines]
    head = "".join(f"{each}\r\n" for each in lines).encode("latin-1")
    return head + b"\r\n" + (body.encode("latin-1") if isinstance(body, str) else body)


# --- what may come of a request ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the endpoint must see it."""

    line: str
    """Method and target."""
    body: bytes | None = b""
    """None: whatever it is."""
    host: str | None = None
    """None: whatever it is."""
    has: tuple[str, ...] = ()
    """Field lines that must be there; names in any case."""
    lacks: tuple[str, ...] = ()
    """Names that must not be there, in any case, ``_`` and ``-`` told apart."""

    def objection(self, request: Request) -> str | None:
        """Why the request is not this one; None if it is."""
        line = f"{request.method.decode('latin-1')} {request.target.decode('latin-1')}"
        if line != self.line:
            return f"{line!r} arrived, not {self.line!r}"
        if self.body is not None and request.body != self.body:
            return f"its body was {request.body[:200]!r}, not {self.body[:200]!r}"
        if self.host is not None and request.values("host") != [self.host.encode("latin-1")]:
            return f"its Host was {request.values('host')!r}, not {self.host!r}"
        present = fields(request)
        for wanted in self.has:
            name, _, value = wanted.partition(": ")
            if (name.lower().encode("latin-1"), value.encode("latin-1")) not in present:
                return f"{wanted!r} is not in {request.head!r}"
        names = {name for name, _ in present}
        for unwanted in self.lacks:
            if unwanted.lower().encode("latin-1") in names:
                return f"{unwanted!r} is in {request.head!r}"
        return None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One thing that may come of a request row."""

    statuses: tuple[frozenset[int], ...]
    """For each final answer, in order."""
    seen: tuple[Seen, ...] = ()
    """What reaches the endpoint whole, in order, and nothing else does."""
    closed: bool = False
    """The connection must be closed after the last answer; otherwise it may be."""
    ends_only: bool = False
    """It may be closed without any answer."""
    tunnel: bytes | None = None
    """What must come back through the tunnel, behind a 101."""

    def objection(self, record: Record) -> str | None:
        """Why the record is not this; None if it is."""
        statuses = record.answers.statuses
        if self.ends_only and not statuses and record.ended:
            return None if not record.requests else f"{record.requests[0].head!r} arrived"
        if record.answers.fault:
            return record.answers.fault
        fits = len(statuses) == len(self.statuses) and all(
            status in allowed for status, allowed in zip(statuses, self.statuses, strict=True)
        )
        if not fits:
            return f"the client was told {statuses}"
        if self.tunnel is not None:
            if record.answers.rest != self.tunnel:
                return f"{record.answers.rest!r} came back, not {self.tunnel!r}"
        elif record.answers.rest:
            return f"more came: {record.answers.rest[:200]!r}"
        if self.closed and not record.ended:
            return "the connection was kept"
        if len(record.requests) != len(self.seen):
            return f"{len(record.requests)} requests arrived: {record.requests!r}"
        for seen, request in zip(self.seen, record.requests, strict=True):
            if (why := seen.objection(request)) is not None:
                return why
        return None


Outcomes = tuple[Outcome, ...]


def refused(*statuses: int) -> Outcomes:
    """Answered here and closed; nothing reaches the endpoint. Without statuses: 400."""
    return (Outcome((frozenset(statuses or (400,)),), closed=True),)


def dropped(*statuses: int) -> Outcomes:
    """As ``refused``, or closed without a word."""
    return (Outcome((frozenset(statuses or (400,)),), closed=True, ends_only=True),)


def told(*statuses: int) -> Outcomes:
    """Answered here, once for each status; the connection may go on. Nothing reaches the
    endpoint."""
    return (Outcome(tuple(frozenset((status,)) for status in statuses)),)


def passed(
    line: str,
    body: str | bytes | None = b"",
    *,
    host: str | None = None,
    has: Sequence[str] = (),
    lacks: Sequence[str] = (),
    closed: bool = False,
) -> Outcomes:
    """One request reaches the endpoint, so, and is answered 200."""
    raw = body.encode("latin-1") if isinstance(body, str) else body
    seen = Seen(line, raw, host, tuple(has), tuple(lacks))
    return (Outcome((frozenset((200,)),), (seen,), closed),)


def declined(*statuses: int) -> Outcomes:
    """Answered here with one of these; the connection may go on. Nothing reaches the endpoint."""
    return (Outcome((frozenset(statuses),)),)


def unfinished() -> Outcomes:
    """No answer is due: the request is not whole, and must not seem so to the endpoint."""
    return (Outcome(()),)


def then(*parts: Outcomes) -> Outcomes:
    """One after the other on one connection. Each part allows a single outcome."""
    outcomes = [outcome for [outcome] in parts]
    return (
        Outcome(
            tuple(status for outcome in outcomes for status in outcome.statuses),
            tuple(seen for outcome in outcomes for seen in outcome.seen),
            outcomes[-1].closed,
        ),
    )


def then_refused(first: Outcomes, *statuses: int) -> Outcomes:
    """What came before the bad request is answered, or the 400 is the only answer: if both came in
    one read, nothing has been begun."""
    return either(then(first, refused(*statuses)), refused(*statuses))


def switched(line: str, tunnel: bytes, *, has: Sequence[str] = ()) -> Outcomes:
    """The endpoint switches protocols and sends back what comes through the tunnel."""
    seen = Seen(line, b"", None, tuple(has))
    return (Outcome((frozenset((101,)),), (seen,), tunnel=tunnel),)


def either(*choices: Outcomes) -> Outcomes:
    """The RFC leaves it open."""
    return tuple(outcome for outcomes in choices for outcome in outcomes)


@dataclass(frozen=True, slots=True)
class RequestCase:
    """What a client sends, and what may come of it."""

    id: str
    source: str
    data: bytes | tuple[bytes, ...]
    """Several pieces are sent in several writes."""
    allowed: Outcomes
    behaviour: Behaviour = in_time
    local: str | None = None

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """In the order sent."""
        return self.data if isinstance(self.data, tuple) else (self.data,)

    @property
    def methods(self) -> tuple[Method, ...]:
        """What the answers answer."""
        seen = max((outcome.seen for outcome in self.allowed), key=len)
        lines = [each.line.encode("latin-1") for each in seen] or [b"".join(self.pieces)]
        return tuple("HEAD" if line.startswith(b"HEAD ") else "GET" for line in lines)

    def enough(self, statuses: Sequence[int], rest: bytes, closing: bool) -> bool:
        """Whether all has come that may come, if the connection does not end."""
        if not all(outcome.statuses for outcome in self.allowed):
            return True  # the canary shows that the proxy has seen to it
        most = max(len(outcome.statuses) for outcome in self.allowed)
        tunnel = [outcome.tunnel for outcome in self.allowed if outcome.tunnel is not None]
        if statuses and statuses[-1] == 101:
            return not tunnel or len(rest) >= len(tunnel[0])
        return len(statuses) >= most and not closing

    def judge(self, record: Record) -> None:
        """Raises Fault if none of the allowed outcomes is what came."""
        objections = [outcome.objection(record) for outcome in self.allowed]
        if all(objections):
            raise Fault(f"{self.source}: " + "; or ".join(each for each in objections if each))


# --- what may come of an answer ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Got:
    """One thing that the client of an answer row may get."""

    status: int | None
    """None: no whole answer, and the connection ends."""
    body: bytes | None = b""
    """None: whatever it is."""
    interim: tuple[int, ...] = ()
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    closed: bool = False

    def objection(self, record: Record) -> str | None:
        """Why the record is not this; None if it is."""
        answers = record.answers
        if answers.fault:
            return answers.fault
        if self.status is None:
            if answers.statuses:
                return f"the client was told {answers.statuses}"
            return None if record.ended else "the connection was kept without a whole answer"
        if answers.statuses != (self.status,):
            return f"the client was told {answers.statuses}: {record.received[:300]!r}"
        [final] = answers.final
        if self.body is not None and final.body != self.body:
            return f"the body was {final.body[:200]!r}, not {self.body[:200]!r}"
        if answers.rest and self.status != 101:
            return f"more came: {answers.rest[:200]!r}"
        interim = tuple(each.status for each in answers.interim)
        if self.status < 500 and interim != self.interim:
            return f"interim answers were {interim}, not {self.interim}"
        present = fields(final)
        for wanted in self.has:
            name, _, value = wanted.partition(": ")
            if (name.lower().encode("latin-1"), value.encode("latin-1")) not in present:
                return f"{wanted!r} is not in {final.head!r}"
        names = {name for name, _ in present}
        if b"x-server-info" not in names:
            return f"this head is not the proxy's: {final.head!r}"
        for unwanted in self.lacks:
            if unwanted.lower().encode("latin-1") in names:
                return f"{unwanted!r} is in {final.head!r}"
        return "the connection was kept" if self.closed and not record.ended else None


Gots = tuple[Got, ...]


def got(
    status: int,
    body: str | bytes | None = b"",
    *,
    interim: Sequence[int] = (),
    has: Sequence[str] = (),
    lacks: Sequence[str] = (),
    closed: bool = False,
) -> Gots:
    """The answer passes, so."""
    raw = body.encode("latin-1") if isinstance(body, str) else body
    return (Got(status, raw, tuple(interim), tuple(has), tuple(lacks), closed),)


def bad_gateway() -> Gots:
    """502, or nothing whole: part of the answer had passed before the fault was seen."""
    return (Got(502, None), Got(None))


def only_502() -> Gots:
    """502: the fault is in the head."""
    return (Got(502, None),)


def any_of(*choices: Gots) -> Gots:
    """Left open."""
    return tuple(each for gots in choices for each in gots)


End = Literal["keep", "close", "reset"]


@dataclass(frozen=True, slots=True)
class AnswerCase:
    """What an endpoint answers with, and what its client may get."""

    id: str
    source: str
    data: bytes | tuple[bytes, ...]
    allowed: Gots
    end: End = "keep"
    """What the endpoint does after it."""
    asked: bytes = ask("GET /asked")
    at_head: bool = False
    """Answered when the request's head has come."""

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """In the order sent."""
        return self.data if isinstance(self.data, tuple) else (self.data,)

    @property
    def methods(self) -> tuple[Method, ...]:
        """What the answer answers."""
        return ("HEAD",) if self.asked.startswith(b"HEAD ") else ("GET",)

    def judge(self, record: Record) -> None:
        """Raises Fault if none of the allowed outcomes is what came."""
        objections = [each.objection(record) for each in self.allowed]
        if all(objections):
            raise Fault(f"{self.source}: " + "; or ".join(each for each in objections if each))


def unique(cases: Iterable[T]) -> list[T]:
    """The rows in order. An id that two rows have is an error."""
    by_id: dict[str, T] = {}
    for case in cases:
        assert case.id not in by_id, f"two rows are called {case.id}"
        by_id[case.id] = case
    return list(by_id.values())
