"""What http1.py takes from the inside of aiohttp, none of which is promised to stay.

If one of these tests fails after an upgrade of aiohttp, read what became of the part it names and
mend ``stickyproxy/dataplane/downstream/http1.py``; only then widen aiohttp's version in
pyproject.toml. How the parts work together is tested over sockets everywhere else.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections import deque
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from stickyproxy.dataplane.downstream import http1 as downstream

CONNECTION: dict[str, Any] = {
    "_buffer_paused": False,
    "_close": False,
    "_keepalive_handle": None,
    "_message_tail": b"",
    "_messages": deque(),
    "_next_keepalive_close_time": 0.0,
    "_paused": False,
    "_task_handler": None,
    "_upgraded": False,
    "_waiter": None,
}
"""State of a ``RequestHandler`` that is read or written, and its value in a new one."""

CONNECTION_METHODS = {
    "_drain_helper": "(self)",
    "_pause_reading_for_buffer": "(self)",
    "_pause_transport_reading": "(self)",
    "_process_keepalive": "(self)",
    "_resume_reading_if_drained": "(self)",
    "_resume_transport_reading": "(self)",
    # overridden or called under their public names
    "connection_lost": "(self, exc)",
    "connection_made": "(self, transport)",
    "data_received": "(self, data)",
    "pause_writing": "(self)",
    "resume_writing": "(self)",
    "set_parser": "(self, parser, data_received_cb)",
    "start": "(self)",
}
"""Its methods, with their parameters."""

SERVER = {"_kwargs": dict, "_loop": asyncio.AbstractEventLoop, "connections": list}
"""State of a ``web.Server``, and its type."""

OTHERS = {"_loop", "_max_msg_queue_size", "_msg_queue_resume_size", "_parser"}
"""Parts of a connection that have a test of their own."""


def moved(what: str) -> str:
    """The message for whoever upgrades aiohttp."""
    ours = "stickyproxy/dataplane/downstream/http1.py"
    return f"aiohttp {version('aiohttp')} moved {what}, which {ours} relies on"


async def answer(_request: web.BaseRequest) -> web.StreamResponse:
    """Never called."""
    raise NotImplementedError


@pytest.fixture
async def connection() -> RequestHandler:
    """A connection that has not been made yet."""
    return RequestHandler(web.Server(answer), loop=asyncio.get_running_loop())


@pytest.mark.parametrize("name", CONNECTION)
async def test_state_of_a_connection(connection: RequestHandler, name: str) -> None:
    assert hasattr(connection, name), moved(f"RequestHandler.{name}")
    assert getattr(connection, name) == CONNECTION[name], moved(f"RequestHandler.{name}")


@pytest.mark.parametrize("name", CONNECTION_METHODS)
def test_methods_of_a_connection(name: str) -> None:
    method = getattr(RequestHandler, name, None)
    assert callable(method), moved(f"RequestHandler.{name}()")
    parameters = f"({', '.join(inspect.signature(method).parameters)})"
    assert parameters == CONNECTION_METHODS[name], moved(f"the parameters of {name}()")
    if name in ("_drain_helper", "start"):
        assert inspect.iscoroutinefunction(method), moved(f"{name}(), it is no coroutine")


async def test_queue_of_a_connection(connection: RequestHandler) -> None:
    """Requests that were parsed and wait; the parser stops when there are too many."""
    for name in ("_max_msg_queue_size", "_msg_queue_resume_size"):
        assert isinstance(getattr(connection, name, None), int), moved(f"RequestHandler.{name}")
    parser = getattr(connection, "_parser", None)
    assert parser is not None, moved("RequestHandler._parser")
    assert callable(getattr(parser, "message_consumed", None)), moved("message_consumed()")
    assert parser.feed_data(b"") == ((), False, b""), moved("the result of feed_data()")
    assert connection._loop is asyncio.get_running_loop(), moved("RequestHandler._loop")


def test_what_stands_for_a_bad_request() -> None:
    """It is queued among the messages: a named tuple, but for its class like any other."""
    error = ValueError("x")
    info = _ErrInfo(400, error, "y")
    assert (info.status, info.exc, info.message) == (400, error, "y"), moved("_ErrInfo")


async def test_state_of_a_server() -> None:
    server = web.Server(answer, max_headers=77)
    for name, kind in SERVER.items():
        assert isinstance(getattr(server, name, None), kind), moved(f"web.Server.{name}")
    assert server._kwargs["max_headers"] == 77, moved("web.Server._kwargs")
    parameters = list(inspect.signature(web.Server.connection_lost).parameters)
    assert parameters == ["self", "handler", "exc"], moved("web.Server.connection_lost()")


def test_nothing_else_is_used() -> None:
    """Every private name in http1.py is our own or stands in a table above."""
    tree = ast.parse(Path(downstream.__file__).read_text("utf-8"))
    ours: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            ours.add(node.name)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            ours.update(ast.literal_eval(node.value))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            ours.update(
                inner.attr
                for inner in ast.walk(node)
                if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
            )
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr[0] == "_" and node.attr[:2] != "__"
    }
    known = {*CONNECTION, *CONNECTION_METHODS, *SERVER, *OTHERS}
    assert used - ours <= known, (
        "add them to the tables in tests/dataplane/downstream/test_http1.py"
    )
    private = {name for name in known if name[0] == "_"}
    assert private <= used, "http1.py needs them no more: take them out of the tables"
