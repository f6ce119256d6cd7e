"""CONTROL: what the admin listener responds with: JSON, whole or in pieces, and errors.

Whoever serves it may be the process that forwards requests. So an answer that takes its time is
made in slices, between which requests are served, and one after the other: more of them at once
would only wait for each other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from aiohttp import web

from stickyproxy.control import report

SLICE = 0.001
"""Seconds for which an answer may be made at a stretch."""


def as_json(document: report.Json, status: int = 200) -> web.Response:
    """A whole document."""
    return web.json_response(document, status=status)


def error(status: int, sentence: str) -> web.Response:
    """Why there is no other answer."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return web.json_response({"error": sentence}, status=status, headers=headers)


class Pieces:
    """Answers that are made piece by piece, one at a time."""

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()

    async def answer(self, begin: Callable[[], Iterable[str]]) -> web.Response:
        """``begin`` looks at what there is when it is this answer's turn; its pieces joined are
        JSON."""
        async with self._one_at_a_time:
            text = await joined(begin())
        return web.Response(body=text.encode(), content_type="application/json")


async def joined(pieces: Iterable[str]) -> str:
    """The pieces as one, made in slices."""
    found: list[str] = []
    until = time.perf_counter() + SLICE
    for piece in pieces:
        found.append(piece)
        if time.perf_counter() > until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE
    return "".join(found)
