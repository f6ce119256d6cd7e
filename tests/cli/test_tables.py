"""cli/tables.py: what commands print on a terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from stickyproxy.cli import tables
from tests.control.test_questions import Shown
from tests.control.test_simulation import Shown as Several
from tests.control.test_simulation import spec

HOSTILE = "[red]x[/red]\x1b[31m\u202e"
SAFE = "[red]x[/red]\\x1b[31m\\u202e"


def drawn(what: RenderableType) -> str:
    file = StringIO()
    Console(file=file, width=160, highlight=False).print(what)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def row(**more: Any) -> dict[str, Any]:
    return {"service": "shop", "state": "published", "problems": [], **more}


class TestServices:
    def test_one(self) -> None:
        endpoints = [
            {"address": "10.0.0.1:80", "state": "usable"},
            {"address": "10.0.0.2:80", "state": "down", "reason": "check of /health: status 503"},
        ]
        problem = {"label": "a", "reason": "is odd", "remedy": "mend it", "fatal": False}
        found = row(
            hosts=["a.local", "b.local"],
            context_root="/x",
            policy="round robin",
            endpoints=endpoints,
            problems=[problem],
        )
        text = drawn(tables.services([found]))
        for words in (
            *("shop", "published", "a.local/x", "b.local/x", "round robin", "1/2 usable"),
            *("10.0.0.1:80 usable", "10.0.0.2:80 down: check of /health: status 503"),
            *("warning shop: a is odd", "  try mend it"),
        ):
            assert words in text

    def test_none(self) -> None:
        assert "(no services)" in drawn(tables.services([]))

    def test_what_a_proxy_says_is_text(self) -> None:
        problem = {"label": "", "reason": HOSTILE, "remedy": HOSTILE, "fatal": True}
        text = drawn(tables.services([row(service=HOSTILE, state=HOSTILE, problems=[problem])]))
        assert text.count(SAFE) == 5
        assert "\x1b" not in text


def test_an_explanation() -> None:
    sent = [["Cookie", "session=abc"]]
    said = Shown().questions.explain({"host": "shop.local", "path": "/app/y", "headers": sent})
    lines = drawn(tables.explanation(said)).splitlines()
    assert lines[0] == "GET http://shop.local/app/y from 127.0.0.1: forwarded"
    names = [line[:20].split("  ")[0] for line in lines[1:]]
    assert names == [
        *("why", "service", "policy", "cookie session", "endpoint", "asked for", "sets"),
        "if it dies",
    ]


def test_a_simulation() -> None:
    shown = Several(spec(sticky_session_cookie="session"))
    said = shown.questions.simulate({"remove": ["t3"], "sessions": 300})
    text = drawn(tables.simulation(said))
    assert text.startswith("shop: 100 of 300 sessions move (33.3%)")
    [removed] = [line for line in text.splitlines() if line.endswith("removed")]
    assert removed.split() == ["shop/t3", "10.0.0.3:80", "100", "0", "0", "removed"]
    assert "move from" in text
    assert drawn(tables.simulation({"sessions": 1, "services": []})) == "nothing changes"


def test_what_is_left() -> None:
    left = {"service": "shop", "address": "10.0.0.1:80", "node": "alpha", "admin_state": "drain"}
    unknown = {"id": "t1", "sessions": None, "busy": None, "quiet": None, "empty": False}
    known = {"id": "t2", "sessions": 0, "busy": 0, "quiet": 61.2, "empty": True}
    text = drawn(tables.upkeep({"endpoints": [left | unknown, left | known]}))
    first, second = text.splitlines()[1:]
    assert first.split() == ["shop/t1", "10.0.0.1:80", "alpha", "drain"]
    assert second.split()[-6:] == ["drain", "0", "0", "61", "s", "empty"]


@pytest.mark.parametrize(("terminal", "head"), [(True, "endpoint"), (False, "  policy")])
async def test_only_on_a_terminal(tmp_path: Path, terminal: bool, head: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[[listeners]]\naddress = "127.0.0.1:0"\n[[services]]\nname = "demo"\n'
        'hosts = ["demo.local"]\nendpoints = ["127.0.0.1:9001"]\n'
    )
    asked = ("simulate", "--scale", "demo=2", "--config", str(config), "--offline")
    reads, writes = os.openpty() if terminal else os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stickyproxy", *asked),
        stdout=writes,
        env=os.environ | {"TERM": "dumb", "COLUMNS": "100"},
    )
    assert await process.wait() == 0
    text = os.read(reads, 65536).decode()
    os.close(reads)
    os.close(writes)
    assert any(line.startswith(head) for line in text.splitlines())
