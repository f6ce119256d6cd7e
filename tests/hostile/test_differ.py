"""The differ and the canary themselves: what they must see, and what they must not mind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.arena import Connection, Fault
from tests.hostile.case import ask, reply
from tests.hostile.differ import Differ
from tests.hostile.stage import Stage
from tests.scripted import Request


@pytest.fixture(scope="module")
def differ() -> Iterator[Differ]:
    made = Differ()
    yield made
    made.close()


INNER = ask("GET /inner")


def test_one_reading(differ: Differ) -> None:
    stream = ask("POST /a", "Content-Length: 2", body="hi") + ask(
        "POST /b", "Transfer-Encoding: chunked", body="2\r\nhi\r\n0\r\n\r\n"
    )
    assert [(read.start, read.body) for read in differ.requests(stream + INNER)] == [
        ((b"POST", b"/a"), b"hi"),
        ((b"POST", b"/b"), b"hi"),
        ((b"GET", b"/inner"), b""),
    ]


def test_an_unfinished_request_is_no_difference(differ: Differ) -> None:
    assert len(differ.requests(INNER + ask("POST /a", "Content-Length: 5", body="he"))) == 1


@pytest.mark.parametrize(
    "stream",
    [
        ask("GET /", "Connection: Upgrade", "Upgrade: a", f"Content-Length: {len(INNER)}") + INNER,
        ask("GET /", "Content-Length: 5", "Content-Length: 6", body="hello!"),
        ask("GET /", "Content-Length: 5", "Transfer-Encoding: chunked", body="0\r\n\r\n"),
        ask("GET /", "Content-Length: 18446744073709551615"),
        ask("GET /", "X: a\nY: b"),
        ask("GET /", host=None),
    ],
    ids=["upgrade-with-body", "two-lengths", "both", "2^64-1", "bare-lf", "no-host"],
)
def test_two_readings(differ: Differ, stream: bytes) -> None:
    with pytest.raises(Fault):
        differ.requests(stream)


def test_two_readings_of_an_answer(differ: Differ) -> None:
    fine = reply("200 OK", "Content-Length: 2", body="ok")
    assert [read.body for read in differ.answers(fine * 2, ["GET"])] == [b"ok", b"ok"]
    with pytest.raises(Fault):
        differ.answers(reply("150 Odd", "Content-Length: 2", body="ok") + fine, ["GET"])


def test_a_poisoned_connection_is_seen(stage: Stage) -> None:
    """As if a proxy had sent a length that it did not mean to fill, and had been answered early."""

    def lying(connection: Connection) -> None:
        reader = connection.reader
        if len(reader.requests) > connection.answered:
            connection.answered += 1
            waiting = ask("POST /", "Content-Length: 1000")
            reader.heads.append(Request.parse(waiting))  # from now on it takes all for a body
            connection.send(reply("200 OK", "Content-Length: 0"))

    with pytest.raises(Fault, match="the canary went into another request"):
        stage.arena.play(
            (ask("GET /poisoned"),),
            enough=lambda client: bool(client.answers.final),
            behaviour=lying,
        )
    stage.arena.turn_over(afresh=True)
    stage.arena.warm_up()
