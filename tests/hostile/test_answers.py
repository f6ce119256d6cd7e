"""Every answer row, and how many there are."""

from __future__ import annotations

import pytest

from tests.hostile import answers_body, answers_head
from tests.hostile.case import AnswerCase, unique
from tests.hostile.stage import Stage

CASES = unique([*answers_head.CASES, *answers_body.CASES])


def test_there_are_enough() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_answer(stage: Stage, case: AnswerCase) -> None:
    """What its client may get is what it gets, and nobody else gets anything of it."""
    stage.play_answer(case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_answer_over_tls(tls_stage: Stage, case: AnswerCase) -> None:
    """The same comes of it if it comes in records."""
    tls_stage.play_answer(case)
