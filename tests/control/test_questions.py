"""control/questions.py: questions in JSON, and answers for people."""

from __future__ import annotations

import json
from functools import partial

import pytest

from stickyproxy.control.questions import Questions, as_text
from stickyproxy.control.registry import NoConnections, Registry
from stickyproxy.model.service import EndpointSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.routing.explain import explain
from stickyproxy.routing.table import RoutingTable
from stickyproxy.semantics.forwarded import TrustedProxies
from tests.specs import service_spec

SHOP = service_spec(
    "shop",
    ("shop.local",),
    (EndpointSpec("t1", "10.0.0.1:80"), EndpointSpec("t2", "10.0.0.2:80", draining=True)),
    context_root="/app",
    context_root_rewrite=True,
    sticky_session_cookie="session",
)


class Shown:
    """Holds the table of ``SHOP``."""

    def __init__(self) -> None:
        self.table = RoutingTable({})
        registry = Registry(self, NoConnections(), None, tells_problems=False)
        registry.publish(Snapshot("static", (SHOP,), realm="r"))
        self.pins = {each.id: each.pin for c in self.table.clusters() for each in c.endpoints}


@pytest.fixture
def questions() -> Questions:
    shown = Shown()
    return Questions(lambda: shown.table, partial(explain, trusted_proxies=TrustedProxies()))


class TestQuestions:
    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            (None, "a question is an object"),
            ({}, "host is missing"),
            ({"host": 1}, "host is 1: write a string"),
            ({"host": "a", "hots": 1}, '"hots" is unknown: write one of host'),
            ({"host": "a", "secure": 1}, "secure is 1: write true or false"),
            ({"host": "a", "path": "/a b"}, "is not a path"),
            ({"host": "a", "method": "a b"}, "is not a method"),
            ({"host": "a", "headers": {}}, "headers is not a list of pairs"),
            ({"host": "a", "headers": [["a"]]}, "headers is not a list of pairs"),
            ({"host": "a", "headers": [["a", "b\n"]]}, "is not a header field"),
            ({"host": "a", "client": "x"}, 'client is "x": write an IP address'),
            ({"host": "\ud800"}, "not valid text"),
        ],
    )
    def test_bad_ones(self, questions: Questions, asked: object, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            questions.explain(asked)

    def test_what_proxies_refuse_is_an_answer(self, questions: Questions) -> None:
        said = questions.explain({"host": "a b"})
        assert (said["fate"], said["status"]) == ("refused", 400)


class TestAnswers:
    def test_as_text(self, questions: Questions) -> None:
        pins = Shown().pins
        sent = f"session_lb={pins['t2'].decode()}; session=abc; session=sp1.x"
        headers = [["Cookie", sent]]
        said = questions.explain({"host": "shop.local", "path": "/app/x", "headers": headers})
        assert json.loads(json.dumps(said)) == said
        pin, old = pins["t1"].decode(), pins["t2"].decode()
        assert as_text(said).splitlines() == [
            "GET http://shop.local/app/x from 127.0.0.1: forwarded",
            "  why        the host is shop.local, and the path is under /app",
            "  service    shop",
            "  policy     cookie session, else round robin",
            f'  cookie session_lb: "{old}" is a pin of an endpoint that is being stopped: '
            "shop/t2 10.0.0.2:80 (draining), which does not count",
            '  cookie session: "abc" is a value of the application, slot 37554 of shop/t1 '
            "10.0.0.1:80, which decides",
            '  cookie session: "sp1.x" is a pin of no endpoint of this service, which does not '
            "count",
            "  endpoint   shop/t1 10.0.0.1:80: its endpoint is being stopped, so it gets another "
            "(repinned-draining)",
            "  asked for  /x",
            f"  sets       session_lb={pin}; Path=/app; HttpOnly; SameSite=Lax",
            "  if it dies shop/t2 10.0.0.2:80 (draining): its pin says so (pinned)",
        ]

    def test_https(self, questions: Questions) -> None:
        said = questions.explain({"host": "shop.local", "path": "/app", "secure": True})
        assert as_text(said).startswith("GET https://shop.local/app from 127.0.0.1: forwarded")
        assert said["set_cookies"][0].endswith("; Secure")

    def test_no_route(self, questions: Questions) -> None:
        assert as_text(questions.explain({"host": "a"})).splitlines() == [
            "GET http://a/ from 127.0.0.1: no route with 404",
            "  why        no service is published for this host and path",
        ]
