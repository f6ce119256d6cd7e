"""CONTROL: questions about the table.

POST /v1/explain    what would come of a request, and why
POST /v1/simulate   what a change of endpoints would do to sessions

Both change nothing. ``control/questions.py`` says what is asked and answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from stickyproxy.admin.answers import as_json, error
from stickyproxy.control.questions import Questions
from stickyproxy.control.report import Json


def add_routes(app: web.Application, questions: Questions) -> None:
    """Answer them."""
    pages = _Answers(questions)
    app.router.add_post("/v1/explain", pages.explain)
    app.router.add_post("/v1/simulate", pages.simulate)


class _Answers:
    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._explains, self._simulates = asyncio.Lock(), asyncio.Lock()

    async def explain(self, request: web.Request) -> web.Response:
        return await _answered(self._questions.explanation, self._explains, request)

    async def simulate(self, request: web.Request) -> web.Response:
        return await _answered(self._questions.simulation, self._simulates, request)


async def _answered(
    prepare: Callable[[object], Callable[[], Json]],
    one_at_a_time: asyncio.Lock,
    request: web.Request,
) -> web.Response:
    """An answer is prepared here, where the table is, and given in a thread, because that may take
    so long that requests would wait for it."""
    try:
        prepared = prepare(await _asked(request))
    except ValueError as wrong:
        return error(400, str(wrong))
    async with one_at_a_time:
        return as_json(await asyncio.to_thread(prepared))


async def _asked(request: web.Request) -> object:
    """The question in a request. Raises ValueError."""
    try:
        return await request.json()
    except (ValueError, RecursionError) as wrong:
        raise ValueError("the question is not JSON") from wrong
