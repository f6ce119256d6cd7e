"""control/fleet.py: what proxies report, added up."""

from __future__ import annotations

from typing import Any

import pytest

from stickyproxy.control.fleet import Fleet, added, written
from stickyproxy.model.service import EndpointSpec
from stickyproxy.routing.sessions import Remains, Sessions

KEY = ("shop", "t1")
SPEC = EndpointSpec("t1", "10.0.0.1:80")


class Site:
    """A fleet of proxies ``a`` and ``b``, all of whose clocks are at zero some time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.version = "v1"
        self.following = ["a", "b"]
        self.fleet = Fleet(lambda: self.following, lambda: self.version, lambda: self.now)

    def tell(self, proxy: str, *, ahead: float = 0.0, version: str = "v1", **more: Any) -> Any:
        """``ahead``: of the proxy's clock, in seconds."""
        said = {"name": proxy, "now": self.now + ahead, "emptying": False, "remains": [], **more}
        return self.fleet.take(proxy, version, said)


@pytest.fixture
def site() -> Site:
    return Site()


def seen(*keys: bytes, at: float, began: float = 0.0) -> Sessions:
    sessions = Sessions(began)
    for key in keys:
        sessions.see(key, at)
    return sessions


def row(state: str = "usable", **figures: Any) -> dict[str, Any]:
    """Of a service with one endpoint."""
    return {
        "name": "shop",
        "figures": figures or None,
        "endpoints": [{"id": "t1", "state": state, "figures": figures or None}],
    }


class TestWhatIsLeft:
    def test_as_all_see_it(self, site: Site) -> None:
        mine = Remains(seen(b"1", b"2", at=990.0, began=900.0), 1)
        theirs = Remains(seen(b"2", b"3", at=5990.0, began=5950.0), 2)
        site.tell("a", remains=[written(KEY, mine)])
        assert site.fleet.remains_of(KEY) is None, "b has not told"
        site.tell("b", ahead=5000.0, remains=[written(KEY, theirs)])
        found = site.fleet.remains_of(KEY)
        assert found is not None
        assert (found.busy, found.sessions.count(60, 1000.0)) == (3, 3)
        assert found.sessions.quiet(1000.0) == pytest.approx(10.0)
        assert found.sessions.began == pytest.approx(950.0)

    @pytest.mark.parametrize("ahead", [-3600.4, -0.6, 0.0, 0.3, 86400.9])
    def test_clocks_differ_and_no_session_ends_too_early(self, site: Site, ahead: float) -> None:
        site.following = ["a"]
        left = Remains(seen(b"x", at=995.0 + ahead), 0)
        site.tell("a", ahead=ahead, remains=[written(KEY, left)])
        found = site.fleet.remains_of(KEY)
        assert found is not None
        assert 995.0 <= max(found.sessions.cells) < 998.0

    def test_what_was_left_under_another_version_says_nothing(self, site: Site) -> None:
        site.following = ["a"]
        left = written(KEY, Remains(Sessions(0.0), 0))
        site.tell("a", version="v0", remains=[left])
        assert site.fleet.remains_of(KEY) is None
        site.tell("a", remains=[left])
        assert site.fleet.remains_of(KEY) is not None
        site.fleet.forget_remains()
        assert site.fleet.remains_of(KEY) is None

    def test_nor_what_was_said_long_ago(self, site: Site) -> None:
        site.following = ["a"]
        site.tell("a", remains=[written(KEY, Remains(Sessions(0.0), 0))])
        site.now += 20
        assert site.fleet.remains_of(KEY) is None

    def test_without_proxies_nobody_knows(self, site: Site) -> None:
        site.following = []
        assert site.fleet.remains_of(KEY) is None


class TestFigures:
    def test_sums(self) -> None:
        found = added(
            [
                {"in_flight": 1, "p99": 0.5, "p50": None, "affinity": {"new": 1.0}, "sessions": 3},
                None,
                {
                    "in_flight": 2,
                    "p99": 0.2,
                    "p50": None,
                    "affinity": {"pinned": 2.0},
                    "sessions": 4,
                },
            ]
        )
        assert found == {
            "in_flight": 3,
            "p99": 0.5,
            "p50": None,
            "affinity": {"new": 1.0, "pinned": 2.0},
            "sessions": 7,
        }
        assert added([None, None]) is None

    def test_of_services_and_endpoints(self, site: Site) -> None:
        site.tell("a", services=[row(in_flight=1)])
        site.tell("b", services=[row(in_flight=2)])
        assert site.fleet.figures_of("shop") == {"in_flight": 3}
        assert site.fleet.figures_at(KEY) == {"in_flight": 3}
        assert site.fleet.figures_of("other") is None
        site.now += 20
        assert site.fleet.figures_of("shop") is None

    @pytest.mark.parametrize(
        ("states", "said"),
        [
            (("usable", "usable"), "usable"),
            (("down", "down"), "down"),
            (("usable", "down"), "down in 1 of 2 proxies"),
            ((), "usable"),
        ],
    )
    def test_states(self, site: Site, states: tuple[str, ...], said: str) -> None:
        for proxy, state in zip("ab", states, strict=False):
            site.tell(proxy, services=[row(state)])
        assert site.fleet.state_of("shop", SPEC) == said


class TestReports:
    def test_services_are_wanted_while_somebody_asks(self, site: Site) -> None:
        assert site.tell("a") == {"again": 10.0, "services": False}
        site.fleet.ask()
        assert site.tell("a") == {"again": 2.0, "services": True}
        assert site.tell("a", emptying=True) == {"again": 1.0, "services": True}
        site.now += 61
        assert site.tell("a") == {"again": 10.0, "services": False}

    def test_who_is_gone_is_forgotten(self, site: Site) -> None:
        site.tell("a")
        site.following = ["b"]
        site.tell("b")
        assert [each["id"] for each in site.fleet.rows()] == ["b"]
        assert site.fleet.rows() == [{"id": "b", "name": "b", "told": 0.0, "in_step": True}]

    @pytest.mark.parametrize(
        "said",
        [
            None,
            [],
            {},
            {"now": "x"},
            {"now": 1, "name": "a", "emptying": False, "remains": [{}]},
            {
                "now": 1,
                "name": "a",
                "emptying": True,
                "remains": [written(KEY, Remains(Sessions(0.0), 0)) | {"cells": "eJwDAAAAAAE="}],
            },
            {"now": 1, "name": "a", "emptying": False, "remains": [], "services": [1]},
            {
                "now": -1e300,
                "name": "a",
                "emptying": 1,
                "remains": [written(KEY, Remains(seen(b"1", at=9.0), 0))],
            },
        ],
    )
    def test_what_is_none(self, site: Site, said: object) -> None:
        with pytest.raises(ValueError, match=r"report|could not convert|base64|padding"):
            site.fleet.take("a", "v1", said)
        assert site.fleet.figures_of("shop") is None
