"""CONTROL: questions about the table.

POST /v1/explain    what would come of a request, and why
POST /v1/simulate   what a change of endpoints would do to sessions

Both change nothing. ``control/questions.py`` says what is asked and answered.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from stickyproxy.admin.answers import as_json, error
from stickyproxy.control.questions import Questions


def add_routes(app: web.Application, questions: Questions) -> None:
    """Answer them."""
    pages = _Answers(questions)
    app.router.add_post("/v1/explain", pages.explain)
    app.router.add_post("/v1/simulate", pages.simulate)


class _Answers:
    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        self._one_at_a_time = asyncio.Lock()

    async def explain(self, request: web.Request) -> web.Response:
        try:
            return as_json(self._questions.explain(await _asked(request)))
        except ValueError as wrong:
            return error(400, str(wrong))

    async def simulate(self, request: web.Request) -> web.Response:
        """An answer takes so long that requests would wait for it."""
        try:
            prepared = self._questions.simulation(await _asked(request))
        except ValueError as wrong:
            return error(400, str(wrong))
        async with self._one_at_a_time:
            return as_json(await asyncio.to_thread(prepared))


async def _asked(request: web.Request) -> object:
    """The question in a request. Raises ValueError."""
    try:
        return await request.json()
    except (ValueError, RecursionError) as wrong:
        raise ValueError("the question is not JSON") from wrong
