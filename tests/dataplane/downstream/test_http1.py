"""What dataplane/downstream takes from the inside of aiohttp, none of which is promised to stay.

If one of these tests fails after an upgrade of aiohttp, read what became of the part it names and
mend the module in ``stickyproxy/dataplane/downstream/`` that uses it; only then widen aiohttp's
version in pyproject.toml. How the parts work together is tested over sockets everywhere else.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.http_parser import HttpRequestParser
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from stickyproxy.dataplane import downstream

FOLDER = Path(downstream.__file__).parent

MODULES = {path.stem: path for path in sorted(FOLDER.glob("*.py")) if path.stem != "__init__"}

IMPORTS = {
    "context": {"aiohttp.http_parser.HttpRequestParser", "aiohttp.web_protocol.RequestHandler"},
    "heads": {
        *("aiohttp.http_exceptions.HttpProcessingError", "aiohttp.http_exceptions.LineTooLong"),
        *("aiohttp.http_parser.HttpParser", "aiohttp.http_parser.RawRequestMessage"),
        *("aiohttp.streams.EMPTY_PAYLOAD", "aiohttp.streams.StreamReader"),
    },
    "http1": {"aiohttp.web", "aiohttp.web_protocol.RequestHandler"},
    "server": {"aiohttp.web", "aiohttp.web_protocol.RequestHandler"},
    "stream": {
        *("aiohttp.HttpVersion10", "aiohttp.HttpVersion11"),
        "aiohttp.http_parser.RawRequestMessage",
    },
}
"""What each module imports of aiohttp."""

CONNECTION: dict[str, Any] = {"_paused": False, "writing_paused": False, "transport": None}
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
    """The message after an upgrade of aiohttp."""
    ours = "stickyproxy/dataplane/downstream/"
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


async def test_errors_of_a_parser(connection: RequestHandler) -> None:
    """heads.py tells by these what was too long."""
    sizes: dict[str, Any] = {"max_line_size": 100, "max_field_size": 101, "max_headers": 2}
    head = b"GET / HTTP/1.1\r\n"

    def parser() -> HttpRequestParser:
        return HttpRequestParser(connection, asyncio.get_running_loop(), 2**16, **sizes)

    with pytest.raises(LineTooLong) as line:
        parser().feed_data(b"GET /%b HTTP/1.1\r\n\r\n" % (b"a" * 200))
    assert line.value.args[1] == 100, moved("the limit in LineTooLong")
    with pytest.raises(LineTooLong) as field:
        parser().feed_data(head + b"X: %b\r\n\r\n" % (b"a" * 200))
    assert field.value.args[1] == 101, moved("the limit in LineTooLong")
    with pytest.raises(BadHttpMessage) as many:
        parser().feed_data(head + b"A: 1\r\nB: 2\r\nC: 3\r\n\r\n")
    assert many.value.message.startswith("Too many headers"), moved("the text of BadHttpMessage")


async def test_message_of_a_parser(connection: RequestHandler) -> None:
    """stream.py reads these of a message."""
    parser = HttpRequestParser(connection, asyncio.get_running_loop(), 2**16)
    [(message, _)], _, _ = parser.feed_data(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
    found = (message.method, message.path, message.version, message.raw_headers)
    assert found == ("GET", "/a", (1, 1), ((b"Host", b"x"),)), moved("RawRequestMessage")
    assert (message.should_close, message.upgrade, message.chunked) == (False, False, False)
    assert message.headers["host"] == "x", moved("RawRequestMessage.headers")


def attributes(tree: ast.AST, context: type[ast.expr_context]) -> Iterator[str]:
    """Names of attributes that are read, or set."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, context):
            yield node.attr


def own_names(tree: ast.AST) -> set[str]:
    """Functions, slots, and what ``__init__`` sets."""
    ours: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            ours.add(node.name)
            if node.name == "__init__":
                ours.update(attributes(node, ast.Store))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            ours.update(ast.literal_eval(node.value))
    return ours


def foreign_privates(path: Path) -> set[str]:
    """Private names that a module reads and does not define."""
    tree = ast.parse(path.read_text("utf-8"))
    used = {name for name in attributes(tree, ast.Load) if name[0] == "_" and name[:2] != "__"}
    return used - own_names(tree)


def test_nothing_else_is_used() -> None:
    """Every private name in the folder is a module's own or is in a table above."""
    known = {*CONNECTION, *CONNECTION_METHODS, *SERVER, *OTHERS}
    used = {module: foreign_privates(path) for module, path in MODULES.items()}
    here = "tests/dataplane/downstream/test_http1.py"
    unknown = {module: names - known for module, names in used.items() if names - known}
    assert not unknown, f"add them to the tables in {here}"
    private = {name for name in known if name[0] == "_"}
    assert private == set().union(*used.values()), (
        f"take what is unused out of the tables in {here}"
    )


@pytest.mark.parametrize("module", MODULES)
def test_nothing_else_is_imported(module: str) -> None:
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    of_aiohttp = {name for name in found if name.partition(".")[0] == "aiohttp"}
    assert of_aiohttp == IMPORTS.get(module, set()), "keep the table of imports true"
