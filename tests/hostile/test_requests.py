"""Every request row, and how many there are."""

from __future__ import annotations

import pytest

from tests.hostile import (
    requests_connection,
    requests_fields,
    requests_framing,
    requests_syntax,
    requests_target,
)
from tests.hostile.arena import early, in_time
from tests.hostile.case import RequestCase, ask, declined, unique
from tests.hostile.stage import Stage

CASES = unique(
    [
        *requests_framing.CASES,
        *requests_syntax.CASES,
        *requests_target.CASES,
        *requests_fields.CASES,
        *requests_connection.CASES,
    ]
)
EARLY = [case for case in CASES if case.behaviour is in_time]


def test_there_are_enough() -> None:
    assert len(CASES) >= 300


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_request(stage: Stage, case: RequestCase) -> None:
    """What must come of it comes of it, and nothing else."""
    stage.play_request(case)


@pytest.mark.parametrize("case", EARLY, ids=lambda case: case.id)
def test_answered_early(stage: Stage, case: RequestCase) -> None:
    """The endpoint answers at the head. Whatever comes of that, nobody's request is read as a
    part of another's."""
    stage.play_request(case, behaviour=early, judged=False)


REFUSALS = {
    400: ask("GET /", host="a b"),
    404: ask("GET /", host="rooted.test"),
    405: ask("CONNECT hostile.test:80"),
    414: ask("GET /" + "a" * 9000),
    431: ask("GET /", "X: " + "a" * 9000),
    501: ask("POST /", "Transfer-Encoding: gzip, chunked"),
    503: ask("GET /", host="empty.test"),
    505: ask("GET /", version="HTTP/2.0"),
}


@pytest.mark.parametrize("status", REFUSALS)
def test_error_texts_are_not_sniffed(stage: Stage, status: int) -> None:
    """Issue 7 row 12: what a client sent may be shown in them, and is never markup."""
    case = RequestCase(f"refusal-{status}", "issue 7 row 12", REFUSALS[status], declined(status))
    [answer] = stage.play_request(case).answers.final
    assert answer.header("x-content-type-options") == b"nosniff"
    assert (answer.header("content-type") or b"").startswith(b"text/plain")
