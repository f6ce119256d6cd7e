"""cli/curl.py: requests as curl commands and URLs have them."""

from __future__ import annotations

from typing import Any

import pytest

from stickyproxy.base.errors import StickyproxyError
from stickyproxy.cli import curl


def asked(**changes: Any) -> dict[str, Any]:
    """A question about ``http://a.b/``, with changes."""
    question = {"host": "a.b", "path": "/", "headers": [], "secure": False, "method": "GET"}
    return {**question, **changes}


USER = ["Authorization", "Basic dTpw"]


@pytest.mark.parametrize(
    ("command", "question"),
    [
        ("curl a.b", asked()),
        ("curl -sS 'https://a.b:8443/x?y=1#z'", asked(host="a.b:8443", path="/x?y=1", secure=True)),
        ("curl a.b?c", asked(path="/?c")),
        ("/usr/bin/curl -H 'Host: c.d' -o /dev/null a.b", asked(host="c.d")),
        ("curl a.b -b 'x=1; y=2'", asked(headers=[["Cookie", "x=1; y=2"]])),
        ("curl --cookie x=1 --url a.b", asked(headers=[["Cookie", "x=1"]])),
        ("curl -H 'X-User:  me ' -H 'Empty:' a.b", asked(headers=[["X-User", "me"]])),
        ("curl -sXPUT a.b", asked(method="PUT")),
        ("curl -d a=b a.b", asked(method="POST", body=3)),
        ("curl -d a=b --data-raw @c a.b", asked(method="POST", body=6)),
        ("curl -d @file a.b", asked(method="POST")),
        ("curl -u u:p a.b", asked(headers=[USER])),
        ("curl -G -d a=b a.b", asked()),
        ("curl -I a.b", asked(method="HEAD")),
        ("curl 'http://u:p@a.b/' \\\n  -A me", asked(headers=[["User-Agent", "me"], USER])),
        (r"curl a.b -H $'X: it\'s\u0021'", asked(headers=[["X", "it's!"]])),
    ],
)
def test_what_is_asked(command: str, question: dict[str, Any]) -> None:
    assert curl.question(command) == question


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("", "begin with curl"),
        ("wget a.b", "begin with curl"),
        ("curl", "has no URL"),
        ("curl a.b c.d", "two URLs"),
        ("curl ftp://a.b", "no URL of http"),
        ("curl -b jar.txt a.b", "write them as name=value"),
        ("curl a.b -H", "-H of the curl command has no value"),
        ("curl 'a.b", "cannot be read"),
    ],
)
def test_what_cannot_be_asked(command: str, said: str) -> None:
    with pytest.raises(StickyproxyError, match=said):
        curl.question(command)
