"""Header fields that a service changes, as it is configured, and on its way to proxies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stickyproxy.config import codec, editing
from stickyproxy.model.edits import Edits
from stickyproxy.model.service import ServiceSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.semantics.headers import REQUEST_KINDS, RESPONSE_KINDS
from tests.config.test_options import spec

EDITS = Edits(
    request_set=(("X-Env", "a: b, c"), ("X-Empty", "")),
    request_remove=("X-Debug", "Via"),
    response_set=(("X-Frame-Options", "DENY"),),
    response_remove=("Server",),
)


def test_tables_and_labels_mean_the_same() -> None:
    table = {
        "request_headers_set": ["X-Env: a: b, c", "X-Empty:"],
        "request_headers_remove": ["X-Debug", "Via"],
        "response_headers_set": ["X-Frame-Options: DENY"],
        "response_headers_remove": ["Server"],
    }
    labels = {
        "request_headers_set": "X-Env: a: b, c\nX-Empty:\n",
        "request_headers_remove": "X-Debug, Via",
        "response_headers_set": "X-Frame-Options:DENY",
        "response_headers_remove": "Server",
    }
    assert spec(**table).edits == spec(**labels).edits == EDITS
    assert spec().edits is None


def test_it_arrives_as_it_was_sent() -> None:
    snapshot = Snapshot("swarm", (ServiceSpec("shop", ("shop.local",), edits=EDITS),))
    assert codec.decode(codec.encode(snapshot)) == snapshot


@pytest.mark.parametrize("kinds", [REQUEST_KINDS, RESPONSE_KINDS])
def test_what_means_something_to_the_proxy_is_its_own(kinds: dict[bytes, int]) -> None:
    special = {name.decode().lower().replace("_", "-") for name, kind in kinds.items() if kind}
    assert special <= editing.OURS


@pytest.mark.parametrize("name", ["Content-Length", "content_length", "SET-COOKIE", "X_Real_IP"])
def test_what_is_its_own_cannot_be_changed(name: str) -> None:
    with pytest.raises(ValueError, match="the proxy's own affair"):
        editing.field_name(name)


@given(st.text(max_size=5), st.text(st.sampled_from("a:\r\n \t\0") | st.characters(), max_size=9))
def test_nothing_else_gets_into_a_head(name: str, value: str) -> None:
    try:
        name, value = editing.field_line(f"{name}:{value}")
    except ValueError:
        return
    assert name
    assert all("!" <= character <= "~" and character != ":" for character in name)
    assert all(" " <= character <= "~" or character == "\t" for character in value)


@pytest.mark.parametrize("line", ["X-A: a\r\nX-B: b", "X-A: a\nb", "X-A: \x00", "X-A: ä"])
def test_what_no_value_may_have(line: str) -> None:
    with pytest.raises(ValueError, match="holds a character"):
        editing.field_line(line)
