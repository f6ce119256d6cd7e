"""A service's own error page, as it is configured."""

from __future__ import annotations

from pathlib import Path

import pytest

from stickyproxy.config import codec, pages
from stickyproxy.config.load import parse
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Snapshot
from tests.config.test_options import spec


def test_of_a_file(tmp_path: Path) -> None:
    page = tmp_path / "error.html"
    page.write_text("<h1>ü {status}</h1>", "utf-8")
    text = f"[[services]]\nname = 'shop'\nhosts = ['shop.local']\nerror_page = '{page}'"
    assert parse(text).services[0].error_page == "<h1>ü {status}</h1>"


def test_of_a_label() -> None:
    assert spec(error_page="<h1>{status}</h1>").error_page == "<h1>{status}</h1>"
    assert spec().error_page == ""


def test_it_arrives_as_it_was_sent() -> None:
    snapshot = Snapshot("swarm", (ServiceSpec("shop", ("shop.local",), error_page="<h1>ü"),))
    assert codec.decode(codec.encode(snapshot)) == snapshot


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b" \n", "is empty"),
        (b"\xff", "is not in UTF-8"),
        (b"a" * 65537, "is longer than 64 KiB"),
        ("é".encode() * 40_000, "is longer than 64 KiB"),
        (b"a" + "é".encode() * 40_000, "is longer than 64 KiB"),
    ],
)
def test_what_is_no_page(tmp_path: Path, content: bytes, said: str) -> None:
    page = tmp_path / "error.html"
    page.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        pages.page_file(str(page))
