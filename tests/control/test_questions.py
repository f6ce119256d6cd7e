"""control/questions.py: questions in JSON, and answers for people."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from functools import partial

import pytest

from stickyproxy.base.passwords import PasswordHash
from stickyproxy.control.questions import Questions, as_text
from stickyproxy.control.registry import NoConnections, Registry
from stickyproxy.model.edits import Edits
from stickyproxy.model.service import EndpointSpec, ServiceSpec
from stickyproxy.model.snapshot import Snapshot
from stickyproxy.model.terms import Rate, Terms
from stickyproxy.routing.endpoint import Facts
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
    """Holds the table of a service."""

    def __init__(self, service: ServiceSpec = SHOP) -> None:
        self.table = RoutingTable({})
        registry = Registry(self, NoConnections(), None, tells_problems=False)
        registry.publish(Snapshot("static", (service,), realm="r"))
        self.pins = {each.id: each.pin for c in self.table.clusters() for each in c.endpoints}

    @property
    def questions(self) -> Questions:
        """Whom to ask about it."""
        return Questions(lambda: self.table, partial(explain, trusted_proxies=TrustedProxies()))


@pytest.fixture
def questions() -> Questions:
    return Shown().questions


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
            ({"host": "a", "body": -1}, "body is -1: write a number from 0"),
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
            "shop/t2 10.0.0.2:80 (draining: it is being stopped), which does not count",
            '  cookie session: "abc" is a value of the application, slot 37554 of shop/t1 '
            "10.0.0.1:80, which decides",
            '  cookie session: "sp1.x" is a pin of no endpoint of this service, which does not '
            "count",
            "  endpoint   shop/t1 10.0.0.1:80: its endpoint is being stopped, so it gets another "
            "(repinned-draining)",
            "  asked for  /x",
            f"  sets       session_lb={pin}; Path=/app; HttpOnly; SameSite=Lax",
            "  if it dies shop/t2 10.0.0.2:80 (draining: it is being stopped): its pin says so "
            "(pinned)",
        ]

    def test_what_the_service_asks(self) -> None:
        terms = Terms(max_body=10, rate=Rate(requests=50, seconds=60, burst=5))
        edits = Edits(request_set=(("X-Key", "s3cret"),), response_remove=("Server",))
        shown = Shown(replace(SHOP, terms=terms, edits=edits, admin_state="maintenance"))
        asked = {"host": "shop.local", "path": "/app", "body": 11}
        assert as_text(shown.questions.explain(asked)).splitlines() == [
            "GET http://shop.local/app from 127.0.0.1: refused with 413",
            "  why        the body has 11 bytes, of 10 at most",
            "  service    shop",
            "  policy     cookie session, else round robin",
            "  rate_limit 50 in 60 s from an address, 5 at once",
            "  max_body   the body has 11 bytes, of 10 at most",
        ]
        assert shown.questions.explain({**asked, "body": 10})["fate"] == "no endpoint"
        shown = Shown(replace(SHOP, terms=terms, edits=edits))
        said = shown.questions.explain({**asked, "body": 1})
        assert said["edits"] == {
            "request": {"sets": ["X-Key"], "removes": []},
            "response": {"sets": [], "removes": ["Server"]},
        }
        assert "  request    sets X-Key" in as_text(said).splitlines()
        assert "s3cret" not in json.dumps(said)

    def test_passwords_are_looked_at_in_the_second_step(self) -> None:
        users = (("anne", str(PasswordHash.make(b"sesame", log_n=10))),)
        shown = Shown(replace(SHOP, terms=Terms(users=users)))
        found = {}
        for password in ("sesame", "x"):
            words = b64encode(f"anne:{password}".encode()).decode()
            headers = [["Authorization", f"Basic {words}"]]
            asked = {"host": "shop.local", "path": "/app", "headers": headers}
            said = shown.questions.explanation(asked)()
            found[password] = said["fate"], said["conditions"][0]["fulfilled"]
        assert found == {"sesame": ("forwarded", True), "x": ("refused", False)}

    @pytest.mark.parametrize(
        ("facts", "said"),
        [
            (Facts(asked_to_drain=True), "draining: an operator drains it"),
            (Facts(in_maintenance=True), "down: it is in maintenance"),
            (Facts(ejected=True, unhealthy=True), "down: it is ejected and it fails its checks"),
        ],
    )
    def test_why_an_endpoint_is_in_its_state(self, facts: Facts, said: str) -> None:
        shown = Shown(SHOP)
        [cluster] = shown.table.clusters()
        shown.table.note(cluster.endpoints[0], facts)
        sent = [["Cookie", f"session_lb={cluster.endpoints[0].pin.decode()}"]]
        asked = {"host": "shop.local", "path": "/app", "headers": sent}
        assert f"shop/t1 10.0.0.1:80 ({said})" in as_text(shown.questions.explain(asked))

    def test_nobody_is_taken_for_a_session(self) -> None:
        """Else an endpoint that is asked about would never be empty."""
        shown = Shown(SHOP)
        [cluster] = shown.table.clusters()
        endpoint = cluster.endpoints[0]
        shown.table.note(endpoint, Facts(asked_to_drain=True))
        sent = [["Cookie", f"session_lb={endpoint.pin.decode()}"]]
        said = shown.questions.explain({"host": "shop.local", "path": "/app", "headers": sent})
        assert said["endpoint"]["id"] == endpoint.id
        assert endpoint.sessions is not None
        assert not any(endpoint.sessions.cells)

    def test_https(self, questions: Questions) -> None:
        said = questions.explain({"host": "shop.local", "path": "/app", "secure": True})
        assert as_text(said).startswith("GET https://shop.local/app from 127.0.0.1: forwarded")
        assert said["set_cookies"][0].endswith("; Secure")

    def test_no_route(self, questions: Questions) -> None:
        assert as_text(questions.explain({"host": "a"})).splitlines() == [
            "GET http://a/ from 127.0.0.1: no route with 404",
            "  why        no service is published for this host and path",
        ]
