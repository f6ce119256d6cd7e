"""What http1.py takes from the inside of aiohttp, none of which is promised to stay.

If one of these tests fails after an upgrade of aiohttp, read what became of the part it names and
mend ``stickyproxy/dataplane/downstream/http1.py``; only then widen aiohttp's version in
pyproject.toml. How the parts work together is tested over sockets everywhere else.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from stickyproxy.dataplane.downstream import http1 as downstream

CONNECTION: dict[str, Any] = {"_paused": False}
"""State of a ``RequestHandler`` that is read, and its value in a new one."""

CONNECTION_METHODS = {
    "connection_lost": "(self, exc)",
    "connection_made": "(self, transport)",
    "data_received": "(self, data)",
    "pause_writing": "(self)",
    "resume_writing": "(self)",
}
"""Its methods that are overridden, with their parameters."""

SERVER = {"connections": list}
"""State of a ``web.Server``, and its type."""

OTHERS = {"_parser"}
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


async def test_parser_of_a_connection(connection: RequestHandler) -> None:
    """It is fed one head at a time, and makes a message of it."""
    parser = getattr(connection, "_parser", None)
    assert parser is not None, moved("RequestHandler._parser")
    nothing = parser.feed_data(b"")
    assert (list(nothing[0]), nothing[1:]) == ([], (False, b"")), moved("feed_data()")
    [(message, payload)], _, _ = parser.feed_data(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert payload is EMPTY_PAYLOAD, moved("EMPTY_PAYLOAD")
    assert message.raw_headers == ((b"Host", b"x"),), moved("RawRequestMessage")


def test_a_connection_is_made_without_a_task() -> None:
    """``connection_made`` of the base class is all that is called of aiohttp's."""
    assert RequestHandler.__mro__[1] is BaseProtocol, moved("the base of RequestHandler")


async def test_state_of_a_server() -> None:
    server = web.Server(answer)
    for name, kind in SERVER.items():
        assert isinstance(getattr(server, name, None), kind), moved(f"web.Server.{name}")
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
