"""What of a configuration a running program does not read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from stickyproxy.config.load import load
from stickyproxy.control.reload import needs_restart

BEGUN = """
[[listeners]]
address = "127.0.0.1:0"
[admin]
address = "127.0.0.1:0"
change_token = "one"
[tracing]
sample = 0.5
[[services]]
name = "a"
hosts = ["a.local"]
endpoints = ["127.0.0.1:1"]
"""


@pytest.mark.parametrize(
    ("old", "new", "tables"),
    [
        ('change_token = "one"', 'change_token = "two"', ["[admin]"]),
        ("sample = 0.5", "sample = 0.6", ["[tracing]"]),
        ("[tracing]", "[proxy]\nworkers = 3\n[tracing]", ["[proxy]"]),
        ("127.0.0.1:1", "127.0.0.1:2", []),
    ],
)
def test_what_takes_a_restart(tmp_path: Path, old: str, new: str, tables: list[str]) -> None:
    files = tmp_path / "before.toml", tmp_path / "after.toml"
    assert old in BEGUN
    for file, text in zip(files, (BEGUN, BEGUN.replace(old, new)), strict=True):
        file.write_text(text)
    assert needs_restart(*(load(file) for file in files)) == tables
